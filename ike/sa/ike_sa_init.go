package sa

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

const (
	// maxInitRounds bounds how often a responder may make us begin again, for a
	// cookie or for another group (RFC 7296, section 2.6.1).
	maxInitRounds = 3
	// betterAnswer is how long we wait, after a refusal that anybody may have
	// sent, for an answer of the peer (section 2.21.1).
	betterAnswer = 3 * time.Second
	maxCookie    = 64 // octets
)

// handshake is what IKE_SA_INIT and IKE_AUTH remember of each other.
type handshake struct {
	group             uint16
	kex               keyExchange
	ni, nr            []byte
	cookie            []byte
	rounds            int
	request, response []byte // of IKE_SA_INIT, as they were on the wire
	fakeNAT           bool
	intermediate      intermediate
	authID            uint32   // message id of IKE_AUTH
	ppk               bool     // both ends have a PPK (RFC 8784)
	mixed             *ikeKeys // of an initiator: with its PPK, until the peer says whether it has it
	natTraversal      bool     // of a responder: the initiator supports it
	childless         bool     // of an initiator: IKE_AUTH makes no child
	// refusal is what to report if no better answer comes, and hint the last
	// unprotected error notify. Anybody may have sent them.
	refusal *Diagnosis
	hint    *wire.Notify
}

func (h *handshake) wipe() {
	if h.kex != nil {
		h.kex.wipe()
		h.kex = nil
	}
	if h.mixed != nil {
		h.mixed.wipe()
		h.mixed = nil
	}
}

// signed returns what AUTH of the initiator or the responder covers.
func (h *handshake) signed(initiator bool) signed {
	of := signed{message: h.response, nonce: h.ni, intermediate: h.intermediate.intAuth(h.authID)}
	if initiator {
		of.message, of.nonce = h.request, h.nr
	}
	return of
}

// newSPI draws an SPI for an IKE SA; zero is none.
func (m *core) newSPI() (uint64, error) {
	var b [8]byte
	for range 8 {
		if err := readFull(m.env.Rand, b[:]); err != nil {
			return 0, err
		}
		if spi := binary.BigEndian.Uint64(b[:]); spi != 0 {
			return spi, nil
		}
	}
	return 0, errors.New("the source of randomness gives no SPI")
}

// ikeSAInit is our IKE_SA_INIT exchange.
type ikeSAInit struct{}

func (ikeSAInit) kind() wire.ExchangeType { return wire.IKESAInit }

// initiate begins the first IKE SA.
func (m *Machine) initiate() {
	s := &ikeSA{m: m, state: Connecting, initiator: true, path: path{
		local:  netip.AddrPortFrom(m.conn.Local, portIKE),
		remote: netip.AddrPortFrom(m.gateway(), portIKE),
	}}
	m.ikes, m.current = append(m.ikes, s), s
	h := &handshake{group: firstGroup(m.conn.Proposals), fakeNAT: m.conn.ForceEncap}
	s.handshake = h
	var err error
	if s.spii, err = m.newSPI(); err == nil {
		if h.ni, err = m.newNonce(); err == nil {
			h.kex, err = newKeyExchange(h.group, m.env.Rand)
		}
	}
	if err != nil {
		m.fail(&Diagnosis{Reason: ReasonPhase1Proposal, Exchange: wire.IKESAInit.String(), Parameter: "DH group", Detail: err.Error()})
		return
	}
	s.enqueue(ikeSAInit{})
}

// request asks for: [N(COOKIE)], SA, KE, Ni, NAT detection, fragmentation, and
// what the connection needs of additional key exchanges and of a PPK.
func (x ikeSAInit) request(s *ikeSA) ([]wire.Payload, bool) {
	h := s.handshake
	var payloads []wire.Payload
	if h.cookie != nil {
		payloads = append(payloads, &wire.Notify{NotifyType: wire.Cookie, Data: h.cookie})
	}
	payloads = append(payloads,
		&wire.SA{Proposals: numbered(s.m.conn.Proposals, nil)},
		&wire.KE{Group: h.group, Data: h.kex.public()},
		&wire.Nonce{Data: h.ni})
	nat, err := s.natNotifies(s.path.local, s.path.remote, h.fakeNAT)
	if err != nil {
		nat = nil // the peer then takes us for one without NAT traversal
	}
	payloads = append(append(payloads, nat...), &wire.Notify{NotifyType: wire.FragmentationSupported})
	if offersAdditional(s.m.conn.Proposals) {
		payloads = append(payloads, &wire.Notify{NotifyType: wire.IntermediateSupported})
	}
	if s.m.conn.PPK != nil {
		payloads = append(payloads, &wire.Notify{NotifyType: wire.UsePPK})
	}
	payloads = append(payloads, s.m.announceRedirect()...)
	// The octets are signed in IKE_AUTH. Encoding is deterministic, so that
	// these are the ones that will be sent.
	h.request, _ = s.message(wire.IKESAInit, false, 0, payloads).Append(nil)
	return payloads, true
}

