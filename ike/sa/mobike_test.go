package sa

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

var (
	addrA2 = netip.MustParseAddr("192.0.2.77")
	addrB2 = netip.MustParseAddr("198.51.100.77")
)

// mobile is a lab with MOBIKE on at both ends, or at one only.
func mobile(t *testing.T, seed uint64, edit ...func(a, b *Connection)) *lab {
	l := newLab(t, seed)
	a, b := connA(), connB()
	a.MOBIKE, b.MOBIKE = true, true
	for _, e := range edit {
		e(a, b)
	}
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.establish()
	return l
}

// moves gives end a another address.
func (l *lab) moves(to netip.Addr) {
	l.t.Helper()
	next := *l.a.machine().conn
	next.Local = to
	l.a.do(Update{&next})
}

// outer returns where an end sends its traffic from and to.
func (e *end) outer() (from, to netip.Addr) {
	for _, sa := range slices.Backward(e.sas) {
		if sa.Direction == ipsec.Out {
			return sa.Src, sa.Dst
		}
	}
	return netip.Addr{}, netip.Addr{}
}

func (l *lab) wantOuter(a, b netip.Addr) {
	l.t.Helper()
	for _, e := range []*end{l.a, l.b} {
		near, far := a, b
		if e == l.b {
			near, far = b, a
		}
		if from, to := e.outer(); from != near || to != far {
			l.t.Errorf("%s sends from %s to %s, want %s to %s", e.name, from, to, near, far)
		}
		for id, p := range e.policies {
			if p.Action == ipsec.Protect && (p.TunnelLocal != near || p.TunnelRemote != far) {
				l.t.Errorf("%s: policy %s goes from %s to %s", e.name, id, p.TunnelLocal, p.TunnelRemote)
			}
		}
		if st := e.machine().Status().IKE[0]; st.Local.Addr() != near || st.Remote.Addr() != far || !st.MOBIKE {
			l.t.Errorf("%s: IKE SA %+v", e.name, st)
		}
	}
}

// The initiator moves, twice at once, and back, and SAs are rekeyed afterwards.
func TestMOBIKE(t *testing.T) {
	l := mobile(t, 1)
	l.moves(addrA2)
	l.run()
	l.wantOuter(addrA2, addrB)
	for _, e := range []*end{l.a, l.b} {
		if n := e.count(PeerMoved); n != 1 {
			t.Errorf("%s: %d moves", e.name, n)
		}
	}
	l.moves(netip.MustParseAddr("192.0.2.78"))
	l.moves(addrA)
	l.run()
	l.wantOuter(addrA, addrB)
	for _, e := range []*end{l.a, l.b} {
		e.do(RekeyIKE{})
		l.pass(10 * time.Second)
		e.do(RekeyChild{ReqID: e.conns[0].Children[0].ReqID})
		l.pass(10 * time.Second)
	}
	l.settled(1)
	l.moves(addrA2)
	l.pass(10 * time.Second)
	l.wantOuter(addrA2, addrB)
	l.a.do(Terminate{ReasonConfigModify})
	l.up = false
	l.pass(time.Minute)
	l.a.empty()
	l.b.empty()
}

// Moves and rekeys survive loss.
func TestMOBIKELoss(t *testing.T) {
	for seed := range uint64(40) {
		l := mobile(t, seed)
		n := uint64(0)
		l.lose = func(packet) bool {
			n++
			return (n*2654435761+seed*40503)>>7%4 == 0
		}
		for i := range 6 {
			l.moves([]netip.Addr{addrA2, addrA}[i%2])
			if i%3 == 1 {
				l.b.do(RekeyIKE{})
			}
			if i%3 == 2 {
				l.a.do(RekeyChild{ReqID: 1})
			}
			l.pass(time.Duration(i*7) * time.Second)
		}
		l.lose = nil
		l.pass(5 * time.Minute)
		l.settled(1)
		l.wantOuter(addrA, addrB)
	}
}

// Traffic goes to a new address only when the peer answers there.
func TestMOBIKEReturnRoutability(t *testing.T) {
	l := mobile(t, 2)
	l.lose = func(p packet) bool { return p.from == l.b && asks(p) }
	l.moves(addrA2)
	l.run()
	if _, to := l.b.outer(); to != addrA {
		t.Errorf("without a check the responder sends to %s", to)
	}
	if from, _ := l.a.outer(); from != addrA2 {
		t.Errorf("the initiator sends from %s", from)
	}
	l.lose = nil
	l.pass(time.Minute)
	l.wantOuter(addrA2, addrB)
}

