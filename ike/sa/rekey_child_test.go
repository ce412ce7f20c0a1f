package sa

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ipsec"
)

// rekeyChild begins a rekey of the child at one end.
func (e *end) rekeyChild() {
	e.lab.t.Helper()
	e.lab.say(e.name + " rekeys the child")
	e.do(RekeyChild{ReqID: e.conns[0].Children[0].ReqID})
}

// find returns the position on the wire of the first packet from an end.
func (l *lab) from(e *end) int {
	l.t.Helper()
	for i, p := range l.wire {
		if p.from == e {
			return i
		}
	}
	l.t.Fatalf("nothing from %s is on the wire:\n%s", e.name, l.transcript.String())
	return -1
}

func TestRekeyChild(t *testing.T) {
	for _, who := range []string{"initiator", "responder"} {
		t.Run(who, func(t *testing.T) {
			l := newLab(t, 1)
			l.establish()
			l.transcript.Reset()
			e := l.a
			if who == "responder" {
				e = l.b
			}
			e.rekeyChild()
			l.run()
			l.say("some seconds later")
			l.pass(2 * lingerTime)
			l.settled(1)
			l.golden()
			if l.a.count(ChildRekeyed) != 1 || l.b.count(ChildRekeyed) != 1 || l.a.count(ChildDown)+l.b.count(ChildDown) != 0 {
				t.Error("events", l.a.events, l.b.events)
			}
		})
	}
}

// TestRekeyChildSimultaneous has both ends rekey the child at once, for several
// seeds, so that each end wins in some, and with all orders of the four messages
// of the two exchanges (RFC 7296, section 2.8.1).
func TestRekeyChildSimultaneous(t *testing.T) {
	for _, order := range []string{"abab", "abba", "baab", "baba"} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("%s/%d", order, seed), func(t *testing.T) {
				l := newLab(t, seed)
				l.establish()
				l.transcript.Reset()
				l.a.rekeyChild()
				l.b.rekeyChild()
				for _, who := range order {
					if who == 'a' {
						l.deliver(l.from(l.a))
					} else {
						l.deliver(l.from(l.b))
					}
				}
				l.run()
				l.pass(2 * lingerTime)
				l.settled(1)
				if l.a.count(ChildDown)+l.b.count(ChildDown) != 0 {
					t.Error("a child went down")
				}
				if order == "abab" && (seed == 1 || seed == 2) { // a wins, b wins
					l.golden()
				}
			})
		}
	}
}

// TestRekeyChildSimultaneousLoss has the request of one end lost, so that only
// the other one knows of the collision (RFC 7296, section 2.8.1, second case).
func TestRekeyChildSimultaneousLoss(t *testing.T) {
	for seed := range uint64(4) {
		l := newLab(t, seed)
		l.establish()
		l.transcript.Reset()
		l.a.rekeyChild()
		l.b.rekeyChild()
		l.drop(l.from(l.a))
		l.run()
		l.pass(time.Minute) // with the repeats
		l.settled(1)
		if seed == 0 {
			l.golden()
		}
	}
}

// TestRekeyChildAnswerLost has the answers of a collision lost in all ways.
func TestRekeyChildAnswerLost(t *testing.T) {
	for mask := range 16 {
		for seed := range uint64(2) {
			l := newLab(t, seed)
			l.establish()
			l.transcript.Reset()
			l.a.rekeyChild()
			l.b.rekeyChild()
			n := 0
			l.lose = func(packet) bool {
				n++
				return n <= 4 && mask>>(n-1)&1 == 1
			}
			l.run()
			l.pass(time.Minute)
			l.settled(1)
			if t.Failed() {
				t.Fatalf("with mask %04b and seed %d", mask, seed)
			}
		}
	}
}

// TestRekeyChildWhileDeleted: the peer deletes the child that we are rekeying.
func TestRekeyChildWhileDeleted(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	l.transcript.Reset()
	l.a.rekeyChild()
	l.say("b deletes the child")
	m := l.b.machine()
	m.deleteChild(m.children[0], ReasonConfigModify, nil)
	l.b.perform(m.finish())
	l.deliver(l.from(l.b)) // the DELETE first
	l.run()
	l.pass(time.Minute)
	l.settled(1)
	l.golden()
}

// TestRekeyChildNotFound: a child that the peer no longer has is made anew.
func TestRekeyChildNotFound(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	m := l.b.machine()
	m.children[0].remove(false)
	m.lost(m.children[0], ReasonPeerRequest, nil)
	l.b.perform(m.finish())
	l.transcript.Reset()
	l.a.rekeyChild()
	l.run()
	l.pass(time.Minute)
	l.settled(1)
	l.golden()
}

// TestDeleteChildCrossed: both ends delete the child at once.
func TestDeleteChildCrossed(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	l.transcript.Reset()
	for _, e := range []*end{l.a, l.b} {
		l.say(e.name + " deletes the child")
		m := e.machine()
		m.slots[0].removed = true
		m.deleteChild(m.children[0], ReasonConfigModify, nil)
		e.perform(m.finish())
	}
	l.run()
	l.pass(2 * lingerTime)
	l.a.empty()
	l.b.empty()
	l.golden()
}

