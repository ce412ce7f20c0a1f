// Package sslvpn is the OpenVPN-compatible server: TLS sessions with stock
// OpenVPN clients on TCP and UDP, their data channels, the address pool and
// the access policies.
//
// A Server takes the whole wanted state (Apply), diffs it against what runs
// and touches nothing that is unchanged. It never decides what a user may do:
// it enforces what the Config says, for both directions and at once.
package sslvpn
