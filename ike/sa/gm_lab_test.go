package sa

import (
	"crypto/rand"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/smx509"

	"github.com/vpngw/vpngw/ipsec"
)

// gmAuthority is a certificate authority of SM2.
type gmAuthority struct {
	t    testing.TB
	cert *smx509.Certificate
	key  *sm2.PrivateKey
}

// Certificates take a while to make: all tests share some.
var gmLab = sync.OnceValue(func() (lab struct {
	ca, otherCA *gmAuthority
	a, b        *GM
},
) {
	t := gmMust{}
	lab.ca, lab.otherCA = newGMAuthority(t, "root"), newGMAuthority(t, "other root")
	lab.a, lab.b = lab.ca.end("a"), lab.ca.end("b")
	return lab
})

// gmMust is a testing.TB for what is made once for all tests.
type gmMust struct{ testing.TB }

func (gmMust) Helper()           {}
func (gmMust) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

func newGMAuthority(t testing.TB, name string) *gmAuthority {
	key, err := sm2.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &gmAuthority{t: t, key: key}
	a.cert = a.sign(name, key, func(c *smx509.Certificate) {
		c.IsCA, c.KeyUsage = true, smx509.KeyUsageCertSign|smx509.KeyUsageCRLSign
	})
	return a
}

// sign makes a certificate of a key; the first one is of the authority itself.
func (a *gmAuthority) sign(name string, key *sm2.PrivateKey, edit func(*smx509.Certificate)) *smx509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		a.t.Fatal(err)
	}
	template := &smx509.Certificate{
		SerialNumber: serial, BasicConstraintsValid: true, SignatureAlgorithm: smx509.SM2WithSM3,
		Subject:   pkix.Name{Country: []string{"CN"}, Organization: []string{"acme"}, CommonName: name},
		NotBefore: start.Add(-time.Hour), NotAfter: start.Add(1000 * time.Hour),
	}
	edit(template)
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := smx509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := smx509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// leaf makes a key and its certificate.
func (a *gmAuthority) leaf(name string, usage smx509.KeyUsage, edits ...func(*smx509.Certificate)) GMKey {
	key, err := sm2.GenerateKey(rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c := a.sign(name, key, func(c *smx509.Certificate) {
		c.KeyUsage = usage
		for _, edit := range edits {
			edit(c)
		}
	})
	return GMKey{Certificate: c.Raw, Private: key.D.FillBytes(make([]byte, 32))}
}

// end makes what one end has, which trusts the same authority.
func (a *gmAuthority) end(name string) *GM {
	return &GM{
		Signing: a.leaf(name+" sign", smx509.KeyUsageDigitalSignature), Encryption: a.leaf(name+" enc", gmEncrypts),
		Authorities: [][]byte{a.cert.Raw},
	}
}

func gmESPProposal() ipsec.Proposal {
	return ipsec.Proposal{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionSM4CBC, 0), ipsec.Integrity(ipsec.IntegrityHMACSM396), ipsec.ESN(false),
	}}
}

// useGM gives both ends a connection of the profile GM/T 0022.
func (l *lab) useGM(edit ...func(*Connection)) {
	a := connA()
	a.Version, a.PSK, a.LocalID, a.RemoteID = 1, nil, Identity{}, Identity{}
	a.GM = gmLab().a.Clone()
	a.Proposals = []ipsec.Proposal{gmPhase1Proposal()}
	a.Children[0].Proposals = []ipsec.Proposal{gmESPProposal()}
	for _, e := range edit {
		e(a)
	}
	b := mirror(a, "ba")
	variant := a.GM.Variant
	b.GM = gmLab().b.Clone()
	b.GM.Variant = variant
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
}
