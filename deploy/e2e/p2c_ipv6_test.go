//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// The networks of the clients of two servers.
var (
	clientPoolV6 = netip.MustParsePrefix("fd00:30::/64")
	otherPool    = netip.MustParsePrefix("172.31.0.0/24")
	otherPoolV6  = netip.MustParsePrefix("fd00:31::/64")
)

// family is the option of ip for a network.
func family(n netip.Prefix) string {
	if n.Addr().Is6() {
		return "-6"
	}
	return "-4"
}

// Stock clients of two servers have addresses and routes of both families by the
// exported profile. With the default policy they reach what is in the cloud, and
// not each other.
func TestClientsWithIPv6(t *testing.T) {
	t.Parallel()
	w := &clientWorld{
		world:   newWorld(t, 6*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 2), IPv6: true}, netlab.DaemonOptions{}),
		clients: map[string]*netlab.OpenVPN{},
	}
	t.Cleanup(func() {
		for name, c := range w.clients {
			if t.Failed() || testing.Verbose() {
				t.Logf("%s:\n%s", name, c.Log())
			}
		}
	})
	server := func(pool, pool6 netip.Prefix, topology, user string) *declare.Server {
		return &declare.Server{
			ClientCIDR: pool.String(), LocalSubnets: []string{w.CloudSubnets[0].String()}, ServerCertificate: &declare.ServerCertificate{Source: "SERVICE_SIGN"},
			ClientCIDRv6: pool6.String(), LocalSubnetsV6: []string{w.IPv6.CloudSubnet.String()}, Topology: topology,
			DNSServers: []string{w.CloudAddresses[0].String()}, DNSDomain: "corp.example.org",
			Users: []declare.User{{Name: user, Group: "default", Password: aliceFirst}},
		}
	}
	gateway := func(name, eip string, s *declare.Server) declare.P2CGateway {
		return declare.P2CGateway{Name: name, VPCID: netlab.VPC, ConnectSubnet: netlab.Subnet1, EIP: &declare.EIP{ID: eip}, Server: s}
	}
	w.apply(&declare.File{P2CGateways: []declare.P2CGateway{
		gateway("clients", netlab.EIP1, server(clientPool, clientPoolV6, "net30", "alice")),
		gateway("others", netlab.EIP2, server(otherPool, otherPoolV6, "subnet", "robert")),
	}})
	cloud, cloud6 := w.CloudAddresses[0], w.IPv6.CloudAddress
	type connected struct {
		from       *netlab.Namespace
		ipv4, ipv6 netip.Addr
	}
	var both []connected
	for site, who := range []struct {
		gateway, user string
		pool, pool6   netip.Prefix
	}{{"clients", "alice", clientPool, clientPoolV6}, {"others", "robert", otherPool, otherPoolV6}} {
		g := must(w.api.Find(w.ctx, client.P2CGateways, who.gateway))(t)
		servers := must(w.api.List(w.ctx, client.ServersOf(g.ID())))(t)
		if g.Status() != "ACTIVE" || len(servers) != 1 || servers[0].Status() != "ACTIVE" {
			t.Fatalf("gateway %v, servers %v", g, servers)
		}
		profile := must(w.api.ClientProfile(w.ctx, servers[0].ID()))(t)
		c := w.dial(site, who.user, profile, who.user, aliceFirst)
		w.check(c.WaitUp(w.ctx, 1))
		w.gateway = g.ID()
		list := w.waitConnections(1, "")
		if list[0].User != who.user || !who.pool.Contains(list[0].VirtualIP) || !who.pool6.Contains(list[0].VirtualIPv6) {
			t.Errorf("the connection of %s: %+v", who.user, list[0])
		}
		from := w.Sites[site].Router
		both = append(both, connected{from: from, ipv4: list[0].VirtualIP, ipv6: list[0].VirtualIPv6})
		// The client has installed what it was told.
		addresses := must(from.Run(w.ctx, "ip", "-o", "addr", "show", "dev", "tun0"))(t)
		if !hasAll(addresses, "inet "+list[0].VirtualIP.String(), fmt.Sprintf("inet6 %s/64", list[0].VirtualIPv6)) {
			t.Errorf("addresses of %s: %s", who.user, addresses)
		}
		for _, network := range []netip.Prefix{w.CloudSubnets[0], w.IPv6.CloudSubnet} {
			if routes := must(from.Run(w.ctx, "ip", family(network), "route", "show", network.String()))(t); !strings.Contains(routes, "dev tun0") {
				t.Errorf("routes of %s to %s: %q", who.user, network, routes)
			}
		}
		w.reach(from, netip.Addr{}, cloud)
		w.reach(from, netip.Addr{}, cloud6)
		w.reach(w.CloudHost, cloud, list[0].VirtualIP)
		w.reach(w.CloudHost, cloud6, list[0].VirtualIPv6)
	}
	// There has to be a way there and back, or the silence would say nothing about
	// the policy.
	for i, c := range both {
		for _, target := range []netip.Addr{both[1-i].ipv4, both[1-i].ipv6} {
			_, err := c.from.Run(w.ctx, "ip", "route", "add", netip.PrefixFrom(target, target.BitLen()).String(), "dev", "tun0")
			w.check(err)
		}
	}
	for i, c := range both {
		w.expectNoReach(c.from, both[1-i].ipv4)
		w.expectNoReach(c.from, both[1-i].ipv6)
	}
	w.expectNothingInClear()
}
