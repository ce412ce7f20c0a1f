package sa

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

const (
	nonceLen = 32 // octets; half the key of the longest prf
	// maxGroupRounds bounds how often a peer may ask for another group.
	maxGroupRounds = 3
	// duplicateTimeout is how long a child stays beside the one that the peer
	// has set up in its place. The peer may have to ask again for our answer.
	duplicateTimeout = 15 * time.Second
	// maxChildren is how many CHILD_SAs of one configured child, those included
	// that still receive, the peer may bring about. A rekey of both ends at once
	// has four.
	maxChildren = 16
)

// newNonce draws a nonce.
func (m *core) newNonce() ([]byte, error) {
	b := make([]byte, nonceLen)
	return b, readFull(m.env.Rand, b)
}

// childOffer is what we ask for in an exchange for a CHILD_SA: in IKE_AUTH,
// CREATE_CHILD_SA, or its rekeying form.
type childOffer struct {
	slot      *slot
	cfg       *Child // of the slot, as it was then
	in        ipsec.SPI
	proposals []ipsec.Proposal
}

// offerChild reserves an SPI and makes an offer. The child of IKE_AUTH takes
// its keys from the IKE SA's key exchange and so goes without groups.
func (m *Machine) offerChild(s *ikeSA, k *slot, groups bool) (childOffer, error) {
	in, err := m.env.AllocSPI(s.childPath().local.Addr())
	if err != nil {
		return childOffer{}, err
	}
	o := childOffer{slot: k, cfg: k.cfg, in: in}
	for i, p := range k.proposals(groups) {
		p.Number = uint8(i + 1)
		p.SPI = binary.BigEndian.AppendUint32(nil, uint32(in))
		o.proposals = append(o.proposals, p)
	}
	return o, nil
}

// proposals returns the configured ESP proposals. ESN is always spelt out, as
// RFC 7296, section 3.3.3, asks for.
func (k *slot) proposals(groups bool) []ipsec.Proposal {
	list := make([]ipsec.Proposal, len(k.cfg.Proposals))
	for i, p := range k.cfg.Proposals {
		if !groups {
			p = p.WithoutKeyExchange()
		}
		if len(p.Of(ipsec.TransformESN)) == 0 {
			p.Transforms = append(slices.Clone(p.Transforms), ipsec.ESN(false))
		}
		list[i] = p
	}
	return list
}

// selectors returns the TSi and TSr payloads of the offer.
func (o *childOffer) selectors() []wire.Payload {
	return []wire.Payload{
		&wire.TS{Selectors: o.cfg.Local},
		&wire.TS{Responder: true, Selectors: o.cfg.Remote},
	}
}

// chosen returns what the peer chose from an offer. It must be one of the
// proposals, with one transform of each type.
func chosen(offered []ipsec.Proposal, msg *wire.Message) (ipsec.Proposal, error) {
	sa, ok := wire.Find[*wire.SA](msg)
	if !ok || len(sa.Proposals) != 1 {
		return ipsec.Proposal{}, errors.New("the answer does not choose one proposal")
	}
	answer := sa.Proposals[0]
	p, err := ipsec.Choose(offered, sa.Proposals)
	if err != nil {
		return ipsec.Proposal{}, err
	}
	for i, t := range answer.Transforms {
		if slices.ContainsFunc(answer.Transforms[:i], func(u ipsec.Transform) bool { return u.Type == t.Type }) {
			return ipsec.Proposal{}, errors.New("the answer has two transforms of one type")
		}
	}
	return p, nil
}

// espSPI reads the SPI of an ESP proposal.
func espSPI(p ipsec.Proposal) (ipsec.SPI, error) {
	if len(p.SPI) != 4 {
		return 0, errors.New("SPI is not of four octets")
	}
	spi := ipsec.SPI(binary.BigEndian.Uint32(p.SPI))
	if spi < 256 {
		return 0, errors.New("SPI is of the reserved range")
	}
	return spi, nil
}

// newOut reads the SPI that the peer chose for a new child, which must not be
// that of another one.
func (m *core) newOut(p ipsec.Proposal) (ipsec.SPI, error) {
	spi, err := espSPI(p)
	if err == nil && m.childByOut(spi) != nil {
		err = fmt.Errorf("SPI %s is that of another child", spi)
	}
	return spi, err
}

