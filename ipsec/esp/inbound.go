package esp

import (
	"crypto/cipher"
	"crypto/hmac"
	"encoding/binary"
	"fmt"
	"hash"
	"math"
	"sync/atomic"

	"github.com/vpngw/vpngw/ipsec"
)

// nextHeaderNone is the IP protocol "no next header", which marks a dummy.
const nextHeaderNone = 59

// Replay windows, in packets.
const (
	DefaultReplayWindow = 1024
	MaxReplayWindow     = 1 << 16
)

// Inbound is an inbound SA. Its methods may be called by several goroutines.
type Inbound struct {
	spi       ipsec.SPI
	esn       bool
	limits    ipsec.Lifetime
	transform atomic.Pointer[transform] // nil once wiped
	window    replayWindow

	packets atomic.Uint64
	bytes   atomic.Uint64
	drops   [DropCount]atomic.Uint64
}

// NewInbound prepares an SA for opening. A ReplayWindow of zero means
// DefaultReplayWindow. NewInbound keeps neither the SA nor its key slices,
// which the caller clears. The error names the field that is wrong and wraps
// ipsec.ErrUnsupported when the algorithm is unknown.
func NewInbound(sa *ipsec.SA) (*Inbound, error) {
	size := sa.ReplayWindow
	if size == 0 {
		size = DefaultReplayWindow
	}
	if size < 1 || size > MaxReplayWindow {
		return nil, fmt.Errorf("inbound SA %s: replay window of %d packets: must be 1 to %d", sa.SPI, size, MaxReplayWindow)
	}
	t, err := newTransform(sa)
	if err != nil {
		return nil, fmt.Errorf("inbound SA %s: %w", sa.SPI, err)
	}
	in := &Inbound{spi: sa.SPI, esn: sa.ESN, limits: sa.Lifetime}
	in.window.init(size)
	in.transform.Store(t)
	return in, nil
}

// State returns the counters; Drops has those of Open's errors that occurred,
// by Drop.Reason, and is nil without any. LastUsed is left to who has a clock.
func (in *Inbound) State() ipsec.SAState {
	state := ipsec.SAState{
		Bytes: in.bytes.Load(), Packets: in.packets.Load(), Sequence: in.window.highest.Load(),
	}
	for d := range DropCount {
		if n := in.drops[d].Load(); n != 0 {
			if state.Drops == nil {
				state.Drops = map[string]uint64{}
			}
			state.Drops[d.Reason()] = n
		}
	}
	return state
}

// Wipe drops the keys. From then on Open returns ErrWiped. Key schedules
// inside the standard library's ciphers cannot be overwritten; they go with
// the last Opener.
func (in *Inbound) Wipe() { in.transform.Swap(nil).wipe() }

// expired reports whether a hard limit is reached.
func (in *Inbound) expired() bool {
	return in.limits.HardBytes != 0 && in.bytes.Load() >= in.limits.HardBytes ||
		in.limits.HardPackets != 0 && in.packets.Load() >= in.limits.HardPackets
}

// sequence completes the 32 bits of a packet to its sequence number; ok is
// false when there is none that could be valid.
func (in *Inbound) sequence(low uint32) (seq uint64, ok bool) {
	if !in.esn {
		return uint64(low), true
	}
	return inferESN(in.window.highest.Load(), in.window.size, low)
}

// inferESN finds the high half of a sequence number: the one that puts it
// inside the window or right of it (RFC 4303, appendix A2.2).
func inferESN(highest, window uint64, low uint32) (seq uint64, ok bool) {
	high := uint32(highest >> 32)
	if bottom := uint32(highest) - uint32(window) + 1; uint64(uint32(highest)) >= window-1 {
		// The window lies in one subspace.
		if low < bottom {
			if high == math.MaxUint32 {
				return 0, false
			}
			high++
		}
	} else if low >= bottom {
		// The window spans two subspaces, and low is in the earlier one.
		if high == 0 {
			return 0, false
		}
		high--
	}
	return uint64(high)<<32 | uint64(low), true
}

// Opener opens packets of an Inbound for one worker.
type Opener struct {
	in     *Inbound
	nonce  [saltLen + aeadIVLen]byte
	aad    [fixedLen + 4]byte
	aead   cipher.AEAD // nil with CBC
	cbc    cbcMode
	mac    hash.Hash
	sum    [64]byte // scratch for the MAC
	newest bool
}

