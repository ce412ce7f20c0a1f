package sa

import (
	"crypto/hmac"
	"errors"
	"fmt"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// answerMain answers message 1 of main mode with message 2.
func (s *ISAKMPSA) answerMain(msg *isakmp.Message, offer *isakmp.SA) error {
	p := s.phase1
	ch, err := chooseForAnyV1(p.candidates, offer)
	if err != nil {
		return s.refuseFirst(isakmp.NoProposalChosen, expectedOf(p.candidates, s.path.remote.Addr()), proposalDiagnosis(ReasonPhase1Proposal, s.mode, err))
	}
	s.proposal, p.peerLife = ch.proposal, ch.life
	s.learn(msg)
	if err := s.say(append([]isakmp.Payload{&ch.answer}, s.vendorAnswer()...), false); err != nil {
		return err
	}
	s.accept()
	return nil
}

// takeChoice takes message 2 and sends message 3.
func (s *ISAKMPSA) takeChoice(d Datagram, msg *isakmp.Message) error {
	p := s.phase1
	answer, ok := isakmp.Find[*isakmp.SA](msg)
	if !ok || msg.ResponderSPI == 0 {
		return errors.New("no SA payload or no cookie")
	}
	ch, err := s.chosenPhase1(answer)
	if err != nil {
		return err
	}
	group, _ := ch.proposal.Get(ipsec.TransformGroup)
	kex, err := newKeyExchange(group.ID, s.m.env.Rand)
	if err != nil {
		return err
	}
	ni, err := s.m.newNonce()
	if err != nil {
		return err
	}
	s.spir, s.proposal = msg.ResponderSPI, ch.proposal
	p.peerLife = ch.life
	s.learn(msg)
	p.kex, p.gi, p.ni, p.awaits = kex, kex.public(), ni, 4
	nat, err := s.natPayloads(s.path.local, s.path.remote)
	if err != nil {
		return err
	}
	return s.say(append([]isakmp.Payload{&isakmp.KE{Data: p.gi}, &isakmp.Nonce{Data: ni}}, nat...), true)
}

// chosenPhase1 checks what a responder chose.
func (s *ISAKMPSA) chosenPhase1(answer *isakmp.SA) (choice, error) {
	if err := singleChoice(answer); err != nil {
		return choice{}, s.refusal(ReasonMalformedPayload, "proposal", err.Error())
	}
	ch, err := choosePhase1(s.m.conn.Proposals, answer)
	if err != nil {
		return choice{}, &refusalError{proposalDiagnosis(ReasonPhase1Proposal, s.mode, err)}
	}
	return ch, nil
}

// takeInitiatorKE takes message 3 and sends message 4.
func (s *ISAKMPSA) takeInitiatorKE(d Datagram, msg *isakmp.Message) error {
	p := s.phase1
	ke, okKE := isakmp.Find[*isakmp.KE](msg)
	ni, okNonce := isakmp.Find[*isakmp.Nonce](msg)
	if !okKE || !okNonce {
		return errors.New("no KE or nonce payload")
	}
	group, _ := s.proposal.Get(ipsec.TransformGroup)
	if p.kex == nil { // public values that do not do cost no more of ours
		var err error
		if p.kex, err = newKeyExchange(group.ID, s.m.env.Rand); err != nil {
			return err
		}
	}
	value := p.kex.public()
	shared, err := p.kex.shared(ke.Data)
	if err != nil {
		return err
	}
	nr, err := s.m.newNonce()
	if err != nil {
		return err
	}
	if err := s.detectNAT(msg, d.Local, d.Remote); err != nil {
		return err
	}
	s.path.local, s.path.remote = d.Local, d.Remote
	p.gi, p.gr, p.ni, p.nr, p.shared, p.awaits = ke.Data, value, ni.Data, nr, shared, 5
	nat, err := s.natPayloads(d.Local, d.Remote)
	if err != nil {
		return err
	}
	return s.say(append([]isakmp.Payload{&isakmp.KE{Data: value}, &isakmp.Nonce{Data: nr}}, nat...), false)
}

// takeResponderKE takes message 4 and sends message 5, the first encrypted one.
func (s *ISAKMPSA) takeResponderKE(d Datagram, msg *isakmp.Message) error {
	p, c := s.phase1, s.m.conn
	ke, okKE := isakmp.Find[*isakmp.KE](msg)
	nr, okNonce := isakmp.Find[*isakmp.Nonce](msg)
	if !okKE || !okNonce {
		return errors.New("no KE or nonce payload")
	}
	if c.RequireEncap && !s.detectsNAT(msg) {
		return &refusalError{s.encapDiagnosis()}
	}
	shared, err := p.kex.shared(ke.Data)
	if err != nil {
		return s.refusal(ReasonMalformedPayload, "DH group", err.Error())
	}
	defer clear(shared)
	p.gr, p.nr = ke.Data, nr.Data
	if err := s.detectNAT(msg, d.Local, d.Remote); err != nil {
		return err
	}
	p.awaits = 6
	s.path.float()
	k, err := s.derive(c, shared)
	if err != nil {
		return err
	}
	s.setKeys(k)
	id := c.LocalID.payloadV1()
	if p.idi, err = isakmp.Body(id); err != nil {
		return err
	}
	payloads := []isakmp.Payload{id, &isakmp.Hash{Data: s.hash(k, true, p.idi)}}
	return s.say(append(payloads, s.initialContact()...), true)
}

// maxTrials bounds with how many connections' keys a message 5 is tried.
const maxTrials = 64

const (
	// maxMessage5 bounds a message 5 in octets, which is decrypted with many keys.
	maxMessage5 = 8192
	// maxGuesses bounds how many messages 5 may fail in one key exchange, since
	// each is a guess at the pre-shared keys.
	maxGuesses = 16
)

// takeInitiatorAuth takes message 5 and sends message 6. The key that decrypts it
// tells which connection the peer means, and the identity in it must be that
// connection's.
func (s *ISAKMPSA) takeInitiatorAuth(d Datagram, msg *isakmp.Message) error {
	p := s.phase1
	switch {
	case !msg.Encrypted:
		return errors.New("not encrypted")
	case len(msg.Ciphertext()) > maxMessage5:
		return fmt.Errorf("message 5 of %d octets, more than %d", len(msg.Ciphertext()), maxMessage5)
	case p.guesses >= maxGuesses:
		return errors.New("too many messages 5 that were wrong")
	}
	p.guesses++
	// What is configured may have changed since message 1.
	// Those of GM/T 0022 have no pre-shared key: their empty one proves nothing.
	p.candidates = ofProfile(ofMode(ofVersion(s.m.env.Candidates(d.Local.Addr().Unmap(), d.Remote.Addr().Unmap()), true), s.mode), false)
	if len(p.candidates) == 0 {
		return s.refusal(ReasonPeerAddress, "peer address", "no connection expects a peer at this address any more")
	}
	diagnosis := s.pskDiagnosis("message 5 does not decrypt to an identity and its proof")
	for _, c := range p.candidates[:min(len(p.candidates), maxTrials)] {
		k, iv, opened := s.tryKey(c, msg)
		if opened == nil {
			continue
		}
		id, ok := s.proof(k, opened)
		differs := (*Diagnosis)(nil)
		switch {
		case !ok:
			k.wipe()
			continue
		case s.checkIdentity(c, id) != nil:
			differs = s.checkIdentity(c, id)
		default:
			if _, err := ipsec.Choose(phase1Sets(c.Proposals), []ipsec.Proposal{s.proposal}); err != nil {
				differs = proposalDiagnosis(ReasonPhase1Proposal, s.mode, err)
			} else {
				differs = s.encapRefusal(c)
			}
		}
		if differs != nil {
			diagnosis = differs
			k.wipe()
			continue
		}
		s.setKeys(k)
		p.iv = iv
		s.path.local, s.path.remote = d.Local, d.Remote
		return s.answerAuth(c, opened)
	}
	return &refusalError{diagnosis}
}

// tryKey decrypts message 5 with one connection's key; opened is nil when that
// gives no message.
func (s *ISAKMPSA) tryKey(c *Connection, msg *isakmp.Message) (k *isakmpKeys, iv []byte, opened *isakmp.Message) {
	p := s.phase1
	k, err := s.derive(c, p.shared)
	if err != nil {
		return nil, nil, nil
	}
	trial := *msg
	plain, iv, err := k.decrypt(k.iv(p.gi, p.gr), msg.Ciphertext())
	if err == nil {
		err = trial.Open(plain)
	}
	if err != nil {
		k.wipe()
		return nil, nil, nil
	}
	return k, iv, &trial
}

// answerAuth sends message 6: the peer is who it says.
func (s *ISAKMPSA) answerAuth(c *Connection, msg *isakmp.Message) error {
	m := s.m
	own := c.LocalID.payloadV1()
	body, err := isakmp.Body(own)
	if err != nil {
		return err
	}
	payloads := []isakmp.Payload{own, &isakmp.Hash{Data: s.hash(s.keys, false, body)}}
	if err := s.say(append(payloads, s.lifetimes(c)...), false); err != nil {
		return err
	}
	_, contact := msg.Notify(isakmp.InitialContact)
	m.authenticated(s, c, contact)
	return nil
}

// takeResponderAuth takes message 6.
func (s *ISAKMPSA) takeResponderAuth(d Datagram, msg *isakmp.Message) error {
	p, c := s.phase1, s.m.conn
	mismatch := &refusalError{s.pskDiagnosis("the peer's answer to message 5 does not decrypt")}
	if !msg.Encrypted {
		return errors.New("not encrypted")
	}
	plain, iv, err := s.keys.decrypt(p.iv, msg.Ciphertext())
	if err != nil {
		return err
	}
	if err := msg.Open(plain); err != nil {
		return mismatch
	}
	id, okID := isakmp.Find[*isakmp.ID](msg)
	hash, okHash := isakmp.Find[*isakmp.Hash](msg)
	if !okID || !okHash {
		return mismatch
	}
	body, err := isakmp.Body(id)
	if err != nil || !hmac.Equal(hash.Data, s.hash(s.keys, false, body)) {
		return mismatch
	}
	p.iv, p.awaits = iv, 0
	if d := s.checkIdentity(c, id); d != nil {
		return s.rejectPeer(d)
	}
	p.peerLife = p.peerLife.atMost(toldLifetime(msg, isakmp.Phase1LifeType, isakmp.Phase1LifeDuration))
	s.lifetimes(c)
	_, contact := msg.Notify(isakmp.InitialContact)
	s.m.authenticated(s, c, contact)
	return nil
}
