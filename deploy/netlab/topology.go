package netlab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// SiteConfig describes one customer's site.
type SiteConfig struct {
	// NAT puts a masquerading NAT between the site's router and the internet.
	NAT bool
}

// Config describes a topology.
type Config struct {
	Sites []SiteConfig // 1 to 16
	// CloudNAT is the NAT in front of the gateway.
	CloudNAT CloudNAT
	// MTU is that of all links; zero means 1500 octets.
	MTU int
	// IPv6 adds IPv6 to all links, where there is no NAT.
	IPv6 bool
}

// CloudNAT says how the gateway reaches the internet.
type CloudNAT uint8

const (
	// Direct is a gateway that has its public addresses itself.
	Direct CloudNAT = iota
	// OneToOne maps each public address to a private one of the gateway, in
	// both directions, as a cloud's elastic addresses do.
	OneToOne
	// Masquerade hides the gateway: only what it begins comes back.
	Masquerade
)

// Topology is a lab with the standard set of namespaces and addresses.
type Topology struct {
	*Lab

	Internet, Gateway, CloudHost *Namespace
	Sites                        []*Site
	CloudNAT                     *NAT // nil with Direct

	// Public are the gateway's addresses as the internet sees them, Local the
	// same as the gateway has them.
	Public, Local [2]netip.Addr
	// ForClients is one more address of the gateway, for client-to-cloud VPN;
	// with Direct only.
	ForClients netip.Addr
	// CloudSubnets are behind the gateway; CloudAddresses are those of the
	// cloud host, one in each.
	CloudSubnets   [2]netip.Prefix
	CloudAddresses [2]netip.Addr

	IPv6 *IPv6 // nil without
}

// Site is one customer's site.
type Site struct {
	Router, Host *Namespace
	NAT          *NAT // nil without

	// Public is the site's address as the internet sees it, Local the router's
	// own; they differ behind a NAT.
	Public, Local netip.Addr
	// Subnets are behind the router; Addresses are those of the host, one in
	// each.
	Subnets   [2]netip.Prefix
	Addresses [2]netip.Addr
}

// Interfaces of the namespaces: every one has its way to the internet on wan,
// and the way to what is behind it on lan.
const (
	WAN = "wan"
	LAN = "lan"
)

// NewTopology opens a lab and builds the topology in it. On failure nothing is
// left.
func NewTopology(ctx context.Context, config Config) (*Topology, error) {
	if n := len(config.Sites); n < 1 || n > 16 {
		return nil, fmt.Errorf("sites: have %d, want 1 to 16", n)
	}
	if config.MTU == 0 {
		config.MTU = 1500
	}
	lab, err := Open(ctx)
	if err != nil {
		return nil, err
	}
	t := &Topology{Lab: lab}
	if err := t.build(ctx, config); err != nil {
		_ = lab.Close()
		return nil, fmt.Errorf("build the topology: %w", err)
	}
	return t, nil
}

func (t *Topology) build(ctx context.Context, config Config) error {
	var err error
	if t.Internet, err = t.router(ctx, "internet"); err != nil {
		return err
	}
	if err := t.buildCloud(ctx, config); err != nil {
		return err
	}
	for i, site := range config.Sites {
		s, err := t.buildSite(ctx, i, site, config.MTU)
		if err != nil {
			return fmt.Errorf("site %d: %w", i, err)
		}
		t.Sites = append(t.Sites, s)
	}
	if config.IPv6 {
		return t.buildIPv6(ctx, config)
	}
	return nil
}

func (t *Topology) router(ctx context.Context, role string) (*Namespace, error) {
	n, err := t.Namespace(ctx, role)
	if err != nil {
		return nil, err
	}
	return n, n.Sysctl(ctx, "net.ipv4.ip_forward=1")
}

