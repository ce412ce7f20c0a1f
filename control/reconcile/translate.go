package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// replayWindow is that of every inbound SA, in packets.
const replayWindow = 1024

// anyChild names the one CHILD_SA of a connection that routes lead to.
const anyChild = "any"

// tunnel is one connection as the engines are told of it.
type tunnel struct {
	id        string // of the connection
	gatewayID string
	standby   bool // used only while no connection of its group that is not standby is up
	passive   bool // another node carries the traffic of the gateway
	// template says that the peer chooses what the tunnel is for, within flows.
	template bool

	connection sa.Connection
	device     ipsec.Interface
	planeWhy   string       // why the device is of its data plane; empty where there is no choice
	encapWhy   string       // who asks for ESP in UDP; empty: nobody on this side
	address    netip.Prefix // on the device; invalid when there is none
	// probed says that the tunnel is used only while peerAddress, the peer's
	// tunnel address, answers through it.
	probed      bool
	peerAddress netip.Addr
	flows       []flow
}

// self is the source of what the node itself sends from the tunnel address; it
// is invalid where the tunnel has none.
func (tn *tunnel) self() netip.Prefix {
	return netip.PrefixFrom(tn.address.Addr(), tn.address.Addr().BitLen())
}

// closed tells that a tunnel has no device. It stands for a connection that
// cannot be applied: what that is for must not leave in the clear all the same.
func (tn *tunnel) closed() bool { return tn.device.Name == "" }

// flow is traffic that a tunnel is for.
type flow struct{ source, destination netip.Prefix }

// subject is a connection with what it refers to.
type subject struct {
	connection *control.Connection
	gateway    *control.Gateway
	customer   *control.CustomerGateway
	// identity is what a gateway of flavor GM proves itself with, and identityErr
	// why that cannot be had.
	identity    *control.GatewayIdentity
	identityErr error

	local   netip.Addr // of this node, behind the gateway's address
	carried bool       // this node carries the gateway's traffic
}

// limited tells whether the bandwidth of the gateway's address is.
func (s *subject) limited() bool {
	return s.gateway.NetworkType != control.NetworkPrivate && s.gateway.EIPs[s.connection.Slot-1].BandwidthMbps > 0
}

// translator turns connections into tunnels. It remembers the numbers it gave,
// so that a connection keeps its own while others come and go.
type translator struct {
	forceEncap bool // on the data plane in user space, unless a connection says otherwise
	childless  bool
	redirectTo []netip.Prefix
	mobike     bool // with all peers, not only those without a fixed address
	limits     LifetimeLimits
	gm         map[string]GMOptions // by address or name of the peer
	plane      func(ipsec.Proposal, netip.Addr, bool) (ipsec.Plane, string, error)
	reqIDs     *numbers
	ifIDs      *numbers
}

func newTranslator(forceEncap bool, limits LifetimeLimits) *translator {
	return &translator{
		forceEncap: forceEncap,
		limits:     limits,
		reqIDs:     newNumbers(1, 1<<31-1),
		ifIDs:      newNumbers(1, 1<<31-1),
	}
}

// LifetimeLimits are a node's upper limits of SA lifetimes, whatever longer ones
// connections ask for. Zero is none. In IKEv2 each end rekeys by its own
// lifetime, so that the shorter one counts (RFC 7296, section 2.8).
type LifetimeLimits struct {
	IKE, Child time.Duration
	// Authentication is for how long an authentication of IKEv2 holds.
	Authentication time.Duration
}

func (l LifetimeLimits) ike(seconds int) time.Duration { return atMost(l.IKE, seconds) }

func (l LifetimeLimits) child(seconds int) time.Duration { return atMost(l.Child, seconds) }

func atMost(limit time.Duration, seconds int) time.Duration {
	wanted := time.Duration(seconds) * time.Second
	if limit > 0 && limit < wanted {
		return limit
	}
	return wanted
}

// retain forgets the numbers of all connections but these.
func (t *translator) retain(connections map[string]bool) {
	t.ifIDs.retain(func(name string) bool { return connections[name] })
	t.reqIDs.retain(func(name string) bool { return connections[owner(name)] })
}

// childKey names a child in the whole daemon; owner is its connection.
func childKey(connection, child string) string { return connection + "/" + child }

func owner(key string) string {
	for i := range key {
		if key[i] == '/' {
			return key[:i]
		}
	}
	return key
}

// deviceName is the name of a tunnel's device: 13 octets of at most 15.
func deviceName(ifID uint32) string { return fmt.Sprintf("vpngw%08x", ifID) }

// versions of IKE by their names in the API.
var versions = map[control.IKEVersion]uint8{control.IKEv1: 1, control.IKEv2: 2}

