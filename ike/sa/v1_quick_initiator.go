package sa

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// createChild plans a new CHILD_SA. One that is not as it is configured is then
// followed as in a rekey, of which IKEv1 says nothing to the peer.
func (m *MachineV1) createChild(k *slot) {
	k.busy, k.retryAt = true, time.Time{}
	q := &quickMode{initiator: true, slot: k}
	if i := slices.IndexFunc(m.children, func(c *childSA) bool { return c.slot == k && c.outdated && c.state == Established }); i >= 0 {
		q.old = m.children[i]
	}
	m.queue = append(m.queue, q)
}

// replaceChild plans a rekey.
func (m *MachineV1) replaceChild(c *childSA) {
	m.queue = append(m.queue, &quickMode{initiator: true, slot: c.slot, old: c})
}

// pump begins the quick modes that wait, as far as there is room.
func (m *MachineV1) pump() {
	for s := m.current; s != nil && len(m.queue) > 0; {
		active := 0
		for _, q := range s.quick {
			if q.initiator && q.awaits != 0 {
				active++
			}
		}
		if active >= maxQuickModes {
			return
		}
		q := m.queue[0]
		m.queue = m.queue[1:]
		q.begin(s)
	}
}

// moot reports whether there is no need for the exchange any more.
func (q *quickMode) moot(m *MachineV1) bool {
	if q.old != nil {
		return q.old.state != Established
	}
	return q.slot.removed || m.upToDate(q.slot)
}

// begin sends the first message.
func (q *quickMode) begin(s *ISAKMPSA) {
	q.slot.busy = false
	if q.moot(s.m) {
		return
	}
	q.s = s
	payloads, err := q.prepare()
	if err != nil {
		q.failed(&Diagnosis{Reason: ReasonDataPlane, Exchange: isakmp.QuickMode.String(), Parameter: "CHILD_SA", Detail: err.Error()})
		return
	}
	q.slot.busy, q.cfg = true, q.slot.cfg
	if q.old != nil {
		q.old.setState(Rekeying)
	}
	s.quick = append(s.quick, q)
	q.awaits = 2
	if err := q.say(payloads, []byte{}, true); err != nil {
		s.m.drop(dropDefectAnswer)
	}
}

// prepare draws what the first message needs.
func (q *quickMode) prepare() (payloads []isakmp.Payload, err error) {
	s, m := q.s, q.s.m
	if q.in, err = m.env.AllocSPI(s.path.local.Addr()); err != nil {
		return nil, err
	}
	offer, err := s.phase2Offer(q.slot, q.in)
	if err != nil {
		return nil, err
	}
	if q.local, err = isakmp.SelectorID(q.slot.cfg.Local[0]); err != nil {
		return nil, err
	}
	if q.remote, err = isakmp.SelectorID(q.slot.cfg.Remote[0]); err != nil {
		return nil, err
	}
	if q.ni, err = m.newNonce(); err != nil {
		return nil, err
	}
	if q.id, err = s.newMessageID(); err != nil {
		return nil, err
	}
	q.iv = s.phase2IV(q.id)
	payloads = []isakmp.Payload{offer, &isakmp.Nonce{Data: q.ni}}
	if g := firstGroup(q.slot.proposals(true)); g != ipsec.GroupNone {
		if q.kex, err = newKeyExchange(g, m.env.Rand); err != nil {
			return nil, err
		}
		payloads = append(payloads, &isakmp.KE{Data: q.kex.public()})
	}
	return append(payloads, q.local, q.remote), nil
}

// takeAnswer takes message 2.
func (q *quickMode) takeAnswer(msg *isakmp.Message) {
	m := q.s.m
	if n, ok := msg.ErrorNotify(); ok {
		q.refusedBy(n)
		return
	}
	q.slot.busy = false
	c, d := q.accept(msg)
	if d != nil {
		q.end()
		q.failed(d)
		return
	}
	q.child = c
	m.children = append(m.children, c)
	c.addIn()
	m.after(func() { q.confirm() })
}

// accept makes the child of the answer.
func (q *quickMode) accept(msg *isakmp.Message) (*childSA, *Diagnosis) {
	s, m := q.s, q.s.m
	bad := func(err error) (*childSA, *Diagnosis) {
		return nil, &Diagnosis{Reason: ReasonMalformedPayload, Exchange: isakmp.QuickMode.String(), Parameter: "CHILD_SA", Detail: err.Error()}
	}
	answer, okSA := isakmp.Find[*isakmp.SA](msg)
	nonce, okNonce := isakmp.Find[*isakmp.Nonce](msg)
	if !okSA || !okNonce {
		return bad(errors.New("the answer has no SA or nonce payload"))
	}
	if err := singleChoice(answer); err != nil {
		return bad(err)
	}
	ch, err := s.choosePhase2(&slot{cfg: q.cfg}, answer)
	if err != nil {
		return nil, gmProposalDiagnosis(ReasonPhase2Proposal, isakmp.QuickMode, err)
	}
	q.nr = nonce.Data
	if d := q.sameSelectors(msg); d != nil {
		return nil, d
	}
	if g, _ := ch.proposal.Get(ipsec.TransformGroup); (g.ID != ipsec.GroupNone) != (q.kex != nil) {
		return bad(errors.New("the answer has another PFS group than the request"))
	}
	var shared []byte
	if q.kex != nil {
		ke, ok := isakmp.Find[*isakmp.KE](msg)
		if !ok {
			return bad(errors.New("the answer has no KE payload"))
		}
		if shared, err = q.kex.shared(ke.Data); err != nil {
			return bad(err)
		}
		defer clear(shared)
	}
	out, err := m.newOut(ch.proposal)
	if err != nil {
		return bad(err)
	}
	keys, err := s.keys.newChildKeys(ch.proposal, shared, q.ni, q.nr, q.in, out)
	if err != nil {
		return bad(err)
	}
	c := s.newChild(q.slot, ch, q.in, out, keys)
	if q.old != nil {
		c.replaces = q.old.in
	}
	c.initiator, c.nonce = true, bytes.Clone(lowestNonce(q.ni, q.nr))
	c.local, c.remote = slices.Clone(q.cfg.Local), slices.Clone(q.cfg.Remote)
	c.outdated = !q.cfg.sameSA(q.slot.cfg)
	told := toldLifetime(msg, isakmp.Phase2LifeType, isakmp.Phase2LifeDuration)
	c.agreed = agree(q.slot.cfg.Lifetime, ch.life.atMost(told))
	return c, nil
}

