package esp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vpngw/vpngw/ipsec"
)

const (
	fixedLen = 8 // octets of SPI and sequence number

	// MaxTrailer is the largest number of octets of padding, pad length and
	// next header: the capacity that Seal needs behind a packet.
	MaxTrailer = 15 + 2
	// MaxOverhead is the largest number of octets that Seal adds to a packet
	// with any algorithm of this package.
	MaxOverhead = fixedLen + 16 + MaxTrailer + maxICV

	maxICV = 32
)

// Outbound is an outbound SA. Its methods may be called by several goroutines.
type Outbound struct {
	spi       ipsec.SPI
	esn       bool
	maxSeq    uint64
	limits    ipsec.Lifetime
	transform atomic.Pointer[transform] // nil once wiped
	ivBlock   cipher.Block              // makes CBC's IVs; nil with AEAD
	layout    layout

	mu       sync.Mutex    // held to change those below
	sequence atomic.Uint64 // last number given out, and so the packets sealed
	bytes    atomic.Uint64
}

// NewOutbound prepares an SA for sealing. It keeps neither the SA nor its key
// slices, which the caller clears. The error names the field that is wrong and
// wraps ipsec.ErrUnsupported when the algorithm is unknown.
func NewOutbound(sa *ipsec.SA) (*Outbound, error) {
	t, err := newTransform(sa)
	if err != nil {
		return nil, fmt.Errorf("outbound SA %s: %w", sa.SPI, err)
	}
	o := &Outbound{spi: sa.SPI, esn: sa.ESN, maxSeq: math.MaxUint32, limits: sa.Lifetime, layout: t.layout}
	if sa.ESN {
		o.maxSeq = math.MaxUint64
	}
	if t.block != nil {
		// An IV of CBC has to be unpredictable (RFC 3602, section 3): the
		// sequence number encrypted under a random key of this purpose alone
		// is that, and never repeats.
		var key [32]byte
		rand.Read(key[:]) // never fails
		o.ivBlock, err = aes.NewCipher(key[:])
		clear(key[:])
		if err != nil {
			return nil, fmt.Errorf("outbound SA %s: key for IVs: %w", sa.SPI, err)
		}
	}
	o.transform.Store(t)
	return o, nil
}

// HeaderLen returns the octets that Seal puts before the ciphertext: SPI,
// sequence number and IV.
func (o *Outbound) HeaderLen() int { return o.layout.header() }

// SealedLen returns the octets of the ESP packet that carries n octets.
func (o *Outbound) SealedLen(n int) int { return o.layout.sealed(n) }

// MaxPayload returns the largest n with SealedLen(n) ≤ limit, and zero when
// not even one octet fits.
func (o *Outbound) MaxPayload(limit int) int { return o.layout.maxPayload(limit) }

// State returns the counters. LastUsed is left to who has a clock, Drops to
// who has the packets.
func (o *Outbound) State() ipsec.SAState {
	sequence := o.sequence.Load()
	return ipsec.SAState{Bytes: o.bytes.Load(), Packets: sequence, Sequence: sequence}
}

// Wipe drops the keys. From then on Seal returns ErrWiped. Key schedules
// inside the standard library's ciphers cannot be overwritten; they go with
// the last Sealer.
func (o *Outbound) Wipe() { o.transform.Swap(nil).wipe() }

// anyNumber is for take, that it does not matter which numbers it gives out.
const anyNumber = math.MaxUint64

// errNotNext tells that others have taken numbers since.
var errNotNext = errors.New("not the next number")

// take gives out the next n sequence numbers for packets of octets in all, behind a
// given one, and returns the first. It gives none when a limit lies before the last
// of them.
func (o *Outbound) take(n, octets int, behind uint64) (first uint64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	last, bytes := o.sequence.Load(), o.bytes.Load()
	if behind != anyNumber && behind != last {
		return 0, errNotNext
	}
	// One packet may begin below the limit of octets and end above it.
	if hard := o.limits.HardBytes; hard != 0 && (bytes >= hard || n > 1 && uint64(octets) > hard-bytes) {
		return 0, ErrExpired
	}
	switch hard := o.limits.HardPackets; {
	case hard != 0 && (last >= hard || uint64(n) > hard-last):
		return 0, ErrExpired
	case uint64(n) > o.maxSeq-last:
		return 0, ErrSequenceExhausted
	}
	o.sequence.Store(last + uint64(n))
	o.bytes.Store(bytes + uint64(octets))
	return last + 1, nil
}

// Sealer seals packets of an Outbound for one worker.
type Sealer struct {
	out   *Outbound
	nonce [saltLen + aeadIVLen]byte
	aad   [fixedLen + 4]byte
	aead  cipher.AEAD // nil with CBC
	cbc   cbcMode
	mac   hash.Hash
	block [aes.BlockSize]byte // scratch for the IV
	sum   [64]byte            // scratch for the MAC

	// What Reserve took and Seal has not used: a number of packets from next on,
	// and the keys.
	next     uint64
	reserved int
	keys     *transform
}

// NewSealer returns a Sealer for one more worker.
func (o *Outbound) NewSealer() *Sealer {
	s := &Sealer{out: o}
	switch t := o.transform.Load(); {
	case t == nil:
	case t.block != nil:
		s.cbc = newCBCMode(t.block, cipher.NewCBCEncrypter)
		s.mac = t.cloneMAC()
	default:
		s.aead = t.workerAEAD()
	}
	return s
}

