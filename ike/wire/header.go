package wire

import (
	"encoding/binary"
	"fmt"
)

// HeaderLen is the length of the IKE header in octets.
const HeaderLen = 28

// ExchangeType is the kind of an exchange (RFC 7296, section 3.1).
type ExchangeType uint8

// Exchange types of IKEv2.
const (
	IKESAInit       ExchangeType = 34
	IKEAuth         ExchangeType = 35
	CreateChildSA   ExchangeType = 36
	Informational   ExchangeType = 37
	IKEIntermediate ExchangeType = 43 // RFC 9242
	IKEFollowupKE   ExchangeType = 44 // RFC 9370
)

// String returns the name of the RFC, such as "IKE_SA_INIT".
func (t ExchangeType) String() string {
	switch t {
	case IKESAInit:
		return "IKE_SA_INIT"
	case IKEAuth:
		return "IKE_AUTH"
	case CreateChildSA:
		return "CREATE_CHILD_SA"
	case Informational:
		return "INFORMATIONAL"
	case IKEIntermediate:
		return "IKE_INTERMEDIATE"
	case IKEFollowupKE:
		return "IKE_FOLLOWUP_KE"
	}
	return fmt.Sprintf("exchange %d", uint8(t))
}

// Header is the fixed header of every IKE message (RFC 7296, section 3.1). It
// is common to all versions; the meaning of what follows is not.
//
//	                     1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                       IKE SA Initiator's SPI                  |
//	|                                                               |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                       IKE SA Responder's SPI                  |
//	|                                                               |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|  Next Payload | MjVer | MnVer | Exchange Type |     Flags     |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                          Message ID                           |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                            Length                             |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
type Header struct {
	InitiatorSPI, ResponderSPI uint64
	NextPayload                PayloadType
	MajorVersion, MinorVersion uint8 // 4 bits each
	Exchange                   ExchangeType
	Initiator                  bool // the sender is the original initiator of the IKE SA
	Response                   bool // answers the request with the same message id
	Version                    bool // the sender could speak a higher major version
	MessageID                  uint32
	Length                     uint32 // octets, header included
}

// Bits of the flags octet. The others are reserved: sent as zero, ignored.
const (
	flagInitiator = 0x08
	flagVersion   = 0x10
	flagResponse  = 0x20
)

// ParseHeader reads the header of a datagram and checks that the length in it
// is the datagram's. It does not judge the version.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, dropError(0, "%d octets are no IKE header", len(b))
	}
	h := Header{
		InitiatorSPI: binary.BigEndian.Uint64(b),
		ResponderSPI: binary.BigEndian.Uint64(b[8:]),
		NextPayload:  PayloadType(b[16]),
		MajorVersion: b[17] >> 4,
		MinorVersion: b[17] & 0x0f,
		Exchange:     ExchangeType(b[18]),
		Initiator:    b[19]&flagInitiator != 0,
		Response:     b[19]&flagResponse != 0,
		Version:      b[19]&flagVersion != 0,
		MessageID:    binary.BigEndian.Uint32(b[20:]),
		Length:       binary.BigEndian.Uint32(b[24:]),
	}
	if len(b) > MaxMessage || h.Length != uint32(len(b)) {
		return Header{}, dropError(24, "length %d in a datagram of %d octets", h.Length, len(b))
	}
	return h, nil
}

// Append appends the header as it is, with its NextPayload, version and Length.
func (h *Header) Append(b []byte) []byte {
	var flags byte
	if h.Initiator {
		flags |= flagInitiator
	}
	if h.Version {
		flags |= flagVersion
	}
	if h.Response {
		flags |= flagResponse
	}
	b = binary.BigEndian.AppendUint64(b, h.InitiatorSPI)
	b = binary.BigEndian.AppendUint64(b, h.ResponderSPI)
	b = append(b, byte(h.NextPayload), h.MajorVersion<<4|h.MinorVersion&0x0f, byte(h.Exchange), flags)
	b = binary.BigEndian.AppendUint32(b, h.MessageID)
	return binary.BigEndian.AppendUint32(b, h.Length)
}

// String reads "IKE_AUTH request 1".
func (h *Header) String() string {
	kind := "request"
	if h.Response {
		kind = "response"
	}
	return fmt.Sprintf("%s %s %d", h.Exchange, kind, h.MessageID)
}
