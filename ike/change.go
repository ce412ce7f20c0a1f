package ike

import (
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
)

// A connection whose configuration changes goes on with what it has until the peer
// agrees to what it is to have: make before break. In IKEv1, where the children do
// not belong to an ISAKMP SA, the machine does so by itself. In IKEv2, and from one
// version to the other, a peer of its own sets the new IKE SA up beside the old one,
// which review then ends. While the peer refuses, as it does when its own
// configuration is not changed yet, it is tried again, and the old one goes on to
// the end of the life that it had.

// change gives a connection a new configuration.
func (c *connection) change(cfg *sa.Connection, now time.Time) {
	before := c.cfg
	c.cfg = cfg
	c.failures = 0
	c.stopRetry()
	attempting := c.rivals().Attempting()
	for _, p := range c.peers {
		if !p.rival.Up() {
			p.terminateLocked(sa.ReasonConfigModify)
			continue
		}
		c.follow(p, before, now)
	}
	switch all := c.rivals(); {
	case !all.Serving():
		if cfg.Initiate && len(c.peers) > 0 {
			c.startLocked()
		}
	case attempting: // it was to replace what stands, and still is
		all.Best().Replace(now)
		c.review(now)
	}
}

// EffectOf returns what Apply would do to the SAs that stand if a connection had
// another configuration, and whether an IKE SA of it stands. Children are compared
// by name: their ReqIDs and interfaces do not count. known is false where there is
// no connection of that name.
func (s *Server) EffectOf(next sa.Connection) (effect sa.Effect, up, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[next.Name]
	if c == nil {
		return sa.EffectNone, false, false
	}
	next.Children = slices.Clone(next.Children)
	for i := range next.Children {
		child := &next.Children[i]
		if at := slices.IndexFunc(c.cfg.Children, func(old sa.Child) bool { return old.Name == child.Name }); at >= 0 {
			child.ReqID, child.IfID = c.cfg.Children[at].ReqID, c.cfg.Children[at].IfID
		}
	}
	best := c.best()
	if best == nil {
		return sa.EffectNone, false, true
	}
	negotiated, configured := best.cfg, c.cfg
	if best.movesTo(&next) {
		negotiated, configured = negotiated.At(next.Local), configured.At(next.Local)
	}
	if effect = negotiated.EffectOf(&next); effect >= sa.EffectIKE {
		return effect, true, true
	}
	return min(configured.EffectOf(&next), sa.EffectChild), true, true
}

// follow has a peer that is authenticated go over to the connection's configuration
// as far as it can. before is what it was told last.
func (c *connection) follow(p *peer, before *sa.Connection, now time.Time) {
	if p.movesTo(c.cfg) { // the rest of the change as for one that was there before
		p.cfg, before = p.cfg.At(c.cfg.Local), before.At(c.cfg.Local)
	}
	effect := p.cfg.EffectOf(c.cfg)
	p.rival.Outdated = effect == sa.EffectIKE && !(p.v1 && c.cfg.IKEv1())
	if !p.rival.Outdated {
		p.stopEnd()
	}
	switch {
	case effect == sa.EffectDrop:
		p.terminateLocked(sa.ReasonConfigModify)
	case p.v1 && c.cfg.IKEv1():
		p.cfg = c.cfg
		p.in.command(sa.Update{Connection: c.cfg})
	case !p.rival.Outdated:
		p.in.command(sa.Update{Connection: c.cfg})
	default:
		// Its children change under it when nothing else does: a new IKE SA brings
		// its own.
		if before.EffectOf(c.cfg) <= sa.EffectChild && !p.v1 && !c.cfg.IKEv1() {
			p.in.command(sa.Update{Connection: c.cfg.Under(p.cfg)})
		}
		p.endWithItsLife(now)
	}
}

// movesTo reports whether a peer's IKE SA can follow a configuration to another
// address of ours.
func (p *peer) movesTo(next *sa.Connection) bool {
	ikes := p.current().IKE
	return p.rival.Initiator() && p.cfg.OnlyMoves(next) && len(ikes) > 0 && ikes[len(ikes)-1].MOBIKE
}

// endWithItsLife ends a peer when its present IKE SA would have ended: rekeys do not
// prolong what is no longer configured.
func (p *peer) endWithItsLife(now time.Time) {
	var last time.Time
	for _, i := range p.current().IKE {
		if i.ExpireAt.After(last) {
			last = i.ExpireAt
		}
	}
	if last.IsZero() || p.end != nil {
		return
	}
	p.end = time.AfterFunc(last.Sub(now), func() {
		p.s.mu.Lock()
		defer p.s.mu.Unlock()
		if p.rival.Outdated {
			p.terminateLocked(sa.ReasonIKEHardExpiry)
		}
	})
}

func (p *peer) stopEnd() {
	if p.end != nil {
		p.end.Stop()
		p.end = nil
	}
}
