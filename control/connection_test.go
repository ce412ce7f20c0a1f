package control

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/control/store"
)

func TestCreateConnectionDefaults(t *testing.T) {
	w := newWorld(t)
	g, peer := w.gateway(), w.peer("198.51.100.7")
	v, err := w.CreateConnection(t.Context(), project, connectionRequest(g.ID, peer.ID))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(v.Name, "vpn-") || len(v.Name) != 8 || v.Style != StyleStatic || v.HARole != RoleMaster || v.Slot != Slot1 ||
		v.EnableNQA || v.EnableHub || v.EnterpriseProjectID != "0" || v.State != ConnectionPendingCreate || v.VgwIP != eip1 {
		t.Errorf("defaults are %+v", v)
	}
	if want := (IKEPolicy{
		Version: IKEv2, Authentication: SHA2256, Encryption: AES128, Group: Group15, AuthenticationMethod: "pre-share",
		LifetimeSeconds: 86400, LocalIDType: IDTypeIP, PeerIDType: IDTypeIP,
		DPD: DPD{IntervalSeconds: 30, TimeoutSeconds: 15, Msg: "seq-hash-notify"},
	}); v.IKE != want {
		t.Errorf("IKE policy %+v, want %+v", v.IKE, want)
	}
	if want := (IPsecPolicy{
		Authentication: SHA2256, Encryption: AES128, PFS: Group15, TransformProtocol: "esp", LifetimeSeconds: 3600, EncapsulationMode: "tunnel",
	}); v.IPsec != want {
		t.Errorf("IPsec policy %+v, want %+v", v.IPsec, want)
	}
	if v.LocalID != "203.0.113.1" || v.PeerID != "198.51.100.7" {
		t.Errorf("ids %s and %s", v.LocalID, v.PeerID)
	}
	local, remote := v.TunnelLocal, v.TunnelPeer
	if local.Bits() != 30 || local.Masked() != remote.Masked() || remote.Addr() != local.Addr().Next() || local.Addr() != local.Masked().Addr().Next() {
		t.Errorf("tunnel %s and %s, want the two hosts of a /30", local, remote)
	}
	if !v.PSK.IsZero() {
		t.Error("the view has the key")
	}
	if got := w.stored(v.ID); got.PSK.Reveal() != goodPSK {
		t.Errorf("the reconciler reads the key %q", got.PSK.Reveal())
	}
}

func TestConnectionToNamedPeer(t *testing.T) {
	w := newWorld(t)
	g, peer := w.gateway(), w.peer("branch.example.com")
	v := w.connection(g.ID, peer.ID)
	if v.IKE.PeerIDType != IDTypeFQDN || v.PeerID != "branch.example.com" {
		t.Errorf("peer id %s of type %s", v.PeerID, v.IKE.PeerIDType)
	}
	req := connectionRequest(g.ID, w.peer("other.example.com").ID)
	req.IKEPolicy = &IKEPolicyRequest{PeerID: new("branch.example.com")}
	_, err := w.CreateConnection(t.Context(), project, req)
	wantInvalid(t, err, "ikepolicy.peer_id", "same one on the same vgw_ip")
	req.IKEPolicy = &IKEPolicyRequest{PeerIDType: new("ip")}
	_, err = w.CreateConnection(t.Context(), project, req)
	wantInvalid(t, err, "ikepolicy.peer_id", "required")
	req.IKEPolicy = &IKEPolicyRequest{PeerIDType: new("ip"), PeerID: new("192.0.2.1")}
	if v, err = w.CreateConnection(t.Context(), project, req); err != nil || v.PeerID != "192.0.2.1" {
		t.Errorf("peer id %s, %v", v.PeerID, err)
	}
	req = connectionRequest(g.ID, w.peer("third.example.com").ID)
	req.IKEPolicy = &IKEPolicyRequest{IKEVersion: new("v1")}
	_, err = w.CreateConnection(t.Context(), project, req)
	wantInvalid(t, err, "ikepolicy.phase1_negotiation_mode", "aggressive")
}

