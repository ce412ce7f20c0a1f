package dataplane

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/esp"
)

// TestPacketsWaitForTheirSA: what comes between the allocation of an SPI and its SA
// is received then, as far as there is room.
func TestPacketsWaitForTheirSA(t *testing.T) {
	g := newGateway(t)
	_, sa := newPeer(t, g, nil)
	var err error
	if sa.SPI, err = g.AllocSPI(g.outer.Addr()); err != nil {
		t.Fatal(err)
	}
	out, err := esp.NewOutbound(&sa)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, sealer: out.NewSealer()}
	in := g.newInbound()
	from := &udp.Origin{Local: g.outer, Remote: g.outer, Encap: true}
	inner := func(i int) []byte { return udpPacket("10.2.0.9", "10.1.0.7", fmt.Appendf(nil, "packet %03d", i)) }
	const sent = maxHeldPackets + 3
	for i := range sent {
		in.ReceiveESP(from, p.seal(inner(i), protocolIPv4))
	}
	in.FlushESP()
	waitDrops(t, g, "unknown_spi", 3)
	mustAdd(t, g, sa)
	for got, i := received(t, g), 0; i < maxHeldPackets; i++ {
		if !bytes.Contains(got(), fmt.Appendf(nil, "packet %03d", i)) {
			t.Fatalf("packet %d is not the next one", i)
		}
	}
	if n := g.held.Load(); n != 0 {
		t.Errorf("%d octets still wait", n)
	}
	in.ReceiveESP(from, p.seal(inner(sent), protocolIPv4))
	in.FlushESP()
	if !bytes.Contains(receive(t, g.shared), fmt.Appendf(nil, "packet %03d", sent)) {
		t.Error("what comes later is lost")
	}
}

// received returns a function that returns the next inner packet. Neighbours of a
// flow leave the gateway joined.
func received(t *testing.T, g *gateway) func() []byte {
	var rest []byte
	const size = len("packet 000")
	return func() []byte {
		if len(rest) < size {
			rest = receive(t, g.shared)[28:]
		}
		next := rest[:size]
		rest = rest[size:]
		return next
	}
}

// TestWaitingPacketsAreBounded: an SPI that gets no SA gives back what waited for it,
// and all of them together have a limit.
func TestWaitingPacketsAreBounded(t *testing.T) {
	g := newGateway(t)
	in := g.newInbound()
	from := &udp.Origin{Local: g.outer, Remote: g.outer, Encap: true}
	const size = 60000
	var sent uint64
	for sent < 2*maxHeldOctets/size {
		spi, err := g.AllocSPI(g.outer.Addr())
		if err != nil {
			t.Fatal(err)
		}
		packet := make([]byte, size)
		packet[0], packet[1], packet[2], packet[3] = byte(spi>>24), byte(spi>>16), byte(spi>>8), byte(spi)
		in.ReceiveESP(from, packet)
		sent++
	}
	if n := g.held.Load(); n > maxHeldOctets || n < maxHeldOctets-size {
		t.Errorf("%d octets wait, at most %d may", n, maxHeldOctets)
	}
	g.tick(time.Now().Add(reservation))
	if n := g.held.Load(); n != 0 {
		t.Errorf("%d octets still wait", n)
	}
	if n := g.Drops()["unknown_spi"]; n != sent {
		t.Errorf("%d packets are counted as dropped, want %d", n, sent)
	}
	if err := g.AddSA(ipsec.SA{}); err == nil {
		t.Error("an SA without anything is taken")
	}
}
