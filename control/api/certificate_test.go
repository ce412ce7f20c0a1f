package api

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/certtest"
)

// national are certificates of the profile GM/T 0022. They are made once.
var national struct {
	ca, signing, encryption *certtest.GM
}

// nationalCertificate is the body that imports them.
func nationalCertificate(t testing.TB) object {
	if national.ca == nil {
		ca := certtest.NewGM(t, "root")
		national.signing, national.encryption = ca.Sign(t, "gw sign", certtest.GMSigning), ca.Sign(t, "gw enc", certtest.GMEncryption)
		national.ca = ca
	}
	return object{
		"name": "cert-a45b", "certificate": national.signing.PEM(), "private_key": national.signing.KeyPEM(t), "certificate_chain": national.ca.PEM(),
		"enc_certificate": national.encryption.PEM(), "enc_private_key": national.encryption.KeyPEM(t),
	}
}

// withNationalGateway makes a gateway of flavor GM that is ACTIVE, and the requests
// about certificates ones about it.
func (s *scene) withNationalGateway() {
	s.t.Helper()
	body := vgw(with(smallestGateway(), "flavor", "GM", "eip1", object{"id": eip3ID}, "eip2", object{"id": eip4ID}))
	s.national = s.call(http.MethodPost, path("vpn-gateways"), body).want(http.StatusCreated).text("vpn_gateway", "id")
	s.applied(s.national)
	certificate := object{"certificate": nationalCertificate(s.t)}
	s.calls["CreateVgwCertificate"] = [3]any{http.MethodPost, path("vpn-gateways", s.national, "certificate"), certificate}
	s.calls["ShowVpnGatewayCertificate"] = [3]any{http.MethodGet, path("vpn-gateways", s.national, "certificate"), nil}
	s.calls["UpdateVgwCertificate"] = [3]any{http.MethodPut, path("vpn-gateways", s.national, "certificate", unknownID), certificate}
}

// withNationalCertificate imports its certificate.
func (s *scene) withNationalCertificate() {
	s.t.Helper()
	s.withNationalGateway()
	create := s.calls["CreateVgwCertificate"]
	id := s.call(create[0].(string), create[1].(string), create[2]).want(http.StatusCreated).text("certificate", "id")
	update := s.calls["UpdateVgwCertificate"]
	update[1] = path("vpn-gateways", s.national, "certificate", id)
	s.calls["UpdateVgwCertificate"] = update
}

func (s *scene) pendNationalGateway() {
	check(s.t, s.objects.SetGatewayStatus(s.t.Context(), project, s.national, control.GatewayStatus{}))
}

func TestGatewayCertificate(t *testing.T) {
	b := newBench(t)
	id := b.call(http.MethodPost, path("vpn-gateways"), vgw(with(smallestGateway(), "flavor", "GM"))).want(http.StatusCreated).text("vpn_gateway", "id")
	b.applied(id)
	full := nationalCertificate(t)
	certificates := path("vpn-gateways", id, "certificate")
	b.call(http.MethodGet, certificates, nil).wantError(http.StatusNotFound, "VPN.0004", "")
	for member, most := range map[string]int{
		"certificate": 4096, "private_key": 4096, "certificate_chain": 8192, "enc_certificate": 4096, "enc_private_key": 4096,
	} {
		create := func(members object) *answer {
			return b.call(http.MethodPost, certificates, object{"certificate": members})
		}
		create(with(full, member, nil)).wantError(http.StatusBadRequest, "VPN.0001", member+": is required")
		create(with(full, member, "")).wantError(http.StatusBadRequest, "VPN.0001", member+": must have 1 to")
		create(with(full, member, strings.Repeat("x", most+1))).wantError(http.StatusBadRequest, "VPN.0001", member+": must have 1 to")
	}
	created := b.call(http.MethodPost, certificates, object{"certificate": full}).want(http.StatusCreated)
	certificate := created.text("certificate", "id")
	members := object{
		"name": "cert-a45b", "vgw_id": id, "signature_algorithm": "SM3WITHSM2",
		"issuer": "C=CN,O=acme,CN=root", "certificate_subject": "C=CN,O=acme,CN=gw sign", "certificate_expire_time": "2027-11-23T12:00:00.000Z",
		"certificate_serial_number": national.signing.SerialNumber.String(), "enc_certificate_subject": "C=CN,O=acme,CN=gw enc",
		"certificate_chain_subject": "C=CN,O=acme,CN=root", "certificate_chain_serial_number": national.ca.SerialNumber.String(),
	}
	wantMembers(t, created.at("certificate"), members)
	wantAbsent(t, created.at("certificate"), "status", "updated_at", "project_id")
	check(t, b.objects.SetGatewayStatus(t.Context(), project, id, control.GatewayStatus{Observed: 1, AppliedAt: b.now}))
	shown := func() *answer { return b.call(http.MethodGet, certificates, nil).want(http.StatusOK) }
	wantMembers(t, shown().at("certificate"), with(members, "status", "BINDING", "project_id", project))
	b.applied(id)
	wantMembers(t, shown().at("certificate"), object{"status": "BOUND", "id": certificate})
	wantMembers(t, b.call(http.MethodGet, path("vpn-gateways", id), nil).want(http.StatusOK).at("vpn_gateway"), object{"certificate_id": certificate})

	renamed := b.call(http.MethodPut, path("vpn-gateways", id, "certificate", certificate), object{"certificate": object{"name": "new"}}).want(http.StatusOK)
	wantMembers(t, renamed.at("certificate"), with(members, "name", "new", "id", certificate))
	for query, want := range map[string]int{"": 1, "pre_expire_days=30": 0, "pre_expire_days=366": 1, "limit=0": 0, "marker=2026-01-01T00:00:00.000Z": 0} {
		if l := b.call(http.MethodGet, path("vpn-gateway-certificates?"+query), nil).want(http.StatusOK).list("vpn_gateway_certificates"); len(l) != want {
			t.Errorf("%q: %d certificates, want %d", query, len(l), want)
		}
	}
	for query, message := range map[string]string{
		"limit=-1": "limit: must be from 0 to 2000", "pre_expire_days=-1": "pre_expire_days: must be from 0 to 36500",
		"pre_expire_days=36501": "pre_expire_days: must be from 0 to 36500",
	} {
		b.call(http.MethodGet, path("vpn-gateway-certificates?"+query), nil).wantError(http.StatusBadRequest, "VPN.0001", message)
	}
	b.wantNoKeys(full)
}

