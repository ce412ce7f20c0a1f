//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/control/fleet"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// fleetWorld is a fleet of three nodes with its etcd.
type fleetWorld struct {
	*netlab.Fleet
	t    *testing.T
	ctx  context.Context
	peer *netlab.StrongSwan
}

func newFleetWorld(t *testing.T, limit, lease time.Duration, sites ...netlab.SiteConfig) *fleetWorld {
	t.Helper()
	return newFleetOf(t, vpngwd, limit, lease, sites...)
}

// newFleetOf makes a fleet whose nodes run a program.
func newFleetOf(t *testing.T, program string, limit, lease time.Duration, sites ...netlab.SiteConfig) *fleetWorld {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	f, err := netlab.NewFleet(ctx, program, 3, lease, sites...)
	if err != nil {
		t.Fatal(err)
	}
	w := &fleetWorld{Fleet: f, t: t, ctx: ctx}
	t.Cleanup(func() {
		w.end()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, n := range f.Nodes {
		w.check(n.Start(ctx))
	}
	return w
}

func (w *fleetWorld) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// end stops the nodes, checks the histories and shows the logs of a failed
// test.
func (w *fleetWorld) end() {
	for _, n := range w.Nodes {
		if !n.Running() {
			continue
		}
		if err := n.Stop(); err != nil {
			w.t.Errorf("stop %s: %v", n.Name, err)
		}
	}
	w.checkHistories()
	for _, n := range w.Nodes {
		if strings.Contains(n.Log(), "panic") || strings.Contains(n.Log(), "DATA RACE") {
			w.t.Errorf("%s panicked", n.Name)
		}
	}
	if !w.t.Failed() && !testing.Verbose() {
		return
	}
	for _, n := range w.Nodes {
		w.t.Logf("%s:\n%s", n.Name, n.Log())
	}
	if w.peer != nil {
		w.t.Logf("strongSwan:\n%s", w.peer.Log())
	}
}

func (w *fleetWorld) checkHistories() []fleet.Event {
	w.t.Helper()
	events, err := w.Histories()
	w.check(err)
	if err := fleet.CheckHistory(events); err != nil {
		w.t.Errorf("two nodes held the same: %v", err)
	}
	return events
}

func (w *fleetWorld) client(n *netlab.FleetNode) *client.Client {
	w.t.Helper()
	return must(n.Client())(w.t)
}

// waitUntil polls a condition.
func (w *fleetWorld) waitUntil(what string, limit time.Duration, holds func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, limit)
	defer cancel()
	if err := netlab.Poll(ctx, 10*time.Millisecond, func() (bool, error) { return holds(), nil }); err != nil {
		w.t.Fatalf("%s: not within %v", what, limit)
	}
}

// holder returns the node that holds a claim by the histories, nil if none.
func (w *fleetWorld) holder(claim string) *netlab.FleetNode {
	w.t.Helper()
	events, err := w.Histories()
	w.check(err)
	slices.SortStableFunc(events, func(a, b fleet.Event) int { return int(min(max(a.At-b.At, -1), 1)) })
	holders := map[string]bool{}
	for _, e := range events {
		switch {
		case e.Kind == fleet.Taken && e.Claim == claim:
			holders[e.Node] = true
		case e.Kind == fleet.Left && e.Claim == claim, e.Kind == fleet.Died:
			delete(holders, e.Node)
		}
	}
	for _, n := range w.Nodes {
		if holders[n.Name] {
			return n
		}
	}
	return nil
}

// active returns the claim of the gateway that the file of file makes.
func (w *fleetWorld) active() string {
	w.t.Helper()
	g, err := w.client(w.Nodes[0]).Find(w.ctx, client.Gateways, "cloud")
	w.check(err)
	return "active/" + g.ID()
}

// file is an active-standby gateway with a connection to the site, if there is
// one.
func (w *fleetWorld) file() *declare.File {
	f := &declare.File{Gateways: []declare.Gateway{{
		Name: "cloud", VPCID: netlab.VPC, ConnectSubnet: netlab.Subnet1, HAMode: "active-standby",
		LocalSubnets: []string{w.CloudSubnets[0].String(), w.CloudSubnets[1].String()},
		EIP1:         &declare.EIP{ID: netlab.EIP1}, EIP2: &declare.EIP{ID: netlab.EIP2},
	}}}
	if len(w.Sites) > 0 {
		s := w.Sites[0]
		f.CustomerGateways = []declare.CustomerGateway{{Name: "site-1", IDValue: s.Public.String()}}
		f.Connections = []declare.Connection{{
			Name: "site-1", Gateway: "cloud", CustomerGateway: "site-1", VGWIP: netlab.EIP1, HARole: "master", Style: "policy", PSK: psk,
			PeerSubnets: []string{s.Subnets[0].String()},
			PolicyRules: []declare.PolicyRule{{Source: w.CloudSubnets[0].String(), Destination: []string{s.Subnets[0].String()}}},
			IKEPolicy:   &declare.IKEPolicy{EncryptionAlgorithm: "aes-128-gcm-16", DHGroup: "group19"},
			IPsecPolicy: &declare.IPsecPolicy{EncryptionAlgorithm: "aes-128-gcm-16", PFS: "group19"},
		}}
	}
	return f
}

// startPeer starts strongSwan at the site.
func (w *fleetWorld) startPeer() {
	w.t.Helper()
	s := w.Sites[0]
	var err error
	w.peer, err = s.Router.StartStrongSwan(w.ctx, "strongswan", netlab.SwanConfig(netlab.SwanConnection{
		Name: "cloud", Local: s.Local, Remote: w.Public[0], PSK: psk, LocalID: s.Public.String(), RemoteID: w.Public[0].String(),
		Proposal: "aes128gcm16-prfsha256-ecp256", ESPProposal: "aes128gcm16-ecp256",
		Children: []netlab.SwanChild{{Name: "net", Local: s.Subnets[:1], Remote: w.CloudSubnets[:1]}},
	}), nil)
	w.check(err)
}

func (w *fleetWorld) apply(n *netlab.FleetNode) {
	w.t.Helper()
	a := declare.Applier{Client: w.client(n), Every: 50 * time.Millisecond}
	w.check(a.Apply(w.ctx, w.file()))
}

// reach waits until the site's host answers the cloud's.
func (w *fleetWorld) reach() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	w.check(w.CloudHost.WaitPing(ctx, w.CloudAddresses[0], w.Sites[0].Addresses[0]))
}

