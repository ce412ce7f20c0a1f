package sa

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// Numbers of the profile in phase 1 and phase 2.
const (
	gmHashSM3       = 20
	gmEnvelope      = 10 // authentication method
	gmAsymmetricSM2 = 2
	gmAuthSM3       = 20 // HMAC of ESP
	gmKeyBits       = 128
)

// isGMOffer reports whether an SA payload of phase 1 is of the profile: no other
// one knows the attribute of the asymmetric algorithm.
func isGMOffer(sa *isakmp.SA) bool {
	return slices.ContainsFunc(sa.Proposals, func(p isakmp.Proposal) bool {
		return slices.ContainsFunc(p.Transforms, func(t isakmp.Transform) bool {
			_, found, _ := t.Get(isakmp.Phase1Asymmetric)
			return found
		})
	})
}

// gmPhase1Offer returns the SA payload of phase 1. It offers one transform, so
// that the offer and its answer are equal: texts differ in which of them HASH_R
// covers.
func gmPhase1Offer(v GMVariant, life time.Duration) *isakmp.SA {
	t := isakmp.Transform{Number: 1, ID: keyIKE, Attributes: []isakmp.Attribute{
		isakmp.Number(isakmp.Phase1Encryption, uint32(v.Phase1SM4)), isakmp.Number(isakmp.Phase1Hash, gmHashSM3),
		isakmp.Number(isakmp.Phase1AuthMethod, gmEnvelope), isakmp.Number(isakmp.Phase1Asymmetric, gmAsymmetricSM2),
	}}
	if v.KeyLength {
		t.Attributes = append(t.Attributes, isakmp.Number(isakmp.Phase1KeyLength, gmKeyBits))
	}
	t.Attributes = append(t.Attributes, lifetime{seconds: uint64(life / time.Second)}.attributes(isakmp.Phase1LifeType, isakmp.Phase1LifeDuration)...)
	return &isakmp.SA{Proposals: []isakmp.Proposal{{Protocol: ipsec.ProtocolIKE, Transforms: []isakmp.Transform{t}}}}
}

// errForeign is the refusal of a transform that is not of the profile, or of an
// algorithm of it that we do not have.
type errForeign struct{ parameter, ours, theirs, detail string }

func (e *errForeign) Error() string { return e.parameter + " " + e.theirs }

// gmNumber compares an attribute that has to be there.
func gmNumber(t *isakmp.Transform, kind isakmp.AttributeType, parameter, name string, want ...uint64) error {
	n, found, valid := t.Get(kind)
	switch {
	case !found:
		return &errForeign{parameter, name, "none", ""}
	case !valid:
		return &errForeign{parameter, name, "no number", ""}
	case !slices.Contains(want, n):
		e := &errForeign{parameter, name, fmt.Sprint(n), ""}
		if n == gmSM1 && (kind == isakmp.Phase1Encryption) {
			e.theirs, e.detail = "SM1 (128)", "SM1 exists in hardware only"
		}
		return e
	}
	return nil
}