// wantNoKeys checks that neither the log nor the audit log shows a key.
func (b *bench) wantNoKeys(full object) {
	b.t.Helper()
	audited, err := os.ReadFile(b.auditFile)
	check(b.t, err)
	for _, key := range []string{"private_key", "enc_private_key"} {
		for _, line := range strings.Split(full[key].(string), "\n")[1:3] {
			if strings.Contains(b.log.String(), line) || strings.Contains(string(audited), line) {
				b.t.Errorf("%s is in a log", key)
			}
		}
	}
	if !strings.Contains(string(audited), `"certificate.signing_key","before":null,"after":"[hidden]"`) && !strings.Contains(string(audited), "certificate.signing_key") {
		b.t.Errorf("the audit log does not tell that the key has changed: %s", audited)
	}
}

// The CA certificate of a customer gateway is its own, or shared by its id.
func TestCACertificate(t *testing.T) {
	b := newBench(t)
	nationalCertificate(t)
	create := func(address string, certificate object) *answer {
		return b.call(http.MethodPost, path("customer-gateways"), cgw(object{"id_value": address, "ca_certificate": certificate}))
	}
	first := create("198.51.100.7", object{"content": national.ca.PEM()}).want(http.StatusCreated)
	id := first.text("customer_gateway", "ca_certificate", "id")
	wantMembers(t, first.at("customer_gateway", "ca_certificate"), object{
		"subject": "C=CN,O=acme,CN=root", "issuer": "C=CN,O=acme,CN=root", "signature_algorithm": "SM3WITHSM2", "is_updatable": true,
		"serial_number": national.ca.SerialNumber.String(), "expire_time": "2027-11-23T12:00:00.000Z",
	})
	second := create("198.51.100.8", object{"id": id}).want(http.StatusCreated)
	wantMembers(t, second.at("customer_gateway", "ca_certificate"), object{"id": id, "is_updatable": false})
	firstID, secondID := first.text("customer_gateway", "id"), second.text("customer_gateway", "id")
	update := func(gateway string, certificate object) *answer {
		return b.call(http.MethodPut, path("customer-gateways", gateway), cgw(object{"ca_certificate": certificate}))
	}
	other := certtest.NewGM(t, "other root")
	update(firstID, object{"content": other.PEM()}).wantError(http.StatusBadRequest, "VPN.0001", "other customer gateways share certificate "+id)
	b.call(http.MethodDelete, path("customer-gateways", secondID), nil).want(http.StatusNoContent)
	changed := update(firstID, object{"content": other.PEM()}).want(http.StatusOK)
	wantMembers(t, changed.at("customer_gateway", "ca_certificate"), object{"id": id, "subject": "C=CN,O=acme,CN=other root", "is_updatable": true})
	listed := b.call(http.MethodGet, path("customer-gateways"), nil).want(http.StatusOK).list("customer_gateways")
	wantMembers(t, listed[0].(object)["ca_certificate"], object{"id": id})
	create("198.51.100.9", object{"content": national.signing.PEM()}).wantError(http.StatusBadRequest, "VPN.0076", "Certificate ca_certificate is not a CA certificate.")
	create("198.51.100.9", object{"content": certtest.New(t, "rsa").PEM()}).wantError(http.StatusBadRequest, "VPN.0070", "ca_certificate")
}
