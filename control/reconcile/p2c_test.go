package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/connlog"
	"github.com/vpngw/vpngw/dataplane/route"
	"github.com/vpngw/vpngw/sslvpn"
)

// clientEngine is the engine of client-to-cloud VPN as it would be if
// everything worked, save for what a test breaks, and the connection log.
type clientEngine struct {
	mu       sync.Mutex
	config   sslvpn.Config
	broken   map[string]error // by endpoint
	sessions map[string][]sslvpn.Session
	gone     []string // sessions that were disconnected
	events   chan sslvpn.Event
	records  []connlog.Record
	slow     time.Duration // that Apply takes
	calls    int           // of Apply
}

func newClientEngine() *clientEngine {
	return &clientEngine{
		broken: map[string]error{}, sessions: map[string][]sslvpn.Session{}, events: make(chan sslvpn.Event, 10),
	}
}

func (e *clientEngine) Apply(c sslvpn.Config) error {
	e.mu.Lock()
	slow := e.slow
	e.calls++
	e.mu.Unlock()
	time.Sleep(slow)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.config = c
	var errs []error
	for i := range c.Endpoints {
		errs = append(errs, e.broken[c.Endpoints[i].ID])
	}
	return errors.Join(errs...)
}

func (e *clientEngine) Snapshot() []sslvpn.EndpointStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []sslvpn.EndpointStatus
	for i := range e.config.Endpoints {
		id := e.config.Endpoints[i].ID
		list = append(list, sslvpn.EndpointStatus{ID: id, Err: e.broken[id], Sessions: e.sessions[id]})
	}
	return list
}

func (e *clientEngine) Events() <-chan sslvpn.Event { return e.events }

func (e *clientEngine) Disconnect(endpoint, id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	found := slices.ContainsFunc(e.sessions[endpoint], func(s sslvpn.Session) bool { return s.ID == id })
	if found {
		e.gone = append(e.gone, id)
	}
	return found
}

// Write takes the records of the one stream that tests use.
func (e *clientEngine) Write(to control.LogConfig, r connlog.Record) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.records = append(e.records, r)
	return to == control.LogConfig{GroupID: "group", StreamID: "stream"}
}

// endpoints returns what was applied last.
func (e *clientEngine) endpoints() []sslvpn.Endpoint {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.config.Endpoints)
}

func (e *clientEngine) fail(endpoint string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.broken[endpoint] = err
}

// clientGateway creates a client-to-cloud gateway with a server for passwords.
func (w *world) clientGateway(eip, cidr string) (gateway, server string) {
	w.Helper()
	vpc, subnet, sign := vpcID, subnetID, "SERVICE_SIGN"
	g, err := w.service.CreateP2CGateway(w.ctx, project, control.P2CGatewayCreate{
		VPCID: &vpc, ConnectSubnet: &subnet, EIP: &control.EIPRequest{ID: &eip},
	})
	if err != nil {
		w.Fatal(err)
	}
	w.settle()
	v, err := w.service.CreateServer(w.ctx, project, g.ID, control.ServerCreate{
		ClientCIDR: &cidr, LocalSubnets: []string{"10.10.0.0/24"}, Certificate: &control.ServerCertificateRequest{Source: &sign},
	})
	if err != nil {
		w.Fatal(err)
	}
	w.settle()
	return g.ID, v.ID
}

func (w *world) wantServer(gateway string, state control.ServerState, gatewayState control.P2CGatewayState) {
	w.Helper()
	servers, err := w.service.ListServersOfGateway(w.ctx, project, gateway)
	if err != nil || len(servers) != 1 {
		w.Fatalf("servers of %s: %v, %v", gateway, servers, err)
	}
	g, err := w.service.ShowP2CGateway(w.ctx, project, gateway)
	if err != nil {
		w.Fatal(err)
	}
	if servers[0].State != state || g.State != gatewayState {
		w.Errorf("server is %s and gateway %s, want %s and %s", servers[0].State, g.State, state, gatewayState)
	}
}

// routesTo returns what the kernel has for a network, the best first.
func (w *world) routesTo(network string) []route.Route {
	w.engines.mu.Lock()
	defer w.engines.mu.Unlock()
	var list []route.Route
	for _, r := range w.engines.routes.Routes {
		if r.Table == 0 && r.Dst.String() == network {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b route.Route) int { return int(int64(a.Metric) - int64(b.Metric)) })
	return list
}

