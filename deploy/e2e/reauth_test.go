//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// Authentication is renewed every ten seconds or so under traffic, make before
// break: by us towards a peer that lets IKE SAs stand side by side, by us towards
// one that has a new IKE SA replace the old, and by a peer that is told when to.
func TestReauthentication(t *testing.T) {
	t.Parallel()
	const duration = 30 * time.Second
	w := newWorld(t, 3*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 3)}, netlab.DaemonOptions{ShortTrust: 12 * time.Second})
	replaces := func(c *netlab.SwanConnection) { c.Unique = "replace" }
	begins := func(c *netlab.SwanConnection) { c.Initiate, c.OverTime = true, 3*time.Second }
	w.apply(w.file([]declare.Connection{w.connection(0), w.connection(1), w.connection(2, func(c *declare.Connection) {
		c.IKEPolicy.PeerIDType, c.IKEPolicy.PeerID = "ip", w.Sites[2].Public.String()
	})}, func(c *declare.CustomerGateway) {
		if c.Name == connectionName(2) {
			respondOnly(c)
		}
	}))
	w.peer(0, nil, w.swan(0))
	w.peer(1, nil, w.swan(1, replaces))
	// Told once more that time is up, strongSwan begins another renewal beside one that waits
	// for an answer, and both stay. So what is lost has to be repeated well before.
	w.peer(2, map[string]string{"make_before_break": "yes", "retransmit_timeout": "0.3"}, w.swan(2, begins))
	var pings []*netlab.Ping
	for site, s := range w.Sites {
		w.waitStatus(connectionName(site), "ACTIVE", patience)
		w.reach(w.CloudHost, w.CloudAddresses[0], s.Addresses[0])
		p, err := w.CloudHost.StartPing(connectionName(site), w.CloudAddresses[0], s.Addresses[0], 20*time.Millisecond)
		w.check(err)
		pings = append(pings, p)
	}
	select {
	case <-time.After(duration): // of traffic, with two renewals or more
	case <-w.ctx.Done():
	}
	overruns := w.overruns()
	for site, p := range pings {
		report, err := p.Finish(w.ctx)
		w.check(err)
		t.Logf("site %d: %v, queues overran by %d packets", site, report, overruns)
		if report.Sent < 500 || len(report.Lost) > overruns {
			t.Errorf("site %d: %v, queues overran by %d packets", site, report, overruns)
		}
		log := w.peers[site].Log()
		if n := strings.Count(log, "] established between"); n < 3 {
			t.Errorf("site %d: %d IKE SAs", site, n)
		}
		if n := strings.Count(log, "N(INIT_CONTACT)"); n > 1 {
			t.Errorf("site %d: %d IKE SAs are said to be the only one", site, n)
		}
		w.expectOneSA(site, 1, patience)
	}
	page, err := w.daemon.Metrics(w.ctx)
	w.check(err)
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "vpngw_dataplane_dropped_packets_total{") {
			t.Errorf("the data plane dropped packets: %s", line)
		}
	}
	w.expectNothingInClear()
}
