package wire

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
)

// settingsOf returns settings with routes of both families and DNS servers.
func settingsOf(domain string, routes, dns []string) Push {
	p := Push{Domain: domain}
	for _, r := range routes {
		p.Routes = append(p.Routes, netip.MustParsePrefix(r))
	}
	for _, d := range dns {
		p.DNS = append(p.DNS, netip.MustParseAddr(d))
	}
	return p
}

func TestPushUpdate(t *testing.T) {
	before := settingsOf("example.org", []string{"10.1.0.0/16", "2001:db8:1::/48"}, []string{"10.1.0.53"})
	for _, tt := range []struct {
		name string
		to   Push
		dns  bool // by the option of that name, too
		want string
	}{
		{"nothing", settingsOf("example.org", []string{"10.1.0.0/16", "2001:db8:1::/48"}, []string{"10.1.0.53"}), false, ""},
		{
			"one route more", settingsOf("example.org", []string{"10.1.0.0/16", "10.2.0.0/24", "2001:db8:1::/48"}, []string{"10.1.0.53"}), false,
			"PUSH_UPDATE,route 10.1.0.0 255.255.0.0,route 10.2.0.0 255.255.255.0",
		},
		{"no route of IPv4", settingsOf("example.org", []string{"2001:db8:1::/48"}, []string{"10.1.0.53"}), false, "PUSH_UPDATE,-route"},
		{
			"another route of IPv6, no DNS", settingsOf("", []string{"10.1.0.0/16", "2001:db8:2::/48"}, nil), true,
			"PUSH_UPDATE,route-ipv6 2001:db8:2::/48,-dhcp-option,-dns",
		},
		{
			"other DNS", settingsOf("example.net", []string{"10.1.0.0/16", "2001:db8:1::/48"}, []string{"10.1.0.54", "2001:db8:1::53"}), true,
			"PUSH_UPDATE,dhcp-option DNS 10.1.0.54,dhcp-option DNS 2001:db8:1::53,dhcp-option DOMAIN example.net," +
				"dns server 0 address 10.1.0.54 2001:db8:1::53,dns search-domains example.net",
		},
	} {
		from := before
		from.DNSOption, tt.to.DNSOption = tt.dns, tt.dns
		messages := tt.to.Update(&from)
		if got := strings.Join(messages, "|"); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
		change := NewPushChange(from)
		for _, m := range messages {
			if _, err := change.Add(m); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
		if got := change.Push; !sameSettings(&got, &tt.to) {
			t.Errorf("%s: the client has %+v, want %+v", tt.name, got, tt.to)
		}
	}
}

// sameSettings compares what may change, whichever order the families come in.
func sameSettings(a, b *Push) bool {
	ordered := func(p *Push) []netip.Prefix { return slices.SortedFunc(slices.Values(p.Routes), netip.Prefix.Compare) }
	return slices.Equal(ordered(a), ordered(b)) && slices.Equal(a.DNS, b.DNS) && a.Domain == b.Domain
}

// Many routes come in several messages, which are one change.
func TestPushUpdateInPieces(t *testing.T) {
	var before, after Push
	for i := range 200 {
		after.Routes = append(after.Routes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16))
	}
	messages := after.Update(&before)
	if len(messages) < 2 {
		t.Fatalf("%d messages", len(messages))
	}
	change := NewPushChange(before)
	for i, m := range messages {
		more, err := change.Add(m)
		if err != nil || more != (i < len(messages)-1) || len(m) >= MaxMessage {
			t.Errorf("message %d of %d octets: %v, %v", i, len(m), more, err)
		}
	}
	if !reflect.DeepEqual(change.Push.Routes, after.Routes) {
		t.Errorf("%d routes", len(change.Push.Routes))
	}
	if len(before.Routes) != 0 {
		t.Error("the settings before have changed")
	}
}

func TestPushUpdateFromAnotherServer(t *testing.T) {
	has := settingsOf("example.org", []string{"10.1.0.0/16", "2001:db8:1::/48"}, []string{"10.1.0.53"})
	for _, tt := range []struct{ message, routes, wrong string }{
		{"PUSH_UPDATE,?route 10.3.0.0 255.255.0.0", "[2001:db8:1::/48 10.3.0.0/16]", ""},
		{"PUSH_UPDATE,-?route,?block-ipv6,-?redirect-gateway", "[2001:db8:1::/48]", ""},
		{"PUSH_UPDATE,-route-ipv6,push-continuation 1", "[10.1.0.0/16]", ""},
		{"PUSH_UPDATE", "[10.1.0.0/16 2001:db8:1::/48]", ""},
		{"PUSH_UPDATE,ifconfig 10.8.0.9 10.8.0.10", "", "cannot change"},
		{"PUSH_UPDATE,-ifconfig", "", "cannot change"},
		{"PUSH_UPDATE,route 10.3.0.0 255.0.255.0", "", "no network mask"},
		{"PUSH_UPDATED,-route", "", "not a PUSH_UPDATE"},
		{"PUSH_REPLY,-route", "", "not a PUSH_UPDATE"},
	} {
		change := NewPushChange(has)
		_, err := change.Add(tt.message)
		switch {
		case tt.wrong != "":
			if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("%s: %v", tt.message, err)
			}
		case err != nil:
			t.Errorf("%s: %v", tt.message, err)
		default:
			var got []string
			for _, r := range change.Push.Routes {
				got = append(got, r.String())
			}
			if text := "[" + strings.Join(got, " ") + "]"; text != tt.routes {
				t.Errorf("%s: %s, want %s", tt.message, text, tt.routes)
			}
		}
	}
}

