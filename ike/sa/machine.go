package sa

import (
	"net/netip"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
)

// Machine is one peer that speaks IKEv2: an IKE SA, its successor while it is rekeyed, and all
// CHILD_SAs. It is not safe for concurrent use. The results of its methods are
// the caller's; datagrams that come in are not kept.
//
// The caller performs the actions of one call before it makes another, and
// first gives a Refused command for each that the data plane has refused.
type Machine struct {
	core
	// candidates are the connections that a responder may yet choose from.
	candidates []*Connection

	ikes    []*ikeSA // oldest first
	current *ikeSA   // carries our requests; nil when the peer is gone

	began     bool      // we began the first IKE SA
	authAt    time.Time // of its authentication
	reauthAt  time.Time // it is to be replaced
	authEndAt time.Time // the authentication holds no longer

	proven         path                 // of the children: the IKE SA's, until that one moves; see moveChildren
	redirected     Redirected           // of us, to the gateway that the IKE SA is with
	redirectable   bool                 // of a responder: the peer can be sent elsewhere
	redirectedFrom wire.GatewayIdentity // of a responder: where the peer comes from
	leaveAt        time.Time            // the peer, which was sent elsewhere, is to be gone

	mobike        bool         // agreed on
	peerAddresses []netip.Addr // of the responder, beside the one of the connection
	tried         []netip.Addr // of the responder, since it last answered
	detoured      bool         // to one of them: it is to be told
}

// Datagram is an IKE message with its addresses, without a non-ESP marker.
type Datagram struct {
	Local, Remote netip.AddrPort
	Bytes         []byte
}

// Initiate begins an IKE SA with the peer of a connection, which must be valid
// and have a remote address.
func Initiate(now time.Time, env *Env, c *Connection) (*Machine, []Action) {
	return InitiateAt(now, env, c, Redirected{})
}

// InitiateAt is Initiate with the gateway that another one has sent us to.
func InitiateAt(now time.Time, env *Env, c *Connection, r Redirected) (*Machine, []Action) {
	m := newMachine(env, now)
	m.adopt(c)
	m.redirected = r
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
	m := &Machine{core: core{env: env, now: now, lastSeen: now, contact: Contact{Begun: now}}}
	m.ike = m
	return m
}

// adopt makes the machine serve a connection.
func (m *Machine) adopt(c *Connection) {
	m.serve(c)
	m.candidates = nil
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
	case Reauthenticate:
		m.reauthenticate()
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
	case Redirect:
		m.redirect(c.To)
	case Adopt: // of IKEv1
	}
	return m.finish()
}

// finish sends what the call has queued, forgets what is gone, and returns the
// call's actions.
func (m *Machine) finish() []Action {
	m.thin()
	for _, s := range slices.Clone(m.ikes) {
		s.pump()
	}
	m.ikes = slices.DeleteFunc(m.ikes, func(s *ikeSA) bool { return s.state == Deleted && !s.forgetAt.After(m.now) })
	return m.actions()
}

// Timeout does what is due at now.
func (m *Machine) Timeout(now time.Time) []Action {
	m.begin(now)
	m.fire(m.timers)
	return m.finish()
}

// Deadline is when Timeout wants to be called. It is zero when the machine
// waits for nothing.
func (m *Machine) Deadline() time.Time { return m.deadline(m.timers) }

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

// Established reports whether there is an authenticated IKE SA in use.
func (m *Machine) Established() bool { return m.current != nil && m.current.live() }

func (m *Machine) reachable() bool { return m.current != nil }

// Status returns the machine as it stands. SAs that are gone are left out.
func (m *Machine) Status() (st Status) {
	m.Describe(&st)
	return st
}

// Describe is Status in the memory of an earlier one.
func (m *Machine) Describe(st *Status) {
	m.describe(st)
	for _, s := range m.ikes {
		if s.state == Deleted {
			continue
		}
		ike := IKEStatus{
			Version: 2,
			State:   s.state, Initiator: s.initiator, InitiatorSPI: s.spii, ResponderSPI: s.spir,
			Local: s.path.local, Remote: s.path.remote, Proposal: s.proposal,
			NATLocal: s.path.natLocal, NATRemote: s.path.natRemote, Encap: s.path.encap, Fragmentation: s.fragmentation, MOBIKE: m.mobike, PPK: s.ppk,
			Redirectable: m.redirectable && !m.began,
			Established:  s.established, RekeyAt: s.rekeyAt, ExpireAt: s.expireAt, LastSeen: s.lastSeen, Confirmed: s.confirmed,
		}
		if m.conn != nil {
			ike.LocalID, ike.RemoteID = m.conn.LocalID, m.conn.RemoteID
		}
		st.IKE = append(st.IKE, ike)
	}
}
