package control

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"
)

// Certificate is a server certificate of the inventory.
type Certificate struct {
	ID   string `yaml:"id"`
	Name string `yaml:"name"` // default: the id
	// CertificateFile holds the certificate and those of its issuers up to the
	// root, PEM, leaf first: clients are given the issuers to trust.
	CertificateFile string `yaml:"certificate_file"`
	KeyFile         string `yaml:"key_file"` // PEM; not for all to read

	chain []*x509.Certificate
	key   Secret
}

const maxCertificateFile = 64 << 10 // octets

// load reads the files and checks that they fit each other. That the
// certificate is valid at the moment is not asked here: it may be later, or no
// longer.
func (c *Certificate) load() error {
	if c.Name == "" {
		c.Name = c.ID
	}
	text, err := readBounded(c.CertificateFile, false)
	if err != nil {
		return fmt.Errorf("certificate_file: %w", err)
	}
	if c.chain, err = parseCertificates(string(text)); err != nil {
		return fmt.Errorf("certificate_file: %w", err)
	}
	key, err := readBounded(c.KeyFile, true)
	if err != nil {
		return fmt.Errorf("key_file: %w", err)
	}
	defer clear(key)
	if _, err := tls.X509KeyPair(text, key); err != nil {
		return fmt.Errorf("key_file: %w", err)
	}
	c.key = NewSecret(string(key))
	if err := checkServerChain(c.chain); err != nil {
		return fmt.Errorf("certificate_file: %w", err)
	}
	return nil
}

// checkServerChain tells why clients could not verify a chain, whenever.
func checkServerChain(chain []*x509.Certificate) error {
	leaf, root := chain[0], chain[len(chain)-1]
	if !keyIsSupported(leaf) {
		return fmt.Errorf("the key must be RSA of %d to %d bits or ECDSA of P-256, P-384 or P-521", minRSABits, maxRSABits)
	}
	if len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) == 0 ||
		!slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return errors.New("the certificate lacks the extended key usage server authentication, which clients want")
	}
	for i := range chain[1:] {
		if err := chain[i].CheckSignatureFrom(chain[i+1]); err != nil {
			return fmt.Errorf("certificate %d is not signed by the next one: %w", i+1, err)
		}
	}
	if signatureNames[leaf.SignatureAlgorithm] == "" {
		return fmt.Errorf("the signature algorithm %s is not supported", leaf.SignatureAlgorithm)
	}
	// Nobody checks the signature of a root: many are by SHA-1.
	if !bytes.Equal(root.RawSubject, root.RawIssuer) {
		return errors.New("the last certificate must be the root: clients are given it to trust")
	}
	return nil
}

// readBounded reads a small file; a private one must not be for all to read.
func readBounded(path string, private bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if mode := info.Mode().Perm(); private && mode&0o007 != 0 {
		return nil, fmt.Errorf("%s has mode %#o: everybody can use it", path, mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxCertificateFile+1))
	if err == nil && len(text) > maxCertificateFile {
		err = fmt.Errorf("%s has more than %d octets", path, maxCertificateFile)
	}
	return text, err
}

// Validity returns between which times, ends included, a certificate of a
// validated inventory can be used.
func (c *Certificate) Validity() (from, to time.Time) {
	return c.chain[0].NotBefore, c.chain[0].NotAfter
}

// inForce tells whether a certificate can be used at a time.
func (c *Certificate) inForce(now time.Time) bool {
	from, to := c.Validity()
	return !now.Before(from) && !now.After(to)
}

// Certificate returns a server certificate by its id.
func (inv *Inventory) Certificate(id string) (*Certificate, bool) {
	i := slices.IndexFunc(inv.Certificates, func(c Certificate) bool { return c.ID == id })
	if i < 0 {
		return nil, false
	}
	return &inv.Certificates[i], true
}

// ServerCertificate returns the chain of a server's certificate, leaf first,
// and its private key. A Snapshot has the key of one that our own CA signed,
// other servers have none.
func (inv *Inventory) ServerCertificate(v *VPNServer) (*tls.Certificate, error) {
	chain, key := v.Certificate.Chain, v.Certificate.Key
	if v.Certificate.Source == CertificateCCM {
		c, ok := inv.Certificate(v.Certificate.ID)
		if !ok {
			return nil, fmt.Errorf("certificate %s of server %s is not in the inventory", v.Certificate.ID, v.ID)
		}
		chain, key = encodeCertificates(c.chain...), c.key
	}
	text := []byte(key.Reveal())
	defer clear(text)
	pair, err := tls.X509KeyPair([]byte(chain), text)
	if err != nil {
		return nil, fmt.Errorf("certificate of server %s: %w", v.ID, err)
	}
	return &pair, nil
}

// serverChain returns the certificates of a server, leaf first; nil when it is
// no longer in the inventory.
func (inv *Inventory) serverChain(c *ServerCertificate) []*x509.Certificate {
	if c.Source == CertificateServiceSign {
		chain, err := parseCertificates(c.Chain)
		if err != nil {
			return nil
		}
		return chain
	}
	if there, ok := inv.Certificate(c.ID); ok {
		return there.chain
	}
	return nil
}

// Lives of the certificates that our own CA makes. A leaf is renewed long
// before its end, with an unchanged CA, so the profiles that clients have stay
// valid. The CA gets a certificate with a later end, of the same key, in the
// second half of its life: by then new profiles have it, and the older ones end
// when they would have.
const (
	caLife       = 10 * 365 * 24 * time.Hour
	caRenewal    = caLife / 2
	leafLife     = 397 * 24 * time.Hour
	leafRenewal  = 60 * 24 * time.Hour
	issueBackoff = 24 * time.Hour // clocks of clients differ
)

