package control

import (
	"fmt"
	"net/netip"
)

// connectionDraft is a connection that is being decided on, with what its
// rules look at.
type connectionDraft struct {
	Connection
	gateway          *Gateway
	customerGateway  *CustomerGateway
	inventory        *Inventory
	others           []Connection // of the project
	servers          []VPNServer  // of all projects
	customerGateways map[string]CustomerGateway
}

// connectionRules are the rules that hold for a connection at any time, beyond
// those of its single members.
var connectionRules = []func(*connectionDraft) *Error{
	peerSubnetsOfStyle,
	peerSubnetsAreNotReserved,
	peerSubnetsAreNotLocal,
	policyRulesOfStyle,
	policySourcesAreNotReserved,
	peerSubnetsAreNotClients,
	policyDestinationsAreNotClients,
	peerIsNotGateway,
	peerIsOfAddressFamily,
	nqaIsStatic,
	hubIsBGP,
	bgpHasASN,
	templateIsNonFixedIP,
	tunnelIsOneNetwork,
	tunnelIsUnique,
	roleOfSlot,
	gcmIsIKEv2,
	additionsAreIKEv2,
	additionalHasGroup,
	ppkIsWhole,
	namedPeerIsNotMainMode,
	peerHasIdentity,
	peerIsUnique,
	envelopeHasCertificate,
	envelopePeerHasAuthority,
}

// peerSubnetsOfStyle: an enterprise router learns the routes itself, so with
// one only the styles that make routes of the peer subnets have them.
func peerSubnetsOfStyle(d *connectionDraft) *Error {
	field := peerSubnetsField(d.gateway)
	absent := d.gateway.AttachmentType == AttachER && (d.Style == StylePolicy || d.Style == StyleBGP)
	switch {
	case absent && len(d.PeerSubnets) > 0:
		return Invalid(field, "must be absent with attachment_type er and style %s", d.Style)
	case !absent && len(d.PeerSubnets) == 0:
		return Invalid(field, "is required")
	}
	return nil
}

// reservedNetworks cannot be behind a peer or a gateway: the cloud uses some
// itself, others are no unicast networks.
var reservedNetworks = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("214.0.0.0/8"),
	netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("::/8"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("ff00::/8"),
}

func peerSubnetsAreNotReserved(d *connectionDraft) *Error {
	for i, n := range d.PeerSubnets {
		if err := isNotReserved(fmt.Sprintf("%s[%d]", peerSubnetsField(d.gateway), i), n); err != nil {
			return err
		}
	}
	return nil
}

func isNotReserved(field string, n netip.Prefix) *Error {
	for _, reserved := range reservedNetworks {
		if n.Overlaps(reserved) {
			return Invalid(field, "%s overlaps the reserved network %s", n, reserved)
		}
	}
	return nil
}

// localIsNotReserved is for networks behind a gateway. Traffic from anywhere
// would be that of the node itself, too, which could neither go through the
// tunnel nor be dropped while there is none.
func localIsNotReserved(field string, n netip.Prefix) *Error {
	if n.Bits() == 0 {
		return Invalid(field, "%s is all traffic of the node: name the networks behind the gateway", n)
	}
	return isNotReserved(field, n)
}

func policySourcesAreNotReserved(d *connectionDraft) *Error {
	for i, rule := range d.PolicyRules {
		field := fmt.Sprintf("%s[%d].source", policyRulesField(d.gateway), i)
		if err := localIsNotReserved(field, rule.Source); err != nil {
			return err
		}
	}
	return nil
}

// peerSubnetsAreNotClients: traffic to the clients of a server would go into the
// tunnel, whatever their VPC and project, since the nodes have one routing table.
func peerSubnetsAreNotClients(d *connectionDraft) *Error {
	for i, n := range d.PeerSubnets {
		if err := d.isNotClients(fmt.Sprintf("%s[%d]", peerSubnetsField(d.gateway), i), n); err != nil {
			return err
		}
	}
	return nil
}