// takenAfter returns when a claim was taken by another node than before, in
// nanoseconds of CLOCK_MONOTONIC.
func (w *fleetWorld) takenAfter(claim string, before *netlab.FleetNode, since int64) (at int64) {
	w.t.Helper()
	w.waitUntil("another node takes over", patience, func() bool {
		events, err := w.Histories()
		w.check(err)
		for _, e := range events {
			if e.Kind == fleet.Taken && e.Claim == claim && e.Node != before.Name && e.At > since {
				at = e.At
				return true
			}
		}
		return false
	})
	return at
}

// Three nodes and etcd: the owner of an active-standby gateway is killed,
// another one is stopped in the midst of traffic and goes on later, a third is
// cut off from etcd. Each time another node carries on with the same peer, and
// never do two.
func TestFleetTakeover(t *testing.T) {
	t.Parallel()
	const lease = 3 * time.Second
	w := newFleetWorld(t, 6*time.Minute, lease, netlab.SiteConfig{})
	s := w.Sites[0]
	w.startPeer()
	w.apply(w.Nodes[1])
	w.reach()
	claim := w.active()
	first := w.holder(claim)
	if first == nil {
		t.Fatal("the traffic flows, and nobody says to carry it")
	}
	w.expectForwarded(first)
	w.expectNodes(first)

	// Killed.
	killed := fleet.MonotonicNow()
	w.check(first.Kill())
	taken := w.takenAfter(claim, first, killed)
	w.reach()
	t.Logf("killed: taken over after %v, of which the lease was %v at most; traffic after %v",
		time.Duration(taken-killed).Round(time.Millisecond), lease, time.Duration(fleet.MonotonicNow()-killed).Round(time.Millisecond))
	second := w.holder(claim)
	w.check(first.Start(w.ctx))
	w.waitUntil("the address of the node that was killed is gone", patience, func() bool { return !w.has(first, w.Public[0]) })

	// Stopped in the midst of traffic.
	sent := must(w.Internet.Capture(w.ctx, "paused", "wan-"+second.Name[len("node-"):], "src host 203.0.113.10 and udp"))(t)
	ping := must(w.CloudHost.StartPing("ping", w.CloudAddresses[0], s.Addresses[0], 5*time.Millisecond))(t)
	w.waitUntil("pings are answered", patience, func() bool { return ping.Received() > 20 })
	paused := fleet.MonotonicNow()
	w.check(second.Pause())
	taken = w.takenAfter(claim, second, paused)
	w.reach()
	t.Logf("paused: taken over after %v; traffic after %v",
		time.Duration(taken-paused).Round(time.Millisecond), time.Duration(fleet.MonotonicNow()-paused).Round(time.Millisecond))
	w.waitUntil("the kernel removes the address of the stopped node", patience, func() bool { return !w.has(second, w.Public[0]) })
	third := w.holderOf(claim, second)
	resumed := time.Now()
	w.check(second.Resume())
	w.waitUntil("the node that was stopped notices", patience, func() bool {
		return w.left(second, claim, paused)
	})
	_, err := ping.Finish(w.ctx)
	w.check(err)
	w.check(sent.Finish(w.ctx))
	late := w.sentAfter(sent, resumed)
	t.Logf("paused: %d packets left the node after it went on", late)
	if late > 64 {
		t.Errorf("the node sent %d packets after another one had taken over: at most one batch may have been in its hands", late)
	}

	// Cut off from etcd, and from nothing else.
	cut := fleet.MonotonicNow()
	w.check(third.Cut(w.ctx))
	taken = w.takenAfter(claim, third, cut)
	w.reach()
	t.Logf("cut off: taken over after %v; traffic after %v",
		time.Duration(taken-cut).Round(time.Millisecond), time.Duration(fleet.MonotonicNow()-cut).Round(time.Millisecond))
	if w.has(third, w.Public[0]) {
		t.Error("the node that is cut off still has the address")
	}
	w.check(third.Mend(w.ctx))
	w.reach()
	w.expectNodes(w.holderOf(claim, third))
}

