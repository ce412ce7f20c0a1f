package dataplane

import (
	"encoding/binary"
	"net/netip"

	"github.com/vpngw/vpngw/ipsec"
)

// IP protocol numbers.
const (
	protocolHopByHop = 0
	protocolICMP     = 1
	protocolIPv4     = 4
	protocolTCP      = 6
	protocolUDP      = 17
	protocolDCCP     = 33
	protocolIPv6     = 41
	protocolRouting  = 43
	protocolFragment = 44
	protocolESP      = 50
	protocolAH       = 51
	protocolICMPv6   = 58
	protocolDestOpts = 60
	protocolSCTP     = 132
	protocolUDPLite  = 136
)

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	tcpHeaderLen  = 20
	tcpSYN        = 0x02
	// maxExtensions is how many IPv6 extension headers are looked through.
	maxExtensions = 8
)

// flowKey is what traffic selectors look at.
type flowKey struct {
	src, dst         [16]byte // IPv4 addresses take the first four octets
	srcPort, dstPort uint16   // for ICMP both are type and code (RFC 7296, section 3.13.1)
	protocol         uint8
	version          uint8
	ports            bool // false for fragments after the first, and protocols without ports
}

func (k *flowKey) source() netip.Addr      { return k.addr(&k.src) }
func (k *flowKey) destination() netip.Addr { return k.addr(&k.dst) }

func (k *flowKey) addr(octets *[16]byte) netip.Addr {
	if k.version == 4 {
		return netip.AddrFrom4([4]byte(octets[:4]))
	}
	return netip.AddrFrom16(*octets)
}

// hash spreads flows over the flow cache.
func (k *flowKey) hash() uint32 {
	h := uint32(k.srcPort)<<16 | uint32(k.dstPort)
	for i := 0; i < 16; i += 4 {
		h = (h ^ binary.NativeEndian.Uint32(k.src[i:])) * 0x9e3779b1
		h = (h ^ binary.NativeEndian.Uint32(k.dst[i:])) * 0x85ebca6b
	}
	return (h ^ h>>15) + uint32(k.protocol)
}

// header is what the data plane has to know of an inner packet.
type header struct {
	flowKey
	length    int   // octets of the packet
	transport int   // offset of the upper-layer header; zero in fragments after the first
	tos       uint8 // type of service or traffic class
	df        bool  // must not be fragmented
	fragment  bool  // part of a larger packet
}

// parse reads the headers of an IP packet, which may be followed by padding.
// ok is false when they contradict themselves or the packet is cut short.
func (h *header) parse(packet []byte) (ok bool) {
	*h = header{}
	if len(packet) < ipv4HeaderLen {
		return false
	}
	switch packet[0] >> 4 {
	case 4:
		return h.parseIPv4(packet)
	case 6:
		return h.parseIPv6(packet)
	}
	return false
}

func (h *header) parseIPv4(packet []byte) bool {
	headerLen := int(packet[0]&0xf) * 4
	h.length = int(binary.BigEndian.Uint16(packet[2:]))
	if headerLen < ipv4HeaderLen || h.length < headerLen || h.length > len(packet) {
		return false
	}
	h.version, h.tos, h.protocol = 4, packet[1], packet[9]
	copy(h.src[:4], packet[12:16])
	copy(h.dst[:4], packet[16:20])
	flags := binary.BigEndian.Uint16(packet[6:])
	const dontFragment, moreFragments, offset = 0x4000, 0x2000, 0x1fff
	h.df = flags&dontFragment != 0
	h.fragment = flags&(moreFragments|offset) != 0
	if flags&offset != 0 {
		return true
	}
	return h.parseTransport(packet[:h.length], headerLen)
}

func (h *header) parseIPv6(packet []byte) bool {
	if len(packet) < ipv6HeaderLen {
		return false
	}
	h.length = ipv6HeaderLen + int(binary.BigEndian.Uint16(packet[4:]))
	if h.length > len(packet) {
		return false
	}
	packet = packet[:h.length]
	h.version, h.df = 6, true
	h.tos = uint8(binary.BigEndian.Uint16(packet) >> 4)
	copy(h.src[:], packet[8:24])
	copy(h.dst[:], packet[24:40])
	next, at := packet[6], ipv6HeaderLen
	for range maxExtensions {
		var size int
		switch next {
		case protocolHopByHop, protocolRouting, protocolDestOpts:
			if at+8 > len(packet) {
				return false
			}
			size = (int(packet[at+1]) + 1) * 8
		case protocolAH:
			if at+8 > len(packet) {
				return false
			}
			size = (int(packet[at+1]) + 2) * 4
		case protocolFragment:
			if at+8 > len(packet) {
				return false
			}
			size, h.fragment = 8, true
			if binary.BigEndian.Uint16(packet[at+2:])&^7 != 0 {
				h.protocol = packet[at]
				return true
			}
		default:
			h.protocol = next
			return h.parseTransport(packet, at)
		}
		next = packet[at]
		if at += size; at > len(packet) {
			return false
		}
	}
	return false
}

