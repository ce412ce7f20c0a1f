package sa

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/vpngw/vpngw/ike/isakmp"
)

// natHashV1 is the data of a NAT-D payload (RFC 3947, section 3.2): HASH(CKY-I |
// CKY-R | address | port) with the hash of phase 1.
func (s *ISAKMPSA) natHashV1(at netip.AddrPort) ([]byte, error) {
	t, _ := s.proposal.Get(transformHash)
	p, err := newPRF(t)
	if err != nil {
		return nil, err
	}
	h := p.hash()
	h.Write(s.cookies())
	h.Write(at.Addr().Unmap().AsSlice())
	h.Write(binary.BigEndian.AppendUint16(nil, at.Port()))
	return h.Sum(nil), nil
}

// natPayloads returns the two payloads that let the peer find a NAT: where we
// send to, and where we send from. With fake it finds one in front of us in any
// case, and so encapsulates.
func (s *ISAKMPSA) natPayloads(local, remote netip.AddrPort) ([]isakmp.Payload, error) {
	if !s.natTraversal {
		return nil, nil
	}
	destination, err := s.natHashV1(remote)
	if err != nil {
		return nil, err
	}
	source, err := s.natHashV1(local)
	if err != nil {
		return nil, err
	}
	if s.phase1.fakeNAT {
		if err := readFull(s.m.env.Rand, source); err != nil {
			return nil, err
		}
	}
	return []isakmp.Payload{&isakmp.NATD{Draft: s.natDraft, Data: destination}, &isakmp.NATD{Draft: s.natDraft, Data: source}}, nil
}

// detectsNAT reports whether a message has what detectNAT needs.
func (s *ISAKMPSA) detectsNAT(msg *isakmp.Message) bool {
	return s.natTraversal && len(isakmp.All[*isakmp.NATD](msg)) >= 2
}

// detectNAT compares the NAT-D payloads of a message with the addresses that it
// really had. The first one is of the address that it went to, the others are of
// those that it may have come from.
func (s *ISAKMPSA) detectNAT(msg *isakmp.Message, local, remote netip.AddrPort) error {
	if !s.detectsNAT(msg) {
		s.natTraversal = false
		return nil
	}
	list := isakmp.All[*isakmp.NATD](msg)
	here, err := s.natHashV1(local)
	if err != nil {
		return err
	}
	there, err := s.natHashV1(remote)
	if err != nil {
		return err
	}
	s.path.natLocal = !bytes.Equal(list[0].Data, here)
	s.path.natRemote = true
	for _, p := range list[1:] {
		if bytes.Equal(p.Data, there) {
			s.path.natRemote = false
		}
	}
	s.path.encap = s.path.natLocal || s.path.natRemote || s.phase1.fakeNAT
	return nil
}

// float moves an initiator to port 4500 (section 4).
func (p *path) float() {
	if p.encap && p.local.Port() == portIKE {
		p.local = netip.AddrPortFrom(p.local.Addr(), portNAT)
		p.remote = netip.AddrPortFrom(p.remote.Addr(), portNAT)
	}
}

// encapRefusal is for a peer that has no NAT traversal although the connection
// requires UDP encapsulation; nil where all is well.
func (s *ISAKMPSA) encapRefusal(c *Connection) *Diagnosis {
	if !c.RequireEncap || s.path.encap {
		return nil
	}
	return s.encapDiagnosis()
}

func (s *ISAKMPSA) encapDiagnosis() *Diagnosis {
	return &Diagnosis{
		Reason: ReasonEncapsulation, Exchange: s.mode.String(), Parameter: "UDP encapsulation",
		Ours: "required", Theirs: "not supported", Detail: "the peer does not support NAT traversal",
	}
}

// follow moves the peer to where an authentic and new packet came from, if a NAT
// in front of it may have changed its mapping.
func (m *MachineV1) follow(s *ISAKMPSA, remote netip.AddrPort) {
	if !s.path.natRemote || s.path.remote == remote || !s.live() {
		return
	}
	from := s.path.remote
	for _, other := range m.sas {
		if other.path.natRemote && other.path.remote == from {
			other.path.remote = remote
		}
	}
	for _, c := range m.children {
		if c.path.remote == from {
			c.move(remote)
		}
	}
	m.emit(Emit{m.event(PeerMoved, s)})
}

// moved is follow for ESP packets.
func (m *MachineV1) moved(c Moved) {
	if m.current != nil && m.childByID(c.ID) != nil {
		m.follow(m.current, c.From)
	}
}

// keepalive keeps the mapping of a NAT in front of us alive.
func (m *MachineV1) keepalive() {
	s := m.current
	if s == nil || !s.path.natLocal {
		return
	}
	m.emit(Send{Local: s.path.local, Remote: s.path.remote, Datagram: []byte{0xff}, Keepalive: true})
	m.keepaliveAt = m.now.Add(keepaliveInterval)
}
