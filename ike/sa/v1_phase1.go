package sa

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// Phase 1 with a pre-shared key (RFC 2409, sections 5 and 5.4):
//
//	main mode                                  aggressive mode
//	1  SA                  ───────────────►    1  SA, KE, Ni, IDii
//	2  SA                  ◄───────────────    2  SA, KE, Nr, IDir, HASH_R
//	3  KE, Ni              ───────────────►    3  HASH_I
//	4  KE, Nr              ◄───────────────
//	5  IDii, HASH_I        ───────────────►    encrypted
//	6  IDir, HASH_R        ◄───────────────    encrypted
//
// What anybody may have sent (all before the hashes) is taken once. What then
// does not fit is dropped, and the exchange goes on waiting for better.

// phase1 is what the messages of phase 1 remember of each other.
type phase1 struct {
	awaits     int           // number of the message that comes next
	guesses    int           // messages 5 that were tried
	candidates []*Connection // of a responder
	kex        keyExchange
	gi, gr     []byte // public values
	ni, nr     []byte
	shared     []byte // of a responder until the peer is known
	sai, idi   []byte // bodies of the initiator's SA and ID payloads
	iv         []byte
	fakeNAT    bool
	gm         *gmPhase1 // of the profile GM/T 0022
	peerLife   lifetime
	// refusal is what to report if no better answer comes. Anybody may have
	// sent what it rests on. told: a responder has reported something.
	refusal *Diagnosis
	told    bool
}

func (p *phase1) wipe() {
	if p.kex != nil {
		p.kex.wipe()
		p.kex = nil
	}
	clear(p.shared)
	p.shared = nil
	p.gm.wipe()
}

// hash returns HASH_I or HASH_R (section 5). id is the body of the ID payload of
// the end that it is from.
func (s *ISAKMPSA) hash(k *isakmpKeys, initiator bool, id []byte) []byte {
	p := s.phase1
	cookies := s.cookies()
	if initiator {
		return k.prf.sum(k.id, p.gi, p.gr, cookies, p.sai, id)
	}
	return k.prf.sum(k.id, p.gr, p.gi, cookies[8:], cookies[:8], p.sai, id)
}

// negotiate begins an ISAKMP SA.
func (m *MachineV1) negotiate(at path) {
	c := m.conn
	s := &ISAKMPSA{
		m: m, state: Connecting, initiator: true, mode: c.mode(), path: path{local: at.local, remote: at.remote},
		notifyFirst: c.DPD.NotifyFirst, phase1: &phase1{awaits: 2, fakeNAT: c.ForceEncap},
	}
	m.sas, m.attempt = append(m.sas, s), s
	s.gm = m.beginVariant()
	if err := s.begin(); err != nil {
		var refusal *refusalError
		if errors.As(err, &refusal) {
			s.fail(refusal.d)
			return
		}
		s.fail(&Diagnosis{Reason: ReasonPhase1Proposal, Exchange: s.mode.String(), Parameter: "proposal", Detail: err.Error()})
	}
}

// begin sends the first message.
func (s *ISAKMPSA) begin() (err error) {
	p, c := s.phase1, s.m.conn
	if c.GM != nil {
		return s.beginGM()
	}
	if s.spii, err = s.m.newSPI(); err != nil {
		return err
	}
	offer, err := phase1Offer(c)
	if err != nil {
		return err
	}
	if p.sai, err = isakmp.Body(offer); err != nil {
		return err
	}
	payloads := []isakmp.Payload{offer}
	if s.mode == isakmp.Aggressive {
		if payloads, err = s.beginAggressive(payloads); err != nil {
			return err
		}
	}
	return s.say(append(payloads, vendors()...), true)
}

