package sa

import (
	"errors"
	"hash"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

func TestSelfTest(t *testing.T) {
	if err := SelfTest(); err != nil {
		t.Error(err)
	}
}

// crooked is a hash with one bit wrong.
type crooked struct{ hash.Hash }

func (c crooked) Sum(b []byte) []byte {
	sum := c.Hash.Sum(b)
	sum[len(sum)-1] ^= 1
	return sum
}

// An algorithm that is broken, or that nobody knows the answer of, is named.
func TestSelfTestFails(t *testing.T) {
	for want, breaks := range map[string]func() (mend func()){
		"PRF-HMAC-SHA2-384: not the known answer": func() func() {
			p := prfs[ipsec.PRFHMACSHA2384]
			prfs[ipsec.PRFHMACSHA2384] = prf{func() hash.Hash { return crooked{p.hash()} }, p.size}
			return func() { prfs[ipsec.PRFHMACSHA2384] = p }
		},
		"HMAC-SHA1-96: not the known answer": func() func() {
			i := integrities[ipsec.IntegrityHMACSHA196]
			integrities[ipsec.IntegrityHMACSHA196] = integrity{func() hash.Hash { return crooked{i.hash()} }, i.key, i.output}
			return func() { integrities[ipsec.IntegrityHMACSHA196] = i }
		},
		"MODP-2048 (group 14): not the known answer": func() func() {
			g := groups[ipsec.GroupMODP2048]
			groups[ipsec.GroupMODP2048] = groups[ipsec.GroupMODP3072]
			return func() { groups[ipsec.GroupMODP2048] = g }
		},
		"DH group 22: not the known answer": func() func() {
			groups[22] = groups[ipsec.GroupECP256]
			return func() { delete(groups, 22) }
		},
		"pseudorandom function 99: no known answer": func() func() {
			prfs[99] = prfs[ipsec.PRFHMACSHA1]
			return func() { delete(prfs, 99) }
		},
	} {
		t.Run(want, func(t *testing.T) {
			mend := breaks()
			defer mend()
			if err := SelfTest(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
	if err := testExchange(ipsec.GroupMLKEM768, knownExchanges[ipsec.GroupECP256]); !errors.Is(err, errWrongAnswer) {
		t.Errorf("ML-KEM: %v", err)
	}
	if err := testEncryption(ipsec.Encryption(99, 0)); err == nil || !strings.Contains(err.Error(), "encryption algorithm 99") {
		t.Errorf("unknown cipher: %v", err)
	}
}

// Whatever can be negotiated has a known answer.
func TestNegotiableIsTested(t *testing.T) {
	known := map[ipsec.Transform]bool{}
	for _, e := range ipsec.KnownEncryptions() {
		known[e] = true
	}
	for n := range 512 {
		id := n
		if n >= 256 {
			id += 0xfe00 - 256 // private use
		}
		for _, bits := range []uint16{0, 128, 192, 256} {
			e := ipsec.Encryption(uint16(id), bits)
			if supported(ipsec.ProtocolIKE, e) && !known[e] {
				t.Errorf("%s can be negotiated and is not tested", e)
			}
		}
	}
}
