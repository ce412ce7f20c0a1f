package reconcile

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/dataplane/route"
)

// share is a fleet whose division a test sets.
type share struct {
	mu       sync.Mutex
	division *control.Division
	applied  *control.Division
	versions map[string]string // of the nodes
	steward  string            // empty: two
}

func (s *share) LeaseLeft(context.Context) (map[string]time.Duration, time.Duration, error) {
	return nil, 0, nil
}

func (s *share) Division() *control.Division {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.division
}

func (s *share) Applied(d *control.Division) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied = d
}

// divide gives the addresses of the gateway to a node, and the gateway itself.
func (s *share) divide(w *world, gateway, node string) {
	first, second := netip.MustParseAddr(address1), netip.MustParseAddr(address2)
	nodes := make(map[string]control.Node)
	for _, name := range []string{"one", "two"} {
		nodes[name] = control.Node{Name: name, Version: s.versions[name], Floating: []netip.Addr{first, second}}
	}
	d := &control.Division{
		Node: "one", Nodes: nodes, Steward: cmp.Or(s.steward, "two"), Owners: map[netip.Addr]string{}, Active: map[string]string{},
		Eligible: map[netip.Addr]bool{first: true, second: true},
	}
	if node != "" {
		d.Owners[first], d.Owners[second], d.Active[gateway] = node, node, node
	}
	s.mu.Lock()
	s.division = d
	s.mu.Unlock()
	w.r.DivisionChanged(true)
	w.settle()
}

// TestDivision takes a connection over and gives it up again. What is another
// node's is not reported of, and traffic for it does not leave in the clear.
func TestDivision(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway := w.gateway(func(g *control.GatewayCreate) { g.HAMode = ptr("active-standby") })
		w.stop()
		s := &share{division: &control.Division{Node: "one"}}
		w.share = s
		w.start()

		s.divide(w, gateway, "two")
		id := w.connection(gateway, eip1, w.customer("198.51.100.7"))
		if got := w.show(id).State; got != control.ConnectionPendingCreate {
			t.Errorf("another node's connection is %s: this one has reported of it", got)
		}
		if len(w.engines.connections) > 0 || len(w.engines.addresses) > 0 || len(w.engines.devices) > 0 {
			t.Errorf("the engines have what is another node's: %v, %v", w.engines.addresses, w.engines.devices)
		}
		blackholes := func() int {
			n := 0
			for _, r := range w.engines.routes.Routes {
				if r.Type == route.Blackhole && r.Dst == netip.MustParsePrefix("192.168.0.0/24") {
					n++
				}
			}
			return n
		}
		if blackholes() == 0 {
			t.Error("traffic of a connection that may come here could leave in the clear")
		}

		s.divide(w, gateway, "one")
		w.engines.up(id)
		w.settle()
		w.wantState(id, control.ConnectionActive)
		if view := w.show(id); view.Status.Node != "one" || len(view.Status.Routes) == 0 {
			t.Errorf("status %+v", view.Status)
		}

		// Lost, and the store cannot be asked: the engines must know all the same.
		if err := w.db.Close(); err != nil {
			t.Fatal(err)
		}
		s.divide(w, gateway, "")
		if len(w.engines.connections) > 0 {
			t.Error("the key exchange goes on with what is lost")
		}
		if slices.ContainsFunc(w.engines.routes.Routes, func(r route.Route) bool { return r.Type == route.Unicast }) || blackholes() == 0 {
			t.Errorf("routes after the loss: %v", w.engines.routes.Routes)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.applied != s.division {
			t.Error("the loss is not acknowledged")
		}
	})
}
