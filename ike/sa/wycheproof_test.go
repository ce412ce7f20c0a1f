package sa

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

// octets are given in hexadecimal digits.
type octets []byte

func (o *octets) UnmarshalText(text []byte) (err error) {
	*o, err = hex.DecodeString(string(text))
	return err
}

// wycheproof is a test of Project Wycheproof; the file decides which members it has.
type wycheproof struct {
	ID                      int    `json:"tcId"`
	Comment                 string `json:"comment"`
	Public, Private, Shared octets
	Key, IV, AAD, Msg, Ct   octets
	Tag                     octets
	Seed, C, K, Ek          octets
	Result                  string // valid, acceptable, invalid
}

// wycheproofTests reads a file of them.
func wycheproofTests(t *testing.T, name string, atLeast int) []wycheproof {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "wycheproof", name))
	if err != nil {
		t.Fatal(err)
	}
	var f struct{ Tests []wycheproof }
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	if len(f.Tests) < atLeast {
		t.Fatalf("%s: %d tests, not %d", name, len(f.Tests), atLeast)
	}
	return f.Tests
}

// TestWycheproofGroups: secrets come out as they should, and public values that no
// honest peer has are refused: compressed, not on the curve, of low order.
func TestWycheproofGroups(t *testing.T) {
	for file, tc := range map[string]struct {
		id   uint16
		size int
	}{
		"ecdh_p256.json": {ipsec.GroupECP256, 32}, "ecdh_p384.json": {ipsec.GroupECP384, 48},
		"ecdh_p521.json": {ipsec.GroupECP521, 66}, "x25519.json": {ipsec.GroupCurve25519, 32},
	} {
		good := 0
		for _, w := range wycheproofTests(t, file, 80) {
			private := append(make([]byte, max(0, tc.size-len(w.Private))), w.Private...)
			kex, err := newKeyExchange(tc.id, fixed(private[len(private)-tc.size:]))
			if err != nil {
				t.Fatalf("%s %d: %v", file, w.ID, err)
			}
			public := []byte(w.Public)
			wanted := w.Result == "valid"
			if tc.id == ipsec.GroupCurve25519 {
				// All are acceptable but those that make the secret zero (RFC 8031).
				wanted = !bytes.Equal(w.Shared, make([]byte, len(w.Shared)))
			} else if len(public) > 0 && public[0] == uncompressed {
				public = public[1:]
			}
			shared, err := kex.agree(public)
			switch {
			case wanted && (err != nil || !bytes.Equal(shared, w.Shared)):
				t.Errorf("%s %d (%s): %x, %v, want %x", file, w.ID, w.Comment, shared, err, []byte(w.Shared))
			case !wanted && err == nil:
				t.Errorf("%s %d (%s): not refused", file, w.ID, w.Comment)
			case wanted:
				good++
			}
		}
		if good < 50 {
			t.Errorf("%s: only %d secrets were compared", file, good)
		}
	}
}

// TestWycheproofAEAD opens and seals by the ciphers of IKE messages. Their plaintext
// ends with padding, which most of the tests do not have in order.
func TestWycheproofAEAD(t *testing.T) {
	for file, id := range map[string]uint16{"aes_gcm.json": ipsec.EncryptionAESGCM16, "chacha20_poly1305.json": ipsec.EncryptionChaCha20Poly1305} {
		good, bad := 0, 0
		for _, w := range wycheproofTests(t, file, 190) {
			enc := ipsec.Encryption(id, 0)
			if id == ipsec.EncryptionAESGCM16 {
				enc.KeyBits = uint16(8 * len(w.Key))
			}
			c, err := newCipher(enc, ipsec.Transform{}, join(w.Key, w.IV[:saltLen]), nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			a := c.(*aeadCipher)
			plain, err := c.Open(join(w.AAD, w.IV[saltLen:], w.Ct, w.Tag), len(w.AAD))
			if w.Result != "valid" {
				if bad++; err == nil {
					t.Errorf("%s %d (%s): not refused", file, w.ID, w.Comment)
				}
				continue
			}
			good++
			if sealed := a.aead.Seal(nil, w.IV, w.Msg, w.AAD); !bytes.Equal(sealed, join(w.Ct, w.Tag)) {
				t.Errorf("%s %d (%s): sealed to %x", file, w.ID, w.Comment, sealed)
			}
			// A message without a single octet of plaintext is too short.
			want, errWant := unpad(bytes.Clone(w.Msg))
			if (err == nil) != (errWant == nil) || !bytes.Equal(plain, want) || len(w.Msg) > 0 && err != nil && strings.Contains(err.Error(), "integrity") {
				t.Errorf("%s %d (%s): opened to %x, %v", file, w.ID, w.Comment, plain, err)
			}
		}
		if good < 100 || bad < 40 {
			t.Errorf("%s: only %d good and %d bad ones", file, good, bad)
		}
	}
}

// TestWycheproofHMAC computes by the pseudorandom functions, whose first octets are
// the integrity algorithms'.
func TestWycheproofHMAC(t *testing.T) {
	for file, id := range map[string]uint16{
		"hmac_sha1.json": ipsec.PRFHMACSHA1, "hmac_sha256.json": ipsec.PRFHMACSHA2256,
		"hmac_sha384.json": ipsec.PRFHMACSHA2384, "hmac_sha512.json": ipsec.PRFHMACSHA2512,
	} {
		for _, w := range wycheproofTests(t, file, 150) {
			same := bytes.Equal(prfs[id].sum(w.Key, w.Msg)[:len(w.Tag)], w.Tag)
			if same != (w.Result == "valid") {
				t.Errorf("%s %d (%s): the tag is %s", file, w.ID, w.Comment, w.Result)
			}
		}
	}
}

// TestWycheproofMLKEM decapsulates with known seeds, and refuses keys and ciphertexts
// that are none.
func TestWycheproofMLKEM(t *testing.T) {
	for _, w := range wycheproofTests(t, "mlkem_768.json", 20) {
		kex, err := newKeyExchange(ipsec.GroupMLKEM768, fixed(w.Seed))
		if err == nil && len(w.Seed) > 64 {
			continue // a seed is never longer here
		}
		var secret []byte
		if err == nil {
			secret, err = kex.agree(w.C)
		}
		if good := err == nil && bytes.Equal(secret, w.K); good != (w.Result == "valid") {
			t.Errorf("%d (%s): %x, %v, which is %s", w.ID, w.Comment, secret, err, w.Result)
		}
	}
	for _, w := range wycheproofTests(t, "mlkem_768_encaps.json", 15) {
		if _, _, err := answerKeyExchange(ipsec.GroupMLKEM768, nil, w.Ek); (err == nil) != (w.Result == "valid") {
			t.Errorf("encapsulation %d (%s): %v, which is %s", w.ID, w.Comment, err, w.Result)
		}
	}
}
