package esp

import (
	"bytes"
	"crypto/cipher"
	"errors"
	"fmt"

	"github.com/vpngw/vpngw/ipsec"
)

// SelfTest compares each algorithm of ESP with a known answer, and seals and opens
// a packet with it. It is for the start of a program, which must not go on when it
// fails: the error names the algorithms that are broken.
func SelfTest() error {
	var errs []error
	test := func(t ipsec.Transform, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("self test of ESP: %s: %w", t, err))
		}
	}
	for _, t := range ipsec.KnownEncryptions() {
		test(t, testEncryption(t))
	}
	for _, id := range []uint16{
		ipsec.IntegrityHMACMD596, ipsec.IntegrityHMACSHA196, ipsec.IntegrityHMACSHA2256128, ipsec.IntegrityHMACSHA2384192,
		ipsec.IntegrityHMACSHA2512256, ipsec.IntegrityHMACSM396, ipsec.IntegrityHMACSM3128, ipsec.IntegrityHMACSM3256,
	} {
		test(ipsec.Integrity(id), testIntegrity(ipsec.Integrity(id)))
	}
	return errors.Join(errs...)
}

var errWrongAnswer = errors.New("not the known answer")

// Key lengths in octets.
const (
	longestKey = 64
	sha256Key  = 32
)

// keyOf finds how much key an algorithm takes by asking it.
func keyOf(takes func(key []byte) bool) []byte {
	for n := range longestKey + 1 {
		if key := ipsec.KnownOctets(1, n); takes(key) {
			return key
		}
	}
	return nil
}

func testEncryption(t ipsec.Transform) error {
	sa := ipsec.SA{SPI: 0x01020304, Encryption: t}
	if !t.IsAEAD() {
		sa.Integrity, sa.IntegrityKey = ipsec.Integrity(ipsec.IntegrityHMACSHA2256128), ipsec.KnownOctets(1, sha256Key)
	}
	sa.EncryptionKey = keyOf(func(key []byte) bool {
		sa.EncryptionKey = key
		_, err := newTransform(&sa)
		return err == nil
	})
	tr, err := newTransform(&sa)
	if err != nil {
		return err
	}
	known, err := ipsec.KnownAnswerOf(t, len(sa.EncryptionKey))
	if err != nil {
		return err
	}
	got := make([]byte, len(known.Message))
	if tr.newAEAD != nil {
		got = tr.workerAEAD().Seal(nil, append(tr.salt[:], known.IV[:aeadIVLen]...), known.Message, known.Additional)
	} else {
		cipher.NewCBCEncrypter(tr.block, known.IV[:tr.block.BlockSize()]).CryptBlocks(got, known.Message)
	}
	if !bytes.Equal(got, known.Output) {
		return errWrongAnswer
	}
	return testPacket(&sa, known.Message)
}

// testPacket seals a packet and opens it, as it is and changed.
func testPacket(sa *ipsec.SA, message []byte) error {
	out, err := NewOutbound(sa)
	if err != nil {
		return err
	}
	const nextHeader = 4
	sealed, err := out.NewSealer().Seal(nil, append(make([]byte, 0, len(message)+MaxTrailer), message...), nextHeader)
	if err != nil {
		return err
	}
	for _, changed := range []bool{true, false} {
		in, err := NewInbound(sa)
		if err != nil {
			return err
		}
		packet := bytes.Clone(sealed)
		if changed {
			packet[len(packet)-1] ^= 1
		}
		inner, next, err := in.NewOpener().Open(packet)
		switch {
		case changed && err == nil:
			return errors.New("what was changed opens")
		case !changed && (err != nil || next != nextHeader || !bytes.Equal(inner, message)):
			return errors.New("what is sealed does not open")
		}
	}
	return nil
}

func testIntegrity(t ipsec.Transform) error {
	key := keyOf(func(key []byte) bool {
		_, _, err := newMAC(t, key)
		return err == nil
	})
	mac, icv, err := newMAC(t, key)
	if err != nil {
		return err
	}
	known, err := ipsec.KnownAnswerOf(t, len(key))
	if err != nil {
		return err
	}
	worker, err := mac.Clone()
	if err != nil {
		return err
	}
	worker.Write(known.Message)
	if !bytes.HasPrefix(known.Output, worker.Sum(nil)[:icv]) {
		return errWrongAnswer
	}
	return nil
}
