package sa

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// tamper changes the first packet under way as a peer could that has the keys.
func (l *lab) tamper(change func(*wire.Message)) {
	l.t.Helper()
	p := &l.wire[0]
	m, err := wire.Parse(p.d.Bytes)
	if err != nil {
		l.t.Fatal(err)
	}
	c := l.ciphers[m.InitiatorSPI][1]
	if m.Initiator {
		c = l.ciphers[m.InitiatorSPI][0]
	}
	if err := m.Open(p.d.Bytes, c); err != nil {
		l.t.Fatal(err)
	}
	change(m)
	if p.d.Bytes, err = m.Seal(c); err != nil {
		l.t.Fatal(err)
	}
}

// set replaces the payloads of a type.
func set(with wire.Payload) func(*wire.Message) {
	return func(m *wire.Message) {
		for i, p := range m.Payloads {
			if p.Type() == with.Type() {
				m.Payloads[i] = with
			}
		}
	}
}

// without removes payloads.
func without(types ...wire.PayloadType) func(*wire.Message) {
	return func(m *wire.Message) {
		m.Payloads = slices.DeleteFunc(m.Payloads, func(p wire.Payload) bool { return slices.Contains(types, p.Type()) })
	}
}

// only leaves one notify.
func only(t wire.NotifyType, data ...byte) func(*wire.Message) {
	return func(m *wire.Message) { m.Payloads = []wire.Payload{&wire.Notify{NotifyType: t, Data: data}} }
}

// proposals changes the proposals of the SA payload.
func proposals(change func([]ipsec.Proposal) []ipsec.Proposal) func(*wire.Message) {
	return func(m *wire.Message) {
		sa, _ := wire.Find[*wire.SA](m)
		sa.Proposals = change(sa.Proposals)
	}
}

// TestAnswersToIKEAuth has answers that are authentic, and wrong.
func TestAnswersToIKEAuth(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*wire.Message)
		reason Reason
		up     bool // the IKE SA stands
	}{
		"nothing":             {func(m *wire.Message) { m.Payloads = nil }, ReasonMalformedMessage, false},
		"no AUTH":             {without(wire.TypeAuth), ReasonMalformedMessage, false},
		"signature":           {set(&wire.Auth{Method: wire.AuthRSASignature, Data: []byte("x")}), ReasonAuthentication, false},
		"unknown method":      {set(&wire.Auth{Method: 99, Data: []byte("x")}), ReasonAuthentication, false},
		"AUTH cut short":      {set(&wire.Auth{Method: wire.AuthSharedKey, Data: []byte("x")}), ReasonAuthentication, false},
		"AUTHENTICATION_FAIL": {only(wire.AuthenticationFailed), ReasonAuthentication, false},
		"NO_PROPOSAL_CHOSEN":  {only(wire.NoProposalChosen), ReasonPhase2Proposal, false},
		"INVALID_SYNTAX":      {only(wire.InvalidSyntax), ReasonMalformedPayload, false},
		"unknown error":       {only(9999), ReasonAuthentication, false},
		"no child, no reason": {without(wire.TypeSA, wire.TypeTSi, wire.TypeTSr), ReasonMalformedMessage, true},
		"no selectors":        {without(wire.TypeTSi, wire.TypeTSr), ReasonMalformedPayload, true},
		"wider selectors":     {set(&wire.TS{Selectors: selectors("0.0.0.0/0")}), ReasonFlow, true},
		"other algorithm": {proposals(func(p []ipsec.Proposal) []ipsec.Proposal {
			p[0].Transforms[0] = ipsec.Encryption(ipsec.EncryptionAESGCM16, 256)
			return p
		}), ReasonPhase2Proposal, true},
		"reserved SPI": {proposals(func(p []ipsec.Proposal) []ipsec.Proposal {
			p[0].SPI = []byte{0, 0, 0, 255}
			return p
		}), ReasonMalformedPayload, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{connB()}
			l.a.initiate()
			for range 3 {
				l.deliver(0)
			}
			l.tamper(tc.change)
			l.deliver(0)
			if d := l.a.last(Failed); d.Reason != tc.reason || d.Diagnosis.Exchange != "IKE_AUTH" || d.Established != tc.up {
				t.Errorf("%v %t", d.Diagnosis, d.Established)
			}
			if up := l.a.count(IKEUp) == 1; up != tc.up {
				t.Errorf("up: %t", up)
			}
			l.a.empty()
			l.run()
		})
	}
}

