package sa

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

func aggressive(c *Connection) { c.Aggressive = true }

func TestV1Establish(t *testing.T) {
	for name, edit := range map[string]func(*Connection){"main": func(*Connection) {}, "aggressive": aggressive} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			l.useV1(edit)
			l.establish()
			l.settled(1)
			l.pass(time.Minute)
			l.settled(1)
			l.up = false
			l.a.do(Terminate{ReasonConfigModify})
			l.run()
			l.pass(time.Minute)
			if n := len(l.a.machines) + len(l.b.machines); n != 0 {
				t.Errorf("%d machines are left", n)
			}
			l.a.empty()
			l.b.empty()
			l.golden()
		})
	}
}

// Every algorithm of the API in phase 1 and in phase 2, both modes.
func TestV1Algorithms(t *testing.T) {
	ciphers := []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESCBC, 128), ipsec.Encryption(ipsec.EncryptionAESCBC, 192),
		ipsec.Encryption(ipsec.EncryptionAESCBC, 256), ipsec.Encryption(ipsec.Encryption3DES, 0),
	}
	prfIDs := []uint16{ipsec.PRFHMACMD5, ipsec.PRFHMACSHA1, ipsec.PRFHMACSHA2256, ipsec.PRFHMACSHA2384, ipsec.PRFHMACSHA2512}
	integs := []uint16{ipsec.IntegrityHMACMD596, ipsec.IntegrityHMACSHA196, ipsec.IntegrityHMACSHA2256128, ipsec.IntegrityHMACSHA2384192, ipsec.IntegrityHMACSHA2512256}
	groupIDs := []uint16{1, 2, 5, 14, 15, 16, 19, 20, 21}
	for i := range 20 {
		enc, hash, group := ciphers[i%4], i%5, groupIDs[i%9]
		l := newLab(t, uint64(i))
		l.useV1(func(c *Connection) {
			c.Aggressive = i%2 == 1
			c.Proposals = []ipsec.Proposal{{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
				enc, ipsec.Integrity(integs[hash]), ipsec.PRF(prfIDs[hash]), ipsec.Group(group),
			}}}
			p := ipsec.Proposal{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{ciphers[(i+1)%4], ipsec.Integrity(integs[(hash+1)%5])}}
			if i%3 == 0 {
				p.Transforms = []ipsec.Transform{ipsec.Encryption(ipsec.EncryptionAESGCM16, []uint16{128, 192, 256}[i%9/3])}
			}
			if i%5 != 0 {
				p.Transforms = append(p.Transforms, ipsec.Group(group))
			}
			c.Children[0].Proposals = []ipsec.Proposal{p}
		})
		l.establish()
		l.settled(1)
		if t.Failed() {
			t.Fatal(l.a.conns[0].Proposals, l.a.conns[0].Children[0].Proposals)
		}
		chosen := l.b.peer().Status()
		if got := fmt.Sprint(chosen.IKE[0].Proposal); !strings.Contains(got, enc.String()) || !strings.Contains(got, ipsec.Group(group).String()) {
			t.Errorf("phase 1 has %s", got)
		}
	}
}

// Several children, of which each is a quick mode of its own.
func TestV1SeveralChildren(t *testing.T) {
	const n = 20
	l := newLab(t, 1)
	l.useV1(func(c *Connection) {
		for i := range n - 1 {
			child := c.Children[0]
			child.Name, child.ReqID = fmt.Sprint(i), uint32(i+2)
			child.Remote = selectors(fmt.Sprintf("10.2.%d.0/24", i))
			c.Children = append(c.Children, child)
		}
	})
	l.establish()
	l.settled(n)
}

