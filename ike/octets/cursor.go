// Package octets reads the fields of a payload, for the codecs of IKEv2 and
// IKEv1: both are big-endian with lengths in front (RFC 7296, section 3;
// RFC 2408, section 3). It knows no field's meaning. It is pure.
package octets

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Cursor reads big-endian fields from the front of a payload. After the first
// failure all reads give zero values, so a parser may look once, at the end.
type Cursor struct {
	rest  []byte
	at    int    // offset of rest in the payload's body
	fault *fault // shared with the cursors over parts
}

// fault is the first failure of a payload.
type fault struct {
	failed bool
	offset int
	reason string
}

// NewCursor returns a cursor over a payload's body.
func NewCursor(body []byte) *Cursor { return &Cursor{rest: body, fault: &fault{}} }

// Take returns the next n octets, which alias the input. The error of a short
// input says what it was that needs them.
func (c *Cursor) Take(n int, what string) []byte {
	if c.fault.failed {
		return nil
	}
	if n < 0 || n > len(c.rest) {
		c.Fail("%s needs %d octets, %d are left", what, n, len(c.rest))
		return nil
	}
	b := c.rest[:n:n]
	c.rest, c.at = c.rest[n:], c.at+n
	return b
}

// Uint8 reads a field of one octet.
func (c *Cursor) Uint8(what string) uint8 {
	if b := c.Take(1, what); b != nil {
		return b[0]
	}
	return 0
}

// Uint16 reads a field of two octets.
func (c *Cursor) Uint16(what string) uint16 {
	if b := c.Take(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// Uint32 reads a field of four octets.
func (c *Cursor) Uint32(what string) uint32 {
	if b := c.Take(4, what); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Bytes returns a copy of the next n octets; nil when n is zero.
func (c *Cursor) Bytes(n int, what string) []byte {
	b := c.Take(n, what)
	if len(b) == 0 {
		return nil
	}
	return bytes.Clone(b)
}

// Len returns how many octets are left.
func (c *Cursor) Len() int { return len(c.rest) }

// Remainder returns a copy of all that is left; nil when that is nothing.
func (c *Cursor) Remainder() []byte { return c.Bytes(len(c.rest), "data") }

// Sub returns a cursor over the next n octets. What fails there has failed
// here, and the reverse.
func (c *Cursor) Sub(n int, what string) *Cursor {
	at := c.at
	return &Cursor{rest: c.Take(n, what), at: at, fault: c.fault}
}

// Fail records a failure at the current place, unless there is an earlier one.
func (c *Cursor) Fail(format string, args ...any) {
	if !c.fault.failed {
		*c.fault = fault{true, c.at, fmt.Sprintf(format, args...)}
	}
}

// Failed reports whether anything has failed yet.
func (c *Cursor) Failed() bool { return c.fault.failed }

// Fault returns the first failure, and where it was in octets from the start of
// the payload's body.
func (c *Cursor) Fault() (offset int, reason string) { return c.fault.offset, c.fault.reason }

// End fails when octets are left over.
func (c *Cursor) End() {
	if len(c.rest) > 0 {
		c.Fail("%d trailing octets", len(c.rest))
	}
}
