package wire

import (
	"encoding/hex"
	"testing"
)

// Secret 00 01 … 1f of the first epoch.
func TestEpochVectors(t *testing.T) {
	var s EpochSecret
	for i := range s {
		s[i] = byte(i)
	}
	iv, next := s.IV(), s.Next()
	for _, tt := range []struct {
		name, want string
		got        []byte
	}{
		{"data_key of 16 octets", "c0b015350de890ee8e1849d2c29a1b94", s.Key(16)},
		{"data_key of 32 octets", "ebbbf838a8658beb56f2324d691351bd4c8c230fb271ada8f67de830b7ee3192", s.Key(32)},
		{"data_iv", "568de14f8f744bfb0b721f66", iv[:]},
		{"next secret", "e35bffa31e2723bf09e8d394fa9171ca4e534553bffa1d3482de4c9b3bc639d7", next[:]},
	} {
		if got := hex.EncodeToString(tt.got); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}
