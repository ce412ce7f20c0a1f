//go:build e2e

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// twoStyles gives a world a policy-based connection to the first site and a
// route-based one to the second, both up.
func twoStyles(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, 5*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 2)}, netlab.DaemonOptions{})
	w.peer(0, nil, w.swan(0))
	w.peer(1, nil, w.swan(1))
	w.apply(w.file([]declare.Connection{w.connection(0), w.connection(1, func(c *declare.Connection) {
		c.Style, c.PolicyRules = "static", nil
		c.TunnelLocalAddress, c.TunnelPeerAddress = "169.254.71.1/30", "169.254.71.2/30"
	})}))
	for site := range w.Sites {
		w.waitStatus(connectionName(site), "ACTIVE", patience)
		w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[site].Addresses[0])
		w.expectOneSA(site, 1, patience)
	}
	return w
}

// A daemon that was killed comes back from its store by itself, with the same
// links, addresses, routes and rules as before and nothing besides. While it is
// dead nothing leaves in the clear.
func TestKillAndRestart(t *testing.T) {
	t.Parallel()
	w := twoStyles(t)
	running := must(w.Gateway.HostState(w.ctx))(t)
	if w.before.Diff(running) == "" {
		t.Error("the running daemon left no trace in the host's state")
	}
	w.check(w.daemon.Kill())
	for site := range w.Sites {
		ctx, cancel := context.WithTimeout(w.ctx, time.Second)
		if err := w.CloudHost.WaitPing(ctx, w.CloudAddresses[0], w.Sites[site].Addresses[0]); err == nil {
			t.Errorf("site %d answers through a dead gateway", site)
		}
		cancel()
	}
	w.check(w.daemon.Start(w.ctx))
	for site := range w.Sites {
		w.waitStatus(connectionName(site), "ACTIVE", patience)
		w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[site].Addresses[0])
		// The peer's old SAs went with our INITIAL_CONTACT.
		w.expectOneSA(site, 1, patience)
		// The history has what was before the kill, and what came after it.
		w.waitShown(func(shown string) bool {
			return strings.Count(shown, "ike-up") >= 2 && strings.Count(shown, "child-up") >= 2
		}, "history", connectionName(site))
	}
	if diff := must(w.Gateway.HostStateDiff(w.ctx, running))(t); diff != "" {
		t.Errorf("the host is not as it was before the kill:\n%s", diff)
	}
	w.expectNothingInClear()

	// Killed and then gone for good, but for one start and stop.
	w.check(w.daemon.Kill())
	w.check(w.daemon.Start(w.ctx))
	w.check(w.daemon.Stop())
	if diff := must(w.Gateway.HostStateDiff(w.ctx, w.before))(t); diff != "" {
		t.Errorf("the host is not as it was before the daemon:\n%s", diff)
	}
}

// SIGTERM: the peers get a DELETE and the host is as it was.
func TestTerminate(t *testing.T) {
	t.Parallel()
	w := twoStyles(t)
	w.check(w.daemon.Stop())
	for site, peer := range w.peers {
		ctx, cancel := context.WithTimeout(w.ctx, patience)
		var sas []netlab.SwanIKE
		err := netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
			var err error
			sas, err = peer.SAs(w.ctx)
			return len(sas) == 0, err
		})
		cancel()
		if err != nil {
			t.Errorf("site %d still has SAs: %+v: %v", site, sas, err)
		}
		if !strings.Contains(peer.Log(), "received DELETE for IKE_SA") {
			t.Errorf("site %d got no DELETE", site)
		}
	}
	if diff := must(w.Gateway.HostStateDiff(w.ctx, w.before))(t); diff != "" {
		t.Errorf("the host is not as it was:\n%s", diff)
	}
}

// The peer dies without a DELETE and comes back: the tunnel does, too, without
// anybody's help.
func TestPeerCrash(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 6*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 1)}, netlab.DaemonOptions{})
	interval, timeout := 10, 2
	connection := w.connection(0, func(c *declare.Connection) {
		c.IKEPolicy.DPD = &declare.DPD{Interval: &interval, Timeout: &timeout}
	})
	swan := w.swan(0)
	peer := w.peer(0, nil, swan)
	w.apply(w.file([]declare.Connection{connection}))
	w.waitStatus(connection.Name, "ACTIVE", patience)
	w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[0].Addresses[0])
	w.check(peer.Kill())
	// Ten idle seconds and three repeats, two seconds apart.
	w.waitStatus(connection.Name, "DOWN", 2*patience)
	w.waitLog(connection.Name, patience, "OfflineReason=[dpd timeout]")
	w.check(peer.Start(w.ctx, netlab.SwanConfig(swan)))
	w.waitStatus(connection.Name, "ACTIVE", 2*patience)
	w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[0].Addresses[0])
	w.expectOneSA(0, 1, patience)
	w.expectNothingInClear()
}
