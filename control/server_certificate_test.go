package control

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control/certtest"
)

// A client that trusts what stands in its profile takes the certificate of our
// own CA, with the checks of OpenVPN's remote-cert-tls server.
func TestServiceSignedCertificate(t *testing.T) {
	w := newWorld(t)
	v := w.server(t)
	s := w.snapshot().Servers[0]
	pair, err := w.inventory.Load().ServerCertificate(&s)
	if err != nil {
		t.Fatal(err)
	}
	if len(pair.Certificate) != 2 {
		t.Fatalf("the chain has %d certificates", len(pair.Certificate))
	}
	leaf, ca := parsed(t, pair.Certificate[0]), parsed(t, pair.Certificate[1])
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	for _, at := range []time.Time{w.clock, w.clock.Add(-time.Hour), w.clock.AddDate(1, 0, 0)} {
		_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		if err != nil {
			t.Errorf("at %s: %v", at, err)
		}
	}
	if leaf.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageKeyAgreement || leaf.Subject.CommonName != v.ID || !leaf.IPAddresses[0].Equal(net.ParseIP("203.0.113.1")) {
		t.Errorf("key usage %v, subject %s, addresses %v", leaf.KeyUsage, leaf.Subject, leaf.IPAddresses)
	}
	if ca.MaxPathLen != 0 || !ca.IsCA || leaf.IsCA {
		t.Error("the CA may sign more than leaves, or the leaf may sign")
	}
	handshake(t, pair, roots, w.clock)
}

