package sa

import (
	"errors"
	"fmt"

	"github.com/vpngw/vpngw/ike/isakmp"
)

// beginGM sends message 1.
func (s *ISAKMPSA) beginGM() error {
	p, c := s.phase1, s.m.conn
	own, err := c.GM.own()
	if err != nil {
		return err
	}
	p.gm = &gmPhase1{own: own}
	if d := own.inForce(s.m.now); d != nil {
		return &refusalError{d}
	}
	if s.spii, err = s.m.newSPI(); err != nil {
		return err
	}
	offer := gmPhase1Offer(*s.gm, c.Lifetime)
	if p.sai, err = isakmp.Body(offer); err != nil {
		return err
	}
	return s.say(append([]isakmp.Payload{offer}, s.gmVendors(vendors())...), true)
}

// takeGMChoice takes message 2 and sends message 3.
func (s *ISAKMPSA) takeGMChoice(_ Datagram, msg *isakmp.Message) error {
	p, c := s.phase1, s.m.conn
	answer, ok := isakmp.Find[*isakmp.SA](msg)
	if !ok || msg.ResponderSPI == 0 {
		return errors.New("no SA payload or no cookie")
	}
	if err := singleChoice(answer); err != nil {
		return s.refusal(ReasonMalformedPayload, "proposal", err.Error())
	}
	ch, err := chooseGMPhase1(answer, *s.gm)
	if err != nil {
		return &refusalError{gmProposalDiagnosis(ReasonPhase1Proposal, s.mode, err)}
	}
	if ch.variant.Phase1SM4 != s.gm.Phase1SM4 {
		return s.refusal(ReasonMalformedPayload, "proposal", "the answer is none of our proposals")
	}
	if err := s.guess(); err != nil {
		return err
	}
	peer, err := readGMPeer(isakmp.All[*isakmp.Cert](msg))
	if err != nil {
		return s.refusal(ReasonMalformedPayload, "certificates of the peer", err.Error())
	}
	if d := peer.trusted(c.GM, s.m.now); d != nil {
		return &refusalError{d}
	}
	s.gm.Version10 = msg.Minor == 0
	payloads, l, err := s.write(p.gm.own, c, peer, true)
	if err != nil {
		return err
	}
	s.spir, s.proposal = msg.ResponderSPI, gmPhase1Proposal()
	p.peerLife, p.gm.peer, p.gm.sar = ch.life, peer, answer.Raw
	p.gm.ski, p.ni, p.idi, p.awaits, p.guesses = l.sk, l.nonce, l.id, 4, 0
	s.gmLearn(msg)
	nat, err := s.natPayloads(s.path.local, s.path.remote)
	if err != nil {
		return err
	}
	return s.say(append(payloads, nat...), true)
}

// takeResponderEnvelope takes message 4 and sends message 5.
func (s *ISAKMPSA) takeResponderEnvelope(d Datagram, msg *isakmp.Message) error {
	p, c := s.phase1, s.m.conn
	e, err := readEnvelope(msg)
	if err != nil {
		return err
	}
	if err := s.guess(); err != nil {
		return err
	}
	own, peer := p.gm.own, p.gm.peer
	l, err := e.open(own)
	if err != nil {
		return s.sealedDiagnosis(own, err)
	}
	if !e.signedBy(peer, l, *s.gm) {
		clear(l.sk)
		return s.signatureDiagnosis(peer)
	}
	if d := peer.names(c, l.identity()); d != nil {
		clear(l.sk)
		return &refusalError{d}
	}
	p.gm.skr, p.nr, p.gm.idr = l.sk, l.nonce, l.id
	s.gm.KeyEncoding, s.gm.RawSignature = l.encoding, e.rawSignature
	if err := s.detectNAT(msg, d.Local, d.Remote); err != nil {
		return err
	}
	p.awaits = 6
	s.path.float()
	if err := s.gmKeys(); err != nil {
		return err
	}
	s.peerID = identityV1(l.identity())
	return s.say([]isakmp.Payload{&isakmp.Hash{Data: gmHash(s.keys, true, s.cookies(), p.sai, p.idi)}}, true)
}

// takeGMResponderHash takes message 6.
func (s *ISAKMPSA) takeGMResponderHash(_ Datagram, msg *isakmp.Message) error {
	p, c := s.phase1, s.m.conn
	hash, iv, err := s.openGMHash(msg)
	if err != nil {
		return err
	}
	if !s.gmHashIs(hash, false, p.gm.idr) {
		return &refusalError{s.pskDiagnosis("the hash in message 6 is not ours")}
	}
	p.iv, p.awaits = iv, 0
	p.peerLife = p.peerLife.atMost(toldLifetime(msg, isakmp.Phase1LifeType, isakmp.Phase1LifeDuration))
	s.lifetimes(c)
	s.m.authenticated(s, c, false)
	return nil
}

// nextGMVariant begins again in another variant where the peer did not take the
// first message. It reports whether there was another one.
func (s *ISAKMPSA) nextGMVariant(d *Diagnosis) bool {
	m := s.m
	if s.gm == nil || s.phase1 == nil || !s.initiator || s.phase1.awaits != 2 {
		return false
	}
	if d.Reason != ReasonPhase1Proposal && d.Reason != ReasonMaxTransmit {
		return false
	}
	attempts := m.conn.GM.Variant.withDefaults().attempts()
	if m.gmTried+1 >= len(attempts) {
		m.gmTried = 0
		return false
	}
	before := *s.gm
	m.gmTried++
	next := attempts[m.gmTried]
	m.gmVariant = &next
	told := *d
	told.Detail += fmt.Sprintf("; the next message 1 has %s", next.Difference(before))
	m.reportOn(s, &told)
	at := s.path
	s.close()
	m.attempt = nil
	m.negotiate(at)
	return true
}
