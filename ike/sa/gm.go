package sa

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// The profile GM/T 0022 is IKEv1 with the Chinese national algorithms: main mode
// with an SM2 digital envelope in the place of Diffie-Hellman and a pre-shared
// key, and then quick mode without perfect forward secrecy.
//
// A number on the wire means something in this profile only: authentication
// method 10 is ECDSA with 384 bits elsewhere. So the tables here are apart from
// those of RFC 2409, and nothing of one profile is looked up in the other.

// GM is what a connection of the profile has in the place of a pre-shared key.
type GM struct {
	// Signing and Encryption are our own.
	Signing, Encryption GMKey
	// Authorities are the certificates, in DER, that those of the peer have to
	// lead to.
	Authorities [][]byte
	// PeerName, unless it is empty, is the only subject that the peer's
	// certificates may have, written as "C=CN,O=acme,CN=gw". Else every holder of
	// certificates of the authorities is the peer.
	PeerName string
	// Variant is how we begin, and what we do where only one end can say.
	Variant GMVariant
}

// GMKey is a certificate with its key.
type GMKey struct {
	Certificate []byte // in DER
	Private     []byte // the 32 octets of an SM2 key
}

// GMVariant is how a device writes what devices do in different ways. The zero
// value is the usual one.
type GMVariant struct {
	Phase1SM4             uint8 // number of SM4 in phase 1: 129 (also zero) or 127
	ESPSM4                uint8 // number of SM4-CBC as a transform of ESP: 127 (also zero) or 129
	Version10             bool  // version 1.0 of ISAKMP in the header, not 1.1
	KeyLength             bool  // phase 1 is told the key's length
	KeyEncoding           GMKeyEncoding
	RawSignature          bool // r and s of 32 octets each, not in DER
	DigestWithoutZ        bool // the signature is over the plain SM3 of its message
	EncryptedCertificates bool // of the initiator, in message 3
	NonceFirst            bool // the hashes of quick mode have the order of the standard's text, not of RFC 2409
	EmptyDPDSPI           bool // a probe does not name the cookies
	NoNATTraversal        bool
	Initiator             GMInitiator
}

// GMKeyEncoding is the form of an SM2 ciphertext.
type GMKeyEncoding uint8

// Forms of SM2 ciphertexts: that of GM/T 0009, and an uncompressed point followed
// by hash and ciphertext in either order.
const (
	GMKeyDER GMKeyEncoding = iota
	GMKeyC1C2C3
	GMKeyC1C3C2
)

// GMInitiator says which end begins.
type GMInitiator uint8

// Ends that may begin: either one, or just one.
const (
	GMEither GMInitiator = iota
	GMWe
	GMPeer
)

// Numbers that SM4 goes by. 128 is SM1, which exists in hardware only.
const (
	gmSM4      = 129
	gmSM4Older = 127
	gmSM1      = 128
	gmSM4GCM   = 130
)

// withDefaults puts numbers in the place of zeros.
func (v GMVariant) withDefaults() GMVariant {
	if v.Phase1SM4 == 0 {
		v.Phase1SM4 = gmSM4
	}
	if v.ESPSM4 == 0 {
		v.ESPSM4 = gmSM4Older
	}
	return v
}

// otherSM4 returns the other number of SM4.
func otherSM4(n uint8) uint8 {
	if n == gmSM4 {
		return gmSM4Older
	}
	return gmSM4
}

// attempts returns the variants that we try to begin with, in order: what the
// first message has is all that keeps a peer from answering.
func (v GMVariant) attempts() []GMVariant {
	number, version := v, v
	number.Phase1SM4 = otherSM4(v.Phase1SM4)
	version.Version10 = !v.Version10
	both := number
	both.Version10 = version.Version10
	return []GMVariant{v, number, version, both}
}

