package control

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// serverDraft is a server that is being decided on, with what its rules look
// at.
type serverDraft struct {
	VPNServer
	before    *VPNServer // nil: it is a new one
	gateway   P2CGateway
	inventory *Inventory
	servers   []VPNServer  // of all projects, but for itself
	tunnels   []Connection // of all projects
	users     []VPNUser    // of this server
	groups    []UserGroup
	policies  []AccessPolicy
	now       time.Time
}

// serverRules are the rules of a new server, beyond those of its single
// members.
var serverRules = []func(*serverDraft) *Error{
	gatewayHasEIP,
	gatewayHasNoServer,
	certificateIsUsable,
	certificateAuthHasCA,
}

// networkRules are the rules of the networks of a server, whenever they change.
var networkRules = []func(*serverDraft) *Error{
	serverHasLocalSubnets,
	localSubnetsWithinLimit,
	localSubnetsAreUsable,
	localSubnetsAreUnique,
	clientCIDRIsUsable,
	clientCIDRHasMask,
	clientCIDRHoldsConnections,
	clientCIDRIsNoLocalSubnet,
	clientCIDRIsNoRoute,
	clientCIDRHasNoEIP,
	clientCIDRv6IsFree,
	clientCIDRFitsStaticIPs,
}

func gatewayHasEIP(d *serverDraft) *Error {
	if _, bound := d.inventory.EIP(d.gateway.EIP.ID); !bound {
		return refuse("VPN.1121", "Gateway not bind eip.")
	}
	return nil
}

func gatewayHasNoServer(d *serverDraft) *Error {
	if slices.ContainsFunc(d.servers, func(v VPNServer) bool { return v.GatewayID == d.gateway.ID }) {
		return refuse("VPN.1102", "The number of servers exceeds the upper limit.")
	}
	return nil
}

// certificateIsUsable: a certificate of the inventory must be there and in
// force.
func certificateIsUsable(d *serverDraft) *Error {
	if d.Certificate.Source != CertificateCCM {
		return nil
	}
	c, ok := d.inventory.Certificate(d.Certificate.ID)
	switch {
	case !ok:
		return refuse("VPN.1112", "Server certificate %s is not found.", d.Certificate.ID)
	case !c.inForce(d.now):
		return refuse("VPN.1110", "The status of server certificate %s is abnormal.", d.Certificate.ID)
	}
	return nil
}

// certificateAuthHasCA holds at creation only: a server that is changed to
// certificates gets its CAs afterwards.
func certificateAuthHasCA(d *serverDraft) *Error {
	if d.AuthType.Certificates() && len(d.ClientCAs) == 0 {
		return refuse("VPN.1101", "At least one client CA certificate is required.")
	}
	return nil
}

func serverHasLocalSubnets(d *serverDraft) *Error {
	if len(d.LocalSubnets) == 0 {
		return refuse("VPN.1118", "The local CIDR block cannot be empty.")
	}
	return nil
}

func localSubnetsWithinLimit(d *serverDraft) *Error {
	if len(d.LocalSubnets) > maxServerSubnets {
		return refuse("VPN.1105", "The number of local subnets exceeds the upper limit.")
	}
	return nil
}

// Networks that no client can reach or be in.
var (
	specialNetworks = []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("240.0.0.0/4"),
	}
	linkLocal = netip.MustParsePrefix("169.254.0.0/16")
)

func overlapsAny(n netip.Prefix, with []netip.Prefix) bool {
	return slices.ContainsFunc(with, n.Overlaps)
}

func localSubnetsAreUsable(d *serverDraft) *Error {
	for _, n := range d.LocalSubnets {
		if overlapsAny(n, specialNetworks) {
			return refuse("VPN.1104", "CIDR block %s is unavailable.", n)
		}
	}
	return nil
}

func localSubnetsAreUnique(d *serverDraft) *Error {
	for i, n := range d.LocalSubnets {
		if slices.Contains(d.LocalSubnets[:i], n) {
			return refuse("VPN.1106", "Duplicate local subnet: %s.", n)
		}
	}
	return nil
}

func clientCIDRIsUsable(d *serverDraft) *Error {
	if overlapsAny(d.ClientCIDR, specialNetworks) || d.ClientCIDR.Overlaps(linkLocal) {
		return refuse("VPN.1104", "CIDR block %s is unavailable.", d.ClientCIDR)
	}
	return nil
}

