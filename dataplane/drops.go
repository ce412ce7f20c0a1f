package dataplane

import (
	"sync/atomic"

	"github.com/vpngw/vpngw/ipsec/esp"
)

// reason says why a packet was dropped. Those of package esp come first.
type reason uint8

const (
	reasonMalformed = reason(esp.DropCount) + iota
	reasonNoPolicy
	reasonDiscard
	reasonNoSA
	reasonUnknownSPI
	reasonSelectors
	reasonNextHeader
	reasonNoInterface
	reasonTooBig
	reasonLoop
	reasonECN
	reasonBandwidth
	reasonSend
	reasonWrite
	reasonQueueFull
	reasonCount
)

// reasonNames are the words of Engine.Drops beside those of esp.Drop.
var reasonNames = [reasonCount]string{
	reasonMalformed:   "malformed",    // an inner packet whose headers contradict themselves
	reasonNoPolicy:    "no_policy",    // out: no policy covers it
	reasonDiscard:     "discard",      // out: a discard policy covers it
	reasonNoSA:        "no_sa",        // out: its policy has no SA at present
	reasonUnknownSPI:  "unknown_spi",  // in: no SA with this SPI and destination
	reasonSelectors:   "selectors",    // in: outside of its SA's traffic selectors
	reasonNextHeader:  "next_header",  // in: neither IPv4 nor IPv6 in tunnel mode
	reasonNoInterface: "no_interface", // in: its tunnel has no interface
	reasonTooBig:      "too_big",      // out: does not fit and must not be fragmented
	reasonLoop:        "loop",         // out: a packet of the tunnel itself, routed into it
	reasonECN:         "ecn",          // in: congestion mark on a packet that cannot carry it
	reasonBandwidth:   "bandwidth",    // above what the local address may carry
	reasonSend:        "send",         // out: refused by the socket
	reasonWrite:       "write",        // in: refused by the interface
	reasonQueueFull:   "queue_full",   // out: the interface's queue had no room
}

// String returns the word for metrics.
func (r reason) String() string {
	if r < reason(esp.DropCount) {
		return esp.Drop(r).Reason()
	}
	return reasonNames[r]
}

// counters count one goroutine's drops.
type counters struct {
	drops [reasonCount]atomic.Uint64
}

func (c *counters) drop(r reason) { c.drops[r].Add(1) }

func (c *counters) addTo(sum map[string]uint64) {
	for r := range c.drops {
		if n := c.drops[r].Load(); n != 0 {
			sum[reason(r).String()] += n
		}
	}
}

// newCounters registers counters for one more goroutine.
func (e *Engine) newCounters() *counters {
	c := &counters{}
	e.countersMu.Lock()
	defer e.countersMu.Unlock()
	e.counters[c] = struct{}{}
	return c
}

// retire keeps what a goroutine that ends has counted.
func (e *Engine) retire(c *counters) {
	e.countersMu.Lock()
	defer e.countersMu.Unlock()
	delete(e.counters, c)
	for r := range c.drops {
		e.retired.drops[r].Add(c.drops[r].Load())
	}
}

// Drops returns the packets dropped since New, by reason. The reasons are
// those of esp.Drop and of reasonNames; docs/operations.md explains each.
func (e *Engine) Drops() map[string]uint64 {
	sum := map[string]uint64{}
	e.countersMu.Lock()
	defer e.countersMu.Unlock()
	e.retired.addTo(sum)
	for _, d := range *e.deviceMap.Load() {
		if n := d.overruns(); n != 0 && !d.retired {
			sum[reasonQueueFull.String()] += n
		}
	}
	for c := range e.counters {
		c.addTo(sum)
	}
	return sum
}
