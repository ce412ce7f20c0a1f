package esp

import (
	"bytes"
	"testing"

	"github.com/emmansun/gmsm/sm4"

	"github.com/vpngw/vpngw/ipsec"
)

// TestNationalVectors checks that the transforms are keyed with the algorithms that
// the standards mean, by their published vectors.
func TestNationalVectors(t *testing.T) {
	key := unhex(t, "0123456789abcdeffedcba9876543210")
	// GB/T 32907, appendix A.1.
	block, err := sm4.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 16)
	if block.Encrypt(got, key); !bytes.Equal(got, unhex(t, "681edf34d206965e86b3e94f536e4246")) {
		t.Errorf("SM4: %x", got)
	}
	// GB/T 32905, appendix A.1.
	h := newSM3()
	h.Write([]byte("abc"))
	if got := h.Sum(nil); !bytes.Equal(got, unhex(t, "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0")) {
		t.Errorf("SM3: %x", got)
	}
	// RFC 8998, appendix A.1.
	aead, err := newGCM(block, nil)
	if err != nil {
		t.Fatal(err)
	}
	sealed := aead.Seal(nil, unhex(t, "00001234567800000000abcd"), unhex(t, "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbccccccccccccccccdddddddddddddddd"+
		"eeeeeeeeeeeeeeeeffffffffffffffffeeeeeeeeeeeeeeeeaaaaaaaaaaaaaaaa"), unhex(t, "feedfacedeadbeeffeedfacedeadbeefabaddad2"))
	if want := unhex(t, "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735"+
		"d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d"+"83de3541e4c2b58177e065a9bf7b62ec"); !bytes.Equal(sealed, want) {
		t.Errorf("SM4-GCM: %x", sealed)
	}
}

// A worker's copy of a keyed hash goes its own way.
func TestSM3Clone(t *testing.T) {
	mac, n, err := newMAC(ipsec.Integrity(ipsec.IntegrityHMACSM3256), counting(0, 32))
	if err != nil || n != 32 {
		t.Fatal(n, err)
	}
	clone, err := mac.Clone()
	if err != nil {
		t.Fatal(err)
	}
	mac.Write([]byte("one"))
	clone.Write([]byte("other"))
	again, err := mac.Clone()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Sum(nil), mac.Sum(nil)) || bytes.Equal(clone.Sum(nil), mac.Sum(nil)) {
		t.Error("copies of the keyed hash share a state")
	}
}
