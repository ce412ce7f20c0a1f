package isakmp

import "fmt"

// NotifyType is an error (below 16384) or a status (RFC 2408, section 3.14.1;
// RFC 2407, section 4.6.3).
type NotifyType uint16

// Notify types.
const (
	InvalidPayloadType     NotifyType = 1
	DOINotSupported        NotifyType = 2
	SituationNotSupported  NotifyType = 3
	InvalidCookie          NotifyType = 4
	InvalidMajorVersion    NotifyType = 5
	InvalidMinorVersion    NotifyType = 6
	InvalidExchangeType    NotifyType = 7
	InvalidFlags           NotifyType = 8
	InvalidMessageID       NotifyType = 9
	InvalidProtocolID      NotifyType = 10
	InvalidSPI             NotifyType = 11
	InvalidTransformID     NotifyType = 12
	AttributesNotSupported NotifyType = 13
	NoProposalChosen       NotifyType = 14
	BadProposalSyntax      NotifyType = 15
	PayloadMalformed       NotifyType = 16
	InvalidKeyInformation  NotifyType = 17
	InvalidIDInformation   NotifyType = 18
	InvalidHashInformation NotifyType = 23
	AuthenticationFailed   NotifyType = 24
	InvalidSignature       NotifyType = 25

	Connected         NotifyType = 16384
	ResponderLifetime NotifyType = 24576 // RFC 2407, section 4.6.3.1
	ReplayStatus      NotifyType = 24577
	InitialContact    NotifyType = 24578 // RFC 2407, section 4.6.3.3
	RUThere           NotifyType = 36136 // RFC 3706
	RUThereAck        NotifyType = 36137
)

// IsError reports whether the notify refuses something.
func (n NotifyType) IsError() bool { return n < 16384 }

var notifyNames = map[NotifyType]string{
	InvalidPayloadType:     "INVALID-PAYLOAD-TYPE",
	DOINotSupported:        "DOI-NOT-SUPPORTED",
	SituationNotSupported:  "SITUATION-NOT-SUPPORTED",
	InvalidCookie:          "INVALID-COOKIE",
	InvalidMajorVersion:    "INVALID-MAJOR-VERSION",
	InvalidMinorVersion:    "INVALID-MINOR-VERSION",
	InvalidExchangeType:    "INVALID-EXCHANGE-TYPE",
	InvalidFlags:           "INVALID-FLAGS",
	InvalidMessageID:       "INVALID-MESSAGE-ID",
	InvalidProtocolID:      "INVALID-PROTOCOL-ID",
	InvalidSPI:             "INVALID-SPI",
	InvalidTransformID:     "INVALID-TRANSFORM-ID",
	AttributesNotSupported: "ATTRIBUTES-NOT-SUPPORTED",
	NoProposalChosen:       "NO-PROPOSAL-CHOSEN",
	BadProposalSyntax:      "BAD-PROPOSAL-SYNTAX",
	PayloadMalformed:       "PAYLOAD-MALFORMED",
	InvalidKeyInformation:  "INVALID-KEY-INFORMATION",
	InvalidIDInformation:   "INVALID-ID-INFORMATION",
	InvalidHashInformation: "INVALID-HASH-INFORMATION",
	AuthenticationFailed:   "AUTHENTICATION-FAILED",
	InvalidSignature:       "INVALID-SIGNATURE",
	Connected:              "CONNECTED",
	ResponderLifetime:      "RESPONDER-LIFETIME",
	ReplayStatus:           "REPLAY-STATUS",
	InitialContact:         "INITIAL-CONTACT",
	RUThere:                "R-U-THERE",
	RUThereAck:             "R-U-THERE-ACK",
}

// String returns the name of the RFC, such as "NO-PROPOSAL-CHOSEN".
func (n NotifyType) String() string {
	if name, ok := notifyNames[n]; ok {
		return name
	}
	return fmt.Sprintf("notify %d", uint16(n))
}
