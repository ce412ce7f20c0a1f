package api

import (
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/certtest"
)

func p2c(o object) object { return object{"p2c_vpn_gateway": o} }

func smallestP2CGateway() object {
	return object{"vpc_id": vpcID, "connect_subnet": subnetID, "eip": object{"id": p2cEIP}}
}

// createP2CGateway creates the smallest client-to-cloud gateway and makes it
// ACTIVE.
func (b *bench) createP2CGateway() (id string) {
	b.t.Helper()
	id = b.call(http.MethodPost, path("p2c-vpn-gateways"), p2c(smallestP2CGateway())).want(http.StatusCreated).text("p2c_vpn_gateway", "id")
	b.settleP2CGateway(id, control.P2CGatewayStatus{Observed: everyGeneration, AppliedAt: b.now})
	return id
}

func (b *bench) settleP2CGateway(id string, s control.P2CGatewayStatus) {
	b.t.Helper()
	check(b.t, b.objects.SetP2CGatewayStatus(b.t.Context(), project, id, s))
}

func smallestServer() object {
	return object{
		"client_cidr": "172.21.0.1/24", "local_subnets": []string{"192.168.0.0/24"},
		"server_certificate": object{"source": "SERVICE_SIGN"}, "ssl_options": object{},
	}
}

func serverBody(o object) object { return object{"vpn_server": o} }

// createServer creates the smallest server of a new gateway and makes it
// ACTIVE.
func (b *bench) createServer(changes ...any) (id, gateway string) {
	b.t.Helper()
	gateway = b.createP2CGateway()
	body := serverBody(with(smallestServer(), changes...))
	id = b.call(http.MethodPost, path("p2c-vpn-gateways", gateway, "vpn-servers"), body).want(http.StatusCreated).text("vpn_server", "id")
	b.settleServer(id, control.ServerStatus{Observed: everyGeneration, AppliedAt: b.now})
	return id, gateway
}

func (b *bench) settleServer(id string, s control.ServerStatus) {
	b.t.Helper()
	check(b.t, b.objects.SetServerStatus(b.t.Context(), project, id, s))
}

func onGateway(id string, elements ...string) string {
	return path(append([]string{"p2c-vpn-gateways", id}, elements...)...)
}

func onServerID(id string, elements ...string) string {
	return path(append([]string{"p2c-vpn-gateways", "vpn-servers", id}, elements...)...)
}

// everyServerOperation is everyOperation for client-to-cloud gateways and
// their servers.
func everyServerOperation(gateway, server string) map[string][3]any {
	ca := object{"client_ca_certificate": object{"name": "ca", "content": "PEM"}}
	log := object{"log_config": object{"log_group_id": logGroup, "log_stream_id": logStream}}
	return map[string][3]any{
		"CreateP2cVgw":                  {http.MethodPost, path("p2c-vpn-gateways"), p2c(with(smallestP2CGateway(), "eip", object{"id": eip1ID}))},
		"ListP2cVgws":                   {http.MethodGet, path("p2c-vpn-gateways"), nil},
		"ShowP2cVgw":                    {http.MethodGet, onGateway(gateway), nil},
		"UpdateP2cVgw":                  {http.MethodPut, onGateway(gateway), p2c(object{"name": "taken"})},
		"DeleteP2cVgw":                  {http.MethodDelete, onGateway(gateway), nil},
		"ListP2cVgwAvailabilityZones":   {http.MethodGet, onGateway("availability-zones"), nil},
		"ListP2cVgwConnections":         {http.MethodGet, onGateway(gateway, "connections"), nil},
		"DeleteP2cVgwConnection":        {http.MethodPost, onGateway(gateway, "connections", vpcID, "disconnect"), nil},
		"UpgradeP2cVpnGateway":          {http.MethodPost, onGateway(gateway, "upgrade"), object{"action": "start"}},
		"ListP2cVpnGatewayJobs":         {http.MethodGet, onGateway("jobs"), nil},
		"DeleteP2cVpnGatewayJob":        {http.MethodDelete, onGateway("jobs", vpcID), nil},
		"UpdateVpnConnectionsLogConfig": {http.MethodPut, onGateway(gateway, "log-config"), log},
		"ShowVpnConnectionsLogConfig":   {http.MethodGet, onGateway(gateway, "log-config"), nil},
		"DeleteVpnConnectionsLogConfig": {http.MethodDelete, onGateway(gateway, "log-config"), nil},
		"CreateVpnServer":               {http.MethodPost, onGateway(gateway, "vpn-servers"), serverBody(smallestServer())},
		"ListVpnServersByVgw":           {http.MethodGet, onGateway(gateway, "vpn-servers"), nil},
		"ListVpnServersByProject":       {http.MethodGet, path("vpn-servers"), nil},
		"UpdateVpnServer":               {http.MethodPut, onServerID(server), serverBody(object{"ssl_options": object{"port": 1194}})},
		"ExportClientConfig":            {http.MethodPost, onServerID(server, "client-config", "export"), nil},
		"CheckClientCaCertificate":      {http.MethodPost, onServerID("client-ca-certificates", "check"), ca},
		"ImportClientCa":                {http.MethodPost, onServerID(server, "client-ca-certificates"), ca},
		"ShowClientCa":                  {http.MethodGet, onServerID(server, "client-ca-certificates", vpcID), nil},
		"UpdateClientCa":                {http.MethodPut, onServerID(server, "client-ca-certificates", vpcID), ca},
		"DeleteClientCa":                {http.MethodDelete, onServerID(server, "client-ca-certificates", vpcID), nil},
	}
}

