package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/dataplane/route"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// aSubject is a connection of style static with the defaults of the API.
func aSubject() subject {
	return subject{
		gateway: &control.Gateway{
			Meta: control.Meta{ID: "gw"}, NetworkType: control.NetworkPublic, IPVersion: control.IPv4, HAMode: control.ActiveActive,
			LocalSubnets: prefixes("10.10.0.0/24"),
			EIPs:         [2]control.EIPBinding{{ID: eip1, Address: netip.MustParseAddr(address1)}, {ID: eip2, Address: netip.MustParseAddr(address2)}},
		},
		customer: &control.CustomerGateway{Meta: control.Meta{ID: "cgw"}, IDType: control.IDTypeIP, IDValue: "198.51.100.7"},
		connection: &control.Connection{
			Meta: control.Meta{ID: "conn"}, Slot: control.Slot1, Style: control.StyleStatic, HARole: control.RoleMaster,
			PeerSubnets: prefixes("192.168.0.0/24"), PSK: control.NewSecret("secret"),
			TunnelLocal: netip.MustParsePrefix("169.254.70.1/30"), TunnelPeer: netip.MustParsePrefix("169.254.70.2/30"),
			IKE: control.IKEPolicy{
				Version: control.IKEv2, Authentication: control.SHA2256, Encryption: control.AES128, Group: control.Group15,
				LifetimeSeconds: 86400, LocalIDType: control.IDTypeIP, PeerIDType: control.IDTypeIP,
				DPD: control.DPD{IntervalSeconds: 30, TimeoutSeconds: 15},
			},
			IPsec: control.IPsecPolicy{
				Authentication: control.SHA2256, Encryption: control.AES128, PFS: control.Group15, LifetimeSeconds: 3600,
			},
		},
		local: netip.MustParseAddr(address1),
	}
}

func TestTranslate(t *testing.T) {
	tn, err := newTranslator(true, LifetimeLimits{}).translate(aSubject())
	if err != nil {
		t.Fatal(err)
	}
	c := tn.connection
	if c.Name != "conn" || c.Local.String() != address1 || c.Remote.String() != "198.51.100.7" || !c.Initiate || !c.ForceEncap ||
		c.LocalID != sa.AddressIdentity(netip.MustParseAddr(address1)) || c.RemoteID != sa.AddressIdentity(c.Remote) ||
		string(c.PSK) != "secret" || c.Lifetime != 24*time.Hour || c.DPD != (sa.DPD{Interval: 30 * time.Second, Timeout: 15 * time.Second}) {
		t.Errorf("connection is %+v", c)
	}
	if got := c.Proposals[0].String(); got != "IKE: AES-CBC-128, HMAC-SHA2-256-128, PRF-HMAC-SHA2-256, MODP-3072 (group 15)" {
		t.Errorf("IKE proposal is %s", got)
	}
	child := c.Children[0]
	if got := child.Proposals[0].String(); got != "ESP: AES-CBC-128, HMAC-SHA2-256-128, MODP-3072 (group 15), no ESN" {
		t.Errorf("ESP proposal is %s", got)
	}
	if len(c.Children) != 1 || ipsec.SelectorList(child.Local) != "0.0.0.0/0" || ipsec.SelectorList(child.Remote) != "0.0.0.0/0" ||
		child.IfID == 0 || child.IfID != tn.device.IfID || child.ReqID == 0 || child.Lifetime.Hard != time.Hour || child.ReplayWindow != 1024 {
		t.Errorf("children are %+v", c.Children)
	}
	if len(tn.device.Name) > 15 || tn.address.String() != "169.254.70.1/30" {
		t.Errorf("device %s has address %s", tn.device.Name, tn.address)
	}
}

