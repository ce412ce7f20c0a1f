package control

import "fmt"

// suite is what the members of both policies may be on gateways of a flavor.
type suite struct {
	versions        []IKEVersion
	modes           []string
	encryption      []Encryption
	authentication  []Authentication
	groups          []Group
	authMethod      string
	ike             IKEPolicy // defaults
	ipsec           IPsecPolicy
	withoutIdentity bool // and without PSK, group and PFS: what is sent of them is ignored
}

var (
	additional = []KeyExchange{MLKEM768, NoAdditional}
	defaultD   = DPD{IntervalSeconds: 30, TimeoutSeconds: 15, Msg: DPDSeqHashNotify}
)

var generalSuite = suite{
	versions:       []IKEVersion{IKEv1, IKEv2},
	modes:          []string{ModeMain, ModeAggressive},
	encryption:     []Encryption{AES256GCM16, AES128GCM16, AES256GCM128, AES128GCM128, AES256, AES192, AES128, TripleDES, ChaCha20Poly1305},
	authentication: []Authentication{SHA2512, SHA2384, SHA2256, SHA1, MD5},
	groups:         []Group{Group1, Group2, Group5, Group14, Group15, Group16, Group19, Group20, Group21, Group31},
	authMethod:     AuthPreShare,
	ike: IKEPolicy{
		Version: IKEv2, Authentication: SHA2256, Encryption: AES128, Group: Group15,
		AuthenticationMethod: AuthPreShare, LifetimeSeconds: 86400,
		LocalIDType: IDTypeIP, PeerIDType: IDTypeIP, DPD: defaultD,
	},
	ipsec: IPsecPolicy{
		Authentication: SHA2256, Encryption: AES128, PFS: Group15, LifetimeSeconds: 3600,
		TransformProtocol: TransformProtocolESP, EncapsulationMode: EncapsulationTunnel,
	},
}

var gmSuite = suite{
	versions:       []IKEVersion{IKEv1},
	modes:          []string{ModeMain},
	encryption:     []Encryption{SM4},
	authentication: []Authentication{SM3},
	authMethod:     AuthDigitalEnvelope,
	ike: IKEPolicy{
		Version: IKEv1, NegotiationMode: ModeMain, Authentication: SM3, Encryption: SM4,
		AuthenticationMethod: AuthDigitalEnvelope, LifetimeSeconds: 86400, DPD: defaultD,
	},
	ipsec: IPsecPolicy{
		Authentication: SM3, Encryption: SM4, LifetimeSeconds: 3600,
		TransformProtocol: TransformProtocolESP, EncapsulationMode: EncapsulationTunnel,
	},
	withoutIdentity: true,
}

func suiteOf(f Flavor) *suite {
	if f == FlavorGM {
		return &gmSuite
	}
	return &generalSuite
}

// ikePolicy reads what was sent of an IKE policy over what it is so far.
func (p *parser) ikePolicy(s *suite, req *IKEPolicyRequest, k *IKEPolicy) {
	const at = "ikepolicy."
	if req == nil {
		return
	}
	text(p, at+"ike_version", req.IKEVersion, &k.Version, s.versions...)
	text(p, at+"phase1_negotiation_mode", req.Phase1NegotiationMode, &k.NegotiationMode, s.modes...)
	text(p, at+"authentication_algorithm", req.AuthenticationAlgorithm, &k.Authentication, s.authentication...)
	text(p, at+"encryption_algorithm", req.EncryptionAlgorithm, &k.Encryption, s.encryption...)
	text(p, at+"authentication_method", req.AuthenticationMethod, &k.AuthenticationMethod, s.authMethod)
	number(p, at+"lifetime_seconds", req.LifetimeSeconds, &k.LifetimeSeconds, 60, 604800)
	if !s.withoutIdentity {
		text(p, at+"dh_group", req.DHGroup, &k.Group, s.groups...)
		text(p, at+"additional_key_exchange", req.AdditionalKeyExchange, &k.Additional, additional...)
		if req.PPKID != nil {
			if k.PPKID = *req.PPKID; k.PPKID != "" {
				p.fqdn(at+"ppk_id", k.PPKID, maxIDLen)
			}
		}
		boolean(req.PPKRequired, &k.PPKRequired)
		p.identity(at+"local_id", req.LocalIDType, req.LocalID, &k.LocalIDType, &k.LocalID)
		p.identity(at+"peer_id", req.PeerIDType, req.PeerID, &k.PeerIDType, &k.PeerID)
	}
	if req.DPD != nil {
		number(p, at+"dpd.timeout", req.DPD.Timeout, &k.DPD.TimeoutSeconds, 2, 60)
		number(p, at+"dpd.interval", req.DPD.Interval, &k.DPD.IntervalSeconds, 10, 3600)
		text(p, at+"dpd.msg", req.DPD.Msg, &k.DPD.Msg, DPDSeqHashNotify, DPDSeqNotifyHash)
	}
}

