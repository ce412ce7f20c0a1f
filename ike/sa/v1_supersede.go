package sa

import (
	"bytes"
	"slices"
	"time"
)

// IKEv1 does not tell which child a quick mode follows, and does not acknowledge
// a DELETE. So the ends may differ in which of two children they keep; what they
// see of each other's traffic then mends that.

// supersede ends the use of children that others have followed.
func (m *MachineV1) supersede() {
	for i, c := range m.children {
		for _, o := range m.children[:i] {
			if o.slot != c.slot || !c.inUse() || !o.inUse() {
				continue
			}
			older, newer := o, c
			if c.yieldsTo(o) {
				older, newer = c, o
			}
			older.setState(Rekeyed)
			older.rekeyAt = time.Time{}
			// Whoever has replaced a child, or made the one that yields, ends
			// it. Should the peer not, we do much later.
			if wait := supersedeTime; newer.replaces == older.in || older.initiator && !newer.initiator && older.crosses(newer) {
				older.redundantAt = m.now.Add(m.jitter(wait))
			} else if older.redundantAt.IsZero() {
				older.redundantAt = m.now.Add(m.jitter(redundantTimeout))
			}
		}
	}
	m.revive()
}

// inUse reports whether a child is complete and not followed.
func (c *childSA) inUse() bool { return c.hasOut && (c.state == Established || c.state == Rekeying) }

// yieldsTo reports which of two complete children goes, where c was begun later
// than o. Of two that each end began, and that may have crossed, it is the one
// with the lowest nonce, so that both ends keep the same.
func (c *childSA) yieldsTo(o *childSA) bool {
	switch {
	case c.replaces == o.in:
		return false
	case o.replaces == c.in:
		return true
	case c.crosses(o):
		return bytes.Compare(c.nonce, o.nonce) < 0
	}
	return c.established.Before(o.established)
}

// crosses reports whether each end has begun one of the two, and so lately that
// their messages may have crossed.
func (c *childSA) crosses(o *childSA) bool {
	return c.initiator != o.initiator && c.established.Sub(o.established).Abs() < crossingChildren
}

// prefers keeps a child that the peer goes on sending on, rather than the one
// that we took to have followed it: the ends may have differed in that. What came
// before the peer could change over tells nothing: in a tunnel that has gone idle
// since, nothing has come on the newer one, either.
func (m *MachineV1) prefers(c *childSA) bool {
	i := slices.IndexFunc(m.children, func(o *childSA) bool { return o.slot == c.slot && o.inUse() })
	if i < 0 || m.env.QuerySA == nil || m.children[i].replaces == c.in {
		return false
	}
	o := m.children[i]
	mine, err := m.env.QuerySA(c.inID())
	theirs, errTheirs := m.env.QuerySA(o.inID())
	if err != nil || errTheirs != nil || !mine.LastUsed.After(theirs.LastUsed) || !mine.LastUsed.After(o.established.Add(lingerTime)) {
		return false
	}
	o.setState(Rekeyed)
	o.rekeyAt, o.redundantAt = time.Time{}, m.now.Add(m.jitter(redundantTimeout))
	m.reuse(c)
	return true
}

// reuse makes a child that was followed the one in use again.
func (m *MachineV1) reuse(c *childSA) {
	if c.setState(Established) {
		c.redundantAt, c.rekeyAt = time.Time{}, m.now.Add(m.jitter(minRetry))
	}
}

// revive takes the last child of a slot into use again that was followed by one
// that is gone: the ends may have differed in which of two they keep.
func (m *MachineV1) revive() {
	for _, c := range slices.Backward(m.children) {
		if c.state != Rekeyed || !c.hasOut || c.slot.removed || slices.ContainsFunc(m.children, func(o *childSA) bool { return o.slot == c.slot && o.counts() }) {
			continue
		}
		m.reuse(c)
	}
}
