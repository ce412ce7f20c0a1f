package sdktest

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	vpn "github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5/model"
)

// opensslCA is a certificate authority of SM2 by OpenSSL.
type opensslCA struct {
	t   *testing.T
	dir string
}

// run runs openssl in the directory of the authority.
func (ca *opensslCA) run(args ...string) {
	ca.t.Helper()
	command := exec.Command("openssl", args...)
	command.Dir = ca.dir
	if out, err := command.CombinedOutput(); err != nil {
		ca.t.Fatalf("openssl %v: %v\n%s", args, err, out)
	}
}

func (ca *opensslCA) read(file string) string {
	ca.t.Helper()
	return string(ok(os.ReadFile(filepath.Join(ca.dir, file)))(ca.t))
}

// identity is what signatures of certificates name their signer by (GM/T 0009).
const identity = "distid:1234567812345678"

func newOpenSSLCA(t *testing.T, name string) *opensslCA {
	t.Helper()
	ca := &opensslCA{t, t.TempDir()}
	ca.run("ecparam", "-genkey", "-name", "SM2", "-noout", "-out", "ca.key")
	ca.run("req", "-new", "-x509", "-key", "ca.key", "-sm3", "-sigopt", identity, "-subj", "/C=CN/O=acme/CN="+name, "-days", "30", "-out", "ca.crt",
		"-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
	return ca
}

// sign makes NAME.crt and NAME.key.
func (ca *opensslCA) sign(name, usage string) (certificate, key string) {
	ca.t.Helper()
	extensions := "keyUsage=critical," + usage + "\nbasicConstraints=CA:FALSE\n"
	if err := os.WriteFile(filepath.Join(ca.dir, name+".ext"), []byte(extensions), 0o600); err != nil {
		ca.t.Fatal(err)
	}
	ca.run("ecparam", "-genkey", "-name", "SM2", "-noout", "-out", name+".key")
	ca.run("req", "-new", "-key", name+".key", "-sm3", "-sigopt", identity, "-subj", "/C=CN/O=acme/CN="+name, "-out", name+".csr")
	ca.run("x509", "-req", "-in", name+".csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-sm3", "-sigopt", identity, "-vfyopt", identity,
		"-days", "30", "-extfile", name+".ext", "-out", name+".crt")
	return ca.read(name + ".crt"), ca.read(name + ".key")
}

// TestNationalGateway runs a gateway of flavor GM with certificates that OpenSSL has
// made.
func TestNationalGateway(t *testing.T) {
	client := newClient(t, accessKey, secretKey)
	ca := newOpenSSLCA(t, "root")
	certificate, key := ca.sign("sign", "digitalSignature")
	encCertificate, encKey := ca.sign("enc", "keyEncipherment,dataEncipherment,keyAgreement")

	gateway := *ok(client.CreateVgw(&model.CreateVgwRequest{Body: &model.CreateVgwRequestBody{VpnGateway: &model.CreateVgwRequestBodyContent{
		Name: p("national"), VpcId: p(vpcID), ConnectSubnet: p(subnetID), LocalSubnets: &[]string{"192.168.0.0/24"},
		Flavor: p(model.GetCreateVgwRequestBodyContentFlavorEnum().GM),
		Eip1:   &model.CreateRequestEip{Id: p(eip1ID)}, Eip2: &model.CreateRequestEip{Id: p(eip2ID)},
	}}}))(t).VpnGateway.Id
	poll(t, "gateway", gatewayStatus(t, client, gateway), "ACTIVE")
	created := ok(client.CreateVgwCertificate(&model.CreateVgwCertificateRequest{VgwId: gateway, Body: &model.CreateVpnGatewayCertificateRequestBody{
		Certificate: &model.CreateVpnGatewayCertificateRequestBodyContent{
			Name: p("cert-a45b"), Certificate: certificate, PrivateKey: key, CertificateChain: ca.read("ca.crt"), EncCertificate: encCertificate, EncPrivateKey: encKey,
		},
	}}))(t)
	if created.HttpStatusCode != http.StatusCreated {
		t.Errorf("import answers %d", created.HttpStatusCode)
	}
	equal(t, "name", created.Certificate.Name, "cert-a45b")
	equal(t, "vgw_id", created.Certificate.VgwId, gateway)
	equal(t, "signature_algorithm", created.Certificate.SignatureAlgorithm, "SM3WITHSM2")
	equal(t, "certificate_subject", created.Certificate.CertificateSubject, "C=CN,O=acme,CN=sign")
	equal(t, "certificate_chain_subject", created.Certificate.CertificateChainSubject, "C=CN,O=acme,CN=root")
	status := func() string {
		shown := ok(client.ShowVpnGatewayCertificate(&model.ShowVpnGatewayCertificateRequest{VgwId: gateway}))(t).Certificate
		equal(t, "enc_certificate_subject", shown.EncCertificateSubject, "C=CN,O=acme,CN=enc")
		if s := shown.Status.Value(); s != "BINDING" {
			return s
		}
		return "PENDING_BINDING" // work under way, to poll
	}
	poll(t, "certificate", status, "BOUND")
	poll(t, "gateway", gatewayStatus(t, client, gateway), "ACTIVE")

	updated := ok(client.UpdateVgwCertificate(&model.UpdateVgwCertificateRequest{
		VgwId: gateway, CertificateId: *created.Certificate.Id, Body: &model.UpdateVpnGatewayCertificateRequestBody{
			Certificate: &model.UpdateVpnGatewayCertificateRequestBodyContent{Name: p("cert-new")},
		},
	}))(t)
	equal(t, "name", updated.Certificate.Name, "cert-new")
	equal(t, "id", updated.Certificate.Id, *created.Certificate.Id)
	listed := *ok(client.ListVpnGatewayCertificates(&model.ListVpnGatewayCertificatesRequest{PreExpireDays: p(int32(31))}))(t).VpnGatewayCertificates
	if len(listed) != 1 {
		t.Errorf("certificates are %v", listed)
	}
	nationalConnection(t, client, gateway, ca)
	deleteNational(t, client, gateway)
}

// nationalConnection makes and removes a connection of the gateway. The SDK has no
// words for the algorithms: the defaults are the only ones.
func nationalConnection(t *testing.T, client *vpn.VpnClient, gateway string, ca *opensslCA) {
	t.Helper()
	peer := ok(client.CreateCgw(&model.CreateCgwRequest{Body: &model.CreateCgwRequestBody{CustomerGateway: &model.CreateCgwRequestBodyContent{
		IdValue: "198.51.100.7", CaCertificate: &model.CaCertificateRequest{Content: p(ca.read("ca.crt"))},
	}}}))(t).CustomerGateway
	equal(t, "ca_certificate.subject", peer.CaCertificate.Subject, "C=CN,O=acme,CN=root")
	equal(t, "ca_certificate.is_updatable", peer.CaCertificate.IsUpdatable, true)
	connection := ok(client.CreateVpnConnection(&model.CreateVpnConnectionRequest{Body: &model.CreateVpnConnectionRequestBody{
		VpnConnection: &model.CreateVpnConnectionRequestBodyContent{
			VgwId: gateway, VgwIp: eip1ID, CgwId: *peer.Id, PeerSubnets: &[]string{"172.16.0.0/24"},
			Ikepolicy: &model.IkePolicy{AuthenticationMethod: p(model.GetIkePolicyAuthenticationMethodEnum().DIGITAL_ENVELOPE_V2)},
		},
	}}))(t).VpnConnection
	if method := connection.Ikepolicy.AuthenticationMethod.Value(); method != "digital-envelope-v2" {
		t.Errorf("authentication_method is %s", method)
	}
	poll(t, "connection", connectionStatus(t, client, *connection.Id), "DOWN", "ACTIVE")
	ok(client.DeleteVpnConnection(&model.DeleteVpnConnectionRequest{VpnConnectionId: *connection.Id}))(t)
	gone(t, "connection", func() error {
		_, err := client.ShowVpnConnection(&model.ShowVpnConnectionRequest{VpnConnectionId: *connection.Id})
		return err
	})
	ok(client.DeleteCgw(&model.DeleteCgwRequest{CustomerGatewayId: *peer.Id}))(t)
}

func deleteNational(t *testing.T, client *vpn.VpnClient, gateway string) {
	t.Helper()
	ok(client.DeleteVgw(&model.DeleteVgwRequest{VgwId: gateway}))(t)
	gone(t, "gateway", func() error {
		_, err := client.ShowVgw(&model.ShowVgwRequest{VgwId: gateway})
		return err
	})
}
