package wire

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"hash"
)

// ExporterLabel is the label under which a TLS session exports KeyMaterial
// (RFC 5705), without a context.
const ExporterLabel = "EXPORTER-OpenVPN-datakeys"

// KeyMaterialLen is the octets of a KeyMaterial.
const KeyMaterialLen = 256

// KeyMaterial is what the keys of one key id are cut from.
type KeyMaterial [KeyMaterialLen]byte

// ImplicitIVLen is the octets of each direction's implicit IV.
const ImplicitIVLen = 8

// ClientToServer returns the cipher key, of keyLen octets, and the implicit IV
// of what the client seals. They alias the material.
func (m *KeyMaterial) ClientToServer(keyLen int) (key, iv []byte) { return m.cut(0, keyLen) }

// ServerToClient is ClientToServer for what the server seals.
func (m *KeyMaterial) ServerToClient(keyLen int) (key, iv []byte) { return m.cut(128, keyLen) }

func (m *KeyMaterial) cut(at, keyLen int) (key, iv []byte) {
	return m[at : at+keyLen : at+keyLen], m[at+64 : at+64+ImplicitIVLen : at+64+ImplicitIVLen]
}

// PRF derives the key material for clients that do not use the TLS exporter,
// which are all before 2.6: with the PRF of TLS 1.0 (RFC 2246, section 5), from
// what both sides contributed inside the TLS session. The secrecy rests on TLS;
// MD5 and SHA-1 only mix here.
func PRF(client, server *Randoms, clientID, serverID SessionID) *KeyMaterial {
	var master [48]byte
	defer clear(master[:])
	prf10(master[:], client.PreMaster[:], "OpenVPN master secret", client.Random1[:], server.Random1[:])
	m := new(KeyMaterial)
	prf10(m[:], master[:], "OpenVPN key expansion", client.Random2[:], server.Random2[:], clientID[:], serverID[:])
	return m
}

func prf10(out, secret []byte, label string, seeds ...[]byte) {
	seed := []byte(label)
	for _, s := range seeds {
		seed = append(seed, s...)
	}
	half := (len(secret) + 1) / 2
	pHash(md5.New, out, secret[:half], seed)
	mixed := make([]byte, len(out))
	pHash(sha1.New, mixed, secret[len(secret)-half:], seed)
	for i := range out {
		out[i] ^= mixed[i]
	}
	clear(mixed)
}

// pHash is P_hash of RFC 2246, section 5.
func pHash(h func() hash.Hash, out, secret, seed []byte) {
	mac := hmac.New(h, secret)
	mac.Write(seed)
	a := mac.Sum(nil)
	for len(out) > 0 {
		mac.Reset()
		mac.Write(a)
		mac.Write(seed)
		out = out[copy(out, mac.Sum(nil)):]
		mac.Reset()
		mac.Write(a)
		a = mac.Sum(nil)
	}
}
