// Package wire is the codec of IKE messages: IKEv2 (RFC 7296) with fragments
// (RFC 7383). It is pure: bytes in, values out, and the reverse. It opens no
// socket, reads no clock, keeps no state of an exchange and holds no key:
// encryption comes in as a Cipher.
//
// The header (header.go) is common to all versions. The files and names of
// IKEv2 are plain (Message, Payload, payload_*.go); IKEv1 lives beside them
// with the prefix V1 (v1_*.go, V1Message), since the two share payload numbers
// but not their meaning.
//
// Everything that arrives is hostile. Parsers never panic, check each length
// before use, refuse what exceeds the limits in limits.go, and copy what they
// keep: no result aliases the input.
package wire
