package sa

import (
	"bytes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/mlkem"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/emmansun/gmsm/sm4"

	"github.com/vpngw/vpngw/ipsec"
)

// knownExchanges are the digests (SHA-256) of what OpenSSL and Python's integers
// give for a private value that counts from 1: the public value and the secret that
// a peer with the same values has with us. Of a KEM the secret is that of a
// ciphertext that counts from 0.
var knownExchanges = map[uint16]string{
	ipsec.GroupMODP768:    "93bbf78389c9f4c43bdb41c6bec1b23bfd7b63d5554a60113b9adce716ae3076",
	ipsec.GroupMODP1024:   "d20fdd857e4c90fd1e8b43ec6bf7ea3d2ce5fac69f5ed94f61a8a3e0938cc5dd",
	ipsec.GroupMODP1536:   "833ae1bbb4653302b5dbc1ccc3f1994669c4596e4c045159c2752912a0cff5e8",
	ipsec.GroupMODP2048:   "83da5b34ed69719b528d417fce066b66ce6ed65f5022e99288e615b63bd65f0f",
	ipsec.GroupMODP3072:   "b6fe0dba25de873d8f3282c3256ac13b424bd1e247b1853b7f1e3a110dfadd4b",
	ipsec.GroupMODP4096:   "f6a5df2b8a873f8176fb2fac3ffbba84f362292fa297958ca5c5e9dabd68136e",
	ipsec.GroupECP256:     "62ef1d7c51012caae50a1bd5f4e31e8a202ea5943b5680b655ebdcb27167bf45",
	ipsec.GroupECP384:     "5bdc5c0aafacd918f4d4f937cadbc66281455322791febcf04ad48d4dd818bdb",
	ipsec.GroupECP521:     "2b64b89f744c68673cbb27fb861c01f9b30f6f808e3ac6638985d68a6f1e29fb",
	ipsec.GroupCurve25519: "52c5cb7ca2f7ff4a931507a9e6c1612234c7a18451ba0d06ba86a62980b73017",
	ipsec.GroupMLKEM768:   "3553fc353d5b4c152c59a52c70b24ca436f6c6bdde908f2b4e94d76c70942310",
}

