package sa

import (
	"crypto/hmac"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// inform sends an informational message, which is not answered (RFC 2409,
// section 5.7).
func (s *ISAKMPSA) inform(payloads []isakmp.Payload) { s.informAs(payloads, false, false) }

// informAs is inform with a choice of where the hash stands. With hashLast it is
// the last payload, and with apart the one in front of it does not announce it to
// the hash.
func (s *ISAKMPSA) informAs(payloads []isakmp.Payload, hashLast, apart bool) {
	if s.keys == nil {
		return
	}
	id, err := s.newMessageID()
	if err != nil {
		s.m.drop(dropDefectAnswer)
		return
	}
	after := isakmp.NoNextPayload
	if hashLast && !apart {
		after = isakmp.TypeHash
	}
	chain, err := isakmp.Chain(payloads, after)
	if err != nil {
		s.m.drop(dropDefectAnswer)
		return
	}
	hash := &isakmp.Hash{Data: s.keys.sum(idOctets(id), chain)}
	if hashLast {
		payloads = append(slices.Clone(payloads), hash)
	} else {
		payloads = append([]isakmp.Payload{hash}, payloads...)
	}
	iv := s.phase2IV(id)
	datagrams, err := s.encode(s.header(isakmp.Informational, id), payloads, &iv)
	if err != nil {
		s.m.drop(dropDefectAnswer)
		return
	}
	s.transmit(s.unconfirmed)
	s.transmit(datagrams)
}

// receiveInformational handles an informational message. Only a protected one
// changes anything.
func (s *ISAKMPSA) receiveInformational(d Datagram, msg *isakmp.Message) {
	switch {
	case s.phase1 != nil:
		s.hint(msg)
		return
	case !msg.Encrypted:
		s.m.drop(dropPlain)
		return
	case !s.live():
		s.m.drop(dropUnauthenticated)
		return
	case msg.MessageID == 0:
		s.m.drop(dropMalformed)
		return
	case s.ids.contain(msg.MessageID):
		s.m.drop(dropOutOfWindow)
		return
	}
	plain, _, err := s.keys.decrypt(s.phase2IV(msg.MessageID), msg.Ciphertext())
	if err == nil {
		err = msg.Open(plain)
	}
	if err != nil {
		s.m.drop(dropMalformed)
		return
	}
	hash, ok := isakmp.Find[*isakmp.Hash](msg)
	if !ok {
		s.m.drop(dropIntegrity)
		return
	}
	sum := func(apart bool) []byte { return s.keys.sum(idOctets(msg.MessageID), msg.Signed(apart)) }
	apart := false
	if !hmac.Equal(hash.Data, sum(false)) {
		if apart = hmac.Equal(hash.Data, sum(true)); !apart {
			s.m.drop(dropIntegrity)
			return
		}
	}
	s.used(msg.MessageID)
	s.heard(d, false)
	_, hashFirst := msg.Payloads[0].(*isakmp.Hash)
	for _, p := range msg.Payloads {
		switch p := p.(type) {
		case *isakmp.Delete:
			if gone := s.deleted(p); gone {
				return
			}
		case *isakmp.Notify:
			if p.NotifyType == isakmp.RUThere || p.NotifyType == isakmp.RUThereAck {
				s.notifyFirst, s.apart = !hashFirst, apart
				s.learnProbe(p)
			}
			s.notified(d, p)
		}
		if s.state == Deleted {
			return
		}
	}
}

// deletePayload ends the SA itself.
func (s *ISAKMPSA) deletePayload() *isakmp.Delete {
	return &isakmp.Delete{Protocol: ipsec.ProtocolIKE, SPIs: [][]byte{s.cookies()}}
}

// deleted handles a DELETE of the peer. It reports whether the SA that it came
// under is gone.
func (s *ISAKMPSA) deleted(p *isakmp.Delete) bool {
	m := s.m
	for _, spi := range p.SPIs {
		switch p.Protocol {
		case ipsec.ProtocolESP:
			c := m.childByOut(ipsec.SPI(binary.BigEndian.Uint32(spi)))
			if c == nil || c.state == Deleting {
				continue
			}
			reason := ReasonPeerRequest
			if c.state == Rekeyed {
				reason = ReasonChildReplaced
			}
			m.dropChild(c, reason)
		case ipsec.ProtocolIKE:
			for _, other := range slices.Clone(m.sas) {
				if other.live() && slices.Equal(other.cookies(), spi) {
					other.leave(ReasonPeerRequest)
				}
			}
		default: // we have no other
		}
	}
	return s.state == Deleted
}

// notified handles a notification of the peer.
func (s *ISAKMPSA) notified(d Datagram, n *isakmp.Notify) {
	m := s.m
	switch {
	case n.NotifyType == isakmp.RUThere:
		s.answerProbe(d, n)
	case n.NotifyType == isakmp.RUThereAck:
		s.probeAnswered(d, n)
	case n.NotifyType == isakmp.ResponderLifetime && n.Protocol == ipsec.ProtocolIKE && s.initiator:
		if list, err := isakmp.ParseAttributes(n.Data); err == nil {
			s.shorten(readLife(list, isakmp.Phase1LifeType, isakmp.Phase1LifeDuration))
		}
	case n.NotifyType == isakmp.InvalidSPI:
		spi := n.SPI
		if len(spi) != 4 {
			spi = n.Data
		}
		if len(spi) == 4 {
			if c := m.childByOut(ipsec.SPI(binary.BigEndian.Uint32(spi))); c != nil && c.hasOut {
				m.dropChild(c, ReasonPeerRequest)
			}
		}
	case n.NotifyType.IsError():
		if q := s.meant(n); q != nil {
			q.refusedBy(n)
		}
	}
}

// meant returns the quick mode of ours that an error is about: the one with the
// SPI in it, or else the oldest that is not answered.
func (s *ISAKMPSA) meant(n *isakmp.Notify) *quickMode {
	var oldest *quickMode
	for _, q := range s.quick {
		if !q.initiator || q.awaits != 2 {
			continue
		}
		if len(n.SPI) == 4 && binary.BigEndian.Uint32(n.SPI) == uint32(q.in) {
			return q
		}
		if oldest == nil {
			oldest = q
		}
	}
	return oldest
}

// shorten takes a shorter lifetime over.
func (s *ISAKMPSA) shorten(l lifetime) {
	if l.seconds != 0 {
		l.seconds = max(l.seconds, shortestLife)
	}
	next := s.life.atMost(l)
	if next == s.life || next.duration() == 0 {
		return
	}
	s.life = next
	s.expireAt = s.established.Add(next.duration())
	s.rekeyAt = s.established.Add(s.m.soft(next.duration(), s.initiator))
}

// announceDelete tells the peer that a child is gone. That is not answered.
func (m *MachineV1) announceDelete(c *childSA) {
	m.sayDeleted(c)
	c.announced = true
	c.remove(true)
}

func (m *MachineV1) sayDeleted(c *childSA) {
	m.informOfDelete(&isakmp.Delete{
		Protocol: ipsec.ProtocolESP, SPIs: [][]byte{binary.BigEndian.AppendUint32(nil, uint32(c.in))},
	})
}

// informOfDelete sends the DELETE of children. While nothing shows that the peer has the
// ISAKMP SA that we use, it goes under the ones before it, too: the last message of
// phase 1 may have been lost or overtaken, and a DELETE is not acknowledged.
func (m *MachineV1) informOfDelete(p *isakmp.Delete) {
	for _, s := range m.sas {
		if s == m.current || s.live() && !m.current.confirmed {
			s.inform([]isakmp.Payload{p})
		}
	}
}

// maxRetold bounds how often the peer is told again that a child is gone.
const maxRetold = 24

// missed looks for packets that came when those under way had long arrived: our
// DELETE, which nobody acknowledges, was lost. Once it is sent again in any case.
func (m *MachineV1) missed(c *childSA) bool {
	if m.current == nil || !c.announced || c.retold >= maxRetold {
		return false
	}
	if c.retold > 0 {
		if m.env.QuerySA == nil {
			return false
		}
		st, err := m.env.QuerySA(c.inID())
		if err != nil || m.now.Sub(st.LastUsed) > lingerTime*4/5 {
			return false
		}
	}
	c.retold++
	m.sayDeleted(c)
	return true
}

// announceEnd tells the peer that everything is gone.
func (m *MachineV1) announceEnd() {
	if m.current == nil {
		return
	}
	gone := &isakmp.Delete{Protocol: ipsec.ProtocolESP}
	for _, c := range m.children {
		if c.told && c.state != Deleting && c.state != Deleted {
			gone.SPIs = append(gone.SPIs, binary.BigEndian.AppendUint32(nil, uint32(c.in)))
		}
		if len(gone.SPIs) == isakmp.MaxDeleteSPIs {
			m.informOfDelete(gone)
			gone = &isakmp.Delete{Protocol: ipsec.ProtocolESP}
		}
	}
	if len(gone.SPIs) > 0 {
		m.informOfDelete(gone)
	}
	for _, each := range m.sas {
		if each.live() {
			each.inform([]isakmp.Payload{each.deletePayload()})
		}
	}
}

// lostAnswer is how long an initiator waits for message 6, with repeats of
// message 5, after something that it cannot read has come in its place.
const lostAnswer = 4 * betterAnswer

// hint takes what an informational message says while phase 1 is under way for
// no more than a hint: anybody may have sent it, or the peer could not read what
// we sent, nor we what it says.
func (s *ISAKMPSA) hint(msg *isakmp.Message) {
	p := s.phase1
	if !s.initiator {
		s.m.drop(dropPlain)
		return
	}
	if msg.Encrypted {
		if s.keys == nil || p.awaits != 6 {
			s.m.drop(dropUnauthenticated)
			return
		}
		if plain, _, err := s.keys.decrypt(s.keys.iv(p.iv, idOctets(msg.MessageID)), msg.Ciphertext()); err != nil || msg.Open(plain) != nil {
			s.m.drop(dropIntegrity)
			// Or message 6 was lost and this one is from after it: message 5,
			// repeated, brings it.
			s.rememberFor(lostAnswer, s.pskDiagnosis("what the peer says to message 5 does not decrypt"))
			return
		}
	}
	s.m.drop(dropPlain)
	if n, ok := msg.ErrorNotify(); ok {
		s.remember(s.refusedBy(n))
	}
}

// refusedBy is for an error in answer to a message of phase 1.
func (s *ISAKMPSA) refusedBy(n *isakmp.Notify) *Diagnosis {
	c, p := s.m.conn, s.phase1
	sets := phase1Sets(c.Proposals)
	d := &Diagnosis{Reason: ReasonPhase1Proposal, Exchange: s.mode.String(), Parameter: "proposal", Ours: proposalList(sets)}
	authenticating := p.awaits == 6
	switch n.NotifyType {
	case isakmp.NoProposalChosen:
		d.Detail = fmt.Sprintf("the peer accepts none of our proposals, or knows no connection for our address in %s", s.mode)
		d.Offers = &Offers{Of: OfferPhase1, Ours: sets}
	case isakmp.InvalidMajorVersion, isakmp.InvalidMinorVersion:
		d.Reason, d.Parameter, d.Ours = ReasonVersion, "IKE version", "1"
		d.Detail = "the peer does not speak IKEv1"
	case isakmp.InvalidExchangeType:
		d.Reason, d.Parameter, d.Ours = ReasonMode, "mode of phase 1", s.mode.String()
		d.Detail = "the peer does not take this mode"
	case isakmp.InvalidIDInformation:
		d.Reason, d.Cause, d.Parameter, d.Ours = ReasonConfigID, CauseLocalID, "local identity", c.LocalID.String()
		d.Detail = "the peer knows no connection for our identity"
	case isakmp.PayloadMalformed, isakmp.InvalidHashInformation, isakmp.InvalidPayloadType:
		if !authenticating {
			d.Reason, d.Parameter, d.Ours = ReasonMalformedPayload, "", ""
			d.Detail = "the peer found our message malformed"
			break
		}
		d = s.pskDiagnosis("the peer cannot read message 5")
	case isakmp.AuthenticationFailed:
		d.Reason, d.Parameter = ReasonAuthentication, "pre-shared key or identity"
		d.Ours = fmt.Sprintf("local %s, peer %s", c.LocalID, c.RemoteID)
		d.Detail = "the peer rejected our identity or our pre-shared key and does not say which"
	default:
		d.Cause, d.Detail = CauseRefusedByPeer, "the peer answered with "+n.NotifyType.String()
	}
	return d
}
