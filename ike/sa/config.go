package sa

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
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

// String reads "ipv4 192.0.2.1", "fqdn gw.example", or gives the octets in
// hexadecimal where they are no text.
func (i Identity) String() string {
	switch i.Type {
	case wire.IDIPv4Addr, wire.IDIPv6Addr:
		if a, ok := netip.AddrFromSlice([]byte(i.Data)); ok {
			if a.Is4() {
				return "ipv4 " + a.String()
			}
			return "ipv6 " + a.String()
		}
	case wire.IDFQDN:
		return "fqdn " + printable(i.Data)
	case wire.IDRFC822Addr:
		return "email " + printable(i.Data)
	case wire.IDKeyID:
		return "key id " + printable(i.Data)
	case wire.IDDERASN1DN:
		return "distinguished name " + nameOf([]byte(i.Data))
	case wire.IDDERASN1GN:
		return "general name " + hexadecimal(i.Data)
	}
	return fmt.Sprintf("identity of type %d %s", uint8(i.Type), hexadecimal(i.Data))
}

// Value returns an address or a name as text, without its type; of other
// identities the octets in hexadecimal.
func (i Identity) Value() string {
	switch i.Type {
	case wire.IDIPv4Addr, wire.IDIPv6Addr:
		if a, ok := netip.AddrFromSlice([]byte(i.Data)); ok {
			return a.String()
		}
	case wire.IDFQDN, wire.IDRFC822Addr, wire.IDKeyID:
		return printable(i.Data)
	case wire.IDDERASN1DN, wire.IDDERASN1GN:
	}
	return hexadecimal(i.Data)
}

// longestName bounds what a line of log shows of a name that a peer chose.
const longestName = 256 // octets

// printable returns a peer's text fit for a log line.
func printable(s string) string {
	if s == "" || len(s) > longestName || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return hexadecimal(s)
	}
	return s
}

func hexadecimal(s string) string {
	if len(s) > longestName {
		return fmt.Sprintf("0x%x and %d octets more", s[:longestName], len(s)-longestName)
	}
	return fmt.Sprintf("0x%x", s)
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

	// Version of IKE: 1 or 2; zero means 2. A connection has one only.
	Version uint8
	// Aggressive negotiates phase 1 of IKEv1 in aggressive mode and never in
	// main mode (RFC 2409, section 5.4). Whoever sees it can try keys offline.
	Aggressive bool

	Local  netip.Addr
	Remote netip.Addr // the zero Addr: unknown, learned from the peer's packets
	// Initiate says that we set the SAs up and keep them up. Else we only
	// respond. It needs Remote.
	Initiate bool

	LocalID, RemoteID Identity
	PSK               []byte
	PPK               *PPK // nil: none; IKEv2 only
	// GM makes the connection one of the profile GM/T 0022, with certificates in
	// the place of a pre-shared key. Identities may then be zero: each end is
	// named by the subject of its certificate.
	GM *GM

	Proposals []ipsec.Proposal // IKE, in order of preference
	Lifetime  time.Duration    // of the IKE SA; it is rekeyed ahead of its end
	// AuthLifetime is how long an authentication holds in IKEv2: the IKE SA is
	// replaced by a new one ahead of its end, make before break, and the peer told
	// (RFC 4478). Zero: for ever.
	AuthLifetime time.Duration
	DPD          DPD
	// ForceEncap asks for UDP encapsulation where no NAT is, by a NAT
	// detection hash that cannot match (RFC 7296, section 2.23). A peer without
	// NAT traversal gets plain ESP, or with RequireEncap is refused.
	ForceEncap, RequireEncap bool

	// Claimant, where it is not empty, names the peer: what its CHILD_SAs are to
	// protect must not overlap what those of another claimant do. The one that has
	// it keeps it.
	Claimant string
	// Reservation is traffic that is the connection's by its configuration, whether it
	// has SAs or not: no other Claimant gets what overlaps it.
	Reservation Reservation

	// Childless has IKE_AUTH make no child where the responder allows for that (RFC
	// 6023), so that each child has a key exchange of its own.
	Childless bool
	// MOBIKE lets the end that begins the IKE SA change its address (RFC 4555), the
	// peer even one that is configured.
	MOBIKE bool

	// RedirectTo are the gateways that the peer may send us to when we initiate (RFC
	// 5685). Without any we do not say that we can be sent.
	RedirectTo []netip.Prefix

	Children []Child
}

// Reservation is traffic that nobody but one peer may choose. See
// Connection.Claimant.
type Reservation struct {
	Claimant string // may have it all the same; empty: none
	Flows    []Flow
}

