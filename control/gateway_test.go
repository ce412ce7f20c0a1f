package control

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCreateGatewayDefaults(t *testing.T) {
	w := newWorld(t)
	v, err := w.CreateGateway(t.Context(), project, gatewayRequest())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(v.Name, "vpngw-") || len(v.Name) != len("vpngw-")+4 {
		t.Errorf("name %q, want vpngw- and four digits", v.Name)
	}
	if v.NetworkType != NetworkPublic || v.AttachmentType != AttachVPC || v.IPVersion != IPv4 || v.Flavor != FlavorProfessional1 ||
		v.HAMode != ActiveActive || v.BGPASN != 64512 || v.EnterpriseProjectID != "0" {
		t.Errorf("defaults are %+v", v.Gateway)
	}
	if v.AccessVPCID != vpcID || v.AccessSubnetID != subnetID || !slices.Equal(v.AvailabilityZones, []string{"az1", "az2"}) {
		t.Errorf("access %s %s, zones %v", v.AccessVPCID, v.AccessSubnetID, v.AvailabilityZones)
	}
	if v.EIPs[0].Address != netip.MustParseAddr("203.0.113.1") || v.EIPs[1].ID != eip2 || v.EIPs[0].Type != "5_bgp" || v.EIPs[0].BandwidthMbps != 300 {
		t.Errorf("EIPs are %+v", v.EIPs)
	}
	if !isUUID36(v.ID) || v.Project != project || v.Generation != 1 || FormatTime(v.CreatedAt) != "2026-11-23T10:00:00.123Z" {
		t.Errorf("meta is %+v", v.Meta)
	}
	if v.State != GatewayPendingCreate || v.ConnectionLimit != 200 || v.UsedConnections != 0 || v.UsedGroups != 0 {
		t.Errorf("view is %+v", v)
	}
	if !slices.Equal(v.SupportedFlavors, []Flavor{FlavorProfessional2}) {
		t.Errorf("supported flavors %v; Basic allows less than the bandwidth bound", v.SupportedFlavors)
	}
}