// sameSelectors checks that the peer answered with the selectors that we asked
// for, which IKEv1 does not let it change.
func (q *quickMode) sameSelectors(msg *isakmp.Message) *Diagnosis {
	cfg := q.cfg
	ids := isakmp.All[*isakmp.ID](msg)
	if len(ids) == 0 {
		return nil
	}
	if len(ids) == 2 {
		local, errLocal := ids[0].Selector()
		remote, errRemote := ids[1].Selector()
		if errLocal == nil && errRemote == nil && local == cfg.Local[0] && remote == cfg.Remote[0] {
			return nil
		}
	}
	d := &Diagnosis{
		Reason: ReasonFlow, Cause: CauseNegotiatedAway, Exchange: isakmp.QuickMode.String(), Parameter: "traffic selectors",
		Ours: flowText(cfg.Local, cfg.Remote), Theirs: idList(ids), Detail: "the peer answered with selectors that we did not ask for",
	}
	return d
}

// idList shows identities of phase 2.
func idList(ids []*isakmp.ID) string {
	var list []ipsec.TrafficSelector
	for _, id := range ids {
		if ts, err := id.Selector(); err == nil {
			list = append(list, ts)
		}
	}
	return ipsec.SelectorList(list)
}

// confirm sends message 3, now that the child can receive.
func (q *quickMode) confirm() {
	c, m := q.child, q.s.m
	if q.s.state == Deleted {
		return
	}
	if c.refused != nil || c.state != Connecting {
		q.end()
		if q.old != nil && c.refused != nil {
			q.again(m.backoff(q.slot))
		}
		return
	}
	hash := &isakmp.Hash{Data: q.s.keys.sum([]byte{0}, idOctets(q.id), q.ni, q.nr)}
	q.end()
	if err := q.send([]isakmp.Payload{hash}, false); err != nil {
		m.drop(dropDefectAnswer)
	}
	c.told = true
	old := q.old
	switch {
	case q.slot.removed:
		m.deleteChild(c, ReasonConfigModify, nil)
	case old != nil && old.hasOut && (old.state == Rekeying || old.state == Rekeyed) && m.env.QuerySA != nil:
		old.successor = c
		c.awaitUse()
	case m.inherits(q.slot) && m.env.QuerySA != nil, m.beside():
		c.awaitUse() // the peer receives on it when it has message 3
	default:
		c.addOut()
	}
}

// failed reports that an exchange of ours gave no child, and plans another try.
func (q *quickMode) failed(d *Diagnosis) {
	m := q.s.m
	m.emit(Emit{m.childFailure(q.slot, true, d)})
	q.again(m.backoff(q.slot))
}

// again plans the same exchange for later.
func (q *quickMode) again(wait time.Duration) {
	m := q.s.m
	switch {
	case q.old == nil:
		if !q.slot.removed && !m.upToDate(q.slot) && (m.conn.Initiate || q.slot.wanted || m.inherits(q.slot)) {
			q.slot.retryAt = m.now.Add(wait)
		}
	case q.old.state == Rekeying || q.old.state == Established:
		q.old.setState(Established)
		q.old.rekeyAt = m.now.Add(wait)
	default: // the peer has deleted it meanwhile
		m.restore(q.slot)
	}
}

// refusedBy handles the peer's refusal of an exchange of ours.
func (q *quickMode) refusedBy(n *isakmp.Notify) {
	q.slot.busy = false
	q.end()
	d := q.refusal(n)
	q.s.otherESPNumber(d)
	q.failed(d)
}

func (q *quickMode) refusal(n *isakmp.Notify) *Diagnosis {
	cfg := q.slot.cfg
	d := &Diagnosis{Exchange: isakmp.QuickMode.String()}
	switch n.NotifyType {
	case isakmp.NoProposalChosen, isakmp.BadProposalSyntax, isakmp.AttributesNotSupported, isakmp.InvalidTransformID:
		sets := q.slot.phase2Sets()
		d.Reason, d.Parameter, d.Ours = ReasonPhase2Proposal, "proposal", proposalList(sets)
		d.Detail = "the peer accepts none of our ESP proposals"
		d.Offers = &Offers{Of: OfferQuickMode, Ours: sets}
	case isakmp.InvalidIDInformation:
		d.Reason, d.Parameter, d.Ours = ReasonFlow, "traffic selectors", flowText(cfg.Local, cfg.Remote)
		d.Detail = "the peer has no such pair of traffic selectors"
		d.Flows = &Flows{Ours: []Flow{{cfg.Local, cfg.Remote}}}
	case isakmp.InvalidKeyInformation:
		d.Reason, d.Cause, d.Parameter, d.Ours = ReasonPhase2Proposal, CausePFS, "PFS group", groupList(cfg.Proposals)
		d.Detail = "the peer refused our key exchange"
	default:
		d.Reason, d.Cause, d.Parameter = ReasonPhase2Proposal, CauseRefusedByPeer, "CHILD_SA"
		d.Detail = "the peer answered with " + n.NotifyType.String()
	}
	return d
}