// readGMPhase1 reads a transform of phase 1, and how its sender writes it.
func readGMPhase1(t *isakmp.Transform, v GMVariant) (GMVariant, lifetime, error) {
	if t.ID != keyIKE {
		return v, lifetime{}, &errForeign{"transform", "KEY_IKE", fmt.Sprint(t.ID), ""}
	}
	for _, a := range t.Attributes {
		switch a.Type {
		case isakmp.Phase1Encryption, isakmp.Phase1Hash, isakmp.Phase1AuthMethod, isakmp.Phase1Asymmetric,
			isakmp.Phase1KeyLength, isakmp.Phase1LifeType, isakmp.Phase1LifeDuration:
		case isakmp.Phase1Group:
			return v, lifetime{}, &errForeign{"DH group", "none", "one", "the profile has no Diffie-Hellman"}
		default:
			return v, lifetime{}, &errForeign{"attribute of phase 1", "none of that type", fmt.Sprint(a.Type), ""}
		}
	}
	method, _, _ := t.Get(isakmp.Phase1AuthMethod)
	err := gmNumber(t, isakmp.Phase1AuthMethod, "authentication method", "SM2 digital envelope", gmEnvelope)
	if err != nil {
		var foreign *errForeign
		if errors.As(err, &foreign) && method == authPSK {
			foreign.theirs = "pre-shared key"
		}
		return v, lifetime{}, err
	}
	for _, err := range []error{
		gmNumber(t, isakmp.Phase1Encryption, "encryption algorithm", "SM4-CBC", gmSM4, gmSM4Older),
		gmNumber(t, isakmp.Phase1Hash, "hash algorithm", "SM3", gmHashSM3),
		gmNumber(t, isakmp.Phase1Asymmetric, "asymmetric algorithm", "SM2", gmAsymmetricSM2),
	} {
		if err != nil {
			return v, lifetime{}, err
		}
	}
	n, _, _ := t.Get(isakmp.Phase1Encryption)
	v.Phase1SM4 = uint8(n)
	bits, found, valid := t.Get(isakmp.Phase1KeyLength)
	if found && (!valid || bits != gmKeyBits) {
		return v, lifetime{}, &errForeign{"key length", "128", fmt.Sprint(bits), ""}
	}
	v.KeyLength = found
	return v, readLife(t.Attributes, isakmp.Phase1LifeType, isakmp.Phase1LifeDuration), nil
}

// gmChoice is a transform of the profile that the peer offers or chose.
type gmChoice struct {
	variant GMVariant
	life    lifetime
	answer  isakmp.SA
}

// chooseGMPhase1 takes the first transform that is of the profile.
func chooseGMPhase1(sa *isakmp.SA, v GMVariant) (ch gmChoice, err error) {
	for _, p := range sa.Proposals {
		if p.Protocol != ipsec.ProtocolIKE {
			continue
		}
		for i := range p.Transforms {
			var e error
			if ch.variant, ch.life, e = readGMPhase1(&p.Transforms[i], v); e == nil {
				p.Transforms = p.Transforms[i : i+1]
				ch.answer = isakmp.SA{Proposals: []isakmp.Proposal{p}}
				return ch, nil
			} else if err == nil {
				err = e
			}
		}
	}
	if err == nil {
		err = errors.New("the peer offers nothing for ISAKMP")
	}
	return ch, err
}

// gmProposalDiagnosis tells which attribute is not of the profile.
func gmProposalDiagnosis(reason Reason, x isakmp.ExchangeType, err error) *Diagnosis {
	var foreign *errForeign
	if !errors.As(err, &foreign) {
		return proposalDiagnosis(reason, x, err)
	}
	d := &Diagnosis{Reason: reason, Exchange: x.String(), Parameter: foreign.parameter, Ours: foreign.ours, Theirs: foreign.theirs, Detail: foreign.detail}
	switch foreign.parameter {
	case "authentication method":
		d.Cause = CauseAuthMethod
	case "DH group":
		d.Cause = CauseIKEGroup
	case "PFS group":
		d.Cause = CausePFS
	}
	return d
}

// gmPhase2Offer returns the SA payload for a child with our inbound SPI: one
// transform, the first set of the connection.
func (s *ISAKMPSA) gmPhase2Offer(k *slot, in ipsec.SPI) *isakmp.SA {
	enc, _ := k.phase2Sets()[0].Get(ipsec.TransformEncryption)
	t := isakmp.Transform{Number: 1, ID: gmSM4GCM}
	if !enc.IsAEAD() {
		t.ID = s.gm.ESPSM4
		t.Attributes = append(t.Attributes, isakmp.Number(isakmp.Phase2Auth, gmAuthSM3))
	}
	t.Attributes = append(t.Attributes, isakmp.Number(isakmp.Phase2Encapsulation, s.encapMode()))
	t.Attributes = append(t.Attributes, lifeOf(k.cfg.Lifetime).attributes(isakmp.Phase2LifeType, isakmp.Phase2LifeDuration)...)
	return &isakmp.SA{Proposals: []isakmp.Proposal{{
		Protocol: ipsec.ProtocolESP, SPI: binary.BigEndian.AppendUint32(nil, uint32(in)), Transforms: []isakmp.Transform{t},
	}}}
}

