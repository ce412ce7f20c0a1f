package sslvpn

import (
	"bytes"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
)

// FuzzReceive gives a client's packets as they may come from anybody, and what
// only the client can have sealed: whatever it is, nothing but a packet of the
// client to a destination that it may reach comes out of the TUN.
func FuzzReceive(f *testing.F) {
	target := fuzztest.New(f)
	target.Add([]byte{0x48, 0, 0, 7, 0, 0, 0, 1}, ipUDP("10.8.0.5", host, 40), false)
	target.Add([]byte{0x30}, ipUDP("10.8.0.5", outside, 40), true)
	target.Add(bytes.Repeat([]byte{0x4f}, 60), append([]byte{0x50, 0}, ipUDP("10.8.0.9", host, 40)...), false)
	target.Add([]byte{}, pingPacket, false)
	target.Add([]byte{0}, append(bytes.Clone(occMagic), occExit), true)
	target.Add([]byte{0}, icmp(3, "10.8.0.5", "10.8.0.1", ipUDP("10.8.0.1", "10.8.0.5", 0)), true)
	target.Add([]byte{0x48}, ip6UDP("fd00:8::5", host6, 40), false)
	target.Add([]byte{0x48}, ip6(43, "fd00:8::5", host6, []byte{17, 0, 0, 1, 0, 0, 0, 0}), true)
	target.Add([]byte{0x48}, ip6(44, "fd00:8::5", host6, []byte{17, 0, 0, 9, 0, 0, 0, 0}), true)
	p, dev := newTestPlane(f, planeOptions{pool6: testPool6})
	c := p.testPeer(f, "10.8.0.5", "10.1.0.0/16", "2001:db8:1::/48")
	target.Fuzz(func(t *testing.T, raw, inner []byte, framed bool) {
		c.framing = framingNone
		if framed {
			c.framing = framingCompLZO
		}
		c.key.seal.packetID, c.key.seal.blocks = 0, 0
		c.keys[0].window, c.keys[0].open.blocks, c.keys[0].forgeries = replayWindow{}, 0, 0
		packets := [][]byte{bytes.Clone(raw)}
		if len(inner) > 0 {
			packets = append(packets, mustSeal(t, c.key, inner))
		}
		if n := c.receive(packets); n != len(packets)-1 {
			t.Fatalf("%d authentic packets of %d", n, len(packets)-1)
		}
		for got := received(dev); got != nil; got = received(dev) {
			var h innerHeader
			if why := h.parse(got); why != reasonNone || h.length != len(got) {
				t.Fatalf("the TUN got %x: %s", got, why)
			}
			toServer := p.isServer(h.dst) && h.echoOrError(got)
			if !c.has(h.src) || h.routed || !toServer && !c.access.Load().contains(h.dst) {
				t.Fatalf("the TUN got %x", got)
			}
			if !bytes.Contains(inner, got[20:]) {
				t.Fatalf("the TUN got %x, which was not sent", got)
			}
		}
	})
}
