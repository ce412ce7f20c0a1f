package control

import (
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/vpngw/vpngw/fuzztest"
)

// Texts of requests are parsed without a panic, refused for the field they
// stand in, and what is accepted keeps to its rule.
func FuzzRequestTexts(f *testing.F) {
	target := fuzztest.New(f)
	for _, seed := range []string{
		"", "a", "vpngw-a45b", "网关.1", "192.168.0.0/24", "192.168.0.1/24", "169.254.70.1/30", "2001:db8::/32", "::ffff:1.2.3.4/120",
		"198.51.100.7", "branch.example.com", "Abcdef-1", "0", nobody, "\x00", "\xff", "fe80::1%eth0", "0.0.0.0/0", strings.Repeat("a", 300),
	} {
		target.Add(seed)
	}
	target.Fuzz(func(t *testing.T, s string) {
		accepted := func(parse func(p *parser)) bool {
			p := &parser{}
			parse(p)
			if p.err != nil && (!strings.HasPrefix(p.err.Message, "invalid request: field") || len(p.err.Message) > 400) {
				t.Errorf("refusal %q", p.err.Message)
			}
			return p.err == nil
		}
		var name string
		if accepted(func(p *parser) { p.name("field", &s, &name) }) && (name != s || utf8.RuneCountInString(s) > 64 || strings.ContainsAny(s, "/\x00 ")) {
			t.Errorf("name %q", s)
		}
		var n netip.Prefix
		if accepted(func(p *parser) { n = p.prefix("field", IPv4, s) }) && (!n.Addr().Is4() || n != n.Masked()) {
			t.Errorf("IPv4 network %q", s)
		}
		if accepted(func(p *parser) { n = p.prefix("field", IPv6, s) }) && (!n.Addr().Is6() || n.Addr().Is4In6() || n != n.Masked()) {
			t.Errorf("IPv6 network %q", s)
		}
		if accepted(func(p *parser) { p.tunnelAddress("field", &s, &n) }) && (n.Bits() != 30 || otherHost(otherHost(n)) != n) {
			t.Errorf("tunnel address %q", s)
		}
		if accepted(func(p *parser) { p.fqdn("field", s, 255) }) && (len(s) > 255 || strings.ContainsAny(s, " \n\x00&?")) {
			t.Errorf("identity %q", s)
		}
		if accepted(func(p *parser) { p.psk("field", NewSecret(s)) }) && (len(s) < 8 || len(s) > 128) {
			t.Errorf("key of %d octets", len(s))
		}
		var id string
		accepted(func(p *parser) { id = p.customerID("field", IDTypeIP, s) })
		accepted(func(p *parser) { p.enterpriseProject("field", &s, &id) })
		accepted(func(p *parser) { p.tags("field", []Tag{{Key: s, Value: s}}, new([]Tag)) })
		if validProject(s) == nil && strings.Contains(s, "/") {
			t.Errorf("project %q", s)
		}
	})
}

func TestFormatTime(t *testing.T) {
	east := time.FixedZone("", 8*3600)
	for _, test := range []struct {
		time time.Time
		want string
	}{
		{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), "2026-01-02T03:04:05.000Z"},
		{time.Date(2026, 1, 2, 3, 4, 5, 500e6, time.UTC), "2026-01-02T03:04:05.500Z"},
		{time.Date(2026, 1, 2, 3, 4, 5, 999999999, time.UTC), "2026-01-02T03:04:05.999Z"},
		{time.Date(2026, 1, 2, 3, 4, 5, 0, east), "2026-01-01T19:04:05.000Z"},
	} {
		if got := FormatTime(test.time); got != test.want {
			t.Errorf("%v is %q, want %q", test.time, got, test.want)
		}
	}
}
