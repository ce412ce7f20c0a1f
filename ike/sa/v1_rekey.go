package sa

import (
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
)

// An ISAKMP SA is followed by a new one, negotiated as the first was; IKEv1 has
// no other rekey. The children stay as they are and are served by the new one.

const (
	// retireTime is how long an ISAKMP SA stays beside the one that follows it.
	// A peer may have to move its children first, and repeat a last message.
	retireTime = 10 * time.Second
	// crossingTime is how far apart two ISAKMP SAs that each end began may have
	// been set up and still have crossed.
	crossingTime = 20 * time.Second
	// orphanTime is how long children go on without an ISAKMP SA after the peer
	// has deleted the last one. Some peers do so at the end of its life only.
	orphanTime = 2 * time.Minute
)

// authenticated makes an ISAKMP SA whose peer is known to be that of a connection
// the machine's. A responder's may belong to another machine: see finish.
func (m *MachineV1) authenticated(s *ISAKMPSA, c *Connection, contact bool) {
	s.iv = s.phase1.iv
	s.phase1.wipe()
	clear(s.keys.id) // of use to phase 1, and to whoever guesses pre-shared keys
	s.phase1, s.flight = nil, nil
	s.halfOpenAt, s.refusedAt = time.Time{}, time.Time{}
	s.setState(Established)
	s.established, s.lastSeen = m.now, m.now
	s.contact, s.conn = contact, c
	// The end that got the last message knows that the peer has all others.
	s.confirmed = s.initiator == (s.mode == isakmp.IdentityProtection)
	s.notifyFirst = c.DPD.NotifyFirst
	if s.abandoned {
		s.inform([]isakmp.Payload{s.deletePayload()})
		s.close()
		return
	}
	if m.conn == nil {
		m.fresh, m.meant = s, c
		return
	}
	m.take(s)
}

// settle finds the machine of an ISAKMP SA that a responder has authenticated in
// the call under way.
func (m *MachineV1) settle() {
	s, c := m.fresh, m.meant
	if s == nil {
		return
	}
	m.fresh, m.meant = nil, nil
	if m.env.Handover != nil && m.env.Handover(c, s) {
		m.sas = nil // it is another one's now
		return
	}
	m.serve(c)
	m.take(s)
}

// adopt takes an ISAKMP SA over that another machine has negotiated.
func (m *MachineV1) adopt(s *ISAKMPSA) {
	s.m = m
	m.sas = append(m.sas, s)
	m.take(s)
}

// take puts an established ISAKMP SA into use.
func (m *MachineV1) take(s *ISAKMPSA) {
	if s.contact && !s.initiator {
		m.forgetOlder(s)
	}
	if a := m.attempt; a == s {
		m.attempt = nil
	} else if a != nil && a.spir == 0 { // the peer was faster
		a.close()
		m.attempt = nil
	}
	m.gmLearned(s)
	kind := IKEUp
	if m.current != nil || !m.orphanedAt.IsZero() {
		kind = IKERekeyed
	}
	orphaned := !m.orphanedAt.IsZero()
	m.orphanedAt = time.Time{}
	if life := s.life.duration(); life > 0 {
		s.rekeyAt = m.now.Add(m.soft(life, s.initiator))
		s.expireAt = m.now.Add(life)
	}
	switch old := m.current; {
	case old == nil:
		m.current = s
	case s.crosses(old) && s.spii > old.spii:
		s.follows() // both ends began one: that with the lower cookie is kept
		if again := m.now.Add(2 * crossingTime); s.initiator && old.outdated() && (old.rekeyAt.IsZero() || again.Before(old.rekeyAt)) {
			// It has not crossed ours, which a change of the configuration asks for: the
			// next one comes when neither end can take it for that.
			old.rekeyAt = again
		}
	default:
		m.current = s
		if s.initiator && old.outdated() {
			old.renewed = m.now
			m.renewChildren()
		}
		old.follows()
		if !s.confirmed {
			s.startProbe() // the answer shows that the peer has it, too
		}
	}
	e := m.event(kind, s)
	e.InitialContact, e.Variant = s.contact, s.variant()
	m.emit(Emit{e})
	if kind == IKEUp {
		m.contact.authenticated(&e, m.now)
	}
	m.lastSeen = m.now
	if m.conn.DPD.Interval > 0 {
		m.dpdAt = m.now.Add(m.conn.DPD.Interval)
	}
	if m.current.path.natLocal {
		m.keepaliveAt = m.now.Add(keepaliveInterval)
	}
	m.restoreChildren(s.initiator, orphaned)
}

// restoreChildren sets up what is not there under a new ISAKMP SA. Children that
// were without one are replaced: the peer may have lost them.
func (m *MachineV1) restoreChildren(initiator, orphaned bool) {
	for _, c := range slices.Clone(m.children) {
		if orphaned && c.state == Connecting && c.initiator && c.told {
			c.addOut() // it only waited for traffic
		}
		switch {
		case !orphaned || c.state != Established:
		case initiator:
			c.rekeyDue()
		default:
			c.rekeyAt = m.now.Add(m.jitter(responderGrace))
		}
	}
	for _, k := range m.slots {
		switch {
		case m.up(k) || k.busy || k.cfg.Template:
		case initiator:
			m.createChild(k)
		case m.conn.Initiate:
			k.retryAt = m.now.Add(m.jitter(responderGrace))
		}
	}
}

