package sa

import (
	"crypto/ecdsa"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/smx509"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ike/wire"
)

const (
	// maxGMCertificate bounds a certificate in octets, and maxGMCertificates how
	// many a message may hold: the two of its sender and those above them.
	maxGMCertificate  = 8192
	maxGMCertificates = 8
)

// parseGMCertificate reads a certificate of an SM2 key that is signed with SM2 and
// SM3.
func parseGMCertificate(der []byte) (*smx509.Certificate, error) {
	if len(der) > maxGMCertificate {
		return nil, fmt.Errorf("a certificate of %d octets, more than %d", len(der), maxGMCertificate)
	}
	c, err := smx509.ParseCertificate(der)
	switch {
	case err != nil:
		return nil, errors.New("a certificate that cannot be read")
	case c.SignatureAlgorithm != smx509.SM2WithSM3 || !sm2.IsSM2PublicKey(c.PublicKey):
		return nil, errors.New("a certificate that is not of SM2 with SM3")
	}
	return c, nil
}

// gmOwn is our own certificates and keys, ready for use.
type gmOwn struct {
	signing, encryption       *smx509.Certificate
	signingKey, encryptionKey *sm2.PrivateKey
}

// own reads our certificates and keys.
func (g *GM) own() (own *gmOwn, err error) {
	own = &gmOwn{}
	if own.signing, own.signingKey, err = g.Signing.parse(); err != nil {
		return nil, fmt.Errorf("GM/T 0022: signing: %w", err)
	}
	if own.encryption, own.encryptionKey, err = g.Encryption.parse(); err != nil {
		return nil, fmt.Errorf("GM/T 0022: encryption: %w", err)
	}
	return own, nil
}

func (k *GMKey) parse() (*smx509.Certificate, *sm2.PrivateKey, error) {
	c, err := parseGMCertificate(k.Certificate)
	if err != nil {
		return nil, nil, err
	}
	key, err := sm2.NewPrivateKey(k.Private)
	if err != nil {
		return nil, nil, errors.New("the key is not one of SM2")
	}
	if public, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || !key.PublicKey.Equal(public) {
		return nil, nil, errors.New("the key is not that of the certificate")
	}
	return c, key, nil
}

// wipe overwrites the copies of the keys that parse has made.
func (o *gmOwn) wipe() {
	if o == nil {
		return
	}
	for _, k := range []*sm2.PrivateKey{o.signingKey, o.encryptionKey} {
		if k != nil {
			clear(k.D.Bits())
		}
	}
}

// payloads returns our certificates.
func (o *gmOwn) payloads() []isakmp.Payload {
	return []isakmp.Payload{
		&isakmp.Cert{Encoding: isakmp.CertX509Signature, Data: o.signing.Raw},
		&isakmp.Cert{Encoding: isakmp.CertX509KeyExchange, Data: o.encryption.Raw},
	}
}

// inForce returns a diagnosis when one of our certificates is not valid now.
func (o *gmOwn) inForce(now time.Time) *Diagnosis {
	for name, c := range map[string]*smx509.Certificate{"signing": o.signing, "encryption": o.encryption} {
		if now.Before(c.NotBefore) || now.After(c.NotAfter) {
			return &Diagnosis{
				Reason: ReasonAuthentication, Cause: CauseOwnValidity, Exchange: gmExchange.String(), Parameter: "validity of our " + name + " certificate",
				Ours: validity(c), Detail: "our certificate is not in force",
			}
		}
	}
	return nil
}

func validity(c *smx509.Certificate) string {
	return c.NotBefore.UTC().Format(time.RFC3339) + " to " + c.NotAfter.UTC().Format(time.RFC3339)
}

// gmExchange is the only mode of phase 1 in the profile.
const gmExchange = isakmp.IdentityProtection

// gmPeer is the certificates of the other end.
type gmPeer struct {
	signing, encryption *smx509.Certificate
	encryptionBody      []byte                // of the payload of the encryption certificate
	above               []*smx509.Certificate // of their issuers
}

