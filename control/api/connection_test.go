package api

import (
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/control"
)

func TestConnectionFromCreationToDeletion(t *testing.T) {
	b := newBench(t)
	gateway, peer := b.createGateway(), b.createCustomerGateway("198.51.100.7")
	created := b.call(http.MethodPost, path("vpn-connection"), vpn(smallestConnection(gateway, peer))).want(http.StatusCreated)
	id := created.text("vpn_connection", "id")
	wantMembers(t, created.at("vpn_connection"), object{
		"vgw_id": gateway, "vgw_ip": eip1ID, "cgw_id": peer, "style": "STATIC", "peer_subnets": []string{"172.16.0.0/24"},
		"enable_nqa": false, "policy_rules": []object{}, "policy_rules_v6": []object{}, "ha_role": "master",
		"enterprise_project_id": "0", "tags": []object{},
		"ikepolicy": object{
			"ike_version": "v2", "authentication_algorithm": "sha2-256", "encryption_algorithm": "aes-128", "dh_group": "group15",
			"authentication_method": "pre-share", "lifetime_seconds": 86400, "local_id_type": "ip", "local_id": "203.0.113.10",
			"peer_id_type": "ip", "peer_id": "198.51.100.7", "dpd": object{"timeout": 15, "interval": 30, "msg": "seq-hash-notify"},
		},
		"ipsecpolicy": object{
			"authentication_algorithm": "sha2-256", "encryption_algorithm": "aes-128", "pfs": "group15",
			"transform_protocol": "esp", "lifetime_seconds": 3600, "encapsulation_mode": "tunnel",
		},
	})
	wantAbsent(t, created.at("vpn_connection"), "status", "psk", "peer_subnets_v6", "enable_hub", "bgp_peer", "connection_monitor_id")
	for _, member := range []string{"tunnel_local_address", "tunnel_peer_address"} {
		if v := created.text("vpn_connection", member); !regexp.MustCompile(`^169\.254\.\d+\.\d+/30$`).MatchString(v) {
			t.Errorf("%s is %q", member, v)
		}
	}

	show := func() *answer { return b.call(http.MethodGet, path("vpn-connection", id), nil).want(http.StatusOK) }
	if got := show().text("vpn_connection", "status"); got != "PENDING_CREATE" {
		t.Errorf("status is %s", got)
	}
	b.report(id, control.ConnectionStatus{
		State: control.ConnectionDown, Message: "the peer proposes another group",
		Diagnosis: &control.Diagnosis{Parameter: "dh_group", Ours: "group15", Theirs: "group14"},
	})
	down := show()
	wantMembers(t, down.at("vpn_connection"), object{
		"status": "DOWN", "status_message": "the peer proposes another group",
		"diagnosis": object{"parameter": "dh_group", "ours": "group15", "theirs": "group14"},
	})
	list := b.call(http.MethodGet, path("vpn-connection"), nil).want(http.StatusOK)
	if l := list.list("vpn_connections"); len(l) != 1 || encoded(t, l[0]) != encoded(t, down.at("vpn_connection")) {
		t.Errorf("list differs from show: %s", list.Text)
	}
	wantMembers(t, list.body, object{"total_count": 1})

	changed := b.call(http.MethodPut, path("vpn-connection", id), vpn(object{
		"name": "new", "psk": testPSK + "2", "ikepolicy": object{"dh_group": "group14", "pfs": "ignored"}, "ipsecpolicy": object{"pfs": "disable"},
	})).want(http.StatusOK)
	wantMembers(t, changed.at("vpn_connection"), object{"name": "new", "peer_subnets": []string{"172.16.0.0/24"}})
	wantMembers(t, changed.at("vpn_connection", "ikepolicy"), object{"dh_group": "group14", "encryption_algorithm": "aes-128"})
	wantMembers(t, changed.at("vpn_connection", "ipsecpolicy"), object{"pfs": "disable"})
	wantAbsent(t, changed.at("vpn_connection"), "status", "diagnosis", "status_message")

	b.call(http.MethodDelete, path("vpn-connection", id), nil).want(http.StatusNoContent)
	if got := show().text("vpn_connection", "status"); got != "PENDING_DELETE" {
		t.Errorf("status is %s", got)
	}
	check(t, b.objects.FinalizeConnection(t.Context(), project, id))
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		b.call(method, path("vpn-connection", id), nil).wantError(http.StatusNotFound, "VPN.0004", "resource not found")
	}
}

