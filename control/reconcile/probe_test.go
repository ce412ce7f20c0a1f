package reconcile

import (
	"slices"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/nqa"
	"github.com/vpngw/vpngw/dataplane/route"
	"github.com/vpngw/vpngw/ike/sa"
)

func nqaOn(c *control.ConnectionCreate) { c.EnableNQA = ptr(true) }

// links returns the devices that the gateway's flow goes over, by connection.
func (w *world) links(ids ...string) []string {
	w.Helper()
	table, err := w.service.ShowConnection(w.ctx, project, ids[0])
	if err != nil {
		w.Fatal(err)
	}
	routes, err := w.service.RoutingTable(w.ctx, project, table.GatewayID, control.RouteFilter{})
	if err != nil {
		w.Fatal(err)
	}
	links := []string{}
	for _, r := range routes.Items {
		if i := slices.Index(ids, r.ID); i >= 0 {
			links = append(links, []string{"first", "second"}[i])
		}
	}
	slices.Sort(links)
	return slices.Compact(links)
}

func TestNQAWithdrawsRoutes(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway := w.gateway()
		first := w.connection(gateway, eip1, w.customer("198.51.100.7"), nqaOn)
		second := w.connection(gateway, eip2, w.customer("198.51.100.8"), nqaOn)
		want := func(links ...string) {
			t.Helper()
			w.settle()
			if got := w.links(first, second); !slices.Equal(got, links) {
				t.Errorf("traffic goes over %q, want %q", got, links)
			}
		}
		probe := func(id string) string { return targetID(ProbeNQA, id) }
		want("first", "second") // as if both were up
		if got := w.engines.prober.probed(); len(got) != 0 {
			t.Errorf("probed without a tunnel: %q", got)
		}
		w.engines.up(first)
		want("second") // the first has not answered; the second is idle
		view, tn := w.show(first), w.r.tunnels[first]
		if got, target := w.engines.prober.probed(), "nqa "+view.TunnelLocal.Addr().String()+" to "+view.TunnelPeer.Addr().String()+" by "+tn.device.Name; !slices.Equal(got, []string{target}) {
			t.Errorf("probed %q, want %q", got, target)
		}
		w.wantState(first, control.ConnectionActive, "probes", view.TunnelPeer.Addr().String())
		w.engines.prober.say(probe(first), nqa.Reachable)
		want("first")
		w.wantState(first, control.ConnectionActive)
		if m := w.show(first).Status.Message; m != "" {
			t.Errorf("message %q", m)
		}
		w.engines.up(second)
		w.settle()
		w.engines.prober.say(probe(second), nqa.Reachable)
		want("first", "second")

		w.engines.prober.say(probe(first), nqa.Unreachable)
		want("second")
		w.engines.prober.say(probe(second), nqa.Unreachable)
		want() // nothing gets through
		if !slices.ContainsFunc(w.engines.routes.Routes, func(r route.Route) bool { return r.Type == route.Blackhole }) {
			t.Error("the blackhole is gone")
		}
		w.engines.prober.say(probe(first), nqa.Reachable)
		want("first")
		w.settle()
		log := w.log(first)
		if len(log) == 0 || !strings.Contains(log[0].Message, "The NQA test succeeds.") || !strings.Contains(log[1].Message, "The NQA test fails.") {
			t.Errorf("log %v", log)
		}

		// Without the option, the SAs alone decide.
		_, err := w.service.UpdateConnection(w.ctx, project, second, control.ConnectionUpdate{EnableNQA: ptr(false)})
		if err != nil {
			t.Fatal(err)
		}
		want("first", "second")
		w.engines.down(first, sa.Event{Kind: sa.IKEDown})
		want("second")
		if got := w.engines.prober.probed(); len(got) != 0 {
			t.Errorf("probed: %q", got)
		}

		// One that carries when the option is set goes on to, until its peer is known
		// not to answer.
		if _, err := w.service.UpdateConnection(w.ctx, project, second, control.ConnectionUpdate{EnableNQA: ptr(true)}); err != nil {
			t.Fatal(err)
		}
		want("second")
		w.settle()
		want("second")
		if m := w.show(second).Status.Message; m != "" {
			t.Errorf("message %q", m)
		}
		w.engines.prober.say(probe(second), nqa.Unreachable)
		want("first") // which may come up again
	})
}

func TestMonitor(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway := w.gateway()
		first := w.connection(gateway, eip1, w.customer("198.51.100.7"), func(c *control.ConnectionCreate) { c.EnableHealthCheck = true })
		second := w.connection(gateway, eip2, w.customer("branch.example"))
		want := func(targets ...string) {
			t.Helper()
			w.settle()
			if got := w.engines.prober.probed(); !slices.Equal(slices.Sorted(slices.Values(got)), targets) {
				t.Errorf("probed %q, want %q", got, targets)
			}
		}
		outside := "monitor " + address1 + " to 198.51.100.7 by "
		want(outside) // also while the tunnel is down
		show := func(connection string) control.MonitorView {
			t.Helper()
			v, err := w.service.ShowMonitor(w.ctx, project, w.show(connection).MonitorID)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		if v := show(first); v.State != control.MonitorActive || v.Source.String() != address1 || v.Destination.String() != "198.51.100.7" {
			t.Errorf("monitor %+v", v)
		}

		// A peer that is known by name is probed once it has come.
		if _, err := w.service.CreateMonitor(w.ctx, project, second); err != nil {
			t.Fatal(err)
		}
		want(outside)
		if v := show(second); v.State != control.MonitorActive || v.Destination.IsValid() {
			t.Errorf("monitor %+v", v)
		}
		w.engines.mu.Lock()
		status := w.engines.status[second]
		status.IKE = []sa.IKEStatus{{State: sa.Established, Remote: addrPort("192.0.2.77:4500")}}
		w.engines.status[second] = status
		w.engines.mu.Unlock()
		w.engines.events <- sa.Event{Kind: sa.IKEUp, Connection: second}
		want(outside, "monitor "+address2+" to 192.0.2.77 by ")
		if v := show(second); v.Destination.String() != "192.0.2.77" {
			t.Errorf("monitor %+v", v)
		}
		w.wantState(second, control.ConnectionDown) // a monitor decides nothing

		if err := w.service.DeleteMonitor(w.ctx, project, show(second).ID); err != nil {
			t.Fatal(err)
		}
		want(outside)
		if id := w.show(second).MonitorID; id != "" {
			t.Errorf("the connection still has monitor %s", id)
		}
		if err := w.service.DeleteConnection(w.ctx, project, first); err != nil {
			t.Fatal(err)
		}
		want()
		w.settle()
		w.settle()
		if list, err := w.service.ListMonitors(w.ctx, project, control.MonitorFilter{}); err != nil || len(list) != 0 {
			t.Errorf("monitors %+v, %v", list, err)
		}
	})
}
