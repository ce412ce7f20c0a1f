package sa

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func (e *end) rekeyIKE() {
	e.lab.t.Helper()
	e.lab.say(e.name + " rekeys the IKE SA")
	e.do(RekeyIKE{})
}

func TestRekeyIKE(t *testing.T) {
	for _, who := range []string{"initiator", "responder"} {
		t.Run(who, func(t *testing.T) {
			l := newLab(t, 1)
			l.establish()
			l.transcript.Reset()
			e := l.a
			if who == "responder" {
				e = l.b
			}
			before := e.machine().SPIs()
			e.rekeyIKE()
			l.run()
			l.say("some seconds later")
			l.pass(2 * repeatWindow)
			l.settled(1)
			l.golden()
			if after := e.machine().SPIs(); len(after) != 1 || after[0] == before[0] {
				t.Errorf("SPIs %x, then %x", before, after)
			}
			for _, e := range []*end{l.a, l.b} {
				if e.count(IKERekeyed) != 1 || e.count(IKEDown) != 0 || e.count(ChildDown) != 0 {
					t.Errorf("%s: %+v", e.name, e.events)
				}
			}
			// The new SA works, in both directions, from message id zero.
			l.a.rekeyChild()
			l.run()
			l.b.rekeyChild()
			l.run()
			l.pass(2 * lingerTime)
			l.settled(1)
		})
	}
}

// TestRekeyIKESimultaneous has both ends rekey the IKE SA at once, with each
// end winning in some, in all orders of the messages (RFC 7296, section 2.8.2).
func TestRekeyIKESimultaneous(t *testing.T) {
	for _, order := range []string{"abab", "abba", "baab", "baba"} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("%s/%d", order, seed), func(t *testing.T) {
				l := newLab(t, seed)
				l.establish()
				l.transcript.Reset()
				l.a.rekeyIKE()
				l.b.rekeyIKE()
				for _, who := range order {
					if who == 'a' {
						l.deliver(l.from(l.a))
					} else {
						l.deliver(l.from(l.b))
					}
				}
				l.run()
				l.pass(2 * repeatWindow)
				l.settled(1)
				if l.a.count(IKEDown)+l.b.count(IKEDown)+l.a.count(ChildDown)+l.b.count(ChildDown) != 0 {
					t.Error("something went down")
				}
				l.a.rekeyChild()
				l.run()
				l.b.rekeyChild()
				l.run()
				l.pass(2 * lingerTime)
				l.settled(1)
				if order == "abab" && seed < 2 {
					l.golden()
				}
			})
		}
	}
}

// TestRekeyIKELost loses each of the first messages of a collision, in all ways.
func TestRekeyIKELost(t *testing.T) {
	for mask := range 64 {
		for seed := range uint64(2) {
			l := newLab(t, seed)
			l.establish()
			l.transcript.Reset()
			l.a.rekeyIKE()
			l.b.rekeyIKE()
			n := 0
			l.lose = func(packet) bool {
				n++
				return n <= 6 && mask>>(n-1)&1 == 1
			}
			l.run()
			l.pass(5 * time.Minute)
			l.settled(1)
			if l.a.count(IKEDown)+l.b.count(IKEDown) != 0 {
				t.Error("something went down")
			}
			if t.Failed() {
				t.Fatalf("with mask %06b and seed %d:\n%s", mask, seed, l.transcript.String())
			}
		}
	}
}

// TestRekeyIKEThenChild: what waits in the queue goes to the new IKE SA.
func TestRekeyIKEThenChild(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.transcript.Reset()
	l.a.rekeyIKE()
	l.a.rekeyChild()
	l.run()
	l.pass(2 * repeatWindow)
	l.settled(1)
	l.golden()
}

// TestRekeyIKEByTime runs for a day with an IKE SA that lives for an hour.
func TestRekeyIKEByTime(t *testing.T) {
	l := newLab(t, 1)
	a, b := connA(), connB()
	a.Lifetime, b.Lifetime = time.Hour, 2*time.Hour
	a.Children[0].Lifetime.Hard, b.Children[0].Lifetime.Hard = 20*time.Minute, 30*time.Minute
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.establish()
	l.pass(24 * time.Hour)
	l.settled(1)
	if n := l.a.count(IKERekeyed); n < 24 || n > 36 {
		t.Errorf("%d rekeys of the IKE SA in a day", n)
	}
	if l.a.count(IKEDown)+l.b.count(IKEDown)+l.a.count(ChildDown)+l.b.count(ChildDown) != 0 {
		t.Error("something went down")
	}
}

