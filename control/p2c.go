package control

import (
	"net/netip"
	"time"
)

// Kinds of the objects of client-to-cloud VPN. Client CA certificates are part
// of their server, the log configuration is part of the gateway.
const (
	KindP2CGateway   Kind = "p2c-gateway"
	KindServer       Kind = "vpn-server"
	KindUser         Kind = "vpn-user"
	KindUserGroup    Kind = "user-group"
	KindAccessPolicy Kind = "access-policy"
)

// P2CGateway is the specification of a client-to-cloud gateway. It has one
// EIP and at most one VPNServer.
type P2CGateway struct {
	Meta

	VPCID               string     `json:"vpc_id"`
	ConnectSubnet       string     `json:"connect_subnet"`
	Flavor              Flavor     `json:"flavor"`
	AvailabilityZones   []string   `json:"availability_zones"`
	EIP                 EIPBinding `json:"eip,omitzero"`
	MaxConnections      int        `json:"max_connections"` // clients online at the same time, 1 to 500
	EnterpriseProjectID string     `json:"enterprise_project_id"`
	LogConfig           *LogConfig `json:"log_config,omitempty"` // nil: connections are logged nowhere but here

	// Version is that of the daemon which the gateway was created or confirmed
	// on last; empty: none is known.
	Version string   `json:"version,omitempty"`
	Upgrade *Upgrade `json:"upgrade,omitempty"` // nil: none is under way
}

// P2CGatewayState is the status of a client-to-cloud gateway as the API shows
// it.
type P2CGatewayState string

// States of a client-to-cloud gateway.
const (
	P2CPendingCreate P2CGatewayState = "PENDING_CREATE"
	P2CPendingUpdate P2CGatewayState = "PENDING_UPDATE"
	P2CPendingDelete P2CGatewayState = "PENDING_DELETE"
	P2CActive        P2CGatewayState = "ACTIVE"
	P2CFault         P2CGatewayState = "FAULT"
	P2CFrozen        P2CGatewayState = "FROZEN"

	P2CUpgrading             P2CGatewayState = "UPGRADING"
	P2CPendingUpgradeConfirm P2CGatewayState = "PENDING_UPGRADE_CONFIRM"
	P2CRollingBack           P2CGatewayState = "ROLLING_BACK"
)

// State derives what the API shows. The zero P2CGatewayStatus means that there
// is no status yet.
func (g *P2CGateway) State(s P2CGatewayStatus) P2CGatewayState {
	switch {
	case g.DeletionRequested:
		return P2CPendingDelete
	case g.Frozen:
		return P2CFrozen
	case s.Observed < g.Generation && s.AppliedAt.IsZero():
		return P2CPendingCreate
	case s.Observed < g.Generation:
		return P2CPendingUpdate
	case g.Upgrade != nil:
		return upgradeState(g.Upgrade, P2CUpgrading, P2CPendingUpgradeConfirm, P2CRollingBack)
	case s.Fault:
		return P2CFault
	}
	return P2CActive
}

// LogConfig says where the connection log of a gateway goes: a stream of the
// inventory.
type LogConfig struct {
	GroupID  string `json:"log_group_id"`
	StreamID string `json:"log_stream_id"`
}

// ClientAuthType says how clients of a server prove who they are.
type ClientAuthType string

// Client authentication types.
const (
	ClientAuthCertificate ClientAuthType = "CERT"
	ClientAuthPassword    ClientAuthType = "LOCAL_PASSWORD"
	ClientAuthBoth        ClientAuthType = "CERT_AND_LOCAL_PASSWORD"
)

// Passwords reports whether users log in with passwords.
func (t ClientAuthType) Passwords() bool { return t == ClientAuthPassword || t == ClientAuthBoth }

// Certificates reports whether clients need a certificate.
func (t ClientAuthType) Certificates() bool {
	return t == ClientAuthCertificate || t == ClientAuthBoth
}

