package sa

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/wire"
)

// usePPK gives each end a PPK, or none.
func (l *lab) usePPK(a, b *PPK) {
	l.a.conns, l.b.conns = []*Connection{connA()}, []*Connection{connB()}
	l.a.conns[0].PPK, l.b.conns[0].PPK = a, b
}

// TestPPK has all pairs of ends with a PPK, without one, with one of another id
// or value, where it is optional and where it is required (RFC 8784, section 3).
func TestPPK(t *testing.T) {
	ppk := func(id, key string, required bool) *PPK {
		return &PPK{ID: id, Key: bytes.Repeat([]byte(key), 32), Required: required}
	}
	const (
		with    = "with the PPK"
		without = "without"
	)
	for _, tc := range []struct {
		name string
		a, b *PPK
		want string // else part of the diagnosis
	}{
		{"both optional", ppk("one", "k", false), ppk("one", "k", false), with},
		{"both required", ppk("one", "k", true), ppk("one", "k", true), with},
		{"required and optional", ppk("one", "k", true), ppk("one", "k", false), with},
		{"optional and required", ppk("one", "k", false), ppk("one", "k", true), with},
		{"optional, responder has none", ppk("one", "k", false), nil, without},
		{"optional, initiator has none", nil, ppk("one", "k", false), without},
		{"optional, another id", ppk("one", "k", false), ppk("two", "k", false), without},
		{"required, responder has none", ppk("one", "k", true), nil, "ours [required, id one], theirs [none]"},
		{"required, initiator has none", nil, ppk("one", "k", true), "ours [required, id one], theirs [none]"},
		{"initiator requires another id", ppk("one", "k", true), ppk("two", "k", false), "ours [optional, id two], theirs [required, id one]"},
		{"responder requires another id", ppk("one", "k", false), ppk("two", "k", true), "ours [required, id two], theirs [optional, id one]"},
		{"another key", ppk("one", "k", false), ppk("one", "l", false), "the keys of this id differ at the two ends"},
		{"another key, required", ppk("one", "k", true), ppk("one", "l", true), "the pre-shared keys of the two ends differ"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t, 1)
			l.usePPK(tc.a, tc.b)
			l.a.initiate()
			l.pass(2 * betterAnswer)
			up := l.a.peersUp() && l.b.peersUp()
			switch {
			case tc.want != with && tc.want != without:
				failures := ""
				for _, ev := range append(l.a.events, l.b.events...) {
					failures += describe(ev) + "\n"
				}
				if up || !strings.Contains(failures, tc.want) {
					t.Errorf("up %t, %s", up, failures)
				}
				return
			case !up:
				t.Fatal(l.transcript.String())
			}
			for _, e := range []*end{l.a, l.b} {
				if got := e.machine().Status().IKE[0].PPK; got != (tc.want == with) {
					t.Errorf("%s: with a PPK: %t", e.name, got)
				}
			}
			l.up = true
			l.checkTraffic()
			l.a.do(RekeyIKE{})
			l.run()
			l.b.rekeyChild()
			l.run()
			l.pass(2 * repeatWindow)
			l.settled(1)
			if got := l.b.machine().Status().IKE[0].PPK; got != (tc.want == with) {
				t.Errorf("after a rekey, with a PPK: %t", got)
			}
		})
	}
}

// TestPPKAndHybrid has both at once.
func TestPPKAndHybrid(t *testing.T) {
	l := newLab(t, 1)
	l.useHybrid(func(c *Connection) { c.PPK = &PPK{ID: "one", Key: make([]byte, 32), Required: true} })
	l.establish()
	l.settled(1)
	if st := l.b.machine().Status().IKE[0]; !st.PPK || len(st.Proposal.Additional()) != 1 {
		t.Errorf("%+v", st)
	}
}

// TestPPKKeys checks the derivation against prf+ (RFC 8784, section 3).
func TestPPKKeys(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	k := l.a.machine().current.keys
	ppk := &PPK{ID: "one", Key: []byte("0123456789abcdef0123456789abcdef")}
	mixed, err := k.withPPK(ppk)
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2][]byte{"SK_d": {k.d, mixed.d}, "SK_pi": {k.pi, mixed.pi}, "SK_pr": {k.pr, mixed.pr}} {
		want, err := k.prf.plus(ppk.Key, pair[0], len(pair[0]))
		if err != nil || !bytes.Equal(pair[1], want) || bytes.Equal(pair[0], want) {
			t.Errorf("%s: %x, want %x: %v", name, pair[1], want, err)
		}
	}
	mixed.wipe()
	if bytes.Equal(k.ei, make([]byte, len(k.ei))) {
		t.Error("the keys that protect messages went with the mixed ones")
	}
}

// TestPPKUnannounced: a responder that uses what was not named is refused, and
// so is one that leaves out what the initiator requires.
func TestPPKUnannounced(t *testing.T) {
	for _, of := range []string{"used", "left out"} {
		t.Run(of, func(t *testing.T) {
			l := newLab(t, 1)
			if of == "left out" {
				ppk := &PPK{ID: "one", Key: make([]byte, 32), Required: true}
				l.usePPK(ppk, ppk)
			} else {
				l.usePPK(nil, nil)
			}
			l.a.initiate()
			for range 3 {
				l.deliver(0)
			}
			l.tamper(func(m *wire.Message) {
				if of == "used" {
					m.Payloads = append(m.Payloads, &wire.Notify{NotifyType: wire.PPKIdentity})
				} else {
					m.Payloads = withoutNotify(m.Payloads, wire.PPKIdentity)
				}
			})
			l.deliver(0)
			if d := fmt.Sprint(l.a.last(Failed).Diagnosis); !strings.Contains(d, "post-quantum pre-shared key") {
				t.Error(d)
			}
			l.run()
			l.pass(time.Minute)
			l.a.empty()
		})
	}
}

func TestPPKValidate(t *testing.T) {
	for want, ppk := range map[string]*PPK{
		"the id must have": {Key: []byte("key")},
		"the key is empty": {ID: "one"},
	} {
		c := connA()
		c.PPK = ppk
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	c := connV1()
	c.PPK = &PPK{ID: "one", Key: []byte("key")}
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "IKEv2 only") {
		t.Error(err)
	}
}
