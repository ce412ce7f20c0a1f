package control

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// NetworkOptionsRequest holds what the API has no place for in the networks of
// clients. A nil member was not sent.
type NetworkOptionsRequest struct {
	ClientCIDRv6   *string
	LocalSubnetsV6 []string // empty: none
	Topology       *string
	DNSDomain      *string // empty: none
}

// networkOptions reads what was sent of them.
func (p *parser) networkOptions(v *VPNServer, req NetworkOptionsRequest) {
	text(p, "topology", req.Topology, &v.Topology, TopologyNet30, TopologySubnet)
	if req.ClientCIDRv6 != nil {
		v.ClientCIDRv6 = netip.Prefix{}
		if s := *req.ClientCIDRv6; s != optionOff && s != "" {
			v.ClientCIDRv6 = p.unicastIPv6("client_cidr_v6", s)
			if bits := v.ClientCIDRv6.Bits(); v.ClientCIDRv6.IsValid() && (bits < 64 || bits > 112) {
				p.fail("client_cidr_v6", "must have a mask length of 64 to 112")
			}
		}
	}
	if req.LocalSubnetsV6 != nil {
		v.LocalSubnetsV6 = nil
		if len(req.LocalSubnetsV6) > maxServerSubnets {
			p.fail("local_subnets_v6", "must be at most %d", maxServerSubnets)
			return
		}
		for i, s := range req.LocalSubnetsV6 {
			field := fmt.Sprintf("local_subnets_v6[%d]", i)
			n := p.unicastIPv6(field, s)
			if n.IsValid() && slices.Contains(v.LocalSubnetsV6, n) {
				p.fail(field, "%s is there twice", n)
			}
			v.LocalSubnetsV6 = append(v.LocalSubnetsV6, n)
		}
	}
	if req.DNSDomain != nil {
		if v.DNSDomain = *req.DNSDomain; !isDomain(v.DNSDomain) {
			p.fail("dns_domain", "must be labels of letters, digits and - between dots")
		}
	}
	switch n := v.ClientCIDRv6; {
	case !n.IsValid() && len(v.LocalSubnetsV6) > 0:
		p.fail("local_subnets_v6", "needs a client_cidr_v6")
	case n.IsValid() && overlapsAny(n, v.LocalSubnetsV6):
		p.fail("client_cidr_v6", "%s overlaps one of local_subnets_v6", n)
	}
}

// unicastIPv6 reads a network of global or unique local addresses, or all of IPv6.
// Host bits are dropped.
func (p *parser) unicastIPv6(field, s string) netip.Prefix {
	n, err := netip.ParsePrefix(s)
	if err != nil || !n.Addr().Is6() || n.Addr().Is4In6() {
		p.fail(field, "must be an IPv6 network, as 2001:db8:1::/48")
		return netip.Prefix{}
	}
	n = n.Masked()
	if n.Bits() > 0 && overlapsAny(n, specialIPv6) {
		p.fail(field, "%s is unavailable", n)
	}
	return n
}

// specialIPv6 are networks of IPv6 that no client can reach or be in.
var specialIPv6 = []netip.Prefix{
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("::ffff:0:0/96"),
	netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// isDomain reports whether a name can be told clients, which hand it to scripts and
// resolvers (RFC 1123, section 2.1). Empty is none.
func isDomain(name string) bool {
	if name == "" {
		return true
	}
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.Trim(label, letters) != "" {
			return false
		}
	}
	return len(name) <= 253
}

// clientCIDRv6IsFree: the network of the clients' IPv6 addresses is of no other
// server, of no subnet and of no peer: the nodes have one routing table.
func clientCIDRv6IsFree(d *serverDraft) *Error {
	n := d.ClientCIDRv6
	if !n.IsValid() {
		return nil
	}
	if 128-n.Bits() < 32-d.ClientCIDR.Bits() {
		return Invalid("client_cidr_v6", "must have as many addresses as client_cidr")
	}
	var routes []netip.Prefix
	for _, v := range d.servers {
		if v.ClientCIDRv6.IsValid() {
			routes = append(routes, v.ClientCIDRv6)
		}
	}
	for _, c := range d.tunnels {
		routes = append(routes, c.PeerSubnets...)
		for _, rule := range c.PolicyRules {
			routes = append(routes, rule.Destinations...)
		}
	}
	for _, route := range routes {
		if route.Bits() > 0 && n.Overlaps(route) {
			return refuse("VPN.1109", "The client CIDR block conflicts with the VPC route %s.", route)
		}
	}
	return nil
}
