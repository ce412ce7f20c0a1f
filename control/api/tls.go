package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// TLSMode says where the server's certificate comes from.
type TLSMode string

// TLS modes.
const (
	TLSAuto  TLSMode = "auto"  // self-signed, made when there is none and kept
	TLSFiles TLSMode = "files" // of CertificateFile and KeyFile
	TLSOff   TLSMode = "off"   // plain HTTP, on loopback addresses only
)

// TLS says how the listener is secured.
type TLS struct {
	Mode            TLSMode
	CertificateFile string // PEM, with the chain
	KeyFile         string // PEM
}

// Files of TLSAuto in the data directory.
const (
	autoCertificateFile = "api.crt"
	autoKeyFile         = "api.key"
	autoLifetime        = 5 * 365 * 24 * time.Hour
)

// config returns the configuration of a listener, nil for plain HTTP.
func (t TLS) config(listen netip.AddrPort, dataDir string, now time.Time) (*tls.Config, error) {
	var certificate tls.Certificate
	var err error
	switch t.Mode {
	case TLSOff:
		if !listen.Addr().IsLoopback() {
			return nil, fmt.Errorf("plain HTTP is for loopback addresses only, and %s is none", listen.Addr())
		}
		return nil, nil
	case TLSFiles:
		certificate, err = tls.LoadX509KeyPair(t.CertificateFile, t.KeyFile)
	case TLSAuto:
		certificate, err = autoCertificate(dataDir, listen.Addr(), now)
	default:
		err = fmt.Errorf("mode %q is unknown", t.Mode)
	}
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{certificate},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
	}, nil
}

// Fingerprint returns the SHA-256, in hexadecimal, of the certificate that a
// server with these options shows; empty where it shows none. Like New, it makes
// the one of TLSAuto if there is none.
func (o Options) Fingerprint() (string, error) {
	address, err := netip.ParseAddrPort(o.Listen)
	if err != nil {
		return "", fmt.Errorf("api: listen %q: %w", o.Listen, err)
	}
	config, err := o.TLS.config(address, o.DataDir, time.Now())
	if err != nil || config == nil {
		return "", err
	}
	return fingerprint(config.Certificates[0].Certificate[0]), nil
}

func fingerprint(certificate []byte) string {
	sum := sha256.Sum256(certificate)
	return hex.EncodeToString(sum[:])
}

// autoCertificate returns the self-signed certificate of the data directory.
// It is made when there is none or the one there has expired.
func autoCertificate(dir string, listen netip.Addr, now time.Time) (tls.Certificate, error) {
	certificateFile, keyFile := filepath.Join(dir, autoCertificateFile), filepath.Join(dir, autoKeyFile)
	certificate, err := tls.LoadX509KeyPair(certificateFile, keyFile)
	switch {
	case err == nil && now.Before(certificate.Leaf.NotAfter):
		return certificate, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		// Somebody may have pinned it: that a file is broken is for people to mend.
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := selfSign(key, listen, now)
	if err != nil {
		return tls.Certificate{}, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	certificatePEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	defer clear(keyPEM)
	defer clear(pkcs8)
	// A certificate stands there only beside its own key, wherever this stops.
	if err := os.Remove(certificateFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return tls.Certificate{}, err
	}
	if err := writeFile(keyFile, keyPEM, 0o600); err != nil {
		return tls.Certificate{}, err
	}
	if err := writeFile(certificateFile, certificatePEM, 0o644); err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(certificatePEM, keyPEM)
}

func selfSign(key *ecdsa.PrivateKey, listen netip.Addr, now time.Time) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	names := []string{"localhost"}
	if host, err := os.Hostname(); err == nil && host != "" {
		names = append(names, host)
	}
	addresses := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	if listen.IsValid() && !listen.IsUnspecified() && !listen.IsLoopback() {
		addresses = append(addresses, listen.AsSlice())
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "vpngw API"},
		NotBefore:    now.Add(-time.Hour), // clocks of clients may be slow
		NotAfter:     now.Add(autoLifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA:         true, BasicConstraintsValid: true, // so that clients may trust it as a root
		DNSNames: names, IPAddresses: addresses,
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}

// writeFile replaces a file at once, or not at all.
func writeFile(path string, content []byte, mode fs.FileMode) error {
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // its mode may be another
	}
	if err := os.WriteFile(temporary, content, mode); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
