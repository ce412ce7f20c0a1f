package dataplane

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/esp"
)

// peer is an ESP end of its own: what it sends is made by package esp alone.
type peer struct {
	t      *testing.T
	to     *gateway
	conn   *net.UDPConn
	sealer *esp.Sealer
}

// newPeer installs an inbound SA on a gateway and returns who sends on it.
func newPeer(t *testing.T, to *gateway, change func(sa *ipsec.SA)) (*peer, ipsec.SA) {
	t.Helper()
	conn := listen(t)
	from := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	sa := ipsec.SA{
		SPI: 0x3001, Direction: ipsec.In, Src: from.Addr(), Dst: to.outer.Addr(),
		Encap: true, SrcPort: from.Port(), DstPort: to.outer.Port(), ReqID: 5,
		Encryption: gcm, EncryptionKey: bytes.Repeat([]byte{9}, 20),
		Local:  []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(netA)},
		Remote: []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(netB)},
	}
	if change != nil {
		change(&sa)
	}
	mustAdd(t, to, sa)
	out, err := esp.NewOutbound(&sa)
	if err != nil {
		t.Fatal(err)
	}
	return &peer{t, to, conn, out.NewSealer()}, sa
}

func listen(t *testing.T) *net.UDPConn {
	t.Helper()
	n := nextHost.Add(1)
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 77, byte(n>>8), byte(n))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// seal returns the ESP packet of an inner one.
func (p *peer) seal(inner []byte, next uint8) []byte {
	p.t.Helper()
	sealed, err := p.sealer.Seal(nil, append(make([]byte, 0, len(inner)+esp.MaxTrailer), inner...), next)
	if err != nil {
		p.t.Fatal(err)
	}
	return sealed
}

func (p *peer) write(packet []byte) { p.writeFrom(p.conn, packet) }

func (p *peer) writeFrom(conn *net.UDPConn, packet []byte) {
	p.t.Helper()
	if _, err := conn.WriteToUDPAddrPort(packet, p.to.outer); err != nil {
		p.t.Fatal(err)
	}
}

func TestInboundDrops(t *testing.T) {
	g := newGateway(t)
	p, sa := newPeer(t, g, nil)
	other := sa
	other.SPI, other.IfID = 0x3002, 99 // no such interface
	mustAdd(t, g, other)
	lost, err := esp.NewOutbound(&other)
	if err != nil {
		t.Fatal(err)
	}
	good := udpPacket("10.2.0.9", "10.1.0.7", []byte("hello"))
	replayed := p.seal(good, protocolIPv4)
	tampered := p.seal(good, protocolIPv4)
	tampered[20] ^= 1
	unknown := p.seal(good, protocolIPv4)
	unknown[0] ^= 0x80
	orphan, err := lost.NewSealer().Seal(nil, append(make([]byte, 0, 100), good...), protocolIPv4)
	if err != nil {
		t.Fatal(err)
	}

	p.write(replayed)
	if got := receive(t, g.shared); !bytes.Equal(got, good) {
		t.Fatalf("got %x", got)
	}
	tests := []struct {
		name   string
		packet []byte
		drop   string
	}{
		{"replayed", replayed, "replay"},
		{"tampered", tampered, "integrity"},
		{"unknown SPI", unknown, "unknown_spi"},
		{"from an address outside", p.seal(udpPacket("10.3.0.9", "10.1.0.7", nil), protocolIPv4), "selectors"},
		{"to an address outside", p.seal(udpPacket("10.2.0.9", "10.3.0.7", nil), protocolIPv4), "selectors"},
		{"no IP", p.seal([]byte("not a packet, but long enough"), protocolIPv4), "malformed"},
		{"IPv4 said to be IPv6", p.seal(good, protocolIPv6), "malformed"},
		{"transport mode", p.seal(good[20:], protocolUDP), "next_header"},
		{"dummy", p.seal(good, 59), "dummy"},
		{"no interface", orphan, "no_interface"},
		{"too short", sealShort(), "truncated"},
	}
	seen := map[string]uint64{}
	for _, tt := range tests {
		p.write(tt.packet)
		seen[tt.drop]++
		waitDrops(t, g, tt.drop, seen[tt.drop])
	}
	state, err := g.QuerySA(sa.ID())
	if err != nil {
		t.Fatal(err)
	}
	for _, why := range []string{"replay", "integrity", "selectors", "malformed", "next_header", "dummy", "truncated"} {
		if state.Drops[why] != seen[why] {
			t.Errorf("the SA counts %d of %q, want %d", state.Drops[why], why, seen[why])
		}
	}
	// All that was no fault of the tunnel, which goes on.
	p.write(p.seal(good, protocolIPv4))
	receive(t, g.shared)
	select {
	case f := <-g.shared.Received():
		t.Errorf("a packet too many: %x", f)
	default:
	}
}

// sealShort is an ESP packet of the test SA that has no room for an ICV.
func sealShort() []byte { return []byte{0, 0, 0x30, 0x01, 0, 0, 1, 0, 1, 2, 3, 4} }

func TestTrafficFlowPadding(t *testing.T) {
	g := newGateway(t)
	p, _ := newPeer(t, g, nil)
	good := udpPacket("10.2.0.9", "10.1.0.7", []byte("hello"))
	p.write(p.seal(append(bytes.Clone(good), make([]byte, 500)...), protocolIPv4))
	if got := receive(t, g.shared); !bytes.Equal(got, good) {
		t.Errorf("got %d octets, want %d", len(got), len(good))
	}
}

