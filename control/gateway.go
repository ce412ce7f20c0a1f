package control

import (
	"net/netip"
	"slices"
	"time"
)

// NetworkType says how peers reach a gateway.
type NetworkType string

// Network types.
const (
	NetworkPublic  NetworkType = "public"  // through EIPs
	NetworkPrivate NetworkType = "private" // through addresses of the access VPC
)

// AttachmentType says what a gateway connects to on the cloud side.
type AttachmentType string

// Attachment types.
const (
	AttachVPC AttachmentType = "vpc"
	AttachER  AttachmentType = "er" // enterprise router
)

// IPVersion is the family of the traffic inside the tunnels. That of the outer
// packets is the one of the gateway's addresses.
type IPVersion string

// Families.
const (
	IPv4 IPVersion = "ipv4"
	IPv6 IPVersion = "ipv6"
)

// HAMode says how the two addresses of a gateway share the work.
type HAMode string

// High availability modes.
const (
	ActiveActive  HAMode = "active-active"
	ActiveStandby HAMode = "active-standby" // address 1 is primary
)

// Flavor is the size of a gateway.
type Flavor string

// Flavors.
const (
	FlavorBasic                   Flavor = "Basic"
	FlavorProfessional1           Flavor = "Professional1"
	FlavorProfessional2           Flavor = "Professional2"
	FlavorGM                      Flavor = "GM"
	FlavorProfessional1NonFixedIP Flavor = "Professional1-NonFixedIP"
	FlavorProfessional2NonFixedIP Flavor = "Professional2-NonFixedIP"
)

// NonFixedIP tells whether peers without a fixed address may connect by policy
// template.
func (f Flavor) NonFixedIP() bool {
	return f == FlavorProfessional1NonFixedIP || f == FlavorProfessional2NonFixedIP
}

// Slot is one of the two access addresses of a gateway, and the worker behind
// it. A connection belongs to a slot: it follows when another EIP is bound.
type Slot int

// The slots: the first and second address, in active-standby mode the primary
// and the standby one.
const (
	Slot1 Slot = 1
	Slot2 Slot = 2
)

// Gateway is the specification of a VPN gateway.
type Gateway struct {
	Meta

	NetworkType         NetworkType    `json:"network_type"`
	AttachmentType      AttachmentType `json:"attachment_type"`
	IPVersion           IPVersion      `json:"ip_version"`
	Flavor              Flavor         `json:"flavor"`
	HAMode              HAMode         `json:"ha_mode"`
	BGPASN              uint32         `json:"bgp_asn"`
	EnterpriseProjectID string         `json:"enterprise_project_id"`
	AvailabilityZones   []string       `json:"availability_zones"` // one or two

	ERID          string         `json:"er_id,omitempty"`
	VPCID         string         `json:"vpc_id,omitempty"`
	ConnectSubnet string         `json:"connect_subnet,omitempty"`
	LocalSubnets  []netip.Prefix `json:"local_subnets,omitempty"` // of the family of IPVersion

	AccessVPCID    string `json:"access_vpc_id"`
	AccessSubnetID string `json:"access_subnet_id"`

	EIPs             [2]EIPBinding `json:"eips,omitzero"`               // public only, by Slot - 1
	AccessPrivateIPs [2]netip.Addr `json:"access_private_ips,omitzero"` // private only, by Slot - 1

	// Certificate is of flavor GM only; nil: none was imported.
	Certificate *GatewayCertificate `json:"certificate,omitempty"`

	// Version is that of the daemon which the gateway was created or confirmed
	// on last; empty: none is known.
	Version string   `json:"version,omitempty"`
	Upgrade *Upgrade `json:"upgrade,omitempty"` // nil: none is under way

	// Template is of NonFixedIP flavors only.
	Template *PolicyTemplate `json:"policy_template,omitempty"`
}

// EIPBinding is an EIP bound to a gateway.
type EIPBinding struct {
	ID            string     `json:"id"`
	Type          string     `json:"type"` // 5_bgp, 5_sbgp, 5_youxuanbgp
	Address       netip.Addr `json:"address"`
	ChargeMode    string     `json:"charge_mode"` // bandwidth or traffic
	BandwidthID   string     `json:"bandwidth_id"`
	BandwidthName string     `json:"bandwidth_name"`
	BandwidthMbps int        `json:"bandwidth_mbps"`
	Shared        bool       `json:"shared,omitempty"` // the bandwidth is shared with other EIPs
}

// VgwIP returns how the API names the address of a slot: the id of the EIP, or
// the private address.
func (g *Gateway) VgwIP(s Slot) string {
	if g.NetworkType == NetworkPrivate {
		return g.AccessPrivateIPs[s-1].String()
	}
	return g.EIPs[s-1].ID
}

