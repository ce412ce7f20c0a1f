package sa

import (
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// livenessPatience bounds how long a peer that sends ESP, but does not answer
// IKE, is taken for alive.
const livenessPatience = 165 * time.Second

// deleteIKE deletes an IKE SA, and so all children it has.
type deleteIKE struct{ notify wire.NotifyType }

func (x *deleteIKE) kind() wire.ExchangeType { return wire.Informational }

func (x *deleteIKE) request(*ikeSA) ([]wire.Payload, bool) {
	var payloads []wire.Payload
	if x.notify != 0 {
		payloads = append(payloads, &wire.Notify{NotifyType: x.notify})
	}
	return append(payloads, &wire.Delete{Protocol: ipsec.ProtocolIKE}), true
}

func (x *deleteIKE) response(s *ikeSA, _ Datagram, _ *wire.Message) { s.vanish() }

func (x *deleteIKE) unanswered(s *ikeSA, _ *outstanding) { s.vanish() }

// vanish forgets an IKE SA that both sides have deleted.
func (s *ikeSA) vanish() {
	s.answered = nil
	s.close()
}

// deleteChild deletes a child.
type deleteChild struct{ child *childSA }

func (x *deleteChild) kind() wire.ExchangeType { return wire.Informational }

func (x *deleteChild) request(*ikeSA) ([]wire.Payload, bool) {
	if x.child.state != Deleting {
		return nil, false
	}
	return []wire.Payload{&wire.Delete{Protocol: ipsec.ProtocolESP, SPIs: []ipsec.SPI{x.child.in}}}, true
}

func (x *deleteChild) response(*ikeSA, Datagram, *wire.Message) { x.child.remove(true) }

func (x *deleteChild) unanswered(s *ikeSA, o *outstanding) { s.dead(o) }

// liveness asks whether the peer is there (section 2.4).
type liveness struct{}

func (x *liveness) kind() wire.ExchangeType { return wire.Informational }

func (x *liveness) request(*ikeSA) ([]wire.Payload, bool) { return nil, true }

func (x *liveness) response(*ikeSA, Datagram, *wire.Message) {} // that it came is all

func (x *liveness) unanswered(s *ikeSA, o *outstanding) { s.dead(o) }

// abandoned stands for an exchange whose answer has lost its meaning, but is
// still waited for: the window has room for one.
type abandoned struct{ of exchange }

func (x *abandoned) kind() wire.ExchangeType { return x.of.kind() }

func (x *abandoned) request(*ikeSA) ([]wire.Payload, bool) { return nil, false }

func (x *abandoned) response(*ikeSA, Datagram, *wire.Message) {}

func (x *abandoned) unanswered(s *ikeSA, _ *outstanding) { s.vanish() }

// delete ends the IKE SA by a DELETE to the peer. An exchange under way is
// waited for, but not for long, and does nothing any more.
func (s *ikeSA) delete() {
	if s.state == Deleting || !s.setState(Deleting) {
		return
	}
	s.rekeyAt, s.expireAt, s.redundantAt = time.Time{}, time.Time{}, time.Time{}
	s.queue = []exchange{&deleteIKE{}}
	if o := s.active; o != nil {
		o.exchange = &abandoned{o.exchange}
		o.rhythm.Tries = min(o.rhythm.Tries, o.tries+deleteRepeats)
	}
}

// answerInformational answers an INFORMATIONAL request. What it does not know
// it passes over; the answer may be empty.
func (s *ikeSA) answerInformational(msg *wire.Message) reply {
	m := s.m
	deletes := wire.All[*wire.Delete](msg)
	var diagnosis *Diagnosis
	if _, ok := msg.Notify(wire.AuthenticationFailed); ok {
		// The initiator did not accept our proof (section 2.21.2).
		diagnosis = rejectedByPeer(m.conn)
	}
	if diagnosis != nil || slices.ContainsFunc(deletes, func(d *wire.Delete) bool { return d.Protocol == ipsec.ProtocolIKE }) {
		return reply{then: func() { s.deletedByPeer(diagnosis) }}
	}
	var gone []*childSA
	var spis []ipsec.SPI
	for _, d := range deletes {
		if d.Protocol != ipsec.ProtocolESP {
			continue
		}
		for _, spi := range d.SPIs {
			c := m.childByOut(spi)
			// Of one that we are deleting, the peer gets to know by our own
			// request (section 1.4.1).
			if c == nil || c.state == Deleting || slices.Contains(gone, c) {
				continue
			}
			gone, spis = append(gone, c), append(spis, c.in)
		}
	}
	var r reply
	if len(gone) > 0 {
		r.payloads = []wire.Payload{&wire.Delete{Protocol: ipsec.ProtocolESP, SPIs: spis}}
		r.then = func() {
			for _, c := range gone {
				reason := ReasonPeerRequest
				if c.state == Rekeyed {
					reason = ReasonChildReplaced
				}
				m.dropChild(c, reason)
			}
		}
	}
	return r
}

// deletedByPeer ends the IKE SA at the peer's wish. Where a rekey has made a
// successor, everything goes on there.
func (s *ikeSA) deletedByPeer(d *Diagnosis) {
	m := s.m
	switch {
	case s != m.current:
		for _, other := range m.ikes {
			if other.successor == s {
				other.successor = nil
				if other == m.current && other.state == Rekeyed {
					m.terminate(ReasonRekeyFail, nil) // nothing is left to go on with
				}
			}
		}
		s.close()
	case s.successor != nil && s.successor.live():
		m.moveTo(s.successor)
		s.close()
	default:
		m.end(ReasonPeerRequest, d)
	}
}

// checkLiveness sends a probe when nothing was heard for the interval.
func (m *Machine) checkLiveness() {
	s := m.current
	if s == nil || !s.live() || m.conn.DPD.Interval <= 0 {
		return
	}
	m.evidence()
	if next := m.lastSeen.Add(m.conn.DPD.Interval); next.After(m.now) {
		m.dpdAt = next
		return
	}
	if s.state == Established && s.active == nil && len(s.queue) == 0 {
		s.enqueue(&liveness{})
	}
	m.dpdAt = m.now.Add(m.conn.DPD.Interval)
}

// heard notes a sign of life of the peer.
func (m *Machine) heard() { m.lastSeen = m.now }

// evidence looks for signs of life on the inbound ESP SAs.
func (m *Machine) evidence() {
	if m.env.QuerySA == nil {
		return
	}
	for _, c := range m.children {
		if !c.hasIn {
			continue
		}
		if st, err := m.env.QuerySA(c.inID()); err == nil && st.LastUsed.After(m.lastSeen) && !st.LastUsed.After(m.now) {
			m.lastSeen = st.LastUsed
		}
	}
}

// heardSince reports whether the peer has given a sign of life after t.
func (m *Machine) heardSince(t time.Time) bool {
	m.evidence()
	return m.lastSeen.After(t)
}

// dead gives the peer up after a request that it has not answered.
func (s *ikeSA) dead(o *outstanding) {
	m := s.m
	if s == m.current && s.successor != nil && s.successor.live() {
		m.moveTo(s.successor) // the peer may have gone there already
	}
	if s != m.current {
		s.vanish()
		return
	}
	d := unreachable(s, o)
	if _, ok := o.exchange.(*liveness); ok {
		d.Reason = ReasonDPDTimeout
	}
	m.end(d.Reason, d)
}

// terminate ends everything, with a DELETE to the peer where it knows of us.
func (m *Machine) terminate(reason Reason, d *Diagnosis) {
	s := m.current
	if s == nil {
		return
	}
	if !s.authenticated {
		m.end(reason, d)
		return
	}
	m.teardown(reason, d)
	for _, each := range m.ikes { // while it is rekeyed there are several
		if each.live() {
			each.delete()
		}
	}
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
	m.current = nil
	m.dpdAt, m.keepaliveAt = time.Time{}, time.Time{}
	for _, c := range m.children {
		wasUp := c.hasOut
		c.remove(false)
		c.gone() // what still lingered
		if wasUp && !m.carries(c.slot) {
			e := m.childEvent(ChildDown, c, s)
			e.Reason, e.Diagnosis = reason, d
			m.emit(Emit{e})
		}
	}
	for _, k := range m.slots {
		k.unprotect(m)
		k.retryAt = time.Time{}
	}
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

// expire ends the IKE SA at the end of its life.
func (s *ikeSA) expire() {
	if s == s.m.current {
		s.m.terminate(ReasonIKEHardExpiry, nil)
	}
}