func TestP2CGatewayFromCreationToDeletion(t *testing.T) {
	b := newBench(t)
	created := b.call(http.MethodPost, path("p2c-vpn-gateways"), p2c(with(smallestP2CGateway(),
		"tags", []object{{"key": "site", "value": "a/b"}}))).want(http.StatusCreated)
	id := created.text("p2c_vpn_gateway", "id")
	if len(created.at("p2c_vpn_gateway").(object)) != 1 {
		t.Errorf("the answer to a create has more than the id: %s", created.Text)
	}
	shown := b.call(http.MethodGet, onGateway(id), nil).want(http.StatusOK)
	wantMembers(t, shown.at("p2c_vpn_gateway"), object{
		"id": id, "status": "PENDING_CREATE", "vpc_id": vpcID, "connect_subnet": subnetID, "flavor": "Professional1",
		"availability_zone_ids": []string{"az1", "az2"}, "max_connection_number": 10, "current_connection_number": 0,
		"enterprise_project_id": "0", "tags": []object{{"key": "site", "value": "a/b"}}, "order_id": "", "admin_state_up": true, "frozen_effect": 0,
		"version": "1.2.3", "upgrade_info": "unready",
		"eip": object{
			"id": p2cEIP, "ip_version": 4, "type": "5_bgp", "ip_address": "203.0.113.12", "charge_mode": "bandwidth",
			"bandwidth_id":   shown.at("p2c_vpn_gateway", "eip", "bandwidth_id"),
			"bandwidth_size": 300, "bandwidth_name": "bandwidth-203.0.113.12", "share_type": "PER",
		},
	})
	wantAbsent(t, shown.at("p2c_vpn_gateway"), "applied_at")
	wantMembers(t, shown.at("p2c_vpn_gateway"), object{"status_message": "waits to be applied"})
	if name := shown.text("p2c_vpn_gateway", "name"); !regexp.MustCompile(`^p2c-vpngw-[0-9a-f]{4}$`).MatchString(name) {
		t.Errorf("generated name is %q", name)
	}
	rename := p2c(object{"name": "new"})
	b.call(http.MethodPut, onGateway(id), rename).wantError(400, "VPN.0506", "being created")
	b.call(http.MethodDelete, onGateway(id), nil).wantError(400, "VPN.0506", "being created")

	b.settleP2CGateway(id, control.P2CGatewayStatus{Observed: 1, AppliedAt: b.now})
	updated := b.call(http.MethodPut, onGateway(id), rename).want(http.StatusOK)
	wantMembers(t, updated.at("p2c_vpn_gateway"), object{"id": id})
	shown = b.call(http.MethodGet, onGateway(id), nil).want(http.StatusOK)
	wantMembers(t, shown.at("p2c_vpn_gateway"), object{"status": "ACTIVE", "name": "new"})
	if !timeFormat.MatchString(shown.text("p2c_vpn_gateway", "applied_at")) {
		t.Errorf("applied_at is %q", shown.text("p2c_vpn_gateway", "applied_at"))
	}
	list := b.call(http.MethodGet, path("p2c-vpn-gateways"), nil).want(http.StatusOK)
	if encoded(t, list.list("p2c_vpn_gateways")[0]) != encoded(t, shown.at("p2c_vpn_gateway")) {
		t.Errorf("list differs from show: %s", list.Text)
	}
	wantMembers(t, list.body, object{"total_count": 1, "page_info": object{"current_count": 1}})

	b.call(http.MethodDelete, onGateway(id), nil).want(http.StatusNoContent)
	b.call(http.MethodDelete, onGateway(id), nil).wantError(400, "VPN.0508", "being deleted")
	if s := b.call(http.MethodGet, onGateway(id), nil).text("p2c_vpn_gateway", "status"); s != "PENDING_DELETE" {
		t.Errorf("status is %q", s)
	}
	check(t, b.objects.FinalizeP2CGateway(t.Context(), project, id))
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
		body := any(nil)
		if method == http.MethodPut {
			body = rename
		}
		b.call(method, onGateway(id), body).wantError(http.StatusNotFound, "VPN.0509", "The gateway does not exist.")
	}
}

