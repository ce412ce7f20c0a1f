//go:build !race

package dataplane

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ipsec"
)

// The race detector makes sync.Pool forget on purpose, so allocations are
// counted without it.

// TestLoopsAllocateNothing covers the whole way of packets in both directions.
func TestLoopsAllocateNothing(t *testing.T) {
	out, in, g := loops(t)
	limit := ipsec.Bandwidth{Name: "far above", Addresses: []netip.Addr{g.outer.Addr()}, Mbps: 1e6}
	if err := g.SetBandwidths([]ipsec.Bandwidth{limit}); err != nil {
		t.Fatal(err)
	}
	frames := map[string][]byte{
		"super-packet": superPacket(40000, 1386),
		"one packet":   append(make([]byte, tun.HeaderLen), udpPacket("10.1.0.7", "10.2.0.9", make([]byte, 64))...),
	}
	from := &udp.Origin{Local: g.outer, Remote: g.outer, Encap: true}
	for name, frame := range frames {
		if n := testing.AllocsPerRun(100, func() {
			out.process(out.frames[:copy(out.frames, frame)])
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

// TestFragmentsAreNotKept floods both ways with fragments that never become whole
// packets: they pass like others, and nothing of them stays.
func TestFragmentsAreNotKept(t *testing.T) {
	out, in, g := loops(t)
	from := &udp.Origin{Local: g.outer, Remote: g.outer, Encap: true}
	var frame []byte
	fragment := func(i int) {
		p := udpPacket("10.1.0.7", "10.2.0.9", make([]byte, 64))
		p[4], p[5] = byte(i>>8), byte(i)
		p[6], p[7] = 0x20, byte(i%3) // more to come, at one of three places
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], checksum(0, p[:20]))
		frame = append(make([]byte, tun.HeaderLen), p...)
	}
	const runs = 5000
	var frames, sealed [][]byte
	for i := range runs + 1 {
		fragment(i)
		frames = append(frames, frame)
		sealed = append(sealed, sealAll(t, out, frame)...)
	}
	at := 0
	if n := testing.AllocsPerRun(runs, func() {
		out.process(out.frames[:copy(out.frames, frames[at])])
		out.flush()
		in.ReceiveESP(from, sealed[at])
		in.FlushESP()
		at++
	}); n != 0 {
		t.Errorf("%v allocations for a fragment", n)
	}
	for why, n := range g.Drops() {
		t.Errorf("%d packets dropped for %q", n, why)
	}
}
