package api

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/vpngw/vpngw/control"
)

func TestMonitorFromCreationToDeletion(t *testing.T) {
	b := newBench(t)
	connection, _, _ := b.createConnection()
	create := func() *answer {
		return b.call(http.MethodPost, path("connection-monitors"), object{"connection_monitor": object{"vpn_connection_id": connection}})
	}
	made := create().want(http.StatusCreated)
	id := made.text("connection_monitor", "id")
	monitor := object{
		"id": id, "vpn_connection_id": connection, "type": "gateway", "proto_type": "icmp",
		"source_ip": "203.0.113.10", "destination_ip": "198.51.100.7",
	}
	if got := encoded(t, made.at("connection_monitor")); got != encoded(t, monitor) {
		t.Errorf("created %s, want %s", got, encoded(t, monitor))
	}
	create().wantError(http.StatusBadRequest, "VPN.0001", "vpn_connection_id: connection "+connection+" has monitor "+id+" already")
	show := func() *answer { return b.call(http.MethodGet, path("connection-monitors", id), nil) }
	wantMembers(t, show().want(http.StatusOK).at("connection_monitor"), object{"status": "PENDING_CREATE"})
	check(t, b.objects.SetMonitorStatus(t.Context(), project, id, control.MonitorStatus{Observed: 1}))
	if got, want := encoded(t, show().at("connection_monitor")), encoded(t, with(monitor, "status", "ACTIVE")); got != want {
		t.Errorf("shown %s, want %s", got, want)
	}
	for query, want := range map[string]int{
		"": 1, "vpn_connection_id=" + connection: 1, "vpn_connection_id=x": 0, "enterprise_project_id=0": 1,
		"enterprise_project_id=a": 0, "enterprise_project_id=a&enterprise_project_id=0": 1,
	} {
		if l := b.call(http.MethodGet, path("connection-monitors?"+query), nil).want(http.StatusOK).list("connection_monitors"); len(l) != want {
			t.Errorf("%q: got %d, want %d", query, len(l), want)
		}
	}
	shown := b.call(http.MethodGet, path("vpn-connection", connection), nil).want(http.StatusOK)
	wantMembers(t, shown.at("vpn_connection"), object{"connection_monitor_id": id, "status": "DOWN"})
	changed := b.call(http.MethodPut, path("vpn-connection", connection), vpn(object{"name": "new"})).want(http.StatusOK)
	wantMembers(t, changed.at("vpn_connection"), object{"connection_monitor_id": id})
	b.report(connection, control.ConnectionStatus{State: control.ConnectionDown})

	b.call(http.MethodDelete, path("connection-monitors", id), nil).want(http.StatusNoContent)
	wantMembers(t, show().want(http.StatusOK).at("connection_monitor"), object{"status": "PENDING_DELETE"})
	b.call(http.MethodDelete, path("connection-monitors", id), nil).
		wantError(http.StatusForbidden, "VPN.0003", "resource (type=CONNECTION_MONITOR, ID="+id+") is not ready, currently DELETING")
	check(t, b.objects.FinalizeMonitor(t.Context(), project, id))
	show().wantError(http.StatusNotFound, "VPN.0004", "")
	b.call(http.MethodDelete, path("connection-monitors", id), nil).wantError(http.StatusNotFound, "VPN.0004", "")
	wantAbsent(t, b.call(http.MethodGet, path("vpn-connection", connection), nil).at("vpn_connection"), "connection_monitor_id")

	// A connection takes its monitor along.
	id = create().want(http.StatusCreated).text("connection_monitor", "id")
	b.call(http.MethodDelete, path("vpn-connection", connection), nil).want(http.StatusNoContent)
	wantMembers(t, show().want(http.StatusOK).at("connection_monitor"), object{"status": "PENDING_DELETE"})
	check(t, b.objects.FinalizeConnection(t.Context(), project, connection))
	show().wantError(http.StatusNotFound, "VPN.0004", "")
	if l := b.call(http.MethodGet, path("connection-monitors"), nil).list("connection_monitors"); len(l) != 0 {
		t.Errorf("left are %v", l)
	}
}

func TestMonitorRefusals(t *testing.T) {
	b := newBench(t)
	connection, _, _ := b.createConnection()
	monitor := func(o any) object { return object{"connection_monitor": o} }
	for _, test := range []struct {
		name    string
		body    any
		status  int
		message string
	}{
		{"no body", nil, 400, "body: is required"},
		{"no object", object{}, 400, "connection_monitor: is required"},
		{"a text", monitor("x"), 400, "connection_monitor: must be of type object"},
		{"no connection", monitor(object{}), 400, "vpn_connection_id: is required"},
		{"a number", monitor(object{"vpn_connection_id": 1}), 400, "vpn_connection_id: must be of type string"},
		{"empty", monitor(object{"vpn_connection_id": ""}), 400, "vpn_connection_id: must have 1 to 64 characters"},
		{"unknown connection", monitor(object{"vpn_connection_id": vpcID}), 404, "resource not found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			code := map[int]string{400: "VPN.0001", 404: "VPN.0004"}[test.status]
			b.call(http.MethodPost, path("connection-monitors"), test.body).wantError(test.status, code, test.message)
		})
	}
	b.t = t
	b.call(http.MethodDelete, path("vpn-connection", connection), nil).want(http.StatusNoContent)
	b.call(http.MethodPost, path("connection-monitors"), monitor(object{"vpn_connection_id": connection})).
		wantError(http.StatusForbidden, "VPN.0003", "resource (type=CONNECTION, ID="+connection+") is not ready, currently DELETING")
}

func TestMonitorsMadeWithConnections(t *testing.T) {
	b := newBench(t)
	gateway := b.createGateway()
	peer := b.call(http.MethodPost, path("customer-gateways"), cgw(object{"id_type": "fqdn", "id_value": "branch.example"})).
		want(http.StatusCreated).text("customer_gateway", "id")
	one := with(smallestConnection(gateway, peer), "enable_health_check", true)
	two := with(one, "vgw_ip", eip2ID)
	made := b.call(http.MethodPost, path("vpn-connections", "batch-create"), object{"vpn_connections": []object{one, two}}).
		want(http.StatusCreated).list("vpn_connections")
	monitors := b.call(http.MethodGet, path("connection-monitors"), nil).want(http.StatusOK).list("connection_monitors")
	if len(monitors) != 2 {
		t.Fatalf("made %d monitors", len(monitors))
	}
	for i, c := range made {
		wantMembers(t, c, object{"enable_health_check": true})
		id := c.(object)["id"].(string)
		shown := b.call(http.MethodGet, path("vpn-connection", id), nil).want(http.StatusOK)
		wantAbsent(t, shown.at("vpn_connection"), "enable_health_check")
		m := monitors[1-i].(object) // the newest first
		wantMembers(t, m, object{"vpn_connection_id": id, "id": shown.text("vpn_connection", "connection_monitor_id")})
		wantAbsent(t, m, "destination_ip") // not learned yet
	}
	id := monitors[0].(object)["id"].(string)
	check(t, b.objects.SetMonitorStatus(t.Context(), project, id, control.MonitorStatus{Observed: 1, Destination: netip.MustParseAddr("192.0.2.7")}))
	wantMembers(t, b.call(http.MethodGet, path("connection-monitors", id), nil).at("connection_monitor"), object{"destination_ip": "192.0.2.7"})
	without := b.call(http.MethodPut, path("vpn-connection", made[0].(object)["id"].(string)), vpn(object{"name": "x"}))
	without.wantError(http.StatusForbidden, "VPN.0003", "CREATING")
}