func TestLifeOfAServer(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway, server := w.clientGateway(eip1, "172.20.0.0/24")
		w.wantServer(gateway, control.ServerActive, control.P2CActive)
		list := w.clients.endpoints()
		if len(list) != 1 {
			t.Fatalf("the engine has %d endpoints", len(list))
		}
		e := list[0]
		if e.ID != server || e.Gateway != gateway || e.Auth != sslvpn.AuthPassword || e.Cipher != sslvpn.AES128GCM ||
			!slices.Equal(e.TCP, []netip.AddrPort{netip.MustParseAddrPort(address1 + ":443")}) ||
			e.Pool.String() != "172.20.0.0/24" || e.MaxSessions != 10 || e.BandwidthMbps != 300 || e.Certificate.PrivateKey == nil {
			t.Errorf("the engine has %+v", e)
		}
		to := w.routesTo("172.20.0.0/24")
		if len(to) != 2 || to[0].NextHops[0].Link != e.Device || to[1].Type != route.Blackhole {
			t.Errorf("routes to the clients: %v", to)
		}
		if !slices.Contains(w.engines.routes.Addresses, route.Address{Link: e.Device, Prefix: netip.MustParsePrefix("172.20.0.1/32")}) {
			t.Errorf("addresses: %v", w.engines.routes.Addresses)
		}

		name, password := "user001", control.NewSecret("Qwerasdf")
		groups, err := w.service.ListUserGroups(w.ctx, project, server, control.Page{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.service.CreateUser(w.ctx, project, server, control.UserCreate{
			Name: &name, Password: &password, GroupID: &groups.Items[0].ID,
		})
		if err != nil {
			t.Fatal(err)
		}
		w.settle()
		e = w.clients.endpoints()[0]
		hash, err := control.ParsePasswordHash(e.Users[0].PasswordHash)
		if err != nil || !hash.Matches(password) || e.Users[0].Group != e.Policies[0].Group ||
			e.Policies[0].Destinations[0].String() != "0.0.0.0/0" {
			t.Errorf("the engine has users %v and policies %v, %v", e.Users, e.Policies, err)
		}
		w.wantServer(gateway, control.ServerActive, control.P2CActive)

		if err := w.service.DeleteP2CGateway(w.ctx, project, gateway); err != nil {
			t.Fatal(err)
		}
		w.settle()
		if list, to := w.clients.endpoints(), w.routesTo("172.20.0.0/24"); len(list) != 0 || len(to) != 0 {
			t.Errorf("left over: %v, %v", list, to)
		}
		snapshot, err := w.objects.Snapshot(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(snapshot.P2CGateways) + len(snapshot.Servers) + len(snapshot.Users) + len(snapshot.UserGroups) + len(snapshot.AccessPolicies); n != 0 {
			t.Errorf("%d objects are left", n)
		}
	})
}

// TestServerThatFails is FAULT and closed, with no harm to the other one.
func TestServerThatFails(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway, server := w.clientGateway(eip1, "172.20.0.0/24")
		other, _ := w.clientGateway(eip2, "172.21.0.0/24")
		w.clients.fail(server, errors.New("listen: address already in use"))
		w.pass()
		w.wantServer(gateway, control.ServerFault, control.P2CActive)
		w.wantServer(other, control.ServerActive, control.P2CActive)
		if to := w.routesTo("172.20.0.0/24"); len(to) != 1 || to[0].Type != route.Blackhole {
			t.Errorf("routes to the clients: %v", to)
		}
		w.clients.fail(server, nil)
		time.Sleep(2 * retryMax)
		w.settle()
		w.wantServer(gateway, control.ServerActive, control.P2CActive)

		w.setHost(address1, false)
		w.pass()
		w.wantServer(gateway, control.ServerFault, control.P2CFault)
		if _, served := w.r.ClientConnections(gateway); served {
			t.Error("its clients are served without the address")
		}
	})
}

func TestPoolsThatOverlap(t *testing.T) {
	c := &clients{networks: []clientNetwork{{server: "first", pool: netip.MustParsePrefix("172.20.0.0/24")}}}
	for pool, overlaps := range map[string]bool{"172.20.0.0/22": true, "172.20.0.128/26": true, "172.20.1.0/24": false} {
		if err := c.overlap(clientNetwork{pool: netip.MustParsePrefix(pool)}); (err != nil) != overlaps {
			t.Errorf("%s: %v", pool, err)
		}
	}
	p := &plan{closed: []*tunnel{{id: "tunnel", flows: []flow{
		{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("192.168.0.0/24")},
		{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("0.0.0.0/0")},
	}}}}
	for pool, overlaps := range map[string]bool{"192.168.0.0/22": true, "192.168.0.128/26": true, "192.168.1.0/24": false} {
		if err := overlapOfTunnels(clientNetwork{pool: netip.MustParsePrefix(pool)}, p); (err != nil) != overlaps {
			t.Errorf("%s: %v", pool, err)
		}
	}
}

