package api

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"testing"

	"github.com/vpngw/vpngw/control"
)

func TestRoutingTable(t *testing.T) {
	b := newBench(t)
	connection, gateway, _ := b.createConnection()
	show := func(query string) *answer {
		t.Helper()
		return b.call(http.MethodGet, path("vpn-gateways", gateway, "routing-table?"+query), nil)
	}
	if a := show("").want(http.StatusOK); len(a.list("routing_table")) != 0 || a.body["total_count"] != 0.0 {
		t.Errorf("routes before any is in force: %s", a.Text)
	}
	check(t, b.objects.SetGatewayStatus(t.Context(), project, gateway, control.GatewayStatus{
		Observed: everyGeneration, AppliedAt: b.now, Routes: []control.LocalRoute{
			{Destination: netip.MustParsePrefix("192.168.0.0/24"), Address: netip.MustParseAddr("192.168.0.240")},
			{Destination: netip.MustParsePrefix("192.168.1.0/24")},
		},
	}))
	b.report(connection, control.ConnectionStatus{
		State: control.ConnectionActive, Routes: []netip.Prefix{netip.MustParsePrefix("172.16.0.0/24"), netip.MustParsePrefix("172.16.0.0/16")},
	})
	shown := b.call(http.MethodGet, path("vpn-connection", connection), nil).want(http.StatusOK)
	host := func(member string) string {
		return netip.MustParsePrefix(shown.text("vpn_connection", member)).Addr().String()
	}
	tunnel := object{
		"nexthop": host("tunnel_peer_address"), "outbound_interface_ip": host("tunnel_local_address"),
		"nexthop_resource": object{"id": connection, "type": "vpn_connection"},
	}
	local := object{"nexthop_resource": object{"id": gateway, "type": "vpn_gateway"}}
	want := []object{
		with(tunnel, "destination", "172.16.0.0/16"),
		with(tunnel, "destination", "172.16.0.0/24"),
		with(local, "destination", "192.168.0.0/24", "nexthop", "192.168.0.240", "outbound_interface_ip", "192.168.0.240"),
		with(local, "destination", "192.168.1.0/24"),
	}
	all := show("").want(http.StatusOK)
	if got := encoded(t, all.at("routing_table")); got != encoded(t, want) {
		t.Errorf("got %s, want %s", got, encoded(t, want))
	}
	wantMembers(t, all.body, object{"total_count": 4, "page_info": object{"current_count": 4}})

	for query, destinations := range map[string][]int{
		"limit=0": {}, "limit=2": {0, 1}, "limit=2000": {0, 1, 2, 3}, "offset=1": {1, 2, 3}, "offset=3&limit=5": {3},
		"offset=4": {}, "offset=2147483647": {}, "offset=1&limit=1": {1}, "marker=": {0, 1, 2, 3},
		"marker=172.16.0.0/24@" + connection: {2, 3}, "marker=172.16.0.0/24@" + connection + "&offset=1&limit=1": {3},
		// The route of the marker need not be there any more.
		"marker=172.31.0.0/24@x": {2, 3},
	} {
		var got []int
		for _, r := range show(query).want(http.StatusOK).list("routing_table") {
			got = append(got, slices.IndexFunc(want, func(w object) bool { return w["destination"] == r.(object)["destination"] }))
		}
		if !slices.Equal(got, destinations) {
			t.Errorf("%s: got routes %v, want %v", query, got, destinations)
		}
	}
	var walked int
	for marker, pages := "", 0; ; pages++ {
		a := show("limit=3&marker=" + marker).want(http.StatusOK)
		walked += len(a.list("routing_table"))
		if marker = a.text("page_info", "next_marker"); marker == "" {
			if pages != 1 {
				t.Errorf("the table of 4 has %d pages more than one", pages)
			}
			break
		}
	}
	if walked != 4 {
		t.Errorf("walked over %d routes", walked)
	}
	wantAbsent(t, show("is_include_nexthop_resource=false").want(http.StatusOK).list("routing_table")[0], "nexthop_resource")

	for query, message := range map[string]string{
		"limit=-1": "limit: must be from 0 to 2000", "limit=2001": "limit: must be from 0 to 2000", "limit=x": "limit: cannot be read as integer",
		"offset=-1": "offset: must be from 0 to 2147483647", "offset=2147483648": "offset: must be from 0 to 2147483647",
		"marker=x": "marker: must be the next_marker of the page before", "marker=10.0.0.0/8": "marker: must be the next_marker",
		"marker=" + fmt.Sprintf("%0129d", 0): "marker: must have at most 128 characters",
		"is_include_nexthop_resource=maybe":  "is_include_nexthop_resource: cannot be read as boolean",
	} {
		show(query).wantError(http.StatusBadRequest, "VPN.0001", message)
	}
	b.call(http.MethodGet, path("vpn-gateways", vpcID, "routing-table"), nil).wantError(http.StatusNotFound, "VPN.0004", "")
}
