//go:build e2e && uml

package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// IPv6 in ESP as IP protocol 50 over IPv6, to and from strongSwan with the kernel's
// own ESP.
func TestUMLRawESPOverIPv6(t *testing.T) {
	w := newWorld(t, 3*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 1), IPv6: true}, netlab.DaemonOptions{RawESP: true})
	gateway, site := w.IPv6.Public[0], w.IPv6.Sites[0]
	peer := w.peer(0, nil, w.swan(0, func(c *netlab.SwanConnection) {
		c.Local, c.Remote, c.LocalID, c.RemoteID = site.Public, gateway, site.Public.String(), gateway.String()
		c.Children = []netlab.SwanChild{{Name: "net", Local: []netip.Prefix{site.Subnet}, Remote: []netip.Prefix{w.IPv6.CloudSubnet}}}
	}))
	if !peer.KernelESP {
		t.Fatal("the kernel has no ESP")
	}
	connection := w.connection(0, func(c *declare.Connection) {
		c.VGWIP, c.PeerSubnets, c.PolicyRules = netlab.EIP1v6, nil, nil
		c.PeerSubnetsV6 = []string{site.Subnet.String()}
		c.PolicyRulesV6 = []declare.PolicyRule{{Source: w.IPv6.CloudSubnet.String(), Destination: c.PeerSubnetsV6}}
	})
	file := w.file([]declare.Connection{connection})
	file.CustomerGateways[0].IDValue = site.Public.String()
	g := &file.Gateways[0]
	g.EIP1.ID, g.EIP2.ID = netlab.EIP1v6, netlab.EIP2v6
	g.IPVersion, g.LocalSubnets, g.LocalSubnetsV6 = "ipv6", nil, []string{w.IPv6.CloudSubnet.String()}
	w.apply(file)
	w.waitStatus(connectionName(0), "ACTIVE", 2*patience)
	w.reach(w.CloudHost, w.IPv6.CloudAddress, site.Address)
	w.check(peer.RekeyChild(w.ctx, "net"))
	w.reach(w.CloudHost, w.IPv6.CloudAddress, site.Address)
	w.reach(w.Sites[0].Host, site.Address, w.IPv6.CloudAddress)
	if child := w.expectOneSA(0, 1, patience).Children[0]; child.Encap || child.BytesIn == 0 || child.BytesOut == 0 {
		t.Errorf("the child is encapsulated or unused: %+v", child)
	}
}
