package sa

import (
	"crypto/mlkem"
	"errors"
	"fmt"

	"github.com/vpngw/vpngw/ipsec"
)

// kems lists the key exchange methods that are key encapsulation mechanisms, by
// their IANA number. They are used as additional key exchanges only, beside a
// group (RFC 9370): the secret holds as long as one of the two does.
var kems = map[uint16]group{ipsec.GroupMLKEM768: newMLKEM768}

// isKEM reports whether the two ends of a method do different things.
func isKEM(id uint16) bool {
	_, ok := kems[id]
	return ok
}

// mlkem768Exchange is the initiator's half of ML-KEM-768 (FIPS 203): the public
// value is an encapsulation key of 1184 octets, the peer's a ciphertext of 1088.
type mlkem768Exchange struct {
	key   *mlkem.DecapsulationKey768
	value []byte
}

func newMLKEM768(rand randSource) (keyExchange, error) {
	seed := make([]byte, mlkem.SeedSize)
	defer clear(seed)
	if err := readFull(rand, seed); err != nil {
		return nil, err
	}
	key, err := mlkem.NewDecapsulationKey768(seed)
	if err != nil {
		return nil, err
	}
	return &mlkem768Exchange{key, key.EncapsulationKey().Bytes()}, nil
}

func (x *mlkem768Exchange) public() []byte { return x.value }

// wipe drops the private value. The standard library offers no way to overwrite
// it.
func (x *mlkem768Exchange) wipe() { x.key = nil }

func (x *mlkem768Exchange) shared(peer []byte) ([]byte, error) { return sharedOnce(x, peer) }

// agree decapsulates. A ciphertext that was tampered with gives a secret that the
// peer does not have (FIPS 203, section 6.3), and so fails as a wrong key does.
func (x *mlkem768Exchange) agree(peer []byte) ([]byte, error) {
	if x.key == nil {
		return nil, errSpent
	}
	if len(peer) != mlkem.CiphertextSize768 {
		return nil, fmt.Errorf("ciphertext of %d octets, the method has %d", len(peer), mlkem.CiphertextSize768)
	}
	return x.key.Decapsulate(peer)
}

// encapsulate768 is the responder's half of ML-KEM-768. The randomness is that of
// the standard library.
func encapsulate768(peer []byte) (value, secret []byte, err error) {
	if len(peer) != mlkem.EncapsulationKeySize768 {
		return nil, nil, fmt.Errorf("public value of %d octets, the method has %d", len(peer), mlkem.EncapsulationKeySize768)
	}
	key, err := mlkem.NewEncapsulationKey768(peer)
	if err != nil {
		// The modulus check of FIPS 203, section 7.2.
		return nil, nil, errors.New("public value is no encapsulation key")
	}
	secret, value = key.Encapsulate()
	return value, secret, nil
}

// answerKeyExchange does a responder's part of a key exchange at once: it returns
// the value for the KE payload and the secret.
func answerKeyExchange(id uint16, rand randSource, peer []byte) (value, secret []byte, err error) {
	if id == ipsec.GroupMLKEM768 {
		value, secret, err = encapsulate768(peer)
	} else {
		var kex keyExchange
		if kex, err = newKeyExchange(id, rand); err != nil {
			return nil, nil, err
		}
		defer kex.wipe()
		value = kex.public()
		secret, err = kex.shared(peer)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("key exchange: %s: %w", ipsec.Group(id), err)
	}
	return value, secret, nil
}
