package reconcile

import (
	"fmt"

	"github.com/vpngw/vpngw/ipsec"
)

// Names of algorithms in the API and the transforms that they stand for.
var (
	encryptions = map[string]ipsec.Transform{
		"aes-128":        ipsec.Encryption(ipsec.EncryptionAESCBC, 128),
		"aes-192":        ipsec.Encryption(ipsec.EncryptionAESCBC, 192),
		"aes-256":        ipsec.Encryption(ipsec.EncryptionAESCBC, 256),
		"aes-128-gcm-16": ipsec.Encryption(ipsec.EncryptionAESGCM16, 128),
		"aes-256-gcm-16": ipsec.Encryption(ipsec.EncryptionAESGCM16, 256),
		// Synonyms that give the length of the ICV in bits.
		"aes-128-gcm-128": ipsec.Encryption(ipsec.EncryptionAESGCM16, 128),
		"aes-256-gcm-128": ipsec.Encryption(ipsec.EncryptionAESGCM16, 256),
		"3des":            ipsec.Encryption(ipsec.Encryption3DES, 0),
	}
	// An authentication algorithm is an integrity transform and, for IKE, the
	// pseudorandom function as well.
	integrities = map[string]uint16{
		"md5":      ipsec.IntegrityHMACMD596,
		"sha1":     ipsec.IntegrityHMACSHA196,
		"sha2-256": ipsec.IntegrityHMACSHA2256128,
		"sha2-384": ipsec.IntegrityHMACSHA2384192,
		"sha2-512": ipsec.IntegrityHMACSHA2512256,
	}
	prfs = map[string]uint16{
		"md5":      ipsec.PRFHMACMD5,
		"sha1":     ipsec.PRFHMACSHA1,
		"sha2-256": ipsec.PRFHMACSHA2256,
		"sha2-384": ipsec.PRFHMACSHA2384,
		"sha2-512": ipsec.PRFHMACSHA2512,
	}
	groups = map[string]uint16{
		"group1":  ipsec.GroupMODP768,
		"group2":  ipsec.GroupMODP1024,
		"group5":  ipsec.GroupMODP1536,
		"group14": ipsec.GroupMODP2048,
		"group15": ipsec.GroupMODP3072,
		"group16": ipsec.GroupMODP4096,
		"group19": ipsec.GroupECP256,
		"group20": ipsec.GroupECP384,
		"group21": ipsec.GroupECP521,
	}
)

// pfsDisable is the value of pfs for CHILD_SAs without a key exchange of
// their own.
const pfsDisable = "disable"

// ikeProposal returns the one proposal that the IKE policy's algorithms make.
func ikeProposal(encryption, authentication, group string) (ipsec.Proposal, error) {
	p := ipsec.Proposal{Protocol: ipsec.ProtocolIKE}
	enc, ok := encryptions[encryption]
	if !ok {
		return p, fmt.Errorf("ikepolicy.encryption_algorithm: %q is not known", encryption)
	}
	prf, ok := prfs[authentication]
	if !ok {
		return p, fmt.Errorf("ikepolicy.authentication_algorithm: %q is not known", authentication)
	}
	dh, ok := groups[group]
	if !ok {
		return p, fmt.Errorf("ikepolicy.dh_group: %q is not known", group)
	}
	p.Transforms = []ipsec.Transform{enc}
	if !enc.IsAEAD() {
		p.Transforms = append(p.Transforms, ipsec.Integrity(integrities[authentication]))
	}
	p.Transforms = append(p.Transforms, ipsec.PRF(prf), ipsec.Group(dh))
	return p, nil
}

// espProposal returns the one proposal that the IPsec policy's algorithms make.
func espProposal(encryption, authentication, pfs string) (ipsec.Proposal, error) {
	p := ipsec.Proposal{Protocol: ipsec.ProtocolESP}
	enc, ok := encryptions[encryption]
	if !ok {
		return p, fmt.Errorf("ipsecpolicy.encryption_algorithm: %q is not known", encryption)
	}
	p.Transforms = []ipsec.Transform{enc}
	if !enc.IsAEAD() {
		integrity, ok := integrities[authentication]
		if !ok {
			return p, fmt.Errorf("ipsecpolicy.authentication_algorithm: %q is not known", authentication)
		}
		p.Transforms = append(p.Transforms, ipsec.Integrity(integrity))
	}
	if pfs != pfsDisable {
		dh, ok := groups[pfs]
		if !ok {
			return p, fmt.Errorf("ipsecpolicy.pfs: %q is not known", pfs)
		}
		p.Transforms = append(p.Transforms, ipsec.Group(dh))
	}
	p.Transforms = append(p.Transforms, ipsec.ESN(false))
	return p, nil
}