// Difference names what a variant has that is not in another one, by the names of
// the configuration; empty when they are equal.
func (v GMVariant) Difference(from GMVariant) string {
	v, from = v.withDefaults(), from.withDefaults()
	var list []string
	add := func(differs bool, name string, value any) {
		if differs {
			list = append(list, fmt.Sprintf("%s %v", name, value))
		}
	}
	pick := func(b bool, yes, no string) string {
		if b {
			return yes
		}
		return no
	}
	add(v.Phase1SM4 != from.Phase1SM4, "sm4_phase1_id", v.Phase1SM4)
	add(v.ESPSM4 != from.ESPSM4, "sm4_esp_id", v.ESPSM4)
	add(v.Version10 != from.Version10, "isakmp_version", pick(v.Version10, "1.0", "1.1"))
	add(v.KeyLength != from.KeyLength, "key_length_attribute", pick(v.KeyLength, "128", "absent"))
	add(v.KeyEncoding != from.KeyEncoding, "sk_encoding", v.KeyEncoding)
	add(v.RawSignature != from.RawSignature, "signature_encoding", pick(v.RawSignature, "raw", "der"))
	add(v.EncryptedCertificates != from.EncryptedCertificates, "certificates", pick(v.EncryptedCertificates, "encrypted", "clear"))
	add(v.NonceFirst != from.NonceFirst, "phase2_hash", pick(v.NonceFirst, "gm", "rfc"))
	add(v.EmptyDPDSPI != from.EmptyDPDSPI, "dpd_spi", pick(v.EmptyDPDSPI, "0", "16"))
	return strings.Join(list, ", ")
}

// String returns the name of the configuration.
func (e GMKeyEncoding) String() string {
	switch e {
	case GMKeyDER:
		return "der"
	case GMKeyC1C2C3:
		return "raw-c1c2c3"
	case GMKeyC1C3C2:
		return "raw-c1c3c2"
	}
	return fmt.Sprintf("encoding %d", uint8(e))
}

// beginVariant returns the variant to begin in: what the peer has shown, or what
// is configured.
func (m *MachineV1) beginVariant() *GMVariant {
	if m.conn.GM == nil {
		return nil
	}
	v := m.conn.GM.Variant.withDefaults()
	if m.gmVariant != nil {
		v = *m.gmVariant
	}
	return &v
}

// gmLearned remembers how the peer of an established SA writes.
func (m *MachineV1) gmLearned(s *ISAKMPSA) {
	if s.gm != nil {
		v := *s.gm
		m.gmVariant, m.gmTried = &v, 0
	}
}

// mayBegin reports whether this end may begin phase 1.
func (m *MachineV1) mayBegin() bool {
	return m.conn.GM == nil || m.conn.GM.Variant.Initiator != GMPeer
}

// variant tells how the peer writes differently from the configuration.
func (s *ISAKMPSA) variant() string {
	if s.gm == nil || s.m.conn == nil || s.m.conn.GM == nil {
		return ""
	}
	return s.gm.Difference(s.m.conn.GM.Variant)
}

// gmStatus adds what only an SA of the profile has.
func (s *ISAKMPSA) gmStatus(st *IKEStatus) {
	c := s.m.conn
	if s.gm == nil || c.GM == nil {
		return
	}
	st.GM, st.Variant = true, s.variant()
	if st.RemoteID.Type == 0 {
		st.RemoteID = s.peerID
	}
	if st.LocalID.Type == 0 {
		if own, err := parseGMCertificate(c.GM.Signing.Certificate); err == nil {
			st.LocalID = nameIdentity(own.RawSubject)
		}
	}
}

// otherESPNumber makes the next quick mode call SM4 by its other number, if the
// peer has refused this one.
func (s *ISAKMPSA) otherESPNumber(d *Diagnosis) {
	if s.gm == nil || d.Reason != ReasonPhase2Proposal {
		return
	}
	before := *s.gm
	s.gm.ESPSM4 = otherSM4(s.gm.ESPSM4)
	d.Detail += "; the next quick mode has " + s.gm.Difference(before)
}

// validAuthentication checks what an end proves itself with.
func (c *Connection) validAuthentication() error {
	if c.GM != nil {
		return c.validGM()
	}
	switch {
	case c.LocalID.Type == 0 || c.RemoteID.Type == 0:
		return errors.New("identities: both are needed")
	case len(c.PSK) == 0:
		return errors.New("pre-shared key: empty")
	}
	national := func(list []ipsec.Proposal) error {
		for _, p := range list {
			if i := slices.IndexFunc(p.Transforms, ipsec.Transform.IsNational); i >= 0 {
				return fmt.Errorf("%s proposals: %s is of the profile GM/T 0022 only", p.Protocol, p.Transforms[i])
			}
		}
		return nil
	}
	err := national(c.Proposals)
	for i := range c.Children {
		err = errors.Join(err, national(c.Children[i].Proposals))
	}
	if err != nil {
		return err
	}
	return validProposals(ipsec.ProtocolIKE, c.Proposals)
}

