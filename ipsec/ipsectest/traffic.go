package ipsectest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ipsec"
)

// End is one of two Backends that reach each other.
type End struct {
	Backend ipsec.Backend
	// Outer is the outer address, and the UDP port of encapsulated ESP. With
	// port zero ESP goes as IP protocol 50.
	Outer netip.AddrPort
	// Send hands over an inner packet as the protected side of a policy-based
	// tunnel (IfID 0) does.
	Send func(packet []byte)
	// Receive returns the next inner packet that comes out on the protected
	// side, and nil when there is none for that long.
	Receive func(wait time.Duration) []byte
}

// arrival is how long a packet or event may take that has to come.
var arrival = time.Minute

// silence is how long nothing may come that must not. It can miss a fault on a
// slow machine, and never report one that is none.
const silence = 50 * time.Millisecond

// RunTraffic is the part of the suite with real packets.
func RunTraffic(t *testing.T, pair func(t *testing.T) (a, b End)) {
	tests := []struct {
		name string
		test func(t *testing.T, n *network)
	}{
		{"BothWays", testBothWays},
		{"Algorithms", testAlgorithms},
		{"Rekey", testRekey},
		{"Replay", testReplay},
		{"WrongKey", testWrongKey},
		{"InboundSelectors", testInboundSelectors},
		{"Discard", testDiscard},
		{"Acquire", testAcquire},
		{"DeletedSA", testDeletedSA},
		{"UpdateKeepsSequence", testUpdateKeepsSequence},
		{"PacketLimits", testPacketLimits},
		{"ByteLimit", testByteLimit},
		{"TimeLimits", testTimeLimits},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := pair(t)
			tt.test(t, &network{t: t, a: a, b: b})
		})
	}
}

// network is a pair with the sites 10.1.0.0/16 and 2001:db8:1::/48 behind a,
// and 10.9.0.0/16 and 2001:db8:9::/48 behind b.
type network struct {
	t    *testing.T
	a, b End
	sent int
}

var (
	siteA = []ipsec.TrafficSelector{selector("10.1.0.0/16"), selector("2001:db8:1::/48")}
	siteB = []ipsec.TrafficSelector{selector("10.9.0.0/16"), selector("2001:db8:9::/48")}
	hostA = netip.MustParseAddr("10.1.2.3")
	hostB = netip.MustParseAddr("10.9.8.7")
)

const reqID = 42

// oneWay returns both ends of an SA from one End to another.
func (n *network) oneWay(from, to End, local, remote []ipsec.TrafficSelector) (out, in ipsec.SA) {
	n.t.Helper()
	spi, err := to.Backend.AllocSPI(to.Outer.Addr())
	if err != nil {
		n.t.Fatal(err)
	}
	out = ipsec.SA{
		SPI: spi, Direction: ipsec.Out, Src: from.Outer.Addr(), Dst: to.Outer.Addr(),
		Encap: to.Outer.Port() != 0, SrcPort: from.Outer.Port(), DstPort: to.Outer.Port(), ReqID: reqID,
		Encryption: ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), EncryptionKey: counting(byte(spi), 20),
		ESN: true, ReplayWindow: 1024, Local: local, Remote: remote,
	}
	in = cloneSA(out)
	in.Direction, in.Local, in.Remote = ipsec.In, remote, local
	return out, in
}

// aToB returns both ends of an SA from a to b.
func (n *network) aToB() (out, in ipsec.SA) { return n.oneWay(n.a, n.b, siteA, siteB) }

// install adds an SA, the receiving end first.
func (n *network) install(receiver, sender End, out, in ipsec.SA) {
	n.t.Helper()
	mustAddSA(n.t, receiver.Backend, in)
	mustAddSA(n.t, sender.Backend, out)
}

