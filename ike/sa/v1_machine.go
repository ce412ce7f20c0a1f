package sa

import (
	"net/netip"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// MachineV1 is one peer that speaks IKEv1: the ISAKMP SAs that follow each other
// and all CHILD_SAs, which RFC 2409 calls the SAs of phase 2. Those do not end
// with the ISAKMP SA that they were negotiated under. It is used as Machine is.
type MachineV1 struct {
	core

	sas     []*ISAKMPSA // oldest first
	current *ISAKMPSA   // carries our requests; nil while there is none
	attempt *ISAKMPSA   // that we negotiate
	queue   []*quickMode
	// fresh is what a responder has authenticated in the call under way, and
	// meant the connection that it is of.
	fresh *ISAKMPSA
	meant *Connection
	// refusals counts the negotiations in a row that gave no ISAKMP SA as the
	// connection has it now.
	refusals int
	// orphanedAt is when the children end that have no ISAKMP SA any more, and
	// orphanedBy why that one ended.
	orphanedAt time.Time
	orphanedBy Reason
	// negotiateAt is when it is tried again to negotiate one for them.
	negotiateAt   time.Time
	negotiatePath path
	// gmVariant is how the peer writes as far as an SA has shown, and gmTried how
	// many other variants were tried (GM/T 0022).
	gmVariant *GMVariant
	gmTried   int
}

// InitiateV1 begins an ISAKMP SA with the peer of a connection, which must be
// valid, of IKEv1, and have a remote address.
func InitiateV1(now time.Time, env *Env, c *Connection) (*MachineV1, []Action) {
	m := newMachineV1(env, now)
	m.serve(c)
	m.negotiate(path{
		local:  netip.AddrPortFrom(c.Local, portIKE),
		remote: netip.AddrPortFrom(c.Remote, portIKE),
	})
	return m, m.finish()
}

// RespondV1 answers the first message of main mode or aggressive mode. Where the
// peer is refused there is no machine, and the actions hold the answer, if one
// is due, and the event. The error tells why a message was dropped.
func RespondV1(now time.Time, env *Env, d Datagram) (*MachineV1, []Action, error) {
	m := newMachineV1(env, now)
	if err := m.answerFirst(d); err != nil {
		return nil, nil, err
	}
	out := m.finish()
	if m.Done() {
		return nil, out, nil
	}
	return m, out, nil
}

func newMachineV1(env *Env, now time.Time) *MachineV1 {
	m := &MachineV1{core: core{env: env, now: now, lastSeen: now, contact: Contact{Begun: now}}}
	m.ike = m
	return m
}

// Handle takes a datagram whose header names one of SPIs, or the first message
// that the machine was made for, again.
func (m *MachineV1) Handle(now time.Time, d Datagram) []Action {
	m.begin(now)
	m.receive(d)
	return m.finish()
}

func (m *MachineV1) receive(d Datagram) {
	msg, err := isakmp.Parse(d.Bytes)
	if err != nil {
		m.drop(dropMalformed)
		m.otherVersion(d)
		return
	}
	i := slices.IndexFunc(m.sas, func(s *ISAKMPSA) bool { return s.owns(&msg.Header) })
	if i < 0 {
		m.drop(dropUnknownSPI)
		return
	}
	m.sas[i].receive(d, msg)
}

// otherVersion remembers that somebody answered in another version of IKE.
func (m *MachineV1) otherVersion(d Datagram) {
	h, err := wire.ParseHeader(d.Bytes)
	if err != nil || h.MajorVersion != 2 {
		return
	}
	if s := m.attempt; s != nil && s.spir == 0 && s.spii == h.InitiatorSPI {
		s.remember(&Diagnosis{
			Reason: ReasonVersion, Exchange: s.mode.String(), Parameter: "IKE version", Ours: "1", Theirs: "2",
			Detail: "the peer answers in IKEv2",
		})
	}
}

// Do obeys a command.
func (m *MachineV1) Do(now time.Time, cmd Command) []Action {
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
	case RekeyIKE, Reauthenticate:
		if m.current != nil {
			m.current.rekeyDue()
		}
	case RekeyChild:
		m.rekeySlot(c.ReqID)
	case Probe:
		if s := m.current; s != nil {
			s.startProbe()
		}
	case Acquire:
		m.acquire(c.ReqID)
	case Expired:
		m.expired(c)
	case Moved:
		m.moved(c)
	case Adopt:
		m.adopt(c.SA)
	}
	return m.finish()
}

