package sa

import (
	"bytes"
	"errors"
	"slices"

	"github.com/vpngw/vpngw/ike/isakmp"
)

// answerGM answers message 1 with message 2.
func (s *ISAKMPSA) answerGM(msg *isakmp.Message, offer *isakmp.SA) error {
	p, m := s.phase1, s.m
	remote := s.path.remote.Addr()
	only := expectedOf(p.candidates, remote)
	if p.candidates = gmResponders(p.candidates); len(p.candidates) == 0 {
		return s.refuseFirst(isakmp.NoProposalChosen, only, &Diagnosis{
			Reason: ReasonMode, Cause: CauseInitiator, Exchange: s.mode.String(), Parameter: "initiator", Ours: "us", Theirs: "the peer",
			Detail: "the connection is configured so that only this end begins",
		})
	}
	c := p.candidates[0]
	v := c.GM.Variant.withDefaults()
	v.Version10 = msg.Minor == 0
	ch, err := chooseGMPhase1(offer, v)
	s.gm = &v
	if err != nil {
		return s.refuseFirst(isakmp.NoProposalChosen, only, gmProposalDiagnosis(ReasonPhase1Proposal, s.mode, err))
	}
	own, err := c.GM.own()
	if err != nil {
		return err
	}
	if d := own.inForce(m.now); d != nil {
		return s.refuseFirst(isakmp.NoProposalChosen, only, d)
	}
	p.gm = &gmPhase1{own: own}
	s.gm, s.proposal, p.peerLife = &ch.variant, gmPhase1Proposal(), ch.life
	s.gmLearn(msg)
	payloads := append([]isakmp.Payload{&ch.answer}, own.payloads()...)
	if p.gm.sar, err = isakmp.Body(&ch.answer); err != nil {
		return err
	}
	if err := s.say(append(payloads, s.gmVendors(s.vendorAnswer())...), false); err != nil {
		return err
	}
	s.accept()
	return nil
}

// gmResponders returns the connections that the peer may begin.
func gmResponders(list []*Connection) []*Connection {
	return slices.DeleteFunc(slices.Clone(list), func(c *Connection) bool { return c.GM.Variant.Initiator == GMWe })
}

// takeInitiatorEnvelope takes message 3 and sends message 4.
func (s *ISAKMPSA) takeInitiatorEnvelope(d Datagram, msg *isakmp.Message) error {
	p := s.phase1
	e, err := readEnvelope(msg)
	if err != nil {
		return err
	}
	if err := s.guess(); err != nil {
		return err
	}
	own := p.gm.own
	peer, c, err := s.gmInitiatorIs(d, e.certificates)
	var sealed *sealedCertificatesError
	encrypted := errors.As(err, &sealed)
	if err != nil && !encrypted {
		return err
	}
	l, err := e.open(own)
	if err != nil {
		return s.sealedDiagnosis(own, err)
	}
	if encrypted {
		if err := l.openCertificates(e.certificates); err != nil {
			return s.sealedDiagnosis(own, err)
		}
		if peer, c, err = s.gmInitiatorIs(d, e.certificates); err != nil {
			return err
		}
	}
	if !e.signedBy(peer, l, *s.gm) {
		clear(l.sk)
		return s.signatureDiagnosis(peer)
	}
	if d := peer.names(c, l.identity()); d != nil {
		clear(l.sk)
		return &refusalError{d}
	}
	if err := s.detectNAT(msg, d.Local, d.Remote); err != nil {
		return err
	}
	s.path.local, s.path.remote = d.Local, d.Remote
	s.gm.KeyEncoding, s.gm.RawSignature, s.gm.EncryptedCertificates = l.encoding, e.rawSignature, encrypted
	p.gm.peer, p.gm.conn, p.gm.ski, p.ni, p.idi = peer, c, l.sk, l.nonce, l.id
	s.peerID = identityV1(l.identity())
	return s.answerEnvelope(d)
}

