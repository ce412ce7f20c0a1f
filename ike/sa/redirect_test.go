package sa

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
)

// twoGateways is a lab where end b has two addresses with the same identity, and
// end a may be sent to the second.
func twoGateways(t *testing.T, seed uint64) *lab {
	l := newLab(t, seed)
	a, b, b2 := connA(), connB(), connB()
	a.RedirectTo = []netip.Prefix{netip.PrefixFrom(addrB2, 32)}
	b2.Name, b2.Local = "second", addrB2
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b, b2}
	l.a.env.FollowRedirect = func(*Connection) bool { return true }
	return l
}

// drains has b send initiators from its first address to the second.
func (l *lab) drains() {
	l.b.env.Redirect = func(local netip.Addr) (wire.GatewayIdentity, bool) {
		return wire.GatewayIdentity{Addr: addrB2}, local == addrB
	}
}

// wantSecond asserts that both ends have just an IKE SA with b's second address.
func (l *lab) wantSecond() {
	l.t.Helper()
	l.settled(1)
	if st := l.a.machine().Status().IKE[0]; st.Remote.Addr() != addrB2 {
		l.t.Errorf("the IKE SA is with %s", st.Remote)
	}
	if c := l.b.machine().Connection(); c != "second" {
		l.t.Errorf("the peer serves %q", c)
	}
	if e := l.a.last(RedirectedByPeer); e.Gateway != addrB2.String() || e.Remote.Addr() != addrB {
		l.t.Errorf("event %+v", e)
	}
}

func TestRedirectInInit(t *testing.T) {
	l := twoGateways(t, 1)
	l.drains()
	l.establish()
	l.wantSecond()
	if l.b.machine().redirectedFrom.Addr != addrB {
		t.Errorf("the second gateway is told of %s", l.b.machine().redirectedFrom)
	}
	if n := len(l.b.events); l.b.count(Failed) > 0 {
		t.Errorf("%d events: %+v", n, l.b.events)
	}
}

// A drain that begins between IKE_SA_INIT and IKE_AUTH.
func TestRedirectInAuth(t *testing.T) {
	l := twoGateways(t, 2)
	l.a.initiate()
	l.deliver(0)
	l.drains()
	l.run()
	l.pass(time.Minute)
	l.wantSecond()
	if e := l.b.last(PeerRedirected); e.Gateway != addrB2.String() {
		t.Errorf("event %+v", e)
	}
	if l.b.count(ChildUp) != 1 {
		t.Errorf("%d children were made", l.b.count(ChildUp))
	}
}

func TestRedirectEstablished(t *testing.T) {
	l := twoGateways(t, 3)
	l.establish()
	if !l.b.machine().Status().IKE[0].Redirectable || l.a.machine().Status().IKE[0].Redirectable {
		t.Error("who can be sent elsewhere is not told")
	}
	old := l.a.machines[0]
	l.up = false  // of two machines the server counts who holds a policy
	for range 3 { // once is enough
		l.b.do(Redirect{wire.GatewayIdentity{Addr: addrB2}})
	}
	l.run()
	if want := (Redirected{From: addrB, To: addrB2}); l.a.replaces != 1 || l.a.replaceAt != want {
		t.Fatalf("%d replacements, at %+v", l.a.replaces, l.a.replaceAt)
	}
	if l.b.count(PeerRedirected) != 1 {
		t.Errorf("%d events", l.b.count(PeerRedirected))
	}
	// What a server does then.
	m, out := InitiateAt(l.now, l.a.env, l.a.conns[0], l.a.replaceAt)
	l.a.machines = append(l.a.machines, m)
	l.a.perform(out)
	l.run()
	l.a.perform(old.Do(l.now, Terminate{ReasonIKEReplaced}))
	l.pass(time.Minute)
	l.wantSecond()
	// It stays there when it is authenticated anew.
	l.a.do(Reauthenticate{})
	if l.a.replaceAt != m.redirected {
		t.Errorf("reauthentication is with %+v", l.a.replaceAt)
	}
}

// A peer that was told to go and stays is deleted.
func TestRedirectNotHeeded(t *testing.T) {
	l := twoGateways(t, 4)
	l.establish()
	l.up = false
	l.b.do(Redirect{wire.GatewayIdentity{FQDN: "gw2.example"}})
	l.pass(redirectGrace - time.Second)
	if len(l.b.machines) != 1 {
		t.Fatal("it is not given its time")
	}
	e := l.a.last(Failed)
	if !e.Established || e.Diagnosis.Code() != CauseRedirect || !strings.Contains(e.Diagnosis.String(), "gw2.example") {
		t.Errorf("event %+v, %s", e, e.Diagnosis)
	}
	l.pass(time.Minute)
	if len(l.b.machines) != 0 || l.b.last(IKEDown).Reason != ReasonRedirected {
		t.Errorf("it stays: %+v", l.b.last(IKEDown))
	}
	l.b.empty()
}

