package sa

import (
	"time"

	"github.com/vpngw/vpngw/ike/wire"
)

// terminate ends everything, with a DELETE to the peer where it knows of us.
func (m *Machine) terminate(reason Reason, d *Diagnosis) {
	s := m.current
	if s == nil {
		return
	}
	if !s.authenticated {
		if !s.authenticating() {
			m.end(reason, d)
			return
		}
		m.teardown(reason, d)
		s.delete()
		return
	}
	m.teardown(reason, d)
	for _, each := range m.ikes { // while it is rekeyed there are several
		if each.live() {
			each.delete()
		}
	}
}

// authenticating reports whether our IKE_AUTH request is under way: the peer may take
// the IKE SA for established by now.
func (s *ikeSA) authenticating() bool {
	if s.active == nil {
		return false
	}
	_, ok := s.active.exchange.(*ikeAuth)
	return ok
}

// end ends everything without a word to the peer.
func (m *Machine) end(reason Reason, d *Diagnosis) {
	m.teardown(reason, d)
	for _, s := range m.ikes {
		s.close()
	}
}

// fail ends a negotiation.
func (m *Machine) fail(d *Diagnosis) { m.end(d.Reason, d) }

// teardown reports the end and takes the children out of the data plane.
func (m *Machine) teardown(reason Reason, d *Diagnosis) {
	s := m.current
	event := m.currentEvent(ChildDown)
	m.current = nil
	m.dpdAt, m.keepaliveAt = time.Time{}, time.Time{}
	m.reauthAt, m.authEndAt, m.leaveAt = time.Time{}, time.Time{}, time.Time{}
	m.removeChildren(event, reason, d)
	if s == nil {
		return
	}
	if s.authenticated {
		e := m.event(IKEDown, s)
		e.Reason, e.Diagnosis = reason, d
		m.emit(Emit{e})
		return
	}
	if d != nil {
		m.reportOn(s, d)
	}
}

// removeChildren takes all children out of the data plane. event is one of the
// IKE SA that they were under.
func (m *core) removeChildren(event Event, reason Reason, d *Diagnosis) {
	event.Reason, event.Diagnosis = reason, d
	linger := reason == ReasonIKEReplaced // the peer may be about to change over
	for _, c := range m.children {
		wasUp := c.hasOut
		c.remove(linger)
		if !linger {
			c.gone() // what still lingered
		}
		if wasUp && c.slot.up && !m.carries(c.slot) {
			c.slot.up = false
			m.emit(Emit{c.eventOn(event)})
		}
	}
	for _, k := range m.slots {
		k.unprotect(m)
		k.retryAt = time.Time{}
	}
}

// expire ends the IKE SA at the end of its life.
func (s *ikeSA) expire() {
	if s == s.m.current {
		s.m.terminate(ReasonIKEHardExpiry, nil)
	}
}

// delete ends the IKE SA by a DELETE to the peer. An exchange under way is
// waited for, but not for long, and what it makes is deleted, too.
func (s *ikeSA) delete() {
	if s.state == Deleting || !s.setState(Deleting) {
		return
	}
	s.rekeyAt, s.expireAt, s.redundantAt = time.Time{}, time.Time{}, time.Time{}
	discard(s.queue...)
	s.queue = []exchange{&deleteIKE{}}
	if o := s.active; o != nil {
		o.exchange = &abandoned{o.exchange}
		o.rhythm.Tries = min(o.rhythm.Tries, o.tries+deleteRepeats)
	}
}

// vanish forgets an IKE SA that both sides have deleted.
func (s *ikeSA) vanish() {
	s.answered = nil
	s.close()
}

// abandoned stands for an exchange whose outcome is no longer wanted. Its answer
// is still waited for: the window has room for one.
type abandoned struct{ of exchange }

func (x *abandoned) wipe() { discard(x.of) }

func (x *abandoned) kind() wire.ExchangeType { return x.of.kind() }

func (x *abandoned) request(*ikeSA) ([]wire.Payload, bool) { return nil, false }

// response ends what the answer has made: of a new IKE SA, the peer takes it
// that we go on there.
func (x *abandoned) response(s *ikeSA, _ Datagram, msg *wire.Message) {
	defer x.wipe()
	if _, refused := msg.ErrorNotify(); refused && x.kind() == wire.IKEAuth && !s.authenticated {
		if _, ok := wire.Find[*wire.Auth](msg); !ok {
			s.vanish() // there is nothing to delete
			return
		}
	}
	r, ok := x.of.(*rekeyIKE)
	if !ok || r.take(s, msg) != nil || r.followup.pending() {
		return
	}
	if n, err := r.follower(s); err == nil {
		s.m.ikes = append(s.m.ikes, n)
		n.delete()
	}
}

func (x *abandoned) unanswered(s *ikeSA, _ *outstanding) {
	x.wipe()
	s.vanish()
}
