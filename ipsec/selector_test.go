package ipsec

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func prefix(s string) TrafficSelector { return SelectorFromPrefix(netip.MustParsePrefix(s)) }

// addrs returns the selector of a range of addresses.
func addrs(start, end string) TrafficSelector {
	return TrafficSelector{Start: netip.MustParseAddr(start), End: netip.MustParseAddr(end), EndPort: 65535}
}

// only limits a selector to a protocol and ports.
func only(s TrafficSelector, protocol uint8, start, end uint16) TrafficSelector {
	s.Protocol, s.StartPort, s.EndPort = protocol, start, end
	return s
}

func opaque(s TrafficSelector, protocol uint8) TrafficSelector { return only(s, protocol, 65535, 0) }

func TestSelectorFromPrefix(t *testing.T) {
	tests := []struct{ prefix, start, end string }{
		{"10.1.2.3/8", "10.0.0.0", "10.255.255.255"},
		{"10.1.2.3/32", "10.1.2.3", "10.1.2.3"},
		{"10.1.2.3/31", "10.1.2.2", "10.1.2.3"},
		{"10.1.2.3/13", "10.0.0.0", "10.7.255.255"},
		{"0.0.0.0/0", "0.0.0.0", "255.255.255.255"},
		{"2001:db8::/29", "2001:db8::", "2001:dbf:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	}
	for _, tt := range tests {
		if got := prefix(tt.prefix); got != addrs(tt.start, tt.end) {
			t.Errorf("%s: %v to %v", tt.prefix, got.Start, got.End)
		}
	}
	if SelectorFromPrefix(netip.Prefix{}).Valid() {
		t.Error("the selector of no prefix is valid")
	}
}

func TestSelectorValid(t *testing.T) {
	tests := []struct {
		name string
		s    TrafficSelector
		want bool
	}{
		{"prefix", prefix("10.0.0.0/8"), true},
		{"zero", TrafficSelector{}, false},
		{"backwards", addrs("10.0.0.2", "10.0.0.1"), false},
		{"two families", addrs("10.0.0.1", "::1"), false},
		{"ports backwards", only(prefix("10.0.0.0/8"), 6, 80, 79), false},
		{"opaque", opaque(prefix("10.0.0.0/8"), 6), true},
	}
	for _, tt := range tests {
		if got := tt.s.Valid(); got != tt.want {
			t.Errorf("%s: Valid() = %t", tt.name, got)
		}
	}
}

func TestIntersect(t *testing.T) {
	tests := []struct {
		name string
		a, b TrafficSelector
		want string // empty: nothing
	}{
		{"nested", prefix("10.0.0.0/8"), prefix("10.1.0.0/16"), "10.1.0.0/16"},
		{"overlapping", addrs("10.0.0.1", "10.0.0.9"), addrs("10.0.0.5", "10.0.0.20"), "10.0.0.5-10.0.0.9"},
		{"touching", addrs("10.0.0.1", "10.0.0.9"), addrs("10.0.0.9", "10.0.0.20"), "10.0.0.9/32"},
		{"apart", prefix("10.0.0.0/16"), prefix("10.1.0.0/16"), ""},
		{"families", prefix("0.0.0.0/0"), prefix("::/0"), ""},
		{"protocol", prefix("10.0.0.0/8"), only(prefix("10.0.0.0/8"), 6, 0, 65535), "10.0.0.0/8[tcp]"},
		{"protocols differ", only(prefix("10.0.0.0/8"), 17, 0, 65535), only(prefix("10.0.0.0/8"), 6, 0, 65535), ""},
		{"ports", only(prefix("10.0.0.0/8"), 6, 80, 100), only(prefix("10.0.0.0/8"), 0, 90, 200), "10.0.0.0/8[tcp/90-100]"},
		{"ports apart", only(prefix("10.0.0.0/8"), 6, 80, 80), only(prefix("10.0.0.0/8"), 6, 81, 81), ""},
		{"ports apart that would read as opaque", only(prefix("10.0.0.0/8"), 6, 65535, 65535), only(prefix("10.0.0.0/8"), 6, 0, 0), ""},
		{"opaque in any", opaque(prefix("10.0.0.0/8"), 6), prefix("10.0.0.0/8"), "10.0.0.0/8[tcp/opaque]"},
		{"opaque and opaque", opaque(prefix("10.0.0.0/8"), 6), opaque(prefix("10.0.0.0/8"), 6), "10.0.0.0/8[tcp/opaque]"},
		{"opaque and a port", opaque(prefix("10.0.0.0/8"), 6), only(prefix("10.0.0.0/8"), 6, 80, 80), ""},
		{"not valid", prefix("10.0.0.0/8"), TrafficSelector{}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, pair := range [][2]TrafficSelector{{tt.a, tt.b}, {tt.b, tt.a}} {
				both, ok := pair[0].Intersect(pair[1])
				if ok != (tt.want != "") || ok && both.String() != tt.want {
					t.Errorf("%s and %s: %s, %t, want %q", pair[0], pair[1], both, ok, tt.want)
				}
				if ok && (!pair[0].Contains(both) || !pair[1].Contains(both)) {
					t.Errorf("%s is not inside both", both)
				}
			}
		})
	}
}

func TestMatches(t *testing.T) {
	https := only(prefix("10.0.0.0/8"), 6, 443, 443)
	tests := []struct {
		s        TrafficSelector
		addr     string
		protocol uint8
		port     uint16
		want     bool
	}{
		{https, "10.1.2.3", 6, 443, true},
		{https, "10.1.2.3", 17, 443, false},
		{https, "10.1.2.3", 6, 80, false},
		{https, "11.1.2.3", 6, 443, false},
		{https, "::ffff:10.1.2.3", 6, 443, false},
		{prefix("10.0.0.0/8"), "10.255.255.255", 50, 0, true},
		{prefix("10.0.0.0/8"), "10.0.0.0", 6, 65535, true},
		{opaque(prefix("10.0.0.0/8"), 6), "10.0.0.0", 6, 80, false},
	}
	for _, tt := range tests {
		if got := tt.s.Matches(netip.MustParseAddr(tt.addr), tt.protocol, tt.port); got != tt.want {
			t.Errorf("%s: %s protocol %d port %d: %t", tt.s, tt.addr, tt.protocol, tt.port, got)
		}
	}
}

// TestPrefixesCover checks against counting that prefixes cover a range exactly
// and that no two of them could be one.
func TestPrefixesCover(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		start := rng.Uint32()
		size := rng.Uint32N(1 << rng.IntN(20))
		if start > start+size {
			continue
		}
		s := TrafficSelector{Start: v4(start), End: v4(start + size), EndPort: 65535}
		next := s.Start
		list := s.Prefixes()
		for i, p := range list {
			if p.Addr() != next || p.Masked() != p {
				t.Fatalf("%s: prefix %s does not begin at %s", s, p, next)
			}
			if i > 0 && list[i-1].Bits() == p.Bits() && netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked().Addr() == list[i-1].Addr() {
				t.Fatalf("%s: %s and %s could be one", s, list[i-1], p)
			}
			next = lastAddr(p).Next()
		}
		if next != s.End.Next() {
			t.Fatalf("%s: prefixes end before %s", s, next)
		}
	}
	for _, all := range []string{"0.0.0.0/0", "::/0", "255.255.255.255/32"} {
		if got := prefix(all).Prefixes(); len(got) != 1 || got[0].String() != all {
			t.Errorf("%s: %v", all, got)
		}
	}
	if got := (TrafficSelector{}).Prefixes(); got != nil {
		t.Errorf("no selector: %v", got)
	}
}

