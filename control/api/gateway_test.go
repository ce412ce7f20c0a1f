package api

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/control"
)

var timeFormat = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`)

func TestGatewayFromCreationToDeletion(t *testing.T) {
	b := newBench(t)
	created := b.call(http.MethodPost, path("vpn-gateways"), vgw(smallestGateway())).want(http.StatusCreated)
	id := created.text("vpn_gateway", "id")
	wantMembers(t, created.at("vpn_gateway"), object{
		"network_type": "public", "attachment_type": "vpc", "ip_version": "ipv4", "bgp_asn": 64512,
		"flavor": "Professional1", "connection_number": 200, "used_connection_number": 0, "used_connection_group": 0,
		"enterprise_project_id": "0", "ha_mode": "active-active", "access_vpc_id": vpcID, "access_subnet_id": subnetID,
		"vpc_id": vpcID, "connect_subnet": subnetID, "local_subnets": []string{"192.168.0.0/24"}, "tags": []string{},
	})
	wantAbsent(t, created.at("vpn_gateway"), "status", "availability_zone_ids", "eip1", "eip2", "created_at", "updated_at",
		"applied_at", "local_subnets_v6", "er_id", "access_private_ip_1", "supported_flavors", "upgrade_info")
	if name := created.text("vpn_gateway", "name"); !regexp.MustCompile(`^vpngw-[0-9a-f]{4}$`).MatchString(name) {
		t.Errorf("generated name is %q", name)
	}

	pending := b.call(http.MethodGet, path("vpn-gateways", id), nil).want(http.StatusOK)
	wantMembers(t, pending.at("vpn_gateway"), object{"status": "PENDING_CREATE", "supported_features": []string{"query_connection_log"}})
	wantAbsent(t, pending.at("vpn_gateway"), "eip1", "eip2", "created_at", "updated_at", "applied_at")

	b.applied(id)
	active := b.call(http.MethodGet, path("vpn-gateways", id), nil).want(http.StatusOK)
	wantMembers(t, active.at("vpn_gateway"), object{"status": "ACTIVE"})
	wantMembers(t, active.at("vpn_gateway", "eip2"), object{
		"id": eip2ID, "ip_version": 4, "type": "5_bgp", "ip_address": "203.0.113.11", "charge_mode": "bandwidth",
		"bandwidth_size": 300, "share_type": "PER",
	})
	for _, member := range []string{"created_at", "updated_at", "applied_at"} {
		if v := active.text("vpn_gateway", member); !timeFormat.MatchString(v) {
			t.Errorf("%s is %q", member, v)
		}
	}
	list := b.call(http.MethodGet, path("vpn-gateways"), nil).want(http.StatusOK)
	if l := list.list("vpn_gateways"); len(l) != 1 || encoded(t, l[0]) != encoded(t, active.at("vpn_gateway")) {
		t.Errorf("list differs from show: %s", list.Text)
	}

	changed := b.call(http.MethodPut, path("vpn-gateways", id),
		vgw(object{"name": "new", "local_subnets": []string{"192.168.1.0/24", "192.168.2.0/24"}})).want(http.StatusOK)
	wantMembers(t, changed.at("vpn_gateway"), object{"name": "new", "local_subnets": []string{"192.168.1.0/24", "192.168.2.0/24"}, "bgp_asn": 64512})
	wantAbsent(t, changed.at("vpn_gateway"), "status", "applied_at", "supported_flavors")
	if changed.at("vpn_gateway", "eip1") == nil || changed.at("vpn_gateway", "created_at") == nil {
		t.Errorf("the answer of an update lacks EIPs or times: %s", changed.Text)
	}

	b.call(http.MethodDelete, path("vpn-gateways", id), nil).want(http.StatusNoContent)
	if got := b.call(http.MethodGet, path("vpn-gateways", id), nil).want(http.StatusOK).text("vpn_gateway", "status"); got != "PENDING_DELETE" {
		t.Errorf("status is %s", got)
	}
	check(t, b.objects.FinalizeGateway(t.Context(), project, id))
	b.call(http.MethodGet, path("vpn-gateways", id), nil).wantError(http.StatusNotFound, "VPN.0004", "resource not found")
}

func TestGatewayThatIsNotReady(t *testing.T) {
	b := newBench(t)
	id := b.call(http.MethodPost, path("vpn-gateways"), vgw(smallestGateway())).want(http.StatusCreated).text("vpn_gateway", "id")
	message := "resource (type=GATEWAY, ID=" + id + ") is not ready, currently CREATING"
	b.call(http.MethodPut, path("vpn-gateways", id), vgw(object{"name": "new"})).wantError(http.StatusForbidden, "VPN.0003", message)
	b.call(http.MethodDelete, path("vpn-gateways", id), nil).wantError(http.StatusForbidden, "VPN.0003", message)

	check(t, b.objects.SetGatewayStatus(t.Context(), project, id, control.GatewayStatus{
		Observed: 1, Fault: true, Message: "the tunnel device cannot be made", LastChange: b.now,
	}))
	fault := b.call(http.MethodGet, path("vpn-gateways", id), nil).want(http.StatusOK)
	wantMembers(t, fault.at("vpn_gateway"), object{"status": "FAULT", "status_message": "the tunnel device cannot be made; tried again until it succeeds"})
	b.call(http.MethodPut, path("vpn-gateways", id), vgw(object{"name": "new"})).wantError(http.StatusForbidden, "VPN.0003", "currently FAULT")
	b.call(http.MethodDelete, path("vpn-gateways", id), nil).want(http.StatusNoContent)
}

func TestGatewayWithConnectionsStays(t *testing.T) {
	b := newBench(t)
	_, gateway, _ := b.createConnection()
	b.call(http.MethodDelete, path("vpn-gateways", gateway), nil).wantError(http.StatusBadRequest, "VPN.0001", "has connection")
	shown := b.call(http.MethodGet, path("vpn-gateways", gateway), nil).want(http.StatusOK)
	wantMembers(t, shown.at("vpn_gateway"), object{"used_connection_number": 1, "used_connection_group": 1})
}

func TestGatewayRefusals(t *testing.T) {
	b := newBench(t)
	base := smallestGateway()
	for _, test := range []struct {
		name    string
		body    any
		message string
	}{
		{"no body", nil, "body: is required"},
		{"no JSON", "{", "body: is not valid JSON"},
		{"two values", `{"vpn_gateway":{}}{}`, "body: is not valid JSON"},
		{"no object", "[]", "body: must be of type object"},
		{"no gateway", "{}", "vpn_gateway: is required"},
		{"gateway is null", `{"vpn_gateway":null}`, "vpn_gateway: must not be null"},
		{"member is null", `{"vpn_gateway":{"name":null}}`, "name: must not be null"},
		{"wrong type", vgw(with(base, "bgp_asn", "64512")), "bgp_asn: must be of type integer"},
		{"fraction", vgw(with(base, "bgp_asn", 1.5)), "bgp_asn: must be of type integer"},
		{"ASN one below", vgw(with(base, "bgp_asn", 0)), "bgp_asn: must be from 1 to 4294967295"},
		{"ASN one above", vgw(with(base, "bgp_asn", 4294967296)), "bgp_asn: must be from 1 to 4294967295"},
		{"empty name", vgw(with(base, "name", "")), "name: must have 1 to 64 characters"},
		{"long name", vgw(with(base, "name", strings.Repeat("n", 65))), "name: must have 1 to 64 characters"},
		{"name with blank", vgw(with(base, "name", "a b")), "name: must match"},
		{"unknown flavor", vgw(with(base, "flavor", "Professional3")), "flavor: must be one of Basic"},
		{"unsupported attachment", vgw(with(base, "attachment_type", "er", "er_id", "er-1", "local_subnets", nil)), "attachment_type: "},
		{"IPv4 subnets with ipv6", vgw(with(base, "ip_version", "ipv6")), "local_subnets: "},
		{"51 subnets", vgw(with(base, "local_subnets", make([]string, 51))), "local_subnets: must have at most 50 entries"},
		{"subnet with host bits", vgw(with(base, "local_subnets", []string{"192.168.0.1/24"})), "local_subnets"},
		{"unknown VPC", vgw(with(base, "vpc_id", otherProject)), "vpc_id: "},
		{"unknown EIP", vgw(with(base, "eip1", object{"id": vpcID})), "eip1"},
		{"same EIP twice", vgw(with(base, "eip2", object{"id": eip1ID})), "eip2"},
		{"EIP size above", vgw(with(base, "eip1", object{"type": "5_bgp", "bandwidth_size": 1001})), "eip1.bandwidth_size: must be from 1 to 1000"},
		{"21 tags", vgw(with(base, "tags", make([]object, 21))), "tags: must have at most 20 entries"},
		{"tag without key", vgw(with(base, "tags", []object{{"value": "v"}})), "tags[0].key: is required"},
		{"three zones", vgw(with(base, "availability_zone_ids", []string{"az1", "az2", "az3"})), "availability_zone_ids: must have at most 2 entries"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			b.call(http.MethodPost, path("vpn-gateways"), test.body).wantError(http.StatusBadRequest, "VPN.0001", "invalid request: "+test.message)
		})
	}
	b.t = t
	if l := b.call(http.MethodGet, path("vpn-gateways"), nil).want(http.StatusOK).list("vpn_gateways"); len(l) != 0 {
		t.Errorf("a refused gateway was created: %v", l)
	}
	for _, name := range []string{"n", strings.Repeat("网", 64), "a-b_c.D1"} {
		body := vgw(with(base, "name", name, "bgp_asn", 4294967295, "an unknown member", object{"a": 1}))
		id := b.call(http.MethodPost, path("vpn-gateways"), body).want(http.StatusCreated).text("vpn_gateway", "id")
		b.applied(id)
		b.call(http.MethodDelete, path("vpn-gateways", id), nil).want(http.StatusNoContent)
		check(t, b.objects.FinalizeGateway(t.Context(), project, id))
	}
}

func TestGatewayFilters(t *testing.T) {
	b := newBench(t)
	id := b.createGateway()
	for query, want := range map[string]int{
		"": 1, "vgw_id=" + id: 1, "vgw_id=" + eip1ID: 0, "vgw_id=": 1,
		"enterprise_project_id=0": 1, "enterprise_project_id=a&enterprise_project_id=0": 1, "enterprise_project_id=a": 0,
	} {
		if l := b.call(http.MethodGet, path("vpn-gateways?"+query), nil).want(http.StatusOK).list("vpn_gateways"); len(l) != want {
			t.Errorf("%s: got %d gateways, want %d", query, len(l), want)
		}
	}
}

func TestPrivateAddressesAreInEveryAnswer(t *testing.T) {
	b := newBench(t)
	g := smallestGateway()
	delete(g, "eip1")
	delete(g, "eip2")
	g["network_type"], g["access_private_ip_1"], g["access_private_ip_2"] = "private", "10.10.0.5", "10.10.0.6"
	a := b.call(http.MethodPost, path("vpn-gateways"), vgw(g)).want(http.StatusCreated)
	shown := b.call(http.MethodGet, path("vpn-gateways", a.text("vpn_gateway", "id")), nil).want(http.StatusOK)
	for _, answer := range []*answer{a, shown} {
		if answer.text("vpn_gateway", "access_private_ip_1") != "10.10.0.5" || answer.text("vpn_gateway", "access_private_ip_2") != "10.10.0.6" {
			t.Errorf("the answer lacks the addresses: %s", answer.Text)
		}
	}
}

func TestGatewayFlavor(t *testing.T) {
	b := newBench(t)
	_, gateway, _ := b.createConnection()
	change := func(id string, body any) *answer {
		return b.call(http.MethodPost, path("vpn-gateways", id, "update-specification"), body)
	}
	flavor := func(f string) object { return vgw(object{"flavor": f}) }
	for _, test := range []struct {
		name    string
		body    any
		message string
	}{
		{"no body", nil, "body: is required"},
		{"no gateway", object{}, "vpn_gateway: is required"},
		{"no flavor", vgw(object{}), "flavor: is required"},
		{"a number", vgw(object{"flavor": 1}), "flavor: must be one of Basic"},
		{"unknown", flavor("Professional3"), "flavor: must be one of"},
		{"the same", flavor("Professional1"), "flavor: must be one of Professional2, the flavors that this gateway can be changed to"},
		{"less than the bandwidth", flavor("Basic"), "flavor: must be one of Professional2"},
		{"of another class", flavor("GM"), "flavor: must be one of Professional2"},
		{"with a template", flavor("Professional2-NonFixedIP"), "flavor: must be one of Professional2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			change(gateway, test.body).wantError(http.StatusBadRequest, "VPN.0001", "invalid request: "+test.message)
		})
	}
	b.t = t
	change(vpcID, flavor("Professional2")).wantError(http.StatusNotFound, "VPN.0004", "")
	check(t, b.objects.SetGatewayStatus(t.Context(), project, gateway, control.GatewayStatus{Observed: 1, AppliedAt: b.now}))
	a := change(gateway, flavor("Professional2")).want(http.StatusOK)
	wantMembers(t, a.at("vpn_gateway"), object{"id": gateway, "flavor": "Professional2", "used_connection_number": 1})
	wantAbsent(t, a.at("vpn_gateway"), "status", "supported_flavors")
	shown := b.call(http.MethodGet, path("vpn-gateways", gateway), nil).want(http.StatusOK)
	wantMembers(t, shown.at("vpn_gateway"), object{"status": "PENDING_UPDATE", "supported_flavors": []string{"Professional1"}})
	change(gateway, flavor("Professional1")).wantError(http.StatusForbidden, "VPN.0003", "is not ready, currently UPDATING")
	b.applied(gateway)
	change(gateway, flavor("Professional1")).want(http.StatusOK)
}