func TestCreateConnectionRules(t *testing.T) {
	policy := func(r *ConnectionCreate) {
		r.Style = new("policy")
		r.PolicyRules = []PolicyRuleRequest{{Source: "10.10.0.0/24", Destination: []string{"192.168.10.0/24"}}}
	}
	rules := func(n int) []PolicyRuleRequest {
		return many(n, func(i int) PolicyRuleRequest {
			return PolicyRuleRequest{Source: fmt.Sprintf("10.10.%d.0/24", i), Destination: []string{"192.168.10.0/24"}}
		})
	}
	subnets := func(n int) []string { return many(n, func(i int) string { return fmt.Sprintf("192.168.%d.0/24", i) }) }
	psk := func(s string) func(*ConnectionCreate) {
		return func(r *ConnectionCreate) { r.PSK = new(NewSecret(s)) }
	}
	peers := func(s ...string) func(*ConnectionCreate) {
		return func(r *ConnectionCreate) { r.PeerSubnets = s }
	}
	ike := func(k IKEPolicyRequest) func(*ConnectionCreate) {
		return func(r *ConnectionCreate) { r.IKEPolicy = &k }
	}
	dpd := func(d DPDRequest) func(*ConnectionCreate) { return ike(IKEPolicyRequest{DPD: &d}) }
	ipsec := func(k IPsecPolicyRequest) func(*ConnectionCreate) {
		return func(r *ConnectionCreate) { r.IPsecPolicy = &k }
	}
	tunnel := func(local, peer string) func(*ConnectionCreate) {
		return func(r *ConnectionCreate) {
			if local != "" {
				r.TunnelLocalAddress = &local
			}
			if peer != "" {
				r.TunnelPeerAddress = &peer
			}
		}
	}
	for _, test := range []struct {
		name       string
		edit       func(*ConnectionCreate)
		field, why string
	}{
		{"no gateway", func(r *ConnectionCreate) { r.VgwID = nil }, "vgw_id", "required"},
		{"no gateway address", func(r *ConnectionCreate) { r.VgwIP = nil }, "vgw_ip", "required"},
		{"gateway address of another", func(r *ConnectionCreate) { r.VgwIP = new(eip3) }, "vgw_ip", eip1},
		{"gateway address itself", func(r *ConnectionCreate) { r.VgwIP = new("203.0.113.1") }, "vgw_ip", eip1},
		{"no customer gateway", func(r *ConnectionCreate) { r.CgwID = nil }, "cgw_id", "required"},
		{"bad name", func(r *ConnectionCreate) { r.Name = new("a b") }, "name", "letters"},
		{"unknown style", func(r *ConnectionCreate) { r.Style = new("ospf") }, "style", "policy, static, bgp, policy-template"},
		{"style in upper case", func(r *ConnectionCreate) { r.Style = new("STATIC") }, "", ""},
		{"unknown role", func(r *ConnectionCreate) { r.HARole = new("primary") }, "ha_role", "master, slave"},
		{"role is ignored on active-active", func(r *ConnectionCreate) { r.HARole = new("slave") }, "", ""},
		{"21 tags", func(r *ConnectionCreate) { r.Tags = many(21, func(i int) Tag { return Tag{Key: fmt.Sprint(i)} }) }, "tags", "at most 20"},

		{"no peer subnets", func(r *ConnectionCreate) { r.PeerSubnets = nil }, "peer_subnets", "required"},
		{"no peer subnets with policy", func(r *ConnectionCreate) { policy(r); r.PeerSubnets = nil }, "peer_subnets", "required"},
		{"empty peer subnets", peers(), "peer_subnets", "required"},
		{"50 peer subnets", peers(subnets(50)...), "", ""},
		{"51 peer subnets", peers(subnets(51)...), "peer_subnets", "at most 50"},
		{"peer subnets of the other family", func(r *ConnectionCreate) { r.PeerSubnetsV6 = []string{"2001:db8::/32"} }, "peer_subnets_v6", "absent"},
		{"peer subnet with host bits", peers("192.168.10.1/24"), "peer_subnets[0]", "192.168.10.0/24"},
		{"peer subnet twice", peers("192.168.10.0/24", "192.168.10.0/24"), "peer_subnets[1]", "twice"},
		{"peer subnet reserved by the cloud", peers("100.64.0.0/10"), "peer_subnets[0]", "reserved"},
		{"peer subnet around a reserved one", peers("96.0.0.0/5"), "peer_subnets[0]", "100.64.0.0/10"},
		{"peer subnet just below the reserved one", peers("100.63.255.0/24"), "", ""},
		{"peer subnet just above the reserved one", peers("100.128.0.0/24"), "", ""},
		{"peer subnet reserved in 214", peers("214.1.0.0/16"), "peer_subnets[0]", "214.0.0.0/8"},
		{"peer subnet of everything", peers("0.0.0.0/0"), "peer_subnets[0]", "reserved"},
		{"peer subnet of tunnel addresses", peers("169.254.1.0/24"), "peer_subnets[0]", "169.254.0.0/16"},
		{"peer subnet of multicast", peers("239.0.0.0/8"), "peer_subnets[0]", "reserved"},
		{"peer subnet equal to a local one", peers("10.10.0.0/24"), "peer_subnets[0]", "local subnet"},
		{"peer subnet inside a subnet of the VPC", peers("10.10.0.128/25"), "peer_subnets[0]", subnetID},
		{"peer subnet around the local one", peers("10.10.0.0/16"), "", ""},

		{"static with rules", func(r *ConnectionCreate) { r.PolicyRules = rules(1) }, "policy_rules", "absent with style static"},
		{"static with an empty list of rules", func(r *ConnectionCreate) { r.PolicyRules = rules(0) }, "", ""},
		{"policy", policy, "", ""},
		{"policy without rules", func(r *ConnectionCreate) { r.Style = new("policy") }, "policy_rules", "required"},
		{"5 rules", func(r *ConnectionCreate) { policy(r); r.PolicyRules = rules(5) }, "", ""},
		{"6 rules", func(r *ConnectionCreate) { policy(r); r.PolicyRules = rules(6) }, "policy_rules", "at most 5"},
		{"rules of the other family", func(r *ConnectionCreate) { policy(r); r.PolicyRulesV6 = rules(1) }, "policy_rules_v6", "absent"},
		{"rule without source", func(r *ConnectionCreate) { policy(r); r.PolicyRules[0].Source = "" }, "policy_rules[0].source", "IPv4 network"},
		{"rule with host bits", func(r *ConnectionCreate) { policy(r); r.PolicyRules[0].Source = "10.10.0.1/24" }, "policy_rules[0].source", "host bits"},
		{"rule of IPv6", func(r *ConnectionCreate) { policy(r); r.PolicyRules[0].Source = "2001:db8::/32" }, "policy_rules[0].source", "IPv4 network"},
		{"rule without destination", func(r *ConnectionCreate) { policy(r); r.PolicyRules[0].Destination = nil }, "policy_rules[0].destination", "required"},
		{"rule with 50 destinations", func(r *ConnectionCreate) { policy(r); r.PolicyRules[0].Destination = subnets(50) }, "", ""},
		{"rule with 51 destinations", func(r *ConnectionCreate) { policy(r); r.PolicyRules[0].Destination = subnets(51) }, "policy_rules[0].destination", "at most 50"},
		{"rule with a bad destination", func(r *ConnectionCreate) {
			policy(r)
			r.PolicyRules[0].Destination = []string{"192.168.1.0/24", "x"}
		}, "policy_rules[0].destination[1]", "IPv4 network"},
		{"two rules of one source", func(r *ConnectionCreate) { policy(r); r.PolicyRules = append(r.PolicyRules, r.PolicyRules[0]) }, "policy_rules[1].source", "another rule"},

		{"hub without bgp", func(r *ConnectionCreate) { r.EnableHub = new(true) }, "enable_hub", "style static"},
		{"probing without static", func(r *ConnectionCreate) { policy(r); r.EnableNQA = new(true) }, "enable_nqa", "style policy"},
		{"bgp without ASN", func(r *ConnectionCreate) { r.Style = new("bgp") }, "cgw_id", "bgp_asn"},
		{"template on a fixed gateway", func(r *ConnectionCreate) { r.Style = new("policy-template") }, "style", "NonFixedIP"},

		{"tunnel", tunnel("169.254.70.1/30", "169.254.70.2/30"), "", ""},
		{"tunnel, the other way round", tunnel("169.254.70.226/30", "169.254.70.225/30"), "", ""},
		{"tunnel, our end", tunnel("169.254.70.2/30", ""), "", ""},
		{"tunnel, the peer's end", tunnel("", "169.254.70.2/30"), "", ""},
		{"tunnel of other bits", tunnel("169.254.70.1/29", "169.254.70.2/29"), "tunnel_local_address", "prefix length 30"},
		{"tunnel without bits", tunnel("169.254.70.1", ""), "tunnel_local_address", "prefix length 30"},
		{"tunnel outside", tunnel("169.253.70.1/30", ""), "tunnel_local_address", "169.254.0.0/16"},
		{"tunnel in the reserved network", tunnel("169.254.195.1/30", ""), "tunnel_local_address", "169.254.195.0/24"},
		{"tunnel below the reserved network", tunnel("169.254.194.254/30", ""), "", ""},
		{"tunnel above the reserved network", tunnel("169.254.196.1/30", ""), "", ""},
		{"tunnel, network address", tunnel("169.254.70.0/30", ""), "tunnel_local_address", "host address of 169.254.70.0/30"},
		{"tunnel, broadcast address", tunnel("", "169.254.70.3/30"), "tunnel_peer_address", "host address of 169.254.70.0/30"},
		{"tunnel of two networks", tunnel("169.254.70.1/30", "169.254.70.5/30"), "tunnel_peer_address", "169.254.70.0/30"},
		{"tunnel of one address", tunnel("169.254.70.1/30", "169.254.70.1/30"), "tunnel_peer_address", "other host"},

		{"no key", func(r *ConnectionCreate) { r.PSK = nil }, "psk", "required"},
		{"key of 7 characters", psk("Abcde-1"), "psk", "8 to 128"},
		{"key of 8 characters", psk("Abcdef-1"), "", ""},
		{"key of 128 characters", psk(strings.Repeat("Abcdef-1", 16)), "", ""},
		{"key of 129 characters", psk(strings.Repeat("Abcdef-1", 16) + "a"), "psk", "8 to 128"},
		{"key of two classes", psk("abcdefg1"), "psk", "at least 3"},
		{"key of upper, lower, digits", psk("Abcdefg1"), "", ""},
		{"key of lower, digits, specials", psk("abcdef-1"), "", ""},
		{"key of upper, digits, specials", psk("ABCDEF-1"), "", ""},
		{"key of upper, lower, specials", psk("Abcdef-g"), "", ""},
		{"key with every special", psk("Aa~!@#$%^*()-_+={ },./:;"), "", ""},
		{"key with another special", psk("Abcdef-1&"), "psk", "may hold"},
		{"key beyond ASCII", psk("Abcdef-1é"), "psk", "may hold"},

		{"IKE version", ike(IKEPolicyRequest{IKEVersion: new("v3")}), "ikepolicy.ike_version", "v1, v2"},
		{"mode is ignored with v2", ike(IKEPolicyRequest{Phase1NegotiationMode: new("aggressive")}), "", ""},
		{"mode", ike(IKEPolicyRequest{Phase1NegotiationMode: new("quick")}), "ikepolicy.phase1_negotiation_mode", "main, aggressive"},
		{"IKE integrity", ike(IKEPolicyRequest{AuthenticationAlgorithm: new("sha1")}), "", ""},
		{"IKE integrity of GM", ike(IKEPolicyRequest{AuthenticationAlgorithm: new("sm3")}), "ikepolicy.authentication_algorithm", "sha2-512"},
		{"IKE encryption", ike(IKEPolicyRequest{EncryptionAlgorithm: new("aes-256-gcm-16")}), "", ""},
		{"IKE encryption by its other name", ike(IKEPolicyRequest{EncryptionAlgorithm: new("aes-128-gcm-128")}), "", ""},
		{"IKE encryption of GM", ike(IKEPolicyRequest{EncryptionAlgorithm: new("sm4")}), "ikepolicy.encryption_algorithm", "aes-256-gcm-16"},
		{"IKE group", ike(IKEPolicyRequest{DHGroup: new("group21")}), "", ""},
		{"IKE group none", ike(IKEPolicyRequest{DHGroup: new("disable")}), "ikepolicy.dh_group", "group14"},
		{"IKE group unknown", ike(IKEPolicyRequest{DHGroup: new("group22")}), "ikepolicy.dh_group", "group14"},
		{"authentication method", ike(IKEPolicyRequest{AuthenticationMethod: new("pre-share")}), "", ""},
		{"authentication method of GM", ike(IKEPolicyRequest{AuthenticationMethod: new("digital-envelope-v2")}), "ikepolicy.authentication_method", "pre-share"},
		{"IKE lifetime 59", ike(IKEPolicyRequest{LifetimeSeconds: new(59)}), "ikepolicy.lifetime_seconds", "60 to 604800"},
		{"IKE lifetime 60", ike(IKEPolicyRequest{LifetimeSeconds: new(60)}), "", ""},
		{"IKE lifetime 604800", ike(IKEPolicyRequest{LifetimeSeconds: new(604800)}), "", ""},
		{"IKE lifetime 604801", ike(IKEPolicyRequest{LifetimeSeconds: new(604801)}), "ikepolicy.lifetime_seconds", "60 to 604800"},
		{"local id", ike(IKEPolicyRequest{LocalID: new("192.0.2.1")}), "", ""},
		{"local id empty", ike(IKEPolicyRequest{LocalID: new("")}), "", ""},
		{"local id is no address", ike(IKEPolicyRequest{LocalID: new("gw")}), "ikepolicy.local_id", "IPv4 or IPv6 address"},
		{"local id type", ike(IKEPolicyRequest{LocalIDType: new("dn")}), "ikepolicy.local_id_type", "ip, fqdn"},
		{"local id by name", ike(IKEPolicyRequest{LocalIDType: new("fqdn"), LocalID: new("Gw.Example")}), "", ""},
		{"local id by name, without", ike(IKEPolicyRequest{LocalIDType: new("fqdn")}), "ikepolicy.local_id", "required with local_id_type fqdn"},
		{"local id of 255 characters", ike(IKEPolicyRequest{LocalIDType: new("fqdn"), LocalID: new(strings.Repeat("a", 255))}), "", ""},
		{"local id of 256 characters", ike(IKEPolicyRequest{LocalIDType: new("fqdn"), LocalID: new(strings.Repeat("a", 256))}), "ikepolicy.local_id", "1 to 255"},
		{"local id with a blank", ike(IKEPolicyRequest{LocalIDType: new("fqdn"), LocalID: new("a b")}), "ikepolicy.local_id", "no spaces"},
		{"peer id by name, without", ike(IKEPolicyRequest{PeerIDType: new("fqdn")}), "ikepolicy.peer_id", "required with peer_id_type fqdn"},
		{"peer id type any", ike(IKEPolicyRequest{PeerIDType: new("any")}), "ikepolicy.peer_id_type", "ip, fqdn"},
		{"DPD timeout 1", dpd(DPDRequest{Timeout: new(1)}), "ikepolicy.dpd.timeout", "2 to 60"},
		{"DPD timeout 2", dpd(DPDRequest{Timeout: new(2)}), "", ""},
		{"DPD timeout 60", dpd(DPDRequest{Timeout: new(60)}), "", ""},
		{"DPD timeout 61", dpd(DPDRequest{Timeout: new(61)}), "ikepolicy.dpd.timeout", "2 to 60"},
		{"DPD interval 9", dpd(DPDRequest{Interval: new(9)}), "ikepolicy.dpd.interval", "10 to 3600"},
		{"DPD interval 10", dpd(DPDRequest{Interval: new(10)}), "", ""},
		{"DPD interval 3600", dpd(DPDRequest{Interval: new(3600)}), "", ""},
		{"DPD interval 3601", dpd(DPDRequest{Interval: new(3601)}), "ikepolicy.dpd.interval", "10 to 3600"},
		{"DPD message", dpd(DPDRequest{Msg: new("hash")}), "ikepolicy.dpd.msg", "seq-hash-notify"},

		{"ESP integrity", ipsec(IPsecPolicyRequest{AuthenticationAlgorithm: new("sha2-384")}), "", ""},
		{"ESP integrity unknown", ipsec(IPsecPolicyRequest{AuthenticationAlgorithm: new("sha3")}), "ipsecpolicy.authentication_algorithm", "sha2-512"},
		{"ESP encryption unknown", ipsec(IPsecPolicyRequest{EncryptionAlgorithm: new("null")}), "ipsecpolicy.encryption_algorithm", "aes-128"},
		{"PFS off", ipsec(IPsecPolicyRequest{PFS: new("disable")}), "", ""},
		{"PFS unknown", ipsec(IPsecPolicyRequest{PFS: new("group3")}), "ipsecpolicy.pfs", "disable"},
		{"transform protocol", ipsec(IPsecPolicyRequest{TransformProtocol: new("ah")}), "ipsecpolicy.transform_protocol", "esp"},
		{"encapsulation mode", ipsec(IPsecPolicyRequest{EncapsulationMode: new("transport")}), "ipsecpolicy.encapsulation_mode", "tunnel"},
		{"ESP lifetime 29", ipsec(IPsecPolicyRequest{LifetimeSeconds: new(29)}), "ipsecpolicy.lifetime_seconds", "30 to 604800"},
		{"ESP lifetime 30", ipsec(IPsecPolicyRequest{LifetimeSeconds: new(30)}), "", ""},
		{"ESP lifetime 604800", ipsec(IPsecPolicyRequest{LifetimeSeconds: new(604800)}), "", ""},
		{"ESP lifetime 604801", ipsec(IPsecPolicyRequest{LifetimeSeconds: new(604801)}), "ipsecpolicy.lifetime_seconds", "30 to 604800"},

		{"weak algorithms", func(r *ConnectionCreate) {
			r.IKEPolicy = &IKEPolicyRequest{EncryptionAlgorithm: new("3des"), AuthenticationAlgorithm: new("md5"), DHGroup: new("group1")}
			r.IPsecPolicy = &IPsecPolicyRequest{EncryptionAlgorithm: new("3des"), AuthenticationAlgorithm: new("md5"), PFS: new("group5")}
		}, "", ""},

		{"GCM with IKEv1", ike(IKEPolicyRequest{IKEVersion: new("v1"), EncryptionAlgorithm: new("aes-256-gcm-16")}), "ikepolicy.encryption_algorithm", "not defined for ike_version v1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			g := w.gateway()
			req := connectionRequest(g.ID, w.peer("198.51.100.7").ID)
			test.edit(&req)
			before := w.revision()
			_, err := w.CreateConnection(t.Context(), project, req)
			wantInvalid(t, err, test.field, test.why)
			if refused := test.field != ""; refused && w.revision() != before {
				t.Error("a refused request changed the store")
			}
			if err != nil && req.PSK != nil && len(req.PSK.Reveal()) > 7 && strings.Contains(err.Error(), req.PSK.Reveal()) {
				t.Errorf("the refusal shows the key: %v", err)
			}
		})
	}
}

