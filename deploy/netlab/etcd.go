package netlab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// Etcd is a cluster of one member, of the Debian package, which speaks TLS with
// a certificate of its own.
type Etcd struct {
	// Endpoint is its URL, CA the file of the certificate to trust.
	Endpoint, CA string

	namespace *Namespace
	args      []string
	process   *Process
}

// StartEtcd starts a cluster that listens on an address of the namespace.
func (n *Namespace) StartEtcd(ctx context.Context, address netip.Addr) (*Etcd, error) {
	dir := filepath.Join(n.lab.Dir, "etcd")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	e := &Etcd{
		Endpoint:  fmt.Sprintf("https://%s:2379", address),
		CA:        filepath.Join(dir, "ca.pem"),
		namespace: n,
	}
	key := filepath.Join(dir, "key.pem")
	if err := writeCertificate(e.CA, key, address); err != nil {
		return nil, fmt.Errorf("certificate of etcd: %w", err)
	}
	e.args = []string{
		"etcd", "--name", "lab", "--data-dir", filepath.Join(dir, "data"), "--cert-file", e.CA, "--key-file", key,
		"--listen-client-urls", e.Endpoint, "--advertise-client-urls", e.Endpoint,
		"--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380",
		"--initial-cluster", "lab=http://127.0.0.1:2380", "--logger", "zap", "--log-level", "warn",
	}
	return e, e.Start(ctx)
}

// Start starts a cluster that was killed.
func (e *Etcd) Start(ctx context.Context) error {
	var err error
	if e.process, err = e.namespace.Start("etcd", nil, e.args...); err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := Poll(ready, 20*time.Millisecond, func() (bool, error) { return e.process.listens(2379), nil }); err != nil {
		return fmt.Errorf("start etcd: %w\n%s", err, e.process.Errors())
	}
	return nil
}

// Kill ends it with SIGKILL.
func (e *Etcd) Kill() error { return e.process.Kill() }

// writeCertificate makes a certificate that signs itself.
func writeCertificate(certificateFile, keyFile string, address netip.Addr) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcd of a lab"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{address.AsSlice()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(certificateFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
}
