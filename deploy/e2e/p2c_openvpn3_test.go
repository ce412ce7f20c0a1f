//go:build e2e

package e2e

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// Clients of OpenVPN 3 connect by the exported profile and a password over UDP and
// TCP, install routes and DNS servers, follow a change of both without connecting
// again, and come back when the daemon was restarted.
func TestOpenVPN3Clients(t *testing.T) {
	t.Parallel()
	w := newClientWorld(t, 2, func(s *declare.Server) {
		usual(s)
		s.SSLOptions = &declare.SSLOptions{UDPPorts: []int{1194}, ControlChannelWrap: "tls-crypt-v2"}
		s.DNSServers, s.DNSDomain, s.Topology = []string{"10.10.0.10"}, "corp.example.org", "subnet"
	})
	here, there := w.Sites[0].Router, w.Sites[1].Router
	first, second := w.CloudAddresses[0], w.CloudAddresses[1]
	dial := func(from *netlab.Namespace, name, profile, password string) *netlab.OpenVPN {
		t.Helper()
		c := must(from.StartOpenVPN3(name, profile, name, password))(t)
		w.clients[name] = c
		return c
	}
	alice := dial(here, "alice", w.profile, aliceFirst)
	robert := dial(there, "robert", onlyRemote(w.export(), " 443"), bobPassword)
	w.check(alice.WaitUp(w.ctx, 1))
	w.check(robert.WaitUp(w.ctx, 1))
	w.reach(here, netip.Addr{}, first)
	w.reach(there, netip.Addr{}, second)
	etc := must(alice.Etc())(t)
	t.Cleanup(func() { _ = etc.Close() })
	// Another of its services writes the log than installs routes and DNS servers.
	eventually := func(what string, is func() bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(w.ctx, patience)
		defer cancel()
		if err := netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) { return is(), nil }); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	expectDNS := func(server string) {
		t.Helper()
		eventually("/etc/resolv.conf with "+server+" alone", func() bool {
			content := string(must(etc.ReadFile("resolv.conf"))(t))
			return hasAll(content, "search corp.example.org", "nameserver "+server) &&
				strings.Count(content, "10.10.0.10")+strings.Count(content, "192.0.2.53") == 1
		})
	}
	expectDNS("10.10.0.10")
	for _, reverse := range []bool{false, true} {
		for from, target := range map[*netlab.Namespace]netip.Addr{here: first, there: second} {
			report, err := netlab.RunIPerf(w.ctx, from, w.CloudHost, target, netlab.IPerf{Duration: time.Second, Reverse: reverse})
			w.check(err)
			t.Logf("iperf3 to %s, from the cloud %t: %v", target, reverse, report)
		}
	}

	// A route more and another DNS server, without another connection.
	before := w.waitConnections(2, "")
	added := netip.MustParsePrefix("10.20.30.0/24")
	w.change(client.Object{
		"local_subnets": []netip.Prefix{w.CloudSubnets[0], w.CloudSubnets[1], added}, "dns_servers": []string{"192.0.2.53"},
	})
	w.check(alice.WaitUp(w.ctx, 2))
	w.check(robert.WaitUp(w.ctx, 2))
	for _, from := range []*netlab.Namespace{here, there} {
		eventually("a route to "+added.String(), func() bool {
			return strings.Contains(must(from.Run(w.ctx, "ip", "-4", "route"))(t), added.String()+" ")
		})
	}
	expectDNS("192.0.2.53")
	w.reach(here, netip.Addr{}, first)
	w.reach(there, netip.Addr{}, second)
	for _, c := range w.waitConnections(2, "") {
		if c.ID != before[0].ID && c.ID != before[1].ID {
			t.Errorf("%s has connected again", c.User)
		}
	}

	w.check(w.daemon.Stop())
	w.check(w.daemon.Start(w.ctx))
	w.check(alice.WaitUp(w.ctx, 3))
	w.check(robert.WaitUp(w.ctx, 3))
	w.reach(here, netip.Addr{}, first)
	w.reach(there, netip.Addr{}, second)

	w.check(alice.Stop())
	w.waitRecord(`"event":"disconnected"`, `"client_user_name":"alice"`, "the client has left")
	w.expectNothingInClear()
}
