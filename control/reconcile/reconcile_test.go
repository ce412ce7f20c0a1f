package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/dataplane/route"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

func TestLifeOfAConnection(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway := w.gateway()
		w.wantGateway(gateway, control.GatewayActive)
		w.wantChanges("sockets", "bandwidths")

		id := w.connection(gateway, eip1, w.customer("198.51.100.7"))
		w.wantChanges("devices", "routes", "ike")
		w.wantState(id, control.ConnectionDown, "negotiating with 198.51.100.7")

		w.engines.up(id)
		w.settle()
		w.wantState(id, control.ConnectionActive)
		w.wantChanges()

		w.engines.down(id, sa.Event{Kind: sa.IKEDown, Reason: sa.ReasonDPDTimeout})
		w.settle()
		w.wantState(id, control.ConnectionDown)

		if err := w.service.DeleteConnection(w.ctx, project, id); err != nil {
			t.Fatal(err)
		}
		w.settle()
		w.wantState(id, control.ConnectionPendingDelete)
		w.wantChanges("routes", "ike") // the device stays for the peer's answer
		time.Sleep(linger)
		w.settle()
		w.wantChanges("devices")
		if _, err := w.service.ShowConnection(w.ctx, project, id); err == nil {
			t.Error("the connection is still there")
		}
		if err := w.service.DeleteGateway(w.ctx, project, gateway); err != nil {
			t.Fatal(err)
		}
		w.settle()
		w.wantChanges("sockets", "bandwidths")
		if _, err := w.service.ShowGateway(w.ctx, project, gateway); err == nil {
			t.Error("the gateway is still there")
		}
	})
}

// TestBandwidths: each EIP of a gateway limits its tunnels.
func TestBandwidths(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway := w.gateway()
		want := []ipsec.Bandwidth{
			{Name: eip1, Addresses: []netip.Addr{netip.MustParseAddr(address1)}, Mbps: 300},
			{Name: eip2, Addresses: []netip.Addr{netip.MustParseAddr(address2)}, Mbps: 300},
		}
		if got := w.engines.bandwidths; !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if err := w.service.DeleteGateway(w.ctx, project, gateway); err != nil {
			t.Fatal(err)
		}
		w.settle()
		if got := w.engines.bandwidths; len(got) != 0 {
			t.Errorf("limits that stay: %v", got)
		}
	})
}

// TestSharedBandwidth: EIPs that share a bandwidth have one limit.
func TestSharedBandwidth(t *testing.T) {
	r := &Reconciler{}
	set := &engines{}
	r.Policer = set
	local := [2]netip.Addr{netip.MustParseAddr(address2), netip.MustParseAddr(address1)}
	eip := func(id string) control.EIPBinding {
		return control.EIPBinding{ID: id, BandwidthID: "together", BandwidthMbps: 50, Shared: true}
	}
	p := &plan{gateways: map[string]*gatewayPlan{
		"a": {gateway: &control.Gateway{EIPs: [2]control.EIPBinding{eip("1"), eip("2")}}, local: local},
		"b": {gateway: &control.Gateway{NetworkType: control.NetworkPrivate}, local: local},
	}}
	r.applyBandwidths(p)
	want := []ipsec.Bandwidth{{Name: "together", Addresses: []netip.Addr{local[1], local[0]}, Mbps: 50}}
	if !reflect.DeepEqual(set.bandwidths, want) {
		t.Errorf("got %v, want %v", set.bandwidths, want)
	}
}

func TestEditTouchesOnlyItsConnection(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway, customer := w.gateway(), w.customer("198.51.100.7")
		a := w.connection(gateway, eip1, customer)
		b := w.connection(gateway, eip2, customer)
		before := w.engines.connections[b]
		w.engines.changes()
		psk := control.NewSecret("Another-key-of-16-2")
		if _, err := w.service.UpdateConnection(w.ctx, project, a, control.ConnectionUpdate{PSK: &psk}); err != nil {
			t.Fatal(err)
		}
		w.settle()
		w.wantChanges("ike")
		if got := string(w.engines.connections[a].PSK); got != "Another-key-of-16-2" {
			t.Errorf("psk is %q", got)
		}
		if after := w.engines.connections[b]; after.Children[0].ReqID != before.Children[0].ReqID || string(after.PSK) != string(before.PSK) {
			t.Error("the other connection changed")
		}
		w.wantState(a, control.ConnectionDown)
	})
}

