package sa

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// negotiate runs IKE_SA_INIT and IKE_AUTH whatever comes of it.
func (l *lab) negotiate(a, b *Connection) {
	l.t.Helper()
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.a.initiate()
	l.run()
}

func TestWrongPSK(t *testing.T) {
	l := newLab(t, 1)
	a, b := connA(), connB()
	b.PSK = []byte("something else entirely")
	l.negotiate(a, b)
	l.golden()
	ours := l.b.last(Failed)
	if ours.Reason != ReasonAuthentication || ours.Diagnosis.Parameter != "pre-shared key" || ours.Connection != "ba" {
		t.Errorf("responder: %+v", ours)
	}
	theirs := l.a.last(Failed)
	if theirs.Reason != ReasonAuthentication || theirs.Diagnosis.Parameter != "pre-shared key or identity" {
		t.Errorf("initiator: %v", theirs.Diagnosis)
	}
	for _, text := range []string{ours.Diagnosis.String(), theirs.Diagnosis.String(), l.transcript.String()} {
		if strings.Contains(text, string(a.PSK)) || strings.Contains(text, string(b.PSK)) {
			t.Error("a pre-shared key is told")
		}
	}
	l.pass(repeatWindow)
	if len(l.a.machines)+len(l.b.machines) != 0 {
		t.Error("a machine goes on")
	}
	l.a.empty()
	l.b.empty()
}

// TestResponderRejected: the responder, which takes the IKE SA for established,
// is told that its own proof was not accepted.
func TestResponderRejected(t *testing.T) {
	for name, change := range map[string]func(*Connection){
		"identity": func(c *Connection) { c.RemoteID = FQDNIdentity("other.example") },
		"key":      func(c *Connection) { c.PSK = []byte("changed meanwhile") },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{connB()}
			l.a.initiate()
			for range 3 {
				l.deliver(0)
			}
			change(l.a.conns[0]) // before the answer to IKE_AUTH comes
			l.run()
			l.golden()
			if down := l.b.last(IKEDown); down.Diagnosis == nil || down.Diagnosis.Reason != ReasonAuthentication {
				t.Errorf("responder: %+v", down)
			}
			if l.a.count(IKEUp) != 0 || l.a.count(Failed) != 1 {
				t.Errorf("initiator: %+v", l.a.events)
			}
			l.pass(repeatWindow)
			l.a.empty()
			l.b.empty()
		})
	}
}

func TestIdentities(t *testing.T) {
	for name, tc := range map[string]struct {
		change    func(a, b *Connection)
		parameter string
		ours      string
		theirs    string
	}{
		"peer's name":  {func(a, b *Connection) { a.LocalID = FQDNIdentity("client") }, "peer identity", "ipv4 192.0.2.1", "fqdn client"},
		"peer's type":  {func(a, b *Connection) { a.LocalID = FQDNIdentity("192.0.2.1") }, "peer identity", "ipv4 192.0.2.1", "fqdn 192.0.2.1"},
		"our own name": {func(a, b *Connection) { a.RemoteID = FQDNIdentity("GW.example") }, "local identity", "fqdn gw.example", "fqdn GW.example"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			a, b := connA(), connB()
			tc.change(a, b)
			l.negotiate(a, b)
			d := l.b.last(Failed).Diagnosis
			if d.Reason != ReasonConfigID || d.Parameter != tc.parameter || d.Ours != tc.ours || d.Theirs != tc.theirs {
				t.Error(d)
			}
			if l.a.count(IKEUp)+l.b.count(IKEUp) != 0 {
				t.Error("an IKE SA is up")
			}
		})
	}
}

// editing is a cipher that changes what it is given to seal.
type editing struct {
	wire.Cipher
	edit func(plain []byte)
}

func (c editing) Seal(message, plain []byte) ([]byte, error) {
	plain = bytes.Clone(plain)
	c.edit(plain)
	return c.Cipher.Seal(message, plain)
}

// TestReservedOctetsOfIdentity: AUTH covers the reserved field of an identity as
// it was sent (RFC 7296, section 2.15), also where it is not zero.
func TestReservedOctetsOfIdentity(t *testing.T) {
	for _, of := range []string{"initiator", "responder"} {
		t.Run(of, func(t *testing.T) {
			l := newLab(t, 1)
			l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{connB()}
			l.a.initiate()
			l.deliver(0)
			l.deliver(0)
			e, initiator := l.a, true
			if of == "responder" {
				l.deliver(0)
				e, initiator = l.b, false
			}
			// The keys are the same at both ends; the handshake is there while
			// the initiator waits.
			s, h, c := l.a.machine().current, l.a.machine().current.handshake, e.conns[0]
			octets := append([]byte{byte(c.LocalID.Type), 1, 2, 3}, c.LocalID.Data...)
			reserve := func(plain []byte) {
				i := bytes.Index(plain, append([]byte{byte(c.LocalID.Type), 0, 0, 0}, c.LocalID.Data...))
				copy(plain[i:], octets)
			}
			pair := l.ciphers[s.spii]
			l.ciphers[s.spii] = [2]wire.Cipher{editing{pair[0], reserve}, editing{pair[1], reserve}}
			l.tamper(set(&wire.Auth{Method: wire.AuthSharedKey, Data: s.keys.pskAuth(c.PSK, initiator, h.signed(initiator), octets)}))
			l.ciphers[s.spii] = pair
			l.run()
			if !l.a.machine().Established() || !l.b.machine().Established() {
				t.Error(l.transcript.String())
			}
		})
	}
}

