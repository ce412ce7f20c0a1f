package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/esp"
)

// TestRouteBased has two tunnels between the same gateways with the same
// selectors: the interface alone tells them apart.
func TestRouteBased(t *testing.T) {
	a, b := newGateway(t), newGateway(t)
	for _, g := range []*gateway{a, b} {
		if err := g.SetInterfaces([]ipsec.Interface{{IfID: 11, Name: "one"}, {IfID: 12, Name: "two", MTU: 1300}}); err != nil {
			t.Fatal(err)
		}
	}
	for i, ifID := range []uint32{11, 12} {
		out, in := oneWay(a, b, netA, netB, ipsec.SPI(0x1001+i))
		out.IfID, in.IfID, out.ReqID, in.ReqID = ifID, ifID, ifID, ifID
		mustAdd(t, a, out)
		mustAdd(t, b, in)
		p := outPolicy(netA, netB)
		p.IfID, p.ReqID = ifID, ifID
		mustPolicy(t, a, p)
	}
	for _, name := range []string{"one", "two"} {
		p := udpPacket("10.1.0.7", "10.2.0.9", []byte(name))
		a.tuns[name].SendPacket(p)
		if got := receive(t, b.tuns[name]); !bytes.Equal(got, p) {
			t.Errorf("%s: got %x", name, got)
		}
	}
	// The shared interface has no policy of theirs.
	a.shared.SendPacket(udpPacket("10.1.0.7", "10.2.0.9", nil))
	waitDrops(t, a, "no_policy", 1)

	if got := a.tuns["one"].MTU(); got != 1438 {
		t.Errorf("MTU from the real overhead: %d, want 1438", got)
	}
	if got := a.tuns["two"].MTU(); got != 1300 {
		t.Errorf("MTU as configured: %d, want 1300", got)
	}
}

// TestManyInterfacesAtOnce hands packets of more tunnels to one goroutine than it
// joins packets for at a time.
func TestManyInterfacesAtOnce(t *testing.T) {
	const n, rounds = 3*maxTouched + 1, 2
	g := newGateway(t)
	var wanted []ipsec.Interface
	for i := range n {
		wanted = append(wanted, ipsec.Interface{IfID: uint32(i + 1), Name: fmt.Sprintf("t%d", i+1)})
	}
	if err := g.SetInterfaces(wanted); err != nil {
		t.Fatal(err)
	}
	in := g.newInbound().(*inbound)
	from := &udp.Origin{Local: g.outer, Remote: g.outer, Encap: true}
	var sealers []*esp.Sealer
	for i := range n {
		out, sa := oneWay(g, g, netA, netB, ipsec.SPI(0x1001+i))
		sa.IfID, sa.ReqID = uint32(i+1), uint32(i+1)
		mustAdd(t, g, sa)
		sender, err := esp.NewOutbound(&out)
		if err != nil {
			t.Fatal(err)
		}
		sealers = append(sealers, sender.NewSealer())
	}
	inner := func(i, round int) []byte {
		p := udpPacket("10.1.0.7", "10.2.0.9", fmt.Appendf(nil, "%d %d", i, round))
		return append(make([]byte, 0, len(p)+esp.MaxTrailer), p...)
	}
	for round := range rounds {
		for i, s := range sealers {
			packet, err := s.Seal(nil, inner(i, round), protocolIPv4)
			if err != nil {
				t.Fatal(err)
			}
			in.ReceiveESP(from, packet)
		}
	}
	in.FlushESP()
	if len(in.joiners) != maxTouched || len(in.touched) != 0 {
		t.Errorf("%d joiners and %d interfaces touched after a flush, want %d and 0", len(in.joiners), len(in.touched), maxTouched)
	}
	for round := range rounds {
		for i := range n {
			if got := receive(t, g.tuns[wanted[i].Name]); !bytes.Equal(got, inner(i, round)) {
				t.Errorf("interface %d, round %d: got %x", i+1, round, got)
			}
		}
	}
}

