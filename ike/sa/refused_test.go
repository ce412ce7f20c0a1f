package sa

import (
	"errors"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ipsec"
)

// once returns what refuses the first action that fits.
func once(fits func(Action) bool) func(Action) error {
	done := false
	return func(a Action) error {
		if done || !fits(a) {
			return nil
		}
		done = true
		return errors.New("no such algorithm")
	}
}

func addsSA(d ipsec.Direction) func(Action) bool {
	return func(a Action) bool {
		add, ok := a.(AddSA)
		return ok && add.SA.Direction == d
	}
}

func addsPolicy(d ipsec.Direction) func(Action) bool {
	return func(a Action) bool {
		add, ok := a.(AddPolicy)
		return ok && add.Policy.Direction == d
	}
}

// outbound counts the SAs that send.
func (e *end) outbound() int {
	n := 0
	for _, sa := range e.sas {
		if sa.Direction == ipsec.Out {
			n++
		}
	}
	return n
}

// TestDataPlaneRefuses: a child that the data plane takes in part only is removed
// whole, at both ends, and is tried again. The IKE SA stands.
func TestDataPlaneRefuses(t *testing.T) {
	for name, fits := range map[string]func(Action) bool{
		"inbound": addsSA(ipsec.In), "outbound": addsSA(ipsec.Out),
		"inbound policy": addsPolicy(ipsec.In), "outbound policy": addsPolicy(ipsec.Out),
		"all": func(a Action) bool {
			_, ok := a.(AddSA)
			return ok
		},
	} {
		for _, of := range []string{"a", "b"} {
			t.Run(name+" of "+of, func(t *testing.T) {
				l := newLab(t, 1)
				l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{connB()}
				e := l.a
				if of == "b" {
					e = l.b
				}
				refuse := once(fits)
				if name == "all" {
					refuse = func(a Action) error {
						if fits(a) {
							return errors.New("no such algorithm")
						}
						return nil
					}
				}
				e.refuse = refuse
				l.a.initiate()
				l.run()
				for _, e := range []*end{l.a, l.b} {
					if len(e.machine().Status().Children)+e.outbound()+len(e.policies) != 0 {
						t.Errorf("%s: left %v and %v", e.name, e.sas, e.policies)
					}
				}
				if l.a.count(IKEUp) != 1 || l.b.count(IKEUp) != 1 || e.count(ChildUp)+e.count(ChildDown) != 0 {
					t.Error(l.transcript.String())
				}
				ev := e.last(Failed)
				if ev.Reason != ReasonDataPlane || ev.Child != "net" || ev.Diagnosis.Detail != "no such algorithm" || !ev.Established {
					t.Errorf("%+v", ev)
				}
				if name == "all" {
					l.pass(5 * time.Minute)
					if n := e.count(Failed); n < 3 || n > 10 {
						t.Errorf("tried %d times in five minutes", n)
					}
					e.refuse = nil
				}
				l.pass(5 * time.Minute)
				l.settled(1)
				l.up = true
				l.checkTraffic()
			})
		}
	}
}

// TestDataPlaneRefusesARekey: the child that is rekeyed goes on, without a gap,
// and another rekey follows.
func TestDataPlaneRefusesARekey(t *testing.T) {
	for name, tc := range map[string]struct {
		fits func(Action) bool
		of   string
	}{
		"inbound of the initiator":  {addsSA(ipsec.In), "a"},
		"outbound of the initiator": {addsSA(ipsec.Out), "a"},
		"inbound of the responder":  {addsSA(ipsec.In), "b"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			l.establish()
			e := l.a
			if tc.of == "b" {
				e = l.b
			}
			e.refuse = once(tc.fits)
			l.a.rekeyChild()
			l.run()
			if l.a.outbound() != 1 || l.b.outbound() != 1 {
				t.Errorf("%d and %d outbound SAs", l.a.outbound(), l.b.outbound())
			}
			if l.a.count(ChildDown)+l.b.count(ChildDown)+l.a.count(ChildRekeyed) != 0 || e.count(Failed) != 1 {
				t.Error(l.transcript.String())
			}
			l.pass(5 * time.Minute)
			l.settled(1)
			if l.a.count(ChildRekeyed) != 1 || l.b.count(ChildRekeyed) != 1 || l.a.count(ChildDown)+l.b.count(ChildDown) != 0 {
				t.Error(l.transcript.String())
			}
		})
	}
}

// TestDataPlaneRefusesLate: a responder cannot send on the SA that has followed
// another one, which the peer has deleted by then. The child is set up anew.
func TestDataPlaneRefusesLate(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	l.b.refuse = once(addsSA(ipsec.Out))
	l.a.rekeyChild()
	l.run()
	if l.b.count(Failed) != 1 || l.b.count(ChildDown) != 1 {
		t.Error(l.transcript.String())
	}
	l.pass(5 * time.Minute)
	l.settled(1)
	l.up = true
	l.checkTraffic()
}

// TestDataPlaneRefusesBesideRival: both ends rekey a child, and one cannot
// install what comes of it.
func TestDataPlaneRefusesBesideRival(t *testing.T) {
	for seed := range uint64(8) {
		for _, direction := range []ipsec.Direction{ipsec.In, ipsec.Out} {
			l := newLab(t, seed)
			l.establish()
			l.up = false
			l.a.refuse = once(addsSA(direction))
			l.a.rekeyChild()
			l.b.rekeyChild()
			l.pass(10 * time.Minute)
			l.settled(1)
			l.up = true
			l.checkTraffic()
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}
