// Package certtest makes certificates for tests.
package certtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Certificate is a certificate with its key.
type Certificate struct {
	*x509.Certificate
	Key crypto.Signer
}

// Valid is a time at which the certificates of this package are valid, unless
// they were made otherwise: from a year before it to a year after it.
var Valid = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// New returns a self-signed CA certificate. Edits change its template, to a
// certificate that is none of a CA, too.
func New(t testing.TB, name string, edits ...func(*x509.Certificate)) *Certificate {
	t.Helper()
	return sign(t, name, nil, newKey(t), edits)
}

// WithKey is New with a key that the caller made.
func WithKey(t testing.TB, name string, key crypto.Signer, edits ...func(*x509.Certificate)) *Certificate {
	t.Helper()
	return sign(t, name, nil, key, edits)
}

// Server returns a certificate for servers that is signed by c.
func (c *Certificate) Server(t testing.TB, name string, edits ...func(*x509.Certificate)) *Certificate {
	t.Helper()
	edits = append([]func(*x509.Certificate){func(x *x509.Certificate) {
		x.IsCA, x.KeyUsage = false, x509.KeyUsageDigitalSignature
		x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}}, edits...)
	return sign(t, name, c, newKey(t), edits)
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, name string, issuer *Certificate, key crypto.Signer, edits []func(*x509.Certificate)) *Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(4711), Subject: pkix.Name{Country: []string{"CN"}, Organization: []string{"acme"}, CommonName: name},
		NotBefore: Valid.AddDate(-1, 0, 0), NotAfter: Valid.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	for _, edit := range edits {
		edit(template)
	}
	parent, signer := template, key
	if issuer != nil {
		parent, signer = issuer.Certificate, issuer.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Certificate{Certificate: c, Key: key}
}

// PEM returns the certificate as PEM.
func (c *Certificate) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// Files writes a certificate, the certificates above it and its key, and returns
// where.
func (c *Certificate) Files(t testing.TB, above ...*Certificate) (certificateFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	certificateFile, keyFile = filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")
	text := c.PEM()
	for _, a := range above {
		text += a.PEM()
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.Key)
	if err != nil {
		t.Fatal(err)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for file, content := range map[string][]byte{certificateFile: []byte(text), keyFile: key} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificateFile, keyFile
}