// What goes beyond the API is there where it is asked for, and the answers of other
// connections do not have it.
func TestConnectionAdditions(t *testing.T) {
	b := newBench(t)
	gateway, peer := b.createGateway(), b.createCustomerGateway("198.51.100.7")
	plain := b.call(http.MethodPost, path("vpn-connection"), vpn(smallestConnection(gateway, peer))).want(http.StatusCreated)
	wantAbsent(t, plain.at("vpn_connection", "ikepolicy"), "additional_key_exchange", "ppk_id", "ppk_required")
	wantAbsent(t, plain.at("vpn_connection", "ipsecpolicy"), "additional_key_exchange", "udp_encapsulation")
	id := plain.text("vpn_connection", "id")
	b.report(id, control.ConnectionStatus{State: control.ConnectionDown})
	changed := b.call(http.MethodPut, path("vpn-connection", id), vpn(object{
		"ppk": strings.Repeat("k", 32),
		"ikepolicy": object{
			"encryption_algorithm": "chacha20-poly1305", "dh_group": "group31", "additional_key_exchange": "mlkem768",
			"ppk_id": "one", "ppk_required": true,
		},
		"ipsecpolicy": object{
			"encryption_algorithm": "chacha20-poly1305", "pfs": "group2", "additional_key_exchange": "mlkem768", "udp_encapsulation": "nat",
		},
	})).want(http.StatusOK)
	wantMembers(t, changed.at("vpn_connection", "ikepolicy"), object{
		"encryption_algorithm": "chacha20-poly1305", "dh_group": "group31", "additional_key_exchange": "mlkem768",
		"ppk_id": "one", "ppk_required": true,
	})
	wantMembers(t, changed.at("vpn_connection", "ipsecpolicy"), object{
		"encryption_algorithm": "chacha20-poly1305", "additional_key_exchange": "mlkem768", "udp_encapsulation": "nat",
	})
	wantAbsent(t, changed.at("vpn_connection"), "ppk", "weak_algorithms", "esp_encapsulation")
	b.report(id, control.ConnectionStatus{State: control.ConnectionActive, Encapsulation: &control.Encapsulation{Name: "none", Reason: "no NAT"}})
	shown := b.call(http.MethodGet, path("vpn-connection", id), nil).want(http.StatusOK)
	wantMembers(t, shown.at("vpn_connection", "esp_encapsulation"), object{"name": "none", "reason": "no NAT"})
	wantMembers(t, shown.at("vpn_connection"), object{"weak_algorithms": []string{"group2"}, "status_message": "weak algorithms: group2"})
	if strings.Contains(shown.Text+changed.Text, strings.Repeat("k", 32)) {
		t.Error("the key is in an answer")
	}
}

func TestConnectionOfPolicyStyle(t *testing.T) {
	b := newBench(t)
	gateway, peer := b.createGateway(), b.createCustomerGateway("198.51.100.7")
	rules := []object{
		{"rule_index": 9, "source": "192.168.0.0/25", "destination": []string{"172.16.0.0/24", "172.16.1.0/24"}},
		{"source": "192.168.0.128/25", "destination": []string{"172.16.2.0/24"}},
	}
	a := b.call(http.MethodPost, path("vpn-connection"), vpn(with(smallestConnection(gateway, peer),
		"style", "Policy", "policy_rules", rules,
		"ikepolicy", object{"encryption_algorithm": "aes-128-gcm-128", "peer_id_type": "fqdn", "peer_id": "Branch.example"},
	))).want(http.StatusCreated)
	wantMembers(t, a.at("vpn_connection"), object{
		"style": "POLICY", "policy_rules": []object{with(rules[0], "rule_index", 1), with(rules[1], "rule_index", 2)},
	})
	wantMembers(t, a.at("vpn_connection", "ikepolicy"), object{
		"encryption_algorithm": "aes-128-gcm-128", "peer_id_type": "fqdn", "peer_id": "Branch.example",
	})
	wantAbsent(t, a.at("vpn_connection"), "enable_nqa", "enable_hub")
}

