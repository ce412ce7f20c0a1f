package sa

import (
	"slices"

	"github.com/vpngw/vpngw/ipsec"
)

// update goes over to a new configuration of the connection.
func (m *Machine) update(next *Connection) {
	if m.conn == nil || !m.conn.SameIdentity(next) {
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

// updateChildren keeps the children that are the same, takes the new ones in
// and deletes the others.
func (m *core) updateChildren(next []Child) {
	var slots []*slot
	for _, cfg := range next {
		i := slices.IndexFunc(m.slots, func(k *slot) bool { return !slices.Contains(slots, k) && k.cfg.sameSA(&cfg) })
		if i < 0 {
			slots = append(slots, &slot{cfg: cfg})
			continue
		}
		m.slots[i].cfg = cfg // lifetimes: from the next rekey
		slots = append(slots, m.slots[i])
	}
	old := m.slots
	m.slots = slots
	for _, k := range old {
		if !slices.Contains(slots, k) {
			m.removeSlot(k)
		}
	}
	if !m.ike.Established() {
		return
	}
	for _, k := range slots {
		if m.conn.Initiate && !k.busy && !m.up(k) && k.retryAt.IsZero() {
			m.ike.createChild(k)
		}
	}
}

// removeSlot deletes what a configuration no longer has.
func (m *core) removeSlot(k *slot) {
	k.removed = true
	for _, c := range m.children {
		if c.slot == k {
			c.successor = nil
		}
	}
	for _, c := range slices.Clone(m.children) {
		if c.slot == k {
			m.deleteChild(c, ReasonConfigModify, nil)
		}
	}
	k.unprotect(m)
}

// sameSA reports whether a CHILD_SA of one configuration serves another: only
// lifetimes and the replay window differ, if anything.
func (c *Child) sameSA(d *Child) bool {
	return c.Name == d.Name && c.ReqID == d.ReqID && c.IfID == d.IfID &&
		slices.Equal(c.Local, d.Local) && slices.Equal(c.Remote, d.Remote) &&
		slices.EqualFunc(c.Proposals, d.Proposals, func(p, q ipsec.Proposal) bool {
			return p.Protocol == q.Protocol && slices.Equal(p.Transforms, q.Transforms)
		})
}