func parsed(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// handshake has a TLS client connect that trusts the roots.
func handshake(t *testing.T, pair *tls.Certificate, roots *x509.CertPool, now time.Time) {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	done := make(chan error, 1)
	go func() {
		done <- tls.Server(far, &tls.Config{Certificates: []tls.Certificate{*pair}, MinVersion: tls.VersionTLS12}).Handshake()
	}()
	client := tls.Client(near, &tls.Config{RootCAs: roots, ServerName: "203.0.113.1", Time: func() time.Time { return now }})
	if err := client.Handshake(); err != nil {
		t.Errorf("client: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("server: %v", err)
	}
}

func TestServerCertificateIsRenewed(t *testing.T) {
	w := newWorld(t)
	v := w.server(t)
	address := netip.MustParseAddr("203.0.113.1")
	read := func() (leaf, ca *x509.Certificate) {
		s := w.snapshot().Servers[0]
		pair, err := w.inventory.Load().ServerCertificate(&s)
		if err != nil {
			t.Fatal(err)
		}
		return parsed(t, pair.Certificate[0]), parsed(t, pair.Certificate[1])
	}
	first, firstCA := read()
	profiles := x509.NewCertPool()
	profiles.AddCert(firstCA)
	renew := func(address netip.Addr, now time.Time, want bool) {
		t.Helper()
		renewed, err := w.objects.RenewServerCertificate(t.Context(), project, v.ID, address, now)
		if err != nil || renewed != want {
			t.Errorf("renewed: %v, %v; want %v", renewed, err, want)
		}
	}
	renew(address, w.clock, false)
	due := first.NotAfter.Add(-leafRenewal)
	renew(address, due.Add(-time.Second), false)
	renew(address, due, true)
	renew(address, due, false)
	second, secondCA := read()
	if bytes.Equal(first.Raw, second.Raw) || bytes.Equal(first.RawSubjectPublicKeyInfo, second.RawSubjectPublicKeyInfo) || !bytes.Equal(firstCA.Raw, secondCA.Raw) {
		t.Error("a new leaf with a new key of the same CA is wanted")
	}
	if s := w.snapshot().Servers[0]; s.Generation != 1 {
		t.Errorf("the server is worked on: generation %d", s.Generation)
	}
	renew(netip.MustParseAddr("203.0.113.9"), due, true)

	// In the second half of its life the CA gets a certificate with a later end,
	// and profiles from before take what it signs.
	later := firstCA.NotAfter.Add(-caRenewal)
	renew(netip.MustParseAddr("203.0.113.9"), later.Add(time.Second), true)
	third, thirdCA := read()
	if !thirdCA.NotAfter.After(firstCA.NotAfter) || !bytes.Equal(thirdCA.RawSubjectPublicKeyInfo, firstCA.RawSubjectPublicKeyInfo) {
		t.Errorf("the CA ends at %s, before at %s", thirdCA.NotAfter, firstCA.NotAfter)
	}
	if _, err := third.Verify(x509.VerifyOptions{Roots: profiles, CurrentTime: later.Add(time.Hour)}); err != nil {
		t.Errorf("with a profile from before: %v", err)
	}
	if _, err := w.objects.RenewServerCertificate(t.Context(), project, nobody, address, w.clock); err == nil {
		t.Error("a server that is not there was renewed")
	}
}

func TestCertificatesOfTheInventory(t *testing.T) {
	root := certtest.New(t, "root")
	leaf := root.Server(t, "vpn")
	good := func() Certificate {
		certificateFile, keyFile := leaf.Files(t, root)
		return Certificate{ID: "scs1", CertificateFile: certificateFile, KeyFile: keyFile}
	}
	other := certtest.New(t, "other")
	for name, test := range map[string]struct {
		edit func(*Certificate)
		want string
	}{
		"good":              {func(*Certificate) {}, ""},
		"no id":             {func(c *Certificate) { c.ID = "" }, "id: 1 to 64 characters"},
		"no file":           {func(c *Certificate) { c.CertificateFile += "x" }, "certificate_file: open"},
		"not PEM":           {func(c *Certificate) { c.CertificateFile = writeFile(t, "x") }, "certificate_file: there is something that is not PEM"},
		"key of another":    {func(c *Certificate) { _, c.KeyFile = other.Files(t) }, "key_file: "},
		"key in place":      {func(c *Certificate) { c.CertificateFile = c.KeyFile }, `a PEM block of type "PRIVATE KEY"`},
		"everybody's key":   {func(c *Certificate) { mode(t, c.KeyFile, 0o644) }, "everybody can use it"},
		"too long":          {func(c *Certificate) { c.CertificateFile = writeFile(t, strings.Repeat("x", maxCertificateFile+1)) }, "more than 65536 octets"},
		"root missing":      {func(c *Certificate) { c.CertificateFile, c.KeyFile = leaf.Files(t) }, "must be the root"},
		"of another issuer": {func(c *Certificate) { c.CertificateFile, c.KeyFile = leaf.Files(t, other) }, "is not signed by the next one"},
		"for clients": {func(c *Certificate) {
			c.CertificateFile, c.KeyFile = root.Server(t, "vpn", func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }).Files(t, root)
		}, "extended key usage"},
		"for nothing": {func(c *Certificate) {
			c.CertificateFile, c.KeyFile = root.Server(t, "vpn", func(x *x509.Certificate) { x.ExtKeyUsage = nil }).Files(t, root)
		}, "extended key usage"},
	} {
		t.Run(name, func(t *testing.T) {
			c := good()
			test.edit(&c)
			inv := &Inventory{Certificates: []Certificate{c}}
			err := inv.Validate()
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if inv.Certificates[0].Name != "scs1" {
					t.Errorf("default name is %q", inv.Certificates[0].Name)
				}
				v := VPNServer{Certificate: ServerCertificate{Source: CertificateCCM, ID: "scs1"}}
				pair, err := inv.ServerCertificate(&v)
				if err != nil || len(pair.Certificate) != 2 {
					t.Errorf("server certificate: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), "inventory.certificates[0].") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	if _, err := (&Inventory{}).ServerCertificate(&VPNServer{Certificate: ServerCertificate{Source: CertificateCCM, ID: "scs1"}}); err == nil {
		t.Error("a certificate that is not in the inventory was found")
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mode(t *testing.T, path string, m os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, m); err != nil {
		t.Fatal(err)
	}
}
