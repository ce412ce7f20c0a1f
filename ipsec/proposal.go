package ipsec

import (
	"fmt"
	"slices"
)

// Proposal is one offer of an SA payload: a protocol, the sender's SPI and the
// transforms to choose one of each type from, in order of preference
// (RFC 7296, section 3.3).
type Proposal struct {
	Number     uint8 // position in the SA payload, from 1; zero when not on the wire
	Protocol   Protocol
	SPI        []byte // 0, 4 (ESP, AH) or 8 (IKE) octets
	Transforms []Transform
}

// Of returns the transforms of one type, in order of preference.
func (p Proposal) Of(t TransformType) []Transform {
	var of []Transform
	for _, tr := range p.Transforms {
		if tr.Type == t {
			of = append(of, tr)
		}
	}
	return of
}

// Get returns the transform of a type in a chosen proposal, where each type
// occurs at most once; ok is false when the type does not occur.
func (p Proposal) Get(t TransformType) (tr Transform, ok bool) {
	for _, tr := range p.Transforms {
		if tr.Type == t {
			return tr, true
		}
	}
	return Transform{}, false
}

// Without returns a copy of the proposal that lacks one transform type.
func (p Proposal) Without(t TransformType) Proposal {
	p.Transforms = slices.DeleteFunc(slices.Clone(p.Transforms), func(tr Transform) bool { return tr.Type == t })
	return p
}

// WithoutKeyExchange returns a copy of the proposal that lacks the key exchange
// methods. The ESP proposals of an IKE_AUTH exchange go without them.
func (p Proposal) WithoutKeyExchange() Proposal {
	p.Transforms = slices.DeleteFunc(slices.Clone(p.Transforms), func(tr Transform) bool { return tr.Type.IsKeyExchange() })
	return p
}

// Additional returns the methods of the additional key exchanges of a chosen
// proposal, in their order. Those that are NONE are left out.
func (p Proposal) Additional() []uint16 {
	var methods []uint16
	for t := TransformAdditional1; t.IsAdditional(); t++ {
		if tr, ok := p.Get(t); ok && tr.ID != GroupNone {
			methods = append(methods, tr.ID)
		}
	}
	return methods
}

// String lists the algorithms as "ESP: AES-CBC-256, HMAC-SHA2-256-128, no ESN".
func (p Proposal) String() string {
	return p.Protocol.String() + ": " + TransformList(p.Transforms)
}

// MismatchError tells why two lists of proposals have nothing in common: for
// the pair of proposals that came closest, the first transform type on which
// they differ and what each side had there.
type MismatchError struct {
	Protocol Protocol
	Type     TransformType // zero when no proposal was for the wanted protocol
	Ours     []Transform
	Theirs   []Transform

	// OurList and TheirList are the lists that have nothing in common.
	OurList, TheirList []Proposal
}

func (e *MismatchError) Error() string {
	if e.Type == 0 {
		return fmt.Sprintf("no proposal for %s", e.Protocol)
	}
	return fmt.Sprintf("%s: no common %s: we have %s, the peer has %s",
		e.Protocol, e.Type, TransformList(e.Ours), TransformList(e.Theirs))
}

// Choose selects the proposal to answer with: the first of theirs that one of
// ours, taken in our order of preference, agrees with. The result carries
// their number and SPI and exactly one transform of each type. The error is
// always a *MismatchError.
func Choose(ours, theirs []Proposal) (Proposal, error) {
	best, bestDepth := &MismatchError{}, -1
	defer func() { best.OurList, best.TheirList = ours, theirs }()
	if len(ours) > 0 {
		best.Protocol = ours[0].Protocol
	}
	for _, our := range ours {
		for _, their := range theirs {
			if our.Protocol != their.Protocol {
				continue
			}
			chosen, mismatch, depth := match(our, their)
			if mismatch == nil {
				return chosen, nil
			}
			if depth > bestDepth {
				best, bestDepth = mismatch, depth
			}
		}
	}
	return Proposal{}, best
}

// transformOrder is the order in which types are matched, and so the order in
// which a mismatch is blamed.
var transformOrder = []TransformType{
	TransformEncryption, TransformIntegrity, TransformPRF, TransformGroup,
	TransformAdditional1, TransformAdditional2, TransformAdditional3, TransformAdditional4,
	TransformAdditional5, TransformAdditional6, TransformAdditional7, TransformESN,
}

// match intersects two proposals. depth counts the types that agreed before
// the mismatch.
func match(our, their Proposal) (chosen Proposal, mismatch *MismatchError, depth int) {
	chosen = Proposal{Number: their.Number, Protocol: their.Protocol, SPI: slices.Clone(their.SPI)}
	chosen.Transforms = make([]Transform, 0, min(len(our.Transforms), len(their.Transforms)))
	for _, their := range their.Transforms {
		if !slices.Contains(transformOrder, their.Type) {
			// A type that we do not know cannot be agreed on (RFC 7296, 3.3.6).
			return Proposal{}, &MismatchError{Protocol: our.Protocol, Type: their.Type, Theirs: []Transform{their}}, depth
		}
	}
	for _, t := range transformOrder {
		mine, yours := our.Of(t), their.Of(t)
		if enc, _ := chosen.Get(TransformEncryption); t == TransformIntegrity && enc.IsAEAD() {
			// A combined-mode cipher goes with no integrity transform, or with
			// NONE (RFC 7296, section 3.3.3). The peer may have put the ones of
			// its other ciphers into the same proposal.
			mine, yours = nil, slices.DeleteFunc(yours, func(tr Transform) bool { return tr.ID != IntegrityNone })
		}
		mine, yours = withDefault(t, our.Protocol, mine), withDefault(t, our.Protocol, yours)
		if len(mine) == 0 && len(yours) == 0 {
			continue
		}
		i := slices.IndexFunc(mine, func(tr Transform) bool { return slices.Contains(yours, tr) && !chosen.repeats(tr) })
		if i < 0 {
			return Proposal{}, &MismatchError{Protocol: our.Protocol, Type: t, Ours: mine, Theirs: yours}, depth
		}
		depth++
		explicit := slices.Contains(their.Transforms, mine[i])
		if explicit {
			chosen.Transforms = append(chosen.Transforms, mine[i])
		}
	}
	return chosen, nil, depth
}

// repeats reports whether a method of an additional key exchange is chosen
// already: all of them have to differ (RFC 9370, section 2.2.1).
func (p Proposal) repeats(tr Transform) bool {
	return tr.Type.IsAdditional() && tr.ID != GroupNone && slices.ContainsFunc(p.Transforms, func(have Transform) bool {
		return have.Type.IsKeyExchange() && have.ID == tr.ID
	})
}

// withDefault spells out what an absent transform means: no integrity, no
// group, no additional key exchange, and for ESP no extended sequence numbers.
func withDefault(t TransformType, p Protocol, list []Transform) []Transform {
	if len(list) > 0 {
		return list
	}
	switch {
	case t == TransformIntegrity:
		return []Transform{Integrity(IntegrityNone)}
	case t == TransformGroup && p != ProtocolIKE, t.IsAdditional():
		return []Transform{{Type: t, ID: GroupNone}}
	case t == TransformESN && p != ProtocolIKE:
		return []Transform{ESN(false)}
	}
	return nil
}
