package control

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestCreateCustomerGatewayRules(t *testing.T) {
	fqdn := func(v string) CustomerGatewayCreate {
		return CustomerGatewayCreate{IDType: new("fqdn"), IDValue: &v}
	}
	ip := func(v string) CustomerGatewayCreate { return CustomerGatewayCreate{IDValue: &v} }
	asn := func(r CustomerGatewayCreate, n int64) CustomerGatewayCreate { r.BGPASN = &n; return r }
	certificate := func(c CACertificateRequest) CustomerGatewayCreate {
		r := ip("198.51.100.7")
		r.CACertificate = &c
		return r
	}
	for _, test := range []struct {
		name       string
		req        CustomerGatewayCreate
		field, why string
	}{
		{"address", ip("198.51.100.7"), "", ""},
		{"private address", ip("10.0.0.1"), "", ""},
		{"nothing", CustomerGatewayCreate{}, "id_value", "required"},
		{"unknown type", CustomerGatewayCreate{IDType: new("dn"), IDValue: new("a")}, "id_type", "ip, fqdn"},
		{"name for an address", ip("vpn.example.com"), "id_value", "IPv4 or IPv6 address"},
		{"IPv6", ip("2001:db8::1"), "", ""},
		{"IPv6 of a link", ip("fe80::1"), "id_value", "IPv4 or IPv6 address"},
		{"IPv6 with a zone", ip("fe80::1%eth0"), "id_value", "IPv4 or IPv6 address"},
		{"IPv4 in IPv6", ip("::ffff:198.51.100.7"), "id_value", "IPv4 or IPv6 address"},
		{"any address of IPv6", ip("::"), "id_value", "IPv4 or IPv6 address"},
		{"loopback of IPv6", ip("::1"), "id_value", "IPv4 or IPv6 address"},
		{"multicast of IPv6", ip("ff02::1"), "id_value", "IPv4 or IPv6 address"},
		{"leading zeros", ip("198.051.100.7"), "id_value", "IPv4 or IPv6 address"},
		{"any address", ip("0.0.0.0"), "id_value", "IPv4 or IPv6 address"},
		{"loopback", ip("127.0.0.1"), "id_value", "IPv4 or IPv6 address"},
		{"multicast", ip("224.0.0.1"), "id_value", "IPv4 or IPv6 address"},
		{"broadcast", ip("255.255.255.255"), "id_value", "IPv4 or IPv6 address"},
		{"name", fqdn("branch-1.example.com"), "", ""},
		{"name that is no domain name", fqdn("Branch@1!"), "", ""},
		{"shortest name", fqdn("a"), "", ""},
		{"empty name", fqdn(""), "id_value", "1 to 128"},
		{"longest name", fqdn(strings.Repeat("a", 128)), "", ""},
		{"name too long", fqdn(strings.Repeat("a", 129)), "id_value", "1 to 128"},
		{"ASN", asn(ip("198.51.100.7"), 65000), "", ""},
		{"ASN zero", asn(ip("198.51.100.7"), 0), "bgp_asn", "1 to 4294967295"},
		{"ASN highest", asn(ip("198.51.100.7"), 4294967295), "", ""},
		{"ASN too high", asn(ip("198.51.100.7"), 4294967296), "bgp_asn", "1 to 4294967295"},
		{"ASN of a name", asn(fqdn("a"), 65000), "bgp_asn", "absent with id_type fqdn"},
		{"bad object name", CustomerGatewayCreate{Name: new("a/b"), IDValue: new("198.51.100.7")}, "name", "letters"},
		{"21 tags", CustomerGatewayCreate{IDValue: new("198.51.100.7"), Tags: many(21, func(i int) Tag { return Tag{Key: fmt.Sprint(i)} })}, "tags", "at most 20"},
		{"certificate by id and content", certificate(CACertificateRequest{ID: new("a"), Content: new("b")}), "ca_certificate", "not both"},
		{"certificate by nothing", certificate(CACertificateRequest{}), "ca_certificate", "id or content"},
		{"certificate empty", certificate(CACertificateRequest{Content: new("")}), "ca_certificate.content", "1 to 8192"},
		{"certificate too long", certificate(CACertificateRequest{Content: new(strings.Repeat("a", 8193))}), "ca_certificate.content", "1 to 8192"},
		{"certificate of nobody", certificate(CACertificateRequest{ID: new("a")}), "ca_certificate.id", "no customer gateway of the project has such a certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := newWorld(t).CreateCustomerGateway(t.Context(), project, test.req)
			wantInvalid(t, err, test.field, test.why)
		})
	}
	for _, r := range "&<>[]\\? \t＆＜？\u00a0é\x7f" {
		t.Run(fmt.Sprintf("name with %q", r), func(t *testing.T) {
			_, err := newWorld(t).CreateCustomerGateway(t.Context(), project, fqdn("a"+string(r)+"b"))
			wantInvalid(t, err, "id_value", "& < > [ ] \\ ?")
		})
	}
}