func TestCreateGatewayRules(t *testing.T) {
	private := func(r *GatewayCreate) {
		r.NetworkType, r.EIP1, r.EIP2 = new("private"), nil, nil
		r.AccessPrivateIP1, r.AccessPrivateIP2 = new("10.10.0.10"), new("10.10.0.11")
	}
	er := func(r *GatewayCreate) {
		r.AttachmentType, r.ERID, r.LocalSubnets = new("er"), new("er-1"), nil
	}
	newEIP := func(size int) *EIPRequest { return &EIPRequest{Type: new("5_bgp"), BandwidthSize: &size} }
	cidrs := func(n int) []string {
		return many(n, func(i int) string { return fmt.Sprintf("10.30.%d.0/24", i) })
	}
	tags := func(n int) []Tag {
		return many(n, func(i int) Tag { return Tag{Key: fmt.Sprint("k", i)} })
	}
	for _, test := range []struct {
		name  string
		edit  func(*GatewayCreate)
		field string // empty: accepted
		why   string
	}{
		{"name as long as allowed", func(r *GatewayCreate) { r.Name = new(strings.Repeat("网", 64)) }, "", ""},
		{"name too long", func(r *GatewayCreate) { r.Name = new(strings.Repeat("a", 65)) }, "name", "1 to 64"},
		{"name empty", func(r *GatewayCreate) { r.Name = new("") }, "name", "1 to 64"},
		{"name with a blank", func(r *GatewayCreate) { r.Name = new("a b") }, "name", "letters"},
		{"name with all that is allowed", func(r *GatewayCreate) { r.Name = new("aZ0_-.龥一") }, "", ""},
		{"network type", func(r *GatewayCreate) { r.NetworkType = new("Public") }, "network_type", "public, private"},
		{"attachment type", func(r *GatewayCreate) { r.AttachmentType = new("vpn") }, "attachment_type", "vpc, er"},
		{"IP version", func(r *GatewayCreate) { r.IPVersion = new("6") }, "ip_version", "ipv4, ipv6"},
		{"high availability mode", func(r *GatewayCreate) { r.HAMode = new("active") }, "ha_mode", "active-standby"},
		{"active-standby", func(r *GatewayCreate) { r.HAMode = new("active-standby") }, "", ""},
		{"flavor of answers only", func(r *GatewayCreate) { r.Flavor = new("v300") }, "flavor", "must be one of"},
		{"flavor of the SDK only", func(r *GatewayCreate) { r.Flavor = new("Professional3") }, "flavor", "must be one of"},
		{"flavor below the EIP's bandwidth", func(r *GatewayCreate) { r.Flavor = new("Basic") }, "eip1.id", "allows 100"},
		{"flavor Professional2", func(r *GatewayCreate) { r.Flavor = new("Professional2") }, "", ""},
		{"flavor Basic on private", func(r *GatewayCreate) { private(r); r.Flavor = new("Basic") }, "flavor", "private"},
		{"flavor Basic on er", func(r *GatewayCreate) { er(r); r.Flavor = new("Basic") }, "flavor", "er"},
		{"ASN zero", func(r *GatewayCreate) { r.BGPASN = new(int64(0)) }, "bgp_asn", "1 to 4294967295"},
		{"ASN lowest", func(r *GatewayCreate) { r.BGPASN = new(int64(1)) }, "", ""},
		{"ASN highest", func(r *GatewayCreate) { r.BGPASN = new(int64(4294967295)) }, "", ""},
		{"ASN too high", func(r *GatewayCreate) { r.BGPASN = new(int64(4294967296)) }, "bgp_asn", "1 to 4294967295"},
		{"enterprise project by id", func(r *GatewayCreate) { r.EnterpriseProjectID = new(nobody) }, "", ""},
		{"enterprise project malformed", func(r *GatewayCreate) { r.EnterpriseProjectID = new("1") }, "enterprise_project_id", "UUID"},

		{"id empty", func(r *GatewayCreate) { r.VPCID = new("") }, "vpc_id", "1 to 64"},
		{"id too long", func(r *GatewayCreate) { r.VPCID = new(strings.Repeat("a", 65)) }, "vpc_id", "1 to 64"},
		{"no VPC", func(r *GatewayCreate) { r.VPCID = nil }, "vpc_id", "required"},
		{"unknown VPC", func(r *GatewayCreate) { r.VPCID = new(nobody) }, "vpc_id", "there is no VPC"},
		{"no subnet", func(r *GatewayCreate) { r.ConnectSubnet = nil }, "connect_subnet", "required"},
		{"unknown subnet", func(r *GatewayCreate) { r.ConnectSubnet = new(nobody) }, "connect_subnet", "has no subnet"},
		{"subnet of another VPC", func(r *GatewayCreate) { r.ConnectSubnet = new(otherNet) }, "connect_subnet", "has no subnet"},
		{"router with vpc", func(r *GatewayCreate) { r.ERID = new("er-1") }, "er_id", "absent"},
		{"er without router", func(r *GatewayCreate) { er(r); r.ERID = nil }, "er_id", "required"},
		{"er without access VPC", func(r *GatewayCreate) { er(r); r.VPCID, r.ConnectSubnet = nil, nil }, "access_vpc_id", "required"},
		{"er without access subnet", func(r *GatewayCreate) { er(r); r.ConnectSubnet = nil }, "access_subnet_id", "required"},
		{"er with local subnets", func(r *GatewayCreate) { er(r); r.LocalSubnets = cidrs(1) }, "local_subnets", "absent"},
		{"access VPC", func(r *GatewayCreate) { r.AccessVPCID, r.AccessSubnetID = new(otherVPC), new(otherNet) }, "", ""},
		{"access VPC without subnet", func(r *GatewayCreate) { r.AccessVPCID = new(otherVPC) }, "access_subnet_id", "required"},
		{"access VPC unknown", func(r *GatewayCreate) { r.AccessVPCID, r.AccessSubnetID = new(nobody), new(otherNet) }, "access_vpc_id", "there is no VPC"},
		{"access subnet of another VPC", func(r *GatewayCreate) { r.AccessSubnetID = new(otherNet) }, "access_subnet_id", "has no subnet"},

		{"no local subnets", func(r *GatewayCreate) { r.LocalSubnets = nil }, "local_subnets", "required"},
		{"empty local subnets", func(r *GatewayCreate) { r.LocalSubnets = []string{} }, "local_subnets", "required"},
		{"local subnets of the other family", func(r *GatewayCreate) { r.LocalSubnetsV6 = []string{"2001:db8::/32"} }, "local_subnets_v6", "absent"},
		{"50 local subnets", func(r *GatewayCreate) { r.LocalSubnets = cidrs(50) }, "", ""},
		{"51 local subnets", func(r *GatewayCreate) { r.LocalSubnets = cidrs(51) }, "local_subnets", "at most 50"},
		{"local subnet with host bits", func(r *GatewayCreate) { r.LocalSubnets = []string{"10.10.0.1/24"} }, "local_subnets[0]", "10.10.0.0/24"},
		{"local subnet malformed", func(r *GatewayCreate) { r.LocalSubnets = []string{"10.0.0.0/24", "10.10.0.0"} }, "local_subnets[1]", "IPv4 network"},
		{"local subnet of IPv6", func(r *GatewayCreate) { r.LocalSubnets = []string{"2001:db8::/32"} }, "local_subnets[0]", "IPv4 network"},
		{"local subnet twice", func(r *GatewayCreate) { r.LocalSubnets = []string{"10.10.0.0/24", "10.10.0.0/24"} }, "local_subnets[1]", "twice"},

		{"two zones", func(r *GatewayCreate) { r.AvailabilityZoneIDs = []string{"az3", "az1"} }, "", ""},
		{"one zone of several", func(r *GatewayCreate) { r.AvailabilityZoneIDs = []string{"az1"} }, "availability_zone_ids", "exactly 2"},
		{"three zones", func(r *GatewayCreate) { r.AvailabilityZoneIDs = []string{"az1", "az2", "az3"} }, "availability_zone_ids", "exactly 2"},
		{"one zone twice", func(r *GatewayCreate) { r.AvailabilityZoneIDs = []string{"az1", "az1"} }, "availability_zone_ids[1]", "unique"},
		{"unknown zone", func(r *GatewayCreate) { r.AvailabilityZoneIDs = []string{"az1", "az9"} }, "availability_zone_ids[1]", "az1, az2, az3"},

		{"no second EIP", func(r *GatewayCreate) { r.EIP2 = nil }, "eip2", "required"},
		{"unknown EIP", func(r *GatewayCreate) { r.EIP1.ID = new(nobody) }, "eip1.id", "there is no EIP"},
		{"one EIP twice", func(r *GatewayCreate) { r.EIP2.ID = new(eip1) }, "eip2.id", "bound"},
		{"EIP by id and more", func(r *GatewayCreate) { r.EIP1.Type = new("5_bgp") }, "eip1.id", "alone"},
		{"EIP of more bandwidth than the flavor", func(r *GatewayCreate) { r.EIP1.ID = new(eipFast) }, "eip1.id", "allows 300"},
		{"new EIP", func(r *GatewayCreate) { r.EIP1 = newEIP(300) }, "", ""},
		{"new EIP above the flavor", func(r *GatewayCreate) { r.EIP1 = newEIP(301) }, "eip1.bandwidth_size", "at most 300"},
		{"new EIP above all", func(r *GatewayCreate) { r.EIP1 = newEIP(1001) }, "eip1.bandwidth_size", "1 to 1000"},
		{"new EIP of no bandwidth", func(r *GatewayCreate) { r.EIP1 = newEIP(0) }, "eip1.bandwidth_size", "1 to 1000"},
		{"new EIP without type", func(r *GatewayCreate) { r.EIP1 = newEIP(5); r.EIP1.Type = nil }, "eip1.type", "required"},
		{"new EIP of unknown type", func(r *GatewayCreate) { r.EIP1 = newEIP(5); r.EIP1.Type = new("5_ip") }, "eip1.type", "5_bgp"},
		{"new EIP of a type there is none of", func(r *GatewayCreate) { r.EIP1 = newEIP(5); r.EIP1.Type = new("5_youxuanbgp") }, "eip1", "no free EIP"},
		{"new EIP without bandwidth", func(r *GatewayCreate) { r.EIP1 = newEIP(5); r.EIP1.BandwidthSize = nil }, "eip1.bandwidth_size", "required"},
		{"new EIP, unknown charge mode", func(r *GatewayCreate) { r.EIP1 = newEIP(5); r.EIP1.ChargeMode = new("free") }, "eip1.charge_mode", "traffic"},
		{"new EIP, bad bandwidth name", func(r *GatewayCreate) { r.EIP1 = newEIP(5); r.EIP1.BandwidthName = new("a b") }, "eip1.bandwidth_name", "letters"},
		{"new EIP of shared bandwidth", func(r *GatewayCreate) {
			r.EIP1 = &EIPRequest{Type: new("5_sbgp"), BandwidthID: new(sharedID), ChargeMode: new("ignored")}
		}, "", ""},
		{"new EIP of unknown shared bandwidth", func(r *GatewayCreate) {
			r.EIP1 = &EIPRequest{Type: new("5_sbgp"), BandwidthID: new(nobody)}
		}, "eip1", "no free EIP"},
		{"private without EIPs", private, "", ""},
		{"private ignores EIPs", func(r *GatewayCreate) { private(r); r.EIP1 = &EIPRequest{ID: new(nobody)} }, "", ""},
		{"one private address", func(r *GatewayCreate) { private(r); r.AccessPrivateIP2 = nil }, "access_private_ip_1", "together"},
		{"equal private addresses", func(r *GatewayCreate) { private(r); r.AccessPrivateIP2 = r.AccessPrivateIP1 }, "access_private_ip_2", "differ"},
		{"private address malformed", func(r *GatewayCreate) { private(r); r.AccessPrivateIP2 = new("10.10.0") }, "access_private_ip_2", "IPv4 or IPv6 address"},
		{"private address outside", func(r *GatewayCreate) { private(r); r.AccessPrivateIP2 = new("10.10.1.1") }, "access_private_ip_2", "host address of 10.10.0.0/24"},
		{"private address of the network", func(r *GatewayCreate) { private(r); r.AccessPrivateIP1 = new("10.10.0.0") }, "access_private_ip_1", "host address"},
		{"private broadcast address", func(r *GatewayCreate) { private(r); r.AccessPrivateIP1 = new("10.10.0.255") }, "access_private_ip_1", "host address"},
		{"lowest and highest private address", func(r *GatewayCreate) {
			private(r)
			r.AccessPrivateIP1, r.AccessPrivateIP2 = new("10.10.0.1"), new("10.10.0.254")
		}, "", ""},
		{"private addresses on public", func(r *GatewayCreate) {
			r.AccessPrivateIP1, r.AccessPrivateIP2 = new("10.10.0.10"), new("10.10.0.11")
		}, "access_private_ip_1", "absent"},

		{"20 tags", func(r *GatewayCreate) { r.Tags = tags(20) }, "", ""},
		{"21 tags", func(r *GatewayCreate) { r.Tags = tags(21) }, "tags", "at most 20"},
		{"tag key empty", func(r *GatewayCreate) { r.Tags = []Tag{{}} }, "tags[0].key", "1 to 128"},
		{"tag key and value as long as allowed", func(r *GatewayCreate) {
			r.Tags = []Tag{{Key: strings.Repeat("ñ", 128), Value: strings.Repeat("标", 255)}}
		}, "", ""},
		{"tag key too long", func(r *GatewayCreate) { r.Tags = []Tag{{Key: strings.Repeat("a", 129)}} }, "tags[0].key", "1 to 128"},
		{"tag value too long", func(r *GatewayCreate) { r.Tags = []Tag{{Key: "a", Value: strings.Repeat("a", 256)}} }, "tags[0].value", "0 to 255"},
		{"tag with all specials", func(r *GatewayCreate) { r.Tags = []Tag{{Key: "a _.:=+-@"}} }, "", ""},
		{"tag with another special", func(r *GatewayCreate) { r.Tags = []Tag{{Key: "a/b"}} }, "tags[0].key", "letters"},
		{"tag key twice", func(r *GatewayCreate) { r.Tags = []Tag{{Key: "a"}, {Key: "a"}} }, "tags[1].key", "unique"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			req := gatewayRequest()
			test.edit(&req)
			_, err := w.CreateGateway(t.Context(), project, req)
			wantInvalid(t, err, test.field, test.why)
			if refused := test.field != ""; refused && w.revision() != 0 {
				t.Error("a refused request changed the store")
			}
		})
	}
}

