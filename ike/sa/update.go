package sa

import (
	"crypto/subtle"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ipsec"
)

// Traffic does not stop for a change of a configuration. What is no longer as
// wanted goes on until its successor carries:
//
//	a child with other selectors or algorithms   a new CHILD_SA first, then the
//	                                             old one yields and is deleted
//	a child that is no longer configured         the same, where others share its
//	                                             traffic; else it is deleted
//
// The new CHILD_SA is one of its own and no rekey of the old one: a peer may judge
// a rekey by the configuration that the old one was made for. One that has not
// changed its side yet refuses; then the old one stays, and it is tried again.

// Effect is what a change of a connection's configuration does to its SAs, from
// the least.
type Effect uint8

// Effects.
const (
	EffectNone  Effect = iota // SAs stay as they are
	EffectChild               // new CHILD_SAs take over from old ones, under the same IKE SA
	EffectIKE                 // a new IKE SA takes over with new CHILD_SAs, or in IKEv1 with the old ones
	EffectDrop                // SAs end before new ones are negotiated
)

// EffectOf returns what it does to the SAs of a connection to go over to its next
// configuration.
func (c *Connection) EffectOf(next *Connection) Effect {
	switch {
	case c.Name != next.Name || c.Local != next.Local || c.Remote != next.Remote:
		return EffectDrop
	case !c.GM.sameAuthorities(next.GM): // what proved the peer is not trusted any more
		return EffectDrop
	case !c.sameIKE(next):
		return EffectIKE
	case !slices.EqualFunc(c.Children, next.Children, func(a, b Child) bool { return a.sameSA(&b) }):
		return EffectChild
	}
	return EffectNone
}

// Under returns the configuration with what an IKE SA is set up for as another one
// has it: for the children of an IKE SA that was negotiated for the other one.
func (c *Connection) Under(d *Connection) *Connection {
	merged := *d
	merged.Initiate, merged.DPD = c.Initiate, c.DPD
	merged.Lifetime, merged.AuthLifetime, merged.Children = c.Lifetime, c.AuthLifetime, c.Children
	merged.RedirectTo = c.RedirectTo
	return &merged
}

// sameIKE reports whether two configurations agree in all that is settled when an
// IKE SA is set up.
func (c *Connection) sameIKE(d *Connection) bool {
	return c.SameIdentity(d) && subtle.ConstantTimeCompare(c.PSK, d.PSK) == 1 && c.PPK.same(d.PPK) &&
		sameProposals(c.Proposals, d.Proposals) && c.GM.same(d.GM) && c.MOBIKE == d.MOBIKE
}

// update goes over to a new configuration of the connection.
func (m *Machine) update(next *Connection) {
	switch {
	case m.conn != nil && m.mobike && m.began && m.Established() && m.conn.OnlyMoves(next):
		m.relocate(next.Local)
	case m.conn == nil || !m.conn.SameIdentity(next):
		m.terminate(ReasonConfigModify, nil)
		return
	}
	dpd, lifetime := m.conn.DPD != next.DPD, m.conn.AuthLifetime != next.AuthLifetime
	m.conn = next
	if lifetime && m.Established() {
		m.limitAuthentication()
	}
	m.updateChildren(next.Children)
	if dpd && m.Established() && next.DPD.Interval > 0 {
		m.dpdAt = m.lastSeen.Add(next.DPD.Interval)
	}
}

// updateChildren goes over to other children. Those that are the same are left
// alone.
func (m *core) updateChildren(next []Child) {
	var made []*slot
	before := slices.Clone(m.retired)
	for _, k := range m.slots {
		if k.template != nil {
			made = append(made, k)
		} else {
			before = append(before, k)
		}
	}
	m.slots, m.retired = nil, nil
	for n := range next {
		cfg := &next[n]
		i := slices.IndexFunc(before, func(k *slot) bool {
			return k.cfg.Name == cfg.Name && k.cfg.ReqID == cfg.ReqID && k.cfg.IfID == cfg.IfID
		})
		if i < 0 {
			m.slots = append(m.slots, &slot{cfg: cfg})
			continue
		}
		k := before[i]
		before = slices.Delete(before, i, i+1)
		m.reconfigure(k, cfg)
		m.slots = append(m.slots, k)
	}
	for _, k := range before {
		k.removed, k.retryAt = true, time.Time{}
	}
	m.retired = before
	m.keepMade(made)
	m.dismiss()
	if !m.ike.Established() {
		return
	}
	for _, k := range m.slots {
		wanted := m.up(k) || k.template == nil && (m.conn.Initiate || m.inherits(k))
		if wanted && !k.cfg.Template && !k.busy && !m.upToDate(k) && k.retryAt.IsZero() {
			m.ike.createChild(k)
		}
	}
}

