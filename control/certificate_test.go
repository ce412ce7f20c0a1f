package control

import (
	"strings"
	"testing"
	"time"

	"github.com/emmansun/gmsm/smx509"
	"github.com/vpngw/vpngw/control/certtest"
	"github.com/vpngw/vpngw/fuzztest"
)

// gmWorld is a world with a gateway of flavor GM and certificates for it.
type gmWorld struct {
	*world
	gateway                 GatewayView
	ca, signing, encryption *certtest.GM
}

func newGMWorld(t *testing.T) *gmWorld {
	t.Helper()
	w := &gmWorld{world: newWorld(t), ca: certtest.NewGM(t, "root")}
	w.gateway = w.world.gateway(func(r *GatewayCreate) { r.Flavor = new("GM") })
	w.signing, w.encryption = w.ca.Sign(t, "sign", certtest.GMSigning), w.ca.Sign(t, "enc", certtest.GMEncryption)
	return w
}

func (w *gmWorld) request() CertificateRequest {
	return CertificateRequest{
		Certificate: new(w.signing.PEM()), PrivateKey: new(NewSecret(w.signing.KeyPEM(w.t))), Chain: new(w.ca.PEM()),
		EncCertificate: new(w.encryption.PEM()), EncPrivateKey: new(NewSecret(w.encryption.KeyPEM(w.t))),
	}
}

func (w *gmWorld) bound(t *testing.T) CertificateView {
	t.Helper()
	c, err := w.ImportCertificate(t.Context(), project, w.gateway.ID, w.request())
	if err != nil {
		t.Fatal(err)
	}
	w.settleGateway(project, w.gateway.ID, false)
	return c
}

func TestImportCertificate(t *testing.T) {
	w := newGMWorld(t)
	if _, err := w.ShowCertificate(t.Context(), project, w.gateway.ID); !isNotFound(err) {
		t.Error(err)
	}
	c := w.bound(t)
	if !strings.HasPrefix(c.Name, "cert-") || c.State != CertificateBinding || c.Signing.Subject != "C=CN,O=acme,CN=sign" {
		t.Errorf("%+v", c)
	}
	shown, err := w.ShowCertificate(t.Context(), project, w.gateway.ID)
	if err != nil || shown.State != CertificateBound || shown.ID != c.ID {
		t.Errorf("%+v, %v", shown, err)
	}
	_, err = w.ImportCertificate(t.Context(), project, w.gateway.ID, w.request())
	wantInvalid(t, err, "certificate", "change it instead")
	plain := w.world.gateway(func(r *GatewayCreate) { r.EIP1, r.EIP2 = &EIPRequest{ID: new(eip3)}, &EIPRequest{ID: new(eip4)} })
	_, err = w.ImportCertificate(t.Context(), project, plain.ID, w.request())
	wantInvalid(t, err, "certificate", "only a gateway of flavor GM")

	// The keys are sealed, for this gateway only.
	g, err := w.ShowGateway(t.Context(), project, w.gateway.ID)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := w.objects.GatewayIdentity(&g.Gateway)
	if err != nil || len(identity.SigningKey.Reveal()) != 32 || string(identity.Signing) != string(w.signing.Raw) {
		t.Errorf("%v, %v", identity, err)
	}
	stored, err := w.store.Get(t.Context(), prefixGateways+"/"+project+"/"+g.ID)
	if err != nil || strings.Contains(string(stored.Value), "PRIVATE") || strings.Contains(string(stored.Value), identity.SigningKey.Reveal()) {
		t.Errorf("the store holds a key: %v", err)
	}
	elsewhere := g.Gateway
	elsewhere.ID = "another"
	if _, err := w.objects.GatewayIdentity(&elsewhere); err == nil {
		t.Error("keys of one gateway open for another")
	}
	w.settleGateway(project, w.gateway.ID, true)
	if shown, err = w.ShowCertificate(t.Context(), project, w.gateway.ID); err != nil || shown.State != CertificateFault {
		t.Errorf("%+v, %v", shown, err)
	}
}

