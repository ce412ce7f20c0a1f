package sa

import (
	"crypto/hmac"
	"errors"
	"slices"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// beginAggressive adds to message 1 what aggressive mode has at once. There can
// be but one group in it: the first one.
func (s *ISAKMPSA) beginAggressive(payloads []isakmp.Payload) ([]isakmp.Payload, error) {
	p, c := s.phase1, s.m.conn
	var err error
	if p.kex, err = newKeyExchange(firstGroup(c.Proposals), s.m.env.Rand); err != nil {
		return nil, err
	}
	if p.ni, err = s.m.newNonce(); err != nil {
		return nil, err
	}
	p.gi = p.kex.public()
	id := c.LocalID.payloadV1()
	if p.idi, err = isakmp.Body(id); err != nil {
		return nil, err
	}
	return append(payloads, &isakmp.KE{Data: p.gi}, &isakmp.Nonce{Data: p.ni}, id), nil
}

// answerAggressive answers message 1 with message 2. The identity in it tells
// which connection, and so which key, the peer means.
func (s *ISAKMPSA) answerAggressive(msg *isakmp.Message, offer *isakmp.SA) error {
	p, remote := s.phase1, s.path.remote.Addr()
	id, okID := isakmp.Find[*isakmp.ID](msg)
	ke, okKE := isakmp.Find[*isakmp.KE](msg)
	ni, okNonce := isakmp.Find[*isakmp.Nonce](msg)
	if !okID || !okKE || !okNonce {
		return errors.New("no ID, KE or nonce payload")
	}
	var c *Connection
	for _, candidate := range p.candidates {
		if s.checkIdentity(candidate, id) == nil {
			c = candidate
			break
		}
	}
	if c == nil {
		return s.refuseFirst(isakmp.InvalidIDInformation, expectedOf(p.candidates, remote), s.checkIdentity(p.candidates[0], id))
	}
	p.candidates = []*Connection{c}
	ch, err := choosePhase1(c.Proposals, offer)
	if err != nil {
		return s.refuseFirst(isakmp.NoProposalChosen, c, proposalDiagnosis(ReasonPhase1Proposal, s.mode, err))
	}
	s.proposal, p.peerLife = ch.proposal, ch.life
	s.learn(msg)
	group, _ := s.proposal.Get(ipsec.TransformGroup)
	kex, err := newKeyExchange(group.ID, s.m.env.Rand)
	if err != nil {
		return err
	}
	defer kex.wipe()
	value := kex.public()
	shared, err := kex.shared(ke.Data)
	if err != nil {
		return err
	}
	defer clear(shared)
	if p.nr, err = s.m.newNonce(); err != nil {
		return err
	}
	p.gi, p.gr, p.ni = ke.Data, value, ni.Data
	if p.idi, err = isakmp.Body(id); err != nil {
		return err
	}
	k, err := s.derive(c, shared)
	if err != nil {
		return err
	}
	own := c.LocalID.payloadV1()
	body, err := isakmp.Body(own)
	if err != nil {
		return err
	}
	nat, err := s.natPayloads(s.path.local, s.path.remote)
	if err != nil {
		return err
	}
	payloads := append([]isakmp.Payload{
		&ch.answer, &isakmp.KE{Data: value}, &isakmp.Nonce{Data: p.nr}, own, &isakmp.Hash{Data: s.hash(k, false, body)},
	}, nat...)
	if err := s.say(append(payloads, s.vendorAnswer()...), false); err != nil {
		return err
	}
	s.setKeys(k)
	s.accept()
	return nil
}

// takeAggressiveAnswer takes message 2 and sends message 3.
func (s *ISAKMPSA) takeAggressiveAnswer(d Datagram, msg *isakmp.Message) error {
	p, c := s.phase1, s.m.conn
	answer, okSA := isakmp.Find[*isakmp.SA](msg)
	ke, okKE := isakmp.Find[*isakmp.KE](msg)
	nr, okNonce := isakmp.Find[*isakmp.Nonce](msg)
	id, okID := isakmp.Find[*isakmp.ID](msg)
	hash, okHash := isakmp.Find[*isakmp.Hash](msg)
	if !okSA || !okKE || !okNonce || !okID || !okHash || msg.ResponderSPI == 0 || msg.Encrypted {
		return errors.New("not all payloads are there")
	}
	ch, err := s.chosenPhase1(answer)
	if err != nil {
		return err
	}
	if group, _ := ch.proposal.Get(ipsec.TransformGroup); group.ID != firstGroup(c.Proposals) {
		return s.refusal(ReasonInitiatorDH, ipsec.TransformGroup.String(), "the answer is of another group than our public value")
	}
	// Only a peer that knows the key can go on from here: until its hash is
	// right, the private value has to last for another answer.
	shared, err := p.kex.agree(ke.Data)
	if err != nil {
		return s.refusal(ReasonMalformedPayload, "DH group", err.Error())
	}
	defer clear(shared)
	body, err := isakmp.Body(id)
	if err != nil {
		return err
	}
	spir, proposal := s.spir, s.proposal
	s.spir, s.proposal = msg.ResponderSPI, ch.proposal
	p.gr, p.nr = ke.Data, nr.Data
	k, err := s.derive(c, shared)
	if err == nil && !hmac.Equal(hash.Data, s.hash(k, false, body)) {
		err = &refusalError{s.pskDiagnosis("the hash in message 2 is not ours")}
		k.wipe()
	}
	if err != nil {
		s.spir, s.proposal = spir, proposal
		return err
	}
	s.learn(msg)
	p.kex.wipe()
	p.peerLife, p.awaits = ch.life, 0
	if err := s.detectNAT(msg, d.Local, d.Remote); err != nil {
		return err
	}
	s.setKeys(k)
	if d := s.checkIdentity(c, id); d != nil {
		return s.rejectPeer(d)
	}
	if d := s.encapRefusal(c); d != nil {
		s.fail(d)
		return &refusalError{d}
	}
	s.path.float() // message 3 comes from there, and tells so
	nat, err := s.natPayloads(s.path.local, s.path.remote)
	if err != nil {
		return err
	}
	payloads := append([]isakmp.Payload{&isakmp.Hash{Data: s.hash(k, true, p.idi)}}, nat...)
	if err := s.say(append(payloads, s.initialContact()...), false); err != nil {
		return err
	}
	s.unconfirmed = s.answered.datagrams
	s.lifetimes(c)
	s.m.authenticated(s, c, false)
	return nil
}

// stillMeant returns the connection of message 1 as it is configured now; nil
// where it is gone, or what its peer has to prove has changed.
func (s *ISAKMPSA) stillMeant(d Datagram, c *Connection) *Connection {
	now := ofVersion(s.m.env.Candidates(d.Local.Addr().Unmap(), d.Remote.Addr().Unmap()), true)
	i := slices.IndexFunc(now, func(o *Connection) bool { return o.SameIdentity(c) && hmac.Equal(o.PSK, c.PSK) })
	if i < 0 {
		return nil
	}
	return now[i]
}

// takeAggressiveAuth takes message 3, which some peers do not encrypt.
func (s *ISAKMPSA) takeAggressiveAuth(d Datagram, msg *isakmp.Message) error {
	p := s.phase1
	c := s.stillMeant(d, p.candidates[0])
	if c == nil {
		return s.refusal(ReasonPeerAddress, "peer address", "the connection has changed since message 1")
	}
	iv := p.iv
	if msg.Encrypted {
		plain, next, err := s.keys.decrypt(p.iv, msg.Ciphertext())
		if err != nil {
			return err
		}
		if err := msg.Open(plain); err != nil {
			return &refusalError{s.pskDiagnosis("message 3 does not decrypt")}
		}
		iv = next
	}
	hash, ok := isakmp.Find[*isakmp.Hash](msg)
	if !ok || !hmac.Equal(hash.Data, s.hash(s.keys, true, p.idi)) {
		return &refusalError{s.pskDiagnosis("the hash in message 3 is not ours")}
	}
	if err := s.detectNAT(msg, d.Local, d.Remote); err != nil {
		return err
	}
	p.iv, p.awaits = iv, 0
	s.answered.datagrams = nil // nothing answers message 3
	s.path.local, s.path.remote = d.Local, d.Remote
	if d := s.encapRefusal(c); d != nil {
		s.reportUnproven(c, d)
		s.iv = iv
		s.inform([]isakmp.Payload{s.deletePayload()})
		s.close()
		return &refusalError{d}
	}
	told := s.lifetimes(c)
	_, contact := msg.Notify(isakmp.InitialContact)
	// The hash does not cover a notification: in the clear anybody may add one.
	s.m.authenticated(s, c, contact && msg.Encrypted)
	if told != nil {
		s.inform(told)
	}
	return nil
}