// say sends a message of phase 1. An answer is awaited by repeating it.
func (s *ISAKMPSA) say(payloads []isakmp.Payload, repeat bool) error {
	var iv *[]byte
	if s.keys != nil {
		iv = &s.phase1.iv
	}
	datagrams, err := s.encode(s.header(s.mode, 0), payloads, iv)
	if err != nil {
		return err
	}
	s.answered.datagrams = datagrams
	s.flight = nil
	if repeat {
		s.flight = s.newFlight(datagrams)
		if s.spir != 0 {
			s.flight.rhythm.Tries = min(s.flight.rhythm.Tries, halfOpenRepeats)
		}
	}
	s.transmit(datagrams)
	return nil
}

// halfOpenRepeats bounds the repeats to a responder that has answered: it gives
// up after half a minute.
const halfOpenRepeats = 3

// receivePhase1 handles a message of main mode or aggressive mode.
func (s *ISAKMPSA) receivePhase1(d Datagram, msg *isakmp.Message) {
	if s.again(d) {
		return
	}
	p := s.phase1
	if p == nil || msg.Exchange != s.mode || msg.MessageID != 0 {
		s.m.drop(dropPhase1OutOfPlace)
		return
	}
	var take func(Datagram, *isakmp.Message) error
	switch main := s.mode == isakmp.IdentityProtection; {
	case s.gm != nil:
		take = s.takeGM()
	case main && s.initiator && p.awaits == 2:
		take = s.takeChoice
	case main && !s.initiator && p.awaits == 3:
		take = s.takeInitiatorKE
	case main && s.initiator && p.awaits == 4:
		take = s.takeResponderKE
	case main && !s.initiator && p.awaits == 5:
		take = s.takeInitiatorAuth
	case main && s.initiator && p.awaits == 6:
		take = s.takeResponderAuth
	case !main && s.initiator && p.awaits == 2:
		take = s.takeAggressiveAnswer
	case !main && !s.initiator && p.awaits == 3:
		take = s.takeAggressiveAuth
	}
	digest := sha256.Sum256(d.Bytes)
	before := p.awaits
	err := take(d, msg)
	if err == nil {
		if s.phase1 != nil {
			s.phase1.refusal, s.refusedAt = nil, time.Time{}
		}
		s.answered.digest = digest
		return
	}
	if s.phase1 != p || p.awaits != before {
		return // taken, and come to an end
	}
	var refusal *refusalError
	switch {
	case errors.As(err, &refusal):
		s.m.drop(dropPhase1Refused)
		s.refuse(refusal.d)
	default:
		s.m.drop(dropMalformed)
	}
}

// refusalError is a message that would do, but for what its diagnosis tells.
type refusalError struct{ d *Diagnosis }

func (e *refusalError) Error() string { return e.d.String() }

func (s *ISAKMPSA) refusal(reason Reason, parameter, detail string) error {
	return &refusalError{&Diagnosis{Reason: reason, Exchange: s.mode.String(), Parameter: parameter, Detail: detail}}
}

// refuse notes why a message did not do. An initiator waits a little for a
// better one; a responder reports it once, and waits as long as it would have.
func (s *ISAKMPSA) refuse(d *Diagnosis) {
	if s.initiator {
		s.remember(d)
		return
	}
	if p := s.phase1; !p.told {
		p.told = true
		s.reportUnproven(expectedOf(p.candidates, s.path.remote.Addr()), d)
	}
}

// reportUnproven reports what an initiator has sent that is not authenticated.
func (s *ISAKMPSA) reportUnproven(c *Connection, d *Diagnosis) {
	e := s.m.event(Failed, s)
	e.Reason, e.Diagnosis, e.Connection = d.Reason, d, ""
	if c != nil {
		e.Connection = c.Name
	}
	s.m.emit(Emit{e})
}

// remember keeps a refusal, and waits a little for a better answer.
func (s *ISAKMPSA) remember(d *Diagnosis) { s.rememberFor(betterAnswer, d) }

func (s *ISAKMPSA) rememberFor(wait time.Duration, d *Diagnosis) {
	if s.phase1 == nil {
		return
	}
	s.phase1.refusal = d
	if s.refusedAt.IsZero() {
		s.refusedAt = s.m.now.Add(wait)
	}
}

// refused ends the wait for a better answer.
func (s *ISAKMPSA) refused() {
	if s.phase1 != nil && s.phase1.refusal != nil {
		s.fail(s.phase1.refusal)
	}
}

