package sa

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// answerQuick answers message 1 with message 2.
func (s *ISAKMPSA) answerQuick(d Datagram, msg *isakmp.Message) {
	m := s.m
	answering := 0
	for _, q := range s.quick {
		if !q.initiator && q.awaits != 0 {
			answering++
		}
	}
	if answering >= maxAnswered {
		m.drop(dropQuickModes)
		return
	}
	next := s.open(msg, s.phase2IV(msg.MessageID), nil)
	if next == nil {
		return
	}
	s.used(msg.MessageID)
	s.heard(d, false)
	q := &quickMode{s: s, id: msg.MessageID, iv: next, digest: sha256.Sum256(d.Bytes)}
	payloads, no := q.take(msg)
	if no != nil {
		s.inform([]isakmp.Payload{&isakmp.Notify{Protocol: ipsec.ProtocolESP, SPI: no.spi, NotifyType: no.notify}})
		m.emit(Emit{m.childFailure(no.slot, false, no.diagnosis)})
		return
	}
	s.quick = append(s.quick, q)
	m.children = append(m.children, q.child)
	q.child.addIn()
	q.awaits = 3
	m.after(func() {
		switch {
		case s.state == Deleted:
		case q.child.refused != nil || q.child.state != Connecting:
			q.end()
			t := isakmp.NoProposalChosen
			if errors.Is(q.child.refused, ErrFlowConflict) {
				t = isakmp.InvalidIDInformation
			}
			s.inform([]isakmp.Payload{&isakmp.Notify{Protocol: ipsec.ProtocolESP, NotifyType: t}})
		default:
			q.child.told = true
			if m.env.QuerySA != nil {
				q.child.probeAt = m.now.Add(probeInterval)
			}
			if err := q.say(payloads, q.ni, true); err != nil {
				m.drop(dropDefectAnswer)
			}
		}
	})
}

// quickRefusal is why there is no child.
type quickRefusal struct {
	notify    isakmp.NotifyType
	spi       []byte // the peer's
	slot      *slot  // the configured child that came closest, if any
	diagnosis *Diagnosis
}

// take makes the child that message 1 describes, and message 2.
func (q *quickMode) take(msg *isakmp.Message) ([]isakmp.Payload, *quickRefusal) {
	s, m := q.s, q.s.m
	malformed := func(err error) *quickRefusal {
		return &quickRefusal{isakmp.PayloadMalformed, nil, q.slot, &Diagnosis{
			Reason: ReasonMalformedPayload, Exchange: isakmp.QuickMode.String(), Parameter: "CHILD_SA", Detail: err.Error(),
		}}
	}
	offer, okSA := isakmp.Find[*isakmp.SA](msg)
	nonce, okNonce := isakmp.Find[*isakmp.Nonce](msg)
	if !okSA || !okNonce {
		return nil, malformed(errors.New("the request has no SA or nonce payload"))
	}
	spi := offer.Proposals[0].SPI
	local, remote, err := s.selectors(msg)
	if err != nil {
		return nil, malformed(err)
	}
	q.slot = m.pair(local, remote)
	if q.slot == nil {
		d := m.flowDiagnosis(isakmp.QuickMode.String(), []ipsec.TrafficSelector{local}, []ipsec.TrafficSelector{remote})
		d.Detail = "the peer's selectors, shown from our side, are not those of a configured pair; IKEv1 has them equal"
		return nil, &quickRefusal{isakmp.InvalidIDInformation, spi, nil, d}
	}
	ch, err := s.choosePhase2(q.slot, offer)
	if err != nil {
		return nil, &quickRefusal{isakmp.NoProposalChosen, spi, q.slot, gmProposalDiagnosis(ReasonPhase2Proposal, isakmp.QuickMode, err)}
	}
	if m.childrenOf(q.slot) >= maxChildren {
		return nil, &quickRefusal{isakmp.NoProposalChosen, spi, q.slot, &Diagnosis{
			Reason: ReasonRekeyFail, Cause: CauseLimit, Exchange: isakmp.QuickMode.String(), Parameter: "CHILD_SA", Ours: fmt.Sprintf("at most %d", maxChildren),
			Detail: "the peer asks for more SAs of one child than it may have at a time",
		}}
	}
	return q.makeChild(msg, ch, nonce.Data, local, remote)
}