// TestRekeyIKERefused: the old IKE SA stays, the rekey is tried again, and at
// the end of its life the SA goes.
func TestRekeyIKERefused(t *testing.T) {
	l := newLab(t, 1)
	a, b := connA(), connB()
	a.Lifetime = time.Hour
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.establish()
	changed := connB()
	changed.Proposals[0] = ikeProposal(19)
	l.b.do(Update{changed})
	l.pass(55 * time.Minute)
	l.settled(1)
	if d := l.b.last(Failed); d.Reason != ReasonRekeyFail || d.Diagnosis.Parameter != "DH group" || !d.Established {
		t.Errorf("responder: %v", d.Diagnosis)
	}
	if d := l.a.last(Failed); d.Reason != ReasonRekeyFail || !d.Established {
		t.Errorf("initiator: %v", d.Diagnosis)
	}
	l.up = false
	l.pass(10 * time.Minute)
	if ev := l.a.last(IKEDown); ev.Reason != ReasonIKEHardExpiry {
		t.Errorf("down for %q", ev.Reason)
	}
	if len(l.a.machines)+len(l.b.machines) != 0 {
		t.Error("a machine goes on")
	}
	l.a.empty()
	l.b.empty()
}

// TestRekeyIKEOtherGroup: the peer wants another group of those on offer.
func TestRekeyIKEOtherGroup(t *testing.T) {
	l := newLab(t, 1)
	a, b := connA(), connB()
	a.Proposals[0].Transforms = append(a.Proposals[0].Transforms, ikeProposal(19).Of(4)...)
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.establish()
	changed := connB()
	changed.Proposals[0] = ikeProposal(19)
	l.b.do(Update{changed})
	l.transcript.Reset()
	l.a.rekeyIKE()
	l.run()
	l.pass(2 * repeatWindow)
	l.settled(1)
	l.golden()
}

// TestDeleteWhileRekeyingIKE: the peer ends everything while we rekey.
func TestDeleteWhileRekeyingIKE(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	l.transcript.Reset()
	l.a.rekeyIKE()
	l.say("b terminates")
	l.b.do(Terminate{ReasonConfigModify})
	l.deliver(l.from(l.b))
	l.run()
	l.pass(time.Minute)
	l.golden()
	if len(l.a.machines)+len(l.b.machines) != 0 {
		t.Error("a machine goes on")
	}
	l.a.empty()
	l.b.empty()
}

// TestRekeyIKETwiceByPeer: while our own rekey waits, the peer rekeys the IKE SA,
// rekeys what came of that, and deletes the first two in the other order.
func TestRekeyIKETwiceByPeer(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.a.do(RekeyIKE{})
	l.b.do(RekeyIKE{})
	l.deliver(1) // the peer's request
	l.deliver(1) // and our answer, upon which it deletes the first IKE SA
	l.b.do(RekeyIKE{})
	for range 4 {
		l.deliver(2) // the second rekey, and the DELETE of what the first one made
	}
	l.deliver(1) // the DELETE of the first IKE SA
	l.run()
	l.settled(1)
	if l.a.count(IKEDown)+l.b.count(IKEDown) != 0 {
		t.Error(l.transcript.String())
	}
}

// TestRekeyIKEIsBounded: a peer that rekeys the IKE SA all the time is refused
// for a while.
func TestRekeyIKEIsBounded(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	for range 3 * maxIKE {
		l.a.do(RekeyIKE{})
		l.run()
		if n := len(l.b.machine().ikes); n > maxIKE {
			t.Fatalf("%d IKE SAs", n)
		}
	}
	if l.a.count(Failed) == 0 {
		t.Error("never refused")
	}
	l.pass(time.Minute)
	l.settled(1)
}

// TestRekeyIKEForgottenByPeer: the peer deletes the old IKE SA before it has our
// answer to its own rekey, of which it then never hears. What came of that rekey
// goes soon.
func TestRekeyIKEForgottenByPeer(t *testing.T) {
	for seed := range uint64(4) {
		l := newLab(t, seed)
		l.establish()
		l.a.rekeyIKE()
		l.b.rekeyIKE()
		l.transcript.Reset()
		l.deliver(l.from(l.b)) // b's rekey
		var late packet
		for i, p := range l.wire {
			if p.from == l.a && strings.Contains(l.header(p.d.Bytes), "response") {
				late = l.take(i)
				break
			}
		}
		l.run() // a's rekey
		l.wire = append(l.wire, late)
		l.run()
		l.pass(time.Minute)
		l.settled(1)
	}
}
