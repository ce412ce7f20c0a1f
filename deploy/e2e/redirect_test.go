//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// A gateway that drains one of its addresses sends strongSwan to another one, under
// traffic, and one that begins meanwhile at once (RFC 5685).
func TestRedirect(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 2)}, netlab.DaemonOptions{})
	var connections []declare.Connection
	second := func(site int) string { return connectionName(site) + "-second" }
	for site := range w.Sites {
		for _, at := range []struct{ name, eip string }{{connectionName(site), netlab.EIP1}, {second(site), netlab.EIP2}} {
			connections = append(connections, w.connection(site, func(c *declare.Connection) {
				c.Name, c.VGWIP = at.name, at.eip
				c.IKEPolicy.LocalIDType, c.IKEPolicy.LocalID = "fqdn", "cloud.test"
			}))
		}
	}
	f := w.file(connections, respondOnly)
	f.CustomerGateways = f.CustomerGateways[:0]
	for site := range w.Sites {
		name := connectionName(site)
		f.CustomerGateways = append(f.CustomerGateways, declare.CustomerGateway{Name: name, IDType: "fqdn", IDValue: name + ".test"})
	}
	w.apply(f)
	begins := func(c *netlab.SwanConnection) {
		c.Initiate, c.RemoteID = true, "cloud.test"
	}
	swan := func(site int) netlab.SwanConnection {
		return w.swan(site, begins, func(c *netlab.SwanConnection) { c.LocalID = connectionName(site) + ".test" })
	}
	peer := w.peer(0, nil, swan(0))
	w.waitStatus(connectionName(0), "ACTIVE", patience)
	s := w.Sites[0]
	w.reach(s.Host, s.Addresses[0], w.CloudAddresses[0])
	ping, err := s.Host.StartPing("ping", s.Addresses[0], w.CloudAddresses[0], 100*time.Millisecond)
	w.check(err)

	w.check(w.daemon.Reload(fmt.Sprintf("drain: {active: true, redirect: [{from: %s, to: %s}]}", w.Public[0], w.Public[1])))
	w.waitLog(connectionName(0), patience, "The peer is redirected to another gateway", "to "+w.Public[1].String())
	w.waitStatus(second(0), "ACTIVE", patience)
	w.waitStatus(connectionName(0), "DOWN", patience)
	before := ping.Received()
	w.check(netlab.Poll(w.ctx, 50*time.Millisecond, func() (bool, error) { return ping.Received() > before+10, nil }))
	report, err := ping.Finish(w.ctx)
	w.check(err)
	t.Logf("while it was sent to another address: %v", report)
	if log := peer.Log(); !strings.Contains(log, "redirected to "+w.Public[1].String()) {
		t.Error("strongSwan does not say that it was redirected")
	}
	w.reach(w.CloudHost, w.CloudAddresses[0], s.Addresses[0])

	// In IKE_SA_INIT.
	w.peer(1, nil, swan(1))
	w.waitStatus(second(1), "ACTIVE", patience)
	w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[1].Addresses[0])
	if hasAny(w.log(connectionName(1)), "An IKE SA is established") {
		t.Errorf("it was served where it was to be sent away:\n%s", w.log(connectionName(1)))
	}
	w.expectNothingInClear()
}