// Rules of gateways that this release does not make yet.
func TestConnectionRulesOfOtherGateways(t *testing.T) {
	er := func(g *Gateway) { g.AttachmentType, g.ERID, g.LocalSubnets = AttachER, "er-1", nil }
	ipv6 := func(g *Gateway) {
		g.IPVersion, g.LocalSubnets = IPv6, []netip.Prefix{netip.MustParsePrefix("2001:db8::/48")}
	}
	standby := func(g *Gateway) { g.HAMode = ActiveStandby }
	nonFixed := func(g *Gateway) { g.Flavor = FlavorProfessional1NonFixedIP }
	gm := func(g *Gateway) { g.Flavor, g.Certificate = FlavorGM, &GatewayCertificate{ID: "cert"} }
	var authority *CACertificate // of the peer
	rule6 := []PolicyRuleRequest{{Source: "2001:db8::/48", Destination: []string{"2001:db8:1::/48"}}}
	for _, test := range []struct {
		name       string
		gateway    func(*Gateway)
		edit       func(*ConnectionCreate)
		field, why string
	}{
		{"er, static", er, func(*ConnectionCreate) {}, "", ""},
		{"er, static without peer subnets", er, func(r *ConnectionCreate) { r.PeerSubnets = nil }, "peer_subnets", "required"},
		{"er, policy with peer subnets", er, func(r *ConnectionCreate) {
			r.Style, r.PolicyRules = new("policy"), []PolicyRuleRequest{{Source: "10.0.0.0/8", Destination: []string{"192.168.0.0/16"}}}
		}, "peer_subnets", "absent with attachment_type er and style policy"},
		{"er, policy", er, func(r *ConnectionCreate) {
			r.Style, r.PolicyRules = new("policy"), []PolicyRuleRequest{{Source: "10.0.0.0/8", Destination: []string{"192.168.0.0/16"}}}
			r.PeerSubnets = nil
		}, "", ""},
		{"er, bgp with peer subnets", er, func(r *ConnectionCreate) { r.Style = new("bgp") }, "peer_subnets", "absent"},

		{"ipv6 with peer subnets of IPv4", ipv6, func(*ConnectionCreate) {}, "peer_subnets", "absent with a gateway of ip_version ipv6"},
		{"ipv6", ipv6, func(r *ConnectionCreate) { r.PeerSubnets, r.PeerSubnetsV6 = nil, []string{"2001:db8:1::/48"} }, "", ""},
		{"ipv6, IPv4 among them", ipv6, func(r *ConnectionCreate) { r.PeerSubnets, r.PeerSubnetsV6 = nil, []string{"10.0.0.0/8"} }, "peer_subnets_v6[0]", "IPv6 network"},
		{"outside of IPv6, the peer of IPv4", func(g *Gateway) { g.EIPs[0].Address = netip.MustParseAddr("2001:db8:f::1") }, func(*ConnectionCreate) {}, "cgw_id", "not of the family"},
		{"ipv6, policy", ipv6, func(r *ConnectionCreate) {
			r.Style, r.PeerSubnets, r.PeerSubnetsV6, r.PolicyRulesV6 = new("policy"), nil, []string{"2001:db8:1::/48"}, rule6
		}, "", ""},
		{"ipv6, policy of IPv4", ipv6, func(r *ConnectionCreate) {
			r.Style, r.PeerSubnets, r.PeerSubnetsV6, r.PolicyRules = new("policy"), nil, []string{"2001:db8:1::/48"}, rule6
		}, "policy_rules", "absent with a gateway of ip_version ipv6"},

		{"active-standby, first address", standby, func(*ConnectionCreate) {}, "", ""},
		{"active-standby, first address as slave", standby, func(r *ConnectionCreate) { r.HARole = new("slave") }, "ha_role", "must be master"},
		{"active-standby, second address", standby, func(r *ConnectionCreate) { r.VgwIP, r.HARole = new(eip2), new("slave") }, "", ""},
		{"active-standby, second address by default", standby, func(r *ConnectionCreate) { r.VgwIP = new(eip2) }, "ha_role", "must be slave"},

		{"template to a peer with an address", nonFixed, func(r *ConnectionCreate) { r.Style = new("policy-template") }, "cgw_id", "fqdn"},

		{"GM, of IKEv2", gm, func(r *ConnectionCreate) { r.IKEPolicy = &IKEPolicyRequest{IKEVersion: new("v2")} }, "ikepolicy.ike_version", "one of v1"},
		{"GM, aggressive", gm, func(r *ConnectionCreate) { r.IKEPolicy = &IKEPolicyRequest{Phase1NegotiationMode: new("aggressive")} }, "ikepolicy.phase1_negotiation_mode", "one of main"},
		{"GM, of AES", gm, func(r *ConnectionCreate) { r.IPsecPolicy = &IPsecPolicyRequest{EncryptionAlgorithm: new("aes-128")} }, "ipsecpolicy.encryption_algorithm", "one of sm4"},
		{"GM, of SHA-2", gm, func(r *ConnectionCreate) {
			r.IKEPolicy = &IKEPolicyRequest{AuthenticationAlgorithm: new("sha2-256")}
		}, "ikepolicy.authentication_algorithm", "one of sm3"},
		{"GM, by key", gm, func(r *ConnectionCreate) { r.IKEPolicy = &IKEPolicyRequest{AuthenticationMethod: new("pre-share")} }, "ikepolicy.authentication_method", "digital-envelope-v2"},
		{"GM without key, ignoring identity, group and PFS", gm, func(r *ConnectionCreate) {
			r.PSK = nil
			r.IKEPolicy = &IKEPolicyRequest{LocalIDType: new("?"), LocalID: new("?"), DHGroup: new("?")}
			r.IPsecPolicy = &IPsecPolicyRequest{PFS: new("?")}
		}, "", ""},
		{"GM without a certificate of the gateway", func(g *Gateway) { gm(g); g.Certificate = nil }, func(*ConnectionCreate) {}, "vgw_id", "import it first"},
		{"GM without an authority of the peer", gm, func(*ConnectionCreate) { authority = nil }, "cgw_id", "no ca_certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			g := w.gateway()
			w.alterGateway(g.ID, test.gateway)
			peer := w.peer("198.51.100.7")
			req := connectionRequest(g.ID, peer.ID)
			authority = &CACertificate{ID: "ca"}
			test.edit(&req)
			w.alterPeer(peer.ID, func(c *CustomerGateway) { c.CACertificate = authority })
			_, err := w.CreateConnection(t.Context(), project, req)
			wantInvalid(t, err, test.field, test.why)
		})
	}
}