func TestMoved(t *testing.T) {
	g := newGateway(t)
	p, sa := newPeer(t, g, nil)
	good := udpPacket("10.2.0.9", "10.1.0.7", []byte("hello"))
	send := func(conn *net.UDPConn, packet []byte) {
		p.writeFrom(conn, packet)
		receive(t, g.shared)
	}
	send(p.conn, p.seal(good, protocolIPv4))
	noEvent(t, g)

	elsewhere := listen(t)
	late := p.seal(good, protocolIPv4)
	send(p.conn, p.seal(good, protocolIPv4))

	// Not authentic, replayed or late: no report.
	forged := p.seal(good, protocolIPv4)
	forged[30] ^= 1
	p.writeFrom(elsewhere, forged)
	waitDrops(t, g, "integrity", 1)
	send(elsewhere, late)
	p.writeFrom(elsewhere, late)
	waitDrops(t, g, "replay", 1)
	noEvent(t, g)

	// The newest packet: a report, and not one for each packet.
	for range 10 {
		send(elsewhere, p.seal(good, protocolIPv4))
	}
	from := elsewhere.LocalAddr().(*net.UDPAddr).AddrPort()
	if ev := waitEvent(t, g); ev.Kind != ipsec.EventMoved || ev.SA != sa.ID() || ev.From != from || ev.ReqID != 5 {
		t.Errorf("event %+v", ev)
	}
	noEvent(t, g)

	// Once the key exchange has followed, nothing is new any more.
	err := g.UpdateSA(sa.ID(), ipsec.SAUpdate{
		Src: from.Addr(), Dst: sa.Dst, Encap: true, SrcPort: from.Port(), DstPort: sa.DstPort,
	})
	if err != nil {
		t.Fatal(err)
	}
	send(elsewhere, p.seal(good, protocolIPv4))
	noEvent(t, g)
	// And back again is a move, too, without a pause.
	send(p.conn, p.seal(good, protocolIPv4))
	if ev := waitEvent(t, g); ev.Kind != ipsec.EventMoved || ev.From != p.conn.LocalAddr().(*net.UDPAddr).AddrPort() {
		t.Errorf("event %+v", ev)
	}
}

// TestMovedNeedsEncapsulation: ESP in UDP on an SA without it says nothing of
// ports.
func TestMovedNeedsEncapsulation(t *testing.T) {
	g := newGateway(t)
	p, _ := newPeer(t, g, func(sa *ipsec.SA) { sa.Encap, sa.SrcPort, sa.DstPort = false, 0, 0 })
	p.write(p.seal(udpPacket("10.2.0.9", "10.1.0.7", nil), protocolIPv4))
	receive(t, g.shared)
	noEvent(t, g)
}

func TestInboundIPv6(t *testing.T) {
	g := newGateway(t)
	p, _ := newPeer(t, g, func(sa *ipsec.SA) {
		sa.Local = []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(netip.MustParsePrefix("2001:db8:1::/48"))}
		sa.Remote = []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(netip.MustParsePrefix("2001:db8:2::/48"))}
	})
	good := ipv6(protocolUDP, "2001:db8:2::9", "2001:db8:1::7", make([]byte, 20))
	p.write(p.seal(good, protocolIPv6))
	if got := receive(t, g.shared); !bytes.Equal(got, good) {
		t.Errorf("got %x", got)
	}
	p.write(p.seal(udpPacket("10.2.0.9", "10.1.0.7", nil), protocolIPv4))
	waitDrops(t, g, "selectors", 1)
}

// TestUpdateMovesOutbound: an outbound SA goes by the peer's new address.
func TestUpdateMovesOutbound(t *testing.T) {
	a := newGateway(t)
	first, second := listen(t), listen(t)
	to := func(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }
	sa := ipsec.SA{
		SPI: 0x4001, Direction: ipsec.Out, Src: a.outer.Addr(), Dst: to(first).Addr(), Encap: true,
		SrcPort: a.outer.Port(), DstPort: to(first).Port(), ReqID: 1,
		Encryption: gcm, EncryptionKey: make([]byte, 20),
	}
	mustAdd(t, a, sa)
	mustPolicy(t, a, outPolicy(netA, netB))
	expect := func(c *net.UDPConn, sequence byte) {
		t.Helper()
		a.shared.SendPacket(udpPacket("10.1.0.7", "10.2.0.9", nil))
		buf := make([]byte, 2000)
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil || from != a.outer || n < 8 || buf[7] != sequence {
			t.Fatalf("%d octets from %s: %x, %v", n, from, buf[:8], err)
		}
	}
	expect(first, 1)
	err := a.UpdateSA(sa.ID(), ipsec.SAUpdate{
		Src: sa.Src, Dst: to(second).Addr(), Encap: true, SrcPort: sa.SrcPort, DstPort: to(second).Port(),
	})
	if err != nil {
		t.Fatal(err)
	}
	expect(second, 2)
	if _, err := a.QuerySA(sa.ID()); err == nil {
		t.Error("still known by the old address")
	}
	if s, err := a.QuerySA(ipsec.SAID{Dst: to(second).Addr(), SPI: sa.SPI}); err != nil || s.Packets != 2 {
		t.Errorf("state %+v, %v", s, err)
	}
}