func TestCreateCustomerGatewayDefaults(t *testing.T) {
	w := newWorld(t)
	c, err := w.CreateCustomerGateway(t.Context(), project, CustomerGatewayCreate{IDValue: new("198.51.100.7")})
	if err != nil || !strings.HasPrefix(c.Name, "cgw-") || len(c.Name) != 8 || c.IDType != IDTypeIP || c.BGPASN != 0 {
		t.Errorf("got %+v, %v", c, err)
	}
	if c.Address().String() != "198.51.100.7" {
		t.Errorf("address %s", c.Address())
	}
	if named := w.peer("branch.example.com"); named.Address().IsValid() {
		t.Errorf("a name has the address %s", named.Address())
	}
}

// IPv6 addresses have several spellings, and equal ones are one peer.
func TestCustomerGatewayIPv6IsCanonical(t *testing.T) {
	c, err := newWorld(t).CreateCustomerGateway(t.Context(), project, CustomerGatewayCreate{IDValue: new("2001:0DB8::0:7")})
	if err != nil || c.IDValue != "2001:db8::7" || c.Address() != netip.MustParseAddr("2001:db8::7") {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestCustomerGatewayLegacyForm(t *testing.T) {
	w := newWorld(t)
	c, err := w.CreateCustomerGateway(t.Context(), project, CustomerGatewayCreate{IP: new("198.51.100.7")})
	if err != nil || c.IDType != IDTypeIP || c.IDValue != "198.51.100.7" {
		t.Errorf("got %+v, %v", c, err)
	}
	c, err = w.CreateCustomerGateway(t.Context(), project, CustomerGatewayCreate{IDValue: new("198.51.100.8"), IP: new("198.51.100.7")})
	if err != nil || c.IDValue != "198.51.100.8" {
		t.Errorf("beside id_value it is ignored: got %+v, %v", c, err)
	}
	_, err = w.CreateCustomerGateway(t.Context(), project, CustomerGatewayCreate{IP: new("0.0.0.0")})
	wantInvalid(t, err, "id_value", "IPv4 or IPv6 address")
}

func TestUpdateCustomerGateway(t *testing.T) {
	w := newWorld(t)
	c := w.peer("198.51.100.7")
	w.clock = w.clock.Add(time.Second)
	before := w.revision()
	if same, err := w.UpdateCustomerGateway(t.Context(), project, c.ID, CustomerGatewayUpdate{Name: &c.Name}); err != nil || w.revision() != before || same.UpdatedAt != c.UpdatedAt {
		t.Errorf("an identical update: %+v, %v", same, err)
	}
	got, err := w.UpdateCustomerGateway(t.Context(), project, c.ID, CustomerGatewayUpdate{Name: new("branch")})
	if err != nil || got.Name != "branch" || got.IDValue != c.IDValue || got.Generation != 2 || !got.UpdatedAt.After(got.CreatedAt) {
		t.Errorf("got %+v, %v", got, err)
	}
	_, err = w.UpdateCustomerGateway(t.Context(), project, c.ID, CustomerGatewayUpdate{Name: new("")})
	wantInvalid(t, err, "name", "1 to 64")
	_, err = w.UpdateCustomerGateway(t.Context(), project, c.ID, CustomerGatewayUpdate{CACertificate: &CACertificateRequest{ID: new("a")}})
	wantInvalid(t, err, "ca_certificate.id", "no customer gateway of the project has such a certificate")
	_, err = w.UpdateCustomerGateway(t.Context(), project, nobody, CustomerGatewayUpdate{})
	wantRefusal(t, err, CodeNotFound, "resource not found")
}

func TestDeleteCustomerGateway(t *testing.T) {
	w := newWorld(t)
	g, c := w.gateway(), w.peer("198.51.100.7")
	connection := w.connection(g.ID, c.ID)
	err := w.DeleteCustomerGateway(t.Context(), project, c.ID)
	wantRefusal(t, err, CodeInvalid, "invalid request: customer gateway "+c.ID+" has connection")
	if err := w.DeleteConnection(t.Context(), project, connection.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.objects.FinalizeConnection(t.Context(), project, connection.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.DeleteCustomerGateway(t.Context(), project, c.ID); err != nil {
		t.Fatal(err)
	}
	_, err = w.ShowCustomerGateway(t.Context(), project, c.ID)
	wantRefusal(t, err, CodeNotFound)
	err = w.DeleteCustomerGateway(t.Context(), project, c.ID)
	wantRefusal(t, err, CodeNotFound)
}

func TestCustomerGatewayQuota(t *testing.T) {
	w := newWorld(t)
	w.limits.CustomerGateways = 2
	w.peer("198.51.100.1")
	w.peer("198.51.100.2")
	_, err := w.CreateCustomerGateway(t.Context(), project, CustomerGatewayCreate{IDValue: new("198.51.100.3")})
	wantRefusal(t, err, CodeInvalid, "quota exceeded: customer gateways, at most 2")
}

func TestListCustomerGatewaysByPage(t *testing.T) {
	w := newWorld(t) // the clock stands still: times of creation are unique all the same
	var ids []string
	for i := range 5 {
		ids = append([]string{w.peer(fmt.Sprintf("198.51.100.%d", i+1)).ID}, ids...)
	}
	var got []string
	marker := ""
	for page := 0; ; page++ {
		l, err := w.ListCustomerGateways(t.Context(), project, CustomerGatewayFilter{Page: Page{Limit: new(2), Marker: marker}})
		if err != nil {
			t.Fatal(err)
		}
		if l.Total != 5 || len(l.Items) > 2 {
			t.Errorf("page of %d of %d", len(l.Items), l.Total)
		}
		if len(l.Items) == 0 {
			if l.NextMarker != "" || page != 3 {
				t.Errorf("page %d is empty with marker %q", page, l.NextMarker)
			}
			break
		}
		for _, c := range l.Items {
			got = append(got, c.ID)
		}
		marker = l.NextMarker
	}
	if fmt.Sprint(got) != fmt.Sprint(ids) {
		t.Errorf("listed %v, want newest first %v", got, ids)
	}
	for _, test := range []struct {
		filter     CustomerGatewayFilter
		count      int
		field, why string
	}{
		{CustomerGatewayFilter{}, 5, "", ""},
		{CustomerGatewayFilter{Page: Page{Limit: new(0)}}, 0, "", ""},
		{CustomerGatewayFilter{Page: Page{Limit: new(200)}}, 5, "", ""},
		{CustomerGatewayFilter{Page: Page{Limit: new(201)}}, 0, "limit", "0 to 200"},
		{CustomerGatewayFilter{Page: Page{Limit: new(-1)}}, 0, "limit", "0 to 200"},
		{CustomerGatewayFilter{Page: Page{Marker: "yesterday"}}, 0, "marker", "next_marker"},
		{CustomerGatewayFilter{ID: ids[0]}, 1, "", ""},
		{CustomerGatewayFilter{ID: nobody}, 0, "", ""},
	} {
		l, err := w.ListCustomerGateways(t.Context(), project, test.filter)
		wantInvalid(t, err, test.field, test.why)
		if len(l.Items) != test.count {
			t.Errorf("%+v: %d items, want %d", test.filter, len(l.Items), test.count)
		}
	}
}