// repeatPhase1 is called when no answer has come in time.
func (s *ISAKMPSA) repeatPhase1() {
	if s.repeat(s.flight) {
		return
	}
	if d := s.phase1.refusal; d != nil {
		s.fail(d)
		return
	}
	s.fail(s.unreachable())
}

// fail ends a negotiation of ours.
func (s *ISAKMPSA) fail(d *Diagnosis) {
	m := s.m
	if s.abandoned {
		s.close()
		return
	}
	if s.nextGMVariant(d) {
		return
	}
	if m.current == nil && m.orphanedAt.IsZero() {
		m.end(d.Reason, d)
		return
	}
	// An ISAKMP SA stands that this one was to follow, or children wait for one.
	e := m.event(Failed, s)
	e.Reason, e.Diagnosis, e.Established = d.Reason, d, true
	m.emit(Emit{e})
	s.close()
	if m.attempt == s {
		m.attempt = nil
	}
	if m.current == nil {
		m.negotiateAt, m.negotiatePath = m.now.Add(m.jitter(minRetry)), s.path
		return
	}
	wait := maxRetry
	if m.current.outdated() {
		wait = min(minRetry<<min(m.refusals, 10), maxRetry)
		m.refusals++
	}
	m.current.rekeyAt = m.now.Add(m.jitter(wait))
}

// unreachable tells which message has brought no answer.
func (s *ISAKMPSA) unreachable() *Diagnosis {
	number := s.phase1.awaits - 1
	d := &Diagnosis{
		Reason: ReasonMaxTransmit, Exchange: s.mode.String(), Parameter: "peer address",
		Detail: fmt.Sprintf("no answer to message %d of %s, sent %d times to %s from %s",
			number, s.mode, s.flight.tries+1, s.path.remote, s.path.local),
		silentPort: s.path.remote.Port(),
	}
	switch {
	case s.gm != nil && number > 1:
		s.gmUnanswered(d, number)
	case number == 1:
		d.Detail += "; the peer may know no connection for our address, or want another version or mode of IKE"
	case number == 3:
		d.Cause = CauseSilence
	case number == 5:
		d.Cause, d.Parameter = CausePSK, "pre-shared key"
		d.Detail += "; the pre-shared keys of the two ends may differ"
		if s.path.remote.Port() == portNAT {
			d.Detail += ", or UDP port 4500 be blocked"
		}
	}
	return d
}

// chooseForAnyV1 chooses a set that a candidate agrees with. The mismatch that it
// returns is the first candidate's.
func chooseForAnyV1(candidates []*Connection, offer *isakmp.SA) (choice, error) {
	var first error
	for _, c := range candidates {
		ch, err := choosePhase1(c.Proposals, offer)
		if err == nil {
			return ch, nil
		}
		if first == nil {
			first = err
		}
	}
	return choice{}, first
}

