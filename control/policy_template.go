package control

// PolicyTemplate holds the algorithms and lifetimes that a NonFixedIP gateway
// agrees on with peers that have no fixed address. They stand for those of the
// connections of style policy-template.
type PolicyTemplate struct {
	IKE   TemplateIKE   `json:"ike_policy"`
	IPsec TemplateIPsec `json:"ipsec_policy"`
}

// TemplateIKE is for the IKE SA.
type TemplateIKE struct {
	Authentication  Authentication `json:"authentication_algorithm"`
	Encryption      Encryption     `json:"encryption_algorithm"`
	Group           Group          `json:"dh_group"`
	LifetimeSeconds int            `json:"lifetime_seconds"`
}

// TemplateIPsec is for the CHILD_SAs.
type TemplateIPsec struct {
	Authentication  Authentication `json:"authentication_algorithm"`
	Encryption      Encryption     `json:"encryption_algorithm"`
	PFS             Group          `json:"pfs"`
	LifetimeSeconds int            `json:"lifetime_seconds"`
}

// PolicyTemplateRequest is a policy template as it was sent. Of the two policies
// only the members of a PolicyTemplate count. A nil member was not sent.
type PolicyTemplateRequest struct {
	IKE   IKEPolicyRequest
	IPsec IPsecPolicyRequest
}

// defaultTemplate is what a new gateway has.
var defaultTemplate = PolicyTemplate{
	IKE:   TemplateIKE{Authentication: SHA2256, Encryption: AES128, Group: Group20, LifetimeSeconds: 86400},
	IPsec: TemplateIPsec{Authentication: SHA2256, Encryption: AES128, PFS: Group20, LifetimeSeconds: 3600},
}

// What a template may hold: nothing weak.
var (
	templateEncryption     = []Encryption{AES256GCM16, AES128GCM16, AES256, AES192, AES128}
	templateAuthentication = []Authentication{SHA2512, SHA2384, SHA2256}
	templateGroups         = []Group{Group14, Group15, Group16, Group19, Group20, Group21}
)

// policyTemplate reads what was sent of a template over what it is so far.
func (p *parser) policyTemplate(req *PolicyTemplateRequest, t *PolicyTemplate) {
	const ike, ipsec = "policy_template.ike_policy.", "policy_template.ipsec_policy."
	text(p, ike+"authentication_algorithm", req.IKE.AuthenticationAlgorithm, &t.IKE.Authentication, templateAuthentication...)
	text(p, ike+"encryption_algorithm", req.IKE.EncryptionAlgorithm, &t.IKE.Encryption, templateEncryption...)
	text(p, ike+"dh_group", req.IKE.DHGroup, &t.IKE.Group, templateGroups...)
	number(p, ike+"lifetime_seconds", req.IKE.LifetimeSeconds, &t.IKE.LifetimeSeconds, 60, 604800)
	text(p, ipsec+"authentication_algorithm", req.IPsec.AuthenticationAlgorithm, &t.IPsec.Authentication, templateAuthentication...)
	text(p, ipsec+"encryption_algorithm", req.IPsec.EncryptionAlgorithm, &t.IPsec.Encryption, templateEncryption...)
	text(p, ipsec+"pfs", req.IPsec.PFS, &t.IPsec.PFS, append([]Group{PFSDisable}, templateGroups...)...)
	number(p, ipsec+"lifetime_seconds", req.IPsec.LifetimeSeconds, &t.IPsec.LifetimeSeconds, 30, 604800)
}

// templateFitsConnections: no RFC defines an IKEv1 phase 1 with an AEAD.
func templateFitsConnections(g *Gateway, connections []Connection) *Error {
	if g.Template == nil || !g.Template.IKE.Encryption.IsAEAD() {
		return nil
	}
	for _, c := range connections {
		if c.Style == StylePolicyTemplate && c.IKE.Version == IKEv1 {
			return Invalid("policy_template.ike_policy.encryption_algorithm", "%s is not defined for ike_version v1, which connection %s has",
				g.Template.IKE.Encryption, c.ID)
		}
	}
	return nil
}