// translate returns the tunnel of a connection. Errors name the field of the
// API that has no counterpart.
func (t *translator) translate(s subject) (*tunnel, error) {
	c, err := effective(s.connection, s.gateway)
	if err != nil {
		return nil, err
	}
	s.connection = c
	options := t.optionsOf(s.customer)
	ike, esp, err := s.proposals(options)
	if err != nil {
		return nil, err
	}
	version, ok := versions[c.IKE.Version]
	if !ok {
		return nil, fmt.Errorf("ikepolicy.ike_version: %q is not known", c.IKE.Version)
	}
	ifID := t.ifIDs.of(c.ID)
	if ifID == 0 {
		return nil, errors.New("no interface number is free")
	}
	device := ipsec.Interface{IfID: ifID, Name: deviceName(ifID), Local: s.local}
	var why string
	if t.plane != nil {
		if device.Plane, why, err = t.plane(esp, s.local, s.limited()); err != nil {
			return nil, err
		}
	}
	tn := &tunnel{
		id:        c.ID,
		gatewayID: s.gateway.ID,
		standby:   s.gateway.HAMode == control.ActiveStandby && c.HARole == control.RoleSlave,
		passive:   !s.carried,
		device:    device,
		planeWhy:  why,
		connection: sa.Connection{
			Name:         c.ID,
			Version:      version,
			Aggressive:   version == 1 && c.IKE.NegotiationMode == control.ModeAggressive,
			Local:        s.local,
			Remote:       s.customer.Address(),
			Initiate:     s.customer.Address().IsValid(),
			Proposals:    []ipsec.Proposal{ike},
			Lifetime:     t.limits.ike(c.IKE.LifetimeSeconds),
			AuthLifetime: t.limits.Authentication,
			DPD: sa.DPD{
				Interval:    time.Duration(c.IKE.DPD.IntervalSeconds) * time.Second,
				Timeout:     time.Duration(c.IKE.DPD.TimeoutSeconds) * time.Second,
				NotifyFirst: c.IKE.DPD.Msg == control.DPDSeqNotifyHash,
			},
			Childless: t.childless && version == 2,
			MOBIKE:    version == 2 && (t.mobike || !s.customer.Address().IsValid()),
		},
	}
	if err := t.encapsulation(tn, c.IPsec.UDPEncapsulation); err != nil {
		return nil, err
	}
	if err := s.authentication(&tn.connection, options); err != nil {
		return nil, err
	}
	switch c.Style {
	case control.StyleStatic:
		err = t.static(tn, s, esp)
	case control.StylePolicy:
		err = t.policy(tn, s, esp)
	case control.StylePolicyTemplate:
		err = t.policyTemplate(tn, s, esp)
	case control.StyleBGP:
		err = fmt.Errorf("style: %s is not supported by this release", c.Style)
	default:
		err = fmt.Errorf("style: %q is not known", c.Style)
	}
	if err != nil {
		return nil, err
	}
	if version == 2 && tn.connection.Initiate {
		tn.connection.RedirectTo = t.redirectTo
	}
	if !tn.template {
		tn.connection.Reservation = reservation(s.customer.ID, tn.flows)
	}
	return tn, nil
}

// encapsulation says when the tunnel's ESP goes in UDP, and why.
func (t *translator) encapsulation(tn *tunnel, wanted control.UDPEncapsulation) error {
	c := &tn.connection
	switch wanted {
	case control.UDPEncapsulationAuto, "":
		if t.forceEncap && tn.device.Plane == ipsec.PlaneUserspace {
			c.ForceEncap, tn.encapWhy = true, "the data plane in user space asks for it"
		}
	case control.UDPEncapsulationAlways:
		c.ForceEncap, c.RequireEncap, tn.encapWhy = true, true, "ipsecpolicy.udp_encapsulation asks for it"
	case control.UDPEncapsulationNAT:
	default:
		return fmt.Errorf("ipsecpolicy.udp_encapsulation: %q is not known", wanted)
	}
	return nil
}

// national tells whether a connection is of the profile GM/T 0022.
func (s subject) national() bool { return s.gateway.Flavor == control.FlavorGM }

// proposals returns the one of each phase.
func (s subject) proposals(o GMOptions) (ike, esp ipsec.Proposal, err error) {
	c := s.connection
	if s.national() {
		return gmProposals(c, o)
	}
	if ike, err = ikeProposal(&c.IKE); err != nil {
		return ike, esp, err
	}
	esp, err = espProposal(&c.IPsec)
	return ike, esp, err
}

// authentication gives a connection what either end proves itself with.
func (s subject) authentication(to *sa.Connection, o GMOptions) (err error) {
	if s.national() {
		return s.gm(to, o)
	}
	c := s.connection
	localID, peerID := c.EffectiveIDs(s.gateway, s.customer)
	if to.LocalID, err = identity(c.IKE.LocalIDType, localID); err != nil {
		return fmt.Errorf("ikepolicy.local_id: %w", err)
	}
	if to.RemoteID, err = identity(c.IKE.PeerIDType, peerID); err != nil {
		return fmt.Errorf("ikepolicy.peer_id: %w", err)
	}
	if c.PSK.IsZero() {
		return errors.New("psk: is empty")
	}
	to.PSK = []byte(c.PSK.Reveal())
	to.PPK, err = postQuantumKey(c)
	return err
}

