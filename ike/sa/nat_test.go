package sa

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// behindNAT puts end a behind a NAT.
func behindNAT(l *lab) {
	l.nat = &nat{inside: addrA, outside: netip.MustParseAddr("203.0.113.7"), shift: 20000}
	a, b := connA(), connB()
	b.Remote = netip.Addr{}
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
}

// TestNAT: both ends find the NAT, move to port 4500, and put ESP in UDP.
func TestNAT(t *testing.T) {
	l := newLab(t, 1)
	behindNAT(l)
	l.establish()
	l.settled(1)
	a, b := l.a.last(IKEUp), l.b.last(IKEUp)
	if !a.NATLocal || a.NATRemote || !a.Encap || a.Local.Port() != portNAT || a.Remote.Port() != portNAT {
		t.Errorf("a: %+v", a)
	}
	if b.NATLocal || !b.NATRemote || !b.Encap || b.Remote.String() != "203.0.113.7:24500" {
		t.Errorf("b: %+v", b)
	}
	out := l.b.sas[1]
	if !out.Encap || out.SrcPort != portNAT || out.DstPort != 24500 || out.Dst != l.nat.outside {
		t.Errorf("b sends to %+v", out)
	}
	in := l.b.sas[0]
	if !in.Encap || in.SrcPort != 24500 || in.DstPort != portNAT || in.Src != l.nat.outside {
		t.Errorf("b receives from %+v", in)
	}
	for id, p := range l.b.policies {
		if p.TunnelRemote != l.nat.outside {
			t.Errorf("%s goes to %s", id, p.TunnelRemote)
		}
	}
	// Only the end behind the NAT keeps the mapping alive.
	l.transcript.Reset()
	l.pass(time.Minute + time.Second)
	if n := strings.Count(l.transcript.String(), "a keepalive"); n != 3 {
		t.Errorf("%d keepalives in a minute", n)
	}
	if strings.Contains(l.transcript.String(), "b keepalive") {
		t.Error("b keeps a mapping alive, too")
	}
}

// TestNATMappingChanges: the peer's address follows an authentic and new
// message, for all children at once; and an ESP packet.
func TestNATMappingChanges(t *testing.T) {
	l := newLab(t, 1)
	behindNAT(l)
	l.establish()
	l.nat.shift, l.nat.outside = 30000, netip.MustParseAddr("203.0.113.8")
	l.transcript.Reset()
	l.a.rekeyChild()
	l.run()
	l.pass(2 * lingerTime)
	l.settled(1)
	want := netip.MustParseAddrPort("203.0.113.8:34500")
	if ev := l.b.last(PeerMoved); ev.Remote != want {
		t.Errorf("moved to %s", ev.Remote)
	}
	check := func() {
		t.Helper()
		for _, sa := range l.b.sas {
			if sa.Direction == ipsec.Out && netip.AddrPortFrom(sa.Dst, sa.DstPort) != want ||
				sa.Direction == ipsec.In && netip.AddrPortFrom(sa.Src, sa.SrcPort) != want {
				t.Errorf("%+v", sa)
			}
		}
		for id, p := range l.b.policies {
			if p.TunnelRemote != want.Addr() {
				t.Errorf("%s goes to %s", id, p.TunnelRemote)
			}
		}
	}
	check()
	l.nat.shift = 40000
	want = netip.MustParseAddrPort("203.0.113.8:44500")
	l.b.do(Moved{ID: l.b.sas[0].ID(), From: want})
	check()
	if n := l.b.count(PeerMoved); n != 2 {
		t.Errorf("moved %d times", n)
	}
	l.b.rekeyIKE()
	l.run()
	l.pass(2 * repeatWindow)
	l.settled(1)
}

