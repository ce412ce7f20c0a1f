package dataplane

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
	"github.com/vpngw/vpngw/ipsec"
)

// ipv4 returns an IPv4 packet.
func ipv4(protocol uint8, src, dst string, flags uint16, payload []byte) []byte {
	p := make([]byte, ipv4HeaderLen+len(payload))
	p[0] = 0x45
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	binary.BigEndian.PutUint16(p[4:], 0x1234)
	binary.BigEndian.PutUint16(p[6:], flags)
	p[8], p[9] = 64, protocol
	copy(p[12:], netip.MustParseAddr(src).AsSlice())
	copy(p[16:], netip.MustParseAddr(dst).AsSlice())
	binary.BigEndian.PutUint16(p[10:], checksum(0, p[:ipv4HeaderLen]))
	copy(p[ipv4HeaderLen:], payload)
	return p
}

// ipv6 returns an IPv6 packet; next is the type of the first header in payload.
func ipv6(next uint8, src, dst string, payload []byte) []byte {
	p := make([]byte, ipv6HeaderLen+len(payload))
	p[0] = 0x60
	binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
	p[6], p[7] = next, 64
	copy(p[8:], netip.MustParseAddr(src).AsSlice())
	copy(p[24:], netip.MustParseAddr(dst).AsSlice())
	copy(p[ipv6HeaderLen:], payload)
	return p
}

// tcp returns a TCP header with options, and a right checksum for the packet
// that build makes of it.
func tcp(flags uint8, options []byte) []byte {
	h := make([]byte, tcpHeaderLen+len(options))
	binary.BigEndian.PutUint16(h, 4000)
	binary.BigEndian.PutUint16(h[2:], 443)
	h[12] = byte(len(h)/4) << 4
	h[13] = flags
	copy(h[tcpHeaderLen:], options)
	return h
}

// tcpSum returns the checksum over a packet's pseudo-header and transport part;
// it is zero when the checksum inside is right.
func tcpSum(packet []byte) uint16 {
	var pseudo []byte
	at := ipv4HeaderLen
	if packet[0]>>4 == 6 {
		at = ipv6HeaderLen
		pseudo = append(pseudo, packet[8:40]...)
	} else {
		pseudo = append(pseudo, packet[12:20]...)
	}
	n := len(packet) - at
	pseudo = append(pseudo, 0, protocolTCP, byte(n>>8), byte(n))
	return checksum(0, append(pseudo, packet[at:]...))
}

func withTCPSum(packet []byte) []byte {
	at := ipv4HeaderLen
	if packet[0]>>4 == 6 {
		at = ipv6HeaderLen
	}
	binary.BigEndian.PutUint16(packet[at+16:], tcpSum(packet))
	return packet
}