// readGMPeer tells the certificates of a message apart: by their encoding, and where
// that does not, by what their keys are for.
func readGMPeer(list []*isakmp.Cert) (*gmPeer, error) {
	if n := len(list); n < 2 || n > maxGMCertificates {
		return nil, fmt.Errorf("%d certificates, not 2 to %d", n, maxGMCertificates)
	}
	p := &gmPeer{}
	for _, payload := range list {
		c, err := parseGMCertificate(payload.Data)
		if err != nil {
			return nil, err
		}
		signs := payload.Encoding == isakmp.CertX509Signature
		encrypts := payload.Encoding == isakmp.CertX509KeyExchange
		if signs == encrypts {
			signs, encrypts = c.KeyUsage&gmSigns != 0, c.KeyUsage&gmEncrypts != 0
		}
		switch {
		case c.IsCA:
			p.above = append(p.above, c)
		case signs && p.signing == nil:
			p.signing = c
		case encrypts && p.encryption == nil:
			p.encryption = c
			if p.encryptionBody, err = isakmp.Body(payload); err != nil {
				return nil, err
			}
		default:
			p.above = append(p.above, c)
		}
	}
	if p.signing == nil || p.encryption == nil {
		return nil, errors.New("no pair of a signing and an encryption certificate")
	}
	return p, nil
}

// What keys may be for.
const (
	gmSigns    = smx509.KeyUsageDigitalSignature | smx509.KeyUsageContentCommitment
	gmEncrypts = smx509.KeyUsageKeyEncipherment | smx509.KeyUsageDataEncipherment | smx509.KeyUsageKeyAgreement
)

func (p *gmPeer) signingKey() *ecdsa.PublicKey    { return p.signing.PublicKey.(*ecdsa.PublicKey) }
func (p *gmPeer) encryptionKey() *ecdsa.PublicKey { return p.encryption.PublicKey.(*ecdsa.PublicKey) }

// trusted checks the peer's certificates against what a connection asks for; nil
// where all is well. What costs least comes first.
func (p *gmPeer) trusted(g *GM, now time.Time) *Diagnosis {
	fail := func(cause Cause, parameter, ours, theirs, detail string) *Diagnosis {
		return &Diagnosis{
			Reason: ReasonAuthentication, Cause: cause, Exchange: gmExchange.String(), Parameter: parameter, Ours: ours, Theirs: theirs, Detail: detail,
		}
	}
	for _, each := range []struct {
		name  string
		c     *smx509.Certificate
		usage smx509.KeyUsage
		wants string
	}{
		{"signing certificate", p.signing, smx509.KeyUsageDigitalSignature, "digitalSignature"},
		{"encryption certificate", p.encryption, gmEncrypts, "keyEncipherment, dataEncipherment or keyAgreement"},
	} {
		switch {
		case each.c.IsCA:
			return fail(CauseKeyUsage, "peer's "+each.name, "not of a certificate authority", "of a certificate authority", "an end may not prove itself as an authority")
		case each.c.KeyUsage&each.usage == 0:
			return fail(CauseKeyUsage, "key usage of the peer's "+each.name, each.wants, usageText(each.c.KeyUsage), "the peer's certificate is for another use")
		case now.Before(each.c.NotBefore) || now.After(each.c.NotAfter):
			return fail(CauseValidity, "validity of the peer's "+each.name, "now "+now.UTC().Format(time.RFC3339), validity(each.c), "the peer's certificate is not in force")
		}
	}
	if name := nameOf(p.signing.RawSubject); g.PeerName != "" && name != g.PeerName {
		return &Diagnosis{Reason: ReasonConfigID, Cause: CauseSubject, Exchange: gmExchange.String(), Parameter: "subject of the peer's certificate", Ours: g.PeerName, Theirs: name}
	}
	roots, above := smx509.NewCertPool(), smx509.NewCertPool()
	var names []string
	for _, der := range g.Authorities {
		if c, err := parseGMCertificate(der); err == nil {
			roots.AddCert(c)
			names = append(names, nameOf(c.RawSubject))
		}
	}
	for _, c := range p.above {
		above.AddCert(c)
	}
	for _, each := range []struct {
		name string
		c    *smx509.Certificate
	}{{"signing certificate", p.signing}, {"encryption certificate", p.encryption}} {
		_, err := each.c.Verify(smx509.VerifyOptions{
			Roots: roots, Intermediates: above, CurrentTime: now, KeyUsages: []smx509.ExtKeyUsage{smx509.ExtKeyUsageAny},
		})
		if err != nil {
			d := fail(CauseTrust, "certificate authority", strings.Join(names, "; "), nameOf(each.c.RawIssuer), "the peer's "+each.name+" does not lead to the authority that is configured for it")
			var invalid smx509.CertificateInvalidError
			if errors.As(err, &invalid) && invalid.Reason == smx509.Expired {
				d.Cause, d.Parameter, d.Detail = CauseValidity, "validity of the certificate authority", "an authority above the peer's "+each.name+" is not in force"
			}
			return d
		}
	}
	return nil
}

