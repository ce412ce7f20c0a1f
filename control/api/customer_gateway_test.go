package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestCustomerGatewayFromCreationToDeletion(t *testing.T) {
	b := newBench(t)
	created := b.call(http.MethodPost, path("customer-gateways"), cgw(object{
		"name": "branch", "id_value": "198.51.100.7", "bgp_asn": 65000, "tags": []object{{"key": "site", "value": "7"}},
	})).want(http.StatusCreated)
	id := created.text("customer_gateway", "id")
	wantMembers(t, created.at("customer_gateway"), object{
		"name": "branch", "id_type": "ip", "id_value": "198.51.100.7", "bgp_asn": 65000,
		"tags": []object{{"key": "site", "value": "7"}},
	})
	wantAbsent(t, created.at("customer_gateway"), "ca_certificate", "status")
	for _, member := range []string{"created_at", "updated_at"} {
		if v := created.text("customer_gateway", member); !timeFormat.MatchString(v) {
			t.Errorf("%s is %q", member, v)
		}
	}
	shown := b.call(http.MethodGet, path("customer-gateways", id), nil).want(http.StatusOK)
	if encoded(t, shown.at("customer_gateway")) != encoded(t, created.at("customer_gateway")) {
		t.Errorf("show differs from create: %s", shown.Text)
	}
	changed := b.call(http.MethodPut, path("customer-gateways", id), cgw(object{"name": "new"})).want(http.StatusOK)
	wantMembers(t, changed.at("customer_gateway"), object{"name": "new", "bgp_asn": 65000})
	b.call(http.MethodDelete, path("customer-gateways", id), nil).want(http.StatusNoContent)
	b.call(http.MethodGet, path("customer-gateways", id), nil).wantError(http.StatusNotFound, "VPN.0004", "resource not found")
	b.call(http.MethodPut, path("customer-gateways", id), cgw(object{"name": "new"})).wantError(http.StatusNotFound, "VPN.0004", "")
	b.call(http.MethodDelete, path("customer-gateways", id), nil).wantError(http.StatusNotFound, "VPN.0004", "")
}

func TestCustomerGatewayForms(t *testing.T) {
	b := newBench(t)
	for _, test := range []struct {
		name       string
		send, want object
	}{
		{"name", object{"id_type": "fqdn", "id_value": "Branch.example"}, object{"id_type": "fqdn", "id_value": "Branch.example"}},
		{"legacy address", object{"ip": "198.51.100.9", "route_mode": "bgp"}, object{"id_type": "ip", "id_value": "198.51.100.9"}},
		{"legacy beside value", object{"ip": "198.51.100.9", "id_value": "198.51.100.10"}, object{"id_value": "198.51.100.10"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			a := b.call(http.MethodPost, path("customer-gateways"), cgw(test.send)).want(http.StatusCreated)
			wantMembers(t, a.at("customer_gateway"), test.want)
			wantAbsent(t, a.at("customer_gateway"), "bgp_asn", "ip", "route_mode")
		})
	}
}

func TestCustomerGatewayRefusals(t *testing.T) {
	b := newBench(t)
	for _, test := range []struct {
		name    string
		send    object
		message string
	}{
		{"no value", object{}, "id_value"},
		{"no address", object{"id_value": "branch"}, "id_value"},
		{"unusable address", object{"id_value": "0.0.0.0"}, "id_value"},
		{"long value", object{"id_type": "fqdn", "id_value": strings.Repeat("a", 129)}, "id_value: must have 1 to 128 characters"},
		{"forbidden character", object{"id_type": "fqdn", "id_value": "a?b"}, "id_value"},
		{"other type", object{"id_type": "dn", "id_value": "a"}, "id_type: must be one of ip, fqdn"},
		{"ASN with a name", object{"id_type": "fqdn", "id_value": "a", "bgp_asn": 1}, "bgp_asn"},
		{"ASN above", object{"id_value": "198.51.100.7", "bgp_asn": 4294967296}, "bgp_asn: must be from 1 to 4294967295"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			b.call(http.MethodPost, path("customer-gateways"), cgw(test.send)).
				wantError(http.StatusBadRequest, "VPN.0001", "invalid request: "+test.message)
		})
	}
}

func TestCustomerGatewayInUseStays(t *testing.T) {
	b := newBench(t)
	_, _, id := b.createConnection()
	b.call(http.MethodDelete, path("customer-gateways", id), nil).
		wantError(http.StatusBadRequest, "VPN.0001", "invalid request: customer gateway "+id+" has connection")
}

func TestCustomerGatewayPages(t *testing.T) {
	b := newBench(t)
	var newestFirst []string
	for i := range 5 {
		newestFirst = append([]string{b.createCustomerGateway(fmt.Sprintf("198.51.100.%d", i+1))}, newestFirst...)
	}
	var seen []string
	marker := ""
	for range 10 {
		page := b.call(http.MethodGet, path("customer-gateways?limit=2&marker="+marker), nil).want(http.StatusOK)
		items := page.list("customer_gateways")
		wantMembers(t, page.at("page_info"), object{"current_count": len(items)})
		wantMembers(t, page.body, object{"total_count": 5})
		if len(items) == 0 {
			wantAbsent(t, page.at("page_info"), "next_marker")
			break
		}
		for _, item := range items {
			seen = append(seen, item.(object)["id"].(string))
		}
		marker = page.text("page_info", "next_marker")
	}
	if encoded(t, seen) != encoded(t, newestFirst) {
		t.Errorf("pages have %v, want %v", seen, newestFirst)
	}
	for query, want := range map[string]int{"": 5, "limit=0": 0, "limit=200": 5, "limit=3": 3, "cgw_id=" + seen[2]: 1, "cgw_id=x": 0} {
		if l := b.call(http.MethodGet, path("customer-gateways?"+query), nil).want(http.StatusOK).list("customer_gateways"); len(l) != want {
			t.Errorf("%q: got %d, want %d", query, len(l), want)
		}
	}
	for query, message := range map[string]string{
		"limit=201":        "query parameter limit: must be from 0 to 200",
		"limit=-1":         "query parameter limit: must be from 0 to 200",
		"limit=many":       "query parameter limit: cannot be read as integer",
		"limit=":           "query parameter limit: must not be empty",
		"limit=2&marker=x": "marker",
	} {
		b.call(http.MethodGet, path("customer-gateways?"+query), nil).wantError(http.StatusBadRequest, "VPN.0001", message)
	}
}
