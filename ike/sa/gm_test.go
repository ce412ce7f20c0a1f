package sa

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/emmansun/gmsm/smx509"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

func TestGMEstablish(t *testing.T) {
	l := newLab(t, 1)
	l.useGM()
	l.establish()
	l.settled(1)
	for _, e := range []*end{l.a, l.b} {
		st := e.peer().Status().IKE[0]
		other := "b sign"
		if e == l.b {
			other = "a sign"
		}
		if want := "distinguished name C=CN,O=acme,CN=" + other; st.RemoteID.String() != want || !st.GM || st.Variant != "" {
			t.Errorf("%s: %+v, want %q", e.name, st, want)
		}
	}
	if sa := l.a.sas[0]; sa.Encryption.ID != ipsec.EncryptionSM4CBC || len(sa.EncryptionKey) != 16 || len(sa.IntegrityKey) != 32 {
		t.Errorf("the child has %s", sa.Encryption)
	}
	l.pass(time.Minute)
	l.a.do(Terminate{ReasonConfigModify})
	l.up = false
	l.run()
	l.pass(time.Minute)
	l.a.empty()
	l.b.empty()
	l.golden()
}

// Each end may rekey either phase, with a new envelope.
func TestGMRekey(t *testing.T) {
	for _, begins := range []string{"a", "b", "both"} {
		l := newLab(t, 1)
		l.useGM()
		l.establish()
		l.pass(time.Minute)
		spi := l.a.peer().Status().IKE[0].InitiatorSPI
		for _, e := range []*end{l.a, l.b} {
			if begins == e.name || begins == "both" {
				e.do(RekeyIKE{})
				e.do(RekeyChild{e.conns[0].Children[0].ReqID})
			}
		}
		l.run()
		l.pass(5 * time.Minute)
		l.settled(1)
		if l.a.peer().Status().IKE[0].InitiatorSPI == spi || l.a.count(ChildDown)+l.b.count(ChildDown)+l.a.count(IKEDown) != 0 {
			t.Errorf("%s begins:\n%s", begins, l.transcript.String())
		}
	}
}

// An initiator of each variant meets a responder that is configured for the usual
// one: it answers in the initiator's, and goes on so when it begins itself.
func TestGMVariants(t *testing.T) {
	for name, tc := range map[string]struct {
		v       GMVariant
		learned string
	}{
		"older SM4":              {GMVariant{Phase1SM4: 127}, "sm4_phase1_id 127"},
		"newer ESP":              {GMVariant{ESPSM4: 129}, "sm4_esp_id 129"},
		"version 1.0":            {GMVariant{Version10: true}, "isakmp_version 1.0"},
		"key length":             {GMVariant{KeyLength: true}, "key_length_attribute 128"},
		"raw key C1C2C3":         {GMVariant{KeyEncoding: GMKeyC1C2C3}, "sk_encoding raw-c1c2c3"},
		"raw key C1C3C2":         {GMVariant{KeyEncoding: GMKeyC1C3C2}, "sk_encoding raw-c1c3c2"},
		"raw signature":          {GMVariant{RawSignature: true}, "signature_encoding raw"},
		"encrypted certificates": {GMVariant{EncryptedCertificates: true}, "certificates encrypted"},
		"nonce first":            {GMVariant{NonceFirst: true}, "phase2_hash gm"},
		"probe without cookies":  {GMVariant{EmptyDPDSPI: true}, "dpd_spi 0"},
		"all": {
			GMVariant{127, 129, true, true, GMKeyC1C3C2, true, false, true, true, true, true, GMEither},
			"sm4_phase1_id 127, sm4_esp_id 129, isakmp_version 1.0, key_length_attribute 128, sk_encoding raw-c1c3c2, " +
				"signature_encoding raw, certificates encrypted, phase2_hash gm, dpd_spi 0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			l.useGM()
			l.a.conns[0].GM.Variant = tc.v
			l.establish()
			l.a.do(Probe{})
			l.run()
			l.settled(1)
			if got := l.b.peer().Status().IKE[0].Variant; got != tc.learned {
				t.Errorf("learned %q, want %q", got, tc.learned)
			}
			l.pass(time.Minute)
			l.b.do(RekeyIKE{})
			l.run()
			l.pass(time.Minute)
			l.b.do(RekeyChild{l.b.conns[0].Children[0].ReqID})
			l.run()
			l.pass(time.Minute)
			l.settled(1)
			if got := l.b.last(IKERekeyed).Variant; got != tc.learned {
				t.Errorf("after a rekey %q, want %q", got, tc.learned)
			}
		})
	}
}

// Signatures over a digest without Z cannot be told from wrong ones: both ends have
// to be told.
func TestGMDigestWithoutZ(t *testing.T) {
	l := newLab(t, 1)
	l.useGM(func(c *Connection) { c.GM.Variant.DigestWithoutZ = true })
	l.establish()
	l.settled(1)
	l = newLab(t, 1)
	l.useGM()
	l.a.conns[0].GM.Variant.DigestWithoutZ = true
	l.a.initiateV1()
	l.pass(time.Minute)
	if d := l.b.last(Failed).Diagnosis; d.Parameter != "signature of the peer" {
		t.Error(d)
	}
}

