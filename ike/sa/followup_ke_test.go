package sa

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
	"github.com/vpngw/vpngw/ipsec"
)

// toFollowup goes on until the request of the first IKE_FOLLOWUP_KE exchange of a
// command of end a is under way, in one piece.
func (l *lab) toFollowup(c Command) {
	l.t.Helper()
	l.useHybrid()
	l.establish()
	for _, e := range []*end{l.a, l.b} {
		e.machine().current.fragmentation = false
	}
	l.a.do(c)
	l.deliver(0)
	l.deliver(0)
	if h, err := wire.ParseHeader(l.wire[0].d.Bytes); err != nil || h.Exchange != wire.IKEFollowupKE {
		l.t.Fatal(h, err)
	}
}

// TestFollowupRefused has requests that a responder cannot follow up, and answers
// that an initiator cannot use. The old SAs go on, and another try succeeds.
func TestFollowupRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		request, answer func(*wire.Message)
		want            wire.NotifyType // of the answer
	}{
		"no link":             {request: without(wire.TypeNotify), want: wire.StateNotFound},
		"another link":        {request: set(&wire.Notify{NotifyType: wire.AdditionalKeyExchange, Data: []byte("other")}), want: wire.StateNotFound},
		"another method":      {request: set(&wire.KE{Group: ipsec.GroupECP256, Data: make([]byte, 64)}), want: wire.InvalidSyntax},
		"bad value":           {request: set(&wire.KE{Group: ipsec.GroupMLKEM768, Data: bytes.Repeat([]byte{0xff}, 1184)}), want: wire.InvalidSyntax},
		"answer refuses":      {answer: only(wire.NoAdditionalSAs)},
		"answer is temporary": {answer: only(wire.TemporaryFailure)},
		"answer of a group":   {answer: only(wire.InvalidKEPayload, 0, 19)},
		"answer of a method":  {answer: set(&wire.KE{Group: ipsec.GroupECP256, Data: make([]byte, 64)})},
		"short answer":        {answer: set(&wire.KE{Group: ipsec.GroupMLKEM768, Data: make([]byte, 64)})},
	} {
		for _, c := range []Command{RekeyChild{ReqID: 1}, RekeyIKE{}} {
			t.Run(fmt.Sprintf("%T %s", c, name), func(t *testing.T) {
				l := newLab(t, 1)
				l.toFollowup(c)
				if tc.request != nil {
					l.tamper(tc.request)
				}
				l.deliver(0)
				if tc.answer != nil {
					l.tamper(tc.answer)
				}
				if tc.want != 0 {
					l.tamper(func(m *wire.Message) {
						if n, ok := m.ErrorNotify(); !ok || n.NotifyType != tc.want {
							t.Errorf("answered with %s, want %s", m, tc.want)
						}
					})
				}
				if _, ike := c.(RekeyIKE); ike && tc.answer != nil {
					// The responder has an IKE SA that nobody else has.
					l.up = false
					l.deliver(0)
					if st := l.a.machine().Status(); len(st.IKE) != 1 || st.IKE[0].State != Established {
						t.Errorf("%+v", st.IKE)
					}
					return
				}
				l.run()
				l.pass(10 * time.Minute)
				l.settled(1)
			})
		}
	}
}

// TestFollowupLate: what is not followed up in time is forgotten, secrets and all.
func TestFollowupLate(t *testing.T) {
	for _, c := range []Command{RekeyChild{ReqID: 1}, RekeyIKE{}} {
		t.Run(fmt.Sprintf("%T", c), func(t *testing.T) {
			l := newLab(t, 1)
			l.toFollowup(c)
			late := l.take(0)
			l.a.machine().current.active.next = l.now.Add(time.Hour) // no repeat
			if l.b.machine().current.followedUp == nil {
				t.Fatal("nothing to follow up")
			}
			l.pass(followupTimeout)
			if l.b.machine().current.followedUp != nil {
				t.Error("kept for ever")
			}
			l.wire = append(l.wire, late)
			l.deliver(0)
			l.tamper(func(m *wire.Message) {
				if _, ok := m.Notify(wire.StateNotFound); !ok {
					t.Errorf("answered with %s", m)
				}
			})
			l.run()
			l.pass(10 * time.Minute)
			l.settled(1)
		})
	}
}

// TestFollowupOvertaken: the child that is rekeyed, or its configuration, is gone
// by the time the exchange is followed up.
func TestFollowupOvertaken(t *testing.T) {
	l := newLab(t, 1)
	l.toFollowup(RekeyChild{ReqID: 1})
	late := l.take(0)
	l.up = false
	m := l.b.machine()
	m.deleteChild(m.children[0], ReasonConfigModify, nil)
	l.b.perform(m.Timeout(l.now))
	l.run()
	l.wire = append(l.wire, late)
	l.deliver(0)
	l.tamper(func(m *wire.Message) {
		if _, ok := m.ErrorNotify(); !ok {
			t.Errorf("answered with %s", m)
		}
	})
	l.run()
	l.pass(time.Minute)
	l.settled(1)
}

// TestFollowupKeysWiped: the secrets of an exchange go with it.
func TestFollowupKeysWiped(t *testing.T) {
	l := newLab(t, 1)
	l.toFollowup(RekeyIKE{})
	x := l.a.machine().current.active.exchange.(*rekeyIKE)
	shared, kex := x.shared, x.followup.kex.(*mlkem768Exchange)
	if len(shared) == 0 || kex.key == nil {
		t.Fatal("nothing drawn")
	}
	l.run()
	if !bytes.Equal(shared, make([]byte, len(shared))) || kex.key != nil || x.followup.secrets != nil {
		t.Error("a secret is still there")
	}
}