// A server whose clients would be in a network of the host is FAULT and told why;
// one that runs already stays, and is told, too.
func TestServerInANetworkOfTheHost(t *testing.T) {
	inWorld(t, func(w *world) {
		have := func(networks ...route.HostNetwork) {
			w.engines.mu.Lock()
			w.engines.networks = networks
			w.engines.mu.Unlock()
		}
		wantMessage := func(gateway, message string) {
			t.Helper()
			servers, err := w.service.ListServersOfGateway(w.ctx, project, gateway)
			if err != nil || len(servers) != 1 || !strings.HasPrefix(servers[0].StatusMessage(), message) {
				t.Errorf("servers of %s, %v, want one with %q", gateway, err, message)
			}
		}
		docker := route.HostNetwork{Prefix: netip.MustParsePrefix("172.20.0.128/25"), Link: "docker0", Attached: true}
		have(docker, route.HostNetwork{Prefix: netip.MustParsePrefix("172.16.0.0/12"), Link: "eth1"})
		gateway, server := w.clientGateway(eip1, "172.20.0.0/24")
		w.wantServer(gateway, control.ServerFault, control.P2CActive)
		const why = "client_cidr: 172.20.0.0/24 overlaps 172.20.0.128/25, which this host has on docker0"
		wantMessage(gateway, why)
		if n, to := len(w.clients.endpoints()), w.routesTo("172.20.0.0/24"); n != 0 || len(to) != 1 || to[0].Type != route.Blackhole {
			t.Errorf("%d endpoints run, routes %v", n, to)
		}
		have()
		time.Sleep(2 * retryMax)
		w.settle()
		w.wantServer(gateway, control.ServerActive, control.P2CActive)
		have(docker)
		w.pass()
		w.settle()
		w.wantServer(gateway, control.ServerFault, control.P2CActive)
		wantMessage(gateway, why)
		if n := len(w.clients.endpoints()); n != 1 {
			t.Errorf("%d endpoints run", n)
		}

		// One that has failed meanwhile has no sessions to lose, and is not tried again there.
		w.clients.fail(server, errors.New("the port is taken"))
		for range 2 {
			w.pass()
			w.settle()
		}
		w.clients.fail(server, nil)
		time.Sleep(2 * retryMax)
		w.settle()
		wantMessage(gateway, why)
		if n, to := len(w.clients.endpoints()), w.routesTo("172.20.0.0/24"); n != 0 || len(to) != 1 || to[0].Type != route.Blackhole {
			t.Errorf("%d endpoints run after the failure, routes %v", n, to)
		}
	})
	for _, tt := range []struct {
		network  route.HostNetwork
		conflict bool
	}{
		{route.HostNetwork{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Attached: true}, true},
		{route.HostNetwork{Prefix: netip.MustParsePrefix("10.8.0.7/32"), Attached: true}, true},
		{route.HostNetwork{Prefix: netip.MustParsePrefix("10.9.0.0/16"), Attached: true}, false},
		{route.HostNetwork{Prefix: netip.MustParsePrefix("10.0.0.0/8")}, false},
		{route.HostNetwork{Prefix: netip.MustParsePrefix("10.8.0.0/24")}, true},
		{route.HostNetwork{Prefix: netip.MustParsePrefix("10.8.0.64/26")}, true},
		{route.HostNetwork{Prefix: netip.MustParsePrefix("fd00:8::/80")}, true},
		{route.HostNetwork{Prefix: netip.MustParsePrefix("fd00:9::/64"), Attached: true}, false},
	} {
		n := clientNetwork{pool: netip.MustParsePrefix("10.8.0.0/24"), pool6: netip.MustParsePrefix("fd00:8::/64")}
		if err := overlapOfHost(n, []route.HostNetwork{tt.network}); (err != nil) != tt.conflict {
			t.Errorf("%+v: %v", tt.network, err)
		}
	}
}

// Servers are told each other's networks, which the default policy spares.
func TestServersAreApart(t *testing.T) {
	inWorld(t, func(w *world) {
		_, first := w.clientGateway(eip1, "172.20.0.0/24")
		_, _ = w.clientGateway(eip2, "172.21.0.0/24")
		list := w.clients.endpoints()
		if len(list) != 2 {
			t.Fatalf("%d endpoints", len(list))
		}
		for _, e := range list {
			want := "[172.20.0.0/24]"
			if e.ID == first {
				want = "[172.21.0.0/24]"
			}
			if got := fmt.Sprint(e.Foreign); got != want {
				t.Errorf("to %s is foreign %s, want %s", e.Pool, got, want)
			}
		}
	})
}