// Validate returns an error that names the first field that breaks a rule, and
// holds no secret.
func (c *Connection) Validate() error {
	switch {
	case c.Name == "":
		return errors.New("name: empty")
	case !c.Local.IsValid() || c.Local.IsUnspecified():
		return errors.New("local: no address")
	case c.Remote.IsValid() && c.Remote.BitLen() != c.Local.BitLen():
		return fmt.Errorf("remote: %s is not of the family of %s", c.Remote, c.Local)
	case c.Initiate && !c.Remote.IsValid():
		return errors.New("remote: an address is needed to initiate")
	case c.Lifetime < 0 || c.AuthLifetime < 0 || c.DPD.Interval < 0 || c.DPD.Timeout < 0:
		return errors.New("lifetimes and DPD: must not be negative")
	case len(c.Children) == 0:
		return errors.New("children: at least one is needed")
	case slices.ContainsFunc(c.RedirectTo, func(p netip.Prefix) bool { return !p.IsValid() }):
		return errors.New("redirect: a prefix is not valid")
	}
	if err := c.PPK.validate(); err != nil {
		return err
	}
	if err := c.validAuthentication(); err != nil {
		return err
	}
	if err := c.validVersion(); err != nil {
		return err
	}
	for i := range c.Children {
		child := &c.Children[i]
		if err := child.validate(); err != nil {
			return fmt.Errorf("child %q: %w", child.Name, err)
		}
		if child.Template && c.Initiate {
			return fmt.Errorf("child %q: a template is for a connection that does not initiate", child.Name)
		}
		if err := child.validVersion(c.Version); err != nil {
			return fmt.Errorf("child %q: %w", child.Name, err)
		}
		for _, other := range c.Children[:i] {
			if other.Name == child.Name || other.ReqID == child.ReqID {
				return fmt.Errorf("child %q: name or reqid %d occurs twice", child.Name, child.ReqID)
			}
		}
	}
	return nil
}

func (c *Child) validate() error {
	if c.ReqID == 0 {
		return errors.New("reqid: zero")
	}
	if err := validProposals(ipsec.ProtocolESP, c.Proposals); err != nil {
		return err
	}
	for _, list := range [][]ipsec.TrafficSelector{c.Local, c.Remote} {
		if len(list) == 0 || len(list) > wire.MaxSelectors {
			return fmt.Errorf("selectors: %d, must be 1 to %d a side", len(list), wire.MaxSelectors)
		}
		for _, ts := range list {
			if !ts.Valid() {
				return fmt.Errorf("selectors: %s is not valid", ts)
			}
		}
	}
	return nil
}

// validProposals checks that each proposal has what its protocol needs, and
// that this package has the algorithms.
func validProposals(protocol ipsec.Protocol, list []ipsec.Proposal) error {
	if len(list) == 0 || len(list) > wire.MaxProposals {
		return fmt.Errorf("%s proposals: %d, must be 1 to %d", protocol, len(list), wire.MaxProposals)
	}
	for _, p := range list {
		if p.Protocol != protocol {
			return fmt.Errorf("%s proposals: one is for %s", protocol, p.Protocol)
		}
		aead, plain := false, false
		for _, t := range p.Transforms {
			if !supported(protocol, t) {
				return fmt.Errorf("%s proposals: %s is not supported", protocol, t)
			}
			aead = aead || t.IsAEAD()
			plain = plain || t.Type == ipsec.TransformEncryption && !t.IsAEAD()
		}
		switch {
		case !aead && !plain:
			return fmt.Errorf("%s proposals: no encryption algorithm", protocol)
		case aead && plain:
			return fmt.Errorf("%s proposals: AEAD and other ciphers belong in proposals of their own", protocol)
		case plain && !slices.ContainsFunc(p.Of(ipsec.TransformIntegrity), func(t ipsec.Transform) bool { return t.ID != ipsec.IntegrityNone }):
			return fmt.Errorf("%s proposals: no integrity algorithm", protocol)
		case aead && len(p.Of(ipsec.TransformIntegrity)) > 0:
			return fmt.Errorf("%s proposals: an AEAD cipher takes no integrity algorithm", protocol)
		case protocol == ipsec.ProtocolIKE && len(p.Of(ipsec.TransformPRF)) == 0:
			return fmt.Errorf("%s proposals: no pseudorandom function", protocol)
		case protocol == ipsec.ProtocolESP && offersAdditional([]ipsec.Proposal{p}) && firstGroup([]ipsec.Proposal{p}) == ipsec.GroupNone:
			return fmt.Errorf("%s proposals: an additional key exchange needs a DH group", protocol)
		case protocol == ipsec.ProtocolIKE && !offers([]ipsec.Proposal{p}, firstGroup([]ipsec.Proposal{p})):
			return fmt.Errorf("%s proposals: no DH group", protocol)
		}
	}
	return nil
}

// supported reports whether a transform can be negotiated for a protocol.
func supported(protocol ipsec.Protocol, t ipsec.Transform) bool {
	ike := protocol == ipsec.ProtocolIKE
	switch t.Type {
	case ipsec.TransformEncryption:
		_, err := keyLen(t)
		return err == nil && !(ike && t.ID == ipsec.EncryptionNull)
	case ipsec.TransformPRF:
		_, ok := prfs[t.ID]
		return ike && ok
	case ipsec.TransformIntegrity:
		_, ok := integrities[t.ID]
		return ok
	case ipsec.TransformGroup:
		_, ok := groups[t.ID]
		return ok || !ike && t.ID == ipsec.GroupNone
	case ipsec.TransformESN:
		return !ike && t.ID <= ipsec.ESNEnabled
	default:
		_, isGroup := groups[t.ID]
		return t.Type.IsAdditional() && (isGroup || isKEM(t.ID) || t.ID == ipsec.GroupNone)
	}
}

