package sa

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// TestHybridRecorded goes through the key schedule of a connection with strongSwan
// that has ML-KEM-768 as an additional key exchange and a PPK: every secret and
// both AUTH payloads come out as there.
func TestHybridRecorded(t *testing.T) {
	v := readVector(t, "testdata/hybrid-recorded.txt")
	proposal := ipsec.Proposal{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESGCM16, 256), ipsec.PRF(ipsec.PRFHMACSHA2384),
		ipsec.Group(ipsec.GroupCurve25519), ipsec.Additional(1, ipsec.GroupMLKEM768),
	}}
	check := func(name string, got []byte) {
		t.Helper()
		if want, ok := v[name]; !ok || !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", name, got, want)
		}
	}
	checkKeys := func(k *ikeKeys, of string) {
		t.Helper()
		for name, key := range map[string][]byte{"SK_d": k.d, "SK_ei": k.ei, "SK_er": k.er, "SK_pi": k.pi, "SK_pr": k.pr} {
			check(name+of, key)
		}
	}
	schedule := func(seed []byte, of string) *ikeKeys {
		t.Helper()
		check("SKEYSEED"+of, seed)
		spis := of
		if of == "(1)" {
			spis = ""
		}
		k, err := newIKEKeys(proposal, bytes.Clone(seed), v["Ni"+spis], v["Nr"+spis], number(v["SPIi"+spis]), number(v["SPIr"+spis]))
		if err != nil {
			t.Fatal(err)
		}
		checkKeys(k, of)
		return k
	}

	k := schedule(firstSeed(prfs[ipsec.PRFHMACSHA2384], v["Ni"], v["Nr"], v["g^ir"]), "")
	s := &ikeSA{keys: k}
	var i intermediate
	for _, m := range []struct {
		name string
		sum  *[]byte
		key  []byte
	}{{"IntAuth_i1", &i.requests, k.pi}, {"IntAuth_r1", &i.responses, k.pr}} {
		msg := intermediateMessage(t, v[m.name+"A|P"])
		octets, err := msg.IntAuthOctets()
		if err != nil {
			t.Fatal(err)
		}
		check(m.name+"A|P", octets)
		if err := s.cover(m.sum, m.key, msg); err != nil {
			t.Fatal(err)
		}
		check(m.name, *m.sum)
	}
	k = schedule(rekeySeed(k, v["SK(1)"], v["Ni"], v["Nr"], nil), "(1)")
	k, err := k.withPPK(&PPK{Key: v["PPK"]})
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string][]byte{"SK_d(PPK)": k.d, "SK_pi(PPK)": k.pi, "SK_pr(PPK)": k.pr} {
		check(name, key)
	}

	intAuth := i.intAuth(2)
	for _, side := range []struct {
		auth, octets, id, nonce string
		initiator               bool
	}{
		{"AUTHi", "InitiatorSignedOctets", "IDi", "Nr", true},
		{"AUTHr", "ResponderSignedOctets", "IDr", "Ni", false},
	} {
		// The message is what stands before the nonce.
		rest := len(v[side.nonce]) + k.prf.size + len(intAuth)
		of := signed{message: v[side.octets][:len(v[side.octets])-rest], nonce: v[side.nonce], intermediate: intAuth}
		check(side.auth, k.pskAuth(v["PSK"], side.initiator, of, v[side.id]))
	}

	esp := ipsec.Proposal{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{ipsec.Encryption(ipsec.EncryptionAESGCM16, 256)}}
	for of, material := range map[string]keyMaterial{
		"":        {ni: v["Ni"], nr: v["Nr"]},
		"(child)": {shared: v["g^ir(child)"], ni: v["Ni(child)"], nr: v["Nr(child)"], additional: v["SK(1)(child)"]},
	} {
		c, err := k.newChildKeys(esp, material)
		if err != nil {
			t.Fatal(err)
		}
		check("ESPi"+of, c.encI)
		check("ESPr"+of, c.encR)
	}
	schedule(rekeySeed(k, v["g^ir(IKE)"], v["Ni(IKE)"], v["Nr(IKE)"], v["SK(1)(IKE)"]), "(IKE)")
}

// intermediateMessage reads a message whose payloads are in the clear inside.
func intermediateMessage(t *testing.T, b []byte) *wire.Message {
	t.Helper()
	h, err := wire.ParseHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	const ke = wire.HeaderLen + 4 // where the KE payload is
	return &wire.Message{Header: h, Payloads: []wire.Payload{&wire.KE{Group: binary.BigEndian.Uint16(b[ke+4:]), Data: b[ke+8:]}}}
}

func number(b []byte) uint64 { return binary.BigEndian.Uint64(b) }

// readVector reads lines of "name = hexadecimal digits".
func readVector(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v := map[string][]byte{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, digits, ok := strings.Cut(lines.Text(), " = ")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		if v[name], err = hex.DecodeString(digits); err != nil {
			t.Fatal(name, err)
		}
	}
	if lines.Err() != nil {
		t.Fatal(lines.Err())
	}
	return v
}
