//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// Whatever is done to connection A, a ping stream on connection B loses nothing
// and B's SAs stay the same.
func TestEditsDoNotDisturbOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 2)}, netlab.DaemonOptions{})
	const a, b = 0, 1
	w.peer(a, nil, w.swan(a))
	w.peer(b, nil, w.swan(b))
	w.apply(w.file([]declare.Connection{w.connection(a), w.connection(b)}))
	w.waitStatus(connectionName(a), "ACTIVE", patience)
	w.waitStatus(connectionName(b), "ACTIVE", patience)
	pingA, pingB := w.ping(a), w.ping(b)
	sa := w.expectOneSA(b, 1, patience)

	edit := func(what string, connection declare.Connection) {
		t.Helper()
		t.Log(what)
		id := w.id(connection.Name)
		applier := declare.Applier{Client: w.api, Every: 50 * time.Millisecond, ResendPSK: true}
		w.check(applier.Apply(w.ctx, w.file([]declare.Connection{connection})))
		_, err := w.api.WaitSettled(w.ctx, client.Connections, id, 50*time.Millisecond)
		w.check(err)
	}

	// A new key alone leaves A's own SA up, too, until it authenticates anew.
	newKey := func(c *declare.Connection) { c.PSK = otherPSK }
	edit("a new pre-shared key of A", w.connection(a, newKey))
	w.check(w.peers[a].Load(w.ctx, netlab.SwanConfig(w.swan(a, func(c *netlab.SwanConnection) { c.PSK = otherPSK }))))
	report, err := pingA.Finish(w.ctx)
	w.check(err)
	if len(report.Lost) > 0 {
		t.Errorf("a new key of A disturbed A: %v", report)
	}

	t.Log("a reset of A, which makes the new key count")
	w.check(w.api.Reset(w.ctx, w.id(connectionName(a))))
	w.waitLog(connectionName(a), patience, "An IKE SA is teared down")
	w.waitStatus(connectionName(a), "ACTIVE", patience)
	w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[a].Addresses[0])

	edit("another group of A's IKE SA and another destination in A's rule", w.connection(a, newKey, func(c *declare.Connection) {
		c.IKEPolicy.DHGroup = "group20"
		c.PolicyRules[0].Destination = []string{w.Sites[a].Subnets[0].String(), w.Sites[a].Subnets[1].String()}
	}))

	t.Log("the deletion of A")
	w.check(w.api.Delete(w.ctx, client.Connections, w.id(connectionName(a))))

	// A disturbance would show in the pings that follow.
	answered := pingB.Received()
	w.check(netlab.Poll(w.ctx, 50*time.Millisecond, func() (bool, error) { return pingB.Received() > answered+20, nil }))
	report, err = pingB.Finish(w.ctx)
	w.check(err)
	if report.Sent < 20 || len(report.Lost) > 0 {
		t.Errorf("B was disturbed: %v", report)
	}
	if now := w.expectOneSA(b, 1, patience); now.InitiatorSPI != sa.InitiatorSPI || now.Children[0].SPIIn != sa.Children[0].SPIIn {
		t.Errorf("B has other SAs than before: %+v, was %+v", now, sa)
	}
}
