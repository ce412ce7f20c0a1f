package sa

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

// TestKeysV1CAVS runs the vectors of NIST CAVS 17.3 for pre-shared keys.
func TestKeysV1CAVS(t *testing.T) {
	f, err := os.Open("testdata/cavs-ikev1-psk.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hashes := map[string]uint16{
		"SHA-1": ipsec.PRFHMACSHA1, "SHA-256": ipsec.PRFHMACSHA2256,
		"SHA-384": ipsec.PRFHMACSHA2384, "SHA-512": ipsec.PRFHMACSHA2512,
	}
	var hash uint16
	v := map[string][]byte{}
	vectors := map[uint16]int{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := lines.Text()
		if id, ok := hashes[strings.Trim(line, "[]")]; ok {
			hash = id
		}
		key, value, ok := strings.Cut(line, " = ")
		if !ok || strings.HasPrefix(line, "[") || key == "COUNT" {
			continue
		}
		if v[key], err = hex.DecodeString(value); err != nil {
			t.Fatal(key, err)
		}
		if key == "SKEYID_e" { // the last line of a vector
			checkV1CAVS(t, hash, v)
			vectors[hash]++
		}
	}
	if lines.Err() != nil || len(vectors) != len(hashes) {
		t.Fatal(vectors, lines.Err())
	}
}

func checkV1CAVS(t *testing.T, hash uint16, v map[string][]byte) {
	t.Helper()
	chosen := ipsec.Proposal{Transforms: []ipsec.Transform{ipsec.Encryption(ipsec.EncryptionAESCBC, 128), ipsec.PRF(hash)}}
	number := func(b []byte) (n uint64) {
		for _, octet := range b {
			n = n<<8 | uint64(octet)
		}
		return n
	}
	k, err := newISAKMPKeys(chosen, v["pre-shared-key"], v["g^xy"], v["Ni"], v["Nr"], number(v["CKY_I"]), number(v["CKY_R"]))
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{"SKEYID": k.id, "SKEYID_d": k.d, "SKEYID_a": k.a} {
		if !bytes.Equal(got, v[name]) {
			t.Errorf("%s, %s: %x, want %x", ipsec.PRF(hash), name, got, v[name])
		}
	}
	if !bytes.Equal(k.encryption, v["SKEYID_e"][:16]) {
		t.Errorf("%s: key %x, want the front of %x", ipsec.PRF(hash), k.encryption, v["SKEYID_e"])
	}
}

// A key longer than SKEYID_e is made of blocks (RFC 2409, appendix B): K1 =
// prf(SKEYID_e, 0), K2 = prf(SKEYID_e, K1).
func TestStretch(t *testing.T) {
	p := prfs[ipsec.PRFHMACSHA1]
	e := bytes.Repeat([]byte{1}, p.size)
	k1 := p.sum(e, []byte{0})
	k2 := p.sum(e, k1)
	if got := p.stretch(e, 32); !bytes.Equal(got, append(k1, k2...)[:32]) {
		t.Errorf("got %x", got)
	}
	if got := p.stretch(e, 16); !bytes.Equal(got, e[:16]) {
		t.Errorf("got %x", got)
	}
}
