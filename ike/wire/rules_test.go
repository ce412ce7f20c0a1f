package wire

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

// byType returns payloads of the example message.
func byType(types ...PayloadType) []Payload {
	var list []Payload
	for _, t := range types {
		i := slices.IndexFunc(everyPayload(), func(p Payload) bool { return p.Type() == t })
		list = append(list, everyPayload()[i])
	}
	return list
}

func TestCheck(t *testing.T) {
	refusal := &Notify{NotifyType: NoProposalChosen}
	tests := []struct {
		name     string
		exchange ExchangeType
		response bool
		clear    bool // send the payloads outside of the Encrypted payload
		payloads []Payload
		edit     func(h *Header)
		want     string // empty: passes
		notify   NotifyType
	}{
		{name: "init request", exchange: IKESAInit, clear: true, payloads: byType(TypeSA, TypeKE, TypeNonce, TypeNotify, TypeVendorID)},
		{name: "init request in another order", exchange: IKESAInit, clear: true, payloads: byType(TypeNotify, TypeNonce, TypeKE, TypeSA, 200)},
		{name: "init request without KE", exchange: IKESAInit, clear: true, payloads: byType(TypeSA, TypeNonce), want: "missing", notify: InvalidSyntax},
		{name: "init request with two KE", exchange: IKESAInit, clear: true, payloads: byType(TypeSA, TypeKE, TypeKE, TypeNonce), want: "too many", notify: InvalidSyntax},
		{name: "init request with AUTH", exchange: IKESAInit, clear: true, payloads: byType(TypeSA, TypeKE, TypeNonce, TypeAuth), want: "no place", notify: InvalidSyntax},
		{name: "init request with an error", exchange: IKESAInit, clear: true, payloads: []Payload{refusal}, want: "missing", notify: InvalidSyntax},
		{name: "init response", exchange: IKESAInit, response: true, clear: true, payloads: byType(TypeSA, TypeKE, TypeNonce, TypeCertReq)},
		{name: "init response with cookie", exchange: IKESAInit, response: true, clear: true, payloads: byType(TypeNotify), edit: func(h *Header) { h.ResponderSPI = 0 }},
		{name: "init response that refuses", exchange: IKESAInit, response: true, clear: true, payloads: []Payload{refusal}},
		{name: "init response empty", exchange: IKESAInit, response: true, clear: true, want: "missing", notify: InvalidSyntax},
		{name: "init encrypted", exchange: IKESAInit, payloads: byType(TypeSA, TypeKE, TypeNonce), want: "with an Encrypted payload"},
		{name: "init with message id", exchange: IKESAInit, clear: true, payloads: byType(TypeSA, TypeKE, TypeNonce), edit: func(h *Header) { h.MessageID = 1 }, want: "does not begin at 0"},
		{name: "init request with responder SPI", exchange: IKESAInit, clear: true, payloads: byType(TypeSA, TypeKE, TypeNonce), edit: func(h *Header) { h.ResponderSPI = 1 }, want: "with an SPI"},
		{name: "init request by the responder", exchange: IKESAInit, clear: true, payloads: byType(TypeSA, TypeKE, TypeNonce), edit: func(h *Header) { h.Initiator = false }, want: "wrong side"},
		{name: "init response by the initiator", exchange: IKESAInit, response: true, clear: true, payloads: byType(TypeSA, TypeKE, TypeNonce), edit: func(h *Header) { h.Initiator = true }, want: "wrong side"},
		{name: "init without SPI", exchange: IKESAInit, clear: true, payloads: byType(TypeSA, TypeKE, TypeNonce), edit: func(h *Header) { h.InitiatorSPI = 0 }, want: "no SPI"},

		{name: "auth request", exchange: IKEAuth, payloads: byType(TypeIDi, TypeCert, TypeCertReq, TypeIDr, TypeAuth, TypeSA, TypeTSi, TypeTSr, TypeConfig)},
		{name: "auth request with TSi alone", exchange: IKEAuth, payloads: byType(TypeIDi, TypeAuth, TypeSA, TypeTSi), want: "together", notify: InvalidSyntax},
		{name: "auth request with KE", exchange: IKEAuth, payloads: byType(TypeIDi, TypeKE), want: "no place", notify: InvalidSyntax},
		{name: "auth request in the clear", exchange: IKEAuth, clear: true, payloads: byType(TypeIDi, TypeAuth), want: "without protection"},
		{name: "auth response", exchange: IKEAuth, response: true, payloads: byType(TypeIDr, TypeAuth, TypeSA, TypeTSi, TypeTSr, TypeNotify)},
		{name: "auth response in the clear", exchange: IKEAuth, response: true, clear: true, payloads: byType(TypeIDr, TypeAuth), want: "without protection"},
		{name: "auth refusal in the clear", exchange: IKEAuth, response: true, clear: true, payloads: []Payload{refusal}},
		{name: "auth refusal in the clear with more", exchange: IKEAuth, response: true, clear: true, payloads: append(byType(TypeIDr), refusal), want: "not encrypted", notify: InvalidSyntax},
		{name: "auth response with IDi", exchange: IKEAuth, response: true, payloads: byType(TypeIDi), want: "no place", notify: InvalidSyntax},
		{name: "auth with message id 0", exchange: IKEAuth, payloads: byType(TypeIDi), edit: func(h *Header) { h.MessageID = 0 }, want: "id of IKE_SA_INIT"},

		{name: "child request", exchange: CreateChildSA, payloads: byType(TypeNotify, TypeSA, TypeNonce, TypeKE, TypeTSi, TypeTSr)},
		{name: "IKE rekey request", exchange: CreateChildSA, payloads: byType(TypeSA, TypeNonce, TypeKE)},
		{name: "child request by the responder", exchange: CreateChildSA, payloads: byType(TypeSA, TypeNonce), edit: func(h *Header) { h.Initiator = false }},
		{name: "child request without nonce", exchange: CreateChildSA, payloads: byType(TypeSA, TypeTSi, TypeTSr), want: "missing", notify: InvalidSyntax},
		{name: "child response that refuses", exchange: CreateChildSA, response: true, payloads: []Payload{refusal}},
		{name: "child response without SA", exchange: CreateChildSA, response: true, payloads: byType(TypeNonce), want: "missing", notify: InvalidSyntax},

		{name: "liveness", exchange: Informational},
		{name: "liveness in the clear", exchange: Informational, clear: true, want: "without protection"},
		{name: "liveness answer in the clear", exchange: Informational, response: true, clear: true, want: "without protection"},
		{name: "deletes", exchange: Informational, payloads: byType(TypeDelete, TypeDelete, TypeNotify, TypeConfig, TypeVendorID)},
		{name: "delete in the clear", exchange: Informational, clear: true, payloads: byType(TypeDelete), want: "without protection"},
		{name: "delete in the clear beside an error", exchange: Informational, response: true, clear: true, payloads: append(byType(TypeDelete), refusal), want: "not encrypted", notify: InvalidSyntax},
		{name: "informational with SA", exchange: Informational, payloads: byType(TypeSA), want: "no place", notify: InvalidSyntax},
		{name: "informational without responder SPI", exchange: Informational, edit: func(h *Header) { h.ResponderSPI = 0 }, want: "without an SPI"},
		{name: "intermediate", exchange: IKEIntermediate, payloads: byType(TypeKE, TypeNotify)},
		{name: "intermediate in the clear", exchange: IKEIntermediate, clear: true, payloads: byType(TypeKE), want: "without protection"},
		{name: "intermediate from the responder", exchange: IKEIntermediate, edit: func(h *Header) { h.Initiator = false }, want: "wrong side"},
		{name: "intermediate with identity", exchange: IKEIntermediate, payloads: byType(TypeIDi), want: "no place", notify: InvalidSyntax},
		{name: "followup", exchange: IKEFollowupKE, payloads: byType(TypeKE, TypeNotify)},
		{name: "followup by the responder", exchange: IKEFollowupKE, payloads: byType(TypeKE, TypeNotify), edit: func(h *Header) { h.Initiator = false }},
		{name: "followup without KE", exchange: IKEFollowupKE, payloads: byType(TypeNotify), want: "missing", notify: InvalidSyntax},
		{name: "followup response that refuses", exchange: IKEFollowupKE, response: true, payloads: []Payload{refusal}},
		{name: "another exchange", exchange: 45, want: "not known", notify: InvalidSyntax},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := &Message{Header: Header{
				InitiatorSPI: 1, ResponderSPI: 2, Exchange: tt.exchange,
				Response: tt.response, Initiator: !tt.response, MessageID: 1,
			}, Payloads: tt.payloads}
			if tt.exchange == IKESAInit {
				m.MessageID = 0
				if !tt.response {
					m.ResponderSPI = 0
				}
			}
			if tt.edit != nil {
				tt.edit(&m.Header)
			}
			got := roundTrip(t, m, !tt.clear)
			err := got.Check()
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(e.Reason, tt.want) || e.Notify != tt.notify {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func roundTrip(t *testing.T, m *Message, seal bool) *Message {
	t.Helper()
	if !seal {
		raw, err := m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	raw, err := m.Seal(newGCM(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Open(raw, newGCM(t, 1)); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestCheckBeforeOpen(t *testing.T) {
	m := &Message{Header: Header{InitiatorSPI: 1, ResponderSPI: 2, Exchange: Informational, Response: true, MessageID: 1}}
	raw, err := m.Seal(newGCM(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Check(); err == nil {
		t.Error("a message that was not opened passed")
	}
}

// Payloads beside the Encrypted payload are authenticated and yet readable by
// all, so those that must be encrypted are refused there.
func TestCheckPayloadsBesideTheEncryptedOne(t *testing.T) {
	c := newGCM(t, 1)
	id, err := (&ID{IDType: IDFQDN, Data: []byte("x")}).appendBody(nil)
	if err != nil {
		t.Fatal(err)
	}
	h := Header{InitiatorSPI: 1, ResponderSPI: 2, NextPayload: TypeIDi, MajorVersion: 2, Exchange: IKEAuth, Initiator: true, MessageID: 1}
	bare := append([]byte{byte(TypeEncrypted), 0, 0, byte(4 + len(id))}, id...)
	h.Length = uint32(HeaderLen + len(bare) + 4 + c.SealedLen(0))
	raw := append(h.Append(nil), bare...)
	raw = append(raw, 0, 0, 0, byte(4+c.SealedLen(0)))
	if raw, err = c.Seal(raw, nil); err != nil {
		t.Fatal(err)
	}
	m, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Open(raw, c); err != nil {
		t.Fatal(err)
	}
	var e *Error
	if err := m.Check(); !errors.As(err, &e) || e.Payload != TypeIDi || !strings.Contains(e.Reason, "not encrypted") {
		t.Errorf("got %v", err)
	}
}

func TestRulesAreConsistent(t *testing.T) {
	for k, table := range rules {
		seen := map[PayloadType]bool{}
		for _, r := range table {
			if seen[r.payload] || r.min > r.max {
				t.Errorf("%s: rule for %s", k.exchange, r.payload)
			}
			seen[r.payload] = true
		}
	}
}

func TestUnknownNotifiesPass(t *testing.T) {
	m := &Message{Header: Header{InitiatorSPI: 1, ResponderSPI: 2, Exchange: Informational, MessageID: 4}}
	m.Payloads = []Payload{&Notify{NotifyType: 50000}, &Notify{Protocol: ipsec.Protocol(77), SPI: []byte{1}, NotifyType: 8000}}
	if err := roundTrip(t, m, true).Check(); err != nil {
		t.Error(err)
	}
}
