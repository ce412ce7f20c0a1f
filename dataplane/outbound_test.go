package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/esp"
)

// superPacket returns the frame that the kernel hands over for n octets of one
// TCP flow, to be cut into packets of size payload octets.
func superPacket(n, size int) []byte {
	payload := make([]byte, n)
	for i := range payload {
		payload[i] = byte(i * 5)
	}
	packet := ipv4(protocolTCP, "10.1.0.7", "10.2.0.9", 0x4000, append(tcp(0x10, nil), payload...))
	// The field holds the sum of the pseudo-header.
	pseudo := append(bytes.Clone(packet[12:20]), 0, protocolTCP, byte((len(packet)-20)>>8), byte(len(packet)-20))
	binary.BigEndian.PutUint16(packet[20+16:], ^checksum(0, pseudo))
	frame := make([]byte, tun.HeaderLen)
	frame[0], frame[1] = 1, 1 // checksum needed, TCP over IPv4
	binary.NativeEndian.PutUint16(frame[2:], 40)
	binary.NativeEndian.PutUint16(frame[4:], uint16(size))
	binary.NativeEndian.PutUint16(frame[6:], 20)
	binary.NativeEndian.PutUint16(frame[8:], 16)
	return append(frame, packet...)
}

// TestSuperPackets sends 60,000 octets in one frame: at the other end the same
// octets come out, in few frames.
func TestSuperPackets(t *testing.T) {
	a, b := tunnel(t)
	const n, size = 60000, 1300
	in := superPacket(n, size)
	a.shared.Send(0, in)
	var payload []byte
	frames := 0
	for len(payload) < n {
		f := <-b.shared.Received()
		frames++
		var s tun.Segments
		if err := s.Reset(f); err != nil {
			t.Fatal(err)
		}
		for p := s.Next(); p != nil; p = s.Next() {
			if tcpSum(p) != 0 || checksum(0, p[:20]) != 0 {
				t.Fatal("checksum wrong")
			}
			payload = append(payload, p[40:]...)
		}
	}
	if !bytes.Equal(payload, in[tun.HeaderLen+40:]) {
		t.Error("the octets differ")
	}
	if frames > 10 {
		t.Errorf("%d frames for 47 packets: nothing was joined", frames)
	}
}

