package netlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// IPv6 is what a topology with Config.IPv6 has beside its IPv4 addresses. The
// link-local addresses, without which a router asks for no neighbour, are set by
// hand: the kernel would take seconds to be sure of its own.
type IPv6 struct {
	// Public are the gateway's addresses.
	Public [2]netip.Addr
	// CloudSubnet is behind the gateway, with the cloud host's CloudAddress.
	CloudSubnet  netip.Prefix
	CloudAddress netip.Addr
	Sites        []SiteIPv6
}

// SiteIPv6 is one customer's site.
type SiteIPv6 struct {
	Public  netip.Addr   // the router's
	Subnet  netip.Prefix // behind it, with the host's Address
	Address netip.Addr
}

// cloudInternetIPv6 is between the gateway and the internet.
const cloudInternetIPv6 = "2001:db8:c"

// buildIPv6 gives a topology that stands its IPv6 addresses and routes.
func (t *Topology) buildIPv6(ctx context.Context, config Config) error {
	if config.CloudNAT != Direct {
		return errors.New("IPv6 goes with a gateway without a NAT alone")
	}
	v := &IPv6{
		Public:       [2]netip.Addr{netip.MustParseAddr(cloudInternetIPv6 + "::10"), netip.MustParseAddr(cloudInternetIPv6 + "::11")},
		CloudSubnet:  netip.MustParsePrefix("2001:db8:10::/64"),
		CloudAddress: netip.MustParseAddr("2001:db8:10::10"),
	}
	for _, n := range []*Namespace{t.Internet, t.Gateway, t.CloudHost} {
		if err := n.enableIPv6(ctx); err != nil {
			return err
		}
	}
	err := errors.Join(
		t.Internet.IP(ctx, "addr add "+cloudInternetIPv6+"::1/64 dev cloud nodad", linkLocal(1, "cloud")),
		t.Gateway.IP(ctx,
			fmt.Sprintf("addr add %s/64 dev %s nodad", v.Public[0], WAN),
			fmt.Sprintf("addr add %s/64 dev %s nodad", v.Public[1], WAN),
			"addr add 2001:db8:10::1/64 dev "+LAN+" nodad", linkLocal(2, WAN), linkLocal(1, LAN),
			"route add default via "+cloudInternetIPv6+"::1"),
		t.CloudHost.IP(ctx, fmt.Sprintf("addr add %s/64 dev %s nodad", v.CloudAddress, WAN), linkLocal(2, WAN), "route add default via 2001:db8:10::1"),
	)
	if err != nil {
		return err
	}
	for i, s := range t.Sites {
		if config.Sites[i].NAT {
			return errors.New("IPv6 goes with sites without a NAT alone")
		}
		outer, inner := fmt.Sprintf("2001:db8:5:%x", i+1), fmt.Sprintf("2001:db8:20:%x", i+1)
		site := SiteIPv6{
			Public: netip.MustParseAddr(outer + "::10"),
			Subnet: netip.MustParsePrefix(inner + "::/64"), Address: netip.MustParseAddr(inner + "::10"),
		}
		err := errors.Join(s.Router.enableIPv6(ctx), s.Host.enableIPv6(ctx),
			t.Internet.IP(ctx, fmt.Sprintf("addr add %s::1/64 dev %s nodad", outer, siteRole(i)), linkLocal(1, siteRole(i))),
			s.Router.IP(ctx,
				fmt.Sprintf("addr add %s/64 dev %s nodad", site.Public, WAN),
				fmt.Sprintf("addr add %s::1/64 dev %s nodad", inner, LAN), linkLocal(2, WAN), linkLocal(1, LAN),
				fmt.Sprintf("route add default via %s::1", outer)),
			s.Host.IP(ctx, fmt.Sprintf("addr add %s/64 dev %s nodad", site.Address, WAN), linkLocal(2, WAN), fmt.Sprintf("route add default via %s::1", inner)))
		if err != nil {
			return fmt.Errorf("site %d: %w", i, err)
		}
		v.Sites = append(v.Sites, site)
	}
	t.IPv6 = v
	return nil
}

// linkLocal is the line of `ip` that sets the address of one end of a link.
func linkLocal(end int, link string) string {
	return fmt.Sprintf("addr add fe80::%d/64 dev %s nodad", end, link)
}

// enableIPv6 turns IPv6 on, with forwarding.
func (n *Namespace) enableIPv6(ctx context.Context) error {
	settings := []string{
		"net.ipv6.conf.default.addr_gen_mode=1", "net.ipv6.conf.all.addr_gen_mode=1",
		"net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.default.disable_ipv6=0", "net.ipv6.conf.all.disable_ipv6=0",
		"net.ipv6.conf.default.forwarding=1", "net.ipv6.conf.all.forwarding=1",
	}
	return n.Sysctl(ctx, settings...)
}