func TestParse(t *testing.T) {
	ports := []byte{0x0f, 0xa0, 0x01, 0xbb, 0, 0, 0, 0}
	const v6a, v6b = "2001:db8::1", "2001:db8::2"
	fragment := func(offset uint16) []byte {
		h := []byte{protocolUDP, 0, 0, 0, 0, 0, 0, 1}
		binary.BigEndian.PutUint16(h[2:], offset)
		return append(h, ports...)
	}
	options := func(next uint8, rest []byte) []byte {
		return append([]byte{next, 1, 5, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, rest...)
	}
	tests := []struct {
		name        string
		packet      []byte
		ok          bool
		protocol    uint8
		sport       uint16
		ports       bool
		df, partial bool
	}{
		{"UDP", ipv4(protocolUDP, "10.0.0.1", "10.0.0.2", 0, ports), true, protocolUDP, 4000, true, false, false},
		{"do not fragment", ipv4(protocolTCP, "10.0.0.1", "10.0.0.2", 0x4000, tcp(2, nil)), true, protocolTCP, 4000, true, true, false},
		{"ICMP: type and code", ipv4(protocolICMP, "10.0.0.1", "10.0.0.2", 0, []byte{8, 1, 0, 0}), true, protocolICMP, 0x0801, true, false, false},
		{"GRE has no ports", ipv4(47, "10.0.0.1", "10.0.0.2", 0, ports), true, 47, 0, false, false, false},
		{"first fragment", ipv4(protocolUDP, "10.0.0.1", "10.0.0.2", 0x2000, ports), true, protocolUDP, 4000, true, false, true},
		{"later fragment", ipv4(protocolUDP, "10.0.0.1", "10.0.0.2", 0x0010, ports), true, protocolUDP, 0, false, false, true},
		{"padding behind", append(ipv4(protocolUDP, "10.0.0.1", "10.0.0.2", 0, ports), make([]byte, 99)...), true, protocolUDP, 4000, true, false, false},
		{"cut", ipv4(protocolUDP, "10.0.0.1", "10.0.0.2", 0, ports)[:27], false, 0, 0, false, false, false},
		{"ports cut", ipv4(protocolUDP, "10.0.0.1", "10.0.0.2", 0, ports[:3]), false, 0, 0, false, false, false},
		{"tiny first fragment", ipv4(protocolUDP, "10.0.0.1", "10.0.0.2", 0x2000, ports[:3]), true, protocolUDP, 0, false, false, true},
		{"header length 4", append([]byte{0x41}, ipv4(protocolUDP, "10.0.0.1", "10.0.0.2", 0, ports)[1:]...), false, 0, 0, false, false, false},
		{"version 5", append([]byte{0x55}, ipv4(protocolUDP, "10.0.0.1", "10.0.0.2", 0, ports)[1:]...), false, 0, 0, false, false, false},
		{"empty", nil, false, 0, 0, false, false, false},

		{"v6 UDP", ipv6(protocolUDP, v6a, v6b, ports), true, protocolUDP, 4000, true, true, false},
		{"v6 ICMP", ipv6(protocolICMPv6, v6a, v6b, []byte{128, 0, 0, 0}), true, protocolICMPv6, 0x8000, true, true, false},
		{"v6 options", ipv6(protocolHopByHop, v6a, v6b, options(protocolDestOpts, options(protocolUDP, ports))), true, protocolUDP, 4000, true, true, false},
		{"v6 first fragment", ipv6(protocolFragment, v6a, v6b, fragment(1)), true, protocolUDP, 4000, true, true, true},
		{"v6 later fragment", ipv6(protocolFragment, v6a, v6b, fragment(8)), true, protocolUDP, 0, false, true, true},
		{"v6 no next header", ipv6(59, v6a, v6b, nil), true, 59, 0, false, true, false},
		{"v6 cut", ipv6(protocolUDP, v6a, v6b, ports)[:45], false, 0, 0, false, false, false},
		{"v6 option behind the end", ipv6(protocolHopByHop, v6a, v6b, []byte{protocolUDP, 200, 0, 0, 0, 0, 0, 0}), false, 0, 0, false, false, false},
		{"v6 too many options", ipv6(protocolDestOpts, v6a, v6b, bytes.Repeat([]byte{protocolDestOpts, 0, 1, 4, 0, 0, 0, 0}, 20)), false, 0, 0, false, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var h header
			if ok := h.parse(tt.packet); ok != tt.ok {
				t.Fatalf("ok = %t", ok)
			}
			if !tt.ok {
				return
			}
			if h.protocol != tt.protocol || h.srcPort != tt.sport || h.ports != tt.ports || h.df != tt.df || h.fragment != tt.partial {
				t.Errorf("%+v", h)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	target := fuzztest.New(f)
	target.Add(ipv4(protocolTCP, "10.0.0.1", "10.0.0.2", 0, tcp(tcpSYN, []byte{2, 4, 5, 180})), uint8(3))
	target.Add(ipv6(protocolHopByHop, "2001:db8::1", "2001:db8::2", make([]byte, 64)), uint8(0))
	target.Fuzz(func(t *testing.T, packet []byte, tos uint8) {
		var h header
		if !h.parse(packet) {
			return
		}
		if h.length > len(packet) || h.transport > h.length {
			t.Fatalf("%+v of %d octets", h, len(packet))
		}
		packet = packet[:h.length]
		if h.syn(packet) {
			clampMSS(packet, &h, 1300)
		}
		decapsulateECN(packet, h.tos, tos)
		if answer := tooBig(packet, &h, 1280); answer != nil {
			var a header
			if !a.parse(answer) || a.src != h.dst || a.dst != h.src {
				t.Fatalf("answer %x", answer)
			}
		}
		if h.version == 4 && !h.df {
			scratch := make([]byte, 65535)
			fragmentIPv4(packet, 576, scratch, func(p []byte) {
				if len(p) > 576 {
					t.Fatalf("fragment of %d octets", len(p))
				}
			})
		}
	})
}

func TestCovers(t *testing.T) {
	web := ipsec.SelectorFromPrefix(netip.MustParsePrefix("10.0.0.0/24"))
	web.Protocol, web.StartPort, web.EndPort = protocolTCP, 443, 444
	opaque := ipsec.SelectorFromPrefix(netip.MustParsePrefix("10.0.0.0/24"))
	opaque.StartPort, opaque.EndPort = 65535, 0
	all := ipsec.SelectorFromPrefix(netip.MustParsePrefix("10.0.0.0/24"))
	echo := all
	echo.Protocol, echo.StartPort, echo.EndPort = protocolICMP, 0x0800, 0x08ff
	in, out := netip.MustParseAddr("10.0.0.255"), netip.MustParseAddr("10.0.1.0")
	tests := []struct {
		name     string
		ts       ipsec.TrafficSelector
		addr     netip.Addr
		protocol uint8
		port     uint16
		ports    bool
		want     bool
	}{
		{"port inside", web, in, protocolTCP, 444, true, true},
		{"port outside", web, in, protocolTCP, 445, true, false},
		{"other protocol", web, in, protocolUDP, 443, true, false},
		{"other address", web, out, protocolTCP, 443, true, false},
		{"fragment without ports", web, in, protocolTCP, 0, false, false},
		{"fragment, any port", all, in, protocolTCP, 0, false, true},
		{"fragment, opaque", opaque, in, protocolTCP, 0, false, true},
		{"ports, opaque", opaque, in, protocolTCP, 443, true, false},
		{"echo request", echo, in, protocolICMP, 0x0800, true, true},
		{"echo reply", echo, in, protocolICMP, 0x0000, true, false},
		{"other family", all, netip.MustParseAddr("2001:db8::1"), protocolTCP, 1, true, false},
	}
	for _, tt := range tests {
		if got := covers(&tt.ts, tt.addr, tt.protocol, tt.port, tt.ports); got != tt.want {
			t.Errorf("%s: %t", tt.name, got)
		}
	}
}

func TestClampMSS(t *testing.T) {
	tests := []struct {
		name    string
		options []byte
		limit   int
		want    []byte
	}{
		{"lowered", []byte{2, 4, 0x05, 0xb4}, 1400, []byte{2, 4, 0x05, 0x50}}, // 1,360
		{"low enough", []byte{2, 4, 0x05, 0x00}, 1400, []byte{2, 4, 0x05, 0x00}},
		{"behind an odd offset", []byte{1, 2, 4, 0x05, 0xb4, 1, 1, 0}, 1400, []byte{1, 2, 4, 0x05, 0x50, 1, 1, 0}},
		{"behind others", []byte{4, 2, 3, 3, 7, 2, 4, 0xff, 0xff, 0, 0, 0}, 1400, []byte{4, 2, 3, 3, 7, 2, 4, 0x05, 0x50, 0, 0, 0}},
		{"none", nil, 1400, nil},
		{"behind the end of options", []byte{0, 2, 4, 0x05, 0xb4, 0, 0, 0}, 1400, []byte{0, 2, 4, 0x05, 0xb4, 0, 0, 0}},
		{"broken length", []byte{9, 0, 2, 4, 0x05, 0xb4, 0, 0}, 1400, []byte{9, 0, 2, 4, 0x05, 0xb4, 0, 0}},
		{"option behind the header", []byte{1, 1, 2, 4}, 1400, []byte{1, 1, 2, 4}},
	}
	for _, tt := range tests {
		for _, v6 := range []bool{false, true} {
			packet, limit := ipv4(protocolTCP, "10.0.0.1", "10.0.0.2", 0, tcp(tcpSYN, tt.options)), tt.limit
			if v6 {
				packet, limit = ipv6(protocolTCP, "2001:db8::1", "2001:db8::2", tcp(tcpSYN, tt.options)), tt.limit+20
			}
			withTCPSum(packet)
			var h header
			if !h.parse(packet) || !h.syn(packet) {
				t.Fatal("not taken for a SYN")
			}
			clampMSS(packet, &h, limit)
			if got := packet[len(packet)-len(tt.options):]; !bytes.Equal(got, tt.want) {
				t.Errorf("%s, v6=%t: options %x, want %x", tt.name, v6, got, tt.want)
			}
			if tcpSum(packet) != 0 {
				t.Errorf("%s, v6=%t: checksum wrong", tt.name, v6)
			}
		}
	}
}

// TestDecapsulateECN is the table of RFC 6040, section 4.2.
func TestDecapsulateECN(t *testing.T) {
	const drop = 0xff
	want := [4][4]uint8{ // [inner][outer], in the order of the codepoints
		ecnNotECT: {ecnNotECT, ecnNotECT, ecnNotECT, drop},
		ecnECT1:   {ecnECT1, ecnECT1, ecnECT1, ecnCE},
		ecnECT0:   {ecnECT0, ecnECT1, ecnECT0, ecnCE},
		ecnCE:     {ecnCE, ecnCE, ecnCE, ecnCE},
	}
	const dscp = 0xb8
	for inner := range uint8(4) {
		for outer := range uint8(4) {
			for _, v6 := range []bool{false, true} {
				packet := ipv4(protocolUDP, "10.0.0.1", "10.0.0.2", 0, make([]byte, 8))
				if v6 {
					packet = ipv6(protocolUDP, "2001:db8::1", "2001:db8::2", make([]byte, 8))
				}
				setTOS(packet, dscp|inner)
				ok := decapsulateECN(packet, dscp|inner, 0x20|outer)
				if ok != (want[inner][outer] != drop) {
					t.Errorf("inner %d, outer %d: passed %t", inner, outer, ok)
					continue
				}
				if !ok {
					continue
				}
				var h header
				h.parse(packet)
				if h.tos != dscp|want[inner][outer] {
					t.Errorf("inner %d, outer %d: %02x", inner, outer, h.tos)
				}
				if !v6 && checksum(0, packet[:20]) != 0 {
					t.Errorf("inner %d, outer %d: checksum wrong", inner, outer)
				}
			}
		}
	}
}

func TestTooBig(t *testing.T) {
	packet := ipv4(protocolUDP, "10.0.0.1", "10.9.0.2", 0x4000, make([]byte, 1480))
	var h header
	h.parse(packet)
	m := tooBig(packet, &h, 1400)
	var a header
	if !a.parse(m) || a.length != len(m) || len(m) > 576 {
		t.Fatalf("answer %x", m)
	}
	if checksum(0, m[:20]) != 0 || checksum(0, m[20:]) != 0 {
		t.Error("checksum wrong")
	}
	if a.source() != netip.MustParseAddr("10.9.0.2") || a.destination() != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("from %s to %s", a.source(), a.destination())
	}
	if m[20] != 3 || m[21] != 4 || binary.BigEndian.Uint16(m[26:]) != 1400 || !bytes.Equal(m[28:], packet[:len(m)-28]) {
		t.Errorf("message %x", m[20:40])
	}

	packet = ipv6(protocolUDP, "2001:db8::1", "2001:db8::2", make([]byte, 1480))
	h.parse(packet)
	m = tooBig(packet, &h, 1400)
	if !a.parse(m) || a.length != len(m) || len(m) > 1280 || a.src != h.dst || a.dst != h.src {
		t.Fatalf("answer %x", m)
	}
	if m[40] != 2 || binary.BigEndian.Uint32(m[44:]) != 1400 || !bytes.Equal(m[48:], packet[:len(m)-48]) {
		t.Errorf("message %x", m[40:60])
	}
	pseudo := append(bytes.Clone(m[8:40]), 0, 0, byte((len(m)-40)>>8), byte(len(m)-40), 0, 0, 0, protocolICMPv6)
	if checksum(0, append(pseudo, m[40:]...)) != 0 {
		t.Error("checksum wrong")
	}

	for name, packet := range map[string][]byte{
		"ICMP error":     ipv4(protocolICMP, "10.0.0.1", "10.9.0.2", 0x4000, []byte{3, 1, 0, 0, 0, 0, 0, 0}),
		"later fragment": ipv4(protocolUDP, "10.0.0.1", "10.9.0.2", 0x4010, make([]byte, 8)),
		"multicast":      ipv4(protocolUDP, "10.0.0.1", "224.0.0.1", 0x4000, make([]byte, 8)),
		"ICMPv6 error":   ipv6(protocolICMPv6, "2001:db8::1", "2001:db8::2", []byte{1, 0, 0, 0}),
		"no source":      ipv6(protocolUDP, "::", "2001:db8::2", make([]byte, 8)),
	} {
		if !h.parse(packet) {
			t.Fatal(name)
		}
		if tooBig(packet, &h, 1400) != nil {
			t.Errorf("%s: answered", name)
		}
	}
}

func TestFragmentIPv4(t *testing.T) {
	payload := make([]byte, 3001)
	for i := range payload {
		payload[i] = byte(i * 3)
	}
	for _, tt := range []struct {
		name  string
		flags uint16 // of the packet: it may be a fragment itself
	}{{"whole", 0}, {"a middle fragment", 0x2000 | 100}, {"a last fragment", 100}} {
		t.Run(tt.name, func(t *testing.T) {
			packet := ipv4(protocolUDP, "10.0.0.1", "10.0.0.2", tt.flags, payload)
			var got []byte
			var sizes []int
			ok := fragmentIPv4(packet, 1000, make([]byte, 2000), func(f []byte) {
				flags := binary.BigEndian.Uint16(f[6:])
				if int(flags&0x1fff) != int(tt.flags&0x1fff)+len(got)/8 {
					t.Errorf("offset %d after %d octets", flags&0x1fff, len(got))
				}
				got = append(got, f[20:]...)
				last := len(got) == len(payload)
				if more := flags&0x2000 != 0; more != (!last || tt.flags&0x2000 != 0) {
					t.Errorf("more fragments: %t", more)
				}
				if checksum(0, f[:20]) != 0 || int(binary.BigEndian.Uint16(f[2:])) != len(f) || f[4] != 0x12 {
					t.Errorf("header %x", f[:20])
				}
				sizes = append(sizes, len(f))
			})
			if !ok || !bytes.Equal(got, payload) || len(sizes) != 4 || sizes[0] > 1000 {
				t.Errorf("ok %t, sizes %v", ok, sizes)
			}
		})
	}
	if fragmentIPv4(ipv4(protocolUDP, "10.0.0.1", "10.0.0.2", 0, payload), 27, make([]byte, 2000), func([]byte) {}) {
		t.Error("no payload fits, and yet it was cut")
	}
}

func TestFragmentIPv4PastTheEnd(t *testing.T) {
	packet := ipv4(protocolUDP, "10.0.0.1", "10.0.0.2", 0x1ff0, make([]byte, 2000))
	ok := fragmentIPv4(packet, 1000, make([]byte, 2000), func(f []byte) { t.Errorf("fragment %x", f[:20]) })
	if ok {
		t.Error("fragments behind octet 65,535 were made")
	}
}

func TestClearOptions(t *testing.T) {
	// Record route (7) stays with the first fragment; security (130) is copied.
	options := []byte{7, 3, 4, 130, 3, 9, 1, 0}
	clearOptions(options)
	if want := []byte{1, 1, 1, 130, 3, 9, 1, 1}; !bytes.Equal(options, want) {
		t.Errorf("got %v, want %v", options, want)
	}
	clearOptions([]byte{7, 0, 7, 99}) // lengths that lie: no panic
}