// answerEnvelope sends message 4.
func (s *ISAKMPSA) answerEnvelope(d Datagram) error {
	p := s.phase1
	payloads, l, err := s.write(p.gm.own, p.gm.conn, p.gm.peer, false)
	if err != nil {
		return err
	}
	p.gm.skr, p.nr, p.gm.idr, p.awaits, p.guesses = l.sk, l.nonce, l.id, 5, 0
	nat, err := s.natPayloads(d.Local, d.Remote)
	if err != nil {
		return err
	}
	if err := s.say(append(payloads, nat...), false); err != nil {
		return err
	}
	return s.gmKeys()
}

// sealedCertificatesError says that what stands for certificates may be encrypted.
type sealedCertificatesError struct{}

func (*sealedCertificatesError) Error() string { return "certificates that cannot be read" }

// gmInitiatorIs reads an initiator's certificates and returns the first connection
// that trusts them, as it is configured now.
func (s *ISAKMPSA) gmInitiatorIs(d Datagram, list []*isakmp.Cert) (*gmPeer, *Connection, error) {
	peer, err := readGMPeer(list)
	if err != nil {
		if len(list) == 2 && !slices.ContainsFunc(list, func(c *isakmp.Cert) bool { return (1+len(c.Data))%gmKeyLen != 0 || len(c.Data) > maxGMCertificate }) {
			return nil, nil, &sealedCertificatesError{}
		}
		return nil, nil, s.refusal(ReasonMalformedPayload, "certificates of the peer", err.Error())
	}
	p := s.phase1
	now := gmResponders(ofProfile(ofVersion(s.m.env.Candidates(d.Local.Addr().Unmap(), d.Remote.Addr().Unmap()), true), true))
	p.candidates = slices.DeleteFunc(now, func(c *Connection) bool { return !p.gm.own.isOf(c.GM) })
	if len(p.candidates) == 0 {
		return nil, nil, s.refusal(ReasonPeerAddress, "peer address", "no connection with our certificates expects a peer at this address any more")
	}
	var first *Diagnosis
	for _, c := range p.candidates[:min(len(p.candidates), maxTrials)] {
		diagnosis := peer.trusted(c.GM, s.m.now)
		if diagnosis == nil {
			return peer, c, nil
		}
		if first == nil {
			first = diagnosis
		}
	}
	return nil, nil, &refusalError{first}
}

// isOf reports whether we have shown the certificates of a configuration.
func (o *gmOwn) isOf(g *GM) bool {
	return bytes.Equal(o.signing.Raw, g.Signing.Certificate) && bytes.Equal(o.encryption.Raw, g.Encryption.Certificate)
}

// openCertificates decrypts certificates, which go on in the chain of the identity.
func (l *letter) openCertificates(list []*isakmp.Cert) error {
	for _, c := range list {
		sealed, err := isakmp.Body(c)
		if err != nil {
			return err
		}
		plain, err := l.chain.open(sealed)
		if err != nil || len(plain) == 0 {
			return errEnvelope
		}
		c.Encoding, c.Data = isakmp.CertEncoding(plain[0]), plain[1:]
	}
	return nil
}

// takeGMInitiatorHash takes message 5 and sends message 6: the peer is who it says.
func (s *ISAKMPSA) takeGMInitiatorHash(d Datagram, msg *isakmp.Message) error {
	p := s.phase1
	if err := s.guess(); err != nil {
		return err
	}
	hash, iv, err := s.openGMHash(msg)
	if err != nil {
		return err
	}
	if !s.gmHashIs(hash, true, p.idi) {
		return &refusalError{s.pskDiagnosis("the hash in message 5 is not ours")}
	}
	c := s.stillMeant(d, p.gm.conn)
	if c == nil || c.GM == nil {
		return s.refusal(ReasonPeerAddress, "peer address", "the connection has changed since message 3")
	}
	if d := s.encapRefusal(c); d != nil {
		return &refusalError{d}
	}
	p.iv = iv
	s.path.local, s.path.remote = d.Local, d.Remote
	told := s.lifetimes(c)
	if err := s.say([]isakmp.Payload{&isakmp.Hash{Data: gmHash(s.keys, false, s.cookies(), p.sai, p.gm.idr)}}, false); err != nil {
		return err
	}
	s.m.authenticated(s, c, false)
	if told != nil {
		s.inform(told)
	}
	return nil
}