func TestFailedNegotiationNamesTheParameter(t *testing.T) {
	inWorld(t, func(w *world) {
		id := w.connection(w.gateway(), eip1, w.customer("198.51.100.7"))
		failed := sa.Event{Kind: sa.Failed, Reason: sa.ReasonPhase1Proposal, Diagnosis: &sa.Diagnosis{
			Reason: sa.ReasonPhase1Proposal, Exchange: "IKE_SA_INIT", Parameter: "encryption algorithm",
			Ours: "AES-CBC-128", Theirs: "AES-CBC-256", Detail: "change one of them",
		}}
		w.engines.down(id, failed)
		time.Sleep(storeDelay)
		w.settle()
		w.wantState(id, control.ConnectionDown, "phase1 proposal mismatch", "encryption algorithm", "AES-CBC-128", "AES-CBC-256")
		d := w.show(id).Status.Diagnosis
		if d == nil || d.Parameter != "encryption algorithm" || d.Ours != "AES-CBC-128" || d.Theirs != "AES-CBC-256" {
			t.Errorf("diagnosis is %+v", d)
		}
		lines := w.log(id)
		if len(lines) != 1 {
			t.Fatalf("log has %d lines", len(lines))
		}
		const want = " host-203-0-113-1 ipsec_ike[42]: [203.0.113.1] IPSec tunnel negotiation fails. " +
			"(IfIndex=[0], PolicyName=[to-site], SeqNum=[0], PeerAddress=[198.51.100.7], PeerPort=[500], " +
			"Reason=[phase1 proposal mismatch]) - parameter: encryption algorithm; ours: AES-CBC-128; " +
			"theirs: AES-CBC-256; exchange: IKE_SA_INIT; change one of them"
		if _, line, _ := strings.Cut(lines[0].Message, "+00:00"); line != want {
			t.Errorf("line is\n%s\nwant\n%s", line, want)
		}
		if _, err := time.Parse("2006-01-02T15:04:05.000000-07:00", lines[0].Message[:32]); err != nil {
			t.Error(err)
		}

		// Repeats fold, and are told from what comes between.
		for range 3 {
			w.engines.down(id, failed)
		}
		time.Sleep(storeDelay)
		w.settle()
		if lines = w.log(id); len(lines) != 1 || !strings.Contains(lines[0].Message, "(4 times since ") {
			t.Errorf("log is %v", lines)
		}

		w.engines.up(id)
		time.Sleep(storeDelay)
		w.settle()
		view := w.show(id)
		if view.State != control.ConnectionActive || view.Status.Message != "" || view.Status.Diagnosis != nil {
			t.Errorf("healed status is %+v", view.Status)
		}
		lines = w.log(id)
		if len(lines) != 3 || !strings.Contains(lines[0].Message, "An IPSec tunnel is established.") ||
			!strings.Contains(lines[1].Message, "An IKE SA is established.") {
			t.Errorf("log is %v", lines)
		}
	})
}

func TestUnknownPeerIsToldToWhomItMayConcern(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway := w.gateway()
		a := w.connection(gateway, eip1, w.customer("198.51.100.7"))
		b := w.connection(gateway, eip1, w.customer("198.51.100.8"), func(c *control.ConnectionCreate) {
			c.PeerSubnets = []string{"192.168.8.0/24"}
		})
		w.engines.events <- sa.Event{
			Kind: sa.Failed, Reason: sa.ReasonConfigID,
			Local: netip.MustParseAddrPort(address1 + ":500"), Remote: netip.MustParseAddrPort("198.51.100.8:500"),
			Diagnosis: &sa.Diagnosis{Parameter: "peer identity", Ours: "198.51.100.8", Theirs: "evil\n\x1b[31m"},
		}
		time.Sleep(storeDelay)
		w.settle()
		if lines := w.log(a); len(lines) != 0 {
			t.Errorf("the other peer's log has %v", lines)
		}
		lines := w.log(b)
		if len(lines) != 1 || !strings.Contains(lines[0].Message, "theirs: evil??[31m") {
			t.Errorf("log is %v", lines)
		}
	})
}

