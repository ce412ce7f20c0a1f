//go:build netns

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// envRun makes the test program be vpngwd.
const envRun = "VPNGWD_TEST_RUN"

func TestMain(m *testing.M) {
	if os.Getenv(envRun) != "" {
		os.Exit(command(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

const patience = time.Minute

// side is one of two gateways that face each other, with a host behind it.
type side struct {
	t       *testing.T
	ctx     context.Context
	name    string
	dir     string
	gateway *netlab.Namespace
	host    *netlab.Namespace
	outer   [2]netip.Addr
	subnet  netip.Prefix
	process *netlab.Process
	api     *client.Client
}

func (s *side) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("side %s: %v", s.name, err)
	}
}

func (s *side) hostAddress() netip.Addr { return s.subnet.Addr().Next().Next() }

// newSide makes a gateway namespace with a host behind it; number is 1 or 2.
func newSide(ctx context.Context, t *testing.T, lab *netlab.Lab, number int) *side {
	t.Helper()
	s := &side{
		t: t, ctx: ctx, name: fmt.Sprint(number), dir: filepath.Join(lab.Dir, fmt.Sprint("side", number)),
		outer: [2]netip.Addr{
			netip.MustParseAddr(fmt.Sprintf("203.0.113.%d1", number)), netip.MustParseAddr(fmt.Sprintf("203.0.113.%d2", number)),
		},
		subnet: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/24", number)),
	}
	var err error
	s.gateway, err = lab.Namespace(ctx, "gateway"+s.name)
	s.check(err)
	s.host, err = lab.Namespace(ctx, "host"+s.name)
	s.check(err)
	s.check(s.gateway.Sysctl(ctx, "net.ipv4.ip_forward=1"))
	s.check(s.gateway.Link(ctx, "lan", s.host, "eth0", 1500))
	inside := s.subnet.Addr().Next()
	s.check(s.gateway.IP(ctx, fmt.Sprintf("addr add %s/24 dev lan", inside)))
	s.check(s.host.IP(ctx, fmt.Sprintf("addr add %s/24 dev eth0", s.hostAddress()), fmt.Sprintf("route add default via %s", inside)))
	s.check(os.Mkdir(s.dir, 0o700))
	s.configure("info", s.outer[1])
	return s
}

// configure writes the configuration file, with the address that the second
// EIP has.
func (s *side) configure(level string, second netip.Addr) {
	s.t.Helper()
	s.check(os.WriteFile(filepath.Join(s.dir, "vpngwd.yaml"), fmt.Appendf(nil, `
node: {name: side-%s}
data_dir: %s
log: {level: %s}
api: {listen: 127.0.0.1:8443, tls: off, credentials: [{access_key: AK, secret_key: a-secret, role: admin, project_id: p}]}
inventory:
  availability_zones: [az1, az2]
  vpcs: [{id: vpc, cidr: %s, subnets: [{id: subnet, cidr: %[4]s}]}]
  eips: [{id: eip1, address: %s}, {id: eip2, address: %s}]
`, s.name, filepath.Join(s.dir, "data"), level, s.subnet, s.outer[0], second), 0o600))
}

// start runs the daemon until it is ready.
func (s *side) start() {
	s.t.Helper()
	program, err := os.Executable()
	s.check(err)
	s.process, err = s.gateway.Start("vpngwd"+s.name, []string{envRun + "=1"}, program, "--config", filepath.Join(s.dir, "vpngwd.yaml"))
	s.check(err)
	ready, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	transport := &http.Transport{DialContext: s.gateway.DialContext, DisableKeepAlives: true}
	s.check(netlab.Poll(ready, 20*time.Millisecond, func() (bool, error) {
		r, err := http.NewRequestWithContext(ready, http.MethodGet, "http://127.0.0.1:9090/readyz", http.NoBody)
		if err != nil {
			return false, err
		}
		answer, err := transport.RoundTrip(r)
		if err != nil {
			return false, nil // not yet
		}
		defer answer.Body.Close()
		return answer.StatusCode == http.StatusOK, nil
	}))
	s.api, err = client.New(client.Options{
		Endpoint: "http://127.0.0.1:8443", ProjectID: "p", AccessKey: "AK", SecretKey: "a-secret", DialContext: s.gateway.DialContext,
	})
	s.check(err)
}

// connect sets up two connections to the peer, from each address to its like,
// with the tunnel addresses .local of 169.254.1.0/30 and 169.254.2.0/30 and, with
// style policy, one rule.
func (s *side) connect(peer *side, style string, local, remote int) {
	s.t.Helper()
	text := fmt.Sprintf(`
gateways:
  - {name: gw, vpc_id: vpc, connect_subnet: subnet, local_subnets: [%s], eip1: {id: eip1}, eip2: {id: eip2}}
customer_gateways:
  - {name: p1, id_value: %s}
  - {name: p2, id_value: %s}
connections:
`, s.subnet, peer.outer[0], peer.outer[1])
	rules := ""
	if style == "policy" {
		rules = fmt.Sprintf("policy_rules: [{source: %s, destination: [%s]}], ", s.subnet, peer.subnet)
	}
	for i := 1; i <= 2; i++ {
		text += fmt.Sprintf("  - {name: c%d, gateway: gw, customer_gateway: p%[1]d, vgw_ip: eip%[1]d, style: %s, %speer_subnets: [%s], "+
			"psk: Pre-shared-1, tunnel_local_address: 169.254.%[1]d.%[5]d/30, tunnel_peer_address: 169.254.%[1]d.%[6]d/30, "+
			"ikepolicy: {dh_group: group19, dpd: {interval: 10, timeout: 2}}, ipsecpolicy: {pfs: group19, encryption_algorithm: aes-128-gcm-16}}\n",
			i, style, rules, peer.subnet, local, remote)
	}
	file, err := declare.Parse(strings.NewReader(text), os.Getenv)
	s.check(err)
	applier := declare.Applier{Client: s.api, Every: 20 * time.Millisecond}
	s.check(applier.Apply(s.ctx, file))
}

func (s *side) wait(connection, status string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	var last client.Object
	err := netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		var err error
		last, err = s.api.Find(ctx, client.Connections, connection)
		return err == nil && last.Status() == status, err
	})
	if err != nil {
		s.t.Fatalf("side %s: %s is %s, want %s: %v\n%s", s.name, connection, last.Status(), status, err, s.process.Errors())
	}
}