func TestCreateGatewayBindsNewEIPs(t *testing.T) {
	w := newWorld(t)
	v := w.gateway(func(r *GatewayCreate) {
		r.EIP1 = &EIPRequest{Type: new("5_bgp"), BandwidthSize: new(100), ChargeMode: new("traffic")}
		r.EIP2 = &EIPRequest{Type: new("5_bgp"), BandwidthSize: new(51), BandwidthName: new("mine")}
	})
	first, second := v.EIPs[0], v.EIPs[1]
	if first.ID != eip1 || first.BandwidthMbps != 100 || first.ChargeMode != "traffic" || !strings.HasPrefix(first.BandwidthName, "vpngw-bandwidth-") {
		t.Errorf("first EIP %+v", first)
	}
	if second.ID != eip2 || second.BandwidthMbps != 51 || second.BandwidthName != "mine" || second.ChargeMode != "bandwidth" {
		t.Errorf("second EIP %+v", second)
	}
}

func TestGatewayZonesOfSmallInventories(t *testing.T) {
	for _, test := range []struct {
		zones, wanted []string
		field, why    string
		got           []string
	}{
		{nil, nil, "availability_zone_ids", "no gateway can be made", nil},
		{[]string{"az1"}, nil, "", "", []string{"az1"}},
		{[]string{"az1"}, []string{"az1"}, "", "", []string{"az1"}},
		{[]string{"az1"}, []string{"az1", "az2"}, "availability_zone_ids", "exactly 1", nil},
	} {
		w := newWorld(t)
		inv := inventory(t)
		inv.AvailabilityZones = test.zones
		w.SetInventory(inv)
		req := gatewayRequest()
		req.AvailabilityZoneIDs = test.wanted
		v, err := w.CreateGateway(t.Context(), project, req)
		wantInvalid(t, err, test.field, test.why)
		if !slices.Equal(v.AvailabilityZones, test.got) {
			t.Errorf("zones %v, want %v", v.AvailabilityZones, test.got)
		}
	}
}