func TestGMAlgorithms(t *testing.T) {
	for _, transforms := range [][]ipsec.Transform{
		{ipsec.Encryption(ipsec.EncryptionSM4CBC, 0), ipsec.Integrity(ipsec.IntegrityHMACSM3128)},
		{ipsec.Encryption(ipsec.EncryptionSM4CBC, 0), ipsec.Integrity(ipsec.IntegrityHMACSM3256)},
		{ipsec.Encryption(ipsec.EncryptionSM4GCM16, 0)},
	} {
		l := newLab(t, 1)
		l.useGM(func(c *Connection) {
			c.Children[0].Proposals = []ipsec.Proposal{{Protocol: ipsec.ProtocolESP, Transforms: transforms}}
			c.Children[0].Lifetime.HardBytes = 1 << 30
		})
		l.establish()
		l.settled(1)
		if sa := l.b.sas[0]; sa.Encryption != transforms[0] || len(transforms) > 1 && sa.Integrity != transforms[1] {
			t.Errorf("got %s, %s", sa.Encryption, sa.Integrity)
		}
	}
}

// A peer that does not answer our first message may know SM4 by its other number,
// or ISAKMP in the other version.
func TestGMNextVariant(t *testing.T) {
	for name, tc := range map[string]struct {
		takes func(*isakmp.Message) bool
		want  string
	}{
		"number":  {func(m *isakmp.Message) bool { return bytes.Contains(mustBody(m), []byte{0x80, 1, 0, 127}) }, "sm4_phase1_id 127"},
		"version": {func(m *isakmp.Message) bool { return m.Minor == 0 }, "isakmp_version 1.0"},
		"both": {func(m *isakmp.Message) bool {
			return m.Minor == 0 && bytes.Contains(mustBody(m), []byte{0x80, 1, 0, 127})
		}, "sm4_phase1_id 127, isakmp_version 1.0"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			l.useGM()
			l.lose = func(p packet) bool {
				m, err := isakmp.Parse(p.d.Bytes)
				return err == nil && m.ResponderSPI == 0 && m.MessageID == 0 && !tc.takes(m)
			}
			l.a.initiateV1()
			l.pass(12 * time.Minute)
			l.settled(1)
			if got := l.a.peer().Status().IKE[0].Variant; got != tc.want {
				t.Errorf("variant %q, want %q", got, tc.want)
			}
			if d := l.a.last(Failed).Diagnosis; !strings.Contains(d.Detail, "the next message 1 has") {
				t.Error(d)
			}
			l.a.do(RekeyIKE{}) // goes on as it has learned
			l.run()
			l.pass(time.Minute)
			l.settled(1)
		})
	}
	// One that refuses them all has refused.
	l := newLab(t, 1)
	l.useGM()
	l.b.conns[0].GM.Variant.Initiator = GMWe
	l.a.initiateV1()
	l.pass(5 * time.Minute)
	if len(l.a.machines) != 0 || l.a.count(Failed) != 4 {
		t.Errorf("%d failures\n%s", l.a.count(Failed), l.transcript.String())
	}
}

func mustBody(m *isakmp.Message) []byte {
	offer, _ := isakmp.Find[*isakmp.SA](m)
	return offer.Raw
}

// Which end begins may be fixed; then the other one does not begin a rekey either.
func TestGMInitiator(t *testing.T) {
	l := newLab(t, 1)
	l.useGM(func(c *Connection) { c.Lifetime = 10 * time.Minute })
	l.a.conns[0].GM.Variant.Initiator, l.b.conns[0].GM.Variant.Initiator = GMWe, GMPeer
	l.establish()
	l.b.do(RekeyIKE{})
	l.run()
	l.pass(time.Hour)
	l.quietV1(1)
	if l.b.count(IKERekeyed) < 5 || l.a.count(IKEDown) > 0 {
		t.Errorf("%d rekeys", l.b.count(IKERekeyed))
	}
	for _, line := range strings.Split(l.transcript.String(), "\n") {
		if strings.HasPrefix(line, "  b sends main mode SA") && !strings.Contains(line, "CERT") {
			t.Fatal(line)
		}
	}
}

