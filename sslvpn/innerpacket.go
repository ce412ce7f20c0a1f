package sslvpn

import (
	"bytes"
	"encoding/binary"
)

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	tcpHeaderLen  = 20
	icmpHeaderLen = 8

	protocolICMP   = 1
	protocolTCP    = 6
	protocolICMPv6 = 58
	tcpSYN         = 0x02
)

// Packets of OpenVPN inside its data channel.
var (
	// pingPacket keeps a session alive; it is never forwarded.
	pingPacket = []byte{
		0x2a, 0x18, 0x7b, 0xf3, 0x64, 0x1e, 0xb4, 0xcb, 0x07, 0xed, 0x2d, 0x0a, 0x98, 0x1f, 0xc7, 0x48,
	}
	// occMagic starts the messages of the option check protocol.
	occMagic = []byte{
		0x28, 0x7f, 0x34, 0x6b, 0xd4, 0xef, 0x7a, 0x81, 0x2d, 0x56, 0xb8, 0xd3, 0xaf, 0xc5, 0x45, 0x9c,
	}
)

// occExit says that the peer leaves.
const occExit = 6

func isPing(payload []byte) bool { return bytes.Equal(payload, pingPacket) }

func isExit(payload []byte) bool {
	return len(payload) == len(occMagic)+1 && bytes.HasPrefix(payload, occMagic) && payload[len(occMagic)] == occExit
}

func isOCC(payload []byte) bool { return bytes.HasPrefix(payload, occMagic) }

// innerHeader is what the data path has to know of an IP packet.
type innerHeader struct {
	src, dst  ipNumber
	length    int   // octets of the packet
	transport int   // offset of the upper-layer header; zero in fragments after the first
	protocol  uint8 // of the upper layer
	routed    bool  // the packet itself names routers to go by
}

// parse reads the header of an IP packet, which may be followed by padding.
func (h *innerHeader) parse(packet []byte) reason {
	switch {
	case len(packet) < 1:
		return reasonMalformed
	case packet[0]>>4 == 4:
		return h.parseIPv4(packet)
	case packet[0]>>4 == 6:
		return h.parseIPv6(packet)
	}
	return reasonFamily
}

func (h *innerHeader) parseIPv4(packet []byte) reason {
	if len(packet) < ipv4HeaderLen {
		return reasonMalformed
	}
	headerLen := int(packet[0]&0xf) * 4
	h.length = int(binary.BigEndian.Uint16(packet[2:]))
	if headerLen < ipv4HeaderLen || h.length < headerLen || h.length > len(packet) {
		return reasonMalformed
	}
	h.src = ipv4Number(binary.BigEndian.Uint32(packet[12:]))
	h.dst = ipv4Number(binary.BigEndian.Uint32(packet[16:]))
	h.protocol = packet[9]
	h.transport = headerLen
	if binary.BigEndian.Uint16(packet[6:])&0x1fff != 0 {
		h.transport = 0
	}
	h.routed = headerLen > ipv4HeaderLen && sourceRoute(packet[ipv4HeaderLen:headerLen])
	return reasonNone
}

// maxExtensions bounds the extension headers of an IPv6 packet that are looked
// behind.
const maxExtensions = 8

// parseIPv6 reads the header and its extension headers (RFC 8200, section 4).
func (h *innerHeader) parseIPv6(packet []byte) reason {
	const hopByHop, routing, fragment, authentication, destination = 0, 43, 44, 51, 60
	if len(packet) < ipv6HeaderLen {
		return reasonMalformed
	}
	h.length = ipv6HeaderLen + int(binary.BigEndian.Uint16(packet[4:]))
	if h.length > len(packet) {
		return reasonMalformed
	}
	h.src, h.dst = ipv6Number(packet[8:]), ipv6Number(packet[24:])
	if h.src.is4() || h.dst.is4() { // they stand for addresses of IPv4 here
		return reasonMalformed
	}
	h.protocol, h.routed = packet[6], false
	at := ipv6HeaderLen
	for range maxExtensions {
		length := 0
		switch h.protocol {
		case hopByHop, routing, destination, authentication:
			if h.length < at+8 {
				return reasonMalformed
			}
			length = (int(packet[at+1]) + 1) * 8
			if h.protocol == authentication {
				length = (int(packet[at+1]) + 2) * 4
			}
			h.routed = h.routed || h.protocol == routing && packet[at+3] != 0 // segments left
		case fragment:
			if h.length < at+8 {
				return reasonMalformed
			}
			if binary.BigEndian.Uint16(packet[at+2:])&^7 != 0 {
				h.protocol, h.transport = packet[at], 0
				return reasonNone
			}
			length = 8
		default:
			h.transport = at
			return reasonNone
		}
		h.protocol = packet[at]
		if at += length; at > h.length {
			return reasonMalformed
		}
	}
	return reasonMalformed
}