// CertificateSource says where the certificate of a server comes from.
type CertificateSource string

// Sources of server certificates.
const (
	CertificateCCM         CertificateSource = "CCM"          // the inventory
	CertificateServiceSign CertificateSource = "SERVICE_SIGN" // our own CA
)

// ClientTopology is what clients see of the pool.
type ClientTopology string

// Topologies. Empty stands for TopologyNet30.
const (
	TopologyNet30  ClientTopology = "net30"
	TopologySubnet ClientTopology = "subnet"
)

// VPNServer is the specification of the VPN server of a P2CGateway. Its name is
// empty: the API has none.
type VPNServer struct {
	Meta

	GatewayID    string            `json:"gateway_id"`
	ClientCIDR   netip.Prefix      `json:"client_cidr"` // masked
	LocalSubnets []netip.Prefix    `json:"local_subnets"`
	AuthType     ClientAuthType    `json:"auth_type"`
	Certificate  ServerCertificate `json:"certificate"`
	ClientCAs    []ClientCA        `json:"client_cas,omitempty"`
	Protocol     string            `json:"protocol"` // TCP
	Port         int               `json:"port"`     // 443 or 1194
	Cipher       string            `json:"cipher"`   // AES-128-GCM or AES-256-GCM
	Compressed   bool              `json:"compressed,omitempty"`
	DNSServers   []netip.Addr      `json:"dns_servers,omitempty"`

	// ClientCIDRv6 is the network of the clients' IPv6 addresses; the zero value:
	// none. With it there may be LocalSubnetsV6.
	ClientCIDRv6   netip.Prefix   `json:"client_cidr_v6,omitzero"`
	LocalSubnetsV6 []netip.Prefix `json:"local_subnets_v6,omitempty"`
	Topology       ClientTopology `json:"topology,omitempty"`
	DNSDomain      string         `json:"dns_domain,omitempty"`

	UDPPorts     []int        `json:"udp_ports,omitempty"` // that are served besides TCP
	ControlWrap  ControlWrap  `json:"control_wrap,omitempty"`
	ControlKey   Secret       `json:"-"` // of ControlWrap: keyLen octets
	SecondFactor SecondFactor `json:"second_factor,omitempty"`
	// RevokedClientKeys are the ids of keys of profiles, with WrapTLSCryptV2, that
	// nobody may connect with any more.
	RevokedClientKeys []string `json:"revoked_client_keys,omitempty"`
	// PortShare gets the connections on TCP that are not of clients; the zero
	// value: nobody.
	PortShare netip.AddrPort `json:"port_share,omitzero"`
}

// ServerState is the status of a server as the API shows it.
type ServerState string

// States of a server.
const (
	ServerPendingCreate ServerState = "PENDING_CREATE"
	ServerPendingUpdate ServerState = "PENDING_UPDATE"
	ServerActive        ServerState = "ACTIVE"
	ServerFault         ServerState = "FAULT"
	ServerFrozen        ServerState = "FROZEN"
)

// State derives what the API shows of the server of a gateway. The zero
// ServerStatus means that there is no status yet.
func (v *VPNServer) State(s ServerStatus, g *P2CGateway) ServerState {
	switch {
	case g.Frozen:
		return ServerFrozen
	case s.Observed < v.Generation && s.AppliedAt.IsZero():
		return ServerPendingCreate
	case s.Observed < v.Generation:
		return ServerPendingUpdate
	case s.Fault:
		return ServerFault
	}
	return ServerActive
}

// AuthenticationAlgorithm returns the digest that goes with the cipher. It is
// shown and told to clients, and has no effect on a data channel in GCM.
func (v *VPNServer) AuthenticationAlgorithm() string {
	if v.Cipher == cipherAES256 {
		return "SHA384"
	}
	return "SHA256"
}