func usageText(u smx509.KeyUsage) string {
	var list []string
	for i, name := range []string{
		"digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement", "keyCertSign", "cRLSign", "encipherOnly", "decipherOnly",
	} {
		if u&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// names checks that an identity is one that the peer's certificate proves: its
// subject, or an address or a name in it. An address may also be the one that the
// connection is configured with.
func (p *gmPeer) names(c *Connection, id *isakmp.ID) *Diagnosis {
	theirs := identityV1(id)
	mismatch := func(ours string) *Diagnosis {
		return &Diagnosis{
			Reason: ReasonConfigID, Cause: CauseSubject, Exchange: gmExchange.String(), Parameter: "peer identity", Ours: ours, Theirs: theirs.String(),
			Detail: "the peer's identity is not that of its certificate",
		}
	}
	if c.RemoteID.Type != 0 && c.RemoteID != theirs {
		d := mismatch(c.RemoteID.String())
		d.Detail = ""
		return d
	}
	switch id.IDType {
	case isakmp.IDDERASN1DN:
		if sameName(id.Data, p.signing.RawSubject) {
			return nil
		}
	case isakmp.IDIPv4Addr, isakmp.IDIPv6Addr:
		a, ok := netip.AddrFromSlice(id.Data)
		if ok && (a == c.Remote || p.holds(a)) {
			return nil
		}
	case isakmp.IDFQDN:
		if c.RemoteID == theirs || slices.Contains(p.signing.DNSNames, string(id.Data)) || p.signing.Subject.CommonName == string(id.Data) {
			return nil
		}
	default:
	}
	return mismatch(nameOf(p.signing.RawSubject))
}

// holds reports whether the peer's certificate is of an address.
func (p *gmPeer) holds(a netip.Addr) bool {
	for _, ip := range p.signing.IPAddresses {
		if have, ok := netip.AddrFromSlice(ip); ok && have.Unmap() == a.Unmap() {
			return true
		}
	}
	return false
}

// sameName compares two names attribute by attribute, values as strings: devices
// write a name in an identity and in a certificate as strings of different types.
func sameName(a, b []byte) bool {
	var x, y pkix.RDNSequence
	restX, errX := asn1.Unmarshal(a, &x)
	restY, errY := asn1.Unmarshal(b, &y)
	if errX != nil || errY != nil || len(restX) > 0 || len(restY) > 0 || len(x) == 0 {
		return false
	}
	return slices.EqualFunc(x, y, func(r, s pkix.RelativeDistinguishedNameSET) bool {
		return slices.EqualFunc(r, s, func(v, w pkix.AttributeTypeAndValue) bool {
			textV, okV := v.Value.(string)
			textW, okW := w.Value.(string)
			return okV && okW && v.Type.Equal(w.Type) && textV == textW
		})
	})
}

// attributeNames are short names of attributes (RFC 4514, section 3).
var attributeNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.9": "STREET", "2.5.4.10": "O", "2.5.4.11": "OU",
	"0.9.2342.19200300.100.1.1": "UID", "0.9.2342.19200300.100.1.25": "DC",
}

// nameOf writes a name in the order of its encoding, as "C=CN,O=acme,CN=gw", fit
// for a log line: what is no printable text is in hexadecimal, and a long name is
// cut.
func nameOf(der []byte) string {
	var sequence pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &sequence); err != nil || len(rest) > 0 {
		return hexadecimal(string(der))
	}
	var parts []string
	for _, set := range sequence {
		for _, a := range set {
			kind := attributeNames[a.Type.String()]
			if kind == "" {
				kind = a.Type.String()
			}
			parts = append(parts, kind+"="+nameValue(fmt.Sprint(a.Value)))
		}
	}
	name := strings.Join(parts, ",")
	if len(name) > longestName {
		name = strings.ToValidUTF8(name[:longestName], "") + "…"
	}
	return name
}

// nameValue escapes a value as RFC 4514, section 2.4, has it.
func nameValue(v string) string {
	var out strings.Builder
	for _, r := range v {
		switch {
		case strings.ContainsRune(`,+"\<>;=`, r):
			out.WriteByte('\\')
			out.WriteRune(r)
		case r < ' ' || r == 0x7f || r > 0xffff:
			fmt.Fprintf(&out, `\%02X`, r)
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}

// nameIdentity returns a subject as an identity.
func nameIdentity(subject []byte) Identity {
	return Identity{Type: wire.IDDERASN1DN, Data: string(subject)}
}