// TestAnswersToRekey has answers to a rekey of the child that are authentic,
// and wrong. The old child stays, but where the syntax is broken.
func TestAnswersToRekey(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*wire.Message)
		reason Reason
		theirs string
		ends   bool
	}{
		"NO_PROPOSAL_CHOSEN":   {change: only(wire.NoProposalChosen), reason: ReasonPhase2Proposal},
		"TS_UNACCEPTABLE":      {change: only(wire.TSUnacceptable), reason: ReasonFlow},
		"SINGLE_PAIR_REQUIRED": {change: only(wire.SinglePairRequired), reason: ReasonFlow},
		"NO_ADDITIONAL_SAS":    {change: only(wire.NoAdditionalSAs), reason: ReasonRekeyFail},
		"INVALID_KE_PAYLOAD":   {change: only(wire.InvalidKEPayload, 0, 14), reason: ReasonPhase2Proposal, theirs: "MODP-2048 (group 14)"},
		"wider selectors":      {change: set(&wire.TS{Responder: true, Selectors: selectors("10.0.0.0/8")}), reason: ReasonFlow, theirs: "local 10.1.0.0/16, remote 10.0.0.0/8"},
		"no selectors":         {change: without(wire.TypeTSi, wire.TypeTSr), reason: ReasonMalformedPayload},
		"no KE":                {change: without(wire.TypeKE), reason: ReasonMalformedPayload},
		"KE of another group":  {change: set(&wire.KE{Group: 19, Data: make([]byte, 64)}), reason: ReasonMalformedPayload},
		"KE without a secret":  {change: set(&wire.KE{Group: 31, Data: make([]byte, 32)}), reason: ReasonMalformedPayload},
		"two proposals": {change: proposals(func(p []ipsec.Proposal) []ipsec.Proposal {
			return append(p, p[0])
		}), reason: ReasonMalformedPayload},
		"two groups": {change: proposals(func(p []ipsec.Proposal) []ipsec.Proposal {
			p[0].Transforms = append(p[0].Transforms, ipsec.Group(19))
			return p
		}), reason: ReasonMalformedPayload},
		"no nonce": {change: without(wire.TypeNonce), reason: ReasonMalformedPayload, ends: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			l.establish()
			l.up = false
			old := l.a.sas[1].SPI
			l.a.rekeyChild()
			l.deliver(0)
			l.tamper(tc.change)
			l.deliver(0)
			if tc.ends {
				if d := l.a.last(IKEDown); d.Reason != tc.reason {
					t.Errorf("%v", d.Diagnosis)
				}
				l.a.empty()
				return
			}
			d := l.a.last(Failed)
			if d.Reason != tc.reason || d.Diagnosis.Theirs != tc.theirs || d.Child != "net" || !d.Established {
				t.Errorf("%v", d.Diagnosis)
			}
			if out := l.a.sas[len(l.a.sas)-1]; len(l.a.sas) != 2 || out.SPI != old {
				t.Errorf("the old child is not left alone: %v", l.a.sas)
			}
			l.run()
		})
	}
}

