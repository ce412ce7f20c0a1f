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
