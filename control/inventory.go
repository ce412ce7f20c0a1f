package control

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Inventory is the cloud around the gateways: what the ids in requests resolve
// to. It is declared in the daemon's configuration.
type Inventory struct {
	AvailabilityZones []string `yaml:"availability_zones"`
	VPCs              []VPC    `yaml:"vpcs"`
	EIPs              []EIP    `yaml:"eips"`

	// Certificates are for servers of client-to-cloud VPN, LogStreams for the
	// logs of their connections.
	Certificates []Certificate `yaml:"certificates"`
	LogStreams   []LogStream   `yaml:"log_streams"`
}

// VPC is a virtual private cloud with its subnets.
type VPC struct {
	ID      string       `yaml:"id"`
	CIDR    netip.Prefix `yaml:"cidr"`
	Subnets []Subnet     `yaml:"subnets"`
}

// Subnet is a subnet of a VPC.
type Subnet struct {
	ID   string       `yaml:"id"`
	CIDR netip.Prefix `yaml:"cidr"`
	// Interface is the host's in the subnet. With it the access addresses of
	// private gateways there float, and so does RouterAddress.
	Interface string `yaml:"interface"`
	// RouterAddress is the IPv4 address by which the hosts of the subnet reach
	// the networks behind the peers. Of a fleet the node has it that serves
	// the gateways of the subnet. The zero Addr where there is none.
	RouterAddress netip.Addr `yaml:"router_address"`
}

// EIP is an elastic public address.
type EIP struct {
	ID      string     `yaml:"id"`
	Address netip.Addr `yaml:"address"` // as peers see it; of either family
	// PrivateAddress is the address of the host where a NAT stands in front
	// of it; the zero Addr where the host has Address itself.
	PrivateAddress netip.Addr `yaml:"private_address"`
	Interface      string     `yaml:"interface"`
	// Floating says that several nodes of a fleet can have the address: the one
	// that serves it sets the host's address on Interface, unless the host has
	// it already.
	Floating      bool   `yaml:"floating"`
	Type          string `yaml:"type"`           // default 5_bgp
	BandwidthMbps int    `yaml:"bandwidth_mbps"` // default 300
	BandwidthID   string `yaml:"bandwidth_id"`   // default: derived from ID
	BandwidthName string `yaml:"bandwidth_name"`
	ChargeMode    string `yaml:"charge_mode"` // bandwidth (default) or traffic
	Shared        bool   `yaml:"shared"`      // the bandwidth is shared with other EIPs
}

// HostAddress returns the address that the host itself has.
func (e *EIP) HostAddress() netip.Addr {
	if e.PrivateAddress.IsValid() {
		return e.PrivateAddress
	}
	return e.Address
}

// VPC returns a VPC by its id.
func (inv *Inventory) VPC(id string) (*VPC, bool) {
	i := slices.IndexFunc(inv.VPCs, func(v VPC) bool { return v.ID == id })
	if i < 0 {
		return nil, false
	}
	return &inv.VPCs[i], true
}

// Subnet returns a subnet of the VPC by its id.
func (v *VPC) Subnet(id string) (*Subnet, bool) {
	i := slices.IndexFunc(v.Subnets, func(s Subnet) bool { return s.ID == id })
	if i < 0 {
		return nil, false
	}
	return &v.Subnets[i], true
}

// EIP returns an EIP by its id.
func (inv *Inventory) EIP(id string) (*EIP, bool) {
	i := slices.IndexFunc(inv.EIPs, func(e EIP) bool { return e.ID == id })
	if i < 0 {
		return nil, false
	}
	return &inv.EIPs[i], true
}

// LocalAddress returns the address of the host behind a slot of a gateway:
// what a tunnel of that slot is bound to. It differs from g.Address where a
// NAT stands in front of the host.
func (inv *Inventory) LocalAddress(g *Gateway, s Slot) (netip.Addr, error) {
	if g.NetworkType == NetworkPrivate {
		return g.AccessPrivateIPs[s-1], nil
	}
	eip, ok := inv.EIP(g.EIPs[s-1].ID)
	if !ok {
		return netip.Addr{}, fmt.Errorf("eip %s of gateway %s is not in the inventory", g.EIPs[s-1].ID, g.ID)
	}
	return eip.HostAddress(), nil
}

// Validate checks that the inventory is complete and free of contradictions,
// fills in its defaults and reads the files it names. All defects are reported, joined.
func (inv *Inventory) Validate() error {
	c := &inventoryCheck{ids: map[string]string{}, addresses: map[netip.Addr]string{}}
	c.zones(inv)
	c.vpcs(inv)
	c.eips(inv)
	c.certificates(inv)
	c.logStreams(inv)
	return errors.Join(c.errs...)
}

// inventoryCheck gathers what is wrong with an inventory, and what must stand
// there once.
type inventoryCheck struct {
	errs      []error
	ids       map[string]string     // where each stands
	addresses map[netip.Addr]string // likewise
}