// protect adds the policies of both ends.
func (n *network) protect() {
	n.t.Helper()
	for _, side := range []struct {
		end           End
		peer          End
		local, remote []ipsec.TrafficSelector
	}{{n.a, n.b, siteA, siteB}, {n.b, n.a, siteB, siteA}} {
		for i := range side.local {
			for _, direction := range []ipsec.Direction{ipsec.Out, ipsec.In} {
				p := ipsec.Policy{
					PolicyID: ipsec.PolicyID{
						Direction: direction, Local: side.local[i], Remote: side.remote[i], Priority: ipsec.PriorityProtect,
					},
					Action: ipsec.Protect, ReqID: reqID,
					TunnelLocal: side.end.Outer.Addr(), TunnelRemote: side.peer.Outer.Addr(),
				}
				wantErr(n.t, "AddPolicy", side.end.Backend.AddPolicy(p), nil)
			}
			under := ipsec.Policy{
				PolicyID: ipsec.PolicyID{
					Direction: ipsec.Out, Local: side.local[i], Remote: side.remote[i], Priority: ipsec.PriorityDiscard,
				},
				Action: ipsec.Discard,
			}
			wantErr(n.t, "AddPolicy", side.end.Backend.AddPolicy(under), nil)
		}
	}
}

// send puts a datagram of its own flow into an End.
func (n *network) send(from End, src, dst netip.Addr) datagram {
	n.sent++
	d := datagram{
		src: netip.AddrPortFrom(src, uint16(10000+n.sent)), dst: netip.AddrPortFrom(dst, 7),
		payload: fmt.Sprintf("datagram %d", n.sent),
	}
	from.Send(d.packet())
	return d
}

// want waits for a datagram; it has to be the next that comes out.
func (n *network) want(to End, d datagram) {
	n.t.Helper()
	packet := to.Receive(arrival)
	if packet == nil {
		n.t.Fatalf("%s did not arrive", d)
	}
	if got, ok := parseDatagram(packet); !ok || got != d {
		n.t.Fatalf("came out: %s (%x), want %s", got, packet, d)
	}
}

// wantLast waits for a datagram. Those before it, which an End may have had in hand
// all the while, may come out first.
func (n *network) wantLast(to End, d datagram) {
	n.t.Helper()
	for {
		packet := to.Receive(arrival)
		if packet == nil {
			n.t.Fatalf("%s did not arrive", d)
		}
		got, ok := parseDatagram(packet)
		switch {
		case ok && got == d:
			return
		case !ok || got.src.Addr() != d.src.Addr() || got.src.Port() >= d.src.Port():
			n.t.Fatalf("came out: %s (%x), want %s", got, packet, d)
		}
	}
}

// wantNothing checks that nothing comes out.
func (n *network) wantNothing(to End, why string) {
	n.t.Helper()
	if packet := to.Receive(silence); packet != nil {
		got, _ := parseDatagram(packet)
		n.t.Fatalf("%s, yet this came out: %s (%x)", why, got, packet)
	}
}

// state waits until an SA has the number of packets, and returns its state.
func (n *network) state(b ipsec.Backend, id ipsec.SAID, packets uint64) ipsec.SAState {
	n.t.Helper()
	return n.stateWhen(b, id, func(s ipsec.SAState) bool { return s.Packets == packets }, fmt.Sprintf("%d packets", packets))
}

// drops waits until an SA has counted a drop.
func (n *network) drops(b ipsec.Backend, id ipsec.SAID, reason string, count uint64) {
	n.t.Helper()
	n.stateWhen(b, id, func(s ipsec.SAState) bool { return s.Drops[reason] == count }, fmt.Sprintf("%d drops %q", count, reason))
}

func (n *network) stateWhen(b ipsec.Backend, id ipsec.SAID, ok func(ipsec.SAState) bool, want string) ipsec.SAState {
	n.t.Helper()
	for deadline := time.Now().Add(arrival); ; time.Sleep(time.Millisecond) {
		s, err := b.QuerySA(id)
		if err != nil {
			n.t.Fatalf("QuerySA(%s): %v", id, err)
		}
		if ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("%s: state %+v, want %s", id, s, want)
		}
	}
}