// An initiator that has not said that it can be sent is served, also by a gateway
// that sends others away; and so is one that has come from where it would be sent.
func TestRedirectOnlyWhoCan(t *testing.T) {
	l := twoGateways(t, 5)
	l.a.conns[0].RedirectTo = nil
	l.drains()
	l.establish()
	l.b.do(Redirect{wire.GatewayIdentity{Addr: addrB2}})
	l.pass(time.Minute)
	l.settled(1)
	if st := l.a.machine().Status().IKE[0]; st.Remote.Addr() != addrB || l.b.count(PeerRedirected) != 0 {
		t.Errorf("the IKE SA is with %s", st.Remote)
	}

	l = twoGateways(t, 6)
	l.a.conns[0].RedirectTo = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	l.b.env.Redirect = func(local netip.Addr) (wire.GatewayIdentity, bool) {
		if local == addrB {
			return wire.GatewayIdentity{Addr: addrB2}, true
		}
		return wire.GatewayIdentity{Addr: addrB}, true
	}
	l.establish()
	l.wantSecond()
}

// A REDIRECT in the place of an answer to IKE_SA_INIT, which anybody may send, is
// followed by nobody but who permits it, and then the true answer counts.
func TestRedirectRefused(t *testing.T) {
	for name, c := range map[string]struct {
		to     wire.GatewayIdentity
		edit   func(l *lab)
		nonce  func(ni []byte) []byte
		silent bool // it is dropped; else it is reported, unless a better answer comes
	}{
		"another nonce":    {to: wire.GatewayIdentity{Addr: addrB2}, nonce: func(ni []byte) []byte { ni = slices.Clone(ni); ni[0] ^= 1; return ni }, silent: true},
		"no nonce":         {to: wire.GatewayIdentity{Addr: addrB2}, nonce: func([]byte) []byte { return nil }, silent: true},
		"not announced":    {to: wire.GatewayIdentity{Addr: addrB2}, edit: func(l *lab) { l.a.conns[0].RedirectTo = nil }, silent: true},
		"not permitted":    {to: wire.GatewayIdentity{Addr: netip.MustParseAddr("198.51.100.78")}},
		"another family":   {to: wire.GatewayIdentity{Addr: netip.MustParseAddr("2001:db8::1")}, edit: func(l *lab) { l.a.conns[0].RedirectTo = []netip.Prefix{netip.MustParsePrefix("::/0")} }},
		"a name":           {to: wire.GatewayIdentity{FQDN: "gw2.example"}},
		"where it is":      {to: wire.GatewayIdentity{Addr: addrB}, edit: func(l *lab) { l.a.conns[0].RedirectTo = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")} }},
		"once too often":   {to: wire.GatewayIdentity{Addr: addrB2}, edit: func(l *lab) { l.a.env.FollowRedirect = func(*Connection) bool { return false } }},
		"nobody counts it": {to: wire.GatewayIdentity{Addr: addrB2}, edit: func(l *lab) { l.a.env.FollowRedirect = nil }},
	} {
		for _, answers := range []bool{true, false} {
			l := twoGateways(t, 7)
			if c.edit != nil {
				c.edit(l)
			}
			if c.nonce == nil {
				c.nonce = func(ni []byte) []byte { return ni }
			}
			l.lose = func(p packet) bool { return !answers && p.from == l.a }
			m := l.a.initiate()
			data, err := wire.RedirectData(c.to, c.nonce(m.current.handshake.ni))
			if err != nil {
				t.Fatal(err)
			}
			forged, err := (&wire.Message{
				Header:   wire.Header{InitiatorSPI: m.current.spii, Exchange: wire.IKESAInit, Response: true},
				Payloads: []wire.Payload{&wire.Notify{NotifyType: wire.Redirect, Data: data}},
			}).Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			l.a.perform(m.Handle(l.now, Datagram{Local: m.current.path.local, Remote: m.current.path.remote, Bytes: forged}))
			if answers {
				l.run()
				l.settled(1)
				if got := m.Status().IKE[0].Remote.Addr(); got != addrB {
					t.Errorf("%s: it went to %s", name, got)
				}
				continue
			}
			l.pass(10 * time.Second)
			if reported := l.a.count(Failed) > 0; reported == c.silent {
				t.Errorf("%s: reported %t", name, reported)
			}
			if !c.silent && l.a.last(Failed).Diagnosis.Code() != CauseRedirect {
				t.Errorf("%s: %s", name, l.a.last(Failed).Diagnosis)
			}
		}
	}
}

// A proven peer that sends us where the connection does not permit: in IKE_AUTH
// nothing comes of it.
func TestRedirectInAuthNotPermitted(t *testing.T) {
	l := twoGateways(t, 8)
	l.a.conns[0].RedirectTo = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	l.a.initiate()
	l.deliver(0)
	l.drains()
	l.run()
	l.pass(time.Minute)
	if len(l.a.machines) != 0 || len(l.b.machines) != 0 {
		t.Errorf("%d and %d machines", len(l.a.machines), len(l.b.machines))
	}
	if d := l.a.last(Failed).Diagnosis; d.Code() != CauseRedirect || d.Theirs != addrB2.String() {
		t.Errorf("%s", d)
	}
	l.a.empty()
	l.b.empty()
}
