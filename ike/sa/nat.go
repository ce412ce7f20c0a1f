package sa

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
)

const (
	portIKE = 500
	portNAT = 4500 // RFC 3948: ESP in UDP, and IKE behind a marker
	// keepaliveInterval is that of RFC 3948, section 4.
	keepaliveInterval = 20 * time.Second
)

// natHash is the data of a NAT detection notify (RFC 7296, section 2.23):
// SHA1(SPIi | SPIr | address | port).
func natHash(spii, spir uint64, at netip.AddrPort) []byte {
	b := binary.BigEndian.AppendUint64(nil, spii)
	b = binary.BigEndian.AppendUint64(b, spir)
	b = append(b, at.Addr().Unmap().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, at.Port())
	sum := sha1.Sum(b)
	return sum[:]
}

// natNotifies returns the two notifies that let the peer find a NAT. With fake
// it finds one in front of us in any case, and so encapsulates.
func (s *ikeSA) natNotifies(local, remote netip.AddrPort, fake bool) ([]wire.Payload, error) {
	source := natHash(s.spii, s.spir, local)
	if fake {
		if err := readFull(s.m.env.Rand, source); err != nil {
			return nil, err
		}
	}
	return []wire.Payload{
		&wire.Notify{NotifyType: wire.NATDetectionSourceIP, Data: source},
		&wire.Notify{NotifyType: wire.NATDetectionDestinationIP, Data: natHash(s.spii, s.spir, remote)},
	}, nil
}

// detectNAT compares the notifies of a message with the addresses that it
// really had. It returns false when the peer does not support NAT traversal.
func (s *ikeSA) detectNAT(msg *wire.Message, local, remote netip.AddrPort) bool {
	sources, destinations := 0, 0
	fromHere, toHere := false, false
	source, destination := natHash(msg.InitiatorSPI, msg.ResponderSPI, remote), natHash(msg.InitiatorSPI, msg.ResponderSPI, local)
	for _, n := range wire.All[*wire.Notify](msg) {
		switch n.NotifyType {
		case wire.NATDetectionSourceIP: // one for each address the peer may send from
			sources++
			fromHere = fromHere || bytes.Equal(n.Data, source)
		case wire.NATDetectionDestinationIP:
			destinations++
			toHere = toHere || bytes.Equal(n.Data, destination)
		default:
		}
	}
	if sources == 0 || destinations == 0 {
		return false
	}
	s.path.natRemote, s.path.natLocal = !fromHere, !toHere
	s.path.encap = s.path.natLocal || s.path.natRemote
	return true
}

// forcesEncap reports whether a responder asks an initiator for UDP encapsulation,
// whom it does not know yet: whether a connection that may be meant wants it. Those
// with the initiator's address go before those without one.
func forcesEncap(candidates []*Connection, remote netip.Addr) bool {
	var exact, other, force bool
	for _, c := range candidates {
		if c.Remote == remote {
			exact, force = true, force || c.ForceEncap
		} else {
			other = other || c.ForceEncap
		}
	}
	return force || !exact && other
}

// encapDiagnosis is for an initiator whose ESP does not go in UDP, although the
// connection requires it.
func (h *handshake) encapDiagnosis() *Diagnosis {
	d := &Diagnosis{
		Reason: ReasonEncapsulation, Exchange: wire.IKEAuth.String(), Parameter: "UDP encapsulation",
		Ours: "required", Theirs: "not supported", Detail: "the peer does not support NAT traversal",
	}
	if h.natTraversal {
		d.Theirs, d.Detail = "not agreed on", "IKE_SA_INIT did not show which connection the peer means"
	}
	return d
}

// follow moves the peer to where an authentic and new packet came from, if a
// NAT in front of it may have changed its mapping (section 2.23).
func (m *Machine) follow(s *ikeSA, remote netip.AddrPort) {
	if !s.path.natRemote || s.path.remote == remote || !s.live() {
		return
	}
	from := s.path.remote
	for _, other := range m.ikes {
		if other.path.natRemote && other.path.remote == from {
			other.path.remote = remote
		}
	}
	if m.proven.remote == from {
		m.proven.remote = remote
	}
	for _, c := range m.children {
		if c.path.remote == from {
			c.move(remote)
		}
	}
	m.emit(Emit{m.event(PeerMoved, s)})
}

// moved is follow for ESP packets.
func (m *Machine) moved(c Moved) {
	if m.current == nil || m.moves() { // of a move, the answer to the check tells
		return
	}
	if child := m.childByID(c.ID); child != nil {
		m.follow(m.current, c.From)
	}
}

// keepalive keeps the mapping of a NAT in front of us alive.
func (m *Machine) keepalive() {
	s := m.current
	if s == nil || !s.live() || !s.path.natLocal {
		return
	}
	m.emit(Send{Local: s.path.local, Remote: s.path.remote, Datagram: []byte{0xff}, Keepalive: true})
	m.keepaliveAt = m.now.Add(keepaliveInterval)
}

// move sends an installed child's packets to another address of the peer.
func (c *childSA) move(remote netip.AddrPort) {
	to := c.path
	to.remote = remote
	c.moveTo(to)
}
