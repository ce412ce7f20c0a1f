//go:build !race

package dataplane

import (
	"testing"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/dataplane/udp"
)

// The race detector makes sync.Pool forget on purpose, so allocations are
// counted without it.

// TestLoopsAllocateNothing covers the whole way of packets in both directions.
func TestLoopsAllocateNothing(t *testing.T) {
	out, in, g := loops(t)
	frames := map[string][]byte{
		"super-packet": superPacket(40000, 1386),
		"one packet":   append(make([]byte, tun.HeaderLen), udpPacket("10.1.0.7", "10.2.0.9", make([]byte, 64))...),
	}
	from := &udp.Origin{Local: g.outer, Remote: g.outer, Encap: true}
	for name, frame := range frames {
		if n := testing.AllocsPerRun(100, func() {
			out.process(out.frame[:copy(out.frame, frame)])
			out.flush()
		}); n != 0 {
			t.Errorf("%s out: %v allocations", name, n)
		}
		const runs = 100
		var batches [][][]byte
		for range runs + 1 {
			batches = append(batches, sealAll(t, out, frame))
		}
		at := 0
		if n := testing.AllocsPerRun(runs, func() {
			for _, p := range batches[at] {
				in.ReceiveESP(from, p)
			}
			in.FlushESP()
			at++
		}); n != 0 {
			t.Errorf("%s in: %v allocations", name, n)
		}
	}
	for why, n := range g.Drops() {
		t.Errorf("%d packets dropped for %q", n, why)
	}
}