func TestOneOfSeveralChildren(t *testing.T) {
	inWorld(t, func(w *world) {
		id := w.connection(w.gateway(), eip1, w.customer("198.51.100.7"), policy(
			control.PolicyRuleRequest{Source: "10.10.0.0/24", Destination: []string{"192.168.0.0/25", "192.168.0.128/25"}},
			control.PolicyRuleRequest{Source: "10.10.1.0/24", Destination: []string{"192.168.0.0/24"}},
		))
		w.engines.up(id, "10.10.0.0/24")
		w.engines.events <- sa.Event{
			Kind: sa.Failed, Connection: id, Child: "10.10.1.0/24", Reason: sa.ReasonFlow, Established: true,
			Diagnosis: &sa.Diagnosis{Parameter: "traffic selectors", Ours: "10.10.1.0/24 to 192.168.0.0/24"},
		}
		w.settle()
		w.wantState(id, control.ConnectionActive, "1 of 2 CHILD_SAs are up", "traffic selectors")
		w.engines.up(id)
		w.settle()
		if m := w.show(id).Status.Message; m != "" {
			t.Errorf("message is %q", m)
		}
	})
}

func TestReset(t *testing.T) {
	inWorld(t, func(w *world) {
		id := w.connection(w.gateway(), eip1, w.customer("198.51.100.7"))
		w.engines.up(id)
		w.settle()
		if err := w.service.ResetConnection(w.ctx, project, id); err != nil {
			t.Fatal(err)
		}
		w.settle()
		w.wantState(id, control.ConnectionDown)
		if len(w.engines.resets) != 1 || w.engines.resets[0] != id {
			t.Errorf("resets are %q", w.engines.resets)
		}
		time.Sleep(2 * fullPass)
		w.settle()
		if len(w.engines.resets) != 1 {
			t.Errorf("one reset was done %d times", len(w.engines.resets))
		}
	})
}

func TestEngineFaultIsReportedAndHeals(t *testing.T) {
	for _, tc := range []struct {
		name  string
		call  string
		fault func(w *world, id string) error
		words string
	}{
		{"device", "devices", func(w *world, id string) error {
			return errors.Join(errors.New("device " + w.engines.devices[0].Name + ": no more devices"))
		}, "no more devices"},
		{"route", "routes", func(w *world, _ string) error {
			return errors.Join(errors.New("route " + w.engines.routes.Routes[0].String() + ": no way"))
		}, "no way"},
		{"socket", "sockets", func(*world, string) error {
			return errors.Join(errors.New("udp: listen " + address1 + ":500: taken"))
		}, "taken"},
		{"ike", "ike", func(_ *world, id string) error {
			return errors.Join(errors.New(`connection "` + id + `": policy refused`))
		}, "policy refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				gateway, customer := w.gateway(), w.customer("198.51.100.7")
				bad := w.connection(gateway, eip1, customer)
				good := w.connection(gateway, eip2, w.customer("198.51.100.8"), func(c *control.ConnectionCreate) {
					c.PeerSubnets = []string{"192.168.8.0/24"}
				})
				// The bad one is first in the lists of the fake.
				fault := tc.fault(w, bad)
				if tc.call == "devices" || tc.call == "routes" {
					bad, good = w.ownerOf(fault), w.other(w.ownerOf(fault), bad, good)
				}
				w.engines.fail(tc.call, fault)
				time.Sleep(fullPass)
				w.settle()
				w.wantState(bad, control.ConnectionError, tc.words)
				w.wantState(good, control.ConnectionDown)
				if w.r.Stats().Failures == 0 {
					t.Error("no failure was counted")
				}
				w.engines.fail(tc.call, nil)
				time.Sleep(retryMax)
				w.settle()
				w.wantState(bad, control.ConnectionDown, "negotiating")
			})
		})
	}
}

