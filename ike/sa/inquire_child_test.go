package sa

import (
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

func espOf(transforms ...ipsec.Transform) []ipsec.Proposal {
	return []ipsec.Proposal{{Protocol: ipsec.ProtocolESP, Transforms: transforms}}
}

// A peer that refuses a CHILD_SA does not say what it would take: what it chooses from
// all that there is tells. Nothing of that is left at either end.
func TestChildInquiry(t *testing.T) {
	gcm, cbc := ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), ipsec.Encryption(ipsec.EncryptionAESCBC, 256)
	sha, ecp, modp := ipsec.Integrity(ipsec.IntegrityHMACSHA2256128), ipsec.Group(ipsec.GroupECP256), ipsec.Group(ipsec.GroupMODP3072)
	chacha, mlkem := ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 0), ipsec.Additional(1, ipsec.GroupMLKEM768)
	for name, tt := range map[string]struct {
		ours, theirs []ipsec.Proposal
		childless    bool // the child comes in an exchange of its own
		cause        Cause
		amendments   int
	}{
		"cipher":                 {ours: espOf(gcm, ecp), theirs: espOf(cbc, sha, ecp), cause: CauseChildProposal, amendments: 1},
		"cipher and group":       {ours: espOf(gcm, ecp), theirs: espOf(cbc, sha, modp), cause: CauseChildProposal, amendments: 2},
		"AEAD":                   {ours: espOf(gcm, ecp), theirs: espOf(chacha, ecp), cause: CauseChildProposal, amendments: 1},
		"cipher, no group":       {ours: espOf(cbc, sha), theirs: espOf(gcm), cause: CauseChildProposal, amendments: 2},
		"group":                  {ours: espOf(gcm, ecp), theirs: espOf(gcm, modp), childless: true, cause: CausePFS, amendments: 1},
		"no group there":         {ours: espOf(gcm, ecp), theirs: espOf(gcm), childless: true, cause: CausePFS, amendments: 1},
		"a group there":          {ours: espOf(gcm), theirs: espOf(gcm, modp), childless: true, cause: CausePFS, amendments: 1},
		"additional of ours":     {ours: espOf(gcm, ecp, mlkem), theirs: espOf(gcm, ecp), childless: true, cause: CauseAdditional, amendments: 1},
		"extended numbers there": {ours: espOf(gcm), theirs: espOf(gcm, ipsec.ESN(true))},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			a, b := connA(), connB()
			a.Children[0].Proposals, b.Children[0].Proposals = tt.ours, tt.theirs
			a.Childless, b.Childless = tt.childless, tt.childless
			l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
			l.a.initiate()
			l.run()
			told := 0
			for _, e := range l.a.events {
				if e.Kind == Failed && strings.Contains(e.Diagnosis.Detail, "from all that there are it chose") {
					told++
				}
			}
			d := l.a.last(Failed).Diagnosis
			if tt.cause == "" {
				if told != 0 || d.Theirs != "" {
					t.Errorf("something is found where the peer takes nothing: %v", d)
				}
			} else if told != 1 || d.Code() != tt.cause || d.Offers == nil || d.Offers.Of != OfferChild {
				t.Errorf("%d findings, the last: %s %v", told, d.Code(), d)
			} else if amendments, ok := d.Offers.PeerAmendments(); !ok || len(amendments) != tt.amendments {
				t.Errorf("amendments %v, %v", amendments, ok)
			}
			// The peer is asked once, and what it told stands for what the next attempts bring.
			asked := strings.Count(l.transcript.String(), "253")
			l.pass(childInquiryEvery / 2)
			if again := strings.Count(l.transcript.String(), "253"); again != asked {
				t.Error("the peer is asked again soon")
			}
			if d := l.a.last(Failed).Diagnosis; tt.cause != "" && d.Code() != tt.cause {
				t.Errorf("later: %s %v", d.Code(), d)
			}
			if n := len(l.a.sas) + len(l.b.sas) + len(l.b.machine().children) + len(l.a.machine().children) + len(l.a.policies) + len(l.b.policies); n != 0 {
				t.Errorf("%d SAs, children and policies are left:\n%s", n, l.transcript.String())
			}
			if !l.a.machine().Established() {
				t.Error("the IKE SA is gone")
			}
		})
	}
}