// numbered returns proposals for an SA payload, with an SPI if there is one.
func numbered(list []ipsec.Proposal, spi []byte) []ipsec.Proposal {
	out := slices.Clone(list)
	for i := range out {
		out[i].Number, out[i].SPI = uint8(i+1), spi
	}
	return out
}

// otherVersion remembers that somebody answered in another version of IKE.
func (m *Machine) otherVersion(d Datagram) {
	h, err := wire.ParseHeader(d.Bytes)
	if err != nil || h.MajorVersion == 2 {
		return
	}
	for _, s := range m.ikes {
		if s.initiator && s.handshake != nil && s.keys == nil && s.spii == h.InitiatorSPI {
			diagnosis := refusedInit(&wire.Notify{NotifyType: wire.InvalidMajorVersion}, nil)
			diagnosis.Theirs = strconv.Itoa(int(h.MajorVersion))
			ikeSAInit{}.remember(s, diagnosis)
		}
	}
}

// response handles an answer that anybody may have sent. Until one will do, the
// request goes on being repeated.
func (x ikeSAInit) response(s *ikeSA, d Datagram, msg *wire.Message) {
	h := s.handshake
	if n, ok := msg.Notify(wire.Cookie); ok {
		if len(n.Data) == 0 || len(n.Data) > maxCookie || bytes.Equal(n.Data, h.cookie) {
			s.m.drop(dropCookie)
			return
		}
		x.again(s, func() { h.cookie = n.Data })
		return
	}
	if n, ok := msg.Notify(wire.Redirect); ok {
		x.redirected(s, n)
		return
	}
	if n, ok := msg.Notify(wire.InvalidKEPayload); ok {
		x.otherGroup(s, n)
		return
	}
	if n, ok := msg.ErrorNotify(); ok {
		x.remember(s, refusedInit(n, s.m.conn.Proposals))
		return
	}
	if diagnosis := x.accept(s, d, msg); diagnosis != nil {
		x.remember(s, diagnosis)
	}
}

// again begins the exchange anew: same SPI, same nonce, message id zero.
func (x ikeSAInit) again(s *ikeSA, change func()) {
	h := s.handshake
	if h.rounds == maxInitRounds {
		s.m.drop(dropInitRounds)
		return
	}
	h.rounds++
	change()
	h.refusal, s.refusedAt = nil, time.Time{}
	s.active, s.nextID = nil, 0
	s.enqueue(x)
}

// otherGroup begins again with the group that the peer wants, if we offered it.
func (x ikeSAInit) otherGroup(s *ikeSA, n *wire.Notify) {
	h := s.handshake
	g, ok := wantedGroup(n)
	if !ok || g == h.group || !offers(s.m.conn.Proposals, g) {
		d := refusedInit(n, s.m.conn.Proposals)
		d.Reason, d.Cause, d.Parameter = ReasonInitiatorDH, CauseIKEGroup, ipsec.TransformGroup.String()
		d.Ours = groupList(s.m.conn.Proposals)
		if ok {
			d.Theirs = ipsec.Group(g).String()
			d.Offers = &Offers{Of: OfferIKE, Ours: s.m.conn.Proposals, Theirs: withGroup(s.m.conn.Proposals, g)}
		}
		x.remember(s, d)
		return
	}
	kex, err := newKeyExchange(g, s.m.env.Rand)
	if err != nil {
		s.m.drop(dropGroup)
		return
	}
	x.again(s, func() {
		h.kex.wipe()
		h.group, h.kex = g, kex
	})
}

// remember keeps a refusal, and waits a little for a better answer.
func (x ikeSAInit) remember(s *ikeSA, d *Diagnosis) {
	s.handshake.refusal = d
	if s.refusedAt.IsZero() {
		s.refusedAt = s.m.now.Add(betterAnswer)
	}
}

