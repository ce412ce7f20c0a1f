package sslvpn

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/vpngw/vpngw/dataplane/tun"
)

// TestIPv6FromClients holds packets of IPv6 to the rules of IPv4: the source is the
// client's, the destination is allowed, and no header leads elsewhere.
func TestIPv6FromClients(t *testing.T) {
	p, dev := newTestPlane(t, planeOptions{pool6: testPool6})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16", "2001:db8:1::/48", "fd00:8::/64", "ff00::/8", "fe80::/10", "::/8")
	p.testPeer(t, "10.8.0.9", "2001:db8:1::/48")
	const own = "fd00:8::5"
	long := ip6UDP(own, host6, 40)
	long[5]++ // longer than the packet
	udp := ip6UDP(own, host6, 8)[ipv6HeaderLen:]
	extended := func(kind byte, header ...byte) []byte {
		return ip6(kind, own, host6, append(append([]byte{17}, header...), udp...))
	}
	nested := []byte{}
	for range maxExtensions {
		nested = append(nested, 60, 0, 0, 0, 0, 0, 0, 0)
	}
	for _, tt := range []struct {
		name   string
		packet []byte
		want   reason
	}{
		{"allowed", ip6UDP(own, host6, 40), reasonNone},
		{"a traffic class that is the mark of LZO", func() []byte { b := ip6UDP(own, host6, 40); b[0] = 0x66; return b }(), reasonNone},
		{"IPv4 beside it", ipUDP("10.8.0.5", host, 40), reasonNone},
		{"not allowed", ip6UDP(own, outside6, 40), reasonDenied},
		{"another's source", ip6UDP("fd00:8::9", host6, 40), reasonSource},
		{"no source", ip6UDP("::", host6, 40), reasonSource},
		{"a source outside", ip6UDP(outside6, host6, 40), reasonSource},
		{"a link-local source", ip6UDP("fe80::5", host6, 40), reasonSource},
		{"its address of IPv4 as one of IPv6", ip6UDP("::ffff:10.8.0.5", host6, 40), reasonMalformed},
		{"an address of IPv4 as one of IPv6", ip6UDP(own, "::ffff:10.1.0.9", 40), reasonMalformed},
		{"another client, though of an allowed prefix", ip6UDP(own, "fd00:8::9", 40), reasonIsolated},
		{"where the pool has no client", ip6UDP(own, "fd00:8::ffff:1", 40), reasonIsolated},
		{"its own address", ip6UDP(own, own, 40), reasonIsolated},
		{"echo to the server", icmp6(128, own, "fd00:8::1", nil), reasonNone},
		{"packet too big to the server", icmp6(2, own, "fd00:8::1", nil), reasonNone},
		{"a neighbour solicitation to the server", icmp6(135, own, "fd00:8::1", nil), reasonDenied},
		{"a redirect to the server", icmp6(137, own, "fd00:8::1", nil), reasonDenied},
		{"UDP to the server", ip6UDP(own, "fd00:8::1", 8), reasonDenied},
		{"ICMP of IPv4 to the server", ip6(protocolICMP, own, "fd00:8::1", make([]byte, 8)), reasonDenied},
		{"multicast", ip6UDP(own, "ff02::fb", 40), reasonDenied},
		{"link-local", ip6UDP(own, "fe80::1", 40), reasonDenied},
		{"loopback", ip6UDP(own, "::1", 40), reasonDenied},
		{"cut short", long, reasonMalformed},
		{"less than a header", ip6UDP(own, host6, 40)[:39], reasonMalformed},
		{"padding", append(ip6UDP(own, host6, 40), 0, 0, 0), reasonNone},
		{"a routing header with segments left", extended(43, 0, 0, 1, 0, 0, 0, 0), reasonDenied},
		{"one behind another header", ip6(0, own, host6, append([]byte{43, 0, 0, 0, 0, 0, 0, 0, 17, 0, 4, 2, 0, 0, 0, 0}, udp...)), reasonDenied},
		{"a routing header at its end", extended(43, 0, 0, 0, 0, 0, 0, 0), reasonNone},
		{"a fragment", extended(44, 0, 0, 1, 0, 0, 0, 1), reasonNone},
		{"a later fragment", extended(44, 0, 1, 1, 0, 0, 0, 1), reasonNone},
		{"a header that is longer than the packet", extended(60, 9, 0, 0, 0, 0, 0, 0), reasonMalformed},
		{"a header cut short", ip6(60, own, host6, []byte{17, 0, 0}), reasonMalformed},
		{"headers without end", ip6(60, own, host6, nested), reasonMalformed},
		{"no IP at all", append([]byte{0x70}, make([]byte, 60)...), reasonFamily},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := p.drops.snapshot()[tt.want.String()]
			if n := c.sends(t, tt.packet); n != 1 {
				t.Fatalf("%d authentic packets", n)
			}
			if got := received(dev); (got != nil) != (tt.want == reasonNone) {
				t.Errorf("the TUN got %x", got)
			}
			if got := p.drops.snapshot()[tt.want.String()]; tt.want != reasonNone && got != before+1 {
				t.Errorf("%s: %d, want %d: %v", tt.want, got, before+1, p.drops.snapshot())
			}
		})
	}
}