func TestTranslateVariants(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*subject)
		check  func(*tunnel) string // what is wrong
	}{
		{
			"behind NAT: bound to the private address, named by the public one",
			func(s *subject) { s.local = netip.MustParseAddr(behindNAT) },
			func(tn *tunnel) string {
				if tn.connection.Local.String() != behindNAT || tn.connection.LocalID != sa.AddressIdentity(netip.MustParseAddr(address1)) {
					return fmt.Sprint(tn.connection.Local, tn.connection.LocalID)
				}
				return ""
			},
		},
		{
			"a named customer gateway has no address",
			func(s *subject) {
				s.customer = &control.CustomerGateway{IDType: control.IDTypeFQDN, IDValue: "Branch.example"}
				s.connection.IKE.PeerIDType = control.IDTypeFQDN
			},
			func(tn *tunnel) string {
				if tn.connection.Remote.IsValid() || tn.connection.Initiate || tn.connection.RemoteID != sa.FQDNIdentity("Branch.example") {
					return fmt.Sprintf("%+v", tn.connection)
				}
				return ""
			},
		},
		{
			"given identities",
			func(s *subject) {
				s.connection.IKE.LocalIDType, s.connection.IKE.LocalID = control.IDTypeFQDN, "us.example"
				s.connection.IKE.PeerID = "192.0.2.9"
			},
			func(tn *tunnel) string {
				if tn.connection.LocalID != sa.FQDNIdentity("us.example") || tn.connection.RemoteID != sa.AddressIdentity(netip.MustParseAddr("192.0.2.9")) {
					return fmt.Sprint(tn.connection.LocalID, tn.connection.RemoteID)
				}
				return ""
			},
		},
		{
			"GCM and no PFS",
			func(s *subject) {
				s.connection.IKE.Encryption, s.connection.IKE.Authentication, s.connection.IKE.Group = control.AES256GCM16, control.SHA2384, control.Group20
				s.connection.IPsec.Encryption, s.connection.IPsec.PFS = control.AES128GCM128, control.PFSDisable
			},
			func(tn *tunnel) string {
				got := tn.connection.Proposals[0].String() + "; " + tn.connection.Children[0].Proposals[0].String()
				if got != "IKE: AES-GCM-16-256, PRF-HMAC-SHA2-384, ECP-384 (group 20); ESP: AES-GCM-16-128, no ESN" {
					return got
				}
				return ""
			},
		},
		{
			"IKEv1: one child a pair of subnets",
			func(s *subject) {
				s.connection.IKE.Version, s.connection.IKE.NegotiationMode = control.IKEv1, control.ModeAggressive
				s.connection.IKE.DPD.Msg = control.DPDSeqNotifyHash
				s.connection.Style = control.StylePolicy
				s.connection.PolicyRules = []control.PolicyRule{
					{Source: netip.MustParsePrefix("10.10.0.0/24"), Destinations: prefixes("192.168.0.0/24", "192.168.1.0/24")},
					{Source: netip.MustParsePrefix("10.10.1.0/24"), Destinations: prefixes("192.168.2.0/24")},
				}
			},
			func(tn *tunnel) string {
				c := &tn.connection
				var names []string
				reqIDs := map[uint32]bool{}
				for _, child := range c.Children {
					names = append(names, child.Name+"|"+ipsec.SelectorList(child.Local)+"|"+ipsec.SelectorList(child.Remote))
					reqIDs[child.ReqID] = true
				}
				want := []string{
					"10.10.0.0/24 to 192.168.0.0/24|10.10.0.0/24|192.168.0.0/24",
					"10.10.0.0/24 to 192.168.1.0/24|10.10.0.0/24|192.168.1.0/24",
					"10.10.1.0/24 to 192.168.2.0/24|10.10.1.0/24|192.168.2.0/24",
				}
				if !slices.Equal(names, want) || len(reqIDs) != 3 || !c.IKEv1() || !c.Aggressive || !c.DPD.NotifyFirst {
					return fmt.Sprintf("%+v", c)
				}
				if err := c.Validate(); err != nil {
					return err.Error()
				}
				return ""
			},
		},
		{
			"policy: one child a rule",
			func(s *subject) {
				s.connection.Style = control.StylePolicy
				s.connection.PolicyRules = []control.PolicyRule{
					{Source: netip.MustParsePrefix("10.10.0.0/24"), Destinations: prefixes("192.168.0.0/24", "192.168.1.0/24")},
					{Source: netip.MustParsePrefix("10.10.1.0/24"), Destinations: prefixes("192.168.0.0/24")},
				}
			},
			func(tn *tunnel) string {
				var got []string
				for _, c := range tn.connection.Children {
					got = append(got, c.Name+": "+ipsec.SelectorList(c.Local)+" to "+ipsec.SelectorList(c.Remote))
				}
				want := []string{
					"10.10.0.0/24: 10.10.0.0/24 to 192.168.0.0/24, 192.168.1.0/24",
					"10.10.1.0/24: 10.10.1.0/24 to 192.168.0.0/24",
				}
				if !slices.Equal(got, want) || len(tn.flows) != 3 || tn.address.IsValid() ||
					tn.connection.Children[0].ReqID == tn.connection.Children[1].ReqID {
					return fmt.Sprint(got, tn.flows, tn.address)
				}
				return ""
			},
		},
		{
			"standby",
			func(s *subject) {
				s.gateway.HAMode, s.connection.HARole, s.connection.Slot = control.ActiveStandby, control.RoleSlave, control.Slot2
			},
			func(tn *tunnel) string {
				if !tn.standby || tn.connection.LocalID != sa.AddressIdentity(netip.MustParseAddr(address2)) {
					return fmt.Sprint(tn.standby, tn.connection.LocalID)
				}
				return ""
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := aSubject()
			tc.change(&s)
			tn, err := newTranslator(false, LifetimeLimits{}).translate(s)
			if err != nil {
				t.Fatal(err)
			}
			if wrong := tc.check(tn); wrong != "" {
				t.Errorf("got %s", wrong)
			}
		})
	}
}