// reconfigure gives a slot its next configuration. Lifetimes count from the next
// rekey.
func (m *core) reconfigure(k *slot, next *Child) {
	if !k.cfg.sameSA(next) {
		k.failures, k.pursuits, k.retryAt = 0, maxPursuits, time.Time{}
		for _, c := range m.children {
			if c.slot == k {
				c.outdated = true
			}
		}
	}
	k.cfg, k.removed = next, false
}

// dismiss deletes the children that are no longer configured, but for those that
// carry what a configured child is to carry and does not yet.
func (m *core) dismiss() {
	for _, k := range slices.Clone(m.retired) {
		var heirs []*slot
		waits := false
		for _, other := range m.slots {
			if !other.cfg.Template && other.sharesTraffic(k) {
				heirs = append(heirs, other)
				waits = waits || !m.serves(other)
			}
		}
		if waits && m.carries(k) {
			continue
		}
		m.retired = slices.DeleteFunc(m.retired, func(r *slot) bool { return r == k })
		m.removeSlot(k, len(heirs) > 0)
	}
}

// serves reports whether a slot has a child as it is configured that sends.
func (m *core) serves(k *slot) bool {
	return slices.ContainsFunc(m.children, func(c *childSA) bool { return c.slot == k && c.hasOut && !c.outdated })
}

// inherits reports whether a child that is no longer configured waits for one of
// the slot.
func (m *core) inherits(k *slot) bool { return slices.ContainsFunc(m.retired, k.sharesTraffic) }

// sharesTraffic reports whether some packet is of both slots.
func (k *slot) sharesTraffic(o *slot) bool {
	return len(ipsec.Narrow(k.cfg.Local, o.cfg.Local)) > 0 && len(ipsec.Narrow(k.cfg.Remote, o.cfg.Remote)) > 0
}

// takeOver ends the use of the children that a new one of their slot replaces,
// since they are not as it is configured.
func (m *core) takeOver(c *childSA) {
	for _, old := range slices.Clone(m.children) {
		if old != c && old.slot == c.slot && old.outdated && (old.state == Established || old.state == Rekeying) {
			old.yield()
		}
	}
	m.pursue(c)
}

// yield has a child deleted that another one has taken over from.
func (c *childSA) yield() {
	c.setState(Rekeyed)
	c.successor = nil
	c.rekeyAt, c.redundantAt = time.Time{}, c.m.now.Add(yieldTime)
}

// maxPursuits is how often a child is asked for again of which the peer gave less
// than a change of the configuration asked for.
const maxPursuits = 30

// pursue asks again, for some time, for the selectors that a change of the
// configuration has brought and the peer has left out: it may be about to change,
// too.
func (m *core) pursue(c *childSA) {
	k := c.slot
	if k.pursuits == 0 {
		return
	}
	if ipsec.Covers(c.local, k.cfg.Local) && ipsec.Covers(c.remote, k.cfg.Remote) {
		k.pursuits = 0
		return
	}
	k.pursuits--
	c.outdated = true
	m.restore(k)
}

// removeSlot deletes what a configuration no longer has. Where others have taken
// its traffic over, what is under way on it gets through.
func (m *core) removeSlot(k *slot, succeeded bool) {
	k.removed = true
	k.unprotect(m)
	for _, c := range m.children {
		if c.slot == k {
			c.successor = nil
		}
	}
	for _, c := range slices.Clone(m.children) {
		switch {
		case c.slot != k:
		case succeeded && (c.state == Established || c.state == Rekeying):
			c.yield()
		default:
			m.deleteChild(c, ReasonConfigModify, nil)
		}
	}
}

// sameSA reports whether a CHILD_SA of one configuration serves another: only
// lifetimes and the replay window differ, if anything.
func (c *Child) sameSA(d *Child) bool {
	return c.Name == d.Name && c.ReqID == d.ReqID && c.IfID == d.IfID && c.Template == d.Template &&
		slices.Equal(c.Local, d.Local) && slices.Equal(c.Remote, d.Remote) && sameProposals(c.Proposals, d.Proposals)
}

func sameProposals(a, b []ipsec.Proposal) bool {
	return slices.EqualFunc(a, b, func(p, q ipsec.Proposal) bool {
		return p.Protocol == q.Protocol && slices.Equal(p.Transforms, q.Transforms)
	})
}
