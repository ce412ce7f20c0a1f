package sslvpn

import (
	"encoding/binary"
	"sync"
)

// train is sealed packets for one client, one behind the other in the order
// of their packet ids, that the transport sends with one system call.
type train struct {
	octets  []byte
	packets int
	// size is the octets of each packet; the last may have fewer. It holds
	// where packets have no length before them.
	size   int
	ended  bool  // a shorter packet is in
	queued int64 // when it began to wait, in Unix nanoseconds
}

const (
	// trainRoom holds a super-packet of the TUN device in segments of 500 octets
	// and more; one of smaller segments takes several trains.
	trainRoom = 72 << 10
	// trainWorth is the octets that are worth a system call of their own.
	trainWorth = 32 << 10

	// What one call with UDP_SEGMENT takes.
	maxSegments      = 64
	maxSegmentOctets = 65400

	frameLen = 2 // octets of a packet's length on TCP
)

var trains = sync.Pool{New: func() any { return &train{octets: make([]byte, 0, trainRoom)} }}

func newTrain() *train { return trains.Get().(*train) }

// release ends a train. It must not be used again.
func (t *train) release() {
	*t = train{octets: t.octets[:0]}
	trains.Put(t)
}

// takes reports whether a sealed packet of n octets still fits.
func (t *train) takes(n int, framed bool) bool {
	if framed {
		return len(t.octets)+frameLen+n+tagLen <= cap(t.octets)
	}
	return t.packets == 0 && n+tagLen <= cap(t.octets) ||
		!t.ended && n <= t.size && t.packets < maxSegments && len(t.octets)+n <= maxSegmentOctets
}

// seal adds a packet that the train takes.
func (t *train) seal(k *dataKey, packet []byte, framed bool) (rekey, ok bool) {
	at, octets := len(t.octets), t.octets
	if framed {
		octets = binary.BigEndian.AppendUint16(octets, uint16(k.sealedLen(len(packet))))
	}
	octets, rekey, ok = k.sealTo(octets, packet)
	if !ok {
		return rekey, false
	}
	t.octets = octets
	n := len(octets) - at
	if t.packets == 0 {
		t.size = n
	}
	t.ended = n < t.size
	t.packets++
	return rekey, true
}