func clientCIDRHasMask(d *serverDraft) *Error {
	if n := d.ClientCIDR.Bits(); n < 16 || n > 26 {
		return refuse("VPN.1107", "The mask length of the client CIDR block must in the range of 16 to 26.")
	}
	return nil
}

// clientCIDRHoldsConnections: each client takes a block of four addresses, and
// the gateway the first one.
func clientCIDRHoldsConnections(d *serverDraft) *Error {
	if 1<<(32-d.ClientCIDR.Bits()) <= 4*d.gateway.MaxConnections {
		return refuse("VPN.1108", "The number of IP addresses in the client CIDR block is less than the number of IP addresses required by gateway connections.")
	}
	return nil
}

func clientCIDRIsNoLocalSubnet(d *serverDraft) *Error {
	for _, n := range d.LocalSubnets {
		if d.ClientCIDR.Overlaps(n) {
			return refuse("VPN.1119", "The client CIDR block conflicts with the local CIDR block %s.", n)
		}
	}
	return nil
}

// clientCIDRIsNoRoute: the routes of the VPC are those to its subnets, to itself
// and to the peers of site-to-cloud connections. Those of all connections and the
// pools of all other servers count, whatever their VPC: the nodes have one
// routing table. Default routes do not conflict.
func clientCIDRIsNoRoute(d *serverDraft) *Error {
	var routes []netip.Prefix
	if vpc, ok := d.inventory.VPC(d.gateway.VPCID); ok {
		for _, s := range vpc.Subnets {
			routes = append(routes, s.CIDR)
		}
		routes = append(routes, vpc.CIDR)
	}
	for _, v := range d.servers {
		routes = append(routes, v.ClientCIDR)
	}
	for _, c := range d.tunnels {
		routes = append(routes, c.PeerSubnets...)
		for _, rule := range c.PolicyRules {
			routes = append(routes, rule.Destinations...)
		}
	}
	for _, route := range routes {
		if route.Bits() > 0 && d.ClientCIDR.Overlaps(route) {
			return refuse("VPN.1109", "The client CIDR block conflicts with the VPC route %s.", route)
		}
	}
	return nil
}

// clientCIDRHasNoEIP: an address of a gateway is no client's.
func clientCIDRHasNoEIP(d *serverDraft) *Error {
	for i := range d.inventory.EIPs {
		eip := &d.inventory.EIPs[i]
		for _, a := range []netip.Addr{eip.Address, eip.HostAddress()} {
			if d.ClientCIDR.Contains(a) {
				return Invalid("client_cidr", "%s has the address %s of EIP %s", d.ClientCIDR, a, eip.ID)
			}
			if d.ClientCIDRv6.IsValid() && d.ClientCIDRv6.Contains(a) {
				return Invalid("client_cidr_v6", "%s has the address %s of EIP %s", d.ClientCIDRv6, a, eip.ID)
			}
		}
	}
	return nil
}

// clientCIDRFitsStaticIPs: the addresses of users are of the pool, so with
// those it stays.
func clientCIDRFitsStaticIPs(d *serverDraft) *Error {
	if d.before == nil || d.before.ClientCIDR == d.ClientCIDR {
		return nil
	}
	var names []string
	for _, u := range d.users {
		if u.StaticIP.IsValid() {
			names = append(names, u.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	more := ""
	if shown := 10; len(names) > shown {
		names, more = names[:shown], " and more"
	}
	return Invalid("client_cidr", "cannot change while users have static addresses: %s%s", strings.Join(names, ", "), more)
}

// authTypeIsFree: what proves who a client is must not be left behind by a
// change of how it does.
func authTypeIsFree(d *serverDraft) *Error {
	if d.before == nil || d.before.AuthType == d.AuthType {
		return nil
	}
	if !d.AuthType.Certificates() && d.before.AuthType.Certificates() && len(d.ClientCAs) > 0 {
		return refuse("VPN.1125", "There are client CA certificates on the server. Delete them first.")
	}
	switch {
	case d.AuthType.Passwords():
	case len(d.users) > 0:
		return refuse("VPN.1122", "There are users on the server. Delete them first.")
	case slices.ContainsFunc(d.groups, func(g UserGroup) bool { return g.Type == TypeCustom }):
		return refuse("VPN.1123", "There are user groups on the server. Delete them first.")
	case slices.ContainsFunc(d.policies, func(p AccessPolicy) bool { return p.Type == TypeCustom }):
		return refuse("VPN.1124", "There are access policies on the server. Delete them first.")
	}
	return nil
}
