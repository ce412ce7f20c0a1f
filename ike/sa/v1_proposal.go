package sa

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// IKEv1 offers whole sets of algorithms, where IKEv2 offers lists for each type.
// Here each set is a proposal with one transform of each type, in the numbers of
// IKEv2, so that both versions choose and diagnose alike.

// Numbers of RFC 2409, appendix A, and their counterparts in IKEv2.
var (
	phase1Encryptions = map[uint64]uint16{
		1: 2, 2: 5, 3: 7, 6: 6, 8: 23, // DES, IDEA, Blowfish, CAST, Camellia: named, not offered
		5: ipsec.Encryption3DES, 7: ipsec.EncryptionAESCBC,
	}
	phase1Hashes = map[uint64]uint16{
		1: ipsec.PRFHMACMD5, 2: ipsec.PRFHMACSHA1, 4: ipsec.PRFHMACSHA2256, 5: ipsec.PRFHMACSHA2384, 6: ipsec.PRFHMACSHA2512,
	}
	phase2Auths = map[uint64]uint16{
		1: ipsec.IntegrityHMACMD596, 2: ipsec.IntegrityHMACSHA196, 5: ipsec.IntegrityHMACSHA2256128,
		6: ipsec.IntegrityHMACSHA2384192, 7: ipsec.IntegrityHMACSHA2512256,
	}
)

const (
	keyIKE = 1 // the only transform of phase 1

	authPSK = 1

	lifeSeconds   = 1
	lifeKilobytes = 2

	encapTunnel                = 1
	encapUDPTunnel             = 3     // RFC 3947, section 5.1
	encapUDPTunnelDraft        = 61443 // of its drafts
	kilobyte                   = 1024  // octets
	unknownNumber       uint16 = 0xff00
)

// counterpart translates a number; what has none becomes one that nobody offers.
func counterpart(table map[uint64]uint16, n uint64) uint16 {
	if id, ok := table[n]; ok {
		return id
	}
	return unknownNumber | uint16(n&0xff)
}

// numberOf translates back.
func numberOf(table map[uint64]uint16, id uint16) (uint32, error) {
	for n, have := range table {
		if have == id {
			return uint32(n), nil
		}
	}
	return 0, fmt.Errorf("transform %d has no number in IKEv1", id)
}

// lifetime is how long one end wants an SA to live. Zero: it does not say.
type lifetime struct{ seconds, kilobytes uint64 }

// atMost returns the shorter one of a lifetime and what the peer says.
func (l lifetime) atMost(peer lifetime) lifetime {
	shorter := func(a, b uint64) uint64 {
		if a == 0 || b != 0 && b < a {
			return b
		}
		return a
	}
	return lifetime{shorter(l.seconds, peer.seconds), shorter(l.kilobytes, peer.kilobytes)}
}

// maxSeconds bounds a lifetime in seconds, so that it is one in nanoseconds, too.
const maxSeconds = math.MaxInt64 / uint64(time.Second) / 2

func (l lifetime) duration() time.Duration {
	return time.Duration(min(l.seconds, maxSeconds)) * time.Second
}

// lifeOf returns the lifetime of a configuration.
func lifeOf(l ipsec.Lifetime) lifetime {
	return lifetime{seconds: uint64(l.Hard / time.Second), kilobytes: l.HardBytes / kilobyte}
}

// attributes returns the lifetime as attributes, which come in pairs.
func (l lifetime) attributes(kind, duration isakmp.AttributeType) []isakmp.Attribute {
	var list []isakmp.Attribute
	add := func(unit uint32, v uint64) {
		if v > 0 {
			list = append(list, isakmp.Number(kind, unit), isakmp.Number(duration, uint32(min(v, math.MaxUint32))))
		}
	}
	add(lifeSeconds, l.seconds)
	add(lifeKilobytes, l.kilobytes)
	return list
}

// readLife reads pairs of attributes.
func readLife(list []isakmp.Attribute, kind, duration isakmp.AttributeType) (l lifetime) {
	unit := uint64(lifeSeconds)
	for _, a := range list {
		v, ok := a.Number()
		switch {
		case !ok:
		case a.Type == kind:
			unit = v
		case a.Type == duration && unit == lifeSeconds:
			l.seconds = v
		case a.Type == duration && unit == lifeKilobytes:
			l.kilobytes = v
		}
	}
	return l
}

