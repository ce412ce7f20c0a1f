package sa

import (
	"net/netip"
	"time"

	"github.com/vpngw/vpngw/ipsec"
)

// Status is a machine as it stands, for people and the API. It holds no key.
type Status struct {
	Connection string // empty while a responder does not know it
	Contact    Contact
	IKE        []IKEStatus
	Children   []ChildStatus
}

// IKEStatus is one IKE SA. While it is rekeyed there are two.
type IKEStatus struct {
	Version                    uint8 // of IKE
	State                      State
	Initiator                  bool // we began it
	InitiatorSPI, ResponderSPI uint64
	Local, Remote              netip.AddrPort
	LocalID, RemoteID          Identity
	Proposal                   ipsec.Proposal
	NATLocal, NATRemote        bool   // a NAT is in front of us, of the peer
	Encap                      bool   // ESP goes in UDP
	Fragmentation              bool   // RFC 7383 was agreed on
	MOBIKE                     bool   // RFC 4555 was agreed on
	PPK                        bool   // a post-quantum pre-shared key was agreed on (RFC 8784)
	Redirectable               bool   // the peer, which began it, can be sent to another gateway (RFC 5685)
	GM                         bool   // of the profile GM/T 0022
	Variant                    string // of it, as learned: see Event

	Established, RekeyAt, ExpireAt time.Time // zero: not yet, never
	LastSeen                       time.Time // of an authenticated IKE message
	// Confirmed is when the peer has last answered a request of ours under the IKE SA,
	// and so had all that we sent before; of IKEv1, which need not answer, LastSeen.
	Confirmed time.Time
	// Outdated: it is not as the connection has it now, and goes on until one is
	// that is, or to the end of its life.
	Outdated bool
}

// ChildStatus is one CHILD_SA. While it is rekeyed there are two.
type ChildStatus struct {
	Name          string
	ReqID         uint32
	State         State
	Initiator     bool       // we began the exchange that made it
	In, Out       ipsec.SAID // as the data plane knows them
	Proposal      ipsec.Proposal
	Local, Remote []ipsec.TrafficSelector

	Established, RekeyAt, ExpireAt time.Time
	// Outdated: it is not as the connection has it now, and goes on until one is
	// that is.
	Outdated bool
}

// up reports whether the child carries traffic, and no other one has taken its place.
func (c *ChildStatus) up() bool { return c.State == Established || c.State == Rekeying }
