package control

import "testing"

func TestUpdateConnectionRules(t *testing.T) {
	ike := func(k IKEPolicyRequest) ConnectionUpdate { return ConnectionUpdate{IKEPolicy: &k} }
	for _, test := range []struct {
		name       string
		req        ConnectionUpdate
		field, why string
	}{
		{"nothing", ConnectionUpdate{}, "", ""},
		{"bad name", ConnectionUpdate{Name: new("")}, "name", "1 to 64"},
		{"bad key", ConnectionUpdate{PSK: new(NewSecret("short"))}, "psk", "8 to 128"},
		{"no peer subnets", ConnectionUpdate{PeerSubnets: []string{}}, "peer_subnets", "required"},
		{"reserved peer subnets", ConnectionUpdate{PeerSubnets: []string{"100.64.0.0/16"}}, "peer_subnets[0]", "reserved"},
		{"peer subnets of the other family", ConnectionUpdate{PeerSubnetsV6: []string{"2001:db8::/32"}}, "peer_subnets_v6", "absent"},
		{"rules on static", ConnectionUpdate{PolicyRules: []PolicyRuleRequest{{Source: "10.0.0.0/8", Destination: []string{"10.0.0.0/8"}}}}, "policy_rules", "absent"},
		{"no rules on static", ConnectionUpdate{PolicyRules: []PolicyRuleRequest{}}, "", ""},
		{"half a tunnel of another network", ConnectionUpdate{TunnelLocalAddress: new("169.254.80.1/30")}, "tunnel_peer_address", "169.254.80.0/30"},
		{"another tunnel", ConnectionUpdate{TunnelLocalAddress: new("169.254.80.1/30"), TunnelPeerAddress: new("169.254.80.2/30")}, "", ""},
		{"tunnel of another connection", ConnectionUpdate{TunnelLocalAddress: new("169.254.90.1/30"), TunnelPeerAddress: new("169.254.90.2/30")}, "tunnel_local_address", "is used"},
		{"hub on static", ConnectionUpdate{EnableHub: new(true)}, "enable_hub", "style static"},
		{"lifetime", ike(IKEPolicyRequest{LifetimeSeconds: new(59)}), "ikepolicy.lifetime_seconds", "60 to 604800"},
		{"authentication method is not for updates", ike(IKEPolicyRequest{AuthenticationMethod: new("?")}), "", ""},
		{"name without id", ike(IKEPolicyRequest{LocalIDType: new("fqdn")}), "ikepolicy.local_id", "required"},
		{"GCM with IKEv1", ike(IKEPolicyRequest{IKEVersion: new("v1"), EncryptionAlgorithm: new("aes-128-gcm-16")}), "ikepolicy.encryption_algorithm", "v1"},
		{"PFS", ConnectionUpdate{IPsecPolicy: &IPsecPolicyRequest{PFS: new("group0")}}, "ipsecpolicy.pfs", "group14"},
		{"ChaCha20 and Curve25519", ConnectionUpdate{
			IKEPolicy:   &IKEPolicyRequest{EncryptionAlgorithm: new("chacha20-poly1305"), DHGroup: new("group31"), AdditionalKeyExchange: new("mlkem768")},
			IPsecPolicy: &IPsecPolicyRequest{EncryptionAlgorithm: new("chacha20-poly1305"), PFS: new("group31"), AdditionalKeyExchange: new("mlkem768")},
		}, "", ""},
		{"Curve25519 with IKEv1", ike(IKEPolicyRequest{IKEVersion: new("v1"), DHGroup: new("group31")}), "ikepolicy.dh_group", "v1"},
		{"ML-KEM with IKEv1", ike(IKEPolicyRequest{IKEVersion: new("v1"), AdditionalKeyExchange: new("mlkem768")}), "ikepolicy.additional_key_exchange", "v1"},
		{"no ML-KEM with IKEv1", ike(IKEPolicyRequest{IKEVersion: new("v1"), AdditionalKeyExchange: new("disable")}), "", ""},
		{"ChaCha20 in ESP with IKEv1", ConnectionUpdate{
			IKEPolicy: &IKEPolicyRequest{IKEVersion: new("v1")}, IPsecPolicy: &IPsecPolicyRequest{EncryptionAlgorithm: new("chacha20-poly1305")},
		}, "ipsecpolicy.encryption_algorithm", "v1"},
		{"ML-KEM without a group", ConnectionUpdate{
			IPsecPolicy: &IPsecPolicyRequest{PFS: new("disable"), AdditionalKeyExchange: new("mlkem768")},
		}, "ipsecpolicy.additional_key_exchange", "pfs disable"},
		{"UDP encapsulation with IKEv1", ConnectionUpdate{
			IKEPolicy: &IKEPolicyRequest{IKEVersion: new("v1")}, IPsecPolicy: &IPsecPolicyRequest{UDPEncapsulation: new("nat")},
		}, "", ""},
		{"unknown encapsulation", ConnectionUpdate{IPsecPolicy: &IPsecPolicyRequest{UDPEncapsulation: new("tcp")}}, "ipsecpolicy.udp_encapsulation", "always"},
		{"unknown exchange", ike(IKEPolicyRequest{AdditionalKeyExchange: new("kyber")}), "ikepolicy.additional_key_exchange", "mlkem768"},
		{"PPK", ConnectionUpdate{PPK: new(NewSecret(goodPPK)), IKEPolicy: &IKEPolicyRequest{PPKID: new("one"), PPKRequired: new(true)}}, "", ""},
		{"PPK without id", ConnectionUpdate{PPK: new(NewSecret(goodPPK))}, "ikepolicy.ppk_id", "required"},
		{"id without PPK", ike(IKEPolicyRequest{PPKID: new("one")}), "ppk", "required"},
		{"required without PPK", ike(IKEPolicyRequest{PPKRequired: new(true)}), "ikepolicy.ppk_id", "required"},
		{"short PPK", ConnectionUpdate{PPK: new(NewSecret("short")), IKEPolicy: &IKEPolicyRequest{PPKID: new("one")}}, "ppk", "32 to 256"},
		{"PPK with blanks", ConnectionUpdate{PPK: new(NewSecret(goodPPK + " ")), IKEPolicy: &IKEPolicyRequest{PPKID: new("one")}}, "ppk", "without blanks"},
		{"PPK of few octets", ConnectionUpdate{PPK: new(NewSecret("0x" + goodPPK)), IKEPolicy: &IKEPolicyRequest{PPKID: new("one")}}, "ppk", "hexadecimal"},
		{"PPK with IKEv1", ConnectionUpdate{
			PPK: new(NewSecret(goodPPK)), IKEPolicy: &IKEPolicyRequest{IKEVersion: new("v1"), PPKID: new("one")},
		}, "ikepolicy.ppk_id", "v1"},
		{"probing", ConnectionUpdate{EnableNQA: new(true)}, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			g := w.gateway()
			c := w.connection(g.ID, w.peer("198.51.100.7").ID)
			w.connection(g.ID, w.peer("198.51.100.8").ID, func(r *ConnectionCreate) { r.TunnelLocalAddress = new("169.254.90.1/30") })
			_, err := w.UpdateConnection(t.Context(), project, c.ID, test.req)
			wantInvalid(t, err, test.field, test.why)
		})
	}
	w := newWorld(t)
	g := w.gateway()
	peer := w.peer("198.51.100.8")
	c := w.connection(g.ID, w.peer("198.51.100.7").ID)
	w.connection(g.ID, peer.ID)
	_, err := w.UpdateConnection(t.Context(), project, c.ID, ConnectionUpdate{CgwID: &peer.ID})
	wantInvalid(t, err, "cgw_id", "has this customer gateway")
	_, err = w.UpdateConnection(t.Context(), project, c.ID, ConnectionUpdate{CgwID: new(nobody)})
	wantRefusal(t, err, CodeNotFound)
	_, err = w.UpdateConnection(t.Context(), project, nobody, ConnectionUpdate{})
	wantRefusal(t, err, CodeNotFound)
}

