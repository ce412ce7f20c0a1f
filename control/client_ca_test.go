package control

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control/certtest"
	"github.com/vpngw/vpngw/fuzztest"
)

var rsaKeys = map[int]*rsa.PrivateKey{}

// rsaKey makes a key once for each size.
func rsaKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	if rsaKeys[bits] == nil {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		rsaKeys[bits] = key
	}
	return rsaKeys[bits]
}

func ecdsaKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestClientCACertificates(t *testing.T) {
	w := newWorld(t)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := certtest.New(t, "ca").PEM()
	at := func(notBefore, notAfter time.Duration) func(*x509.Certificate) {
		return func(x *x509.Certificate) {
			x.NotBefore, x.NotAfter = w.clock.Add(notBefore).Truncate(time.Second), w.clock.Add(notAfter).Truncate(time.Second)
		}
	}
	ca := func(edit func(*x509.Certificate)) string { return certtest.New(t, "ca", edit).PEM() }
	w.clock = w.clock.Truncate(time.Second)
	for name, test := range map[string]struct{ content, code, words string }{
		"ECDSA P-256":    {good, "", ""},
		"ECDSA P-384":    {certtest.WithKey(t, "ca", ecdsaKey(t, elliptic.P384())).PEM(), "", ""},
		"ECDSA P-521":    {certtest.WithKey(t, "ca", ecdsaKey(t, elliptic.P521())).PEM(), "", ""},
		"ECDSA P-224":    {certtest.WithKey(t, "ca", ecdsaKey(t, elliptic.P224())).PEM(), "VPN.0070", "The key algorithm of the certificate the-ca is not supported."},
		"RSA 2048":       {certtest.WithKey(t, "ca", rsaKey(t, 2048)).PEM(), "", ""},
		"RSA 1024":       {certtest.WithKey(t, "ca", rsaKey(t, 1024)).PEM(), "VPN.0070", "the-ca"},
		"Ed25519":        {certtest.WithKey(t, "ca", edKey).PEM(), "VPN.0070", "the-ca"},
		"SHA-1":          {sha1CA, "VPN.0071", "The signature algorithm of the certificate the-ca is not supported."},
		"RSA-PSS":        {certtest.WithKey(t, "ca", rsaKey(t, 2048), func(x *x509.Certificate) { x.SignatureAlgorithm = x509.SHA256WithRSAPSS }).PEM(), "", ""},
		"no CA":          {ca(func(x *x509.Certificate) { x.IsCA, x.KeyUsage = false, x509.KeyUsageDigitalSignature }), "VPN.0076", "Certificate the-ca is not a CA certificate."},
		"no constraints": {ca(func(x *x509.Certificate) { x.BasicConstraintsValid, x.IsCA = false, false }), "VPN.0076", ""},
		"may not sign":   {ca(func(x *x509.Certificate) { x.KeyUsage = x509.KeyUsageCRLSign }), "VPN.0075", "The content of the certificate the-ca is invalid."},
		"any usage":      {ca(func(x *x509.Certificate) { x.KeyUsage = 0 }), "", ""},
		"no subject":     {ca(func(x *x509.Certificate) { x.Subject = pkix.Name{} }), "VPN.0075", ""},
		"critical extension": {ca(func(x *x509.Certificate) {
			x.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}), "VPN.0075", ""},
		"two":          {good + good, "VPN.0075", ""},
		"ends now":     {ca(at(-time.Hour, 0)), "", ""},
		"ended":        {ca(at(-time.Hour, -time.Second)), "VPN.0072", "Certificate the-ca has expired."},
		"begins now":   {ca(at(0, time.Hour)), "", ""},
		"begins later": {ca(at(time.Second, time.Hour)), "VPN.0073", "Certificate the-ca has not taken effect."},
		"no PEM":       {"MII", "VPN.0074", "The format of the certificate the-ca is invalid."},
		"text around":  {"subject=ca\n" + good, "", ""},
		"text behind":  {good + "and more", "VPN.0074", ""},
		"a key":        {"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "VPN.0074", ""},
		"damaged":      {strings.Replace(good, "MI", "AA", 1), "VPN.0074", ""},
		"nothing":      {"", "VPN.0001", "content: is required"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.CheckClientCA(t.Context(), project, ClientCARequest{Name: new("the-ca"), Content: &test.content})
			wantCode(t, err, test.code, test.words)
		})
	}
	_, err = w.CheckClientCA(t.Context(), project, ClientCARequest{Name: new("with.dot"), Content: &good})
	wantCode(t, err, "VPN.0001", "name: ")
}

