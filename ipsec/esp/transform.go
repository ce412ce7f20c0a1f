package esp

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
	"encoding"
	"errors"
	"fmt"
	"hash"
	"sync"

	"github.com/emmansun/gmsm/sm3"
	"github.com/emmansun/gmsm/sm4"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/vpngw/vpngw/ipsec"
)

const (
	saltLen   = 4  // octets of an AEAD's key material that begin each nonce
	aeadIVLen = 8  // octets of the explicit part of an AEAD's nonce
	aeadTag   = 16 // octets of an AEAD's ICV
)

// transform is the algorithms of one SA and their keys, shared by all workers.
type transform struct {
	layout

	// Each worker has an AEAD of its own, which takes many times the memory of its
	// key: an SA without traffic has none.
	newAEAD func(key []byte) (cipher.AEAD, error) // nil for CBC with HMAC
	salt    [saltLen]byte
	mu      sync.Mutex
	key     []byte // of newAEAD; nil once wiped; guarded by mu

	block cipher.Block // of CBC; nil with an AEAD
	mac   hash.Cloner  // nil with an AEAD; cloned by each worker
}

// wipe overwrites the key of an AEAD. Key schedules inside the standard library's
// ciphers cannot be overwritten; they go with the last worker.
func (t *transform) wipe() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.key)
	t.key = nil
}

// workerAEAD returns an AEAD for one more worker, nil with CBC or once wiped.
func (t *transform) workerAEAD() cipher.AEAD {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.key == nil {
		return nil
	}
	aead, err := t.newAEAD(t.key)
	if err != nil {
		panic(err) //nolint:forbidigo // A key has the length that its cipher takes.
	}
	return aead
}

// layout is the lengths of an ESP packet's parts, in octets.
type layout struct {
	iv, icv int
	align   int // the encrypted part is a multiple of this
}

// header is the octets before the encrypted part.
func (l layout) header() int { return fixedLen + l.iv }

// padding is the octets of padding that n octets of inner packet need.
func (l layout) padding(n int) int { return (l.align - (n+2)%l.align) % l.align }

func (l layout) sealed(n int) int { return l.header() + n + l.padding(n) + 2 + l.icv }

func (l layout) maxPayload(limit int) int {
	room := limit - l.header() - l.icv
	return max(0, room-room%l.align-2)
}

// newTransform keys the algorithms of an SA. The error names the algorithm and
// wraps ipsec.ErrUnsupported when it is none of ours.
func newTransform(sa *ipsec.SA) (*transform, error) {
	if sa.SPI < 256 {
		return nil, fmt.Errorf("spi %s: values below 00000100 are reserved", sa.SPI)
	}
	if sa.Encryption.IsAEAD() {
		return newAEADTransform(sa)
	}
	return newCBCTransform(sa)
}

func newAEADTransform(sa *ipsec.SA) (*transform, error) {
	if sa.Integrity.ID != ipsec.IntegrityNone || len(sa.IntegrityKey) != 0 {
		return nil, fmt.Errorf("integrity %s: a combined-mode cipher takes none", sa.Integrity)
	}
	var make func(key []byte) (cipher.AEAD, error)
	var keyLen int
	switch sa.Encryption {
	case ipsec.Encryption(ipsec.EncryptionAESGCM16, 128),
		ipsec.Encryption(ipsec.EncryptionAESGCM16, 192),
		ipsec.Encryption(ipsec.EncryptionAESGCM16, 256):
		make, keyLen = func(key []byte) (cipher.AEAD, error) { return newGCM(aes.NewCipher(key)) }, int(sa.Encryption.KeyBits)/8
	case ipsec.Encryption(ipsec.EncryptionSM4GCM16, 0):
		make, keyLen = func(key []byte) (cipher.AEAD, error) { return newGCM(sm4.NewCipher(key)) }, sm4.BlockSize
	case ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 0),
		ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 256):
		make, keyLen = chacha20poly1305.New, chacha20poly1305.KeySize
	default:
		return nil, fmt.Errorf("encryption %s: %w", sa.Encryption, ipsec.ErrUnsupported)
	}
	if err := checkKey(sa.Encryption, sa.EncryptionKey, keyLen+saltLen); err != nil {
		return nil, err
	}
	return &transform{
		layout:  layout{iv: aeadIVLen, icv: aeadTag, align: 4},
		newAEAD: make, key: bytes.Clone(sa.EncryptionKey[:keyLen]), salt: [saltLen]byte(sa.EncryptionKey[keyLen:]),
	}, nil
}

