package ike

import (
	"time"

	"github.com/vpngw/vpngw/ike/sa"
)

// Rhythm of inquiries, of each connection.
const (
	inquiryEvery = 10 * time.Minute // about the same failure
	inquiryPause = time.Minute      // about another one
)

// inquiry is what was asked of a peer that refuses our negotiation without a
// reason, or is silent. Under Server.mu.
type inquiry struct {
	of      *sa.Connection // as it was configured; nil: there was none
	about   sa.Diagnosis
	at      time.Time
	finding *sa.Diagnosis // nil: nothing so far

	// When the peer was last asked about a CHILD_SA that it refuses, by the child's name.
	childrenOf *sa.Connection // as it was configured
	children   map[string]time.Time
}

// refine puts what an inquiry has found in the place of a failure of our own
// negotiation, and begins an inquiry where there was none.
func (s *Server) refine(e *sa.Event) {
	if e.Kind != sa.Failed || !e.Initiator || e.Established || e.Diagnosis == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[e.Connection]
	if c == nil || c.removed || s.phase != running {
		return
	}
	now, i := time.Now(), &c.inquiry
	current := i.of == c.cfg
	same := current && i.about.Same(e.Diagnosis)
	about := e.Diagnosis
	if same && i.finding != nil {
		e.Diagnosis, e.Reason = i.finding, i.finding.Reason
	}
	wait := inquiryPause
	if same {
		wait = inquiryEvery
	}
	if current && now.Sub(i.at) < wait || !sa.Inquirable(c.cfg, about) {
		return
	}
	if !same {
		i.finding = nil
	}
	i.of, i.about, i.at = c.cfg, *about, now
	s.inquireLocked(c, about)
}

// inquireLocked has a machine ask the peer. It is none of the connection's peers:
// it makes no SA.
func (s *Server) inquireLocked(c *connection, about *sa.Diagnosis) {
	p := s.newPeer(time.Now())
	p.asks = true
	s.peers[p] = true
	cfg := c.cfg
	s.peerGroup.Add(1)
	go func() {
		var m machine
		var actions []sa.Action
		s.guard(func() { m, actions = sa.Inquire(p.born, &p.env, cfg, about) })
		if m == nil {
			p.leave()
			return
		}
		p.run(m, actions)
	}()
}

// found takes what an inquiry has found out, unless the connection has changed
// meanwhile.
func (s *Server) found(e sa.Event) {
	s.mu.Lock()
	c := s.conns[e.Connection]
	current := c != nil && !c.removed && c.inquiry.of == c.cfg
	if current {
		c.inquiry.finding = e.Diagnosis
	}
	s.mu.Unlock()
	if current {
		s.hand(e)
	}
}

// inquireChild implements sa.Host.InquireChild: a peer that ends the IKE SA with its
// last CHILD_SA, or does not bear to be asked, is asked no more often than others.
func (s *Server) inquireChild(cfg *sa.Connection, child string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[cfg.Name]
	if c == nil {
		return false
	}
	i, now := &c.inquiry, time.Now()
	if i.children == nil || i.childrenOf != c.cfg {
		i.childrenOf, i.children = c.cfg, map[string]time.Time{}
	}
	if last, ok := i.children[child]; ok && now.Sub(last) < inquiryEvery {
		return false
	}
	i.children[child] = now
	return true
}
