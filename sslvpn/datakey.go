package sslvpn

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// Facts of the data channel's packets with an AEAD cipher:
//
//	DATA_V2: opcode and key id (1), peer id (3), packet id (4), tag (16), ciphertext
//	DATA_V1: opcode and key id (1),              packet id (4), tag (16), ciphertext
//
// The nonce is the packet id as on the wire and then the implicit IV. Associated
// data is all before the tag, but of DATA_V1 the packet id alone.
const (
	opcodeDataV1 = 6
	opcodeDataV2 = 9

	packetIDLen  = 4
	implicitLen  = 8
	tagLen       = 16
	dataV1Header = 1 + packetIDLen
	dataV2Header = 1 + 3 + packetIDLen
	// dataOverhead is what DATA_V2 adds to a packet, in octets.
	dataOverhead = dataV2Header + tagLen
	keyIDs       = 8 // the key id has three bits
)

// Where the keys of a data channel come to their end. Rekeying starts well
// before, for which the margins are those of stock OpenVPN.
const (
	lastPacketID    = 1<<32 - 1
	rekeyPacketID   = 0xff000000
	gcmBlocks       = 1 << 36 // packets and blocks of 16 octets under one AES-GCM key
	rekeyBlocks     = gcmBlocks / 8 * 7
	lastForgeries   = 1 << 36 // failed verifications before nothing is opened any more
	rekeyForgeries  = 1 << 35
	cipherBlockSize = 16
)

// dataKeys are the keys of one key id of a data channel, as the control channel
// has derived them.
type dataKeys struct {
	cipher Cipher
	// Keys have the length of the cipher's, implicit IVs 8 octets; what is longer
	// is cut, as the key material of OpenVPN is of fixed size.
	sendKey, recvKey []byte
	sendIV, recvIV   []byte
	// epoch says that packets have the epoch format: the keys are the secrets of
	// the first epoch then, of 32 octets, and there are no IVs.
	epoch bool
}

// keyLen returns the octets that the keys need at least.
func (k *dataKeys) keyLen() int {
	if k.epoch {
		return len(wire.EpochSecret{})
	}
	return k.cipher.keyLen()
}

// keyLen returns the octets of a cipher's key, or 0 for an unknown cipher.
func (c Cipher) keyLen() int {
	switch c {
	case AES128GCM:
		return 16
	case AES256GCM, ChaCha20Poly1305:
		return 32
	}
	return 0
}

