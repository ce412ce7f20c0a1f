package declare

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/client/clienttest"
)

const psk = "Secret-psk-0123456789"

const wanted = `
gateways:
  - name: gw
    vpc_id: v
    connect_subnet: s
    local_subnets: [10.10.0.0/24]
    eip1: {id: e1}
    eip2: {id: e2}
customer_gateways:
  - name: office
    id_value: 198.51.100.10
---
connections:
  - name: office-1
    gateway: gw
    customer_gateway: office
    vgw_ip: e1
    style: static
    peer_subnets: [192.168.10.0/24]
    psk: ` + psk + `
    ikepolicy: {dh_group: group19, dpd: {interval: 10}}
`

func parse(t *testing.T, text string) *File {
	t.Helper()
	f, err := Parse(strings.NewReader(text), func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// apply applies a file and returns the lines that tell of it.
func apply(t *testing.T, a *Applier, text string) ([]string, error) {
	t.Helper()
	var lines []string
	a.Every = time.Millisecond
	a.Report = func(c Change) {
		line := string(c.Action) + " " + c.Kind.Name + " " + c.Name
		for _, d := range c.Fields {
			line += " " + d.String()
		}
		lines = append(lines, line)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := a.Apply(ctx, parse(t, text))
	return lines, err
}

func expect(t *testing.T, what string, have []string, want ...string) {
	t.Helper()
	if len(have) != len(want) || len(have) > 0 && !reflect.DeepEqual(have, want) {
		t.Errorf("%s:\nhave %s\nwant %s", what, strings.Join(have, "\n     "), strings.Join(want, "\n     "))
	}
}

func TestApply(t *testing.T) {
	server := clienttest.New(t)
	a := &Applier{Client: server.Client(t)}

	lines, err := apply(t, a, wanted)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "first", lines, "created gateway gw", "created customer-gateway office", "created connection office-1")
	expect(t, "calls of the first", server.Calls(),
		`POST vpn-gateways {"connect_subnet":"s","eip1":{"id":"e1"},"eip2":{"id":"e2"},"local_subnets":["10.10.0.0/24"],"name":"gw","vpc_id":"v"}`,
		`POST customer-gateways {"id_value":"198.51.100.10","name":"office"}`,
		`POST vpn-connection {"cgw_id":"c2","ikepolicy":{"dh_group":"group19","dpd":{"interval":10}},"name":"office-1","peer_subnets":["192.168.10.0/24"],"psk":"`+psk+`","style":"static","vgw_id":"v1","vgw_ip":"e1"}`)

	lines, err = apply(t, a, wanted)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "again", lines, "unchanged gateway gw", "unchanged customer-gateway office", "unchanged connection office-1")
	expect(t, "calls of the second", server.Calls())

	edited := strings.NewReplacer("interval: 10", "interval: 20, timeout: 5", "192.168.10.0/24", "192.168.10.0/24, 192.168.11.0/24").Replace(wanted)
	lines, err = apply(t, a, edited)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "edited", lines, "unchanged gateway gw", "unchanged customer-gateway office",
		"updated connection office-1 ikepolicy.dpd.interval 10 → 20 ikepolicy.dpd.timeout (none) → 5 peer_subnets [192.168.10.0/24] → [192.168.10.0/24 192.168.11.0/24]")
	expect(t, "calls of the edit", server.Calls(),
		`PUT vpn-connection/v3 {"ikepolicy":{"dh_group":"group19","dpd":{"interval":20,"timeout":5}},"peer_subnets":["192.168.10.0/24","192.168.11.0/24"]}`)

	a.ResendPSK = true
	lines, err = apply(t, a, edited)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "psk again", lines, "unchanged gateway gw", "unchanged customer-gateway office", "updated connection office-1 psk")
	expect(t, "calls of the psk", server.Calls(), `PUT vpn-connection/v3 {"psk":"`+psk+`"}`)
	if strings.Contains(strings.Join(lines, ""), psk) {
		t.Error("the report holds the pre-shared key")
	}
}

func TestApplyNamesWhatCannotChange(t *testing.T) {
	server := clienttest.New(t)
	a := &Applier{Client: server.Client(t)}
	if _, err := apply(t, a, wanted); err != nil {
		t.Fatal(err)
	}
	server.Calls()
	for field, edit := range map[string][2]string{
		"eip1.id":  {"eip1: {id: e1}", "eip1: {id: e9}"},
		"id_value": {"id_value: 198.51.100.10", "id_value: 198.51.100.11"},
		"style":    {"style: static", "style: policy"},
		"vgw_ip":   {"vgw_ip: e1", "vgw_ip: e2"},
	} {
		_, err := apply(t, a, strings.Replace(wanted, edit[0], edit[1], 1))
		if err == nil || !strings.Contains(err.Error(), field+": is") {
			t.Errorf("%s: %v", field, err)
		}
	}
	expect(t, "calls", server.Calls())
}