func (s *side) remove(connection string) {
	s.t.Helper()
	object, err := s.api.Find(s.ctx, client.Connections, connection)
	s.check(err)
	s.check(s.api.Delete(s.ctx, client.Connections, object.ID()))
	s.check(s.api.WaitGone(s.ctx, client.Connections, object.ID(), 50*time.Millisecond))
}

// Two gateways of ours, each of which initiates both of its connections.
func TestNetNSTwoGateways(t *testing.T) {
	for _, style := range []string{"static", "policy"} {
		t.Run(style, func(t *testing.T) { testTwoGateways(t, style) })
	}
}

func testTwoGateways(t *testing.T, style string) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	lab, err := netlab.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	}()
	a, b := newSide(ctx, t, lab, 1), newSide(ctx, t, lab, 2)
	a.check(a.gateway.Link(ctx, "wan", b.gateway, "wan", 1500))
	var before []netlab.HostState
	for _, s := range []*side{a, b} {
		for _, address := range s.outer {
			s.check(s.gateway.IP(ctx, fmt.Sprintf("addr add %s/24 dev wan", address)))
		}
		state, err := s.gateway.HostState(ctx)
		s.check(err)
		before = append(before, state)
		s.start()
	}
	a.connect(b, style, 1, 2)
	b.connect(a, style, 2, 1)
	for _, s := range []*side{a, b} {
		s.wait("c1", "ACTIVE")
		s.wait("c2", "ACTIVE")
	}
	a.check(a.host.WaitPing(ctx, a.hostAddress(), b.hostAddress()))
	// With routes the tunnel addresses answer, too.
	for i := 1; i <= 2 && style == "static"; i++ {
		local, remote := netip.MustParseAddr(fmt.Sprintf("169.254.%d.1", i)), netip.MustParseAddr(fmt.Sprintf("169.254.%d.2", i))
		a.check(a.gateway.WaitPing(ctx, local, remote))
		a.check(a.gateway.WaitPing(ctx, local, b.hostAddress()))
	}

	a.countsAlike(b)
	if style == "static" {
		a.probe(b)
	}

	// The peer takes the first tunnel down: traffic goes over the second.
	ping, err := a.host.StartPing("failover", a.hostAddress(), b.hostAddress(), 20*time.Millisecond)
	a.check(err)
	b.remove("c1")
	a.wait("c1", "DOWN")
	answered := ping.Received()
	a.check(netlab.Poll(ctx, 20*time.Millisecond, func() (bool, error) { return ping.Received() > answered+20, nil }))
	report, err := ping.Finish(ctx)
	a.check(err)
	if len(report.Lost) > 250 { // five seconds: the peer is not given up only when it is silent
		t.Errorf("failover: %v", report)
	}
	a.check(a.host.WaitPing(ctx, a.hostAddress(), b.hostAddress()))

	// SIGHUP: an address of the inventory moves away, and comes back.
	b.configure("debug", netip.MustParseAddr("203.0.113.99"))
	b.check(b.process.Signal(unix.SIGHUP))
	b.wait("c2", "ERROR")
	b.configure("debug", b.outer[1])
	b.check(b.process.Signal(unix.SIGHUP))
	b.wait("c2", "ACTIVE")

	// A crash: what is protected does not leave in the clear meanwhile.
	b.check(b.process.Kill())
	out, err := b.gateway.Run(ctx, "ip", "route", "get", a.hostAddress().String(), "from", b.hostAddress().String(), "iif", "lan")
	if err == nil {
		t.Errorf("after a crash the traffic goes %s", out)
	}
	b.start()
	b.wait("c2", "ACTIVE")
	a.check(a.host.WaitPing(ctx, a.hostAddress(), b.hostAddress()))

	for i, s := range []*side{a, b} {
		s.check(s.process.Stop())
		diff, err := s.gateway.HostStateDiff(ctx, before[i])
		s.check(err)
		if diff != "" {
			t.Errorf("side %s is not as it was:\n%s", s.name, diff)
		}
	}
}

