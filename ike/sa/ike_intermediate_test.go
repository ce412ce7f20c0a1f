package sa

import (
	"bytes"
	"crypto/mlkem"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// hybrid adds ML-KEM-768 to the key exchanges of a connection.
func hybrid(c *Connection) {
	additional := ipsec.Additional(1, ipsec.GroupMLKEM768)
	c.Proposals[0].Transforms = append(c.Proposals[0].Transforms, additional)
	c.Children[0].Proposals[0].Transforms = append(c.Children[0].Proposals[0].Transforms, additional)
}

// useHybrid gives both ends a connection with ML-KEM-768.
func (l *lab) useHybrid(edit ...func(*Connection)) {
	a := connA()
	hybrid(a)
	for _, e := range edit {
		e(a)
	}
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{mirror(a, "ba")}
}

// TestHybrid sets an IKE SA up with an additional key exchange, and rekeys it and
// its child, at each end.
func TestHybrid(t *testing.T) {
	l := newLab(t, 1)
	l.useHybrid()
	l.establish()
	for _, e := range []*end{l.a, l.b} {
		if got := e.machine().Status().IKE[0].Proposal.Additional(); len(got) != 1 || got[0] != ipsec.GroupMLKEM768 {
			t.Errorf("%s: additional key exchanges %v", e.name, got)
		}
	}
	if !strings.Contains(l.transcript.String(), "IKE_INTERMEDIATE request 1") {
		t.Error("no IKE_INTERMEDIATE")
	}
	for _, e := range []*end{l.a, l.b} {
		e.rekeyChild()
		l.run()
		l.pass(2 * lingerTime)
		l.settled(1)
		e.do(RekeyIKE{})
		l.run()
		l.pass(2 * repeatWindow)
		l.settled(1)
	}
	for _, e := range []*end{l.a, l.b} {
		st := e.machine().Status()
		if len(st.IKE[0].Proposal.Additional()) != 1 || len(st.Children[0].Proposal.Additional()) != 1 {
			t.Errorf("%s: %s and %s", e.name, st.IKE[0].Proposal, st.Children[0].Proposal)
		}
	}
	l.golden()
}

// TestSeveralAdditional has three additional key exchanges, of which the peer may
// leave one out.
func TestSeveralAdditional(t *testing.T) {
	l := newLab(t, 1)
	l.useHybrid(func(c *Connection) {
		for _, p := range []*ipsec.Proposal{&c.Proposals[0], &c.Children[0].Proposals[0]} {
			p.Transforms = append(p.Transforms,
				ipsec.Additional(2, ipsec.GroupECP256), ipsec.Additional(2, ipsec.GroupNone), ipsec.Additional(5, ipsec.GroupECP384))
		}
	})
	b := l.b.conns[0]
	b.Proposals = []ipsec.Proposal{ikeProposal(ipsec.GroupCurve25519)}
	b.Proposals[0].Transforms = append(b.Proposals[0].Transforms,
		ipsec.Additional(1, ipsec.GroupMLKEM768), ipsec.Additional(5, ipsec.GroupECP384))
	l.establish()
	l.b.rekeyChild()
	l.run()
	l.a.do(RekeyIKE{})
	l.run()
	l.pass(2 * repeatWindow)
	l.settled(1)
	want := []uint16{ipsec.GroupMLKEM768, ipsec.GroupECP384}
	if got := l.b.machine().Status().IKE[0].Proposal.Additional(); len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("additional key exchanges %v", got)
	}
	if got := l.a.machine().Status().Children[0].Proposal.Additional(); len(got) != 3 {
		t.Errorf("additional key exchanges of the child %v", got)
	}
}

// TestHybridOverLoss loses each of the first datagrams of the set-up, and of what
// follows, in turn and in pairs.
func TestHybridOverLoss(t *testing.T) {
	for first := range 12 {
		for second := first; second < 12; second++ {
			l := newLab(t, 1)
			l.useHybrid()
			n := 0
			l.lose = func(packet) bool {
				n++
				return n-1 == first || n-1 == second
			}
			l.a.initiate()
			l.pass(time.Minute)
			n = 0
			l.a.rekeyChild()
			l.pass(time.Minute)
			n = 0
			l.b.do(RekeyIKE{})
			l.pass(time.Minute)
			l.settled(1)
			if t.Failed() {
				t.Fatalf("datagrams %d and %d lost", first, second)
			}
		}
	}
}