// A gateway of another project does not exist.
func TestP2CGatewayOfAnotherProject(t *testing.T) {
	b := newBench(t)
	id := b.createP2CGateway()
	target := strings.Replace(onGateway(id), project, otherProject, 1)
	b.as("stranger", http.MethodGet, target, nil).wantError(http.StatusNotFound, "VPN.0509", "")
}

func TestP2CGatewayWithNewEIP(t *testing.T) {
	b := newBench(t)
	eip := object{"type": "5_bgp", "bandwidth_size": 5, "bandwidth_name": "", "id": ""}
	a := b.call(http.MethodPost, path("p2c-vpn-gateways"), p2c(with(smallestP2CGateway(), "eip", eip, "max_connection_number", 500))).want(http.StatusCreated)
	shown := b.call(http.MethodGet, onGateway(a.text("p2c_vpn_gateway", "id")), nil).want(http.StatusOK)
	wantMembers(t, shown.at("p2c_vpn_gateway"), object{"max_connection_number": 500})
	wantMembers(t, shown.at("p2c_vpn_gateway", "eip"), object{"bandwidth_size": 5, "charge_mode": "bandwidth", "type": "5_bgp"})
	if name := shown.text("p2c_vpn_gateway", "eip", "bandwidth_name"); !regexp.MustCompile(`^p2c-vpngw-bandwidth-[0-9a-f]{4}$`).MatchString(name) {
		t.Errorf("generated name is %q", name)
	}
}

// Members that clients send empty or null for want of a value.
func TestP2CGatewayWithoutWhatIsRequired(t *testing.T) {
	b := newBench(t)
	for _, test := range []struct {
		member  string
		value   any
		message string
	}{
		{"vpc_id", nil, "vpc_id: is required"},
		{"connect_subnet", nil, "connect_subnet: is required"},
		{"eip", nil, "eip: is required"},
		{"vpc_id", "", "vpc_id: must have 1 to 64 characters"},
	} {
		b.call(http.MethodPost, path("p2c-vpn-gateways"), p2c(with(smallestP2CGateway(), test.member, test.value))).
			wantError(http.StatusBadRequest, "VPN.0001", test.message)
	}
	b.call(http.MethodPost, path("p2c-vpn-gateways"), `{"p2c_vpn_gateway":{"vpc_id":"v","connect_subnet":"s","eip":null}}`).
		wantError(http.StatusBadRequest, "VPN.0001", "eip: must not be null")
}

