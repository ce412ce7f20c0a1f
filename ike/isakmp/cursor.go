package isakmp

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Error tells why a message was refused. It is the only error type of this
// package's parsers.
type Error struct {
	// Payload is the type of the payload at fault, zero for the header.
	Payload PayloadType
	// Offset counts octets from the start of what was parsed: the message, or
	// the plaintext of an encrypted one.
	Offset int
	Reason string
}

func (e *Error) Error() string {
	where := "header"
	if e.Payload != NoNextPayload {
		where = e.Payload.String() + " payload"
	}
	return fmt.Sprintf("%s at octet %d: %s", where, e.Offset, e.Reason)
}

func malformed(offset int, format string, args ...any) *Error {
	return &Error{Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

// cursor reads big-endian fields from the front of a payload. After the first
// read past the end all reads give zero values, and err is set.
type cursor struct {
	rest []byte
	at   int // offset of rest in the payload's body
	err  *Error
}

// take returns the next n octets, which alias the input.
func (c *cursor) take(n int, what string) []byte {
	if c.err != nil {
		return nil
	}
	if n < 0 || n > len(c.rest) {
		c.fail("%s needs %d octets, %d are left", what, n, len(c.rest))
		return nil
	}
	b := c.rest[:n:n]
	c.rest, c.at = c.rest[n:], c.at+n
	return b
}

func (c *cursor) uint8(what string) uint8 {
	if b := c.take(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16(what string) uint16 {
	if b := c.take(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32(what string) uint32 {
	if b := c.take(4, what); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// bytes returns a copy of the next n octets; nil when n is zero.
func (c *cursor) bytes(n int, what string) []byte {
	b := c.take(n, what)
	if len(b) == 0 {
		return nil
	}
	return bytes.Clone(b)
}

// remainder returns a copy of all that is left; nil when that is nothing.
func (c *cursor) remainder() []byte { return c.bytes(len(c.rest), "data") }

// sub returns a cursor over the next n octets.
func (c *cursor) sub(n int, what string) *cursor {
	at := c.at
	rest := c.take(n, what)
	return &cursor{rest: rest, at: at, err: c.err}
}

// fail records an error at the current place, unless there is an earlier one.
func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = malformed(c.at, format, args...)
	}
}

// end fails when octets are left over.
func (c *cursor) end() {
	if len(c.rest) > 0 {
		c.fail("%d trailing octets", len(c.rest))
	}
}
