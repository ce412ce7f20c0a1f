package netlab

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
)

// NAT is a router that rewrites addresses and ports.
type NAT struct {
	*Namespace

	public, local []netip.Addr
	oneToOne      bool
}

// nat makes a NAT with the public addresses towards the internet. What is
// behind it is linked to its interface lan later.
func (t *Topology) nat(ctx context.Context, role string, internet *Namespace, edge, far string, public []netip.Addr, mtu int) (*NAT, error) {
	n, err := t.router(ctx, role)
	if err != nil {
		return nil, err
	}
	if err := n.Link(ctx, WAN, internet, edge, mtu); err != nil {
		return nil, err
	}
	prefix := netip.MustParsePrefix(far)
	if err := internet.IP(ctx, "addr add "+far+" dev "+edge); err != nil {
		return nil, err
	}
	for _, a := range public {
		if err := n.IP(ctx, fmt.Sprintf("addr add %s/%d dev %s", a, prefix.Bits(), WAN)); err != nil {
			return nil, err
		}
	}
	return &NAT{Namespace: n, public: public}, n.IP(ctx, "route add default via "+prefix.Addr().String())
}

// Map sets the public ports that stand for the ports 4500 and 500 of what is
// behind the NAT, and forgets all mappings there were: from then on packets in
// either direction meet a NAT that has restarted.
func (n *NAT) Map(ctx context.Context, port4500, port500 int) error {
	var out, in strings.Builder
	for i, public := range n.public {
		match := ""
		if n.local != nil {
			match = "ip saddr " + n.local[i].String()
		}
		fmt.Fprintf(&out, "    oifname %q %s udp sport 4500 snat to %s:%d\n", WAN, match, public, port4500)
		fmt.Fprintf(&out, "    oifname %q %s udp sport 500 snat to %s:%d\n", WAN, match, public, port500)
		fmt.Fprintf(&out, "    oifname %q %s snat to %s\n", WAN, match, public)
		if n.oneToOne {
			fmt.Fprintf(&in, "    iifname %q ip daddr %s dnat to %s\n", WAN, public, n.local[i])
		}
	}
	rules := "table ip nat\ndelete table ip nat\ntable ip nat {\n" +
		"  chain out {\n    type nat hook postrouting priority srcnat\n" + out.String() + "  }\n" +
		"  chain in {\n    type nat hook prerouting priority dstnat\n" + in.String() + "  }\n}\n"
	if _, err := n.Input(ctx, rules, "nft", "-f", "-"); err != nil {
		return err
	}
	_, err := n.Run(ctx, "conntrack", "-F")
	return err
}

// Mappings returns the NAT's table of translations, for a failed test's log.
func (n *NAT) Mappings(ctx context.Context) (string, error) {
	return n.Run(ctx, "conntrack", "-L", "-n")
}
