//go:build !race

package sslvpn

import (
	"testing"

	"github.com/vpngw/vpngw/dataplane/tun"
)

// The race detector makes sync.Pool forget on purpose, so allocations are
// counted without it.

func TestSealAndOpenDoNotAllocate(t *testing.T) {
	for _, c := range ciphers {
		here, there := keyPair(t, c, 0, 1)
		packet := sequence(0, 1400)
		room := make([]byte, 0, here.sealedLen(len(packet))+tagLen)
		if n := testing.AllocsPerRun(100, func() {
			sealed, _, _ := here.sealTo(room, packet)
			if _, _, why := there.openIn(sealed); why != reasonNone {
				t.Fatal(why)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", c, n)
		}
	}
}

// TestDirectionsDoNotAllocate guards both loops.
func TestDirectionsDoNotAllocate(t *testing.T) {
	p, _ := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16")
	discard := &discardLink{}
	c.client.link = discard
	o := newOutbound(p)
	frame := superPacket(host, "10.8.0.5", 14000, 1400)
	work := make([]byte, len(frame))
	if n := testing.AllocsPerRun(100, func() {
		copy(work, frame)
		o.process(work)
		o.touched = append(o.touched, c.client)
		o.flush()
	}); n != 0 {
		t.Errorf("to the client: %v allocations", n)
	}
	packets := make([][]byte, 10)
	room := make([][]byte, 10)
	for i := range packets {
		packets[i] = ipUDP("10.8.0.5", host, 1200)
		room[i] = make([]byte, 0, 1500)
	}
	in := newInbound(p)
	in.joiner = tun.NewCoalescer(discardWriter{})
	p.inbounds.New = func() any { return in }
	if n := testing.AllocsPerRun(100, func() {
		for i := range packets {
			room[i], _, _ = c.key.sealTo(room[i][:0], packets[i])
		}
		if c.receive(room) != len(room) {
			t.Fatal(p.drops.snapshot())
		}
	}); n != 0 {
		t.Errorf("from the client: %v allocations", n)
	}
}
