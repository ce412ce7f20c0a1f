//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// IPv6 inside, outside, and both.
func TestIPv6(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name         string
		outer, inner int // 4 or 6
		initiator    string
		static       bool
	}{
		{name: "IPv6 in IPv4, gateway begins", outer: 4, inner: 6, initiator: "gateway"},
		{name: "IPv6 in IPv6, peer begins", outer: 6, inner: 6, initiator: "peer"},
		{name: "IPv4 in IPv6, gateway begins", outer: 6, inner: 4, initiator: "gateway"},
		{name: "IPv6 in IPv6, gateway begins, static", outer: 6, inner: 6, initiator: "gateway", static: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 5*time.Minute, netlab.Config{Sites: []netlab.SiteConfig{{}}, IPv6: true}, netlab.DaemonOptions{})
			site := w.Sites[0]
			gateway, peer := w.Public[0], site.Public
			if test.outer == 6 {
				gateway, peer = w.IPv6.Public[0], w.IPv6.Sites[0].Public
			}
			cloud, office := w.CloudSubnets[0], site.Subnets[0]
			cloudHost, officeHost := w.CloudAddresses[0], site.Addresses[0]
			if test.inner == 6 {
				cloud, office = w.IPv6.CloudSubnet, w.IPv6.Sites[0].Subnet
				cloudHost, officeHost = w.IPv6.CloudAddress, w.IPv6.Sites[0].Address
			}

			connection := w.connection(0, func(c *declare.Connection) {
				rules := []declare.PolicyRule{{Source: cloud.String(), Destination: []string{office.String()}}}
				c.PeerSubnets, c.PolicyRules = nil, nil
				if test.static {
					c.Style, rules = "static", nil
					c.TunnelLocalAddress, c.TunnelPeerAddress = "169.254.70.1/30", "169.254.70.2/30"
				}
				if test.inner == 6 {
					c.PeerSubnetsV6, c.PolicyRulesV6 = []string{office.String()}, rules
				} else {
					c.PeerSubnets, c.PolicyRules = []string{office.String()}, rules
				}
				if test.outer == 6 {
					c.VGWIP = netlab.EIP1v6
				}
				c.IKEPolicy.PeerIDType, c.IKEPolicy.PeerID = "ip", peer.String()
			})
			file := w.file([]declare.Connection{connection})
			file.CustomerGateways[0].IDValue = peer.String()
			if test.initiator == "peer" {
				respondOnly(&file.CustomerGateways[0])
			}
			g := &file.Gateways[0]
			if test.outer == 6 {
				g.EIP1.ID, g.EIP2.ID = netlab.EIP1v6, netlab.EIP2v6
			}
			if test.inner == 6 {
				g.IPVersion, g.LocalSubnets, g.LocalSubnetsV6 = "ipv6", nil, []string{cloud.String()}
			}
			swan := w.swan(0, func(c *netlab.SwanConnection) {
				c.Local, c.Remote, c.LocalID, c.RemoteID = peer, gateway, peer.String(), gateway.String()
				c.Initiate = test.initiator == "peer"
				c.Children = []netlab.SwanChild{{Name: "net", Local: []netip.Prefix{office}, Remote: []netip.Prefix{cloud}}}
			})
			if test.initiator == "peer" {
				w.apply(file)
				w.peer(0, nil, swan)
			} else {
				w.peer(0, nil, swan)
				w.apply(file)
			}
			w.waitStatus(connection.Name, "ACTIVE", patience)
			w.expectOneSA(0, 1, patience)
			w.reach(w.CloudHost, cloudHost, officeHost)
			w.reach(site.Host, officeHost, cloudHost)
			w.expectMTUTold(test.inner, cloudHost, officeHost)
			if test.outer == 6 && test.initiator == "gateway" {
				w.expectMonitored(connection.Name)
			}
			w.expectNothingInClear()
		})
	}
}

// expectMTUTold sends packets that must not be cut: too large a one is answered
// with the size that fits, and one of that size gets through.
func (w *world) expectMTUTold(family int, source, target netip.Addr) {
	w.t.Helper()
	headers := map[int]int{4: 28, 6: 48}[family] // IP and ICMP
	ping := func(size, count int) (string, error) {
		return w.CloudHost.Run(w.ctx, "ping", "-n", "-c", strconv.Itoa(count), "-i", "0.3", "-W", "10", "-M", "do", "-s", strconv.Itoa(size-headers), "-I", source.String(), target.String())
	}
	out, err := ping(1500, 1)
	told := regexp.MustCompile(`mtu ?= ?(\d+)`).FindStringSubmatch(out)
	if err == nil || told == nil {
		w.t.Fatalf("a packet of 1,500 octets got through, or nobody told the MTU: %v\n%s", err, out)
	}
	mtu := must(strconv.Atoi(told[1]))(w.t)
	if mtu < 1280 || mtu > 1446 {
		w.t.Errorf("the tunnel's MTU is told to be %d", mtu)
	}
	// The first answer may be too large for strongSwan's own end, which tells the host.
	if _, err = ping(mtu, 3); err != nil {
		w.t.Errorf("a packet of the MTU told does not get through: %v", err)
	}
}

// expectMonitored makes a monitor of a connection, whose probes the peer answers.
func (w *world) expectMonitored(name string) {
	w.t.Helper()
	request := map[string]any{"connection_monitor": map[string]any{"vpn_connection_id": w.id(name)}}
	w.check(w.api.Call(w.ctx, http.MethodPost, "connection-monitors", request, nil))
	figure := fmt.Sprintf("vpngw_probe_reachable{connection=%q,probe=%q}", w.id(name), "monitor")
	w.check(netlab.Poll(w.ctx, 100*time.Millisecond, func() (bool, error) { return w.figure(figure) == "1", nil }))
}
