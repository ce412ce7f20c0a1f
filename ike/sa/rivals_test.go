package sa

import (
	"slices"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ipsec"
)

// Whatever the order in which two ends have seen two IKE SAs, both must keep
// the same one.
func TestBothEndsKeepTheSameSA(t *testing.T) {
	start := time.Unix(1e9, 0)
	type seen struct{ a, b time.Duration } // when each IKE SA was up, at one end
	const handshake = time.Second
	tests := []struct {
		name           string
		aContact       bool // the first carried INITIAL_CONTACT
		bContact       bool
		aSPI, bSPI     uint64
		one, other     seen
		wantA          bool
		sameInitiators bool
	}{
		{name: "crossed, lower SPI", aSPI: 1, bSPI: 2, one: seen{0, 1}, other: seen{1, 0}, wantA: true},
		{name: "crossed, the other way", aSPI: 9, bSPI: 2, one: seen{0, 1}, other: seen{1, 0}},
		{name: "crossed, high bit", aSPI: 1 << 63, bSPI: 2, one: seen{0, 1}, other: seen{0, 1}},
		{name: "crossed, one cleared the other", bContact: true, aSPI: 1, bSPI: 2, one: seen{0, 1}, other: seen{1, 0}},
		{name: "crossed, both alone", aContact: true, bContact: true, aSPI: 1, bSPI: 2, one: seen{0, 1}, other: seen{1, 0}, wantA: true},
		{name: "later replaces", aContact: true, aSPI: 1, bSPI: 2, one: seen{0, crossing + handshake}, other: seen{0, crossing + handshake + 1}},
		{name: "one end began both", sameInitiators: true, aSPI: 1, bSPI: 2, one: seen{0, 1}, other: seen{0, 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for end, when := range []seen{tt.one, tt.other} {
				weBeganA := end == 0
				weBeganB := weBeganA == tt.sameInitiators
				a := Contact{Begun: start.Add(when.a - handshake), At: start.Add(when.a), SPI: tt.aSPI, Initiator: weBeganA, InitialContact: tt.aContact}
				b := Contact{Begun: start.Add(when.b - handshake), At: start.Add(when.b), SPI: tt.bSPI, Initiator: weBeganB, InitialContact: tt.bContact}
				if got := a.supersedes(b); got != tt.wantA {
					t.Errorf("end %d keeps the first: %v", end, got)
				}
				if a.supersedes(b) == b.supersedes(a) {
					t.Errorf("end %d cannot decide", end)
				}
			}
		})
	}
}

// What a rival is told and what comes of it, step by step.
func TestRivalsReview(t *testing.T) {
	begin := time.Unix(1e9, 0)
	at := func(seconds int) time.Time { return begin.Add(time.Duration(seconds) * time.Second) }
	up := func(r *Rival, begun, when, seen int, initiator bool, children int) {
		st := Status{
			Contact: Contact{Begun: at(begun), At: at(when), SPI: uint64(when), Initiator: initiator},
			IKE:     []IKEStatus{{Version: 2, ResponderSPI: 1, Confirmed: at(seen)}},
		}
		for range children {
			st.Children = append(st.Children, ChildStatus{State: Established, Established: at(when)})
		}
		r.Observe(&st)
	}
	old, next := &Rival{}, &Rival{}
	all := Rivals{old, next}
	up(old, 0, 1, 1, true, 1)
	next.Begin(at(100))
	if !all.Attempting() || all.Alone(next) || all.Best() != old {
		t.Fatal("an attempt beside an IKE SA")
	}
	if v := all.Review(at(200), 1); len(v.End) != 0 || !v.Again.IsZero() {
		t.Errorf("an attempt that is to replace what stands: %+v", v)
	}
	up(next, 100, 101, 101, true, 0)
	if v := all.Review(at(101), 1); all.Best() != next || !slices.Equal(v.Probe, []*Rival{next}) || len(v.End) != 0 {
		t.Errorf("without a sign of life: %+v", v)
	}
	if v := all.Review(at(102), 1); v.Probe != nil {
		t.Errorf("asked for again: %+v", v)
	}
	up(next, 100, 101, 102, true, 0)
	if v := all.Review(at(102), 1); len(v.End) != 0 || !v.Again.IsZero() {
		t.Errorf("without its child: %+v", v)
	}
	up(next, 100, 101, 102, true, 1)
	if v := all.Review(at(102), 1); len(v.End) != 0 || !v.Again.Equal(at(101).Add(flightGrace)) {
		t.Errorf("packets are under way: %+v", v)
	}
	if v := all.Review(at(103), 1); len(v.End) != 1 || v.End[0] != old || !old.Ending {
		t.Errorf("complete: %+v", v)
	}
	if v := all.Review(at(104), 1); len(v.End) != 0 {
		t.Errorf("ended twice: %+v", v)
	}
}