func TestGatewayAddressesAreTakenOnce(t *testing.T) {
	w := newWorld(t)
	w.gateway()
	req := gatewayRequest()
	req.EIP1.ID = new(eip3)
	_, err := w.CreateGateway(t.Context(), "another-project", req)
	wantInvalid(t, err, "eip2.id", "is bound already")

	private := gatewayRequest()
	private.NetworkType, private.EIP1, private.EIP2 = new("private"), nil, nil
	private.AccessPrivateIP1, private.AccessPrivateIP2 = new("10.10.0.10"), new("10.10.0.11")
	if _, err := w.CreateGateway(t.Context(), project, private); err != nil {
		t.Fatal(err)
	}
	private.AccessPrivateIP1, private.AccessPrivateIP2 = new("10.10.0.12"), new("10.10.0.10")
	_, err = w.CreateGateway(t.Context(), project, private)
	wantInvalid(t, err, "access_private_ip_2", "10.10.0.10 is taken")
}

func TestGatewayQuota(t *testing.T) {
	w := newWorld(t)
	w.limits.Gateways = 1
	w.gateway()
	req := gatewayRequest()
	req.EIP1.ID, req.EIP2.ID = new(eip3), new(eip4)
	_, err := w.CreateGateway(t.Context(), project, req)
	wantRefusal(t, err, CodeInvalid, "invalid request: quota exceeded: gateways, at most 1")
	if _, err := w.CreateGateway(t.Context(), "another-project", req); err != nil {
		t.Errorf("the quota of one project refuses another: %v", err)
	}
}