// While a child is up, the peer could take an inquiry's for its successor: a rekey
// that is refused brings none.
func TestChildInquirySparesChildren(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.a.do(RekeyChild{ReqID: 1})
	l.deliver(0)
	l.tamper(only(wire.NoProposalChosen))
	before := l.transcript.Len()
	l.run()
	if told := l.transcript.String()[before:]; strings.Contains(told, "a sends CREATE_CHILD_SA") {
		t.Errorf("the peer is asked:\n%s", told)
	}
}

// While another child of the connection is up, the peer could choose that one's
// proposals, and take the answer for its successor.
func TestChildInquirySparesOtherChildren(t *testing.T) {
	gcm, cbc := ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), ipsec.Encryption(ipsec.EncryptionAESCBC, 256)
	for _, first := range []bool{true, false} { // the first child is refused, or the second
		l := newLab(t, 1)
		a, b := connA(), connB()
		b.Children[0].Proposals = espOf(gcm)
		whole, part := a.Children[0], a.Children[0]
		whole.Proposals = b.Children[0].Proposals
		part.Name, part.ReqID, part.Proposals = "part", 2, espOf(cbc, ipsec.Integrity(ipsec.IntegrityHMACSHA2256128))
		part.Local, part.Remote = selectors("10.1.7.0/24"), selectors("10.2.7.0/24")
		if a.Children = []Child{whole, part}; first {
			a.Children = []Child{part, whole}
		}
		l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
		l.a.initiate()
		l.run()
		l.pass(3 * childInquiryEvery)
		if told := l.transcript.String(); strings.Contains(told, "[253]") {
			t.Errorf("the first is refused: %v; the peer is asked:\n%s", first, told)
		}
		for _, e := range []*end{l.a, l.b} {
			if len(e.sas) != 2 || len(e.policies) != 2 || e.count(ChildUp) != 1 || e.count(ChildDown)+e.count(ChildRekeyed) != 0 {
				t.Errorf("the first is refused: %v; %s: %d SAs, %d policies, %d times up", first, e.name, len(e.sas), len(e.policies), e.count(ChildUp))
			}
		}
		if d := l.a.last(Failed).Diagnosis; d.Reason != ReasonPhase2Proposal || d.Theirs != "" {
			t.Errorf("the first is refused: %v; %v", first, d)
		}
	}
}

// Where all children are refused, the peer is asked about each.
func TestChildInquiryAboutEach(t *testing.T) {
	l := newLab(t, 1)
	a, b := connA(), connB()
	for _, c := range []*Connection{a, b} {
		more := c.Children[0]
		more.Name, more.ReqID, more.Local, more.Remote = "more", more.ReqID+1, selectors("10.3.0.0/16"), selectors("10.4.0.0/16")
		if c == b {
			more.Local, more.Remote = more.Remote, more.Local
		}
		c.Children = append(c.Children, more)
	}
	for i := range b.Children {
		b.Children[i].Proposals = espOf(ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 0))
	}
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.a.initiate()
	l.run()
	l.pass(childInquiryEvery / 2)
	found := map[string]int{}
	for _, e := range l.a.events {
		if e.Kind == Failed && strings.Contains(e.Diagnosis.Detail, "from all that there are it chose") {
			found[e.Child]++
		}
	}
	if found["net"] == 0 || found["more"] == 0 {
		t.Errorf("found %v:\n%s", found, l.transcript.String())
	}
	if n := len(l.a.sas) + len(l.b.sas) + len(l.a.policies) + len(l.b.policies); n != 0 {
		t.Errorf("%d SAs and policies are left:\n%s", n, l.transcript.String())
	}
}

// Nobody is asked about traffic that there is, beside another IKE SA, or when the
// connection's turn has not come.
func TestNoChildInquiry(t *testing.T) {
	for name, edit := range map[string]func(l *lab){
		"one protocol": func(l *lab) {
			for _, e := range []*end{l.a, l.b} {
				c := &e.conns[0].Children[0]
				c.Local, c.Remote = selectors("10.1.0.0/16"), selectors("10.2.0.0/16")
				if e == l.b {
					c.Local, c.Remote = c.Remote, c.Local
				}
				c.Remote[0].Protocol = 6
			}
		},
		"another IKE SA": func(l *lab) { l.a.env.InitialContact = func(*Connection) bool { return false } },
		"not its turn":   func(l *lab) { l.a.env.InquireChild = func(*Connection, string) bool { return false } },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			a, b := connA(), connB()
			b.Children[0].Proposals = espOf(ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 0))
			l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
			edit(l)
			l.a.initiate()
			l.run()
			l.pass(2 * childInquiryEvery)
			if told := l.transcript.String(); l.a.count(Failed) < 2 || strings.Contains(told, "it chose") || strings.Contains(told, "D(") {
				t.Errorf("failed %d times:\n%s", l.a.count(Failed), told)
			}
		})
	}
}