// A responder waits with a replacement until its own cannot be taken for one that
// has crossed it, and nothing begins beside an attempt.
func TestRivalsReplace(t *testing.T) {
	begin := time.Unix(1e9, 0)
	for _, initiator := range []bool{true, false} {
		r := &Rival{}
		r.Observe(&Status{Contact: Contact{Begun: begin, At: begin, Initiator: initiator}, IKE: []IKEStatus{{Version: 2}}})
		now := begin.Add(time.Second)
		r.Replace(now)
		v := Rivals{r}.Review(now, 1)
		if v.Begin != initiator {
			t.Fatalf("initiator %t: %+v", initiator, v)
		}
		if !initiator {
			if now = v.Again; !now.Equal(begin.Add(2*crossing)) || !(Rivals{r}).Review(now, 1).Begin {
				t.Errorf("at %s", now)
			}
		}
		if v := (Rivals{r}).Review(now, 1); v.Begin || !v.Again.IsZero() {
			t.Errorf("begun twice: %+v", v)
		}
		attempt := &Rival{}
		attempt.Begin(now)
		r.Replace(now.Add(time.Minute))
		if v := (Rivals{r, attempt}).Review(now.Add(time.Minute), 1); v.Begin {
			t.Error("begun beside an attempt")
		}
	}
}

// A child of the better IKE SA that was deleted does not keep the worse one, which has its
// own still; nor does one that is being rekeyed count for two.
func TestDeletedChildKeepsNoIKESA(t *testing.T) {
	begin := time.Unix(1e9, 0)
	observe := func(r *Rival, at time.Time, reqIDs ...uint32) {
		st := Status{Contact: Contact{Begun: at, At: at, Initiator: true}, IKE: []IKEStatus{{Version: 2, ResponderSPI: 1, Confirmed: at.Add(time.Second)}}}
		for _, id := range reqIDs {
			st.Children = append(st.Children, ChildStatus{ReqID: id, State: Established, Established: at})
		}
		r.Observe(&st)
	}
	worse, best := &Rival{}, &Rival{}
	all := Rivals{worse, best}
	observe(worse, begin, 1, 2)
	next := begin.Add(time.Minute)
	observe(best, next, 1, 1)
	now := next.Add(flightGrace)
	if v := all.Review(now, 2); len(v.End) != 0 {
		t.Fatalf("one of two children is there: %+v", v)
	}
	observe(best, next, 1, 2)
	observe(best, next)
	if v := all.Review(now, 2); !slices.Equal(v.End, []*Rival{worse}) {
		t.Errorf("all were there: %+v", v)
	}
}

// Who has not begun the better IKE SA leaves the worse one to the other end, but for
// less than the authentication holds.
func TestGraceShrinksWithTheLifetime(t *testing.T) {
	begin := time.Unix(1e9, 0)
	for _, tt := range []struct {
		name      string
		initiator bool
		life      time.Duration
		want      time.Duration
	}{
		{"for ever", false, 0, replacedGrace},
		{"an hour", false, time.Hour, replacedGrace},
		{"a minute", false, time.Minute, 15 * time.Second},
		{"twelve seconds", false, 12 * time.Second, 3 * time.Second},
		{"packets are under way", false, time.Second, flightGrace},
		{"our own", true, 12 * time.Second, flightGrace},
	} {
		t.Run(tt.name, func(t *testing.T) {
			worse, best := &Rival{}, &Rival{}
			for i, r := range []*Rival{worse, best} {
				at := begin.Add(time.Duration(i) * time.Minute)
				r.Observe(&Status{
					Contact:  Contact{Begun: at, At: at, Initiator: tt.initiator, Lifetime: tt.life},
					Children: []ChildStatus{{State: Established, Established: at}},
					IKE:      []IKEStatus{{Version: 2, ResponderSPI: 1, Confirmed: at.Add(time.Second)}},
				})
			}
			ends := best.contact.At.Add(tt.want)
			if v := (Rivals{worse, best}).Review(ends.Add(-1), 1); len(v.End) != 0 || !v.Again.Equal(ends) {
				t.Errorf("just before: %+v", v)
			}
			if v := (Rivals{worse, best}).Review(ends, 1); !slices.Equal(v.End, []*Rival{worse}) {
				t.Errorf("after %s: %+v", tt.want, v)
			}
		})
	}
}

