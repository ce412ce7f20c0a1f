package sa

import (
	"slices"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// OfferKind says in what proposals were compared, which decides on the transform
// types that count.
type OfferKind uint8

// Kinds of offers.
const (
	OfferIKE        OfferKind = iota + 1 // IKE SA of IKEv2
	OfferFirstChild                      // CHILD_SA of IKE_AUTH, which has no group
	OfferChild                           // CHILD_SA of CREATE_CHILD_SA
	OfferPhase1                          // ISAKMP SA, whose hash is its PRF
	OfferQuickMode                       // CHILD_SA of IKEv1
)

// Offers are the proposals of both ends that have nothing in common.
type Offers struct {
	Of     OfferKind
	Ours   []ipsec.Proposal
	Theirs []ipsec.Proposal // nil: the peer did not tell
}

// Accepts reports whether the peer and we would agree if a proposal took the
// place of ours.
func (o *Offers) Accepts(ours ipsec.Proposal) bool {
	_, err := ipsec.Choose(o.view(ours), o.Theirs)
	return err == nil
}

// view returns what of a proposal is compared.
func (o *Offers) view(p ipsec.Proposal) []ipsec.Proposal {
	switch o.Of {
	case OfferFirstChild:
		return []ipsec.Proposal{p.WithoutKeyExchange()}
	case OfferPhase1:
		return phase1Sets([]ipsec.Proposal{p})
	case OfferIKE, OfferChild, OfferQuickMode:
	}
	return []ipsec.Proposal{p}
}

// PeerAmendments are the fewest changes at the peer by which both ends agree; ok
// is false when it did not tell what it has, or has nothing of the kind.
func (o *Offers) PeerAmendments() (amendments []ipsec.Amendment, ok bool) {
	if len(o.Theirs) == 0 {
		return nil, false
	}
	_, amendments, ok = ipsec.Amend(o.Theirs, o.Ours)
	return amendments, ok
}

// offerOf returns what proposals were for that IKEv2 negotiates.
func offerOf(reason Reason, x wire.ExchangeType) OfferKind {
	switch {
	case reason == ReasonPhase1Proposal:
		return OfferIKE
	case x == wire.IKEAuth:
		return OfferFirstChild
	}
	return OfferChild
}

// withGroup returns proposals with another group: what a peer would accept that
// asks for it.
func withGroup(list []ipsec.Proposal, id uint16) []ipsec.Proposal {
	list = slices.Clone(list)
	for i, p := range list {
		list[i] = p.Amended([]ipsec.Amendment{{Type: ipsec.TransformGroup, Want: []ipsec.Transform{ipsec.Group(id)}}})
	}
	return list
}

// Flow is traffic between two ends, as seen from ours.
type Flow struct{ Local, Remote []ipsec.TrafficSelector }

// String reads "local 10.0.0.0/24, remote 10.1.0.0/24".
func (f Flow) String() string {
	return "local " + ipsec.SelectorList(f.Local) + ", remote " + ipsec.SelectorList(f.Remote)
}

// Meets reports whether two flows share traffic.
func (f Flow) Meets(o Flow) bool { return meet(f.Local, o.Local) && meet(f.Remote, o.Remote) }

func meet(a, b []ipsec.TrafficSelector) bool { return len(ipsec.Narrow(a, b)) > 0 }

// Flows are the traffic selectors of both ends that do not fit.
type Flows struct {
	Ours   []Flow // one of each configured child
	Theirs Flow   // empty: the peer did not tell
}

// cause tells apart what a person can have confused.
func (f *Flows) cause() Cause {
	mirrored := false
	for _, o := range f.Ours {
		if o.Meets(f.Theirs) { // in part, which IKEv1 does not take
			return CauseSelectors
		}
		ownsOurs, ownsTheirs := meet(o.Local, f.Theirs.Remote), meet(o.Remote, f.Theirs.Local)
		if ownsOurs && ownsTheirs {
			return CauseSwapped
		}
		mirrored = mirrored || ownsOurs || ownsTheirs
	}
	if mirrored {
		return CauseMirrored
	}
	return CauseSelectors
}
