package sa

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
)

// TestV1RandomLoss runs both ends with short lifetimes, rekeys of both phases
// begun at random by both, and a network that loses, repeats and reorders packets.
// Whatever happens, traffic always has an SA, and in the end there is one of each.
func TestV1RandomLoss(t *testing.T) {
	for seed := range uint64(40) {
		l := newLab(t, seed)
		l.useV1(func(c *Connection) {
			c.Aggressive = seed%2 == 1
			c.Lifetime = 20 * time.Minute
			c.Children[0].Lifetime.Hard = 15 * time.Minute
			second := c.Children[0]
			second.Name, second.ReqID, second.Local = "second", 2, selectors("10.3.0.0/16")
			c.Children = append(c.Children, second)
		})
		l.establish()
		random := rand.New(rand.NewPCG(seed, 7))
		lost := map[string]int{} // by datagram: few enough for the repeats
		l.lose = func(p packet) bool {
			switch random.IntN(10) {
			case 0, 1, 4:
				lost[string(p.d.Bytes)]++
				return lost[string(p.d.Bytes)] < 3
			case 2: // twice
				p.to.receive(p.d)
			case 3: // late
				if len(l.wire) > 0 {
					l.wire = append(l.wire, p)
					return true
				}
			}
			return false
		}
		for range 60 {
			e := []*end{l.a, l.b}[random.IntN(2)]
			switch random.IntN(6) {
			case 0:
				e.doServed(RekeyIKE{})
			case 1, 2:
				e.doServed(RekeyChild{ReqID: e.conns[0].Children[random.IntN(2)].ReqID})
			}
			l.pass(time.Duration(random.IntN(20)) * time.Second)
			if t.Failed() {
				break
			}
		}
		l.lose = nil
		l.pass(2 * time.Minute)
		l.quietV1(2)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// A DELETE is not acknowledged: while the peer may not have the ISAKMP SA that is in
// use, since the last message of phase 1 is lost, it goes under the one before, too.
func TestV1DeleteUnderNewISAKMPSA(t *testing.T) {
	l := newLab(t, 1)
	l.useV1()
	l.establish()
	l.lose = func(p packet) bool { // what b says under the new one
		h, err := isakmp.ParseHeader(p.d.Bytes)
		return p.from == l.b && l.b.count(IKERekeyed) > 0 && err == nil && h.InitiatorSPI == m(l.b).current.spii
	}
	l.a.do(RekeyIKE{})
	for l.b.count(IKERekeyed) == 0 && len(l.wire) > 0 {
		l.deliver(0)
	}
	old, replaced := m(l.a).current, m(l.b).current
	if old.spii == replaced.spii || replaced.confirmed {
		t.Fatal("b does not wait for a sign of life under a new ISAKMP SA\n" + l.transcript.String())
	}
	l.up = false
	l.b.do(Expired{ID: m(l.b).children[0].inID(), Hard: true})
	l.run()
	if l.a.count(ChildDown) != 1 {
		t.Error("a does not learn that the child is gone\n" + l.transcript.String())
	}
}

// The peer takes an ISAKMP SA for the one in use that we have ended, and ends the one
// before it. Before the children end that are left, another one is negotiated.
func TestV1OrphansOfADeadISAKMPSA(t *testing.T) {
	l := newLab(t, 1)
	l.useV1()
	l.establish()
	l.b.conns[0].Initiate = false
	dead := m(l.a).current
	m(l.a).begin(l.now)
	dead.inform([]isakmp.Payload{dead.deletePayload()})
	l.a.perform(m(l.a).finish())
	l.run()
	if m(l.b).current != nil || m(l.a).current != dead {
		t.Fatal("b has an ISAKMP SA, or a has none\n" + l.transcript.String())
	}
	l.pass(2 * orphanTime)
	if l.a.count(ChildDown)+l.b.count(ChildDown) != 0 || m(l.a).current == dead {
		t.Error("the children end\n" + l.transcript.String())
	}
	l.settled(1)
}

// A new ISAKMP SA that the peer has not taken up, since message 3 of aggressive mode is
// lost, is given up without that message once more: the peer would set it up.
func TestV1GivenUpIsNotSetUp(t *testing.T) {
	l := newLab(t, 1)
	l.useV1(aggressive)
	l.establish()
	old := m(l.a).current
	said := map[time.Time][]isakmp.ExchangeType{} // by a under the new one
	l.lose = func(p packet) bool {
		h, err := isakmp.ParseHeader(p.d.Bytes)
		if p.from != l.a || err != nil || h.InitiatorSPI == old.spii || h.ResponderSPI == 0 {
			return false
		}
		said[l.now] = append(said[l.now], h.Exchange)
		return true
	}
	l.a.do(RekeyIKE{})
	l.pass(20 * time.Second)
	alone := 0
	for _, list := range said {
		if slices.Equal(list, []isakmp.ExchangeType{isakmp.Informational}) {
			alone++
		}
	}
	if l.b.count(IKERekeyed) != 0 || len(said) < 3 || alone != 1 {
		t.Errorf("a says %v\n%s", said, l.transcript.String())
	}
}

// Both ends rekey the child at once, and the tunnel is idle since: that the last packets
// came on the old one does not bring it back, to be rekeyed again and again.
func TestV1IdleSinceCollision(t *testing.T) {
	l := newLab(t, 1)
	l.useV1()
	l.establish()
	l.pass(time.Minute)
	l.checkTraffic()
	l.up = false // no more packets
	for _, e := range []*end{l.a, l.b} {
		e.do(RekeyChild{e.conns[0].Children[0].ReqID})
	}
	l.pass(20 * time.Minute)
	for _, e := range []*end{l.a, l.b} {
		if n := e.count(ChildRekeyed); n == 0 || n > 2 || len(e.sas) != 2 {
			t.Errorf("%s: rekeyed %d times, %d SAs", e.name, n, len(e.sas))
		}
	}
	if t.Failed() {
		t.Log(l.transcript.String())
	}
}

// doServed is do while a responder of a new ISAKMP SA is at work, too.
func (e *end) doServed(c Command) {
	for _, m := range e.machines {
		if m.Connection() != "" {
			e.perform(m.Do(e.lab.now, c))
			return
		}
	}
	e.lab.t.Errorf("%s serves nothing", e.name)
}
