package control

import (
	"fmt"
	"time"
)

// GatewayCertificate is what a gateway of flavor GM proves itself with: a
// certificate to sign and one to encrypt by, of the same authority.
type GatewayCertificate struct {
	ID   string `json:"id"`
	Name string `json:"name"`

	Signing    string `json:"signing"` // PEM
	Encryption string `json:"encryption"`
	Chain      string `json:"chain"` // of CA certificates; the first one is shown

	SealedSigningKey    []byte `json:"sealed_signing_key"` // 32 octets when opened
	SealedEncryptionKey []byte `json:"sealed_encryption_key"`

	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	// Since is the generation of the gateway that it came with.
	Since int64 `json:"since"`
}

// CertificateState is the status of a certificate as the API shows it.
type CertificateState string

// States of a certificate.
const (
	CertificateBinding CertificateState = "BINDING"
	CertificateBound   CertificateState = "BOUND"
	CertificateFault   CertificateState = "FAULT"
)

// state derives what the API shows from the status of the gateway.
func (c *GatewayCertificate) state(s GatewayStatus) CertificateState {
	switch {
	case s.Observed < c.Since:
		return CertificateBinding
	case s.Fault:
		return CertificateFault
	}
	return CertificateBound
}

// CertificateRequest is a certificate with its keys as it was sent. A nil member
// was not sent.
type CertificateRequest struct {
	Name           *string
	Certificate    *string // PEM, as the other texts
	PrivateKey     *Secret
	Chain          *string
	EncCertificate *string
	EncPrivateKey  *Secret
}

// Bounds of certificates in requests, in characters.
const (
	maxCertificateText      = 4096
	maxCertificateChain     = 8192
	minCertificateName      = 3
	maxCertificateName      = 63
	maxGatewayCertificates  = 2000 // of a page
	maxCertificateDaysAhead = 36500
)

// parseCertificate reads what was sent of a certificate over what it is so far.
// place is where its keys are sealed for.
func (s *Service) parseCertificate(req *CertificateRequest, c GatewayCertificate, place string) (GatewayCertificate, error) {
	p := &parser{}
	p.name("name", req.Name, &c.Name)
	if n := len([]rune(c.Name)); n < minCertificateName || n > maxCertificateName {
		p.fail("name", "must have %d to %d characters", minCertificateName, maxCertificateName)
	}
	given := 0
	for _, sent := range []bool{req.Certificate != nil, req.PrivateKey != nil, req.Chain != nil, req.EncCertificate != nil, req.EncPrivateKey != nil} {
		if sent {
			given++
		}
	}
	switch {
	case p.err != nil:
		return c, p.result()
	case given == 0 && c.Signing != "":
		return c, nil
	case given != 5:
		for _, each := range []struct {
			field string
			sent  bool
		}{
			{"certificate", req.Certificate != nil},
			{"private_key", req.PrivateKey != nil},
			{"certificate_chain", req.Chain != nil},
			{"enc_certificate", req.EncCertificate != nil},
			{"enc_private_key", req.EncPrivateKey != nil},
		} {
			if !each.sent {
				return c, Invalid(each.field, "is required with the others of the five texts")
			}
		}
	}
	p.length("certificate", *req.Certificate, maxCertificateText)
	p.length("private_key", req.PrivateKey.Reveal(), maxCertificateText)
	p.length("certificate_chain", *req.Chain, maxCertificateChain)
	p.length("enc_certificate", *req.EncCertificate, maxCertificateText)
	p.length("enc_private_key", req.EncPrivateKey.Reveal(), maxCertificateText)
	if err := p.result(); err != nil {
		return c, err
	}
	return s.certificateOf(req, c, place)
}

func (p *parser) length(field, v string, most int) {
	if len(v) < 1 || len(v) > most {
		p.fail(field, "must have 1 to %d characters", most)
	}
}

// certificateOf checks the five texts of a certificate and seals its keys.
func (s *Service) certificateOf(req *CertificateRequest, c GatewayCertificate, place string) (GatewayCertificate, error) {
	now := s.now()
	above, err := parseGMCAs(c.Name+" (certificate_chain)", *req.Chain, now)
	if err != nil {
		return c, err
	}
	signing := gmEnd{
		field: "certificate", name: c.Name + " (certificate)", text: *req.Certificate, keyField: "private_key", key: *req.PrivateKey,
		usage: gmSigning, usageText: "digitalSignature", now: now,
	}
	encryption := gmEnd{
		field: "enc_certificate", name: c.Name + " (enc_certificate)", text: *req.EncCertificate, keyField: "enc_private_key", key: *req.EncPrivateKey,
		usage: gmEncryption, usageText: "keyEncipherment, dataEncipherment or keyAgreement", now: now,
	}
	signer, signingKey, err := signing.parse(above)
	if err != nil {
		return c, err
	}
	encrypter, encryptionKey, err := encryption.parse(above)
	if err != nil {
		return c, err
	}
	c.Signing, c.Encryption, c.Chain = encodeGMCertificate(signer), encodeGMCertificate(encrypter), ""
	for _, a := range above {
		c.Chain += encodeGMCertificate(a)
	}
	c.SealedSigningKey = s.objects.key.Seal(signingKey, "signing key of "+place)
	c.SealedEncryptionKey = s.objects.key.Seal(encryptionKey, "encryption key of "+place)
	return c, nil
}

// certificatePlace is where the keys of a gateway's certificate are sealed for.
func certificatePlace(g *Gateway) string { return "certificate of gateway " + g.Project + "/" + g.ID }

// GatewayIdentity is a gateway's certificates and keys, opened.
type GatewayIdentity struct {
	Signing, Encryption       []byte // DER
	SigningKey, EncryptionKey Secret // 32 octets each
}

// GatewayIdentity opens the certificate of a gateway. It is for the reconciler
// alone; a gateway that has none yields nil.
func (o *Objects) GatewayIdentity(g *Gateway) (*GatewayIdentity, error) {
	c := g.Certificate
	if c == nil {
		return nil, nil
	}
	signing, err := derOf(c.Signing)
	if err != nil {
		return nil, err
	}
	encryption, err := derOf(c.Encryption)
	if err != nil {
		return nil, err
	}
	i := &GatewayIdentity{Signing: signing[0], Encryption: encryption[0]}
	place := certificatePlace(g)
	if i.SigningKey, err = o.key.Open(c.SealedSigningKey, "signing key of "+place); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", c.ID, err)
	}
	if i.EncryptionKey, err = o.key.Open(c.SealedEncryptionKey, "encryption key of "+place); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", c.ID, err)
	}
	return i, nil
}
