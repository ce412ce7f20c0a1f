package sa

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

// TestKeysCAVS runs the IKEv2 key derivation vectors of NIST CAVS 17.3.
func TestKeysCAVS(t *testing.T) {
	f, err := os.Open("testdata/cavs-ikev2.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hashes := map[string]uint16{
		"SHA-1": ipsec.PRFHMACSHA1, "SHA-256": ipsec.PRFHMACSHA2256,
		"SHA-384": ipsec.PRFHMACSHA2384, "SHA-512": ipsec.PRFHMACSHA2512,
	}
	var name string
	var p prf
	v := map[string][]byte{}
	vectors := 0
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if id, ok := hashes[strings.Trim(line, "[]")]; ok {
			name, p = line, prfs[id]
		}
		key, value, ok := strings.Cut(line, " = ")
		if !ok || strings.HasPrefix(line, "[") {
			continue
		}
		if key == "COUNT" {
			clear(v)
			continue
		}
		if v[key], err = hex.DecodeString(value); err != nil {
			t.Fatal(key, err)
		}
		if key == "SKEYSEED(Rekey)" { // the last line of a vector
			checkCAVS(t, name, p, v)
			vectors++
		}
	}
	if lines.Err() != nil || vectors < 16 {
		t.Fatal(vectors, "vectors", lines.Err())
	}
}

func checkCAVS(t *testing.T, name string, p prf, v map[string][]byte) {
	t.Helper()
	check := func(what string, got []byte, err error) {
		t.Helper()
		if err != nil || !bytes.Equal(got, v[what]) {
			t.Errorf("%s %s: %x, want %x (%v)", name, what, got, v[what], err)
		}
	}
	seed := firstSeed(p, v["Ni"], v["Nr"], v["g^ir"])
	check("SKEYSEED", seed, nil)
	dkm, err := p.plus(seed, join(v["Ni"], v["Nr"], v["SPIi"], v["SPIr"]), len(v["DKM"]))
	check("DKM", dkm, err)

	k := &ikeKeys{prf: p, d: dkm[:p.size]}
	child, err := p.plus(k.d, join(v["Ni"], v["Nr"]), len(v["DKM(Child SA)"]))
	check("DKM(Child SA)", child, err)
	child, err = p.plus(k.d, join(v["g^ir (new)"], v["Ni"], v["Nr"]), len(v["DKM(Child SA D-H)"]))
	check("DKM(Child SA D-H)", child, err)
	check("SKEYSEED(Rekey)", rekeySeed(k, v["g^ir (new)"], v["Ni"], v["Nr"], nil), nil)
}

// TestKeyOrder checks that keys are dealt out in the order of RFC 7296,
// sections 2.14 and 2.17, against prf+ itself.
func TestKeyOrder(t *testing.T) {
	p := ipsec.Proposal{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESCBC, 192), ipsec.Integrity(ipsec.IntegrityHMACSHA196), ipsec.PRF(ipsec.PRFHMACSHA2256),
	}}
	ni, nr, seed := []byte("initiator nonce"), []byte("responder nonce"), []byte("seed")
	f := prfs[ipsec.PRFHMACSHA2256]
	s := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(join(ni, nr), 1), 2)
	stream, err := f.plus(seed, s, 3*32+2*20+2*24)
	if err != nil {
		t.Fatal(err)
	}
	k, err := newIKEKeys(p, bytes.Clone(seed), ni, nr, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	if got := join(k.d, k.ai, k.ar, k.ei, k.er, k.pi, k.pr); !bytes.Equal(got, stream) {
		t.Errorf("IKE keys %x, want %x", got, stream)
	}
	esp := ipsec.Proposal{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{ipsec.Encryption(ipsec.EncryptionAESGCM16, 128)}}
	stream, _ = f.plus(k.d, join([]byte("shared"), ni, nr), 40)
	c, err := k.newChildKeys(esp, keyMaterial{shared: []byte("shared"), ni: ni, nr: nr})
	if err != nil {
		t.Fatal(err)
	}
	if got := join(c.encI, c.integI, c.encR, c.integR); !bytes.Equal(got, stream) || len(c.encI) != 20 {
		t.Errorf("child keys %x, want %x", got, stream)
	}
	k.wipe()
	c.wipe()
	for _, key := range [][]byte{k.d, k.ai, k.ar, k.ei, k.er, k.pi, k.pr, c.encI, c.encR} {
		if bytes.Count(key, []byte{0}) != len(key) {
			t.Error("a key is not wiped")
		}
	}
}

func TestPRFPlusEnds(t *testing.T) {
	p := prfs[ipsec.PRFHMACSHA1]
	if _, err := p.plus([]byte("k"), []byte("s"), 255*20); err != nil {
		t.Error(err)
	}
	if _, err := p.plus([]byte("k"), []byte("s"), 255*20+1); err == nil {
		t.Error("prf+ goes beyond 255 blocks")
	}
}

// TestPSKAuth checks AUTH against a calculation by hand with the formula of
// RFC 7296, section 2.15.
func TestPSKAuth(t *testing.T) {
	f := prfs[ipsec.PRFHMACSHA2256]
	k := &ikeKeys{prf: f, pi: []byte("pi"), pr: []byte("pr")}
	message, nonce := []byte("message"), []byte("nonce")
	for initiator, sk := range map[bool]string{true: "pi", false: "pr"} {
		id := f.sum([]byte(sk), []byte{2, 0, 0, 0}, []byte("gw.example"))
		want := f.sum(f.sum([]byte("secret"), []byte("Key Pad for IKEv2")), join(message, nonce, id))
		if got := k.pskAuth([]byte("secret"), initiator, signed{message: message, nonce: nonce}, FQDNIdentity("gw.example").payload(!initiator).AuthOctets()); !bytes.Equal(got, want) {
			t.Errorf("initiator %t: %x, want %x", initiator, got, want)
		}
	}
}

func TestLowestNonce(t *testing.T) {
	for _, tc := range []struct{ i, r, want string }{
		{"ab", "ac", "ab"}, {"b", "ab", "ab"}, {"ab", "abc", "ab"}, {"same", "same", "same"},
	} {
		if got := lowestNonce([]byte(tc.i), []byte(tc.r)); string(got) != tc.want {
			t.Errorf("lowest of %s and %s: %s", tc.i, tc.r, got)
		}
	}
}

// fixed is a source of randomness that gives known octets.
type fixed []byte

func (f fixed) Read(b []byte) (int, error) {
	if copy(b, f) < len(b) {
		return 0, fmt.Errorf("%d octets asked for", len(b))
	}
	return len(b), nil
}