// What the peer chose at one inquiry does not explain its refusals after the next one,
// at which it chooses nothing.
func TestChildInquiryFindingEnds(t *testing.T) {
	l := inquiring(t)
	l.run()
	if d := l.a.last(Failed).Diagnosis; d.Theirs == "" {
		t.Fatal("nothing is found")
	}
	b := connB()
	b.Children[0].Proposals = espOf(ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 0), ipsec.ESN(true))
	l.b.do(Update{b})
	l.pass(2 * childInquiryEvery)
	if d := l.a.last(Failed).Diagnosis; d.Reason != ReasonPhase2Proposal || d.Theirs != "" {
		t.Errorf("after the next inquiry: %v", d)
	}
}

// The private value of an inquiry goes with its request, however that ends.
func TestChildInquiryWipes(t *testing.T) {
	for name, end := range map[string]func(l *lab){
		"answered":           (*lab).run,
		"refused":            func(l *lab) { l.deliver(0); l.tamper(only(wire.NoProposalChosen)); l.deliver(0) },
		"ended":              func(l *lab) { l.a.do(Terminate{ReasonConfigModify}); l.run() },
		"without any answer": func(l *lab) { l.wire, l.lose = nil, func(packet) bool { return true }; l.pass(10 * time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			l := inquiring(t)
			c, ok := l.a.machine().current.active.exchange.(*childInquiry).kex.(*curveExchange)
			if !ok || c.key == nil {
				t.Fatal("nothing drawn")
			}
			end(l)
			if c.key != nil {
				t.Error("the private value is still there")
			}
		})
	}
}

// inquiring is a lab in which end a awaits the answer to an inquiry.
func inquiring(t *testing.T) *lab {
	t.Helper()
	l := newLab(t, 1)
	a, b := connA(), connB()
	b.Children[0].Proposals = espOf(ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 0), ipsec.Group(ipsec.GroupCurve25519))
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.a.initiate()
	for range 20 {
		l.deliver(0)
		if s := l.a.machine().current; s.active != nil {
			if _, ok := s.active.exchange.(*childInquiry); ok {
				return l
			}
		}
	}
	t.Fatalf("no inquiry:\n%s", l.transcript.String())
	return nil
}

// Answers to an inquiry that are authentic, and wrong: no SA comes of any, what the
// peer may have made is deleted, and the IKE SA goes on.
func TestAnswersToChildInquiry(t *testing.T) {
	for name, tt := range map[string]struct {
		change  func(*wire.Message)
		deleted bool
	}{
		"refusal":             {change: only(wire.NoProposalChosen)},
		"another refusal":     {change: only(wire.NoAdditionalSAs)},
		"a group not offered": {change: only(wire.InvalidKEPayload, 0, 24)},
		"the same group":      {change: only(wire.InvalidKEPayload, 0, 31)},
		"no group":            {change: only(wire.InvalidKEPayload)},
		"two proposals":       {change: proposals(func(list []ipsec.Proposal) []ipsec.Proposal { return append(list, list...) }), deleted: true},
		"a cipher not offered": {change: proposals(func(list []ipsec.Proposal) []ipsec.Proposal {
			list[0].Transforms[0] = ipsec.Encryption(ipsec.EncryptionAESCBC, 64)
			return list
		}), deleted: true},
		"another key exchange": {change: set(&wire.KE{Group: ipsec.GroupECP256, Data: make([]byte, 64)}), deleted: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := inquiring(t)
			l.deliver(0)
			l.tamper(tt.change)
			before := l.transcript.Len()
			l.run()
			told := l.transcript.String()[before:]
			if deleted := strings.Contains(told, "a sends INFORMATIONAL request"); deleted != tt.deleted {
				t.Errorf("the SA is deleted: %v, want %v:\n%s", deleted, tt.deleted, told)
			}
			if len(l.a.sas) != 0 || len(l.a.machine().children) != 0 || !l.a.machine().Established() {
				t.Errorf("%d SAs, %d children, established: %v", len(l.a.sas), len(l.a.machine().children), l.a.machine().Established())
			}
		})
	}
}