// What is absent stays, what is there is replaced, and sending the same again
// changes nothing.
func TestUpdateConnectionMerges(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	c := w.connection(g.ID, w.peer("198.51.100.7").ID)
	before := w.revision()
	same := ConnectionUpdate{
		Name: &c.Name, CgwID: &c.CustomerGatewayID, PeerSubnets: []string{"192.168.10.0/24"}, PSK: new(NewSecret(goodPSK)),
		TunnelLocalAddress: new(c.TunnelLocal.String()), TunnelPeerAddress: new(c.TunnelPeer.String()), EnableNQA: new(false),
		PolicyRules: nil,
		IKEPolicy: &IKEPolicyRequest{
			IKEVersion: new("v2"), Phase1NegotiationMode: new("main"), LocalIDType: new("ip"), PeerIDType: new("ip"),
			DHGroup: new("group15"), LifetimeSeconds: new(86400), DPD: &DPDRequest{Interval: new(30)},
		},
		IPsecPolicy: &IPsecPolicyRequest{PFS: new("group15"), LifetimeSeconds: new(3600)},
	}
	v, err := w.UpdateConnection(t.Context(), project, c.ID, same)
	if err != nil || w.revision() != before || v.State != ConnectionDown {
		t.Errorf("an identical update: %s at revision %d after %d, %v", v.State, w.revision(), before, err)
	}

	v, err = w.UpdateConnection(t.Context(), project, c.ID, ConnectionUpdate{
		PSK:         new(NewSecret("Another-key-2")),
		PeerSubnets: []string{"192.168.11.0/24", "192.168.12.0/24"},
		IKEPolicy:   &IKEPolicyRequest{DHGroup: new("group20"), DPD: &DPDRequest{Timeout: new(5)}},
		IPsecPolicy: &IPsecPolicyRequest{EncryptionAlgorithm: new("aes-256-gcm-128")},
	})
	if err != nil {
		t.Fatal(err)
	}
	stored := w.stored(c.ID)
	want := w.stored(c.ID)
	want.IKE, want.IPsec = c.IKE, c.IPsec
	want.IKE.Group, want.IKE.DPD.TimeoutSeconds, want.IPsec.Encryption = Group20, 5, AES256GCM128
	if stored.IKE != want.IKE || stored.IPsec != want.IPsec || stored.Name != c.Name || stored.TunnelLocal != c.TunnelLocal {
		t.Errorf("merged to %+v", stored)
	}
	if stored.PSK.Reveal() != "Another-key-2" || len(stored.PeerSubnets) != 2 || v.State != ConnectionPendingUpdate || v.Generation != 2 {
		t.Errorf("merged to %+v, %s", stored, v.State)
	}
}

