package ike

import (
	"fmt"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
)

const (
	// giveWayLimit bounds how long an IKE SA that ends waits for another one to carry
	// its traffic. It is less than the peer takes to repeat a DELETE.
	giveWayLimit = 500 * time.Millisecond
	// giveWayGrace is how long it then leaves the packets that are under way on its
	// SAs, or wait in the peer's queues, when it is the peer that ends it.
	giveWayGrace = 200 * time.Millisecond
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

// giveWay makes children of the connection's other IKE SAs send where those that they
// have left the traffic to are about to go by the actions of a step: make before break
// (RFC 7296, section 2.8.3). It comes before the actions: a peer that ends the IKE SA
// receives on it until it has our answer.
func (p *peer) giveWay(actions []sa.Action) {
	deletes := func(a sa.Action) bool { _, ok := a.(sa.DeleteSA); return ok }
	if p.v1 || !slices.ContainsFunc(actions, deletes) {
		return
	}
	before, after := p.current(), p.machine.Status()
	p.s.mu.Lock()
	var obeyed []<-chan struct{}
	relieved := false
	for _, o := range p.others() {
		for _, c := range o.current().Children {
			if c.State >= sa.Deleting || !carries(&before, c.Name) || carries(&after, c.Name) {
				continue
			}
			relieved = true
			if c.State == sa.Connecting {
				obeyed = append(obeyed, o.in.call(sa.Acquire{ReqID: c.ReqID}))
			}
		}
	}
	relieved = relieved && !p.rival.Ending
	p.s.mu.Unlock()
	limit := time.After(giveWayLimit)
	for _, done := range obeyed {
		select {
		case <-done:
		case <-limit:
			return
		case <-p.s.quit:
			return
		}
	}
	if relieved {
		select {
		case <-time.After(giveWayGrace):
		case <-p.s.quit:
		}
	}
}

// others returns the peers beside this one that serve the connection by IKEv2. The
// caller holds Server.mu.
func (p *peer) others() (list []*peer) {
	if p.conn == nil {
		return nil
	}
	for _, o := range p.conn.peers {
		if o != p && !o.v1 && !o.rival.Ending {
			list = append(list, o)
		}
	}
	return list
}

// carries reports whether a machine sends on a child of that name.
func carries(st *sa.Status, name string) bool {
	return slices.ContainsFunc(st.Children, func(c sa.ChildStatus) bool {
		return c.Name == name && (c.State == sa.Established || c.State == sa.Rekeying || c.State == sa.Rekeyed)
	})
}
