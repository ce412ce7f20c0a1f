package sa

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// childInquiry finds out what a peer would take that has refused a CHILD_SA with
// NO_PROPOSAL_CHOSEN: it asks for one with all algorithms that there are, and
// compares what the peer chooses with what we have. Neither end can use what comes
// of it: its selectors are of a protocol that nobody speaks, we do not install it,
// and the peer is told at once that it is gone.
type childInquiry struct {
	slot  *slot
	cfg   *Child // of the slot, as it was then
	about *Diagnosis

	in        ipsec.SPI
	proposals []ipsec.Proposal
	ni        []byte
	group     uint16 // of kex; the peer may have asked for it
	kex       keyExchange
	rounds    int
}

// childFinding is what an inquiry about a slot has found, or that there was one.
type childFinding struct {
	of    *Child // the slot's configuration
	at    time.Time
	found *Diagnosis // nil: nothing so far
}

const (
	// childInquiryEvery is how soon a peer is asked again.
	childInquiryEvery = 10 * time.Minute
	// unusedProtocol is that of an inquiry's selectors: for experiments (RFC 3692).
	unusedProtocol = 253
)

// explain returns what is known of a refusal of a child that we asked for, and plans
// an inquiry where that is nothing.
func (m *Machine) explain(k *slot, d *Diagnosis) *Diagnosis {
	if d.Reason != ReasonPhase2Proposal || d.Offers == nil || len(d.Offers.Theirs) > 0 || len(k.cfg.Proposals) == 0 || k.template != nil {
		return d
	}
	f := &k.finding
	if f.of != k.cfg {
		*f = childFinding{of: k.cfg}
	}
	if (f.at.IsZero() || m.now.Sub(f.at) >= childInquiryEvery) && m.current != nil && m.bare() {
		f.at = m.now
		m.current.enqueue(&childInquiry{slot: k, cfg: k.cfg, about: d})
	}
	if f.found != nil {
		return f.found
	}
	return d
}

// bare reports whether there is no CHILD_SA with the peer, nor another IKE SA. With
// one, the peer is not asked: of proposals that have everything it may choose those
// of the child that it has, whichever that is, and take the answer for its successor.
// Nor is an IKE SA that carries traffic put at risk where the peer does not answer.
func (m *Machine) bare() bool {
	for _, c := range m.children {
		if c.state != Deleted {
			return false
		}
	}
	return m.env.InitialContact == nil || m.env.InitialContact(m.conn)
}

func (x *childInquiry) wipe() {
	if x.kex != nil {
		x.kex.wipe()
		x.kex = nil
	}
}

func (x *childInquiry) kind() wire.ExchangeType { return wire.CreateChildSA }

// moot reports whether the slot is another one by now, or the peer has a child.
func (x *childInquiry) moot(s *ikeSA) bool {
	return x.slot.removed || x.slot.cfg != x.cfg || s.state != Established || !s.m.bare()
}

func (x *childInquiry) request(s *ikeSA) ([]wire.Payload, bool) {
	if x.moot(s) {
		return nil, false
	}
	m := s.m
	if len(s.queue) > 0 && x.rounds == 0 {
		// What may carry traffic goes first. The slot's next refusal brings another one.
		x.slot.finding.at = time.Time{}
		return nil, false
	}
	local, remote := unused(x.cfg.Local), unused(x.cfg.Remote)
	if len(local) == 0 || len(remote) == 0 {
		return nil, false
	}
	if ask := m.env.InquireChild; ask != nil && x.rounds == 0 && !ask(m.conn, x.cfg.Name) {
		return nil, false
	}
	var err error
	if x.in, err = m.env.AllocSPI(s.childPath().local.Addr()); err != nil {
		return nil, false
	}
	x.proposals = everyChildProposal(x.cfg, x.in)
	if x.group == ipsec.GroupNone {
		x.group = firstGroup(x.proposals)
	}
	if x.ni, err = m.newNonce(); err != nil {
		return nil, false
	}
	if x.kex, err = newKeyExchange(x.group, m.env.Rand); err != nil {
		return nil, false
	}
	return []wire.Payload{
		&wire.SA{Proposals: x.proposals}, &wire.Nonce{Data: x.ni}, &wire.KE{Group: x.group, Data: x.kex.public()},
		&wire.TS{Selectors: local}, &wire.TS{Responder: true, Selectors: remote},
	}, true
}