// childrenOf counts the children of a slot, those included that are deleted and
// still receive.
func (m *core) childrenOf(k *slot) int {
	n := 0
	for _, c := range m.children {
		if c.slot == k {
			n++
		}
	}
	return n
}

// accept makes the CHILD_SA that the peer's answer to an offer describes.
// Nothing is installed yet. On failure the child is returned where it is
// known well enough to be deleted.
func (o *childOffer) accept(s *ikeSA, msg *wire.Message, p ipsec.Proposal, k keyMaterial) (*childSA, *Diagnosis) {
	spi, err := s.m.newOut(p)
	if err != nil {
		return nil, malformedChild(msg, err)
	}
	c := &childSA{
		m: &s.m.core, slot: o.slot, state: Connecting, initiator: true, in: o.in, out: spi,
		path: s.childPath(), proposal: p, nonce: bytes.Clone(lowestNonce(k.ni, k.nr)), told: true,
	}
	tsi, ok := msg.TS(false)
	tsr, okr := msg.TS(true)
	if !ok || !okr {
		return c, malformedChild(msg, errors.New("the answer has no traffic selectors"))
	}
	c.local, c.remote = tsi.Selectors, tsr.Selectors
	c.outdated = !o.cfg.sameSA(o.slot.cfg)
	cfg := o.cfg
	if len(c.local) == 0 || len(c.remote) == 0 || !ipsec.Covers(cfg.Local, c.local) || !ipsec.Covers(cfg.Remote, c.remote) {
		return c, selectorDiagnosis(msg.Exchange, cfg, c.local, c.remote)
	}
	if c.keys, err = s.keys.newChildKeys(p, k); err != nil {
		return c, malformedChild(msg, err)
	}
	return c, nil
}

// createChild sets up a CHILD_SA in an exchange of its own, or rekeys one.
type createChild struct {
	slot *slot
	old  *childSA // to be rekeyed; nil for a new one
	// rival is what the peer made at the same time for the same purpose.
	rival *childSA
	// gone are SPIs of the peer's that we did not know when it deleted them: one of
	// them may be that of the child that the answer, which is late, tells of.
	gone []ipsec.SPI

	offer  childOffer
	ni     []byte
	group  uint16 // of kex; the peer may have asked for it
	kex    keyExchange
	rounds int

	// What the peer has answered, and what follows that.
	answer   *wire.Message
	proposal ipsec.Proposal
	shared   []byte
	followup followup
}

// createChild plans a new CHILD_SA.
func (m *Machine) createChild(k *slot) {
	k.busy, k.retryAt = true, time.Time{}
	m.current.enqueue(&createChild{slot: k})
}

// replaceChild plans a rekey.
func (m *Machine) replaceChild(c *childSA) {
	m.current.enqueue(&createChild{slot: c.slot, old: c})
}

// wipe drops the private value, of which each request has its own, and the
// secrets.
func (x *createChild) wipe() {
	if x.kex != nil {
		x.kex.wipe()
		x.kex = nil
	}
	clear(x.shared)
	x.shared = nil
	x.followup.wipe()
}

func (x *createChild) kind() wire.ExchangeType {
	if x.answer != nil {
		return wire.IKEFollowupKE
	}
	return wire.CreateChildSA
}

// moot reports whether there is no need for the exchange any more.
func (x *createChild) moot(m *Machine) bool {
	if x.old != nil {
		return x.old.state != Established && (x.rounds == 0 || x.old.state != Rekeying)
	}
	return x.slot.removed || m.upToDate(x.slot)
}

func (x *createChild) request(s *ikeSA) ([]wire.Payload, bool) {
	x.slot.busy = false
	if x.answer != nil {
		return x.followUp(s)
	}
	if x.moot(s.m) {
		return nil, false
	}
	if err := x.prepare(s); err != nil {
		s.m.childFailed(x, &Diagnosis{
			Reason: ReasonDataPlane, Exchange: x.kind().String(), Parameter: "SPI", Detail: err.Error(),
		})
		return nil, false
	}
	x.slot.busy = true
	var payloads []wire.Payload
	if x.old != nil {
		x.old.setState(Rekeying)
		payloads = append(payloads, &wire.Notify{
			Protocol: ipsec.ProtocolESP, SPI: binary.BigEndian.AppendUint32(nil, uint32(x.old.in)), NotifyType: wire.RekeySA,
		})
	}
	payloads = append(payloads, &wire.SA{Proposals: x.offer.proposals}, &wire.Nonce{Data: x.ni})
	if x.kex != nil {
		payloads = append(payloads, &wire.KE{Group: x.group, Data: x.kex.public()})
	}
	return append(payloads, x.offer.selectors()...), true
}

