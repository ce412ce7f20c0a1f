package sa

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

func TestValidate(t *testing.T) {
	if err := connA().Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Connection){
		"name: empty":                     func(c *Connection) { c.Name = "" },
		"local":                           func(c *Connection) { c.Local = netip.Addr{} },
		"not of the family":               func(c *Connection) { c.Remote = netip.MustParseAddr("2001:db8::1") },
		"reqid: zero":                     func(c *Connection) { c.Children[0].ReqID = 0 },
		"needed to initiate":              func(c *Connection) { c.Remote = netip.Addr{} },
		"identities":                      func(c *Connection) { c.RemoteID = Identity{} },
		"pre-shared key":                  func(c *Connection) { c.PSK = nil },
		"negative":                        func(c *Connection) { c.DPD.Interval = -time.Second },
		"at least one":                    func(c *Connection) { c.Children = nil },
		"IKE proposals: 0":                func(c *Connection) { c.Proposals = nil },
		"IKE proposals: one is for ESP":   func(c *Connection) { c.Proposals = []ipsec.Proposal{espProposal()} },
		"no DH group":                     func(c *Connection) { c.Proposals[0] = c.Proposals[0].Without(ipsec.TransformGroup) },
		"no pseudorandom function":        func(c *Connection) { c.Proposals[0] = c.Proposals[0].Without(ipsec.TransformPRF) },
		"IKE proposals: no integrity":     func(c *Connection) { c.Proposals[0] = c.Proposals[0].Without(ipsec.TransformIntegrity) },
		"no encryption":                   func(c *Connection) { c.Proposals[0] = c.Proposals[0].Without(ipsec.TransformEncryption) },
		"group 22":                        func(c *Connection) { c.Proposals[0].Transforms[3] = ipsec.Group(22) },
		"proposals of their own":          func(c *Connection) { addESP(c, ipsec.Encryption(ipsec.EncryptionAESCBC, 128)) },
		"takes no integrity":              func(c *Connection) { addESP(c, ipsec.Integrity(ipsec.IntegrityHMACSHA196)) },
		"ESP proposals: PRF-HMAC":         func(c *Connection) { addESP(c, ipsec.PRF(ipsec.PRFHMACSHA1)) },
		"child \"net\": selectors: 0":     func(c *Connection) { c.Children[0].Local = nil },
		"selectors: 200":                  func(c *Connection) { c.Children[0].Local = make([]ipsec.TrafficSelector, 200) },
		"is not valid":                    func(c *Connection) { c.Children[0].Remote = make([]ipsec.TrafficSelector, 1) },
		"name or reqid 1 occurs twice":    func(c *Connection) { c.Children = append(c.Children, c.Children[0]) },
		"encryption algorithm 12 (64-bit": func(c *Connection) { c.Proposals[0].Transforms[0].KeyBits = 64 },
	} {
		c := connA()
		change(c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

func addESP(c *Connection, t ipsec.Transform) {
	p := &c.Children[0].Proposals[0]
	p.Transforms = append(p.Transforms, t)
}

func TestIdentityString(t *testing.T) {
	for want, id := range map[string]Identity{
		"ipv4 192.0.2.1":            AddressIdentity(addrA),
		"ipv6 2001:db8::1":          AddressIdentity(netip.MustParseAddr("2001:db8::1")),
		"fqdn gw.example":           FQDNIdentity("gw.example"),
		"fqdn 0x6120620a":           FQDNIdentity("a b\n"),
		"email a@example":           {wire.IDRFC822Addr, "a@example"},
		"key id 0x00ff":             {wire.IDKeyID, "\x00\xff"},
		"distinguished name 0x30":   {wire.IDDERASN1DN, "0"},
		"identity of type 99 0x78":  {99, "x"},
		"identity of type 1 0x0102": {wire.IDIPv4Addr, "\x01\x02"},
		"fqdn 0x" + strings.Repeat("41", 256) + " and 44 octets more":         FQDNIdentity(strings.Repeat("A", 300)),
		"general name 0x" + strings.Repeat("41", 256) + " and 44 octets more": {wire.IDDERASN1GN, strings.Repeat("A", 300)},
	} {
		if got := id.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if AddressIdentity(netip.MustParseAddr("::ffff:192.0.2.1")) != AddressIdentity(addrA) {
		t.Error("a mapped address is another identity")
	}
}

// TestStates walks each step that a life may have, and no other.
func TestStates(t *testing.T) {
	all := []State{Connecting, Established, Rekeying, Rekeyed, Deleting, Deleted}
	allowed := map[State]string{
		Connecting:  "established rekeyed deleting deleted",
		Established: "rekeying rekeyed deleting deleted",
		Rekeying:    "established rekeyed deleting deleted",
		Rekeyed:     "established deleting deleted",
		Deleting:    "deleted",
		Deleted:     "",
	}
	for _, from := range all {
		var to []string
		for _, next := range all {
			if next.follows(from) {
				to = append(to, next.String())
			}
		}
		if got := strings.Join(to, " "); got != allowed[from] {
			t.Errorf("from %s to %s, want %s", from, got, allowed[from])
		}
	}
	if State(9).follows(Deleted) || State(9).String() != "state 9" {
		t.Error("a state that is none")
	}
}
