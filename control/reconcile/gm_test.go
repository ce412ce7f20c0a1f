package reconcile

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/emmansun/gmsm/smx509"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/certtest"
	"github.com/vpngw/vpngw/ike/sa"
)

// aNationalSubject is a connection of a gateway of flavor GM.
func aNationalSubject(t *testing.T) subject {
	t.Helper()
	ca := certtest.NewGM(t, "root")
	end := func(usage smx509.KeyUsage) ([]byte, control.Secret) {
		c := ca.Sign(t, "gw", usage)
		return c.Raw, control.NewSecret(string(c.Key.D.FillBytes(make([]byte, 32))))
	}
	s := aSubject()
	s.gateway.Flavor = control.FlavorGM
	s.identity = &control.GatewayIdentity{}
	s.identity.Signing, s.identity.SigningKey = end(certtest.GMSigning)
	s.identity.Encryption, s.identity.EncryptionKey = end(certtest.GMEncryption)
	s.customer.CACertificate = &control.CACertificate{ID: "ca", PEM: ca.PEM()}
	s.connection.PSK = control.Secret{}
	s.connection.IKE = control.IKEPolicy{
		Version: control.IKEv1, NegotiationMode: control.ModeMain, Authentication: control.SM3, Encryption: control.SM4,
		AuthenticationMethod: control.AuthDigitalEnvelope, LifetimeSeconds: 86400,
	}
	s.connection.IPsec = control.IPsecPolicy{Authentication: control.SM3, Encryption: control.SM4, LifetimeSeconds: 3600}
	return s
}

func TestTranslateGM(t *testing.T) {
	tr := newTranslator(true, LifetimeLimits{})
	tr.gm = map[string]GMOptions{
		"":           {PeerName: "of others"},
		"192.0.2.99": {ICVBits: 128, LocalID: GMLocalID{Address: true}, Variant: sa.GMVariant{Initiator: sa.GMPeer, NoNATTraversal: true}},
		"192.0.2.98": {GCM: true, LocalID: GMLocalID{FQDN: "gw.example"}},
	}
	for peer, check := range map[string]func(c *sa.Connection) bool{
		"198.51.100.7": func(c *sa.Connection) bool {
			return c.Initiate && c.ForceEncap && c.LocalID.Type == 0 && c.GM.PeerName == "of others" &&
				c.Children[0].Proposals[0].String() == "ESP: SM4-CBC, HMAC-SM3-96, no ESN" && c.Proposals[0].String() == "IKE: SM4-CBC, PRF-HMAC-SM3"
		},
		"192.0.2.99": func(c *sa.Connection) bool {
			return !c.Initiate && !c.ForceEncap && c.LocalID == sa.AddressIdentity(netip.MustParseAddr(address1)) && c.GM.PeerName == "" &&
				c.Children[0].Proposals[0].String() == "ESP: SM4-CBC, HMAC-SM3-128, no ESN"
		},
		"192.0.2.98": func(c *sa.Connection) bool {
			return c.LocalID == sa.FQDNIdentity("gw.example") && c.Children[0].Proposals[0].String() == "ESP: SM4-GCM-16, no ESN"
		},
	} {
		s := aNationalSubject(t)
		s.customer.IDValue = peer
		tn, err := tr.translate(s)
		if err != nil {
			t.Fatal(peer, err)
		}
		if err := tn.connection.Validate(); err != nil || !check(&tn.connection) || len(tn.connection.PSK) != 0 {
			t.Errorf("%s: %+v, %v", peer, tn.connection, err)
		}
	}
}

func TestTranslateGMErrors(t *testing.T) {
	for want, edit := range map[string]func(*subject){
		"vgw_id: the gateway has no certificate":             func(s *subject) { s.identity = nil },
		"vgw_id: lost":                                       func(s *subject) { s.identityErr = errLost{} },
		"cgw_id: the customer gateway has no ca_certificate": func(s *subject) { s.customer.CACertificate = nil },
		"cgw_id: stored certificate":                         func(s *subject) { s.customer.CACertificate = &control.CACertificate{PEM: "x"} },
		"ikepolicy: a gateway of flavor GM has sm4":          func(s *subject) { s.connection.IKE.Encryption = control.AES128 },
		"ipsecpolicy: a gateway of flavor GM has sm4":        func(s *subject) { s.connection.IPsec.Authentication = control.MD5 },
		"ipsecpolicy.udp_encapsulation: always: this peer is configured to be without NAT traversal": func(s *subject) {
			s.customer.IDValue, s.connection.IPsec.UDPEncapsulation = "192.0.2.99", control.UDPEncapsulationAlways
		},
	} {
		s := aNationalSubject(t)
		edit(&s)
		tr := newTranslator(false, LifetimeLimits{})
		tr.gm = map[string]GMOptions{"192.0.2.99": {Variant: sa.GMVariant{NoNATTraversal: true}}}
		if _, err := tr.translate(s); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

type errLost struct{}

func (errLost) Error() string { return "lost" }
