//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

const (
	aliceFirst  = "Wonderland-1865"
	aliceSecond = "Looking-glass-1871"
	bobPassword = "Builder-1998"
)

// clientPool is the network of the clients.
var clientPool = netip.MustParsePrefix("172.30.0.0/24")

// clientWorld is a world with a client-to-cloud gateway. Its clients roam where
// the routers of sites are.
type clientWorld struct {
	*world
	gateway, server string // ids
	profile         string // as exported
	clients         map[string]*netlab.OpenVPN
}

// newClientWorld makes the gateway through the API and exports the profile.
func newClientWorld(t *testing.T, sites int, edit func(*declare.Server)) *clientWorld {
	t.Helper()
	w := &clientWorld{
		world:   newWorld(t, 6*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, sites)}, netlab.DaemonOptions{}),
		clients: map[string]*netlab.OpenVPN{},
	}
	t.Cleanup(func() {
		for name, c := range w.clients {
			if t.Failed() || testing.Verbose() {
				t.Logf("%s:\n%s", name, c.Log())
			}
		}
	})
	server := &declare.Server{
		ClientCIDR: clientPool.String(), LocalSubnets: []string{w.CloudSubnets[0].String(), w.CloudSubnets[1].String()},
		ServerCertificate: &declare.ServerCertificate{Source: "SERVICE_SIGN"},
	}
	edit(server)
	w.apply(&declare.File{P2CGateways: []declare.P2CGateway{{
		Name: "clients", VPCID: netlab.VPC, ConnectSubnet: netlab.Subnet1, EIP: &declare.EIP{ID: netlab.EIP1}, Server: server,
	}}})
	gateway := must(w.api.Find(w.ctx, client.P2CGateways, "clients"))(t)
	servers := must(w.api.List(w.ctx, client.ServersOf(gateway.ID())))(t)
	if gateway.Status() != "ACTIVE" || len(servers) != 1 || servers[0].Status() != "ACTIVE" {
		t.Fatalf("gateway %v, servers %v", gateway, servers)
	}
	w.gateway, w.server = gateway.ID(), servers[0].ID()
	w.profile = must(w.api.ClientProfile(w.ctx, w.server))(t)
	w.check(w.api.Call(w.ctx, http.MethodPut, w.path("log-config"), map[string]any{
		"log_config": map[string]string{"log_group_id": netlab.LogGroup, "log_stream_id": netlab.LogStream},
	}, nil))
	return w
}

// path returns one below the gateway.
func (w *clientWorld) path(rest string) string { return "p2c-vpn-gateways/" + w.gateway + "/" + rest }

// dial starts a stock client at a site.
func (w *clientWorld) dial(site int, name, profile, user, password string) *netlab.OpenVPN {
	w.t.Helper()
	c := must(w.Sites[site].Router.StartOpenVPN(name, profile, user, password))(w.t)
	w.clients[name] = c
	return c
}

// clientConnection is a connection as the API lists it.
type clientConnection struct {
	ID          string     `json:"connection_id"`
	VirtualIP   netip.Addr `json:"client_virtual_ip"`
	VirtualIPv6 netip.Addr `json:"client_virtual_ip_v6"`
	ClientKey   string     `json:"client_key_id"`
	ClientIP    netip.Addr `json:"client_ip"`
	User        string     `json:"client_user_name"`
	InBytes     int64      `json:"inbound_bytes"`
	OutBytes    int64      `json:"outbound_bytes"`
	InCount     int64      `json:"inbound_packets"`
	OutCount    int64      `json:"outbound_packets"`
}

func (w *clientWorld) connections() []clientConnection {
	w.t.Helper()
	var answer struct {
		Connections []clientConnection `json:"connections"`
	}
	w.check(w.api.Call(w.ctx, http.MethodGet, w.path("connections"), nil, &answer))
	return answer.Connections
}

// waitConnections waits until the API lists so many connections, none of them
// the one with the id.
func (w *clientWorld) waitConnections(n int, without string) []clientConnection {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	var list []clientConnection
	err := netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		list = w.connections()
		for _, c := range list {
			if c.ID == without {
				return false, nil
			}
		}
		return len(list) == n, nil
	})
	if err != nil {
		w.t.Fatalf("want %d connections without %q, have %+v: %v", n, without, list, err)
	}
	return list
}

// waitRecord waits for a record of the connection log that has all the words.
func (w *clientWorld) waitRecord(words ...string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	var found, all string
	err := netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		var err error
		all, err = w.daemon.ConnectionLog()
		for line := range strings.Lines(all) {
			if hasAll(line, words...) {
				found = strings.TrimSpace(line)
			}
		}
		return found != "", err
	})
	if err != nil {
		w.t.Fatalf("the connection log has no record with %q: %v\n%s", words, err, all)
	}
	return found
}