// Each end has the lifetime of its own configuration, also once that has changed.
func TestContactHasTheLifetime(t *testing.T) {
	const life = 12 * time.Second
	l := newLab(t, 1)
	l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{connB()}
	l.b.conns[0].AuthLifetime = life
	l.establish()
	check := func(e *end, want time.Duration) {
		t.Helper()
		if got := e.machines[0].Status().Contact.Lifetime; got != want {
			t.Errorf("%s: %s, want %s", e.name, got, want)
		}
	}
	check(l.a, 0)
	check(l.b, life)
	next := *l.b.conns[0]
	next.AuthLifetime = 2 * life
	l.b.do(Update{Connection: &next})
	check(l.b, 2*life)
}

// A responder leaves traffic to the IKE SA that stands until the peer is known to have
// the child of the new one: the answer that tells of it may be lost.
func TestResponderWaitsBesideAnotherIKESA(t *testing.T) {
	outbound := func(e *end) (n int) {
		for _, sa := range e.sas {
			if sa.Direction == ipsec.Out {
				n++
			}
		}
		return n
	}
	for name, shown := range map[string]func(l *lab){
		"by a request of the peer": func(l *lab) { l.a.perform(l.a.machines[1].Do(l.now, Probe{})) },
		"by an answer of the peer": func(l *lab) { l.b.perform(l.b.machines[1].Do(l.now, Probe{})) },
		"when packets wait":        func(l *lab) { l.b.perform(l.b.machines[1].Do(l.now, Acquire{ReqID: 101})) },
		"when it is the only one": func(l *lab) {
			l.b.env.InitialContact = func(*Connection) bool { return true }
			l.pass(probeInterval)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			l.establish()
			l.up = false
			another := func(*Connection) bool { return false }
			l.a.env.InitialContact, l.b.env.InitialContact = another, another
			l.a.initiate()
			for range 3 {
				l.deliver(0) // to the request of IKE_AUTH
			}
			if len(l.b.sas) != 3 || outbound(l.b) != 1 {
				t.Fatalf("before the peer has the answer: %v", l.b.sas)
			}
			l.run()
			if outbound(l.b) != 1 {
				t.Fatal("the answer may be lost")
			}
			shown(l)
			l.run()
			if outbound(l.b) != 2 {
				t.Errorf("it does not send: %v", l.b.sas)
			}
		})
	}
}

// What the peer may not have yet is left to be, and asked whether it is there, until
// that cannot be any more.
func TestRivalsWaitForThePeer(t *testing.T) {
	begin := time.Unix(1e9, 0)
	worse, best := &Rival{}, &Rival{}
	worse.Observe(&Status{Contact: Contact{Begun: begin, At: begin, SPI: 2}, IKE: []IKEStatus{{Version: 2, ResponderSPI: 1}}})
	best.Observe(&Status{
		Contact: Contact{Begun: begin, At: begin, SPI: 1, Initiator: true}, Children: []ChildStatus{{State: Established}},
		IKE: []IKEStatus{{Version: 2, ResponderSPI: 1, Confirmed: begin.Add(time.Second)}},
	})
	all := Rivals{worse, best}
	now := begin.Add(time.Minute)
	if v := all.Review(now, 1); len(v.End) != 0 || !slices.Equal(v.Probe, []*Rival{worse}) || !v.Again.Equal(begin.Add(contactDelay)) {
		t.Errorf("not confirmed: %+v", v)
	}
	if v := all.Review(now, 1); len(v.End)+len(v.Probe) != 0 {
		t.Errorf("asked for again: %+v", v)
	}
	if v := all.Review(begin.Add(contactDelay), 1); !slices.Equal(v.End, []*Rival{worse}) {
		t.Errorf("after %s: %+v", contactDelay, v)
	}
	worse.Ending, worse.confirmed = false, now
	if v := all.Review(now, 1); !slices.Equal(v.End, []*Rival{worse}) {
		t.Errorf("confirmed: %+v", v)
	}
}

// TestRivalsAreBounded: a peer sets up one IKE SA after the other and shows of none
// that it can use it, so that none outlives those before.
func TestRivalsAreBounded(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	var all Rivals
	for i := range 100 {
		now = now.Add(10 * time.Millisecond)
		r := &Rival{live: true, children: 1, settled: now, contact: Contact{Begun: now, At: now, SPI: uint64(i)}}
		all = append(all, r)
		for _, ended := range all.Review(now, 1).End {
			if ended == r || !ended.Ending {
				t.Fatal("the wrong one ends")
			}
		}
		stand := 0
		for _, r := range all {
			if r.stands() {
				stand++
			}
		}
		if want := min(i+1, maxBeside+1); stand != want || all.Best() != r {
			t.Fatalf("%d stand after %d, want %d with the last as the best", stand, i+1, want)
		}
	}
}
