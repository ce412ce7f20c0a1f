package ike

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ike/wire"
)

// Redirection returns the gateway to which initiators that speak to an address of
// ours are sent (RFC 5685); ok is false where they are not.
type Redirection func(local netip.Addr) (to wire.GatewayIdentity, ok bool)

// Redirect sends initiators elsewhere from now on, those whose IKE SA stands as
// well as new ones, as far as they have said that they can be sent: others are
// served as before. From an address that has somewhere to send to, nothing is begun
// by ourselves, or what has gone would be fetched back. Nil ends it.
func (s *Server) Redirect(to Redirection) {
	s.redirection.Store(&to)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != running {
		return
	}
	for p := range s.peers {
		if gateway, ok := p.redirectionLocked(); ok && p.rival.Up() {
			p.in.command(sa.Redirect{To: gateway})
		}
	}
	s.startNewLocked()
}

// Redirected waits until every peer that Redirect has sent elsewhere has deleted its
// IKE SA. It returns how many have not when ctx ends.
func (s *Server) Redirected(ctx context.Context) (left int) {
	tick := time.NewTicker(redirectedPause)
	defer tick.Stop()
	for {
		if left = s.redirectedLeft(); left == 0 {
			return 0
		}
		select {
		case <-ctx.Done():
			return left
		case <-tick.C:
		}
	}
}

// redirectedPause is how often Redirected looks.
const redirectedPause = 50 * time.Millisecond

func (s *Server) redirectedLeft() (left int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.peers {
		if _, ok := p.redirectionLocked(); ok && p.rival.Up() && p.redirectable() {
			left++
		}
	}
	return left
}

// redirectable reports whether the peer can be sent to another gateway.
func (p *peer) redirectable() bool {
	return slices.ContainsFunc(p.current().IKE, func(i sa.IKEStatus) bool { return i.Redirectable })
}

// redirectionLocked returns where a peer is to be sent.
func (p *peer) redirectionLocked() (to wire.GatewayIdentity, ok bool) {
	if p.conn == nil || !p.rival.Live() || p.rival.Ending {
		return to, false
	}
	return p.s.redirectionOf(p.conn.cfg.Local)
}

// redirectionOf returns where initiators that speak to an address are sent. It
// implements sa.Env.Redirect.
func (s *Server) redirectionOf(local netip.Addr) (to wire.GatewayIdentity, ok bool) {
	if f := s.redirection.Load(); f != nil && *f != nil {
		return (*f)(local)
	}
	return to, false
}

// followRedirect implements sa.Env.FollowRedirect.
func (s *Server) followRedirect(cfg *sa.Connection) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[cfg.Name]
	if c == nil {
		return false
	}
	now := time.Now()
	c.redirects = slices.DeleteFunc(c.redirects, func(at time.Time) bool { return now.Sub(at) >= sa.RedirectPeriod })
	if len(c.redirects) >= sa.MaxRedirects {
		return false
	}
	c.redirects = append(c.redirects, now)
	return true
}