// ownerOf returns the connection whose device or route an error names.
func (w *world) ownerOf(fault error) string {
	w.Helper()
	for id := range w.engines.connections {
		tn := w.r.tunnels[id]
		if strings.Contains(fault.Error(), tn.device.Name) {
			return id
		}
		s := w.r.routing.state([]*tunnel{tn}, func(string) carriage { return idle })
		for object := range s.owners {
			if strings.HasPrefix(fault.Error(), object+": ") {
				return id
			}
		}
	}
	w.Fatalf("nobody owns %v", fault)
	return ""
}

func (w *world) other(than, a, b string) string {
	if than == a {
		return b
	}
	return a
}

func TestAddressElsewhere(t *testing.T) {
	inWorld(t, func(w *world) {
		// The second address is that of another node.
		delete(w.engines.host, netip.MustParseAddr(address2))
		gateway := w.gateway()
		w.wantGateway(gateway, control.GatewayActive, "address 2", address2, "not on this node")
		id := w.connection(gateway, eip2, w.customer("198.51.100.7"))
		w.wantState(id, control.ConnectionError, "vgw_ip", address2)
		// It moves here.
		w.engines.mu.Lock()
		w.engines.host[netip.MustParseAddr(address2)] = true
		w.engines.mu.Unlock()
		time.Sleep(retryMax)
		w.settle()
		w.wantState(id, control.ConnectionDown)
		w.wantGateway(gateway, control.GatewayActive)
	})
}

func TestGatewayWithoutAddressIsFaulty(t *testing.T) {
	inWorld(t, func(w *world) {
		clear(w.engines.host)
		gateway := w.gateway()
		w.wantGateway(gateway, control.GatewayFault, address1, address2)
		w.engines.mu.Lock()
		w.engines.host[netip.MustParseAddr(address1)] = true
		w.engines.mu.Unlock()
		time.Sleep(retryMax)
		w.settle()
		w.wantGateway(gateway, control.GatewayActive, address2)
	})
}

func TestRestart(t *testing.T) {
	inWorld(t, func(w *world) {
		id := w.connection(w.gateway(), eip1, w.customer("198.51.100.7"))
		w.engines.up(id)
		w.settle()
		before := w.engines.connections[id]
		routes := w.engines.routes
		w.engines.down(id, sa.Event{Kind: sa.IKEDown, Reason: sa.ReasonConfigModify})
		w.stop()
		if len(w.engines.devices)+len(w.engines.addresses)+len(w.engines.routes.Routes)+len(w.engines.routes.Rules) != 0 {
			t.Errorf("the node is left with %v, %v, %+v", w.engines.devices, w.engines.addresses, w.engines.routes)
		}

		w.start()
		w.wantState(id, control.ConnectionDown)
		after := w.engines.connections[id]
		if after.Children[0].ReqID != before.Children[0].ReqID || after.Children[0].IfID != before.Children[0].IfID {
			t.Errorf("numbers changed from %+v to %+v", before.Children[0], after.Children[0])
		}
		if len(w.engines.routes.Routes) != len(routes.Routes) || w.engines.routes.Rules[0] != routes.Rules[0] {
			t.Errorf("routes changed from %+v to %+v", routes, w.engines.routes)
		}
		if lines := w.log(id); len(lines) != 3 || !strings.Contains(lines[0].Message, "OfflineReason=[config modify or manual offline]") {
			t.Errorf("log after the restart is %v", lines)
		}
		w.engines.up(id)
		time.Sleep(storeDelay)
		w.settle()
		if lines := w.log(id); len(lines) != 5 {
			t.Errorf("log is %v", lines)
		}
	})
}

