package api

import (
	"net/http"
	"strings"
	"testing"
)

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
