package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ipsec"
)

// gateway is an Engine on a loopback address with TUN interfaces that the test
// holds the other end of.
type gateway struct {
	*Engine
	mux    *udp.Mux
	outer  netip.AddrPort
	shared *tun.Channel
	tuns   map[string]*tun.Channel
}

// sharedName is the interface of what has no IfID.
const sharedName = "vpngw0"

// nextHost gives each gateway an address of its own in 127.0.0.0/8.
var nextHost atomic.Uint32

func newGateway(t testing.TB) *gateway {
	t.Helper()
	return newGatewayWith(t, 1, 1500)
}

// newGatewayWith is newGateway with a number of queues of the shared interface
// and a limit of outer packets, in octets.
func newGatewayWith(t testing.TB, queues, outerMTU int) *gateway {
	t.Helper()
	n := nextHost.Add(1)
	addr := netip.AddrFrom4([4]byte{127, 77, byte(n >> 8), byte(n)})
	const port = 14500
	g := &gateway{
		mux:   udp.New(udp.Options{NoRawESP: true, IKEPort: 10500, NATTPort: port}),
		outer: netip.AddrPortFrom(addr, port),
		tuns:  map[string]*tun.Channel{},
	}
	var err error
	g.Engine, err = New(Options{
		Mux: g.mux, Name: sharedName, Queues: queues, OuterMTU: outerMTU, Logger: slog.New(slog.DiscardHandler),
		OpenTUN: func(name string, queues, mtu int) (tun.Device, error) {
			c := tun.NewChannel(name, queues, 4096)
			g.tuns[name] = c
			return c, c.SetMTU(mtu)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	g.shared = g.tuns[sharedName]
	if err := g.mux.SetAddresses([]netip.Addr{addr}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		if err := g.mux.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

var (
	netA = netip.MustParsePrefix("10.1.0.0/24")
	netB = netip.MustParsePrefix("10.2.0.0/24")
	gcm  = ipsec.Encryption(ipsec.EncryptionAESGCM16, 128)
)

// oneWay returns an SA from one gateway to another, as the sender and as the
// receiver have it.
func oneWay(from, to *gateway, fromNet, toNet netip.Prefix, spi ipsec.SPI) (out, in ipsec.SA) {
	out = ipsec.SA{
		SPI: spi, Direction: ipsec.Out, Src: from.outer.Addr(), Dst: to.outer.Addr(),
		Encap: true, SrcPort: from.outer.Port(), DstPort: to.outer.Port(), ReqID: 1,
		Encryption: gcm, EncryptionKey: bytes.Repeat([]byte{byte(spi), 7}, 10),
		Local:  []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(fromNet)},
		Remote: []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(toNet)},
	}
	in = out
	in.Direction = ipsec.In
	in.Local, in.Remote = out.Remote, out.Local
	return out, in
}

func mustAdd(t testing.TB, g *gateway, list ...ipsec.SA) {
	t.Helper()
	for _, sa := range list {
		if err := g.AddSA(sa); err != nil {
			t.Fatal(err)
		}
	}
}

func outPolicy(local, remote netip.Prefix) ipsec.Policy {
	return ipsec.Policy{
		PolicyID: ipsec.PolicyID{
			Direction: ipsec.Out, Local: ipsec.SelectorFromPrefix(local), Remote: ipsec.SelectorFromPrefix(remote),
			Priority: ipsec.PriorityProtect,
		},
		Action: ipsec.Protect, ReqID: 1,
	}
}

func mustPolicy(t testing.TB, g *gateway, list ...ipsec.Policy) {
	t.Helper()
	for _, p := range list {
		if err := g.AddPolicy(p); err != nil {
			t.Fatal(err)
		}
	}
}

// tunnel joins two gateways with an SA in each direction: netA is behind a and
// netB behind b.
func tunnel(t testing.TB) (a, b *gateway) {
	t.Helper()
	a, b = newGateway(t), newGateway(t)
	out, in := oneWay(a, b, netA, netB, 0x1001)
	mustAdd(t, a, out)
	mustAdd(t, b, in)
	out, in = oneWay(b, a, netB, netA, 0x1002)
	mustAdd(t, b, out)
	mustAdd(t, a, in)
	mustPolicy(t, a, outPolicy(netA, netB))
	mustPolicy(t, b, outPolicy(netB, netA))
	return a, b
}

// udpPacket returns an IPv4 UDP packet; text is its payload.
func udpPacket(src, dst string, text []byte) []byte {
	p := make([]byte, 28+len(text))
	p[0] = 0x45
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[8], p[9] = 64, protocolUDP
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	copy(p[12:], s[:])
	copy(p[16:], d[:])
	binary.BigEndian.PutUint16(p[10:], checksum(0, p[:20]))
	binary.BigEndian.PutUint16(p[20:], 4000)
	binary.BigEndian.PutUint16(p[22:], 5000)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(text)))
	copy(p[28:], text)
	return p
}

const patience = time.Minute

// receive returns the next IP packet that comes out of a device.
func receive(t testing.TB, c *tun.Channel) []byte {
	t.Helper()
	select {
	case f := <-c.Received():
		return f[tun.HeaderLen:]
	case <-time.After(patience):
		t.Fatal("no packet came out")
		return nil
	}
}

// waitDrops waits until a gateway has dropped n packets for a reason.
func waitDrops(t testing.TB, g *gateway, why string, n uint64) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for g.Drops()[why] != n {
		if time.Now().After(deadline) {
			t.Fatalf("drops %v, want %d of %q", g.Drops(), n, why)
		}
		time.Sleep(time.Millisecond)
	}
}

func waitEvent(t testing.TB, g *gateway) ipsec.Event {
	t.Helper()
	select {
	case ev := <-g.Events():
		return ev
	case <-time.After(patience):
		t.Fatal("no event")
		return ipsec.Event{}
	}
}

func noEvent(t testing.TB, g *gateway) {
	t.Helper()
	select {
	case ev := <-g.Events():
		t.Fatalf("event %+v", ev)
	default:
	}
}

func TestPacketsPass(t *testing.T) {
	a, b := tunnel(t)
	for i := range 100 {
		p := udpPacket("10.1.0.7", "10.2.0.9", bytes.Repeat([]byte{byte(i)}, 13*i))
		a.shared.SendPacket(p)
		if got := receive(t, b.shared); !bytes.Equal(got, p) {
			t.Fatalf("packet %d: got %x, want %x", i, got, p)
		}
		p = udpPacket("10.2.0.9", "10.1.0.7", []byte(fmt.Sprint(i)))
		b.shared.SendPacket(p)
		if got := receive(t, a.shared); !bytes.Equal(got, p) {
			t.Fatalf("packet %d back: got %x, want %x", i, got, p)
		}
	}
	s, err := a.QuerySA(ipsec.SAID{Dst: b.outer.Addr(), SPI: 0x1001})
	if err != nil || s.Packets != 100 || s.Sequence != 100 || s.LastUsed.IsZero() {
		t.Errorf("outbound SA: %+v, %v", s, err)
	}
	s, err = a.QuerySA(ipsec.SAID{Dst: a.outer.Addr(), SPI: 0x1002})
	if err != nil || s.Packets != 100 || s.Sequence != 100 {
		t.Errorf("inbound SA: %+v, %v", s, err)
	}
}