// expand returns one proposal for each combination of a proposal's transforms of
// the given types. A type that has none is left out.
func expand(p ipsec.Proposal, types ...ipsec.TransformType) []ipsec.Proposal {
	list := []ipsec.Proposal{{Protocol: p.Protocol}}
	for _, t := range types {
		of := p.Of(t)
		if len(of) == 0 {
			continue
		}
		var next []ipsec.Proposal
		for _, have := range list {
			for _, tr := range of {
				next = append(next, ipsec.Proposal{Protocol: p.Protocol, Transforms: append(slices.Clone(have.Transforms), tr)})
			}
		}
		list = next
	}
	return list
}

// phase1Sets returns the sets of algorithms of IKE proposals. In IKEv1 the hash
// is at once the pseudorandom function.
func phase1Sets(list []ipsec.Proposal) (sets []ipsec.Proposal) {
	for _, p := range list {
		sets = append(sets, expand(p, ipsec.TransformEncryption, ipsec.TransformPRF, ipsec.TransformGroup)...)
	}
	return sets
}

// phase1Offer returns the SA payload of a connection.
func phase1Offer(c *Connection) (*isakmp.SA, error) {
	p := isakmp.Proposal{Number: 1, Protocol: ipsec.ProtocolIKE}
	for i, set := range phase1Sets(c.Proposals) {
		enc, _ := set.Get(ipsec.TransformEncryption)
		hash, _ := set.Get(ipsec.TransformPRF)
		group, _ := set.Get(ipsec.TransformGroup)
		encNumber, err := numberOf(phase1Encryptions, enc.ID)
		if err != nil {
			return nil, err
		}
		hashNumber, err := numberOf(phase1Hashes, hash.ID)
		if err != nil {
			return nil, err
		}
		t := isakmp.Transform{Number: uint8(i + 1), ID: keyIKE, Attributes: []isakmp.Attribute{isakmp.Number(isakmp.Phase1Encryption, encNumber)}}
		if enc.KeyBits != 0 {
			t.Attributes = append(t.Attributes, isakmp.Number(isakmp.Phase1KeyLength, uint32(enc.KeyBits)))
		}
		t.Attributes = append(t.Attributes,
			isakmp.Number(isakmp.Phase1Hash, hashNumber), isakmp.Number(isakmp.Phase1Group, uint32(group.ID)), isakmp.Number(isakmp.Phase1AuthMethod, authPSK))
		life := lifetime{seconds: uint64(c.Lifetime / time.Second)}
		t.Attributes = append(t.Attributes, life.attributes(isakmp.Phase1LifeType, isakmp.Phase1LifeDuration)...)
		p.Transforms = append(p.Transforms, t)
	}
	return &isakmp.SA{Proposals: []isakmp.Proposal{p}}, nil
}

// choice is a transform of an SA payload that is one of our sets.
type choice struct {
	proposal ipsec.Proposal
	life     lifetime
	answer   isakmp.SA // what the responder says to it
	encap    bool      // phase 2: ESP is to go in UDP
}

// errAuthMethod is the refusal of a peer that wants to use no pre-shared key.
type errAuthMethod uint64

func (e errAuthMethod) Error() string { return "authentication method " + e.String() }

func (e errAuthMethod) String() string {
	switch e {
	case 2:
		return "DSS signature"
	case 3:
		return "RSA signature"
	case 4, 5:
		return "RSA encryption"
	case 65001:
		return "XAUTH with a pre-shared key"
	}
	return fmt.Sprintf("method %d", uint64(e))
}

// suite is a transform of an SA payload, read.
type suite struct {
	proposal  ipsec.Proposal
	life      lifetime
	encap     uint64 // encapsulation mode of phase 2
	at        int    // of its proposal in the payload
	transform isakmp.Transform
}

// hasOnly reports whether a transform has no attributes but these.
func hasOnly(t *isakmp.Transform, known ...isakmp.AttributeType) bool {
	return !slices.ContainsFunc(t.Attributes, func(a isakmp.Attribute) bool { return !slices.Contains(known, a.Type) })
}

