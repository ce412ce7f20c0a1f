package api

import (
	"net/http"
	"strings"
	"testing"
)

func TestPeerConfiguration(t *testing.T) {
	b := newBench(t)
	connection, _, _ := b.createConnection()
	export := func(id string, body any) *answer {
		return b.call(http.MethodPost, path("vpn-connection", id, "peer-configuration", "export"), body)
	}
	devices := b.call(http.MethodGet, path("peer-configuration", "supported-devices"), nil).want(http.StatusOK).list("supported_devices")
	if len(devices) < 4 {
		t.Errorf("%d devices", len(devices))
	}
	for _, d := range devices {
		device := d.(object)
		if device["platform"] != device["type"] {
			t.Errorf("device %v", device)
		}
		text := export(connection, device).want(http.StatusOK).text("peer_config")
		for _, want := range []string{"203.0.113.10", "198.51.100.7", "<PRE-SHARED KEY>"} {
			if !strings.Contains(text, want) {
				t.Errorf("%v: no %s in\n%s", device, want, text)
			}
		}
	}
	swan := object{"vendor": "strongSwan", "type": "swanctl", "model": "Linux", "version": "5.9"}
	export(vpcID, swan).wantError(http.StatusNotFound, "VPN.0004", "")
	for _, test := range []struct {
		body    any
		message string
	}{
		{nil, "body: is required"},
		{object{}, "is required"},
		{with(swan, "model", nil), "model: is required"},
		{with(swan, "vendor", ""), "vendor: must have 1 to 64 characters"},
		{with(swan, "version", strings.Repeat("5", 65)), "version: must have 1 to 64 characters"},
		{with(swan, "version", 5), "version: must be of type string"},
		{with(swan, "version", strings.Repeat("5", 64)), "vendor: with type, model and version it must be one of the supported devices"},
	} {
		export(connection, test.body).wantError(http.StatusBadRequest, "VPN.0001", test.message)
	}
}
