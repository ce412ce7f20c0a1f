// Package wire is the codec of IKEv2 messages (RFC 7296) with fragments
// (RFC 7383). It is pure: bytes in, values out, and the reverse. It opens no
// socket, reads no clock, keeps no state of an exchange and holds no key:
// encryption comes in as a Cipher.
//
// The header (header.go) is common to all versions. IKEv1 has a codec of its
// own, package isakmp: the two share payload numbers but not their meaning.
//
// Everything that arrives is hostile. Parsers never panic, check each length
// before use, refuse what exceeds the limits in limits.go, and copy what they
// keep: no result aliases the input.
package wire