// TestSelectConnection has a responder with several connections, of which the
// identities, the key or the proposals pick one.
func TestSelectConnection(t *testing.T) {
	decoy := func(change func(*Connection)) *Connection {
		c := connB()
		c.Name = "decoy"
		change(c)
		return c
	}
	for name, tc := range map[string]struct {
		decoys []*Connection
		fails  Reason
	}{
		"other peer identity": {decoys: []*Connection{decoy(func(c *Connection) { c.RemoteID = FQDNIdentity("x") })}},
		"other own identity":  {decoys: []*Connection{decoy(func(c *Connection) { c.LocalID = FQDNIdentity("x") })}},
		"other key":           {decoys: []*Connection{decoy(func(c *Connection) { c.PSK = []byte("x") })}},
		"other proposals":     {decoys: []*Connection{decoy(func(c *Connection) { c.Proposals = []ipsec.Proposal{ikeProposal(19)} })}},
		"several": {decoys: []*Connection{
			decoy(func(c *Connection) { c.RemoteID = FQDNIdentity("x") }),
			decoy(func(c *Connection) { c.LocalID = FQDNIdentity("x") }),
			decoy(func(c *Connection) { c.PSK = []byte("x") }),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			l.a.conns, l.b.conns = []*Connection{connA()}, append(tc.decoys, connB())
			l.establish()
			if c := l.b.machine().Connection(); c != "ba" {
				t.Errorf("the connection is %s", c)
			}
		})
	}
}

// TestSelectConnectionProposals: the connection that the identities name must
// agree with the IKE proposal that was chosen for another one.
func TestSelectConnectionProposals(t *testing.T) {
	l := newLab(t, 1)
	a, b, other := connA(), connB(), connB()
	a.Proposals = []ipsec.Proposal{ikeProposal(31)}
	other.Name, other.RemoteID = "other", FQDNIdentity("x")
	b.Proposals = []ipsec.Proposal{ikeProposal(19)}
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{other, b}
	l.a.initiate()
	l.run()
	ev := l.b.last(Failed)
	if ev.Connection != "ba" || ev.Diagnosis.Parameter != "DH group" {
		t.Errorf("%+v", ev)
	}
	if l.b.count(IKEUp) != 0 {
		t.Error("a connection is up with a proposal that it does not have")
	}
}

func TestSelectorMismatch(t *testing.T) {
	l := newLab(t, 1)
	a, b := connA(), connB()
	b.Children[0].Remote = selectors("172.16.0.0/12")
	l.negotiate(a, b)
	l.golden()
	if !l.a.machine().Established() || !l.b.machine().Established() {
		t.Error("the IKE SA is down")
	}
	ev := l.b.last(Failed)
	if ev.Reason != ReasonFlow || !ev.Established ||
		ev.Diagnosis.Ours != "local 10.2.0.0/16, remote 172.16.0.0/12" || ev.Diagnosis.Theirs != "local 10.2.0.0/16, remote 10.1.0.0/16" {
		t.Errorf("responder: %v", ev.Diagnosis)
	}
	if d := l.a.last(Failed).Diagnosis; d.Reason != ReasonFlow || d.Exchange != "IKE_AUTH" {
		t.Errorf("initiator: %v", d)
	}
	// It is tried again, ever more seldom; once b is put right it comes up.
	l.pass(5 * time.Minute)
	if n := l.a.count(Failed); n < 6 || n > 12 {
		t.Errorf("%d tries in five minutes", n)
	}
	l.b.do(Update{connB()})
	l.pass(2 * time.Minute)
	l.settled(1)
}

func TestESPProposalMismatch(t *testing.T) {
	l := newLab(t, 1)
	a, b := connA(), connB()
	b.Children[0].Proposals[0].Transforms[0] = ipsec.Encryption(ipsec.EncryptionAESGCM16, 256)
	l.negotiate(a, b)
	d := l.b.last(Failed).Diagnosis
	if d.Reason != ReasonPhase2Proposal || d.Ours != "AES-GCM-16-256" || d.Theirs != "AES-GCM-16-128" {
		t.Error(d)
	}
	if !l.a.machine().Established() {
		t.Error("the IKE SA is down")
	}
}

