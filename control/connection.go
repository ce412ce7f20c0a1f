package control

import (
	"net/netip"
	"time"
)

// Style says how traffic finds into a tunnel.
type Style string

// Styles, as requests write them. Answers have them in upper case.
const (
	StylePolicy         Style = "policy"          // by policy rules
	StyleStatic         Style = "static"          // by routes to the peer subnets
	StyleBGP            Style = "bgp"             // by routes learned from the peer
	StylePolicyTemplate Style = "policy-template" // by what the peer proposes
)

// HARole is the rank of a connection on an active-standby gateway.
type HARole string

// Ranks.
const (
	RoleMaster HARole = "master"
	RoleSlave  HARole = "slave"
)

// Connection is the specification of a VPN connection: one IKE relation
// between one address of a gateway and one customer gateway.
type Connection struct {
	Meta

	GatewayID           string `json:"vgw_id"`
	Slot                Slot   `json:"slot"` // which address of the gateway
	CustomerGatewayID   string `json:"cgw_id"`
	EnterpriseProjectID string `json:"enterprise_project_id"` // that of the gateway

	Style       Style          `json:"style"`
	HARole      HARole         `json:"ha_role"`
	PeerSubnets []netip.Prefix `json:"peer_subnets,omitempty"` // of the gateway's family
	PolicyRules []PolicyRule   `json:"policy_rules,omitempty"` // style policy only
	EnableNQA   bool           `json:"enable_nqa,omitempty"`
	EnableHub   bool           `json:"enable_hub,omitempty"`

	// TunnelLocal and TunnelPeer are the host addresses of one /30: ours on
	// the tunnel interface, and the peer's.
	TunnelLocal netip.Prefix `json:"tunnel_local_address"`
	TunnelPeer  netip.Prefix `json:"tunnel_peer_address"`

	PSK   Secret      `json:"-"` // stored sealed
	PPK   Secret      `json:"-"` // stored sealed; see IKEPolicy.PPKID
	IKE   IKEPolicy   `json:"ikepolicy"`
	IPsec IPsecPolicy `json:"ipsecpolicy"`

	// Resets counts the resets asked for. The reconciler resets the
	// connection when its status has seen fewer.
	Resets int64 `json:"resets,omitempty"`
	// MonitorID is the monitor of the connection; empty: it has none.
	MonitorID string `json:"monitor_id,omitempty"`
}

// PolicyRule protects the traffic between one source and its destinations.
type PolicyRule struct {
	Source       netip.Prefix   `json:"source"`
	Destinations []netip.Prefix `json:"destinations"`
}

// ConnectionState is the status of a connection as the API shows it.
type ConnectionState string

// States of a connection.
const (
	ConnectionPendingCreate ConnectionState = "PENDING_CREATE"
	ConnectionPendingUpdate ConnectionState = "PENDING_UPDATE"
	ConnectionPendingDelete ConnectionState = "PENDING_DELETE"
	ConnectionActive        ConnectionState = "ACTIVE" // IKE SA and at least one CHILD_SA are up
	ConnectionDown          ConnectionState = "DOWN"
	ConnectionError         ConnectionState = "ERROR" // could not be applied
	ConnectionFreezed       ConnectionState = "FREEZED"
	ConnectionUnknown       ConnectionState = "UNKNOWN" // the worker does not report
)

// ConnectionStatus is what the reconciler reports of a connection.
type ConnectionStatus struct {
	// Observed is the generation that was applied last, or that failed.
	Observed int64 `json:"observed"`
	// State is ACTIVE, DOWN, ERROR or UNKNOWN.
	State     ConnectionState `json:"state"`
	Message   string          `json:"message,omitempty"` // why, for people
	Diagnosis *Diagnosis      `json:"diagnosis,omitempty"`
	// LastChange is when State became what it is.
	LastChange time.Time `json:"last_change,omitzero"`
	// Resets is how many of the resets asked for were done.
	Resets int64 `json:"resets,omitempty"`
	// Applied says that some generation was applied without error.
	Applied bool `json:"applied,omitempty"`
	// Routes are the destinations that are routed into the tunnel now.
	Routes []netip.Prefix `json:"routes,omitempty"`
	// Node is the one that reports; empty where there is no fleet.
	Node string `json:"node,omitempty"`
	// DataPlane is what serves the connection; nil where nothing is picked.
	DataPlane *DataPlane `json:"data_plane,omitempty"`
	// Encapsulation is what ESP goes in; nil where no IKE SA is established.
	Encapsulation *Encapsulation `json:"esp_encapsulation,omitempty"`
}

// DataPlane is the data plane that a node has picked for a connection.
type DataPlane struct {
	Name   string `json:"name"`   // kernel or userspace
	Reason string `json:"reason"` // why, for people
}

// What ESP goes in.
const (
	EncapsulationUDP  = "udp"
	EncapsulationNone = "none" // IP protocol 50
)

// Encapsulation is what the ESP packets of a connection go in.
type Encapsulation struct {
	Name   string `json:"name"`   // udp or none
	Reason string `json:"reason"` // why, for people
}

// State derives what the API shows. The zero ConnectionStatus means that there
// is no status yet.
func (c *Connection) State(s ConnectionStatus) ConnectionState {
	switch {
	case c.DeletionRequested:
		return ConnectionPendingDelete
	case c.Frozen:
		return ConnectionFreezed
	case s.Observed == 0:
		return ConnectionPendingCreate
	case s.Observed < c.Generation && !s.Applied:
		return ConnectionPendingCreate
	case s.Observed < c.Generation:
		return ConnectionPendingUpdate
	}
	return s.State
}

// ConnectionCreate is a request for a connection. A nil member was not sent.
type ConnectionCreate struct {
	Name               *string
	VgwID              *string
	VgwIP              *string
	Style              *string
	CgwID              *string
	PeerSubnets        []string
	PeerSubnetsV6      []string
	TunnelLocalAddress *string
	TunnelPeerAddress  *string
	EnableNQA          *bool
	EnableHub          *bool
	EnableHealthCheck  bool // create a monitor, too
	PSK                *Secret
	PPK                *Secret
	PolicyRules        []PolicyRuleRequest
	PolicyRulesV6      []PolicyRuleRequest
	IKEPolicy          *IKEPolicyRequest
	IPsecPolicy        *IPsecPolicyRequest
	HARole             *string
	Tags               []Tag
}

// ConnectionUpdate is a change of a connection. A nil member stays as it is, a
// list replaces the whole list.
type ConnectionUpdate struct {
	Name               *string
	CgwID              *string
	PeerSubnets        []string
	PeerSubnetsV6      []string
	TunnelLocalAddress *string
	TunnelPeerAddress  *string
	EnableNQA          *bool
	EnableHub          *bool
	PSK                *Secret
	PPK                *Secret
	PolicyRules        []PolicyRuleRequest
	PolicyRulesV6      []PolicyRuleRequest
	IKEPolicy          *IKEPolicyRequest
	IPsecPolicy        *IPsecPolicyRequest
}

// PolicyRuleRequest is a policy rule as it was sent.
type PolicyRuleRequest struct {
	Source      string
	Destination []string
}