// A private gateway is reached at addresses of its own, and named by them.
func TestConnectionOfPrivateGateway(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(func(r *GatewayCreate) {
		r.NetworkType, r.EIP1, r.EIP2 = new("private"), nil, nil
		r.AccessPrivateIP1, r.AccessPrivateIP2 = new("10.10.0.10"), new("10.10.0.11")
	})
	v := w.connection(g.ID, w.peer("10.99.0.1").ID, func(r *ConnectionCreate) { r.VgwIP = new("10.10.0.11") })
	if v.Slot != Slot2 || v.VgwIP != "10.10.0.11" || v.LocalID != "10.10.0.11" || v.PeerID != "10.99.0.1" {
		t.Errorf("slot %d, vgw_ip %s, ids %s and %s", v.Slot, v.VgwIP, v.LocalID, v.PeerID)
	}
	_, err := w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{EIPID1: new(eip1)})
	wantInvalid(t, err, "eip_id_1", "absent with network_type private")
	req := connectionRequest(g.ID, w.peer("10.99.0.2").ID)
	_, err = w.CreateConnection(t.Context(), project, req)
	wantInvalid(t, err, "vgw_ip", "10.10.0.10 and 10.10.0.11")
}

func TestConnectionDuplicates(t *testing.T) {
	w := newWorld(t)
	g, peer := w.gateway(), w.peer("198.51.100.7")
	first := w.connection(g.ID, peer.ID, func(r *ConnectionCreate) { r.TunnelLocalAddress = new("169.254.70.1/30") })
	try := func(edit func(*ConnectionCreate)) error {
		req := connectionRequest(g.ID, peer.ID)
		edit(&req)
		_, err := w.CreateConnection(t.Context(), project, req)
		return err
	}
	wantInvalid(t, try(func(*ConnectionCreate) {}), "cgw_id", first.ID)
	twin := w.peer("198.51.100.7")
	wantInvalid(t, try(func(r *ConnectionCreate) { r.CgwID = &twin.ID }), "cgw_id", "same id_value")
	other := w.peer("198.51.100.8")
	wantInvalid(t, try(func(r *ConnectionCreate) { r.CgwID = &other.ID; r.TunnelLocalAddress = new("169.254.70.2/30") }),
		"tunnel_local_address", first.ID)
	wantInvalid(t, try(func(r *ConnectionCreate) { r.CgwID = &other.ID; r.TunnelPeerAddress = new("169.254.70.2/30") }),
		"tunnel_peer_address", first.ID)
	// The other address of the gateway has its interfaces apart.
	if err := try(func(r *ConnectionCreate) { r.VgwIP = new(eip2); r.TunnelLocalAddress = new("169.254.70.1/30") }); err != nil {
		t.Errorf("the pair on the second address: %v", err)
	}
}

