package sa

import (
	"crypto/cipher"
	"crypto/ecdsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/sm3"
	"github.com/emmansun/gmsm/sm4"
)

// The digital envelope: a key Sk of 16 octets, encrypted for the receiver's
// encryption key; the nonce and the identity, encrypted with Sk; and the sender's
// signature over all of that in the clear and the sender's encryption certificate.

const (
	// gmKeyLen is the octets of Sk and of each key of SM4.
	gmKeyLen = 16
	// gmScalar is the octets of a coordinate, a private key, and half a signature.
	gmScalar = 32
	// Bounds of an SM2 ciphertext of Sk in octets: a point, a hash and Sk, in DER
	// with its headers at most.
	minSealedKey, maxSealedKey = 1 + 2*gmScalar + sm3.Size + gmKeyLen - 4, 1 + 2*gmScalar + sm3.Size + gmKeyLen + 32
	// maxGMIdentity bounds an identity in octets, encrypted.
	maxGMIdentity = 2048
)

var errEnvelope = errors.New("the digital envelope does not open")

// sealKey encrypts Sk for the receiver.
func sealKey(rand randSource, to *ecdsa.PublicKey, sk []byte, e GMKeyEncoding) ([]byte, error) {
	switch e {
	case GMKeyC1C2C3:
		return sm2.Encrypt(rand, to, sk, sm2.NewPlainEncrypterOpts(sm2.MarshalUncompressed, sm2.C1C2C3))
	case GMKeyC1C3C2:
		return sm2.Encrypt(rand, to, sk, sm2.NewPlainEncrypterOpts(sm2.MarshalUncompressed, sm2.C1C3C2))
	case GMKeyDER:
	}
	return sm2.EncryptASN1(rand, to, sk)
}

// sealedKeyForm checks, without any arithmetic, that a ciphertext may be one of Sk.
func sealedKeyForm(sealed []byte) error {
	if n := len(sealed); n < minSealedKey || n > maxSealedKey {
		return fmt.Errorf("an encrypted key of %d octets", n)
	}
	switch sealed[0] {
	case 0x30:
	case 0x04:
		if want := 1 + 2*gmScalar + sm3.Size + gmKeyLen; len(sealed) != want {
			return fmt.Errorf("an encrypted key of %d octets, not %d", len(sealed), want)
		}
	default:
		return errors.New("an encrypted key of no known form")
	}
	return nil
}

// openKey decrypts Sk, and tells which form it came in.
func openKey(own *sm2.PrivateKey, sealed []byte) (sk []byte, e GMKeyEncoding, err error) {
	if err := sealedKeyForm(sealed); err != nil {
		return nil, 0, err
	}
	if sealed[0] == 0x30 {
		sk, err = sm2.Decrypt(own, sealed)
		e = GMKeyDER
	} else {
		// Which order it is shows in the hash.
		e = GMKeyC1C2C3
		if sk, err = own.Decrypt(nil, sealed, sm2.NewPlainDecrypterOpts(sm2.C1C2C3)); err != nil {
			e = GMKeyC1C3C2
			sk, err = own.Decrypt(nil, sealed, sm2.NewPlainDecrypterOpts(sm2.C1C3C2))
		}
	}
	if err != nil || len(sk) != gmKeyLen {
		clear(sk)
		return nil, 0, errEnvelope
	}
	return sk, e, nil
}

// gmPad pads to whole blocks: zeros, and then how many they are. There is always
// the last octet, so that it is one less than what PKCS#7 has.
func gmPad(b []byte) []byte {
	zeros := sm4.BlockSize - 1 - len(b)%sm4.BlockSize
	padded := make([]byte, len(b), len(b)+zeros+1)
	copy(padded, b)
	padded = append(padded, make([]byte, zeros)...)
	return append(padded, byte(zeros))
}

// gmUnpad takes the padding off. Nothing secret hangs on which check fails: what
// is padded is bound by a signature.
func gmUnpad(b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, errEnvelope
	}
	zeros := int(b[len(b)-1])
	end := len(b) - 1 - zeros
	if zeros >= sm4.BlockSize || end < 0 {
		return nil, errEnvelope
	}
	for _, octet := range b[end : len(b)-1] {
		if octet != 0 {
			return nil, errEnvelope
		}
	}
	return b[:end], nil
}

// gmChain is SM4-CBC under Sk. It goes on from payload to payload, and begins with
// zeros.
type gmChain struct {
	block cipher.Block
	iv    []byte
}

func newGMChain(sk []byte) (*gmChain, error) {
	block, err := sm4.NewCipher(sk)
	if err != nil {
		return nil, err
	}
	return &gmChain{block, make([]byte, sm4.BlockSize)}, nil
}

func (c *gmChain) seal(plain []byte) []byte {
	b := gmPad(plain)
	cipher.NewCBCEncrypter(c.block, c.iv).CryptBlocks(b, b)
	c.iv = b[len(b)-sm4.BlockSize:]
	return b
}

func (c *gmChain) open(sealed []byte) ([]byte, error) {
	if len(sealed) == 0 || len(sealed)%sm4.BlockSize != 0 {
		return nil, errEnvelope
	}
	b := make([]byte, len(sealed))
	cipher.NewCBCDecrypter(c.block, c.iv).CryptBlocks(b, sealed)
	c.iv = sealed[len(sealed)-sm4.BlockSize:]
	return gmUnpad(b)
}

// gmSignature is the form of a signature in DER.
type gmSignature struct{ R, S *big.Int }

// parseGMSignature reads a signature in either form and returns it in DER.
func parseGMSignature(b []byte) (der []byte, raw bool, err error) {
	var s gmSignature
	if rest, err := asn1.Unmarshal(b, &s); err != nil || len(rest) != 0 {
		if len(b) != 2*gmScalar {
			return nil, false, errors.New("a signature of no known form")
		}
		s.R, s.S = new(big.Int).SetBytes(b[:gmScalar]), new(big.Int).SetBytes(b[gmScalar:])
		raw = true
	}
	if s.R.Sign() <= 0 || s.S.Sign() <= 0 || s.R.BitLen() > 8*gmScalar || s.S.BitLen() > 8*gmScalar {
		return nil, false, errors.New("a signature of numbers that cannot be")
	}
	der, err = asn1.Marshal(s)
	return der, raw, err
}

// gmSign signs the parts, joined, with SM2 and SM3 and the identity that all have.
func gmSign(rand randSource, key *sm2.PrivateKey, v GMVariant, parts ...[]byte) ([]byte, error) {
	message := join(parts...)
	defer clear(message)
	var der []byte
	var err error
	if v.DigestWithoutZ {
		digest := sm3.Sum(message)
		der, err = sm2.SignASN1(rand, key, digest[:], nil)
	} else {
		der, err = key.Sign(rand, message, sm2.DefaultSM2SignerOpts)
	}
	if err != nil || !v.RawSignature {
		return der, err
	}
	var s gmSignature
	if _, err := asn1.Unmarshal(der, &s); err != nil {
		return nil, err
	}
	raw := make([]byte, 2*gmScalar)
	s.R.FillBytes(raw[:gmScalar])
	s.S.FillBytes(raw[gmScalar:])
	return raw, nil
}

// gmVerify checks a signature in DER.
func gmVerify(key *ecdsa.PublicKey, der []byte, v GMVariant, parts ...[]byte) bool {
	message := join(parts...)
	defer clear(message)
	if v.DigestWithoutZ {
		digest := sm3.Sum(message)
		return sm2.VerifyASN1(key, digest[:], der)
	}
	return sm2.VerifyASN1WithSM2(key, nil, message, der)
}
