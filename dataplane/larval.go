package dataplane

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ipsec"
)

// A responder sends on a new SA as soon as it has answered, and its first packets
// may be here before the answer has been worked on: the SPI is allocated, and the SA
// still larval, as PF_KEY calls it (RFC 2367). They wait for its keys, so that traffic
// that moves over from another SA loses nothing.

const (
	// reservation is how long an allocated SPI waits for its SA.
	reservation = 5 * time.Minute
	// What waits is bounded, for each SPI and in all, in packets and octets.
	maxHeldPackets = 128
	maxHeldOctets  = 4 << 20
)

// larval is an inbound SA that has no keys yet.
type larval struct {
	since time.Time

	mu      sync.Mutex
	packets []heldPacket
	ended   bool
}

type heldPacket struct {
	from   udp.Origin
	packet []byte
}

// hold keeps a packet until the SA has its keys. It does not where there is no room,
// or the SA has them by now.
func (l *larval) hold(total *atomic.Int64, from *udp.Origin, packet []byte) (kept bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size := int64(len(packet))
	if l.ended || len(l.packets) >= maxHeldPackets || total.Load()+size > maxHeldOctets {
		return false
	}
	total.Add(size)
	l.packets = append(l.packets, heldPacket{*from, bytes.Clone(packet)})
	return true
}

// end returns what has waited. Nothing does any more.
func (l *larval) end(total *atomic.Int64) []heldPacket {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.packets
	l.packets, l.ended = nil, true
	for _, p := range held {
		total.Add(-int64(len(p.packet)))
	}
	return held
}

// reserve makes an SPI one that waits for its SA. The caller holds mu.
func (e *Engine) reserve(id ipsec.SAID) {
	e.larvals.set(id, &larval{since: time.Now()})
}

// release gives an SPI up that has got no SA. The caller holds mu.
func (e *Engine) release(id ipsec.SAID, l *larval) {
	e.larvals.set(id, nil)
	e.countersMu.Lock()
	defer e.countersMu.Unlock()
	e.retired.drops[reasonUnknownSPI].Add(uint64(len(l.end(&e.held))))
}

// replay receives what has waited for an SA.
func (e *Engine) replay(held []heldPacket) {
	if len(held) == 0 {
		return
	}
	in := e.newInbound()
	defer in.Close()
	for _, p := range held {
		in.ReceiveESP(&p.from, p.packet)
	}
	in.FlushESP()
}