// Short lifetimes, rekeys by both ends, and a network that loses, repeats and
// reorders.
func TestGMRandomLoss(t *testing.T) {
	for seed := range uint64(12) {
		l := newLab(t, seed)
		l.useGM(func(c *Connection) {
			c.Lifetime, c.Children[0].Lifetime.Hard = 20*time.Minute, 15*time.Minute
		})
		l.establish()
		l.scramble(seed, 40)
		l.quietV1(1)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// scramble lets time pass on a bad network, with rekeys.
func (l *lab) scramble(seed uint64, steps int) {
	random := rand.New(rand.NewPCG(seed, 7))
	lost := map[string]int{}
	l.lose = func(p packet) bool {
		switch random.IntN(10) {
		case 0, 1, 4:
			lost[string(p.d.Bytes)]++
			return lost[string(p.d.Bytes)] < 3
		case 2:
			p.to.receive(p.d)
		case 3:
			if len(l.wire) > 0 {
				l.wire = append(l.wire, p)
				return true
			}
		}
		return false
	}
	for range steps {
		e := []*end{l.a, l.b}[random.IntN(2)]
		switch random.IntN(6) {
		case 0:
			e.doServed(RekeyIKE{})
		case 1, 2:
			e.doServed(RekeyChild{ReqID: e.conns[0].Children[0].ReqID})
		}
		l.pass(time.Duration(random.IntN(20)) * time.Second)
		if l.t.Failed() {
			return
		}
	}
	l.lose = nil
	l.pass(2 * time.Minute)
}

func TestGMNAT(t *testing.T) {
	l := newLab(t, 1)
	outside := netip.MustParseAddr("203.0.113.7")
	l.nat = &nat{inside: addrA, outside: outside, shift: 10000}
	l.useGM()
	l.b.conns[0].Remote = outside
	l.establish()
	a, b := l.a.peer().Status().IKE[0], l.b.peer().Status().IKE[0]
	if !a.NATLocal || !b.NATRemote || !a.Encap || a.Local.Port() != 4500 || b.Remote.Port() != 14500 || !l.b.sas[0].Encap {
		t.Errorf("%+v, %+v", a, b)
	}
	l.a.do(RekeyIKE{})
	l.run()
	l.pass(time.Minute)
	l.settled(1)
	// Off: nothing of it is said.
	l = newLab(t, 1)
	l.useGM(func(c *Connection) { c.GM.Variant.NoNATTraversal = true })
	l.establish()
	if got := l.transcript.String(); strings.Contains(got, "NAT-D") {
		t.Error(got)
	}
}

// Long messages go in fragments, which both ends announce.
func TestGMFragments(t *testing.T) {
	l := newLab(t, 1)
	l.useGM()
	long := gmLab().ca.end("a")
	long.Signing = gmLab().ca.leaf("a sign", smx509.KeyUsageDigitalSignature, func(c *smx509.Certificate) {
		c.DNSNames = []string{strings.Repeat("a-long-label.", 60) + "example"}
	})
	l.a.conns[0].GM = long
	l.establish()
	l.settled(1)
	if !strings.Contains(l.transcript.String(), "main mode fragment 2") {
		t.Error(l.transcript.String())
	}
}

// A new certificate of ours is shown at once, while the old SA stands until there is
// a new one. Another authority of the peer ends what the old one has proved.
func TestGMChange(t *testing.T) {
	l := newLab(t, 1)
	l.useGM()
	l.establish()
	next := *l.a.conns[0]
	next.GM = gmLab().ca.end("a")
	next.GM.Signing = gmLab().ca.leaf("a renewed", smx509.KeyUsageDigitalSignature)
	l.a.conns[0] = &next
	l.a.do(Update{&next})
	l.run()
	l.pass(time.Minute)
	l.settled(1)
	if l.a.count(IKERekeyed) != 1 || l.a.count(IKEDown)+l.a.count(ChildDown)+l.b.count(ChildDown) != 0 {
		t.Fatal(l.transcript.String())
	}
	if got := l.b.peer().Status().IKE[0].RemoteID.String(); !strings.HasSuffix(got, "CN=a renewed") {
		t.Errorf("the peer is %s", got)
	}
	distrust := *l.b.conns[0]
	distrust.GM = distrust.GM.Clone()
	distrust.GM.Authorities = [][]byte{gmLab().otherCA.cert.Raw}
	l.b.conns[0] = &distrust
	l.up = false
	l.b.do(Update{&distrust})
	if len(l.b.machines) != 0 {
		t.Error("the SA stays although its authority is no longer trusted\n" + l.transcript.String())
	}
}

func TestGMNameOf(t *testing.T) {
	der := gmLab().ca.cert.RawSubject
	if got := nameOf(der); got != "C=CN,O=acme,CN=root" {
		t.Error(got)
	}
	if got := nameOf([]byte{1, 2}); got != "0x0102" {
		t.Error(got)
	}
	if got := nameValue("a,b\n\\"); got != `a\,b\0A\\` {
		t.Error(got)
	}
}

// recorded is an exchange of an independent implementation, with its private keys.
func recorded(t *testing.T) map[string][]byte {
	t.Helper()
	b, err := os.ReadFile("testdata/gm-recorded.json")
	if err != nil {
		t.Fatal(err)
	}
	text := map[string]string{}
	if err := json.Unmarshal(b, &text); err != nil {
		t.Fatal(err)
	}
	v := map[string][]byte{}
	for name, value := range text {
		if v[name], err = decodeRecorded(name, value); err != nil {
			t.Fatal(name, err)
		}
	}
	return v
}
