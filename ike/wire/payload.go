package wire

import (
	"fmt"
	"net/netip"

	"github.com/vpngw/vpngw/ipsec"
)

// PayloadType is the number of a payload (RFC 7296, section 3.2).
type PayloadType uint8

// Payload types of IKEv2.
const (
	NoNextPayload   PayloadType = 0
	TypeSA          PayloadType = 33
	TypeKE          PayloadType = 34
	TypeIDi         PayloadType = 35
	TypeIDr         PayloadType = 36
	TypeCert        PayloadType = 37
	TypeCertReq     PayloadType = 38
	TypeAuth        PayloadType = 39
	TypeNonce       PayloadType = 40
	TypeNotify      PayloadType = 41
	TypeDelete      PayloadType = 42
	TypeVendorID    PayloadType = 43
	TypeTSi         PayloadType = 44
	TypeTSr         PayloadType = 45
	TypeEncrypted   PayloadType = 46
	TypeConfig      PayloadType = 47
	TypeEAP         PayloadType = 48
	TypeEncryptedFr PayloadType = 53 // RFC 7383
)

var payloadNames = map[PayloadType]string{
	NoNextPayload: "none", TypeSA: "SA", TypeKE: "KE", TypeIDi: "IDi", TypeIDr: "IDr", TypeCert: "CERT",
	TypeCertReq: "CERTREQ", TypeAuth: "AUTH", TypeNonce: "Nonce", TypeNotify: "N", TypeDelete: "D",
	TypeVendorID: "V", TypeTSi: "TSi", TypeTSr: "TSr", TypeEncrypted: "SK", TypeConfig: "CP",
	TypeEAP: "EAP", TypeEncryptedFr: "SKF",
}

// String returns the notation of the RFC, such as "TSi".
func (t PayloadType) String() string {
	if name, ok := payloadNames[t]; ok {
		return name
	}
	return fmt.Sprintf("payload %d", uint8(t))
}

// Payload is one payload of an IKEv2 message.
type Payload interface {
	Type() PayloadType
	// appendBody appends the payload without its generic header. It refuses
	// values that do not fit their field.
	appendBody(b []byte) ([]byte, error)
}

// SA offers or answers proposals (section 3.3).
type SA struct{ Proposals []ipsec.Proposal }

// KE carries a public key exchange value (section 3.4).
type KE struct {
	Group uint16
	Data  []byte
}

// IDType is the kind of an identity (section 3.5).
type IDType uint8

// Identity types.
const (
	IDIPv4Addr   IDType = 1
	IDFQDN       IDType = 2
	IDRFC822Addr IDType = 3
	IDIPv6Addr   IDType = 5
	IDDERASN1DN  IDType = 9
	IDDERASN1GN  IDType = 10
	IDKeyID      IDType = 11
)

// ID is an IDi or IDr payload (section 3.5).
type ID struct {
	Responder bool // IDr
	IDType    IDType
	Data      []byte

	reserved [3]byte // as received; AUTH covers it
}

// Cert carries a certificate (section 3.6).
type Cert struct {
	Encoding uint8
	Data     []byte
}

// CertReq asks for a certificate (section 3.7).
type CertReq struct {
	Encoding    uint8
	Authorities []byte // concatenated SHA-1 hashes
}

// AuthMethod is the way of authentication (section 3.8).
type AuthMethod uint8

// Authentication methods.
const (
	AuthRSASignature     AuthMethod = 1
	AuthSharedKey        AuthMethod = 2
	AuthDigitalSignature AuthMethod = 14 // RFC 7427
)

// Auth proves knowledge of the key (section 3.8).
type Auth struct {
	Method AuthMethod
	Data   []byte
}

// Nonce is 16 to 256 octets (section 3.9).
type Nonce struct{ Data []byte }

// Notify reports an error or a status (section 3.10). Protocol and SPI are set
// only when it concerns one SA.
type Notify struct {
	Protocol   ipsec.Protocol // zero without SPI
	SPI        []byte
	NotifyType NotifyType
	Data       []byte
}

// Delete ends SAs of one protocol (section 3.11). An IKE SA's deletion carries
// no SPI.
type Delete struct {
	Protocol ipsec.Protocol
	SPIs     []ipsec.SPI // of ESP or AH
}

// VendorID names an implementation (section 3.12).
type VendorID struct{ Data []byte }

// TS is a TSi or TSr payload (section 3.13).
type TS struct {
	Responder bool // TSr
	Selectors []ipsec.TrafficSelector
}

// ConfigType is the kind of a configuration payload (section 3.15).
type ConfigType uint8

// Configuration payload types.
const (
	ConfigRequest ConfigType = 1
	ConfigReply   ConfigType = 2
	ConfigSet     ConfigType = 3
	ConfigAck     ConfigType = 4
)

// ConfigAttribute is one attribute of a configuration payload.
type ConfigAttribute struct {
	Type  uint16 // 15 bits
	Value []byte
}

// Config is a configuration payload (section 3.15).
type Config struct {
	ConfigType ConfigType
	Attributes []ConfigAttribute
}

// EAP carries an EAP message (section 3.16).
type EAP struct{ Message []byte }

// Unknown is a payload that this package has no type for. Message.Open and
// Parse refuse critical ones and keep the others (section 2.5).
type Unknown struct {
	PayloadType PayloadType
	Critical    bool
	Body        []byte
}

// Address returns the address of an identity of an address type.
func (p *ID) Address() (netip.Addr, bool) {
	if p.IDType != IDIPv4Addr && p.IDType != IDIPv6Addr {
		return netip.Addr{}, false
	}
	a, ok := netip.AddrFromSlice(p.Data)
	return a, ok && a.Is4() == (p.IDType == IDIPv4Addr)
}