// forgetOlder drops what the peer says it has lost: all but what we have set up
// so lately that it may have crossed the peer's message.
func (m *MachineV1) forgetOlder(s *ISAKMPSA) {
	crossed := false
	for _, old := range m.sas {
		switch {
		case old == s || !old.live():
		case old.initiator && s.crosses(old):
			crossed = true
		default:
			old.close()
			if old == m.current {
				m.current = nil
			}
		}
	}
	if crossed || len(m.children) == 0 {
		return
	}
	m.removeChildren(m.event(ChildDown, s), ReasonIKEReplaced, nil)
}

// crosses reports whether each end has begun one of the two, and so lately that
// their messages may have crossed.
func (s *ISAKMPSA) crosses(old *ISAKMPSA) bool {
	window := crossingTime
	if life := old.life.duration(); life > 0 {
		window = min(window, life/4)
	}
	return s.initiator != old.initiator && s.established.Sub(old.established) < window
}

// follows ends the use of an SA that another one is kept in the place of.
func (s *ISAKMPSA) follows() {
	s.setState(Rekeyed)
	s.rekeyAt, s.retireAt = time.Time{}, s.m.now.Add(retireTime)
}

// authenticating reports whether message 5 of main mode is under way: the peer may take
// the SA for established by now.
func (s *ISAKMPSA) authenticating() bool {
	return s.initiator && s.phase1 != nil && s.flight != nil && s.phase1.awaits == 6
}

// abandon leaves it to message 6 to end an SA that is no longer wanted, but not for
// long: only then is it known that the peer can read a DELETE.
func (s *ISAKMPSA) abandon() {
	s.abandoned = true
	s.flight.rhythm.Tries = min(s.flight.rhythm.Tries, s.flight.tries+deleteRepeats)
}

// retire deletes an SA that another one has followed.
func (s *ISAKMPSA) retire() {
	if s == s.m.current {
		return
	}
	// The peer may not have its successor yet, or an exchange be under way.
	if c := s.m.current; c != nil && !c.confirmed && c.dpd || !s.renewed.IsZero() && s.m.hasChildrenBefore(s.renewed) || slices.ContainsFunc(s.quick, func(q *quickMode) bool { return q.awaits != 0 }) {
		s.retireAt = s.m.now.Add(retireTime)
		return
	}
	s.inform([]isakmp.Payload{s.deletePayload()})
	s.close()
}

// renewChildren has all children followed under an ISAKMP SA that is no mere rekey of
// the one before: a peer that has changed its configuration may take the children of
// the old one to end with it.
func (m *MachineV1) renewChildren() {
	for _, c := range slices.Clone(m.children) {
		if c.state == Established {
			c.rekeyDue()
		}
	}
}

// hasChildrenBefore reports whether children are in use that were up before a time.
func (m *MachineV1) hasChildrenBefore(at time.Time) bool {
	return slices.ContainsFunc(m.children, func(c *childSA) bool { return c.inUse() && c.established.Before(at) })
}

// rekeyDue begins the negotiation of a successor.
func (s *ISAKMPSA) rekeyDue() {
	m := s.m
	if s == m.current && m.attempt == nil && m.mayBegin() {
		m.negotiate(s.path)
	}
}

// expire ends the SA at the end of its life. The peer does the same: to tell it
// might make it drop the children, too.
func (s *ISAKMPSA) expire() { s.leave(ReasonIKEHardExpiry) }

// leave ends the SA without a word to the peer. Where another one is there,
// everything goes on under it, with a successor soon. Else the children, if there
// are any, wait for one.
func (s *ISAKMPSA) leave(reason Reason) {
	m := s.m
	if s != m.current {
		s.close()
		return
	}
	for _, other := range slices.Backward(m.sas) {
		if other != s && other.live() {
			s.close()
			m.current = other
			other.setState(Established)
			other.retireAt = time.Time{}
			if until := m.now.Add(orphanTime); other.expireAt.Before(until) {
				other.expireAt = until
			}
			other.rekeyAt = m.now.Add(m.jitter(minRetry))
			return
		}
	}
	if !slices.ContainsFunc(m.children, func(c *childSA) bool { return c.hasOut && c.counts() }) {
		m.end(reason, nil)
		return
	}
	at := s.path
	s.close()
	m.current = nil
	m.dpdAt, m.keepaliveAt = time.Time{}, time.Time{}
	m.orphanedAt, m.orphanedBy = m.now.Add(orphanTime), reason
	switch {
	case m.attempt != nil || !m.mayBegin():
	case m.conn.Initiate || reason != ReasonPeerRequest:
		m.negotiate(at)
	default:
		// It is the peer's to begin. But it may take an SA for the one in use that we
		// have ended: nothing has acknowledged that.
		m.negotiateAt, m.negotiatePath = m.now.Add(m.jitter(orphanTime/2)), at
	}
}

// orphanTimeout ends the children that no ISAKMP SA has come for.
func (m *MachineV1) orphanTimeout() {
	if m.current == nil {
		m.end(m.orphanedBy, nil)
	}
}