func v4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func TestSelectorString(t *testing.T) {
	for _, tt := range []struct {
		s    TrafficSelector
		want string
	}{
		{prefix("10.0.0.0/24"), "10.0.0.0/24"},
		{addrs("10.0.0.1", "10.0.0.9"), "10.0.0.1-10.0.0.9"},
		{only(prefix("10.0.0.0/24"), 6, 443, 443), "10.0.0.0/24[tcp/443]"},
		{only(prefix("10.0.0.0/24"), 17, 100, 200), "10.0.0.0/24[udp/100-200]"},
		{only(prefix("10.0.0.0/24"), 0, 100, 200), "10.0.0.0/24[any/100-200]"},
		{only(prefix("2001:db8::/64"), 58, 0, 65535), "2001:db8::/64[icmpv6]"},
		{only(prefix("10.0.0.0/24"), 132, 0, 65535), "10.0.0.0/24[132]"},
		{TrafficSelector{}, "invalid"},
	} {
		if got := tt.s.String(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	if got := SelectorList(nil); got != "none" {
		t.Errorf("empty list: %q", got)
	}
}

func TestNarrow(t *testing.T) {
	tests := []struct {
		name             string
		allowed, offered []TrafficSelector
		want             string
	}{
		{"same", []TrafficSelector{prefix("10.1.0.0/16")}, []TrafficSelector{prefix("10.1.0.0/16")}, "10.1.0.0/16"},
		{"peer offers all", []TrafficSelector{prefix("10.1.0.0/16"), prefix("10.3.0.0/16")}, []TrafficSelector{prefix("0.0.0.0/0")}, "10.1.0.0/16, 10.3.0.0/16"},
		{"we allow all", []TrafficSelector{prefix("0.0.0.0/0")}, []TrafficSelector{prefix("10.3.0.0/16"), prefix("10.1.0.0/16")}, "10.3.0.0/16, 10.1.0.0/16"},
		{
			"the packet's own selector first",
			[]TrafficSelector{prefix("10.1.0.0/16")},
			[]TrafficSelector{only(prefix("10.1.2.3/32"), 6, 80, 80), prefix("10.0.0.0/8")},
			"10.1.0.0/16",
		},
		{"partly", []TrafficSelector{prefix("10.1.0.0/16")}, []TrafficSelector{prefix("10.1.128.0/17"), prefix("10.2.0.0/16")}, "10.1.128.0/17"},
		{"twice", []TrafficSelector{prefix("10.1.0.0/16"), prefix("10.0.0.0/8")}, []TrafficSelector{prefix("10.1.0.0/16")}, "10.1.0.0/16"},
		{"nothing", []TrafficSelector{prefix("10.1.0.0/16")}, []TrafficSelector{prefix("10.2.0.0/16")}, "none"},
		{"other family", []TrafficSelector{prefix("0.0.0.0/0")}, []TrafficSelector{prefix("::/0")}, "none"},
		{"no offer", []TrafficSelector{prefix("0.0.0.0/0")}, nil, "none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Narrow(tt.allowed, tt.offered)
			if SelectorList(got) != tt.want {
				t.Errorf("got %s, want %s", SelectorList(got), tt.want)
			}
			if !Covers(tt.allowed, got) || !Covers(tt.offered, got) {
				t.Error("the result is not inside both")
			}
		})
	}
}

// TestNarrowIsBounded has an offer whose intersections are far more than a
// payload holds.
func TestNarrowIsBounded(t *testing.T) {
	var allowed, offered []TrafficSelector
	for i := range uint16(255) {
		allowed = append(allowed, prefix(fmt.Sprintf("10.%d.0.0/16", i)))
		offered = append(offered, only(prefix("0.0.0.0/0"), 6, i, i))
	}
	got := Narrow(allowed, offered)
	if len(got) != MaxSelectors || !Covers(allowed, got) || !Covers(offered, got) {
		t.Errorf("%d selectors", len(got))
	}
}

// TestNarrowAgainstMatching compares with the definition, packet by packet, in
// a small world.
func TestNarrowAgainstMatching(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	random := func() TrafficSelector {
		start, port := rng.Uint32N(12), uint16(rng.IntN(6))
		return TrafficSelector{
			Start: v4(start), End: v4(start + rng.Uint32N(6)),
			StartPort: port, EndPort: port + uint16(rng.IntN(4)), Protocol: uint8(rng.IntN(3)),
		}
	}
	anyOf := func(list []TrafficSelector, a netip.Addr, protocol uint8, port uint16) bool {
		return slices.ContainsFunc(list, func(s TrafficSelector) bool { return s.Matches(a, protocol, port) })
	}
	for range 300 {
		var allowed, offered []TrafficSelector
		for range 1 + rng.IntN(4) {
			allowed, offered = append(allowed, random()), append(offered, random())
		}
		got := Narrow(allowed, offered)
		for a := range uint32(18) {
			for protocol := range uint8(4) {
				for port := range uint16(10) {
					want := anyOf(allowed, v4(a), protocol, port) && anyOf(offered, v4(a), protocol, port)
					if anyOf(got, v4(a), protocol, port) != want {
						t.Fatalf("allowed %s, offered %s: got %s, which is wrong for %s protocol %d port %d",
							SelectorList(allowed), SelectorList(offered), SelectorList(got), v4(a), protocol, port)
					}
				}
			}
		}
		for i, s := range got {
			for j, other := range got {
				if i != j && other.Contains(s) {
					t.Fatalf("%s contains %s", other, s)
				}
			}
		}
	}
}

func TestCompareSelectors(t *testing.T) {
	sorted := []TrafficSelector{
		addrs("10.0.0.0", "10.0.0.1"), prefix("10.0.0.0/24"), only(prefix("10.0.0.0/24"), 6, 0, 65535),
		only(prefix("10.0.0.0/24"), 6, 80, 80), prefix("10.0.1.0/24"), prefix("::/0"),
	}
	shuffled := []TrafficSelector{sorted[4], sorted[2], sorted[5], sorted[0], sorted[3], sorted[1]}
	slices.SortFunc(shuffled, CompareSelectors)
	if !slices.Equal(shuffled, sorted) {
		t.Errorf("got %s", SelectorList(shuffled))
	}
}