func TestPushOfIPv6AndSubnet(t *testing.T) {
	p := settingsOf("corp.example.org", []string{"10.1.0.0/16", "2001:db8:1::/48"}, []string{"10.1.0.53", "2001:db8:1::53"})
	p.Local, p.Network = netip.MustParseAddr("10.8.0.5"), netip.MustParsePrefix("10.8.0.0/24")
	p.Local6, p.Gateway6 = netip.MustParsePrefix("fd00:8::5/64"), netip.MustParseAddr("fd00:8::1")
	p.DNSOption = true
	message := p.Messages()[0]
	for _, want := range []string{
		"topology subnet", "route-gateway 10.8.0.1", "ifconfig 10.8.0.5 255.255.255.0", "ifconfig-ipv6 fd00:8::5/64 fd00:8::1",
		"route-ipv6 2001:db8:1::/48", "dhcp-option DNS 2001:db8:1::53", "dns server 0 address 10.1.0.53 2001:db8:1::53",
		"dhcp-option DOMAIN corp.example.org", "dns search-domains corp.example.org",
	} {
		if !strings.Contains(message+",", ","+want+",") {
			t.Errorf("%q lacks %q", message, want)
		}
	}
	var got Push
	if _, err := got.Add(message); err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("%v: got %+v, want %+v", err, got, p)
	}
}

// FuzzPushChange: whatever a server sends, what is understood of it can be told
// again, and says the same.
func FuzzPushChange(f *testing.F) {
	target := fuzztest.New(f)
	target.Add("PUSH_UPDATE,route 10.1.0.0 255.255.0.0,-dns,?x,-?route-ipv6,push-continuation 2")
	target.Add("PUSH_UPDATE,dns server 0 address 10.1.0.1 ::1,dns search-domains a,dhcp-option DNS 1.1.1.1,-dhcp-option")
	target.Fuzz(func(t *testing.T, message string) {
		before := settingsOf("a", []string{"192.0.2.0/24"}, nil)
		change := NewPushChange(before)
		if _, err := change.Add(message); err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		after := change.Push
		if len(after.DNS) > maxDNSAddresses || strings.ContainsFunc(after.Domain, func(r rune) bool { return r == ',' }) {
			return // more than one option can say
		}
		again := NewPushChange(before)
		for _, m := range after.Update(&before) {
			if _, err := again.Add(m); err != nil {
				t.Fatalf("%q: %v", m, err)
			}
		}
		if !sameSettings(&after, &again.Push) {
			t.Fatalf("%+v became %+v", after, again.Push)
		}
	})
}

// What a server pushes reaches commands of the client's system: as a domain and
// nothing else, and not without bound.
func TestPushIsHarmless(t *testing.T) {
	for _, option := range []string{
		"dhcp-option DOMAIN --interface=eth0", "dns search-domains -i", "dhcp-option DOMAIN a;b", "dhcp-option DOMAIN $(id)",
		"dns search-domains \"", "dhcp-option DOMAIN ~.", "dhcp-option DOMAIN " + strings.Repeat("a", 255),
		"dhcp-option DNS fe80::1%\"$(id)", "dns server 0 address fe80::1%a",
	} {
		var p Push
		if _, err := p.Add("PUSH_REPLY," + option); err == nil || p.Domain != "" || p.DNS != nil {
			t.Errorf("%s: %v, %+v", option, err, p)
		}
		c := NewPushChange(settingsOf("example.org", nil, nil))
		if _, err := c.Add("PUSH_UPDATE," + option); err == nil {
			t.Errorf("%s: accepted as a change", option)
		}
	}
	for _, domain := range []string{"a", "corp.example.org.", "_tcp.9x-y.example"} {
		var p Push
		if _, err := p.Add("PUSH_REPLY,dhcp-option DOMAIN " + domain); err != nil || p.Domain != domain {
			t.Errorf("%s: %v, %q", domain, err, p.Domain)
		}
	}
	for _, option := range []string{"route 10.1.2.3", "protocol-flags cc-exit"} {
		var p Push
		var err error
		for range maxKept + 1 {
			if _, err = p.Add("PUSH_REPLY," + option + ",push-continuation 2"); err != nil {
				break
			}
		}
		if err == nil || len(p.Routes)+len(p.Flags) > maxKept {
			t.Errorf("%s: %d, %v", option, len(p.Routes)+len(p.Flags), err)
		}
	}
}