func TestP2CZonesAndJobs(t *testing.T) {
	b := newBench(t)
	a := b.call(http.MethodGet, onGateway("availability-zones")+"?flavor=Professional1", nil).want(http.StatusOK)
	wantMembers(t, a.body, object{"availability_zones": []string{"az1", "az2"}})
	b.call(http.MethodGet, onGateway("availability-zones")+"?flavor=Basic", nil).wantError(400, "VPN.0001", "flavor")
	if l := b.call(http.MethodGet, onGateway("jobs")+"?resource_id=x", nil).want(http.StatusOK).list("jobs"); len(l) != 0 {
		t.Errorf("jobs %v", l)
	}
	b.call(http.MethodGet, onGateway("jobs")+"?marker=x", nil).wantError(400, "VPN.0001", "marker: wants a limit")
	b.call(http.MethodDelete, onGateway("jobs", "x"), nil).wantError(404, "VPN.0004", "")
	// A word wins over the id of a gateway.
	b.call(http.MethodDelete, onGateway("jobs", "log-config"), nil).wantError(404, "VPN.0004", "")
	id := b.createP2CGateway()
	for action, message := range map[string]string{"start": "no newer version", "finish": "no upgrade", "rollback": "no upgrade"} {
		b.call(http.MethodPost, onGateway(id, "upgrade"), object{"action": action}).wantError(400, "VPN.0001", message)
	}
	b.call(http.MethodPost, onGateway(id, "upgrade"), object{"action": "x"}).wantError(400, "VPN.0001", "action: must be one of")
	b.call(http.MethodPost, onGateway(vpcID, "upgrade"), object{"action": "start"}).wantError(404, "VPN.0509", "")
}

func TestP2CGatewaysByPage(t *testing.T) {
	b := newBench(t)
	var ids []string // newest first
	for _, eip := range []string{p2cEIP, eip1ID, eip2ID} {
		a := b.call(http.MethodPost, path("p2c-vpn-gateways"), p2c(with(smallestP2CGateway(), "eip", object{"id": eip}))).want(http.StatusCreated)
		ids = append([]string{a.text("p2c_vpn_gateway", "id")}, ids...)
	}
	var got []string
	marker := ""
	for range 10 {
		a := b.call(http.MethodGet, path("p2c-vpn-gateways")+"?limit=1&marker="+marker, nil).want(http.StatusOK)
		if total := a.at("total_count"); total != 3.0 {
			t.Errorf("total_count is %v", total)
		}
		for _, g := range a.list("p2c_vpn_gateways") {
			got = append(got, g.(object)["id"].(string))
		}
		if marker = a.text("page_info", "next_marker"); marker == "" {
			wantAbsent(t, a.at("page_info"), "next_marker")
			break
		}
	}
	if strings.Join(got, " ") != strings.Join(ids, " ") {
		t.Errorf("pages have %v, want %v", got, ids)
	}
	for query, message := range map[string]string{
		"limit=0": "limit", "limit=2001": "limit", "limit=x": "limit", "limit=5&marker=x": "marker", "marker=2026-11-23T12:00:00.000Z": "marker: wants a limit",
	} {
		b.call(http.MethodGet, path("p2c-vpn-gateways")+"?"+query, nil).wantError(400, "VPN.0001", message)
	}
	b.call(http.MethodGet, path("p2c-vpn-gateways")+"?limit=2000", nil).want(http.StatusOK)
}

