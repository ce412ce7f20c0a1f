package route

import (
	"net/netip"
	"strings"
	"testing"
)

func TestNormalizeRefuses(t *testing.T) {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	hop := []NextHop{{Link: "tun1"}}
	tests := []struct {
		name  string
		state State
		want  string
	}{
		{"address without prefix", State{Addresses: []Address{{Link: "tun1"}}}, "prefix: must be set"},
		{"address without device", State{Addresses: []Address{{Prefix: p("10.0.0.1/24")}}}, "device: must be set"},
		{"route without destination", State{Routes: []Route{{NextHops: hop}}}, "destination: must be set"},
		{"route without next hop", State{Routes: []Route{{Dst: p("10.0.0.0/8")}}}, "next hop: must be set"},
		{"next hop without device", State{Routes: []Route{{Dst: p("10.0.0.0/8"), NextHops: []NextHop{{}}}}}, "device must be set"},
		{"blackhole with next hop", State{Routes: []Route{{Dst: p("10.0.0.0/8"), Type: Blackhole, NextHops: hop}}}, "blackhole: takes no next hop"},
		{"unknown type", State{Routes: []Route{{Dst: p("10.0.0.0/8"), Type: 9}}}, "type: unknown"},
		{"negative metric", State{Routes: []Route{{Dst: p("10.0.0.0/8"), Metric: -1, NextHops: hop}}}, "must not be negative"},
		{"source of another family", State{Routes: []Route{{Dst: p("10.0.0.0/8"), NextHops: hop, Src: a("::1")}}}, "source ::1: is of another family"},
		{"gateway of another family", State{Routes: []Route{{Dst: p("10.0.0.0/8"), NextHops: []NextHop{{Link: "tun1", Via: a("::1")}}}}}, "gateway ::1 is of another family"},
		{"weight", State{Routes: []Route{{Dst: p("10.0.0.0/8"), NextHops: []NextHop{{Link: "tun1", Weight: 257}}}}}, "weight 257 is above 256"},
		{"wanted twice", State{Routes: []Route{
			{Dst: p("10.0.0.0/8"), NextHops: hop}, {Dst: p("10.1.0.0/8"), NextHops: []NextHop{{Link: "tun2"}}},
		}}, "wanted twice with different next hops"},
		{"rule without prefix", State{Rules: []Rule{{Priority: 1, Table: 7}}}, "source or destination: one must be set"},
		{"rule of two families", State{Rules: []Rule{{Priority: 1, Table: 7, From: p("10.0.0.0/8"), To: p("::/0")}}}, "must be of one family"},
		{"rule before local", State{Rules: []Rule{{Table: 7, From: p("10.0.0.0/8")}}}, "priority 0"},
		{"rule after main", State{Rules: []Rule{{Priority: 32766, Table: 7, From: p("10.0.0.0/8")}}}, "priority 32766"},
		{"rule without table", State{Rules: []Rule{{Priority: 1, From: p("10.0.0.0/8")}}}, "table 0: must be positive"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, errs := tt.state.normalize()
			if len(errs) != 1 || !strings.Contains(errs[0].Error(), tt.want) {
				t.Errorf("got %v, want %q", errs, tt.want)
			}
		})
	}
}

func TestNormalizeFoldsEquals(t *testing.T) {
	p := netip.MustParsePrefix
	hop := []NextHop{{Link: "tun1"}}
	s, errs := State{
		Addresses: []Address{{"tun1", p("10.0.0.1/24")}, {"tun1", p("10.0.0.1/24")}},
		Routes: []Route{
			{Dst: p("10.1.2.3/8"), NextHops: hop},
			{Table: TableMain, Dst: p("10.0.0.0/8"), NextHops: []NextHop{{Link: "tun1", Weight: 1}}},
			{Dst: p("2001:db8::/32"), NextHops: hop},
			{Dst: p("2001:db8::/32"), Metric: 1024, NextHops: hop},
		},
		Rules: []Rule{
			{Priority: 1, From: p("10.1.0.0/16"), To: p("0.0.0.0/0"), Table: 7},
			{Priority: 1, From: p("10.1.0.0/16"), Table: 7},
			{Priority: 2, From: p("::/0"), To: p("::/0"), Table: 7},
			{Priority: 2, To: p("::/0"), Table: 7},
		},
	}.normalize()
	if errs != nil {
		t.Fatal(errs)
	}
	if len(s.Addresses) != 1 || len(s.Routes) != 2 || len(s.Rules) != 2 {
		t.Errorf("got %+v", s)
	}
}

