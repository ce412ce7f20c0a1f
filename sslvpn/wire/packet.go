package wire

import (
	"encoding/binary"
	"fmt"
)

// Opcode is what a packet is for: the high five bits of its first octet.
type Opcode uint8

// Opcodes. Those of key method 1 (1 and 2) are obsolete.
const (
	SoftReset         Opcode = 3  // P_CONTROL_SOFT_RESET_V1: a new key id
	ControlV1         Opcode = 4  // P_CONTROL_V1: carries TLS records
	AckV1             Opcode = 5  // P_ACK_V1: acknowledgements only
	DataV1            Opcode = 6  // P_DATA_V1
	HardResetClientV2 Opcode = 7  // P_CONTROL_HARD_RESET_CLIENT_V2: the first packet of a client
	HardResetServerV2 Opcode = 8  // P_CONTROL_HARD_RESET_SERVER_V2: its answer
	DataV2            Opcode = 9  // P_DATA_V2
	HardResetClientV3 Opcode = 10 // P_CONTROL_HARD_RESET_CLIENT_V3: with a wrapped key
	ControlWKCV1      Opcode = 11 // P_CONTROL_WKC_V1: likewise
)

// Sizes and limits of control packets.
const (
	// MaxAcks is how many packets one packet may acknowledge.
	MaxAcks = 8
	// MaxControlPayload is the octets of the TLS stream that a control packet
	// of ours carries: a datagram then stays below 1,250 octets with tls-crypt.
	MaxControlPayload = 1170
	// MaxKeyID is the largest key id. After it comes 1: 0 is that of the first
	// key only.
	MaxKeyID = 7
	// UndefinedPeerID in a data packet says that the receiver has to know the
	// sender by its address.
	UndefinedPeerID = 0xffffff
)

// SessionID names a session in one direction. The zero value is none.
type SessionID [8]byte

// SplitOpcode returns the opcode and the key id of a packet's first octet.
func SplitOpcode(first byte) (op Opcode, keyID uint8) { return Opcode(first >> 3), first & 7 }

// Octet returns the first octet of a packet.
func (o Opcode) Octet(keyID uint8) byte { return byte(o)<<3 | keyID&7 }

// IsData reports whether packets of the opcode carry user traffic.
func (o Opcode) IsData() bool { return o == DataV1 || o == DataV2 }

// NextKeyID returns the key id that a renegotiation moves to: 0, 1 to 7, then 1
// again.
func NextKeyID(id uint8) uint8 {
	if id >= MaxKeyID {
		return 1
	}
	return id + 1
}

// Control is a packet of the control channel, without any wrapping:
//
//	1    opcode and key id
//	8    session id of the sender
//	1    number of acknowledgements
//	4*n  packet ids acknowledged
//	8    session id of the receiver, when there are acknowledgements
//	4    packet id, not in an AckV1
//	..   payload
type Control struct {
	Opcode   Opcode
	KeyID    uint8
	Session  SessionID // of the sender
	Acks     []uint32  // at most MaxAcks
	Remote   SessionID // of the receiver; set with Acks only
	PacketID uint32    // no meaning in an AckV1
	Payload  []byte    // a part of the TLS stream; of a HardResetServerV2 what WantsKeyAgain reads
}

// ParseControl reads a control packet of at most MaxFrame octets. Payload aliases b; nothing else does.
func ParseControl(b []byte) (Control, error) {
	var c Control
	if len(b) < 10 || len(b) > MaxFrame {
		return c, fmt.Errorf("%w: control packet of %d octets", ErrMalformed, len(b))
	}
	c.Opcode, c.KeyID = SplitOpcode(b[0])
	switch c.Opcode {
	case SoftReset, ControlV1, AckV1, HardResetClientV2, HardResetServerV2:
	default:
		return c, fmt.Errorf("%w: opcode %d in a control packet", ErrMalformed, c.Opcode)
	}
	copy(c.Session[:], b[1:9])
	if c.Session == (SessionID{}) {
		return c, fmt.Errorf("%w: session id is zero", ErrMalformed)
	}
	n := int(b[9])
	b = b[10:]
	if n > MaxAcks {
		return c, fmt.Errorf("%w: %d acknowledgements, at most %d", ErrMalformed, n, MaxAcks)
	}
	if n > 0 {
		if len(b) < 4*n+8 {
			return c, fmt.Errorf("%w: acknowledgements cut short", ErrMalformed)
		}
		c.Acks = make([]uint32, n)
		for i := range c.Acks {
			c.Acks[i] = binary.BigEndian.Uint32(b[4*i:])
		}
		copy(c.Remote[:], b[4*n:])
		b = b[4*n+8:]
	}
	if c.Opcode == AckV1 {
		if n == 0 {
			return c, fmt.Errorf("%w: an acknowledgement of nothing", ErrMalformed)
		}
		if len(b) > 0 {
			return c, fmt.Errorf("%w: %d octets behind an acknowledgement", ErrMalformed, len(b))
		}
		return c, nil
	}
	if len(b) < 4 {
		return c, fmt.Errorf("%w: packet id cut short", ErrMalformed)
	}
	c.PacketID, c.Payload = binary.BigEndian.Uint32(b), b[4:]
	if len(c.Payload) > 0 && c.Opcode != ControlV1 && c.Opcode != HardResetServerV2 {
		// The payload of other resets means nothing; no known peer sends one.
		c.Payload = nil
	}
	return c, nil
}

// SenderOf returns the session id of a packet's sender, which stands in clear
// however the rest is wrapped.
func SenderOf(packet []byte) (id SessionID, ok bool) {
	if len(packet) < wrapClear {
		return id, false
	}
	copy(id[:], packet[1:])
	return id, true
}

// Append appends the packet to b.
func (c *Control) Append(b []byte) []byte {
	b = append(b, c.Opcode.Octet(c.KeyID))
	b = append(b, c.Session[:]...)
	b = append(b, byte(len(c.Acks)))
	for _, id := range c.Acks {
		b = binary.BigEndian.AppendUint32(b, id)
	}
	if len(c.Acks) > 0 {
		b = append(b, c.Remote[:]...)
	}
	if c.Opcode == AckV1 {
		return b
	}
	b = binary.BigEndian.AppendUint32(b, c.PacketID)
	return append(b, c.Payload...)
}
