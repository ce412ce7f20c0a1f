package wire

import "fmt"

// Error tells why a message was refused. It is the only error type of this
// package's parsers.
type Error struct {
	// Notify is what the sender may be told, if the message was authenticated
	// or the RFC allows an answer without it. Zero: drop the message.
	Notify NotifyType
	// Payload is the type of the payload at fault, zero for the header. With
	// UNSUPPORTED_CRITICAL_PAYLOAD it is the data of the notify.
	Payload PayloadType
	// Offset counts octets from the start of the parsed bytes: the message, or
	// the plaintext of its Encrypted payload.
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

// syntaxError is an INVALID_SYNTAX whose payload and place the caller fills in.
func syntaxError(offset int, format string, args ...any) *Error {
	return &Error{Notify: InvalidSyntax, Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

// dropError is for what deserves no answer.
func dropError(offset int, format string, args ...any) *Error {
	return &Error{Offset: offset, Reason: fmt.Sprintf(format, args...)}
}