// readPhase1 reads the sets of an SA payload of phase 1. Transforms that do not
// tell all that is needed, or more than we know, are left out.
func readPhase1(sa *isakmp.SA) (sets []suite, err error) {
	for i, p := range sa.Proposals {
		if p.Protocol != ipsec.ProtocolIKE {
			continue
		}
		for _, t := range p.Transforms {
			enc, okEnc, validEnc := t.Get(isakmp.Phase1Encryption)
			hash, okHash, validHash := t.Get(isakmp.Phase1Hash)
			group, okGroup, validGroup := t.Get(isakmp.Phase1Group)
			auth, okAuth, validAuth := t.Get(isakmp.Phase1AuthMethod)
			bits, _, validBits := t.Get(isakmp.Phase1KeyLength)
			complete := okEnc && okHash && okGroup && okAuth && validEnc && validHash && validGroup && validAuth && validBits
			if !complete || t.ID != keyIKE || !hasOnly(&t, isakmp.Phase1Encryption, isakmp.Phase1Hash, isakmp.Phase1AuthMethod,
				isakmp.Phase1Group, isakmp.Phase1LifeType, isakmp.Phase1LifeDuration, isakmp.Phase1KeyLength) {
				continue
			}
			if auth != authPSK {
				err = errAuthMethod(auth)
				continue
			}
			sets = append(sets, suite{
				proposal: ipsec.Proposal{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
					ipsec.Encryption(counterpart(phase1Encryptions, enc), uint16(min(bits, math.MaxUint16))),
					ipsec.PRF(counterpart(phase1Hashes, hash)), ipsec.Group(uint16(min(group, math.MaxUint16))),
				}},
				life: readLife(t.Attributes, isakmp.Phase1LifeType, isakmp.Phase1LifeDuration), at: i, transform: t,
			})
		}
	}
	if len(sets) > 0 {
		err = nil
	} else if err == nil {
		err = errors.New("the peer offers nothing that can be understood")
	}
	return sets, err
}

// choosePhase1 chooses from an SA payload of phase 1.
func choosePhase1(ours []ipsec.Proposal, sa *isakmp.SA) (choice, error) {
	sets, err := readPhase1(sa)
	if err != nil {
		return choice{}, err
	}
	return chooseSet(phase1Sets(ours), sa, sets)
}

// maxSets is how many sets of a peer are compared with ours: as many as have a
// number of one octet.
const maxSets = 255

// chooseSet chooses among the sets of an SA payload.
func chooseSet(ours []ipsec.Proposal, sa *isakmp.SA, sets []suite) (choice, error) {
	sets = sets[:min(len(sets), maxSets)]
	theirs := make([]ipsec.Proposal, len(sets))
	for i, s := range sets {
		theirs[i] = s.proposal
		theirs[i].Number = uint8(i)
	}
	p, err := ipsec.Choose(ours, theirs)
	if err != nil {
		return choice{}, allOffered(err, theirs)
	}
	s := sets[p.Number]
	from := sa.Proposals[s.at]
	p.Number, p.SPI = from.Number, from.SPI
	from.Transforms = []isakmp.Transform{s.transform}
	return choice{
		proposal: p, life: s.life, answer: isakmp.SA{Proposals: []isakmp.Proposal{from}},
		encap: s.encap == encapUDPTunnel || s.encap == encapUDPTunnelDraft,
	}, nil
}

// allOffered puts into a mismatch all that the peer offers of the type in
// question: it has it in one set each.
func allOffered(err error, theirs []ipsec.Proposal) error {
	var mismatch *ipsec.MismatchError
	if !errors.As(err, &mismatch) {
		return err
	}
	for _, p := range theirs {
		for _, t := range p.Of(mismatch.Type) {
			if !slices.Contains(mismatch.Theirs, t) {
				mismatch.Theirs = append(mismatch.Theirs, t)
			}
		}
	}
	return mismatch
}