// Address returns the address of a slot as peers see it.
func (g *Gateway) Address(s Slot) netip.Addr {
	if g.NetworkType == NetworkPrivate {
		return g.AccessPrivateIPs[s-1]
	}
	return g.EIPs[s-1].Address
}

// addresses returns those that the gateway has, as peers see them.
func (g *Gateway) addresses() []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{g.Address(Slot1), g.Address(Slot2)}, func(a netip.Addr) bool { return !a.IsValid() })
}

// SlotOf returns the slot that the API means by vgwIP.
func (g *Gateway) SlotOf(vgwIP string) (Slot, bool) {
	for _, s := range []Slot{Slot1, Slot2} {
		if vgwIP != "" && g.VgwIP(s) == vgwIP {
			return s, true
		}
	}
	return 0, false
}

// GatewayState is the status of a gateway as the API shows it.
type GatewayState string

// States of a gateway.
const (
	GatewayPendingCreate         GatewayState = "PENDING_CREATE"
	GatewayPendingUpdate         GatewayState = "PENDING_UPDATE"
	GatewayPendingDelete         GatewayState = "PENDING_DELETE"
	GatewayActive                GatewayState = "ACTIVE"
	GatewayFault                 GatewayState = "FAULT"
	GatewayFreezed               GatewayState = "FREEZED"
	GatewayUpgrading             GatewayState = "UPGRADING"
	GatewayPendingUpgradeConfirm GatewayState = "PENDING_UPGRADE_CONFIRM"
	GatewayRollingBack           GatewayState = "ROLLING_BACK"
)

// GatewayStatus is what the reconciler reports of a gateway.
type GatewayStatus struct {
	// Observed is the generation that was applied last, or that failed.
	Observed int64 `json:"observed"`
	// Fault says that the observed generation could not be applied.
	Fault   bool   `json:"fault,omitempty"`
	Message string `json:"message,omitempty"` // why, for people
	// AppliedAt is when the gateway took effect first; zero before.
	AppliedAt  time.Time `json:"applied_at,omitzero"`
	LastChange time.Time `json:"last_change,omitzero"`
	// Routes are those to the local subnets that are in force.
	Routes []LocalRoute `json:"routes,omitempty"`
}

// LocalRoute leads to a local subnet of a gateway.
type LocalRoute struct {
	Destination netip.Prefix `json:"destination"`
	// Address is the node's own one in the subnet; the zero Addr where the
	// node reaches the subnet through a router.
	Address netip.Addr `json:"address,omitzero"`
}

// State derives what the API shows. The zero GatewayStatus means that there is
// no status yet.
func (g *Gateway) State(s GatewayStatus) GatewayState {
	switch {
	case g.DeletionRequested:
		return GatewayPendingDelete
	case g.Frozen:
		return GatewayFreezed
	case s.Observed == 0:
		return GatewayPendingCreate
	case s.Observed < g.Generation && s.AppliedAt.IsZero():
		return GatewayPendingCreate
	case s.Observed < g.Generation:
		return GatewayPendingUpdate
	case g.Upgrade != nil:
		return upgradeState(g.Upgrade, GatewayUpgrading, GatewayPendingUpgradeConfirm, GatewayRollingBack)
	case s.Fault:
		return GatewayFault
	}
	return GatewayActive
}

// upgradeState returns the state that goes with the phase of an upgrade.
func upgradeState[T any](u *Upgrade, upgrading, confirming, back T) T {
	switch u.Phase {
	case PhaseRollingBack:
		return back
	case PhaseConfirming:
		return confirming
	case PhaseUpgrading:
	}
	return upgrading
}

// GatewayCreate is a request for a gateway. A nil member was not sent.
type GatewayCreate struct {
	Name                *string
	NetworkType         *string
	AttachmentType      *string
	IPVersion           *string
	ERID                *string
	VPCID               *string
	LocalSubnets        []string
	LocalSubnetsV6      []string
	ConnectSubnet       *string
	BGPASN              *int64
	Flavor              *string
	AvailabilityZoneIDs []string
	EnterpriseProjectID *string
	EIP1, EIP2          *EIPRequest
	AccessVPCID         *string
	AccessSubnetID      *string
	HAMode              *string
	AccessPrivateIP1    *string
	AccessPrivateIP2    *string
	Tags                []Tag
}

// EIPRequest names an EIP by its id, or describes a new one.
type EIPRequest struct {
	ID            *string
	Type          *string
	ChargeMode    *string
	BandwidthSize *int
	BandwidthName *string
	BandwidthID   *string
}

// GatewayUpdate is a change of a gateway. A nil member stays as it is.
type GatewayUpdate struct {
	Name           *string
	LocalSubnets   []string
	LocalSubnetsV6 []string
	EIPID1, EIPID2 *string
	PolicyTemplate *PolicyTemplateRequest
}
