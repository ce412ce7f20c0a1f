package ipsectest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

const (
	protocolUDP = 17
	ipv4Len     = 20
	ipv6Len     = 40
	udpLen      = 8
)

// datagram is a UDP datagram, as an inner packet. Each of a test has ports of
// its own, so that no two belong to one flow.
type datagram struct {
	src, dst netip.AddrPort
	payload  string
}

func (d datagram) String() string { return fmt.Sprintf("%s to %s %q", d.src, d.dst, d.payload) }

// packet returns the IP packet, with correct checksums and don't-fragment set.
func (d datagram) packet() []byte {
	src, dst := d.src.Addr().AsSlice(), d.dst.Addr().AsSlice()
	udp := make([]byte, udpLen, udpLen+len(d.payload))
	binary.BigEndian.PutUint16(udp, d.src.Port())
	binary.BigEndian.PutUint16(udp[2:], d.dst.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(udpLen+len(d.payload)))
	udp = append(udp, d.payload...)
	pseudo := append(append([]byte{}, src...), dst...)
	pseudo = append(pseudo, 0, protocolUDP, udp[4], udp[5])
	binary.BigEndian.PutUint16(udp[6:], checksum(pseudo, udp))

	if d.src.Addr().Is6() {
		ip := make([]byte, ipv6Len)
		ip[0] = 6 << 4
		binary.BigEndian.PutUint16(ip[4:], uint16(len(udp)))
		ip[6], ip[7] = protocolUDP, 64
		copy(ip[8:], src)
		copy(ip[24:], dst)
		return append(ip, udp...)
	}
	ip := make([]byte, ipv4Len)
	ip[0] = 4<<4 | ipv4Len/4
	binary.BigEndian.PutUint16(ip[2:], uint16(ipv4Len+len(udp)))
	ip[6] = 0x40
	ip[8], ip[9] = 64, protocolUDP
	copy(ip[12:], src)
	copy(ip[16:], dst)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return append(ip, udp...)
}

// parseDatagram reads an IP packet that packet could have made, but for TTL
// and fields that a router may change. Checksums have to be right.
func parseDatagram(b []byte) (d datagram, ok bool) {
	var src, dst, udp []byte
	switch {
	case len(b) >= ipv4Len+udpLen && b[0] == 4<<4|ipv4Len/4 && b[9] == protocolUDP:
		if int(binary.BigEndian.Uint16(b[2:])) != len(b) || checksum(b[:ipv4Len]) != 0 {
			return d, false
		}
		src, dst, udp = b[12:16], b[16:20], b[ipv4Len:]
	case len(b) >= ipv6Len+udpLen && b[0]>>4 == 6 && b[6] == protocolUDP:
		if int(binary.BigEndian.Uint16(b[4:])) != len(b)-ipv6Len {
			return d, false
		}
		src, dst, udp = b[8:24], b[24:40], b[ipv6Len:]
	default:
		return d, false
	}
	pseudo := append(append([]byte{}, src...), dst...)
	pseudo = append(pseudo, 0, protocolUDP, udp[4], udp[5])
	if int(binary.BigEndian.Uint16(udp[4:])) != len(udp) || checksum(pseudo, udp) != 0 {
		return d, false
	}
	from, _ := netip.AddrFromSlice(src)
	to, _ := netip.AddrFromSlice(dst)
	return datagram{
		src:     netip.AddrPortFrom(from, binary.BigEndian.Uint16(udp)),
		dst:     netip.AddrPortFrom(to, binary.BigEndian.Uint16(udp[2:])),
		payload: string(udp[udpLen:]),
	}, true
}

// checksum is the Internet checksum (RFC 1071) of parts, all but the last of
// which have an even length.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, p := range parts {
		for i, b := range p {
			if i%2 == 0 {
				sum += uint32(b) << 8
			} else {
				sum += uint32(b)
			}
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
