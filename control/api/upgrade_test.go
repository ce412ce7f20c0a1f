package api

import (
	"net/http"
	"strings"
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

func TestGatewayCertificate(t *testing.T) {
	b := newBench(t)
	id := b.createGateway()
	full := object{
		"name": "cert-a45b", "certificate": "C", "private_key": testSecret, "certificate_chain": "A", "enc_certificate": "E", "enc_private_key": testSecret,
	}
	create := func(id string, members object) *answer {
		return b.call(http.MethodPost, path("vpn-gateways", id, "certificate"), object{"certificate": members})
	}
	create(id, full).wantError(http.StatusBadRequest, "VPN.0001", "certificate: only a gateway of flavor GM has one, this is Professional1")
	create(vpcID, full).wantError(http.StatusNotFound, "VPN.0004", "")
	for member, most := range map[string]int{
		"certificate": 4096, "private_key": 4096, "certificate_chain": 8192, "enc_certificate": 4096, "enc_private_key": 4096,
	} {
		create(id, with(full, member, nil)).wantError(http.StatusBadRequest, "VPN.0001", member+": is required")
		create(id, with(full, member, "")).wantError(http.StatusBadRequest, "VPN.0001", member+": must have 1 to")
		create(id, with(full, member, strings.Repeat("x", most+1))).wantError(http.StatusBadRequest, "VPN.0001", member+": must have 1 to")
		create(id, with(full, member, strings.Repeat("x", most))).wantError(http.StatusBadRequest, "VPN.0001", "certificate: only a gateway")
	}
	for name, good := range map[string]bool{"ab": false, "abc": true, strings.Repeat("n", 63): true, strings.Repeat("n", 64): false, "a b": false} {
		want := "name: must"
		if good {
			want = "certificate: only a gateway"
		}
		create(id, with(full, "name", name)).wantError(http.StatusBadRequest, "VPN.0001", want)
	}
	b.call(http.MethodGet, path("vpn-gateways", id, "certificate"), nil).wantError(http.StatusNotFound, "VPN.0004", "")
	b.call(http.MethodPut, path("vpn-gateways", id, "certificate", vpcID), object{"certificate": object{"name": "new"}}).
		wantError(http.StatusNotFound, "VPN.0004", "")
	if l := b.call(http.MethodGet, path("vpn-gateway-certificates?pre_expire_days=30"), nil).want(http.StatusOK).list("vpn_gateway_certificates"); len(l) != 0 {
		t.Errorf("certificates are %v", l)
	}
	for query, message := range map[string]string{
		"limit=-1": "limit: must be from 0 to 2000", "pre_expire_days=-1": "pre_expire_days: must be from 0 to 36500",
		"pre_expire_days=36501": "pre_expire_days: must be from 0 to 36500",
	} {
		b.call(http.MethodGet, path("vpn-gateway-certificates?"+query), nil).wantError(http.StatusBadRequest, "VPN.0001", message)
	}
	if strings.Contains(b.log.String(), testSecret) {
		t.Error("the log holds a key")
	}
}