// NewOpener returns an Opener for one more worker.
func (in *Inbound) NewOpener() *Opener {
	p := &Opener{in: in}
	switch t := in.transform.Load(); {
	case t == nil:
	case t.block != nil:
		p.cbc = newCBCMode(t.block, cipher.NewCBCDecrypter)
		p.mac = t.cloneMAC()
	default:
		p.aead = t.workerAEAD()
	}
	return p
}

// Open authenticates and decrypts an ESP packet, from SPI to ICV, in place.
// inner aliases packet; it ends with the octets of traffic flow padding, if
// the peer sends such (RFC 4303, section 2.7), which the length in its own
// header cuts off. nextHeader is 4 for IPv4 and 41 for IPv6; other values are
// for the caller to refuse.
//
// Errors are of type Drop and are counted. On one, what packet holds is
// undefined. Only an authentic packet changes the replay window.
func (p *Opener) Open(packet []byte) (inner []byte, nextHeader uint8, err error) {
	p.newest = false
	inner, nextHeader, drop := p.open(packet)
	if drop != 0 {
		p.in.drops[drop].Add(1)
		return nil, 0, drop
	}
	p.in.packets.Add(1)
	p.in.bytes.Add(uint64(len(inner)))
	return inner, nextHeader, nil
}

// Newest reports whether the packet of the last Open was authentic and had the
// highest sequence number so far. Only such a packet may tell of a move of the
// peer to another address (RFC 4555 and RFC 7296, section 2.23).
func (p *Opener) Newest() bool { return p.newest }

func (p *Opener) open(packet []byte) (inner []byte, nextHeader uint8, drop Drop) {
	in := p.in
	t := in.transform.Load()
	if t == nil {
		p.aead, p.cbc, p.mac = nil, nil, nil
		return nil, 0, ErrWiped
	}
	if in.expired() {
		return nil, 0, ErrExpired
	}
	header := t.header()
	encrypted := len(packet) - header - t.icv
	if encrypted < 2 || t.block != nil && encrypted%t.align != 0 {
		return nil, 0, ErrTruncated
	}
	if binary.BigEndian.Uint32(packet) != uint32(in.spi) {
		return nil, 0, ErrSPI
	}
	seq, ok := in.sequence(binary.BigEndian.Uint32(packet[4:]))
	if !ok || !in.window.fresh(seq) {
		return nil, 0, ErrReplay
	}

	var plain []byte
	if t.newAEAD != nil {
		plain, drop = p.openAEAD(t, packet, seq)
	} else {
		plain, drop = p.openCBC(t, packet, seq)
	}
	if drop != 0 {
		return nil, 0, drop
	}
	return trimPadding(plain)
}

func (p *Opener) openAEAD(t *transform, packet []byte, seq uint64) ([]byte, Drop) {
	header := t.header()
	copy(p.nonce[:], t.salt[:])
	copy(p.nonce[saltLen:], packet[fixedLen:header])
	aad := appendAAD(&p.aad, p.in.spi, seq, p.in.esn)
	plain, err := p.aead.Open(packet[header:header], p.nonce[:], packet[header:], aad)
	if err != nil {
		return nil, ErrIntegrity
	}
	if !p.commit(seq) {
		return nil, ErrReplay
	}
	return plain, 0
}

func (p *Opener) openCBC(t *transform, packet []byte, seq uint64) ([]byte, Drop) {
	header, end := t.header(), len(packet)-t.icv
	want := computeICV(p.mac, &p.sum, packet[:end], seq, p.in.esn, &p.aad)[:t.icv]
	if !hmac.Equal(want, packet[end:]) {
		return nil, ErrIntegrity
	}
	if !p.commit(seq) {
		return nil, ErrReplay
	}
	p.cbc.SetIV(packet[fixedLen:header])
	plain := packet[header:end]
	p.cbc.CryptBlocks(plain, plain)
	return plain, 0
}

// commit marks an authenticated sequence number. It fails when another worker
// has opened a copy of the packet in the meantime.
func (p *Opener) commit(seq uint64) (ok bool) {
	p.newest, ok = p.in.window.commit(seq)
	return ok
}

// trimPadding takes the trailer off a decrypted packet.
func trimPadding(plain []byte) (inner []byte, nextHeader uint8, drop Drop) {
	pad, nextHeader := int(plain[len(plain)-2]), plain[len(plain)-1]
	end := len(plain) - 2 - pad
	if end < 0 {
		return nil, 0, ErrPadding
	}
	for i, b := range plain[end : len(plain)-2] {
		if b != byte(i+1) {
			return nil, 0, ErrPadding
		}
	}
	if nextHeader == nextHeaderNone {
		return nil, 0, ErrDummy
	}
	return plain[:end], nextHeader, 0
}
