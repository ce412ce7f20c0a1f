package wire

import "fmt"

// NotifyType is an error (below 16384) or a status (RFC 7296, section 3.10.1).
type NotifyType uint16

// Notify types of RFC 7296 and, where noted, of its additions.
const (
	UnsupportedCriticalPayload NotifyType = 1
	InvalidIKESPI              NotifyType = 4
	InvalidMajorVersion        NotifyType = 5
	InvalidSyntax              NotifyType = 7
	InvalidMessageID           NotifyType = 9
	InvalidSPI                 NotifyType = 11
	NoProposalChosen           NotifyType = 14
	InvalidKEPayload           NotifyType = 17
	AuthenticationFailed       NotifyType = 24
	SinglePairRequired         NotifyType = 34
	NoAdditionalSAs            NotifyType = 35
	InternalAddressFailure     NotifyType = 36
	FailedCPRequired           NotifyType = 37
	TSUnacceptable             NotifyType = 38
	InvalidSelectors           NotifyType = 39
	UnacceptableAddresses      NotifyType = 40 // RFC 4555
	UnexpectedNATDetected      NotifyType = 41 // RFC 4555
	TemporaryFailure           NotifyType = 43
	ChildSANotFound            NotifyType = 44
	StateNotFound              NotifyType = 47 // RFC 9370

	InitialContact            NotifyType = 16384
	SetWindowSize             NotifyType = 16385
	AdditionalTSPossible      NotifyType = 16386
	IPCOMPSupported           NotifyType = 16387
	NATDetectionSourceIP      NotifyType = 16388
	NATDetectionDestinationIP NotifyType = 16389
	Cookie                    NotifyType = 16390
	UseTransportMode          NotifyType = 16391
	HTTPCertLookupSupported   NotifyType = 16392
	RekeySA                   NotifyType = 16393
	ESPTFCPaddingNotSupported NotifyType = 16394
	NonFirstFragmentsAlso     NotifyType = 16395
	MOBIKESupported           NotifyType = 16396 // RFC 4555
	AdditionalIPv4Address     NotifyType = 16397 // RFC 4555
	AdditionalIPv6Address     NotifyType = 16398 // RFC 4555
	NoAdditionalAddresses     NotifyType = 16399 // RFC 4555
	UpdateSAAddresses         NotifyType = 16400 // RFC 4555
	Cookie2                   NotifyType = 16401 // RFC 4555
	NoNATsAllowed             NotifyType = 16402 // RFC 4555
	AuthLifetime              NotifyType = 16403 // RFC 4478
	RedirectSupported         NotifyType = 16406 // RFC 5685
	Redirect                  NotifyType = 16407 // RFC 5685
	RedirectedFrom            NotifyType = 16408 // RFC 5685
	ChildlessIKEv2Supported   NotifyType = 16418 // RFC 6023
	FragmentationSupported    NotifyType = 16430 // RFC 7383
	SignatureHashAlgorithms   NotifyType = 16431 // RFC 7427
	UsePPK                    NotifyType = 16435 // RFC 8784
	PPKIdentity               NotifyType = 16436 // RFC 8784
	NoPPKAuth                 NotifyType = 16437 // RFC 8784
	IntermediateSupported     NotifyType = 16438 // RFC 9242
	AdditionalKeyExchange     NotifyType = 16441 // RFC 9370
)

// IsError reports whether the notify refuses something.
func (n NotifyType) IsError() bool { return n < 16384 }

var notifyNames = map[NotifyType]string{
	UnsupportedCriticalPayload: "UNSUPPORTED_CRITICAL_PAYLOAD",
	InvalidIKESPI:              "INVALID_IKE_SPI",
	InvalidMajorVersion:        "INVALID_MAJOR_VERSION",
	InvalidSyntax:              "INVALID_SYNTAX",
	InvalidMessageID:           "INVALID_MESSAGE_ID",
	InvalidSPI:                 "INVALID_SPI",
	NoProposalChosen:           "NO_PROPOSAL_CHOSEN",
	InvalidKEPayload:           "INVALID_KE_PAYLOAD",
	AuthenticationFailed:       "AUTHENTICATION_FAILED",
	SinglePairRequired:         "SINGLE_PAIR_REQUIRED",
	NoAdditionalSAs:            "NO_ADDITIONAL_SAS",
	InternalAddressFailure:     "INTERNAL_ADDRESS_FAILURE",
	FailedCPRequired:           "FAILED_CP_REQUIRED",
	TSUnacceptable:             "TS_UNACCEPTABLE",
	InvalidSelectors:           "INVALID_SELECTORS",
	UnacceptableAddresses:      "UNACCEPTABLE_ADDRESSES",
	UnexpectedNATDetected:      "UNEXPECTED_NAT_DETECTED",
	TemporaryFailure:           "TEMPORARY_FAILURE",
	ChildSANotFound:            "CHILD_SA_NOT_FOUND",
	StateNotFound:              "STATE_NOT_FOUND",
	InitialContact:             "INITIAL_CONTACT",
	SetWindowSize:              "SET_WINDOW_SIZE",
	AdditionalTSPossible:       "ADDITIONAL_TS_POSSIBLE",
	IPCOMPSupported:            "IPCOMP_SUPPORTED",
	NATDetectionSourceIP:       "NAT_DETECTION_SOURCE_IP",
	NATDetectionDestinationIP:  "NAT_DETECTION_DESTINATION_IP",
	Cookie:                     "COOKIE",
	UseTransportMode:           "USE_TRANSPORT_MODE",
	HTTPCertLookupSupported:    "HTTP_CERT_LOOKUP_SUPPORTED",
	RekeySA:                    "REKEY_SA",
	ESPTFCPaddingNotSupported:  "ESP_TFC_PADDING_NOT_SUPPORTED",
	NonFirstFragmentsAlso:      "NON_FIRST_FRAGMENTS_ALSO",
	MOBIKESupported:            "MOBIKE_SUPPORTED",
	AdditionalIPv4Address:      "ADDITIONAL_IP4_ADDRESS",
	AdditionalIPv6Address:      "ADDITIONAL_IP6_ADDRESS",
	NoAdditionalAddresses:      "NO_ADDITIONAL_ADDRESSES",
	UpdateSAAddresses:          "UPDATE_SA_ADDRESSES",
	Cookie2:                    "COOKIE2",
	AuthLifetime:               "AUTH_LIFETIME",
	RedirectSupported:          "REDIRECT_SUPPORTED",
	Redirect:                   "REDIRECT",
	RedirectedFrom:             "REDIRECTED_FROM",
	NoNATsAllowed:              "NO_NATS_ALLOWED",
	ChildlessIKEv2Supported:    "CHILDLESS_IKEV2_SUPPORTED",
	FragmentationSupported:     "IKEV2_FRAGMENTATION_SUPPORTED",
	SignatureHashAlgorithms:    "SIGNATURE_HASH_ALGORITHMS",
	UsePPK:                     "USE_PPK",
	PPKIdentity:                "PPK_IDENTITY",
	NoPPKAuth:                  "NO_PPK_AUTH",
	IntermediateSupported:      "INTERMEDIATE_EXCHANGE_SUPPORTED",
	AdditionalKeyExchange:      "ADDITIONAL_KEY_EXCHANGE",
}

// String returns the name of the RFC, such as "NO_PROPOSAL_CHOSEN".
func (n NotifyType) String() string {
	if name, ok := notifyNames[n]; ok {
		return name
	}
	return fmt.Sprintf("notify %d", uint16(n))
}
