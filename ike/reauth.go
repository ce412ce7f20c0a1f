package ike

import (
	"fmt"

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
	if c.cfg.Initiate && !c.rivals().Attempting() {
		c.failures = 0
		c.startLocked()
	}
	return nil
}