// followUp asks for an additional key exchange.
func (x *createChild) followUp(s *ikeSA) ([]wire.Payload, bool) {
	payloads, err := x.followup.request(s.m.env.Rand)
	if err != nil {
		s.m.childFailed(x, malformedChild(x.answer, err))
		return nil, false
	}
	x.slot.busy = true
	return payloads, true
}

// prepare draws what the request needs.
func (x *createChild) prepare(s *ikeSA) (err error) {
	if x.offer, err = s.m.offerChild(s, x.slot, true); err != nil {
		return err
	}
	if x.ni, err = s.m.newNonce(); err != nil {
		return err
	}
	if x.group == ipsec.GroupNone {
		x.group = firstGroup(x.offer.proposals)
		if x.old != nil {
			// A rekey keeps the group.
			if g, _ := x.old.proposal.Get(ipsec.TransformGroup); offers(x.offer.proposals, g.ID) {
				x.group = g.ID
			}
		}
	}
	if x.group != ipsec.GroupNone {
		x.kex, err = newKeyExchange(x.group, s.m.env.Rand)
	}
	return err
}

// firstGroup returns the group that a request begins with.
func firstGroup(list []ipsec.Proposal) uint16 {
	for _, p := range list {
		for _, t := range p.Of(ipsec.TransformGroup) {
			return t.ID
		}
	}
	return ipsec.GroupNone
}

// offers reports whether a group, other than none, is in one of the proposals.
func offers(list []ipsec.Proposal, id uint16) bool {
	return id != ipsec.GroupNone && slices.ContainsFunc(list, func(p ipsec.Proposal) bool {
		return slices.Contains(p.Transforms, ipsec.Group(id))
	})
}

func (x *createChild) response(s *ikeSA, _ Datagram, msg *wire.Message) {
	x.slot.busy = false
	if n, ok := msg.ErrorNotify(); ok {
		x.wipe()
		x.refused(s, n)
		return
	}
	err := x.take(msg)
	if err == nil && x.followup.pending() {
		x.slot.busy = true
		s.queue = append([]exchange{x}, s.queue...)
		return
	}
	c, d := x.accept(s, msg, err)
	x.wipe()
	if d != nil {
		if c != nil {
			// The peer has it and we do not.
			s.m.children = append(s.m.children, c)
			s.m.deleteChild(c, d.Reason, d)
		}
		s.m.childFailed(x, d)
		return
	}
	if slices.Contains(x.gone, c.out) {
		c.wipe()
		if x.old == nil {
			s.m.restore(x.slot)
		} else {
			x.again(s.m, s.m.temporaryDelay())
		}
		return
	}
	s.m.children = append(s.m.children, c)
	if c.slot.removed {
		s.m.deleteChild(c, ReasonConfigModify, nil)
		return
	}
	c.rekeys = x.old != nil || s.m.carries(c.slot)
	x.complete(s.m, c)
}

// take takes the key exchange of an answer.
func (x *createChild) take(msg *wire.Message) error {
	if x.answer != nil {
		return x.followup.take(msg)
	}
	p, err := chosen(x.offer.proposals, msg)
	if err != nil {
		return err
	}
	if g, _ := p.Get(ipsec.TransformGroup); g.ID != ipsec.GroupNone {
		ke, ok := wire.Find[*wire.KE](msg)
		if !ok || x.kex == nil || ke.Group != x.group || g.ID != x.group {
			return errors.New("the answer's key exchange is of another group")
		}
		if x.shared, err = x.kex.shared(ke.Data); err != nil {
			return err
		}
	}
	x.answer, x.proposal = msg, p
	return x.followup.begin(p, msg)
}

// accept makes the child of the answers, the last of which was taken or not.
func (x *createChild) accept(s *ikeSA, msg *wire.Message, err error) (*childSA, *Diagnosis) {
	if err != nil {
		return nil, malformedChild(msg, err)
	}
	nonce, _ := wire.Find[*wire.Nonce](x.answer)
	return x.offer.accept(s, x.answer, x.proposal, keyMaterial{
		shared: x.shared, ni: x.ni, nr: nonce.Data, additional: x.followup.secrets,
	})
}

