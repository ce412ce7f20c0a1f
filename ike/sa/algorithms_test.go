package sa

import (
	"slices"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

// The algorithms that the API has, and those beyond it that IKEv2 alone has.
var (
	cbcCiphers = []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESCBC, 128), ipsec.Encryption(ipsec.EncryptionAESCBC, 192),
		ipsec.Encryption(ipsec.EncryptionAESCBC, 256), ipsec.Encryption(ipsec.Encryption3DES, 0),
	}
	gcmCiphers = []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), ipsec.Encryption(ipsec.EncryptionAESGCM16, 256),
	}
	chacha     = ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 0)
	hashesUsed = [][2]uint16{ // PRF and integrity
		{ipsec.PRFHMACMD5, ipsec.IntegrityHMACMD596},
		{ipsec.PRFHMACSHA1, ipsec.IntegrityHMACSHA196},
		{ipsec.PRFHMACSHA2256, ipsec.IntegrityHMACSHA2256128},
		{ipsec.PRFHMACSHA2384, ipsec.IntegrityHMACSHA2384192},
		{ipsec.PRFHMACSHA2512, ipsec.IntegrityHMACSHA2512256},
	}
	apiGroups = []uint16{1, 2, 5, 14, 15, 16, 19, 20, 21}
)

// policy is the algorithms of one policy of the API. Group zero is none.
type policy struct {
	cipher ipsec.Transform
	hash   [2]uint16
	group  uint16
}

// product returns all combinations.
func product(ciphers []ipsec.Transform, groups ...uint16) (list []policy) {
	for _, c := range ciphers {
		for _, h := range hashesUsed {
			for _, g := range groups {
				list = append(list, policy{c, h, g})
			}
		}
	}
	return list
}

func (p policy) proposal(protocol ipsec.Protocol) ipsec.Proposal {
	out := ipsec.Proposal{Protocol: protocol, Transforms: []ipsec.Transform{p.cipher}}
	if !p.cipher.IsAEAD() {
		out.Transforms = append(out.Transforms, ipsec.Integrity(p.hash[1]))
	}
	if protocol == ipsec.ProtocolIKE {
		out.Transforms = append(out.Transforms, ipsec.PRF(p.hash[0]))
	}
	if p.group != ipsec.GroupNone {
		out.Transforms = append(out.Transforms, ipsec.Group(p.group))
	}
	return out
}

// TestEveryCombination negotiates every combination of algorithms of a policy, of
// the IKE SA and of ESP, in both versions of IKE. In IKEv2 the child is rekeyed: the
// first one has no group of its own. What is agreed on is what the policies say, no more.
func TestEveryCombination(t *testing.T) {
	for name, tc := range map[string]struct {
		edit     func(i int, c *Connection)
		ike, esp []policy
	}{
		"IKEv1": {
			func(i int, c *Connection) { c.Version, c.Aggressive = 1, i%2 == 1 },
			product(cbcCiphers, apiGroups...),
			product(slices.Concat(cbcCiphers, gcmCiphers), append([]uint16{ipsec.GroupNone}, apiGroups...)...),
		},
		"IKEv2": {
			func(int, *Connection) {},
			product(slices.Concat(cbcCiphers, gcmCiphers, []ipsec.Transform{chacha}), append([]uint16{ipsec.GroupCurve25519}, apiGroups...)...),
			product(slices.Concat(cbcCiphers, gcmCiphers, []ipsec.Transform{chacha}), append([]uint16{ipsec.GroupNone, ipsec.GroupCurve25519}, apiGroups...)...),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i := range max(len(tc.ike), len(tc.esp)) {
				ike, esp := tc.ike[i%len(tc.ike)].proposal(ipsec.ProtocolIKE), tc.esp[i%len(tc.esp)].proposal(ipsec.ProtocolESP)
				l := newLab(t, uint64(i))
				c := connA()
				tc.edit(i, c)
				c.Proposals, c.Children[0].Proposals = []ipsec.Proposal{ike}, []ipsec.Proposal{esp}
				l.a.conns, l.b.conns = []*Connection{c}, []*Connection{mirror(c, "ba")}
				l.establish()
				if !c.IKEv1() {
					l.b.rekeyChild()
					l.run()
					l.pass(2 * lingerTime)
				}
				l.settled(1)
				for _, e := range []*end{l.a, l.b} {
					st := e.peer().Status()
					if !agreed(ike, st.IKE[0].Proposal) || !agreed(esp, st.Children[0].Proposal) {
						t.Errorf("%s has %s and %s, want %s and %s", e.name, st.IKE[0].Proposal, st.Children[0].Proposal, ike, esp)
					}
				}
				if t.Failed() {
					t.FailNow()
				}
			}
		})
	}
}

// agreed reports whether what was chosen is what is configured. In IKEv1 the hash of
// an IKE SA is its PRF alone.
func agreed(want, got ipsec.Proposal) bool {
	for _, kind := range []ipsec.TransformType{
		ipsec.TransformEncryption, ipsec.TransformPRF, ipsec.TransformIntegrity, ipsec.TransformGroup, ipsec.TransformAdditional1,
	} {
		w, wanted := want.Get(kind)
		g, have := got.Get(kind)
		alone := kind == ipsec.TransformIntegrity && want.Protocol == ipsec.ProtocolIKE && !have
		none := !wanted && g.ID == 0
		if !alone && !none && (wanted != have || w != g) {
			return false
		}
	}
	return true
}

// TestWeakOnlyByName: an algorithm that is weak is agreed on by a connection that
// names it, and by no other.
func TestWeakOnlyByName(t *testing.T) {
	strong := policy{ipsec.Encryption(ipsec.EncryptionAESCBC, 256), hashesUsed[2], ipsec.GroupECP256}
	for name, weak := range map[string]func(*policy){
		"3DES":      func(p *policy) { p.cipher = ipsec.Encryption(ipsec.Encryption3DES, 0) },
		"MD5":       func(p *policy) { p.hash = hashesUsed[0] },
		"SHA-1":     func(p *policy) { p.hash = hashesUsed[1] },
		"MODP-768":  func(p *policy) { p.group = ipsec.GroupMODP768 },
		"MODP-1024": func(p *policy) { p.group = ipsec.GroupMODP1024 },
		"MODP-1536": func(p *policy) { p.group = ipsec.GroupMODP1536 },
	} {
		for _, version := range []uint8{1, 2} {
			p := strong
			weak(&p)
			l := newLab(t, 1)
			a, b := connA(), connB()
			a.Version, b.Version = version, version
			a.Proposals, b.Proposals = []ipsec.Proposal{p.proposal(ipsec.ProtocolIKE)}, []ipsec.Proposal{strong.proposal(ipsec.ProtocolIKE)}
			l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
			if version == 1 {
				l.a.initiateV1()
			} else {
				l.a.initiate()
			}
			l.run()
			if l.a.peersUp() || l.b.peersUp() || l.b.count(Failed) == 0 {
				t.Errorf("%s in IKEv%d is agreed on, though one end does not name it", name, version)
			}
		}
	}
}