// TestRekeyChildDuringIKERekey: each refuses the other for the moment.
func TestRekeyChildDuringIKERekey(t *testing.T) {
	for seed := range uint64(4) {
		l := newLab(t, seed)
		l.establish()
		l.transcript.Reset()
		l.a.rekeyChild()
		l.say("b rekeys the IKE SA")
		l.b.do(RekeyIKE{})
		l.run()
		l.pass(time.Minute)
		l.settled(1)
		if l.a.count(ChildRekeyed) == 0 || l.a.count(IKERekeyed) == 0 {
			t.Error("a rekey did not happen:\n" + l.transcript.String())
		}
		if seed == 0 {
			l.golden()
		}
	}
}

// TestRekeyChildOtherGroup: the peer wants another group of those on offer.
func TestRekeyChildOtherGroup(t *testing.T) {
	l := newLab(t, 1)
	a, b := connA(), connB()
	a.Children[0].Proposals[0] = espProposal(31, 19)
	b.Children[0].Proposals[0] = espProposal(19)
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.establish()
	l.transcript.Reset()
	l.a.rekeyChild()
	l.run()
	l.pass(2 * lingerTime)
	l.settled(1)
	l.say("the next rekey keeps the group")
	l.a.rekeyChild()
	l.run()
	l.pass(2 * lingerTime)
	l.settled(1)
	l.golden()
}

// TestRekeyByLimits: time, octets and a hard end.
func TestRekeyByLimits(t *testing.T) {
	l := newLab(t, 1)
	a, b := connA(), connB()
	a.Children[0].Lifetime.Hard = time.Hour
	b.Children[0].Lifetime.Hard = time.Hour
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.establish()
	l.pass(75*time.Minute - 22*time.Minute)
	l.settled(1)
	if n := l.a.count(ChildRekeyed); n != 1 {
		t.Errorf("rekeyed %d times by time", n)
	}
	if ev := l.a.last(ChildRekeyed); !ev.Initiator {
		t.Error("the responder rekeyed first")
	}
	l.a.do(Expired{ID: l.a.sas[1].ID()})
	l.run()
	l.pass(2 * lingerTime)
	l.settled(1)
	if n := l.a.count(ChildRekeyed); n != 2 {
		t.Errorf("rekeyed %d times by octets", n)
	}
	l.up = false // a hard end is a gap
	l.b.do(Expired{ID: l.b.sas[0].ID(), Hard: true})
	l.pass(2 * lingerTime)
	l.settled(1)
	if ev := l.b.last(ChildDown); ev.Reason != ReasonChildHardExpiry {
		t.Errorf("down for %q", ev.Reason)
	}
}

// TestRekeyChildWithoutSPI: what a rekey needs is not to be had just then. It is
// tried again before the child's life ends.
func TestRekeyChildWithoutSPI(t *testing.T) {
	l := newLab(t, 1)
	a, b := connA(), connB()
	a.Children[0].Lifetime.Hard = 10 * time.Minute
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.establish()
	alloc := l.a.env.AllocSPI
	l.a.env.AllocSPI = func(netip.Addr) (ipsec.SPI, error) {
		l.a.env.AllocSPI = alloc
		return 0, errors.New("none is free")
	}
	l.pass(a.Children[0].Lifetime.Hard + time.Minute)
	if l.a.count(Failed) != 1 || l.a.count(ChildRekeyed) == 0 || l.a.count(ChildDown) != 0 {
		t.Error(l.transcript.String())
	}
}

// TestLateDelete: the peer never deletes the old child; traffic on the new one
// shows that it may be used, and in the end we delete the old one.
func TestLateDelete(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.transcript.Reset()
	l.a.rekeyChild()
	l.deliver(0) // request
	l.deliver(0) // response; a sends on the new SA now
	l.lose = func(p packet) bool { return p.from == l.a }
	l.pass(2 * probeInterval)
	if st := l.b.machine().Status(); st.Children[1].State != Established {
		t.Errorf("b does not use the new child: %+v", st.Children)
	}
	l.lose = nil
	l.pass(time.Minute)
	l.settled(1)
}

// TestRekeyOvertakesAnswer: the peer rekeys a child of which our request has not
// brought the answer yet. It is not to take it for lost.
func TestRekeyOvertakesAnswer(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.transcript.Reset()
	l.a.rekeyChild()
	l.deliver(0)                       // the answer is late
	l.b.machine().children[1].addOut() // as when the peer's packets come
	l.b.machine().children[0].awaitDelete()
	l.b.machine().children[1].rekeyDue()
	l.b.perform(l.b.machine().finish())
	l.up = false // what b sends is not complete at a yet
	l.deliver(1)
	l.run()
	l.up = true
	l.pass(time.Minute)
	l.settled(1)
	if l.a.count(ChildDown)+l.b.count(ChildDown) != 0 {
		t.Error("a child went down:\n" + l.transcript.String())
	}
}

// TestDeleteOvertakesAnswer: the peer deletes a child of which our request has not
// brought the answer yet. It is not to be used when the answer comes.
func TestDeleteOvertakesAnswer(t *testing.T) {
	for _, rekey := range []bool{false, true} {
		l := newLab(t, 1)
		l.establish()
		l.up = false
		l.transcript.Reset()
		if rekey {
			l.a.rekeyChild()
		} else {
			l.a.do(Expired{ID: l.a.sas[1].ID(), Hard: true})
			l.run()
			l.now = l.a.machine().Deadline()
			l.tick() // it is set up again
		}
		l.deliver(0) // the answer is late
		m := l.b.machine()
		m.deleteChild(m.children[len(m.children)-1], ReasonChildHardExpiry, nil)
		l.b.perform(m.finish())
		l.deliver(1)
		l.run()
		l.pass(time.Minute)
		l.settled(1)
	}
}