func TestClientConnections(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway, server := w.clientGateway(eip1, "172.20.0.0/24")
		session := sslvpn.Session{
			ID: "session-1", Endpoint: server, User: "user001", VirtualIP: netip.MustParseAddr("172.20.0.5"),
			Remote: netip.MustParseAddrPort("198.51.100.9:4711"), Inbound: sslvpn.Traffic{Packets: 3, Octets: 300},
			Outbound: sslvpn.Traffic{Packets: 2, Octets: 200}, Established: time.Now(),
		}
		w.clients.mu.Lock()
		w.clients.sessions[server] = []sslvpn.Session{session}
		w.clients.mu.Unlock()
		list, served := w.r.ClientConnections(gateway)
		if !served || len(list) != 1 || list[0].ID != session.ID || list[0].VirtualIP != session.VirtualIP ||
			list[0].Inbound != (control.Traffic{Packets: 3, Octets: 300}) || list[0].Outbound != (control.Traffic{Packets: 2, Octets: 200}) {
			t.Errorf("connections: %+v, served %t", list, served)
		}
		if _, served := w.r.ClientConnections("another"); served {
			t.Error("clients of a gateway that is not there")
		}
		if w.r.DisconnectClient(gateway, "session-2") || !w.r.DisconnectClient(gateway, "session-1") {
			t.Error("disconnecting went wrong")
		}
		if !slices.Equal(w.clients.gone, []string{"session-1"}) {
			t.Errorf("disconnected: %v", w.clients.gone)
		}
	})
}

func TestConnectionLog(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway, server := w.clientGateway(eip1, "172.20.0.0/24")
		event := sslvpn.Event{Kind: sslvpn.EventAuthFailed, Time: time.Now(), Reason: "wrong password", Session: sslvpn.Session{
			ID: "s", Endpoint: server, User: "user001", Remote: netip.MustParseAddrPort("198.51.100.9:4711"),
		}}
		w.clients.events <- event
		w.settle()
		if len(w.clients.records) != 0 {
			t.Errorf("a gateway without a log has %v", w.clients.records)
		}
		to := control.LogConfig{GroupID: "group", StreamID: "stream"}
		if err := w.service.SetLogConfig(w.ctx, project, gateway, to); err != nil {
			t.Fatal(err)
		}
		w.settle()
		w.clients.events <- event
		w.settle()
		// The last event of a server comes after the server has gone.
		if err := w.service.DeleteP2CGateway(w.ctx, project, gateway); err != nil {
			t.Fatal(err)
		}
		w.settle()
		event.Kind, event.Reason = sslvpn.EventDisconnected, "the server was removed"
		event.Session.Inbound.Octets = 77
		w.clients.events <- event
		w.settle()
		got := w.clients.records
		if len(got) != 2 {
			t.Fatalf("records: %v", got)
		}
		if r := got[0]; r.Event != connlog.AuthenticationFailed || r.Gateway != gateway || r.Server != server || r.Project != project ||
			r.User != "user001" || r.Reason != "wrong password" || r.ClientIP.String() != "198.51.100.9" {
			t.Errorf("record %+v", r)
		}
		if r := got[1]; r.Event != connlog.Disconnected || r.InboundBytes != 77 {
			t.Errorf("record %+v", r)
		}
	})
}

// What a tunnel takes that is for everywhere leaves the clients of servers out.
func TestClientsBesideADefaultRoute(t *testing.T) {
	source, pool := netip.MustParsePrefix("10.10.0.0/24"), netip.MustParsePrefix("172.20.0.0/24")
	tn := &tunnel{id: "site", gatewayID: "g", flows: []flow{{source: source, destination: netip.MustParsePrefix("0.0.0.0/0")}}}
	tn.device.Name = "vpngw1"
	r := newRouting()
	carried := func(string) carriage { return carries }
	s := r.all([]*tunnel{tn}, carried, []clientNetwork{{server: "s", pool: pool, device: "vpngc1"}})
	want := route.Route{Table: r.table(source), Dst: pool, Type: route.Throw, Metric: tunnelMetric}
	if !slices.ContainsFunc(s.Routes, func(r route.Route) bool { return reflect.DeepEqual(r, want) }) {
		t.Errorf("no %v in %v", want, s.Routes)
	}
	tn.flows[0].destination = netip.MustParsePrefix("192.168.0.0/16")
	for _, r := range r.all([]*tunnel{tn}, carried, []clientNetwork{{server: "s", pool: pool, device: "vpngc1"}}).Routes {
		if r.Type == route.Throw {
			t.Errorf("needless: %v", r)
		}
	}
}

