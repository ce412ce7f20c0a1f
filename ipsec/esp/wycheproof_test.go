package esp

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

// wycheproof is a test of Project Wycheproof, in hexadecimal digits.
type wycheproof struct {
	TcID                       int
	Key, IV, AAD, Msg, Ct, Tag string
	Result                     string // valid or invalid
}

// readWycheproof reads tests. They lie with those of the key exchange, which has
// most of them.
func readWycheproof(t *testing.T, name string) []wycheproof {
	t.Helper()
	b, err := os.ReadFile("../../ike/sa/testdata/wycheproof/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Tests []wycheproof }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Tests) < 100 {
		t.Fatalf("%s: %d tests", name, len(file.Tests))
	}
	return file.Tests
}

func TestWycheproofAEAD(t *testing.T) {
	for file, id := range map[string]uint16{"aes_gcm.json": ipsec.EncryptionAESGCM16, "chacha20_poly1305.json": ipsec.EncryptionChaCha20Poly1305} {
		for _, w := range readWycheproof(t, file) {
			key, iv := unhex(t, w.Key), unhex(t, w.IV)
			enc := ipsec.Encryption(id, 0)
			if id == ipsec.EncryptionAESGCM16 {
				enc.KeyBits = uint16(8 * len(key))
			}
			tr, err := newTransform(&ipsec.SA{SPI: 0x100, Encryption: enc, EncryptionKey: append(key, iv[:saltLen]...)})
			if err != nil {
				t.Fatal(err)
			}
			nonce := append(tr.salt[:], iv[saltLen:]...)
			plain, err := tr.workerAEAD().Open(nil, nonce, append(unhex(t, w.Ct), unhex(t, w.Tag)...), unhex(t, w.AAD))
			if good := err == nil && bytes.Equal(plain, unhex(t, w.Msg)); good != (w.Result == "valid") {
				t.Errorf("%s %d is %s: %x, %v", file, w.TcID, w.Result, plain, err)
			}
		}
	}
}

// Only keys that are as long as an HMAC of ESP has them can be tried.
func TestWycheproofHMAC(t *testing.T) {
	for file, id := range map[string]uint16{
		"hmac_sha1.json": ipsec.IntegrityHMACSHA196, "hmac_sha256.json": ipsec.IntegrityHMACSHA2256128,
		"hmac_sha384.json": ipsec.IntegrityHMACSHA2384192, "hmac_sha512.json": ipsec.IntegrityHMACSHA2512256,
	} {
		good, bad := 0, 0
		for _, w := range readWycheproof(t, file) {
			key, tag := unhex(t, w.Key), unhex(t, w.Tag)
			mac, icv, err := newMAC(ipsec.Integrity(id), key)
			if err != nil || len(tag) < icv {
				continue
			}
			mac.Write(unhex(t, w.Msg))
			same := bytes.Equal(mac.Sum(nil)[:len(tag)], tag)
			if same != (w.Result == "valid") {
				t.Errorf("%s %d: the tag is %s", file, w.TcID, w.Result)
			}
			if same {
				good++
			} else {
				bad++
			}
		}
		if good < 10 || bad < 10 {
			t.Errorf("%s: only %d good and %d bad tags", file, good, bad)
		}
	}
}
