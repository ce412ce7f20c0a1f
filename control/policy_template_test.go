package control

import "testing"

// A gateway of a NonFixedIP flavor has a template from the beginning, of which an
// update changes single members.
func TestPolicyTemplate(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(func(r *GatewayCreate) { r.Flavor = new("Professional1-NonFixedIP") })
	if g.Template == nil || *g.Template != defaultTemplate {
		t.Fatalf("a new gateway has %+v", g.Template)
	}
	update := func(req PolicyTemplateRequest) (GatewayView, error) {
		v, err := w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{PolicyTemplate: &req})
		if err == nil {
			w.settleGateway(project, g.ID, false)
		}
		return v, err
	}
	v, err := update(PolicyTemplateRequest{
		IKE:   IKEPolicyRequest{DHGroup: new("group21"), LifetimeSeconds: new(3600)},
		IPsec: IPsecPolicyRequest{PFS: new("disable"), EncryptionAlgorithm: new("aes-256-gcm-16")},
	})
	want := defaultTemplate
	want.IKE.Group, want.IKE.LifetimeSeconds = Group21, 3600
	want.IPsec.PFS, want.IPsec.Encryption = PFSDisable, AES256GCM16
	if err != nil || *v.Template != want || v.Generation != g.Generation+1 {
		t.Errorf("template %+v, %v; want %+v", v.Template, err, want)
	}
	for field, req := range map[string]PolicyTemplateRequest{
		"policy_template.ike_policy.dh_group":                   {IKE: IKEPolicyRequest{DHGroup: new("disable")}},
		"policy_template.ike_policy.authentication_algorithm":   {IKE: IKEPolicyRequest{AuthenticationAlgorithm: new("sha1")}},
		"policy_template.ike_policy.encryption_algorithm":       {IKE: IKEPolicyRequest{EncryptionAlgorithm: new("3des")}},
		"policy_template.ike_policy.lifetime_seconds":           {IKE: IKEPolicyRequest{LifetimeSeconds: new(59)}},
		"policy_template.ipsec_policy.pfs":                      {IPsec: IPsecPolicyRequest{PFS: new("group2")}},
		"policy_template.ipsec_policy.authentication_algorithm": {IPsec: IPsecPolicyRequest{AuthenticationAlgorithm: new("md5")}},
		"policy_template.ipsec_policy.encryption_algorithm":     {IPsec: IPsecPolicyRequest{EncryptionAlgorithm: new("sm4")}},
		"policy_template.ipsec_policy.lifetime_seconds":         {IPsec: IPsecPolicyRequest{LifetimeSeconds: new(29)}},
	} {
		_, err := update(req)
		wantInvalid(t, err, field, "")
	}
	if fixed := newWorld(t).gateway(); fixed.Template != nil {
		t.Error("a gateway of another flavor has a template")
	}
}

// A template for AEAD and a connection of IKEv1 do not go together, whichever came
// first.
func TestTemplateAndIKEv1(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(func(r *GatewayCreate) { r.Flavor = new("Professional2-NonFixedIP") })
	v1 := func(r *ConnectionCreate) {
		r.Style = new("policy-template")
		r.IKEPolicy = &IKEPolicyRequest{IKEVersion: new("v1"), Phase1NegotiationMode: new("aggressive")}
	}
	c := w.connection(g.ID, w.peer("branch").ID, v1)
	if c.State != ConnectionPendingCreate && c.State != ConnectionDown {
		t.Errorf("connection is %s", c.State)
	}
	gcm := PolicyTemplateRequest{IKE: IKEPolicyRequest{EncryptionAlgorithm: new("aes-128-gcm-16")}}
	_, err := w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{PolicyTemplate: &gcm})
	wantInvalid(t, err, "policy_template.ike_policy.encryption_algorithm", c.ID)

	w.alterGateway(g.ID, func(g *Gateway) {
		template := *g.Template
		template.IKE.Encryption = AES128GCM16
		g.Template = &template
	})
	req := connectionRequest(g.ID, w.peer("another").ID)
	v1(&req)
	_, err = w.CreateConnection(t.Context(), project, req)
	wantInvalid(t, err, "ikepolicy.ike_version", "aes-128-gcm-16")
}
