//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// A peer without a fixed address changes it twice under traffic, and the IKE SA goes
// on. strongSwan's libipsec cannot move a CHILD_SA and rekeys it at once instead.
func TestMOBIKE(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 1)}, netlab.DaemonOptions{})
	name := connectionName(0) + ".test"
	connection := w.connection(0)
	w.apply(w.file([]declare.Connection{connection}, respondOnly))
	s := w.Sites[0]
	peer := w.peer(0, nil, w.swan(0, func(c *netlab.SwanConnection) {
		c.Initiate, c.Mobike, c.LocalID = true, true, name
		c.Local = netip.Addr{} // any
	}))
	w.waitStatus(connection.Name, "ACTIVE", patience)
	first := w.expectOneSA(0, 1, patience)
	w.reach(s.Host, s.Addresses[0], w.CloudAddresses[0])
	ping, err := s.Host.StartPing("ping", s.Addresses[0], w.CloudAddresses[0], 100*time.Millisecond)
	w.check(err)
	w.check(s.Router.Sysctl(w.ctx, "net.ipv4.conf."+netlab.WAN+".promote_secondaries=1"))
	at := s.Local
	for range 2 {
		next := at.Next()
		w.check(s.Router.IP(w.ctx,
			fmt.Sprintf("addr add %s/28 dev %s", next, netlab.WAN),
			fmt.Sprintf("addr del %s/28 dev %s", at, netlab.WAN),
			"route replace default via 198.51.100.1",
		))
		changed, before := time.Now(), ping.Received()
		w.waitLog(connection.Name, patience, "The address of the peer has changed", next.String())
		w.check(netlab.Poll(w.ctx, 50*time.Millisecond, func() (bool, error) { return ping.Received() > before+5, nil }))
		t.Logf("at %s traffic is back after %v", next, time.Since(changed))
		at = next
	}
	_, err = ping.Finish(w.ctx)
	w.check(err)
	w.reach(w.CloudHost, w.CloudAddresses[0], s.Addresses[0])
	w.check(peer.RekeyIKE(w.ctx, "cloud"))
	w.reach(w.CloudHost, w.CloudAddresses[0], s.Addresses[0])
	last := w.expectOneSA(0, 1, patience)
	if last.InitiatorSPI == first.InitiatorSPI {
		t.Error("the IKE SA was not rekeyed")
	}
	if hasAny(w.log(connection.Name), "An IKE SA is teared down", "negotiation fails") {
		t.Errorf("the tunnel did not last:\n%s", w.log(connection.Name))
	}
	w.expectNothingInClear()
}