// refused handles an answer that is an error.
func (x *createChild) refused(s *ikeSA, n *wire.Notify) {
	m := s.m
	if x.rival != nil && x.rival.counts() {
		// The peer's own exchange has done it (RFC 7296, section 2.8.1).
		if x.old != nil && x.old.state == Rekeying {
			x.old.awaitDelete()
		}
		return
	}
	switch n.NotifyType {
	case wire.InvalidKEPayload:
		g, ok := wantedGroup(n)
		if ok && x.answer == nil && offers(x.offer.proposals, g) && g != x.group && x.rounds < maxGroupRounds {
			x.rounds++
			x.group = g
			x.slot.busy = true
			s.queue = append([]exchange{x}, s.queue...)
			return
		}
	case wire.TemporaryFailure:
		x.again(m, m.temporaryDelay())
		return
	case wire.ChildSANotFound:
		if x.old != nil {
			m.dropChild(x.old, ReasonChildReplaced)
			x.slot.wanted = true
			x.slot.retryAt = m.now
			return
		}
	default:
	}
	m.childFailed(x, refusedChild(x.kind(), n, x.slot.cfg, x.offer.proposals, x.old != nil))
}

// temporaryDelay is the wait after TEMPORARY_FAILURE. It differs at the two
// ends, which may have refused each other.
func (m *core) temporaryDelay() time.Duration {
	return time.Second + time.Duration(m.random()*float64(2*time.Second))
}

// again plans the same exchange for later.
func (x *createChild) again(m *Machine, wait time.Duration) {
	switch {
	case x.old == nil:
		x.slot.retryAt = m.now.Add(wait)
	case x.old.state == Rekeying || x.old.state == Established: // not yet asked for
		x.old.setState(Established)
		x.old.rekeyAt = m.now.Add(wait)
	default: // the peer has deleted it meanwhile
		m.restore(x.slot)
	}
}

// childFailed reports that an exchange gave no child, and plans another try.
func (m *Machine) childFailed(x *createChild, d *Diagnosis) {
	m.emit(Emit{m.childFailure(x.slot, true, m.explain(x.slot, d))})
	if x.old == nil {
		m.restore(x.slot)
		return
	}
	x.again(m, m.backoff(x.slot))
}

func (x *createChild) unanswered(s *ikeSA, o *outstanding) {
	x.wipe()
	s.dead(o)
}

// answerCreateChild answers a CREATE_CHILD_SA request: for a new child, or to
// rekey a child or the IKE SA.
func (s *ikeSA) answerCreateChild(msg *wire.Message) reply {
	sa, _ := wire.Find[*wire.SA](msg)
	if len(sa.Proposals) > 0 && sa.Proposals[0].Protocol == ipsec.ProtocolIKE {
		return s.answerRekeyIKE(msg)
	}
	if s.state != Established {
		return refuse(wire.TemporaryFailure) // section 2.25.2
	}
	m := s.m
	old, no := m.rekeyedBy(msg)
	if no != nil {
		return *no
	}
	ni, _ := wire.Find[*wire.Nonce](msg)
	nr, err := m.newNonce()
	if err != nil {
		return refuse(wire.TemporaryFailure)
	}
	c, answer, refusal := m.answerChild(s, msg, childRequest{ni: ni.Data, nr: nr, old: old})
	if refusal != nil {
		return m.refuseChild(refusal)
	}
	payloads := []wire.Payload{answer.sa, &wire.Nonce{Data: nr}}
	if answer.ke != nil {
		payloads = append(payloads, answer.ke)
	}
	payloads = append(payloads, answer.tsi, answer.tsr)
	if methods := c.proposal.Additional(); len(methods) > 0 {
		return s.awaitFollowup(payloads, &followedUp{
			methods: methods,
			finish: func(last *wire.KE, secrets []byte) reply {
				answer.keys.additional = secrets
				return s.finishChild(msg, c, answer, last)
			},
			wipe: func() { clear(answer.keys.shared) },
		})
	}
	return s.installChild(c, old, payloads)
}