// gmPhase1Proposal is the only one of phase 1.
func gmPhase1Proposal() ipsec.Proposal {
	return ipsec.Proposal{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionSM4CBC, 0), ipsec.PRF(ipsec.PRFHMACSM3),
	}}
}

// validGM checks a connection of the profile. Nothing in an error is secret.
func (c *Connection) validGM() error {
	switch {
	case !c.IKEv1() || c.Aggressive:
		return errors.New("GM/T 0022: is of IKEv1 in main mode only")
	case len(c.GM.Authorities) == 0:
		return errors.New("GM/T 0022: no certificate authority of the peer")
	case !slices.EqualFunc(c.Proposals, []ipsec.Proposal{gmPhase1Proposal()}, func(p, q ipsec.Proposal) bool { return slices.Equal(p.Transforms, q.Transforms) }):
		return fmt.Errorf("GM/T 0022: the only IKE proposal is %s", gmPhase1Proposal())
	}
	for _, child := range c.Children {
		for _, p := range child.Proposals {
			for _, t := range p.Transforms {
				if !t.IsNational() && t != ipsec.ESN(false) {
					return fmt.Errorf("GM/T 0022: child %q: %s is not of the profile", child.Name, t)
				}
			}
		}
	}
	switch v := c.GM.Variant.withDefaults(); {
	case v.Phase1SM4 != gmSM4 && v.Phase1SM4 != gmSM4Older, v.ESPSM4 != gmSM4 && v.ESPSM4 != gmSM4Older:
		return fmt.Errorf("GM/T 0022: SM4 is %d or %d", gmSM4, gmSM4Older)
	case v.KeyEncoding > GMKeyC1C3C2 || v.Initiator > GMPeer:
		return errors.New("GM/T 0022: no such variant")
	}
	own, err := c.GM.own()
	if err != nil {
		return err
	}
	own.wipe()
	for i, der := range c.GM.Authorities {
		if _, err := parseGMCertificate(der); err != nil {
			return fmt.Errorf("GM/T 0022: certificate authority %d: %w", i+1, err)
		}
	}
	return nil
}

// sameAuthorities reports whether a live SA of one configuration has been proved
// by what another one asks for. Our own certificates may differ: the next
// negotiation presents them.
func (g *GM) sameAuthorities(next *GM) bool {
	if g == nil || next == nil {
		return g == next
	}
	return g.PeerName == next.PeerName && slices.EqualFunc(g.Authorities, next.Authorities, bytes.Equal)
}

// same reports whether a negotiation would show and ask for the same.
func (g *GM) same(next *GM) bool {
	if g == nil || next == nil {
		return g == next
	}
	return g.sameAuthorities(next) && g.Variant == next.Variant &&
		bytes.Equal(g.Signing.Certificate, next.Signing.Certificate) && bytes.Equal(g.Encryption.Certificate, next.Encryption.Certificate)
}

// wipe overwrites the keys.
func (g *GM) wipe() {
	if g != nil {
		clear(g.Signing.Private)
		clear(g.Encryption.Private)
	}
}

// Wipe overwrites the secrets of a connection that is not used any more.
func (c *Connection) Wipe() {
	clear(c.PSK)
	if c.PPK != nil {
		clear(c.PPK.Key)
	}
	c.GM.wipe()
}

// Clone returns a copy of what GM holds, so that the original may be wiped.
func (g *GM) Clone() *GM {
	if g == nil {
		return nil
	}
	c := *g
	for _, k := range []*GMKey{&c.Signing, &c.Encryption} {
		k.Certificate, k.Private = bytes.Clone(k.Certificate), bytes.Clone(k.Private)
	}
	c.Authorities = slices.Clone(g.Authorities)
	for i := range c.Authorities {
		c.Authorities[i] = bytes.Clone(c.Authorities[i])
	}
	return &c
}

// gmIdentity returns the payload that names us in phase 1: the identity of the
// connection, or the subject of the signing certificate.
func (c *Connection) gmIdentity(own *gmOwn) *isakmp.ID {
	if c.LocalID.Type != 0 {
		return c.LocalID.payloadV1()
	}
	return &isakmp.ID{IDType: isakmp.IDDERASN1DN, Data: own.signing.RawSubject}
}
