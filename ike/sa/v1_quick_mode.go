package sa

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// A quick mode makes a CHILD_SA, new or in the place of another one (RFC 2409,
// section 5.5). All messages are encrypted:
//
//	initiator                                       responder
//	HASH(1), SA, Ni [, KE], IDci, IDcr ──────────►  inbound added
//	inbound added  ◄────────────────────────────── HASH(2), SA, Nr [, KE], IDci, IDcr
//	outbound added  HASH(3)  ────────────────────►  outbound added
//
// Some responders can receive only after the third message: an initiator that
// has an older child goes on sending on that one until traffic shows that the
// new one is complete, or for sendDelay.

const (
	// maxQuickModes is how many quick modes of ours may be under way.
	maxQuickModes = 8
	// maxAnswered is how many of the peer's may be.
	maxAnswered = 64
	// sendDelay is how long the initiator of a rekey leaves it to traffic to show
	// that the responder is ready.
	sendDelay = 3 * time.Second
	// supersedeTime is how long a child stays after one of ours has followed it.
	supersedeTime = 10 * time.Second
	// crossingChildren is how far apart two children that each end began may have
	// been set up and still have crossed.
	crossingChildren = 10 * time.Second
	// abandonedTime is how long a responder's child waits for traffic to complete
	// it, once nothing is left by which message 3 could come.
	abandonedTime = time.Minute
	// shortestLife bounds the lifetime that a peer may ask for.
	shortestLife = 10 // seconds
)

// quickMode is one exchange.
type quickMode struct {
	s         *ISAKMPSA // nil while ours waits for its turn
	id        uint32
	initiator bool
	slot      *slot
	old       *childSA // to be followed; nil for a new child

	in     ipsec.SPI
	local  *isakmp.ID // of our side's traffic
	remote *isakmp.ID
	kex    keyExchange
	ni, nr []byte
	iv     []byte
	child  *childSA

	awaits   int // number of the message that comes next; zero: none
	digest   [sha256.Size]byte
	answer   [][]byte // to the message with that digest
	flight   *flight
	forgetAt time.Time // see repeatWindow
}