func TestConnectionRefersToItsProjectOnly(t *testing.T) {
	w := newWorld(t)
	g, peer := w.gateway(), w.peer("198.51.100.7")
	for _, req := range []ConnectionCreate{connectionRequest(nobody, peer.ID), connectionRequest(g.ID, nobody)} {
		_, err := w.CreateConnection(t.Context(), project, req)
		wantRefusal(t, err, CodeNotFound, "resource not found")
	}
	_, err := w.CreateConnection(t.Context(), "another-project", connectionRequest(g.ID, peer.ID))
	wantRefusal(t, err, CodeNotFound)
}

func TestConnectionQuotas(t *testing.T) {
	w := newWorld(t)
	w.limits = Limits{Connections: 2, GatewayConnections: map[Flavor]int{FlavorProfessional1: 1}}
	g := w.gateway()
	w.connection(g.ID, w.peer("198.51.100.1").ID)
	req := connectionRequest(g.ID, w.peer("198.51.100.2").ID)
	_, err := w.CreateConnection(t.Context(), project, req)
	wantRefusal(t, err, CodeInvalid, "quota exceeded: connections of a gateway of flavor Professional1, at most 1")
	w.limits.GatewayConnections[FlavorProfessional1] = 3
	w.connection(g.ID, *req.CgwID)
	_, err = w.CreateConnection(t.Context(), project, connectionRequest(g.ID, w.peer("198.51.100.3").ID))
	wantRefusal(t, err, CodeInvalid, "quota exceeded: connections, at most 2")
}