// SameIdentity reports whether a live IKE SA of the connection can serve the
// next configuration. It cannot when the version, an address, an identity or the
// encapsulation differs: those are agreed on when it is set up.
func (c *Connection) SameIdentity(next *Connection) bool {
	return c.Name == next.Name && c.Local == next.Local && c.Remote == next.Remote &&
		c.LocalID == next.LocalID && c.RemoteID == next.RemoteID && c.ForceEncap == next.ForceEncap && c.RequireEncap == next.RequireEncap &&
		c.IKEv1() == next.IKEv1() && c.Aggressive == next.Aggressive && c.GM.sameAuthorities(next.GM)
}

// DPD is the liveness check (RFC 7296, section 2.4; RFC 3706): after Interval
// without a sign of life a probe is sent and repeated every Timeout, three times.
type DPD struct {
	Interval, Timeout time.Duration
	// NotifyFirst is the order of the payloads in a probe of IKEv1: the
	// notification and then the hash. It yields to the order that the peer has.
	NotifyFirst bool
}

// Child is the wanted configuration of one CHILD_SA.
type Child struct {
	Name  string // unique within the connection
	ReqID uint32 // unique among all children of the daemon
	IfID  uint32 // the interface of a route-based tunnel, else zero

	// Template says that the peer chooses what is protected: each pair of lists of
	// selectors that it asks for within Local and Remote becomes a child of its own,
	// with a name made of them and a ReqID of Env.AllocReqID.
	Template bool

	Proposals     []ipsec.Proposal // ESP; a group in them means PFS
	Local, Remote []ipsec.TrafficSelector
	Lifetime      ipsec.Lifetime // Hard values; the soft ones follow with jitter
	ReplayWindow  int            // packets
}

// Env is what a machine may ask of its surroundings.
type Env struct {
	*Host

	// Handover, when set, gives an ISAKMP SA that a responder has authenticated
	// to the machine that serves its connection already, if there is one: that
	// machine is then told to Adopt it.
	Handover func(*Connection, *ISAKMPSA) (taken bool)

	// InitialContact, when set, reports whether we know of no other IKE SA with the
	// peer: IKE_AUTH then tells it so (RFC 7296, section 2.4). Beside another one, a
	// responder does not send on a child before the peer is known to have it.
	InitialContact func(*Connection) bool
}

// Host is what the machines of a daemon share. Its functions may be called from
// several goroutines.
type Host struct {
	// Rand is the source of SPIs, nonces, key exchange secrets, IVs and
	// jitter. It is crypto/rand.Reader but in tests.
	Rand interface{ Read([]byte) (int, error) }

	// AllocSPI reserves an inbound ESP SPI for a local address.
	AllocSPI func(local netip.Addr) (ipsec.SPI, error)

	// AllocReqID returns a ReqID that no configured child has, nor one that was
	// made from a template and is still there.
	AllocReqID func() uint32

	// Candidates returns the connections that an initiator at remote may mean
	// when it speaks to local: first those with that very remote address, then
	// those without one. A responder narrows them by identity in IKE_AUTH.
	Candidates func(local, remote netip.Addr) []*Connection

	// QuerySA, when set, returns an SA's counters. An inbound packet is a sign
	// of life, and the first one on a new SA shows that the peer uses it.
	QuerySA func(ipsec.SAID) (ipsec.SAState, error)

	// Redirect, when set, returns where initiators that speak to an address of ours
	// are sent, if they can be; ok is false where they are not.
	Redirect func(local netip.Addr) (to wire.GatewayIdentity, ok bool)

	// AllowProof, when set, reports whether a responder may do operations of public
	// keys for one more message of an initiator that is not authenticated.
	AllowProof func(local, remote netip.Addr) bool

	// FollowRedirect, when set, reports whether a connection may follow one more
	// redirect, and counts it: MaxRedirects within RedirectPeriod. Unset: it may not.
	FollowRedirect func(*Connection) bool

	// InquireChild, when set, reports whether the peer may be asked what it would take
	// for a child that it refuses, and notes that it is. A machine asks once in ten
	// minutes for each child; but IKE SAs may follow each other faster.
	InquireChild func(c *Connection, child string) bool

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

// Keys are the secrets of one SA, for Env.KeyLog. Exactly one of them is set.
type Keys struct {
	IKE    *IKEKeys
	ISAKMP *ISAKMPKeys
	ESP    *ipsec.SA
}

// ISAKMPKeys is the key of an IKE SA of version 1 (RFC 2409, appendix B).
type ISAKMPKeys struct {
	InitiatorSPI, ResponderSPI uint64
	Encryption                 ipsec.Transform
	Key                        []byte
}

// IKEKeys are the keys of an IKE SA (RFC 7296, section 2.14).
type IKEKeys struct {
	InitiatorSPI, ResponderSPI uint64
	Encryption, Integrity      ipsec.Transform
	SKei, SKer, SKai, SKar     []byte
}
