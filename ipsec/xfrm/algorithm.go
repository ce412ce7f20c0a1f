package xfrm

import (
	"fmt"

	"github.com/vishvananda/netlink/nl"

	"github.com/vpngw/vpngw/ipsec"
)

// saltLen is the octets of salt behind the key of an AEAD (RFC 4106, section
// 8.1; RFC 7634, section 2).
const saltLen = 4

// cipherName is the kernel's name of an encryption algorithm; keys and ICVs are
// in bits.
type cipherName struct {
	transform ipsec.Transform
	name      string
	keyBits   int // with the salt
	icvBits   int // AEAD only
}

var ciphers = []cipherName{
	{ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), "rfc4106(gcm(aes))", 128 + 8*saltLen, 128},
	{ipsec.Encryption(ipsec.EncryptionAESGCM16, 192), "rfc4106(gcm(aes))", 192 + 8*saltLen, 128},
	{ipsec.Encryption(ipsec.EncryptionAESGCM16, 256), "rfc4106(gcm(aes))", 256 + 8*saltLen, 128},
	{ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 0), "rfc7539esp(chacha20,poly1305)", 256 + 8*saltLen, 128},
	{ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 256), "rfc7539esp(chacha20,poly1305)", 256 + 8*saltLen, 128},
	{ipsec.Encryption(ipsec.EncryptionAESCBC, 128), "cbc(aes)", 128, 0},
	{ipsec.Encryption(ipsec.EncryptionAESCBC, 192), "cbc(aes)", 192, 0},
	{ipsec.Encryption(ipsec.EncryptionAESCBC, 256), "cbc(aes)", 256, 0},
	{ipsec.Encryption(ipsec.Encryption3DES, 0), "cbc(des3_ede)", 192, 0},
}

// macName is the kernel's name of an integrity algorithm. The truncation goes
// with it: the kernel's own for SHA2-256 is that of a draft, 96 bits.
type macName struct {
	transform ipsec.Transform
	name      string
	keyBits   int
	icvBits   int
}

var macs = []macName{
	{ipsec.Integrity(ipsec.IntegrityHMACMD596), "hmac(md5)", 128, 96},
	{ipsec.Integrity(ipsec.IntegrityHMACSHA196), "hmac(sha1)", 160, 96},
	{ipsec.Integrity(ipsec.IntegrityHMACSHA2256128), "hmac(sha256)", 256, 128},
	{ipsec.Integrity(ipsec.IntegrityHMACSHA2384192), "hmac(sha384)", 384, 192},
	{ipsec.Integrity(ipsec.IntegrityHMACSHA2512256), "hmac(sha512)", 512, 256},
}

func findCipher(t ipsec.Transform) (cipherName, error) {
	for _, c := range ciphers {
		if c.transform == t {
			return c, nil
		}
	}
	return cipherName{}, fmt.Errorf("encryption %s: %w", t, ipsec.ErrUnsupported)
}

func findMAC(t ipsec.Transform) (macName, error) {
	for _, m := range macs {
		if m.transform == t {
			return m, nil
		}
	}
	return macName{}, fmt.Errorf("integrity %s: %w", t, ipsec.ErrUnsupported)
}

// algorithms adds the attributes of an SA's algorithms with the keys.
func (r *request) algorithms(sa *ipsec.SA) error {
	c, err := findCipher(sa.Encryption)
	if err != nil {
		return err
	}
	if got := 8 * len(sa.EncryptionKey); got != c.keyBits {
		return fmt.Errorf("encryption %s: key of %d bits: must have %d", sa.Encryption, got, c.keyBits)
	}
	var name [64]byte // struct xfrm_algo: alg_name
	copy(name[:], c.name)
	if c.icvBits != 0 {
		if sa.Integrity.ID != ipsec.IntegrityNone || len(sa.IntegrityKey) != 0 {
			return fmt.Errorf("integrity %s: a combined-mode cipher takes none", sa.Integrity)
		}
		r.attribute(nl.XFRMA_ALG_AEAD, name[:], nl.Uint32Attr(uint32(c.keyBits)), nl.Uint32Attr(uint32(c.icvBits)), sa.EncryptionKey)
		return nil
	}
	m, err := findMAC(sa.Integrity)
	if err != nil {
		return err
	}
	if got := 8 * len(sa.IntegrityKey); got != m.keyBits {
		return fmt.Errorf("integrity %s: key of %d bits: must have %d", sa.Integrity, got, m.keyBits)
	}
	r.attribute(nl.XFRMA_ALG_CRYPT, name[:], nl.Uint32Attr(uint32(c.keyBits)), sa.EncryptionKey)
	clear(name[:])
	copy(name[:], m.name)
	r.attribute(nl.XFRMA_ALG_AUTH_TRUNC, name[:], nl.Uint32Attr(uint32(m.keyBits)), nl.Uint32Attr(uint32(m.icvBits)), sa.IntegrityKey)
	return nil
}

// readAlgorithms sets an SA's transforms, and its keys when they are wanted,
// from what the kernel has. Names that are none of ours leave the transforms
// empty.
func readAlgorithms(sa *ipsec.SA, attrs map[int][]byte, keys bool) {
	const nameLen = 64
	read := func(kind, head int) (name string, bits int, key []byte) {
		b := attrs[kind]
		if len(b) < head {
			return "", 0, nil
		}
		name, bits = nl.BytesToString(b[:nameLen]), int(nativeUint32(b[nameLen:]))
		return name, bits, b[head:min(len(b), head+bits/8)]
	}
	name, bits, key := read(nl.XFRMA_ALG_AEAD, nl.SizeofXfrmAlgoAEAD)
	if name == "" {
		name, bits, key = read(nl.XFRMA_ALG_CRYPT, nl.SizeofXfrmAlgo)
	}
	for _, c := range ciphers {
		if c.name == name && c.keyBits == bits {
			sa.Encryption = c.transform
			break
		}
	}
	if keys {
		sa.EncryptionKey = append([]byte(nil), key...)
	}
	name, _, key = read(nl.XFRMA_ALG_AUTH_TRUNC, nl.SizeofXfrmAlgoAuth)
	for _, m := range macs {
		if m.name == name {
			sa.Integrity = m.transform
		}
	}
	if keys && len(key) > 0 {
		sa.IntegrityKey = append([]byte(nil), key...)
	}
}