func TestConnectionRefusals(t *testing.T) {
	b := newBench(t)
	gateway, peer := b.createGateway(), b.createCustomerGateway("198.51.100.7")
	base := smallestConnection(gateway, peer)
	policy := func(members object) object { return with(base, "ikepolicy", members) }
	for _, test := range []struct {
		name    string
		send    object
		status  int
		message string
	}{
		{"no gateway", with(base, "vgw_id", nil), 400, "vgw_id: is required"},
		{"unknown gateway", with(base, "vgw_id", vpcID), 404, "resource not found"},
		{"unknown customer gateway", with(base, "cgw_id", vpcID), 404, "resource not found"},
		{"address of another gateway", with(base, "vgw_ip", vpcID), 400, "vgw_ip: "},
		{"no PSK", with(base, "psk", nil), 400, "psk"},
		{"short PSK", with(base, "psk", "Abc-123"), 400, "psk: must have 8 to 128 characters"},
		{"long PSK", with(base, "psk", strings.Repeat("Abc-1234", 17)), 400, "psk: must have 8 to 128 characters"},
		{"simple PSK", with(base, "psk", "abcdefgh1234"), 400, "psk"},
		{"no subnets", with(base, "peer_subnets", nil), 400, "peer_subnets"},
		{"empty subnets", with(base, "peer_subnets", []string{}), 400, "peer_subnets"},
		{"six rules", with(base, "style", "policy", "policy_rules", make([]object, 6)), 400, "policy_rules: must have at most 5 entries"},
		{"rules of another style", with(base, "policy_rules", []object{{"source": "192.168.0.0/24", "destination": []string{"172.16.0.0/24"}}}), 400, "policy_rules"},
		{"unknown style", with(base, "style", "mesh"), 400, "style"},
		{"unsupported style", with(base, "style", "policy-template"), 400, "style"},
		{"hub without BGP", with(base, "enable_hub", true), 400, "enable_hub"},
		{"probing with policy", with(base, "enable_nqa", true, "style", "policy",
			"policy_rules", []object{{"source": "192.168.0.0/24", "destination": []string{"172.16.0.0/24"}}}), 400, "enable_nqa"},
		{"unknown version", policy(object{"ike_version": "v3"}), 400, "ikepolicy.ike_version: must be one of v1, v2"},
		{"IKE lifetime below", policy(object{"lifetime_seconds": 59}), 400, "ikepolicy.lifetime_seconds: must be from 60 to 604800"},
		{"IKE lifetime above", policy(object{"lifetime_seconds": 604801}), 400, "ikepolicy.lifetime_seconds: must be from 60 to 604800"},
		{"DPD interval below", policy(object{"dpd": object{"interval": 9}}), 400, "ikepolicy.dpd.interval: must be from 10 to 3600"},
		{"DPD timeout above", policy(object{"dpd": object{"timeout": 61}}), 400, "ikepolicy.dpd.timeout: must be from 2 to 60"},
		{"name without id", policy(object{"peer_id_type": "fqdn"}), 400, "peer_id"},
		{"ESP lifetime below", with(base, "ipsecpolicy", object{"lifetime_seconds": 29}), 400, "ipsecpolicy.lifetime_seconds: must be from 30 to 604800"},
		{"AH", with(base, "ipsecpolicy", object{"transform_protocol": "ah"}), 400, "ipsecpolicy.transform_protocol: must be one of esp"},
		{"tunnel address elsewhere", with(base, "tunnel_local_address", "10.0.0.1/30"), 400, "tunnel_local_address"},
		{"role unknown", with(base, "ha_role", "backup"), 400, "ha_role: must be one of master, slave"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			code := map[int]string{400: "VPN.0001", 404: "VPN.0004"}[test.status]
			b.call(http.MethodPost, path("vpn-connection"), vpn(test.send)).wantError(test.status, code, test.message)
		})
	}
	b.t = t
	if strings.Contains(b.log.String(), "Abc-1") || strings.Contains(b.log.String(), testPSK) {
		t.Error("the log holds a PSK")
	}
	b.call(http.MethodPost, path("vpn-connection"), vpn(with(base, "ipsecpolicy", object{"lifetime_seconds": 30}, "name", strings.Repeat("n", 64)))).
		want(http.StatusCreated)
	b.call(http.MethodPost, path("vpn-connection"), vpn(base)).wantError(http.StatusBadRequest, "VPN.0001", "")
}

