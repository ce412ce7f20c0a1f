package control

import (
	"fmt"
	"net/netip"
	"slices"
)

// gatewayDraft is a gateway that is being decided on, with what its rules look
// at.
type gatewayDraft struct {
	Gateway
	inventory *Inventory
	others    []Gateway    // of all projects
	p2c       []P2CGateway // of all projects
	taken     []Connection // connections of this very gateway
}

// gatewayRules are the rules that hold for a gateway at any time, beyond those
// of its single members.
var gatewayRules = []func(*gatewayDraft) *Error{
	basicFlavorIsPublicVPC,
	routerOfAttachment,
	vpcOfAttachment,
	connectSubnetOfVPC,
	accessSubnetOfAccessVPC,
	localSubnetsOfAttachment,
	localSubnetsAreNotReserved,
	localSubnetsAreNotPeerSubnets,
	privateAddressesOfAccessSubnet,
	privateAddressesAreFree,
}

func basicFlavorIsPublicVPC(d *gatewayDraft) *Error {
	if d.Flavor == FlavorBasic && (d.NetworkType == NetworkPrivate || d.AttachmentType == AttachER) {
		return Invalid("flavor", "Basic is not available with network_type private or attachment_type er")
	}
	return nil
}

func routerOfAttachment(d *gatewayDraft) *Error {
	switch {
	case d.AttachmentType == AttachER && d.ERID == "":
		return Invalid("er_id", "is required with attachment_type er")
	case d.AttachmentType == AttachVPC && d.ERID != "":
		return Invalid("er_id", "must be absent with attachment_type vpc")
	}
	return nil
}

func vpcOfAttachment(d *gatewayDraft) *Error {
	if d.VPCID == "" {
		if d.AttachmentType == AttachVPC {
			return Invalid("vpc_id", "is required with attachment_type vpc")
		}
		return nil
	}
	if _, ok := d.inventory.VPC(d.VPCID); !ok {
		return Invalid("vpc_id", "there is no VPC %s", d.VPCID)
	}
	return nil
}

func connectSubnetOfVPC(d *gatewayDraft) *Error {
	if d.ConnectSubnet == "" {
		if d.AttachmentType == AttachVPC {
			return Invalid("connect_subnet", "is required with attachment_type vpc")
		}
		return nil
	}
	return subnetOf(d, "connect_subnet", d.VPCID, d.ConnectSubnet)
}

func accessSubnetOfAccessVPC(d *gatewayDraft) *Error {
	if d.AccessVPCID == "" {
		return Invalid("access_vpc_id", "is required without vpc_id")
	}
	if d.AccessSubnetID == "" {
		return Invalid("access_subnet_id", "is required without connect_subnet")
	}
	if _, ok := d.inventory.VPC(d.AccessVPCID); !ok {
		return Invalid("access_vpc_id", "there is no VPC %s", d.AccessVPCID)
	}
	return subnetOf(d, "access_subnet_id", d.AccessVPCID, d.AccessSubnetID)
}

func subnetOf(d *gatewayDraft, field, vpcID, subnetID string) *Error {
	vpc, ok := d.inventory.VPC(vpcID)
	if !ok {
		return Invalid(field, "there is no VPC %s for it", vpcID)
	}
	if _, ok := vpc.Subnet(subnetID); !ok {
		return Invalid(field, "VPC %s has no subnet %s", vpcID, subnetID)
	}
	return nil
}

func localSubnetsOfAttachment(d *gatewayDraft) *Error {
	field := "local_subnets"
	if d.IPVersion == IPv6 {
		field = "local_subnets_v6"
	}
	switch {
	case d.AttachmentType == AttachVPC && len(d.LocalSubnets) == 0:
		return Invalid(field, "is required with attachment_type vpc and ip_version %s", d.IPVersion)
	case d.AttachmentType == AttachER && len(d.LocalSubnets) > 0:
		return Invalid(field, "must be absent with attachment_type er")
	}
	return nil
}

func localSubnetsAreNotReserved(d *gatewayDraft) *Error {
	field := "local_subnets"
	if d.IPVersion == IPv6 {
		field = "local_subnets_v6"
	}
	for i, local := range d.LocalSubnets {
		if err := localIsNotReserved(fmt.Sprintf("%s[%d]", field, i), local); err != nil {
			return err
		}
	}
	return nil
}