func TestConnectionGuards(t *testing.T) {
	w := newWorld(t)
	g, peer, other := w.gateway(), w.peer("198.51.100.7"), w.peer("198.51.100.8")
	c := w.connection(g.ID, peer.ID)
	change := func() (create, update, remove error) {
		_, create = w.CreateConnection(t.Context(), project, connectionRequest(g.ID, other.ID))
		_, update = w.UpdateConnection(t.Context(), project, c.ID, ConnectionUpdate{Name: new("n")})
		return create, update, w.DeleteConnection(t.Context(), project, c.ID)
	}

	if _, err := w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{Name: new("n")}); err != nil {
		t.Fatal(err)
	}
	for _, err := range collect(change()) {
		wantRefusal(t, err, CodeForbidden, "resource (type=GATEWAY, ID="+g.ID+") is not ready, currently UPDATING")
	}
	w.settleGateway(project, g.ID, false)

	w.alterGateway(g.ID, func(g *Gateway) { g.Frozen = true })
	for _, err := range collect(change()) {
		wantRefusal(t, err, CodeForbidden, "currently FREEZED")
	}
	w.alterGateway(g.ID, func(g *Gateway) { g.Frozen = false })

	w.alterConnection(c.ID, func(c *Connection) { c.Frozen = true })
	_, err := w.UpdateConnection(t.Context(), project, c.ID, ConnectionUpdate{Name: new("n")})
	wantRefusal(t, err, CodeInvalid, "invalid request: ILLEGAL not allowed update vpnConnection")
	wantRefusal(t, w.DeleteConnection(t.Context(), project, c.ID), CodeInvalid, "invalid request: ILLEGAL not allowed delete vpnConnection")
	w.alterConnection(c.ID, func(c *Connection) { c.Frozen = false })

	if _, err := w.UpdateConnection(t.Context(), project, c.ID, ConnectionUpdate{Name: new("n")}); err != nil {
		t.Fatal(err)
	}
	_, err = w.UpdateConnection(t.Context(), project, c.ID, ConnectionUpdate{Name: new("m")})
	wantRefusal(t, err, CodeForbidden, "resource (type=CONNECTION, ID="+c.ID+") is not ready, currently UPDATING")
	wantRefusal(t, w.DeleteConnection(t.Context(), project, c.ID), CodeForbidden, "currently UPDATING")
	wantRefusal(t, w.ResetConnection(t.Context(), project, c.ID), CodeForbidden, "currently UPDATING")

	w.settleConnection(c.ID, ConnectionActive)
	if err := w.DeleteConnection(t.Context(), project, c.ID); err != nil {
		t.Fatal(err)
	}
	v, err := w.ShowConnection(t.Context(), project, c.ID)
	if err != nil || v.State != ConnectionPendingDelete {
		t.Errorf("state %s, %v; want PENDING_DELETE", v.State, err)
	}
	wantRefusal(t, w.DeleteConnection(t.Context(), project, c.ID), CodeForbidden, "currently DELETING")
	if err := w.objects.FinalizeConnection(t.Context(), project, c.ID); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, w.DeleteConnection(t.Context(), project, c.ID), CodeNotFound, "resource not found")
}

func collect(errs ...error) []error { return errs }

