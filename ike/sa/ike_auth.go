package sa

import (
	"crypto/hmac"
	"fmt"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// responderGrace is how long a responder that also keeps its children up leaves
// it to the initiator to set the further ones up.
const responderGrace = 5 * time.Second

// ikeAuth is our IKE_AUTH exchange: it authenticates both ends and makes the
// first child.
type ikeAuth struct{ offer childOffer }

func (x *ikeAuth) kind() wire.ExchangeType { return wire.IKEAuth }

// request asks for: IDi, [N(INITIAL_CONTACT)], IDr, AUTH, [N(PPK_IDENTITY),
// [N(NO_PPK_AUTH)]], SA, TSi, TSr.
func (x *ikeAuth) request(s *ikeSA) ([]wire.Payload, bool) {
	m, h := s.m, s.handshake
	c := m.conn
	id := c.LocalID.payload(false)
	payloads := []wire.Payload{id}
	if m.aloneWith() {
		payloads = append(payloads, &wire.Notify{NotifyType: wire.InitialContact})
	}
	h.authID = s.nextID
	auth, err := s.prove(c, id)
	if err != nil {
		m.fail(ppkDiagnosis(x.kind(), c.PPK.describe(), "", err.Error()))
		return nil, false
	}
	payloads = append(append(payloads, c.RemoteID.payload(true)), auth...)
	if c.MOBIKE {
		payloads = append(payloads, &wire.Notify{NotifyType: wire.MOBIKESupported})
	}
	if h.childless {
		return payloads, true
	}
	if x.offer, err = m.offerChild(s, m.slots[0], false); err != nil {
		m.fail(&Diagnosis{Reason: ReasonDataPlane, Exchange: x.kind().String(), Parameter: "SPI", Detail: err.Error()})
		return nil, false
	}
	payloads = append(payloads, &wire.SA{Proposals: x.offer.proposals})
	return append(payloads, x.offer.selectors()...), true
}

func (x *ikeAuth) response(s *ikeSA, _ Datagram, msg *wire.Message) {
	m, h := s.m, s.handshake
	c := m.conn
	id, okID := msg.ID(true)
	auth, okAuth := wire.Find[*wire.Auth](msg)
	refusal, refused := msg.ErrorNotify()
	switch {
	case refused && !okAuth:
		m.fail(refusedAuth(refusal, c, x.offer.proposals))
		return
	case !okID || !okAuth:
		m.fail(&Diagnosis{
			Reason: ReasonMalformedMessage, Exchange: x.kind().String(),
			Detail: "the peer's answer has no identity or no authentication",
		})
		return
	}
	peer := identity(id)
	if d := s.settlePPK(c, msg); d != nil {
		s.rejectPeer(d)
		return
	}
	if d := s.authenticate(c, auth.Method, proof{keys: s.keys, data: auth.Data}, id); d != nil {
		// The peer takes the SA for established and has to be told.
		s.rejectPeer(d)
		return
	}
	if peer != c.RemoteID {
		s.rejectPeer(provenIdentity(identityDiagnosis(CausePeerID, c.RemoteID, peer), true))
		return
	}
	if n, ok := msg.Notify(wire.Redirect); ok && len(c.RedirectTo) > 0 {
		s.redirectedAuth(n)
		return
	}
	childless := h.childless
	s.establish(m.now)
	m.established(s, false)
	m.heedAuthLifetime(msg)
	m.agreeMOBIKE(msg)
	switch _, ok := wire.Find[*wire.SA](msg); {
	case childless: // RFC 6023: all children come in exchanges of their own
	case refused:
		x.childRefused(m, refusedChild(x.kind(), refusal, x.offer.slot.cfg, x.offer.proposals, false))
	case !ok:
		x.childRefused(m, &Diagnosis{
			Reason: ReasonMalformedMessage, Exchange: x.kind().String(), Detail: "the peer's answer has no child and no reason for that",
		})
	default:
		x.child(s, msg, h)
	}
	for _, k := range m.slots {
		if !m.up(k) && k.retryAt.IsZero() && !k.busy {
			m.createChild(k)
		}
	}
}

// child installs the first child.
func (x *ikeAuth) child(s *ikeSA, msg *wire.Message, h *handshake) {
	m := s.m
	p, err := chosen(x.offer.proposals, msg)
	if err != nil {
		x.childRefused(m, mismatchDiagnosis(ReasonPhase2Proposal, wire.IKEAuth, err))
		return
	}
	child, d := x.offer.accept(s, msg, p, keyMaterial{ni: h.ni, nr: h.nr})
	if child != nil {
		m.children = append(m.children, child)
	}
	if d != nil {
		if child != nil {
			m.deleteChild(child, d.Reason, d)
		}
		x.childRefused(m, d)
		return
	}
	if child.slot.removed {
		m.deleteChild(child, ReasonConfigModify, nil)
		return
	}
	child.addIn()
	child.addOut()
}

func (x *ikeAuth) childRefused(m *Machine, d *Diagnosis) {
	m.emit(Emit{m.childFailure(x.offer.slot, true, m.explain(x.offer.slot, d))})
	m.restore(x.offer.slot)
}

func (x *ikeAuth) unanswered(s *ikeSA, o *outstanding) { s.m.fail(unreachable(s, o)) }

// authenticate checks a peer's proof against a connection's key.
func (s *ikeSA) authenticate(c *Connection, method wire.AuthMethod, p proof, peer *wire.ID) *Diagnosis {
	if method != wire.AuthSharedKey {
		return &Diagnosis{
			Reason: ReasonAuthentication, Cause: CauseAuthMethod, Exchange: wire.IKEAuth.String(), Parameter: "authentication method",
			Ours: "pre-shared key", Theirs: methodName(method),
		}
	}
	of, id := s.handshake.signed(!s.initiator), peer.AuthOctets()
	if hmac.Equal(p.keys.pskAuth(c.PSK, !s.initiator, of, id), p.data) {
		return nil
	}
	if p.without != nil && hmac.Equal(s.keys.pskAuth(c.PSK, !s.initiator, of, id), p.without) {
		return ppkDiagnosis(wire.IKEAuth, c.PPK.describe(), "", "the keys of this id differ at the two ends; the pre-shared keys are the same")
	}
	return &Diagnosis{
		Reason: ReasonAuthentication, Cause: CausePSK, Exchange: wire.IKEAuth.String(), Parameter: "pre-shared key",
		Detail: fmt.Sprintf("the pre-shared keys of the two ends differ; the peer is %s", identity(peer)),
	}
}

// rejectPeer tells a responder, which takes the IKE SA for established, that it
// is not, and gives up (section 2.21.2).
func (s *ikeSA) rejectPeer(d *Diagnosis) {
	m := s.m
	m.report(d)
	s.setState(Deleting)
	s.queue = []exchange{&deleteIKE{notify: wire.AuthenticationFailed}}
	m.current = nil
}

// established reports that a new IKE SA is authenticated and starts what keeps
// it alive.
func (m *Machine) established(s *ikeSA, initialContact bool) {
	e := m.event(IKEUp, s)
	e.InitialContact = initialContact
	m.emit(Emit{e})
	m.contact.authenticated(&e, m.now)
	m.lastSeen, m.proven = m.now, s.path
	if m.conn.DPD.Interval > 0 {
		m.dpdAt = m.now.Add(m.conn.DPD.Interval)
	}
	if s.path.natLocal {
		m.keepaliveAt = m.now.Add(keepaliveInterval)
	}
	m.began, m.authAt = s.initiator, m.now
	m.limitAuthentication()
}

// answerAuth answers IKE_AUTH: it finds the connection by the identities,
// checks the key, and makes the first child.
func (s *ikeSA) answerAuth(d Datagram, msg *wire.Message) reply {
	m, h := s.m, s.handshake
	s.path.local, s.path.remote = d.Local, d.Remote
	s.halfOpenAt = time.Time{}
	h.authID = msg.MessageID
	id, okID := msg.ID(false)
	auth, okAuth := wire.Find[*wire.Auth](msg)
	var diagnosis *Diagnosis
	var c *Connection
	switch {
	case !okID:
		diagnosis = &Diagnosis{Reason: ReasonMalformedMessage, Exchange: wire.IKEAuth.String(), Detail: "the peer's request has no identity"}
	case !okAuth:
		diagnosis = &Diagnosis{
			Reason: ReasonAuthentication, Cause: CauseAuthMethod, Exchange: wire.IKEAuth.String(), Parameter: "authentication method",
			Ours: "pre-shared key", Theirs: "EAP",
		}
	default:
		// What is configured may have changed since IKE_SA_INIT.
		m.candidates = ofVersion(m.env.Candidates(d.Local.Addr().Unmap(), d.Remote.Addr().Unmap()), false)
		c, diagnosis = s.selectConnection(msg, id, auth)
	}
	refusal := wire.AuthenticationFailed
	if _, mobike := msg.Notify(wire.MOBIKESupported); diagnosis == nil && mobike && c.MOBIKE && prohibitedNAT(d, msg) {
		refusal, diagnosis = wire.UnexpectedNATDetected, &Diagnosis{
			Reason: ReasonEncapsulation, Exchange: wire.IKEAuth.String(), Parameter: "NAT", Ours: d.Remote.String() + " to " + d.Local.String(),
			Detail: "the peer allows no NAT on the way (NO_NATS_ALLOWED), and its message came with other addresses than it was sent with",
		}
	}
	if diagnosis != nil {
		if c == nil {
			c = m.expected(d.Remote.Addr())
		}
		r := refuse(refusal)
		r.then = func() {
			m.conn = c
			m.fail(diagnosis)
		}
		return r
	}
	m.adopt(c)
	s.establish(m.now)
	own := c.LocalID.payload(true)
	payloads := []wire.Payload{own, &wire.Auth{
		Method: wire.AuthSharedKey, Data: s.keys.pskAuth(c.PSK, false, h.signed(false), own.AuthOctets()),
	}}
	if c.AuthLifetime > 0 {
		payloads = append(payloads, lifetimeNotify(c.AuthLifetime))
	}
	if s.ppk {
		payloads = append(payloads, &wire.Notify{NotifyType: wire.PPKIdentity})
	}
	_, initialContact := msg.Notify(wire.InitialContact)
	m.established(s, initialContact)
	if m.agreeMOBIKE(msg); m.mobike {
		payloads = append(payloads, &wire.Notify{NotifyType: wire.MOBIKESupported})
	}
	if r, ok := s.redirectAuth(payloads); ok {
		return r
	}
	r := reply{payloads: payloads}
	if _, ok := wire.Find[*wire.SA](msg); ok {
		r = s.answerFirstChild(msg, h, payloads)
	}
	if c.Initiate {
		for _, k := range m.slots {
			if !m.up(k) {
				k.retryAt = m.now.Add(m.jitter(responderGrace))
			}
		}
	}
	return r
}

// answerFirstChild adds the child of IKE_AUTH to the answer, or why there is
// none. The IKE SA stands in any case.
func (s *ikeSA) answerFirstChild(msg *wire.Message, h *handshake, payloads []wire.Payload) reply {
	m := s.m
	child, answer, no := m.answerChild(s, msg, childRequest{ni: h.ni, nr: h.nr, first: true})
	if no != nil {
		r := m.refuseChild(no)
		r.payloads = append(payloads, r.payloads...)
		return r
	}
	child.addIn()
	then := child.addOut
	if m.beside() {
		child.first, then = true, child.awaitPeer
	}
	return reply{
		payloads: slices.Concat(payloads, []wire.Payload{answer.sa, answer.tsi, answer.tsr}),
		then:     then, child: child,
		without: func(t wire.NotifyType) reply {
			return reply{payloads: slices.Concat(payloads, refuse(t).payloads)}
		},
	}
}

// fit is how far an initiator's IKE_AUTH request agrees with a connection.
type fit int

const (
	fitsAddress fit = iota + 1
	fitsPeerID
	fitsIdentities
	fitsProposals
	fitsKey
	fitsAll
)

// selectConnection finds the candidate that the peer's identities and key fit.
// The IKE proposal that was chosen must be one of its own. On failure it
// returns the candidate that the peer means, by both identities or else by its
// address, if there is one, and what differs.
func (s *ikeSA) selectConnection(msg *wire.Message, peer *wire.ID, auth *wire.Auth) (*Connection, *Diagnosis) {
	m := s.m
	expected := m.expected(s.path.remote.Addr())
	diagnosis := &Diagnosis{
		Reason: ReasonPeerAddress, Exchange: wire.IKEAuth.String(), Parameter: "peer address",
		Theirs: s.path.remote.Addr().String(), Detail: "no connection expects a peer at this address",
	}
	var meant *Connection
	var best fit
	for _, c := range m.candidates {
		f, d := s.compare(c, msg, peer, auth)
		if f == fitsAll {
			return c, nil
		}
		switch {
		case f >= fitsIdentities && f > best:
			meant, diagnosis, best = c, d, f
		case best < fitsIdentities && c == expected:
			meant, diagnosis = c, d
		case best < fitsIdentities && meant == nil && f > best:
			diagnosis, best = d, f
		}
	}
	return meant, diagnosis
}

// compare holds an IKE_AUTH request against a candidate.
func (s *ikeSA) compare(c *Connection, msg *wire.Message, peer *wire.ID, auth *wire.Auth) (fit, *Diagnosis) {
	p, d := s.proof(c, auth, readPPK(msg))
	defer func() {
		if p.ppk && s.keys != p.keys {
			p.keys.wipe()
		}
	}()
	if d == nil {
		d = s.authenticate(c, auth.Method, p, peer)
	}
	if id := identity(peer); id != c.RemoteID {
		return fitsAddress, provenIdentity(identityDiagnosis(CausePeerID, c.RemoteID, id), d == nil)
	}
	if id, ok := msg.ID(true); ok && identity(id) != c.LocalID {
		return fitsPeerID, provenIdentity(identityDiagnosis(CauseLocalID, c.LocalID, identity(id)), d == nil)
	}
	if _, err := ipsec.Choose(c.Proposals, []ipsec.Proposal{s.proposal}); err != nil {
		return fitsIdentities, mismatchDiagnosis(ReasonPhase1Proposal, wire.IKEAuth, err)
	}
	if d != nil {
		return fitsProposals, d
	}
	if c.RequireEncap && !s.path.encap {
		return fitsKey, s.handshake.encapDiagnosis()
	}
	if p.ppk {
		s.usePPK(p.keys)
	}
	return fitsAll, nil
}

// payload returns an ID payload.
func (i Identity) payload(responder bool) *wire.ID {
	return &wire.ID{Responder: responder, IDType: i.Type, Data: []byte(i.Data)}
}

// identity reads one.
func identity(p *wire.ID) Identity { return Identity{Type: p.IDType, Data: string(p.Data)} }

func methodName(a wire.AuthMethod) string {
	names := map[wire.AuthMethod]string{
		wire.AuthRSASignature: "RSA signature", wire.AuthSharedKey: "pre-shared key", wire.AuthDigitalSignature: "digital signature",
	}
	if name, ok := names[a]; ok {
		return name
	}
	return fmt.Sprintf("method %d", uint8(a))
}