// aead returns a cipher with a key, of which it uses the first octets.
func (c Cipher) aead(key []byte) (cipher.AEAD, error) {
	n := c.keyLen()
	switch {
	case n == 0:
		return nil, fmt.Errorf("data channel cipher %q: must be %s, %s or %s", string(c), AES128GCM, AES256GCM, ChaCha20Poly1305)
	case len(key) < n:
		return nil, fmt.Errorf("data channel key of %d octets: %s needs %d", len(key), c, n)
	case c == ChaCha20Poly1305:
		return chacha20poly1305.New(key[:n])
	}
	block, err := aes.NewCipher(key[:n])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// dataKey is what one key id seals and opens with. Each direction serves one
// goroutine at a time, and they are independent.
type dataKey struct {
	id     uint8
	serial uint64 // of keys of this client, rising

	seal direction
	open direction

	header    [4]byte // of what is sealed: opcode, key id and peer id
	window    replayWindow
	forgeries uint64
	heard     bool // a packet of the peer was opened

	epochs *epochKeys // in place of seal, open and window, in the epoch format
}

// direction is one half of a dataKey.
type direction struct {
	aead     cipher.AEAD
	nonce    [packetIDLen + implicitLen]byte
	packetID uint64 // sealing: the last one used
	blocks   uint64 // packets and blocks so far
	noBlocks bool   // the cipher has no limit of blocks
	asked    bool   // for new keys
}

func newDirection(c Cipher, key, iv []byte) (d direction, err error) {
	if len(iv) < implicitLen {
		return d, fmt.Errorf("implicit IV of %d octets: must have %d", len(iv), implicitLen)
	}
	d.aead, err = c.aead(key)
	d.noBlocks = c == ChaCha20Poly1305
	copy(d.nonce[packetIDLen:], iv)
	return d, err
}

// newDataKey returns a key for a peer id of 24 bits. The keys are not kept.
func newDataKey(id uint8, peerID uint32, k dataKeys) (*dataKey, error) {
	if id >= keyIDs {
		return nil, fmt.Errorf("key id %d: must be below %d", id, keyIDs)
	}
	key := &dataKey{id: id}
	binary.BigEndian.PutUint32(key.header[:], uint32(opcodeDataV2<<3|id)<<24|peerID&0xffffff)
	var err error
	if k.epoch {
		key.epochs, err = newEpochKeys(k)
		return key, err
	}
	if key.seal, err = newDirection(k.cipher, k.sendKey, k.sendIV); err != nil {
		return nil, err
	}
	if key.open, err = newDirection(k.cipher, k.recvKey, k.recvIV); err != nil {
		return nil, err
	}
	return key, nil
}

// use counts a packet and reports whether a limit of the cipher is reached.
func (d *direction) use(octets int) (last bool) {
	d.blocks += 1 + uint64(octets+cipherBlockSize-1)/cipherBlockSize
	return !d.noBlocks && d.blocks >= gcmBlocks
}

// wearing reports, once, that new keys are due.
func (d *direction) wearing(due bool) bool {
	if d.asked || !due && (d.noBlocks || d.blocks < rekeyBlocks) {
		return false
	}
	d.asked = true
	return true
}

// sealedLen returns the octets that sealing n octets gives.
func (k *dataKey) sealedLen(n int) int {
	if k.epochs != nil {
		return n + epochOverhead
	}
	return n + dataOverhead
}

// sealTo appends an inner packet to dst as DATA_V2. dst needs the spare
// capacity of sealedLen and a tag. rekey says, once, that new keys are due;
// nothing is appended when the key is used up.
func (k *dataKey) sealTo(dst, packet []byte) (out []byte, rekey, ok bool) {
	if k.epochs != nil {
		return k.epochs.sealTo(k.header, dst, packet)
	}
	d := &k.seal
	if d.packetID >= lastPacketID || d.use(len(packet)) {
		return dst, d.wearing(true), false
	}
	d.packetID++
	at := len(dst)
	dst = append(dst, k.header[:]...)
	dst = binary.BigEndian.AppendUint32(dst, uint32(d.packetID))
	copy(d.nonce[:], dst[at+4:])
	text := at + dataOverhead
	// The tag comes out behind the ciphertext and belongs before it.
	sealed := d.aead.Seal(dst[:text], d.nonce[:], packet, dst[at:at+dataV2Header])
	end := len(sealed) - tagLen
	copy(sealed[at+dataV2Header:], sealed[end:])
	return sealed[:end], d.wearing(d.packetID >= rekeyPacketID), true
}

// openIn opens a DATA packet in place and returns what it carries. Up to 16
// octets behind the packet are used and put back, where its capacity allows
// it. rekey says, once, that new keys are due.
func (k *dataKey) openIn(packet []byte) (payload []byte, rekey bool, why reason) {
	d := &k.open
	if k.epochs != nil {
		if k.forgeries >= lastForgeries {
			return nil, d.wearing(true), reasonExhausted
		}
		if payload, why = k.epochs.openIn(packet); why == reasonIntegrity {
			k.forgeries++
		}
		return payload, d.wearing(k.forgeries >= rekeyForgeries), why
	}
	header, associated := dataV2Header, 0
	if packet[0]>>3 == opcodeDataV1 {
		header, associated = dataV1Header, 1
	}
	if len(packet) <= header+tagLen {
		return nil, false, reasonTruncated
	}
	id := uint64(binary.BigEndian.Uint32(packet[header-packetIDLen:]))
	if !k.window.fresh(id) {
		return nil, false, reasonReplay
	}
	if k.forgeries >= lastForgeries {
		return nil, d.wearing(true), reasonExhausted
	}
	copy(d.nonce[:packetIDLen], packet[header-packetIDLen:])
	payload, ok := d.openMoved(packet, header, associated)
	if !ok {
		k.forgeries++
		return nil, d.wearing(k.forgeries >= rekeyForgeries), reasonIntegrity
	}
	k.window.commit(id)
	if d.use(len(payload)) {
		return nil, d.wearing(true), reasonExhausted
	}
	return payload, d.wearing(false), reasonNone
}

// openMoved opens a packet whose tag is before its ciphertext; the cipher
// wants it behind.
func (d *direction) openMoved(packet []byte, header, associated int) ([]byte, bool) {
	if cap(packet)-len(packet) < tagLen {
		packet = append(make([]byte, 0, len(packet)+tagLen), packet...)
	}
	n := len(packet)
	behind := packet[n : n+tagLen]
	var saved [tagLen]byte
	copy(saved[:], behind)
	copy(behind, packet[header:header+tagLen])
	text := packet[header+tagLen : n+tagLen]
	payload, err := d.aead.Open(text[:0], d.nonce[:], text, packet[associated:header])
	copy(behind, saved[:])
	return payload, err == nil
}

// wipe ends the key. The ciphers of the standard library keep their expanded
// keys to themselves; they go with the last reference.
func (k *dataKey) wipe() {
	k.seal, k.open = direction{}, direction{}
	clear(k.header[:])
	if k.epochs != nil {
		k.epochs.wipe()
	}
}
