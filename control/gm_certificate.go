package control

import (
	"crypto/ecdsa"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/smx509"
)

// Certificates of the national profile GM/T 0022 are of SM2 keys and signed by SM2
// with SM3, which the standard library does not know.

// gmSignature is how the API names their signature algorithm.
const gmSignature = "SM3WITHSM2"

// gmInfo is what the API shows of a certificate.
func gmInfo(c *smx509.Certificate) CertificateInfo {
	return CertificateInfo{
		Issuer: distinguishedName(c.RawIssuer), Subject: distinguishedName(c.RawSubject),
		SerialNumber: c.SerialNumber.String(), Expires: c.NotAfter.UTC(), SignatureAlgorithm: gmSignature,
	}
}

// parseGMCertificates reads a text that holds nothing but certificates in PEM.
func parseGMCertificates(text string) (chain []*smx509.Certificate, err error) {
	for rest := []byte(text); len(strings.TrimSpace(string(rest))) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("there is something that is no certificate in PEM")
		}
		c, err := smx509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, errors.New("there is no certificate")
	}
	return chain, nil
}

func encodeGMCertificate(c *smx509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// gmDraft is a certificate that is being decided on.
type gmDraft struct {
	*smx509.Certificate
	name string // what errors call it
	now  time.Time
}

// gmRules hold for every certificate of the profile.
var gmRules = []func(*gmDraft) *Error{
	gmKeyIsSM2,
	gmSignatureIsSM2,
	gmIsUnderstood,
	gmIsInForce,
	gmHasNotExpired,
}

func gmKeyIsSM2(d *gmDraft) *Error {
	if !sm2.IsSM2PublicKey(d.PublicKey) {
		return refuse("VPN.0070", "The key algorithm of the certificate %s is not supported.", d.name)
	}
	return nil
}

func gmSignatureIsSM2(d *gmDraft) *Error {
	if d.SignatureAlgorithm != smx509.SM2WithSM3 {
		return refuse("VPN.0071", "The signature algorithm of the certificate %s is not supported.", d.name)
	}
	return nil
}

// gmIsUnderstood: a critical extension that is not understood makes a certificate
// invalid (RFC 5280, section 4.2), a serial number has 20 octets at most, and both
// ends go by the subject.
func gmIsUnderstood(d *gmDraft) *Error {
	if len(d.UnhandledCriticalExtensions) > 0 || d.SerialNumber.BitLen() > 20*8 || distinguishedName(d.RawSubject) == "" {
		return refuse("VPN.0075", "The content of the certificate %s is invalid.", d.name)
	}
	return nil
}

func gmIsInForce(d *gmDraft) *Error {
	if d.now.Before(d.NotBefore) {
		return refuse("VPN.0073", "Certificate %s has not taken effect.", d.name)
	}
	return nil
}

func gmHasNotExpired(d *gmDraft) *Error {
	if d.now.After(d.NotAfter) {
		return refuse("VPN.0072", "Certificate %s has expired.", d.name)
	}
	return nil
}

// parseGMCAs reads CA certificates. name is what errors call them.
func parseGMCAs(name, text string, now time.Time) ([]*smx509.Certificate, error) {
	chain, err := parseGMCertificates(text)
	if err != nil {
		return nil, refuse("VPN.0074", "The format of the certificate %s is invalid.", name)
	}
	for _, c := range chain {
		if err := firstBroken(&gmDraft{c, name, now}, gmRules); err != nil {
			return nil, err
		}
		if !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage != 0 && c.KeyUsage&smx509.KeyUsageCertSign == 0 {
			return nil, refuse("VPN.0076", "Certificate %s is not a CA certificate.", name)
		}
	}
	return chain, nil
}

// Uses of keys. An encryption certificate may be for one or more of these.
const (
	gmSigning    = smx509.KeyUsageDigitalSignature
	gmEncryption = smx509.KeyUsageKeyEncipherment | smx509.KeyUsageDataEncipherment | smx509.KeyUsageKeyAgreement
)

// gmEnd reads the certificate of an end and its key. field is its member of the
// request, and name what errors call it.
type gmEnd struct {
	field, name, text string
	keyField          string
	key               Secret
	usage             smx509.KeyUsage
	usageText         string
	now               time.Time
}

// parse returns the certificate and the 32 octets of its key.
func (e *gmEnd) parse(above []*smx509.Certificate) (*smx509.Certificate, Secret, error) {
	chain, err := parseGMCertificates(e.text)
	if err != nil || len(chain) != 1 {
		return nil, Secret{}, refuse("VPN.0074", "The format of the certificate %s is invalid.", e.name)
	}
	c := chain[0]
	if err := firstBroken(&gmDraft{c, e.name, e.now}, gmRules); err != nil {
		return nil, Secret{}, err
	}
	switch {
	case c.IsCA:
		return nil, Secret{}, Invalid(e.field, "must not be a CA certificate")
	case c.KeyUsage&e.usage == 0:
		return nil, Secret{}, Invalid(e.field, "its key usage must have %s", e.usageText)
	case !gmLeadsTo(c, above, e.now):
		return nil, Secret{}, Invalid(e.field, "is not issued by certificate_chain")
	}
	key, err := parseGMKey(e.key)
	if err != nil {
		return nil, Secret{}, Invalid(e.keyField, "%s", err)
	}
	defer clear(key.D.Bits())
	if public, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || !key.PublicKey.Equal(public) {
		return nil, Secret{}, Invalid(e.keyField, "is not the key of %s", e.field)
	}
	octets := key.D.FillBytes(make([]byte, gmKeySize))
	defer clear(octets)
	return c, NewSecret(string(octets)), nil
}

// gmKeySize is the octets of an SM2 key.
const gmKeySize = 32

// gmLeadsTo tells whether a certificate leads to one of the authorities.
func gmLeadsTo(c *smx509.Certificate, authorities []*smx509.Certificate, now time.Time) bool {
	roots := smx509.NewCertPool()
	for _, a := range authorities {
		roots.AddCert(a)
	}
	_, err := c.Verify(smx509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []smx509.ExtKeyUsage{smx509.ExtKeyUsageAny}})
	return err == nil
}

// parseGMKey reads a key in PEM, in the form of RFC 5915 or of PKCS #8. Tools write
// parameters of the curve ahead of the former. An error holds nothing of the key.
func parseGMKey(s Secret) (*sm2.PrivateKey, error) {
	text := []byte(s.Reveal())
	defer clear(text)
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("must be a private key in PEM")
		}
		defer clear(block.Bytes)
		switch {
		case block.Type == "EC PARAMETERS":
			continue
		case block.Headers["Proc-Type"] != "" || block.Type == "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("must not be encrypted")
		case block.Type == "EC PRIVATE KEY":
			if key, err := smx509.ParseSM2PrivateKey(block.Bytes); err == nil {
				return key, nil
			}
		case block.Type == "PRIVATE KEY":
			if any, err := smx509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				if key, ok := any.(*sm2.PrivateKey); ok {
					return key, nil
				}
			}
		}
		return nil, errors.New("must be an SM2 key")
	}
}

// derOf returns certificates of a stored text in DER.
func derOf(text string) (list [][]byte, err error) {
	chain, err := parseGMCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("stored certificate: %w", err)
	}
	for _, c := range chain {
		list = append(list, c.Raw)
	}
	return list, nil
}