// A connection says when its ESP goes in UDP; otherwise its data plane does.
func TestTranslateEncapsulation(t *testing.T) {
	for _, tc := range []struct {
		wanted        control.UDPEncapsulation
		daemon        bool
		plane         ipsec.Plane
		force, demand bool
	}{
		{"", true, ipsec.PlaneUserspace, true, false},
		{control.UDPEncapsulationAuto, true, ipsec.PlaneUserspace, true, false},
		{control.UDPEncapsulationAuto, true, ipsec.PlaneKernel, false, false},
		{control.UDPEncapsulationAuto, false, ipsec.PlaneUserspace, false, false},
		{control.UDPEncapsulationAlways, false, ipsec.PlaneUserspace, true, true},
		{control.UDPEncapsulationAlways, true, ipsec.PlaneKernel, true, true},
		{control.UDPEncapsulationNAT, true, ipsec.PlaneUserspace, false, false},
	} {
		tr := newTranslator(tc.daemon, LifetimeLimits{})
		tr.plane = func(ipsec.Proposal, netip.Addr, bool) (ipsec.Plane, string, error) { return tc.plane, "", nil }
		s := aSubject()
		s.connection.IPsec.UDPEncapsulation = tc.wanted
		tn, err := tr.translate(s)
		if err != nil {
			t.Fatal(err)
		}
		if c := tn.connection; c.ForceEncap != tc.force || c.RequireEncap != tc.demand {
			t.Errorf("%+v: asked for is %t, required %t", tc, c.ForceEncap, c.RequireEncap)
		}
	}
}

// What ESP goes in is told with its reason.
func TestEncapsulationInForce(t *testing.T) {
	s := aSubject()
	quiet, err := newTranslator(false, LifetimeLimits{}).translate(s)
	if err != nil {
		t.Fatal(err)
	}
	asking, err := newTranslator(true, LifetimeLimits{}).translate(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		ike          sa.IKEStatus
		tunnel       *tunnel
		name, reason string
	}{
		{sa.IKEStatus{}, nil, "none", "no NAT"},
		{sa.IKEStatus{}, quiet, "none", "no NAT"},
		{sa.IKEStatus{}, asking, "none", "the peer has not agreed"},
		{sa.IKEStatus{Encap: true}, asking, "udp", "the data plane in user space asks"},
		{sa.IKEStatus{Encap: true}, quiet, "udp", "before they knew"},
		{sa.IKEStatus{Encap: true, NATRemote: true}, quiet, "udp", "in front of the peer"},
		{sa.IKEStatus{Encap: true, NATLocal: true, NATRemote: true}, asking, "udp", "in front of this gateway"},
	} {
		if e := encapsulation(&tc.ike, tc.tunnel); e.Name != tc.name || !strings.Contains(e.Reason, tc.reason) {
			t.Errorf("%+v: %+v, want %s since %q", tc.ike, e, tc.name, tc.reason)
		}
	}
}

