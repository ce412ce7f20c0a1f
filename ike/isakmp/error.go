package isakmp

import "fmt"

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