// carried is what the SAs of a connection have carried.
type carried struct{ PacketsSent, PacketsReceived, OctetsSent, OctetsReceived uint64 }

func (s *side) carried(connection string) (sum carried) {
	s.t.Helper()
	object, err := s.api.Find(s.ctx, client.Connections, connection)
	s.check(err)
	var answer struct {
		SAs []struct {
			PacketsSent uint64 `json:"packets_sent"`
			PacketsRecv uint64 `json:"packets_recv"`
			TrafficSent uint64 `json:"traffic_sent"`
			TrafficRecv uint64 `json:"traffic_recv"`
		} `json:"sa_infos"`
	}
	s.check(s.api.Call(s.ctx, http.MethodGet, "vpn-connection/"+object.ID()+"/ipsec-sa", nil, &answer))
	for _, sa := range answer.SAs {
		sum.PacketsSent += sa.PacketsSent
		sum.PacketsReceived += sa.PacketsRecv
		sum.OctetsSent += sa.TrafficSent
		sum.OctetsReceived += sa.TrafficRecv
	}
	return sum
}

// countsAlike checks that what one side has sent is what the other one has
// received, once nothing is under way.
func (s *side) countsAlike(peer *side) {
	s.t.Helper()
	var all carried
	for _, connection := range []string{"c1", "c2"} {
		ctx, cancel := context.WithTimeout(s.ctx, patience)
		var ours, theirs carried
		err := netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
			ours, theirs = s.carried(connection), peer.carried(connection)
			return ours == carried{theirs.PacketsReceived, theirs.PacketsSent, theirs.OctetsReceived, theirs.OctetsSent}, nil
		})
		cancel()
		if err != nil || ours.OctetsReceived < 84*ours.PacketsReceived {
			s.t.Errorf("%s: side %s counts %+v, side %s %+v: %v", connection, s.name, ours, peer.name, theirs, err)
		}
		all.PacketsSent += ours.PacketsSent
		all.PacketsReceived += ours.PacketsReceived
	}
	if all.PacketsSent == 0 || all.PacketsReceived == 0 {
		s.t.Errorf("side %s counts no traffic: %+v", s.name, all)
	}
}

