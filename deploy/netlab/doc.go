// Package netlab builds a small internet out of Linux network namespaces, with
// strongSwan and vpngwd in it, for the lab and for the end-to-end tests.
//
//	site host - router - [NAT] -+
//	                            internet - [NAT] - gateway - cloud host
//	site host - router - [NAT] -+
//
// A [Lab] owns namespaces, processes and one directory; closing it ends all of
// them. Every process runs inside a namespace of its lab, so a lab whose owner
// died is cleaned from the namespaces alone: [Open] does that for all dead labs
// before it makes a new one. Names carry a random part, so any number of labs
// live beside each other and use the same addresses.
//
// It needs root and the programs ip, sysctl, nft, conntrack, ping, iperf3,
// tcpdump, tshark, charon-systemd and swanctl, and libreswan's, each only when it
// is used.
package netlab