// TestHybridRefused has peers that do not agree on the additional key exchange.
func TestHybridRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		a, b func(*Connection)
		want string
	}{
		"initiator without": {a: func(*Connection) {}, b: hybrid, want: "additional key exchange 1 in IKE_SA_INIT: ours [ML-KEM-768 (method 36)], theirs [NONE]"},
		"responder without": {a: hybrid, b: func(*Connection) {}, want: "additional key exchange 1 in IKE_SA_INIT: ours [NONE], theirs [ML-KEM-768 (method 36)]"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			a, b := connA(), connB()
			tc.a(a)
			tc.b(b)
			l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
			l.a.initiate()
			l.run()
			if got := l.b.last(Failed).Diagnosis.String(); !strings.Contains(got, tc.want) {
				t.Errorf("got %s", got)
			}
			l.pass(time.Minute)
			l.a.empty()
			l.b.empty()
		})
	}
}

// TestIntermediateNotSupported: a method may be agreed on only with
// INTERMEDIATE_EXCHANGE_SUPPORTED from both.
func TestIntermediateNotSupported(t *testing.T) {
	for _, of := range []string{"request", "response"} {
		t.Run(of, func(t *testing.T) {
			l := newLab(t, 1)
			l.useHybrid()
			l.a.initiate()
			if of == "response" {
				l.deliver(0)
			}
			p := &l.wire[0]
			m, err := wire.Parse(p.d.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			m.Payloads = withoutNotify(m.Payloads, wire.IntermediateSupported)
			if p.d.Bytes, err = m.Append(nil); err != nil {
				t.Fatal(err)
			}
			l.deliver(0)
			l.run()
			e := l.b
			if of == "response" {
				e = l.a
				l.pass(2 * betterAnswer)
			}
			if got := e.last(Failed).Diagnosis.String(); !strings.Contains(got, "IKE_INTERMEDIATE") {
				t.Error(got)
			}
		})
	}
}

func withoutNotify(list []wire.Payload, of wire.NotifyType) (left []wire.Payload) {
	for _, p := range list {
		if n, ok := p.(*wire.Notify); !ok || n.NotifyType != of {
			left = append(left, p)
		}
	}
	return left
}

// TestIntermediateIsAuthenticated: whoever changes IKE_INTERMEDIATE, having broken
// the first key exchange, is found out by AUTH.
func TestIntermediateIsAuthenticated(t *testing.T) {
	for _, of := range []string{"request", "response"} {
		t.Run(of, func(t *testing.T) {
			l := newLab(t, 1)
			l.useHybrid()
			l.tamperIntermediate(of, func(m *wire.Message) {
				m.Payloads = append(m.Payloads, &wire.Notify{NotifyType: 40000})
			})
			l.run()
			if l.a.peersUp() || l.b.peersUp() {
				t.Error("established")
			}
			if got := l.b.last(Failed).Diagnosis.String(); !strings.Contains(got, "pre-shared key") {
				t.Error(got)
			}
		})
	}
}

// tamperIntermediate goes on as far as the request or the response of the first
// IKE_INTERMEDIATE exchange, has it in one piece, and changes it.
func (l *lab) tamperIntermediate(of string, change func(*wire.Message)) {
	l.t.Helper()
	l.a.initiate()
	l.deliver(0)
	l.deliver(0)
	l.b.machine().current.fragmentation = false
	s := l.a.machine().current
	l.wire, s.active.datagrams = nil, [][]byte{l.resealed(s)}
	l.a.perform(l.a.machine().Timeout(s.active.next))
	before := l.ciphers[s.spii]
	if of == "response" {
		l.deliver(0)
	}
	after := l.ciphers[s.spii]
	l.ciphers[s.spii] = before
	l.tamper(change)
	l.ciphers[s.spii] = after
}

// resealed returns the request under way in one piece.
func (l *lab) resealed(s *ikeSA) []byte {
	l.t.Helper()
	x := s.active.exchange.(*ikeIntermediate)
	msg := s.message(wire.IKEIntermediate, false, s.active.id, []wire.Payload{&wire.KE{Group: ipsec.GroupMLKEM768, Data: x.kex.public()}})
	b, err := msg.Seal(s.out)
	if err != nil {
		l.t.Fatal(err)
	}
	return b
}

func (e *end) peersUp() bool {
	for _, m := range e.machines {
		if m.Established() {
			return true
		}
	}
	return false
}

// TestIntermediateOutOfPlace: the exchanges before authentication come in their
// order, and none of them twice.
func TestIntermediateOutOfPlace(t *testing.T) {
	l := newLab(t, 1)
	l.useHybrid()
	l.a.initiate()
	l.deliver(0)
	l.deliver(0)
	l.wire = nil
	s := l.a.machine().current
	auth := s.message(wire.IKEAuth, false, 1, []wire.Payload{connA().LocalID.payload(false)})
	b, err := auth.Seal(s.out)
	if err != nil {
		t.Fatal(err)
	}
	l.inject(b)
	l.run()
	if got := l.b.machine().Drops()["request before authentication"]; got != 1 {
		t.Errorf("%d requests dropped: %v", got, l.b.machine().Drops())
	}
	l.pass(time.Minute)
	l.settled(1)
}

// TestIntermediateRefuses has answers that are protected, and wrong.
func TestIntermediateRefuses(t *testing.T) {
	for name, change := range map[string]func(*wire.Message){
		"error":         only(wire.InvalidSyntax),
		"no KE":         only(40000),
		"other method":  set(&wire.KE{Group: ipsec.GroupECP256, Data: make([]byte, 64)}),
		"short":         set(&wire.KE{Group: ipsec.GroupMLKEM768, Data: make([]byte, 100)}),
		"other payload": func(m *wire.Message) { m.Payloads = append(m.Payloads, &wire.Nonce{Data: make([]byte, 32)}) },
	} {
		for _, of := range []string{"request", "response"} {
			t.Run(name+" "+of, func(t *testing.T) {
				l := newLab(t, 1)
				l.useHybrid()
				l.tamperIntermediate(of, change)
				e := l.b
				if of == "response" {
					e = l.a
				}
				l.deliver(0)
				if d := e.last(Failed).Diagnosis; d == nil || d.Exchange != "IKE_INTERMEDIATE" {
					t.Errorf("diagnosis %v", d)
				}
				l.run()
				l.pass(2 * time.Minute)
				l.b.empty()
			})
		}
	}
}

// TestMLKEMValues has the lengths of FIPS 203 and what it tells to refuse.
func TestMLKEMValues(t *testing.T) {
	kex, err := newKeyExchange(ipsec.GroupMLKEM768, rand.NewChaCha8([32]byte{3}))
	if err != nil {
		t.Fatal(err)
	}
	value, secret, err := answerKeyExchange(ipsec.GroupMLKEM768, nil, kex.public())
	if err != nil {
		t.Fatal(err)
	}
	if len(kex.public()) != 1184 || len(value) != 1088 || len(secret) != 32 {
		t.Errorf("values of %d, %d and %d octets", len(kex.public()), len(value), len(secret))
	}
	got, err := kex.shared(value)
	if err != nil || !bytes.Equal(got, secret) {
		t.Errorf("secrets %x and %x: %v", got, secret, err)
	}
	if _, err := kex.shared(value); err == nil {
		t.Error("the private value is used twice")
	}
	// Coefficients at or above q = 3329 are refused (FIPS 203, section 7.2).
	bad := bytes.Repeat([]byte{0xff}, mlkem.EncapsulationKeySize768)
	for name, peer := range map[string][]byte{"not reduced": bad, "short": bad[1:], "empty": nil} {
		if _, _, err := answerKeyExchange(ipsec.GroupMLKEM768, nil, peer); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
	if _, err := kex.agree(value[1:]); err == nil {
		t.Error("a short ciphertext is not refused")
	}
}