func (w *fleetWorld) has(n *netlab.FleetNode, a netip.Addr) bool {
	w.t.Helper()
	has, err := n.Has(w.ctx, a)
	w.check(err)
	return has
}

// holderOf is holder, while another node that is stopped cannot say that it has
// lost the claim.
func (w *fleetWorld) holderOf(claim string, stopped *netlab.FleetNode) *netlab.FleetNode {
	w.t.Helper()
	events, err := w.Histories()
	w.check(err)
	var last fleet.Event
	for _, e := range events {
		if e.Kind == fleet.Taken && e.Claim == claim && e.Node != stopped.Name && e.At > last.At {
			last = e
		}
	}
	for _, n := range w.Nodes {
		if n.Name == last.Node {
			return n
		}
	}
	w.t.Fatalf("nobody but %s ever held %s", stopped.Name, claim)
	return nil
}

func (w *fleetWorld) left(n *netlab.FleetNode, claim string, since int64) bool {
	w.t.Helper()
	events, err := w.Histories()
	w.check(err)
	return slices.ContainsFunc(events, func(e fleet.Event) bool {
		return e.Node == n.Name && e.Kind == fleet.Left && e.Claim == claim && e.At > since
	})
}

// sentAfter counts the packets of a capture from some time on.
func (w *fleetWorld) sentAfter(c *netlab.Capture, from time.Time) int {
	w.t.Helper()
	rows, err := c.Fields(w.ctx, "", "udp", "frame.time_epoch")
	w.check(err)
	late := 0
	for _, row := range rows {
		if at, err := time.ParseDuration(row[0] + "s"); err == nil && at > time.Duration(from.UnixNano()) {
			late++
		}
	}
	return late
}

// expectForwarded asks each node for the CHILD_SAs that one of them has.
func (w *fleetWorld) expectForwarded(owner *netlab.FleetNode) {
	w.t.Helper()
	c, err := w.client(owner).Find(w.ctx, client.Connections, "site-1")
	w.check(err)
	for _, n := range w.Nodes {
		var answer map[string]any
		w.check(w.client(n).Call(w.ctx, "GET", "vpn-connection/"+c.ID()+"/ipsec-sa", nil, &answer))
		if text, _ := json.Marshal(answer); !strings.Contains(string(text), "192.168.10.0/24") {
			w.t.Errorf("%s knows no CHILD_SA: %s", n.Name, text)
		}
	}
}

// expectNodes has vpnctl show the fleet, by each node.
func (w *fleetWorld) expectNodes(owner *netlab.FleetNode) {
	w.t.Helper()
	for _, n := range w.Nodes {
		w.waitUntil(n.Name+" knows who carries the gateway", patience, func() bool {
			nodes, err := w.client(n).Nodes(w.ctx)
			w.check(err)
			carriers := 0
			for _, o := range nodes {
				if o.Text("gateways") != "" && o.Text("name") == owner.Name && strings.Contains(o.Text("addresses"), "203.0.113.10") {
					carriers++
				}
			}
			return len(nodes) == 3 && carriers == 1
		})
	}
}
