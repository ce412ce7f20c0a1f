package sa

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// ikeKeys are the secrets of an IKE SA (RFC 7296, section 2.14). The letters
// i and r are the initiator and the responder of the IKE SA.
type ikeKeys struct {
	prf            prf
	d              []byte // derives the keys of children and of the successor
	ai, ar, ei, er []byte // protect messages
	pi, pr         []byte // sign IKE_AUTH
}

// firstSeed returns SKEYSEED of a new IKE SA: prf(Ni | Nr, g^ir).
func firstSeed(p prf, ni, nr, shared []byte) []byte {
	return p.sum(join(ni, nr), shared)
}

// rekeySeed returns SKEYSEED of an IKE SA that follows another one, whose prf
// and SK_d count: prf(SK_d (old), g^ir (new) | Ni | Nr | additional) (section
// 2.18; RFC 9370, section 2.2.4).
func rekeySeed(old *ikeKeys, shared, ni, nr, additional []byte) []byte {
	return old.prf.sum(old.d, shared, ni, nr, additional)
}

// newIKEKeys takes {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} from
// prf+(SKEYSEED, Ni | Nr | SPIi | SPIr). It wipes the seed.
func newIKEKeys(chosen ipsec.Proposal, seed, ni, nr []byte, spii, spir uint64) (*ikeKeys, error) {
	defer clear(seed)
	prfTransform, _ := chosen.Get(ipsec.TransformPRF)
	enc, _ := chosen.Get(ipsec.TransformEncryption)
	integ, _ := chosen.Get(ipsec.TransformIntegrity)
	p, err := newPRF(prfTransform)
	if err != nil {
		return nil, err
	}
	encLen, err := keyLen(enc)
	if err != nil {
		return nil, err
	}
	mac, err := newIntegrity(integ)
	if err != nil {
		return nil, err
	}
	s := join(ni, nr)
	s = binary.BigEndian.AppendUint64(s, spii)
	s = binary.BigEndian.AppendUint64(s, spir)
	material, err := p.plus(seed, s, 3*p.size+2*mac.key+2*encLen)
	if err != nil {
		return nil, err
	}
	k := &ikeKeys{prf: p}
	cutKeys(material, []keyCut{
		{&k.d, p.size},
		{&k.ai, mac.key},
		{&k.ar, mac.key},
		{&k.ei, encLen},
		{&k.er, encLen},
		{&k.pi, p.size},
		{&k.pr, p.size},
	})
	return k, nil
}

// keyCut says how much of the key material goes where.
type keyCut struct {
	to *[]byte
	n  int
}

// cutKeys deals key material out in order.
func cutKeys(material []byte, cuts []keyCut) {
	for _, c := range cuts {
		*c.to, material = material[:c.n:c.n], material[c.n:]
	}
}

// wipe overwrites the keys.
func (k *ikeKeys) wipe() {
	for _, key := range [][]byte{k.d, k.ai, k.ar, k.ei, k.er, k.pi, k.pr} {
		clear(key)
	}
}

// ciphers returns the protection of what the initiator and what the responder
// of the IKE SA send.
func (k *ikeKeys) ciphers(chosen ipsec.Proposal, rand randSource) (initiator, responder wire.Cipher, err error) {
	enc, _ := chosen.Get(ipsec.TransformEncryption)
	integ, _ := chosen.Get(ipsec.TransformIntegrity)
	if initiator, err = newCipher(enc, integ, k.ei, k.ai, rand); err != nil {
		return nil, nil, err
	}
	responder, err = newCipher(enc, integ, k.er, k.ar, rand)
	return initiator, responder, err
}

// keyPad is the constant of section 2.15.
const keyPad = "Key Pad for IKEv2"

// signed is what AUTH of one side covers beside its identity.
type signed struct {
	message      []byte // that side's IKE_SA_INIT message
	nonce        []byte // the other side's
	intermediate []byte // IntAuth (RFC 9242, section 3.3.2)
}

// pskAuth returns the AUTH data of one side with a pre-shared key (section
// 2.15): prf(prf(PSK, "Key Pad for IKEv2"), message | nonce | prf(SK_p, ID) |
// IntAuth). id is that side's identity as wire.ID.AuthOctets has it.
func (k *ikeKeys) pskAuth(psk []byte, initiator bool, of signed, id []byte) []byte {
	sk := k.pr
	if initiator {
		sk = k.pi
	}
	secret := k.prf.sum(psk, []byte(keyPad))
	defer clear(secret)
	return k.prf.sum(secret, of.message, of.nonce, k.prf.sum(sk, id), of.intermediate)
}

// childKeys are the ESP keys of both directions, seen from the initiator of the
// exchange that made the CHILD_SA.
type childKeys struct {
	encI, integI []byte // initiator to responder
	encR, integR []byte
}

func (k *childKeys) wipe() {
	for _, key := range [][]byte{k.encI, k.integI, k.encR, k.integR} {
		clear(key)
	}
}

// keyMaterial is what the keys of a CHILD_SA are made of, beside SK_d.
type keyMaterial struct {
	shared     []byte // g^ir (new); empty without perfect forward secrecy
	ni, nr     []byte
	additional []byte // secrets of additional key exchanges, joined
}

// newChildKeys cuts KEYMAT = prf+(SK_d, [g^ir (new)] | Ni | Nr | [additional])
// (section 2.17; RFC 9370, section 2.2.4).
func (k *ikeKeys) newChildKeys(chosen ipsec.Proposal, of keyMaterial) (*childKeys, error) {
	enc, _ := chosen.Get(ipsec.TransformEncryption)
	integ, _ := chosen.Get(ipsec.TransformIntegrity)
	encLen, err := keyLen(enc)
	if err != nil {
		return nil, err
	}
	mac, err := newIntegrity(integ)
	if err != nil {
		return nil, err
	}
	if mac.hash == nil && !enc.IsAEAD() {
		return nil, fmt.Errorf("%s needs an integrity algorithm", enc)
	}
	seed := join(of.shared, of.ni, of.nr, of.additional)
	defer clear(seed)
	material, err := k.prf.plus(k.d, seed, 2*encLen+2*mac.key)
	if err != nil {
		return nil, err
	}
	c := &childKeys{}
	cutKeys(material, []keyCut{{&c.encI, encLen}, {&c.integI, mac.key}, {&c.encR, encLen}, {&c.integR, mac.key}})
	return c, nil
}

// lowestNonce returns the lower of the two nonces of an exchange, which decides
// which of two simultaneous ones is undone (section 2.8.1). The comparison is
// octet by octet.
func lowestNonce(ni, nr []byte) []byte {
	if bytes.Compare(ni, nr) < 0 {
		return ni
	}
	return nr
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
