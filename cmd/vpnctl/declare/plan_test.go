package declare

import (
	"reflect"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/cmd/vpnctl/client/clienttest"
)

// TestPlan follows a project from nothing through edits to its end: each plan tells
// what the next apply does, and none changes anything.
func TestPlan(t *testing.T) {
	server := clienttest.New(t)
	a := &Applier{Client: server.Client(t)}
	plan := func(a *Applier, text string) *Plan {
		t.Helper()
		p, err := a.Plan(t.Context(), parse(t, text))
		if err != nil {
			t.Fatal(err)
		}
		if calls := server.Calls(); len(calls) != 0 {
			t.Errorf("the plan made calls: %q", calls)
		}
		return p
	}
	expectPlan := func(what string, have *Plan, objects []PlannedObject, tunnels ...PlannedTunnel) {
		t.Helper()
		if objects == nil {
			objects = []PlannedObject{}
		}
		if tunnels == nil {
			tunnels = []PlannedTunnel{}
		}
		if want := (Plan{Objects: objects, Tunnels: tunnels}); !reflect.DeepEqual(*have, want) {
			t.Errorf("%s:\nhave %+v\nwant %+v", what, *have, want)
		}
	}

	p := plan(a, wanted)
	expectPlan("of nothing", p,
		[]PlannedObject{{Kind: "gateway", Name: "gw", Action: Created}, {Kind: "customer-gateway", Name: "office", Action: Created}},
		PlannedTunnel{Name: "office-1", Action: Created, Disruption: "nothing"})
	if p.Empty() {
		t.Error("the plan is empty")
	}
	if _, err := apply(t, a, wanted); err != nil {
		t.Fatal(err)
	}
	server.Calls()

	tunnel := PlannedTunnel{Name: "office-1", ID: "v3", Action: Unchanged, Disruption: "nothing", Established: true}
	p = plan(a, wanted)
	expectPlan("of the same", p, nil, tunnel)
	if !p.Empty() {
		t.Error("the plan is not empty")
	}

	edited := strings.NewReplacer("group19", "group20", "local_subnets: [10.10.0.0/24]", "local_subnets: [10.10.0.0/25]").Replace(wanted)
	changed := tunnel
	changed.Action, changed.Disruption = Updated, "drop"
	changed.Changes = []PlannedChange{
		{Field: "vpn_connection.ikepolicy.dh_group", Disruption: "drop", Have: "group19", Want: "group20"},
		{Field: "vpn_connection.ikepolicy.dpd", Disruption: "drop"},
		{Field: "vpn_gateway.local_subnets", Disruption: "nothing", Have: "[10.10.0.0/24]", Want: "[10.10.0.0/25]"},
	}
	gateway := []PlannedObject{{Kind: "gateway", Name: "gw", Action: Updated, Fields: []string{"local_subnets [10.10.0.0/24] → [10.10.0.0/25]"}}}
	expectPlan("of edits", plan(a, edited), gateway, changed)

	// A tunnel that the file does not name is told of when its gateway changes, or when
	// it is to go.
	without, _, _ := strings.Cut(edited, "---")
	told := tunnel
	told.Changes = changed.Changes[2:]
	expectPlan("of the gateway alone", plan(a, without), gateway, told)
	gone := tunnel
	gone.Action, gone.Disruption = Deleted, "drop"
	expectPlan("with --prune", plan(&Applier{Client: a.Client, Prune: true}, without), gateway, gone)
	expectPlan("of nothing with --prune", plan(&Applier{Client: a.Client, Prune: true}, "gateways: []"),
		[]PlannedObject{{Kind: "gateway", Name: "gw", Action: Deleted}, {Kind: "customer-gateway", Name: "office", Action: Deleted}}, gone)

	// A key is never shown.
	resent := tunnel
	resent.Action, resent.Disruption, resent.Changes = Updated, "drop", []PlannedChange{{Field: "vpn_connection.psk", Disruption: "drop"}}
	expectPlan("with --resend-psk", plan(&Applier{Client: a.Client, ResendPSK: true}, wanted), nil, resent)

	// Nothing can be asked of a customer gateway that is not there yet.
	moved := strings.NewReplacer("customer_gateway: office", "customer_gateway: branch", "name: office\n", "name: branch\n").Replace(wanted)
	p = plan(a, moved)
	if len(p.Tunnels) != 1 || p.Tunnels[0].Disruption != "drop" || p.Tunnels[0].Changes[0].Want != "branch (new)" {
		t.Errorf("to a new customer gateway: %+v", p)
	}
	if _, err := a.Plan(t.Context(), parse(t, strings.Replace(wanted, "style: static", "style: policy", 1))); err == nil || !strings.Contains(err.Error(), "cannot be changed") {
		t.Errorf("a change that cannot be made: %v", err)
	}
}
