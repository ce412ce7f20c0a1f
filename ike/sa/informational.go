package sa

import (
	"slices"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// deleteIKE deletes an IKE SA, and so all children it has.
type deleteIKE struct{ notify wire.NotifyType }

func (x *deleteIKE) kind() wire.ExchangeType { return wire.Informational }

func (x *deleteIKE) request(*ikeSA) ([]wire.Payload, bool) {
	var payloads []wire.Payload
	if x.notify != 0 {
		payloads = append(payloads, &wire.Notify{NotifyType: x.notify})
	}
	return append(payloads, &wire.Delete{Protocol: ipsec.ProtocolIKE}), true
}

func (x *deleteIKE) response(s *ikeSA, _ Datagram, _ *wire.Message) {
	// With the SA went the peer's own rekey of it, if it has not had our answer: it
	// may never know of what came of that.
	for _, o := range s.m.ikes {
		if until := s.m.now.Add(lingerTime); o.state == Established && o.redundantAt.After(until) {
			o.redundantAt = until
		}
	}
	s.vanish()
}

func (x *deleteIKE) unanswered(s *ikeSA, _ *outstanding) { s.vanish() }

// deleteChild deletes a child.
type deleteChild struct{ child *childSA }

// announceDelete plans a DELETE for a child.
func (m *Machine) announceDelete(c *childSA) { m.current.enqueue(&deleteChild{c}) }

// missed is never so: the peer has acknowledged our DELETE, or sent one.
func (m *Machine) missed(*childSA) bool { return false }

// prefers is never so: which child is kept is agreed on (section 2.8.1).
func (m *Machine) prefers(*childSA) bool { return false }

func (x *deleteChild) kind() wire.ExchangeType { return wire.Informational }

func (x *deleteChild) request(*ikeSA) ([]wire.Payload, bool) {
	if x.child.state != Deleting {
		return nil, false
	}
	return []wire.Payload{&wire.Delete{Protocol: ipsec.ProtocolESP, SPIs: []ipsec.SPI{x.child.in}}}, true
}

func (x *deleteChild) response(*ikeSA, Datagram, *wire.Message) { x.child.remove(true) }

func (x *deleteChild) unanswered(s *ikeSA, o *outstanding) { s.dead(o) }

// answerInformational answers an INFORMATIONAL request. What it does not know
// it passes over; the answer may be empty.
func (s *ikeSA) answerInformational(d Datagram, msg *wire.Message) reply {
	m := s.m
	mobike, refused := s.answerMOBIKE(d, msg)
	if refused {
		return reply{payloads: mobike}
	}
	m.heedAuthLifetime(msg)
	s.heedRedirect(msg)
	deletes := wire.All[*wire.Delete](msg)
	var diagnosis *Diagnosis
	if _, ok := msg.Notify(wire.AuthenticationFailed); ok {
		// The initiator did not accept our proof (section 2.21.2).
		diagnosis = rejectedByPeer(m.conn)
	}
	if diagnosis != nil || slices.ContainsFunc(deletes, func(d *wire.Delete) bool { return d.Protocol == ipsec.ProtocolIKE }) {
		return reply{then: func() { s.deletedByPeer(diagnosis) }}
	}
	var gone []*childSA
	var spis []ipsec.SPI
	for _, d := range deletes {
		if d.Protocol != ipsec.ProtocolESP {
			continue
		}
		for _, spi := range d.SPIs {
			c := m.childByOut(spi)
			if x := m.creating(); c == nil && x != nil && len(x.gone) < maxChildren {
				x.gone = append(x.gone, spi)
			}
			// Of one that we are deleting, the peer gets to know by our own
			// request (section 1.4.1).
			if c == nil || c.state == Deleting || slices.Contains(gone, c) {
				continue
			}
			gone, spis = append(gone, c), append(spis, c.in)
		}
	}
	r := reply{payloads: mobike}
	if len(gone) > 0 {
		r.payloads = append(r.payloads, &wire.Delete{Protocol: ipsec.ProtocolESP, SPIs: spis})
		r.then = func() {
			for _, c := range gone {
				reason := ReasonPeerRequest
				if c.state == Rekeyed {
					reason = ReasonChildReplaced
				}
				m.dropChild(c, reason)
			}
		}
	}
	return r
}

// deletedByPeer ends the IKE SA at the peer's wish. Where a rekey has made a
// successor, everything goes on there.
func (s *ikeSA) deletedByPeer(d *Diagnosis) {
	m := s.m
	switch {
	case s != m.current:
		for _, other := range m.ikes {
			if other.successor != s {
				continue
			}
			// The peer may have rekeyed the successor in its turn.
			other.successor = s.successor
			if other == m.current && other.state == Rekeyed && (other.successor == nil || !other.successor.live()) {
				m.terminate(ReasonRekeyFail, nil) // nothing is left to go on with
			}
		}
		s.close()
	case s.successor != nil && s.successor.live():
		m.moveTo(s.successor)
		s.close()
	default:
		m.end(ReasonPeerRequest, d)
	}
}
