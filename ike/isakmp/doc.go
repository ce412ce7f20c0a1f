// Package isakmp is the codec of IKEv1 messages: ISAKMP (RFC 2408) with the
// IPsec DOI (RFC 2407), NAT traversal (RFC 3947), dead peer detection
// (RFC 3706) and the fragments of the vendors. It is pure: bytes in, values
// out, and the reverse. It opens no socket, reads no clock, keeps no state of
// an exchange and holds no key: encryption comes in as a function.
//
// It shares only the reading of fields, package octets, with package wire, the
// codec of IKEv2: the two have payload numbers in common but not their meaning.
//
// Everything that arrives is hostile. Parsers never panic, check each length
// before use, refuse what exceeds the limits in limits.go, and copy what they
// keep: no result aliases the input.
package isakmp