// event waits for an event of a kind, and fails on one of another. A packet
// that meets an expired SA may ask for a new one, so that is no fault.
func (n *network) event(b ipsec.Backend, kind ipsec.EventKind) ipsec.Event {
	n.t.Helper()
	timeout := time.After(arrival)
	for {
		select {
		case e := <-b.Events():
			switch e.Kind {
			case kind:
				return e
			case ipsec.EventAcquire:
			default:
				n.t.Fatalf("event %+v, want kind %d", e, kind)
			}
		case <-timeout:
			n.t.Fatalf("no event of kind %d", kind)
		}
	}
}

// acquire waits for the report that traffic from a to b waits for an SA, while more of it
// comes: Linux reports it once in 30 s, whether or not the report arrives.
func (n *network) acquire() ipsec.Event {
	n.t.Helper()
	timeout, more := time.After(arrival), time.NewTicker(time.Second)
	defer more.Stop()
	for {
		select {
		case e := <-n.a.Backend.Events():
			if e.Kind != ipsec.EventAcquire {
				n.t.Fatalf("event %+v, want an acquire", e)
			}
			return e
		case <-more.C:
			n.send(n.a, hostA, hostB)
		case <-timeout:
			n.t.Fatal("no acquire")
		}
	}
}

func (n *network) noEvent(b ipsec.Backend) {
	n.t.Helper()
	select {
	case e := <-b.Events():
		n.t.Fatalf("event %+v, want none", e)
	case <-time.After(silence):
	}
}

func testBothWays(t *testing.T, n *network) {
	before := time.Now().Add(-time.Second)
	outAB, inAB := n.aToB()
	outBA, inBA := n.oneWay(n.b, n.a, siteB, siteA)
	n.install(n.b, n.a, outAB, inAB)
	n.install(n.a, n.b, outBA, inBA)
	n.protect()
	six := netip.MustParseAddr
	bytes := uint64(0)
	for range 5 {
		v4, v6 := n.send(n.a, hostA, hostB), n.send(n.a, six("2001:db8:1::5"), six("2001:db8:9::5"))
		n.want(n.b, v4)
		n.want(n.b, v6)
		bytes += uint64(len(v4.packet()) + len(v6.packet()))
		n.want(n.a, n.send(n.b, hostB, hostA))
	}
	large := datagram{src: netip.AddrPortFrom(hostA, 9999), dst: netip.AddrPortFrom(hostB, 7), payload: strings.Repeat("l", 1200)}
	n.a.Send(large.packet())
	n.want(n.b, large)
	bytes += uint64(len(large.packet()))

	for _, side := range []struct {
		what string
		b    ipsec.Backend
		id   ipsec.SAID
	}{{"sender", n.a.Backend, outAB.ID()}, {"receiver", n.b.Backend, inAB.ID()}} {
		s := n.state(side.b, side.id, 11)
		if s.Sequence != 11 || s.Bytes != bytes || len(s.Drops) != 0 {
			t.Errorf("%s: state %+v, want 11 packets of %d octets", side.what, s, bytes)
		}
		if s.LastUsed.Before(before) || s.LastUsed.After(time.Now().Add(time.Second)) {
			t.Errorf("%s: last used %s", side.what, s.LastUsed)
		}
	}
	n.state(n.a.Backend, inBA.ID(), 5)
	n.noEvent(n.a.Backend)
	n.noEvent(n.b.Backend)
}

