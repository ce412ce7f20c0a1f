package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// keyLog writes the keys of all SAs as Wireshark's decryption tables
// "ikev1_decryption_table", "ikev2_decryption_table" and "esp_sa", so that a capture can be read. Who
// has the files can read the traffic: it exists for the debug switch alone.
type keyLog struct {
	log *slog.Logger
	mu  sync.Mutex // one line at a time
	v1  *os.File
	ike *os.File
	esp *os.File
}

// newKeyLog opens the tables in a directory, which it makes when missing.
func newKeyLog(dir string, log *slog.Logger) (*keyLog, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("debug.key_log_dir: %w", err)
	}
	k := &keyLog{log: log}
	for _, table := range []struct {
		name string
		file **os.File
	}{{"ikev1_decryption_table", &k.v1}, {"ikev2_decryption_table", &k.ike}, {"esp_sa", &k.esp}} {
		f, err := os.OpenFile(filepath.Join(dir, table.name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			k.Close()
			return nil, fmt.Errorf("debug.key_log_dir: %w", err)
		}
		*table.file = f
	}
	log.Warn("debug.key_log_dir is set: the keys of all tunnels are written to disk, and whoever reads them "+
		"can decrypt the traffic; remove the setting and the files when done", "dir", dir)
	return k, nil
}

// Close closes the tables.
func (k *keyLog) Close() {
	for _, f := range []*os.File{k.v1, k.ike, k.esp} {
		if f != nil {
			f.Close()
		}
	}
}

// write adds the line of one SA. Algorithms that Wireshark does not know are
// left out.
func (k *keyLog) write(keys sa.Keys) {
	file, line := k.ike, ""
	switch {
	case keys.IKE != nil:
		line = ikeTableLine(keys.IKE)
	case keys.ISAKMP != nil:
		file, line = k.v1, fmt.Sprintf("%016x,%x\n", keys.ISAKMP.InitiatorSPI, keys.ISAKMP.Key)
	case keys.ESP != nil:
		file, line = k.esp, espTableLine(keys.ESP)
	}
	if line == "" {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, err := file.WriteString(line); err != nil {
		k.log.Error("key log", "error", err)
	}
}

// Names of algorithms in Wireshark's tables (epan/dissectors/packet-isakmp.c
// and packet-ipsec.c show them in the preferences dialogue).
var (
	wiresharkIKEIntegrity = map[uint16]string{
		ipsec.IntegrityNone:           "NONE [RFC4306]",
		ipsec.IntegrityHMACMD596:      "HMAC_MD5_96 [RFC2403]",
		ipsec.IntegrityHMACSHA196:     "HMAC_SHA1_96 [RFC2404]",
		ipsec.IntegrityHMACSHA2256128: "HMAC_SHA2_256_128 [RFC4868]",
		ipsec.IntegrityHMACSHA2384192: "HMAC_SHA2_384_192 [RFC4868]",
		ipsec.IntegrityHMACSHA2512256: "HMAC_SHA2_512_256 [RFC4868]",
	}
	wiresharkESPIntegrity = map[uint16]string{
		ipsec.IntegrityNone:           "NULL",
		ipsec.IntegrityHMACMD596:      "HMAC-MD5-96 [RFC2403]",
		ipsec.IntegrityHMACSHA196:     "HMAC-SHA-1-96 [RFC2404]",
		ipsec.IntegrityHMACSHA2256128: "HMAC-SHA-256-128 [RFC4868]",
		ipsec.IntegrityHMACSHA2384192: "HMAC-SHA-384-192 [RFC4868]",
		ipsec.IntegrityHMACSHA2512256: "HMAC-SHA-512-256 [RFC4868]",
	}
)

func ikeTableLine(k *sa.IKEKeys) string {
	var encryption string
	switch k.Encryption.ID {
	case ipsec.Encryption3DES:
		encryption = "3DES [RFC2451]"
	case ipsec.EncryptionAESCBC:
		encryption = fmt.Sprintf("AES-CBC-%d [RFC3602]", k.Encryption.KeyBits)
	case ipsec.EncryptionAESGCM16:
		encryption = fmt.Sprintf("AES-GCM-%d with 16 octet ICV [RFC5282]", k.Encryption.KeyBits)
	}
	integrity := wiresharkIKEIntegrity[k.Integrity.ID]
	if encryption == "" || integrity == "" {
		return ""
	}
	return fmt.Sprintf("%016x,%016x,%x,%x,%q,%x,%x,%q\n", k.InitiatorSPI, k.ResponderSPI,
		k.SKei, k.SKer, encryption, k.SKai, k.SKar, integrity)
}

func espTableLine(s *ipsec.SA) string {
	var encryption string
	switch s.Encryption.ID {
	case ipsec.EncryptionNull:
		encryption = "NULL"
	case ipsec.Encryption3DES:
		encryption = "TripleDES-CBC [RFC2451]"
	case ipsec.EncryptionAESCBC:
		encryption = "AES-CBC [RFC3602]"
	case ipsec.EncryptionAESGCM16:
		encryption = "AES-GCM with 16 octet ICV [RFC4106]"
	}
	integrity := wiresharkESPIntegrity[s.Integrity.ID]
	if encryption == "" || integrity == "" {
		return ""
	}
	family := "IPv4"
	if s.Dst.Is6() {
		family = "IPv6"
	}
	key := ""
	if len(s.IntegrityKey) > 0 {
		key = fmt.Sprintf("0x%x", s.IntegrityKey)
	}
	sequence := "32-bit"
	if s.ESN {
		sequence = "64-bit"
	}
	return fmt.Sprintf("%q,%q,%q,%q,%q,%q,%q,%q,%q\n", family, s.Src, s.Dst, fmt.Sprintf("0x%08x", uint32(s.SPI)),
		encryption, fmt.Sprintf("0x%x", s.EncryptionKey), integrity, key, sequence)
}