func TestUpdateConnectionIdentities(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	byAddress, byName, byOtherName := w.peer("198.51.100.7"), w.peer("a.example.com"), w.peer("b.example.com")
	c := w.connection(g.ID, byAddress.ID)
	for _, step := range []struct {
		name          string
		req           ConnectionUpdate
		localT, peerT IDType
		local, peer   string
	}{
		{
			"names", ConnectionUpdate{IKEPolicy: &IKEPolicyRequest{
				LocalIDType: new("fqdn"), LocalID: new("gw"), PeerIDType: new("fqdn"), PeerID: new("peer"),
			}}, IDTypeFQDN, IDTypeFQDN, "gw", "peer",
		},
		{"names stay", ConnectionUpdate{IKEPolicy: &IKEPolicyRequest{LocalIDType: new("fqdn")}}, IDTypeFQDN, IDTypeFQDN, "gw", "peer"},
		{"a pinned name stays with another peer", ConnectionUpdate{CgwID: &byName.ID}, IDTypeFQDN, IDTypeFQDN, "gw", "peer"},
		{
			"type ip returns to the address", ConnectionUpdate{CgwID: &byAddress.ID, IKEPolicy: &IKEPolicyRequest{
				LocalIDType: new("ip"), PeerIDType: new("ip"),
			}}, IDTypeIP, IDTypeIP, "203.0.113.1", "198.51.100.7",
		},
		{"an address of its own", ConnectionUpdate{IKEPolicy: &IKEPolicyRequest{LocalID: new("192.0.2.1")}}, IDTypeIP, IDTypeIP, "192.0.2.1", "198.51.100.7"},
		{"the empty one returns to the address", ConnectionUpdate{IKEPolicy: &IKEPolicyRequest{LocalID: new("")}}, IDTypeIP, IDTypeIP, "203.0.113.1", "198.51.100.7"},
		{"an identity follows the peer", ConnectionUpdate{CgwID: &byName.ID}, IDTypeIP, IDTypeFQDN, "203.0.113.1", "a.example.com"},
		{"and the next peer", ConnectionUpdate{CgwID: &byOtherName.ID}, IDTypeIP, IDTypeFQDN, "203.0.113.1", "b.example.com"},
		{"and back", ConnectionUpdate{CgwID: &byAddress.ID}, IDTypeIP, IDTypeIP, "203.0.113.1", "198.51.100.7"},
	} {
		v, err := w.UpdateConnection(t.Context(), project, c.ID, step.req)
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if v.LocalID != step.local || v.PeerID != step.peer || v.IKE.LocalIDType != step.localT || v.IKE.PeerIDType != step.peerT {
			t.Errorf("%s: %s %s and %s %s", step.name, v.IKE.LocalIDType, v.LocalID, v.IKE.PeerIDType, v.PeerID)
		}
		w.settleConnection(c.ID, ConnectionActive)
	}
}
