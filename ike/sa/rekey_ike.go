package sa

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// An IKE SA is rekeyed by an exchange on the old one (RFC 7296, section 1.3.2).
// The children move to the new SA, whose message ids start at zero; the end
// that asked deletes the old one:
//
//	initiator                               responder
//	SA, Ni, KEi  ────────────────────────►  new SA, waits
//	new SA, children move  ◄──────────────  SA, Nr, KEr
//	DELETE(old)  ─────────────────────────► children move
//	old: gone  ◄──────────────────────────  (empty); old: gone
//
// When both ends do so at once there are two new SAs. The one with the lowest
// of the four nonces is deleted by the end that made it, the old one by the
// other end (section 2.8.2).

// maxIKE is how many IKE SAs that follow each other, those included that still
// answer repeated requests, the peer may bring about.
const maxIKE = 16

// rekeyIKE is our exchange.
type rekeyIKE struct {
	spi    uint64
	ni     []byte
	group  uint16
	kex    keyExchange
	rounds int

	// What the peer has answered, and what follows that.
	answer   *wire.Message
	proposal ipsec.Proposal
	shared   []byte
	followup followup
}

// wipe drops the private value, of which each request has its own, and the
// secrets.
func (x *rekeyIKE) wipe() {
	if x.kex != nil {
		x.kex.wipe()
		x.kex = nil
	}
	clear(x.shared)
	x.shared = nil
	x.followup.wipe()
}

func (x *rekeyIKE) kind() wire.ExchangeType {
	if x.answer != nil {
		return wire.IKEFollowupKE
	}
	return wire.CreateChildSA
}

// rekeyIKE begins a rekey of the IKE SA.
func (m *Machine) rekeyIKE() {
	if m.current != nil {
		m.current.rekeyDue()
	}
}

// rekeyDue begins a rekey, unless one is planned.
func (s *ikeSA) rekeyDue() {
	planned := slices.ContainsFunc(s.queue, func(x exchange) bool { _, ok := x.(*rekeyIKE); return ok })
	if s == s.m.current && s.state == Established && !planned {
		s.enqueue(&rekeyIKE{})
	}
}

func (x *rekeyIKE) request(s *ikeSA) ([]wire.Payload, bool) {
	if x.answer != nil {
		payloads, err := x.followup.request(s.m.env.Rand)
		if err != nil {
			x.failed(s, x.unusable(err))
		}
		return payloads, err == nil
	}
	again := x.rounds > 0 && s.state == Rekeying
	if s.state != Established && !again {
		return nil, false
	}
	if x.group == ipsec.GroupNone {
		x.group = firstGroup(s.m.conn.Proposals)
		if g, _ := s.proposal.Get(ipsec.TransformGroup); offers(s.m.conn.Proposals, g.ID) {
			x.group = g.ID
		}
	}
	var err error
	if x.ni, err = s.m.newNonce(); err == nil {
		if x.spi, err = s.m.newSPI(); err == nil {
			x.kex, err = newKeyExchange(x.group, s.m.env.Rand)
		}
	}
	if err != nil {
		x.failed(s, &Diagnosis{Reason: ReasonRekeyFail, Exchange: x.kind().String(), Parameter: "DH group", Detail: err.Error()})
		return nil, false
	}
	s.setState(Rekeying)
	return []wire.Payload{
		&wire.SA{Proposals: numbered(s.m.conn.Proposals, binary.BigEndian.AppendUint64(nil, x.spi))},
		&wire.Nonce{Data: x.ni},
		&wire.KE{Group: x.group, Data: x.kex.public()},
	}, true
}

func (x *rekeyIKE) response(s *ikeSA, _ Datagram, msg *wire.Message) {
	m := s.m
	if n, ok := msg.ErrorNotify(); ok {
		x.wipe()
		x.refused(s, n)
		return
	}
	err := x.take(s, msg)
	if err == nil && x.followup.pending() {
		s.queue = append([]exchange{x}, s.queue...)
		return
	}
	defer x.wipe()
	var n *ikeSA
	if err == nil {
		n, err = x.follower(s)
	}
	if err != nil {
		x.failed(s, x.unusable(err))
		return
	}
	m.ikes = append(m.ikes, n)
	rival := s.successor
	if rival == nil || !rival.live() {
		m.moveTo(n)
		s.delete()
		return
	}
	if bytes.Compare(n.nonce, rival.nonce) < 0 {
		n.delete()
		m.moveTo(rival)
		s.awaitDelete()
		return
	}
	s.successor = nil
	rival.redundantAt = m.now.Add(redundantTimeout)
	m.moveTo(n)
	s.delete()
}

func (x *rekeyIKE) unusable(err error) *Diagnosis {
	return &Diagnosis{
		Reason: ReasonRekeyFail, Exchange: x.kind().String(), Parameter: "IKE SA", Detail: "the peer's answer cannot be used: " + err.Error(),
	}
}