func TestConflicts(t *testing.T) {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	h := host{
		connected: []connectedSubnet{{p("10.10.0.0/24"), "eth1"}, {p("203.0.113.0/24"), "eth0"}},
		main:      []netip.Prefix{p("0.0.0.0/0"), p("10.10.0.0/24"), p("203.0.113.0/24"), p("198.51.100.0/24")},
	}
	outer := []OuterPath{
		{a("203.0.113.10"), a("198.51.100.1")},
		{a("203.0.113.10"), a("192.0.2.9")},
		{a("10.10.0.5"), a("192.0.2.10")}, // behind a NAT
	}
	route := func(dst string) Route { return Route{Table: TableMain, Dst: p(dst)} }
	tabled := func(dst string) Route { return Route{Table: 7700, Dst: p(dst)} }
	blackhole := func(dst string) Route { return Route{Table: 7700, Dst: p(dst), Type: Blackhole} }
	rule := func(from, to string) []Rule {
		return []Rule{{Priority: 100, From: p(from), To: p(to), Table: 7700}}
	}
	tests := []struct {
		name   string
		route  Route
		rules  []Rule
		others []Route
		want   string // empty: no conflict
		spares string // subnet that the blackhole needs a throw route for
	}{
		{name: "far away", route: route("192.168.0.0/16")},
		{name: "wider than a connected subnet", route: route("10.0.0.0/8")},
		{name: "equal to a connected subnet", route: route("10.10.0.0/24"), want: "would take over 10.10.0.0/24, which is connected to eth1"},
		{name: "part of a connected subnet", route: route("10.10.0.128/25"), want: "would take over 10.10.0.0/24"},
		{name: "default, peer by default route", route: route("0.0.0.0/0"), want: "packets to 192.0.2.9"},
		{name: "around a peer that has a longer route", route: route("198.51.0.0/16")},
		{name: "peer's own route", route: route("198.51.100.0/24"), want: "packets to 198.51.100.1"},
		{name: "peer itself", route: route("192.0.2.9/32"), want: "packets to 192.0.2.9"},
		{name: "other family", route: route("::/0")},
		{name: "throw is harmless", route: Route{Table: TableMain, Dst: p("10.10.0.0/24"), Type: Throw}},
		{name: "table that no rule leads to", route: tabled("0.0.0.0/0")},
		{name: "policy from one site to another", route: tabled("0.0.0.0/0"), rules: rule("10.10.0.0/16", "192.168.0.0/16")},
		{name: "policy to the peer's public subnet from inside", route: tabled("0.0.0.0/0"), rules: rule("10.10.0.0/16", "198.51.100.0/24")},
		{name: "policy to the peer from our outer address", route: tabled("0.0.0.0/0"), rules: rule("203.0.113.10/32", "198.51.100.0/24"), want: "packets to 198.51.100.1"},
		{name: "policy to the peer from behind the NAT", route: tabled("0.0.0.0/0"), rules: rule("10.10.0.0/24", "192.0.2.0/24"), want: "packets to 192.0.2.10"},
		{
			name: "the same, spared", route: tabled("0.0.0.0/0"), rules: rule("10.10.0.0/24", "192.0.2.0/24"),
			others: []Route{{Table: 7700, Dst: p("192.0.2.10/32"), Type: Throw}},
		},
		{
			name: "policy around the site's own subnet", route: tabled("0.0.0.0/0"), rules: rule("10.10.0.0/16", "10.0.0.0/8"),
			want: "take over 10.10.0.0/24, which is connected to eth1, unless a throw route spares it",
		},
		{
			name: "the same, spared", route: tabled("0.0.0.0/0"), rules: rule("10.10.0.0/16", "10.0.0.0/8"),
			others: []Route{{Table: 7700, Dst: p("10.10.0.0/24"), Type: Throw}},
		},
		{name: "policy into a connected subnet", route: tabled("0.0.0.0/0"), rules: rule("172.16.0.0/16", "10.10.0.64/26"), want: "take over 10.10.0.0/24"},
		{name: "drop what is for a connected subnet", route: blackhole("10.10.0.64/26"), rules: rule("172.16.0.0/16", "10.10.0.64/26")},
		{name: "drop what this host sends to its subnet", route: blackhole("10.0.0.0/8"), rules: rule("10.10.0.0/16", "10.0.0.0/8"), spares: "10.10.0.0/24"},
		{
			name: "the same, spared", route: blackhole("10.0.0.0/8"), rules: rule("10.10.0.0/16", "10.0.0.0/8"),
			others: []Route{{Table: 7700, Dst: p("10.10.0.0/24"), Type: Throw}},
		},
		{name: "drop a part of the subnet's own", route: blackhole("10.10.0.64/26"), rules: rule("10.10.0.0/16", "10.0.0.0/8")},
		{name: "drop all of the subnet's own", route: blackhole("10.10.0.0/24"), rules: rule("10.10.0.0/16", "10.0.0.0/8"), want: "take over 10.10.0.0/24"},
		{name: "drop the tunnel's own packets", route: blackhole("0.0.0.0/0"), rules: rule("10.10.0.0/24", "192.0.2.0/24"), want: "packets to 192.0.2.10"},
		{name: "rule and route do not meet", route: tabled("10.10.0.0/24"), rules: rule("172.16.0.0/16", "192.168.0.0/16")},
		{name: "rule narrower than the route", route: tabled("10.0.0.0/8"), rules: rule("172.16.0.0/16", "10.20.0.0/16")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := State{Routes: append(tt.others, tt.route), Rules: tt.rules, Outer: outer}
			var spares string
			for _, r := range h.spares(tt.route, s) {
				spares += r.Dst.String()
			}
			if spares != tt.spares {
				t.Errorf("spares %q, want %q", spares, tt.spares)
			}
			err := h.check(tt.route, s)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