// finishChild makes a child whose additional key exchanges are done. What it was
// agreed for may have gone meanwhile.
func (s *ikeSA) finishChild(msg *wire.Message, c *childSA, answer *childAnswer, last *wire.KE) reply {
	m := s.m
	if s.state != Established || c.slot.removed {
		return refuse(wire.TemporaryFailure)
	}
	old, no := m.rekeyedBy(msg)
	if no != nil {
		return *no
	}
	if _, err := m.newOut(c.proposal); err != nil {
		return m.refuseChild(&childRefusal{wire.InvalidSyntax, nil, c.slot, malformedChild(msg, err)})
	}
	if err := m.readmit(c); err != nil {
		return m.refuseChild(&childRefusal{wire.NoAdditionalSAs, nil, c.slot, &Diagnosis{
			Reason: ReasonDataPlane, Exchange: wire.IKEFollowupKE.String(), Parameter: "CHILD_SA", Detail: err.Error(),
		}})
	}
	if err := answer.key(s, c); err != nil {
		return m.refuseChild(&childRefusal{wire.NoProposalChosen, nil, c.slot, malformedChild(msg, err)})
	}
	return s.installChild(c, old, []wire.Payload{last})
}

// installChild makes a responder's child receive, and answers.
func (s *ikeSA) installChild(c, old *childSA, payloads []wire.Payload) reply {
	c.addIn()
	without := func(t wire.NotifyType) reply { return refuse(t) }
	return reply{payloads: payloads, then: func() { s.m.answeredChild(c, old) }, child: c, without: without}
}

// answeredChild goes on when the answer that tells of a child is on its way.
func (m *Machine) answeredChild(c, old *childSA) {
	x := m.creating()
	if old != nil && (old.state == Deleting || old.state == Deleted) {
		old = nil // the data plane did not take all of it
	}
	if old != nil {
		c.rekeys = true
		old.succeededBy(c)
		if x != nil && x.old == old {
			x.rival = c // both ends rekey it: the answer to our request decides
			return
		}
		old.awaitDelete()
		return
	}
	if x != nil && x.old == nil && x.slot == c.slot {
		x.rival = c
	}
	// A duplicate takes over as in a rekey, but that we delete the old one.
	for _, other := range m.children {
		if other != c && other.slot == c.slot && other.state == Established {
			c.rekeys = true
			other.succeededBy(c)
			other.redundantAt = m.now.Add(duplicateTimeout)
		}
	}
	switch {
	case c.rekeys:
	case m.inherits(c.slot) && m.env.QuerySA != nil:
		c.awaitUse()
	case m.beside():
		c.awaitPeer()
	default:
		c.addOut()
	}
}

// creating returns our exchange for a child that awaits its answer.
func (m *Machine) creating() *createChild {
	if m.current == nil || m.current.active == nil {
		return nil
	}
	x, _ := m.current.active.exchange.(*createChild)
	return x
}

// childRequest is what the peer asks for beside the payloads of its message.
type childRequest struct {
	ni, nr []byte
	first  bool     // in IKE_AUTH: no key exchange of its own
	old    *childSA // that is rekeyed
}

// childAnswer holds the payloads that tell of a child, and what its keys are made
// of.
type childAnswer struct {
	sa       *wire.SA
	ke       *wire.KE
	tsi, tsr *wire.TS
	keys     keyMaterial
}

// key gives a child its keys and takes it in.
func (a *childAnswer) key(s *ikeSA, c *childSA) (err error) {
	defer clear(a.keys.shared)
	if c.keys, err = s.keys.newChildKeys(c.proposal, a.keys); err != nil {
		return err
	}
	c.path = s.childPath()
	s.m.children = append(s.m.children, c)
	return nil
}

// childRefusal is why there is no child.
type childRefusal struct {
	notify    wire.NotifyType
	data      []byte
	slot      *slot      // the configured child that came closest, if any
	diagnosis *Diagnosis // nil where the peer will simply ask again
}

// answerChild makes the CHILD_SA that a request of the peer describes: it finds
// the configured child, narrows the selectors and chooses the proposal.
func (m *Machine) answerChild(s *ikeSA, msg *wire.Message, req childRequest) (*childSA, *childAnswer, *childRefusal) {
	sa, _ := wire.Find[*wire.SA](msg)
	tsi, okI := msg.TS(false)
	tsr, okR := msg.TS(true)
	if sa == nil || !okI || !okR {
		return nil, nil, &childRefusal{notify: wire.InvalidSyntax, diagnosis: malformedChild(msg, errors.New("the request has no proposals or no traffic selectors"))}
	}
	found := m.match(tsr.Selectors, tsi.Selectors, req.old)
	if len(found) == 0 {
		return nil, nil, &childRefusal{notify: wire.TSUnacceptable, diagnosis: m.flowDiagnosis(msg.Exchange.String(), tsr.Selectors, tsi.Selectors)}
	}
	var no *childRefusal
	for _, f := range found {
		p, err := ipsec.Choose(f.slot.proposals(!req.first), withoutGroups(sa.Proposals, req.first))
		if err == nil {
			return m.makeChild(s, msg, req, f, p)
		}
		if no == nil {
			no = &childRefusal{wire.NoProposalChosen, nil, f.slot, mismatchDiagnosis(ReasonPhase2Proposal, msg.Exchange, err)}
		}
	}
	return nil, nil, no
}