// refused ends the wait for a better answer.
func (s *ikeSA) refused() {
	if s.handshake != nil && s.handshake.refusal != nil {
		s.m.fail(s.handshake.refusal)
	}
}

// accept takes the answer and goes on to IKE_AUTH, or tells why it will not do.
func (x ikeSAInit) accept(s *ikeSA, d Datagram, msg *wire.Message) *Diagnosis {
	h, m := s.handshake, s.m
	bad := func(err error) *Diagnosis {
		return &Diagnosis{
			Reason: ReasonMalformedPayload, Exchange: wire.IKESAInit.String(),
			Detail: "the peer's answer cannot be used: " + err.Error(),
		}
	}
	p, err := chosen(m.conn.Proposals, msg)
	if err != nil {
		return bad(err)
	}
	ke, _ := wire.Find[*wire.KE](msg)
	nonce, _ := wire.Find[*wire.Nonce](msg)
	if g, _ := p.Get(ipsec.TransformGroup); g.ID != h.group || ke.Group != h.group {
		return bad(errors.New("the key exchange is of another group"))
	}
	if err := checkNonce(p, nonce.Data); err != nil {
		return bad(err)
	}
	if msg.ResponderSPI == 0 {
		return bad(errors.New("no SPI of the responder"))
	}
	additional := p.Additional()
	if _, ok := msg.Notify(wire.IntermediateSupported); !ok && len(additional) > 0 {
		return bad(errors.New("it chooses an additional key exchange and does not support IKE_INTERMEDIATE"))
	}
	_, ppk := msg.Notify(wire.UsePPK)
	if ours := m.conn.PPK; ours != nil && ours.Required && !ppk {
		return ppkDiagnosis(wire.IKESAInit, ours.describe(), "none", "the peer does not use one")
	}
	supported := s.detectNAT(msg, d.Local, d.Remote)
	if m.conn.RequireEncap && !supported {
		return &Diagnosis{
			Reason: ReasonEncapsulation, Exchange: wire.IKESAInit.String(), Parameter: "UDP encapsulation",
			Ours: "required", Theirs: "not supported", Detail: "the peer does not support NAT traversal",
		}
	}
	s.path.encap = s.path.encap || h.fakeNAT && supported
	shared, err := h.kex.shared(ke.Data)
	if err != nil {
		return bad(err)
	}
	defer clear(shared)
	prfTransform, _ := p.Get(ipsec.TransformPRF)
	f, err := newPRF(prfTransform)
	if err != nil {
		return bad(err)
	}
	s.spir = msg.ResponderSPI
	h.nr = nonce.Data
	if err := s.setKeys(p, firstSeed(f, h.ni, h.nr, shared), h.ni, h.nr); err != nil {
		s.spir = 0
		return bad(err)
	}
	h.response = bytes.Clone(d.Bytes)
	_, s.fragmentation = msg.Notify(wire.FragmentationSupported)
	if _, ok := msg.Notify(wire.ChildlessIKEv2Supported); ok {
		h.childless = m.conn.Childless
	}
	s.active, s.refusedAt = nil, time.Time{}
	h.refusal = nil
	h.intermediate.methods, h.ppk = additional, ppk && m.conn.PPK != nil
	if s.path.encap {
		s.path.local = netip.AddrPortFrom(s.path.local.Addr(), portNAT)
		s.path.remote = netip.AddrPortFrom(s.path.remote.Addr(), portNAT)
	}
	s.afterInit()
	return nil
}

// checkNonce refuses a nonce shorter than half the key of the prf (section 2.10).
func checkNonce(p ipsec.Proposal, nonce []byte) error {
	t, _ := p.Get(ipsec.TransformPRF)
	f, err := newPRF(t)
	if err != nil {
		return err
	}
	if 2*len(nonce) < f.size {
		return fmt.Errorf("nonce of %d octets is too short for %s", len(nonce), t)
	}
	return nil
}

func (x ikeSAInit) unanswered(s *ikeSA, o *outstanding) {
	if d := s.handshake.refusal; d != nil {
		s.m.fail(d)
		return
	}
	s.m.fail(unreachable(s, o))
}