// TestPFSMismatch: IKE_AUTH goes without a group; the first rekey shows that
// the ends differ.
func TestPFSMismatch(t *testing.T) {
	l := newLab(t, 1)
	a, b := connA(), connB()
	b.Children[0].Proposals[0] = espProposal(ipsec.GroupECP384)
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.establish()
	l.a.rekeyChild()
	l.run()
	d := l.b.last(Failed).Diagnosis
	if d.Reason != ReasonPhase2Proposal || d.Parameter != "DH group" || d.Exchange != "CREATE_CHILD_SA" {
		t.Error(d)
	}
	l.settled(1)
}

// TestSeveralChildren: the first child comes with IKE_AUTH, the others after.
func TestSeveralChildren(t *testing.T) {
	l := newLab(t, 1)
	a := connA()
	for i, net := range []string{"10.11.0.0/16", "10.12.0.0/16", "10.13.0.0/16"} {
		c := a.Children[0]
		c.Name, c.ReqID, c.Local = net, uint32(i+2), selectors(net)
		a.Children = append(a.Children, c)
	}
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{mirror(a, "ba")}
	l.establish()
	l.settled(4)
	for _, e := range []*end{l.a, l.b} {
		if n := e.count(ChildUp); n != 4 {
			t.Errorf("%s: %d children came up", e.name, n)
		}
	}
	l.golden()
}

// TestNarrowing: a responder takes what the two ends have in common, with
// several selectors a side.
func TestNarrowing(t *testing.T) {
	l := newLab(t, 1)
	a, b := connA(), connB()
	a.Children[0].Local = selectors("10.1.0.0/16", "10.3.0.0/16")
	a.Children[0].Remote = selectors("0.0.0.0/0")
	b.Children[0].Local = selectors("10.2.0.0/16", "10.4.0.0/24")
	b.Children[0].Remote = selectors("10.1.7.0/24", "10.3.0.0/16", "10.99.0.0/16")
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.establish()
	l.settled(1)
	st := l.a.machine().Status().Children[0]
	if got := flowText(st.Local, st.Remote); got != "local 10.1.7.0/24, 10.3.0.0/16, remote 10.2.0.0/16, 10.4.0.0/24" {
		t.Error(got)
	}
	if len(l.a.policies) != 8 {
		t.Errorf("%d policies, want 2 × 2 × 2", len(l.a.policies))
	}
	l.b.rekeyChild()
	l.run()
	l.pass(2 * lingerTime)
	l.settled(1)
	if len(l.a.policies) != 8 {
		t.Errorf("%d policies after a rekey", len(l.a.policies))
	}
}

// TestMatch has a responder choose among its children.
func TestMatch(t *testing.T) {
	child := func(name, local, remote string) Child {
		return Child{Name: name, Local: selectors(local), Remote: selectors(remote)}
	}
	m := newMachine(&Env{Host: &Host{}}, start)
	m.adopt(&Connection{Children: []Child{
		child("any", "0.0.0.0/0", "0.0.0.0/0"),
		child("exact", "10.0.0.0/24", "10.9.0.0/24"),
		child("wide", "10.0.0.0/8", "10.0.0.0/8"),
		child("other", "172.16.0.0/16", "10.9.0.0/24"),
	}})
	names := func(local, remote []ipsec.TrafficSelector, up ...string) string {
		m.children = nil
		for _, k := range m.slots {
			if slices.Contains(up, k.cfg.Name) {
				m.children = append(m.children, &childSA{m: &m.core, slot: k, state: Established})
			}
		}
		var list []string
		for _, f := range m.match(local, remote, nil) {
			list = append(list, f.slot.cfg.Name)
		}
		return strings.Join(list, " ")
	}
	for _, tc := range []struct {
		local, remote string
		up            []string
		want          string
	}{
		{"10.0.0.0/24", "10.9.0.0/24", nil, "exact any wide"},
		{"10.0.0.0/24", "10.9.0.0/24", []string{"exact"}, "exact any wide"},
		{"0.0.0.0/0", "0.0.0.0/0", nil, "any exact wide other"},
		{"172.16.0.0/16", "10.9.0.0/24", []string{"any"}, "other any"},
		{"192.168.0.0/16", "10.9.0.0/24", nil, "any"},
	} {
		if got := names(selectors(tc.local), selectors(tc.remote), tc.up...); got != tc.want {
			t.Errorf("%s to %s with %v up: %s, want %s", tc.local, tc.remote, tc.up, got, tc.want)
		}
	}
}

// TestNoSPI: without an SPI for the child there is nothing to ask for.
func TestNoSPI(t *testing.T) {
	l := newLab(t, 1)
	l.a.env.AllocSPI = func(netip.Addr) (ipsec.SPI, error) { return 0, ipsec.ErrUnsupported }
	l.negotiate(connA(), connB())
	if ev := l.a.last(Failed); ev.Reason != ReasonDataPlane {
		t.Errorf("%+v", ev)
	}
}