// static gives the tunnel one CHILD_SA for any traffic: routes from the local
// subnets to the peer's decide what enters it.
func (t *translator) static(tn *tunnel, s subject, esp ipsec.Proposal) error {
	whole := []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(netip.MustParsePrefix("0.0.0.0/0"))}
	if s.gateway.IPVersion == control.IPv6 {
		// The tunnel addresses are IPv4 all the same.
		whole = append(whole, ipsec.SelectorFromPrefix(netip.MustParsePrefix("::/0")))
	}
	tn.address, tn.peerAddress = s.connection.TunnelLocal, s.connection.TunnelPeer.Addr()
	tn.probed = s.connection.EnableNQA
	tn.flows = flowsOf(s.connection, s.gateway)
	return t.children(tn, s, anyChild, whole, whole, esp)
}

// policy gives the tunnel one CHILD_SA for each rule. Its name is the source,
// which is unique, so that other rules may change around it.
func (t *translator) policy(tn *tunnel, s subject, esp ipsec.Proposal) error {
	tn.flows = flowsOf(s.connection, s.gateway)
	for _, rule := range s.connection.PolicyRules {
		source := rule.Source.Masked()
		local := []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(source)}
		var remote []ipsec.TrafficSelector
		for _, destination := range rule.Destinations {
			remote = append(remote, ipsec.SelectorFromPrefix(destination))
		}
		if err := t.children(tn, s, source.String(), local, remote, esp); err != nil {
			return err
		}
	}
	if len(tn.connection.Children) == 0 {
		return errors.New("policy_rules: is empty")
	}
	return nil
}

// children gives the tunnel one CHILD_SA for lists of selectors, or, in IKEv1,
// one for each pair of one family: a quick mode knows no more. Their names tell
// the peer's selector, too, so that other destinations may change around it.
func (t *translator) children(tn *tunnel, s subject, name string, local, remote []ipsec.TrafficSelector, esp ipsec.Proposal) error {
	if !tn.connection.IKEv1() || tn.template {
		return t.child(tn, s, name, local, remote, esp)
	}
	for i := range local {
		for j := range remote {
			if local[i].Start.BitLen() != remote[j].Start.BitLen() {
				continue
			}
			one := name
			if name != anyChild || len(remote) > 1 {
				one += " to " + remote[j].String()
			}
			if err := t.child(tn, s, one, local[i:i+1], remote[j:j+1], esp); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *translator) child(tn *tunnel, s subject, name string, local, remote []ipsec.TrafficSelector, esp ipsec.Proposal) error {
	reqID := t.reqIDs.of(childKey(tn.id, name))
	if reqID == 0 {
		return errors.New("no request number is free")
	}
	tn.connection.Children = append(tn.connection.Children, sa.Child{
		Name:         name,
		Template:     tn.template,
		ReqID:        reqID,
		IfID:         tn.device.IfID,
		Proposals:    []ipsec.Proposal{esp},
		Local:        local,
		Remote:       remote,
		Lifetime:     ipsec.Lifetime{Hard: t.limits.child(s.connection.IPsec.LifetimeSeconds)},
		ReplayWindow: replayWindow,
	})
	return nil
}

// identity returns how a side names itself in IKE_AUTH.
func identity(kind control.IDType, value string) (sa.Identity, error) {
	switch kind {
	case control.IDTypeIP:
		a, err := netip.ParseAddr(value)
		if err != nil {
			return sa.Identity{}, fmt.Errorf("%q is not an address", value)
		}
		return sa.AddressIdentity(a), nil
	case control.IDTypeFQDN:
		if value == "" {
			return sa.Identity{}, errors.New("is empty")
		}
		return sa.FQDNIdentity(value), nil
	}
	return sa.Identity{}, fmt.Errorf("type %q is not known", kind)
}

// flowsOf returns the traffic that a connection is for.
func flowsOf(c *control.Connection, g *control.Gateway) (flows []flow) {
	if c.Style == control.StylePolicy {
		for _, rule := range c.PolicyRules {
			for _, destination := range rule.Destinations {
				flows = append(flows, flow{rule.Source.Masked(), destination.Masked()})
			}
		}
		return flows
	}
	for _, source := range g.LocalSubnets {
		for _, destination := range c.PeerSubnets {
			flows = append(flows, flow{source.Masked(), destination.Masked()})
		}
	}
	if a := c.TunnelLocal; a.IsValid() && c.Style != control.StylePolicyTemplate {
		// What the node itself sends from the tunnel address, such as a probe.
		self := netip.PrefixFrom(a.Addr(), a.Addr().BitLen())
		for _, destination := range c.PeerSubnets {
			if destination.Addr().Is4() == self.Addr().Is4() {
				flows = append(flows, flow{self, destination.Masked()})
			}
		}
	}
	return flows
}
