package sa

import "time"

// timer is a moment at which something is to be done. Timeout sets *at to zero
// before it calls fire.
type timer struct {
	at   *time.Time
	fire func()
}

// when visits a timer if it runs. A method and what it is called for come apart: a
// closure for each timer that does not run would be most of what a step allocates.
func when[T any](visit func(timer), at *time.Time, of T, fire func(T)) {
	if !at.IsZero() {
		visit(timer{at, func() { fire(of) }})
	}
}

// timers visits all timers that run. Nothing else of a machine waits.
func (m *Machine) timers(visit func(timer)) {
	for _, s := range m.ikes {
		if o := s.active; o != nil {
			when(visit, &o.next, s, func(s *ikeSA) {
				if s.active == o { // an earlier timer may have ended it
					s.repeat(o)
				}
			})
		}
		when(visit, &s.rekeyAt, s, (*ikeSA).rekeyDue)
		when(visit, &s.expireAt, s, (*ikeSA).expire)
		when(visit, &s.halfOpenAt, s, (*ikeSA).halfOpenTimeout)
		when(visit, &s.refusedAt, s, (*ikeSA).refused)
		when(visit, &s.reassemblyAt, s, (*ikeSA).forgetFragments)
		when(visit, &s.redundantAt, s, (*ikeSA).redundant)
		when(visit, &s.followupAt, s, (*ikeSA).forgetFollowup)
		when(visit, &s.forgetAt, s, func(s *ikeSA) { s.forgetAt = s.m.now }) // finish forgets it
	}
	m.childTimers(visit)
	when(visit, &m.dpdAt, m, (*Machine).checkLiveness)
	when(visit, &m.keepaliveAt, m, (*Machine).keepalive)
	when(visit, &m.leaveAt, m, (*Machine).left)
	when(visit, &m.reauthAt, m, (*Machine).reauthenticate)
	when(visit, &m.authEndAt, m, (*Machine).authExpired)
}

// childTimers visits the timers of children.
func (m *core) childTimers(visit func(timer)) {
	for _, c := range m.children {
		when(visit, &c.rekeyAt, c, (*childSA).rekeyDue)
		when(visit, &c.expireAt, c, (*childSA).expire)
		when(visit, &c.redundantAt, c, (*childSA).redundant)
		when(visit, &c.probeAt, c, (*childSA).probe)
		when(visit, &c.sendAt, c, (*childSA).addOut)
		when(visit, &c.goneAt, c, (*childSA).lingered)
	}
	retry := m.retry
	for _, k := range m.slots {
		when(visit, &k.retryAt, k, retry)
	}
}

func (s *ikeSA) forgetFragments() {
	s.m.drop(dropFragmentsIncomplete)
	s.requests.Reset()
	s.responses.Reset()
	s.firstFragment = [len(s.firstFragment)]byte{}
}