// take takes the key exchange of an answer.
func (x *rekeyIKE) take(s *ikeSA, msg *wire.Message) error {
	if x.answer != nil {
		return x.followup.take(msg)
	}
	p, err := chosen(s.m.conn.Proposals, msg)
	if err != nil {
		return err
	}
	ke, ok := wire.Find[*wire.KE](msg)
	if g, _ := p.Get(ipsec.TransformGroup); !ok || ke.Group != x.group || g.ID != x.group {
		return errors.New("the key exchange is of another group")
	}
	if x.shared, err = x.kex.shared(ke.Data); err != nil {
		return err
	}
	x.answer, x.proposal = msg, p
	return x.followup.begin(p, msg)
}

// follower makes the IKE SA of the answers.
func (x *rekeyIKE) follower(s *ikeSA) (*ikeSA, error) {
	spir, err := ikeSPI(x.proposal)
	if err != nil {
		return nil, err
	}
	nonce, _ := wire.Find[*wire.Nonce](x.answer)
	return s.follower(x.proposal, rekeyed{
		initiator: true, spii: x.spi, spir: spir, ni: x.ni, nr: nonce.Data, shared: x.shared, additional: x.followup.secrets,
	})
}

// ikeSPI reads the SPI of an IKE proposal in a rekey.
func ikeSPI(p ipsec.Proposal) (uint64, error) {
	if len(p.SPI) != 8 {
		return 0, errors.New("SPI is not of eight octets")
	}
	spi := binary.BigEndian.Uint64(p.SPI)
	if spi == 0 {
		return 0, errors.New("SPI is zero")
	}
	return spi, nil
}

// rekeyed is what the two ends have said in a rekey.
type rekeyed struct {
	initiator  bool // we began it
	spii, spir uint64
	ni, nr     []byte
	shared     []byte
	additional []byte // secrets of additional key exchanges, joined
}

// follower makes the IKE SA that follows this one.
func (s *ikeSA) follower(p ipsec.Proposal, r rekeyed) (*ikeSA, error) {
	if err := checkNonce(p, r.ni); err != nil {
		return nil, err
	}
	if err := checkNonce(p, r.nr); err != nil {
		return nil, err
	}
	n := &ikeSA{
		m: s.m, state: Connecting, initiator: r.initiator, spii: r.spii, spir: r.spir,
		path: s.path, fragmentation: s.fragmentation, ppk: s.ppk,
	}
	if err := n.setKeys(p, rekeySeed(s.keys, r.shared, r.ni, r.nr, r.additional), r.ni, r.nr); err != nil {
		return nil, err
	}
	n.establish(s.m.now)
	return n, nil
}

// refused handles an answer that is an error.
func (x *rekeyIKE) refused(s *ikeSA, n *wire.Notify) {
	if s.successor != nil && s.successor.live() {
		s.awaitDelete() // the peer's own exchange has done it
		return
	}
	switch n.NotifyType {
	case wire.InvalidKEPayload:
		g, ok := wantedGroup(n)
		if ok && x.answer == nil && offers(s.m.conn.Proposals, g) && g != x.group && x.rounds < maxGroupRounds {
			x.rounds++
			x.group = g
			s.queue = append([]exchange{x}, s.queue...)
			return
		}
	case wire.TemporaryFailure:
		s.setState(Established)
		s.rekeyAt = s.m.now.Add(s.m.temporaryDelay())
		return
	default:
	}
	d := refusedInit(n, s.m.conn.Proposals)
	d.Reason, d.Exchange = ReasonRekeyFail, x.kind().String()
	x.failed(s, d)
}

// failed reports that there is no new IKE SA. The old one stays; another try
// follows while it lives.
func (x *rekeyIKE) failed(s *ikeSA, d *Diagnosis) {
	if s.state == Rekeying {
		s.setState(Established)
	}
	s.rekeyAt = s.m.now.Add(s.m.jitter(maxRetry / 4))
	e := s.m.event(Failed, s)
	e.Reason, e.Diagnosis, e.Established = d.Reason, d, true
	s.m.emit(Emit{e})
}

func (x *rekeyIKE) unanswered(s *ikeSA, o *outstanding) {
	x.wipe()
	s.dead(o)
}