// sha1CA is a CA certificate that is signed with SHA-1, which Go makes none of.
const sha1CA = `-----BEGIN CERTIFICATE-----
MIIDRDCCAiygAwIBAgIUNhqhfb5SAMogvNbZSlQAHwXbRb8wDQYJKoZIhvcNAQEF
BQAwKjELMAkGA1UEBhMCQ04xDTALBgNVBAoMBGFjbWUxDDAKBgNVBAMMA29sZDAg
Fw0yNjExMjMxNTM0MTFaGA8yMTI2MTAzMDE1MzQxMVowKjELMAkGA1UEBhMCQ04x
DTALBgNVBAoMBGFjbWUxDDAKBgNVBAMMA29sZDCCASIwDQYJKoZIhvcNAQEBBQAD
ggEPADCCAQoCggEBAKepFRZPyfZsLsBpFTPRR7bDPYZnbsX835QKT+jv80INIBpm
EgGrSC3CFiWqZYFFFmWzegF/K2eJ5KDiCobrVQSmZ5sFCEGEqsB3pnxsiX64ROiN
s/797gxeYqAaixG4oGdp6wY+AC4N+xtQvDxsMGkgEzfs/uFp87kqYV0aXbM3Awwq
xRRFNqh5lZJNwHql5hEuiBs3O6aLE/bPSWEYOPg/XCVDQBO1oppaGu5eZmq+PJVZ
Um5Fj1qSWD8aajyM7xcaQUpwNu7UqBc7IY6qFUfNJlQMQkBpAnEpi/mppRwC/2oh
5Mn2lTexVfDp5O81NoV3PEuX4vXNibQW7IKgKScCAwEAAaNgMF4wHQYDVR0OBBYE
FDxcn6pFcvsmglWiw4+7Q7YxKnboMB8GA1UdIwQYMBaAFDxcn6pFcvsmglWiw4+7
Q7YxKnboMA8GA1UdEwEB/wQFMAMBAf8wCwYDVR0PBAQDAgIEMA0GCSqGSIb3DQEB
BQUAA4IBAQCcSQZFI7O0Hi5/lLzAFPwsqP0GEA27Gs22L+L1yuZ0qnBSsDKyiyRP
MlgNUgTwtKfBqpGEQAcqiDfo6pHaVi+Exo1kotul5IlSwUN81Pqw6uEG93P3vEM/
t3qUAn8tnH5KQzaHK2f8cNSZONp9SgfRj+4onbRqizMmT2XShbb9Ub2MOv5ogziy
QJzJEg+75xfkNz+8L2ddy/M9CF5BfBiHbcb1bEpua6R9Pi3hxZfDcrqW0e6u1Tcu
00xYKN0o5mHrcg6HOi02EpfbsJZaNedKNfHx++ou7dz/UZ+S8dM6FDpHHBKcoAMq
1ijS+hCCA9CAskjdL6rlxPw1hjwpPl4/
-----END CERTIFICATE-----
`

func TestClientCAsWithinTheirNumber(t *testing.T) {
	w := newWorld(t)
	v := w.server(t)
	for i := range maxClientCAs + 1 {
		w.settleServer(t, v.ID, ServerStatus{})
		_, err := w.ImportClientCA(t.Context(), project, v.ID, ClientCARequest{Content: new(certtest.New(t, "ca").PEM())})
		if i < maxClientCAs {
			wantCode(t, err, "", "")
		} else {
			wantCode(t, err, "VPN.1111", "exceeds the upper limit")
		}
	}
	w = newWorld(t)
	g := w.p2cGateway(t)
	for number, code := range map[int]string{maxClientCAs + 1: "VPN.1111", maxClientCAs: ""} {
		req := serverRequest()
		for range number {
			req.ClientCAs = append(req.ClientCAs, ClientCARequest{Content: new(certtest.New(t, "ca").PEM())})
		}
		_, err := w.CreateServer(t.Context(), project, g, req)
		wantCode(t, err, code, "")
	}
}

