package peerconfig

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/control"
)

var update = flag.Bool("update", false, "write the golden files")

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// view is a connection with the defaults of the API, of style static.
func view(edit ...func(*control.ConnectionView)) *control.ConnectionView {
	v := &control.ConnectionView{
		Connection: control.Connection{
			Meta: control.Meta{ID: "0d9e1c5e-1b0e-4bd1-8d05-c00000000001", Name: "to-branch"}, Slot: control.Slot1, Style: control.StyleStatic,
			PeerSubnets: prefixes("192.168.10.0/24", "192.168.11.0/24"),
			TunnelLocal: netip.MustParsePrefix("169.254.70.1/30"), TunnelPeer: netip.MustParsePrefix("169.254.70.2/30"),
			IKE: control.IKEPolicy{
				Version: control.IKEv2, Authentication: control.SHA2256, Encryption: control.AES128, Group: control.Group15,
				AuthenticationMethod: control.AuthPreShare, LifetimeSeconds: 86400,
				LocalIDType: control.IDTypeIP, PeerIDType: control.IDTypeIP, DPD: control.DPD{IntervalSeconds: 30, TimeoutSeconds: 15},
			},
			IPsec: control.IPsecPolicy{
				Authentication: control.SHA2256, Encryption: control.AES128, PFS: control.Group15, LifetimeSeconds: 3600,
			},
		},
		Gateway: control.Gateway{
			NetworkType: control.NetworkPublic, LocalSubnets: prefixes("10.10.0.0/24", "10.10.4.0/22"),
			EIPs: [2]control.EIPBinding{{Address: netip.MustParseAddr("203.0.113.10")}, {Address: netip.MustParseAddr("203.0.113.11")}},
		},
		CustomerGateway: control.CustomerGateway{IDType: control.IDTypeIP, IDValue: "198.51.100.7"},
		LocalID:         "203.0.113.10", PeerID: "198.51.100.7",
	}
	v.PSK = control.NewSecret("Never-in-a-text-1")
	for _, e := range edit {
		e(v)
	}
	return v
}

func policy(v *control.ConnectionView) {
	v.Style = control.StylePolicy
	v.PolicyRules = []control.PolicyRule{
		{Source: prefixes("10.10.0.0/24")[0], Destinations: v.PeerSubnets}, {Source: prefixes("10.10.4.0/22")[0], Destinations: v.PeerSubnets[:1]},
	}
}

// named has an AEAD, names, no PFS, and a peer without an address.
func named(v *control.ConnectionView) {
	v.IKE.Encryption, v.IPsec.Encryption, v.IPsec.PFS, v.IKE.Group = control.AES256GCM16, control.AES256GCM128, control.PFSDisable, control.Group20
	v.IKE.LocalIDType, v.LocalID, v.IKE.PeerIDType, v.PeerID = control.IDTypeFQDN, "cloud.example", control.IDTypeFQDN, "branch.example"
	v.CustomerGateway = control.CustomerGateway{IDType: control.IDTypeFQDN, IDValue: "branch.example"}
	v.EnableNQA = v.Style == control.StyleStatic
	v.IKE.LifetimeSeconds, v.IPsec.LifetimeSeconds = 604800, 30
}