func newGCM(block cipher.Block, err error) (cipher.AEAD, error) {
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func newCBCTransform(sa *ipsec.SA) (*transform, error) {
	make, keyLen := aes.NewCipher, int(sa.Encryption.KeyBits)/8
	switch sa.Encryption {
	case ipsec.Encryption(ipsec.EncryptionAESCBC, 128),
		ipsec.Encryption(ipsec.EncryptionAESCBC, 192),
		ipsec.Encryption(ipsec.EncryptionAESCBC, 256):
	case ipsec.Encryption(ipsec.Encryption3DES, 0):
		make, keyLen = des.NewTripleDESCipher, 24
	case ipsec.Encryption(ipsec.EncryptionSM4CBC, 0):
		make, keyLen = sm4.NewCipher, sm4.BlockSize
	default:
		return nil, fmt.Errorf("encryption %s: %w", sa.Encryption, ipsec.ErrUnsupported)
	}
	if err := checkKey(sa.Encryption, sa.EncryptionKey, keyLen); err != nil {
		return nil, err
	}
	block, err := make(sa.EncryptionKey)
	if err != nil {
		return nil, fmt.Errorf("encryption %s: %w", sa.Encryption, err)
	}
	mac, icvLen, err := newMAC(sa.Integrity, sa.IntegrityKey)
	if err != nil {
		return nil, err
	}
	return &transform{
		layout: layout{iv: block.BlockSize(), icv: icvLen, align: block.BlockSize()},
		block:  block, mac: mac,
	}, nil
}

// newMAC returns the keyed hash and the octets of it that make the ICV. The
// ICV is at most maxICV octets.
func newMAC(alg ipsec.Transform, key []byte) (hash.Cloner, int, error) {
	var make func() hash.Hash
	var keyLen, icvLen int
	switch alg.ID {
	case ipsec.IntegrityHMACMD596:
		make, keyLen, icvLen = md5.New, md5.Size, 12
	case ipsec.IntegrityHMACSHA196:
		make, keyLen, icvLen = sha1.New, sha1.Size, 12
	case ipsec.IntegrityHMACSHA2256128:
		make, keyLen, icvLen = sha256.New, sha256.Size, 16
	case ipsec.IntegrityHMACSHA2384192:
		make, keyLen, icvLen = sha512.New384, sha512.Size384, 24
	case ipsec.IntegrityHMACSHA2512256:
		make, keyLen, icvLen = sha512.New, sha512.Size, 32
	case ipsec.IntegrityHMACSM396:
		make, keyLen, icvLen = newSM3, sm3.Size, 12
	case ipsec.IntegrityHMACSM3128:
		make, keyLen, icvLen = newSM3, sm3.Size, 16
	case ipsec.IntegrityHMACSM3256:
		make, keyLen, icvLen = newSM3, sm3.Size, 32
	case ipsec.IntegrityNone:
		return nil, 0, errors.New("integrity: a cipher without authentication needs an integrity algorithm")
	default:
		return nil, 0, fmt.Errorf("integrity %s: %w", alg, ipsec.ErrUnsupported)
	}
	if err := checkKey(alg, key, keyLen); err != nil {
		return nil, 0, err
	}
	mac := hmac.New(make, key)
	// The first Reset computes the two inner states that later ones restore,
	// so it has to come before workers clone it.
	mac.Reset()
	cloner, ok := mac.(hash.Cloner)
	if !ok {
		return nil, 0, fmt.Errorf("integrity %s: hash cannot be cloned: %w", alg, ipsec.ErrUnsupported)
	}
	if _, err := cloner.Clone(); err != nil {
		return nil, 0, fmt.Errorf("integrity %s: %w", alg, err)
	}
	return cloner, icvLen, nil
}

// sm3Hash gives the hash of its package the method Clone: by its state, which the
// package can write and read.
type sm3Hash struct{ sm3State }

type sm3State interface {
	hash.Hash
	encoding.BinaryMarshaler
	encoding.BinaryUnmarshaler
}

func newSM3() hash.Hash {
	h := sm3.New()
	if state, ok := h.(sm3State); ok {
		return sm3Hash{state}
	}
	return h
}

func (h sm3Hash) Clone() (hash.Cloner, error) {
	state, err := h.MarshalBinary()
	if err != nil {
		return nil, err
	}
	defer clear(state)
	clone := sm3Hash{sm3.New().(sm3State)}
	return clone, clone.UnmarshalBinary(state)
}

// checkKey compares lengths only: an error must not show key material.
func checkKey(alg ipsec.Transform, key []byte, want int) error {
	if len(key) != want {
		return fmt.Errorf("key of %s: has %d octets, needs %d", alg, len(key), want)
	}
	return nil
}

// cloneMAC returns a worker's own copy of the keyed hash.
func (t *transform) cloneMAC() hash.Hash {
	clone, err := t.mac.Clone()
	if err != nil {
		panic(err) //nolint:forbidigo // newMAC has cloned it once already.
	}
	return clone
}

// cbcMode is a CBC mode that starts over at another IV. The standard library's
// modes have the method; it spares an allocation for each packet.
type cbcMode interface {
	cipher.BlockMode
	SetIV(iv []byte)
}

// fixedMode gives SetIV to a mode that has none.
type fixedMode struct {
	cipher.BlockMode
	start func(cipher.Block, []byte) cipher.BlockMode
	block cipher.Block
}

func (m *fixedMode) SetIV(iv []byte) { m.BlockMode = m.start(m.block, iv) }

// newCBCMode prepares cipher.NewCBCEncrypter or NewCBCDecrypter for many packets.
func newCBCMode(block cipher.Block, start func(cipher.Block, []byte) cipher.BlockMode) cbcMode {
	mode := start(block, make([]byte, block.BlockSize()))
	if m, ok := mode.(cbcMode); ok {
		return m
	}
	return &fixedMode{BlockMode: mode, start: start, block: block}
}
