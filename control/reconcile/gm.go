package reconcile

import (
	"errors"
	"fmt"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// GMOptions are what a node is told of a peer of gateways of flavor GM: the API has
// no fields for what devices do in different ways. The zero value is the usual way.
type GMOptions struct {
	Variant sa.GMVariant
	ICVBits int  // of HMAC-SM3 in ESP: 96 (also zero), 128 or 256
	GCM     bool // ESP by SM4-GCM, not SM4-CBC
	// LocalID names us in phase 1; zero: the subject of our certificate.
	LocalID GMLocalID
	// PeerName is the only subject that the peer's certificates may have, as
	// "C=CN,O=acme,CN=gw"; empty: any.
	PeerName string
}

// GMLocalID is how we name ourselves other than by the subject of our certificate.
type GMLocalID struct {
	Address bool   // by the gateway's address
	FQDN    string // by a name
}

// gmIntegrities are HMAC-SM3 by the bits of its ICV.
var gmIntegrities = map[int]uint16{
	0: ipsec.IntegrityHMACSM396, 96: ipsec.IntegrityHMACSM396, 128: ipsec.IntegrityHMACSM3128, 256: ipsec.IntegrityHMACSM3256,
}

// Validate returns an error that names the first option that cannot be.
func (o *GMOptions) Validate() error {
	if _, ok := gmIntegrities[o.ICVBits]; !ok {
		return fmt.Errorf("esp_icv_bits: %d is not one of 96, 128, 256", o.ICVBits)
	}
	return nil
}

// optionsOf returns what the node is told of a peer: by its address or name, or of
// all under the empty one.
func (t *translator) optionsOf(c *control.CustomerGateway) GMOptions {
	if o, ok := t.gm[c.IDValue]; ok {
		return o
	}
	return t.gm[""]
}

// gmProposals returns the proposals of both phases.
func gmProposals(c *control.Connection, o GMOptions) (ike, esp ipsec.Proposal, err error) {
	switch {
	case c.IKE.Encryption != control.SM4 || c.IKE.Authentication != control.SM3:
		return ike, esp, fmt.Errorf("ikepolicy: a gateway of flavor GM has sm4 and sm3, not %s and %s", c.IKE.Encryption, c.IKE.Authentication)
	case c.IPsec.Encryption != control.SM4 || c.IPsec.Authentication != control.SM3:
		return ike, esp, fmt.Errorf("ipsecpolicy: a gateway of flavor GM has sm4 and sm3, not %s and %s", c.IPsec.Encryption, c.IPsec.Authentication)
	}
	ike = ipsec.Proposal{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionSM4CBC, 0), ipsec.PRF(ipsec.PRFHMACSM3),
	}}
	esp = ipsec.Proposal{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionSM4CBC, 0), ipsec.Integrity(gmIntegrities[o.ICVBits]), ipsec.ESN(false),
	}}
	if o.GCM {
		esp.Transforms = []ipsec.Transform{ipsec.Encryption(ipsec.EncryptionSM4GCM16, 0), ipsec.ESN(false)}
	}
	return ike, esp, nil
}

// gm gives a connection of the profile GM/T 0022 what it proves itself with.
func (s subject) gm(c *sa.Connection, o GMOptions) error {
	switch {
	case s.identityErr != nil:
		return fmt.Errorf("vgw_id: %w", s.identityErr)
	case s.identity == nil:
		return errors.New("vgw_id: the gateway has no certificate")
	}
	authorities, err := s.customer.Authorities()
	switch {
	case err != nil:
		return fmt.Errorf("cgw_id: %w", err)
	case len(authorities) == 0:
		return errors.New("cgw_id: the customer gateway has no ca_certificate")
	}
	switch {
	case o.LocalID.Address:
		c.LocalID = sa.AddressIdentity(s.gateway.Address(s.connection.Slot))
	case o.LocalID.FQDN != "":
		c.LocalID = sa.FQDNIdentity(o.LocalID.FQDN)
	}
	c.GM = &sa.GM{
		Signing:     sa.GMKey{Certificate: s.identity.Signing, Private: []byte(s.identity.SigningKey.Reveal())},
		Encryption:  sa.GMKey{Certificate: s.identity.Encryption, Private: []byte(s.identity.EncryptionKey.Reveal())},
		Authorities: authorities,
		PeerName:    o.PeerName,
		Variant:     o.Variant,
	}
	c.Initiate = c.Initiate && o.Variant.Initiator != sa.GMPeer
	if o.Variant.NoNATTraversal {
		if c.RequireEncap {
			return fmt.Errorf("ipsecpolicy.udp_encapsulation: %s: this peer is configured to be without NAT traversal", control.UDPEncapsulationAlways)
		}
		c.ForceEncap = false
	}
	return nil
}