// answerFirst answers the message that begins the machine. An error means that
// nothing is to be said.
func (m *MachineV1) answerFirst(d Datagram) error {
	msg, err := isakmp.Parse(d.Bytes)
	if err != nil {
		return err
	}
	begins := msg.Exchange == isakmp.IdentityProtection || msg.Exchange == isakmp.Aggressive
	if !begins || msg.InitiatorSPI == 0 || msg.ResponderSPI != 0 || msg.MessageID != 0 || msg.Encrypted {
		return fmt.Errorf("%s begins no ISAKMP SA", &msg.Header)
	}
	offer, ok := isakmp.Find[*isakmp.SA](msg)
	if !ok {
		return fmt.Errorf("%s: no SA payload", &msg.Header)
	}
	s := &ISAKMPSA{
		m: m, state: Connecting, spii: msg.InitiatorSPI, mode: msg.Exchange,
		path: path{local: d.Local, remote: d.Remote}, phase1: &phase1{awaits: 3, sai: offer.Raw},
	}
	if s.spir, err = m.newSPI(); err != nil {
		return err
	}
	local, remote := d.Local.Addr().Unmap(), d.Remote.Addr().Unmap()
	all := ofVersion(m.env.Candidates(local, remote), true)
	p := s.phase1
	p.candidates = ofMode(all, msg.Exchange)
	if len(p.candidates) == 0 {
		d := &Diagnosis{
			Reason: ReasonPeerAddress, Exchange: s.mode.String(), Parameter: "peer address",
			Theirs: remote.String(), Detail: "no connection expects a peer at this address",
		}
		if len(all) > 0 {
			d = &Diagnosis{Reason: ReasonMode, Exchange: s.mode.String(), Parameter: "mode of phase 1", Ours: all[0].mode().String(), Theirs: s.mode.String()}
		}
		return s.refuseFirst(isakmp.NoProposalChosen, expectedOf(all, remote), d)
	}
	if gm := isGMOffer(offer); len(ofProfile(p.candidates, gm)) > 0 {
		p.candidates = ofProfile(p.candidates, gm)
	}
	p.fakeNAT = forcesEncap(p.candidates, remote)
	s.answered.digest = sha256.Sum256(d.Bytes)
	if s.mode == isakmp.Aggressive {
		return s.answerAggressive(msg, offer)
	}
	if p.candidates[0].GM != nil {
		return s.answerGM(msg, offer)
	}
	return s.answerMain(msg, offer)
}

// accept keeps the SA of an answer to the first message.
func (s *ISAKMPSA) accept() {
	s.halfOpenAt = s.m.now.Add(halfOpenTimeout)
	s.m.sas = []*ISAKMPSA{s}
}

// refuseFirst answers the first message without keeping state.
func (s *ISAKMPSA) refuseFirst(t isakmp.NotifyType, c *Connection, d *Diagnosis) error {
	id, err := s.newMessageID()
	if err != nil {
		return err
	}
	datagrams, err := s.encode(s.header(isakmp.Informational, id), []isakmp.Payload{&isakmp.Notify{Protocol: ipsec.ProtocolIKE, NotifyType: t}}, nil)
	if err != nil {
		return err
	}
	s.transmit(datagrams)
	s.reportUnproven(c, d)
	return nil
}

// derive makes the keys with a connection's pre-shared key.
func (s *ISAKMPSA) derive(c *Connection, shared []byte) (*isakmpKeys, error) {
	p := s.phase1
	return newISAKMPKeys(s.proposal, c.PSK, shared, p.ni, p.nr, s.spii, s.spir)
}

// setKeys takes the keys into use.
func (s *ISAKMPSA) setKeys(k *isakmpKeys) {
	s.keys = k
	s.phase1.iv = k.iv(s.phase1.gi, s.phase1.gr)
	if s.m.env.KeyLog != nil {
		enc, _ := s.proposal.Get(ipsec.TransformEncryption)
		s.m.env.KeyLog(Keys{ISAKMP: &ISAKMPKeys{
			InitiatorSPI: s.spii, ResponderSPI: s.spir, Encryption: enc, Key: append([]byte(nil), k.encryption...),
		}})
	}
}

// checkIdentity compares an identity that the peer has proved with the
// configured one.
func (s *ISAKMPSA) checkIdentity(c *Connection, id *isakmp.ID) *Diagnosis {
	if peer := identityV1(id); peer != c.RemoteID {
		d := identityDiagnosis(CausePeerID, c.RemoteID, peer)
		d.Exchange = s.mode.String()
		return d
	}
	return nil
}

// rejectPeer tells a responder, which takes the ISAKMP SA for established, that
// it is not, and gives up.
func (s *ISAKMPSA) rejectPeer(d *Diagnosis) error {
	s.iv = s.phase1.iv
	s.inform([]isakmp.Payload{&isakmp.Notify{Protocol: ipsec.ProtocolIKE, NotifyType: isakmp.InvalidIDInformation}})
	s.inform([]isakmp.Payload{s.deletePayload()})
	s.fail(d)
	return &refusalError{d}
}

