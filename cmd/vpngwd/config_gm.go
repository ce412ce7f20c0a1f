package main

import (
	"fmt"
	"strings"

	"github.com/vpngw/vpngw/control/reconcile"
	"github.com/vpngw/vpngw/ike/sa"
)

// gmConfig is how one peer of gateways of flavor GM does what devices do in
// different ways. Keys that are absent have the usual values.
type gmConfig struct {
	Peer               string `yaml:"peer"` // id_value of the customer gateway; empty: all others
	SM4Phase1ID        int    `yaml:"sm4_phase1_id"`
	SM4ESPID           int    `yaml:"sm4_esp_id"`
	ISAKMPVersion      string `yaml:"isakmp_version"`
	KeyLengthAttribute string `yaml:"key_length_attribute"`
	SKEncoding         string `yaml:"sk_encoding"`
	SignatureEncoding  string `yaml:"signature_encoding"`
	SignatureInput     string `yaml:"signature_input"`
	Certificates       string `yaml:"certificates"`
	Phase2Hash         string `yaml:"phase2_hash"`
	ESPCipher          string `yaml:"esp_cipher"`
	ESPICVBits         int    `yaml:"esp_icv_bits"`
	DPDSPI             *int   `yaml:"dpd_spi"`
	NATT               string `yaml:"nat_t"`
	Initiator          string `yaml:"initiator"`
	ID                 string `yaml:"id"`
	PeerName           string `yaml:"peer_name"`
}

// gmOptions returns what the reconciler is told of peers, and adds what is wrong.
func (c *ikeConfig) gmOptions(p *problems) map[string]reconcile.GMOptions {
	all := map[string]reconcile.GMOptions{}
	for i := range c.GM {
		key := fmt.Sprintf("ike.gm[%d]", i)
		peer := c.GM[i].Peer
		if _, twice := all[peer]; twice {
			p.add(key+".peer", "%q occurs twice", peer)
		}
		all[peer] = c.GM[i].options(key, p)
	}
	return all
}

// choice reads one of some words, of which the first is the usual one.
func choice[T any](p *problems, key, word string, words []string, values ...T) T {
	for i, w := range words {
		if word == w || word == "" && i == 0 {
			return values[i]
		}
	}
	p.oneOf(key, word, words...)
	return values[0]
}

func (c *gmConfig) options(key string, p *problems) reconcile.GMOptions {
	number := func(name string, v, usual, other int) uint8 {
		if v != 0 && v != usual && v != other {
			p.add(key+"."+name, "%d is not one of %d, %d", v, usual, other)
		}
		return uint8(v)
	}
	flag := func(name, word, usual, other string) bool {
		return choice(p, key+"."+name, word, []string{usual, other}, false, true)
	}
	if c.ISAKMPVersion == "1" { // what YAML makes of 1.0 without quotes
		c.ISAKMPVersion = "1.0"
	}
	o := reconcile.GMOptions{
		Variant: sa.GMVariant{
			Phase1SM4:             number("sm4_phase1_id", c.SM4Phase1ID, 129, 127),
			ESPSM4:                number("sm4_esp_id", c.SM4ESPID, 127, 129),
			Version10:             flag("isakmp_version", c.ISAKMPVersion, "1.1", "1.0"),
			KeyLength:             flag("key_length_attribute", c.KeyLengthAttribute, "absent", "128"),
			RawSignature:          flag("signature_encoding", c.SignatureEncoding, "der", "raw"),
			DigestWithoutZ:        flag("signature_input", c.SignatureInput, "message-with-z", "digest-without-z"),
			EncryptedCertificates: flag("certificates", c.Certificates, "clear", "encrypted"),
			NonceFirst:            flag("phase2_hash", c.Phase2Hash, "rfc", "gm"),
			NoNATTraversal:        flag("nat_t", c.NATT, "auto", "off"),
			EmptyDPDSPI:           c.DPDSPI != nil && *c.DPDSPI == 0,
			KeyEncoding: choice(p, key+".sk_encoding", c.SKEncoding, []string{"der", "raw-c1c2c3", "raw-c1c3c2"},
				sa.GMKeyDER, sa.GMKeyC1C2C3, sa.GMKeyC1C3C2),
			Initiator: choice(p, key+".initiator", c.Initiator, []string{"either", "us", "peer"}, sa.GMEither, sa.GMWe, sa.GMPeer),
		},
		ICVBits: c.ESPICVBits, GCM: flag("esp_cipher", c.ESPCipher, "sm4-cbc", "sm4-gcm"), PeerName: c.PeerName,
	}
	if c.DPDSPI != nil && *c.DPDSPI != 0 && *c.DPDSPI != 16 {
		p.add(key+".dpd_spi", "%d is not one of 16, 0", *c.DPDSPI)
	}
	name, named := strings.CutPrefix(c.ID, "fqdn:")
	switch {
	case named && name != "":
		o.LocalID.FQDN = name
	case c.ID == "address":
		o.LocalID.Address = true
	case c.ID != "" && c.ID != "certificate-dn":
		p.add(key+".id", "%q is not one of certificate-dn, address, fqdn:NAME", c.ID)
	}
	if err := o.Validate(); err != nil {
		p.add(key, "%v", err)
	}
	return o
}
