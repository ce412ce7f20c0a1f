package main

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

func TestKeyLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	var log strings.Builder
	k, err := newKeyLog(dir, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for _, keys := range []sa.Keys{
		{IKE: &sa.IKEKeys{
			InitiatorSPI: 0x0102030405060708, ResponderSPI: 0xa, Encryption: ipsec.Encryption(ipsec.EncryptionAESCBC, 256),
			Integrity: ipsec.Integrity(ipsec.IntegrityHMACSHA2256128),
			SKei:      []byte{1}, SKer: []byte{2}, SKai: []byte{3}, SKar: []byte{4},
		}},
		{IKE: &sa.IKEKeys{
			InitiatorSPI: 1, ResponderSPI: 2, Encryption: ipsec.Encryption(ipsec.EncryptionAESGCM16, 128),
			SKei: []byte{1}, SKer: []byte{2},
		}},
		{IKE: &sa.IKEKeys{Encryption: ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 0)}}, // not known to Wireshark
		{ISAKMP: &sa.ISAKMPKeys{InitiatorSPI: 0xabcdef, Encryption: ipsec.Encryption(ipsec.EncryptionAESCBC, 128), Key: []byte{1, 2}}},
		{ESP: &ipsec.SA{
			SPI: 0xabc, Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"),
			Encryption: ipsec.Encryption(ipsec.EncryptionAESCBC, 128), EncryptionKey: []byte{0xee},
			Integrity: ipsec.Integrity(ipsec.IntegrityHMACSHA196), IntegrityKey: []byte{0xff}, ESN: true,
		}},
		{ESP: &ipsec.SA{
			SPI: 1, Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("2001:db8::2"),
			Encryption: ipsec.Encryption(ipsec.EncryptionAESGCM16, 256), EncryptionKey: []byte{0xee},
		}},
	} {
		k.write(keys)
	}
	k.Close()
	for file, want := range map[string]string{
		"ikev1_decryption_table": "0000000000abcdef,0102\n",
		"ikev2_decryption_table": `0102030405060708,000000000000000a,01,02,"AES-CBC-256 [RFC3602]",03,04,"HMAC_SHA2_256_128 [RFC4868]"
0000000000000001,0000000000000002,01,02,"AES-GCM-128 with 16 octet ICV [RFC5282]",,,"NONE [RFC4306]"
`,
		"esp_sa": `"IPv4","192.0.2.1","192.0.2.2","0x00000abc","AES-CBC [RFC3602]","0xee","HMAC-SHA-1-96 [RFC2404]","0xff","64-bit"
"IPv6","2001:db8::1","2001:db8::2","0x00000001","AES-GCM with 16 octet ICV [RFC4106]","0xee","NULL","","32-bit"
`,
	} {
		path := filepath.Join(dir, file)
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s:\n%swant:\n%s", file, got, want)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", file, info.Mode(), err)
		}
	}
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "can decrypt") {
		t.Errorf("no loud warning: %s", &log)
	}
}