// signServerCertificate makes a CA for one server and has it sign the server's
// certificate. address is that of the EIP.
//
// The keys are ECDSA on P-256, with signatures by SHA-256: all that OpenVPN 2.4
// and later and the apps of the phones are built with verify these, and a
// handshake costs the daemon a fraction of what RSA does.
func signServerCertificate(v *VPNServer, address netip.Addr, name string, now time.Time) (ServerCertificate, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return ServerCertificate{}, fmt.Errorf("key of a ca: %w", err)
	}
	ca, err := selfSignCA("vpngw CA "+v.ID, caKey, now)
	if err != nil {
		return ServerCertificate{}, err
	}
	return issueServerCertificate(v, ca, caKey, address, name, now)
}

func selfSignCA(name string, key *ecdsa.PrivateKey, now time.Time) (*x509.Certificate, error) {
	return createCertificate(&x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{Organization: []string{"vpngw"}, CommonName: name},
		NotBefore: now.Add(-issueBackoff), NotAfter: now.Add(caLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}, nil, key, key)
}

// issueServerCertificate has a CA sign a certificate with a new key. The key
// usage is one of the two that OpenVPN's remote-cert-tls server looked for
// before 2.4.
func issueServerCertificate(v *VPNServer, ca *x509.Certificate, caKey *ecdsa.PrivateKey, address netip.Addr, name string, now time.Time) (ServerCertificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return ServerCertificate{}, fmt.Errorf("key of a certificate: %w", err)
	}
	end := now.Add(leafLife)
	if end.After(ca.NotAfter) {
		end = ca.NotAfter
	}
	leaf, err := createCertificate(&x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{Organization: []string{"vpngw"}, CommonName: v.ID},
		NotBefore: now.Add(-issueBackoff), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, DNSNames: []string{v.ID}, IPAddresses: []net.IP{address.AsSlice()},
	}, ca, key, caKey)
	if err != nil {
		return ServerCertificate{}, err
	}
	out := ServerCertificate{Source: CertificateServiceSign, Name: name, Chain: encodeCertificates(leaf, ca)}
	if out.Key, err = encodeKey(key); err != nil {
		return ServerCertificate{}, err
	}
	out.CAKey, err = encodeKey(caKey)
	return out, err
}

// createCertificate signs a certificate by that of the issuer, or by its own
// key.
func createCertificate(template, issuer *x509.Certificate, key, issuerKey *ecdsa.PrivateKey) (*x509.Certificate, error) {
	if issuer == nil {
		issuer = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// RenewServerCertificate stores the next certificate of a server when it is due:
// some weeks before the present one ends, and when address, which is that of the
// EIP, is another one than before. It tells whether it did. Certificates of the
// inventory are never due. The specification keeps its generation, so the server
// is not worked on, but Watch reports the change. It is for the reconciler alone.
func (o *Objects) RenewServerCertificate(ctx context.Context, project, id string, address netip.Addr, now time.Time) (renewed bool, err error) {
	err = o.change(ctx, func(tx *transaction) error {
		renewed = false
		stored, err := getOr(ctx, o.p2c.servers, project, id, noServer())
		if err != nil || stored.Certificate.Source != CertificateServiceSign {
			return err
		}
		v, err := o.unsealServer(stored)
		if err != nil {
			return err
		}
		next, err := nextCertificate(&v, address, now)
		if err != nil || next == nil {
			return err
		}
		renewed = true
		v.Certificate = *next
		return tx.putServer(v)
	})
	return renewed && err == nil, err
}

// nextCertificate returns the next certificate of a server with its keys, or
// nil while the present one is good.
func nextCertificate(v *VPNServer, address netip.Addr, now time.Time) (*ServerCertificate, error) {
	chain, err := parseCertificates(v.Certificate.Chain)
	if err != nil || len(chain) != 2 {
		return nil, fmt.Errorf("certificate of server %s: its chain is not one of ours", v.ID)
	}
	leaf, ca := chain[0], chain[1]
	named := slices.ContainsFunc(leaf.IPAddresses, func(ip net.IP) bool { return ip.Equal(address.AsSlice()) })
	if named && now.Add(leafRenewal).Before(leaf.NotAfter) {
		return nil, nil
	}
	caKey, err := decodeKey(v.Certificate.CAKey)
	if err != nil {
		return nil, fmt.Errorf("certificate of server %s: %w", v.ID, err)
	}
	if now.Add(caRenewal).After(ca.NotAfter) {
		if ca, err = selfSignCA(ca.Subject.CommonName, caKey, now); err != nil {
			return nil, err
		}
	}
	next, err := issueServerCertificate(v, ca, caKey, address, v.Certificate.Name, now)
	return &next, err
}

// newSerial returns a serial number of 127 bits. It is positive (RFC 5280,
// section 4.1.2.2).
func newSerial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] &= 0x7f
	b[15] |= 1
	return new(big.Int).SetBytes(b[:])
}

func encodeKey(key *ecdsa.PrivateKey) (Secret, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Secret{}, fmt.Errorf("encode a key: %w", err)
	}
	defer clear(der)
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	defer clear(text)
	return NewSecret(string(text)), nil
}

func decodeKey(s Secret) (*ecdsa.PrivateKey, error) {
	text := []byte(s.Reveal())
	defer clear(text)
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the key of its ca is missing")
	}
	defer clear(block.Bytes)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the key of its ca cannot be read")
	}
	ecdsaKey, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("the key of its ca is not one of ours")
	}
	return ecdsaKey, nil
}
