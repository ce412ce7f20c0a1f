package nqa

import (
	"encoding/binary"
	"errors"
)

// Types of ICMP messages (RFC 792) and of ICMPv6 ones (RFC 4443).
const (
	typeEchoReply   = 0
	typeEcho        = 8
	typeEchoV6      = 128
	typeEchoReplyV6 = 129
)

// echoSize is the size of a request in octets: header, token, padding up to
// what ping sends.
const (
	echoHeader = 8
	echoSize   = echoHeader + 56
)

var errNotEcho = errors.New("not an echo message")

// echo is an echo request or reply.
type echo struct {
	v6       bool // of ICMPv6
	reply    bool
	id       uint16
	sequence uint16
	token    uint64
}

// append appends the message with its checksum, which in ICMPv6 is over the
// addresses, too: the kernel puts it there.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|     Type      |     Code      |          Checksum             |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|           Identifier          |        Sequence Number        |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                             Token                             |
//	|                                                               |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
func (e echo) append(b []byte) []byte {
	start := len(b)
	b = append(b, make([]byte, echoSize)...)
	m := b[start:]
	switch {
	case e.v6 && e.reply:
		m[0] = typeEchoReplyV6
	case e.v6:
		m[0] = typeEchoV6
	case e.reply:
		m[0] = typeEchoReply
	default:
		m[0] = typeEcho
	}
	binary.BigEndian.PutUint16(m[4:], e.id)
	binary.BigEndian.PutUint16(m[6:], e.sequence)
	binary.BigEndian.PutUint64(m[echoHeader:], e.token)
	if !e.v6 {
		binary.BigEndian.PutUint16(m[2:], checksum(m))
	}
	return b
}

// parseEcho reads a message that begins with its ICMP header. The checksum of an
// ICMPv6 message is the kernel's business.
func parseEcho(m []byte, v6 bool) (echo, error) {
	if len(m) < echoHeader+8 || m[1] != 0 {
		return echo{}, errNotEcho
	}
	request, reply := byte(typeEcho), byte(typeEchoReply)
	if v6 {
		request, reply = typeEchoV6, typeEchoReplyV6
	}
	if m[0] != request && m[0] != reply || !v6 && checksum(m) != 0 {
		return echo{}, errNotEcho
	}
	return echo{
		v6:       v6,
		reply:    m[0] == reply,
		id:       binary.BigEndian.Uint16(m[4:]),
		sequence: binary.BigEndian.Uint16(m[6:]),
		token:    binary.BigEndian.Uint64(m[echoHeader:]),
	}, nil
}

// checksum is the one of RFC 1071; over a message that has it, it is zero.
func checksum(m []byte) uint16 {
	var sum uint32
	for ; len(m) >= 2; m = m[2:] {
		sum += uint32(binary.BigEndian.Uint16(m))
	}
	if len(m) == 1 {
		sum += uint32(m[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