// answerRekeyIKE answers the peer's exchange.
func (s *ikeSA) answerRekeyIKE(msg *wire.Message) reply {
	m := s.m
	if no := s.refusesRekey(); no != nil {
		return *no
	}
	offer, _ := wire.Find[*wire.SA](msg)
	ni, _ := wire.Find[*wire.Nonce](msg)
	p, err := ipsec.Choose(m.conn.Proposals, offer.Proposals)
	if err != nil {
		r := refuse(wire.NoProposalChosen)
		r.then = func() {
			d := mismatchDiagnosis(ReasonPhase1Proposal, msg.Exchange, err)
			e := m.event(Failed, s)
			e.Reason, e.Diagnosis, e.Established = ReasonRekeyFail, d, true
			m.emit(Emit{e})
		}
		return r
	}
	g, _ := p.Get(ipsec.TransformGroup)
	ke, ok := wire.Find[*wire.KE](msg)
	if !ok || ke.Group != g.ID {
		return refuse(wire.InvalidKEPayload, groupData(g.ID)...)
	}
	r, payloads, err := s.answerKE(p, ke.Data, ni.Data)
	if err != nil {
		m.drop(dropRekeyIKE)
		return refuse(wire.InvalidSyntax)
	}
	if methods := p.Additional(); len(methods) > 0 {
		return s.awaitFollowup(payloads, &followedUp{
			methods: methods,
			finish: func(last *wire.KE, secrets []byte) reply {
				if no := s.refusesRekey(); no != nil {
					return *no
				}
				r.additional = secrets
				return s.followPeer(p, r, []wire.Payload{last})
			},
			wipe: func() { clear(r.shared) },
		})
	}
	defer clear(r.shared)
	return s.followPeer(p, r, payloads)
}

// refusesRekey returns the refusal of a rekey that cannot be now (section
// 2.25.2), if so.
func (s *ikeSA) refusesRekey() *reply {
	var r reply
	switch {
	case s.state != Established && s.state != Rekeying || s.successor != nil || s.busyWithChild():
		r = refuse(wire.TemporaryFailure)
	case len(s.m.ikes) >= maxIKE:
		r = refuse(wire.NoAdditionalSAs)
	default:
		return nil
	}
	return &r
}

// answerKE does the responder's part of the key exchange.
func (s *ikeSA) answerKE(p ipsec.Proposal, public, ni []byte) (r rekeyed, payloads []wire.Payload, err error) {
	m := s.m
	r.ni = ni
	if r.spii, err = ikeSPI(p); err != nil {
		return r, nil, err
	}
	if r.nr, err = m.newNonce(); err != nil {
		return r, nil, err
	}
	if r.spir, err = m.newSPI(); err != nil {
		return r, nil, err
	}
	g, _ := p.Get(ipsec.TransformGroup)
	var value []byte
	if value, r.shared, err = answerKeyExchange(g.ID, m.env.Rand, public); err != nil {
		return r, nil, err
	}
	ours := p
	ours.SPI = binary.BigEndian.AppendUint64(nil, r.spir)
	return r, []wire.Payload{
		&wire.SA{Proposals: []ipsec.Proposal{ours}}, &wire.Nonce{Data: r.nr}, &wire.KE{Group: g.ID, Data: value},
	}, nil
}

// followPeer makes the responder's side of the new IKE SA.
func (s *ikeSA) followPeer(p ipsec.Proposal, r rekeyed, payloads []wire.Payload) reply {
	n, err := s.follower(p, r)
	if err != nil {
		s.m.drop(dropRekeyIKE)
		return refuse(wire.InvalidSyntax)
	}
	s.m.ikes = append(s.m.ikes, n)
	s.successor = n
	if s.state == Established {
		s.awaitDelete()
	}
	return reply{payloads: payloads}
}

// busyWithChild reports whether a request of ours about a child is under way on
// this SA: its outcome must not be lost to a successor.
func (s *ikeSA) busyWithChild() bool {
	if s.active == nil {
		return false
	}
	switch s.active.exchange.(type) {
	case *createChild, *deleteChild, *childInquiry, *deleteUnused:
		return true
	}
	return false
}

// awaitDelete is for an SA that the peer has replaced and is to delete.
func (s *ikeSA) awaitDelete() {
	if s.setState(Rekeyed) {
		s.rekeyAt = time.Time{}
		s.redundantAt = s.m.now.Add(redundantTimeout)
	}
}

// moveTo makes an IKE SA the one that carries everything: the queue of the SA
// before it goes along.
func (m *Machine) moveTo(n *ikeSA) {
	old := m.current
	if old == n {
		return
	}
	m.current = n
	if old != nil {
		n.queue = append(n.queue, old.queue...)
		old.queue = nil
		if old.state != Deleting {
			old.setState(Rekeyed)
		}
	}
	m.emit(Emit{m.event(IKERekeyed, n)})
	m.resumeMove()
}

// redundant deletes an IKE SA that another one has replaced, when the peer has
// not done so.
func (s *ikeSA) redundant() {
	m := s.m
	if s == m.current {
		if s.successor == nil || !s.successor.live() {
			return
		}
		m.moveTo(s.successor)
	}
	if s.live() {
		s.delete()
	}
}