// answerInit answers the IKE_SA_INIT request that begins the machine. An error
// means that nothing is to be said.
func (m *Machine) answerInit(d Datagram) error {
	msg, err := wire.Parse(d.Bytes)
	if err != nil {
		return err
	}
	if msg.Exchange != wire.IKESAInit || msg.Response {
		return fmt.Errorf("%s begins no IKE SA", &msg.Header)
	}
	if err := msg.Check(); err != nil {
		return err
	}
	s := &ikeSA{m: m, state: Connecting, spii: msg.InitiatorSPI, path: path{local: d.Local, remote: d.Remote}}
	all := m.env.Candidates(d.Local.Addr().Unmap(), d.Remote.Addr().Unmap())
	m.candidates = ofVersion(all, false)
	offer, _ := wire.Find[*wire.SA](msg)
	ke, _ := wire.Find[*wire.KE](msg)
	ni, _ := wire.Find[*wire.Nonce](msg)
	if len(m.candidates) == 0 && len(all) > 0 {
		m.candidates = all
		return m.refuseInit(s, d, wire.NoProposalChosen, nil, &Diagnosis{
			Reason: ReasonVersion, Exchange: wire.IKESAInit.String(), Parameter: "IKE version", Ours: "1", Theirs: "2",
			Detail: "the peer begins with IKEv2",
		})
	}
	if len(m.candidates) == 0 {
		return m.refuseInit(s, d, wire.NoProposalChosen, nil, &Diagnosis{
			Reason: ReasonPeerAddress, Exchange: wire.IKESAInit.String(), Parameter: "peer address",
			Theirs: d.Remote.Addr().String(), Detail: "no connection expects a peer at this address",
		})
	}
	if m.redirectable = supportsRedirect(msg); m.redirectable {
		if n, ok := msg.Notify(wire.RedirectedFrom); ok {
			m.redirectedFrom, _, _ = wire.ParseRedirect(n.Data)
		}
		if to, ok := m.redirects(d.Local.Addr()); ok {
			return m.redirectInit(s, d, to, ni.Data)
		}
	}
	p, err := m.chooseForAny(offer.Proposals)
	if err != nil {
		return m.refuseInit(s, d, wire.NoProposalChosen, nil, mismatchDiagnosis(ReasonPhase1Proposal, wire.IKESAInit, err))
	}
	if _, ok := msg.Notify(wire.IntermediateSupported); !ok && len(p.Additional()) > 0 {
		return m.refuseInit(s, d, wire.NoProposalChosen, nil, &Diagnosis{
			Reason: ReasonPhase1Proposal, Cause: CauseAdditional, Exchange: wire.IKESAInit.String(), Parameter: ipsec.TransformAdditional1.String(),
			Ours: p.String(), Detail: "the peer offers an additional key exchange and does not support IKE_INTERMEDIATE",
		})
	}
	g, _ := p.Get(ipsec.TransformGroup)
	if ke.Group != g.ID {
		return m.refuseInit(s, d, wire.InvalidKEPayload, groupData(g.ID), nil)
	}
	if err := checkNonce(p, ni.Data); err != nil {
		return err
	}
	return m.acceptInit(s, d, msg, p, ke.Data, ni.Data)
}

// expected returns the candidate that an initiator is taken for whose identity
// is not known: the only one with its very address. Without one, its failure is
// nobody's: anyone can send IKE_SA_INIT, and what it says must not appear as the
// story of a connection that it has nothing to do with.
func (m *Machine) expected(remote netip.Addr) *Connection {
	var only *Connection
	for _, c := range m.candidates {
		if c.Remote != remote.Unmap() {
			continue
		}
		if only != nil {
			return nil
		}
		only = c
	}
	return only
}

// chooseForAny chooses an IKE proposal that a candidate agrees with. The
// mismatch that it returns is the first candidate's.
func (m *Machine) chooseForAny(offered []ipsec.Proposal) (ipsec.Proposal, error) {
	var first error
	for _, c := range m.candidates {
		p, err := ipsec.Choose(c.Proposals, offered)
		if err == nil {
			return p, nil
		}
		if first == nil {
			first = err
		}
	}
	return ipsec.Proposal{}, first
}

// refuseInit answers without keeping state.
func (m *Machine) refuseInit(s *ikeSA, d Datagram, t wire.NotifyType, data []byte, diagnosis *Diagnosis) error {
	b, err := s.message(wire.IKESAInit, true, 0, []wire.Payload{&wire.Notify{NotifyType: t, Data: data}}).Append(nil)
	if err != nil {
		return err
	}
	m.emit(Send{Local: d.Local, Remote: d.Remote, Datagram: b})
	if diagnosis != nil {
		m.conn = m.expected(d.Remote.Addr())
		m.reportOn(s, diagnosis)
	}
	return nil
}

