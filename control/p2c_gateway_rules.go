package control

import (
	"fmt"
	"io"
	"slices"
)

// p2cGatewayDraft is a client-to-cloud gateway that is being decided on, with
// what its rules look at.
type p2cGatewayDraft struct {
	P2CGateway
	inventory *Inventory
	others    []P2CGateway // of all projects, but for itself
	sites     []Gateway    // of all projects
}

// p2cGatewayRules are the rules of a new gateway, beyond those of its single
// members.
var p2cGatewayRules = []func(*p2cGatewayDraft) *Error{
	p2cVPCExists,
	connectSubnetIsOfVPC,
	connectSubnetHasRoom,
	connectionsFitFlavor,
}

func p2cVPCExists(d *p2cGatewayDraft) *Error {
	if _, ok := d.inventory.VPC(d.VPCID); !ok {
		return refuse("VPN.0500", "VPC %s is not found.", d.VPCID)
	}
	return nil
}

func connectSubnetIsOfVPC(d *p2cGatewayDraft) *Error {
	for i := range d.inventory.VPCs {
		if _, ok := d.inventory.VPCs[i].Subnet(d.ConnectSubnet); !ok {
			continue
		}
		if d.inventory.VPCs[i].ID != d.VPCID {
			return refuse("VPN.0503", "Interconnection subnet %s does not belong to the VPC %s.", d.ConnectSubnet, d.VPCID)
		}
		return nil
	}
	return refuse("VPN.0501", "Interconnection subnet %s is not found.", d.ConnectSubnet)
}

// connectSubnetHasRoom: a subnet without host addresses connects nothing.
func connectSubnetHasRoom(d *p2cGatewayDraft) *Error {
	vpc, _ := d.inventory.VPC(d.VPCID)
	subnet, _ := vpc.Subnet(d.ConnectSubnet) // both exist by earlier rules
	if subnet.CIDR.Addr().BitLen()-subnet.CIDR.Bits() < 2 {
		return refuse("VPN.0502", "Interconnection subnet %s has insufficient available IP addresses.", d.ConnectSubnet)
	}
	return nil
}

func connectionsFitFlavor(d *p2cGatewayDraft) *Error {
	if d.MaxConnections > maxClientConnections {
		return refuse("VPN.0504", "The number of connections exceeds the upper limit defined by the specification.")
	}
	return nil
}

// p2cZones returns the availability zones of a client-to-cloud gateway: those
// wanted, or the first ones where none are.
func (inv *Inventory) p2cZones(wanted []string) ([]string, *Error) {
	switch two := len(inv.AvailabilityZones) > 1; {
	case len(inv.AvailabilityZones) == 0:
		return nil, refuse("VPN.0505", "Gateway resources are insufficient.")
	case wanted != nil && two && len(wanted) != 2:
		return nil, refuse("VPN.0514", "Two AZs must be specified.")
	case wanted != nil && two && wanted[0] == wanted[1]:
		return nil, refuse("VPN.0515", "Duplicate AZs.")
	}
	return inv.zones(wanted)
}

// bindP2CEIP binds the EIP of a new gateway: an existing one by its id, or a new
// one from those of the inventory that nobody uses.
func bindP2CEIP(d *p2cGatewayDraft, req *EIPRequest, random io.Reader) error {
	described := sent(req.Type) || sent(req.ChargeMode) || req.BandwidthSize != nil || sent(req.BandwidthName)
	switch {
	case sent(req.ID) && described:
		return refuse("VPN.0559", "EIP parameter conflict.")
	case sent(req.ID):
		return d.bindExisting(*req.ID)
	case !sent(req.Type) || req.BandwidthSize == nil:
		return refuse("VPN.0558", "Incomplete EIP parameters.")
	}
	return d.bindNew(req, random)
}

// sent tells whether a text was sent. Clients send empty ones for what they
// have no value for.
func sent(v *string) bool { return v != nil && *v != "" }

// bindExisting binds the EIP with an id.
func (d *p2cGatewayDraft) bindExisting(id string) error {
	eip, ok := d.inventory.EIP(id)
	switch {
	case !ok:
		return refuse("VPN.0551", "EIP %s is not found.", id)
	case d.eipIsTaken(eip):
		return refuse("VPN.0553", "EIP %s has been bound to an instance.", id)
	case !eip.Address.Is4():
		return Invalid("eip.id", "EIP %s has an IPv6 address; clients reach a server at an IPv4 one", id)
	case eip.Shared:
		return refuse("VPN.0554", "EIP %s does not have exclusive bandwidth.", id)
	case eip.BandwidthMbps > flavorBandwidth[d.Flavor]:
		return bandwidthExceedsFlavor()
	}
	d.EIP = eip.binding()
	return nil
}

// bindNew takes a free EIP that fits what was asked for.
func (d *p2cGatewayDraft) bindNew(req *EIPRequest, random io.Reader) error {
	p := &parser{}
	binding := EIPBinding{Type: *req.Type, ChargeMode: chargeModes[0]}
	if !slices.Contains(eipTypes, binding.Type) {
		return refuse("VPN.0556", "EIP type %s is invalid.", binding.Type)
	}
	if sent(req.ChargeMode) {
		text(p, "eip.charge_mode", req.ChargeMode, &binding.ChargeMode, chargeModes...)
	}
	if binding.BandwidthMbps = *req.BandwidthSize; binding.BandwidthMbps < 1 {
		p.fail("eip.bandwidth_size", "must be at least 1")
	}
	if sent(req.BandwidthName) {
		p.name("eip.bandwidth_name", req.BandwidthName, &binding.BandwidthName)
	}
	if err := p.result(); err != nil {
		return err
	}
	if binding.BandwidthMbps > flavorBandwidth[d.Flavor] {
		return bandwidthExceedsFlavor()
	}
	i := slices.IndexFunc(d.inventory.EIPs, func(e EIP) bool {
		return e.Type == binding.Type && e.Address.Is4() && !e.Shared && e.BandwidthMbps >= binding.BandwidthMbps && !d.eipIsTaken(&e)
	})
	if i < 0 {
		return refuse("VPN.0557", "EIPs of the type %s have been sold out.", binding.Type)
	}
	eip := &d.inventory.EIPs[i]
	binding.ID, binding.Address, binding.BandwidthID = eip.ID, eip.Address, eip.BandwidthID
	if binding.BandwidthName == "" {
		var err error
		if binding.BandwidthName, err = randomName("p2c-vpngw-bandwidth-", random); err != nil {
			return fmt.Errorf("name of a bandwidth: %w", err)
		}
	}
	d.EIP = binding
	return nil
}

// eipIsTaken tells whether an EIP is bound, or has an address of the node that
// is the private address of a gateway.
func (d *p2cGatewayDraft) eipIsTaken(e *EIP) bool {
	return eipIsBound(e.ID, d.sites, d.others) || isPrivateAddress(e.HostAddress(), d.sites)
}

func bandwidthExceedsFlavor() *Error {
	return refuse("VPN.0550", "The EIP bandwidth exceeds the upper limit defined by the specification.")
}

// rebindP2CEIP binds another EIP to a gateway whose old one was taken away.
func rebindP2CEIP(d *p2cGatewayDraft, id string) error {
	_, bound := d.inventory.EIP(d.EIP.ID)
	switch {
	case bound && d.EIP.ID == id:
		return nil
	case bound:
		return refuse("VPN.0512", "The gateway already has an EIP bound.")
	}
	return d.bindExisting(id)
}