func TestV1RekeyChild(t *testing.T) {
	for _, begins := range []string{"initiator", "responder"} {
		t.Run(begins, func(t *testing.T) {
			l := newLab(t, 1)
			l.useV1()
			l.establish()
			e := l.a
			if begins == "responder" {
				e = l.b
			}
			l.pass(time.Minute)
			e.do(RekeyChild{e.conns[0].Children[0].ReqID})
			l.run()
			l.pass(time.Minute)
			l.settled(1)
			if e.count(ChildRekeyed) != 1 || e.count(ChildDown) != 0 {
				t.Error(l.transcript.String())
			}
			l.golden()
		})
	}
}

// Both ends rekey at once: one pair is left, the same at both ends.
func TestV1RekeyChildSimultaneous(t *testing.T) {
	for seed := range uint64(8) {
		l := newLab(t, seed)
		l.useV1()
		l.establish()
		l.pass(time.Minute)
		l.a.do(RekeyChild{l.a.conns[0].Children[0].ReqID})
		l.b.do(RekeyChild{l.b.conns[0].Children[0].ReqID})
		l.run()
		l.pass(5 * time.Minute)
		l.settled(1)
	}
}

func TestV1RekeyIKE(t *testing.T) {
	for _, begins := range []string{"initiator", "responder", "both"} {
		t.Run(begins, func(t *testing.T) {
			l := newLab(t, 1)
			l.useV1()
			l.establish()
			l.pass(time.Minute)
			spi := l.a.peer().Status().IKE[0].InitiatorSPI
			if begins != "responder" {
				l.a.do(RekeyIKE{})
			}
			if begins != "initiator" {
				l.b.do(RekeyIKE{})
			}
			l.run()
			l.pass(time.Minute)
			l.settled(1)
			if l.a.peer().Status().IKE[0].InitiatorSPI == spi {
				t.Error("the ISAKMP SA is the old one")
			}
			if l.a.count(ChildDown)+l.b.count(ChildDown)+l.a.count(IKEDown)+l.b.count(IKEDown) != 0 || l.a.count(IKEUp) != 1 {
				t.Error(l.transcript.String())
			}
			if begins != "both" {
				l.golden()
			}
		})
	}
}

// With lifetimes both phases are renewed in time, by whoever is first.
func TestV1Lifetimes(t *testing.T) {
	l := newLab(t, 1)
	l.useV1(func(c *Connection) {
		c.Lifetime, c.Children[0].Lifetime.Hard = 10*time.Minute, 4*time.Minute
	})
	l.b.conns[0].Lifetime = 7 * time.Minute // the shorter one counts
	l.b.conns[0].Children[0].Lifetime.Hard = 3 * time.Minute
	l.establish()
	if at := l.a.peer().Status().IKE[0].ExpireAt.Sub(start); at != 7*time.Minute {
		t.Errorf("the ISAKMP SA lives for %v", at)
	}
	if at := l.a.peer().Status().Children[0].ExpireAt.Sub(start); at != 3*time.Minute {
		t.Errorf("the child lives for %v", at)
	}
	l.pass(time.Hour)
	l.quietV1(1)
	if l.a.count(ChildRekeyed) < 15 || l.a.count(IKERekeyed) < 6 || l.a.count(ChildDown)+l.b.count(ChildDown)+l.a.count(IKEDown)+l.b.count(IKEDown) > 0 {
		t.Errorf("%d children and %d ISAKMP SAs rekeyed\n%s", l.a.count(ChildRekeyed), l.a.count(IKERekeyed), l.transcript.String())
	}
}

// quietV1 waits for the end of rekeys that are under way, and checks.
func (l *lab) quietV1(children int) {
	l.t.Helper()
	for range 400 {
		still := true
		for _, e := range []*end{l.a, l.b} {
			st := e.peer().Status()
			still = still && len(st.IKE) == 1 && len(st.Children) == children && len(e.sas) == 2*children
		}
		if still {
			break
		}
		l.pass(time.Second)
	}
	l.settled(children)
}