// asks reports whether a packet is an INFORMATIONAL request.
func asks(p packet) bool {
	h, err := wire.ParseHeader(p.d.Bytes)
	return err == nil && h.Exchange == wire.Informational && !h.Response
}

// say is an exchange of the tests' own.
type say struct {
	payloads []wire.Payload
	heard    *wire.Message
}

func (x *say) kind() wire.ExchangeType                        { return wire.Informational }
func (x *say) request(*ikeSA) ([]wire.Payload, bool)          { return x.payloads, true }
func (x *say) response(_ *ikeSA, _ Datagram, m *wire.Message) { x.heard = m }
func (x *say) unanswered(*ikeSA, *outstanding)                {}

func (e *end) says(payloads ...wire.Payload) *say {
	x := &say{payloads: payloads}
	m := e.machine()
	m.current.enqueue(x)
	e.perform(m.finish())
	e.lab.run()
	return x
}

func TestMOBIKENotifies(t *testing.T) {
	l := mobile(t, 3)
	cookie := []byte("return this to me")
	x := l.a.says(&wire.Notify{NotifyType: wire.Cookie2, Data: cookie}, &wire.Notify{NotifyType: wire.NATDetectionSourceIP, Data: make([]byte, 20)})
	if n, ok := x.heard.Notify(wire.Cookie2); !ok || string(n.Data) != string(cookie) {
		t.Error("COOKIE2 is not returned")
	}
	if _, ok := x.heard.Notify(wire.NATDetectionDestinationIP); !ok {
		t.Error("NAT detection is not answered")
	}
	at := netip.AddrPortFrom(addrA, portIKE)
	to := netip.AddrPortFrom(addrB, portIKE)
	update := &wire.Notify{NotifyType: wire.UpdateSAAddresses}
	x = l.a.says(update, &wire.Notify{NotifyType: wire.NoNATsAllowed, Data: addressPair(at, to)})
	if _, refused := x.heard.ErrorNotify(); refused {
		t.Error("the right addresses are refused")
	}
	x = l.a.says(update, &wire.Notify{NotifyType: wire.NoNATsAllowed, Data: addressPair(netip.AddrPortFrom(addrA2, portIKE), to)})
	if n, refused := x.heard.ErrorNotify(); !refused || n.NotifyType != wire.UnexpectedNATDetected {
		t.Error("a NAT that is not allowed goes unnoticed")
	}
	// The responder has no say about addresses.
	l.b.says(update)
	l.wantOuter(addrA, addrB)
}

// A NAT that comes and goes with the address changes the encapsulation.
func TestMOBIKEBehindNAT(t *testing.T) {
	l := mobile(t, 4)
	outside := netip.MustParseAddr("203.0.113.9")
	l.nat = &nat{inside: addrA2, outside: outside, shift: 1000}
	l.moves(addrA2)
	l.run()
	a, b := l.a.machine().Status().IKE[0], l.b.machine().Status().IKE[0]
	if !a.NATLocal || !a.Encap || !b.NATRemote || !b.Encap || b.Remote.Addr() != outside {
		t.Errorf("behind a NAT: %+v, %+v", a, b)
	}
	if _, to := l.b.outer(); to != outside || !l.b.sas[len(l.b.sas)-1].Encap {
		t.Errorf("the responder sends to %s", to)
	}
	l.nat = nil
	l.moves(addrA)
	l.run()
	l.wantOuter(addrA, addrB)
	if l.b.sas[0].Encap || l.a.sas[0].Encap {
		t.Error("without a NAT ESP is still in UDP")
	}
}

// The responder does not follow IKE messages that come from elsewhere, which a NAT
// would have it do without MOBIKE.
func TestMOBIKEDoesNotFollow(t *testing.T) {
	l := newLab(t, 5)
	a, b := connA(), connB()
	a.MOBIKE, b.MOBIKE = true, true
	b.Remote = netip.Addr{}
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.nat = &nat{inside: addrA, outside: netip.MustParseAddr("203.0.113.9"), shift: 1000}
	l.establish()
	before := l.b.machine().Status().IKE[0].Remote
	l.nat.shift = 2000
	l.a.do(Probe{})
	l.run()
	if got := l.b.machine().Status().IKE[0].Remote; got != before {
		t.Errorf("the responder went to %s", got)
	}
	in := l.b.sas[0].ID()
	l.b.do(Moved{ID: in, From: netip.AddrPortFrom(l.nat.outside, 6500)})
	if got := l.b.machine().Status().IKE[0].Remote.Port(); got != 6500 {
		t.Errorf("after an ESP packet from elsewhere the responder is at port %d", got)
	}
}