// readGMPhase2 reads the transforms of an SA payload of phase 2. How long the ICV
// is goes over no wire: it is integrity's.
func (s *ISAKMPSA) readGMPhase2(sa *isakmp.SA, integrity ipsec.Transform) (sets []suite, err error) {
	for i, p := range sa.Proposals {
		if p.Protocol != ipsec.ProtocolESP || len(sa.Proposals) > 1 && slices.ContainsFunc(sa.Proposals[i+1:], func(q isakmp.Proposal) bool { return q.Number == p.Number }) {
			continue
		}
		for _, t := range p.Transforms {
			set, e := readGMTransform(&t, integrity)
			if e != nil {
				err = e
				continue
			}
			set.proposal.SPI, set.at = p.SPI, i
			sets = append(sets, set)
		}
	}
	if len(sets) > 0 {
		err = nil
	} else if err == nil {
		err = errors.New("the peer offers nothing that can be understood")
	}
	return sets, err
}

func readGMTransform(t *isakmp.Transform, integrity ipsec.Transform) (suite, error) {
	for _, a := range t.Attributes {
		switch a.Type {
		case isakmp.Phase2Auth, isakmp.Phase2Encapsulation, isakmp.Phase2KeyLength, isakmp.Phase2LifeType, isakmp.Phase2LifeDuration:
		case isakmp.Phase2Group:
			return suite{}, &errForeign{"PFS group", "none", "one", "the profile has no Diffie-Hellman"}
		default:
			return suite{}, &errForeign{"attribute of phase 2", "none of that type", fmt.Sprint(a.Type), ""}
		}
	}
	encap, okEncap, validEncap := t.Get(isakmp.Phase2Encapsulation)
	if !okEncap || !validEncap || encap != encapTunnel && encap != encapUDPTunnel && encap != encapUDPTunnelDraft {
		return suite{}, errEncapsulation(encap)
	}
	p := ipsec.Proposal{Protocol: ipsec.ProtocolESP}
	switch t.ID {
	case gmSM4, gmSM4Older:
		if err := gmNumber(t, isakmp.Phase2Auth, "integrity algorithm", "HMAC-SM3", gmAuthSM3); err != nil {
			return suite{}, err
		}
		p.Transforms = []ipsec.Transform{ipsec.Encryption(ipsec.EncryptionSM4CBC, 0), integrity}
	case gmSM4GCM:
		p.Transforms = []ipsec.Transform{ipsec.Encryption(ipsec.EncryptionSM4GCM16, 0)}
	case gmSM1:
		return suite{}, &errForeign{"encryption algorithm", "SM4", "SM1 (128)", "SM1 exists in hardware only"}
	default:
		return suite{}, &errForeign{"encryption algorithm", "SM4", fmt.Sprint(t.ID), ""}
	}
	p.Transforms = append(p.Transforms, ipsec.ESN(false))
	return suite{
		proposal: p, life: readLife(t.Attributes, isakmp.Phase2LifeType, isakmp.Phase2LifeDuration), encap: encap, transform: *t,
	}, nil
}

// chooseGMPhase2 chooses from an SA payload of phase 2, and learns by which number
// the peer calls SM4.
func (s *ISAKMPSA) chooseGMPhase2(k *slot, sa *isakmp.SA) (choice, error) {
	ours := k.phase2Sets()
	integrity := ipsec.Integrity(ipsec.IntegrityHMACSM396)
	for _, set := range ours {
		if t, ok := set.Get(ipsec.TransformIntegrity); ok {
			integrity = t
			break
		}
	}
	sets, err := s.readGMPhase2(sa, integrity)
	if err != nil {
		return choice{}, err
	}
	ch, err := chooseSet(ours, sa, sets)
	if err != nil {
		return choice{}, err
	}
	if id := ch.answer.Proposals[0].Transforms[0].ID; id != gmSM4GCM {
		s.gm.ESPSM4 = id
		s.m.gmLearned(s)
	}
	return ch, nil
}