// Reserve takes the sequence numbers of the next n packets, of octets in all, for
// the calls of Seal that follow, and returns the first; those that an earlier call
// left are given up. Several workers may so seal at the same time what leaves in the
// order of its numbers. The packets count as sealed, and once they are reserved Seal
// fails only for lack of room.
//
// Errors are of type Drop. A limit that lies within the packets is ErrExpired or
// ErrSequenceExhausted: it is met packet by packet.
func (s *Sealer) Reserve(n, octets int) (first uint64, err error) {
	return s.reserve(n, octets, anyNumber)
}

// ReserveNext is Reserve, if the numbers follow on one that was taken before. It
// reports whether they do, and no limit lies within the packets.
func (s *Sealer) ReserveNext(last uint64, n, octets int) bool {
	_, err := s.reserve(n, octets, last)
	return err == nil
}

func (s *Sealer) reserve(n, octets int, last uint64) (first uint64, err error) {
	s.reserved = 0
	if s.keys = s.out.transform.Load(); s.keys == nil {
		s.aead, s.cbc, s.mac = nil, nil, nil
		return 0, ErrWiped
	}
	if s.next, err = s.out.take(n, octets, last); err != nil {
		s.keys = nil
		return 0, err
	}
	s.reserved = n
	return s.next, nil
}

// Seal appends the ESP packet that carries an inner packet to dst, growing it
// when its capacity is short, and returns the result. nextHeader is 4 for
// IPv4, 41 for IPv6 and 59 for a dummy.
//
// The trailer is built behind packet, whose capacity has to have room for it;
// MaxTrailer octets always suffice. They are restored at the end, so that
// another packet may begin there. packet and the free capacity of dst either
// do not overlap, or packet starts exactly at len(dst)+HeaderLen of dst's
// array; it is then sealed in place, and what follows it becomes the end of
// the ESP packet.
//
// Errors are of type Drop. On one, dst is returned as it came.
func (s *Sealer) Seal(dst, packet []byte, nextHeader uint8) ([]byte, error) {
	o := s.out
	end := len(packet) + o.layout.padding(len(packet)) + 2
	if cap(packet) < end {
		return dst, ErrNoTrailerRoom
	}
	if s.reserved == 0 {
		if _, err := s.Reserve(1, len(packet)); err != nil {
			return dst, err
		}
	}
	t, seq := s.keys, s.next
	s.next++
	if s.reserved--; s.reserved == 0 {
		s.keys = nil
	}

	start, total, header := len(dst), t.sealed(len(packet)), t.header()
	dst = slices.Grow(dst, total)[:start+total]
	out := dst[start:]
	binary.BigEndian.PutUint32(out, uint32(o.spi))
	binary.BigEndian.PutUint32(out[4:], uint32(seq))

	plain := packet[:end]
	trailer := plain[len(packet):]
	var behind [MaxTrailer]byte
	copy(behind[:], trailer)
	for i := range len(trailer) - 2 {
		trailer[i] = byte(i + 1)
	}
	trailer[len(trailer)-2] = byte(len(trailer) - 2)
	trailer[len(trailer)-1] = nextHeader

	inPlace := &plain[0] == &out[header]
	if t.newAEAD != nil {
		s.sealAEAD(t, out, plain, seq)
	} else {
		s.sealCBC(t, out, plain, seq)
	}
	if !inPlace {
		copy(trailer, behind[:])
	}
	return dst, nil
}

// sealAEAD encrypts plain into out, whose first 8 octets are set. The IV is
// the sequence number, which never repeats under a key (RFC 4106, section 3.1;
// RFC 7634, section 2).
func (s *Sealer) sealAEAD(t *transform, out, plain []byte, seq uint64) {
	copy(s.nonce[:], t.salt[:])
	binary.BigEndian.PutUint64(s.nonce[saltLen:], seq)
	copy(out[fixedLen:], s.nonce[saltLen:])
	header := t.header()
	aad := appendAAD(&s.aad, s.out.spi, seq, s.out.esn)
	s.aead.Seal(out[header:header], s.nonce[:], plain, aad)
}

// sealCBC encrypts plain into out, whose first 8 octets are set, and adds the
// ICV over all of it.
func (s *Sealer) sealCBC(t *transform, out, plain []byte, seq uint64) {
	clear(s.block[:])
	binary.BigEndian.PutUint64(s.block[:], seq)
	s.out.ivBlock.Encrypt(s.block[:], s.block[:])
	header := t.header()
	iv := out[fixedLen:header]
	copy(iv, s.block[:])
	s.cbc.SetIV(iv)
	end := header + len(plain)
	s.cbc.CryptBlocks(out[header:end], plain)
	copy(out[end:], computeICV(s.mac, &s.sum, out[:end], seq, s.out.esn, &s.aad)[:t.icv])
}

// appendAAD writes an AEAD's additional data: SPI and sequence number, the
// latter in full when it is extended (RFC 4106, section 5).
func appendAAD(buf *[fixedLen + 4]byte, spi ipsec.SPI, seq uint64, esn bool) []byte {
	binary.BigEndian.PutUint32(buf[:], uint32(spi))
	if esn {
		binary.BigEndian.PutUint64(buf[4:], seq)
		return buf[:]
	}
	binary.BigEndian.PutUint32(buf[4:], uint32(seq))
	return buf[:fixedLen]
}

// computeICV returns the whole MAC over an ESP packet without its ICV. The
// high half of an extended sequence number follows the packet, though it is
// not sent (RFC 4303, section 2.2.1).
func computeICV(mac hash.Hash, sum *[64]byte, packet []byte, seq uint64, esn bool, scratch *[fixedLen + 4]byte) []byte {
	mac.Reset()
	mac.Write(packet)
	if esn {
		binary.BigEndian.PutUint32(scratch[:], uint32(seq>>32))
		mac.Write(scratch[:4])
	}
	return mac.Sum(sum[:0])
}
