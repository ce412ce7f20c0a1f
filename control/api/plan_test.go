package api

import (
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/control"
)

// TestEveryFieldHasADisruption: what the document lets a user change is in
// control.Edits, and nothing else is.
func TestEveryFieldHasADisruption(t *testing.T) {
	fields := map[string]bool{}
	for object, bodies := range map[string][]any{
		control.EditConnection:      {UpdateVpnConnection{}},
		control.EditGateway:         {UpdateVgw{}, UpdateVgwSpecificationRequestBody{}.VpnGateway},
		control.EditCustomerGateway: {UpdateCgw{}},
	} {
		for _, body := range bodies {
			for _, field := range members(reflect.TypeOf(body)) {
				fields[object+"."+field] = true
			}
		}
	}
	known := map[string]bool{}
	for _, e := range control.Edits {
		known[e.Object+"."+e.Field] = true
		if !slices.Contains(control.Disruptions, e.Disruption) {
			t.Errorf("%s: %q is no disruption", e.Field, e.Disruption)
		}
	}
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		if !known[field] {
			t.Errorf("control.Edits does not say what a change of %s does to tunnels", field)
		}
		delete(known, field)
	}
	for field := range known {
		t.Errorf("control.Edits has %s, which cannot be changed", field)
	}
}

// members returns the dotted names of all members of a body. A certificate is one.
func members(t reflect.Type) (all []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() != reflect.Struct || inner == reflect.TypeFor[CaCertificateRequest]() {
			all = append(all, name)
			continue
		}
		for _, below := range members(inner) {
			all = append(all, name+"."+below)
		}
	}
	return all
}

func TestPlan(t *testing.T) {
	b := newBench(t)
	connection, gateway, _ := b.createConnection()
	plan := func(status int, body object) *answer {
		t.Helper()
		return b.as("admin", http.MethodPost, path("vpn-connection", connection, "plan"), body).want(status)
	}
	changes := func(a *answer) (list []string) {
		t.Helper()
		for _, c := range a.at("plan", "changes").([]any) {
			change := c.(map[string]any)
			list = append(list, change["field"].(string)+" "+change["disruption"].(string))
		}
		return append(list, a.text("plan", "disruption"))
	}
	want := func(a *answer, list ...string) {
		t.Helper()
		if got := changes(a); !slices.Equal(got, list) {
			t.Errorf("got %q, want %q", got, list)
		}
	}
	before := b.as("admin", http.MethodGet, path("vpn-connection", connection), nil).want(http.StatusOK).text("vpn_connection", "updated_at")
	b.engines.children = map[string][]control.ChildSA{connection: nil}
	edit := object{
		"vpn_connection": object{"name": "another", "psk": testPSK, "ikepolicy": object{"dh_group": "group20", "dpd": object{"interval": 77}}},
		"vpn_gateway":    object{"name": "other", "local_subnets": []string{"10.10.0.0/25"}},
	}
	want(plan(http.StatusOK, edit), "vpn_connection.name nothing", "vpn_connection.ikepolicy.dh_group make_before_break",
		"vpn_connection.ikepolicy.dpd.interval nothing", "vpn_gateway.name nothing", "vpn_gateway.local_subnets nothing", "nothing")
	b.engines.disruptions = map[string]control.Disruption{connection: control.DisruptAll}
	if got := changes(plan(http.StatusOK, edit)); got[len(got)-1] != "drop" {
		t.Errorf("an established tunnel: %q", got)
	}
	want(plan(http.StatusOK, vpn(object{"psk": testPSK + "x"})), "vpn_connection.psk make_before_break", "drop")
	want(plan(http.StatusOK, object{"customer_gateway": object{"name": "router"}}), "customer_gateway.name nothing", "drop")
	want(plan(http.StatusOK, object{}), "drop")
	if a := plan(http.StatusBadRequest, vpn(object{"tunnel_local_address": "1.2.3.4/24"})); !strings.Contains(a.text("error_msg"), "vpn_connection") {
		t.Errorf("refused with %s", a.text("error_msg"))
	}
	plan(http.StatusBadRequest, object{"vpn_gateway": object{"policy_template": object{}}})
	after := b.as("admin", http.MethodGet, path("vpn-connection", connection), nil).want(http.StatusOK)
	if after.text("vpn_connection", "updated_at") != before {
		t.Error("the connection was changed")
	}
	if name := b.as("admin", http.MethodGet, path("vpn-gateways", gateway), nil).want(http.StatusOK).text("vpn_gateway", "name"); name == "other" {
		t.Error("the gateway was changed")
	}
	b.as("readonly", http.MethodPost, path("vpn-connection", connection, "plan"), edit).want(http.StatusForbidden)
}
