package sa

import (
	"net/netip"

	"github.com/vpngw/vpngw/ipsec"
)

// Action is something that the caller performs for a machine. The set is
// closed: Send, AddSA, UpdateSA, DeleteSA, AddPolicy, DeletePolicy, Replace,
// Emit.
type Action interface{ action() }

// Send sends an IKE datagram. Port 4500 at either end means that the
// transport puts the non-ESP marker in front.
type Send struct {
	Local, Remote netip.AddrPort
	Datagram      []byte
	// Keepalive marks the one octet 0xFF that keeps a NAT's mapping alive
	// (RFC 3948, section 2.3). It goes out without the marker.
	Keepalive bool
}

// AddSA installs an SA in the data plane. The keys are the caller's to wipe.
type AddSA struct{ SA ipsec.SA }

// UpdateSA moves an SA to new outer addresses.
type UpdateSA struct {
	ID ipsec.SAID
	To ipsec.SAUpdate
}

// DeleteSA removes an SA. One that the machine has not added, since its AddSA was
// refused, must be left alone.
type DeleteSA struct{ ID ipsec.SAID }

// AddPolicy adds or replaces a policy.
type AddPolicy struct{ Policy ipsec.Policy }

// DeletePolicy removes a policy. While one machine of a connection replaces
// another, both hold the same policies: the caller counts the holders and
// removes a policy with its last one.
type DeletePolicy struct{ ID ipsec.PolicyID }

// Replace asks for another IKE SA with the peer, set up by a machine of its own
// beside this one, which the caller terminates as soon as the other one has all
// it has: make before break. The machine goes on as before meanwhile. The other one
// is begun by InitiateAt where a gateway has sent us to another one.
type Replace struct{ At Redirected }

// Emit reports an event.
type Emit struct{ Event Event }

func (Send) action()         {}
func (AddSA) action()        {}
func (UpdateSA) action()     {}
func (DeleteSA) action()     {}
func (AddPolicy) action()    {}
func (DeletePolicy) action() {}
func (Replace) action()      {}
func (Emit) action()         {}