func TestPolicyChoice(t *testing.T) {
	a, b := tunnel(t)
	secret := outPolicy(netip.MustParsePrefix("10.1.0.0/28"), netB)
	secret.Action, secret.ReqID, secret.Priority = ipsec.Discard, 0, ipsec.PriorityProtect-1
	below := outPolicy(netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.0.0.0/8"))
	below.Action, below.ReqID, below.Priority = ipsec.Discard, 0, ipsec.PriorityDiscard
	web := outPolicy(netip.MustParsePrefix("10.1.9.0/24"), netB)
	web.Local.Protocol, web.Remote.Protocol = protocolTCP, protocolTCP
	web.Remote.StartPort, web.Remote.EndPort = 443, 443
	mustPolicy(t, a, below, secret, web)

	drops := map[string]uint64{}
	for _, tt := range []struct {
		name, src, dst string
		protocol       uint8
		flags          uint16
		drop           string
	}{
		{"protected", "10.1.0.77", "10.2.0.1", protocolUDP, 0, ""},
		{"a discard policy above", "10.1.0.3", "10.2.0.1", protocolUDP, 0, "discard"},
		{"the discard policy below", "10.1.0.77", "10.3.0.1", protocolUDP, 0, "discard"},
		{"no policy", "10.1.0.77", "192.0.2.1", protocolUDP, 0, "no_policy"},
		{"another protocol", "10.1.9.1", "10.2.0.1", protocolUDP, 0, "discard"},
		{"a fragment without ports", "10.1.9.1", "10.2.0.1", protocolTCP, 8, "discard"},
	} {
		a.shared.SendPacket(ipv4(tt.protocol, tt.src, tt.dst, tt.flags, make([]byte, 40)))
		if tt.drop == "" {
			receive(t, b.shared)
			continue
		}
		drops[tt.drop]++
		waitDrops(t, a, tt.drop, drops[tt.drop])
	}
	// The port of the limited policy passes here; the other end's SA is narrower.
	a.shared.SendPacket(withTCPSum(ipv4(protocolTCP, "10.1.9.1", "10.2.0.1", 0, tcp(0x10, nil))))
	waitDrops(t, b, "selectors", 1)

	if err := a.DeletePolicy(secret.PolicyID); err != nil {
		t.Fatal(err)
	}
	a.shared.SendPacket(udpPacket("10.1.0.3", "10.2.0.1", []byte("free")))
	receive(t, b.shared)
}

func TestBypassIsRefused(t *testing.T) {
	a := newGateway(t)
	p := outPolicy(netA, netB)
	p.Action = ipsec.Bypass
	if err := a.AddPolicy(p); err == nil {
		t.Error("accepted")
	}
}

func TestLongPackets(t *testing.T) {
	a, b := tunnel(t)
	var limit int
	for _, sa := range a.Snapshot().SAs {
		if sa.SA.Direction == ipsec.Out {
			limit = sa.MaxInner
		}
	}
	// 1,500 less IPv4, UDP, SPI and sequence number, IV and ICV is 1,440: a
	// multiple of 4, of which pad length and next header take two octets.
	if limit != 1438 {
		t.Fatalf("largest inner packet %d, want 1438", limit)
	}

	whole := udpPacket("10.1.0.7", "10.2.0.9", make([]byte, limit-28))
	a.shared.SendPacket(whole)
	if got := receive(t, b.shared); !bytes.Equal(got, whole) {
		t.Error("a packet that just fits was changed")
	}

	long := udpPacket("10.1.0.7", "10.2.0.9", bytes.Repeat([]byte("abc"), 1000))
	a.shared.SendPacket(long)
	var joined []byte
	for len(joined) < len(long)-20 {
		p := receive(t, b.shared)
		if len(p) > limit {
			t.Fatalf("fragment of %d octets", len(p))
		}
		joined = append(joined, p[20:]...)
	}
	if !bytes.Equal(joined, long[20:]) {
		t.Error("the fragments do not give the packet")
	}

	long[6] |= 0x40 // do not fragment
	a.shared.SendPacket(long)
	answer := receive(t, a.shared)
	if answer[9] != protocolICMP || answer[20] != 3 || answer[21] != 4 || int(binary.BigEndian.Uint16(answer[26:])) != limit {
		t.Errorf("answer %x", answer[:40])
	}
	waitDrops(t, a, "too_big", 1)

	// A super-packet whose packets are too long: one answer, all dropped.
	a.shared.Send(0, superPacket(4500, 1500))
	if answer := receive(t, a.shared); answer[20] != 3 || answer[21] != 4 {
		t.Errorf("answer %x", answer[:40])
	}
	waitDrops(t, a, "too_big", 4)
}

// TestIPv6MinimumMTU has a path on which 1,280 octets do not fit once sealed:
// they pass all the same, as over every IPv6 link (RFC 8200, section 5).
func TestIPv6MinimumMTU(t *testing.T) {
	a, b := newGatewayWith(t, 1, 1280), newGatewayWith(t, 1, 1280)
	net6A, net6B := netip.MustParsePrefix("2001:db8:1::/48"), netip.MustParsePrefix("2001:db8:9::/48")
	out, in := oneWay(a, b, net6A, net6B, 0x1001)
	mustAdd(t, a, out)
	mustAdd(t, b, in)
	mustPolicy(t, a, outPolicy(net6A, net6B))
	build := func(length int) []byte {
		udp := make([]byte, length-ipv6HeaderLen)
		binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
		return ipv6(protocolUDP, "2001:db8:1::1", "2001:db8:9::1", udp)
	}
	a.shared.SendPacket(build(1280))
	if got := receive(t, b.shared); len(got) != 1280 {
		t.Errorf("%d octets came", len(got))
	}
	a.shared.SendPacket(build(1281))
	if answer := receive(t, a.shared); answer[40] != 2 || binary.BigEndian.Uint32(answer[44:]) != 1280 {
		t.Errorf("answer %x", answer[40:48])
	}
}

// TestLongPacketsOfPortLimitedSA has a packet that may be cut on an SA for one
// port, which its fragments would not show.
func TestLongPacketsOfPortLimitedSA(t *testing.T) {
	a, b := newGateway(t), newGateway(t)
	out, in := oneWay(a, b, netA, netB, 0x1001)
	for _, selectors := range [][]ipsec.TrafficSelector{out.Remote, in.Local} {
		selectors[0].Protocol, selectors[0].StartPort, selectors[0].EndPort = protocolUDP, 5000, 5000
	}
	mustAdd(t, a, out)
	mustAdd(t, b, in)
	p := outPolicy(netA, netB)
	p.Remote = out.Remote[0]
	mustPolicy(t, a, p)
	for _, size := range []int{2500, 2500, 40000} {
		packet := udpPacket("10.1.0.7", "10.2.0.9", make([]byte, size))
		a.shared.SendPacket(packet)
		if got := receive(t, b.shared); !bytes.Equal(got, packet) {
			t.Errorf("%d octets came of %d, or others", len(got), len(packet))
		}
	}
	a.shared.SendPacket(udpPacket("10.1.0.7", "10.2.0.9", make([]byte, 65450)))
	waitDrops(t, a, "too_big", 1) // no outer packet has room for it
}

// TestPolicyOrder has policies of equal priority: the narrower wins, wherever
// its range starts and in whatever order they came.
func TestPolicyOrder(t *testing.T) {
	p := netip.MustParsePrefix
	limited := outPolicy(p("10.1.0.0/24"), p("10.2.0.0/24"))
	limited.Local.Protocol, limited.Remote.Protocol = protocolUDP, protocolUDP
	port := limited
	port.Remote.StartPort, port.Remote.EndPort = 5000, 5000
	order := []ipsec.Policy{
		outPolicy(p("10.0.0.0/8"), p("10.2.0.3/32")),
		port,
		limited,
		outPolicy(p("10.1.0.0/24"), p("10.2.0.0/24")),
		outPolicy(p("10.0.0.0/16"), p("10.2.0.0/24")),
		outPolicy(p("10.1.0.0/16"), p("10.2.0.0/24")),
		outPolicy(p("10.1.0.0/24"), p("10.2.0.0/16")),
		outPolicy(p("10.1.0.0/24"), p("10.0.0.0/8")),
		outPolicy(p("2001:db8:1::/64"), p("2001:db8:9:8000::/56")),
		outPolicy(p("2001:db8:1::/64"), p("2001:db8::/32")),
	}
	a := newGateway(t)
	for i := range order {
		mustPolicy(t, a, order[len(order)-1-i])
	}
	for i, got := range *a.tableOf(0).out.Load() {
		if got.Policy != order[i] {
			t.Errorf("place %d: %s, want %s", i, got.PolicyID, order[i].PolicyID)
		}
	}
}

func TestMSSIsClampedBothWays(t *testing.T) {
	a, b := tunnel(t)
	syn := func(src, dst string) []byte {
		return withTCPSum(ipv4(protocolTCP, src, dst, 0x4000, tcp(tcpSYN, []byte{2, 4, 0x23, 0x28}))) // 9,000
	}
	want := uint16(1438 - 40)
	a.shared.SendPacket(syn("10.1.0.7", "10.2.0.9"))
	got := receive(t, b.shared)
	if mss := binary.BigEndian.Uint16(got[42:]); mss != want || tcpSum(got) != 0 {
		t.Errorf("SYN: %d, want %d", mss, want)
	}
	// b alone: its SA to a has another overhead.
	out, in := oneWay(b, a, netB, netA, 0x2002)
	for _, sa := range []*ipsec.SA{&out, &in} {
		sa.Encryption, sa.EncryptionKey = ipsec.Encryption(ipsec.EncryptionAESCBC, 256), make([]byte, 32)
		sa.Integrity, sa.IntegrityKey = ipsec.Integrity(ipsec.IntegrityHMACSHA2256128), make([]byte, 32)
	}
	mustAdd(t, a, in)
	mustAdd(t, b, out)
	// 1,500-28-8-16-16 is 1,432, of which 1,424 are whole blocks.
	want = 1422 - 40
	a.shared.SendPacket(syn("10.1.0.7", "10.2.0.9"))
	got = receive(t, b.shared)
	if mss := binary.BigEndian.Uint16(got[42:]); mss != want || tcpSum(got) != 0 {
		t.Errorf("SYN for a narrower way back: %d, want %d", mss, want)
	}
}

func TestTypeOfServiceAndECN(t *testing.T) {
	a, b := tunnel(t)
	for _, tos := range []uint8{0, 0xb8, 0x02, 0x2b} {
		p := udpPacket("10.1.0.7", "10.2.0.9", []byte(fmt.Sprint(tos)))
		setTOS(p, tos)
		a.shared.SendPacket(p)
		if got := receive(t, b.shared); !bytes.Equal(got, p) {
			t.Errorf("tos %02x: got %x, want %x", tos, got[:20], p[:20])
		}
	}
}

// TestRekeyEndsWhileSealing deletes an SA after a packet was found to be for it:
// its successor takes the packet over, and without one it is counted.
func TestRekeyEndsWhileSealing(t *testing.T) {
	out, _, g := loops(t)
	current := func() *association {
		p := superPacket(100, 100)[tun.HeaderLen:]
		if !out.header.parse(p) {
			t.Fatal("no packet")
		}
		sa, _ := out.lookup(&out.header)
		return sa
	}
	packet := make([]byte, 100, 100+esp.MaxTrailer)
	old := current()
	out.wait(old, packet)
	if !out.seal() || out.sa != old {
		t.Fatal("nothing is sealed under the SA")
	}
	next, _ := oneWay(g, g, netA, netB, 0x1003)
	next.Dst, next.DstPort, next.IfID = old.record.Dst, 9, 1
	mustAdd(t, g, next)
	if err := g.DeleteSA(old.id()); err != nil {
		t.Fatal(err)
	}
	successor := current()
	if successor == old {
		t.Fatal("the deleted SA still carries traffic")
	}
	out.send() // what has its number goes
	out.flush()
	out.wait(old, packet)
	if !out.seal() || out.sa != successor || binary.BigEndian.Uint32(out.batch) != 0x1003 {
		t.Fatalf("the batch is of SA %x", out.batch[:4])
	}
	out.send()
	out.flush()
	if err := g.DeleteSA(successor.id()); err != nil {
		t.Fatal(err)
	}
	out.wait(successor, packet)
	sealed := out.seal()
	if n := out.counters.drops[esp.ErrWiped].Load(); n != 1 || sealed {
		t.Errorf("%d packets counted as without SA, sealed is %t", n, sealed)
	}
	for _, sa := range []*association{old, successor} {
		if sent, given := sa.turn.sent, sa.out.State().Sequence; sent != given {
			t.Errorf("of %d sequence numbers %d were passed on", given, sent)
		}
	}
}

func TestNoSAAndAcquire(t *testing.T) {
	a := newGateway(t)
	p := outPolicy(netA, netB)
	p.ReqID = 77
	mustPolicy(t, a, p)
	for range 100 {
		a.shared.SendPacket(udpPacket("10.1.0.7", "10.2.0.9", nil))
	}
	waitDrops(t, a, "no_sa", 100)
	if ev := waitEvent(t, a); ev.Kind != ipsec.EventAcquire || ev.ReqID != 77 {
		t.Errorf("event %+v", ev)
	}
	noEvent(t, a) // one a second
}

// TestLoop: what the tunnel itself sends must not enter it.
func TestLoop(t *testing.T) {
	a, b := tunnel(t)
	host := netip.PrefixFrom(b.outer.Addr(), 32)
	mustPolicy(t, a, outPolicy(netip.PrefixFrom(a.outer.Addr(), 32), host))
	looped := udpPacket(a.outer.Addr().String(), b.outer.Addr().String(), make([]byte, 100))
	binary.BigEndian.PutUint16(looped[20:], a.outer.Port())
	binary.BigEndian.PutUint16(looped[22:], b.outer.Port())
	a.shared.SendPacket(looped)
	waitDrops(t, a, "loop", 1)
	// Other traffic to the peer's address may be protected.
	a.shared.SendPacket(udpPacket(a.outer.Addr().String(), b.outer.Addr().String(), nil))
	waitDrops(t, b, "selectors", 1)
}

func TestMalformedFrames(t *testing.T) {
	a, _ := tunnel(t)
	a.shared.Send(0, []byte{1, 2, 3})
	a.shared.SendPacket([]byte{0x45, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	waitDrops(t, a, "malformed", 2)
}