// selectors returns the traffic that message 1 is for. Without identities it is
// that between the two ends themselves.
func (s *ISAKMPSA) selectors(msg *isakmp.Message) (local, remote ipsec.TrafficSelector, err error) {
	ids := isakmp.All[*isakmp.ID](msg)
	if len(ids) == 0 {
		host := func(id Identity) (ipsec.TrafficSelector, error) { return id.payloadV1().Selector() }
		if local, err = host(AddressIdentity(s.path.local.Addr())); err == nil {
			remote, err = host(AddressIdentity(s.path.remote.Addr()))
		}
		return local, remote, err
	}
	if len(ids) != 2 {
		return local, remote, errors.New("one identity of phase 2 without the other")
	}
	if remote, err = ids[0].Selector(); err == nil {
		local, err = ids[1].Selector()
	}
	return local, remote, err
}

// makeChild makes the responder's side of a child.
func (q *quickMode) makeChild(msg *isakmp.Message, ch choice, ni []byte, local, remote ipsec.TrafficSelector) ([]isakmp.Payload, *quickRefusal) {
	s, m := q.s, q.s.m
	refuse := func(t isakmp.NotifyType, reason Reason, parameter string, err error) ([]isakmp.Payload, *quickRefusal) {
		return nil, &quickRefusal{t, ch.proposal.SPI, q.slot, &Diagnosis{
			Reason: reason, Exchange: isakmp.QuickMode.String(), Parameter: parameter, Detail: err.Error(),
		}}
	}
	if q.slot.cfg.Template {
		made, err := m.instantiate(q.slot, []ipsec.TrafficSelector{local}, []ipsec.TrafficSelector{remote})
		if err != nil {
			return refuse(isakmp.NoProposalChosen, ReasonRekeyFail, "CHILD_SA", err)
		}
		q.slot = made
	}
	out, err := m.newOut(ch.proposal)
	if err != nil {
		return refuse(isakmp.InvalidSPI, ReasonMalformedPayload, "SPI", err)
	}
	nr, err := m.newNonce()
	if err != nil {
		return refuse(isakmp.NoProposalChosen, ReasonDataPlane, "nonce", err)
	}
	if q.in, err = m.env.AllocSPI(s.path.local.Addr()); err != nil {
		return refuse(isakmp.NoProposalChosen, ReasonDataPlane, "SPI", err)
	}
	q.ni, q.nr = ni, nr
	ch.answer.Proposals[0].SPI = binary.BigEndian.AppendUint32(nil, uint32(q.in))
	payloads := []isakmp.Payload{&ch.answer, &isakmp.Nonce{Data: nr}}
	var shared []byte
	if g, _ := ch.proposal.Get(ipsec.TransformGroup); g.ID != ipsec.GroupNone {
		ke, ok := isakmp.Find[*isakmp.KE](msg)
		if !ok {
			return refuse(isakmp.InvalidKeyInformation, ReasonMalformedPayload, "PFS group", errors.New("the request has no KE payload"))
		}
		kex, err := newKeyExchange(g.ID, m.env.Rand)
		if err != nil {
			return refuse(isakmp.NoProposalChosen, ReasonDataPlane, "PFS group", err)
		}
		defer kex.wipe()
		payloads = append(payloads, &isakmp.KE{Data: kex.public()})
		if shared, err = kex.shared(ke.Data); err != nil {
			return refuse(isakmp.InvalidKeyInformation, ReasonMalformedPayload, "PFS group", err)
		}
		defer clear(shared)
	}
	for _, id := range isakmp.All[*isakmp.ID](msg) {
		payloads = append(payloads, id)
	}
	keys, err := s.keys.newChildKeys(ch.proposal, shared, ni, nr, out, q.in)
	if err != nil {
		return refuse(isakmp.NoProposalChosen, ReasonDataPlane, "key material", err)
	}
	own := lifeOf(q.slot.cfg.Lifetime)
	if short := own.atMost(ch.life); short != ch.life.atMost(lifetime{}) {
		payloads = append(payloads, responderLifetime(ipsec.ProtocolESP, ch.answer.Proposals[0].SPI, own, isakmp.Phase2LifeType, isakmp.Phase2LifeDuration)...)
	}
	q.child = s.newChild(q.slot, ch, q.in, out, keys)
	q.child.nonce = bytes.Clone(lowestNonce(ni, nr))
	q.child.local, q.child.remote = []ipsec.TrafficSelector{local}, []ipsec.TrafficSelector{remote}
	q.child.agreed = agree(q.slot.cfg.Lifetime, ch.life)
	return payloads, nil
}
