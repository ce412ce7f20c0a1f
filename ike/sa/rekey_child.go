package sa

import (
	"bytes"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// A CHILD_SA is rekeyed without loss (RFC 7296, sections 2.8 and 2.8.1):
//
//	initiator                                 responder
//	REKEY_SA(old), SA, Ni, TS  ───────────►   new: inbound added
//	new: inbound, outbound added  ◄────────   SA, Nr, TS
//	DELETE(old)  ──────────────────────────►  new: outbound added
//	old: gone, still receives 5 s ◄────────   DELETE(old); old: the same
//
// When both ends do so at once there are two new SAs. The one whose exchange
// had the lowest of the four nonces is deleted by the end that made it, and the
// old one by the other end.

// rekeyDue begins a rekey of a child.
func (c *childSA) rekeyDue() {
	m := c.m
	if c.state != Established || c.slot.removed || !m.ike.reachable() {
		return
	}
	switch {
	case c.slot.busy:
		c.rekeyAt = m.now.Add(m.temporaryDelay())
		return
	case !c.redundantAt.IsZero():
		c.rekeyAt = m.now.Add(duplicateTimeout) // should it be there still
		return
	}
	c.rekeyAt = time.Time{}
	if c.outdated {
		m.retry(c.slot)
		return
	}
	c.slot.busy = true
	m.ike.replaceChild(c)
}

// rekeySlot rekeys a child now, or sets it up where it is down.
func (m *core) rekeySlot(reqID uint32) {
	k := m.slotByReqID(reqID)
	if k == nil || !m.ike.Established() {
		return
	}
	i := slices.IndexFunc(m.children, func(c *childSA) bool {
		return c.slot == k && c.state == Established && c.redundantAt.IsZero()
	})
	switch {
	case i >= 0:
		m.children[i].rekeyDue()
	case !m.up(k):
		k.wanted = true
		m.retry(k)
	}
}

// rekeyedBy finds the child that a request is to rekey, if it is to rekey one, or
// the refusal.
func (m *Machine) rekeyedBy(msg *wire.Message) (*childSA, *reply) {
	n, ok := msg.Notify(wire.RekeySA)
	if !ok {
		return nil, nil
	}
	old, no := m.rekeyed(n)
	if old == nil {
		return nil, &no
	}
	return old, nil
}

// rekeyed finds the child that a REKEY_SA notify names by the peer's inbound
// SPI, or the refusal (section 2.25.1).
func (m *Machine) rekeyed(n *wire.Notify) (*childSA, reply) {
	var c *childSA
	if n.Protocol == ipsec.ProtocolESP && len(n.SPI) == 4 {
		c = m.childByOut(ipsec.SPI(uint32(n.SPI[0])<<24 | uint32(n.SPI[1])<<16 | uint32(n.SPI[2])<<8 | uint32(n.SPI[3])))
	}
	switch {
	case c == nil && m.creating() != nil:
		// It may be what the answer to our own request, which is late, tells of.
		return nil, refuse(wire.TemporaryFailure)
	case c == nil:
		return nil, reply{payloads: []wire.Payload{&wire.Notify{
			Protocol: n.Protocol, SPI: n.SPI, NotifyType: wire.ChildSANotFound,
		}}}
	case c.state == Deleting, c.slot.removed:
		return nil, refuse(wire.TemporaryFailure)
	case c.state == Connecting:
		// The peer uses it, so it is complete.
		c.addOut()
	}
	return c, reply{}
}

// succeededBy notes what the peer's exchange made of a child. A peer that
// rekeys one child twice uses the last one.
func (c *childSA) succeededBy(next *childSA) {
	if before := c.successor; before != nil && before.counts() {
		before.redundantAt = c.m.now.Add(redundantTimeout)
	}
	c.successor = next
	if c.m.env.QuerySA != nil {
		next.probeAt = c.m.now.Add(probeInterval)
	}
}

// awaitDelete is for a child that the peer has replaced and is to delete.
func (c *childSA) awaitDelete() {
	if c.setState(Rekeyed) {
		c.rekeyAt = time.Time{}
		c.redundantAt = c.m.now.Add(redundantTimeout)
	}
}

// probe looks whether the peer uses a child that it has made. If so we may send
// on it, too, even if the DELETE of the old one is late or lost.
func (c *childSA) probe() {
	if c.state != Connecting || c.m.env.QuerySA == nil {
		return
	}
	if st, err := c.m.env.QuerySA(c.inID()); err == nil && st.Packets > 0 || c.patient && !c.m.beside() {
		c.addOut()
		return
	}
	c.probeAt = c.m.now.Add(probeInterval)
}

// awaitUse leaves it to the peer to show by its traffic that it has a child, while
// another one carries ours, but not for long.
func (c *childSA) awaitUse() {
	c.probeAt, c.sendAt = c.m.now.Add(probeInterval), c.m.now.Add(sendDelay)
}

// redundant deletes a child that another one has replaced, when the peer has
// not done so.
func (c *childSA) redundant() {
	if c.state == Deleting || c.state == Deleted || c.m.ike.prefers(c) {
		return
	}
	replaced := slices.ContainsFunc(c.m.children, func(other *childSA) bool {
		return other != c && other.slot == c.slot && other.counts() && (other.hasOut || other == c.successor)
	})
	if replaced || c.state == Rekeyed {
		c.m.deleteChild(c, ReasonChildReplaced, nil)
	}
}

// thin plans the end of all but one of the children of a slot: both ends may have
// set it up, and one of them have rekeyed it before it knew of the other. Both ends
// keep the one with the highest nonce, unless one of them has a reason to end it.
func (m *Machine) thin() {
	if len(m.children) <= len(m.slots) {
		return
	}
	for i, c := range m.children {
		for _, o := range m.children[:i] {
			if o.slot != c.slot || !c.settled() || !o.settled() {
				continue
			}
			if bytes.Compare(c.nonce, o.nonce) < 0 {
				c.redundantAt = m.now.Add(redundantTimeout)
			} else {
				o.redundantAt = m.now.Add(redundantTimeout)
			}
		}
	}
	for _, c := range m.children {
		if c.state == Established && !c.redundantAt.IsZero() && !m.servedBeside(c, nil) {
			c.redundantAt = time.Time{}
		}
	}
}

// settled reports whether the child is complete and to stay.
func (c *childSA) settled() bool {
	return c.state == Established && c.hasOut && c.redundantAt.IsZero()
}

// complete installs the child that our exchange has made, unless the peer's
// exchange at the same time goes before it.
func (x *createChild) complete(m *Machine, c *childSA) {
	c.addIn() // the peer may send on it already
	// The peer holds our nonces against its own SA's, and goes on with that one
	// where it wins: it may have rekeyed it already.
	if x.rival != nil && bytes.Compare(c.nonce, x.rival.nonce) < 0 && m.servedBeside(c, x.old) {
		m.deleteChild(c, ReasonChildReplaced, nil)
		if x.old != nil && x.old.state == Rekeying {
			x.old.awaitDelete()
		}
		return
	}
	c.addOut()
	m.after(func() { x.replace(m, c) })
}

// replace ends what the child of our exchange comes in the place of, now that
// the data plane has it. If it has not, the old one goes on.
func (x *createChild) replace(m *Machine, c *childSA) {
	old := x.old
	if c.refused != nil {
		if old != nil {
			x.again(m, m.backoff(x.slot))
		}
		return
	}
	if rival := x.rival; rival != nil {
		if rival.counts() {
			rival.probeAt = time.Time{}
			rival.redundantAt = m.now.Add(redundantTimeout)
		}
		if old != nil && old.successor == rival {
			old.successor = nil
		}
	}
	if old != nil && old.state != Deleted {
		m.deleteChild(old, ReasonChildReplaced, nil)
	}
	m.takeOver(c)
}

// servedBeside reports whether the slot of a new child has another one, beside
// the one that is being replaced.
func (m *core) servedBeside(c, old *childSA) bool {
	return slices.ContainsFunc(m.children, func(o *childSA) bool {
		return o != c && o != old && o.slot == c.slot && o.counts()
	})
}