// acceptInit derives the keys, answers, and waits for IKE_AUTH.
func (m *Machine) acceptInit(s *ikeSA, d Datagram, msg *wire.Message, p ipsec.Proposal, public, ni []byte) error {
	g, _ := p.Get(ipsec.TransformGroup)
	h := &handshake{group: g.ID, ni: ni, request: bytes.Clone(d.Bytes)}
	value, shared, err := answerKeyExchange(g.ID, m.env.Rand, public)
	if err != nil {
		return err
	}
	defer clear(shared)
	if h.nr, err = m.newNonce(); err != nil {
		return err
	}
	if s.spir, err = m.newSPI(); err != nil {
		return err
	}
	prfTransform, _ := p.Get(ipsec.TransformPRF)
	f, err := newPRF(prfTransform)
	if err != nil {
		return err
	}
	if err := s.setKeys(p, firstSeed(f, h.ni, h.nr, shared), h.ni, h.nr); err != nil {
		return err
	}
	h.fakeNAT = forcesEncap(m.candidates, d.Remote.Addr().Unmap())
	payloads := []wire.Payload{
		&wire.SA{Proposals: []ipsec.Proposal{p}}, &wire.KE{Group: g.ID, Data: value}, &wire.Nonce{Data: h.nr},
	}
	if h.natTraversal = s.detectNAT(msg, d.Local, d.Remote); h.natTraversal {
		nat, err := s.natNotifies(d.Local, d.Remote, h.fakeNAT)
		if err != nil {
			return err
		}
		payloads = append(payloads, nat...)
		s.path.encap = s.path.encap || h.fakeNAT
	}
	if _, ok := msg.Notify(wire.FragmentationSupported); ok {
		s.fragmentation = true
		payloads = append(payloads, &wire.Notify{NotifyType: wire.FragmentationSupported})
	}
	payloads = append(payloads, &wire.Notify{NotifyType: wire.ChildlessIKEv2Supported})
	if h.intermediate.methods = p.Additional(); len(h.intermediate.methods) > 0 {
		payloads = append(payloads, &wire.Notify{NotifyType: wire.IntermediateSupported})
	}
	if _, ok := msg.Notify(wire.UsePPK); ok && slices.ContainsFunc(m.candidates, func(c *Connection) bool { return c.PPK != nil }) {
		payloads = append(payloads, &wire.Notify{NotifyType: wire.UsePPK})
	}
	if h.response, err = s.message(wire.IKESAInit, true, 0, payloads).Append(nil); err != nil {
		return err
	}
	s.handshake, s.expectID = h, 1
	s.halfOpenAt = m.now.Add(halfOpenTimeout)
	m.ikes, m.current = []*ikeSA{s}, s
	m.emit(Send{Local: d.Local, Remote: d.Remote, Datagram: h.response})
	return nil
}

// repeatInit sends the answer to IKE_SA_INIT again, when the request is the
// same octet by octet.
func (s *ikeSA) repeatInit(d Datagram) {
	if s.initiator || s.handshake == nil || !bytes.Equal(d.Bytes, s.handshake.request) {
		s.m.drop(dropInitOutOfPlace)
		return
	}
	s.sendTo(d.Local, d.Remote, [][]byte{s.handshake.response})
}

// halfOpenTimeout gives up on an initiator that does not go on. Whoever sends
// IKE_SA_INIT need not be a peer: it is reported only where the address can
// mean but one connection.
func (s *ikeSA) halfOpenTimeout() {
	m := s.m
	var d *Diagnosis
	if m.conn = m.expected(s.path.remote.Addr()); m.conn != nil {
		d = s.neverWentOn()
	}
	m.end(ReasonExchangeTimeout, d)
}

// groupData is the data of an INVALID_KE_PAYLOAD notify.
func groupData(id uint16) []byte { return binary.BigEndian.AppendUint16(nil, id) }

// wantedGroup reads it.
func wantedGroup(n *wire.Notify) (uint16, bool) {
	if len(n.Data) != 2 {
		return 0, false
	}
	return binary.BigEndian.Uint16(n.Data), true
}