func (t *Topology) buildCloud(ctx context.Context, config Config) error {
	t.Public = [2]netip.Addr{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("203.0.113.11")}
	t.Local = t.Public
	network, upstream, edge := "203.0.113", t.Internet, "cloud"
	if config.CloudNAT != Direct {
		t.Local = [2]netip.Addr{netip.MustParseAddr("172.16.0.10"), netip.MustParseAddr("172.16.0.11")}
		box, err := t.nat(ctx, "cloud-nat", t.Internet, edge, "203.0.113.1/24", t.Public[:], config.MTU)
		if err != nil {
			return err
		}
		box.oneToOne = config.CloudNAT == OneToOne
		box.local = t.Local[:]
		t.CloudNAT = box
		if err := box.Map(ctx, 4500, 500); err != nil {
			return err
		}
		network, upstream, edge = "172.16.0", box.Namespace, LAN
	}
	var err error
	if t.Gateway, err = t.router(ctx, "gateway"); err != nil {
		return err
	}
	if err := t.Gateway.Link(ctx, WAN, upstream, edge, config.MTU); err != nil {
		return err
	}
	if err := upstream.IP(ctx, "addr add "+network+".1/24 dev "+edge); err != nil {
		return err
	}
	local := t.Local[:]
	if config.CloudNAT == Direct {
		t.ForClients = netip.MustParseAddr("203.0.113.12")
		local = append(slices.Clone(local), t.ForClients)
	}
	for _, a := range local {
		if err := t.Gateway.IP(ctx, fmt.Sprintf("addr add %s/24 dev %s", a, WAN)); err != nil {
			return err
		}
	}
	if err := t.Gateway.IP(ctx, "route add default via "+network+".1"); err != nil {
		return err
	}
	t.CloudHost, t.CloudSubnets, t.CloudAddresses, err = t.hostBehind(ctx, "cloud-host", t.Gateway, "10.10.0", "10.10.1", config.MTU)
	return err
}

// siteRole names a site's router, and the internet's interface to it.
func siteRole(i int) string {
	if i == 0 {
		return "site"
	}
	return fmt.Sprintf("site%d", i+1)
}

func (t *Topology) buildSite(ctx context.Context, i int, config SiteConfig, mtu int) (*Site, error) {
	role := siteRole(i)
	// Sixteen addresses each: the internet has the first, the site the tenth.
	far := fmt.Sprintf("198.51.100.%d/28", 16*i+1)
	s := &Site{Public: netip.AddrFrom4([4]byte{198, 51, 100, byte(16*i + 10)})}
	s.Local = s.Public
	near, gateway := fmt.Sprintf("%s/28", s.Local), fmt.Sprintf("198.51.100.%d", 16*i+1)
	upstream, edge := t.Internet, role
	if config.NAT {
		box, err := t.nat(ctx, role+"-nat", t.Internet, edge, far, []netip.Addr{s.Public}, mtu)
		if err != nil {
			return nil, err
		}
		s.NAT = box
		if err := box.Map(ctx, 20000, 21000); err != nil {
			return nil, err
		}
		s.Local = netip.MustParseAddr("172.20.0.10")
		far, near, gateway = "172.20.0.1/24", "172.20.0.10/24", "172.20.0.1"
		upstream, edge = box.Namespace, LAN
	}
	var err error
	if s.Router, err = t.router(ctx, role); err != nil {
		return nil, err
	}
	if err := s.Router.Link(ctx, WAN, upstream, edge, mtu); err != nil {
		return nil, err
	}
	if err := upstream.IP(ctx, "addr add "+far+" dev "+edge); err != nil {
		return nil, err
	}
	if err := s.Router.IP(ctx, "addr add "+near+" dev "+WAN, "route add default via "+gateway); err != nil {
		return nil, err
	}
	s.Host, s.Subnets, s.Addresses, err = t.hostBehind(ctx, role+"-host", s.Router,
		fmt.Sprintf("192.168.%d", 10*i+10), fmt.Sprintf("192.168.%d", 10*i+11), mtu)
	return s, err
}

// hostBehind puts a host behind a router, with an address in each of two
// networks, which are given by their first three octets.
func (t *Topology) hostBehind(ctx context.Context, role string, router *Namespace, first, second string, mtu int) (
	host *Namespace, subnets [2]netip.Prefix, addresses [2]netip.Addr, err error,
) {
	if host, err = t.Namespace(ctx, role); err != nil {
		return
	}
	if err = router.Link(ctx, LAN, host, WAN, mtu); err != nil {
		return
	}
	for i, network := range []string{first, second} {
		subnets[i] = netip.MustParsePrefix(network + ".0/24")
		addresses[i] = netip.MustParseAddr(network + ".10")
		if err = router.IP(ctx, "addr add "+network+".1/24 dev "+LAN); err != nil {
			return
		}
		if err = host.IP(ctx, "addr add "+network+".10/24 dev "+WAN); err != nil {
			return
		}
	}
	err = host.IP(ctx, "route add default via "+first+".1")
	return
}
