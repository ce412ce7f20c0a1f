package control

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// CertificateInfo is what the API shows of a certificate.
type CertificateInfo struct {
	Issuer, Subject    string // as C=CN,O=acme,CN=root, in the order of the encoding
	SerialNumber       string // decimal
	Expires            time.Time
	SignatureAlgorithm string // as SHA256WITHRSA
}

func infoOf(c *x509.Certificate) CertificateInfo {
	return CertificateInfo{
		Issuer: distinguishedName(c.RawIssuer), Subject: distinguishedName(c.RawSubject),
		SerialNumber: c.SerialNumber.String(), Expires: c.NotAfter.UTC(),
		SignatureAlgorithm: signatureNames[c.SignatureAlgorithm],
	}
}

// signatureNames are the signature algorithms of certificates that are taken.
var signatureNames = map[x509.SignatureAlgorithm]string{
	x509.SHA256WithRSA:    "SHA256WITHRSA",
	x509.SHA384WithRSA:    "SHA384WITHRSA",
	x509.SHA512WithRSA:    "SHA512WITHRSA",
	x509.SHA256WithRSAPSS: "SHA256WITHRSAANDMGF1",
	x509.SHA384WithRSAPSS: "SHA384WITHRSAANDMGF1",
	x509.SHA512WithRSAPSS: "SHA512WITHRSAANDMGF1",
	x509.ECDSAWithSHA256:  "SHA256WITHECDSA",
	x509.ECDSAWithSHA384:  "SHA384WITHECDSA",
	x509.ECDSAWithSHA512:  "SHA512WITHECDSA",
}

// Sizes of RSA keys that are taken, in bits: shorter ones can be broken, longer
// ones cost too much at each connect.
const minRSABits, maxRSABits = 2048, 8192

// keyIsSupported tells whether the public key of a certificate is of an
// algorithm and size that is taken.
func keyIsSupported(c *x509.Certificate) bool {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() >= minRSABits && key.N.BitLen() <= maxRSABits
	case *ecdsa.PublicKey:
		return key.Curve.Params().BitSize >= 256 // of the curves that crypto/x509 reads, all but P-224
	}
	return false
}

// attributeNames are the short names of attributes (RFC 4519 and what
// certificate tools write), by object identifier.
var attributeNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.4": "SN", "2.5.4.5": "SERIALNUMBER", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST",
	"2.5.4.9": "STREET", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.12": "T", "2.5.4.42": "GIVENNAME",
	"0.9.2342.19200300.100.1.1": "UID", "0.9.2342.19200300.100.1.25": "DC", "1.2.840.113549.1.9.1": "E",
}

// maxDistinguishedName is how long a name is shown at most, in octets.
const maxDistinguishedName = 256

// distinguishedName writes a name in the order of its encoding, escaped as RFC
// 4514 (section 2.4) has it.
func distinguishedName(raw []byte) string {
	var rdns pkix.RDNSequence
	if rest, err := asn1.Unmarshal(raw, &rdns); err != nil || len(rest) > 0 {
		return ""
	}
	var out strings.Builder
	for i, rdn := range rdns {
		for j, a := range rdn {
			switch {
			case j > 0:
				out.WriteByte('+')
			case i > 0:
				out.WriteByte(',')
			}
			name := attributeNames[a.Type.String()]
			if name == "" {
				name = a.Type.String()
			}
			out.WriteString(name + "=" + escapeValue(fmt.Sprint(a.Value)))
		}
	}
	s := out.String()
	if len(s) > maxDistinguishedName {
		s = strings.ToValidUTF8(s[:maxDistinguishedName], "")
	}
	return s
}

func escapeValue(v string) string {
	var out strings.Builder
	for i, r := range v {
		edge := i == 0 && (r == ' ' || r == '#') || r == ' ' && i == len(v)-1
		switch {
		case edge || strings.ContainsRune(`,+"\<>;=`, r):
			out.WriteByte('\\')
			out.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&out, `\%02X`, r)
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}

// parseCertificates reads a text that holds nothing but certificates in PEM.
func parseCertificates(text string) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for rest := []byte(text); len(strings.TrimSpace(string(rest))) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("there is something that is not PEM")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("there is a PEM block of type %q", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
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

// encodeCertificates returns certificates as PEM.
func encodeCertificates(chain ...*x509.Certificate) string {
	var out strings.Builder
	for _, c := range chain {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return out.String()
}
