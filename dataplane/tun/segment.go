package tun

import (
	"encoding/binary"
	"errors"
)

// IP and transport header facts.
const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	udpHeaderLen  = 8
	protocolTCP   = 6
	protocolUDP   = 17

	tcpFIN, tcpPSH, tcpCWR = 0x01, 0x08, 0x80
	tcpACK                 = 0x10
)

// ErrFrame is wrapped by what Segments.Reset returns for a frame that
// contradicts itself.
var ErrFrame = errors.New("malformed frame")

var (
	errShort    = wrapFrame("shorter than its headers")
	errVersion  = wrapFrame("neither IPv4 nor IPv6")
	errChecksum = wrapFrame("checksum position outside the packet")
	errGSO      = wrapFrame("segmentation type or size not valid")
)

func wrapFrame(text string) error { return &frameError{text} }

type frameError struct{ text string }

func (e *frameError) Error() string { return ErrFrame.Error() + ": " + e.text }
func (e *frameError) Unwrap() error { return ErrFrame }

// Segments walks through the IP packets that a frame stands for, with lengths
// and checksums complete. Payload is never moved: the headers of each packet
// are written just before its part of the payload, over what the packet
// before it has used up.
type Segments struct {
	rest  []byte // the packet: headers and the payload that is left
	state segmentState

	hdr        [maxHeaders]byte // the headers of the frame, unchanged
	hdrLen     int
	transport  int    // where the TCP or UDP header starts
	size       int    // payload octets of each packet but the last
	pseudo     uint64 // sum of addresses and protocol
	index      int
	sequence   uint32
	ipID       uint16
	firstFlags uint8
}

// maxHeaders is the most that IP and transport headers of a super-packet take.
const maxHeaders = 40 + 256 + 60

type segmentState uint8

const (
	segmentNone segmentState = iota
	segmentWhole
	segmentTCP
	segmentUDP
)

// Reset starts on another frame. The frame must not be used otherwise until
// Next has returned nil. Errors wrap ErrFrame.
func (s *Segments) Reset(frame []byte) error {
	s.state = segmentNone
	if len(frame) < HeaderLen+ipv4HeaderLen {
		return errShort
	}
	h, packet := parseVirtio(frame), frame[HeaderLen:]
	if version := packet[0] >> 4; version != 4 && version != 6 {
		return errVersion
	} else if version == 6 && len(packet) < ipv6HeaderLen {
		return errShort
	}
	if h.gsoType == gsoNone {
		if h.flags&virtioNeedsCsum != 0 && !completeChecksum(packet, int(h.csumStart), int(h.csumOffset)) {
			return errChecksum
		}
		s.rest, s.state = packet, segmentWhole
		return nil
	}
	return s.resetGSO(h, packet)
}

// completeChecksum turns the pseudo-header sum that the kernel leaves in a
// checksum field into the checksum.
func completeChecksum(packet []byte, start, offset int) bool {
	at := start + offset
	if start < ipv4HeaderLen || at+2 > len(packet) {
		return false
	}
	// The field itself holds the sum of the pseudo-header.
	sum := addSum(0, packet[start:])
	putChecksum(packet[at:], sum)
	if offset == 6 && packet[at] == 0 && packet[at+1] == 0 {
		packet[at], packet[at+1] = 0xff, 0xff // UDP: zero would mean none (RFC 768)
	}
	return true
}

