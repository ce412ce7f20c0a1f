package ipsec

import (
	"fmt"
	"net/netip"
	"time"
)

// SPI is the security parameter index of an ESP SA. Values below 256 are
// reserved (RFC 4303, section 2.1).
type SPI uint32

// String prints the SPI as eight hexadecimal digits, as tcpdump does.
func (s SPI) String() string { return fmt.Sprintf("%08x", uint32(s)) }

// Direction is seen from this host.
type Direction uint8

// Directions of SAs and policies. In covers traffic that is forwarded after
// decapsulation, too.
const (
	In Direction = iota + 1
	Out
)

// String returns "in" or "out".
func (d Direction) String() string {
	switch d {
	case In:
		return "in"
	case Out:
		return "out"
	}
	return "invalid direction"
}

// SAID names one SA in the SAD. RFC 4301, section 4.1: an inbound unicast SA
// is found by SPI and destination; outbound ones are kept under the peer's.
type SAID struct {
	Dst netip.Addr // outer destination
	SPI SPI
}

// String prints "esp 0a1b2c3d to 192.0.2.1".
func (id SAID) String() string { return fmt.Sprintf("esp %s to %s", id.SPI, id.Dst) }

// SA is one direction of an ESP security association in tunnel mode, as the
// key exchange hands it to a Backend.
type SA struct {
	SPI       SPI
	Direction Direction

	// Src and Dst are the outer addresses. With Encap the packets are carried
	// in UDP (RFC 3948) between the two ports; else they are IP protocol 50.
	Src, Dst         netip.Addr
	Encap            bool
	SrcPort, DstPort uint16

	// ReqID ties the SA to the policies that use it. All SAs that a CHILD_SA
	// has over its rekeys share one. Of several outbound SAs with one ReqID,
	// the one added last carries the traffic.
	ReqID uint32
	// IfID ties a route-based SA to its Interface; zero for policy-based ones.
	IfID uint32

	Encryption    Transform
	EncryptionKey []byte // for AEAD the key followed by the salt (RFC 4106, section 8.1)
	Integrity     Transform
	IntegrityKey  []byte // empty with AEAD

	ESN          bool
	ReplayWindow int // packets; inbound only

	// Local and Remote are the negotiated selectors, seen from this host. An
	// inbound packet outside them is dropped (RFC 4301, section 5.2).
	Local, Remote []TrafficSelector

	Lifetime Lifetime
}

// ID returns the SA's name in the SAD.
func (sa *SA) ID() SAID { return SAID{Dst: sa.Dst, SPI: sa.SPI} }

// Lifetime limits an SA (RFC 4301, section 4.4.2.1). Zero values mean no
// limit. A soft limit is reported once, for a rekey; at a hard one the SA
// stops passing packets and is reported.
type Lifetime struct {
	Soft, Hard               time.Duration // since AddSA
	SoftBytes, HardBytes     uint64        // inner octets
	SoftPackets, HardPackets uint64
}

// SAState is what a Backend knows about an installed SA.
type SAState struct {
	Bytes, Packets uint64    // inner octets and packets that passed
	LastUsed       time.Time // zero when never used
	Sequence       uint64    // highest sequence number sent or authenticated
	// Drops are the packets dropped by reason, among them "replay" and
	// "integrity". A reason that has not occurred may be absent.
	Drops map[string]uint64
}

// PolicyAction says what happens to traffic under a policy.
type PolicyAction uint8

// Policy actions of RFC 4301, section 4.4.1.
const (
	Protect PolicyAction = iota + 1
	Discard
	Bypass
)

// String returns "protect", "discard" or "bypass".
func (a PolicyAction) String() string {
	switch a {
	case Protect:
		return "protect"
	case Discard:
		return "discard"
	case Bypass:
		return "bypass"
	}
	return "invalid action"
}

// Priorities of policies; the lower value wins, as in the Linux kernel.
const (
	PriorityProtect uint32 = 1000
	// PriorityDiscard is for the policy that lies under every protected
	// selector, so that nothing leaves in the clear while a tunnel is down.
	PriorityDiscard uint32 = 100000
)

// Policy is one entry of the SPD. Local and Remote are seen from this host for
// both directions. Two policies are the same entry when their PolicyID is.
type Policy struct {
	PolicyID
	Action PolicyAction
	// ReqID names the SAs to use; TunnelLocal and TunnelRemote are their outer
	// addresses. Only with Protect.
	ReqID                     uint32
	TunnelLocal, TunnelRemote netip.Addr
}

// PolicyID names one policy in the SPD.
type PolicyID struct {
	Direction     Direction
	Local, Remote TrafficSelector
	Priority      uint32
	IfID          uint32 // zero for policy-based tunnels
}

// String prints "out 10.0.0.0/24 to 192.168.0.0/16".
func (id PolicyID) String() string {
	if id.Direction == In {
		return fmt.Sprintf("in %s from %s", id.Local, id.Remote)
	}
	return fmt.Sprintf("out %s to %s", id.Local, id.Remote)
}
