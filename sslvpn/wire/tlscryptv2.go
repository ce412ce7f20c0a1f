package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// TLSCryptV2KeyLen is the octets of a server's key for tls-crypt-v2: 64 of which
// the cipher takes its key and 64 of which the MAC does.
const TLSCryptV2KeyLen = 128

// Sizes of a wrapped key, in octets.
const (
	wrappedKeyTail = 2 // its length, at the end
	minWrappedKey  = wrapTag + StaticKeyLen + wrappedKeyTail
	maxWrappedKey  = 1024
)

// metadataTime is the type of metadata that says when a key was made.
const metadataTime = 1

// TLSCryptV2 opens the keys that clients bring along, each its own, to wrap
// control packets with (tls-crypt-v2). A client's key is wrapped with that of
// the server, so that the server has to keep none:
//
//	32   tag: HMAC-SHA256 over the length, the key and the metadata
//	256  key of the client     ⎫ encrypted by AES-256-CTR with an IV from the
//	..   metadata, type first  ⎭ tag
//	2    length of all of this
//
// It serves any number of goroutines.
type TLSCryptV2 struct{ key wrapKey }

// NewTLSCryptV2 returns what opens the keys of a server's clients. The key is
// not kept.
func NewTLSCryptV2(key []byte) (*TLSCryptV2, error) {
	if len(key) != TLSCryptV2KeyLen {
		return nil, fmt.Errorf("tls-crypt-v2 key of %d octets: must have %d", len(key), TLSCryptV2KeyLen)
	}
	k, err := newWrapKey(key)
	if err != nil {
		return nil, err
	}
	return &TLSCryptV2{key: k}, nil
}

// Wrap returns a client's key, wrapped, with the time at which it was made.
func (v *TLSCryptV2) Wrap(key []byte, made time.Time) ([]byte, error) {
	if len(key) != StaticKeyLen {
		return nil, fmt.Errorf("static key of %d octets: must have %d", len(key), StaticKeyLen)
	}
	plain := append(make([]byte, 0, StaticKeyLen+9), key...)
	defer clear(plain[:StaticKeyLen])
	plain = binary.BigEndian.AppendUint64(append(plain, metadataTime), uint64(made.Unix()))
	length := binary.BigEndian.AppendUint16(nil, uint16(wrapTag+len(plain)+wrappedKeyTail))
	tag := v.key.tag(length, plain)
	wrapped := append(tag, make([]byte, len(plain))...)
	cipher.NewCTR(v.key.block, tag[:aes.BlockSize]).XORKeyStream(wrapped[wrapTag:], plain)
	return append(wrapped, length...), nil
}

// CutWrappedKey splits the wrapped key off the end of a HardResetClientV3 or a
// ControlWKCV1. What it wraps is not looked at.
func CutWrappedKey(packet []byte) (rest, wrapped []byte, err error) {
	if len(packet) < minWrappedKey || len(packet) > MaxFrame {
		return nil, nil, fmt.Errorf("%w: packet of %d octets with a wrapped key", ErrMalformed, len(packet))
	}
	n := int(binary.BigEndian.Uint16(packet[len(packet)-wrappedKeyTail:]))
	if n < minWrappedKey || n > maxWrappedKey || n > len(packet) {
		return nil, nil, fmt.Errorf("%w: wrapped key of %d octets", ErrMalformed, n)
	}
	cut := len(packet) - n
	return packet[:cut:cut], packet[cut:], nil
}

// ClientKeyID tells the keys of a server's clients apart: the first half of the
// tag of a wrapped key, which is on the wire in the clear and is as good as unique.
type ClientKeyID [16]byte

// ClientKeyIDOf returns the id of a wrapped key, whose octets may be anybody's
// until Open has taken it. Too short a key has the zero id.
func ClientKeyIDOf(wrapped []byte) (id ClientKeyID) {
	if len(wrapped) >= len(id) {
		copy(id[:], wrapped)
	}
	return id
}

// ParseClientKeyID reads what String writes.
func ParseClientKeyID(s string) (id ClientKeyID, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) || s != strings.ToLower(s) {
		return id, fmt.Errorf("client key id %q: must be %d hexadecimal digits in lower case", s, 2*len(id))
	}
	return ClientKeyID(b), nil
}

// String writes an id in hexadecimal digits; the zero id is empty.
func (id ClientKeyID) String() string {
	if id == (ClientKeyID{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}

// Open returns the wrapping of packets from and to the client whose key is
// wrapped. Its metadata tells for people when the key was made, and counts for
// nothing.
func (v *TLSCryptV2) Open(wrapped []byte) (*TLSCrypt, error) {
	n := len(wrapped)
	if n < minWrappedKey || n > maxWrappedKey || int(binary.BigEndian.Uint16(wrapped[n-wrappedKeyTail:])) != n {
		return nil, fmt.Errorf("%w: wrapped key of %d octets", ErrMalformed, n)
	}
	tag, length := wrapped[:wrapTag], wrapped[n-wrappedKeyTail:]
	plain := make([]byte, n-wrapTag-wrappedKeyTail)
	defer clear(plain)
	cipher.NewCTR(v.key.block, tag[:aes.BlockSize]).XORKeyStream(plain, wrapped[wrapTag:n-wrappedKeyTail])
	if !hmac.Equal(tag, v.key.tag(length, plain)) {
		return nil, ErrNotAuthentic
	}
	return NewTLSCrypt(plain[:StaticKeyLen], true)
}

// A client that can send its wrapped key again with its second packet, so that
// a server need keep nothing of the first one, numbers its packets from
// earlyStart on. The server asks for it in the payload of its answer.
const earlyStart = 0x0f000000

// EarlyCounter is the counter of the first packet of a client that can send its
// wrapped key again.
const EarlyCounter = earlyStart + 1

// ResendsKey reports whether the client of a wrapped packet can send its wrapped
// key again. The packet has to be authentic.
func ResendsKey(packet []byte) bool {
	return len(packet) >= wrapClear+wrapReplay && packet[wrapClear] == earlyStart>>24
}

// KeyAgain is the payload of a HardResetServerV2 that has the client send its
// wrapped key again: type 1 (flags) of two octets, bit 0 set.
var KeyAgain = []byte{0, 1, 0, 2, 0, 1}

// WantsKeyAgain reports whether the payload of a server's reset asks for the
// wrapped key. Types that are not known are passed over.
func WantsKeyAgain(payload []byte) bool {
	for len(payload) >= 4 {
		kind, n := binary.BigEndian.Uint16(payload), int(binary.BigEndian.Uint16(payload[2:]))
		if payload = payload[4:]; n > len(payload) {
			return false
		}
		if kind == 1 && n == 2 {
			return payload[1]&1 != 0
		}
		payload = payload[n:]
	}
	return false
}