// TestV1TerminateWhileAuthenticating: the peer may have taken message 5, and the ISAKMP
// SA for established. It is told when message 6 is there.
func TestV1TerminateWhileAuthenticating(t *testing.T) {
	for _, lost := range []bool{false, true} {
		l := newLab(t, 1)
		l.up = false
		l.useV1()
		l.a.initiateV1()
		for range 4 {
			l.deliver(0)
		}
		l.a.do(Terminate{ReasonConfigModify}) // message 5 is under way
		if lost {
			l.take(0)
			l.lose = func(packet) bool { return true }
		}
		l.run()
		l.pass(2 * time.Minute)
		l.a.empty()
		l.b.empty()
		if len(l.a.machines)+len(l.b.machines) != 0 || l.a.count(IKEUp)+l.a.count(Failed) != 0 {
			t.Errorf("lost %t: %d and %d machines, events %+v", lost, len(l.a.machines), len(l.b.machines), l.a.events)
		}
		if n := l.b.count(IKEDown); n != l.b.count(IKEUp) || (n == 1) == lost {
			t.Errorf("lost %t: %+v", lost, l.b.events)
		}
	}
}

// TestV1OrphanExpires: a child whose ISAKMP SA is gone ends as any other does, with its
// policies.
func TestV1OrphanExpires(t *testing.T) {
	l := newLab(t, 1)
	l.useV1()
	l.establish()
	l.up = false
	l.b.machines[0].(*MachineV1).current.inform([]isakmp.Payload{l.b.machines[0].(*MachineV1).current.deletePayload()})
	l.b.do(Probe{})
	l.deliver(0) // the DELETE of the ISAKMP SA alone
	if l.a.peer().Established() || len(l.a.sas) != 2 {
		t.Fatalf("not an orphan: %v", l.a.sas)
	}
	out := slices.IndexFunc(l.a.sas, func(sa ipsec.SA) bool { return sa.Direction == ipsec.Out })
	l.a.do(Expired{ID: l.a.sas[out].ID(), Hard: true})
	if ev := l.a.last(ChildDown); ev.Reason != ReasonChildHardExpiry || len(l.a.policies) != 0 {
		t.Errorf("%+v, %d policies", ev, len(l.a.policies))
	}
}

// TestV1TimersDueAtOnce: a busy host calls late, when both the end of an attempt and the
// repeat of its message are due.
func TestV1TimersDueAtOnce(t *testing.T) {
	for _, end := range []string{"refused", "half-open"} {
		l := newLab(t, 1)
		l.up = false
		l.useV1()
		l.lose = func(packet) bool { return l.now.After(start) }
		l.a.initiateV1()
		l.deliver(0)
		e := l.a
		if end == "half-open" {
			e = l.b
		}
		m := e.machines[0].(*MachineV1)
		s := m.sas[0]
		due := l.now.Add(time.Second)
		if end == "refused" {
			s.remember(&Diagnosis{Reason: ReasonMaxTransmit})
			s.refusedAt = due
		} else {
			s.halfOpenAt = due
		}
		s.flight = s.newFlight([][]byte{{1}})
		s.flight.next = due.Add(time.Millisecond)
		m.Timeout(due.Add(time.Second))
		if s.state != Deleted || s.flight != nil {
			t.Errorf("%s: state %s, flight %v", end, s.state, s.flight)
		}
	}
}

// TestV1ChildBesideAnotherIKESA: what is sent on a child before the peer has message 3 is
// lost; the traffic stays with the other IKE SA for a moment.
func TestV1ChildBesideAnotherIKESA(t *testing.T) {
	l := newLab(t, 1)
	l.up = false
	l.useV1()
	l.a.env.InitialContact = func(*Connection) bool { return false }
	l.a.initiateV1()
	l.run()
	sends := func() bool {
		return slices.ContainsFunc(l.a.sas, func(s ipsec.SA) bool { return s.Direction == ipsec.Out })
	}
	if l.b.count(ChildUp) != 1 || sends() {
		t.Fatalf("sends %t, events %+v", sends(), l.b.events)
	}
	l.pass(2 * sendDelay)
	if !sends() {
		t.Error("it never sends")
	}
}
