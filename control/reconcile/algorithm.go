package reconcile

import (
	"fmt"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// Names of algorithms in the API and the transforms that they stand for.
var (
	encryptions = map[control.Encryption]ipsec.Transform{
		"aes-128":        ipsec.Encryption(ipsec.EncryptionAESCBC, 128),
		"aes-192":        ipsec.Encryption(ipsec.EncryptionAESCBC, 192),
		"aes-256":        ipsec.Encryption(ipsec.EncryptionAESCBC, 256),
		"aes-128-gcm-16": ipsec.Encryption(ipsec.EncryptionAESGCM16, 128),
		"aes-256-gcm-16": ipsec.Encryption(ipsec.EncryptionAESGCM16, 256),
		// Synonyms that give the length of the ICV in bits.
		"aes-128-gcm-128": ipsec.Encryption(ipsec.EncryptionAESGCM16, 128),
		"aes-256-gcm-128": ipsec.Encryption(ipsec.EncryptionAESGCM16, 256),
		"3des":            ipsec.Encryption(ipsec.Encryption3DES, 0),

		"chacha20-poly1305": ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 0),
	}
	// An authentication algorithm is an integrity transform and, for IKE, the
	// pseudorandom function as well.
	integrities = map[control.Authentication]uint16{
		"md5":      ipsec.IntegrityHMACMD596,
		"sha1":     ipsec.IntegrityHMACSHA196,
		"sha2-256": ipsec.IntegrityHMACSHA2256128,
		"sha2-384": ipsec.IntegrityHMACSHA2384192,
		"sha2-512": ipsec.IntegrityHMACSHA2512256,
	}
	prfs = map[control.Authentication]uint16{
		"md5":      ipsec.PRFHMACMD5,
		"sha1":     ipsec.PRFHMACSHA1,
		"sha2-256": ipsec.PRFHMACSHA2256,
		"sha2-384": ipsec.PRFHMACSHA2384,
		"sha2-512": ipsec.PRFHMACSHA2512,
	}
	groups = map[control.Group]uint16{
		"group1":  ipsec.GroupMODP768,
		"group2":  ipsec.GroupMODP1024,
		"group5":  ipsec.GroupMODP1536,
		"group14": ipsec.GroupMODP2048,
		"group15": ipsec.GroupMODP3072,
		"group16": ipsec.GroupMODP4096,
		"group19": ipsec.GroupECP256,
		"group20": ipsec.GroupECP384,
		"group21": ipsec.GroupECP521,
		"group31": ipsec.GroupCurve25519,
	}
	additionals = map[control.KeyExchange]uint16{"mlkem768": ipsec.GroupMLKEM768}
)

// ikeProposal returns the one proposal that the IKE policy's algorithms make.
func ikeProposal(k *control.IKEPolicy) (ipsec.Proposal, error) {
	p := ipsec.Proposal{Protocol: ipsec.ProtocolIKE}
	enc, ok := encryptions[k.Encryption]
	if !ok {
		return p, fmt.Errorf("ikepolicy.encryption_algorithm: %q is not known", k.Encryption)
	}
	prf, ok := prfs[k.Authentication]
	if !ok {
		return p, fmt.Errorf("ikepolicy.authentication_algorithm: %q is not known", k.Authentication)
	}
	dh, ok := groups[k.Group]
	if !ok {
		return p, fmt.Errorf("ikepolicy.dh_group: %q is not known", k.Group)
	}
	p.Transforms = []ipsec.Transform{enc}
	if !enc.IsAEAD() {
		p.Transforms = append(p.Transforms, ipsec.Integrity(integrities[k.Authentication]))
	}
	p.Transforms = append(p.Transforms, ipsec.PRF(prf), ipsec.Group(dh))
	return withAdditional(p, "ikepolicy", k.Additional)
}

// espProposal returns the one proposal that the IPsec policy's algorithms make.
func espProposal(k *control.IPsecPolicy) (ipsec.Proposal, error) {
	p := ipsec.Proposal{Protocol: ipsec.ProtocolESP}
	enc, ok := encryptions[k.Encryption]
	if !ok {
		return p, fmt.Errorf("ipsecpolicy.encryption_algorithm: %q is not known", k.Encryption)
	}
	p.Transforms = []ipsec.Transform{enc}
	if !enc.IsAEAD() {
		integrity, ok := integrities[k.Authentication]
		if !ok {
			return p, fmt.Errorf("ipsecpolicy.authentication_algorithm: %q is not known", k.Authentication)
		}
		p.Transforms = append(p.Transforms, ipsec.Integrity(integrity))
	}
	if k.PFS != control.PFSDisable {
		dh, ok := groups[k.PFS]
		if !ok {
			return p, fmt.Errorf("ipsecpolicy.pfs: %q is not known", k.PFS)
		}
		p.Transforms = append(p.Transforms, ipsec.Group(dh))
	}
	p.Transforms = append(p.Transforms, ipsec.ESN(false))
	return withAdditional(p, "ipsecpolicy", k.Additional)
}

// withAdditional adds the additional key exchange of a policy, if it has one.
func withAdditional(p ipsec.Proposal, policy string, k control.KeyExchange) (ipsec.Proposal, error) {
	if !k.Given() {
		return p, nil
	}
	method, ok := additionals[k]
	if !ok {
		return p, fmt.Errorf("%s.additional_key_exchange: %q is not known", policy, k)
	}
	p.Transforms = append(p.Transforms, ipsec.Additional(1, method))
	return p, nil
}

// postQuantumKey returns the post-quantum pre-shared key of a connection, or nil.
func postQuantumKey(c *control.Connection) (*sa.PPK, error) {
	if c.IKE.PPKID == "" {
		return nil, nil
	}
	key, err := control.PPKOctets(c.PPK)
	if err != nil {
		return nil, err
	}
	return &sa.PPK{ID: c.IKE.PPKID, Key: key, Required: c.IKE.PPKRequired}, nil
}
