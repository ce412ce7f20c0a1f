package sslvpn

import (
	"bytes"
	"encoding/binary"
)

const (
	ipv4HeaderLen = 20
	tcpHeaderLen  = 20
	icmpHeaderLen = 8

	protocolICMP = 1
	protocolTCP  = 6
	tcpSYN       = 0x02
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

// innerHeader is what the data path has to know of an IPv4 packet.
type innerHeader struct {
	src, dst  uint32
	length    int // octets of the packet
	transport int // offset of the upper-layer header; zero in fragments after the first
	protocol  uint8
}

// parse reads the header of an IP packet, which may be followed by padding.
func (h *innerHeader) parse(packet []byte) reason {
	if len(packet) < 1 {
		return reasonMalformed
	}
	if packet[0]>>4 != 4 {
		return reasonNotIPv4
	}
	if len(packet) < ipv4HeaderLen {
		return reasonMalformed
	}
	headerLen := int(packet[0]&0xf) * 4
	h.length = int(binary.BigEndian.Uint16(packet[2:]))
	if headerLen < ipv4HeaderLen || h.length < headerLen || h.length > len(packet) {
		return reasonMalformed
	}
	h.src, h.dst = binary.BigEndian.Uint32(packet[12:]), binary.BigEndian.Uint32(packet[16:])
	h.protocol = packet[9]
	h.transport = headerLen
	if binary.BigEndian.Uint16(packet[6:])&0x1fff != 0 {
		h.transport = 0
	}
	return reasonNone
}

// syn reports whether the packet opens a TCP connection, and so carries the
// option that says how large the answers may be.
func (h *innerHeader) syn(packet []byte) bool {
	return h.protocol == protocolTCP && h.transport != 0 && h.length >= h.transport+tcpHeaderLen &&
		packet[h.transport+13]&tcpSYN != 0
}

// about returns the addresses of the packet that an ICMP error is about.
func (h *innerHeader) about(packet []byte) (src, dst uint32, ok bool) {
	const unreachable, exceeded, parameter = 3, 11, 12
	quote := h.transport + icmpHeaderLen
	if h.protocol != protocolICMP || h.transport == 0 || h.length < quote+ipv4HeaderLen {
		return 0, 0, false
	}
	switch packet[h.transport] {
	case unreachable, exceeded, parameter:
		return binary.BigEndian.Uint32(packet[quote+12:]), binary.BigEndian.Uint32(packet[quote+16:]),
			packet[quote]>>4 == 4
	}
	return 0, 0, false
}

// special reports whether an address is none of one host beyond the link:
// multicast, broadcast, link-local, loopback or "this network" (RFC 6890).
func special(address uint32) bool {
	switch {
	case address>>28 == 0xe, address == ^uint32(0), address>>16 == 169<<8|254, address>>24 == 127, address>>24 == 0:
		return true
	}
	return false
}

// sourceRouted reports whether the options of a packet name routers to go by,
// of which the last is the destination, or cannot be read (RFC 791, section
// 3.1). The packet has a parsed header.
func sourceRouted(packet []byte) bool {
	const optionEnd, optionNop, looseRoute, strictRoute = 0, 1, 131, 137
	end := int(packet[0]&0xf) * 4
	for at := ipv4HeaderLen; at < end; {
		switch packet[at] {
		case optionEnd:
			return false
		case optionNop:
			at++
			continue
		case looseRoute, strictRoute:
			return true
		}
		if at+1 >= end || packet[at+1] < 2 {
			return true
		}
		at += int(packet[at+1])
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