func TestStoppedNodeIsUnknown(t *testing.T) {
	inWorld(t, func(w *world) {
		id := w.connection(w.gateway(), eip1, w.customer("198.51.100.7"))
		w.engines.up(id)
		w.settle()
		w.stop()
		w.open()
		w.wantState(id, control.ConnectionUnknown, "the node that serves it is stopped")
		if err := w.db.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestFailover(t *testing.T) {
	for _, mode := range []string{"active-active", "active-standby"} {
		t.Run(mode, func(t *testing.T) {
			inWorld(t, func(w *world) {
				gateway := w.gateway(func(g *control.GatewayCreate) { g.HAMode = &mode })
				customer := w.customer("198.51.100.7")
				master := w.connection(gateway, eip1, customer)
				slave := w.connection(gateway, eip2, customer, func(c *control.ConnectionCreate) {
					if mode == "active-standby" {
						c.HARole = ptr("slave")
					}
				})
				both := 2
				if mode == "active-standby" {
					both = 1
				}
				hops := func() []route.NextHop {
					for _, r := range w.engines.routes.Routes {
						if r.Type == route.Unicast {
							return r.NextHops
						}
					}
					return nil
				}
				if n := len(hops()); n != both {
					t.Errorf("while both are down there are %d next hops, want %d", n, both)
				}
				w.engines.up(slave)
				w.settle()
				if h := hops(); len(h) != 1 || h[0].Link != w.r.tunnels[slave].device.Name {
					t.Errorf("while the second is up alone, next hops are %v", h)
				}
				w.engines.up(master)
				w.settle()
				if h := hops(); len(h) != both {
					t.Errorf("while both are up, next hops are %v", h)
				}
				w.engines.changes()
				w.engines.down(slave, sa.Event{Kind: sa.IKEDown, Reason: sa.ReasonDPDTimeout})
				w.settle()
				if h := hops(); len(h) != 1 || h[0].Link != w.r.tunnels[master].device.Name {
					t.Errorf("while the first is up alone, next hops are %v", h)
				}
				if mode == "active-standby" {
					w.wantChanges() // the standby carried nothing
				} else {
					w.wantChanges("routes")
				}
			})
		})
	}
}

func TestClashOfGateways(t *testing.T) {
	inWorld(t, func(w *world) {
		first := w.gateway()
		a := w.connection(first, eip1, w.customer("198.51.100.7"))
		w.engines.mu.Lock()
		w.engines.host[netip.MustParseAddr("203.0.113.3")] = true
		w.engines.mu.Unlock()
		second := w.gateway(func(g *control.GatewayCreate) {
			g.EIP1, g.EIP2 = &control.EIPRequest{ID: ptr(eip3)}, &control.EIPRequest{ID: ptr(eip4)}
		})
		b := w.connection(second, eip3, w.customer("198.51.100.9"))
		w.wantState(a, control.ConnectionDown)
		w.wantState(b, control.ConnectionError, "traffic from 10.10.0.0/24 to 192.168.0.0/24 belongs to gateway "+first)
	})
}

func TestManyAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway := w.gateway()
		var ids []string
		for i := range 20 {
			ids = append(ids, w.connection(gateway, eip1, w.customer(fmt.Sprintf("198.51.100.%d", i+1)), func(c *control.ConnectionCreate) {
				c.PeerSubnets = []string{fmt.Sprintf("192.168.%d.0/24", i)}
			}))
		}
		for _, id := range ids {
			w.engines.up(id)
		}
		w.settle()
		for _, id := range ids {
			w.wantState(id, control.ConnectionActive)
		}
		time.Sleep(2 * storeDelay)
		w.settle()
		for _, id := range ids {
			if lines := w.log(id); len(lines) != 2 {
				t.Errorf("log is %v", lines)
			}
		}
	})
}

func TestReasonOfTheEnd(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway := w.gateway()
		id := w.connection(gateway, eip1, w.customer("198.51.100.7"))
		w.engines.up(id)
		w.settle()
		w.engines.down(id, sa.Event{Kind: sa.IKEDown, Reason: sa.ReasonPeerRequest})
		w.settle()
		w.wantState(id, control.ConnectionDown, "peer request")
		// Another configuration has its own story.
		if _, err := w.service.UpdateConnection(w.ctx, project, id, control.ConnectionUpdate{PeerSubnets: []string{"192.168.7.0/24"}}); err != nil {
			t.Fatal(err)
		}
		w.settle()
		w.wantState(id, control.ConnectionDown, "negotiating")
	})
}

