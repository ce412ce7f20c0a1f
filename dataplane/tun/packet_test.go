package tun

import (
	"encoding/binary"
	"net/netip"
)

// The functions here build packets and check them the slow and plain way, so
// that tests do not lean on the code under test.

var (
	addr4 = [2]netip.Addr{netip.MustParseAddr("10.1.0.7"), netip.MustParseAddr("192.168.3.9")}
	addr6 = [2]netip.Addr{netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("2001:db8:1::9")}
)

// slowSum is the Internet checksum of RFC 1071 as its text has it.
func slowSum(parts ...[]byte) uint16 {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	if len(all)%2 == 1 {
		all = append(all, 0)
	}
	var sum uint32
	for i := 0; i < len(all); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(all[i:]))
		if sum > 0xffff {
			sum -= 0xffff
		}
	}
	return ^uint16(sum)
}

// spec describes a TCP or UDP packet.
type spec struct {
	v6       bool
	protocol uint8
	sport    uint16
	seq, ack uint32
	flags    uint8
	options  []byte // of TCP
	id       uint16
	tos, ttl uint8
	payload  []byte
	noDF     bool
}

func (s spec) transportOffset() int {
	if s.v6 {
		return 40
	}
	return 20
}

func (s spec) pseudo(n int) []byte {
	a := addr4
	if s.v6 {
		a = addr6
	}
	p := append(a[0].AsSlice(), a[1].AsSlice()...)
	return append(p, 0, s.protocol, byte(n>>8), byte(n))
}

// build returns the packet with right checksums.
func (s spec) build() []byte {
	var t []byte
	if s.protocol == protocolTCP {
		t = make([]byte, 20)
		binary.BigEndian.PutUint32(t[4:], s.seq)
		binary.BigEndian.PutUint32(t[8:], s.ack)
		t[12] = byte((20 + len(s.options)) / 4 << 4)
		t[13] = s.flags
		binary.BigEndian.PutUint16(t[14:], 501)
		t = append(t, s.options...)
	} else {
		t = make([]byte, 8)
		binary.BigEndian.PutUint16(t[4:], uint16(8+len(s.payload)))
	}
	binary.BigEndian.PutUint16(t, s.sport)
	binary.BigEndian.PutUint16(t[2:], 443)
	t = append(t, s.payload...)
	at := 6
	if s.protocol == protocolTCP {
		at = 16
	}
	sum := slowSum(s.pseudo(len(t)), t)
	if sum == 0 && s.protocol == protocolUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(t[at:], sum)

	ttl := s.ttl
	if ttl == 0 {
		ttl = 64
	}
	var ip []byte
	if s.v6 {
		ip = make([]byte, 40)
		binary.BigEndian.PutUint16(ip, 0x6000|uint16(s.tos)<<4)
		binary.BigEndian.PutUint16(ip[4:], uint16(len(t)))
		ip[6], ip[7] = s.protocol, ttl
		copy(ip[8:], addr6[0].AsSlice())
		copy(ip[24:], addr6[1].AsSlice())
		return append(ip, t...)
	}
	ip = make([]byte, 20)
	ip[0], ip[1] = 0x45, s.tos
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(t)))
	binary.BigEndian.PutUint16(ip[4:], s.id)
	if !s.noDF {
		ip[6] = 0x40
	}
	ip[8], ip[9] = ttl, s.protocol
	copy(ip[12:], addr4[0].AsSlice())
	copy(ip[16:], addr4[1].AsSlice())
	binary.BigEndian.PutUint16(ip[10:], slowSum(ip))
	return append(ip, t...)
}

// super returns the frame of a super-packet, as the kernel writes it: lengths
// of the whole, and the sum of the pseudo-header in the checksum field.
func (s spec) super(size int) []byte {
	p := s.build()
	at := s.transportOffset()
	h := virtioHeader{flags: virtioNeedsCsum, gsoSize: uint16(size), csumStart: uint16(at)}
	switch {
	case s.protocol == protocolUDP:
		h.gsoType, h.csumOffset, h.hdrLen = gsoUDP, 6, uint16(at+8)
	case s.v6:
		h.gsoType, h.csumOffset, h.hdrLen = gsoTCPv6, 16, uint16(at+20+len(s.options))
	default:
		h.gsoType, h.csumOffset, h.hdrLen = gsoTCPv4, 16, uint16(at+20+len(s.options))
	}
	binary.BigEndian.PutUint16(p[at+int(h.csumOffset):], ^slowSum(s.pseudo(len(p)-at)))
	frame := make([]byte, HeaderLen)
	h.put(frame)
	return append(frame, p...)
}

// counting returns n octets that differ from their neighbours.
func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}