// An initiator without an answer tries the responder's other addresses.
func TestMOBIKEDetour(t *testing.T) {
	l := mobile(t, 6)
	l.b.says(
		&wire.Notify{NotifyType: wire.AdditionalIPv6Address, Data: make([]byte, 16)},
		&wire.Notify{NotifyType: wire.AdditionalIPv4Address, Data: addrB2.AsSlice()},
	)
	l.up = false
	l.lose = func(p packet) bool { return p.d.Local.Addr() == addrB || p.d.Remote.Addr() == addrB }
	l.a.do(Probe{})
	l.pass(5 * time.Minute)
	l.wantOuter(addrA, addrB2)
	l.lose = func(p packet) bool { return p.d.Local.Addr() == addrB2 || p.d.Remote.Addr() == addrB2 }
	l.a.do(Probe{})
	l.pass(5 * time.Minute)
	l.wantOuter(addrA, addrB)
	l.lose = func(packet) bool { return true }
	l.a.do(Probe{})
	l.pass(15 * time.Minute)
	if len(l.a.machines) != 0 {
		t.Error("the initiator never gives up")
	}
}

// Without agreement nobody moves.
func TestMOBIKENotAgreed(t *testing.T) {
	for _, edit := range []func(a, b *Connection){
		func(a, _ *Connection) { a.MOBIKE = false },
		func(_, b *Connection) { b.MOBIKE = false },
	} {
		l := mobile(t, 7, edit)
		x := l.a.says(&wire.Notify{NotifyType: wire.UpdateSAAddresses}, &wire.Notify{NotifyType: wire.Cookie2, Data: make([]byte, 16)})
		if len(x.heard.Payloads) != 0 || l.b.machine().Status().IKE[0].MOBIKE {
			t.Errorf("answered with %v", x.heard.Payloads)
		}
		l.up = false
		l.moves(addrA2)
		l.pass(time.Minute)
		if len(l.a.machines) != 0 || len(l.b.machines) != 0 {
			t.Error("the IKE SA went on with another address")
		}
	}
}

// However often the peer moves before it has answered a check, one more is due.
func TestMOBIKEChecksAreBounded(t *testing.T) {
	l := mobile(t, 9)
	l.lose = func(p packet) bool { return p.from == l.b && asks(p) }
	for i := range 50 {
		l.moves([]netip.Addr{addrA2, addrA}[i%2])
		l.run()
	}
	if s := l.b.machine().current; s.active == nil || len(s.queue) > 1 {
		t.Errorf("%d requests wait, a check is under way: %t", len(s.queue), s.active != nil)
	}
	l.moves(addrA2)
	l.lose = nil
	l.pass(5 * time.Minute)
	l.wantOuter(addrA2, addrB)
}

// A peer that returns something else than it was sent is none of ours.
func TestMOBIKEWrongCookie(t *testing.T) {
	l := mobile(t, 8)
	m := l.b.machine()
	(&routability{cookie: []byte("0123456789abcdef")}).response(m.current, Datagram{}, &wire.Message{Payloads: []wire.Payload{
		&wire.Notify{NotifyType: wire.Cookie2, Data: []byte("another16octets!")},
	}})
	l.up = false
	l.b.perform(m.finish())
	l.pass(time.Minute)
	if len(l.b.machines) != 0 {
		t.Error("the IKE SA goes on")
	}
}