func (c *inventoryCheck) add(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

func (c *inventoryCheck) unique(path, id string) {
	if id == "" || len(id) > 64 {
		c.add("%s.id: 1 to 64 characters are wanted", path)
	} else if other, taken := c.ids[id]; taken {
		c.add("%s.id: %s is the id of %s too", path, id, other)
	}
	c.ids[id] = path
}

func (c *inventoryCheck) zones(inv *Inventory) {
	zones := map[string]bool{}
	for i, zone := range inv.AvailabilityZones {
		if zone == "" || zones[zone] {
			c.add("inventory.availability_zones[%d]: a name that stands there once is wanted", i)
		}
		zones[zone] = true
	}
}

func (c *inventoryCheck) vpcs(inv *Inventory) {
	for i := range inv.VPCs {
		v := &inv.VPCs[i]
		path := fmt.Sprintf("inventory.vpcs[%d]", i)
		c.unique(path, v.ID)
		if !v.CIDR.IsValid() || v.CIDR != v.CIDR.Masked() {
			c.add("%s.cidr: a network without host bits is wanted", path)
		}
		for j, s := range v.Subnets {
			path := fmt.Sprintf("%s.subnets[%d]", path, j)
			c.unique(path, s.ID)
			if !s.CIDR.IsValid() || s.CIDR != s.CIDR.Masked() {
				c.add("%s.cidr: a network without host bits is wanted", path)
			} else if v.CIDR.IsValid() && !contains(v.CIDR, s.CIDR) {
				c.add("%s.cidr: %s is not in %s of its vpc", path, s.CIDR, v.CIDR)
			}
			if len(s.Interface) > maxInterfaceName {
				c.add("%s.interface: at most %d characters are wanted", path, maxInterfaceName)
			}
			if r := s.RouterAddress; r.IsValid() {
				switch {
				case !r.Is4() || !s.CIDR.Contains(r):
					c.add("%s.router_address: an IPv4 address of the subnet is wanted", path)
				case s.Interface == "":
					c.add("%s.router_address: the interface is wanted, too", path)
				}
				if other, taken := c.addresses[r]; taken {
					c.add("%s.router_address: %s is that of %s", path, r, other)
				}
				c.addresses[r] = path
			}
		}
	}
}

func (c *inventoryCheck) eips(inv *Inventory) {
	for i := range inv.EIPs {
		e := &inv.EIPs[i]
		path := fmt.Sprintf("inventory.eips[%d]", i)
		c.unique(path, e.ID)
		e.fillDefaults()
		if !isPeerAddress(e.Address) {
			c.add("%s.address: an IPv4 or IPv6 address that peers can reach is wanted", path)
		}
		if p := e.PrivateAddress; p.IsValid() && (!isPeerAddress(p) || p.Is4() != e.Address.Is4()) {
			c.add("%s.private_address: an address of the family of the address is wanted", path)
		}
		if e.Floating && !e.HostAddress().Is4() {
			c.add("%s.floating: only IPv4 addresses float", path)
		}
		if len(e.Interface) > maxInterfaceName || e.Floating && e.Interface == "" {
			c.add("%s.interface: 1 to %d characters are wanted, or none where the address does not float", path, maxInterfaceName)
		}
		if other, taken := c.addresses[e.HostAddress()]; taken {
			c.add("%s: has the address %s of %s", path, e.HostAddress(), other)
		}
		c.addresses[e.HostAddress()] = path
		if !slices.Contains(eipTypes, e.Type) {
			c.add("%s.type: one of %v is wanted", path, eipTypes)
		}
		if !slices.Contains(chargeModes, e.ChargeMode) {
			c.add("%s.charge_mode: one of %v is wanted", path, chargeModes)
		}
		if e.BandwidthMbps < 1 || e.BandwidthMbps > maxBandwidthMbps {
			c.add("%s.bandwidth_mbps: 1 to %d is wanted", path, maxBandwidthMbps)
		}
	}
}

func (c *inventoryCheck) certificates(inv *Inventory) {
	for i := range inv.Certificates {
		certificate := &inv.Certificates[i]
		path := fmt.Sprintf("inventory.certificates[%d]", i)
		c.unique(path, certificate.ID)
		if err := certificate.load(); err != nil {
			c.add("%s.%w", path, err)
		}
	}
}

func (c *inventoryCheck) logStreams(inv *Inventory) {
	streams := map[LogConfig]bool{}
	for i := range inv.LogStreams {
		l := &inv.LogStreams[i]
		path := fmt.Sprintf("inventory.log_streams[%d]", i)
		if streams[l.config()] {
			c.add("%s: stream %s of group %s stands there twice", path, l.StreamID, l.GroupID)
		}
		streams[l.config()] = true
		if err := l.validate(); err != nil {
			c.add("%s.%w", path, err)
		}
	}
}

// maxInterfaceName is what Linux allows, in octets.
const maxInterfaceName = 15

// contains tells whether inner lies inside outer, or is equal to it.
func contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}