func TestP2CGatewayTags(t *testing.T) {
	b := newBench(t)
	id := b.createP2CGateway()
	tags := object{"tags": []object{{"key": "env", "value": "prod"}}}
	b.call(http.MethodPost, onGateway(id, "tags", "create"), tags).want(http.StatusNoContent)
	wantMembers(t, b.call(http.MethodGet, onGateway(id, "tags"), nil).want(http.StatusOK).body, tags)
	wantMembers(t, b.call(http.MethodGet, onGateway("tags"), nil).want(http.StatusOK).body, object{"tags": []object{{"key": "env", "values": []string{"prod"}}}})
	found := b.call(http.MethodPost, onGateway("resource-instances", "filter"), nil).want(http.StatusOK)
	wantMembers(t, found.list("resources")[0], object{"resource_id": id})
	wantMembers(t, b.call(http.MethodPost, onGateway("resource-instances", "count"), object{}).want(http.StatusOK).body, object{"total_count": 1})
	b.call(http.MethodPost, onGateway(id, "tags", "delete"), tags).want(http.StatusNoContent)
	wantMembers(t, b.call(http.MethodGet, onGateway(id), nil).at("p2c_vpn_gateway"), object{"tags": []object{}, "status": "ACTIVE"})
	b.call(http.MethodGet, onGateway(vpcID, "tags"), nil).wantError(404, "VPN.0509", "")
}

func TestClientConnections(t *testing.T) {
	b := newBench(t)
	_, gateway := b.createServer()
	idle := b.call(http.MethodGet, onGateway(gateway, "connections"), nil).want(http.StatusOK) // no node runs its server
	wantMembers(t, idle.body, object{"total_count": 0, "connections": []object{}})
	at := b.now
	b.engines.clients = map[string][]control.ClientConnection{gateway: nil}
	for i, id := range []string{"old", "b", "a"} {
		established := at
		if i == 0 {
			established = at.Add(-time.Minute)
		}
		b.engines.clients[gateway] = append(b.engines.clients[gateway], control.ClientConnection{
			ID: id, VirtualIP: netip.MustParseAddr("172.21.0.5"), VirtualIPv6: netip.MustParseAddr("fd00:8::5"), ClientKey: "00ff", Remote: netip.MustParseAddrPort("198.51.100.9:50000"), User: "1111",
			Inbound: control.Traffic{Packets: 13, Octets: 4185}, Outbound: control.Traffic{Packets: 24, Octets: 10480},
			Established: established, Sampled: at,
		})
	}
	all := b.call(http.MethodGet, onGateway(gateway, "connections"), nil).want(http.StatusOK)
	wantMembers(t, all.body, object{"total_count": 3})
	wantMembers(t, all.list("connections")[2], object{
		"connection_id": "old", "client_virtual_ip": "172.21.0.5", "client_virtual_ip_v6": "fd00:8::5", "client_key_id": "00ff", "client_ip": "198.51.100.9", "client_user_name": "1111",
		"inbound_packets": 13, "outbound_packets": 24, "inbound_bytes": 4185, "outbound_bytes": 10480,
		"connection_established_time": control.FormatTime(at.Add(-time.Minute)), "timestamp": at.Format("2006-01-02T15:04:05Z"),
	})
	for query, want := range map[string]string{
		"": "a b old", "limit=2": "a b", "limit=2&offset=2": "old", "offset=1": "b old", "limit=5&offset=3": "", "offset=99": "",
	} {
		a := b.call(http.MethodGet, onGateway(gateway, "connections")+"?"+query, nil).want(http.StatusOK)
		var ids []string
		for _, c := range a.list("connections") {
			ids = append(ids, c.(object)["connection_id"].(string))
		}
		if got := strings.Join(ids, " "); got != want || a.at("total_count") != 3.0 {
			t.Errorf("%q: got %q of %v, want %q", query, got, a.at("total_count"), want)
		}
	}
	wantMembers(t, b.call(http.MethodGet, onGateway(gateway), nil).at("p2c_vpn_gateway"), object{"current_connection_number": 3})

	a := b.call(http.MethodPost, onGateway(gateway, "connections", "old", "disconnect"), nil).want(http.StatusOK)
	if len(a.body) != 1 {
		t.Errorf("the answer has more than request_id: %s", a.Text)
	}
	b.call(http.MethodPost, onGateway(gateway, "connections", "old", "disconnect"), nil).wantError(404, "VPN.0563", "The connection does not exists.")
	b.call(http.MethodPost, onGateway(vpcID, "connections", "a", "disconnect"), nil).wantError(404, "VPN.0509", "")
	b.call(http.MethodGet, onGateway(vpcID, "connections"), nil).wantError(404, "VPN.0509", "")
}

