// Package wire is the OpenVPN protocol as octets: packets of the control
// channel and their wrapping, the framing on TCP, the messages of key method 2,
// the text messages that follow them, and the keys that come out of it all.
//
// What it knows of the protocol is the OpenVPN wire protocol (draft) and what
// stock clients from 2.4 to 2.7 and OpenVPN 3 send:
//
//	TCP frame    uint16 length, packet
//	packet       opcode and key id, then by opcode
//	  data       peer id, packet id, tag, ciphertext
//	  control    session id, acks, packet id, a part of a TLS stream
//	TLS stream   key method 2 of the client, then of the server, then
//	             text messages, each ended by a NUL
//
// Parsers never look past their input, never keep it, and wrap ErrMalformed.
package wire

import "errors"

// ErrMalformed is wrapped by every error about the form of received octets.
var ErrMalformed = errors.New("malformed")
