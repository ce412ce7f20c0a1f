package sa

import (
	"errors"
	"fmt"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// event returns an event about an IKE SA.
func (m *Machine) event(kind EventKind, s *ikeSA) Event {
	return Event{
		Kind: kind, Version: 2, Connection: m.Connection(), Local: s.path.local, Remote: s.path.remote,
		InitiatorSPI: s.spii, ResponderSPI: s.spir, Initiator: s.initiator, Proposal: s.proposal,
		Encap: s.path.encap, NATLocal: s.path.natLocal, NATRemote: s.path.natRemote,
	}
}

func (m *Machine) currentEvent(kind EventKind) Event {
	if m.current == nil {
		return Event{Kind: kind, Connection: m.Connection()}
	}
	return m.event(kind, m.current)
}

// event returns an event about a child.
func (c *childSA) event(kind EventKind) Event { return c.eventOn(c.m.ike.currentEvent(kind)) }

// eventOn makes an event about an IKE SA one about a child of it.
func (c *childSA) eventOn(e Event) Event {
	e.Child, e.Initiator, e.Proposal = c.slot.cfg.Name, c.initiator, c.proposal
	e.In, e.Out, e.LocalTS, e.RemoteTS = c.in, c.out, c.local, c.remote
	e.Local, e.Remote, e.Encap = c.path.local, c.path.remote, c.path.encap
	return e
}

// childFailure is a Failed event of a child, in an exchange that we began, or
// the peer; the IKE SA stays. k may be nil.
func (m *core) childFailure(k *slot, ours bool, d *Diagnosis) Event {
	e := m.ike.currentEvent(Failed)
	e.Reason, e.Diagnosis, e.Established, e.Initiator = d.Reason, d, true, ours
	e.Proposal = ipsec.Proposal{}
	if k != nil {
		e.Child, e.LocalTS, e.RemoteTS = k.cfg.Name, k.cfg.Local, k.cfg.Remote
	}
	return e
}

// report emits a Failed event about the negotiation of the IKE SA.
func (m *Machine) report(d *Diagnosis) { m.reportOn(m.current, d) }

func (m *Machine) reportOn(s *ikeSA, d *Diagnosis) {
	e := m.event(Failed, s)
	e.Reason, e.Diagnosis = d.Reason, d
	m.emit(Emit{e})
}

// mismatchDiagnosis tells which parameter of two proposals differs.
func mismatchDiagnosis(reason Reason, x wire.ExchangeType, err error) *Diagnosis {
	d := &Diagnosis{Reason: reason, Exchange: x.String()}
	var mismatch *ipsec.MismatchError
	if !errors.As(err, &mismatch) {
		d.Parameter, d.Detail = "proposal", err.Error()
		return d
	}
	if mismatch.Type == 0 {
		d.Parameter, d.Ours, d.Theirs = "protocol", mismatch.Protocol.String(), "another protocol"
		return d
	}
	d.Parameter = mismatch.Type.String()
	d.Ours, d.Theirs = ipsec.TransformList(mismatch.Ours), ipsec.TransformList(mismatch.Theirs)
	d.Cause = causeOfType(reason, mismatch.Type)
	d.Offers = &Offers{Of: offerOf(reason, x), Ours: mismatch.OurList, Theirs: mismatch.TheirList}
	if mismatch.Type == ipsec.TransformGroup && reason == ReasonPhase1Proposal {
		d.Reason = ReasonResponderDH
	}
	return d
}

// proposalList joins proposals for a message.
func proposalList(list []ipsec.Proposal) string { return ipsec.List(list, "; ") }

// groupList joins the groups of proposals for a message.
func groupList(list []ipsec.Proposal) string {
	var groups []ipsec.Transform
	for _, p := range list {
		groups = append(groups, p.Of(ipsec.TransformGroup)...)
	}
	return ipsec.TransformList(groups)
}

// refusedInit is for an error in answer to IKE_SA_INIT or a rekey of the IKE SA.
func refusedInit(n *wire.Notify, ours []ipsec.Proposal) *Diagnosis {
	d := &Diagnosis{
		Reason: ReasonPhase1Proposal, Exchange: wire.IKESAInit.String(), Parameter: "proposal", Ours: proposalList(ours),
		Offers: &Offers{Of: OfferIKE, Ours: ours},
	}
	switch n.NotifyType {
	case wire.NoProposalChosen:
		d.Detail = "the peer accepts none of our proposals, or knows no connection for our address"
	case wire.InvalidMajorVersion:
		d.Reason, d.Parameter, d.Ours, d.Offers = ReasonVersion, "IKE version", "2", nil
		d.Detail = "the peer does not speak IKEv2"
	case wire.InvalidSyntax:
		d.Reason, d.Parameter, d.Ours, d.Offers = ReasonMalformedPayload, "", "", nil
		d.Detail = "the peer found our request malformed"
	default:
		d.Cause, d.Offers = CauseRefusedByPeer, nil
		d.Detail = "the peer answered with " + n.NotifyType.String()
	}
	return d
}

// refusedAuth is for an error in answer to IKE_AUTH that comes without the
// peer's own proof.
func refusedAuth(n *wire.Notify, c *Connection, esp []ipsec.Proposal) *Diagnosis {
	d := &Diagnosis{Exchange: wire.IKEAuth.String()}
	switch n.NotifyType {
	case wire.AuthenticationFailed:
		d.Reason, d.Parameter = ReasonAuthentication, "pre-shared key or identity"
		d.Ours = fmt.Sprintf("local %s, peer %s", c.LocalID, c.RemoteID)
		d.Detail = "the peer rejected our identity or our pre-shared key and does not say which"
	case wire.NoProposalChosen:
		d.Reason, d.Parameter, d.Ours = ReasonPhase2Proposal, "proposal", proposalList(esp)
		d.Detail = "the peer accepts none of our ESP proposals"
		d.Offers = &Offers{Of: OfferFirstChild, Ours: esp}
	case wire.InvalidSyntax:
		d.Reason, d.Detail = ReasonMalformedPayload, "the peer found our request malformed"
	default:
		d.Reason, d.Cause, d.Parameter = ReasonAuthentication, CauseRefusedByPeer, "IKE_AUTH request"
		d.Detail = "the peer answered with " + n.NotifyType.String()
	}
	return d
}

// rejectedByPeer is for an initiator that, after our answer, says that it does
// not accept our proof.
func rejectedByPeer(c *Connection) *Diagnosis {
	return &Diagnosis{
		Reason: ReasonAuthentication, Exchange: wire.Informational.String(), Parameter: "pre-shared key or identity",
		Ours:   fmt.Sprintf("local %s, peer %s", c.LocalID, c.RemoteID),
		Detail: "the peer rejected our identity or our pre-shared key and does not say which",
	}
}

// refusedChild is for an error in answer to a request for a child.
func refusedChild(x wire.ExchangeType, n *wire.Notify, cfg *Child, esp []ipsec.Proposal, rekey bool) *Diagnosis {
	d := &Diagnosis{Exchange: x.String()}
	switch n.NotifyType {
	case wire.NoProposalChosen:
		d.Reason, d.Parameter, d.Ours = ReasonPhase2Proposal, "proposal", proposalList(esp)
		d.Detail = "the peer accepts none of our ESP proposals"
		d.Offers = &Offers{Of: offerOf(ReasonPhase2Proposal, x), Ours: esp}
	case wire.InvalidKEPayload:
		d.Reason, d.Cause, d.Parameter, d.Ours = ReasonPhase2Proposal, CausePFS, "PFS group", groupList(esp)
		d.Offers = &Offers{Of: OfferChild, Ours: esp}
		if g, ok := wantedGroup(n); ok {
			d.Theirs = ipsec.Group(g).String()
			d.Offers.Theirs = withGroup(esp, g)
		}
	case wire.TSUnacceptable, wire.SinglePairRequired:
		d.Reason, d.Parameter = ReasonFlow, "traffic selectors"
		d.Ours = flowText(cfg.Local, cfg.Remote)
		d.Detail = "the peer accepts none of our traffic selectors"
		d.Flows = &Flows{Ours: []Flow{{cfg.Local, cfg.Remote}}}
		if n.NotifyType == wire.SinglePairRequired {
			d.Cause = CauseSinglePair
			d.Detail = "the peer takes one pair of traffic selectors a child only"
		}
	default:
		d.Reason, d.Cause, d.Parameter = ReasonPhase2Proposal, CauseRefusedByPeer, "CHILD_SA"
		if rekey {
			d.Reason = ReasonRekeyFail
		}
		d.Detail = "the peer answered with " + n.NotifyType.String()
	}
	return d
}

func flowText(local, remote []ipsec.TrafficSelector) string { return Flow{local, remote}.String() }

// flowDiagnosis is for a peer whose selectors fit no configured child.
func (m *core) flowDiagnosis(exchange string, local, remote []ipsec.TrafficSelector) *Diagnosis {
	f := &Flows{Theirs: Flow{local, remote}}
	for _, k := range m.slots {
		if k.template == nil {
			f.Ours = append(f.Ours, Flow{k.cfg.Local, k.cfg.Remote})
		}
	}
	d := &Diagnosis{
		Reason: ReasonFlow, Cause: f.cause(), Exchange: exchange, Parameter: "traffic selectors",
		Ours: ipsec.List(f.Ours, "; "), Theirs: f.Theirs.String(), Flows: f,
		Detail: "the peer's selectors, shown from our side, share nothing with a configured pair",
	}
	switch d.Cause {
	case CauseSwapped:
		d.Detail = "the peer has local and remote exchanged: its selectors, shown from our side, fit a configured pair the other way round"
	case CauseMirrored:
		d.Detail = "both ends name one network as their own: the peer's selectors are not the mirror image of a configured pair"
	default:
	}
	return d
}

// selectorDiagnosis is for an answer that goes beyond what we asked for.
func selectorDiagnosis(x wire.ExchangeType, cfg *Child, local, remote []ipsec.TrafficSelector) *Diagnosis {
	return &Diagnosis{
		Reason: ReasonFlow, Cause: CauseNegotiatedAway, Exchange: x.String(), Parameter: "traffic selectors",
		Ours: flowText(cfg.Local, cfg.Remote), Theirs: flowText(local, remote),
		Detail: "the peer answered with selectors that we did not offer",
	}
}

// identityDiagnosis tells of an identity that differs: the peer's, or ours.
func identityDiagnosis(cause Cause, ours, theirs Identity) *Diagnosis {
	parameter := "peer identity"
	if cause == CauseLocalID {
		parameter = "local identity"
	}
	return &Diagnosis{
		Reason: ReasonConfigID, Cause: cause, Exchange: wire.IKEAuth.String(), Parameter: parameter,
		Ours: ours.String(), Theirs: theirs.String(), Identity: theirs,
	}
}

// malformedChild is for payloads of a child that make no sense.
func malformedChild(msg *wire.Message, err error) *Diagnosis {
	return &Diagnosis{
		Reason: ReasonMalformedPayload, Exchange: msg.Exchange.String(), Parameter: "CHILD_SA", Detail: err.Error(),
	}
}

// unreachable tells which message has brought no answer.
func unreachable(s *ikeSA, o *outstanding) *Diagnosis {
	d := &Diagnosis{
		Reason: ReasonMaxTransmit, Exchange: o.kind().String(), Parameter: "peer address",
		Detail: fmt.Sprintf("no answer to %s request %d, sent %d times to %s from %s",
			o.kind(), o.id, o.tries+1, s.path.remote, s.path.local),
		silentPort: s.path.remote.Port(),
	}
	if largest := largestOf(o.datagrams); largest > fragmentSize {
		d.Cause, d.Parameter = CauseFragments, "message size"
		d.Detail += fmt.Sprintf("; it has %d octets, and IP fragments may be dropped on the way", largest)
	} else if o.kind() == wire.IKEAuth {
		d.Cause = CauseSilence
		if s.path.remote.Port() == portNAT {
			d.Cause, d.Parameter = CauseUDP4500, "UDP port 4500"
			d.Detail += "; UDP port 4500 may be blocked"
		}
	} else if s.authenticated {
		d.Cause = CauseDeadPeer
	}
	if s.handshake != nil && s.handshake.hint != nil {
		d.Detail += "; an unprotected answer said " + s.handshake.hint.NotifyType.String()
	}
	return d
}

func largestOf(datagrams [][]byte) int {
	largest := 0
	for _, b := range datagrams {
		largest = max(largest, len(b))
	}
	return largest
}

// neverWentOn is for an initiator of which nothing usable has come after its
// IKE_SA_INIT request.
func (s *ikeSA) neverWentOn() *Diagnosis {
	d := &Diagnosis{
		Reason: ReasonExchangeTimeout, Cause: CauseSilence, Exchange: wire.IKEAuth.String(), Parameter: "IKE_AUTH request",
		Detail: fmt.Sprintf("%s sent IKE_SA_INIT and nothing usable after it; UDP port 4500 or IP fragments may be blocked", s.path.remote),
	}
	switch {
	case !s.reassemblyAt.IsZero():
		d.Cause, d.Parameter = CauseFragments, "message size"
		d.Detail = fmt.Sprintf("of the IKE_AUTH request of %s some fragments have come and others have not", s.path.remote)
	case s.path.encap:
		d.Cause, d.Parameter = CauseUDP4500, "UDP port 4500"
		d.Detail = fmt.Sprintf("%s sent IKE_SA_INIT to port 500 and, with a NAT on the way, has to go on at port 4500, where nothing came", s.path.remote)
	}
	return d
}

// provenIdentity adds to a diagnosis of identities whether the key is right.
func provenIdentity(d *Diagnosis, proven bool) *Diagnosis {
	d.Detail = "the pre-shared key is right: only the identity differs"
	if !proven {
		d.Detail = "the proof does not fit our pre-shared key either"
	}
	return d
}
