package sa

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
)

// Machine is one peer: an IKE SA, its successor while it is rekeyed, and all
// CHILD_SAs. It is not safe for concurrent use. The results of its methods are
// the caller's; datagrams that come in are not kept.
//
// The caller performs the actions of one call before it makes another, and
// first gives a Refused command for each that the data plane has refused.
type Machine struct {
	env  *Env
	conn *Connection // nil while a responder does not know it
	// candidates are the connections that a responder may yet choose from.
	candidates []*Connection

	now time.Time // of the call under way
	out []Action  // of the call under way
	// pending is what waits for the data plane to have taken the SAs and
	// policies of the last call. See after.
	pending []func()

	ikes     []*ikeSA // oldest first
	current  *ikeSA   // carries our requests; nil when the peer is gone
	slots    []*slot  // configured children, in their order
	children []*childSA
	lastSeen time.Time // a sign of life of the peer, by IKE or ESP
	drops    [dropReasons]uint64

	dpdAt, keepaliveAt time.Time
}

// Datagram is an IKE message with its addresses, without a non-ESP marker.
type Datagram struct {
	Local, Remote netip.AddrPort
	Bytes         []byte
}

// Initiate begins an IKE SA with the peer of a connection, which must be valid
// and have a remote address.
func Initiate(now time.Time, env *Env, c *Connection) (*Machine, []Action) {
	m := newMachine(env, now)
	m.adopt(c)
	m.initiate()
	return m, m.finish()
}

// Respond answers an IKE_SA_INIT request whose cookie, if one was due, the
// caller has verified. Where the peer is refused there is no machine, and the
// actions hold the answer, if one is due, and the event. The error tells why a
// message was dropped.
func Respond(now time.Time, env *Env, d Datagram) (*Machine, []Action, error) {
	m := newMachine(env, now)
	if err := m.answerInit(d); err != nil {
		return nil, nil, err
	}
	out := m.finish()
	if m.Done() {
		return nil, out, nil
	}
	return m, out, nil
}

func newMachine(env *Env, now time.Time) *Machine {
	return &Machine{env: env, now: now, lastSeen: now}
}

// adopt makes the machine serve a connection.
func (m *Machine) adopt(c *Connection) {
	m.conn, m.candidates = c, nil
	m.slots = make([]*slot, len(c.Children))
	for i, child := range c.Children {
		m.slots[i] = &slot{cfg: child}
	}
}

// Handle takes a datagram whose header names one of SPIs, or the IKE_SA_INIT
// request that the machine was made for, again.
func (m *Machine) Handle(now time.Time, d Datagram) []Action {
	m.begin(now)
	m.receive(d)
	return m.finish()
}

func (m *Machine) receive(d Datagram) {
	msg, err := wire.Parse(d.Bytes)
	if err != nil {
		m.drop(dropMalformed)
		m.otherVersion(d)
		return
	}
	i := slices.IndexFunc(m.ikes, func(s *ikeSA) bool { return s.owns(&msg.Header) })
	switch {
	case i < 0:
		m.drop(dropUnknownSPI)
	case msg.Response:
		m.ikes[i].receiveResponse(d, msg)
	default:
		m.ikes[i].receiveRequest(d, msg)
	}
}

// Do obeys a command.
func (m *Machine) Do(now time.Time, cmd Command) []Action {
	if c, ok := cmd.(Refused); ok {
		m.now = now
		m.refused(c)
		return m.finish()
	}
	m.begin(now)
	switch c := cmd.(type) {
	case Update:
		m.update(c.Connection)
	case Terminate:
		m.terminate(c.Reason, nil)
	case RekeyIKE:
		m.rekeyIKE()
	case RekeyChild:
		m.rekeySlot(c.ReqID)
	case Probe:
		if s := m.current; s != nil && s.state == Established {
			s.enqueue(&liveness{})
		}
	case Acquire:
		m.acquire(c.ReqID)
	case Expired:
		m.expired(c)
	case Moved:
		m.moved(c)
	}
	return m.finish()
}

// Timeout does what is due at now.
func (m *Machine) Timeout(now time.Time) []Action {
	m.begin(now)
	var due []timer
	m.timers(func(t timer) {
		if !t.at.After(now) {
			due = append(due, t)
		}
	})
	slices.SortStableFunc(due, func(a, b timer) int { return a.at.Compare(*b.at) })
	for _, t := range due {
		// An earlier one may have stopped it or put it off.
		if !t.at.IsZero() && !t.at.After(now) {
			*t.at = time.Time{}
			t.fire()
		}
	}
	return m.finish()
}

