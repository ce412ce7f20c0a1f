package esp

import (
	"strings"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

func TestSelfTest(t *testing.T) {
	if err := SelfTest(); err != nil {
		t.Error(err)
	}
	for _, s := range suites() {
		if err := testEncryption(s.enc); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		if s.integ.Type != 0 {
			if err := testIntegrity(s.integ); err != nil {
				t.Errorf("%s: %v", s.name, err)
			}
		}
	}
}

func TestSelfTestFails(t *testing.T) {
	if err := testEncryption(ipsec.Encryption(99, 0)); err == nil || !strings.Contains(err.Error(), "99") {
		t.Errorf("an unknown cipher: %v", err)
	}
	if err := testIntegrity(ipsec.Integrity(99)); err == nil || !strings.Contains(err.Error(), "99") {
		t.Errorf("an unknown integrity algorithm: %v", err)
	}
}
