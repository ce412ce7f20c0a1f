package nqa

import (
	"encoding/binary"
	"errors"
)

// Types of ICMP messages (RFC 792).
const (
	typeEchoReply = 0
	typeEcho      = 8
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
	reply    bool
	id       uint16
	sequence uint16
	token    uint64
}

// append appends the message with its checksum.
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
	m[0] = typeEcho
	if e.reply {
		m[0] = typeEchoReply
	}
	binary.BigEndian.PutUint16(m[4:], e.id)
	binary.BigEndian.PutUint16(m[6:], e.sequence)
	binary.BigEndian.PutUint64(m[echoHeader:], e.token)
	binary.BigEndian.PutUint16(m[2:], checksum(m))
	return b
}

// parseEcho reads a message that begins with its ICMP header.
func parseEcho(m []byte) (echo, error) {
	if len(m) < echoHeader+8 || m[0] != typeEchoReply && m[0] != typeEcho || m[1] != 0 || checksum(m) != 0 {
		return echo{}, errNotEcho
	}
	return echo{
		reply:    m[0] == typeEchoReply,
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