// unused returns selectors of traffic that there is not, within those of the given
// ones that are of any protocol.
func unused(list []ipsec.TrafficSelector) []ipsec.TrafficSelector {
	var within []ipsec.TrafficSelector
	for _, ts := range list {
		if ts.Protocol == 0 {
			ts.Protocol = unusedProtocol
			within = append(within, ts)
		}
	}
	return within
}

// everyChildProposal returns all that there is to offer for a CHILD_SA, what it is
// configured for first, with a key exchange of its own and without one.
func everyChildProposal(cfg *Child, in ipsec.SPI) []ipsec.Proposal {
	of := func(t ipsec.TransformType, every []ipsec.Transform) []ipsec.Transform {
		return ownFirst(cfg.Proposals, t, every)
	}
	ciphers, aeads := of(ipsec.TransformEncryption, everyCipher), of(ipsec.TransformEncryption, everyAEAD)
	integ, groups := of(ipsec.TransformIntegrity, everyIntegrity), of(ipsec.TransformGroup, append(slices.Clone(everyGroup), ipsec.Group(ipsec.GroupCurve25519)))
	var list []ipsec.Proposal
	for _, kex := range [][]ipsec.Transform{groups, nil} {
		for _, algorithms := range [][]ipsec.Transform{slices.Concat(ciphers, integ), aeads} {
			list = append(list, ipsec.Proposal{
				Number: uint8(len(list) + 1), Protocol: ipsec.ProtocolESP, SPI: binary.BigEndian.AppendUint32(nil, uint32(in)),
				Transforms: slices.Concat(algorithms, kex, []ipsec.Transform{ipsec.ESN(false)}),
			})
		}
	}
	return list
}

func (x *childInquiry) response(s *ikeSA, _ Datagram, msg *wire.Message) {
	defer x.wipe()
	if n, ok := msg.ErrorNotify(); ok {
		g, ok := wantedGroup(n)
		if ok && n.NotifyType == wire.InvalidKEPayload && offers(x.proposals, g) && g != x.group && x.rounds < maxGroupRounds {
			x.rounds++
			x.group = g
			s.queue = append([]exchange{x}, s.queue...)
		} else if n.NotifyType != wire.TemporaryFailure && x.slot.cfg == x.cfg {
			x.slot.finding.found = nil
		}
		return
	}
	s.queue = append([]exchange{&deleteUnused{x.in}}, s.queue...)
	if x.moot(s) {
		return
	}
	x.slot.finding.found = nil // what was true at the last inquiry
	p, err := chosen(x.proposals, msg)
	if err != nil {
		return
	}
	if _, err = ipsec.Choose(x.slot.proposals(true), []ipsec.Proposal{p}); err == nil {
		return // it is something else that the peer does not like
	}
	d := mismatchDiagnosis(ReasonPhase2Proposal, wire.CreateChildSA, err)
	d.Exchange = x.about.Exchange
	d.Detail = "the peer refused our ESP proposals; from all that there are it chose " + proposalList([]ipsec.Proposal{p})
	x.slot.finding.found = d
	s.m.emit(Emit{s.m.childFailure(x.slot, true, d)})
}

func (x *childInquiry) unanswered(s *ikeSA, o *outstanding) {
	x.wipe()
	s.dead(o)
}

// deleteUnused tells the peer that a CHILD_SA is gone which was never installed here.
type deleteUnused struct{ in ipsec.SPI }

func (x *deleteUnused) kind() wire.ExchangeType { return wire.Informational }

func (x *deleteUnused) request(*ikeSA) ([]wire.Payload, bool) {
	return []wire.Payload{&wire.Delete{Protocol: ipsec.ProtocolESP, SPIs: []ipsec.SPI{x.in}}}, true
}

func (x *deleteUnused) response(*ikeSA, Datagram, *wire.Message) {}

func (x *deleteUnused) unanswered(s *ikeSA, o *outstanding) { s.dead(o) }
