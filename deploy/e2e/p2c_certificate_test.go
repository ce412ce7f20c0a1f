//go:build e2e

package e2e

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/control/certtest"
)

// validNow makes a certificate valid around the present time.
func validNow(x *x509.Certificate) {
	x.NotBefore, x.NotAfter = time.Now().Add(-24*time.Hour), time.Now().Add(30*24*time.Hour)
}

// withCertificate adds the certificate and the key of a client to a profile,
// signed by a CA.
func withCertificate(t *testing.T, profile string, ca *certtest.Certificate, name string, edits ...func(*x509.Certificate)) string {
	t.Helper()
	c := ca.Server(t, name, append([]func(*x509.Certificate){validNow, func(x *x509.Certificate) {
		x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}}, edits...)...)
	_, keyFile := c.Files(t)
	key := must(os.ReadFile(keyFile))(t)
	return fmt.Sprintf("%s<cert>\n%s</cert>\n<key>\n%s</key>\n", profile, c.PEM(), key)
}

// With certificates, who has one of a client CA reaches all local subnets, and
// leaves with the CA.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	first, second, foreign := certtest.New(t, "Staff CA", validNow), certtest.New(t, "Guest CA", validNow), certtest.New(t, "Foreign CA", validNow)
	w := newClientWorld(t, 2, func(s *declare.Server) {
		s.ClientAuthType = "CERT"
		s.SSLOptions = &declare.SSLOptions{EncryptionAlgorithm: "AES-256-GCM", Port: new(1194)}
		s.ClientCAs = []declare.ClientCA{{Name: "staff", Content: first.PEM()}, {Name: "guest", Content: second.PEM()}}
	})
	here, there := w.Sites[0].Router, w.Sites[1].Router
	staff := w.dial(0, "staff", withCertificate(t, w.profile, first, "laptop-7"), "", "")
	guest := w.dial(1, "guest", withCertificate(t, w.profile, second, "tablet-3"), "", "")
	w.check(staff.WaitUp(w.ctx, 1))
	w.check(guest.WaitUp(w.ctx, 1))
	for _, target := range w.CloudAddresses {
		w.reach(here, netip.Addr{}, target)
		w.reach(there, netip.Addr{}, target)
	}
	names := map[string]bool{}
	for _, c := range w.waitConnections(2, "") {
		names[c.User] = true
	}
	if !names["laptop-7"] || !names["tablet-3"] {
		t.Errorf("connected are %v", names)
	}

	for _, turnedDown := range []struct{ name, profile, told string }{
		{"stranger", withCertificate(t, w.profile, foreign, "laptop-8"), "unknown CA"},
		{"late", withCertificate(t, w.profile, first, "laptop-9", func(x *x509.Certificate) {
			x.NotAfter = time.Now().Add(-time.Hour)
		}), "certificate expired"},
	} {
		c := w.dial(0, turnedDown.name, turnedDown.profile, "", "")
		w.check(c.WaitLog(w.ctx, "Received fatal SSL alert: "+turnedDown.told))
		w.check(c.Stop())
	}
	w.waitRecord(`"event":"authentication_failed"`, "laptop-8", "client CAs")
	w.waitRecord(`"event":"authentication_failed"`, "laptop-9", "expired")

	cas := client.ClientCAsOf(w.server)
	server := must(w.api.Get(w.ctx, client.ServersOf(w.gateway), w.server))(t)
	for _, ca := range server["client_ca_certificates"].([]any) {
		if o := client.Object(ca.(map[string]any)); o.Name() == "guest" {
			w.check(w.api.Delete(w.ctx, cas, o.ID()))
		}
	}
	left := w.waitConnections(1, "")
	if left[0].User != "laptop-7" {
		t.Errorf("who is left: %+v", left)
	}
	w.waitRecord(`"event":"disconnected"`, "tablet-3")
	w.reach(here, netip.Addr{}, w.CloudAddresses[1])
	w.expectNothingInClear()
}
