package sslvpn

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// Facts of the data channel's packets in the epoch format, which clients announce
// by IV_PROTO and which has DATA_V2 alone:
//
//	opcode and key id (1), peer id (3), epoch (2), counter (6), ciphertext, tag
//
// The nonce is epoch and counter as on the wire, then zeros, exclusive-or the
// epoch's IV; associated data is all before the ciphertext. Each direction moves
// on through epochs by itself, each with a key of its own, so that no limit of the
// cipher asks for a renegotiation.
const (
	epochHeader   = 1 + 3 + 8
	epochOverhead = epochHeader + tagLen

	lastEpoch    = 1<<16 - 1
	rekeyEpoch   = 0xf000
	lastCounter  = 1<<48 - 1
	epochBlocks  = 1<<36 - 1 // packets and blocks of 16 octets in one epoch of AES-GCM
	futureEpochs = 4         // that are opened before the peer's first packet in them
	epochSlots   = 1 + 1 + futureEpochs
)

// epochKeys are what a data key seals and opens with in the epoch format.
type epochKeys struct {
	noBlocks bool // the cipher has no limit of blocks
	asked    bool // sealing: for new keys

	sendChain epochChain
	sending   epoch
	counter   uint64 // the last one used
	blocks    uint64 // packets and blocks so far

	recvChain epochChain
	newest    uint16            // epoch of an authentic packet
	receiving [epochSlots]epoch // by number: the one before the newest up to futureEpochs ahead
	heard     atomic.Uint32     // newest, for the sealing side, which must not be behind
}

// epoch is the key of one epoch in one direction.
type epoch struct {
	number uint16 // zero: none
	aead   cipher.AEAD
	iv     [wire.EpochIVLen]byte
	nonce  [wire.EpochIVLen]byte
	window replayWindow
}

// epochChain derives one epoch after the other.
type epochChain struct {
	cipher Cipher
	next   uint32 // the epoch that secret is of
	secret wire.EpochSecret
}

func newEpochChain(c Cipher, secret []byte) (epochChain, error) {
	chain := epochChain{cipher: c, next: 1}
	if len(secret) < len(chain.secret) {
		return chain, fmt.Errorf("epoch secret of %d octets: must have %d", len(secret), len(chain.secret))
	}
	copy(chain.secret[:], secret)
	return chain, nil
}

// derive returns the next epoch. After the last one it is one without a number.
func (c *epochChain) derive() (e epoch, err error) {
	if c.next > lastEpoch {
		return e, nil
	}
	key := c.secret.Key(c.cipher.keyLen())
	defer clear(key)
	if e.aead, err = c.cipher.aead(key); err != nil {
		return e, err
	}
	e.number, e.iv = uint16(c.next), c.secret.IV()
	c.secret = c.secret.Next()
	c.next++
	return e, nil
}

func newEpochKeys(k dataKeys) (*epochKeys, error) {
	e := &epochKeys{noBlocks: k.cipher == ChaCha20Poly1305}
	var err error
	if e.sendChain, err = newEpochChain(k.cipher, k.sendKey); err != nil {
		return nil, err
	}
	if e.recvChain, err = newEpochChain(k.cipher, k.recvKey); err != nil {
		return nil, err
	}
	if e.sending, err = e.sendChain.derive(); err != nil {
		return nil, err
	}
	if err = e.hear(1); err != nil {
		return nil, err
	}
	return e, nil
}

// hear makes an epoch the newest one, and has those after it ready.
func (e *epochKeys) hear(number uint16) error {
	e.newest = number
	e.heard.Store(uint32(number))
	for e.recvChain.next <= min(uint32(number)+futureEpochs, lastEpoch) {
		next, err := e.recvChain.derive()
		if err != nil {
			return err
		}
		e.receiving[next.number%epochSlots] = next
	}
	return nil
}

// advance moves sealing to the next epoch. It reports whether there is one.
func (e *epochKeys) advance() bool {
	next, err := e.sendChain.derive()
	if err != nil || next.number == 0 {
		return false
	}
	e.sending, e.counter, e.blocks = next, 0, 0
	return true
}

// setNonce prepares the nonce for a packet id as on the wire.
func (e *epoch) setNonce(packetID []byte) {
	e.nonce = e.iv
	for i, b := range packetID[:8] {
		e.nonce[i] ^= b
	}
}

// sealTo is dataKey.sealTo for the epoch format.
func (e *epochKeys) sealTo(header [4]byte, dst, packet []byte) (out []byte, rekey, ok bool) {
	for uint32(e.sending.number) < e.heard.Load() {
		if !e.advance() {
			return dst, e.wearing(), false
		}
	}
	blocks := 1 + uint64(len(packet)+cipherBlockSize-1)/cipherBlockSize
	if e.counter >= lastCounter || !e.noBlocks && e.blocks+blocks > epochBlocks {
		if !e.advance() {
			return dst, e.wearing(), false
		}
	}
	e.blocks += blocks
	e.counter++
	at := len(dst)
	dst = append(dst, header[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(e.sending.number)<<48|e.counter)
	e.sending.setNonce(dst[at+4:])
	out = e.sending.aead.Seal(dst, e.sending.nonce[:], packet, dst[at:at+epochHeader])
	return out, e.sending.number >= rekeyEpoch && e.wearing(), true
}

// wearing reports, once, that new keys are due.
func (e *epochKeys) wearing() bool {
	if e.asked {
		return false
	}
	e.asked = true
	return true
}

// openIn opens a packet in place. A packet that is authentic moves on to its epoch.
func (e *epochKeys) openIn(packet []byte) (payload []byte, why reason) {
	if len(packet) <= epochOverhead {
		return nil, reasonTruncated
	}
	id := binary.BigEndian.Uint64(packet[4:])
	number, counter := uint16(id>>48), id&lastCounter
	slot := &e.receiving[number%epochSlots]
	switch {
	case packet[0]>>3 != opcodeDataV2:
		return nil, reasonUnknownKey
	case number == 0 || slot.number != number:
		return nil, reasonEpoch
	case !slot.window.fresh(counter):
		return nil, reasonReplay
	}
	slot.setNonce(packet[4:])
	payload, err := slot.aead.Open(packet[epochHeader:epochHeader], slot.nonce[:], packet[epochHeader:], packet[:epochHeader])
	if err != nil {
		return nil, reasonIntegrity
	}
	slot.window.commit(counter)
	if number > e.newest {
		if err := e.hear(number); err != nil {
			return nil, reasonExhausted
		}
	}
	return payload, reasonNone
}

func (e *epochKeys) wipe() {
	clear(e.sendChain.secret[:])
	clear(e.recvChain.secret[:])
	e.sending, e.receiving = epoch{}, [epochSlots]epoch{}
}
