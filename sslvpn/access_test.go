package sslvpn

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestAccessSet(t *testing.T) {
	for _, tt := range []struct {
		name    string
		set     *accessSet
		yes, no []string
	}{
		{"nil", nil, nil, []string{"10.0.0.1", "0.0.0.0"}},
		{"empty", newAccessSet(nil), nil, []string{"10.0.0.1"}},
		{
			"one", newAccessSet(prefixes("10.1.2.0/24")),
			[]string{"10.1.2.0", "10.1.2.255"},
			[]string{"10.1.1.255", "10.1.3.0"},
		},
		{"all", newAccessSet(prefixes("0.0.0.0/0", "10.0.0.0/8")), []string{"0.0.0.0", "255.255.255.255", "10.1.1.1"}, nil},
		{
			"host bits, overlaps, neighbours, one host", newAccessSet(prefixes("10.1.3.9/24", "10.1.0.0/22", "10.1.4.0/24", "192.0.2.7/32", "255.255.255.255/32")),
			[]string{"10.1.0.0", "10.1.4.255", "192.0.2.7", "255.255.255.255"},
			[]string{"10.0.255.255", "10.1.5.0", "192.0.2.6", "192.0.2.8", "255.255.255.254"},
		},
		{
			"all of IPv6", newAccessSet(prefixes("::/0", "2001:db8::/32")),
			[]string{"::", "2001:db8::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
			[]string{"10.0.0.1", "0.0.0.0", "255.255.255.255"},
		},
		{"all of IPv4", newAccessSet(prefixes("0.0.0.0/0")), nil, []string{"::", "2001:db8::1", "::fffe:ffff:ffff", "::1:0:0:0"}},
		{
			"networks of IPv6", newAccessSet(prefixes("2001:db8:1::/48", "2001:db8:0:8000::/49", "fd00::9/128", "2001:db8:2::/64", "2001:db8:2:1::/64")),
			[]string{"2001:db8:1::", "2001:db8:1:ffff:ffff:ffff:ffff:ffff", "2001:db8:0:8000::", "fd00::9", "2001:db8:2:1:ffff::"},
			[]string{"2001:db8:0:7fff:ffff:ffff:ffff:ffff", "2001:db8:2:2::", "fd00::8", "fd00::a"},
		},
		{
			"all but what is foreign", newAccessSet(prefixes("0.0.0.0/0", "::/0"), prefixes("172.31.0.0/24", "172.30.0.0/16", "172.30.7.0/24", "fd00:9::/64")...),
			[]string{"0.0.0.0", "172.29.255.255", "172.31.1.0", "255.255.255.255", "::", "fd00:8:ffff::1", "fd00:9:0:1::", "ffff:ffff::"},
			[]string{"172.30.0.0", "172.30.7.1", "172.31.0.0", "172.31.0.255", "fd00:9::", "fd00:9::ffff:ffff:ffff:ffff"},
		},
		{
			"what is foreign at the ends", newAccessSet(prefixes("0.0.0.0/0"), prefixes("0.0.0.0/8", "255.0.0.0/8")...),
			[]string{"1.0.0.0", "254.255.255.255"},
			[]string{"0.0.0.0", "0.255.255.255", "255.0.0.0", "255.255.255.255"},
		},
		{
			"what is foreign and named", newAccessSet(prefixes("0.0.0.0/0", "172.30.0.0/16"), prefixes("172.30.7.0/24", "172.31.0.0/24")...),
			[]string{"172.30.7.1"},
			[]string{"172.31.0.1"},
		},
	} {
		for want, list := range map[bool][]string{true: tt.yes, false: tt.no} {
			for _, a := range list {
				if got := tt.set.contains(addressNumber(netip.MustParseAddr(a))); got != want {
					t.Errorf("%s: %s: %v", tt.name, a, got)
				}
			}
		}
	}
}

// TestAccessSetAgainstPrefixes compares sets of many prefixes with asking each
// prefix.
func TestAccessSetAgainstPrefixes(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		var list []netip.Prefix
		for range random.IntN(40) {
			list = append(list, netip.PrefixFrom(ipv4Number(random.Uint32()&0xff).addr(), 22+random.IntN(11)))
		}
		set := newAccessSet(list)
		for n := range uint32(1200) {
			want := false
			for _, p := range list {
				want = want || p.Contains(ipv4Number(n).addr())
			}
			if got := set.contains(ipv4Number(n)); got != want {
				t.Fatalf("%v: %s: %v", list, ipv4Number(n).addr(), got)
			}
		}
	}
}

// TestAccessSetAgainstPrefixesOfIPv6 likewise, around the border of the halves of
// an address.
func TestAccessSetAgainstPrefixesOfIPv6(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	near := func() netip.Addr {
		n := ipNumber{high: 7, low: 0}
		switch d := random.Uint64N(64); {
		case random.IntN(2) == 0:
			n.low += d
		default:
			n.high, n.low = 6, ^d
		}
		return n.addr()
	}
	for range 50 {
		var list []netip.Prefix
		for range random.IntN(40) {
			list = append(list, netip.PrefixFrom(near(), 60+random.IntN(69)))
		}
		set := newAccessSet(list)
		for range 500 {
			a, want := near(), false
			for _, p := range list {
				want = want || p.Masked().Contains(a)
			}
			if got := set.contains(addressNumber(a)); got != want {
				t.Fatalf("%v: %s: %v", list, a, got)
			}
		}
	}
}

func BenchmarkAccessSet(b *testing.B) {
	var list []netip.Prefix
	for i := range uint32(1000) {
		list = append(list, netip.PrefixFrom(ipv4Number(i<<20).addr(), 24))
	}
	set := newAccessSet(list)
	b.ReportAllocs()
	for i := uint32(0); b.Loop(); i += 0x1234567 {
		set.contains(ipv4Number(i))
	}
}
