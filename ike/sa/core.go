package sa

import (
	"encoding/binary"
	"slices"
	"time"
)

// core is what the machines of both versions of IKE have in common: the
// connection, its children in the data plane, and the actions of the call under
// way.
type core struct {
	env  *Env
	conn *Connection // nil while a responder does not know it
	ike  ikeLayer

	now time.Time // of the call under way
	out []Action  // of the call under way
	// pending is what waits for the data plane to have taken the SAs and
	// policies of the last call. See after.
	pending []func()

	slots    []*slot // configured children, in their order
	retired  []*slot // configured no more; see dismiss
	children []*childSA
	contact  Contact
	lastSeen time.Time            // a sign of life of the peer, by IKE or ESP
	drops    *[dropReasons]uint64 // nil: none

	dpdAt, keepaliveAt time.Time
}

// ikeLayer is what children need of the IKE SAs of their machine.
type ikeLayer interface {
	// Established reports whether there is an authenticated IKE SA in use.
	Established() bool
	// reachable reports whether the peer can be told of a change.
	reachable() bool
	// createChild begins an exchange for a child that is not there, or not as it
	// is configured.
	createChild(k *slot)
	// replaceChild begins an exchange for the successor of a child.
	replaceChild(c *childSA)
	// announceDelete tells the peer that a child, which is being deleted, is
	// gone, and removes it once that is done.
	announceDelete(c *childSA)
	// missed reports whether the peer goes on sending on a child that is gone,
	// since it has not heard of that, and tells it again.
	missed(c *childSA) bool
	// prefers reports whether a child that another one has replaced is to stay
	// all the same.
	prefers(c *childSA) bool
	// currentEvent returns an event about the IKE SA in use.
	currentEvent(kind EventKind) Event
}

// serve makes the machine one of a connection.
func (m *core) serve(c *Connection) {
	m.conn = c
	m.slots = make([]*slot, len(c.Children))
	for i := range c.Children {
		m.slots[i] = &slot{cfg: &c.Children[i]}
	}
}

// fire calls the timers that are due.
func (m *core) fire(timers func(visit func(timer))) {
	var due []timer
	timers(func(t timer) {
		if !t.at.After(m.now) {
			due = append(due, t)
		}
	})
	slices.SortStableFunc(due, func(a, b timer) int { return a.at.Compare(*b.at) })
	for _, t := range due {
		// An earlier one may have stopped it or put it off.
		if !t.at.IsZero() && !t.at.After(m.now) {
			*t.at = time.Time{}
			t.fire()
		}
	}
}

// deadline returns when the first timer is due.
func (m *core) deadline(timers func(visit func(timer))) time.Time {
	if m.Pending() {
		return m.now
	}
	var first time.Time
	timers(func(t timer) {
		if first.IsZero() || t.at.Before(first) {
			first = *t.at
		}
	})
	return first
}

// begin starts a call. It goes on with what the last one has left.
func (m *core) begin(now time.Time) {
	m.now = now
	pending := m.pending
	m.pending = nil
	for _, f := range pending {
		f()
	}
}

// after puts off what must not be done before the data plane has taken what the
// call under way adds: to tell the peer, or to delete what is replaced. It is
// done at the beginning of the next call, for which Deadline asks at once; in
// between come only refusals.
func (m *core) after(f func()) { m.pending = append(m.pending, f) }

// Pending reports whether the last call has left something until its actions are
// performed. Timeout, as any call, goes on with it.
func (m *core) Pending() bool { return len(m.pending) > 0 }

// actions ends a call: it forgets the children that are gone and returns what
// is to be done.
func (m *core) actions() []Action {
	m.children = slices.DeleteFunc(m.children, func(c *childSA) bool { return c.state == Deleted && c.goneAt.IsZero() })
	m.slots = slices.DeleteFunc(m.slots, func(k *slot) bool { return k.template != nil && !k.busy && m.childrenOf(k) == 0 })
	out := m.out
	m.out = nil
	return out
}

// Connection returns the connection's name; it is empty until IKE_AUTH has told
// a responder which one it is.
func (m *core) Connection() string {
	if m.conn == nil {
		return ""
	}
	return m.conn.Name
}

// aloneWith reports whether the peer is told that we know of no other IKE SA with it.
func (m *core) aloneWith() bool {
	m.contact.InitialContact = m.env.InitialContact != nil && m.env.InitialContact(m.conn)
	return m.contact.InitialContact
}

// Configuration returns the configuration that the machine has of its connection,
// which is not to be changed. It is nil where Connection is empty.
func (m *core) Configuration() *Connection { return m.conn }

// describe begins a status, with the children that are not gone, in the memory of an
// earlier one.
func (m *core) describe(st *Status) {
	*st = Status{Connection: m.Connection(), Contact: m.contact, IKE: st.IKE[:0], Children: st.Children[:0]}
	for _, c := range m.children {
		if c.state == Deleted {
			continue
		}
		st.Children = append(st.Children, ChildStatus{
			Name: c.slot.cfg.Name, ReqID: c.slot.cfg.ReqID, State: c.state, Initiator: c.initiator,
			In: c.inID(), Out: c.outID(), Proposal: c.proposal,
			Local: c.local, Remote: c.remote,
			Established: c.established, RekeyAt: c.rekeyAt, ExpireAt: c.expireAt,
			Outdated: c.outdated || c.slot.removed,
		})
	}
}

func (m *core) emit(a Action) { m.out = append(m.out, a) }

// random returns a number in [0, 1). Without randomness it is zero: that only
// costs the spreading of timers.
func (m *core) random() float64 {
	var b [8]byte
	if readFull(m.env.Rand, b[:]) != nil {
		return 0
	}
	return float64(binary.BigEndian.Uint64(b[:])>>11) / (1 << 53)
}

// jitter spreads a delay by up to a tenth.
func (m *core) jitter(d time.Duration) time.Duration {
	return d + time.Duration(m.random()*float64(d)/10)
}

// soft returns when, within a lifetime, to rekey: spread over a tenth of it, and
// earlier at the end that made the SA, so that as a rule only one end begins.
func (m *core) soft(life time.Duration, initiator bool) time.Duration {
	return time.Duration(float64(life) * m.softFraction(initiator))
}

func (m *core) softFraction(initiator bool) float64 {
	if initiator {
		return 0.75 + m.random()/10
	}
	return 0.86 + m.random()/10
}
