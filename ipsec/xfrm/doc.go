// Package xfrm is the IPsec data plane of the Linux kernel: an ipsec.Backend
// over the kernel's transformation framework, XFRM (NETLINK_XFRM, by the message
// layouts of vishvananda/netlink).
//
//	AddSA, AddPolicy … ──► NETLINK_XFRM ──► SAD and SPD of the kernel
//	SetInterfaces      ──► rtnetlink    ──► XFRM interfaces, or VTI devices before Linux 4.19
//	SetBandwidths      ──► rtnetlink    ──► police actions of the devices
//	Run                ◄── multicast: acquire, expire, mapping
//
// The packets never come here. What is told of them are counters, which
// QuerySA asks for, and the events.
//
// An SA or policy with an IfID belongs to the device of that IfID: by the
// interface identifier (XFRMA_IF_ID) with XFRM interfaces, by a mark (XFRMA_MARK)
// with VTI. A device of ours bears an alias. So a Backend that starts after a
// crash of the process before finds what that has left: devices by their alias,
// SAs and policies by the devices. They pass traffic on, and are replaced as by a
// rekey: a new SA with the same ReqID takes over, and the old ones go a while
// later, or with their device. What has no IfID is not found again and stays
// until it expires. Nothing of others is touched.
//
// A packet that a device takes leaves encrypted or not at all. What an SA
// delivers passes only under an inbound policy that names its ReqID, or else is
// dropped by the kernel (RFC 4301, section 5.2).
//
// ESP in UDP needs a socket on the local port with the option UDP_ENCAP, which
// package dataplane/udp sets; it is not made here.
package xfrm
