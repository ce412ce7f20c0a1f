// Package ipsec holds the words of the IPsec architecture (RFC 4301) that the
// key exchange, the data planes and the kernel share: proposals and
// transforms, traffic selectors, security associations, policies, and the
// Backend interface that a data plane implements.
//
// It imports no other package of the project, opens nothing, reads no clock
// and starts no goroutine.
package ipsec