// Timeout does what is due at now.
func (m *MachineV1) Timeout(now time.Time) []Action {
	m.begin(now)
	m.fire(m.timers)
	return m.finish()
}

// Deadline is when Timeout wants to be called. It is zero when the machine
// waits for nothing.
func (m *MachineV1) Deadline() time.Time { return m.deadline(m.timers) }

// timers visits all timers that run.
func (m *MachineV1) timers(visit func(timer)) {
	for _, s := range m.sas {
		s.timers(visit)
	}
	m.childTimers(visit)
	when(visit, &m.dpdAt, m, (*MachineV1).checkLiveness)
	when(visit, &m.keepaliveAt, m, (*MachineV1).keepalive)
	when(visit, &m.orphanedAt, m, (*MachineV1).orphanTimeout)
	when(visit, &m.negotiateAt, m, func(m *MachineV1) {
		if m.current == nil && m.attempt == nil {
			m.negotiate(m.negotiatePath)
		}
	})
}

// finish starts the quick modes that wait, forgets what is gone, and returns the
// call's actions.
func (m *MachineV1) finish() []Action {
	m.settle()
	m.pump()
	m.supersede()
	m.sas = slices.DeleteFunc(m.sas, func(s *ISAKMPSA) bool { return s.state == Deleted })
	return m.actions()
}

// Done reports whether everything is gone: no action will come any more.
func (m *MachineV1) Done() bool { return len(m.sas) == 0 && len(m.children) == 0 && !m.Pending() }

// SPIs returns our cookies, under which the peer's messages for the machine come.
func (m *MachineV1) SPIs() []uint64 {
	spis := make([]uint64, len(m.sas))
	for i, s := range m.sas {
		spis[i] = s.SPI()
	}
	return spis
}

// Established reports whether there is an authenticated ISAKMP SA in use.
func (m *MachineV1) Established() bool { return m.current != nil }

func (m *MachineV1) reachable() bool { return m.current != nil }

// Status returns the machine as it stands. SAs that are gone are left out.
func (m *MachineV1) Status() (st Status) {
	m.Describe(&st)
	return st
}

// Describe is Status in the memory of an earlier one.
func (m *MachineV1) Describe(st *Status) {
	m.describe(st)
	for _, s := range m.sas {
		if s.state == Deleted {
			continue
		}
		ike := IKEStatus{
			Version: 1, State: s.state, Initiator: s.initiator, InitiatorSPI: s.spii, ResponderSPI: s.spir,
			Local: s.path.local, Remote: s.path.remote, Proposal: s.proposal,
			NATLocal: s.path.natLocal, NATRemote: s.path.natRemote, Encap: s.path.encap, Fragmentation: s.fragmentation,
			Established: s.established, RekeyAt: s.rekeyAt, ExpireAt: s.expireAt, LastSeen: s.lastSeen, Confirmed: s.lastSeen,
		}
		if m.conn != nil {
			ike.Outdated = s.outdated()
			ike.LocalID, ike.RemoteID = m.conn.LocalID, m.conn.RemoteID
			s.gmStatus(&ike)
		}
		st.IKE = append(st.IKE, ike)
	}
}

// event returns an event about an ISAKMP SA.
func (m *MachineV1) event(kind EventKind, s *ISAKMPSA) Event {
	return Event{
		Kind: kind, Version: 1, Connection: m.Connection(), Local: s.path.local, Remote: s.path.remote,
		InitiatorSPI: s.spii, ResponderSPI: s.spir, Initiator: s.initiator, Proposal: s.proposal,
		Encap: s.path.encap, NATLocal: s.path.natLocal, NATRemote: s.path.natRemote,
	}
}

func (m *MachineV1) currentEvent(kind EventKind) Event {
	switch {
	case m.current != nil:
		return m.event(kind, m.current)
	case m.attempt != nil:
		return m.event(kind, m.attempt)
	}
	return Event{Kind: kind, Version: 1, Connection: m.Connection()}
}