// parseTransport reads the ports of a packet that is whole or a first
// fragment.
func (h *header) parseTransport(packet []byte, at int) bool {
	h.transport = at
	rest := packet[at:]
	switch h.protocol {
	case protocolTCP, protocolUDP, protocolDCCP, protocolSCTP, protocolUDPLite:
		if len(rest) < 4 {
			return h.fragment // too small to tell: a packet without ports
		}
		h.srcPort, h.dstPort = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
		h.ports = true
	case protocolICMP, protocolICMPv6:
		if len(rest) < 2 {
			return h.fragment
		}
		h.srcPort = binary.BigEndian.Uint16(rest)
		h.dstPort = h.srcPort
		h.ports = true
	}
	return true
}

// syn reports whether the packet opens a TCP connection, and so carries the
// option that says how large the answers may be.
func (h *header) syn(packet []byte) bool {
	return h.protocol == protocolTCP && h.transport != 0 && h.length >= h.transport+tcpHeaderLen &&
		packet[h.transport+13]&tcpSYN != 0
}

// covers reports whether one side of a packet falls under a selector. A
// fragment that shows no ports falls under those that leave the ports open
// (RFC 4301, section 7.1).
func covers(ts *ipsec.TrafficSelector, a netip.Addr, protocol uint8, port uint16, ports bool) bool {
	switch {
	case ts.Protocol != 0 && ts.Protocol != protocol || !ts.ContainsAddr(a):
		return false
	case ts.StartPort == 0 && ts.EndPort == 65535:
		return true
	case ts.StartPort > ts.EndPort: // OPAQUE: ports that do not show
		return !ports
	}
	return ports && port >= ts.StartPort && port <= ts.EndPort
}

// coversAny reports whether one side of a packet falls under one of many
// selectors.
func coversAny(list []ipsec.TrafficSelector, a netip.Addr, protocol uint8, port uint16, ports bool) bool {
	for i := range list {
		if covers(&list[i], a, protocol, port, ports) {
			return true
		}
	}
	return false
}

// setTOS replaces the type of service or traffic class.
func setTOS(packet []byte, tos uint8) {
	if packet[0]>>4 == 6 {
		v := binary.BigEndian.Uint16(packet)
		binary.BigEndian.PutUint16(packet, v&^0x0ff0|uint16(tos)<<4)
		return
	}
	old := binary.BigEndian.Uint16(packet)
	packet[1] = tos
	adjustChecksum(packet[10:], old, binary.BigEndian.Uint16(packet))
}

// adjustChecksum corrects a checksum after 16 aligned bits under it changed
// (RFC 1624).
func adjustChecksum(sum []byte, from, to uint16) {
	v := uint32(^binary.BigEndian.Uint16(sum)) + uint32(^from) + uint32(to)
	v = v>>16 + v&0xffff
	v = v>>16 + v&0xffff
	binary.BigEndian.PutUint16(sum, ^uint16(v))
}

// Codepoints of explicit congestion notification (RFC 3168, section 5).
const (
	ecnMask   = 3
	ecnNotECT = 0
	ecnECT1   = 1
	ecnECT0   = 2
	ecnCE     = 3
)

// decapsulateECN carries a congestion mark of the outer header to the inner
// packet (RFC 6040, section 4.2). It returns false for a packet to drop.
func decapsulateECN(packet []byte, inner, outer uint8) bool {
	switch outer & ecnMask {
	case ecnCE:
		if inner&ecnMask == ecnNotECT {
			return false
		}
		if inner&ecnMask != ecnCE {
			setTOS(packet, inner|ecnCE)
		}
	case ecnECT1:
		if inner&ecnMask == ecnECT0 {
			setTOS(packet, inner&^ecnMask|ecnECT1)
		}
	}
	return true
}

// clampMSS lowers the maximum segment size option of a SYN, so that the
// packets of the connection are no longer than limit octets.
func clampMSS(packet []byte, h *header, limit int) {
	mss := limit - tcpHeaderLen - ipv4HeaderLen
	if h.version == 6 {
		mss = limit - tcpHeaderLen - ipv6HeaderLen
	}
	if mss < 1 || mss > 65535 {
		return
	}
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
			if old := binary.BigEndian.Uint16(tcp[at+2:]); int(old) > mss {
				binary.BigEndian.PutUint16(tcp[at+2:], uint16(mss))
				if at%2 == 0 {
					adjustChecksum(tcp[16:], old, uint16(mss))
				} else {
					// The option straddles two of the checksum's words.
					adjustChecksum(tcp[16:], swap(old), swap(uint16(mss)))
				}
			}
			return
		}
		at += int(tcp[at+1])
	}
}

func swap(v uint16) uint16 { return v<<8 | v>>8 }