func TestApplyFailsOnAnUnknownReference(t *testing.T) {
	a := &Applier{Client: clienttest.New(t).Client(t)}
	_, err := apply(t, a, strings.Replace(wanted, "customer_gateway: office", "customer_gateway: bureau", 1))
	if err == nil || !strings.Contains(err.Error(), `connection office-1: customer_gateway:`) || !strings.Contains(err.Error(), `"bureau"`) {
		t.Errorf("have %v", err)
	}
}

func TestPruneAndDelete(t *testing.T) {
	server := clienttest.New(t)
	a := &Applier{Client: server.Client(t)}
	if _, err := apply(t, a, wanted); err != nil {
		t.Fatal(err)
	}
	server.Calls()
	gateway, _, _ := strings.Cut(wanted, "customer_gateways:")
	a.Prune = true
	lines, err := apply(t, a, gateway)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "prune", lines, "deleted connection office-1", "deleted customer-gateway office", "unchanged gateway gw")
	expect(t, "calls", server.Calls(), "DELETE vpn-connection/v3", "DELETE customer-gateways/c2")
	for range 2 { // what is gone is none of Delete's business
		if err := a.Delete(t.Context(), parse(t, wanted)); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "calls of the deletion", server.Calls(), "DELETE vpn-gateways/v1")
}

func TestApplyStopsAtARefusal(t *testing.T) {
	server := clienttest.New(t)
	server.Refuse = func(r *http.Request) *client.Error {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "vpn-connection") {
			return &client.Error{Status: 400, Code: "VPN.0001", Message: "invalid request: psk: is too weak"}
		}
		return nil
	}
	lines, err := apply(t, &Applier{Client: server.Client(t)}, wanted)
	var e *client.Error
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "connection office-1") || !strings.Contains(err.Error(), "psk: is too weak") {
		t.Errorf("have %v", err)
	}
	if strings.Contains(err.Error(), psk) {
		t.Error("the error holds the pre-shared key")
	}
	expect(t, "done before", lines, "created gateway gw", "created customer-gateway office")
}

func TestParseNamesTheMistake(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "psk")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const c = "connections:\n- {name: c, gateway: g, customer_gateway: o, "
	for name, test := range map[string]struct{ text, want string }{
		"unknown key":          {"gateways:\n- name: g\n  flavour: Basic\n", `[3:3] unknown field "flavour"`},
		"wrong type":           {"gateways:\n- name: g\n  bgp_asn: many\n", "[3:12]"},
		"no name":              {"gateways:\n- {vpc_id: v}\n", "gateways[0].name: is missing"},
		"name twice":           {"customer_gateways:\n- {name: o}\n- {name: o}\n", `customer_gateways[1].name: "o" occurs twice`},
		"no gateway":           {"connections:\n- {name: c, customer_gateway: o}\n", "connections[0].gateway: is missing"},
		"no customer gateway":  {"connections:\n- {name: c, gateway: g}\n", "connections[0].customer_gateway: is missing"},
		"two keys":             {c + "psk: a, psk_env: A}", "one of psk, psk_file and psk_env"},
		"no such variable":     {c + "psk_env: A}", "psk_env: the environment has no A"},
		"no such file":         {c + "psk_file: " + empty + ".none}", "psk_file: open"},
		"nothing in the file":  {c + "psk_file: " + empty + "}", "is empty"},
		"the key stays secret": {c + "psk: " + psk + ", psk_env: A}", "c: give one of"},
	} {
		_, err := Parse(strings.NewReader(test.text), func(string) string { return "" })
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: have %v, want %q", name, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), psk) {
			t.Errorf("%s: the error holds the pre-shared key", name)
		}
	}
}

func TestParseFindsTheKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "psk")
	if err := os.WriteFile(file, []byte(psk+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{"psk: " + psk, "psk_file: " + file, "psk_env: OFFICE"} {
		f, err := Parse(strings.NewReader("connections:\n- {name: c, gateway: g, customer_gateway: o, "+source+"}"),
			func(name string) string { return map[string]string{"OFFICE": psk}[name] })
		if err != nil || f.Connections[0].PSK != psk {
			t.Errorf("%s: %v", source, err)
		}
	}
}
