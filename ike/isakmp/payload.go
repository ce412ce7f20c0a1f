package isakmp

import (
	"fmt"

	"github.com/vpngw/vpngw/ike/octets"
	"github.com/vpngw/vpngw/ipsec"
)

// PayloadType is the number of a payload (RFC 2408, section 3.1).
type PayloadType uint8

// Payload types.
const (
	NoNextPayload PayloadType = 0
	TypeSA        PayloadType = 1
	TypeKE        PayloadType = 4
	TypeID        PayloadType = 5
	TypeCert      PayloadType = 6
	TypeCertReq   PayloadType = 7
	TypeHash      PayloadType = 8
	TypeSignature PayloadType = 9
	TypeNonce     PayloadType = 10
	TypeNotify    PayloadType = 11
	TypeDelete    PayloadType = 12
	TypeVendorID  PayloadType = 13
	TypeNATD      PayloadType = 20 // RFC 3947
	TypeNATOA     PayloadType = 21
	// Of the profile GM/T 0022, in the range for private use.
	TypeSymmetricKey PayloadType = 128
	// Numbers of the drafts draft-ietf-ipsec-nat-t-ike-02 and -03.
	TypeNATDDraft  PayloadType = 130
	TypeNATOADraft PayloadType = 131
	TypeFragment   PayloadType = 132 // of the vendors
)

var payloadNames = map[PayloadType]string{
	NoNextPayload: "none", TypeSA: "SA", TypeKE: "KE", TypeID: "ID", TypeCert: "CERT", TypeCertReq: "CR",
	TypeHash: "HASH", TypeSignature: "SIG", TypeNonce: "NONCE", TypeNotify: "N", TypeDelete: "D", TypeVendorID: "VID",
	TypeSymmetricKey: "SK", TypeNATD: "NAT-D", TypeNATOA: "NAT-OA", TypeNATDDraft: "NAT-D", TypeNATOADraft: "NAT-OA", TypeFragment: "FRAGMENT",
}

// String returns the notation of the RFCs, such as "NAT-D".
func (t PayloadType) String() string {
	if name, ok := payloadNames[t]; ok {
		return name
	}
	return fmt.Sprintf("payload %d", uint8(t))
}

// Payload is one payload of a message.
type Payload interface {
	Type() PayloadType
	// appendBody appends the payload without its generic header. It refuses
	// values that do not fit their field.
	appendBody(b []byte) ([]byte, error)
}

// Body returns a payload without its generic header, as the hashes of phase 1
// cover it ("SAi_b", "IDii_b").
func Body(p Payload) ([]byte, error) { return p.appendBody(nil) }

// SA offers or answers proposals (RFC 2408, sections 3.4 to 3.6).
type SA struct {
	Proposals []Proposal
	// Raw is the body as it was received; nil for one of ours.
	Raw []byte
}

// Proposal is one protocol with the transforms to choose one from. Several with
// one number stand for protocols that are to be used together.
type Proposal struct {
	Number     uint8
	Protocol   ipsec.Protocol
	SPI        []byte // 4 octets for ESP; for ISAKMP any length, without a meaning
	Transforms []Transform
}

// Transform is one whole set of algorithms.
type Transform struct {
	Number     uint8
	ID         uint8
	Attributes []Attribute
}

// KE carries a public key exchange value. Its group is that of the SA.
type KE struct{ Data []byte }

// Hash authenticates.
type Hash struct{ Data []byte }

// Nonce is 8 to 256 octets.
type Nonce struct{ Data []byte }

// Cert carries a certificate (RFC 2408, section 3.9).
type Cert struct {
	Encoding CertEncoding
	Data     []byte
}

// CertEncoding is the kind of a certificate.
type CertEncoding uint8

// Certificates of X.509 by what their keys are for.
const (
	CertX509Signature   CertEncoding = 4
	CertX509KeyExchange CertEncoding = 5
)

// Signature authenticates (RFC 2408, section 3.12).
type Signature struct{ Data []byte }

// SymmetricKey is a key that is encrypted for its receiver (GM/T 0022).
type SymmetricKey struct{ Data []byte }

// VendorID names an implementation or something it can do.
type VendorID struct{ Data []byte }

// NATD is the hash of an address and port (RFC 3947, section 3.2).
type NATD struct {
	Draft bool // of the drafts, by its number
	Data  []byte
}

// NATOA is an original address (RFC 3947, section 5.2), which only transport
// mode needs.
type NATOA struct {
	Draft bool
	Data  []byte
}

// Fragment is a piece of a message (see Fragments).
type Fragment struct {
	ID     uint16
	Number uint8 // from 1
	Last   bool
	Data   []byte
}

// Unknown is a payload that this package has no type for. It is kept, so that
// hashes can cover it, and passed over.
type Unknown struct {
	PayloadType PayloadType
	Body        []byte
}

// Type returns TypeSA.
func (*SA) Type() PayloadType { return TypeSA }