// SelfTest compares each algorithm that IKE can negotiate with a known answer. It
// is for the start of a program, which must not go on when it fails: the error
// names the algorithms that are broken, or that have no known answer. It takes some
// tens of milliseconds.
func SelfTest() error {
	var errs []error
	for _, t := range ipsec.KnownEncryptions() {
		errs = append(errs, testEncryption(t))
	}
	for _, id := range slices.Sorted(maps.Keys(integrities)) {
		if i := integrities[id]; i.hash != nil {
			errs = append(errs, testMAC(ipsec.Integrity(id), i.key, func(key, message []byte) []byte {
				mac := hmac.New(i.hash, key)
				mac.Write(message)
				return mac.Sum(nil)[:i.output]
			}))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(prfs)) {
		p := prfs[id]
		errs = append(errs, testMAC(ipsec.PRF(id), p.size, func(key, message []byte) []byte { return p.sum(key, message) }))
	}
	for _, id := range append(slices.Sorted(maps.Keys(groups)), slices.Sorted(maps.Keys(kems))...) {
		if err := testExchange(id, knownExchanges[id]); err != nil {
			errs = append(errs, fmt.Errorf("self test: %s: %w", ipsec.Group(id), err))
		}
	}
	return errors.Join(errs...)
}

var errWrongAnswer = errors.New("not the known answer")

// testMAC tests what authenticates.
func testMAC(t ipsec.Transform, keyLen int, sum func(key, message []byte) []byte) error {
	known, err := ipsec.KnownAnswerOf(t, keyLen)
	if err == nil {
		if got := sum(known.Key, known.Message); len(got) == 0 || !bytes.HasPrefix(known.Output, got) {
			err = fmt.Errorf("%s: %w", t, errWrongAnswer)
		}
	}
	if err != nil {
		return fmt.Errorf("self test: %w", err)
	}
	return nil
}

// testEncryption tests the protection of IKE messages.
func testEncryption(t ipsec.Transform) error {
	err := func() error {
		n, err := keyLen(t)
		if err != nil {
			return err
		}
		known, err := ipsec.KnownAnswerOf(t, n)
		if err != nil {
			return err
		}
		if t.IsNational() {
			return testNational(t, &known)
		}
		integ := ipsec.Transform{}
		if !t.IsAEAD() {
			integ = ipsec.Integrity(ipsec.IntegrityHMACSHA2256128)
		}
		c, err := newCipher(t, integ, known.Key, ipsec.KnownOctets(1, integrities[integ.ID].key), knownRandom(known.IV))
		if err != nil {
			return err
		}
		header := known.Additional
		sealed, err := c.Seal(bytes.Clone(header), known.Message)
		if err != nil {
			return err
		}
		var got []byte
		switch c := c.(type) {
		case *aeadCipher:
			nonce := append(bytes.Clone(c.salt[:]), known.IV[:aeadIVLen]...)
			got = c.aead.Seal(nil, nonce, known.Message, known.Additional)
		case *cbcCipher:
			got = make([]byte, len(known.Message))
			block, err := c.newBlock(c.key)
			if err != nil {
				return err
			}
			cipher.NewCBCEncrypter(block, known.IV[:c.size]).CryptBlocks(got, known.Message)
			if !bytes.HasPrefix(sealed[len(header)+c.size:], got) {
				return errWrongAnswer
			}
		}
		if !bytes.Equal(got, known.Output) {
			return errWrongAnswer
		}
		if opened, err := c.Open(sealed, len(header)); err != nil || !bytes.Equal(opened, known.Message) {
			return errors.New("what is sealed does not open")
		}
		sealed[len(sealed)-1] ^= 1
		if _, err := c.Open(sealed, len(header)); err == nil {
			return errors.New("what was changed opens")
		}
		return nil
	}()
	if err != nil {
		return fmt.Errorf("self test: %s: %w", t, err)
	}
	return nil
}

// testNational tests the cipher of IKE SAs of GM gateways. That of AEAD is for ESP
// alone, which tests it.
func testNational(t ipsec.Transform, known *ipsec.KnownAnswer) error {
	if t.IsAEAD() {
		return nil
	}
	block, err := sm4.NewCipher(known.Key)
	if err != nil {
		return err
	}
	got := make([]byte, len(known.Message))
	cipher.NewCBCEncrypter(block, known.IV).CryptBlocks(got, known.Message)
	if !bytes.Equal(got, known.Output) {
		return errWrongAnswer
	}
	return nil
}

// testExchange tests a key exchange method.
func testExchange(id uint16, want string) error {
	kex, err := newKeyExchange(id, knownRandom(ipsec.KnownOctets(1, 128)))
	if err != nil {
		return err
	}
	defer kex.wipe()
	peer := kex.public()
	if isKEM(id) {
		peer = ipsec.KnownOctets(0, mlkem.CiphertextSize768)
	}
	secret, err := kex.agree(peer)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(join(kex.public(), secret))
	if hex.EncodeToString(sum[:]) != want {
		return errWrongAnswer
	}
	if !isKEM(id) {
		return nil
	}
	value, secret, err := answerKeyExchange(id, nil, kex.public())
	if err != nil {
		return err
	}
	if opened, err := kex.agree(value); err != nil || !bytes.Equal(opened, secret) {
		return errors.New("what is encapsulated does not come out")
	}
	return nil
}

// knownRandom is a source of the same octets each time.
type knownRandom []byte

func (r knownRandom) Read(b []byte) (int, error) {
	if copy(b, r) < len(b) {
		return 0, errors.New("too few octets")
	}
	return len(b), nil
}
