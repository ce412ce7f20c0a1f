package dataplane

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ipsec"
)

// TestBandwidth sends far more than a limit lets pass, both ways.
func TestBandwidth(t *testing.T) {
	out, in, g := loops(t)
	limit := []ipsec.Bandwidth{{Name: "eip", Addresses: []netip.Addr{g.outer.Addr()}, Mbps: 1}}
	if err := g.SetBandwidths(limit); err != nil {
		t.Fatal(err)
	}
	from := &udp.Origin{Local: g.outer, Remote: g.outer, Encap: true}
	frame := append(make([]byte, tun.HeaderLen), udpPacket("10.1.0.7", "10.2.0.9", make([]byte, 1000))...)
	send := func(packets int) {
		for range packets {
			out.process(out.frames[:copy(out.frames, frame)])
			out.flush()
		}
	}
	// What is to come in is sealed while nothing limits it.
	if err := g.SetBandwidths(nil); err != nil {
		t.Fatal(err)
	}
	const packets = 2000 // which a megabit a second lets pass in 16 seconds
	var sealed [][]byte
	for range packets {
		sealed = append(sealed, sealAll(t, out, frame)...)
	}
	if n := g.Drops()["bandwidth"]; n != 0 {
		t.Fatalf("%d packets dropped without a limit", n)
	}
	if err := g.SetBandwidths(limit); err != nil {
		t.Fatal(err)
	}
	outbound, inbound := ipsec.SAID{}, ipsec.SAID{}
	for id, a := range g.sas {
		if a.out != nil {
			outbound = id
		} else {
			inbound = id
		}
	}
	count := func(id ipsec.SAID) (passed, dropped uint64) {
		s, err := g.QuerySA(id)
		if err != nil {
			t.Fatal(err)
		}
		return s.Packets, s.Drops["bandwidth"]
	}
	before, _ := count(outbound)
	send(packets)
	passed, dropped := count(outbound)
	if passed -= before; passed == 0 || dropped == 0 || passed+dropped != packets {
		t.Errorf("out: %d passed, %d dropped of %d", passed, dropped, packets)
	}
	for _, p := range sealed {
		in.ReceiveESP(from, p)
	}
	in.FlushESP()
	opened, droppedIn := count(inbound)
	if opened != packets || droppedIn == 0 || droppedIn >= packets {
		t.Errorf("in: %d opened, %d dropped of %d", opened, droppedIn, packets)
	}
	if n := g.Drops()["bandwidth"]; n != dropped+droppedIn {
		t.Errorf("%d drops counted, of the SAs %d", n, dropped+droppedIn)
	}

	if err := g.SetBandwidths(nil); err != nil {
		t.Fatal(err)
	}
	send(packets)
	if _, again := count(outbound); again != dropped {
		t.Errorf("%d dropped after the limit went", again-dropped)
	}
}

// TestSetBandwidths: what stays keeps its account, addresses share one, and an
// SA that moves goes over to the limit of its address.
func TestSetBandwidths(t *testing.T) {
	a, b := newGateway(t), newGateway(t)
	out, _ := oneWay(a, b, netA, netB, 0x1001)
	mustAdd(t, a, out)
	here, other := a.outer.Addr(), netip.MustParseAddr("127.77.255.1")
	set := func(list ...ipsec.Bandwidth) {
		t.Helper()
		if err := a.SetBandwidths(list); err != nil {
			t.Fatal(err)
		}
	}
	sa := a.sas[out.ID()]
	set(ipsec.Bandwidth{Name: "one", Addresses: []netip.Addr{here, other}, Mbps: 5})
	first := sa.limit.Load()
	if first == nil || a.limited[other] != first {
		t.Fatal("the addresses do not share a limit")
	}
	set(ipsec.Bandwidth{Name: "one", Addresses: []netip.Addr{here}, Mbps: 7}, ipsec.Bandwidth{Name: "two", Addresses: []netip.Addr{other}, Mbps: 9})
	if sa.limit.Load() != first {
		t.Error("the limit that stays is another")
	}
	if err := a.UpdateSA(out.ID(), ipsec.SAUpdate{Src: other, Dst: out.Dst, Encap: true, SrcPort: out.SrcPort, DstPort: out.DstPort}); err != nil {
		t.Fatal(err)
	}
	if sa.limit.Load() != a.limited[other] || sa.limit.Load() == first {
		t.Error("an SA that moved has not the limit of its address")
	}
	for _, tt := range []struct {
		name string
		list []ipsec.Bandwidth
		want string
	}{
		{"none", []ipsec.Bandwidth{{Name: "x"}}, "0 Mbit/s: must be at least 1"},
		{"a name twice", []ipsec.Bandwidth{{Name: "x", Mbps: 1}, {Name: "x", Mbps: 1}}, "used twice"},
		{"an address twice", []ipsec.Bandwidth{{Name: "x", Mbps: 1, Addresses: []netip.Addr{here}}, {Name: "y", Mbps: 1, Addresses: []netip.Addr{here}}}, "has one already"},
	} {
		if err := a.SetBandwidths(tt.list); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if sa.limit.Load() != a.limited[other] || a.limited[here] != first {
		t.Error("a refused list has changed the limits")
	}
	set()
	if sa.limit.Load() != nil {
		t.Error("a limit that went still holds")
	}
}
