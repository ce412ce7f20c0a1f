package sa

import "time"

// timer is a moment at which something is to be done. Timeout sets *at to zero
// before it calls fire.
type timer struct {
	at   *time.Time
	fire func()
}

// running returns a function that visits a timer if it runs.
func running(visit func(timer)) func(at *time.Time, fire func()) {
	return func(at *time.Time, fire func()) {
		if !at.IsZero() {
			visit(timer{at, fire})
		}
	}
}

// timers visits all timers that run. Nothing else of a machine waits.
func (m *Machine) timers(visit func(timer)) {
	when := running(visit)
	for _, s := range m.ikes {
		if o := s.active; o != nil {
			when(&o.next, func() {
				if s.active == o { // an earlier timer may have ended it
					s.repeat(o)
				}
			})
		}
		when(&s.rekeyAt, s.rekeyDue)
		when(&s.expireAt, s.expire)
		when(&s.halfOpenAt, s.halfOpenTimeout)
		when(&s.refusedAt, s.refused)
		when(&s.reassemblyAt, s.forgetFragments)
		when(&s.redundantAt, s.redundant)
		when(&s.followupAt, s.forgetFollowup)
		when(&s.forgetAt, func() { s.forgetAt = m.now }) // finish forgets it
	}
	m.childTimers(visit)
	when(&m.dpdAt, m.checkLiveness)
	when(&m.keepaliveAt, m.keepalive)
	when(&m.leaveAt, m.left)
	when(&m.reauthAt, m.reauthenticate)
	when(&m.authEndAt, m.authExpired)
}

// childTimers visits the timers of children.
func (m *core) childTimers(visit func(timer)) {
	when := running(visit)
	for _, c := range m.children {
		when(&c.rekeyAt, c.rekeyDue)
		when(&c.expireAt, c.expire)
		when(&c.redundantAt, c.redundant)
		when(&c.probeAt, c.probe)
		when(&c.sendAt, c.addOut)
		when(&c.goneAt, c.lingered)
	}
	for _, k := range m.slots {
		when(&k.retryAt, func() { m.retry(k) })
	}
}

func (s *ikeSA) forgetFragments() {
	s.m.drop(dropFragmentsIncomplete)
	s.requests.Reset()
	s.responses.Reset()
	s.firstFragment = [len(s.firstFragment)]byte{}
}
