package control

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
)

// ClientCARequest is a CA certificate for the clients of a server. A nil member
// was not sent.
type ClientCARequest struct {
	Name    *string
	Content *string // PEM
}

// parseClientCA reads a CA certificate and checks it, but for others of its
// server. It has no id and times yet.
func parseClientCA(field string, req ClientCARequest, random io.Reader, now time.Time) (ClientCA, *x509.Certificate, error) {
	name, err := randomName("ca-cert-", random)
	if err != nil {
		return ClientCA{}, nil, err
	}
	p := &parser{}
	p.plainName(field+"name", req.Name, &name)
	p.required(field+"content", req.Content)
	if err := p.result(); err != nil {
		return ClientCA{}, nil, err
	}
	chain, err := parseCertificates(*req.Content)
	if err != nil {
		return ClientCA{}, nil, refuse("VPN.0074", "The format of the certificate %s is invalid.", name)
	}
	d := &clientCADraft{Certificate: chain[0], name: name, number: len(chain), now: now}
	if err := firstBroken(d, clientCARules); err != nil {
		return ClientCA{}, nil, err
	}
	return ClientCA{Name: name, PEM: encodeCertificates(chain[0])}, chain[0], nil
}

// clientCADraft is a CA certificate that is being decided on.
type clientCADraft struct {
	*x509.Certificate
	name   string
	number int // of certificates in the text
	now    time.Time
}

var clientCARules = []func(*clientCADraft) *Error{
	clientCAStandsAlone,
	clientCAKeyIsSupported,
	clientCASignatureIsSupported,
	clientCAIsCA,
	clientCACanSign,
	clientCAIsUnderstood,
	clientCASerialIsShort,
	clientCAIsInForce,
	clientCAHasNotExpired,
}

func clientCAStandsAlone(d *clientCADraft) *Error {
	if d.number > 1 {
		return d.badContent()
	}
	return nil
}

func clientCAKeyIsSupported(d *clientCADraft) *Error {
	if !keyIsSupported(d.Certificate) {
		return refuse("VPN.0070", "The key algorithm of the certificate %s is not supported.", d.name)
	}
	return nil
}

func clientCASignatureIsSupported(d *clientCADraft) *Error {
	if signatureNames[d.SignatureAlgorithm] == "" {
		return refuse("VPN.0071", "The signature algorithm of the certificate %s is not supported.", d.name)
	}
	return nil
}

func clientCAIsCA(d *clientCADraft) *Error {
	if !d.BasicConstraintsValid || !d.IsCA {
		return refuse("VPN.0076", "Certificate %s is not a CA certificate.", d.name)
	}
	return nil
}

// clientCACanSign: a CA whose key usage is restricted must be allowed to sign
// certificates (RFC 5280, section 4.2.1.3), and its subject is what those name.
func clientCACanSign(d *clientCADraft) *Error {
	if d.KeyUsage != 0 && d.KeyUsage&x509.KeyUsageCertSign == 0 || distinguishedName(d.RawSubject) == "" {
		return d.badContent()
	}
	return nil
}

// clientCAIsUnderstood: a critical extension that is not understood makes every
// certificate of the CA invalid (RFC 5280, section 4.2).
func clientCAIsUnderstood(d *clientCADraft) *Error {
	if len(d.UnhandledCriticalExtensions) > 0 {
		return d.badContent()
	}
	return nil
}

// clientCASerialIsShort: a serial number has 20 octets at most (RFC 5280, section
// 4.1.2.2).
func clientCASerialIsShort(d *clientCADraft) *Error {
	if d.SerialNumber.BitLen() > 20*8 {
		return d.badContent()
	}
	return nil
}

func clientCAIsInForce(d *clientCADraft) *Error {
	if d.now.Before(d.NotBefore) {
		return refuse("VPN.0073", "Certificate %s has not taken effect.", d.name)
	}
	return nil
}

func clientCAHasNotExpired(d *clientCADraft) *Error {
	if d.now.After(d.NotAfter) {
		return refuse("VPN.0072", "Certificate %s has expired.", d.name)
	}
	return nil
}

func (d *clientCADraft) badContent() *Error {
	return refuse("VPN.0075", "The content of the certificate %s is invalid.", d.name)
}

// addClientCA adds a CA certificate to those of a server, which has changed by it
// at UpdatedAt.
func (s *Service) addClientCA(v *VPNServer, field string, req ClientCARequest) (ClientCA, error) {
	ca, certificate, err := parseClientCA(field, req, s.random, s.now())
	if err != nil {
		return ca, err
	}
	for _, other := range v.ClientCAs {
		if there, err := other.Certificate(); err == nil && bytes.Equal(there.Raw, certificate.Raw) {
			return ca, refuse("VPN.0077", "Duplicate certificate: %s.", ca.Name)
		}
	}
	if len(v.ClientCAs) >= maxClientCAs {
		return ca, refuse("VPN.1111", "The number of client CA certificates exceeds the upper limit.")
	}
	id, err := uuid.NewRandomFromReader(s.random)
	if err != nil {
		return ca, fmt.Errorf("random id: %w", err)
	}
	ca.ID, ca.CreatedAt, ca.UpdatedAt = id.String(), v.UpdatedAt, v.UpdatedAt
	v.ClientCAs = append(v.ClientCAs, ca)
	return ca, nil
}

// Certificate returns the certificate itself.
func (c *ClientCA) Certificate() (*x509.Certificate, error) {
	chain, err := parseCertificates(c.PEM)
	if err != nil {
		return nil, err
	}
	return chain[0], nil
}
