package main

import (
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/vpngw/vpngw/control/reconcile"
	"github.com/vpngw/vpngw/ike/sa"
)

func TestGMOptions(t *testing.T) {
	var c ikeConfig
	text := `gm:
  - {}
  - {peer: 198.51.100.7, sm4_phase1_id: 127, sm4_esp_id: 129, isakmp_version: 1.0, key_length_attribute: 128, sk_encoding: raw-c1c3c2,
     signature_encoding: raw, signature_input: digest-without-z, certificates: encrypted, phase2_hash: gm, esp_cipher: sm4-gcm, esp_icv_bits: 256,
     dpd_spi: 0, nat_t: off, initiator: peer, id: "fqdn:gw.example", peer_name: "C=CN,CN=gw"}
  - {peer: branch.example, id: address, initiator: us, sk_encoding: raw-c1c2c3}
`
	if err := yaml.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	var p problems
	got := c.gmOptions(&p)
	if len(p) > 0 {
		t.Fatal(p)
	}
	for peer, want := range map[string]reconcile.GMOptions{
		"": {},
		"198.51.100.7": {
			Variant: sa.GMVariant{
				Phase1SM4: 127, ESPSM4: 129, Version10: true, KeyLength: true, KeyEncoding: sa.GMKeyC1C3C2, RawSignature: true, DigestWithoutZ: true,
				EncryptedCertificates: true, NonceFirst: true, EmptyDPDSPI: true, NoNATTraversal: true, Initiator: sa.GMPeer,
			},
			ICVBits: 256, GCM: true, LocalID: reconcile.GMLocalID{FQDN: "gw.example"}, PeerName: "C=CN,CN=gw",
		},
		"branch.example": {Variant: sa.GMVariant{KeyEncoding: sa.GMKeyC1C2C3, Initiator: sa.GMWe}, LocalID: reconcile.GMLocalID{Address: true}},
	} {
		if got[peer] != want {
			t.Errorf("%q: %+v, want %+v", peer, got[peer], want)
		}
	}
}