func TestUpdateGateway(t *testing.T) {
	for _, test := range []struct {
		name       string
		req        GatewayUpdate
		field, why string
	}{
		{"name", GatewayUpdate{Name: new("edge")}, "", ""},
		{"bad name", GatewayUpdate{Name: new("e d g e")}, "name", "letters"},
		{"subnets", GatewayUpdate{LocalSubnets: []string{"10.10.1.0/24"}}, "", ""},
		{"no subnets", GatewayUpdate{LocalSubnets: []string{}}, "local_subnets", "required"},
		{"too many subnets", GatewayUpdate{LocalSubnets: many(51, func(i int) string { return fmt.Sprintf("10.30.%d.0/24", i) })}, "local_subnets", "at most 50"},
		{"subnets of the other family", GatewayUpdate{LocalSubnetsV6: []string{"2001:db8::/32"}}, "local_subnets_v6", "absent"},
		{"subnet that a peer has", GatewayUpdate{LocalSubnets: []string{"192.168.10.0/24"}}, "local_subnets[0]", "is a peer subnet of connection"},
		{"the EIP that is bound", GatewayUpdate{EIPID1: new(eip1)}, "", ""},
		{"another EIP while one is bound", GatewayUpdate{EIPID1: new(eip3)}, "eip_id_1", "still bound"},
		{"policy template", GatewayUpdate{PolicyTemplate: &PolicyTemplateRequest{}}, "policy_template", "NonFixedIP"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			g := w.gateway()
			w.connection(g.ID, w.peer("198.51.100.7").ID)
			_, err := w.UpdateGateway(t.Context(), project, g.ID, test.req)
			wantInvalid(t, err, test.field, test.why)
		})
	}
}

