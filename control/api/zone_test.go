package api

import (
	"net/http"
	"testing"
)

func TestAvailabilityZones(t *testing.T) {
	b := newBench(t)
	both, none := []string{"az1", "az2"}, []string{}
	offered := object{"vpc": both, "er": none}
	zones := b.call(http.MethodGet, path("vpn-gateways", "availability-zones"), nil).want(http.StatusOK)
	if got, want := encoded(t, zones.at("availability_zones")), encoded(t, object{
		"basic": offered, "professional1": offered, "professional2": offered,
		"Professional1-NonFixedIP": offered, "Professional2-NonFixedIP": offered, "gm": offered,
	}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	var specs []object
	for _, flavor := range []string{"Basic", "Professional1", "Professional2", "GM", "Professional1-NonFixedIP", "Professional2-NonFixedIP"} {
		for _, version := range []string{"ipv4", "ipv6"} {
			specs = append(specs, object{"flavor": flavor, "attachment_type": "vpc", "ip_version": version})
		}
	}
	extended := b.call(http.MethodGet, "/v5.1/"+project+"/vpn-gateways/availability-zones", nil).want(http.StatusOK)
	if got, want := encoded(t, extended.at("availability_zones")), encoded(t, []object{
		{"name": "az1", "public_border_group": "center", "available_specs": specs},
		{"name": "az2", "public_border_group": "center", "available_specs": specs},
	}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	b.call(http.MethodGet, "/v5.1/"+project+"/vpn-gateways", nil).wantError(http.StatusNotFound, "VPN.0004", "")
}

// What the zones offer is what a request is not refused for.
func TestOfferedGatewaysCanBeMade(t *testing.T) {
	for _, flavor := range []string{"Basic", "Professional1", "Professional2", "GM", "Professional1-NonFixedIP", "Professional2-NonFixedIP"} {
		for _, version := range []string{"ipv4", "ipv6"} {
			b := newBench(t)
			offered := false
			zones := b.call(http.MethodGet, "/v5.1/"+project+"/vpn-gateways/availability-zones", nil).list("availability_zones")
			for _, spec := range zones[0].(object)["available_specs"].([]any) {
				offered = offered || encoded(t, spec) == encoded(t, object{"flavor": flavor, "attachment_type": "vpc", "ip_version": version})
			}
			create := with(smallestGateway(), "flavor", flavor, "ip_version", version)
			if version == "ipv6" {
				create = with(create, "local_subnets", nil, "local_subnets_v6", []string{"2001:db8::/64"})
			}
			a := b.call(http.MethodPost, path("vpn-gateways"), vgw(create))
			if made := a.Status == http.StatusCreated; made != offered && flavor != "Basic" { // whose bandwidth the EIPs exceed
				t.Errorf("%s with %s: offered %v, made %v: %s", flavor, version, offered, made, a.Text)
			}
		}
	}
}