func policyDestinationsAreNotClients(d *connectionDraft) *Error {
	for i, rule := range d.PolicyRules {
		for j, n := range rule.Destinations {
			field := fmt.Sprintf("%s[%d].destination[%d]", policyRulesField(d.gateway), i, j)
			if err := d.isNotClients(field, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// isNotClients refuses a network that has clients of a server. A default route
// conflicts with nothing. Which server it is is not told: it may be another
// project's.
func (d *connectionDraft) isNotClients(field string, n netip.Prefix) *Error {
	for i := range d.servers {
		if pool := d.servers[i].ClientCIDR; n.Bits() > 0 && n.Overlaps(pool) {
			return Invalid(field, "%s overlaps %s, the client_cidr of a client-to-cloud server", n, pool)
		}
	}
	return nil
}

// peerIsNotGateway: a gateway cannot be its own peer.
func peerIsNotGateway(d *connectionDraft) *Error {
	peer := d.customerGateway.Address()
	for _, s := range []Slot{Slot1, Slot2} {
		local, _ := d.inventory.LocalAddress(d.gateway, s) // invalid without its EIP
		if peer.IsValid() && (peer == d.gateway.Address(s) || peer == local) {
			return Invalid("cgw_id", "the customer gateway has the address %s of the gateway itself", peer)
		}
	}
	return nil
}

// peerIsOfAddressFamily: outer packets have two addresses of one family.
func peerIsOfAddressFamily(d *connectionDraft) *Error {
	peer, local := d.customerGateway.Address(), d.gateway.Address(d.Slot)
	if peer.IsValid() && local.IsValid() && peer.Is4() != local.Is4() {
		return Invalid("cgw_id", "the customer gateway has the address %s, which is not of the family of %s, the address of vgw_ip", peer, local)
	}
	return nil
}

// peerSubnetsAreNotLocal: they may overlap the local subnets, since the longer
// prefix wins, but not leave it open which side an address is on.
func peerSubnetsAreNotLocal(d *connectionDraft) *Error {
	vpcID := d.gateway.VPCID
	if vpcID == "" {
		vpcID = d.gateway.AccessVPCID
	}
	vpc, _ := d.inventory.VPC(vpcID)
	for i, n := range d.PeerSubnets {
		field := fmt.Sprintf("%s[%d]", peerSubnetsField(d.gateway), i)
		for _, local := range d.gateway.LocalSubnets {
			if n == local {
				return Invalid(field, "%s is a local subnet of the gateway", n)
			}
		}
		if vpc == nil {
			continue
		}
		for _, s := range vpc.Subnets {
			if contains(s.CIDR, n) {
				return Invalid(field, "%s lies in subnet %s (%s) of the gateway's VPC", n, s.ID, s.CIDR)
			}
		}
	}
	return nil
}

func policyRulesOfStyle(d *connectionDraft) *Error {
	field := policyRulesField(d.gateway)
	switch {
	case d.Style == StylePolicy && len(d.PolicyRules) == 0:
		return Invalid(field, "is required with style policy")
	case d.Style != StylePolicy && len(d.PolicyRules) > 0:
		return Invalid(field, "must be absent with style %s", d.Style)
	}
	return nil
}

func nqaIsStatic(d *connectionDraft) *Error {
	if d.EnableNQA && d.Style != StyleStatic {
		return Invalid("enable_nqa", "must be false with style %s", d.Style)
	}
	return nil
}

func hubIsBGP(d *connectionDraft) *Error {
	if d.EnableHub && d.Style != StyleBGP {
		return Invalid("enable_hub", "must be false with style %s", d.Style)
	}
	return nil
}

func bgpHasASN(d *connectionDraft) *Error {
	if d.Style == StyleBGP && d.customerGateway.BGPASN == 0 {
		return Invalid("cgw_id", "style bgp wants a customer gateway with bgp_asn")
	}
	return nil
}

func templateIsNonFixedIP(d *connectionDraft) *Error {
	template, nonFixed := d.Style == StylePolicyTemplate, d.gateway.Flavor.NonFixedIP()
	switch {
	case template && !nonFixed:
		return Invalid("style", "policy-template wants a gateway of a NonFixedIP flavor")
	case template && d.customerGateway.IDType != IDTypeFQDN:
		return Invalid("cgw_id", "style policy-template wants a customer gateway of id_type fqdn")
	}
	return nil
}

func tunnelIsOneNetwork(d *connectionDraft) *Error {
	local, peer := d.TunnelLocal, d.TunnelPeer
	if !local.IsValid() || !peer.IsValid() {
		return nil // the other one follows from it
	}
	if local.Masked() != peer.Masked() || local == peer {
		return Invalid("tunnel_peer_address", "must be the other host of %s, the network of tunnel_local_address", local.Masked())
	}
	return nil
}

// tunnelIsUnique: the two addresses of a gateway have their interfaces apart,
// so one network may occur on both, but not twice on one.
func tunnelIsUnique(d *connectionDraft) *Error {
	field, a := "tunnel_local_address", d.TunnelLocal
	if !a.IsValid() {
		field, a = "tunnel_peer_address", d.TunnelPeer
	}
	for _, o := range d.onSlot() {
		if a.IsValid() && a.Masked() == o.TunnelLocal.Masked() {
			return Invalid(field, "%s is used by connection %s of the same gateway address", a.Masked(), o.ID)
		}
	}
	return nil
}

func roleOfSlot(d *connectionDraft) *Error {
	if d.gateway.HAMode != ActiveStandby {
		return nil
	}
	want := RoleMaster
	if d.Slot == Slot2 {
		want = RoleSlave
	}
	if d.HARole != want {
		return Invalid("ha_role", "must be %s on this address of an active-standby gateway", want)
	}
	return nil
}

// gcmIsIKEv2: no RFC defines an IKEv1 phase 1 with an AEAD.
func gcmIsIKEv2(d *connectionDraft) *Error {
	switch {
	case d.IKE.Version != IKEv1:
	case d.Style == StylePolicyTemplate:
		if t := d.gateway.Template; t != nil && t.IKE.Encryption.IsAEAD() {
			return Invalid("ikepolicy.ike_version", "v1 does not go with %s, which the policy_template of the gateway has", t.IKE.Encryption)
		}
	case d.IKE.Encryption.IsAEAD():
		return Invalid("ikepolicy.encryption_algorithm", "%s is not defined for ike_version v1", d.IKE.Encryption)
	}
	return nil
}

// additionsAreIKEv2: what the API has beyond the gateway it describes is not
// defined for IKEv1.
func additionsAreIKEv2(d *connectionDraft) *Error {
	if d.IKE.Version != IKEv1 {
		return nil
	}
	for _, of := range []struct {
		field string
		given bool
		value string
	}{
		{"ikepolicy.dh_group", d.IKE.Group == Group31, string(d.IKE.Group)},
		{"ikepolicy.additional_key_exchange", d.IKE.Additional.Given(), string(d.IKE.Additional)},
		{"ikepolicy.ppk_id", d.IKE.PPKID != "", "a post-quantum pre-shared key"},
		{"ipsecpolicy.encryption_algorithm", d.IPsec.Encryption == ChaCha20Poly1305, string(d.IPsec.Encryption)},
		{"ipsecpolicy.pfs", d.IPsec.PFS == Group31, string(d.IPsec.PFS)},
		{"ipsecpolicy.additional_key_exchange", d.IPsec.Additional.Given(), string(d.IPsec.Additional)},
	} {
		if of.given {
			return Invalid(of.field, "%s is not defined for ike_version v1", of.value)
		}
	}
	return nil
}

func additionalHasGroup(d *connectionDraft) *Error {
	if d.IPsec.Additional.Given() && d.IPsec.PFS == PFSDisable {
		return Invalid("ipsecpolicy.additional_key_exchange", "must be %s with pfs %s", NoAdditional, PFSDisable)
	}
	return nil
}

func ppkIsWhole(d *connectionDraft) *Error {
	switch {
	case d.IKE.PPKID != "" && d.PPK.IsZero():
		return Invalid("ppk", "is required with ikepolicy.ppk_id")
	case d.IKE.PPKID == "" && !d.PPK.IsZero():
		return Invalid("ikepolicy.ppk_id", "is required with ppk")
	case d.IKE.PPKID == "" && d.IKE.PPKRequired:
		return Invalid("ikepolicy.ppk_id", "is required with ppk_required")
	}
	return nil
}

// namedPeerIsNotMainMode: main mode chooses the key before it learns the
// identity, so with pre-shared keys the address must be known.
func namedPeerIsNotMainMode(d *connectionDraft) *Error {
	if d.customerGateway.IDType == IDTypeFQDN && d.IKE.NegotiationMode == ModeMain && d.IKE.AuthenticationMethod == AuthPreShare {
		return Invalid("ikepolicy.phase1_negotiation_mode", "must be aggressive with a customer gateway of id_type fqdn")
	}
	return nil
}

func peerHasIdentity(d *connectionDraft) *Error {
	if d.customerGateway.IDType == IDTypeFQDN && d.IKE.PeerIDType == IDTypeIP && d.IKE.PeerID == "" {
		return Invalid("ikepolicy.peer_id", "is required with peer_id_type ip and a customer gateway of id_type fqdn")
	}
	return nil
}

// peerIsUnique: a gateway address must be able to tell its peers apart, by
// their address or, where that is not known, by their identity.
func peerIsUnique(d *connectionDraft) *Error {
	for _, o := range d.onSlot() {
		cgw := d.customerGateways[o.CustomerGatewayID]
		switch {
		case o.CustomerGatewayID == d.CustomerGatewayID:
			return Invalid("cgw_id", "connection %s has this customer gateway on the same vgw_ip", o.ID)
		case cgw.IDValue == d.customerGateway.IDValue:
			return Invalid("cgw_id", "connection %s has a customer gateway of the same id_value on the same vgw_ip", o.ID)
		case cgw.IDType == IDTypeFQDN && d.customerGateway.IDType == IDTypeFQDN &&
			d.IKE.AuthenticationMethod == AuthDigitalEnvelope && cgw.CACertificate != nil && d.customerGateway.CACertificate != nil &&
			cgw.CACertificate.PEM == d.customerGateway.CACertificate.PEM:
			return Invalid("cgw_id", "connection %s has a customer gateway of the same ca_certificate and of unknown address, too, on the same vgw_ip", o.ID)
		case cgw.IDType == IDTypeFQDN && d.customerGateway.IDType == IDTypeFQDN && d.IKE.AuthenticationMethod == AuthPreShare &&
			o.IKE.PeerIDType == d.IKE.PeerIDType && o.IKE.PeerID == d.IKE.PeerID:
			return Invalid("ikepolicy.peer_id", "connection %s has the same one on the same vgw_ip", o.ID)
		}
	}
	return nil
}

// envelopeHasCertificate: what a digital envelope is opened and signed with.
func envelopeHasCertificate(d *connectionDraft) *Error {
	if d.IKE.AuthenticationMethod == AuthDigitalEnvelope && d.gateway.Certificate == nil {
		return Invalid("vgw_id", "the gateway has no certificate: import it first")
	}
	return nil
}

// envelopePeerHasAuthority: what the certificates of the peer have to lead to.
func envelopePeerHasAuthority(d *connectionDraft) *Error {
	if d.IKE.AuthenticationMethod == AuthDigitalEnvelope && d.customerGateway.CACertificate == nil {
		return Invalid("cgw_id", "the customer gateway has no ca_certificate, which a gateway of flavor GM wants")
	}
	return nil
}

// onSlot returns the other connections of the same gateway address.
func (d *connectionDraft) onSlot() []Connection {
	var found []Connection
	for _, o := range d.others {
		if o.ID != d.ID && o.GatewayID == d.GatewayID && o.Slot == d.Slot {
			found = append(found, o)
		}
	}
	return found
}
