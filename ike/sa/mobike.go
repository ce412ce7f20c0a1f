package sa

import (
	"bytes"
	"crypto/hmac"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// With MOBIKE (RFC 4555) the end that began the IKE SA decides which addresses it
// has, and the other end follows at its word:
//
//	initiator, from its new address             responder
//	UPDATE_SA_ADDRESSES, NAT detection  ────►   the IKE SA moves
//	children move  ◄────────────────────────    NAT detection
//	COOKIE2  ◄──────────────────────────────    is it there?
//	the same COOKIE2  ──────────────────────►   children move
//
// So nobody can have us send traffic to an address at which the peer does not
// answer: until it does, children stay where they are, and new ones are made there.
// Our own UPDATE_SA_ADDRESSES carries a COOKIE2 as well. Where the initiator gets no answer, it tries the other addresses that
// the responder has told of. The end that is not behind a NAT does not follow the
// source addresses of IKE messages any more, only of ESP (section 3.8).

const (
	// cookie2Len is the length of what a routability check has to return.
	cookie2Len = 16 // octets
	maxCookie2 = 64
	// maxPeerAddresses bounds the addresses that a responder may tell of.
	maxPeerAddresses = 8
)

// agreeMOBIKE notes whether both ends do MOBIKE, and the responder's other
// addresses.
func (m *Machine) agreeMOBIKE(msg *wire.Message) {
	_, ok := msg.Notify(wire.MOBIKESupported)
	m.mobike = ok && m.conn.MOBIKE
	m.noteAddresses(msg)
}

// noteAddresses takes the list of the responder's further addresses, which
// replaces the one before.
func (m *Machine) noteAddresses(msg *wire.Message) {
	if !m.mobike || !m.began {
		return
	}
	told := false
	var list []netip.Addr
	for _, n := range wire.All[*wire.Notify](msg) {
		switch n.NotifyType {
		case wire.NoAdditionalAddresses:
			told = true
		case wire.AdditionalIPv4Address, wire.AdditionalIPv6Address:
			told = true
			a, ok := netip.AddrFromSlice(n.Data)
			if ok && a.BitLen() == m.conn.Local.BitLen() && len(list) < maxPeerAddresses && !slices.Contains(list, a) {
				list = append(list, a)
			}
		default:
		}
	}
	if told {
		m.peerAddresses = list
	}
}

// takePath makes the IKE SAs go by other addresses. A request that is under way is
// sent again at once.
func (m *Machine) takePath(p path) {
	for _, s := range m.ikes {
		s.path = p
		if s.active != nil {
			s.active.next = m.now
		}
	}
	if p.natLocal && m.keepaliveAt.IsZero() {
		m.keepaliveAt = m.now.Add(keepaliveInterval)
	}
}

// childPath is where the packets of a new child go.
func (s *ikeSA) childPath() path {
	if !s.authenticated { // our offer in IKE_AUTH
		return s.path
	}
	return s.m.proven
}

// moves reports whether the IKE SA has gone to addresses at which the peer has
// not answered yet.
func (m *Machine) moves() bool { return m.current != nil && m.current.path != m.proven }

// moveChildren makes the children go by the addresses of the IKE SA in use, at
// which the peer has answered.
func (m *Machine) moveChildren() {
	s := m.current
	if s == nil {
		return
	}
	m.proven = s.path
	moved := false
	for _, c := range m.children {
		if c.path != s.path {
			c.moveTo(s.path)
			moved = true
		}
	}
	if moved {
		m.emit(Emit{m.event(PeerMoved, s)})
	}
}

// pathOf returns the path of a message whose NAT detection tells what is between.
func (s *ikeSA) pathOf(msg *wire.Message, local, remote netip.AddrPort) path {
	probe := ikeSA{path: s.path}
	probe.path.local, probe.path.remote = local, remote
	if probe.detectNAT(msg, local, remote) {
		probe.path.encap = probe.path.encap || s.m.conn.ForceEncap
	}
	return probe.path
}

// answerMOBIKE adds to the answer of an INFORMATIONAL request what MOBIKE asks
// for, and follows the initiator to where it says it is.
func (s *ikeSA) answerMOBIKE(d Datagram, msg *wire.Message) (payloads []wire.Payload, refused bool) {
	m := s.m
	if !m.mobike {
		return nil, false
	}
	m.noteAddresses(msg)
	if prohibitedNAT(d, msg) {
		return []wire.Payload{&wire.Notify{NotifyType: wire.UnexpectedNATDetected}}, true
	}
	if n, ok := msg.Notify(wire.Cookie2); ok && len(n.Data) >= 8 && len(n.Data) <= maxCookie2 {
		payloads = append(payloads, &wire.Notify{NotifyType: wire.Cookie2, Data: n.Data})
	}
	if _, ok := msg.Notify(wire.NATDetectionSourceIP); ok {
		if nat, err := s.natNotifies(d.Local, d.Remote, m.conn.ForceEncap); err == nil {
			payloads = append(payloads, nat...)
		}
	}
	if _, ok := msg.Notify(wire.UpdateSAAddresses); ok && !m.began {
		if p := s.pathOf(msg, d.Local, d.Remote); p != s.path {
			m.takePath(p)
		}
		s.checkRoutability()
	}
	return payloads, false
}

// prohibitedNAT reports whether a message has other addresses than its sender
// wrote, who allows no NAT on the way (section 3.9).
func prohibitedNAT(d Datagram, msg *wire.Message) bool {
	n, ok := msg.Notify(wire.NoNATsAllowed)
	return ok && !bytes.Equal(n.Data, addressPair(d.Remote, d.Local))
}

// addressPair is the data of a NO_NATS_ALLOWED notify (section 4.2.5).
func addressPair(from, to netip.AddrPort) []byte {
	b := append(from.Addr().Unmap().AsSlice(), to.Addr().Unmap().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	return binary.BigEndian.AppendUint16(b, to.Port())
}

// routability asks the initiator whether it is where it says, before traffic goes
// there (section 3.7).
type routability struct {
	path   path
	cookie []byte
}

// checkRoutability plans a check of the present path. One that waits for its turn
// will be of it: however often the peer moves, the queue does not grow.
func (s *ikeSA) checkRoutability() {
	if !slices.ContainsFunc(s.queue, func(x exchange) bool { _, ok := x.(*routability); return ok }) {
		s.enqueue(&routability{})
	}
}

func (x *routability) kind() wire.ExchangeType { return wire.Informational }

func (x *routability) request(s *ikeSA) ([]wire.Payload, bool) {
	if !s.m.moves() {
		return nil, false // the check for an earlier change has done it
	}
	cookie, err := s.m.newCookie2()
	if err != nil {
		return nil, false
	}
	x.path, x.cookie = s.path, cookie
	return []wire.Payload{&wire.Notify{NotifyType: wire.Cookie2, Data: cookie}}, true
}

func (x *routability) response(s *ikeSA, _ Datagram, msg *wire.Message) {
	if !s.m.returned(x.cookie, msg) {
		return
	}
	if x.path == s.path {
		s.m.moveChildren()
	} // else it has moved on, and another check follows
}

// newCookie2 draws what a peer has to return to show that it is where it says.
func (m *Machine) newCookie2() ([]byte, error) {
	b := make([]byte, cookie2Len)
	return b, readFull(m.env.Rand, b)
}

// returned reports whether an answer has the COOKIE2 of our request. Without it
// the IKE SA ends (section 3.7).
func (m *Machine) returned(cookie []byte, msg *wire.Message) bool {
	if n, ok := msg.Notify(wire.Cookie2); ok && hmac.Equal(n.Data, cookie) {
		return true
	}
	m.terminate(ReasonMalformedMessage, &Diagnosis{
		Reason: ReasonMalformedMessage, Exchange: msg.Exchange.String(), Parameter: "COOKIE2",
		Detail: "the peer does not return what was sent to show that it is at the other end of the new path",
	})
	return false
}

// resumeMove makes an IKE SA that takes over from another one go on with a move
// that is not proven: what has asked for the proof went with the other one.
func (m *Machine) resumeMove() {
	switch {
	case !m.mobike || !m.moves():
	case m.began:
		m.announcePath()
	default:
		m.current.checkRoutability()
	}
}

func (x *routability) unanswered(s *ikeSA, o *outstanding) { s.dead(o) }

// relocate moves our end to another address. The children follow when the peer
// has confirmed it.
func (m *Machine) relocate(local netip.Addr) {
	p := m.current.path
	p.local = netip.AddrPortFrom(local, p.local.Port())
	m.takePath(p)
	m.announcePath()
}

// announcePath tells the peer of our path ahead of all else.
func (m *Machine) announcePath() {
	s := m.current
	s.queue = slices.DeleteFunc(s.queue, func(x exchange) bool { _, ok := x.(*updateAddresses); return ok })
	s.queue = append([]exchange{&updateAddresses{}}, s.queue...)
}

// updateAddresses tells the responder which addresses we use.
type updateAddresses struct {
	path   path
	cookie []byte
}

func (x *updateAddresses) kind() wire.ExchangeType { return wire.Informational }

func (x *updateAddresses) request(s *ikeSA) ([]wire.Payload, bool) {
	nat, err := s.natNotifies(s.path.local, s.path.remote, s.m.conn.ForceEncap)
	if err != nil {
		return nil, false
	}
	cookie, err := s.m.newCookie2()
	if err != nil {
		return nil, false
	}
	x.path, x.cookie = s.path, cookie
	return append([]wire.Payload{
		&wire.Notify{NotifyType: wire.UpdateSAAddresses}, &wire.Notify{NotifyType: wire.Cookie2, Data: cookie},
	}, nat...), true
}

func (x *updateAddresses) response(s *ikeSA, d Datagram, msg *wire.Message) {
	m := s.m
	if x.path.local != s.path.local || x.path.remote != s.path.remote {
		return // it was for another one, which has followed
	}
	if n, ok := msg.ErrorNotify(); ok {
		e := m.event(Failed, s)
		e.Reason, e.Established = ReasonPeerAddress, true
		e.Diagnosis = &Diagnosis{
			Reason: ReasonPeerAddress, Cause: CauseRefusedByPeer, Exchange: x.kind().String(), Parameter: "our address",
			Ours: s.path.local.String(), Detail: "the peer does not follow us to another address: " + n.NotifyType.String(),
		}
		m.emit(Emit{e})
		return
	}
	if !m.returned(x.cookie, msg) {
		return
	}
	m.takePath(s.pathOf(msg, d.Local, s.path.remote))
	m.moveChildren()
}

func (x *updateAddresses) unanswered(s *ikeSA, o *outstanding) { s.dead(o) }

// detour sends a request that brings no answer to another address of the responder.
func (m *Machine) detour(s *ikeSA, o *outstanding) bool {
	if !m.mobike || !m.began || s != m.current || !s.authenticated {
		return false
	}
	m.tried = append(m.tried, s.path.remote.Addr())
	for _, a := range append([]netip.Addr{m.gateway()}, m.peerAddresses...) {
		if slices.Contains(m.tried, a) {
			continue
		}
		p := s.path
		p.remote = netip.AddrPortFrom(a, p.remote.Port())
		m.takePath(p)
		m.detoured = true
		o.tries, o.sent = 0, m.now
		s.transmit(o)
		return true
	}
	return false
}

// arrived ends a detour: the peer answers at another one of its addresses.
func (m *Machine) arrived() {
	m.tried = nil
	if m.detoured {
		m.detoured = false
		m.announcePath()
	}
}

// OnlyMoves reports whether the next configuration has, of what an IKE SA is agreed
// on for, another address of ours and nothing else. An IKE SA that we began follows
// it by MOBIKE, if that was agreed on.
func (c *Connection) OnlyMoves(next *Connection) bool {
	return c.Local != next.Local && c.Local.BitLen() == next.Local.BitLen() && c.SameIdentity(next.At(c.Local))
}

// At returns the configuration with another address of ours.
func (c *Connection) At(local netip.Addr) *Connection {
	moved := *c
	moved.Local = local
	return &moved
}

// moveTo sends an installed child's packets by other addresses.
func (c *childSA) moveTo(to path) {
	inbound := ipsec.SAUpdate{
		Src: to.remote.Addr(), Dst: to.local.Addr(), Encap: to.encap,
		SrcPort: to.remote.Port(), DstPort: to.local.Port(),
	}
	outbound := ipsec.SAUpdate{
		Src: to.local.Addr(), Dst: to.remote.Addr(), Encap: to.encap,
		SrcPort: to.local.Port(), DstPort: to.remote.Port(),
	}
	if c.hasIn {
		c.m.emit(UpdateSA{ID: c.inID(), To: inbound})
	}
	if c.hasOut {
		c.m.emit(UpdateSA{ID: c.outID(), To: outbound})
	}
	c.path = to
	if c.state != Deleted {
		c.slot.redirect(c.m, &c.path)
	}
}
