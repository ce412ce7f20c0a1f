package sa

import (
	"net/netip"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// Identity is how a side names itself in IKE_AUTH (RFC 7296, section 3.5).
// Comparison is exact: by type and by octets, case included.
type Identity struct {
	Type wire.IDType
	Data string // raw octets; 4 or 16 for an address
}

// AddressIdentity returns the identity of an address.
func AddressIdentity(a netip.Addr) Identity {
	t := wire.IDIPv6Addr
	if a = a.Unmap(); a.Is4() {
		t = wire.IDIPv4Addr
	}
	return Identity{Type: t, Data: string(a.AsSlice())}
}

// FQDNIdentity returns the identity of a name. It is never resolved.
func FQDNIdentity(name string) Identity {
	return Identity{Type: wire.IDFQDN, Data: name}
}

// Connection is the wanted configuration of one IKE relation between one local
// address and one peer. It is a value: a change is a new Connection.
type Connection struct {
	Name string // unique; the id of the API's connection

	Local  netip.Addr
	Remote netip.Addr // the zero Addr: unknown, learned from the peer's packets
	// Initiate says that we set the SAs up and keep them up. Else we only
	// respond. It needs Remote.
	Initiate bool

	LocalID, RemoteID Identity
	PSK               []byte

	Proposals []ipsec.Proposal // IKE, in order of preference
	Lifetime  time.Duration    // of the IKE SA; it is rekeyed ahead of its end
	DPD       DPD
	// ForceEncap asks for UDP encapsulation where no NAT is, by a NAT
	// detection hash that cannot match (RFC 7296, section 2.23).
	ForceEncap bool

	Children []Child
}

// SameIdentity reports whether a live IKE SA of the connection can serve the
// next configuration. It cannot when an address, an identity or the encapsulation
// differs: those are agreed on in IKE_SA_INIT and IKE_AUTH.
func (c *Connection) SameIdentity(next *Connection) bool {
	return c.Name == next.Name && c.Local == next.Local && c.Remote == next.Remote &&
		c.LocalID == next.LocalID && c.RemoteID == next.RemoteID && c.ForceEncap == next.ForceEncap
}

// DPD is the liveness check (RFC 7296, section 2.4): after Interval without a
// sign of life a probe is sent and repeated every Timeout, three times.
type DPD struct {
	Interval, Timeout time.Duration
}

// Child is the wanted configuration of one CHILD_SA.
type Child struct {
	Name  string // unique within the connection
	ReqID uint32 // unique among all children of the daemon
	IfID  uint32 // the interface of a route-based tunnel, else zero

	Proposals     []ipsec.Proposal // ESP; a group in them means PFS
	Local, Remote []ipsec.TrafficSelector
	Lifetime      ipsec.Lifetime // Hard values; the soft ones follow with jitter
	ReplayWindow  int            // packets
}

// Env is what machines may ask of their surroundings. All machines of a daemon
// share one; the functions may be called from several goroutines.
type Env struct {
	// Rand is the source of SPIs, nonces, key exchange secrets, IVs and
	// jitter. It is crypto/rand.Reader but in tests.
	Rand interface{ Read([]byte) (int, error) }

	// AllocSPI reserves an inbound ESP SPI for a local address.
	AllocSPI func(local netip.Addr) (ipsec.SPI, error)

	// Candidates returns the connections that an initiator at remote may mean
	// when it speaks to local: first those with that very remote address, then
	// those without one. A responder narrows them by identity in IKE_AUTH.
	Candidates func(local, remote netip.Addr) []*Connection

	// QuerySA, when set, returns an SA's counters. An inbound packet is a sign
	// of life, and the first one on a new SA shows that the peer uses it.
	QuerySA func(ipsec.SAID) (ipsec.SAState, error)

	// InitialContact, when set, reports whether IKE_AUTH tells the peer that we
	// know of no other IKE SA with it (RFC 7296, section 2.4).
	InitialContact func(*Connection) bool

	// KeyLog, when set, is handed the keys of each SA for a packet analyser.
	// It is for an explicit debug switch only.
	KeyLog func(Keys)

	// Retransmit is the rhythm of requests; the zero value means the default
	// of 4 s × 1.8ⁿ with five repeats, then give up (165 s).
	Retransmit Retransmit
}

// Retransmit is the rhythm in which an unanswered request is repeated.
type Retransmit struct {
	Initial time.Duration
	Factor  float64
	Tries   int // repeats after the first sending
}

// Keys are the secrets of one SA, for Env.KeyLog. Exactly one of IKE and ESP
// is set.
type Keys struct {
	IKE *IKEKeys
	ESP *ipsec.SA
}

// IKEKeys are the keys of an IKE SA (RFC 7296, section 2.14).
type IKEKeys struct {
	InitiatorSPI, ResponderSPI uint64
	Encryption, Integrity      ipsec.Transform
	SKei, SKer, SKai, SKar     []byte
}