// What goes beyond the API reaches the key exchange.
func TestTranslateAdditions(t *testing.T) {
	s := aSubject()
	k, p := &s.connection.IKE, &s.connection.IPsec
	k.Encryption, k.Group, k.Additional = control.ChaCha20Poly1305, control.Group31, control.MLKEM768
	p.Encryption, p.PFS, p.Additional = control.ChaCha20Poly1305, control.Group31, control.MLKEM768
	k.PPKID, k.PPKRequired, s.connection.PPK = "one", true, control.NewSecret("0x"+strings.Repeat("0a", 32))
	tn, err := newTranslator(false, LifetimeLimits{}).translate(s)
	if err != nil {
		t.Fatal(err)
	}
	c := tn.connection
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if got := c.Proposals[0].String(); got != "IKE: CHACHA20-POLY1305, PRF-HMAC-SHA2-256, CURVE25519 (group 31), ML-KEM-768 (method 36)" {
		t.Errorf("IKE proposal is %s", got)
	}
	if got := c.Children[0].Proposals[0].String(); got != "ESP: CHACHA20-POLY1305, CURVE25519 (group 31), no ESN, ML-KEM-768 (method 36)" {
		t.Errorf("ESP proposal is %s", got)
	}
	if c.PPK.ID != "one" || !c.PPK.Required || string(c.PPK.Key) != strings.Repeat("\n", 32) {
		t.Errorf("the PPK is %q, required %t, %x", c.PPK.ID, c.PPK.Required, c.PPK.Key)
	}
	k.Additional, p.Additional, k.PPKID = control.NoAdditional, "", ""
	if tn, err = newTranslator(false, LifetimeLimits{}).translate(s); err != nil || tn.connection.PPK != nil || len(tn.connection.Proposals[0].Additional()) > 0 {
		t.Errorf("without: %+v, %v", tn, err)
	}
}

func TestTranslateRefuses(t *testing.T) {
	for _, tc := range []struct {
		want   string
		change func(*subject)
	}{
		{"ikepolicy.encryption_algorithm", func(s *subject) { s.connection.IKE.Encryption = control.SM4 }},
		{"ikepolicy.authentication_algorithm", func(s *subject) { s.connection.IKE.Authentication = control.SM3 }},
		{"ikepolicy.dh_group", func(s *subject) { s.connection.IKE.Group = "group22" }},
		{"ipsecpolicy.encryption_algorithm", func(s *subject) { s.connection.IPsec.Encryption = control.SM4 }},
		{"ipsecpolicy.authentication_algorithm", func(s *subject) { s.connection.IPsec.Authentication = control.SM3 }},
		{"ipsecpolicy.pfs", func(s *subject) { s.connection.IPsec.PFS = "" }},
		{"ikepolicy.ike_version", func(s *subject) { s.connection.IKE.Version = "v3" }},
		{"ikepolicy.local_id", func(s *subject) { s.connection.IKE.LocalID = "gateway" }},
		{"ikepolicy.peer_id", func(s *subject) { s.connection.IKE.PeerIDType = "any" }},
		{"ikepolicy.additional_key_exchange", func(s *subject) { s.connection.IKE.Additional = "frodo" }},
		{"ipsecpolicy.additional_key_exchange", func(s *subject) { s.connection.IPsec.Additional = "frodo" }},
		{"ipsecpolicy.udp_encapsulation", func(s *subject) { s.connection.IPsec.UDPEncapsulation = "tcp" }},
		{"ppk", func(s *subject) { s.connection.IKE.PPKID, s.connection.PPK = "one", control.NewSecret("0xsecret") }},
		{"psk", func(s *subject) { s.connection.PSK = control.Secret{} }},
		{"style: bgp", func(s *subject) { s.connection.Style = control.StyleBGP }},
		{"style", func(s *subject) { s.connection.Style = "" }},
		{"policy_rules", func(s *subject) { s.connection.Style = control.StylePolicy }},
	} {
		s := aSubject()
		tc.change(&s)
		if _, err := newTranslator(false, LifetimeLimits{}).translate(s); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("error %v, want one that begins with %q", err, tc.want)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error holds the PSK: %v", err)
		}
	}
}

