package sa

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"

	"github.com/emmansun/gmsm/sm3"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// saltLen is the part of an AEAD's key material that goes into the nonce
// (RFC 4106, section 8.1; RFC 7634, section 2).
const saltLen = 4

// keyLen returns the octets of key material that an encryption transform takes,
// salt included.
func keyLen(t ipsec.Transform) (int, error) {
	aes := t.ID == ipsec.EncryptionAESCBC || t.ID == ipsec.EncryptionAESGCM16
	if !aes && t.KeyBits != 0 {
		return 0, fmt.Errorf("%s is not supported", t) // their keys have one length
	}
	switch t.ID {
	case ipsec.EncryptionAESCBC, ipsec.EncryptionAESGCM16:
		if t.KeyBits != 128 && t.KeyBits != 192 && t.KeyBits != 256 {
			break
		}
		if t.IsAEAD() {
			return int(t.KeyBits)/8 + saltLen, nil
		}
		return int(t.KeyBits) / 8, nil
	case ipsec.EncryptionChaCha20Poly1305:
		return chacha20poly1305.KeySize + saltLen, nil
	case ipsec.EncryptionSM4CBC:
		return gmKeyLen, nil
	case ipsec.EncryptionSM4GCM16:
		return gmKeyLen + saltLen, nil
	case ipsec.Encryption3DES:
		return 24, nil
	case ipsec.EncryptionNull:
		return 0, nil
	}
	return 0, fmt.Errorf("%s is not supported", t)
}

// integrity is an HMAC that is cut to its first octets (RFC 4868).
type integrity struct {
	hash        func() hash.Hash
	key, output int // octets
}

var integrities = map[uint16]integrity{
	ipsec.IntegrityNone:           {},
	ipsec.IntegrityHMACMD596:      {md5.New, 16, 12},
	ipsec.IntegrityHMACSHA196:     {sha1.New, 20, 12},
	ipsec.IntegrityHMACSHA2256128: {sha256.New, 32, 16},
	ipsec.IntegrityHMACSHA2384192: {sha512.New384, 48, 24},
	ipsec.IntegrityHMACSHA2512256: {sha512.New, 64, 32},
	ipsec.IntegrityHMACSM396:      {sm3.New, sm3.Size, 12},
	ipsec.IntegrityHMACSM3128:     {sm3.New, sm3.Size, 16},
	ipsec.IntegrityHMACSM3256:     {sm3.New, sm3.Size, 32},
}

func newIntegrity(t ipsec.Transform) (integrity, error) {
	i, ok := integrities[t.ID]
	if !ok {
		return integrity{}, fmt.Errorf("%s is not supported", t)
	}
	return i, nil
}

var (
	errICV     = errors.New("integrity check failed")
	errPadding = errors.New("padding does not fit")
)

// newCipher returns the protection of one direction of an IKE SA. The keys are
// copied into the ciphers' own state.
func newCipher(enc, integ ipsec.Transform, key, integKey []byte, rand randSource) (wire.Cipher, error) {
	want, err := keyLen(enc)
	if err != nil {
		return nil, err
	}
	if len(key) != want {
		return nil, fmt.Errorf("%s: key of %d octets", enc, len(key))
	}
	if enc.IsNational() {
		return nil, fmt.Errorf("%s is not supported for IKEv2", enc)
	}
	if enc.IsAEAD() {
		return newAEADCipher(enc, key)
	}
	mac, err := newIntegrity(integ)
	if err != nil {
		return nil, err
	}
	if mac.hash == nil {
		return nil, fmt.Errorf("%s needs an integrity algorithm", enc)
	}
	c := &cbcCipher{mac: mac, key: bytes.Clone(key), integKey: bytes.Clone(integKey), rand: rand}
	switch enc.ID {
	case ipsec.EncryptionAESCBC:
		c.newBlock, c.size = aes.NewCipher, aes.BlockSize
	case ipsec.Encryption3DES:
		c.newBlock, c.size = des.NewTripleDESCipher, des.BlockSize
	default:
		return nil, fmt.Errorf("%s is not supported for IKE", enc)
	}
	return c, nil
}

