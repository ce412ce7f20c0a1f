package wire

import (
	"encoding/binary"
	"fmt"
)

// Limits of a packet on TCP, in octets.
const (
	// FrameHeaderLen is the length field before each packet.
	FrameHeaderLen = 2
	// MaxFrame is the longest packet that is accepted: no client with an MTU
	// that can be pushed to it sends more.
	MaxFrame = 2048
)

// NextFrame splits the first packet off a TCP stream. It returns a nil packet
// while the frame is incomplete. Both results alias b.
func NextFrame(b []byte) (packet, rest []byte, err error) {
	if len(b) < FrameHeaderLen {
		return nil, b, nil
	}
	n := int(binary.BigEndian.Uint16(b))
	if n == 0 || n > MaxFrame {
		return nil, b, fmt.Errorf("%w: frame of %d octets, allowed are 1 to %d", ErrMalformed, n, MaxFrame)
	}
	if len(b) < FrameHeaderLen+n {
		return nil, b, nil
	}
	end := FrameHeaderLen + n
	return b[FrameHeaderLen:end:end], b[end:], nil
}

// AppendFrame appends a packet with its length before it.
func AppendFrame(b, packet []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(packet)))
	return append(b, packet...)
}
