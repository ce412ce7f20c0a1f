package sa

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"encoding/binary"
	"fmt"

	"github.com/vpngw/vpngw/ipsec"
)

// isakmpKeys are the secrets of an ISAKMP SA (RFC 2409, section 5 and appendix
// B). They protect messages of both directions.
type isakmpKeys struct {
	prf        prf
	id         []byte // SKEYID
	d, a       []byte // SKEYID_d, SKEYID_a
	encryption []byte // made of SKEYID_e
	block      cipher.Block
}

// newISAKMPKeys derives the secrets of pre-shared key authentication.
func newISAKMPKeys(chosen ipsec.Proposal, psk, shared, ni, nr []byte, spii, spir uint64) (*isakmpKeys, error) {
	hash, _ := chosen.Get(ipsec.TransformPRF)
	enc, _ := chosen.Get(ipsec.TransformEncryption)
	p, err := newPRF(hash)
	if err != nil {
		return nil, err
	}
	size, err := keyLen(enc)
	if err != nil {
		return nil, err
	}
	k := &isakmpKeys{prf: p, id: p.sum(psk, ni, nr)}
	cookies := binary.BigEndian.AppendUint64(nil, spii)
	cookies = binary.BigEndian.AppendUint64(cookies, spir)
	k.d = p.sum(k.id, shared, cookies, []byte{0})
	k.a = p.sum(k.id, k.d, shared, cookies, []byte{1})
	e := p.sum(k.id, k.a, shared, cookies, []byte{2})
	defer clear(e)
	k.encryption = p.stretch(e, size)
	switch enc.ID {
	case ipsec.EncryptionAESCBC:
		k.block, err = aes.NewCipher(k.encryption)
	case ipsec.Encryption3DES:
		k.block, err = des.NewTripleDESCipher(k.encryption)
	default:
		err = fmt.Errorf("%s is not supported for IKEv1", enc)
	}
	if err != nil {
		k.wipe()
		return nil, err
	}
	return k, nil
}

// stretch returns n octets of SKEYID_e, or of what it is the key to where it is
// too short: K1 = prf(SKEYID_e, 0), K2 = prf(SKEYID_e, K1), … (appendix B).
func (p prf) stretch(e []byte, n int) []byte {
	if n <= len(e) {
		return bytes.Clone(e[:n])
	}
	out := make([]byte, 0, n+p.size)
	last := []byte{0}
	defer func() { clear(last) }()
	for len(out) < n {
		block := p.sum(e, last)
		clear(last)
		last = block
		out = append(out, last...)
	}
	clear(out[n:])
	return out[:n:n]
}

// wipe overwrites the keys.
func (k *isakmpKeys) wipe() {
	for _, key := range [][]byte{k.id, k.d, k.a, k.encryption} {
		clear(key)
	}
}

// iv returns the first IV of an exchange: the hash of its parts, cut to the
// cipher's block.
func (k *isakmpKeys) iv(parts ...[]byte) []byte {
	h := k.prf.hash()
	for _, part := range parts {
		h.Write(part)
	}
	return h.Sum(nil)[:k.block.BlockSize()]
}

// sum is prf(SKEYID_a, parts joined), the hashes of phase 2.
func (k *isakmpKeys) sum(parts ...[]byte) []byte { return k.prf.sum(k.a, parts...) }

// encrypt encrypts in place and returns the IV for the next message.
func (k *isakmpKeys) encrypt(iv, b []byte) []byte {
	cipher.NewCBCEncrypter(k.block, iv).CryptBlocks(b, b)
	return bytes.Clone(b[len(b)-k.block.BlockSize():])
}

// decrypt returns the plaintext of a message and the IV for the next one.
func (k *isakmpKeys) decrypt(iv, b []byte) (plain, next []byte, err error) {
	size := k.block.BlockSize()
	if len(b) == 0 || len(b)%size != 0 {
		return nil, nil, fmt.Errorf("%d octets are no blocks of %d", len(b), size)
	}
	plain = make([]byte, len(b))
	cipher.NewCBCDecrypter(k.block, iv).CryptBlocks(plain, b)
	return plain, bytes.Clone(b[len(b)-size:]), nil
}

// newChildKeys cuts KEYMAT = prf(SKEYID_d, [g(qm)^xy |] protocol | SPI | Ni_b |
// Nr_b), of which each direction has its own by the SPI of its receiver (section
// 5.5). toI and toR are the SPIs of the initiator and the responder of the quick
// mode. shared is empty without perfect forward secrecy.
func (k *isakmpKeys) newChildKeys(chosen ipsec.Proposal, shared, ni, nr []byte, toI, toR ipsec.SPI) (*childKeys, error) {
	enc, _ := chosen.Get(ipsec.TransformEncryption)
	integ, _ := chosen.Get(ipsec.TransformIntegrity)
	encLen, err := keyLen(enc)
	if err != nil {
		return nil, err
	}
	mac, err := newIntegrity(integ)
	if err != nil {
		return nil, err
	}
	if mac.hash == nil && !enc.IsAEAD() {
		return nil, fmt.Errorf("%s needs an integrity algorithm", enc)
	}
	c := &childKeys{}
	cut := func(spi ipsec.SPI, encKey, integKey *[]byte) {
		seed := join(shared, []byte{byte(ipsec.ProtocolESP)}, binary.BigEndian.AppendUint32(nil, uint32(spi)), ni, nr)
		defer clear(seed)
		cutKeys(k.keymat(seed, encLen+mac.key), []keyCut{{encKey, encLen}, {integKey, mac.key}})
	}
	cut(toR, &c.encI, &c.integI)
	cut(toI, &c.encR, &c.integR)
	return c, nil
}

// keymat returns n octets of K1 | K2 | …, K1 = prf(SKEYID_d, seed), K2 =
// prf(SKEYID_d, K1 | seed).
func (k *isakmpKeys) keymat(seed []byte, n int) []byte {
	out := make([]byte, 0, n+k.prf.size)
	var last []byte
	defer func() { clear(last) }()
	for len(out) < n {
		block := k.prf.sum(k.d, last, seed)
		clear(last)
		last = block
		out = append(out, last...)
	}
	clear(out[n:])
	return out[:n:n]
}
