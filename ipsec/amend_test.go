package ipsec

import (
	"math/rand/v2"
	"slices"
	"testing"
)

var amendable = map[TransformType][]Transform{
	TransformEncryption: {Encryption(EncryptionAESCBC, 128), Encryption(EncryptionAESCBC, 256), Encryption(EncryptionAESGCM16, 128), Encryption(Encryption3DES, 0)},
	TransformIntegrity:  {Integrity(IntegrityHMACSHA196), Integrity(IntegrityHMACSHA2256128), Integrity(IntegrityNone)},
	TransformPRF:        {PRF(PRFHMACSHA1), PRF(PRFHMACSHA2256)},
	TransformGroup:      {Group(GroupMODP2048), Group(GroupECP256), Group(GroupNone)},
	TransformESN:        {ESN(false), ESN(true)},
}

// anyProposal draws a proposal as a peer may send it: types with several
// transforms, with none, and at times one that nobody knows.
func anyProposal(r *rand.Rand, protocol Protocol) Proposal {
	p := Proposal{Protocol: protocol}
	for _, t := range transformOrder {
		for _, tr := range amendable[t] {
			if r.IntN(3) == 0 {
				p.Transforms = append(p.Transforms, tr)
			}
		}
	}
	if r.IntN(8) == 0 {
		p.Transforms = append(p.Transforms, Transform{Type: 77, ID: 1})
	}
	return p
}

func TestAmendMakesChooseSucceed(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	amended := 0
	for range 2000 {
		protocol := []Protocol{ProtocolIKE, ProtocolESP}[r.IntN(2)]
		var ours, theirs []Proposal
		for range 1 + r.IntN(2) {
			ours = append(ours, anyProposal(r, protocol))
		}
		for range 1 + r.IntN(2) {
			theirs = append(theirs, anyProposal(r, protocol))
		}
		check := func(name string, from, toward []Proposal) {
			at, amendments, ok := Amend(from, toward)
			if !ok {
				if !slices.ContainsFunc(toward, func(p Proposal) bool { return len(p.Of(77)) > 0 }) && len(toward) == 1 {
					t.Fatalf("%s: no amendment of %v toward %v", name, from, toward)
				}
				return
			}
			one := []Proposal{from[at].Amended(amendments)}
			if _, err := Choose(one, toward); err != nil {
				t.Fatalf("%s: %v amended by %v does not agree with %v: %v", name, from[at], amendments, toward, err)
			}
			if _, err := Choose(toward, one); err != nil {
				t.Fatalf("%s: %v amended by %v is not accepted by %v: %v", name, from[at], amendments, toward, err)
			}
			// No fewer do: with any one of them left out there is no agreement.
			for i := range amendments {
				less := []Proposal{from[at].Amended(slices.Delete(slices.Clone(amendments), i, i+1))}
				_, err := Choose(less, toward)
				_, back := Choose(toward, less)
				if err == nil && back == nil {
					t.Fatalf("%s: %v of %v is not needed toward %v", name, amendments[i], from[at], toward)
				}
			}
			amended += len(amendments)
		}
		check("ours", ours, theirs)
		check("theirs", theirs, ours)
	}
	if amended == 0 {
		t.Fatal("nothing had to be amended")
	}
}

func TestAmendNamesTheGroup(t *testing.T) {
	ours := []Proposal{{Protocol: ProtocolIKE, Transforms: []Transform{
		Encryption(EncryptionAESGCM16, 128), PRF(PRFHMACSHA2256), Group(GroupECP256),
	}}}
	theirs := []Proposal{{Protocol: ProtocolIKE, Transforms: []Transform{
		Encryption(EncryptionAESGCM16, 128), PRF(PRFHMACSHA2256), Group(GroupMODP3072),
	}}}
	_, amendments, ok := Amend(ours, theirs)
	if !ok || len(amendments) != 1 || amendments[0].Type != TransformGroup ||
		!slices.Equal(amendments[0].Have, []Transform{Group(GroupECP256)}) || !slices.Equal(amendments[0].Want, []Transform{Group(GroupMODP3072)}) {
		t.Errorf("have %v, %v", amendments, ok)
	}
	if _, amendments, ok = Amend(ours, ours); !ok || len(amendments) != 0 {
		t.Errorf("what agrees is amended: %v, %v", amendments, ok)
	}
	if _, _, ok = Amend(ours, []Proposal{{Protocol: ProtocolESP}}); ok {
		t.Error("another protocol agrees")
	}
}
