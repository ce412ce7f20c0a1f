package sa

import (
	"net/netip"

	"github.com/vpngw/vpngw/ipsec"
)

// Command is something that a machine is told by its surroundings. The set is
// closed: Update, Terminate, RekeyIKE, Reauthenticate, RekeyChild, Probe,
// Acquire, Expired, Moved, Redirect, Adopt, Refused.
type Command interface{ command() }

// Update gives the machine a new configuration of its connection. DPD counts at
// once, lifetimes from the next rekey. A child whose selectors or proposals differ
// goes on until another one, as configured, has taken over; so does one that is no
// longer configured while its traffic is another one's that is not up. The others
// are left alone.
//
// In IKEv2 another IKE SA, with the new configuration, is the caller's to begin
// where EffectOf says so: here a new PSK counts from the next IKE_AUTH, IKE proposals
// from the next rekey. In IKEv1 the machine negotiates it by itself. A change that
// the machine cannot follow ends it: of an address, and in IKEv2 of an identity or
// the encapsulation.
type Update struct{ Connection *Connection }

// Terminate deletes the IKE SA and with it all children. The SAs are removed
// from the data plane at once; the machine is done when the peer has answered
// or some seconds have passed.
type Terminate struct{ Reason Reason }

// RekeyIKE replaces the IKE SA now.
type RekeyIKE struct{}

// Reauthenticate has the peer authenticate itself anew, and us, without a gap in
// traffic. In IKEv2 the machine answers with Replace, or where only the peer can
// begin, asks it to (RFC 4478). In IKEv1 it is RekeyIKE.
type Reauthenticate struct{}

// RekeyChild replaces a child now, or sets it up where it is down.
type RekeyChild struct{ ReqID uint32 }

// Probe asks the peer for a sign of life now. Without an answer the machine ends,
// as after any liveness check.
type Probe struct{}

// Acquire says that traffic waits for a child, which is set up at once, or is about to:
// that the IKE SA ends to which a child has left it.
type Acquire struct{ ReqID uint32 }

// Expired says that an SA has reached a limit in octets, packets or time.
type Expired struct {
	ID   ipsec.SAID
	Hard bool // it passes no more packets; else it is time to rekey
}

// Moved says that an authenticated ESP packet came from a new address.
type Moved struct {
	ID   ipsec.SAID
	From netip.AddrPort
}

// Adopt gives an IKEv1 machine an SA that another one has negotiated as
// responder (see Env.Handover).
type Adopt struct{ SA *ISAKMPSA }

// Refused says that the data plane refused an action. The child that needed it
// is removed whole, and what it was to replace stays. It comes before any other
// call (see Machine).
type Refused struct {
	// SA is what AddSA or UpdateSA called the SA, at its new address. It is
	// not in the data plane, nor, after an UpdateSA, at its old one.
	SA ipsec.SAID
	// Policy is that of AddPolicy; SA is zero then.
	Policy ipsec.PolicyID
	Err    error
}

func (Update) command()         {}
func (Terminate) command()      {}
func (RekeyIKE) command()       {}
func (Reauthenticate) command() {}
func (RekeyChild) command()     {}
func (Probe) command()          {}
func (Acquire) command()        {}
func (Expired) command()        {}
func (Moved) command()          {}
func (Adopt) command()          {}
func (Refused) command()        {}
