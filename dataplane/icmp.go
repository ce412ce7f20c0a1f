package dataplane

import (
	"encoding/binary"
)

// tooBig builds the ICMP error that tells a sender the largest packet it may
// send: "fragmentation needed" (RFC 792, RFC 1191) or "packet too big"
// (RFC 4443, section 3.2). It seems to come from the packet's destination, from
// where the kernel accepts packets on the interface. It returns nil when the
// packet must not be answered: ICMP errors, fragments, multicast.
func tooBig(packet []byte, h *header, mtu int) []byte {
	if h.version == 6 {
		return tooBigIPv6(packet, h, mtu)
	}
	const quoted = 548 // octets: the whole is no longer than 576 (RFC 1812, section 4.3.2.3)
	unreachable, isError := byte(3), false
	if h.protocol == protocolICMP && h.transport != 0 && h.length > h.transport {
		switch packet[h.transport] {
		case 3, 4, 5, 11, 12:
			isError = true
		}
	}
	if isError || h.transport == 0 || h.dst[0] >= 224 || h.src[0] >= 224 || h.src[0] == 0 {
		return nil
	}
	quote := packet[:min(h.length, quoted)]
	m := make([]byte, ipv4HeaderLen+8+len(quote))
	m[0] = 0x45
	m[1] = 0xc0 // internetwork control
	binary.BigEndian.PutUint16(m[2:], uint16(len(m)))
	m[8], m[9] = 64, protocolICMP
	copy(m[12:16], h.dst[:4])
	copy(m[16:20], h.src[:4])
	binary.BigEndian.PutUint16(m[10:], checksum(0, m[:ipv4HeaderLen]))
	icmp := m[ipv4HeaderLen:]
	icmp[0], icmp[1] = unreachable, 4
	binary.BigEndian.PutUint16(icmp[6:], uint16(mtu))
	copy(icmp[8:], quote)
	binary.BigEndian.PutUint16(icmp[2:], checksum(0, icmp))
	return m
}

func tooBigIPv6(packet []byte, h *header, mtu int) []byte {
	const quoted = 1280 - ipv6HeaderLen - 8
	isError := h.protocol == protocolICMPv6 && h.transport != 0 && h.length > h.transport &&
		packet[h.transport] < 128
	if isError || h.src[0] == 0xff || h.src == [16]byte{} {
		return nil
	}
	quote := packet[:min(h.length, quoted)]
	m := make([]byte, ipv6HeaderLen+8+len(quote))
	m[0] = 0x60
	binary.BigEndian.PutUint16(m[4:], uint16(8+len(quote)))
	m[6], m[7] = protocolICMPv6, 64
	copy(m[8:24], h.dst[:])
	copy(m[24:40], h.src[:])
	icmp := m[ipv6HeaderLen:]
	icmp[0] = 2
	binary.BigEndian.PutUint32(icmp[4:], uint32(max(mtu, 1280)))
	copy(icmp[8:], quote)
	pseudo := uint32(len(icmp)) + protocolICMPv6
	for i := 8; i < 40; i += 2 {
		pseudo += uint32(binary.BigEndian.Uint16(m[i:]))
	}
	binary.BigEndian.PutUint16(icmp[2:], checksum(pseudo, icmp))
	return m
}

// checksum is the Internet checksum (RFC 1071) over a sum so far and b.
func checksum(sum uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// fragmentIPv4 calls emit with the fragments of an IPv4 packet (RFC 791,
// section 3.2), none longer than limit octets. scratch is room for one
// fragment and what emit wants behind it. It returns false when the packet
// cannot be cut.
func fragmentIPv4(packet []byte, limit int, scratch []byte, emit func(fragment []byte)) bool {
	headerLen := int(packet[0]&0xf) * 4
	step := (limit - headerLen) &^ 7
	if step < 8 || limit > len(scratch) {
		return false
	}
	const moreFragments = 0x2000
	flags := binary.BigEndian.Uint16(packet[6:])
	payload := packet[headerLen:]
	if int(flags&0x1fff)*8+len(payload) > 65535 {
		return false // no packet is that long: the offset would overflow
	}
	for at := 0; at < len(payload); at += step {
		part := payload[at:min(at+step, len(payload))]
		f := scratch[:headerLen+len(part)]
		copy(f, packet[:headerLen])
		if at > 0 {
			clearOptions(f[ipv4HeaderLen:headerLen])
		}
		copy(f[headerLen:], part)
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		offset := flags + uint16(at/8)
		if at+step < len(payload) {
			offset |= moreFragments
		}
		binary.BigEndian.PutUint16(f[6:], offset)
		f[10], f[11] = 0, 0
		binary.BigEndian.PutUint16(f[10:], checksum(0, f[:headerLen]))
		emit(f)
	}
	return true
}

// clearOptions replaces the IPv4 options that only the first fragment carries
// by no-operations.
func clearOptions(options []byte) {
	const end, nop, copied = 0, 1, 0x80
	for at := 0; at < len(options); {
		size := 1
		if options[at] != end && options[at] != nop {
			if at+1 >= len(options) || options[at+1] < 2 || at+int(options[at+1]) > len(options) {
				return
			}
			size = int(options[at+1])
		}
		if options[at]&copied == 0 {
			for i := range size {
				options[at+i] = nop
			}
		}
		at += size
	}
}