func TestResetConnection(t *testing.T) {
	w := newWorld(t)
	c := w.connection(w.gateway().ID, w.peer("198.51.100.7").ID)
	for i, test := range []struct {
		state   ConnectionState
		allowed bool
	}{{ConnectionActive, true}, {ConnectionDown, true}, {ConnectionError, true}, {ConnectionUnknown, false}} {
		w.settleConnection(c.ID, test.state)
		before := w.stored(c.ID)
		err := w.ResetConnection(t.Context(), project, c.ID)
		after := w.stored(c.ID)
		if !test.allowed {
			wantRefusal(t, err, CodeForbidden, "currently UNKNOWN")
			continue
		}
		v, showErr := w.ShowConnection(t.Context(), project, c.ID)
		if err != nil || showErr != nil || after.Resets != int64(i+1) || v.State != test.state {
			t.Errorf("%s: %v, %d resets, then %s", test.state, err, after.Resets, v.State)
		}
		if after.Generation != before.Generation || !after.PSK.Equal(before.PSK) || after.UpdatedAt != before.UpdatedAt {
			t.Errorf("%s: the reset changed the configuration", test.state)
		}
	}
	wantRefusal(t, w.ResetConnection(t.Context(), project, nobody), CodeNotFound)
}

func TestListConnections(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	other := w.gateway(func(r *GatewayCreate) {
		r.EIP1.ID, r.EIP2.ID, r.EnterpriseProjectID = new(eip3), new(eip4), new(nobody)
	})
	peer := w.peer("198.51.100.7")
	a := w.connection(g.ID, peer.ID)
	b := w.connection(g.ID, peer.ID, func(r *ConnectionCreate) { r.VgwIP = new(eip2) })
	c := w.connection(other.ID, peer.ID, func(r *ConnectionCreate) { r.VgwIP = new(eip3) })
	for _, test := range []struct {
		name   string
		filter ConnectionFilter
		want   []string
	}{
		{"all", ConnectionFilter{}, []string{c.ID, b.ID, a.ID}},
		{"by id", ConnectionFilter{ID: b.ID}, []string{b.ID}},
		{"by gateway", ConnectionFilter{GatewayID: g.ID}, []string{b.ID, a.ID}},
		{"by address", ConnectionFilter{VgwIP: eip2}, []string{b.ID}},
		{"by enterprise project", ConnectionFilter{EnterpriseProjectIDs: []string{nobody, "x"}}, []string{c.ID}},
		{"by what is not there", ConnectionFilter{VgwIP: nobody}, nil},
		{"first page", ConnectionFilter{Page: Page{Limit: new(1)}}, []string{c.ID}},
		{"rest", ConnectionFilter{Page: Page{Marker: FormatTime(c.CreatedAt)}}, []string{b.ID, a.ID}},
		{"page of a filter", ConnectionFilter{GatewayID: g.ID, Page: Page{Limit: new(5), Marker: FormatTime(b.CreatedAt)}}, []string{a.ID}},
	} {
		l, err := w.ListConnections(t.Context(), project, test.filter)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		var got []string
		for _, v := range l.Items {
			got = append(got, v.ID)
			if !v.PSK.IsZero() || v.Gateway.ID != v.GatewayID || v.CustomerGateway.ID != peer.ID {
				t.Errorf("%s: view %+v", test.name, v)
			}
		}
		if !slices.Equal(got, test.want) || l.Total != 3 {
			t.Errorf("%s: %v of %d, want %v of 3", test.name, got, l.Total, test.want)
		}
	}
	_, err := w.ListConnections(t.Context(), project, ConnectionFilter{Page: Page{Limit: new(2001)}})
	wantInvalid(t, err, "limit", "0 to 2000")
	if l, err := w.ListConnections(t.Context(), "another-project", ConnectionFilter{}); err != nil || len(l.Items) != 0 || l.Total != 0 {
		t.Errorf("another project sees %d of %d connections, %v", len(l.Items), l.Total, err)
	}
}

