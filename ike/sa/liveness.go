package sa

import (
	"time"

	"github.com/vpngw/vpngw/ike/wire"
)

// livenessPatience bounds how long a peer that sends ESP, but does not answer
// IKE, is taken for alive.
const livenessPatience = 165 * time.Second

// liveness asks whether the peer is there (section 2.4).
type liveness struct{}

func (x *liveness) kind() wire.ExchangeType { return wire.Informational }

func (x *liveness) request(*ikeSA) ([]wire.Payload, bool) { return nil, true }

func (x *liveness) response(*ikeSA, Datagram, *wire.Message) {} // that it came is all

func (x *liveness) unanswered(s *ikeSA, o *outstanding) { s.dead(o) }

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
func (m *core) heard() { m.lastSeen = m.now }

// evidence looks for signs of life on the inbound ESP SAs.
func (m *core) evidence() {
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
func (m *core) heardSince(t time.Time) bool {
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