// TestAnswersToIKERekey leave the old IKE SA in place.
func TestAnswersToIKERekey(t *testing.T) {
	for name, change := range map[string]func(*wire.Message){
		"NO_PROPOSAL_CHOSEN": only(wire.NoProposalChosen),
		"INVALID_SYNTAX":     only(wire.InvalidSyntax),
		"no KE":              without(wire.TypeKE),
		"KE without secret":  set(&wire.KE{Group: 31, Data: make([]byte, 32)}),
		"short nonce":        set(&wire.Nonce{Data: make([]byte, 16)}),
		"SPI zero": proposals(func(p []ipsec.Proposal) []ipsec.Proposal {
			p[0].SPI = make([]byte, 8)
			return p
		}),
		"no SPI": proposals(func(p []ipsec.Proposal) []ipsec.Proposal {
			p[0].SPI = nil
			return p
		}),
		"other algorithm": proposals(func(p []ipsec.Proposal) []ipsec.Proposal {
			p[0].Transforms[0].KeyBits = 128
			return p
		}),
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			a := connA()
			a.Proposals[0].Transforms[2] = ipsec.PRF(ipsec.PRFHMACSHA2512) // wants long nonces
			l.a.conns, l.b.conns = []*Connection{a}, []*Connection{mirror(a, "ba")}
			l.establish()
			before := l.a.machine().current
			l.a.rekeyIKE()
			l.deliver(0)
			l.tamper(change)
			l.deliver(0)
			if d := l.a.last(Failed); d.Reason != ReasonRekeyFail || !d.Established {
				t.Errorf("%v", d.Diagnosis)
			}
			if m := l.a.machine(); m.current != before || before.state != Established || before.rekeyAt.IsZero() {
				t.Errorf("the old IKE SA is %s", before.state)
			}
		})
	}
}

