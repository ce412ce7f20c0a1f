package certtest

import (
	"crypto/rand"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/smx509"
)

// GM is a certificate of the profile GM/T 0022 with its key.
type GM struct {
	*smx509.Certificate
	Key *sm2.PrivateKey
}

// Uses of the two certificates of an end.
const (
	GMSigning    = smx509.KeyUsageDigitalSignature
	GMEncryption = smx509.KeyUsageKeyEncipherment | smx509.KeyUsageDataEncipherment | smx509.KeyUsageKeyAgreement
)

// NewGM returns a self-signed CA certificate, valid as New's.
func NewGM(t testing.TB, name string, edits ...func(*smx509.Certificate)) *GM {
	t.Helper()
	edits = append([]func(*smx509.Certificate){func(c *smx509.Certificate) {
		c.IsCA, c.KeyUsage = true, smx509.KeyUsageCertSign
	}}, edits...)
	return signGM(t, name, nil, edits)
}

// Sign returns a certificate of an end that is signed by g.
func (g *GM) Sign(t testing.TB, name string, usage smx509.KeyUsage, edits ...func(*smx509.Certificate)) *GM {
	t.Helper()
	edits = append([]func(*smx509.Certificate){func(c *smx509.Certificate) { c.KeyUsage = usage }}, edits...)
	return signGM(t, name, g, edits)
}

func signGM(t testing.TB, name string, issuer *GM, edits []func(*smx509.Certificate)) *GM {
	t.Helper()
	key, err := sm2.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &smx509.Certificate{
		SerialNumber: new(big.Int).SetBytes([]byte(name)), BasicConstraintsValid: true, SignatureAlgorithm: smx509.SM2WithSM3,
		Subject:   pkix.Name{Country: []string{"CN"}, Organization: []string{"acme"}, CommonName: name},
		NotBefore: Valid.Add(-365 * 24 * time.Hour), NotAfter: Valid.Add(365 * 24 * time.Hour),
	}
	for _, edit := range edits {
		edit(template)
	}
	parent, signer := template, key
	if issuer != nil {
		parent, signer = issuer.Certificate, issuer.Key
	}
	der, err := smx509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := smx509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &GM{Certificate: c, Key: key}
}

// PEM returns the certificate as PEM.
func (g *GM) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.Raw}))
}

// KeyPEM returns the key as PEM, in the form of RFC 5915.
func (g *GM) KeyPEM(t testing.TB) string {
	t.Helper()
	der, err := smx509.MarshalSM2PrivateKey(g.Key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

// PKCS8PEM returns the key as PEM, in the form of PKCS #8.
func (g *GM) PKCS8PEM(t testing.TB) string {
	t.Helper()
	der, err := smx509.MarshalPKCS8PrivateKey(g.Key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