func TestSetInterfaces(t *testing.T) {
	g := newGateway(t)
	one, two := ipsec.Interface{IfID: 1, Name: "one"}, ipsec.Interface{IfID: 2, Name: "two", MTU: 1400}
	if err := g.SetInterfaces([]ipsec.Interface{one, two}); err != nil {
		t.Fatal(err)
	}
	first, second := g.tuns["one"], g.tuns["two"]

	two.MTU = 1350
	renamed := ipsec.Interface{IfID: 3, Name: "three"}
	if err := g.SetInterfaces([]ipsec.Interface{two, renamed}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-first.Closed():
	default:
		t.Error("an interface that is not wanted is still there")
	}
	if g.tuns["two"] != second {
		t.Error("an interface that stays was made anew")
	}
	if second.MTU() != 1350 {
		t.Errorf("MTU %d, want 1350", second.MTU())
	}
	list, err := g.List()
	if err != nil || !slices.Equal(list.Interfaces, []ipsec.Interface{two, renamed}) {
		t.Errorf("list %+v, %v", list.Interfaces, err)
	}

	err = g.SetInterfaces([]ipsec.Interface{
		two,
		{IfID: 0, Name: "zero"},
		{IfID: 5, Name: "two"},
		{IfID: 2, Name: "again"},
		{IfID: 6, Name: sharedName},
		{IfID: 7},
		{IfID: 8, Name: "fine"},
	})
	for _, want := range []string{"IfID must not be zero", "interface two: the name is used twice", "IfID 2 is used twice", sharedName, "1 to 15 octets"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
	if g.tuns["fine"] == nil {
		t.Error("the faults of others kept an interface from being made")
	}
}

// TestAnswersAreLimitedApart has one interface use up its ICMP errors, which
// takes none from another.
func TestAnswersAreLimitedApart(t *testing.T) {
	a, b := newGateway(t), newGateway(t)
	if err := a.SetInterfaces([]ipsec.Interface{{IfID: 1, Name: "t1"}, {IfID: 2, Name: "t2"}}); err != nil {
		t.Fatal(err)
	}
	for id := uint32(1); id <= 2; id++ {
		out, _ := oneWay(a, b, netA, netB, ipsec.SPI(0x1000+id))
		out.IfID, out.ReqID = id, id
		mustAdd(t, a, out)
		p := outPolicy(netA, netB)
		p.IfID, p.ReqID = id, id
		mustPolicy(t, a, p)
	}
	long := ipv4(protocolUDP, "10.1.0.7", "10.2.0.9", 0x4000, make([]byte, 1460))
	const many = 4 * answersAtOnce
	for range many {
		a.tuns["t1"].SendPacket(long)
	}
	waitDrops(t, a, "too_big", many)
	if n := len(a.tuns["t1"].Received()); n < answersAtOnce || n >= many {
		t.Errorf("%d answers to %d packets", n, many)
	}
	a.tuns["t2"].SendPacket(long)
	receive(t, a.tuns["t2"])
}

func TestTablesGoWithTheirInterfaces(t *testing.T) {
	a := newGateway(t)
	p := outPolicy(netA, netB)
	for id := uint32(1); id <= 5; id++ {
		if err := a.SetInterfaces([]ipsec.Interface{{IfID: id, Name: "t"}}); err != nil {
			t.Fatal(err)
		}
	}
	p.IfID = 5
	mustPolicy(t, a, p)
	if err := a.SetInterfaces(nil); err != nil {
		t.Fatal(err)
	}
	if len(a.tables) != 2 {
		t.Errorf("%d tables, want those of the shared interface and of the policy", len(a.tables))
	}
	if err := a.DeletePolicy(p.PolicyID); err != nil {
		t.Fatal(err)
	}
	if len(a.tables) != 1 {
		t.Errorf("%d tables, want that of the shared interface", len(a.tables))
	}
}

func TestInterfaceThatCannotBeMade(t *testing.T) {
	g := newGateway(t)
	refuse := errors.New("refused")
	open := g.options.OpenTUN
	g.options.OpenTUN = func(name string, queues, mtu int) (tun.Device, error) {
		if name == "bad" {
			return nil, refuse
		}
		return open(name, queues, mtu)
	}
	err := g.SetInterfaces([]ipsec.Interface{{IfID: 1, Name: "bad"}, {IfID: 2, Name: "good"}})
	if !errors.Is(err, refuse) || !strings.Contains(err.Error(), "bad") {
		t.Errorf("error %v", err)
	}
	if list, err := g.List(); err != nil || len(list.Interfaces) != 1 || list.Interfaces[0].Name != "good" {
		t.Errorf("list %+v, %v", list, err)
	}
}

// brokenQueue fails as a queue does whose interface somebody has removed.
type brokenQueue struct{}

func (brokenQueue) Wait() error              { return nil }
func (brokenQueue) Read([]byte) (int, error) { return 0, errors.New("file descriptor in bad state") }

type brokenDevice struct{ *tun.Channel }

func (brokenDevice) Queues() []tun.Queue { return []tun.Queue{brokenQueue{}} }

func TestInterfaceRemovedByOthers(t *testing.T) {
	g := newGateway(t)
	open := g.options.OpenTUN
	times := 0
	g.options.OpenTUN = func(name string, queues, mtu int) (tun.Device, error) {
		dev, err := open(name, queues, mtu)
		if times++; times == 1 {
			return brokenDevice{dev.(*tun.Channel)}, err
		}
		return dev, err
	}
	if err := g.SetInterfaces([]ipsec.Interface{{IfID: 1, Name: "one"}}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for times != 2 || g.Snapshot().Interfaces[1].Broken {
		if time.Now().After(deadline) {
			t.Fatal("not made again")
		}
		time.Sleep(time.Millisecond)
		g.tick(time.Now())
	}
}

// TestCloseLeavesNothing checks that Close ends interfaces, SAs and use.
func TestCloseLeavesNothing(t *testing.T) {
	a, b := tunnel(t)
	if err := a.SetInterfaces([]ipsec.Interface{{IfID: 1, Name: "one"}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range a.tuns {
		select {
		case <-c.Closed():
		default:
			t.Errorf("interface %s is still there", name)
		}
	}
	if list, err := a.List(); err != nil || len(list.SAs) != 0 || len(list.Interfaces) != 0 {
		t.Errorf("list %+v, %v", list, err)
	}
	if err := a.SetInterfaces(nil); err == nil {
		t.Error("interfaces after Close: no error")
	}
	if err := a.AddSA(ipsec.SA{}); err == nil {
		t.Error("SA after Close: no error")
	}
	b.shared.SendPacket(udpPacket("10.2.0.9", "10.1.0.7", nil))
	waitDrops(t, a, "unknown_spi", 1)
}

func TestNewNeedsWhatItIsGiven(t *testing.T) {
	g := newGateway(t)
	_, err := New(Options{Mux: g.mux, Name: sharedName, OpenTUN: func(string, int, int) (tun.Device, error) {
		return nil, errors.New("no permission")
	}})
	if err == nil || !strings.Contains(err.Error(), "no permission") {
		t.Errorf("error %v", err)
	}
	if _, err := New(Options{}); err == nil {
		t.Error("without a Mux: no error")
	}
}