// TestNATMoveNeedsProof: what is not authentic, or not new, moves nothing, and
// a peer that is not behind a NAT does not move at all.
func TestNATMoveNeedsProof(t *testing.T) {
	elsewhere := netip.MustParseAddrPort("203.0.113.99:4500")
	l := newLab(t, 1)
	behindNAT(l)
	l.establish()
	s := l.a.machine().current
	deliver := func(b []byte) {
		l.b.receive(Datagram{Local: netip.AddrPortFrom(addrB, portNAT), Remote: elsewhere, Bytes: b})
	}
	fresh := l.a.seal(wire.Informational, s.nextID)
	forged := bytes.Clone(fresh)
	forged[len(forged)-1] ^= 1
	deliver(forged)
	if l.b.count(PeerMoved) != 0 {
		t.Error("moved by a forged message")
	}
	l.inject(fresh)
	l.wire = nil
	deliver(fresh) // a repeat
	if l.b.count(PeerMoved) != 0 {
		t.Error("moved by an old message")
	}
	if len(l.wire) != 1 {
		t.Error("a repeat is not answered")
	}

	l = newLab(t, 1)
	l.establish()
	l.up = false
	deliver(l.a.seal(wire.Informational, 2))
	if l.b.count(PeerMoved) != 0 {
		t.Error("a peer without a NAT moved")
	}
	l.b.do(Moved{ID: l.b.sas[0].ID(), From: elsewhere})
	if l.b.count(PeerMoved) != 0 {
		t.Error("a peer without a NAT moved by ESP")
	}
}

// TestForceEncap: UDP without a NAT, because one end asks for it.
func TestForceEncap(t *testing.T) {
	for _, who := range []string{"initiator", "responder"} {
		l := newLab(t, 1)
		a, b := connA(), connB()
		a.ForceEncap, b.ForceEncap = who == "initiator", who == "responder"
		l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
		l.establish()
		l.settled(1)
		for _, e := range []*end{l.a, l.b} {
			for _, sa := range e.sas {
				if !sa.Encap || sa.SrcPort != portNAT || sa.DstPort != portNAT {
					t.Errorf("%s asks: %s has %+v", who, e.name, sa)
				}
			}
		}
	}
}

// TestForceEncapUnsupported: a responder that knows nothing of NAT traversal gets
// plain ESP, unless encapsulation is required.
func TestForceEncapUnsupported(t *testing.T) {
	for _, required := range []bool{false, true} {
		l := newLab(t, 1)
		a, b := connA(), connB()
		a.ForceEncap, a.RequireEncap = true, required
		l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
		l.a.initiate()
		l.deliver(0)
		p := &l.wire[0]
		m, err := wire.Parse(p.d.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		m.Payloads = m.Payloads[:3] // SA, KE, Nonce
		if p.d.Bytes, err = m.Append(nil); err != nil {
			t.Fatal(err)
		}
		l.b.machine().current.handshake.response = p.d.Bytes // which it signs
		l.run()
		if !required {
			l.settled(1)
			if l.a.sas[0].Encap {
				t.Error("ESP goes in UDP")
			}
			continue
		}
		l.pass(betterAnswer)
		if d := l.a.last(Failed).Diagnosis; d.Reason != ReasonEncapsulation || d.Theirs != "not supported" {
			t.Error(d)
		}
	}
}

// TestForceEncapOfResponder: the connection that an initiator means is not known
// when a NAT is feigned.
func TestForceEncapOfResponder(t *testing.T) {
	other := func(remote netip.Addr, force bool) *Connection {
		c := connB()
		c.Name, c.Remote, c.RemoteID, c.ForceEncap = "other", remote, FQDNIdentity("other"), force
		return c
	}
	for name, tc := range map[string]struct {
		force  bool
		other  *Connection
		plain  bool // the initiator knows nothing of NAT traversal
		wish   bool // plain ESP will do
		encap  bool
		theirs string // of the diagnosis
	}{
		"wanted":                        {force: true, other: other(netip.Addr{}, false), encap: true},
		"not wanted":                    {other: other(netip.Addr{}, true)},
		"by another of the address":     {other: other(addrA, true), encap: true},
		"beside another of the address": {force: true, other: other(addrA, false), encap: true},
		"not supported":                 {force: true, other: other(netip.Addr{}, false), plain: true, theirs: "not supported"},
		"not wanted, not supported":     {other: other(netip.Addr{}, true), plain: true},
		"a wish, not supported":         {force: true, wish: true, other: other(netip.Addr{}, false), plain: true},
		"a wish":                        {force: true, wish: true, other: other(netip.Addr{}, false), encap: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			a, b := connA(), connB()
			b.ForceEncap, b.RequireEncap = tc.force, tc.force && !tc.wish
			l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b, tc.other}
			l.a.initiate()
			if tc.plain {
				p := &l.wire[0]
				m, err := wire.Parse(p.d.Bytes)
				if err != nil {
					t.Fatal(err)
				}
				m.Payloads = m.Payloads[:3] // SA, KE, Nonce
				if p.d.Bytes, err = m.Append(nil); err != nil {
					t.Fatal(err)
				}
				l.a.machine().current.handshake.request = p.d.Bytes
			}
			l.run()
			if tc.theirs != "" {
				if ev := l.b.last(Failed); ev.Connection != "ba" || ev.Reason != ReasonEncapsulation || ev.Diagnosis.Theirs != tc.theirs {
					t.Errorf("%+v %+v", ev, ev.Diagnosis)
				}
				return
			}
			l.settled(1)
			if got := l.b.sas[0].Encap; got != tc.encap {
				t.Errorf("encapsulation is %t", got)
			}
		})
	}
}

