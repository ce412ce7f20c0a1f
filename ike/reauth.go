package ike

import (
	"fmt"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
)

// Reauthenticate sets up a new IKE SA with the peer of a connection, with its
// children, and then ends the old one: traffic goes on all the while. Should the
// new one fail, the old one stays, and the failure is reported as any other. A
// connection without an IKE SA is negotiated at once where it initiates. The call
// does not wait for the peer.
//
// In IKEv2 the end that began the IKE SA does so. Where that is the peer, and its
// address is not configured or lies behind a NAT, it is asked to (RFC 4478); one
// that does not heed it keeps the IKE SA.
func (s *Server) Reauthenticate(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[name]
	if c == nil {
		return fmt.Errorf("connection %q: %w", name, ErrUnknownConnection)
	}
	if s.phase != running {
		return ErrStopped
	}
	if best := c.best(); best != nil {
		best.in.command(sa.Reauthenticate{})
		return nil
	}
	if c.cfg.Initiate && !slices.ContainsFunc(c.peers, func(p *peer) bool { return p.live && !p.terminating }) {
		c.failures = 0
		c.startLocked()
	}
	return nil
}

// replace begins the IKE SA that is to take the place of a peer's. It is not yet
// time for that while the peer's own could be taken for one that has crossed it.
func (s *Server) replace(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.conn == nil {
		return
	}
	wait := time.Duration(0)
	if !p.contact.initiator {
		wait = 2*crossing - time.Since(p.contact.at)
	}
	if wait <= 0 {
		p.conn.replaceLocked(p)
		return
	}
	time.AfterFunc(wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		p.conn.replaceLocked(p)
	})
}

// replaceLocked begins an IKE SA beside that of a peer, unless the peer is no
// longer the best one or an attempt is under way.
func (c *connection) replaceLocked(p *peer) {
	attempt := slices.ContainsFunc(c.peers, func(o *peer) bool { return o.live && !o.terminating && o.up.at.IsZero() })
	if c.best() == p && !attempt && c.cfg.Remote.IsValid() {
		c.startLocked()
	}
}