// Imports and deletions are worked on, a new name is not.
func TestChangesOfClientCAs(t *testing.T) {
	w := newWorld(t)
	v := w.server(t)
	id, err := w.ImportClientCA(t.Context(), project, v.ID, ClientCARequest{Name: new("ca"), Content: new(certtest.New(t, "ca").PEM())})
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, w.RenameClientCA(t.Context(), project, v.ID, id, new("other")), "VPN.1114", "")
	w.settleServer(t, v.ID, ServerStatus{})
	w.clock = w.clock.Add(time.Minute)
	before := w.storedServer(t, v.ID).Generation
	wantCode(t, w.RenameClientCA(t.Context(), project, v.ID, id, new("with.dot")), "VPN.0001", "name: ")
	wantCode(t, w.RenameClientCA(t.Context(), project, v.ID, id, nil), "", "")
	wantCode(t, w.RenameClientCA(t.Context(), project, v.ID, id, new("other")), "", "")
	after := w.storedServer(t, v.ID)
	if after.Generation != before || after.ClientCAs[0].Name != "other" || !after.ClientCAs[0].UpdatedAt.After(after.ClientCAs[0].CreatedAt) {
		t.Errorf("after a new name: %+v", after)
	}
	w.settleServer(t, v.ID, ServerStatus{Fault: true})
	wantCode(t, w.DeleteClientCA(t.Context(), project, v.ID, id), "VPN.1117", "The server status is abnormal.")
	w.settleServer(t, v.ID, ServerStatus{})
	wantCode(t, w.DeleteClientCA(t.Context(), project, v.ID, id), "", "")
	if g := w.storedServer(t, v.ID).Generation; g != before+1 {
		t.Errorf("generation %d after %d", g, before)
	}
}

func TestDistinguishedNames(t *testing.T) {
	for _, test := range []struct {
		name pkix.Name
		want string
	}{
		{pkix.Name{Country: []string{"CN"}, Province: []string{"beijing"}, Locality: []string{"haidian"}, Organization: []string{"a"}, CommonName: "r"}, "C=CN,ST=beijing,L=haidian,O=a,CN=r"},
		{pkix.Name{CommonName: `a,b+c"d\<e>;f=g`}, `CN=a\,b\+c\"d\\\<e\>\;f\=g`},
		{pkix.Name{CommonName: " #x "}, `CN=\ #x\ `},
		{pkix.Name{CommonName: "#x"}, `CN=\#x`},
		{pkix.Name{CommonName: "a\nb"}, `CN=a\0Ab`},
		{pkix.Name{CommonName: "根"}, "CN=根"},
		{pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{1, 2, 3}, Value: "v"}}}, "1.2.3=v"},
	} {
		raw, err := asn1.Marshal(test.name.ToRDNSequence())
		if err != nil {
			t.Fatal(err)
		}
		if got := distinguishedName(raw); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
	long, err := asn1.Marshal(pkix.Name{CommonName: strings.Repeat("根", 200)}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	if got := distinguishedName(long); len(got) > maxDistinguishedName || !strings.HasPrefix(got, "CN=根") {
		t.Errorf("a long name is %q", got)
	}
	if got := distinguishedName([]byte{1}); got != "" {
		t.Errorf("of nothing comes %q", got)
	}
}

// FuzzClientCA: whatever is imported, the answer is a refusal or a certificate
// that can be shown again.
func FuzzClientCA(f *testing.F) {
	target := fuzztest.New(f)
	target.Add(certtest.New(f, "ca").PEM())
	target.Add(sha1CA)
	target.Add("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
	now := certtest.Valid
	target.Fuzz(func(t *testing.T, text string) {
		ca, _, err := parseClientCA("", ClientCARequest{Name: new("ca"), Content: &text}, rand.Reader, now)
		if err != nil {
			return
		}
		if v := viewClientCA(&ca); v.Subject == "" || v.SerialNumber == "" || v.SignatureAlgorithm == "" {
			t.Errorf("shown as %+v", v)
		}
	})
}

// crypto/x509 reads longer serial numbers than it makes.
func TestClientCASerialNumber(t *testing.T) {
	for bits, code := range map[uint]string{159: "", 160: "VPN.0075", 4096: "VPN.0075"} {
		serial := new(big.Int).Lsh(big.NewInt(1), bits)
		d := &clientCADraft{Certificate: &x509.Certificate{SerialNumber: serial}, name: "ca"}
		wantCode(t, firstBroken(d, []func(*clientCADraft) *Error{clientCASerialIsShort}), code, "")
	}
}
