package sa

import (
	"encoding/binary"
	"errors"

	"github.com/emmansun/gmsm/sm3"
	"github.com/emmansun/gmsm/sm4"

	"github.com/vpngw/vpngw/ipsec"
)

// newGMKeys derives the secrets of an ISAKMP SA of GM/T 0022. What stands for a
// shared secret in RFC 2409 is the two nonces, which only the holders of the
// encryption keys can read:
//
//	SKEYID   = prf(SM3(Ni_b | Nr_b), CKY-I | CKY-R)
//	SKEYID_d = prf(SKEYID, CKY-I | CKY-R | 0)
//	SKEYID_a = prf(SKEYID, SKEYID_d | CKY-I | CKY-R | 1)
//	SKEYID_e = prf(SKEYID, SKEYID_a | CKY-I | CKY-R | 2), of which SM4 takes 16 octets
func newGMKeys(ni, nr []byte, spii, spir uint64) (*isakmpKeys, error) {
	if len(ni) == 0 || len(nr) == 0 {
		return nil, errors.New("no nonces")
	}
	p := prfs[ipsec.PRFHMACSM3]
	cookies := binary.BigEndian.AppendUint64(nil, spii)
	cookies = binary.BigEndian.AppendUint64(cookies, spir)
	nonces := join(ni, nr)
	defer clear(nonces)
	seed := sm3.Sum(nonces)
	defer clear(seed[:])
	k := &isakmpKeys{prf: p, id: p.sum(seed[:], cookies)}
	k.d = p.sum(k.id, cookies, []byte{0})
	k.a = p.sum(k.id, k.d, cookies, []byte{1})
	e := p.sum(k.id, k.a, cookies, []byte{2})
	defer clear(e)
	k.encryption = p.stretch(e, gmKeyLen)
	block, err := sm4.NewCipher(k.encryption)
	if err != nil {
		k.wipe()
		return nil, err
	}
	k.block = block
	return k, nil
}

// gmHash returns HASH_I or HASH_R. sai is the body of the initiator's SA payload,
// and id that of the identity of the end that it is from:
//
//	HASH_I = prf(SKEYID, CKY-I | CKY-R | SAi_b | IDi_b)
//	HASH_R = prf(SKEYID, CKY-R | CKY-I | SAi_b | IDr_b)
func gmHash(k *isakmpKeys, initiator bool, cookies, sai, id []byte) []byte {
	if initiator {
		return k.prf.sum(k.id, cookies, sai, id)
	}
	return k.prf.sum(k.id, cookies[8:], cookies[:8], sai, id)
}