// reportOn emits a Failed event about a negotiation of phase 1.
func (m *MachineV1) reportOn(s *ISAKMPSA, d *Diagnosis) {
	e := m.event(Failed, s)
	e.Reason, e.Diagnosis = d.Reason, d
	m.emit(Emit{e})
}

// update goes over to a new configuration of the connection.
func (m *MachineV1) update(next *Connection) {
	if m.conn == nil || !next.IKEv1() || m.conn.EffectOf(next) == EffectDrop {
		m.terminate(ReasonConfigModify, nil)
		return
	}
	dpd, renew := m.conn.DPD != next.DPD, !m.conn.sameIKE(next)
	if next.GM != nil && m.conn.GM.Variant != next.GM.Variant {
		m.gmVariant, m.gmTried = nil, 0
	}
	m.conn = next
	m.updateChildren(next.Children)
	if renew {
		m.renew()
	}
	if dpd && m.Established() && next.DPD.Interval > 0 {
		m.dpdAt = m.lastSeen.Add(next.DPD.Interval)
	}
}

// renew negotiates an ISAKMP SA as the connection has it now. The one in use stays
// until there is another one, or to the end of its life.
func (m *MachineV1) renew() {
	if a := m.attempt; a != nil {
		a.close()
		m.attempt = nil
	}
	m.refusals = 0
	switch {
	case m.current == nil && !m.orphanedAt.IsZero():
		m.negotiateAt = m.now
	case m.current != nil && m.current.outdated():
		m.current.rekeyDue()
	}
}

// outdated reports whether the SA is not as the connection has it now.
func (s *ISAKMPSA) outdated() bool { return s.conn != nil && !s.conn.sameIKE(s.m.conn) }

// terminate ends everything, with a DELETE to the peer where it knows of us. It
// is not answered, so that nothing is waited for.
func (m *MachineV1) terminate(reason Reason, d *Diagnosis) {
	m.announceEnd()
	a := m.attempt
	if a == nil || !a.authenticating() {
		m.end(reason, d)
		return
	}
	m.attempt = nil
	m.sas = slices.DeleteFunc(m.sas, func(s *ISAKMPSA) bool { return s == a })
	m.end(reason, d)
	a.abandon()
	m.sas = append(m.sas, a)
}

// end ends everything without a word to the peer.
func (m *MachineV1) end(reason Reason, d *Diagnosis) {
	event := m.currentEvent(ChildDown)
	s, attempt := m.current, m.attempt
	m.current, m.attempt = nil, nil
	m.dpdAt, m.keepaliveAt, m.orphanedAt, m.negotiateAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	hadChildren := slices.ContainsFunc(m.children, func(c *childSA) bool { return c.hasOut })
	m.queue = nil
	for _, each := range m.sas {
		each.close()
	}
	m.removeChildren(event, reason, d)
	switch {
	case s != nil || hadChildren:
		event.Kind, event.Reason, event.Diagnosis = IKEDown, reason, d
		m.emit(Emit{event})
	case attempt != nil && d != nil:
		m.reportOn(attempt, d)
	}
}

// ofMode returns the connections that negotiate phase 1 in a mode.
func ofMode(list []*Connection, x isakmp.ExchangeType) []*Connection {
	return slices.DeleteFunc(slices.Clone(list), func(c *Connection) bool { return c.Aggressive != (x == isakmp.Aggressive) })
}

// mode returns how a connection negotiates phase 1.
func (c *Connection) mode() isakmp.ExchangeType {
	if c.Aggressive {
		return isakmp.Aggressive
	}
	return isakmp.IdentityProtection
}

// expectedOf is Machine.expected for a list of connections.
func expectedOf(list []*Connection, remote netip.Addr) *Connection {
	var only *Connection
	for _, c := range list {
		if c.Remote != remote.Unmap() {
			continue
		}
		if only != nil {
			return nil
		}
		only = c
	}
	return only
}

// transformHash is the type under which the hash of phase 1 stands.
const transformHash = ipsec.TransformPRF