// syn reports whether the packet opens a TCP connection, and so carries the
// option that says how large the answers may be.
func (h *innerHeader) syn(packet []byte) bool {
	return h.protocol == protocolTCP && h.transport != 0 && h.length >= h.transport+tcpHeaderLen &&
		packet[h.transport+13]&tcpSYN != 0
}

// mss returns the maximum segment size for a link whose limit is for IPv4.
func (h *innerHeader) mss(limit uint16) uint16 {
	if h.src.is4() {
		return limit
	}
	return limit - (ipv6HeaderLen - ipv4HeaderLen)
}

// echoOrError reports whether the packet is ICMP that hosts exchange through
// routers. ICMPv6 has messages of a link beside that (RFC 4890, section 4.4).
func (h *innerHeader) echoOrError(packet []byte) bool {
	const echoReply = 129
	switch h.protocol {
	case protocolICMP:
		return h.src.is4()
	case protocolICMPv6:
		return !h.src.is4() && h.transport != 0 && h.length >= h.transport+icmpHeaderLen && packet[h.transport] <= echoReply
	}
	return false
}

// about returns the addresses of the packet that an ICMP error is about.
func (h *innerHeader) about(packet []byte) (src, dst ipNumber, ok bool) {
	const unreachable, exceeded, parameter = 3, 11, 12
	const lastErrorOfIPv6 = 127
	quote := h.transport + icmpHeaderLen
	switch {
	case h.transport == 0:
	case h.src.is4():
		if h.protocol != protocolICMP || h.length < quote+ipv4HeaderLen || packet[quote]>>4 != 4 {
			break
		}
		switch packet[h.transport] {
		case unreachable, exceeded, parameter:
			return ipv4Number(binary.BigEndian.Uint32(packet[quote+12:])), ipv4Number(binary.BigEndian.Uint32(packet[quote+16:])), true
		}
	case h.protocol == protocolICMPv6 && h.length >= quote+ipv6HeaderLen && packet[quote]>>4 == 6 && packet[h.transport] <= lastErrorOfIPv6:
		return ipv6Number(packet[quote+8:]), ipv6Number(packet[quote+24:]), true
	}
	return ipNumber{}, ipNumber{}, false
}

// special reports whether an address is none of one host beyond the link:
// multicast, broadcast, link-local, loopback or "this network" (RFC 6890).
func special(a ipNumber) bool {
	if !a.is4() {
		return a.high>>56 == 0xff || a.high>>54 == 0xfe80>>6 || a.high == 0 && a.low <= 1
	}
	switch n := uint32(a.low); {
	case n>>28 == 0xe, n == ^uint32(0), n>>16 == 169<<8|254, n>>24 == 127, n>>24 == 0:
		return true
	}
	return false
}

// sourceRoute reports whether options of IPv4 name routers to go by, of which
// the last is the destination, or cannot be read (RFC 791, section 3.1).
func sourceRoute(options []byte) bool {
	const optionEnd, optionNop, looseRoute, strictRoute = 0, 1, 131, 137
	for at := 0; at < len(options); {
		switch options[at] {
		case optionEnd:
			return false
		case optionNop:
			at++
			continue
		case looseRoute, strictRoute:
			return true
		}
		if at+1 >= len(options) || options[at+1] < 2 {
			return true
		}
		at += int(options[at+1])
	}
	return false
}

// clampMSS lowers the maximum segment size option of a SYN to limit octets.
func clampMSS(packet []byte, h *innerHeader, limit uint16) {
	tcp := packet[h.transport:h.length]
	end := int(tcp[12]>>4) * 4
	if end > len(tcp) {
		return
	}
	const optionEnd, optionNop, optionMSS = 0, 1, 2
	for at := tcpHeaderLen; at < end; {
		switch {
		case tcp[at] == optionEnd:
			return
		case tcp[at] == optionNop:
			at++
			continue
		case at+1 >= end || tcp[at+1] < 2 || at+int(tcp[at+1]) > end:
			return
		}
		if tcp[at] == optionMSS && tcp[at+1] == 4 {
			if old := binary.BigEndian.Uint16(tcp[at+2:]); old > limit {
				binary.BigEndian.PutUint16(tcp[at+2:], limit)
				from, to := old, limit
				if at%2 != 0 { // the option straddles two of the checksum's words
					from, to = from<<8|from>>8, to<<8|to>>8
				}
				adjustChecksum(tcp[16:], from, to)
			}
			return
		}
		at += int(tcp[at+1])
	}
}

// adjustChecksum corrects a checksum after 16 aligned bits under it changed
// (RFC 1624).
func adjustChecksum(sum []byte, from, to uint16) {
	v := uint32(^binary.BigEndian.Uint16(sum)) + uint32(^from) + uint32(to)
	v = v>>16 + v&0xffff
	v = v>>16 + v&0xffff
	binary.BigEndian.PutUint16(sum, ^uint16(v))
}