func TestLogConfig(t *testing.T) {
	b := newBench(t)
	id := b.createP2CGateway()
	config := object{"log_group_id": logGroup, "log_stream_id": logStream}
	wantMembers(t, b.call(http.MethodGet, onGateway(id, "log-config"), nil).want(http.StatusOK).body, object{"log_config": object{}})
	b.call(http.MethodDelete, onGateway(id, "log-config"), nil).want(http.StatusNoContent)
	a := b.call(http.MethodPut, onGateway(id, "log-config"), object{"log_config": config}).want(http.StatusOK)
	wantMembers(t, a.body, object{"log_config": config})
	wantMembers(t, b.call(http.MethodGet, onGateway(id, "log-config"), nil).want(http.StatusOK).body, object{"log_config": config})
	wantMembers(t, b.call(http.MethodGet, onGateway(id), nil).at("p2c_vpn_gateway"), object{"status": "ACTIVE"})
	b.call(http.MethodPut, onGateway(id, "log-config"), object{"log_config": with(config, "log_stream_id", logGroup)}).
		wantError(400, "VPN.0001", "log_stream_id: there is no log stream")
	b.call(http.MethodDelete, onGateway(id, "log-config"), nil).want(http.StatusNoContent)
	wantMembers(t, b.call(http.MethodGet, onGateway(id, "log-config"), nil).want(http.StatusOK).body, object{"log_config": object{}})
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		b.call(method, onGateway(vpcID, "log-config"), nil).wantError(404, "VPN.0509", "")
	}
	b.call(http.MethodPut, onGateway(vpcID, "log-config"), object{"log_config": config}).wantError(404, "VPN.0509", "")
}

func TestClientCAsOfAServer(t *testing.T) {
	b := newBench(t)
	server, gateway := b.createServer()
	ca := certtest.New(t, "clients")
	body := func(name, content string) object {
		return object{"client_ca_certificate": with(object{"content": content}, "name", name)}
	}
	checked := b.call(http.MethodPost, onServerID("client-ca-certificates", "check"), body("ca", ca.PEM())).want(http.StatusOK)
	details := object{
		"name": "ca", "issuer": "C=CN,O=acme,CN=clients", "subject": "C=CN,O=acme,CN=clients", "serial_number": "4711",
		"expiration_time": "2027-11-23T12:00:00Z", "signature_algorithm": "SHA256WITHECDSA",
	}
	wantMembers(t, checked.body, details)
	if len(checked.body) != len(details) {
		t.Errorf("the answer to a check is %s", checked.Text)
	}
	id := b.call(http.MethodPost, onServerID(server, "client-ca-certificates"), body("ca", ca.PEM())).want(http.StatusCreated).text("client_ca_certificate", "id")
	target := onServerID(server, "client-ca-certificates", id)
	shown := b.call(http.MethodGet, target, nil).want(http.StatusOK)
	wantMembers(t, shown.at("client_ca_certificate"), with(details, "id", id))
	b.call(http.MethodPut, target, body("new-name", ca.PEM())).want(http.StatusOK)
	list := b.call(http.MethodGet, onGateway(gateway, "vpn-servers"), nil).want(http.StatusOK)
	cas := list.list("vpn_servers")[0].(object)["client_ca_certificates"].([]any)
	wantMembers(t, cas[0], object{"id": id, "name": "new-name"})
	if strings.Contains(list.Text, "BEGIN CERTIFICATE") {
		t.Errorf("the answer has the certificate itself: %s", list.Text)
	}
	b.call(http.MethodPost, onServerID(server, "client-ca-certificates"), body("again", ca.PEM())).wantError(400, "VPN.0077", "Duplicate certificate: again.")
	b.call(http.MethodDelete, target, nil).want(http.StatusNoContent)
	b.call(http.MethodDelete, target, nil).wantError(404, "VPN.1115", "Client CA certificate "+id+" does not exist.")
	b.call(http.MethodGet, target, nil).wantError(404, "VPN.1115", "")
	b.call(http.MethodPost, onServerID(vpcID, "client-ca-certificates"), body("ca", ca.PEM())).wantError(404, "VPN.1116", "The server does not exist.")
}