func TestConnectionThatIsNotReady(t *testing.T) {
	b := newBench(t)
	gateway, peer := b.createGateway(), b.createCustomerGateway("198.51.100.7")
	id := b.call(http.MethodPost, path("vpn-connection"), vpn(smallestConnection(gateway, peer))).
		want(http.StatusCreated).text("vpn_connection", "id")
	message := "resource (type=CONNECTION, ID=" + id + ") is not ready, currently CREATING"
	b.call(http.MethodPut, path("vpn-connection", id), vpn(object{"name": "new"})).wantError(http.StatusForbidden, "VPN.0003", message)
	b.call(http.MethodDelete, path("vpn-connection", id), nil).wantError(http.StatusForbidden, "VPN.0003", message)
	b.call(http.MethodPost, path("vpn-connection", id, "reset"), nil).wantError(http.StatusForbidden, "VPN.0003", message)
}

func TestConnectionLogAndReset(t *testing.T) {
	b := newBench(t)
	id, _, _ := b.createConnection()
	if l := b.call(http.MethodGet, path("vpn-connection", id, "log"), nil).want(http.StatusOK).list("logs"); len(l) != 0 {
		t.Errorf("a new connection has a log: %v", l)
	}
	check(t, b.objects.SetLog(t.Context(), project, id, []control.LogLine{
		{Time: b.now, Message: "first"}, {Time: b.now.Add(1500 * 1e6), Message: "second"},
	}))
	log := b.call(http.MethodGet, path("vpn-connection", id, "log"), nil).want(http.StatusOK)
	second, first := log.list("logs")[0], log.list("logs")[1]
	if encoded(t, second) == encoded(t, first) || second.(object)["raw_message"] != "second" {
		t.Errorf("the newest line is not first: %s", log.Text)
	}
	if got := second.(object)["time"].(float64) - first.(object)["time"].(float64); got != 1 {
		t.Errorf("times differ by %v seconds, want 1 whole one", got)
	}
	a := b.call(http.MethodPost, path("vpn-connection", id, "reset"), nil).want(http.StatusOK)
	if len(a.body) != 1 {
		t.Errorf("a reset answers more than its request id: %s", a.Text)
	}
	for _, unknown := range []string{"log", "reset"} {
		method := map[string]string{"log": http.MethodGet, "reset": http.MethodPost}[unknown]
		b.call(method, path("vpn-connection", vpcID, unknown), nil).wantError(http.StatusNotFound, "VPN.0004", "")
	}
}

func TestConnectionBatch(t *testing.T) {
	b := newBench(t)
	gateway, first, second := b.createGateway(), b.createCustomerGateway("198.51.100.7"), b.createCustomerGateway("198.51.100.8")
	one := with(smallestConnection(gateway, first), "name", "one")
	two := with(smallestConnection(gateway, second), "name", "two", "vgw_ip", eip2ID)
	const target = "vpn-connections/batch-create"
	batch := func(list ...object) object { return object{"vpn_connections": append([]object{}, list...)} }
	for _, test := range []struct {
		name    string
		send    any
		status  int
		message string
	}{
		{"empty", batch(), 400, "vpn_connections: must have 1 to 2 entries"},
		{"three", batch(one, two, one), 400, "vpn_connections: must have 1 to 2 entries"},
		{"no list", object{}, 400, "vpn_connections: is required"},
		{"an object", object{"vpn_connections": one}, 400, "vpn_connections: must be of type array"},
		{"cut", `{"vpn_connections":[`, 400, "body: is not valid JSON"},
		{"second lacks a member", batch(one, with(two, "cgw_id", nil)), 400, "vpn_connections[1].cgw_id: is required"},
		{"second has a weak PSK", batch(one, with(two, "psk", "abcdefgh1234")), 400, "vpn_connections[1].psk: must have characters"},
		{"second has a short PSK", batch(one, with(two, "psk", "Abc-123")), 400, "vpn_connections[1].psk: must have 8 to 128 characters"},
		{"the same twice", batch(one, one), 400, "vpn_connections[1].cgw_id: connection"},
		{"one tunnel network twice", batch(with(one, "tunnel_local_address", "169.254.1.1/30"),
			with(two, "vgw_ip", eip1ID, "tunnel_local_address", "169.254.1.1/30")), 400, "vpn_connections[1].tunnel_local_address: "},
		{"unknown gateway", batch(one, with(two, "vgw_id", vpcID)), 404, "resource not found"},
		{"unknown customer gateway", batch(with(one, "cgw_id", vpcID)), 404, "resource not found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			code := map[int]string{400: "VPN.0001", 404: "VPN.0004"}[test.status]
			b.call(http.MethodPost, path(target), test.send).wantError(test.status, code, test.message)
			if l := b.call(http.MethodGet, path("vpn-connection"), nil).list("vpn_connections"); len(l) != 0 {
				t.Errorf("a part of a refused batch was created: %v", l)
			}
		})
	}
	b.t = t
	made := b.call(http.MethodPost, path(target), batch(one, two)).want(http.StatusCreated).list("vpn_connections")
	if len(made) != 2 {
		t.Fatalf("made %d connections", len(made))
	}
	wantMembers(t, made[0], object{"name": "one", "vgw_ip": eip1ID, "cgw_id": first})
	wantMembers(t, made[1], object{"name": "two", "vgw_ip": eip2ID, "cgw_id": second})
	wantAbsent(t, made[0], "status", "psk")
	listed := b.call(http.MethodGet, path("vpn-connection?limit=1"), nil).want(http.StatusOK)
	if l := listed.list("vpn_connections"); len(l) != 1 || l[0].(object)["name"] != "two" || listed.body["total_count"] != 2.0 {
		t.Errorf("the list is %s", listed.Text)
	}
	b.call(http.MethodDelete, path("vpn-gateways", gateway), nil).wantError(http.StatusBadRequest, "VPN.0001", "has connection")
}

