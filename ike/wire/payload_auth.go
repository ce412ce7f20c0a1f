package wire

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/vpngw/vpngw/ike/octets"
)

// Type returns TypeIDi or TypeIDr.
func (p *ID) Type() PayloadType {
	if p.Responder {
		return TypeIDr
	}
	return TypeIDi
}

// String reads "IDi(fqdn gw.example.org)". Octets of a name that are not
// printable are escaped.
func (p *ID) String() string { return fmt.Sprintf("%s(%s)", p.Type(), p.identity()) }

func (p *ID) identity() string {
	if a, ok := p.Address(); ok {
		return a.String()
	}
	switch p.IDType {
	case IDFQDN:
		return "fqdn " + printable(p.Data)
	case IDRFC822Addr:
		return "email " + printable(p.Data)
	case IDIPv4Addr, IDIPv6Addr, IDDERASN1DN, IDDERASN1GN, IDKeyID:
	}
	return fmt.Sprintf("type %d %s", p.IDType, hex.EncodeToString(p.Data))
}

// printable escapes what could break a line of log.
func printable(b []byte) string {
	quoted := strconv.QuoteToASCII(string(b))
	return quoted[1 : len(quoted)-1]
}

// parseID reads an identity (RFC 7296, section 3.5).
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|   ID Type     |                 RESERVED                      |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                   Identification Data                         ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
func parseID(c *octets.Cursor, responder bool) *ID {
	p := &ID{Responder: responder, IDType: IDType(c.Uint8("identity type"))}
	copy(p.reserved[:], c.Take(len(p.reserved), "reserved field"))
	p.Data = c.Remainder()
	if !c.Failed() {
		if err := p.check(); err != nil {
			c.Fail("%v", err)
		}
	}
	return p
}

func (p *ID) check() error {
	if p.IDType == IDIPv4Addr && len(p.Data) != 4 || p.IDType == IDIPv6Addr && len(p.Data) != 16 {
		return fmt.Errorf("an address identity of %d octets", len(p.Data))
	}
	return nil
}

func (p *ID) appendBody(b []byte) ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	b = append(b, byte(p.IDType), 0, 0, 0)
	return append(b, p.Data...), nil
}

// AuthOctets returns the payload as AUTH covers it, RestOfInitIDPayload or
// RestOfRespIDPayload of RFC 7296, section 2.15: without the generic header,
// with the reserved field as it was received.
func (p *ID) AuthOctets() []byte {
	b := append([]byte{byte(p.IDType)}, p.reserved[:]...)
	return append(b, p.Data...)
}

// Type returns TypeAuth.
func (*Auth) Type() PayloadType { return TypeAuth }

// parseAuth reads an authentication value (RFC 7296, section 3.8).
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Auth Method   |                RESERVED                       |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                      Authentication Data                      ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
func parseAuth(c *octets.Cursor) *Auth {
	p := &Auth{Method: AuthMethod(c.Uint8("method"))}
	c.Take(3, "reserved field")
	if p.Data = c.Remainder(); p.Data == nil {
		c.Fail("no authentication data")
	}
	return p
}

func (p *Auth) appendBody(b []byte) ([]byte, error) {
	if len(p.Data) == 0 {
		return nil, errors.New("no authentication data")
	}
	return append(append(b, byte(p.Method), 0, 0, 0), p.Data...), nil
}

// Type returns TypeCert.
func (*Cert) Type() PayloadType { return TypeCert }

// parseCert reads a certificate: its encoding, then its octets (RFC 7296,
// section 3.6).
func parseCert(c *octets.Cursor) *Cert {
	return &Cert{Encoding: c.Uint8("encoding"), Data: c.Remainder()}
}

func (p *Cert) appendBody(b []byte) ([]byte, error) {
	return append(append(b, p.Encoding), p.Data...), nil
}

// Type returns TypeCertReq.
func (*CertReq) Type() PayloadType { return TypeCertReq }

// parseCertReq reads a certificate request: an encoding, then the authorities
// (RFC 7296, section 3.7).
func parseCertReq(c *octets.Cursor) *CertReq {
	return &CertReq{Encoding: c.Uint8("encoding"), Authorities: c.Remainder()}
}

func (p *CertReq) appendBody(b []byte) ([]byte, error) {
	return append(append(b, p.Encoding), p.Authorities...), nil
}

// Type returns TypeEAP.
func (*EAP) Type() PayloadType { return TypeEAP }

// eapHeaderLen is that of code, identifier and length (RFC 3748, section 4).
const eapHeaderLen = 4

// parseEAP reads an EAP message, whose own length must be the payload's
// (RFC 7296, section 3.16).
func parseEAP(c *octets.Cursor) *EAP {
	p := &EAP{Message: c.Remainder()}
	if err := p.check(); err != nil {
		c.Fail("%v", err)
	}
	return p
}

func (p *EAP) check() error {
	if len(p.Message) < eapHeaderLen {
		return fmt.Errorf("an EAP message of %d octets", len(p.Message))
	}
	if length := int(p.Message[2])<<8 | int(p.Message[3]); length != len(p.Message) {
		return fmt.Errorf("an EAP message of length %d in %d octets", length, len(p.Message))
	}
	return nil
}

func (p *EAP) appendBody(b []byte) ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	return append(b, p.Message...), nil
}