func TestNumbers(t *testing.T) {
	n := newNumbers(5, 3) // small, so that hashes meet
	seen := make(map[uint32]bool)
	for _, name := range []string{"a", "b", "c"} {
		number := n.of(name)
		if number < 5 || number > 7 || seen[number] || n.of(name) != number {
			t.Errorf("number of %s is %d", name, number)
		}
		seen[number] = true
	}
	if number := n.of("d"); number != 0 {
		t.Errorf("a fourth of three is %d", number)
	}
	a := n.of("a")
	n.retain(func(name string) bool { return name != "b" })
	if n.of("a") != a || n.of("d") == 0 {
		t.Error("a kept name changed its number, or a released one is not free")
	}
}

// text prints a state as ip(8) would, one object a line.
func text(s route.State) string {
	var b strings.Builder
	for _, a := range s.Addresses {
		fmt.Fprintln(&b, a)
	}
	tables := make(map[int]int) // hashes say nothing
	number := func(table int) int {
		if tables[table] == 0 {
			tables[table] = len(tables) + 1
		}
		return tables[table]
	}
	for _, r := range s.Rules {
		fmt.Fprintf(&b, "%d from %s table %d\n", r.Priority, r.From, number(r.Table))
	}
	var lines []string
	for _, r := range s.Routes {
		line := fmt.Sprintf("%d: %s %s metric %d", number(r.Table), r.Type, r.Dst, r.Metric)
		for _, hop := range r.NextHops {
			line += " dev " + hop.Link
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return b.String() + strings.Join(lines, "\n") + "\n"
}

func TestRoutes(t *testing.T) {
	tn := func(id string, standby bool, address string, flows ...flow) *tunnel {
		out := &tunnel{id: id, gatewayID: "gw", standby: standby, flows: flows, device: ipsec.Interface{Name: "dev-" + id}}
		out.connection.Local, out.connection.Remote = netip.MustParseAddr(behindNAT), netip.MustParseAddr("198.51.100.7")
		if address != "" {
			out.address = netip.MustParsePrefix(address)
		}
		return out
	}
	f := func(source, destination string) flow {
		return flow{netip.MustParsePrefix(source), netip.MustParsePrefix(destination)}
	}
	for _, tc := range []struct {
		name    string
		tunnels []*tunnel
		up      string
		want    string
	}{
		{"nothing", nil, "", "\n"},
		{
			"one tunnel, down",
			[]*tunnel{tn("a", false, "169.254.1.1/30", f("10.0.0.0/24", "192.168.0.0/24"), f("169.254.1.1/32", "192.168.0.0/24"))},
			"",
			`169.254.1.1/30 on dev-a
7008 from 10.0.0.0/24 table 1
7000 from 169.254.1.1/32 table 2
1: blackhole 192.168.0.0/24 metric 4294967294
1: unicast 192.168.0.0/24 metric 100 dev dev-a
2: blackhole 192.168.0.0/24 metric 4294967294
2: unicast 192.168.0.0/24 metric 100 dev dev-a
`,
		},
		{
			"two that share",
			[]*tunnel{tn("b", false, "", f("10.0.0.0/24", "192.168.0.0/24")), tn("a", false, "", f("10.0.0.0/24", "192.168.0.0/24"))},
			"ab",
			`7008 from 10.0.0.0/24 table 1
1: blackhole 192.168.0.0/24 metric 4294967294
1: unicast 192.168.0.0/24 metric 100 dev dev-a dev dev-b
`,
		},
		{
			"standby takes over",
			[]*tunnel{tn("a", false, "", f("10.0.0.0/24", "192.168.0.0/24")), tn("b", true, "", f("10.0.0.0/24", "192.168.0.0/24"))},
			"b",
			`7008 from 10.0.0.0/24 table 1
1: blackhole 192.168.0.0/24 metric 4294967294
1: unicast 192.168.0.0/24 metric 100 dev dev-b
`,
		},
		{
			"everything goes over the tunnel, save this side and the tunnel itself",
			[]*tunnel{tn("a", false, "", f("10.10.0.0/16", "0.0.0.0/0"), f("10.20.0.0/16", "0.0.0.0/0"))},
			"a",
			`7016 from 10.10.0.0/16 table 1
7016 from 10.20.0.0/16 table 2
1: blackhole 0.0.0.0/0 metric 4294967294
1: throw 10.10.0.0/16 metric 100
1: throw 10.20.0.0/16 metric 100
1: throw 198.51.100.7/32 metric 100
1: unicast 0.0.0.0/0 metric 100 dev dev-a
2: blackhole 0.0.0.0/0 metric 4294967294
2: throw 10.10.0.0/16 metric 100
2: throw 10.20.0.0/16 metric 100
2: unicast 0.0.0.0/0 metric 100 dev dev-a
`,
		},
		{
			"IPv6",
			[]*tunnel{tn("a", false, "", f("2001:db8:1::/48", "2001:db8:2::/48"))},
			"",
			`7080 from 2001:db8:1::/48 table 1
1: blackhole 2001:db8:2::/48 metric 4294967294
1: unicast 2001:db8:2::/48 metric 100 dev dev-a
`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newRouting().state(tc.tunnels, func(id string) carriage {
				if strings.Contains(tc.up, id) {
					return carries
				}
				return idle
			})
			if got := text(s.State); got != tc.want {
				t.Errorf("state is\n%swant\n%s", got, tc.want)
			}
		})
	}
}

func TestBlame(t *testing.T) {
	flows := []flow{{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("192.168.0.0/24")}}
	a := &tunnel{id: "a", flows: flows, address: netip.MustParsePrefix("169.254.1.1/30"), device: ipsec.Interface{Name: "dev-a"}}
	b := &tunnel{id: "b", flows: flows, device: ipsec.Interface{Name: "dev-b"}}
	s := newRouting().state([]*tunnel{a, b}, func(string) carriage { return carries })
	rule, dst := s.Rules[0].String(), s.Routes[0].String()
	faults := make(map[string]int)
	rest := s.blame(errors.Join(
		errors.New("address 169.254.1.1/30 on dev-a: add: no"),
		errors.Join(errors.New("rule "+rule+": add: no"), errors.New("route "+dst+": no")),
		errors.New("list links: no"),
	), func(id string, _ error) { faults[id]++ })
	if faults["a"] != 3 || faults["b"] != 2 || rest == nil || rest.Error() != "list links: no" {
		t.Errorf("faults are %v, the rest is %v", faults, rest)
	}
}

func TestLifetimesAreLimited(t *testing.T) {
	for _, tc := range []struct {
		name               string
		limits             LifetimeLimits
		wantIKE, wantChild time.Duration
	}{
		{"none", LifetimeLimits{}, 86400 * time.Second, 3600 * time.Second},
		{"shorter", LifetimeLimits{IKE: time.Minute, Child: time.Second}, time.Minute, time.Second},
		{"longer", LifetimeLimits{IKE: 48 * time.Hour, Child: 2 * time.Hour}, 86400 * time.Second, 3600 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := aSubject()
			s.connection.IKE.LifetimeSeconds, s.connection.IPsec.LifetimeSeconds = 86400, 3600
			tn, err := newTranslator(true, tc.limits).translate(s)
			if err != nil {
				t.Fatal(err)
			}
			if tn.connection.Lifetime != tc.wantIKE || tn.connection.Children[0].Lifetime.Hard != tc.wantChild {
				t.Errorf("IKE %s, child %s", tn.connection.Lifetime, tn.connection.Children[0].Lifetime.Hard)
			}
		})
	}
}

// Where peers may send us goes to connections of IKEv2 that we begin.
func TestTranslateRedirectTargets(t *testing.T) {
	for version, want := range map[control.IKEVersion]int{control.IKEv1: 0, control.IKEv2: 1} {
		s := aSubject()
		s.connection.IKE.Version = version
		tr := (&Options{RedirectTo: prefixes("198.51.100.0/24")}).newTranslator()
		tn, err := tr.translate(s)
		if err != nil || !tn.connection.Initiate || len(tn.connection.RedirectTo) != want {
			t.Errorf("%s: %v, %v", version, tn.connection.RedirectTo, err)
		}
	}
}