func TestUpdateGatewayStates(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	before := w.revision()
	v, err := w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{Name: &g.Name, LocalSubnets: []string{"10.10.0.0/24"}})
	if err != nil || v.State != GatewayActive || w.revision() != before {
		t.Errorf("an identical update: %s at revision %d after %d, %v; want no change", v.State, w.revision(), before, err)
	}
	w.clock = w.clock.Add(time.Minute)
	v, err = w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{Name: new("edge")})
	if err != nil || v.Name != "edge" || v.Generation != 2 || !v.UpdatedAt.After(v.CreatedAt) || v.State != GatewayPendingUpdate {
		t.Errorf("updated: %+v, %v", v, err)
	}
	if !slices.Equal(v.LocalSubnets, g.LocalSubnets) || v.EIPs != g.EIPs {
		t.Errorf("members that were not sent changed: %+v", v.Gateway)
	}
	_, err = w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{Name: new("again")})
	wantRefusal(t, err, CodeForbidden, "resource (type=GATEWAY, ID="+g.ID+") is not ready, currently UPDATING")
	w.settleGateway(project, g.ID, true)
	_, err = w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{Name: new("again")})
	wantRefusal(t, err, CodeForbidden, "currently FAULT")
}

// An EIP that left the inventory counts as unbound: another one takes its
// place and the connections of the slot move along.
func TestUpdateGatewayRebindsEIP(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	c := w.connection(g.ID, w.peer("198.51.100.7").ID)
	inv := inventory(t)
	inv.EIPs = inv.EIPs[1:]
	w.SetInventory(inv)
	_, err := w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{EIPID1: new(eip2)})
	wantInvalid(t, err, "eip_id_1", "is bound already")
	_, err = w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{EIPID1: new(eipFast)})
	wantInvalid(t, err, "eip_id_1", "allows 300")
	six := inventory(t)
	six.EIPs = append(six.EIPs[1:], EIP{ID: "eip-of-ipv6", Address: netip.MustParseAddr("2001:db8::1")})
	if err := six.Validate(); err != nil {
		t.Fatal(err)
	}
	w.SetInventory(six)
	_, err = w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{EIPID1: new("eip-of-ipv6")})
	wantInvalid(t, err, "eip_id_1", "not of the family")
	if _, err = w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{EIPID1: new(eip3)}); err != nil {
		t.Fatal(err)
	}
	v, err := w.ShowConnection(t.Context(), project, c.ID)
	if err != nil || v.VgwIP != eip3 || v.LocalID != "203.0.113.3" {
		t.Errorf("the connection is at %s with id %s, %v", v.VgwIP, v.LocalID, err)
	}
}