// usual gives a server users: alice, of a group that reaches the first subnet,
// and bob, of one that reaches the other.
func usual(s *declare.Server) {
	s.Groups = []declare.UserGroup{{Name: "staff"}, {Name: "guests"}}
	s.Users = []declare.User{
		{Name: "alice", Group: "staff", Password: aliceFirst},
		{Name: "robert", Group: "guests", Password: bobPassword, StaticIP: "172.30.0.41"},
	}
	s.Policies = []declare.AccessPolicy{
		{Name: "first", Group: "staff", Destinations: s.LocalSubnets[:1]},
		{Name: "other", Group: "guests", Destinations: s.LocalSubnets[1:]},
	}
}

// expectNoReach wants an address to stay silent.
func (w *clientWorld) expectNoReach(from *netlab.Namespace, target netip.Addr) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, time.Second)
	defer cancel()
	if err := from.WaitPing(ctx, netip.Addr{}, target); err == nil {
		w.t.Errorf("%s answers", target)
	}
}

// Stock clients connect with nothing but the exported profile and a password,
// reach what the policies of their group allow, and feel each change of it.
func TestClientToCloud(t *testing.T) {
	t.Parallel()
	w := newClientWorld(t, 2, usual)
	here, there := w.Sites[0].Router, w.Sites[1].Router
	first, second := w.CloudAddresses[0], w.CloudAddresses[1]

	alice := w.dial(0, "alice", w.profile, "alice", aliceFirst)
	robert := w.dial(1, "robert", w.profile, "robert", bobPassword)
	w.check(alice.WaitUp(w.ctx, 1))
	w.check(robert.WaitUp(w.ctx, 1))
	w.reach(here, netip.Addr{}, first)
	w.reach(there, netip.Addr{}, second)
	w.expectNoReach(here, second)
	w.expectNoReach(there, first)

	var session clientConnection
	for _, c := range w.waitConnections(2, "") {
		if c.User == "alice" {
			session = c
		} else if c.User != "robert" || c.VirtualIP.String() != "172.30.0.41" {
			t.Errorf("robert's connection: %+v", c)
		}
	}
	if session.ClientIP != w.Sites[0].Public || !clientPool.Contains(session.VirtualIP) || session.InBytes == 0 || session.OutBytes == 0 {
		t.Errorf("alice's connection: %+v", session)
	}
	w.waitRecord(`"event":"connected"`, session.ID, `"client_user_name":"alice"`)
	w.reach(w.CloudHost, first, session.VirtualIP)
	w.expectNoReach(here, netip.MustParseAddr("172.30.0.41")) // clients are apart
	for _, reverse := range []bool{false, true} {
		report, err := netlab.RunIPerf(w.ctx, here, w.CloudHost, first, netlab.IPerf{Duration: 2 * time.Second, Reverse: reverse})
		w.check(err)
		t.Logf("iperf3, from the cloud %t: %v", reverse, report)
	}

	// A policy is widened and narrowed while alice is connected.
	policies := client.AccessPoliciesOf(w.server)
	policy := must(w.api.Find(w.ctx, policies, "first"))(t).ID()
	setPolicy := func(destinations ...netip.Prefix) {
		t.Helper()
		_, err := w.api.Update(w.ctx, policies, policy, client.Object{"dest_ip_cidrs": destinations})
		w.check(err)
	}
	setPolicy(w.CloudSubnets[0], w.CloudSubnets[1])
	w.judgedAnew(here, second, true)
	setPolicy(w.CloudSubnets[1])
	w.judgedAnew(here, first, false)
	w.reach(here, netip.Addr{}, second)
	if list := w.waitConnections(2, ""); list[0].ID != session.ID && list[1].ID != session.ID {
		t.Errorf("the change of a policy ended the connection: %+v", list)
	}

	// A login that fails is told and logged.
	stranger := w.dial(1, "stranger", w.profile, "alice", "Jabberwocky-1")
	w.check(stranger.WaitLog(w.ctx, "AUTH_FAILED"))
	w.waitRecord(`"event":"authentication_failed"`, `"client_user_name":"alice"`, `"reason":"wrong password"`)
	w.check(stranger.Stop())

	// Who is disconnected comes back by itself.
	w.check(w.api.Disconnect(w.ctx, w.gateway, session.ID))
	w.waitRecord(`"event":"disconnected"`, session.ID, "operator", `"inbound_bytes"`, `"outbound_bytes"`)
	w.waitConnections(2, session.ID)
	w.check(alice.WaitUp(w.ctx, 2))
	w.reach(here, netip.Addr{}, second)

	// Who has another password, or is gone, does not; the other one stays.
	users := client.UsersOf(w.server)
	id := must(w.api.Find(w.ctx, users, "alice"))(t).ID()
	w.check(w.api.ResetPassword(w.ctx, w.server, id, aliceSecond))
	left := w.waitConnections(1, "")
	if left[0].User != "robert" {
		t.Errorf("who is left: %+v", left)
	}
	w.waitRecord(`"event":"disconnected"`, `"reason":"the password was changed"`)
	again := w.dial(0, "alice-again", w.profile, "alice", aliceSecond)
	w.check(again.WaitUp(w.ctx, 1))
	w.waitConnections(2, "")
	w.check(w.api.Delete(w.ctx, users, id))
	w.waitConnections(1, "")
	w.waitRecord(`"event":"disconnected"`, `"reason":"the user was deleted"`)
	w.reach(there, netip.Addr{}, second)
	w.expectClientFigures()

	// The gateway goes with all it has.
	w.check(w.api.Delete(w.ctx, client.P2CGateways, w.gateway))
	w.waitGone()
	if diff := must(w.Gateway.HostStateDiff(w.ctx, w.before))(t); diff != "" {
		t.Errorf("the host is not as it was:\n%s", diff)
	}
	w.expectNothingInClear()
}

