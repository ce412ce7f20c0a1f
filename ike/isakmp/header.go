package isakmp

import (
	"encoding/binary"
	"fmt"
)

// HeaderLen is the length of the ISAKMP header in octets.
const HeaderLen = 28

// ExchangeType is the kind of an exchange (RFC 2408, section 3.1; RFC 2409,
// appendix A).
type ExchangeType uint8

// Exchange types of IKEv1.
const (
	IdentityProtection ExchangeType = 2 // main mode
	Aggressive         ExchangeType = 4
	Informational      ExchangeType = 5
	Transaction        ExchangeType = 6 // configuration method, XAUTH
	QuickMode          ExchangeType = 32
)

// String returns the name that logs and diagnoses use, such as "main mode".
func (t ExchangeType) String() string {
	switch t {
	case IdentityProtection:
		return "main mode"
	case Aggressive:
		return "aggressive mode"
	case Informational:
		return "informational"
	case Transaction:
		return "transaction"
	case QuickMode:
		return "quick mode"
	}
	return fmt.Sprintf("exchange %d", uint8(t))
}

// Header is the fixed header of every message (RFC 2408, section 3.1).
//
//	                     1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                            Initiator                          |
//	|                             Cookie                            |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                            Responder                          |
//	|                             Cookie                            |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|  Next Payload | MjVer | MnVer | Exchange Type |     Flags     |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                          Message ID                           |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                            Length                             |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//
// The two cookies name the ISAKMP SA, and are called its SPIs where both
// versions of IKE are spoken of. Nothing in the header tells which end sent it.
type Header struct {
	InitiatorSPI, ResponderSPI uint64
	NextPayload                PayloadType
	Exchange                   ExchangeType
	Encrypted                  bool
	Commit                     bool   // the sender asks to wait for a CONNECTED notify
	Minor                      uint8  // version: zero, or 1 in the profile GM/T 0022
	MessageID                  uint32 // zero in phase 1
	Length                     uint32 // octets, header included
}

// Bits of the flags octet. The third, Authentication Only, and the others are
// ignored and sent as zero.
const (
	flagEncryption = 0x01
	flagCommit     = 0x02
)

const version = 0x10 // 1.0; the low half is the minor version

// ParseHeader reads the header of a datagram and checks its version, and that
// the length in it is the datagram's. The error is always an *Error.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, malformed(0, "%d octets are no ISAKMP header", len(b))
	}
	if major := b[17] >> 4; major != version>>4 {
		return Header{}, malformed(17, "major version %d", major)
	}
	h := Header{
		InitiatorSPI: binary.BigEndian.Uint64(b),
		ResponderSPI: binary.BigEndian.Uint64(b[8:]),
		NextPayload:  PayloadType(b[16]),
		Exchange:     ExchangeType(b[18]),
		Encrypted:    b[19]&flagEncryption != 0,
		Commit:       b[19]&flagCommit != 0,
		Minor:        b[17] & 0x0f,
		MessageID:    binary.BigEndian.Uint32(b[20:]),
		Length:       binary.BigEndian.Uint32(b[24:]),
	}
	if len(b) > MaxMessage || h.Length != uint32(len(b)) {
		return Header{}, malformed(24, "length %d in a datagram of %d octets", h.Length, len(b))
	}
	return h, nil
}

// Append appends the header as it is, with its NextPayload and Length.
func (h *Header) Append(b []byte) []byte {
	var flags byte
	if h.Encrypted {
		flags |= flagEncryption
	}
	if h.Commit {
		flags |= flagCommit
	}
	b = binary.BigEndian.AppendUint64(b, h.InitiatorSPI)
	b = binary.BigEndian.AppendUint64(b, h.ResponderSPI)
	b = append(b, byte(h.NextPayload), version|h.Minor&0x0f, byte(h.Exchange), flags)
	b = binary.BigEndian.AppendUint32(b, h.MessageID)
	return binary.BigEndian.AppendUint32(b, h.Length)
}

// String reads "main mode" or "quick mode 0a1b2c3d".
func (h *Header) String() string {
	if h.MessageID == 0 {
		return h.Exchange.String()
	}
	return fmt.Sprintf("%s %08x", h.Exchange, h.MessageID)
}
