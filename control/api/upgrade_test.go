package api

import (
	"net/http"
	"testing"
)

func TestUpgrade(t *testing.T) {
	b := newBench(t)
	id := b.call(http.MethodPost, path("vpn-gateways"), vgw(smallestGateway())).want(http.StatusCreated).text("vpn_gateway", "id")
	upgrade := func(id string, body any) *answer {
		return b.call(http.MethodPost, path("vpn-gateways", id, "upgrade"), body)
	}
	upgrade(id, object{"action": "start"}).wantError(http.StatusForbidden, "VPN.0003", "is not ready, currently CREATING")
	b.applied(id)
	for _, test := range []struct {
		body    any
		message string
	}{
		{object{"action": "start"}, "action: no newer version than that of this gateway is installed"},
		{object{"action": "finish"}, "action: no upgrade of this gateway is under way"},
		{object{"action": "rollback"}, "action: no upgrade of this gateway is under way"},
		{object{"action": "pause"}, "action: must be one of start, finish, rollback"},
		{object{}, "action: is required"},
		{nil, "body: is required"},
	} {
		upgrade(id, test.body).wantError(http.StatusBadRequest, "VPN.0001", "invalid request: "+test.message)
	}
	upgrade(vpcID, object{"action": "start"}).wantError(http.StatusNotFound, "VPN.0004", "")
	shown := b.call(http.MethodGet, path("vpn-gateways", id), nil).want(http.StatusOK)
	wantMembers(t, shown.at("vpn_gateway"), object{"upgrade_info": "unready", "status": "ACTIVE"})

	for _, query := range []string{"", "?resource_id=" + id, "?limit=2000&marker="} {
		if l := b.call(http.MethodGet, path("vpn-gateways", "jobs")+query, nil).want(http.StatusOK).list("jobs"); len(l) != 0 {
			t.Errorf("jobs are %v", l)
		}
	}
	b.call(http.MethodGet, path("vpn-gateways", "jobs?limit=2001"), nil).wantError(http.StatusBadRequest, "VPN.0001", "limit: must be from 0 to 2000")
	b.call(http.MethodDelete, path("vpn-gateways", "jobs", vpcID), nil).wantError(http.StatusNotFound, "VPN.0004", "resource not found")
}