// createChild plans a new CHILD_SA.
func (m *MachineV1) createChild(k *slot) {
	k.busy, k.retryAt = true, time.Time{}
	m.queue = append(m.queue, &quickMode{initiator: true, slot: k})
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

func (s *ISAKMPSA) quickByID(id uint32) *quickMode {
	i := slices.IndexFunc(s.quick, func(q *quickMode) bool { return q.id == id })
	if i < 0 {
		return nil
	}
	return s.quick[i]
}

// moot reports whether there is no need for the exchange any more.
func (q *quickMode) moot(m *MachineV1) bool {
	if q.old != nil {
		return q.old.state != Established
	}
	return q.slot.removed || m.up(q.slot)
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
	q.slot.busy = true
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

// say sends a message under its hash, which covers the message id, what both
// ends have drawn so far, and the payloads. An answer is awaited by repeating it.
func (q *quickMode) say(payloads []isakmp.Payload, drawn []byte, repeat bool) error {
	s := q.s
	chain, err := isakmp.Chain(payloads, isakmp.NoNextPayload)
	if err != nil {
		return err
	}
	hash := &isakmp.Hash{Data: s.keys.sum(idOctets(q.id), drawn, chain)}
	return q.send(append([]isakmp.Payload{hash}, payloads...), repeat)
}

func (q *quickMode) send(payloads []isakmp.Payload, repeat bool) error {
	s := q.s
	datagrams, err := s.encode(s.header(isakmp.QuickMode, q.id), payloads, &q.iv)
	if err != nil {
		return err
	}
	q.flight, q.answer = nil, datagrams
	if repeat {
		q.flight = s.newFlight(datagrams)
	}
	s.transmit(datagrams)
	return nil
}

// receiveQuick handles a message of quick mode.
func (s *ISAKMPSA) receiveQuick(d Datagram, msg *isakmp.Message) {
	switch q := s.quickByID(msg.MessageID); {
	case !msg.Encrypted:
		s.m.drop(dropPlain)
	case !s.live() || s.keys == nil:
		s.m.drop(dropUnauthenticated)
	case msg.MessageID == 0:
		s.m.drop(dropMalformed)
	case q != nil:
		q.receive(d, msg)
	case s.ids.contain(msg.MessageID):
		s.m.drop(dropOutOfWindow)
	default:
		s.answerQuick(d, msg)
	}
}

// open decrypts a message and checks its hash, over the message id, what both
// ends have drawn so far, and the payloads. It returns the IV for the next
// message, or nil where the message is to be dropped.
func (s *ISAKMPSA) open(msg *isakmp.Message, iv []byte, drawn []byte) (next []byte) {
	plain, next, err := s.keys.decrypt(iv, msg.Ciphertext())
	if err == nil {
		err = msg.Open(plain)
	}
	if err != nil {
		s.m.drop(dropMalformed)
		return nil
	}
	hash, ok := isakmp.Find[*isakmp.Hash](msg)
	if !ok || !hmac.Equal(hash.Data, s.keys.sum(idOctets(msg.MessageID), drawn, msg.Signed(false))) {
		s.m.drop(dropIntegrity)
		return nil
	}
	return next
}

// receive handles a further message of an exchange.
func (q *quickMode) receive(d Datagram, msg *isakmp.Message) {
	s := q.s
	digest := sha256.Sum256(d.Bytes)
	if digest == q.digest {
		s.transmitTo(d.Local, d.Remote, q.answer)
		return
	}
	switch q.awaits {
	case 2:
		next := s.open(msg, q.iv, q.ni)
		if next == nil {
			return
		}
		q.iv, q.digest, q.answer = next, digest, nil
		s.heard(d, true)
		q.takeAnswer(msg)
	case 3:
		plain, _, err := s.keys.decrypt(q.iv, msg.Ciphertext())
		if err == nil {
			err = msg.Open(plain)
		}
		hash, ok := isakmp.Find[*isakmp.Hash](msg)
		if err != nil || !ok || !hmac.Equal(hash.Data, s.keys.sum([]byte{0}, idOctets(q.id), q.ni, q.nr)) {
			s.m.drop(dropIntegrity)
			return
		}
		q.digest, q.answer = digest, nil
		s.heard(d, true)
		q.end()
		q.child.addOut()
	default: // such as a CONNECTED notification, which we do not wait for
		s.m.drop(dropNoResponseDue)
	}
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
	ch, err := choosePhase2(q.slot, answer)
	if err != nil {
		return nil, proposalDiagnosis(ReasonPhase2Proposal, isakmp.QuickMode, err)
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
	c.local, c.remote = slices.Clone(q.slot.cfg.Local), slices.Clone(q.slot.cfg.Remote)
	told := toldLifetime(msg, isakmp.Phase2LifeType, isakmp.Phase2LifeDuration)
	c.agreed = agree(q.slot.cfg.Lifetime, ch.life.atMost(told))
	return c, nil
}

// sameSelectors checks that the peer answered with the selectors that we asked
// for, which IKEv1 does not let it change.
func (q *quickMode) sameSelectors(msg *isakmp.Message) *Diagnosis {
	cfg := q.slot.cfg
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
		Reason: ReasonFlow, Exchange: isakmp.QuickMode.String(), Parameter: "traffic selectors",
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

// agree returns the shorter one of our lifetime and the peer's.
func agree(own ipsec.Lifetime, peer lifetime) *ipsec.Lifetime {
	if peer.seconds != 0 {
		peer.seconds = max(peer.seconds, shortestLife)
	}
	if peer.kilobytes != 0 {
		peer.kilobytes = max(peer.kilobytes, kilobyte) // a MiB
	}
	l := lifeOf(own).atMost(peer)
	own.Hard, own.HardBytes = l.duration(), l.kilobytes*kilobyte
	return &own
}

// newChild makes a child, of which the caller knows the roles.
func (s *ISAKMPSA) newChild(k *slot, ch choice, in, out ipsec.SPI, keys *childKeys) *childSA {
	c := &childSA{m: &s.m.core, slot: k, state: Connecting, in: in, out: out, path: s.path, proposal: ch.proposal, keys: keys}
	c.rekeys = true // if one is up then: IKEv1 does not tell
	if ch.encap && !c.path.encap {
		c.path.encap = true
		c.path.float()
	}
	return c
}

// confirm sends message 3, now that the child can receive.
func (q *quickMode) confirm() {
	c, m := q.child, q.s.m
	if q.s.state == Deleted {
		return
	}
	if c.refused || c.state != Connecting {
		q.end()
		if q.old != nil && c.refused {
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
		c.probeAt, c.sendAt = m.now.Add(probeInterval), m.now.Add(sendDelay)
	default:
		c.addOut()
	}
}

// end ends the exchange. It still answers a repeated message for a while.
func (q *quickMode) end() {
	q.awaits, q.flight = 0, nil
	if q.kex != nil {
		q.kex.wipe()
		q.kex = nil
	}
	q.forgetAt = q.s.m.now.Add(2 * time.Minute) // a peer may repeat for as long
}

func (q *quickMode) forget() {
	q.s.quick = slices.DeleteFunc(q.s.quick, func(o *quickMode) bool { return o == q })
}

// repeat is called when no answer has come in time.
func (q *quickMode) repeat() {
	s, m := q.s, q.s.m
	if q.child != nil && q.child.hasOut { // traffic has shown that the peer has our answer
		q.end()
		return
	}
	if s.repeat(q.flight) {
		return
	}
	sent := q.flight.sent
	d := &Diagnosis{
		Reason: ReasonMaxTransmit, Exchange: isakmp.QuickMode.String(), Parameter: "CHILD_SA",
		Detail: fmt.Sprintf("no answer to message %d of quick mode %08x, sent %d times to %s", q.awaits-1, q.id, q.flight.tries+1, s.path.remote),
	}
	q.end()
	if !q.initiator {
		c := q.child
		m.emit(Emit{m.childFailure(q.slot, d)})
		c.remove(false)
		m.lost(c, ReasonMaxTransmit, d)
		return
	}
	q.slot.busy = false
	if m.heardSince(sent) {
		d.Detail += "; the peer may have no such pair of traffic selectors, or other algorithms"
		d.Ours = flowText(q.slot.cfg.Local, q.slot.cfg.Remote) + ", " + ipsec.List(q.slot.phase2Sets(), "; ")
	} else if !s.dpd {
		// There is no other way to find out that the peer is gone.
		m.end(d.Reason, d)
		return
	}
	q.failed(d)
	s.startProbe()
}

// failed reports that an exchange of ours gave no child, and plans another try.
func (q *quickMode) failed(d *Diagnosis) {
	m := q.s.m
	m.emit(Emit{m.childFailure(q.slot, d)})
	q.again(m.backoff(q.slot))
}

// again plans the same exchange for later.
func (q *quickMode) again(wait time.Duration) {
	m := q.s.m
	switch {
	case q.old == nil:
		if !q.slot.removed && !m.up(q.slot) && (m.conn.Initiate || q.slot.wanted) {
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
	q.failed(q.refusal(n))
}

func (q *quickMode) refusal(n *isakmp.Notify) *Diagnosis {
	cfg := &q.slot.cfg
	d := &Diagnosis{Exchange: isakmp.QuickMode.String()}
	switch n.NotifyType {
	case isakmp.NoProposalChosen, isakmp.BadProposalSyntax, isakmp.AttributesNotSupported, isakmp.InvalidTransformID:
		d.Reason, d.Parameter, d.Ours = ReasonPhase2Proposal, "proposal", proposalList(q.slot.phase2Sets())
		d.Detail = "the peer accepts none of our ESP proposals"
	case isakmp.InvalidIDInformation:
		d.Reason, d.Parameter, d.Ours = ReasonFlow, "traffic selectors", flowText(cfg.Local, cfg.Remote)
		d.Detail = "the peer has no such pair of traffic selectors"
	case isakmp.InvalidKeyInformation:
		d.Reason, d.Parameter, d.Ours = ReasonPhase2Proposal, "PFS group", groupList(cfg.Proposals)
		d.Detail = "the peer refused our key exchange"
	default:
		d.Reason, d.Parameter = ReasonPhase2Proposal, "CHILD_SA"
		d.Detail = "the peer answered with " + n.NotifyType.String()
	}
	return d
}

// abandon ends an exchange whose ISAKMP SA is gone.
func (q *quickMode) abandon() {
	m := q.s.m
	if q.awaits == 0 {
		return
	}
	q.end()
	if !q.initiator {
		// Message 3 may have been lost: then traffic completes the child.
		if c := q.child; c != nil && c.state == Connecting {
			c.expireAt = m.now.Add(abandonedTime)
		}
		return
	}
	q.slot.busy = false
	q.again(m.jitter(minRetry))
}

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
		m.emit(Emit{m.childFailure(no.slot, no.diagnosis)})
		return
	}
	s.quick = append(s.quick, q)
	m.children = append(m.children, q.child)
	q.child.addIn()
	q.awaits = 3
	m.after(func() {
		switch {
		case s.state == Deleted:
		case q.child.refused || q.child.state != Connecting:
			q.end()
			s.inform([]isakmp.Payload{&isakmp.Notify{Protocol: ipsec.ProtocolESP, NotifyType: isakmp.NoProposalChosen}})
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
	i := slices.IndexFunc(m.slots, func(k *slot) bool { return !k.removed && k.cfg.Local[0] == local && k.cfg.Remote[0] == remote })
	if i < 0 {
		d := m.flowDiagnosis(isakmp.QuickMode.String(), []ipsec.TrafficSelector{local}, []ipsec.TrafficSelector{remote})
		d.Detail = "the peer's selectors, shown from our side, are not those of a configured pair; IKEv1 has them equal"
		return nil, &quickRefusal{isakmp.InvalidIDInformation, spi, nil, d}
	}
	q.slot = m.slots[i]
	ch, err := choosePhase2(q.slot, offer)
	if err != nil {
		return nil, &quickRefusal{isakmp.NoProposalChosen, spi, q.slot, proposalDiagnosis(ReasonPhase2Proposal, isakmp.QuickMode, err)}
	}
	if m.childrenOf(q.slot) >= maxChildren {
		return nil, &quickRefusal{isakmp.NoProposalChosen, spi, q.slot, &Diagnosis{
			Reason: ReasonRekeyFail, Exchange: isakmp.QuickMode.String(), Parameter: "CHILD_SA", Ours: fmt.Sprintf("at most %d", maxChildren),
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
