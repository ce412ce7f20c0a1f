//go:build e2e

package e2e

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/control/certtest"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// Clients of OpenVPN 2.7 connect by the exported profile over UDP and TCP, install
// routes and DNS servers, follow a change of routes without connecting again, and come
// back when the daemon was restarted.
func TestNewerClients(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t, "Staff CA", validNow)
	resolvers := []string{"10.10.0.10", "192.0.2.53"}
	w := newClientWorld(t, 2, func(s *declare.Server) {
		usual(s)
		s.ClientAuthType, s.ClientCAs = "CERT_AND_LOCAL_PASSWORD", []declare.ClientCA{{Name: "staff", Content: ca.PEM()}}
		s.SSLOptions = &declare.SSLOptions{EncryptionAlgorithm: "AES-256-GCM", UDPPorts: []int{1194}, ControlChannelWrap: "tls-crypt-v2"}
		s.DNSServers, s.DNSDomain = resolvers, "corp.example.org"
	})
	here, there := w.Sites[0].Router, w.Sites[1].Router
	first, second := w.CloudAddresses[0], w.CloudAddresses[1]
	dial := func(from *netlab.Namespace, name, profile, password string) *netlab.OpenVPN {
		t.Helper()
		c := must(from.StartNewerOpenVPN(name, withCertificate(t, profile, ca, name+"-laptop"), name, password))(t)
		w.clients[name] = c
		return c
	}
	alice := dial(here, "alice", w.profile, aliceFirst)
	robert := dial(there, "robert", onlyRemote(w.export(), " 443"), bobPassword)
	w.check(alice.WaitUp(w.ctx, 1))
	w.check(robert.WaitUp(w.ctx, 1))
	w.reach(here, netip.Addr{}, first)
	w.reach(there, netip.Addr{}, second)
	for c, want := range map[*netlab.OpenVPN][]string{
		alice: {"OpenVPN 2.7", "UDPv4 link remote: ", "aead-epoch"}, robert: {"OpenVPN 2.7", "TCPv4_CLIENT link remote: ", "aead-epoch"},
	} {
		if !hasAll(c.Log(), want...) {
			t.Errorf("a client did not write %q", want)
		}
	}
	etc := must(alice.Etc())(t)
	t.Cleanup(func() { _ = etc.Close() })
	installed := []string{"nameserver " + resolvers[0], "nameserver " + resolvers[1], "search corp.example.org"}
	if content := string(must(etc.ReadFile("resolv.conf"))(t)); !hasAll(content, installed...) {
		t.Errorf("/etc/resolv.conf has not %q: %s", installed, content)
	}
	for _, reverse := range []bool{false, true} {
		for from, target := range map[*netlab.Namespace]netip.Addr{here: first, there: second} {
			report, err := netlab.RunIPerf(w.ctx, from, w.CloudHost, target, netlab.IPerf{Duration: time.Second, Reverse: reverse})
			w.check(err)
			t.Logf("iperf3 to %s, from the cloud %t: %v", target, reverse, report)
		}
	}

	// A route more, without another connection.
	before := w.waitConnections(2, "")
	added := netip.MustParsePrefix("10.20.30.0/24")
	w.change(client.Object{"local_subnets": []netip.Prefix{w.CloudSubnets[0], w.CloudSubnets[1], added}})
	w.check(alice.WaitUp(w.ctx, 2)) // as it says then, too
	w.check(robert.WaitUp(w.ctx, 2))
	for _, from := range []*netlab.Namespace{here, there} {
		if routes := must(from.Run(w.ctx, "ip", "-4", "route"))(t); !strings.Contains(routes, added.String()+" ") {
			t.Errorf("no route to %s: %s", added, routes)
		}
	}
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
	if content := string(must(etc.ReadFile("resolv.conf"))(t)); strings.Contains(content, resolvers[0]) {
		t.Errorf("/etc/resolv.conf is left as %s", content)
	}
	w.expectNothingInClear()
}
