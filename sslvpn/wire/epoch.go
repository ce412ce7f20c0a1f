package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// EpochSecret is what the key of one epoch, and the secret of the next one, come
// from. That of the first epoch is the first 32 octets of a direction's cipher key
// in KeyMaterial.
type EpochSecret [32]byte

// EpochIVLen is the octets of an epoch's IV.
const EpochIVLen = 12

// Key returns the cipher key of the epoch, of keyLen octets.
func (s *EpochSecret) Key(keyLen int) []byte { return s.expand("data_key", keyLen) }

// IV returns the IV of the epoch.
func (s *EpochSecret) IV() (iv [EpochIVLen]byte) {
	copy(iv[:], s.expand("data_iv", EpochIVLen))
	return iv
}

// Next returns the secret of the next epoch.
func (s *EpochSecret) Next() (next EpochSecret) {
	b := s.expand("datakey upd", len(next))
	copy(next[:], b)
	clear(b)
	return next
}

// expand is HKDF-Expand-Label of TLS 1.3 (RFC 8446, section 7.1) with SHA-256, an
// empty context and another prefix before the label. n is at most 32: one block of
// HKDF-Expand (RFC 5869, section 2.3) is enough.
func (s *EpochSecret) expand(label string, n int) []byte {
	const prefix = "ovpn "
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len(prefix)+len(label)))
	info = append(append(info, prefix...), label...)
	info = append(info, 0)
	info = append(info, 1)
	mac := hmac.New(sha256.New, s[:])
	mac.Write(info)
	return mac.Sum(nil)[:n]
}