func TestCertificateRules(t *testing.T) {
	w := newGMWorld(t)
	other := certtest.NewGM(t, "other root")
	late := func(c *smx509.Certificate) { c.NotBefore = w.clock.Add(time.Hour) }
	over := func(c *smx509.Certificate) { c.NotAfter = w.clock.Add(-time.Hour) }
	for name, tc := range map[string]struct {
		edit        func(*CertificateRequest)
		code, words string
	}{
		"short name":        {func(r *CertificateRequest) { r.Name = new("ab") }, CodeInvalid, "name: must have 3 to 63"},
		"no key":            {func(r *CertificateRequest) { r.PrivateKey = nil }, CodeInvalid, "private_key: is required with the others"},
		"no PEM":            {func(r *CertificateRequest) { r.Certificate = new("x") }, "VPN.0074", "(certificate) is invalid"},
		"two":               {func(r *CertificateRequest) { r.Certificate = new(w.signing.PEM() + w.ca.PEM()) }, "VPN.0074", "(certificate) is invalid"},
		"chain, no PEM":     {func(r *CertificateRequest) { r.Chain = new("x") }, "VPN.0074", "(certificate_chain) is invalid"},
		"chain, no CA":      {func(r *CertificateRequest) { r.Chain = new(w.signing.PEM()) }, "VPN.0076", "(certificate_chain) is not a CA"},
		"a CA":              {func(r *CertificateRequest) { r.Certificate = new(w.ca.PEM()) }, CodeInvalid, "certificate: must not be a CA"},
		"of RSA or ECDSA":   {func(r *CertificateRequest) { r.Certificate = new(certtest.New(t, "p256").PEM()) }, "VPN.0070", "key algorithm"},
		"another authority": {func(r *CertificateRequest) { r.Chain = new(other.PEM()) }, CodeInvalid, "certificate: is not issued by certificate_chain"},
		"encryption of another authority": {
			func(r *CertificateRequest) { r.EncCertificate = new(other.Sign(t, "x", certtest.GMEncryption).PEM()) }, CodeInvalid, "enc_certificate: is not issued by",
		},
		"usage":            {func(r *CertificateRequest) { r.Certificate = new(w.encryption.PEM()) }, CodeInvalid, "certificate: its key usage must have digitalSignature"},
		"encryption usage": {func(r *CertificateRequest) { r.EncCertificate = new(w.signing.PEM()) }, CodeInvalid, "enc_certificate: its key usage must have keyEncipherment"},
		"not yet":          {func(r *CertificateRequest) { r.Certificate = new(w.ca.Sign(t, "x", certtest.GMSigning, late).PEM()) }, "VPN.0073", "has not taken effect"},
		"expired": {func(r *CertificateRequest) {
			r.EncCertificate = new(w.ca.Sign(t, "x", certtest.GMEncryption, over).PEM())
		}, "VPN.0072", "(enc_certificate) has expired"},
		"other key":     {func(r *CertificateRequest) { r.PrivateKey = r.EncPrivateKey }, CodeInvalid, "private_key: is not the key of certificate"},
		"no key in PEM": {func(r *CertificateRequest) { r.EncPrivateKey = new(NewSecret("x")) }, CodeInvalid, "enc_private_key: must be a private key in PEM"},
		"encrypted key": {func(r *CertificateRequest) {
			r.PrivateKey = new(NewSecret("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n"))
		}, CodeInvalid, "private_key: must not be encrypted"},
		"key of no kind": {func(r *CertificateRequest) {
			r.PrivateKey = new(NewSecret("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"))
		}, CodeInvalid, "private_key: must be an SM2 key"},
	} {
		t.Run(name, func(t *testing.T) {
			req := w.request()
			tc.edit(&req)
			_, err := w.ImportCertificate(t.Context(), project, w.gateway.ID, req)
			if !isCode(err, tc.code) || !strings.Contains(err.Error(), tc.words) {
				t.Errorf("%v, want %s with %q", err, tc.code, tc.words)
			}
		})
	}
}

// Tools write an SM2 key in several ways.
func TestGMKeyForms(t *testing.T) {
	ca := certtest.NewGM(t, "root")
	sec1 := ca.KeyPEM(t)
	for name, text := range map[string]string{
		"RFC 5915":         sec1,
		"after parameters": "-----BEGIN EC PARAMETERS-----\nBggqgRzPVQGCLQ==\n-----END EC PARAMETERS-----\n" + sec1,
		"PKCS #8":          ca.PKCS8PEM(t),
	} {
		if key, err := parseGMKey(NewSecret(text)); err != nil || !key.Equal(ca.Key) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUpdateCertificate(t *testing.T) {
	w := newGMWorld(t)
	c := w.bound(t)
	w.clock = w.clock.Add(time.Minute)
	_, err := w.UpdateCertificate(t.Context(), project, w.gateway.ID, "another", CertificateRequest{})
	wantRefusal(t, err, CodeNotFound)
	before, _ := w.ShowGateway(t.Context(), project, w.gateway.ID)
	renamed, err := w.UpdateCertificate(t.Context(), project, w.gateway.ID, c.ID, CertificateRequest{Name: new("other")})
	if err != nil || renamed.Name != "other" || renamed.ID != c.ID || !renamed.CreatedAt.Equal(c.CreatedAt) || !renamed.UpdatedAt.After(c.UpdatedAt) {
		t.Errorf("%+v, %v", renamed, err)
	}
	after, _ := w.ShowGateway(t.Context(), project, w.gateway.ID)
	if after.Generation != before.Generation || after.State != GatewayActive {
		t.Error("a new name is work for the engines")
	}
	_, err = w.UpdateCertificate(t.Context(), project, w.gateway.ID, c.ID, CertificateRequest{Certificate: new(w.signing.PEM())})
	wantInvalid(t, err, "private_key", "is required with the others")
	w.signing = w.ca.Sign(t, "renewed", certtest.GMSigning)
	changed, err := w.UpdateCertificate(t.Context(), project, w.gateway.ID, c.ID, w.request())
	if err != nil || changed.Signing.Subject != "C=CN,O=acme,CN=renewed" || changed.State != CertificateBinding || changed.Name != "other" {
		t.Errorf("%+v, %v", changed, err)
	}
	list, err := w.ListCertificates(t.Context(), project, CertificateFilter{})
	if err != nil || len(list) != 1 || list[0].ID != c.ID {
		t.Errorf("%+v, %v", list, err)
	}
}

func FuzzGMKey(f *testing.F) {
	target := fuzztest.New(f)
	target.Add("-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n")
	target.Add("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n")
	target.Fuzz(func(t *testing.T, text string) {
		if key, err := parseGMKey(NewSecret(text)); err != nil && strings.Contains(err.Error(), "\n") || err == nil && key == nil {
			t.Error(key, err)
		}
		if chain, err := parseGMCAs("c", text, certtest.Valid); err == nil && len(chain) == 0 {
			t.Error("no certificate, and no error")
		}
	})
}