func TestGolden(t *testing.T) {
	for _, test := range []struct {
		file   string
		device Device
		view   *control.ConnectionView
	}{
		{"strongswan-static", Devices()[0], view()},
		{"strongswan-static-named", Devices()[0], view(named)},
		{"strongswan-policy", Devices()[0], view(policy)},
		{"libreswan-static", Devices()[1], view()},
		{"libreswan-policy-named", Devices()[1], view(policy, named)},
		{"cisco-static", Devices()[2], view()},
		{"cisco-static-named", Devices()[2], view(named)},
		{"juniper-static", Devices()[3], view()},
		{"juniper-static-aead", Devices()[3], view(named, func(v *control.ConnectionView) { v.IKE.Encryption = control.AES256 })},
	} {
		t.Run(test.file, func(t *testing.T) {
			got, err := Render(test.device, test.view)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(got, "Never") || !strings.Contains(got, PreSharedKey) || strings.Contains(got, "<no value>") {
				t.Errorf("the key or a value is wrong:\n%s", got)
			}
			file := filepath.Join("testdata", test.file+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil || got != string(want) {
				t.Errorf("differs from %s (%v):\n%s", file, err, got)
			}
		})
	}
}

// Every algorithm of the API has a word or is refused by name.
func TestWords(t *testing.T) {
	for _, d := range Devices() {
		for _, e := range []control.Encryption{
			control.AES256GCM16, control.AES128GCM16, control.AES256GCM128, control.AES128GCM128, control.AES256, control.AES192,
			control.AES128, control.TripleDES, control.ChaCha20Poly1305,
		} {
			for _, a := range []control.Authentication{control.SHA2512, control.SHA2384, control.SHA2256, control.SHA1, control.MD5} {
				for _, g := range []control.Group{control.Group1, control.Group5, control.Group14, control.Group16, control.Group21, control.Group31} {
					text, err := Render(d, view(func(v *control.ConnectionView) {
						v.IKE.Encryption, v.IKE.Authentication, v.IKE.Group = e, a, g
						v.IPsec.Encryption, v.IPsec.Authentication, v.IPsec.PFS = e, a, g
					}))
					named := err != nil && (strings.Contains(err.Error(), string(e)) || strings.Contains(err.Error(), string(a)) || strings.Contains(err.Error(), string(g)))
					if err != nil && !named || err == nil && (strings.Contains(strings.ReplaceAll(text, "--load-all", ""), "--") || strings.Contains(text, "<no value>")) {
						t.Errorf("%s with %s, %s, %s: %v\n%s", d.Vendor, e, a, g, err, text)
					}
				}
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		device Device
		view   *control.ConnectionView
		words  string
	}{
		"unknown device":  {Device{Vendor: "Acme"}, view(), "must be one of the supported devices"},
		"another version": {Device{"strongSwan", "swanctl", "Linux", "4.0"}, view(), "must be one of the supported devices"},
		"IPv6 inside on Libreswan": {
			Devices()[1], view(func(v *control.ConnectionView) { v.Gateway.IPVersion = control.IPv6 }),
			"for Libreswan ipsec.conf there is no configuration of connections with IPv6",
		},
		"IPv6 outside on Juniper": {
			Devices()[3], view(func(v *control.ConnectionView) { v.Gateway.EIPs[0].Address = netip.MustParseAddr("2001:db8::1") }),
			"for Juniper Junos there is no configuration of connections with IPv6",
		},
		"policy on Cisco": {Devices()[2], view(policy), "for Cisco IOS XE there is no configuration of connections of style policy"},
		"quotes":          {Devices()[0], view(func(v *control.ConnectionView) { v.PeerID = `a"b` }), "identities with other characters"},
		"IKEv1":           {Devices()[0], view(func(v *control.ConnectionView) { v.IKE.Version = control.IKEv1 }), "other than of IKEv2"},
		"BGP":             {Devices()[0], view(func(v *control.ConnectionView) { v.Style = control.StyleBGP }), "style bgp"},
		"SM4":             {Devices()[0], view(func(v *control.ConnectionView) { v.IPsec.Encryption = control.SM4 }), "ipsecpolicy.encryption_algorithm sm4"},
		"MD5":             {Devices()[1], view(func(v *control.ConnectionView) { v.IKE.Authentication = control.MD5 }), "ikepolicy.authentication_algorithm md5"},
		"ML-KEM":          {Devices()[0], view(func(v *control.ConnectionView) { v.IPsec.Additional = control.MLKEM768 }), "an additional key exchange"},
		"PPK":             {Devices()[0], view(func(v *control.ConnectionView) { v.IKE.PPKID = "one" }), "a post-quantum pre-shared key"},
		"weak group":      {Devices()[1], view(func(v *control.ConnectionView) { v.IPsec.PFS = control.Group2 }), "ipsecpolicy group group2"},
		"AEAD on Juniper": {Devices()[3], view(named), "ikepolicy.encryption_algorithm aes-256-gcm-16"},
	} {
		_, err := Render(test.device, test.view)
		if err == nil || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: got %v, want %q", name, err, test.words)
		}
	}
	if _, err := Render(Device{"STRONGSWAN", "SwanCtl", "linux", "5.9"}, view()); err != nil {
		t.Errorf("another case: %v", err)
	}
}
