package sa

import (
	"bytes"
	"crypto/rand"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/smx509"
	"github.com/vpngw/vpngw/fuzztest"
	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// Each failure names what differs, at the end that can know.
func TestGMDiagnosis(t *testing.T) {
	lab := gmLab()
	with := func(change func(a, b *GM)) func(a, b *Connection) {
		return func(a, b *Connection) { change(a.GM, b.GM) }
	}
	expired := func(c *smx509.Certificate) { c.NotAfter = start.Add(-time.Minute) }
	early := func(c *smx509.Certificate) { c.NotBefore = start.Add(time.Hour) }
	for name, tc := range map[string]struct {
		edit func(a, b *Connection)
		a, b []string // of the first Failed event; nil: none
	}{
		"responder's authority": {
			edit: with(func(a, _ *GM) { a.Authorities = [][]byte{lab.otherCA.cert.Raw} }),
			a:    []string{"authentication fail: certificate authority in main mode", "ours [C=CN,O=acme,CN=other root]", "theirs [C=CN,O=acme,CN=root]"},
		},
		"initiator's authority": {
			edit: with(func(_, b *GM) { b.Authorities = [][]byte{lab.otherCA.cert.Raw} }),
			a:    []string{"max transmit reached: certificates in main mode", "may not trust the issuer"},
			b:    []string{"authentication fail: certificate authority in main mode", "ours [C=CN,O=acme,CN=other root]"},
		},
		"responder's certificate has ended": {
			edit: with(func(a, b *GM) {
				b.Signing = lab.ca.leaf("b sign", smx509.KeyUsageDigitalSignature, expired)
			}),
			a: []string{"phase1 proposal mismatch"},
			b: []string{"authentication fail: validity of our signing certificate in main mode", "to 2025-12-31T23:59:00Z"},
		},
		"our certificate has not begun": {
			edit: with(func(a, _ *GM) { a.Encryption = lab.ca.leaf("a enc", gmEncrypts, early) }),
			a:    []string{"authentication fail: validity of our encryption certificate in main mode", "ours [2026-01-01T01:00:00Z to"},
		},
		"usage of the encryption certificate": {
			edit: with(func(a, _ *GM) { a.Encryption = lab.ca.leaf("a enc", smx509.KeyUsageDigitalSignature) }),
			b:    []string{"authentication fail: key usage of the peer's encryption certificate", "ours [keyEncipherment, dataEncipherment or keyAgreement]", "theirs [digitalSignature]"},
		},
		"usage of the signing certificate": {
			edit: with(func(a, _ *GM) { a.Signing = lab.ca.leaf("a sign", smx509.KeyUsageKeyEncipherment) }),
			b:    []string{"key usage of the peer's signing certificate", "theirs [keyEncipherment]"},
		},
		"subject": {
			edit: with(func(_, b *GM) { b.PeerName = "C=CN,O=acme,CN=somebody" }),
			b:    []string{"config ID mismatch: subject of the peer's certificate", "ours [C=CN,O=acme,CN=somebody]", "theirs [C=CN,O=acme,CN=a sign]"},
		},
		"identity that is not the certificate's": {
			edit: func(a, _ *Connection) { a.LocalID = FQDNIdentity("other.example") },
			b:    []string{"config ID mismatch: peer identity", "theirs [fqdn other.example]", "not that of its certificate"},
		},
		"identity of the responder": {
			edit: func(a, _ *Connection) { a.RemoteID = FQDNIdentity("other.example") },
			a:    []string{"config ID mismatch: peer identity", "ours [fqdn other.example]", "theirs [distinguished name C=CN,O=acme,CN=b sign]"},
		},
		"pre-shared key": {
			edit: func(a, _ *Connection) { *a = *connV1() },
			a:    []string{"phase1 proposal mismatch"},
			b:    []string{"phase1 proposal mismatch: DH group in main mode", "ours [none]"},
		},
		"envelope at a connection with a pre-shared key": {
			edit: func(_, b *Connection) { *b = *mirror(connV1(), "ba") },
			a:    []string{"phase1 proposal mismatch"},
			b:    []string{"phase1 proposal mismatch"},
		},
		"ESP": {
			edit: func(_, b *Connection) {
				b.Children[0].Proposals = []ipsec.Proposal{{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{ipsec.Encryption(ipsec.EncryptionSM4GCM16, 0)}}}
			},
			a: []string{"phase2 proposal or pfs mismatch", "the next quick mode has sm4_esp_id 129"},
			b: []string{"encryption algorithm in quick mode", "ours [SM4-GCM-16]", "theirs [SM4-CBC]"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			l.useGM()
			tc.edit(l.a.conns[0], l.b.conns[0])
			l.a.initiateV1()
			l.pass(170 * time.Second)
			for _, each := range []struct {
				e    *end
				want []string
			}{{l.a, tc.a}, {l.b, tc.b}} {
				for _, part := range each.want {
					if got := each.e.failures(); !strings.Contains(got, part) {
						t.Errorf("%s: %q lacks %q", each.e.name, got, part)
					}
				}
			}
		})
	}
}

// failures is all diagnoses of an end, a line each.
func (e *end) failures() string {
	var b strings.Builder
	for _, ev := range e.events {
		if ev.Kind == Failed {
			b.WriteString(ev.Diagnosis.String() + "\n")
		}
	}
	return b.String()
}

// An identity may be an address or a name that the certificate has.
func TestGMIdentities(t *testing.T) {
	l := newLab(t, 1)
	l.useGM()
	a, b := l.a.conns[0], l.b.conns[0]
	a.LocalID = AddressIdentity(addrA)
	b.GM.Signing = gmLab().ca.leaf("b sign", smx509.KeyUsageDigitalSignature, func(c *smx509.Certificate) { c.DNSNames = []string{"gw.example"} })
	b.LocalID, a.RemoteID = FQDNIdentity("gw.example"), FQDNIdentity("gw.example")
	b.GM.PeerName = "C=CN,O=acme,CN=a sign"
	l.establish()
	l.settled(1)
}

// Certificates above those of an end may be among the others.
func TestGMChain(t *testing.T) {
	lab := gmLab()
	key, err := sm2.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	between := &gmAuthority{t: t, key: key}
	between.cert = lab.ca.sign("between", key, func(c *smx509.Certificate) {
		c.IsCA, c.KeyUsage = true, smx509.KeyUsageCertSign
	})
	g := between.end("c")
	peer, err := readGMPeer([]*isakmp.Cert{
		{Encoding: 7, Data: between.cert.Raw},
		{Encoding: 7, Data: g.Encryption.Certificate}, // told apart by usage
		{Encoding: 7, Data: g.Signing.Certificate},
	})
	if err != nil {
		t.Fatal(err)
	}
	if nameOf(peer.signing.RawSubject) != "C=CN,O=acme,CN=c sign" || nameOf(peer.encryption.RawSubject) != "C=CN,O=acme,CN=c enc" {
		t.Errorf("%s and %s", nameOf(peer.signing.RawSubject), nameOf(peer.encryption.RawSubject))
	}
	if d := peer.trusted(lab.a, start); d != nil {
		t.Error(d)
	}
	peer.above = nil
	if d := peer.trusted(lab.a, start); d == nil || d.Parameter != "certificate authority" {
		t.Error(d)
	}
	if d := peer.trusted(&GM{Authorities: [][]byte{between.cert.Raw}}, start.Add(2000*time.Hour)); d == nil || !strings.Contains(d.Parameter, "validity") {
		t.Error(d)
	}
}

// upTo runs main mode until a number of messages was delivered.
func (l *lab) upTo(messages int) {
	l.useGM()
	l.a.initiateV1()
	for range messages {
		l.deliver(0)
	}
}

// Whatever is changed in an envelope on its way, it is refused and the exchange goes
// on with the right one; and what may be tried is bounded.
func TestGMChangedEnvelope(t *testing.T) {
	for _, delivered := range []int{2, 3} {
		l := newLab(t, 1)
		l.upTo(delivered)
		right := l.wire[0]
		to := right.to.machines[0].(*MachineV1)
		awaits := to.sas[0].phase1.awaits
		msg, err := isakmp.Parse(right.d.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		at := isakmp.HeaderLen
		for i, p := range msg.Payloads {
			body, err := isakmp.Body(p)
			if err != nil {
				t.Fatal(err)
			}
			if _, nat := p.(*isakmp.NATD); !nat {
				changed := right.d
				changed.Bytes = bytes.Clone(right.d.Bytes)
				changed.Bytes[at+4+len(body)/2] ^= 1
				to.sas[0].phase1.guesses = 0
				right.to.perform(to.Handle(l.now, changed))
				if to.sas[0].phase1 == nil || to.sas[0].phase1.awaits != awaits {
					t.Fatalf("a changed payload %d (%s) is taken", i, p.Type())
				}
			}
			at += 4 + len(body)
		}
		l.run()
		l.settled(1)
	}
	// After so many wrong ones the right one comes too late.
	l := newLab(t, 1)
	l.upTo(2)
	wrong := l.wire[0].d
	b := l.b.machines[0].(*MachineV1)
	for i := range gmMaxGuesses {
		wrong.Bytes = bytes.Clone(l.wire[0].d.Bytes)
		wrong.Bytes[isakmp.HeaderLen+4+60+i] ^= 1 // within the encrypted key
		b.Handle(l.now, wrong)
	}
	if got := b.sas[0].phase1.guesses; got != gmMaxGuesses {
		t.Fatalf("%d guesses", got)
	}
	l.deliver(0)
	if b.sas[0].phase1.awaits != 3 || len(l.wire) != 0 {
		t.Error("the number of guesses has no bound\n" + l.transcript.String())
	}
}

// Who has recorded a message 3 can send it again, but not go on.
func TestGMRecordedMessage3(t *testing.T) {
	l := newLab(t, 1)
	l.upTo(2)
	recorded := bytes.Clone(l.wire[0].d.Bytes)
	l.run()
	l.up = false
	// The attacker begins at b with a's old offer, and sends a's old message 3 under
	// the new cookies.
	first := isakmp.Message{
		Header:   isakmp.Header{InitiatorSPI: 77, Exchange: isakmp.IdentityProtection, Minor: 1},
		Payloads: []isakmp.Payload{gmPhase1Offer(GMVariant{}.withDefaults(), 0)},
	}
	datagram, err := first.Encode(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := Datagram{Local: netip.AddrPortFrom(addrB, 500), Remote: netip.AddrPortFrom(addrA, 500), Bytes: datagram}
	m, _, err := RespondV1(l.now, l.b.env, d)
	if err != nil {
		t.Fatal(err)
	}
	s := m.sas[0]
	copy(recorded, first.Header.Append(nil)[:8])
	h := s.header(isakmp.IdentityProtection, 0)
	copy(recorded[:16], h.Append(nil)[:16])
	d.Bytes = recorded
	m.Handle(l.now, d)
	if s.phase1.awaits != 5 || m.Established() {
		t.Fatalf("awaits %d", s.phase1.awaits)
	}
	for range 3 { // it cannot know the key of message 5
		guess := isakmp.Message{Header: h, Payloads: []isakmp.Payload{&isakmp.Hash{Data: make([]byte, 32)}}}
		if d.Bytes, err = guess.Encode(16, func([]byte) {}); err != nil {
			t.Fatal(err)
		}
		m.Handle(l.now, d)
	}
	if m.Established() || s.state != Connecting {
		t.Error("an old message 3 is enough to be taken for its sender")
	}
}

func TestGMValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*Connection)
		want string
	}{
		"version":       {func(c *Connection) { c.Version = 2 }, "IKEv1 in main mode only"},
		"aggressive":    {func(c *Connection) { c.Aggressive = true }, "IKEv1 in main mode only"},
		"no authority":  {func(c *Connection) { c.GM.Authorities = nil }, "no certificate authority"},
		"bad authority": {func(c *Connection) { c.GM.Authorities[0] = []byte{1} }, "certificate authority 1: a certificate that cannot be read"},
		"other key":     {func(c *Connection) { c.GM.Signing.Private = gmLab().a.Encryption.Private }, "signing: the key is not that of the certificate"},
		"no key":        {func(c *Connection) { c.GM.Encryption.Private = nil }, "encryption: the key is not one of SM2"},
		"IKE proposal":  {func(c *Connection) { c.Proposals = connV1().Proposals }, "the only IKE proposal"},
		"ESP proposal":  {func(c *Connection) { c.Children[0].Proposals = connA().Children[0].Proposals }, "is not of the profile"},
		"SM4's number":  {func(c *Connection) { c.GM.Variant.Phase1SM4 = 128 }, "SM4 is 129 or 127"},
		"encoding":      {func(c *Connection) { c.GM.Variant.KeyEncoding = 9 }, "no such variant"},
		"SM4 without GM": {func(c *Connection) {
			c.GM, c.PSK, c.LocalID, c.RemoteID = nil, []byte("x"), connA().LocalID, connA().RemoteID
		}, "of the profile GM/T 0022 only"},
		"SM4 in IKEv2 ESP": {func(c *Connection) { esp := c.Children[0].Proposals; *c = *connA(); c.Children[0].Proposals = esp }, "of the profile GM/T 0022 only"},
	} {
		l := newLab(t, 1)
		l.useGM()
		c := l.a.conns[0]
		tc.edit(c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// FuzzGMEnvelope opens what anybody may send for an envelope.
func FuzzGMEnvelope(f *testing.F) {
	target := fuzztest.New(f)
	lab := gmLab()
	own, err := lab.b.own()
	if err != nil {
		f.Fatal(err)
	}
	l := newLab(&testing.T{}, 1)
	l.upTo(2)
	chain := l.wire[0].d.Bytes[isakmp.HeaderLen:]
	target.Add(uint8(isakmp.TypeSymmetricKey), chain)
	target.Add(uint8(isakmp.TypeCert), chain[:8])
	target.Fuzz(func(t *testing.T, first uint8, chain []byte) {
		h := isakmp.Header{InitiatorSPI: 1, ResponderSPI: 2, NextPayload: isakmp.PayloadType(first), Exchange: isakmp.IdentityProtection, Length: uint32(isakmp.HeaderLen + len(chain))}
		m, err := isakmp.Parse(append(h.Append(nil), chain...))
		if err != nil {
			return
		}
		e, err := readEnvelope(m)
		if err != nil {
			return
		}
		peer, err := readGMPeer(e.certificates)
		if err == nil {
			_ = peer.trusted(lab.a, start)
		}
		opened, openErr := e.open(own)
		if openErr != nil {
			return
		}
		_ = nameOf(opened.id[4:])
		if err == nil && e.signedBy(peer, opened, GMVariant{}) && peer.trusted(lab.a, start) == nil {
			_ = peer.names(&Connection{}, opened.identity())
		}
	})
}

// FuzzGMParts reads the parts of an envelope, each from its own octets.
func FuzzGMParts(f *testing.F) {
	target := fuzztest.New(f)
	target.Add(gmLab().a.Signing.Certificate)
	target.Add(gmLab().ca.cert.RawSubject)
	target.Add(gmPad([]byte("nonce")))
	target.Fuzz(func(t *testing.T, b []byte) {
		_, _ = parseGMCertificate(b)
		_ = nameOf(b)
		if sameName(b, gmLab().ca.cert.RawSubject) != sameName(gmLab().ca.cert.RawSubject, b) {
			t.Error("equality of names has a direction")
		}
		if der, raw, err := parseGMSignature(b); err == nil {
			if again, _, err := parseGMSignature(der); err != nil || !raw && !bytes.Equal(again, der) {
				t.Errorf("%x is written as %x and read as %x, %v", b, der, again, err)
			}
		}
		if plain, err := gmUnpad(b); err == nil && !bytes.Equal(gmPad(plain), b) && len(b)%gmKeyLen == 0 {
			t.Errorf("%x is padding of something else", b)
		}
	})
}

// What costs a responder operations of public keys, the caller may put off: the
// message is dropped, counts for nothing, and is taken when it comes again.
func TestGMProofsAreBounded(t *testing.T) {
	l := newLab(t, 40)
	l.useGM()
	asked := 0
	l.b.env.AllowProof = func(local, remote netip.Addr) bool {
		if local != addrB || remote != addrA {
			t.Errorf("asked about %s and %s", local, remote)
		}
		asked++
		return asked > 3
	}
	l.a.initiateV1()
	l.run()
	if l.a.peer().Established() || asked == 0 {
		t.Fatalf("established at once, asked %d times", asked)
	}
	l.pass(time.Minute)
	if !l.a.peer().Established() || !l.b.serving().Established() {
		t.Errorf("not established, asked %d times", asked)
	}
}