func testAlgorithms(t *testing.T, n *network) {
	integrity := map[uint16]int{
		ipsec.IntegrityHMACMD596: 16, ipsec.IntegrityHMACSHA196: 20, ipsec.IntegrityHMACSHA2256128: 32,
		ipsec.IntegrityHMACSHA2384192: 48, ipsec.IntegrityHMACSHA2512256: 64,
	}
	n.protect()
	try := func(change func(*ipsec.SA)) {
		t.Helper()
		out, in := n.aToB()
		change(&out)
		change(&in)
		n.install(n.b, n.a, out, in)
		n.want(n.b, n.send(n.a, hostA, hostB))
		wantErr(t, "DeleteSA", n.a.Backend.DeleteSA(out.ID()), nil)
		wantErr(t, "DeleteSA", n.b.Backend.DeleteSA(in.ID()), nil)
	}
	for _, esn := range []bool{false, true} {
		for _, bits := range []uint16{128, 192, 256} {
			try(func(sa *ipsec.SA) {
				sa.Encryption, sa.EncryptionKey = ipsec.Encryption(ipsec.EncryptionAESGCM16, bits), counting(1, int(bits/8)+4)
				sa.ESN = esn
			})
			for id, length := range integrity {
				try(func(sa *ipsec.SA) {
					sa.Encryption, sa.EncryptionKey = ipsec.Encryption(ipsec.EncryptionAESCBC, bits), counting(2, int(bits/8))
					sa.Integrity, sa.IntegrityKey = ipsec.Integrity(id), counting(3, length)
					sa.ESN = esn
				})
			}
		}
		try(func(sa *ipsec.SA) {
			sa.Encryption, sa.EncryptionKey = ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 0), counting(4, 36)
			sa.ESN = esn
		})
		for id, length := range integrity {
			try(func(sa *ipsec.SA) {
				sa.Encryption, sa.EncryptionKey = ipsec.Encryption(ipsec.Encryption3DES, 0), counting(5, 24)
				sa.Integrity, sa.IntegrityKey = ipsec.Integrity(id), counting(6, length)
				sa.ESN = esn
			})
		}
	}
}

// testRekey plays a rekey: the outbound SA that was added last carries the
// traffic, both inbound ones are open, and a deletion falls back.
func testRekey(t *testing.T, n *network) {
	n.protect()
	out1, in1 := n.aToB()
	n.install(n.b, n.a, out1, in1)
	n.want(n.b, n.send(n.a, hostA, hostB))
	out2, in2 := n.aToB()
	mustAddSA(t, n.b.Backend, in2)
	n.want(n.b, n.send(n.a, hostA, hostB))
	n.state(n.b.Backend, in1.ID(), 2)

	mustAddSA(t, n.a.Backend, out2)
	n.want(n.b, n.send(n.a, hostA, hostB))
	n.state(n.b.Backend, in2.ID(), 1)
	n.state(n.b.Backend, in1.ID(), 2)

	// The old SA goes, as after a rekey.
	out3, in3 := n.aToB()
	n.install(n.b, n.a, out3, in3)
	wantErr(t, "DeleteSA of an SA that carries nothing", n.a.Backend.DeleteSA(out1.ID()), nil)
	wantErr(t, "DeleteSA of its other end", n.b.Backend.DeleteSA(in1.ID()), nil)
	n.want(n.b, n.send(n.a, hostA, hostB))
	n.state(n.b.Backend, in3.ID(), 1)

	// The newest goes: the one before carries again.
	wantErr(t, "DeleteSA of the SA that carries", n.a.Backend.DeleteSA(out3.ID()), nil)
	n.want(n.b, n.send(n.a, hostA, hostB))
	n.state(n.b.Backend, in2.ID(), 2)
	n.noEvent(n.a.Backend)
}

// testReplay installs the sending end anew, which counts from one again.
func testReplay(t *testing.T, n *network) {
	n.protect()
	out, in := n.aToB()
	n.install(n.b, n.a, out, in)
	for range 3 {
		n.want(n.b, n.send(n.a, hostA, hostB))
	}
	wantErr(t, "DeleteSA", n.a.Backend.DeleteSA(out.ID()), nil)
	mustAddSA(t, n.a.Backend, out)
	for range 3 {
		n.send(n.a, hostA, hostB)
	}
	n.want(n.b, n.send(n.a, hostA, hostB)) // the fourth number is new
	n.drops(n.b.Backend, in.ID(), "replay", 3)
	n.state(n.b.Backend, in.ID(), 4)
}