func localSubnetsAreNotPeerSubnets(d *gatewayDraft) *Error {
	for i, local := range d.LocalSubnets {
		for _, c := range d.taken {
			if slices.Contains(c.PeerSubnets, local) {
				return Invalid(fmt.Sprintf("local_subnets[%d]", i), "%s is a peer subnet of connection %s", local, c.ID)
			}
		}
	}
	return nil
}

func privateAddressesOfAccessSubnet(d *gatewayDraft) *Error {
	if !d.AccessPrivateIPs[0].IsValid() {
		return nil
	}
	if d.AccessPrivateIPs[0] == d.AccessPrivateIPs[1] {
		return Invalid("access_private_ip_2", "must differ from access_private_ip_1")
	}
	vpc, _ := d.inventory.VPC(d.AccessVPCID)
	subnet, _ := vpc.Subnet(d.AccessSubnetID) // both exist by an earlier rule
	for i, a := range d.AccessPrivateIPs {
		if !isHostOf(a, subnet.CIDR) {
			return Invalid(fmt.Sprintf("access_private_ip_%d", i+1), "must be a host address of %s", subnet.CIDR)
		}
	}
	return nil
}

// privateAddressesAreFree: all gateways are on one node, so an address that one
// of any project has, or that stands behind an EIP, is not free.
func privateAddressesAreFree(d *gatewayDraft) *Error {
	for i, a := range d.AccessPrivateIPs {
		field := fmt.Sprintf("access_private_ip_%d", i+1)
		if !a.IsValid() {
			continue
		}
		if d.hasPrivateAddress(a) {
			return Invalid(field, "%s is taken", a)
		}
		for j := range d.inventory.EIPs {
			if d.inventory.EIPs[j].HostAddress() == a {
				return Invalid(field, "%s is the address of an EIP", a)
			}
		}
	}
	return nil
}

// hasPrivateAddress tells whether another gateway has a private address.
func (d *gatewayDraft) hasPrivateAddress(a netip.Addr) bool {
	return isPrivateAddress(a, slices.DeleteFunc(slices.Clone(d.others), func(other Gateway) bool { return other.ID == d.ID }))
}

// isPrivateAddress tells whether one of the gateways has a private address.
func isPrivateAddress(a netip.Addr, gateways []Gateway) bool {
	return slices.ContainsFunc(gateways, func(g Gateway) bool { return slices.Contains(g.AccessPrivateIPs[:], a) })
}

// isHostOf tells whether an address is one that a device in the network can
// have: not the network itself and not, in IPv4, its broadcast address.
func isHostOf(a netip.Addr, n netip.Prefix) bool {
	if !n.Contains(a) || a == n.Masked().Addr() {
		return false
	}
	return !a.Is4() || n.Contains(a.Next())
}

// zones returns the availability zones of a gateway: those wanted, or the
// first ones where none are.
func (inv *Inventory) zones(wanted []string) ([]string, *Error) {
	const field = "availability_zone_ids"
	count := min(2, len(inv.AvailabilityZones))
	if count == 0 {
		return nil, Invalid(field, "there is no availability zone, so no gateway can be made")
	}
	if wanted == nil {
		return slices.Clone(inv.AvailabilityZones[:count]), nil
	}
	if len(wanted) != count {
		return nil, Invalid(field, "must be exactly %d of %s", count, oneOf(inv.AvailabilityZones))
	}
	for i, zone := range wanted {
		if !slices.Contains(inv.AvailabilityZones, zone) {
			return nil, Invalid(fmt.Sprintf("%s[%d]", field, i), "must be one of %s", oneOf(inv.AvailabilityZones))
		}
		if slices.Contains(wanted[:i], zone) {
			return nil, Invalid(fmt.Sprintf("%s[%d]", field, i), "must be unique")
		}
	}
	return wanted, nil
}

// firstBroken returns the first of the rules that an object breaks.
func firstBroken[T any](object *T, rules []func(*T) *Error) error {
	for _, rule := range rules {
		if err := rule(object); err != nil {
			return err
		}
	}
	return nil
}
