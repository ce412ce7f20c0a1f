package ipsec

import (
	"errors"
	"net/netip"
)

// Backend is a data plane: the Linux kernel, or our own in userspace. All
// methods may be called by several goroutines at once. A Backend marks what is
// its own and never touches, lists or flushes entries of others.
type Backend interface {
	// AllocSPI reserves a random inbound SPI for the local address. It is
	// free again after the DeleteSA of the SA that took it, or, when none
	// did, after some minutes.
	AllocSPI(local netip.Addr) (SPI, error)

	// AddSA installs an SA. The Backend copies what it keeps of it: the caller
	// wipes the keys afterwards. ErrExists is returned when its ID is taken, and
	// ErrUnsupported when the data plane has not the algorithm or mode.
	AddSA(sa SA) error
	// UpdateSA moves an SA to new outer addresses and ports, keeping its
	// sequence numbers, replay window and counters.
	UpdateSA(id SAID, to SAUpdate) error
	// DeleteSA removes an SA and wipes its keys. ErrNotFound is returned when
	// there is none.
	DeleteSA(id SAID) error
	// QuerySA returns an SA's counters.
	QuerySA(id SAID) (SAState, error)

	// AddPolicy adds a policy or replaces the one with its PolicyID.
	AddPolicy(p Policy) error
	// DeletePolicy removes a policy; ErrNotFound is returned when there is none.
	DeletePolicy(id PolicyID) error

	// SetInterfaces makes the devices of route-based tunnels (TUN, xfrm or
	// VTI, as the Backend has it) exactly these, without touching those that
	// stay. Addresses and routes on them are not the Backend's business. It
	// goes on past a failing device and joins the errors.
	SetInterfaces(want []Interface) error

	// List returns what this Backend has installed, so that a restarted
	// daemon adopts or prunes it.
	List() (Inventory, error)

	// Events returns the channel on which the Backend reports. There is one
	// channel for the Backend's life. When the reader is slow, events for
	// the same SA or policy fold together rather than block traffic.
	Events() <-chan Event
}

// Errors of a Backend.
var (
	ErrExists      = errors.New("already exists")
	ErrNotFound    = errors.New("not found")
	ErrUnsupported = errors.New("not supported by this data plane")
)

// SAUpdate is where an SA's packets go to and come from, after the peer or a
// NAT between has moved.
type SAUpdate struct {
	Src, Dst         netip.Addr
	Encap            bool
	SrcPort, DstPort uint16
}

// Interface is the device of a route-based tunnel.
type Interface struct {
	IfID uint32 // not zero
	Name string // at most 15 octets
	MTU  int    // inner octets; zero: from the outer MTU and the largest overhead
	// Plane is the data plane that serves the tunnel, of a Backend that has both.
	Plane Plane
	// Local is the outer address on this side, by which a tunnel in the kernel draws
	// from the Bandwidth of that address. The zero value: from none.
	Local netip.Addr
}

// Plane is a data plane.
type Plane uint8

// Data planes.
const (
	PlaneUserspace Plane = iota
	PlaneKernel
)

// String returns "userspace" or "kernel".
func (p Plane) String() string {
	switch p {
	case PlaneUserspace:
		return "userspace"
	case PlaneKernel:
		return "kernel"
	}
	return "invalid data plane"
}

// Bandwidth is what the tunnels of some local addresses may carry together, on each
// of the data planes.
type Bandwidth struct {
	Name      string // tells it from others
	Addresses []netip.Addr
	// Mbps limits the inner octets of each direction, in megabits (10⁶ bits) per
	// second. It must be positive.
	Mbps int
}

// Inventory is what a Backend has installed.
type Inventory struct {
	SAs        []SA // without keys
	Policies   []Policy
	Interfaces []Interface
}

// EventKind says what a Backend reports.
type EventKind uint8

// Kinds of events.
const (
	EventAcquire    EventKind = iota + 1 // traffic met a policy without an SA; ReqID is set
	EventSoftExpire                      // SA is set: rekey
	EventHardExpire                      // SA is set: it passes no more packets
	EventMoved                           // SA is set: an authenticated packet came from From
)

// Event is a report of a Backend.
type Event struct {
	Kind  EventKind
	ReqID uint32
	SA    SAID
	From  netip.AddrPort // EventMoved: the peer's new outer address and port
}