func testWrongKey(t *testing.T, n *network) {
	n.protect()
	out, in := n.aToB()
	forged := cloneSA(out)
	forged.EncryptionKey[0] ^= 1
	n.install(n.b, n.a, forged, in)
	for range 3 {
		n.send(n.a, hostA, hostB)
	}
	n.drops(n.b.Backend, in.ID(), "integrity", 3)
	if s := n.state(n.b.Backend, in.ID(), 0); s.Sequence != 0 || s.Bytes != 0 || !s.LastUsed.IsZero() {
		t.Errorf("forged packets changed the state: %+v", s)
	}
	n.wantNothing(n.b, "packets were forged")
	wantErr(t, "DeleteSA", n.a.Backend.DeleteSA(out.ID()), nil)
	mustAddSA(t, n.a.Backend, out)
	n.want(n.b, n.send(n.a, hostA, hostB))
}

// testInboundSelectors has a peer send what its SA is not for (RFC 4301,
// section 5.2, step 4).
func testInboundSelectors(t *testing.T, n *network) {
	n.protect()
	out, in := n.aToB()
	in.Local = []ipsec.TrafficSelector{selector("10.9.8.0/24")}
	in.Remote = []ipsec.TrafficSelector{selector("10.1.2.0/24")}
	n.install(n.b, n.a, out, in)
	n.send(n.a, hostA, netip.MustParseAddr("10.9.9.7"))
	n.send(n.a, netip.MustParseAddr("10.1.3.3"), hostB)
	n.send(n.a, netip.MustParseAddr("2001:db8:1::5"), netip.MustParseAddr("2001:db8:9::5"))
	n.want(n.b, n.send(n.a, hostA, hostB))
	n.wantNothing(n.b, "packets were outside of the SA's selectors")
}

func testDiscard(t *testing.T, n *network) {
	n.protect()
	out, in := n.aToB()
	n.install(n.b, n.a, out, in)
	guard := ipsec.Policy{
		PolicyID: ipsec.PolicyID{
			Direction: ipsec.Out, Local: selector("10.1.0.0/16"), Remote: selector("10.9.8.7/32"), Priority: ipsec.PriorityProtect - 1,
		},
		Action: ipsec.Discard,
	}
	wantErr(t, "AddPolicy", n.a.Backend.AddPolicy(guard), nil)
	n.send(n.a, hostA, hostB)
	n.want(n.b, n.send(n.a, hostA, hostB.Next()))
	n.wantNothing(n.b, "a policy of lower value discards")
	wantErr(t, "DeletePolicy", n.a.Backend.DeletePolicy(guard.PolicyID), nil)
	n.want(n.b, n.send(n.a, hostA, hostB))
	n.noEvent(n.a.Backend)
}

// testAcquire sends before there is an SA: one report, and nothing leaves.
func testAcquire(t *testing.T, n *network) {
	n.protect()
	for range 20 {
		n.send(n.a, hostA, hostB)
	}
	if e := n.acquire(); e.ReqID != reqID {
		t.Errorf("event %+v, want ReqID %d", e, reqID)
	}
	n.noEvent(n.a.Backend)
	n.wantNothing(n.b, "there is no SA")
	out, in := n.aToB()
	n.install(n.b, n.a, out, in)
	n.wantLast(n.b, n.send(n.a, hostA, hostB))
}

func testDeletedSA(t *testing.T, n *network) {
	n.protect()
	out, in := n.aToB()
	n.install(n.b, n.a, out, in)
	n.want(n.b, n.send(n.a, hostA, hostB))
	wantErr(t, "DeleteSA of the inbound SA", n.b.Backend.DeleteSA(in.ID()), nil)
	n.send(n.a, hostA, hostB)
	n.state(n.a.Backend, out.ID(), 2)
	n.wantNothing(n.b, "the inbound SA was deleted")
	wantErr(t, "DeleteSA of the outbound SA", n.a.Backend.DeleteSA(out.ID()), nil)
	n.send(n.a, hostA, hostB)
	n.acquire()
	n.wantNothing(n.b, "the outbound SA was deleted")
}