func TestIPv6ToClients(t *testing.T) {
	p, _ := newTestPlane(t, planeOptions{pool6: testPool6})
	c := p.testPeer(t, "10.8.0.5", "2001:db8:1::/48")
	const own = "fd00:8::5"
	quote, foreign := ip6UDP(own, host6, 0), ip6UDP(own, outside6, 0)
	o := newOutbound(p)
	for _, tt := range []struct {
		name   string
		packet []byte
		want   reason
	}{
		{"allowed", ip6UDP(host6, own, 40), reasonNone},
		{"not allowed", ip6UDP(outside6, own, 40), reasonDenied},
		{"another client", ip6UDP("fd00:8::9", own, 40), reasonIsolated},
		{"no client", ip6UDP(host6, "fd00:8::9", 40), reasonNoClient},
		{"the second host of a block", ip6UDP(host6, "fd00:8::6", 40), reasonNoClient},
		{"beyond the clients", ip6UDP(host6, "fd00:8::1:0:5", 40), reasonNoClient},
		{"outside of the pool", ip6UDP(host6, "fd00:9::5", 40), reasonNoClient},
		{"echo reply of the server", icmp6(129, "fd00:8::1", own, nil), reasonNone},
		{"a router advertisement of the server", icmp6(134, "fd00:8::1", own, nil), reasonDenied},
		{"a router about an allowed packet", icmp6(2, outside6, own, quote), reasonNone},
		{"a router about a packet that was not allowed", icmp6(1, outside6, own, foreign), reasonDenied},
		{"a router about another's packet", icmp6(3, outside6, own, ip6UDP("fd00:8::9", host6, 0)), reasonDenied},
		{"an echo with a quote", icmp6(128, outside6, own, quote), reasonDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := p.drops.snapshot()[tt.want.String()]
			got, _ := o.process(append(make([]byte, tun.HeaderLen), tt.packet...))
			if (got != nil) != (tt.want == reasonNone) || got != nil && got != c.client {
				t.Errorf("client %v", got)
			}
			if got := p.drops.snapshot()[tt.want.String()]; tt.want != reasonNone && got != before+1 {
				t.Errorf("%s: %d more: %v", tt.want, got-before, p.drops.snapshot())
			}
		})
	}
}

// TestIPv6WithoutAPool: where clients have no address of IPv6, none passes.
func TestIPv6WithoutAPool(t *testing.T) {
	p, dev := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5", "::/0")
	c.sends(t, ip6UDP("fd00:8::5", host6, 40), ip6UDP("::", "::", 40))
	if got := received(dev); got != nil || p.drops.snapshot()["family"] != 2 {
		t.Errorf("the TUN got %x, %v", got, p.drops.snapshot())
	}
}

// TestMSSOfIPv6 clamps a SYN to 20 octets less than one of IPv4.
func TestMSSOfIPv6(t *testing.T) {
	p, dev := newTestPlane(t, planeOptions{pool6: testPool6})
	c := p.testPeer(t, "10.8.0.5", "2001:db8:1::/48")
	c.link.mss = 1386
	segment := make([]byte, 24)
	segment[12], segment[13] = 6<<4, tcpSYN
	copy(segment[20:], []byte{2, 4, 0x05, 0xa0})
	syn := ip6(protocolTCP, "fd00:8::5", host6, segment)
	pseudo := slices.Concat(syn[8:40], []byte{0, 0, 0, 24, 0, 0, 0, protocolTCP}, syn[40:])
	binary.BigEndian.PutUint16(syn[40+16:], checksum(pseudo))
	c.sends(t, syn)
	got := received(dev)
	if len(got) != len(syn) || !bytes.Equal(got[60:], []byte{2, 4, 0x05, 0x56}) { // 1366
		t.Fatalf("%x", got)
	}
	if sum := checksum(slices.Concat(pseudo[:40], got[40:])); sum != 0 && sum != 0xffff {
		t.Errorf("checksum is off by %#x", sum)
	}
}

func TestPool6(t *testing.T) {
	for _, tt := range []struct {
		pool6, pool string
		ok          bool
	}{
		{"fd00:8::/64", "10.8.0.0/24", true},
		{"2001:db8::/112", "10.8.0.0/16", true},
		{"2001:db8::/112", "10.8.0.0/14", false},
		{"2001:db8::/113", "10.8.0.0/24", false},
		{"2001:db8::/63", "10.8.0.0/24", false},
		{"2001:db8::1/64", "10.8.0.0/24", false},
		{"fe80::/64", "10.8.0.0/24", false},
		{"ff05::/64", "10.8.0.0/24", false},
		{"::/64", "10.8.0.0/24", false},
		{"10.9.0.0/24", "10.8.0.0/24", false},
	} {
		if err := checkPool6(prefixes(tt.pool6)[0], prefixes(tt.pool)[0]); (err == nil) != tt.ok {
			t.Errorf("%s beside %s: %v", tt.pool6, tt.pool, err)
		}
	}
	pool, err := newAddressPool(testPool)
	if err != nil {
		t.Fatal(err)
	}
	if got := pool.beside(testPool6, pool.at(5)); got.String() != "fd00:8::5" {
		t.Errorf("beside 10.8.0.5 is %s", got)
	}
	if got := pool.beside(netip.Prefix{}, pool.at(5)); got.IsValid() {
		t.Errorf("beside nothing is %s", got)
	}
}
