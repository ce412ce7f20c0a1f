// Package dataplane is the IPsec data plane in user space: an ipsec.Backend
// whose SAD and SPD (RFC 4301, section 4.4) live in this process, whose inner
// side is TUN interfaces and whose outer side is the sockets of a udp.Mux.
//
//	            ┌──────────────── goroutine of a TUN queue ────────────────┐
//	kernel ──►  tun.Queue ─► tun.Segments ─► SPD ─► esp.Sealer ─► udp.Sender  ──► network
//	            ┌──────────────── goroutine of a socket ───────────────────┐
//	network ──► udp.Mux ─► SAD ─► esp.Opener ─► selectors ─► tun.Coalescer    ──► kernel
//
// A packet's whole way is one call chain on one goroutine; it meets no channel,
// no allocation and no log. What it reads, the SAD and the SPD, are immutable
// pieces behind atomic pointers, which the methods of Engine replace. Counters
// belong to goroutines and are summed when read.
//
// The flows of a tunnel are spread over the queues of its interface, and so over
// cores; each stays on its queue. A batch of packets takes a range of the SA's
// sequence numbers, is sealed beside those of other queues, and is sent when all with
// smaller numbers have been.
//
// Engine.mu is never taken on a packet's way. A goroutine that has taken sequence
// numbers waits for nothing but its turn and the socket.
//
// Traffic reaches a TUN interface by the kernel's routes and rules. What has
// reached one leaves encrypted or not at all: a packet without a policy,
// without an SA or under a discard policy is dropped and counted.
//
// A tunnel has an interface of its own, named by its IfID, so that two tunnels
// may have the same selectors and routes choose between them. What has no IfID
// shares one interface, where there is one.
package dataplane