func TestConnectionChildSAs(t *testing.T) {
	b := newBench(t)
	id, _, _ := b.createConnection()
	show := func() *answer { return b.call(http.MethodGet, path("vpn-connection", id, "ipsec-sa"), nil) }
	if l := show().want(http.StatusOK).list("sa_infos"); len(l) != 0 {
		t.Errorf("a connection that is down has SAs: %v", l)
	}
	b.report(id, control.ConnectionStatus{State: control.ConnectionActive})
	show().wantError(http.StatusInternalServerError, "VPN.0002", "another node")
	networks := func(texts ...string) (list []netip.Prefix) {
		for _, text := range texts {
			list = append(list, netip.MustParsePrefix(text))
		}
		return list
	}
	b.engines.children = map[string][]control.ChildSA{id: {{
		ID: "c0ffee01-0badcafe", Local: networks("10.10.0.0/24"), Remote: networks("172.16.0.0/24", "172.16.2.0/23"),
		Sent: control.Traffic{Packets: 3, Octets: 252}, Received: control.Traffic{Packets: 1 << 40, Octets: 1 << 52},
	}}}
	l := show().want(http.StatusOK).list("sa_infos")
	if len(l) != 1 {
		t.Fatalf("%d SAs, want one", len(l))
	}
	wantMembers(t, l[0], object{
		"id": "c0ffee01-0badcafe", "source_ip_cidr": "10.10.0.0/24", "dest_ip_cidr": "172.16.0.0/24,172.16.2.0/23",
		"packets_sent": 3, "packets_recv": 1 << 40, "traffic_sent": 252, "traffic_recv": 1 << 52,
		"collected_at": control.FormatTime(b.now),
	})
	b.call(http.MethodGet, path("vpn-connection", vpcID, "ipsec-sa"), nil).wantError(http.StatusNotFound, "VPN.0004", "")
}

func TestConnectionFilters(t *testing.T) {
	b := newBench(t)
	id, gateway, _ := b.createConnection()
	for query, want := range map[string]int{
		"": 1, "vgw_id=" + gateway: 1, "vgw_id=x": 0, "vgw_ip=" + eip1ID: 1, "vgw_ip=" + eip2ID: 0,
		"eip_id=" + eip1ID: 1, "eip_id=" + eip1ID + "&vgw_ip=" + eip1ID: 1, "eip_id=" + eip2ID: 0,
		"vpn_id=" + id: 1, "vpn_id=x": 0, "enterprise_project_id=0": 1, "enterprise_project_id=1": 0, "limit=0": 0, "limit=2000": 1,
	} {
		a := b.call(http.MethodGet, path("vpn-connection?"+query), nil).want(http.StatusOK)
		if l := a.list("vpn_connections"); len(l) != want || a.body["total_count"] != 1.0 {
			t.Errorf("%q: got %d of %v, want %d of 1", query, len(l), a.body["total_count"], want)
		}
	}
	b.call(http.MethodGet, path("vpn-connection?limit=2001"), nil).
		wantError(http.StatusBadRequest, "VPN.0001", "limit: must be from 0 to 2000")
	b.call(http.MethodGet, path("vpn-connection?vgw_ip=a&eip_id=b"), nil).wantError(http.StatusBadRequest, "VPN.0001", "eip_id")
}