// phase2Sets returns the sets of algorithms of a child's proposals. All have the
// same group, since a quick mode has one key exchange at most: the first one.
func (k *slot) phase2Sets() (sets []ipsec.Proposal) {
	list := k.proposals(true)
	group := firstGroup(list)
	for _, p := range list {
		if group != ipsec.GroupNone && !slices.Contains(p.Transforms, ipsec.Group(group)) {
			continue
		}
		p = p.Without(ipsec.TransformGroup)
		for _, s := range expand(p, ipsec.TransformEncryption, ipsec.TransformIntegrity, ipsec.TransformESN) {
			if group != ipsec.GroupNone {
				s.Transforms = append(s.Transforms, ipsec.Group(group))
			}
			sets = append(sets, s)
		}
	}
	return sets
}

// phase2Offer returns the SA payload for a child with our inbound SPI.
func (s *ISAKMPSA) phase2Offer(k *slot, in ipsec.SPI) (*isakmp.SA, error) {
	if s.gm != nil {
		return s.gmPhase2Offer(k, in), nil
	}
	sa := &isakmp.SA{}
	for i, set := range k.phase2Sets() {
		t := isakmp.Transform{Number: 1}
		enc, _ := set.Get(ipsec.TransformEncryption)
		t.ID = uint8(enc.ID)
		if group, ok := set.Get(ipsec.TransformGroup); ok {
			t.Attributes = append(t.Attributes, isakmp.Number(isakmp.Phase2Group, uint32(group.ID)))
		}
		t.Attributes = append(t.Attributes, isakmp.Number(isakmp.Phase2Encapsulation, s.encapMode()))
		t.Attributes = append(t.Attributes, lifeOf(k.cfg.Lifetime).attributes(isakmp.Phase2LifeType, isakmp.Phase2LifeDuration)...)
		if integ, ok := set.Get(ipsec.TransformIntegrity); ok && integ.ID != ipsec.IntegrityNone {
			n, err := numberOf(phase2Auths, integ.ID)
			if err != nil {
				return nil, err
			}
			t.Attributes = append(t.Attributes, isakmp.Number(isakmp.Phase2Auth, n))
		}
		if enc.KeyBits != 0 {
			t.Attributes = append(t.Attributes, isakmp.Number(isakmp.Phase2KeyLength, uint32(enc.KeyBits)))
		}
		if esn, _ := set.Get(ipsec.TransformESN); esn.ID == ipsec.ESNEnabled {
			t.Attributes = append(t.Attributes, isakmp.Number(isakmp.Phase2ESN, 1))
		}
		sa.Proposals = append(sa.Proposals, isakmp.Proposal{
			Number: uint8(i + 1), Protocol: ipsec.ProtocolESP, SPI: binary.BigEndian.AppendUint32(nil, uint32(in)),
			Transforms: []isakmp.Transform{t},
		})
	}
	return sa, nil
}

// encapMode is the encapsulation mode of our children.
func (s *ISAKMPSA) encapMode() uint32 {
	switch {
	case !s.path.encap:
		return encapTunnel
	case s.natDraft:
		return encapUDPTunnelDraft
	}
	return encapUDPTunnel
}

// errEncapsulation is the refusal of a peer that does not want tunnel mode.
type errEncapsulation uint64

func (e errEncapsulation) Error() string { return "encapsulation mode " + e.String() }

func (e errEncapsulation) String() string {
	switch e {
	case encapTunnel:
		return "tunnel"
	case encapUDPTunnel, encapUDPTunnelDraft:
		return "tunnel in UDP"
	case 2:
		return "transport"
	case 4, 61444:
		return "transport in UDP"
	}
	return fmt.Sprintf("mode %d", uint64(e))
}