func (s *Segments) resetGSO(h virtioHeader, packet []byte) error {
	s.transport = int(h.csumStart)
	s.size = int(h.gsoSize)
	if s.size == 0 || h.flags&virtioNeedsCsum == 0 {
		return errGSO
	}
	version := packet[0] >> 4
	switch h.gsoType &^ gsoECN {
	case gsoTCPv4, gsoTCPv6:
		if (h.gsoType&^gsoECN == gsoTCPv4) != (version == 4) {
			return errGSO
		}
		if s.transport+20 > len(packet) {
			return errShort
		}
		tcpLen := int(packet[s.transport+12]>>4) * 4
		if tcpLen < 20 {
			return errShort
		}
		s.hdrLen, s.state = s.transport+tcpLen, segmentTCP
	case gsoUDP:
		s.hdrLen, s.state = s.transport+udpHeaderLen, segmentUDP
	default:
		return errGSO
	}
	addresses, follows := packet[12:20], s.transport == int(packet[0]&0xf)*4 && s.transport >= ipv4HeaderLen
	if version == 6 {
		addresses, follows = packet[8:ipv6HeaderLen], s.transport >= ipv6HeaderLen
	}
	if !follows || s.hdrLen > len(packet) || s.hdrLen > maxHeaders {
		s.state = segmentNone
		return errShort
	}
	copy(s.hdr[:], packet[:s.hdrLen])
	if s.state == segmentTCP {
		s.pseudo = pseudoSum(addresses, protocolTCP)
		s.sequence = binary.BigEndian.Uint32(s.hdr[s.transport+4:])
		s.firstFlags = s.hdr[s.transport+13]
	} else {
		s.pseudo = pseudoSum(addresses, protocolUDP)
	}
	s.ipID = binary.BigEndian.Uint16(s.hdr[4:])
	s.index = 0
	s.rest = packet
	return nil
}

// Next returns the next packet, or nil after the last. It stays valid until
// the following call; its capacity reaches to the end of the frame's array.
func (s *Segments) Next() []byte {
	switch s.state {
	case segmentNone:
		return nil
	case segmentWhole:
		s.state = segmentNone
		return s.rest
	case segmentTCP, segmentUDP:
	}
	payload := len(s.rest) - s.hdrLen
	last := payload <= s.size
	if !last {
		payload = s.size
	}
	packet := s.rest[:s.hdrLen+payload]
	if s.index > 0 {
		copy(packet, s.hdr[:s.hdrLen])
	}
	s.fixIP(packet)
	if s.state == segmentTCP {
		s.fixTCP(packet, last)
	} else {
		s.fixUDP(packet)
	}
	if last {
		s.state = segmentNone
	} else {
		s.rest = s.rest[payload:] // the next headers go over this payload's tail
	}
	s.index++
	return packet
}

// Left returns the packets that Next will return, and their octets in all.
func (s *Segments) Left() (packets, octets int) {
	switch s.state {
	case segmentNone:
	case segmentWhole:
		packets, octets = 1, len(s.rest)
	case segmentTCP, segmentUDP:
		payload := len(s.rest) - s.hdrLen
		packets = max(1, (payload+s.size-1)/s.size)
		octets = payload + packets*s.hdrLen
	}
	return packets, octets
}

// fixIP sets the length, and for IPv4 the identification and checksum.
func (s *Segments) fixIP(packet []byte) {
	if packet[0]>>4 == 6 {
		binary.BigEndian.PutUint16(packet[4:], uint16(len(packet)-ipv6HeaderLen))
		return
	}
	binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
	binary.BigEndian.PutUint16(packet[4:], s.ipID+uint16(s.index))
	packet[10], packet[11] = 0, 0
	putChecksum(packet[10:], addSum(0, packet[:s.transport]))
}

func (s *Segments) fixTCP(packet []byte, last bool) {
	tcp := packet[s.transport:]
	binary.BigEndian.PutUint32(tcp[4:], s.sequence+uint32(s.index*s.size))
	flags := s.firstFlags
	if !last {
		flags &^= tcpFIN | tcpPSH
	}
	if s.index > 0 {
		flags &^= tcpCWR
	}
	tcp[13] = flags
	tcp[16], tcp[17] = 0, 0
	putChecksum(tcp[16:], addSum(s.pseudo+native(uint16(len(tcp))), tcp))
}

func (s *Segments) fixUDP(packet []byte) {
	udp := packet[s.transport:]
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	udp[6], udp[7] = 0, 0
	putChecksum(udp[6:], addSum(s.pseudo+native(uint16(len(udp))), udp))
	if udp[6] == 0 && udp[7] == 0 {
		udp[6], udp[7] = 0xff, 0xff // zero would mean none (RFC 768)
	}
}