// Type returns TypeKE.
func (*KE) Type() PayloadType { return TypeKE }

// Type returns TypeHash.
func (*Hash) Type() PayloadType { return TypeHash }

// Type returns TypeNonce.
func (*Nonce) Type() PayloadType { return TypeNonce }

// Type returns TypeCert.
func (*Cert) Type() PayloadType { return TypeCert }

// Type returns TypeSignature.
func (*Signature) Type() PayloadType { return TypeSignature }

// Type returns TypeSymmetricKey.
func (*SymmetricKey) Type() PayloadType { return TypeSymmetricKey }

// Type returns TypeVendorID.
func (*VendorID) Type() PayloadType { return TypeVendorID }

// Type returns TypeFragment.
func (*Fragment) Type() PayloadType { return TypeFragment }

// Type returns the number that the payload came with.
func (p *Unknown) Type() PayloadType { return p.PayloadType }

// Type returns TypeNATD or the number of the drafts.
func (p *NATD) Type() PayloadType {
	if p.Draft {
		return TypeNATDDraft
	}
	return TypeNATD
}

// Type returns TypeNATOA or the number of the drafts.
func (p *NATOA) Type() PayloadType {
	if p.Draft {
		return TypeNATOADraft
	}
	return TypeNATOA
}

// parsePayload reads one payload's body.
func parsePayload(t PayloadType, body []byte) (p Payload, err *Error) {
	c := octets.NewCursor(body)
	switch t {
	case TypeSA:
		p = parseSA(c, body)
	case TypeKE:
		p = &KE{Data: filled(c, "public value")}
	case TypeID:
		p = parseID(c)
	case TypeHash:
		p = &Hash{Data: filled(c, "hash")}
	case TypeCert:
		p = &Cert{Encoding: CertEncoding(c.Uint8("certificate encoding")), Data: c.Remainder()}
	case TypeSignature:
		p = &Signature{Data: filled(c, "signature")}
	case TypeSymmetricKey:
		p = &SymmetricKey{Data: filled(c, "encrypted key")}
	case TypeNonce:
		if n := len(body); n < MinNonce || n > MaxNonce {
			c.Fail("a nonce of %d octets, not %d to %d", n, MinNonce, MaxNonce)
		}
		p = &Nonce{Data: c.Remainder()}
	case TypeNotify:
		p = parseNotify(c)
	case TypeDelete:
		p = parseDelete(c)
	case TypeVendorID:
		p = &VendorID{Data: c.Remainder()}
	case TypeNATD, TypeNATDDraft:
		p = &NATD{Draft: t == TypeNATDDraft, Data: filled(c, "hash")}
	case TypeNATOA, TypeNATOADraft:
		p = &NATOA{Draft: t == TypeNATOADraft, Data: c.Remainder()}
	case TypeFragment:
		p = parseFragment(c)
	default:
		p = &Unknown{PayloadType: t, Body: c.Remainder()}
	}
	c.End()
	if c.Failed() {
		offset, reason := c.Fault()
		return nil, malformed(offset, "%s", reason)
	}
	return p, nil
}

// filled returns the remainder, for what may not be empty.
func filled(c *octets.Cursor, what string) []byte {
	if c.Len() == 0 {
		c.Fail("no %s", what)
	}
	return c.Remainder()
}

func appendFilled(b, data []byte, what string) ([]byte, error) {
	if len(data) == 0 {
		return nil, fmt.Errorf("no %s", what)
	}
	return append(b, data...), nil
}

func (p *KE) appendBody(b []byte) ([]byte, error)   { return appendFilled(b, p.Data, "public value") }
func (p *Hash) appendBody(b []byte) ([]byte, error) { return appendFilled(b, p.Data, "hash") }
func (p *NATD) appendBody(b []byte) ([]byte, error) { return appendFilled(b, p.Data, "hash") }

func (p *Signature) appendBody(b []byte) ([]byte, error) {
	return appendFilled(b, p.Data, "signature")
}

func (p *SymmetricKey) appendBody(b []byte) ([]byte, error) {
	return appendFilled(b, p.Data, "encrypted key")
}

func (p *Cert) appendBody(b []byte) ([]byte, error) {
	return append(append(b, byte(p.Encoding)), p.Data...), nil
}

func (p *Nonce) appendBody(b []byte) ([]byte, error) {
	if n := len(p.Data); n < MinNonce || n > MaxNonce {
		return nil, fmt.Errorf("a nonce of %d octets, not %d to %d", n, MinNonce, MaxNonce)
	}
	return append(b, p.Data...), nil
}

func (p *VendorID) appendBody(b []byte) ([]byte, error) { return append(b, p.Data...), nil }
func (p *NATOA) appendBody(b []byte) ([]byte, error)    { return append(b, p.Data...), nil }
func (p *Unknown) appendBody(b []byte) ([]byte, error)  { return append(b, p.Body...), nil }
