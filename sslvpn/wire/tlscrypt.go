package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// StaticKeyLen is the octets of a static key: for each direction 64 of which
// ciphers take their keys and 64 of which MACs do.
const StaticKeyLen = 256

// ErrNotAuthentic is returned for a wrapped packet whose tag does not verify.
var ErrNotAuthentic = errors.New("tag does not verify")

const (
	wrapClear  = 1 + 8 // opcode and session id
	wrapReplay = 8     // packet id and time
	wrapTag    = sha256.Size
)

// TLSCrypt wraps control packets with a key that both sides have from the start
// (tls-crypt): who lacks it learns nothing and gets no answer.
//
//	1   opcode and key id
//	8   session id of the sender
//	8   replay id: a counter, then the time in seconds
//	32  tag: HMAC-SHA256 over all of the above and the plaintext
//	..  what else is in the packet, encrypted by AES-256-CTR with an IV from
//	    the tag
//
// It serves any number of goroutines.
type TLSCrypt struct {
	seal, open wrapKey
}

type wrapKey struct {
	block cipher.Block
	mac   [32]byte
}

// NewTLSCrypt returns the wrapping of a server with a static key, or of a
// client. The key is not kept.
func NewTLSCrypt(key []byte, server bool) (*TLSCrypt, error) {
	if len(key) != StaticKeyLen {
		return nil, fmt.Errorf("static key of %d octets: must have %d", len(key), StaticKeyLen)
	}
	w := &TLSCrypt{}
	ours, theirs := &w.seal, &w.open // by the first half, and by the second
	if !server {
		ours, theirs = theirs, ours
	}
	for i, k := range []*wrapKey{ours, theirs} {
		var err error
		if *k, err = newWrapKey(key[128*i:]); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// newWrapKey takes its keys from the two halves of 128 octets.
func newWrapKey(key []byte) (k wrapKey, err error) {
	k.block, err = aes.NewCipher(key[:32])
	copy(k.mac[:], key[64:96])
	return k, err
}

func (k *wrapKey) tag(clearText, plain []byte) []byte {
	m := hmac.New(sha256.New, k.mac[:])
	m.Write(clearText)
	m.Write(plain)
	return m.Sum(nil)
}

// Append appends a control packet, wrapped. A receiver takes counters that rise,
// from any start once the time, in seconds, has risen.
func (w *TLSCrypt) Append(b, packet []byte, counter, time uint32) []byte {
	at := len(b)
	b = append(b, packet[:wrapClear]...)
	b = binary.BigEndian.AppendUint32(b, counter)
	b = binary.BigEndian.AppendUint32(b, time)
	tag := w.seal.tag(b[at:], packet[wrapClear:])
	b = append(b, tag...)
	text := len(b)
	b = append(b, packet[wrapClear:]...)
	cipher.NewCTR(w.seal.block, tag[:aes.BlockSize]).XORKeyStream(b[text:], b[text:])
	return b
}

// Open returns the control packet that is wrapped in packet. Replays are not
// told from first copies: to the reliability layer they are the same.
func (w *TLSCrypt) Open(packet []byte) ([]byte, error) {
	const header = wrapClear + wrapReplay
	if len(packet) < header+wrapTag+1 || len(packet) > MaxFrame {
		return nil, fmt.Errorf("%w: wrapped packet of %d octets", ErrMalformed, len(packet))
	}
	tag := packet[header : header+wrapTag]
	plain := append(make([]byte, 0, len(packet)), packet[:wrapClear]...)
	plain = append(plain, packet[header+wrapTag:]...)
	text := plain[wrapClear:]
	cipher.NewCTR(w.open.block, tag[:aes.BlockSize]).XORKeyStream(text, text)
	if !hmac.Equal(tag, w.open.tag(packet[:header], text)) {
		return nil, ErrNotAuthentic
	}
	return plain, nil
}
