//go:build e2e

package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// A stock client of a fleet: the node that serves it is killed, and it connects
// to the next one through the address that floats, with the profile and the
// login that it has. Every node knows how many clients there are.
func TestFleetClients(t *testing.T) {
	t.Parallel()
	w := newFleetWorld(t, 5*time.Minute, 3*time.Second, netlab.SiteConfig{})
	server := &declare.Server{
		ClientCIDR: clientPool.String(), LocalSubnets: []string{w.CloudSubnets[0].String(), w.CloudSubnets[1].String()},
		ServerCertificate: &declare.ServerCertificate{Source: "SERVICE_SIGN"},
	}
	usual(server)
	api := w.client(w.Nodes[0])
	w.check((&declare.Applier{Client: api, Every: 50 * time.Millisecond}).Apply(w.ctx, &declare.File{P2CGateways: []declare.P2CGateway{{
		Name: "clients", VPCID: netlab.VPC, ConnectSubnet: netlab.Subnet1, EIP: &declare.EIP{ID: netlab.EIP3}, Server: server,
	}}}))
	gateway := must(api.Find(w.ctx, client.P2CGateways, "clients"))(t).ID()
	servers := must(api.List(w.ctx, client.ServersOf(gateway)))(t)
	profile := must(api.ClientProfile(w.ctx, servers[0].ID()))(t)

	// The first node has answered for users and policies; the one that serves
	// clients has them when it has answered for a change, even for one of nothing.
	claim := "address/" + w.ForClients.String()
	w.waitUntil("a node serves the clients", patience, func() bool { return w.holder(claim) != nil })
	owner := w.holder(claim)
	groups := client.UserGroupsOf(servers[0].ID())
	serving := w.client(owner)
	staff := must(serving.Find(w.ctx, groups, "staff"))(t)
	must(serving.Update(w.ctx, groups, staff.ID(), client.Object{"name": "staff"}))(t)

	here := w.Sites[0].Router
	alice := must(here.StartOpenVPN("alice", profile, "alice", aliceFirst))(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("alice:\n%s", alice.Log())
		}
	})
	reach := func(times int) {
		t.Helper()
		w.check(alice.WaitUp(w.ctx, times))
		w.waitUntil("the client reaches the cloud", patience, func() bool {
			return here.WaitPing(w.ctx, netip.Addr{}, w.CloudAddresses[0]) == nil
		})
	}
	counted := func(n int, by ...*netlab.FleetNode) {
		t.Helper()
		for _, node := range by {
			w.waitUntil(node.Name+" knows the number of clients", patience, func() bool {
				g, err := w.client(node).Find(w.ctx, client.P2CGateways, "clients")
				w.check(err)
				return g.Text("current_connection_number") == map[int]string{0: "0", 1: "1"}[n]
			})
		}
	}
	reach(1)
	counted(1, w.Nodes...)

	w.check(owner.Kill())
	began := time.Now()
	reach(2)
	t.Logf("the client was connected to another node %v after its node was killed", time.Since(began).Round(time.Millisecond))
	next := w.holderOf(claim, owner)
	w.check(owner.Start(w.ctx))
	counted(1, w.Nodes...)

	// One that is told to stop tells its clients, who come to the third.
	w.check(next.Stop())
	began = time.Now()
	reach(3)
	t.Logf("the client was connected to another node %v after its node was told to stop", time.Since(began).Round(time.Millisecond))
	w.check(alice.Stop())
	w.check(next.Start(w.ctx))
	counted(0, w.Nodes...)
}