// many gives a connection so many selectors that messages do not fit into one
// packet.
func many() (a, b *Connection) {
	a = connA()
	a.Children[0].Local = nil
	for i := range 100 {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(2 * i), 0}), 24)
		a.Children[0].Local = append(a.Children[0].Local, ipsec.SelectorFromPrefix(prefix))
	}
	return a, mirror(a, "ba")
}

// TestFragments sends large messages in fragments (RFC 7383), in any order, and
// with losses.
func TestFragments(t *testing.T) {
	l := newLab(t, 1)
	a, b := many()
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.a.initiate()
	l.deliver(0)
	l.deliver(0)
	if len(l.wire) != 2 {
		t.Fatalf("%d fragments", len(l.wire))
	}
	for _, p := range l.wire {
		if len(p.d.Bytes) > fragmentSize-20-8-4 {
			t.Errorf("a fragment of %d octets", len(p.d.Bytes))
		}
	}
	l.deliver(1) // the second first
	l.deliver(0)
	l.run()
	l.settled(1)

	// A repeated set gets the stored answer, once.
	m := l.a.machine()
	l.transcript.Reset()
	l.a.rekeyChild()
	first := append([]packet{}, l.wire...)
	l.deliver(0)
	l.deliver(0)
	answers := len(l.wire)
	l.wire = first
	l.deliver(0)
	l.deliver(0)
	if len(l.wire) != answers {
		t.Errorf("%d packets for a repeated request, %d for the first", len(l.wire), answers)
	}
	l.run()
	l.pass(2 * lingerTime)
	l.settled(1)
	if !m.Established() {
		t.Error("down")
	}
}

// TestFragmentsIncomplete: fragments whose others do not come are forgotten.
func TestFragmentsIncomplete(t *testing.T) {
	l := newLab(t, 1)
	a, b := many()
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.establish()
	l.a.rekeyChild()
	l.deliver(0)
	l.wire = nil
	l.a.machine().current.active.next = l.now.Add(time.Hour) // no repeat
	s := l.b.machine().current
	if !s.requests.Pending() {
		t.Fatal("the fragment is not kept")
	}
	l.pass(reassemblyTimeout)
	if s.requests.Pending() {
		t.Error("the fragment is kept for ever")
	}
	if l.b.machine().Drops()["fragments incomplete"] != 1 {
		t.Error(l.b.machine().Drops())
	}
}

// TestFragmentsNotAgreed: without the agreement of both a fragment is dropped.
func TestFragmentsNotAgreed(t *testing.T) {
	l := newLab(t, 1)
	a, b := many()
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.establish()
	l.b.machine().current.fragmentation = false
	l.a.rekeyChild()
	l.deliver(0)
	if l.b.machine().Drops()["fragment without agreement"] != 1 || len(l.wire) != 1 {
		t.Error(l.b.machine().Drops())
	}
}

// TestFragmentsAnew: a peer that learns of a smaller packet size sends its request
// again in more fragments (RFC 7383, section 2.5.2). A repetition of those gets
// the answer again.
func TestFragmentsAnew(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	s := l.a.machine().current
	request := s.message(wire.Informational, false, s.nextID, []wire.Payload{&wire.VendorID{Data: make([]byte, 2000)}})
	inFragments := func(limit int) [][]byte {
		list, err := request.SealFragments(s.out, limit)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	l.inject(inFragments(1200)[0])
	fragments := inFragments(600)
	for range 2 {
		l.wire = nil
		for _, b := range fragments {
			l.inject(b)
		}
		if len(l.wire) != 1 {
			t.Errorf("%d answers", len(l.wire))
		}
	}
}