// readPhase2 reads the sets of an SA payload of phase 2. Proposals for several
// protocols at once, that is of one number, are left out.
func readPhase2(sa *isakmp.SA) (sets []suite, err error) {
	together := map[uint8]int{}
	for _, p := range sa.Proposals {
		together[p.Number]++
	}
	for i, p := range sa.Proposals {
		if p.Protocol != ipsec.ProtocolESP || together[p.Number] > 1 {
			continue
		}
		for _, t := range p.Transforms {
			group, okGroup, validGroup := t.Get(isakmp.Phase2Group)
			auth, okAuth, validAuth := t.Get(isakmp.Phase2Auth)
			encap, okEncap, validEncap := t.Get(isakmp.Phase2Encapsulation)
			bits, _, validBits := t.Get(isakmp.Phase2KeyLength)
			esn, _, validESN := t.Get(isakmp.Phase2ESN)
			if !validGroup || !validAuth || !validEncap || !validBits || !validESN || !hasOnly(&t, isakmp.Phase2Group, isakmp.Phase2Auth,
				isakmp.Phase2Encapsulation, isakmp.Phase2KeyLength, isakmp.Phase2ESN, isakmp.Phase2LifeType, isakmp.Phase2LifeDuration) {
				continue
			}
			if !okEncap || encap != encapTunnel && encap != encapUDPTunnel && encap != encapUDPTunnelDraft {
				err = errEncapsulation(encap)
				continue
			}
			q := ipsec.Proposal{Protocol: ipsec.ProtocolESP, SPI: p.SPI, Transforms: []ipsec.Transform{
				ipsec.Encryption(uint16(t.ID), uint16(min(bits, math.MaxUint16))), ipsec.ESN(esn == 1),
			}}
			if okAuth {
				q.Transforms = append(q.Transforms, ipsec.Integrity(counterpart(phase2Auths, auth)))
			}
			if okGroup {
				q.Transforms = append(q.Transforms, ipsec.Group(uint16(min(group, math.MaxUint16))))
			}
			sets = append(sets, suite{
				proposal: q, life: readLife(t.Attributes, isakmp.Phase2LifeType, isakmp.Phase2LifeDuration), encap: encap, at: i, transform: t,
			})
		}
	}
	if len(sets) > 0 {
		err = nil
	} else if err == nil {
		err = errors.New("the peer offers nothing that can be understood")
	}
	return sets, err
}

// choosePhase2 chooses from an SA payload of phase 2.
func (s *ISAKMPSA) choosePhase2(k *slot, sa *isakmp.SA) (choice, error) {
	if s.gm != nil {
		return s.chooseGMPhase2(k, sa)
	}
	sets, err := readPhase2(sa)
	if err != nil {
		return choice{}, err
	}
	return chooseSet(k.phase2Sets(), sa, sets)
}

// singleChoice checks that an answer chooses one set, as it must.
func singleChoice(sa *isakmp.SA) error {
	if len(sa.Proposals) != 1 || len(sa.Proposals[0].Transforms) != 1 {
		return errors.New("the answer does not choose one transform")
	}
	return nil
}

// proposalDiagnosis tells which parameter of two offers of IKEv1 differs.
func proposalDiagnosis(reason Reason, x isakmp.ExchangeType, err error) *Diagnosis {
	d := &Diagnosis{Reason: reason, Exchange: x.String()}
	var method errAuthMethod
	var encap errEncapsulation
	var mismatch *ipsec.MismatchError
	switch {
	case errors.As(err, &method):
		d.Reason, d.Cause = ReasonAuthentication, CauseAuthMethod
		d.Parameter, d.Ours, d.Theirs = "authentication method", "pre-shared key", method.String()
	case errors.As(err, &encap):
		d.Reason = ReasonEncapsulation
		d.Parameter, d.Ours, d.Theirs = "encapsulation mode", "tunnel", encap.String()
	case errors.As(err, &mismatch) && mismatch.Type != 0:
		d.Parameter = mismatch.Type.String()
		d.Ours, d.Theirs = ipsec.TransformList(mismatch.Ours), ipsec.TransformList(mismatch.Theirs)
		d.Cause = causeOfType(reason, mismatch.Type)
		d.Offers = &Offers{Of: OfferPhase1, Ours: mismatch.OurList, Theirs: mismatch.TheirList}
		if reason == ReasonPhase2Proposal {
			d.Offers.Of = OfferQuickMode
		}
		switch {
		case mismatch.Type == ipsec.TransformPRF:
			d.Parameter = "hash algorithm"
		case mismatch.Type == ipsec.TransformGroup && reason == ReasonPhase1Proposal:
			d.Reason = ReasonResponderDH
		case mismatch.Type == ipsec.TransformGroup:
			d.Parameter = "PFS group"
		}
	default:
		d.Parameter, d.Detail = "proposal", err.Error()
	}
	return d
}
