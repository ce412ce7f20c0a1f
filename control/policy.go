package control

import "slices"

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

	// ChaCha20Poly1305 is an addition of vpngw (RFC 7634): IKEv2 only.
	ChaCha20Poly1305 Encryption = "chacha20-poly1305"
)

// IsAEAD tells whether the algorithm authenticates too.
func (e Encryption) IsAEAD() bool {
	switch e {
	case AES256GCM16, AES128GCM16, AES256GCM128, AES128GCM128, ChaCha20Poly1305:
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

// Groups: MODP 768 to 4096, ECP 256 to 521, Curve25519.
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
	Group31    Group = "group31" // an addition of vpngw (RFC 8031): IKEv2 only
	PFSDisable Group = "disable" // of IPsecPolicy.PFS only: no exchange for a CHILD_SA
)

// KeyExchange is an additional key exchange beside that of a group (RFC 9370),
// whose secrets are mixed: an addition of vpngw, IKEv2 only.
type KeyExchange string

// Additional key exchanges. The empty one is none, too.
const (
	MLKEM768     KeyExchange = "mlkem768" // FIPS 203
	NoAdditional KeyExchange = "disable"
)

// Given reports whether there is one.
func (k KeyExchange) Given() bool { return k != "" && k != NoAdditional }

// UDPEncapsulation says when ESP goes in UDP (RFC 3948): an addition of vpngw.
type UDPEncapsulation string

// UDP encapsulation. The empty one is UDPEncapsulationAuto, too.
const (
	UDPEncapsulationAuto   UDPEncapsulation = "auto"   // as the data plane likes it, where the peer can
	UDPEncapsulationAlways UDPEncapsulation = "always" // a peer that cannot is refused
	UDPEncapsulationNAT    UDPEncapsulation = "nat"    // where a NAT is, or the peer asks for it
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

	Additional KeyExchange `json:"additional_key_exchange,omitempty"`
	// PPKID names the post-quantum pre-shared key of the connection (RFC 8784);
	// empty: it has none. PPKRequired refuses a peer without it. IKEv2 only.
	PPKID       string `json:"ppk_id,omitempty"`
	PPKRequired bool   `json:"ppk_required,omitempty"`
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
	Additional        KeyExchange    `json:"additional_key_exchange,omitempty"` // beside that of PFS

	UDPEncapsulation UDPEncapsulation `json:"udp_encapsulation,omitempty"`
}

// weak are the algorithms that protect little against somebody with means
// (RFC 8221, RFC 8247). They are used only where a policy names them.
var weak = []string{
	string(TripleDES), string(SHA1), string(MD5), string(Group1), string(Group2), string(Group5),
}

// WeakAlgorithms returns what is weak of the algorithms that the policies name,
// in their order, each once.
func (c *Connection) WeakAlgorithms() []string {
	named := []string{string(c.IKE.Encryption), string(c.IKE.Authentication), string(c.IKE.Group), string(c.IPsec.Encryption)}
	if !c.IPsec.Encryption.IsAEAD() {
		named = append(named, string(c.IPsec.Authentication))
	}
	named = append(named, string(c.IPsec.PFS))
	var found []string
	for _, name := range named {
		if slices.Contains(weak, name) && !slices.Contains(found, name) {
			found = append(found, name)
		}
	}
	return found
}

// GoodPSKLen is how many octets a pre-shared key has that nobody finds by trying: who
// takes part in a negotiation, or in IKEv1 sees one in aggressive mode, can try keys
// offline.
const GoodPSKLen = 16

// ShortPSK reports whether the pre-shared key is short.
func (c *Connection) ShortPSK() bool { return !c.PSK.IsZero() && len(c.PSK.Reveal()) < GoodPSKLen }

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
	AdditionalKeyExchange   *string
	PPKID                   *string
	PPKRequired             *bool
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
	AdditionalKeyExchange   *string
	UDPEncapsulation        *string
}
