// Package udp is the outer side of an IPsec gateway: the UDP sockets on ports
// 500 and 4500 of each local address, and the raw sockets for ESP (IP
// protocol 50).
//
// Mux sorts what arrives (RFC 3948, section 2.2; RFC 7296, section 3.1):
//
//	UDP 500                         IKE
//	UDP 4500, four zero octets      IKE, without these
//	UDP 4500, the one octet 0xff    NAT keepalive, counted and dropped
//	UDP 4500, anything else         ESP in UDP
//	IP protocol 50                  ESP
//
// IKE datagrams are few and go to a function. ESP packets are many: each socket
// has one goroutine, which reads up to 64 datagrams with a system call (UDP_GRO,
// recvmmsg) and hands them to a Receiver of its own, in whose calls the whole
// further way of the packets lies. A Sender sends many ESP packets with one
// system call (UDP_SEGMENT, sendmmsg). Go's poller does not know the sockets, and
// wakes nobody for what happens to them while their goroutine is at work; each has
// an epoll instance for when it is not.
//
// A Port does the same for a UDP port of another protocol, without sorting.
//
// Outer packets carry the DF bit while they fit the path MTU that the kernel
// knows, and are fragmented when they do not (RFC 4301, section 8.1); those of a
// Path.Fragmentable never carry it. IKE messages share the socket, and some of
// them have to be fragmented.
package udp