func TestServerFromCreationToDeletion(t *testing.T) {
	b := newBench(t)
	gateway := b.createP2CGateway()
	ca := certtest.New(t, "clients")
	a := b.call(http.MethodPost, onGateway(gateway, "vpn-servers"), serverBody(with(smallestServer(),
		"client_auth_type", "CERT", "server_certificate", object{"id": ccmID}, "client_ca_certificates", []object{{"content": ca.PEM()}},
		"ssl_options", object{"encryption_algorithm": "AES-256-GCM", "port": 1194}, "dns_servers", []string{"10.10.0.53"}))).want(http.StatusCreated)
	id := a.text("vpn_server", "id")
	list := b.call(http.MethodGet, onGateway(gateway, "vpn-servers"), nil).want(http.StatusOK)
	server, _ := list.list("vpn_servers")[0].(object)
	wantMembers(t, list.body, object{"total_count": 1, "page_info": object{"current_count": 1}})
	wantMembers(t, server, object{
		"id": id, "p2c_vgw_id": gateway, "client_cidr": "172.21.0.0/24", "local_subnets": []string{"192.168.0.0/24"}, "client_auth_type": "CERT",
		"tunnel_protocol": "SSL", "dns_servers": []string{"10.10.0.53"}, "status": "PENDING_CREATE",
		"server_certificate": object{
			"id": ccmID, "name": "vpn", "source": "CCM", "issuer": "C=CN,O=acme,CN=root", "subject": "C=CN,O=acme,CN=vpn.acme.example", "serial_number": "4711",
			"expiration_time": "2027-11-23T12:00:00Z", "signature_algorithm": "SHA256WITHECDSA",
		},
		"ssl_options": object{
			"protocol": "TCP", "port": 1194, "encryption_algorithm": "AES-256-GCM", "authentication_algorithm": "SHA384", "is_compressed": false,
		},
	})
	if name := server["client_ca_certificates"].([]any)[0].(object)["name"].(string); !regexp.MustCompile(`^ca-cert-[0-9a-f]{4}$`).MatchString(name) {
		t.Errorf("generated name is %q", name)
	}
	update := serverBody(object{"ssl_options": object{"port": 443}})
	b.call(http.MethodPut, onServerID(id), update).wantError(400, "VPN.1113", "being created")
	b.settleServer(id, control.ServerStatus{Observed: 1, AppliedAt: b.now})
	a = b.call(http.MethodPut, onServerID(id), update).want(http.StatusOK)
	if len(a.body) != 1 {
		t.Errorf("the answer has more than request_id: %s", a.Text)
	}
	b.call(http.MethodPut, onServerID(id), update).wantError(400, "VPN.1114", "being updated")
	b.settleServer(id, control.ServerStatus{Observed: 2, AppliedAt: b.now})
	all := b.call(http.MethodGet, path("vpn-servers"), nil).want(http.StatusOK)
	wantMembers(t, all.list("vpn_servers")[0], object{"id": id, "status": "ACTIVE"})
	wantMembers(t, all.list("vpn_servers")[0].(object)["ssl_options"], object{"port": 443, "encryption_algorithm": "AES-256-GCM"})
	wantMembers(t, all.body, object{"total_count": 1})
	b.call(http.MethodPost, onGateway(gateway, "vpn-servers"), serverBody(smallestServer())).wantError(400, "VPN.1102", "")
	b.call(http.MethodGet, onGateway(vpcID, "vpn-servers"), nil).wantError(404, "VPN.0509", "")
	b.call(http.MethodPut, onServerID(vpcID), update).wantError(404, "VPN.1116", "")

	b.call(http.MethodDelete, onGateway(gateway), nil).want(http.StatusNoContent)
	b.call(http.MethodPut, onServerID(id), update).wantError(400, "VPN.0508", "")
	check(t, b.objects.FinalizeP2CGateway(t.Context(), project, gateway))
	if l := b.call(http.MethodGet, path("vpn-servers"), nil).want(http.StatusOK).list("vpn_servers"); len(l) != 0 {
		t.Errorf("left are %v", l)
	}
	b.call(http.MethodPut, onServerID(id), update).wantError(404, "VPN.1116", "")
}

