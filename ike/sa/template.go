package sa

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// A template is a configured child of which the peer chooses the selectors. It has
// no CHILD_SA itself: a slot is made from it for each pair of lists of selectors
// that the peer asks for, and goes with the last CHILD_SA of that slot.

// maxMade is how many children a peer may have from one template.
const maxMade = 64

// maxMadeSelectors is how many selectors a side such a child has at most: a route
// may be set for each pair.
const maxMadeSelectors = 32

// maxMadePairs is how many pairs of selectors all children of one template have at
// most: the data plane keeps two policies for each.
const maxMadePairs = maxMadeSelectors * maxMadeSelectors

// ErrFlowConflict is why the caller refuses the policy of a connection with a
// Claimant: another one holds what it overlaps.
var ErrFlowConflict = errors.New("the traffic is that of another peer")

// refusal is the notify for a child that the data plane does not take.
func (c *childSA) refusal() wire.NotifyType {
	if errors.Is(c.refused, ErrFlowConflict) {
		return wire.TSUnacceptable
	}
	return wire.NoAdditionalSAs
}

// madeFrom returns the slot that was made from a template for just these
// selectors, or nil.
func (m *core) madeFrom(template *slot, local, remote []ipsec.TrafficSelector) *slot {
	i := slices.IndexFunc(m.slots, func(k *slot) bool {
		return k.template == template && !k.removed && slices.Equal(k.cfg.Local, local) && slices.Equal(k.cfg.Remote, remote)
	})
	if i < 0 {
		return nil
	}
	return m.slots[i]
}

// instantiate makes a slot from a template.
func (m *core) instantiate(template *slot, local, remote []ipsec.TrafficSelector) (*slot, error) {
	made, pairs := 0, len(local)*len(remote)
	for _, k := range m.slots {
		if k.template == template {
			made++
			pairs += len(k.cfg.Local) * len(k.cfg.Remote)
		}
	}
	switch {
	case made >= maxMade:
		return nil, fmt.Errorf("the peer has %d children, as many as it may", made)
	case pairs > maxMadePairs:
		return nil, fmt.Errorf("the peer would have %d pairs of traffic selectors, more than the %d that it may", pairs, maxMadePairs)
	}
	cfg := *template.cfg
	cfg.Template, cfg.ReqID = false, m.env.AllocReqID()
	cfg.Local, cfg.Remote = local, remote
	cfg.Name = ipsec.SelectorList(local) + " to " + ipsec.SelectorList(remote)
	k := &slot{cfg: &cfg, template: template}
	m.slots = append(m.slots, k)
	return k, nil
}

// readmit gives a child that was agreed on a slot among those of the machine again:
// while its additional key exchanges were done it was no CHILD_SA that keeps one, and
// others may have been made, or the template changed.
func (m *core) readmit(c *childSA) (err error) {
	t := c.slot.template
	if t == nil || slices.Contains(m.slots, c.slot) {
		return nil
	}
	if !slices.Contains(m.slots, t) || !ipsec.Covers(t.cfg.Local, c.local) || !ipsec.Covers(t.cfg.Remote, c.remote) {
		return errors.New("the template has changed meanwhile")
	}
	made := m.madeFrom(t, c.local, c.remote)
	if made == nil {
		if made, err = m.instantiate(t, c.local, c.remote); err != nil {
			return err
		}
	}
	c.slot = made
	return nil
}

// keepMade takes over, of the slots made from templates, those that the templates
// of the present configuration still allow, and ends the others.
func (m *core) keepMade(made []*slot) {
	for _, k := range made {
		i := slices.IndexFunc(m.slots, func(t *slot) bool {
			return t.cfg.Template && t.cfg.IfID == k.cfg.IfID && ipsec.Covers(t.cfg.Local, k.cfg.Local) && ipsec.Covers(t.cfg.Remote, k.cfg.Remote)
		})
		if i < 0 {
			m.removeSlot(k, false)
			continue
		}
		k.template = m.slots[i]
		next := *k.template.cfg
		next.Template, next.Name, next.ReqID, next.Local, next.Remote = false, k.cfg.Name, k.cfg.ReqID, k.cfg.Local, k.cfg.Remote
		m.reconfigure(k, &next)
		m.slots = append(m.slots, k)
	}
}

// pair returns the slot for the two selectors of a quick mode, which takes no
// others: one of just these, or a template that they are within.
func (m *core) pair(local, remote ipsec.TrafficSelector) *slot {
	l, r := []ipsec.TrafficSelector{local}, []ipsec.TrafficSelector{remote}
	var template *slot
	for _, k := range m.slots {
		switch {
		case k.removed:
		case k.cfg.Template:
			if template == nil && ipsec.Covers(k.cfg.Local, l) && ipsec.Covers(k.cfg.Remote, r) {
				template = k
			}
		case slices.Equal(k.cfg.Local, l) && slices.Equal(k.cfg.Remote, r):
			return k
		}
	}
	return template
}
