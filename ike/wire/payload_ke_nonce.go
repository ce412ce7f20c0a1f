package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vpngw/vpngw/ike/octets"
	"github.com/vpngw/vpngw/ipsec"
)

// Type returns TypeKE.
func (*KE) Type() PayloadType { return TypeKE }

// String reads "KE(ECP-256 (group 19))".
func (p *KE) String() string { return "KE(" + ipsec.Group(p.Group).String() + ")" }

// parseKE reads a public value (RFC 7296, section 3.4). Whether it is one of
// the group is for the key exchange to say.
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|   Diffie-Hellman Group Num    |           RESERVED            |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                       Key Exchange Data                       ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
func parseKE(c *octets.Cursor) *KE {
	p := &KE{Group: c.Uint16("group")}
	c.Take(2, "reserved field")
	if p.Data = c.Remainder(); p.Data == nil {
		c.Fail("no key exchange data")
	}
	return p
}

func (p *KE) appendBody(b []byte) ([]byte, error) {
	if len(p.Data) == 0 {
		return nil, errors.New("no key exchange data")
	}
	b = binary.BigEndian.AppendUint16(b, p.Group)
	return append(append(b, 0, 0), p.Data...), nil
}

// Type returns TypeNonce.
func (*Nonce) Type() PayloadType { return TypeNonce }

// parseNonce reads a nonce: all of the body (RFC 7296, section 3.9).
func parseNonce(c *octets.Cursor) *Nonce {
	if n := c.Len(); n < MinNonce || n > MaxNonce {
		c.Fail("a nonce of %d octets, not %d to %d", n, MinNonce, MaxNonce)
		return nil
	}
	return &Nonce{Data: c.Remainder()}
}

func (p *Nonce) appendBody(b []byte) ([]byte, error) {
	if n := len(p.Data); n < MinNonce || n > MaxNonce {
		return nil, fmt.Errorf("a nonce of %d octets, not %d to %d", n, MinNonce, MaxNonce)
	}
	return append(b, p.Data...), nil
}