func TestRoutingTable(t *testing.T) {
	inWorld(t, func(w *world) {
		w.engines.mu.Lock()
		w.engines.host[netip.MustParseAddr("10.10.1.9")] = true
		w.engines.host[netip.MustParseAddr("10.10.1.8")] = true
		w.engines.mu.Unlock()
		gateway := w.gateway()
		first := w.connection(gateway, eip1, w.customer("198.51.100.7"))
		second := w.connection(gateway, eip2, w.customer("198.51.100.8"))
		local := []string{"10.10.0.0/24 via 10.10.0.4 to gateway", "10.10.1.0/24 via 10.10.1.8 to gateway"}
		var tunnels [2]string
		for i, id := range []string{first, second} {
			tunnels[i] = "192.168.0.0/24 via " + w.show(id).TunnelPeer.Addr().String() + " to connection"
		}
		want := func(routes ...string) {
			t.Helper()
			table, err := w.service.RoutingTable(w.ctx, project, gateway, control.RouteFilter{})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range table.Items {
				got = append(got, fmt.Sprintf("%s via %s to %s", r.Destination, r.NextHop, r.Kind))
			}
			if want := append(slices.Clone(local), routes...); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		want(tunnels[:]...) // as if both were up
		w.engines.up(first)
		w.settle()
		want(tunnels[0])
		w.engines.up(second)
		w.settle()
		want(tunnels[:]...)
		w.engines.fail("routes", errors.New("out of memory"))
		w.engines.down(first, sa.Event{Kind: sa.IKEDown})
		w.settle()
		want() // it is not known which are in force
		w.engines.fail("routes", nil)
		time.Sleep(retryMax)
		w.settle()
		want(tunnels[1])
	})
}

// A tunnel that waits for its peer to follow a change is in use, and says so.
func TestOutdatedTunnelSaysSo(t *testing.T) {
	inWorld(t, func(w *world) {
		id := w.connection(w.gateway(), eip1, w.customer("198.51.100.7"))
		w.settle()
		w.engines.up(id)
		w.settle()
		w.wantState(id, control.ConnectionActive)
		outdated := func(ike, child bool) {
			w.engines.mu.Lock()
			defer w.engines.mu.Unlock()
			status := w.engines.status[id]
			status.IKE[0].Outdated, status.Children[0].Outdated = ike, child
			w.engines.events <- sa.Event{Kind: sa.Failed, Connection: id, Established: true, Diagnosis: &sa.Diagnosis{
				Reason: sa.ReasonAuthentication, Parameter: "pre-shared key", Detail: "the keys differ",
			}}
		}
		for _, which := range [][2]bool{{true, false}, {false, true}} {
			outdated(which[0], which[1])
			w.settle()
			w.wantState(id, control.ConnectionActive, "before the last change", "pre-shared key")
		}
		outdated(false, false)
		w.settle()
		if m := w.show(id).Status.Message; m != "" {
			t.Errorf("message %q", m)
		}
	})
}

// A pre-shared key that can be found by trying is told of.
func TestShortPSKIsTold(t *testing.T) {
	inWorld(t, func(w *world) {
		id := w.connection(w.gateway(), eip1, w.customer("198.51.100.7"))
		for key, short := range map[string]bool{"Short-key-of-15": true, "Long-key-of-16-x": false} {
			w.update(id, control.ConnectionUpdate{PSK: ptr(control.NewSecret(key))})
			w.engines.up(id)
			w.settle()
			if got := strings.Contains(w.show(id).Status.Message, "the pre-shared key has fewer than 16 characters"); got != short {
				t.Errorf("%s: %q", key, w.show(id).Status.Message)
			}
		}
	})
}
