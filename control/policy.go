package control

// Encryption is an encryption algorithm by its API name. The names
// aes-N-gcm-128 and aes-N-gcm-16 mean the same: AES-GCM with an ICV of 16
// octets; both are kept as sent.
type Encryption string

// Encryption algorithms.
const (
	AES256GCM16  Encryption = "aes-256-gcm-16"
	AES128GCM16  Encryption = "aes-128-gcm-16"
	AES256GCM128 Encryption = "aes-256-gcm-128"
	AES128GCM128 Encryption = "aes-128-gcm-128"
	AES256       Encryption = "aes-256"
	AES192       Encryption = "aes-192"
	AES128       Encryption = "aes-128"
	TripleDES    Encryption = "3des"
	SM4          Encryption = "sm4"
)

// IsAEAD tells whether the algorithm authenticates too.
func (e Encryption) IsAEAD() bool {
	switch e {
	case AES256GCM16, AES128GCM16, AES256GCM128, AES128GCM128:
		return true
	default:
		return false
	}
}

// Authentication is an authentication algorithm by its API name: the PRF and
// integrity algorithm of an IKE SA, the integrity algorithm of ESP.
type Authentication string

// Authentication algorithms.
const (
	SHA2512 Authentication = "sha2-512"
	SHA2384 Authentication = "sha2-384"
	SHA2256 Authentication = "sha2-256"
	SHA1    Authentication = "sha1"
	MD5     Authentication = "md5"
	SM3     Authentication = "sm3"
)

// Group is a Diffie-Hellman group by its API name.
type Group string

// Groups: MODP 768 to 4096, ECP 256 to 521.
const (
	Group1     Group = "group1"
	Group2     Group = "group2"
	Group5     Group = "group5"
	Group14    Group = "group14"
	Group15    Group = "group15"
	Group16    Group = "group16"
	Group19    Group = "group19"
	Group20    Group = "group20"
	Group21    Group = "group21"
	PFSDisable Group = "disable" // of IPsecPolicy.PFS only: no exchange for a CHILD_SA
)

// IKEVersion is the version of IKE.
type IKEVersion string

// Versions of IKE.
const (
	IKEv1 IKEVersion = "v1"
	IKEv2 IKEVersion = "v2"
)

// Fixed values of policies.
const (
	AuthPreShare         = "pre-share"
	AuthDigitalEnvelope  = "digital-envelope-v2" // GM only
	ModeMain             = "main"
	ModeAggressive       = "aggressive"
	DPDSeqHashNotify     = "seq-hash-notify"
	DPDSeqNotifyHash     = "seq-notify-hash"
	TransformProtocolESP = "esp"
	EncapsulationTunnel  = "tunnel"
)

// IKEPolicy is how the IKE SA of a connection is negotiated and kept.
type IKEPolicy struct {
	Version              IKEVersion     `json:"ike_version"`
	NegotiationMode      string         `json:"phase1_negotiation_mode,omitempty"` // IKEv1 only
	Authentication       Authentication `json:"authentication_algorithm"`
	Encryption           Encryption     `json:"encryption_algorithm"`
	Group                Group          `json:"dh_group"`
	AuthenticationMethod string         `json:"authentication_method"`
	LifetimeSeconds      int            `json:"lifetime_seconds"`

	// LocalID and PeerID of type ip are empty where they follow the address
	// of the gateway and of the customer gateway: see EffectiveIDs.
	LocalIDType IDType `json:"local_id_type"`
	LocalID     string `json:"local_id,omitempty"`
	PeerIDType  IDType `json:"peer_id_type"`
	PeerID      string `json:"peer_id,omitempty"`

	DPD DPD `json:"dpd"`
}

// DPD is the liveness check: after IntervalSeconds without a sign of the peer
// a probe is sent and repeated every TimeoutSeconds.
type DPD struct {
	IntervalSeconds int    `json:"interval"`
	TimeoutSeconds  int    `json:"timeout"`
	Msg             string `json:"msg"` // order of payloads in an IKEv1 probe
}

// IPsecPolicy is how the CHILD_SAs of a connection are negotiated.
type IPsecPolicy struct {
	Authentication    Authentication `json:"authentication_algorithm"`
	Encryption        Encryption     `json:"encryption_algorithm"`
	PFS               Group          `json:"pfs"`
	TransformProtocol string         `json:"transform_protocol"`
	LifetimeSeconds   int            `json:"lifetime_seconds"`
	EncapsulationMode string         `json:"encapsulation_mode"`
}

// EffectiveIDs returns the identities of both sides of a connection, with the
// addresses filled in where an id of type ip was not given.
func (c *Connection) EffectiveIDs(g *Gateway, cgw *CustomerGateway) (local, peer string) {
	local, peer = c.IKE.LocalID, c.IKE.PeerID
	if local == "" {
		local = g.Address(c.Slot).String()
	}
	if peer == "" {
		peer = cgw.IDValue
	}
	return local, peer
}

// IKEPolicyRequest is an IKE policy as it was sent. A nil member was not sent.
type IKEPolicyRequest struct {
	IKEVersion              *string
	Phase1NegotiationMode   *string
	AuthenticationAlgorithm *string
	EncryptionAlgorithm     *string
	DHGroup                 *string
	AuthenticationMethod    *string
	LifetimeSeconds         *int
	LocalIDType             *string
	LocalID                 *string
	PeerIDType              *string
	PeerID                  *string
	DPD                     *DPDRequest
}

// DPDRequest is a liveness check as it was sent.
type DPDRequest struct {
	Timeout  *int
	Interval *int
	Msg      *string
}

// IPsecPolicyRequest is an IPsec policy as it was sent.
type IPsecPolicyRequest struct {
	AuthenticationAlgorithm *string
	EncryptionAlgorithm     *string
	PFS                     *string
	TransformProtocol       *string
	LifetimeSeconds         *int
	EncapsulationMode       *string
}