// identity reads an identity and its type. A type that changes leaves the old
// identity behind: an address is then the one of the gateway again, a name has
// to be given.
func (p *parser) identity(field string, reqType, reqID *string, t *IDType, id *string) {
	before := *t
	text(p, field+"_type", reqType, t, IDTypeIP, IDTypeFQDN)
	if *t != before {
		*id = ""
	}
	if reqID != nil {
		*id = *reqID
	}
	switch {
	case *t == IDTypeFQDN && *id == "":
		p.fail(field, "is required with %s_type fqdn", field[len("ikepolicy."):])
	case *t == IDTypeFQDN:
		p.fqdn(field, *id, maxIDLen)
	case *id != "":
		a := p.address(field, *id)
		if a.IsUnspecified() {
			p.fail(field, "must be an IPv4 or IPv6 address")
		}
		if a.IsValid() {
			*id = a.String()
		}
	}
}

// settle brings the members of an IKE policy that hang together in order.
func (k *IKEPolicy) settle() {
	switch {
	case k.Version == IKEv2:
		k.NegotiationMode = ""
	case k.NegotiationMode == "":
		k.NegotiationMode = ModeMain
	}
}

// ipsecPolicy reads what was sent of an IPsec policy over what it is so far.
func (p *parser) ipsecPolicy(s *suite, req *IPsecPolicyRequest, k *IPsecPolicy) {
	const at = "ipsecpolicy."
	if req == nil {
		return
	}
	text(p, at+"authentication_algorithm", req.AuthenticationAlgorithm, &k.Authentication, s.authentication...)
	text(p, at+"encryption_algorithm", req.EncryptionAlgorithm, &k.Encryption, s.encryption...)
	text(p, at+"transform_protocol", req.TransformProtocol, &k.TransformProtocol, TransformProtocolESP)
	number(p, at+"lifetime_seconds", req.LifetimeSeconds, &k.LifetimeSeconds, 30, 604800)
	text(p, at+"encapsulation_mode", req.EncapsulationMode, &k.EncapsulationMode, EncapsulationTunnel)
	text(p, at+"udp_encapsulation", req.UDPEncapsulation, &k.UDPEncapsulation,
		UDPEncapsulationAuto, UDPEncapsulationAlways, UDPEncapsulationNAT)
	if !s.withoutIdentity {
		text(p, at+"pfs", req.PFS, &k.PFS, append([]Group{PFSDisable}, s.groups...)...)
		text(p, at+"additional_key_exchange", req.AdditionalKeyExchange, &k.Additional, additional...)
	}
}

// policyRules reads policy rules of the gateway's family.
func (p *parser) policyRules(field string, family IPVersion, req []PolicyRuleRequest) []PolicyRule {
	if len(req) > maxPolicyRules {
		p.fail(field, "must be at most %d", maxPolicyRules)
		return nil
	}
	rules := make([]PolicyRule, 0, len(req))
	for i, r := range req {
		at := fmt.Sprintf("%s[%d]", field, i)
		rule := PolicyRule{
			Source:       p.prefix(at+".source", family, r.Source),
			Destinations: p.prefixes(at+".destination", family, r.Destination, maxDestinations),
		}
		if len(r.Destination) == 0 {
			p.fail(at+".destination", "is required")
		}
		for _, other := range rules {
			if other.Source == rule.Source {
				p.fail(at+".source", "%s is the source of another rule", rule.Source)
			}
		}
		rules = append(rules, rule)
	}
	return rules
}