// withoutGroups takes the groups out of a peer's proposals where they have no
// meaning.
func withoutGroups(list []ipsec.Proposal, first bool) []ipsec.Proposal {
	if !first {
		return list
	}
	out := make([]ipsec.Proposal, len(list))
	for i, p := range list {
		out[i] = p.WithoutKeyExchange()
	}
	return out
}

// makeChild makes the responder's side of a CHILD_SA. It has no keys yet where
// additional key exchanges are to come.
func (m *Machine) makeChild(s *ikeSA, msg *wire.Message, req childRequest, f slotMatch, p ipsec.Proposal) (*childSA, *childAnswer, *childRefusal) {
	no := func(t wire.NotifyType, parameter string, err error) (*childSA, *childAnswer, *childRefusal) {
		return nil, nil, &childRefusal{t, nil, f.slot, &Diagnosis{
			Reason: ReasonDataPlane, Exchange: msg.Exchange.String(), Parameter: parameter, Detail: err.Error(),
		}}
	}
	if n := m.childrenOf(f.slot); n >= maxChildren {
		return nil, nil, &childRefusal{wire.NoAdditionalSAs, nil, f.slot, &Diagnosis{
			Reason: ReasonRekeyFail, Cause: CauseLimit, Exchange: msg.Exchange.String(), Parameter: "CHILD_SA", Ours: fmt.Sprintf("at most %d", maxChildren),
			Detail: "the peer asks for more SAs of one child than it may have at a time",
		}}
	}
	if f.slot.cfg.Template {
		made, err := m.instantiate(f.slot, f.local, f.remote)
		if err != nil {
			return no(wire.NoAdditionalSAs, "CHILD_SA", err)
		}
		f.slot = made
	}
	out, err := m.newOut(p)
	if err != nil {
		return nil, nil, &childRefusal{wire.InvalidSyntax, nil, f.slot, malformedChild(msg, err)}
	}
	answer := &childAnswer{tsi: &wire.TS{Selectors: f.remote}, tsr: &wire.TS{Responder: true, Selectors: f.local}}
	answer.keys = keyMaterial{ni: req.ni, nr: req.nr}
	if g, _ := p.Get(ipsec.TransformGroup); g.ID != ipsec.GroupNone {
		ke, ok := wire.Find[*wire.KE](msg)
		if !ok || ke.Group != g.ID {
			return nil, nil, &childRefusal{notify: wire.InvalidKEPayload, data: groupData(g.ID)}
		}
		value, shared, err := answerKeyExchange(g.ID, m.env.Rand, ke.Data)
		if err != nil {
			return nil, nil, &childRefusal{wire.InvalidSyntax, nil, f.slot, malformedChild(msg, err)}
		}
		answer.ke, answer.keys.shared = &wire.KE{Group: g.ID, Data: value}, shared
	}
	in, err := m.env.AllocSPI(s.childPath().local.Addr())
	if err != nil {
		return no(wire.NoAdditionalSAs, "SPI", err)
	}
	ours := p
	ours.SPI = binary.BigEndian.AppendUint32(nil, uint32(in))
	answer.sa = &wire.SA{Proposals: []ipsec.Proposal{ours}}
	c := &childSA{
		m: &m.core, slot: f.slot, state: Connecting, in: in, out: out, path: s.childPath(), proposal: p,
		local: f.local, remote: f.remote, nonce: bytes.Clone(lowestNonce(req.ni, req.nr)),
	}
	if len(p.Additional()) == 0 {
		if err := answer.key(s, c); err != nil {
			return no(wire.NoProposalChosen, "key material", err)
		}
	}
	return c, answer, nil
}

// refuseChild answers with a notify and reports why.
func (m *Machine) refuseChild(no *childRefusal) reply {
	r := refuse(no.notify, no.data...)
	if no.diagnosis != nil {
		r.then = func() { m.emit(Emit{m.childFailure(no.slot, false, no.diagnosis)}) }
	}
	return r
}