// Clients have both families: the server's address on the device, the pool's route
// into it, and under each a blackhole.
func TestRoutesOfClientsWithIPv6(t *testing.T) {
	n := clientNetwork{server: "s", pool: netip.MustParsePrefix("172.20.0.0/24"), pool6: netip.MustParsePrefix("fd00:8::/64"), device: "vpngc1"}
	carried := func(string) carriage { return carries }
	tn := &tunnel{id: "site", gatewayID: "g", flows: []flow{{source: netip.MustParsePrefix("2001:db8::/48"), destination: netip.MustParsePrefix("::/0")}}}
	tn.device.Name = "vpngw1"
	r := newRouting()
	s := r.all([]*tunnel{tn}, carried, []clientNetwork{n})
	for _, address := range []string{"172.20.0.1/32", "fd00:8::1/128"} {
		if !slices.ContainsFunc(s.Addresses, func(a route.Address) bool { return a.Link == "vpngc1" && a.Prefix.String() == address }) {
			t.Errorf("no address %s in %v", address, s.Addresses)
		}
	}
	for _, pool := range n.pools() {
		var into, blackhole, throw bool
		for _, r := range s.Routes {
			if r.Dst == pool {
				into = into || len(r.NextHops) == 1 && r.NextHops[0].Link == "vpngc1"
				blackhole = blackhole || r.Type == route.Blackhole
				throw = throw || r.Type == route.Throw
			}
		}
		if !into || !blackhole || throw != pool.Addr().Is6() { // the tunnel is for everywhere of IPv6
			t.Errorf("%s: into the device %t, blackhole %t, out of the tunnel %t", pool, into, blackhole, throw)
		}
	}
	c := &clients{networks: []clientNetwork{n}}
	for pool6, overlaps := range map[string]bool{"fd00:8::/96": true, "fd00:9::/64": false} {
		other := clientNetwork{pool: netip.MustParsePrefix("172.21.0.0/24"), pool6: netip.MustParsePrefix(pool6)}
		if err := c.overlap(other); (err != nil) != overlaps {
			t.Errorf("%s: %v", pool6, err)
		}
	}
}

// The server of a gateway is on the node that serves its address. Another one
// that may come to serve it lets nothing out for the clients.
func TestServerOfAnotherNode(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway, server := w.clientGateway(eip1, "172.20.0.0/24")
		w.stop()
		s := &share{division: &control.Division{Node: "one"}}
		w.share = s
		w.start()
		want := func(node string, running bool) {
			t.Helper()
			s.divide(w, "", node)
			endpoints, to := w.clients.endpoints(), w.routesTo("172.20.0.0/24")
			if len(endpoints) == 1 != running || len(to) == 0 || to[len(to)-1].Type != route.Blackhole || len(to) == 2 != running {
				t.Errorf("with the address at %q: endpoints %v, routes %v", node, endpoints, to)
			}
			if _, served := w.r.ClientConnections(gateway); served != running {
				t.Errorf("with the address at %q: clients are served: %t", node, served)
			}
		}
		want("two", false)
		want("one", true)
		w.wantServer(gateway, control.ServerActive, control.P2CActive)

		// How many clients there were, another node can say.
		number := func(want int) {
			t.Helper()
			g, err := w.service.ShowP2CGateway(w.ctx, project, gateway)
			if err != nil || g.Connections != want {
				t.Errorf("%d clients are connected, want %d, %v", g.Connections, want, err)
			}
		}
		w.clients.mu.Lock()
		w.clients.sessions[server] = make([]sslvpn.Session, 3)
		w.clients.mu.Unlock()
		w.clients.events <- sslvpn.Event{Kind: sslvpn.EventConnected, Session: sslvpn.Session{Endpoint: server}}
		w.settle()
		want("two", false)
		number(3)
		want("", false)
		number(0)
		want("one", true)
		before, err := w.objects.Snapshot(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		want("two", false)
		after, err := w.objects.Snapshot(w.ctx)
		if err != nil || !reflect.DeepEqual(before.ServerStatus[server], after.ServerStatus[server]) {
			t.Errorf("this node has reported of a server that is another's: %+v, %v", after.ServerStatus[server], err)
		}
		want("one", true)
		if err := w.db.Close(); err != nil {
			t.Fatal(err)
		}
		want("", false)
	})
}