// Members with codes of their own may be null: it means that they are missing.
func TestServerWithoutWhatIsRequired(t *testing.T) {
	b := newBench(t)
	gateway := b.createP2CGateway()
	for _, test := range []struct {
		body, code string
	}{
		{`{"vpn_server":{"client_cidr":"172.21.0.0/24","local_subnets":null,"server_certificate":{"source":"SERVICE_SIGN"}}}`, "VPN.1118"},
		{`{"vpn_server":{"client_cidr":"172.21.0.0/24","local_subnets":["192.168.0.0/24"],"server_certificate":null}}`, "VPN.1100"},
		{`{"vpn_server":{"client_cidr":"172.21.0.0/24","local_subnets":["192.168.0.0/24"],"server_certificate":{}}}`, "VPN.1100"},
		{`{"vpn_server":{"client_cidr":"","local_subnets":["192.168.0.0/24"],"server_certificate":{}}}`, "VPN.0001"},
		{`{"vpn_server":{}}`, "VPN.0001"},
	} {
		b.call(http.MethodPost, onGateway(gateway, "vpn-servers"), test.body).wantError(400, test.code, "")
	}
}

func TestProfileIsExported(t *testing.T) {
	b := newBench(t)
	id, _ := b.createServer()
	target := onServerID(id, "client-config", "export")
	a := b.call(http.MethodPost, target, nil).want(http.StatusOK)
	if len(a.body) != 1 {
		t.Errorf("the answer has more than client_config: %s", a.Text)
	}
	for _, system := range []string{"Windows", "Linux", "MacOS", "Android", "iOS"} {
		other := b.call(http.MethodPost, target, object{"os_type": system}).want(http.StatusOK)
		if other.text("client_config") != a.text("client_config") {
			t.Errorf("the profile for %s is another one", system)
		}
	}
	if p := a.text("client_config"); !strings.Contains(p, "\nremote 203.0.113.12 443\n") {
		t.Errorf("profile %s", p)
	}
	b.call(http.MethodPost, target, object{"os_type": "BeOS"}).wantError(400, "VPN.0001", "os_type")
	b.call(http.MethodPost, onServerID(vpcID, "client-config", "export"), nil).wantError(404, "VPN.1116", "")
}

// A create that is sent again with its token makes nothing new.
func TestP2CClientTokens(t *testing.T) {
	b := newBench(t)
	send := func(target string, body any) *answer {
		r, content := request(t, http.MethodPost, target, body)
		r.Header.Set(headerClientToken, "0d9e1c5e-1b0e-4bd1-8d05-aaaaaaaaaaaa")
		b.now = b.now.Add(time.Second)
		signRequest(r, content, "admin", testSecret+"admin", b.now)
		return b.send(r)
	}
	first := send(path("p2c-vpn-gateways"), p2c(smallestP2CGateway())).want(http.StatusCreated).text("p2c_vpn_gateway", "id")
	again := send(path("p2c-vpn-gateways"), p2c(smallestP2CGateway())).want(http.StatusCreated).text("p2c_vpn_gateway", "id")
	if first != again {
		t.Errorf("two gateways were made: %s and %s", first, again)
	}
	send(path("p2c-vpn-gateways"), p2c(with(smallestP2CGateway(), "name", "other"))).wantError(400, "VPN.0031", "")
}