// pskDiagnosis tells that the keys differ, and what shows it.
func (s *ISAKMPSA) pskDiagnosis(how string) *Diagnosis {
	if s.gm != nil {
		return s.gmProofDiagnosis(how)
	}
	return &Diagnosis{
		Reason: ReasonAuthentication, Cause: CausePSK, Exchange: s.mode.String(), Parameter: "pre-shared key",
		Detail: "the pre-shared keys of the two ends differ: " + how,
	}
}

// proof checks the identity and the hash of the other end with keys that may be
// the wrong ones.
func (s *ISAKMPSA) proof(k *isakmpKeys, msg *isakmp.Message) (*isakmp.ID, bool) {
	id, okID := isakmp.Find[*isakmp.ID](msg)
	hash, okHash := isakmp.Find[*isakmp.Hash](msg)
	if !okID || !okHash {
		return nil, false
	}
	body, err := isakmp.Body(id)
	if err != nil {
		return nil, false
	}
	return id, hmac.Equal(hash.Data, s.hash(k, !s.initiator, body))
}

// lifetimes agrees on the shorter one of both ends' lifetimes of phase 1, and
// returns what tells the peer where ours is.
func (s *ISAKMPSA) lifetimes(c *Connection) []isakmp.Payload {
	own := lifetime{seconds: uint64(c.Lifetime / time.Second)}
	if told := &s.phase1.peerLife.seconds; *told != 0 {
		*told = max(*told, shortestLife)
	}
	s.life = own.atMost(s.phase1.peerLife)
	if s.initiator || own.seconds == 0 || s.phase1.peerLife.seconds <= own.seconds && s.phase1.peerLife.seconds != 0 {
		return nil
	}
	return responderLifetime(ipsec.ProtocolIKE, s.cookies(), lifetime{seconds: own.seconds}, isakmp.Phase1LifeType, isakmp.Phase1LifeDuration)
}

// responderLifetime tells an initiator that the SA will live shorter than it
// offered (RFC 2407, section 4.6.3.1).
func responderLifetime(p ipsec.Protocol, spi []byte, l lifetime, kind, duration isakmp.AttributeType) []isakmp.Payload {
	data, err := isakmp.AppendAttributes(nil, l.attributes(kind, duration))
	if err != nil {
		return nil
	}
	return []isakmp.Payload{&isakmp.Notify{Protocol: p, SPI: spi, NotifyType: isakmp.ResponderLifetime, Data: data}}
}

// toldLifetime reads what a responder tells of a lifetime.
func toldLifetime(msg *isakmp.Message, kind, duration isakmp.AttributeType) (l lifetime) {
	if n, ok := msg.Notify(isakmp.ResponderLifetime); ok {
		if list, err := isakmp.ParseAttributes(n.Data); err == nil {
			l = readLife(list, kind, duration)
		}
	}
	return l
}

// initialContact returns the notification that we know of no other SA with the
// peer (RFC 2407, section 4.6.3.3), if that is so.
func (s *ISAKMPSA) initialContact() []isakmp.Payload {
	m := s.m
	if m.current != nil || len(m.children) > 0 || !m.aloneWith() {
		return nil
	}
	return []isakmp.Payload{&isakmp.Notify{Protocol: ipsec.ProtocolIKE, SPI: s.cookies(), NotifyType: isakmp.InitialContact}}
}

// halfOpenTimeout gives up on an initiator that does not go on. Whoever sends a
// first message need not be a peer: it is reported only where the address can
// mean but one connection.
func (s *ISAKMPSA) halfOpenTimeout() {
	p := s.phase1
	if c := expectedOf(p.candidates, s.path.remote.Addr()); c != nil && !p.told {
		s.reportUnproven(c, &Diagnosis{
			Reason: ReasonExchangeTimeout, Exchange: s.mode.String(), Parameter: fmt.Sprintf("message %d", p.awaits),
			Detail: fmt.Sprintf("%s sent message %d of %s and nothing usable after it; UDP port 4500 may be blocked", s.path.remote, p.awaits-2, s.mode),
		})
	}
	s.close()
}