// ServerCertificate is the certificate of a server. One of the inventory is
// found by its id; one that our own CA signed stands here, its key and that of
// the CA sealed in the store.
type ServerCertificate struct {
	Source CertificateSource `json:"source"`
	ID     string            `json:"id,omitempty"` // CCM only
	Name   string            `json:"name"`
	// Chain holds the certificate and those of its issuers, PEM, leaf first;
	// Key is the private key of the leaf, PEM. SERVICE_SIGN only.
	Chain string `json:"chain,omitempty"`
	Key   Secret `json:"-"`
	// CAKey is the private key of the last certificate of Chain. SERVICE_SIGN
	// only.
	CAKey Secret `json:"-"`
}

// ClientCA is a trust anchor for the certificates of clients.
type ClientCA struct {
	ID        string    `json:"id"` // UUID
	Name      string    `json:"name"`
	PEM       string    `json:"pem"` // one certificate
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// VPNUser is the specification of a user of a server.
type VPNUser struct {
	Meta // Name is the one to log in with

	ServerID    string     `json:"server_id"`
	Description string     `json:"description,omitempty"`
	GroupID     string     `json:"group_id,omitempty"` // empty, or that of a group that is gone: in no group
	StaticIP    netip.Addr `json:"static_ip,omitzero"` // the zero Addr: any of the pool
	// Passwords are hashes of the latest ones, the valid one first, at most
	// passwordHistory. They leave the store for no answer.
	Passwords []PasswordHash `json:"-"`
	// EnrolledAt is when the user was given CodeSecret, which makes the codes of
	// FactorTOTP; the zero Time: there is none. The secret leaves the store for no
	// answer but that of its enrolment.
	EnrolledAt time.Time `json:"enrolled_at,omitzero"`
	CodeSecret Secret    `json:"-"` // codeSecretLen octets
}

// BuiltIn tells apart what each server has from the start.
type BuiltIn string

// Types of groups and policies.
const (
	TypeDefault BuiltIn = "Default"
	TypeCustom  BuiltIn = "Custom"
)

// UserGroup is the specification of a group of users of a server.
type UserGroup struct {
	Meta

	ServerID    string  `json:"server_id"`
	Description string  `json:"description,omitempty"`
	Type        BuiltIn `json:"type"`
}

// AccessPolicy is the specification of what the users of a group may reach.
type AccessPolicy struct {
	Meta

	ServerID     string         `json:"server_id"`
	GroupID      string         `json:"group_id"`
	Description  string         `json:"description,omitempty"`
	Type         BuiltIn        `json:"type"`
	Destinations []netip.Prefix `json:"destinations"` // 1 to 10, masked
}

// P2CGatewayStatus is what the reconciler reports of a P2CGateway.
type P2CGatewayStatus struct {
	Observed   int64     `json:"observed"` // generation that was applied last, or that failed
	Fault      bool      `json:"fault,omitempty"`
	Message    string    `json:"message,omitempty"` // why, for people
	AppliedAt  time.Time `json:"applied_at,omitzero"`
	LastChange time.Time `json:"last_change,omitzero"`
	// Clients are connected, as of a moment ago. A node of a fleet tells it to
	// the others; a node alone does not write it.
	Clients int `json:"clients,omitempty"`
}

// ServerStatus is what the reconciler reports of a VPNServer.
type ServerStatus struct {
	Observed   int64     `json:"observed"`
	Fault      bool      `json:"fault,omitempty"`
	Message    string    `json:"message,omitempty"`
	AppliedAt  time.Time `json:"applied_at,omitzero"`
	LastChange time.Time `json:"last_change,omitzero"`
}

// ClientConnection is a client that is connected to a server of this node.
type ClientConnection struct {
	ID                string // UUID
	VirtualIP         netip.Addr
	VirtualIPv6       netip.Addr // the zero Addr: none
	ClientKey         string     // id of the key of the client's profile; empty: it has none
	Remote            netip.AddrPort
	User              string
	Inbound, Outbound Traffic // inbound is from the client
	Established       time.Time
	Sampled           time.Time
}
