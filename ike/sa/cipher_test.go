package sa

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// ikeCiphers are all protections that an IKE SA may have.
func ikeCiphers() [][2]ipsec.Transform {
	var list [][2]ipsec.Transform
	for _, enc := range []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESCBC, 128), ipsec.Encryption(ipsec.EncryptionAESCBC, 192),
		ipsec.Encryption(ipsec.EncryptionAESCBC, 256), ipsec.Encryption(ipsec.Encryption3DES, 0),
	} {
		for id := range integrities {
			if id != ipsec.IntegrityNone && !ipsec.Integrity(id).IsNational() {
				list = append(list, [2]ipsec.Transform{enc, ipsec.Integrity(id)})
			}
		}
	}
	for _, enc := range []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), ipsec.Encryption(ipsec.EncryptionAESGCM16, 192),
		ipsec.Encryption(ipsec.EncryptionAESGCM16, 256), ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 0),
	} {
		list = append(list, [2]ipsec.Transform{enc, {}})
	}
	return list
}

func testCipher(t *testing.T, pair [2]ipsec.Transform, seed byte) wire.Cipher {
	t.Helper()
	random := rand.NewChaCha8([32]byte{seed})
	n, err := keyLen(pair[0])
	if err != nil {
		t.Fatal(err)
	}
	key, integKey := make([]byte, n), make([]byte, integrities[pair[1].ID].key)
	if readFull(random, key) != nil || readFull(random, integKey) != nil {
		t.Fatal("no randomness")
	}
	c, err := newCipher(pair[0], pair[1], key, integKey, random)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCipherRoundTrip(t *testing.T) {
	header := []byte("an IKE header and the start of a payload")
	for _, pair := range ikeCiphers() {
		c, same, other := testCipher(t, pair, 1), testCipher(t, pair, 1), testCipher(t, pair, 2)
		for n := range 40 {
			plain := bytes.Repeat([]byte{0xa5}, n)
			message, err := c.Seal(bytes.Clone(header), plain)
			if err != nil {
				t.Fatal(err)
			}
			if got := len(message) - len(header); got != c.SealedLen(n) {
				t.Errorf("%v: %d octets sealed to %d, promised %d", pair, n, got, c.SealedLen(n))
			}
			before := bytes.Clone(message)
			opened, err := same.Open(message, len(header))
			if err != nil || !bytes.Equal(opened, plain) {
				t.Errorf("%v: %d octets: %x, %v", pair, n, opened, err)
			}
			if !bytes.Equal(message, before) {
				t.Errorf("%v: Open changed the message", pair)
			}
			if _, err := other.Open(message, len(header)); err == nil {
				t.Errorf("%v: opened with another key", pair)
			}
		}
	}
}

// TestCipherRefuses flips every bit and cuts at every length.
func TestCipherRefuses(t *testing.T) {
	for _, pair := range ikeCiphers() {
		c := testCipher(t, pair, 1)
		message, err := c.Seal([]byte("header"), []byte("plaintext"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range len(message) * 8 {
			message[i/8] ^= 1 << (i % 8)
			if _, err := c.Open(message, 6); err == nil {
				t.Errorf("%v: opened with bit %d flipped", pair, i)
			}
			message[i/8] ^= 1 << (i % 8)
		}
		for i := range message {
			if _, err := c.Open(message[:i], min(6, i)); err == nil {
				t.Errorf("%v: opened %d octets", pair, i)
			}
		}
	}
}

// TestAEADIVsCount checks that no IV comes twice, and that a cipher whose IVs
// are used up refuses to go on.
func TestAEADIVsCount(t *testing.T) {
	c := testCipher(t, [2]ipsec.Transform{ipsec.Encryption(ipsec.EncryptionAESGCM16, 128)}, 1)
	seen := map[string]bool{}
	for range 100 {
		message, err := c.Seal(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		seen[string(message[:aeadIVLen])] = true
	}
	if len(seen) != 100 {
		t.Errorf("%d IVs for 100 messages", len(seen))
	}
	a := c.(*aeadCipher)
	a.next = 1<<64 - 1
	if _, err := c.Seal(nil, nil); err != nil {
		t.Error(err)
	}
	if _, err := c.Seal(nil, nil); err == nil {
		t.Error("an IV is used twice")
	}
}

func TestCipherRefusesTransforms(t *testing.T) {
	random := rand.NewChaCha8([32]byte{})
	for name, tc := range map[string]struct {
		enc, integ ipsec.Transform
		key        int
	}{
		"no integrity": {ipsec.Encryption(ipsec.EncryptionAESCBC, 128), ipsec.Integrity(ipsec.IntegrityNone), 16},
		"null":         {ipsec.Encryption(ipsec.EncryptionNull, 0), ipsec.Integrity(ipsec.IntegrityHMACSHA196), 0},
		"key size":     {ipsec.Encryption(ipsec.EncryptionAESCBC, 64), ipsec.Integrity(ipsec.IntegrityHMACSHA196), 8},
		"short key":    {ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), ipsec.Transform{}, 16},
		"unknown":      {ipsec.Encryption(99, 0), ipsec.Transform{}, 16},
	} {
		if _, err := newCipher(tc.enc, tc.integ, make([]byte, tc.key), nil, random); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
}