// probe turns NQA on for the first connection and a monitor for the second.
// Then the peer's first tunnel address stops answering: its SAs stay up, and
// traffic leaves the tunnel all the same until it answers again.
func (s *side) probe(peer *side) {
	s.t.Helper()
	first, err := s.api.Find(s.ctx, client.Connections, "c1")
	s.check(err)
	second, err := s.api.Find(s.ctx, client.Connections, "c2")
	s.check(err)
	_, err = s.api.Update(s.ctx, client.Connections, first.ID(), client.Object{"enable_nqa": true})
	s.check(err)
	s.check(s.api.Call(s.ctx, http.MethodPost, "connection-monitors",
		client.Object{"connection_monitor": client.Object{"vpn_connection_id": second.ID()}}, nil))
	s.wait("c1", "ACTIVE")
	hops := func(want ...string) {
		s.t.Helper()
		ctx, cancel := context.WithTimeout(s.ctx, patience)
		defer cancel()
		var table struct {
			Routes []struct {
				Resource struct{ ID string } `json:"nexthop_resource"`
			} `json:"routing_table"`
		}
		err := netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
			table.Routes = nil
			if err := s.api.Call(ctx, http.MethodGet, "vpn-gateways/"+first.Text("vgw_id")+"/routing-table", nil, &table); err != nil {
				return false, err
			}
			var got []string
			for _, r := range table.Routes {
				if r.Resource.ID == first.ID() || r.Resource.ID == second.ID() {
					got = append(got, r.Resource.ID)
				}
			}
			return slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))), nil
		})
		if err != nil {
			s.t.Fatalf("side %s: the routes are %+v, want %v: %v", s.name, table, want, err)
		}
	}
	hops(first.ID(), second.ID())
	s.check(peer.gateway.Sysctl(s.ctx, "net.ipv4.icmp_echo_ignore_all=1"))
	hops(second.ID())
	s.wait("c1", "ACTIVE")
	s.check(s.host.WaitPing(s.ctx, s.hostAddress(), peer.hostAddress()))
	s.check(peer.gateway.Sysctl(s.ctx, "net.ipv4.icmp_echo_ignore_all=0"))
	hops(first.ID(), second.ID())

	for _, line := range []string{
		fmt.Sprintf(`vpngw_probe_reachable{connection="%s",probe="nqa"} 1`, first.ID()),
		fmt.Sprintf(`vpngw_probe_rtt_seconds{connection="%s",probe="monitor"}`, second.ID()),
	} {
		if body := s.metrics(); !strings.Contains(body, line) {
			s.t.Errorf("side %s: the metrics lack %s", s.name, line)
		}
	}
}

// metrics reads the metrics.
func (s *side) metrics() string {
	s.t.Helper()
	transport := &http.Transport{DialContext: s.gateway.DialContext, DisableKeepAlives: true}
	r, err := http.NewRequestWithContext(s.ctx, http.MethodGet, "http://127.0.0.1:9090/metrics", http.NoBody)
	s.check(err)
	answer, err := transport.RoundTrip(r)
	s.check(err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	s.check(err)
	return string(body)
}

// The doctor of a host that has everything, and of one that lacks an address.
func TestNetNSDoctor(t *testing.T) {
	ctx := t.Context()
	lab, err := netlab.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	}()
	s := newSide(ctx, t, lab, 1)
	s.check(s.gateway.IP(ctx, "addr add 203.0.113.11/24 dev lan", "addr add 203.0.113.12/24 dev lan"))
	program, err := os.Executable()
	s.check(err)
	args := []string{"env", envRun + "=1", program, "doctor", "--config", filepath.Join(s.dir, "vpngwd.yaml")}
	if out, err := s.gateway.Run(ctx, args...); err != nil || strings.Contains(out, "FAIL") {
		t.Errorf("the doctor says %s, %v", out, err)
	}
	s.check(s.gateway.IP(ctx, "addr del 203.0.113.12/24 dev lan"))
	args = append([]string{"sh", "-c", `"$@" || true`, "sh"}, args...)
	out, err := s.gateway.Run(ctx, args...)
	if err != nil || !strings.Contains(out, "FAIL  address 203.0.113.12") || !strings.Contains(out, "ip address add 203.0.113.12/32") {
		t.Errorf("the doctor says %s, %v", out, err)
	}
}
