package sslvpn

import (
	"bytes"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// arrival is what a datagramHandler was given.
type arrival struct {
	from    netip.AddrPort
	peerID  uint32 // of data
	packets [][]byte
	control bool
}

type arrivals chan arrival

func (a arrivals) control(from netip.AddrPort, packet []byte) {
	a <- arrival{from: from, packets: [][]byte{bytes.Clone(packet)}, control: true}
}

func (a arrivals) data(from netip.AddrPort, peerID uint32, packets [][]byte) {
	var copies [][]byte
	for _, p := range packets {
		if cap(p)-len(p) < tagLen {
			p = []byte("no room for a tag")
		}
		copies = append(copies, bytes.Clone(p))
	}
	a <- arrival{from: from, peerID: peerID, packets: copies}
}

func (a arrivals) next(t *testing.T) arrival {
	t.Helper()
	select {
	case got := <-a:
		return got
	case <-time.After(time.Minute):
		t.Fatal("nothing arrived")
		return arrival{}
	}
}

// udpSockets are the ways to open a socket: that of this system, and that of any.
var udpSockets = map[string]func(netip.AddrPort, datagramHandler, udpOptions) (udpSocket, error){
	"batched": openUDP, "plain": openPlainUDP,
}

func udpSocketOf(t *testing.T, kind string, h datagramHandler) udpSocket {
	t.Helper()
	s, err := udpSockets[kind](netip.MustParseAddrPort("127.0.0.1:0"), h, udpOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close() })
	return s
}

// TestUDPLink carries a super-packet to a far end that moves.
func TestUDPLink(t *testing.T) {
	for kind := range udpSockets {
		t.Run(kind, func(t *testing.T) { testUDPLink(t, kind) })
	}
}

func testUDPLink(t *testing.T, kind string) {
	var d drops
	here := udpSocketOf(t, kind, make(arrivals, 1000))
	got := make(arrivals, 1000)
	first, second := udpSocketOf(t, kind, got), udpSocketOf(t, kind, got)
	l, err := newUDPLink(here, first.local(), &d)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16")
	c.client.link = l
	o := newOutbound(p)
	for _, far := range []udpSocket{first, second} {
		if err := l.move(far.local()); err != nil {
			t.Fatal(err)
		}
		o.process(superPacket(host, "10.8.0.5", 60000, 1400))
		o.touched = append(o.touched, c.client)
		o.flush()
		for packets := 0; packets < 43; {
			a := got.next(t)
			if a.control || a.peerID != 7 || a.from != here.local() {
				t.Fatalf("%+v", a)
			}
			for _, packet := range a.packets {
				if _, _, why := c.key.openIn(packet); why != reasonNone {
					t.Fatal(why)
				}
				packets++
			}
		}
		if err := l.sendControl([]byte{0x20, 1, 2}); err != nil {
			t.Fatal(err)
		}
		if a := got.next(t); !a.control || !bytes.Equal(a.packets[0], []byte{0x20, 1, 2}) {
			t.Errorf("%+v", a)
		}
		if l.remote() != far.local() {
			t.Errorf("remote %s", l.remote())
		}
	}
	if err := l.move(netip.MustParseAddrPort("[::1]:1194")); err == nil {
		t.Error("moved to another family")
	}
	if l.remote() != second.local() {
		t.Errorf("a refused move has moved to %s", l.remote())
	}
}

// TestDatagramsAreSorted: packets of one client that come one behind the other
// stay together, and keep their order with all others.
func TestDatagramsAreSorted(t *testing.T) {
	got := make(arrivals, 100)
	d := &datagrams{handler: got}
	room := func(packet ...byte) []byte { return append(make([]byte, 0, 100), packet...) }
	v2 := func(peer byte) []byte { return room(0x48, 0, 0, peer, 0, 0, 0, 1) }
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")
	d.Receive(a, v2(1))
	d.Receive(a, v2(1))
	d.Receive(a, v2(2))
	d.Receive(b, v2(2))
	d.Receive(b, room(0x20, 9))
	d.Receive(b, room(0x30, 0, 0, 0, 1))
	d.Receive(b, room(0x48, 0, 0)) // cut short
	d.Receive(b, nil)
	d.Flush()
	d.Flush()
	for i, want := range []struct {
		from    netip.AddrPort
		peer    uint32
		packets int
		control bool
	}{{a, 1, 2, false}, {a, 2, 1, false}, {b, 2, 1, false}, {b, 0, 1, true}, {b, undefinedPeerID, 1, false}} {
		g := got.next(t)
		if g.from != want.from || g.peerID != want.peer || len(g.packets) != want.packets || g.control != want.control {
			t.Errorf("%d: %+v, want %+v", i, g, want)
		}
	}
	if len(got) != 0 {
		t.Errorf("%d more", len(got))
	}
}

func TestUDPSendTo(t *testing.T) {
	for kind := range udpSockets {
		got := make(arrivals, 10)
		here, there := udpSocketOf(t, kind, got), udpSocketOf(t, kind, got)
		if err := sendTo(here, there.local(), []byte{0x40, 1}); err != nil {
			t.Fatal(err)
		}
		if a := got.next(t); !a.control || a.from != here.local() {
			t.Errorf("%s: %+v", kind, a)
		}
		if err := sendTo(here, netip.AddrPort{}, []byte{0x40}); err == nil {
			t.Errorf("%s: sent to nowhere", kind)
		}
	}
}

// TestPlainUDPIsFenced: where the address must not be used, nothing leaves and
// nothing arrives.
func TestPlainUDPIsFenced(t *testing.T) {
	got := make(arrivals, 10)
	var open atomic.Bool
	s, err := openPlainUDP(netip.MustParseAddrPort("127.0.0.1:0"), got, udpOptions{guard: func(netip.Addr) bool { return open.Load() }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	far := udpSocketOf(t, "plain", got)
	if err := sendTo(s, far.local(), []byte{0x40, 1}); !errors.Is(err, errFenced) {
		t.Errorf("sent: %v", err)
	}
	if err := sendTo(far, s.local(), []byte{0x40, 2}); err != nil {
		t.Fatal(err)
	}
	open.Store(true)
	// What came before may be read now only, so it is said until something comes.
	wait(t, "a packet", func() bool {
		if err := sendTo(far, s.local(), []byte{0x40, 3}); err != nil {
			t.Fatal(err)
		}
		return len(got) > 0
	})
	if err := sendTo(s, far.local(), []byte{0x40, 4}); err != nil {
		t.Error(err)
	}
}