// TestRequestsForChildren has requests of a peer that are authentic, and wrong.
func TestRequestsForChildren(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*wire.Message)
		answer string
	}{
		"no selectors":        {without(wire.TypeTSi, wire.TypeTSr), "N(INVALID_SYNTAX)"},
		"no KE":               {without(wire.TypeKE), "N(INVALID_KE_PAYLOAD)"},
		"KE without a secret": {set(&wire.KE{Group: 31, Data: make([]byte, 32)}), "N(INVALID_SYNTAX)"},
		"foreign selectors":   {set(&wire.TS{Selectors: selectors("172.16.0.0/12")}), "N(TS_UNACCEPTABLE)"},
		"unknown child":       {set(&wire.Notify{Protocol: ipsec.ProtocolESP, SPI: []byte{9, 9, 9, 9}, NotifyType: wire.RekeySA}), "N(CHILD_SA_NOT_FOUND)"},
		"AH":                  {set(&wire.Notify{Protocol: ipsec.ProtocolAH, SPI: []byte{0, 0, 0x10, 1}, NotifyType: wire.RekeySA}), "N(CHILD_SA_NOT_FOUND)"},
		"no proposal": {proposals(func(p []ipsec.Proposal) []ipsec.Proposal {
			p[0].Transforms[0].KeyBits = 192
			return p
		}), "N(NO_PROPOSAL_CHOSEN)"},
		"reserved SPI": {proposals(func(p []ipsec.Proposal) []ipsec.Proposal {
			p[0].SPI = []byte{0, 0, 0, 1}
			return p
		}), "N(INVALID_SYNTAX)"},
		"SPI of another child": {proposals(func(p []ipsec.Proposal) []ipsec.Proposal {
			p[0].SPI = []byte{0, 0, 0x10, 1}
			return p
		}), "N(INVALID_SYNTAX)"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			l.establish()
			l.a.rekeyChild()
			l.tamper(tc.change)
			l.deliver(0)
			if got := l.print(l.wire[0].d.Bytes); got != "CREATE_CHILD_SA response 2 "+tc.answer {
				t.Error(got)
			}
			if len(l.b.sas) != 2 {
				t.Errorf("%d SAs", len(l.b.sas))
			}
			if st := l.b.machine().Status().Children; len(st) != 1 || st[0].State != Established {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestChildrenAreBounded: an authentic peer asks for the same child again and
// again.
func TestChildrenAreBounded(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.up = false
	m, s := l.b.machine(), l.a.machine().current
	ask := func(payloads ...wire.Payload) {
		nonce, err := l.a.machine().newNonce()
		if err != nil {
			t.Fatal(err)
		}
		l.wire = nil
		l.inject(l.a.seal(wire.CreateChildSA, s.nextID, append(payloads, &wire.Nonce{Data: nonce})...))
		s.nextID++
	}
	public := func() wire.Payload {
		kex, err := newKeyExchange(ipsec.GroupCurve25519, l.a.env.Rand)
		if err != nil {
			t.Fatal(err)
		}
		return &wire.KE{Group: ipsec.GroupCurve25519, Data: kex.public()}
	}
	for i := range 3 * maxChildren {
		p := espProposal(ipsec.GroupCurve25519)
		p.SPI = []byte{0, 1, 0, byte(i)}
		ask(&wire.SA{Proposals: []ipsec.Proposal{p}}, public(),
			&wire.TS{Selectors: l.a.conns[0].Children[0].Local}, &wire.TS{Responder: true, Selectors: l.a.conns[0].Children[0].Remote})
	}
	if n := len(m.children); n != maxChildren {
		t.Errorf("%d children, want %d", n, maxChildren)
	}
	if got := l.print(l.wire[0].d.Bytes); !strings.HasSuffix(got, " N(NO_ADDITIONAL_SAS)") {
		t.Error(got)
	}
}

// TestBeforeAuthentication: nothing but IKE_AUTH counts before it is done.
func TestBeforeAuthentication(t *testing.T) {
	l := newLab(t, 1)
	l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{connB()}
	l.a.initiate()
	l.deliver(0)
	l.deliver(0)
	auth := l.take(0)
	for _, x := range []wire.ExchangeType{wire.Informational, wire.CreateChildSA} {
		before := fingerprint(l.b.machine())
		l.inject(l.a.seal(x, 1, &wire.Delete{Protocol: ipsec.ProtocolIKE}))
		if after := fingerprint(l.b.machine()); after != before || len(l.wire) != 0 {
			t.Errorf("%s changed %s to %s", x, before, after)
		}
	}
	l.wire = append(l.wire, auth)
	l.run()
	l.settled(1)
}

// TestInitialContact goes from the one end's environment to the other's event.
func TestInitialContact(t *testing.T) {
	for _, want := range []bool{true, false} {
		l := newLab(t, 1)
		l.a.env.InitialContact = func(c *Connection) bool { return c.Name == "ab" && want }
		l.establish()
		if got := l.b.last(IKEUp).InitialContact; got != want {
			t.Errorf("%t, want %t", got, want)
		}
	}
}

// A peer sets up children for parts of the traffic beside the one in use, and deletes
// each: no policy of theirs stays.
func TestPoliciesOfPartsEnd(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	want := maps.Clone(l.b.policies)
	m := l.a.machine()
	for i := range 5 {
		part := *m.slots[0].cfg
		part.Local = selectors(fmt.Sprintf("10.1.%d.0/24", i))
		x := &createChild{slot: &slot{cfg: &part}}
		for _, ask := range []func() exchange{
			func() exchange { return x },
			func() exchange { return &deleteUnused{x.offer.in} },
		} {
			m.begin(l.now)
			m.current.enqueue(ask())
			l.a.perform(m.finish())
			l.deliver(0)
			l.wire, m.current.active = nil, nil // whatever the answer is
		}
	}
	if len(l.b.policies) == len(want) {
		t.Fatal("no part was set up\n" + l.transcript.String())
	}
	l.pass(time.Minute)
	if !maps.Equal(l.b.policies, want) || len(l.b.machine().slots[0].policies) != len(want) || len(l.b.sas) != 2 {
		t.Errorf("%d policies, %d SAs\n%s", len(l.b.policies), len(l.b.sas), l.transcript.String())
	}
}