func testUpdateKeepsSequence(t *testing.T, n *network) {
	n.protect()
	out, in := n.aToB()
	n.install(n.b, n.a, out, in)
	for range 3 {
		n.want(n.b, n.send(n.a, hostA, hostB))
	}
	// For each end the other one moves behind a NAT, and back.
	away := func(sa ipsec.SA) ipsec.SAUpdate {
		u := ipsec.SAUpdate{Src: sa.Src, Dst: sa.Dst, Encap: true, SrcPort: 61000, DstPort: 61000}
		if sa.Direction == ipsec.Out {
			u.SrcPort = max(sa.SrcPort, 4500)
		} else {
			u.DstPort = max(sa.DstPort, 4500)
		}
		return u
	}
	back := func(sa ipsec.SA) ipsec.SAUpdate {
		return ipsec.SAUpdate{Src: sa.Src, Dst: sa.Dst, Encap: sa.Encap, SrcPort: sa.SrcPort, DstPort: sa.DstPort}
	}
	for _, sa := range []struct {
		b  ipsec.Backend
		sa ipsec.SA
	}{{n.a.Backend, out}, {n.b.Backend, in}} {
		wantErr(t, "UpdateSA", sa.b.UpdateSA(sa.sa.ID(), away(sa.sa)), nil)
		wantErr(t, "UpdateSA", sa.b.UpdateSA(sa.sa.ID(), back(sa.sa)), nil)
		n.state(sa.b, sa.sa.ID(), 3)
	}
	n.want(n.b, n.send(n.a, hostA, hostB))
	if s := n.state(n.b.Backend, in.ID(), 4); s.Sequence != 4 || len(s.Drops) != 0 {
		t.Errorf("after the move: %+v", s)
	}
}

func testPacketLimits(t *testing.T, n *network) {
	n.protect()
	out, in := n.aToB()
	out.Lifetime = ipsec.Lifetime{SoftPackets: 2, HardPackets: 4}
	n.install(n.b, n.a, out, in)
	for i := range 4 {
		n.want(n.b, n.send(n.a, hostA, hostB))
		if i == 1 {
			if e := n.event(n.a.Backend, ipsec.EventSoftExpire); e.SA != out.ID() {
				t.Errorf("event %+v, want SA %s", e, out.ID())
			}
		}
	}
	n.send(n.a, hostA, hostB)
	if e := n.event(n.a.Backend, ipsec.EventHardExpire); e.SA != out.ID() {
		t.Errorf("event %+v, want SA %s", e, out.ID())
	}
	n.wantNothing(n.b, "the hard limit was reached")
	n.state(n.a.Backend, out.ID(), 4)
}

func testByteLimit(t *testing.T, n *network) {
	n.protect()
	out, in := n.aToB()
	size := uint64(len(datagram{src: netip.AddrPortFrom(hostA, 1), dst: netip.AddrPortFrom(hostB, 1), payload: "datagram 1"}.packet()))
	in.Lifetime = ipsec.Lifetime{HardBytes: 3 * size}
	n.install(n.b, n.a, out, in)
	for range 3 {
		n.want(n.b, n.send(n.a, hostA, hostB))
	}
	n.send(n.a, hostA, hostB)
	if e := n.event(n.b.Backend, ipsec.EventHardExpire); e.SA != in.ID() {
		t.Errorf("event %+v, want SA %s", e, in.ID())
	}
	n.wantNothing(n.b, "the hard limit of the inbound SA was reached")
	n.state(n.b.Backend, in.ID(), 3)
}

func testTimeLimits(t *testing.T, n *network) {
	n.protect()
	out, in := n.aToB()
	out.Lifetime = ipsec.Lifetime{Soft: 100 * time.Millisecond, Hard: 3 * time.Second}
	n.install(n.b, n.a, out, in)
	n.want(n.b, n.send(n.a, hostA, hostB))
	if e := n.event(n.a.Backend, ipsec.EventSoftExpire); e.SA != out.ID() {
		t.Errorf("event %+v, want SA %s", e, out.ID())
	}
	if e := n.event(n.a.Backend, ipsec.EventHardExpire); e.SA != out.ID() {
		t.Errorf("event %+v, want SA %s", e, out.ID())
	}
	n.send(n.a, hostA, hostB)
	n.wantNothing(n.b, "the hard lifetime is over")
}
