//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// IKE_AUTH without a CHILD_SA, begun by either end, and the children afterwards.
func TestChildless(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 2)}, netlab.DaemonOptions{Childless: true})
	name := connectionName(1) + ".test"
	w.apply(w.file([]declare.Connection{w.connection(0), w.connection(1)}, func(c *declare.CustomerGateway) {
		if c.Name == connectionName(1) {
			respondOnly(c)
		}
	}))
	w.peer(0, nil, w.swan(0))
	w.peer(1, nil, w.swan(1, func(c *netlab.SwanConnection) {
		c.Initiate, c.Childless, c.LocalID = true, "force", name
	}))
	for site, s := range w.Sites {
		w.waitStatus(connectionName(site), "ACTIVE", patience)
		w.reach(w.CloudHost, w.CloudAddresses[0], s.Addresses[0])
		w.reach(s.Host, s.Addresses[0], w.CloudAddresses[0])
		w.expectOneSA(site, 1, patience)
		if log := w.peers[site].Log(); !strings.Contains(log, "N(CHDLESS_SUP)") || !strings.Contains(log, "CREATE_CHILD_SA") {
			t.Errorf("site %d: the CHILD_SA came in IKE_AUTH", site)
		}
	}
	w.expectNothingInClear()
}
