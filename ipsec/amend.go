package ipsec

import (
	"math/bits"
	"slices"
)

// Amendment is one transform type of which a proposal needs other transforms.
type Amendment struct {
	Type TransformType
	Have []Transform // empty: none of the type
	Want []Transform // empty: the type is to go
}

// Bounds of Amend: peers send such lists.
const (
	maxAmendPairs = 512
	maxAmendTypes = 8
)

// Amend returns the fewest amendments to one proposal of from by which it agrees
// with one of toward, whichever side offers, and which proposal that is. There
// are none where two agree as they are; ok is false when the lists have no
// protocol in common.
func Amend(from, toward []Proposal) (at int, amendments []Amendment, ok bool) {
	best, pairs := maxAmendTypes+1, 0
	for i, f := range from {
		for _, t := range toward {
			if f.Protocol != t.Protocol || pairs == maxAmendPairs {
				continue
			}
			pairs++
			if found := amend(f, t, best); found != nil {
				at, amendments, best = i, *found, len(*found)
			}
		}
	}
	return at, amendments, best <= maxAmendTypes
}

// amend returns the fewest amendments that make two proposals agree, if they are
// fewer than a number.
func amend(from, toward Proposal, fewerThan int) *[]Amendment {
	var types []TransformType
	for _, t := range slices.Concat(transformOrder, typesOf(from), typesOf(toward)) {
		if !slices.Contains(types, t) && (len(from.Of(t)) > 0 || len(toward.Of(t)) > 0) {
			types = append(types, t)
		}
	}
	if len(types) > maxAmendTypes {
		return nil
	}
	for size := 0; size <= len(types) && size < fewerThan; size++ {
		for set := range 1 << len(types) {
			if bits.OnesCount(uint(set)) != size {
				continue
			}
			amendments := []Amendment{}
			for i, t := range types {
				if set>>i&1 == 1 {
					amendments = append(amendments, Amendment{t, from.Of(t), toward.Of(t)})
				}
			}
			if agree(from.Amended(amendments), toward) {
				return &amendments
			}
		}
	}
	return nil
}

func typesOf(p Proposal) []TransformType {
	types := make([]TransformType, len(p.Transforms))
	for i, t := range p.Transforms {
		types[i] = t.Type
	}
	return types
}

// agree reports whether two proposals agree, whichever side offers.
func agree(a, b Proposal) bool {
	_, one, _ := match(a, b)
	_, other, _ := match(b, a)
	return one == nil && other == nil
}

// Amended returns a copy of the proposal with amendments made.
func (p Proposal) Amended(amendments []Amendment) Proposal {
	for _, a := range amendments {
		p = p.Without(a.Type)
		p.Transforms = append(p.Transforms, a.Want...)
	}
	return p
}