// Deadline is when Timeout wants to be called. It is zero when the machine
// waits for nothing.
func (m *Machine) Deadline() time.Time {
	if m.Pending() {
		return m.now
	}
	var first time.Time
	m.timers(func(t timer) {
		if first.IsZero() || t.at.Before(first) {
			first = *t.at
		}
	})
	return first
}

// begin starts a call. It goes on with what the last one has left.
func (m *Machine) begin(now time.Time) {
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
func (m *Machine) after(f func()) { m.pending = append(m.pending, f) }

// Pending reports whether the last call has left something until its actions are
// performed. Timeout, as any call, goes on with it.
func (m *Machine) Pending() bool { return len(m.pending) > 0 }

// finish sends what the call has queued, forgets what is gone, and returns the
// call's actions.
func (m *Machine) finish() []Action {
	for _, s := range slices.Clone(m.ikes) {
		s.pump()
	}
	m.ikes = slices.DeleteFunc(m.ikes, func(s *ikeSA) bool { return s.state == Deleted && !s.forgetAt.After(m.now) })
	m.children = slices.DeleteFunc(m.children, func(c *childSA) bool { return c.state == Deleted && c.goneAt.IsZero() })
	out := m.out
	m.out = nil
	return out
}

// Done reports whether everything is gone: no action will come any more.
func (m *Machine) Done() bool { return len(m.ikes) == 0 && len(m.children) == 0 }

// SPIs returns our SPIs, under which the peer's messages for the machine come:
// those of the IKE SA, of its successor while it is rekeyed, and of those that
// are gone but still answer repeated requests.
func (m *Machine) SPIs() []uint64 {
	spis := make([]uint64, len(m.ikes))
	for i, s := range m.ikes {
		spis[i] = s.spi()
	}
	return spis
}

// Connection returns the connection's name; it is empty until IKE_AUTH has told
// a responder which one it is.
func (m *Machine) Connection() string {
	if m.conn == nil {
		return ""
	}
	return m.conn.Name
}

// Established reports whether there is an authenticated IKE SA in use.
func (m *Machine) Established() bool { return m.current != nil && m.current.live() }

// Status returns the machine as it stands. SAs that are gone are left out.
func (m *Machine) Status() Status {
	st := Status{Connection: m.Connection()}
	for _, s := range m.ikes {
		if s.state == Deleted {
			continue
		}
		ike := IKEStatus{
			State: s.state, Initiator: s.initiator, InitiatorSPI: s.spii, ResponderSPI: s.spir,
			Local: s.path.local, Remote: s.path.remote, Proposal: s.proposal,
			NATLocal: s.path.natLocal, NATRemote: s.path.natRemote, Encap: s.path.encap, Fragmentation: s.fragmentation,
			Established: s.established, RekeyAt: s.rekeyAt, ExpireAt: s.expireAt, LastSeen: s.lastSeen,
		}
		if m.conn != nil {
			ike.LocalID, ike.RemoteID = m.conn.LocalID, m.conn.RemoteID
		}
		st.IKE = append(st.IKE, ike)
	}
	for _, c := range m.children {
		if c.state == Deleted {
			continue
		}
		st.Children = append(st.Children, ChildStatus{
			Name: c.slot.cfg.Name, ReqID: c.slot.cfg.ReqID, State: c.state, Initiator: c.initiator,
			In: c.inID(), Out: c.outID(), Proposal: c.proposal,
			Local: slices.Clone(c.local), Remote: slices.Clone(c.remote),
			Established: c.established, RekeyAt: c.rekeyAt, ExpireAt: c.expireAt,
		})
	}
	return st
}

func (m *Machine) emit(a Action) { m.out = append(m.out, a) }

// random returns a number in [0, 1). Without randomness it is zero: that only
// costs the spreading of timers.
func (m *Machine) random() float64 {
	var b [8]byte
	if readFull(m.env.Rand, b[:]) != nil {
		return 0
	}
	return float64(binary.BigEndian.Uint64(b[:])>>11) / (1 << 53)
}

// jitter spreads a delay by up to a tenth.
func (m *Machine) jitter(d time.Duration) time.Duration {
	return d + time.Duration(m.random()*float64(d)/10)
}

// soft returns when, within a lifetime, to rekey: spread over a tenth of it, and
// earlier at the end that made the SA, so that as a rule only one end begins.
func (m *Machine) soft(life time.Duration, initiator bool) time.Duration {
	return time.Duration(float64(life) * m.softFraction(initiator))
}

func (m *Machine) softFraction(initiator bool) float64 {
	if initiator {
		return 0.75 + m.random()/10
	}
	return 0.86 + m.random()/10
}