// A CHILD_SA that is made before the peer has answered at its new address goes
// where the others go, and moves with them.
func TestMOBIKENewChildBeforeProof(t *testing.T) {
	for name, make := range map[string]func(l *lab){
		"rekeyed by the peer": func(l *lab) { l.a.do(RekeyChild{ReqID: 1}) },
		"created by the peer": func(l *lab) {
			next := *l.a.machine().conn
			more := next.Children[0]
			more.Name, more.ReqID, more.Local = "more", 3, selectors("10.1.64.0/24")
			next.Children = append(slices.Clone(next.Children), more)
			l.a.do(Update{&next})
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := mobile(t, 10)
			l.lose = func(p packet) bool { return p.from == l.b && asks(p) }
			l.moves(addrA2)
			l.run()
			known := map[ipsec.SAID]bool{}
			for _, sa := range l.b.sas {
				known[sa.ID()] = true
			}
			make(l)
			l.run()
			made := 0
			for _, sa := range l.b.sas {
				if known[sa.ID()] {
					continue
				}
				made++
				if far := sa.Dst; sa.Direction == ipsec.Out && far != addrA {
					t.Errorf("a new SA sends to %s, where the peer has not answered", far)
				}
			}
			if made == 0 {
				t.Fatal("no SA was made")
			}
			for id, p := range l.b.policies {
				if p.Action == ipsec.Protect && p.TunnelRemote != addrA {
					t.Errorf("policy %s sends to %s", id, p.TunnelRemote)
				}
			}
			l.lose = nil
			l.pass(2 * time.Minute)
			l.wantOuter(addrA2, addrB)
			for _, sa := range l.b.sas {
				if sa.Direction == ipsec.Out && sa.Dst != addrA2 || sa.Direction == ipsec.In && sa.Src != addrA2 {
					t.Errorf("an SA is still between %s and %s", sa.Src, sa.Dst)
				}
			}
		})
	}
}

// While we move ourselves, what the peer makes is where the other SAs are.
func TestMOBIKENewChildWhileWeMove(t *testing.T) {
	l := mobile(t, 11)
	l.lose = func(p packet) bool { return p.from == l.a && asks(p) }
	l.moves(addrA2)
	l.b.do(RekeyChild{ReqID: l.b.conns[0].Children[0].ReqID})
	l.run()
	for _, sa := range l.a.sas {
		if sa.Direction == ipsec.In && sa.Dst != addrA {
			t.Errorf("an SA receives at %s, which the peer has not confirmed", sa.Dst)
		}
	}
	l.lose = nil
	l.pass(2 * time.Minute)
	l.settled(1)
	l.wantOuter(addrA2, addrB)
}

// A check that is under way when the IKE SA is rekeyed is made on the new one.
func TestMOBIKECheckOutlivesRekey(t *testing.T) {
	for _, who := range []string{"a", "b"} {
		l := mobile(t, 12)
		rekeys := l.a
		if who == "b" {
			rekeys = l.b
		}
		l.lose = func(p packet) bool { return p.from == l.b && asks(p) }
		if who == "a" {
			l.moves(addrA2)
			l.run()
			rekeys.do(RekeyIKE{})
			l.run()
		} else { // our announcement is under way when the peer rekeys
			l.lose = func(p packet) bool { return p.from == l.a && asks(p) && !deletes(l, p) }
			l.moves(addrA2)
			l.run()
			rekeys.do(RekeyIKE{})
			l.run()
		}
		l.lose = nil
		l.pass(5 * time.Minute)
		l.settled(1)
		l.wantOuter(addrA2, addrB)
	}
}

// deletes reports whether an INFORMATIONAL request is short: one that says no more
// than that an SA is gone.
func deletes(_ *lab, p packet) bool { return len(p.d.Bytes) < 100 }

// An initiator that allows no NAT is told of one in IKE_AUTH, where no IKE SA comes
// of it.
func TestMOBIKENoNATsAllowed(t *testing.T) {
	at, to := netip.AddrPortFrom(addrA, portIKE), netip.AddrPortFrom(addrB, portIKE)
	d := Datagram{Local: to, Remote: at}
	for _, c := range []struct {
		data []byte
		want bool
	}{
		{addressPair(at, to), false},
		{addressPair(netip.AddrPortFrom(addrA2, portIKE), to), true},
		{addressPair(to, at), true},
		{nil, true},
	} {
		msg := &wire.Message{Payloads: []wire.Payload{&wire.Notify{NotifyType: wire.NoNATsAllowed, Data: c.data}}}
		if got := prohibitedNAT(d, msg); got != c.want {
			t.Errorf("%x: prohibited %t", c.data, got)
		}
	}
}

// An answer to UPDATE_SA_ADDRESSES that does not return our COOKIE2 may be of
// somebody at another address.
func TestMOBIKEUpdateWithoutCookie(t *testing.T) {
	l := mobile(t, 13)
	m := l.a.machine()
	x := &updateAddresses{path: m.current.path, cookie: []byte("0123456789abcdef")}
	l.up = false
	x.response(m.current, Datagram{}, &wire.Message{Payloads: []wire.Payload{&wire.Notify{NotifyType: wire.Cookie2, Data: []byte("another16octets!")}}})
	l.a.perform(m.finish())
	l.pass(time.Minute)
	if len(l.a.machines) != 0 {
		t.Error("the IKE SA goes on")
	}
}