func TestDeleteGateway(t *testing.T) {
	w := newWorld(t)
	req := gatewayRequest()
	g, err := w.CreateGateway(t.Context(), project, req)
	if err != nil {
		t.Fatal(err)
	}
	err = w.DeleteGateway(t.Context(), project, g.ID)
	wantRefusal(t, err, CodeForbidden, "resource (type=GATEWAY, ID="+g.ID+") is not ready, currently CREATING")
	w.settleGateway(project, g.ID, true) // a faulty one may go
	c := w.connection(g.ID, w.peer("198.51.100.7").ID)
	err = w.DeleteGateway(t.Context(), project, g.ID)
	wantRefusal(t, err, CodeInvalid, "invalid request: gateway "+g.ID+" has connection")
	if err := w.DeleteConnection(t.Context(), project, c.ID); err != nil {
		t.Fatal(err)
	}
	err = w.DeleteGateway(t.Context(), project, g.ID)
	wantRefusal(t, err, CodeInvalid, "has connection") // until it is really gone
	if err := w.objects.FinalizeConnection(t.Context(), project, c.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.objects.FinalizeGateway(t.Context(), project, g.ID); err == nil {
		t.Error("finalised a gateway whose deletion nobody asked for")
	}
	if err := w.DeleteGateway(t.Context(), project, g.ID); err != nil {
		t.Fatal(err)
	}
	v, err := w.ShowGateway(t.Context(), project, g.ID)
	if err != nil || v.State != GatewayPendingDelete {
		t.Errorf("state %s, %v; want PENDING_DELETE", v.State, err)
	}
	err = w.DeleteGateway(t.Context(), project, g.ID)
	wantRefusal(t, err, CodeForbidden, "currently DELETING")
	for range 2 { // doing it again is no error
		if err := w.objects.FinalizeGateway(t.Context(), project, g.ID); err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.ShowGateway(t.Context(), project, g.ID)
	wantRefusal(t, err, CodeNotFound, "resource not found")
	err = w.DeleteGateway(t.Context(), project, g.ID)
	wantRefusal(t, err, CodeNotFound)
	w.gateway() // its EIPs are free again
}

func TestGatewayState(t *testing.T) {
	applied := time.Unix(1, 0)
	for _, test := range []struct {
		name   string
		spec   Gateway
		status GatewayStatus
		want   GatewayState
	}{
		{"new", Gateway{Meta: Meta{Generation: 1}}, GatewayStatus{}, GatewayPendingCreate},
		{"applied", Gateway{Meta: Meta{Generation: 1}}, GatewayStatus{Observed: 1, AppliedAt: applied}, GatewayActive},
		{"failed", Gateway{Meta: Meta{Generation: 1}}, GatewayStatus{Observed: 1, Fault: true}, GatewayFault},
		{"changed", Gateway{Meta: Meta{Generation: 2}}, GatewayStatus{Observed: 1, AppliedAt: applied}, GatewayPendingUpdate},
		{"changed before it was applied", Gateway{Meta: Meta{Generation: 2}}, GatewayStatus{Observed: 1, Fault: true}, GatewayPendingCreate},
		{"change failed", Gateway{Meta: Meta{Generation: 2}}, GatewayStatus{Observed: 2, Fault: true, AppliedAt: applied}, GatewayFault},
		{"frozen", Gateway{Meta: Meta{Generation: 2, Frozen: true}}, GatewayStatus{Observed: 1, AppliedAt: applied}, GatewayFreezed},
		{"to go", Gateway{Meta: Meta{Generation: 2, Frozen: true, DeletionRequested: true}}, GatewayStatus{Observed: 2}, GatewayPendingDelete},
	} {
		if got := test.spec.State(test.status); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestGatewayUse(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	a, b := w.peer("198.51.100.7").ID, w.peer("198.51.100.8").ID
	w.connection(g.ID, a)
	w.connection(g.ID, a, func(r *ConnectionCreate) { r.VgwIP = new(eip2) })
	w.connection(g.ID, b)
	v, err := w.ShowGateway(t.Context(), project, g.ID)
	if err != nil || v.UsedConnections != 3 || v.UsedGroups != 2 {
		t.Errorf("%d connections in %d groups, %v; want 3 in 2", v.UsedConnections, v.UsedGroups, err)
	}
}

func TestFlavorOfManyConnections(t *testing.T) {
	w := newWorld(t)
	w.limits.GatewayConnections = map[Flavor]int{FlavorProfessional2: 1}
	g := w.gateway()
	w.connection(g.ID, w.peer("198.51.100.7").ID)
	second := w.connection(g.ID, w.peer("198.51.100.8").ID)
	_, err := w.ChangeFlavor(t.Context(), project, g.ID, FlavorProfessional2)
	wantInvalid(t, err, "flavor", "Professional2 allows 1 connections, the gateway has 2")
	if err := w.DeleteConnection(t.Context(), project, second.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.objects.FinalizeConnection(t.Context(), project, second.ID); err != nil {
		t.Fatal(err)
	}
	v, err := w.ChangeFlavor(t.Context(), project, g.ID, FlavorProfessional2)
	if err != nil || v.Flavor != FlavorProfessional2 || v.ConnectionLimit != 1 || v.State != GatewayPendingUpdate {
		t.Errorf("got %+v, %v", v, err)
	}
	w.alterGateway(g.ID, func(g *Gateway) { g.Flavor = FlavorGM })
	w.settleGateway(project, g.ID, false)
	_, err = w.ChangeFlavor(t.Context(), project, g.ID, FlavorBasic)
	wantInvalid(t, err, "flavor", "there is none")
}