// judgedAnew sends echo requests after the answer to a change of policies, ten a
// second: no more than ten of them may fare as before it.
func (w *clientWorld) judgedAnew(from *netlab.Namespace, target netip.Addr, allowed bool) {
	w.t.Helper()
	out, err := from.Run(w.ctx, "ping", "-n", "-c", "20", "-i", "0.1", "-W", "2", target.String())
	sent, answers := strings.Contains(out, "20 packets transmitted"), strings.Count(out, " bytes from ")
	w.t.Logf("after the change of a policy %d of 20 pings were answered", answers)
	if late := map[bool]int{true: 20 - answers, false: answers}[allowed]; !sent || late > 10 {
		w.t.Errorf("a change of policies, now allowed %t, came late for %d of 20 pings: %v: %s", allowed, late, err, out)
	}
}

// waitGone waits until there is no client-to-cloud gateway any more.
func (w *clientWorld) waitGone() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	err := netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		list, err := w.api.List(ctx, client.P2CGateways)
		return len(list) == 0, err
	})
	if err != nil {
		w.t.Errorf("the gateway is still there: %v", err)
	}
}

// expectClientFigures looks for what the metrics must have by then.
func (w *clientWorld) expectClientFigures() {
	w.t.Helper()
	server := fmt.Sprintf("{server=%q}", w.server)
	if n := w.figure("vpngw_client_sessions" + server); n != "1" {
		w.t.Errorf("vpngw_client_sessions is %q", n)
	}
	for _, name := range []string{
		fmt.Sprintf("vpngw_client_bytes_total{direction=%q,server=%q}", "in", w.server),
		fmt.Sprintf("vpngw_client_bytes_total{direction=%q,server=%q}", "out", w.server),
		fmt.Sprintf("vpngw_client_login_failures_total{reason=%q,server=%q}", "wrong_password", w.server),
		fmt.Sprintf("vpngw_client_dropped_packets_total{reason=%q,server=%q}", "denied", w.server),
	} {
		if n := w.figure(name); n == "" || n == "0" {
			w.t.Errorf("%s is %q", name, n)
		}
	}
}

// A daemon that was killed serves its clients again, with nothing on the host
// besides what was there before.
func TestClientsAfterKill(t *testing.T) {
	t.Parallel()
	w := newClientWorld(t, 1, usual)
	here, target := w.Sites[0].Router, w.CloudAddresses[0]
	alice := w.dial(0, "alice", w.profile, "alice", aliceFirst)
	w.check(alice.WaitUp(w.ctx, 1))
	w.reach(here, netip.Addr{}, target)
	running := must(w.Gateway.HostState(w.ctx))(t)

	w.check(w.daemon.Kill())
	w.check(w.daemon.Start(w.ctx))
	w.check(alice.WaitUp(w.ctx, 2))
	w.reach(here, netip.Addr{}, target)
	w.waitConnections(1, "")
	if diff := must(w.Gateway.HostStateDiff(w.ctx, running))(t); diff != "" {
		t.Errorf("the host is not as it was before the kill:\n%s", diff)
	}

	// One that is told to stop tells its clients.
	w.check(w.daemon.Stop())
	if diff := must(w.Gateway.HostStateDiff(w.ctx, w.before))(t); diff != "" {
		t.Errorf("the host is not as it was before the daemon:\n%s", diff)
	}
	w.waitRecord(`"event":"disconnected"`, `"client_user_name":"alice"`)
	w.check(w.daemon.Start(w.ctx))
	w.check(alice.WaitUp(w.ctx, 3))
	w.reach(here, netip.Addr{}, target)
	w.expectNothingInClear()
}