// cbcCipher is a block cipher in CBC mode under an HMAC over the whole message
// (RFC 7296, section 3.14). IVs are random. It makes the key schedules anew for
// each message: an IKE SA seldom has one, and a gateway has many IKE SAs.
type cbcCipher struct {
	newBlock      func(key []byte) (cipher.Block, error)
	size          int // octets of a block
	mac           integrity
	key, integKey []byte
	rand          randSource
}

func (c *cbcCipher) SealedLen(n int) int {
	return c.size + (n+1+c.size-1)/c.size*c.size + c.mac.output
}

func (c *cbcCipher) Seal(message, plain []byte) ([]byte, error) {
	block, err := c.newBlock(c.key)
	if err != nil {
		return nil, err
	}
	start, total := len(message), c.SealedLen(len(plain))-c.mac.output
	message = append(message, make([]byte, total)...)
	iv, text := message[start:start+c.size], message[start+c.size:]
	if err := readFull(c.rand, iv); err != nil {
		return nil, err
	}
	copy(text, plain)
	text[len(text)-1] = byte(len(text) - len(plain) - 1)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(text, text)
	return append(message, c.sum(message)...), nil
}

func (c *cbcCipher) Open(message []byte, offset int) ([]byte, error) {
	text := len(message) - offset - c.size - c.mac.output
	if offset < 0 || text < c.size || text%c.size != 0 {
		return nil, errICV
	}
	signed, icv := message[:len(message)-c.mac.output], message[len(message)-c.mac.output:]
	if !hmac.Equal(icv, c.sum(signed)) {
		return nil, errICV
	}
	block, err := c.newBlock(c.key)
	if err != nil {
		return nil, err
	}
	iv := signed[offset : offset+c.size]
	plain := append([]byte(nil), signed[offset+c.size:]...)
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, plain)
	return unpad(plain)
}

func (c *cbcCipher) sum(message []byte) []byte {
	mac := hmac.New(c.mac.hash, c.integKey)
	mac.Write(message)
	return mac.Sum(nil)[:c.mac.output]
}

// unpad takes padding and its length octet off an authentic plaintext. The
// padding may hold anything.
func unpad(plain []byte) ([]byte, error) {
	if len(plain) == 0 {
		return nil, errPadding
	}
	n := len(plain) - 1 - int(plain[len(plain)-1])
	if n < 0 {
		return nil, errPadding
	}
	return plain[:n], nil
}

// aeadCipher is a combined-mode cipher (RFC 5282). Its IV counts from zero and
// never starts again: a new key comes with a new cipher.
type aeadCipher struct {
	aead cipher.AEAD
	salt [saltLen]byte
	next uint64
	full bool // all IVs are used up
}

const aeadIVLen = 8

func newAEADCipher(enc ipsec.Transform, key []byte) (*aeadCipher, error) {
	key, salt := key[:len(key)-saltLen], key[len(key)-saltLen:]
	c := &aeadCipher{}
	copy(c.salt[:], salt)
	if enc.ID == ipsec.EncryptionChaCha20Poly1305 {
		var err error
		c.aead, err = chacha20poly1305.New(key)
		return c, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	c.aead, err = cipher.NewGCM(block)
	return c, err
}

func (c *aeadCipher) SealedLen(n int) int { return aeadIVLen + n + 1 + c.aead.Overhead() }

func (c *aeadCipher) Seal(message, plain []byte) ([]byte, error) {
	if c.full {
		return nil, errors.New("initialization vectors are used up")
	}
	nonce := binary.BigEndian.AppendUint64(c.salt[:saltLen:saltLen], c.next)
	c.next++
	c.full = c.next == 0
	padded := make([]byte, len(plain)+1) // a pad length of zero at its end
	copy(padded, plain)
	defer clear(padded)
	sealed := c.aead.Seal(nil, nonce, padded, message)
	return append(append(message, nonce[saltLen:]...), sealed...), nil
}

func (c *aeadCipher) Open(message []byte, offset int) ([]byte, error) {
	if offset < 0 || len(message)-offset < aeadIVLen+1+c.aead.Overhead() {
		return nil, errICV
	}
	body := message[offset:]
	nonce := append(c.salt[:saltLen:saltLen], body[:aeadIVLen]...)
	plain, err := c.aead.Open(nil, nonce, body[aeadIVLen:], message[:offset])
	if err != nil {
		return nil, errICV
	}
	return unpad(plain)
}