func TestConnectionState(t *testing.T) {
	for _, test := range []struct {
		name   string
		spec   Meta
		status ConnectionStatus
		want   ConnectionState
	}{
		{"new", Meta{Generation: 1}, ConnectionStatus{}, ConnectionPendingCreate},
		{"applied", Meta{Generation: 1}, ConnectionStatus{Observed: 1, Applied: true, State: ConnectionDown}, ConnectionDown},
		{"up", Meta{Generation: 1}, ConnectionStatus{Observed: 1, Applied: true, State: ConnectionActive}, ConnectionActive},
		{"refused by an engine", Meta{Generation: 1}, ConnectionStatus{Observed: 1, State: ConnectionError}, ConnectionError},
		{"changed before it was applied", Meta{Generation: 2}, ConnectionStatus{Observed: 1, State: ConnectionError}, ConnectionPendingCreate},
		{"changed", Meta{Generation: 2}, ConnectionStatus{Observed: 1, Applied: true, State: ConnectionActive}, ConnectionPendingUpdate},
		{"frozen", Meta{Generation: 1, Frozen: true}, ConnectionStatus{Observed: 1, State: ConnectionActive}, ConnectionFreezed},
		{"to go", Meta{Generation: 2, DeletionRequested: true}, ConnectionStatus{Observed: 2, State: ConnectionDown}, ConnectionPendingDelete},
	} {
		c := Connection{Meta: test.spec}
		if got := c.State(test.status); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// The file of the store shows no key, neither of a live connection nor of one
// that had another key before.
func TestKeysAreSealedAtRest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := store.OpenBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldOn(t, s)
	c := w.connection(w.gateway().ID, w.peer("198.51.100.7").ID)
	if _, err := w.UpdateConnection(t.Context(), project, c.ID, ConnectionUpdate{
		PSK: new(NewSecret("Another-key-2")), PPK: new(NewSecret(goodPPK)), IKEPolicy: &IKEPolicyRequest{PPKID: new("one")},
	}); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(file, []byte(c.ID)) {
		t.Fatal("the file does not hold the connection: the test looks at the wrong one")
	}
	for _, key := range []string{goodPSK, goodPPK, "Another-key-2"} {
		if bytes.Contains(file, []byte(key)) {
			t.Errorf("the file holds the key %s", key)
		}
	}
}

// A post-quantum pre-shared key comes with its name and goes with it.
func TestPostQuantumKey(t *testing.T) {
	w := newWorld(t)
	c := w.connection(w.gateway().ID, w.peer("198.51.100.7").ID)
	change := func(req ConnectionUpdate) ConnectionView {
		t.Helper()
		v, err := w.UpdateConnection(t.Context(), project, c.ID, req)
		if err != nil {
			t.Fatal(err)
		}
		w.settleConnection(c.ID, ConnectionDown)
		return v
	}
	v := change(ConnectionUpdate{PPK: new(NewSecret(goodPPK)), IKEPolicy: &IKEPolicyRequest{PPKID: new("one"), PPKRequired: new(true)}})
	if !v.PPK.IsZero() || v.IKE.PPKID != "one" || !v.IKE.PPKRequired {
		t.Errorf("shown as %+v, with the key: %t", v.IKE, !v.PPK.IsZero())
	}
	revision := w.revision()
	if _, err := w.UpdateConnection(t.Context(), project, c.ID, ConnectionUpdate{PPK: new(NewSecret(goodPPK))}); err != nil || w.revision() != revision {
		t.Errorf("the same key again is a change: %v", err)
	}
	change(ConnectionUpdate{IKEPolicy: &IKEPolicyRequest{DHGroup: new("group20")}})
	if s := w.stored(c.ID); s.PPK.Reveal() != goodPPK || s.IKE.PPKID != "one" {
		t.Errorf("another change left %+v", s.IKE)
	}
	change(ConnectionUpdate{IKEPolicy: &IKEPolicyRequest{PPKID: new("")}})
	if s := w.stored(c.ID); !s.PPK.IsZero() || s.IKE.PPKRequired {
		t.Errorf("without its name the key is there: %t, required: %t", !s.PPK.IsZero(), s.IKE.PPKRequired)
	}
}

func TestWeakAlgorithms(t *testing.T) {
	w := newWorld(t)
	c := w.connection(w.gateway().ID, w.peer("198.51.100.7").ID)
	for _, test := range []struct {
		ike   IKEPolicyRequest
		ipsec IPsecPolicyRequest
		want  string
	}{
		{IKEPolicyRequest{DHGroup: new("group14")}, IPsecPolicyRequest{PFS: new("disable")}, ""},
		{
			IKEPolicyRequest{EncryptionAlgorithm: new("3des"), AuthenticationAlgorithm: new("md5"), DHGroup: new("group2")},
			IPsecPolicyRequest{EncryptionAlgorithm: new("3des"), AuthenticationAlgorithm: new("sha1"), PFS: new("group5")},
			"3des, md5, group2, sha1, group5",
		},
		{
			IKEPolicyRequest{EncryptionAlgorithm: new("aes-128-gcm-16"), AuthenticationAlgorithm: new("sha2-256"), DHGroup: new("group1")},
			IPsecPolicyRequest{EncryptionAlgorithm: new("aes-128-gcm-16"), AuthenticationAlgorithm: new("md5"), PFS: new("group31")}, // md5 is not used
			"group1",
		},
	} {
		v, err := w.UpdateConnection(t.Context(), project, c.ID, ConnectionUpdate{IKEPolicy: &test.ike, IPsecPolicy: &test.ipsec})
		if err != nil {
			t.Fatal(err)
		}
		w.settleConnection(c.ID, ConnectionActive)
		if v, err = w.ShowConnection(t.Context(), project, c.ID); err != nil {
			t.Fatal(err)
		}
		want := ""
		if test.want != "" {
			want = "weak algorithms: " + test.want
		}
		if got := strings.Join(v.WeakAlgorithms(), ", "); got != test.want || v.StatusMessage() != want {
			t.Errorf("weak are %q, told %q; want %q", got, v.StatusMessage(), test.want)
		}
	}
}

func TestBatchOfConnectionsIsWhole(t *testing.T) {
	w := newWorld(t)
	g, first, second := w.gateway(), w.peer("198.51.100.7"), w.peer("198.51.100.8")
	one, two := connectionRequest(g.ID, first.ID), connectionRequest(g.ID, second.ID)
	one.EnableHealthCheck = true
	count := func() (connections, monitors int) {
		t.Helper()
		l, err := w.ListConnections(t.Context(), project, ConnectionFilter{})
		if err != nil {
			t.Fatal(err)
		}
		m, err := w.ListMonitors(t.Context(), project, MonitorFilter{})
		if err != nil {
			t.Fatal(err)
		}
		return len(l.Items), len(m)
	}
	for name, test := range map[string]struct {
		limits Limits
		word   string
	}{
		"quota of the project":  {Limits{Connections: 1}, "quota exceeded: connections, at most 1"},
		"number of the gateway": {Limits{GatewayConnections: map[Flavor]int{FlavorProfessional1: 1}}, "quota exceeded: connections of a gateway"},
	} {
		w.limits = test.limits
		_, err := w.CreateConnections(t.Context(), project, []ConnectionCreate{one, two})
		wantRefusal(t, err, CodeInvalid, test.word)
		if c, m := count(); c != 0 || m != 0 {
			t.Errorf("%s: a refused batch left %d connections and %d monitors", name, c, m)
		}
	}
	w.limits = Limits{}
	other := w.gateway(func(r *GatewayCreate) { r.EIP1, r.EIP2 = &EIPRequest{ID: new(eip3)}, &EIPRequest{ID: new(eip4)} })
	elsewhere := connectionRequest(other.ID, second.ID)
	elsewhere.VgwIP = new(eip3)
	_, err := w.CreateConnections(t.Context(), project, []ConnectionCreate{one, elsewhere})
	wantInvalid(t, err, "vpn_connections[1].vgw_id", "must be the same")
	_, err = w.CreateConnections(t.Context(), project, nil)
	wantInvalid(t, err, "vpn_connections", "must have 1 to 2 entries")
	views, err := w.CreateConnections(t.Context(), project, []ConnectionCreate{one, two})
	if err != nil || len(views) != 2 || !views[0].CreatedAt.Before(views[1].CreatedAt) || views[0].TunnelLocal.Masked() == views[1].TunnelLocal.Masked() {
		t.Errorf("got %+v, %v", views, err)
	}
	if stored := w.stored(views[1].ID); stored.PSK.Reveal() != goodPSK || !views[1].PSK.IsZero() {
		t.Error("the secret is not where it belongs")
	}
	if c, m := count(); c != 2 || m != 1 {
		t.Errorf("the batch made %d connections and %d monitors", c, m)
	}
}
