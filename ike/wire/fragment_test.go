package wire

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// fragments seals the example message into fragments of at most limit octets.
func fragments(t testing.TB, id uint32, limit int) (want *Message, raws [][]byte) {
	t.Helper()
	want = exampleMessage()
	want.MessageID = id
	raws, err := want.SealFragments(newGCM(t, 1), limit)
	if err != nil {
		t.Fatal(err)
	}
	return want, raws
}

// add parses a datagram and hands it to the reassembler.
func add(t testing.TB, r *Reassembler, raw []byte) (*Message, error) {
	t.Helper()
	m, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return r.Add(raw, m, newGCM(t, 1))
}

func TestSealFragmentsKeepsTheLimit(t *testing.T) {
	_, whole := fragments(t, 1, MaxMessage)
	if len(whole) != 1 {
		t.Fatalf("%d fragments of a message that fits", len(whole))
	}
	if m, err := Parse(whole[0]); err != nil || !m.Encrypted() {
		t.Fatalf("not one Encrypted payload: %v, %v", m, err)
	} else if _, _, ok := m.Fragment(); ok {
		t.Error("one fragment where none is needed")
	}
	for _, limit := range []int{80, 100, 128, len(whole[0]) - 1} {
		want, raws := fragments(t, 1, limit)
		if len(raws) < 2 {
			t.Errorf("limit %d: %d fragments", limit, len(raws))
		}
		for i, raw := range raws {
			if len(raw) > limit {
				t.Errorf("limit %d: fragment %d has %d octets", limit, i+1, len(raw))
			}
		}
		rand.New(rand.NewPCG(1, uint64(limit))).Shuffle(len(raws), func(i, j int) { raws[i], raws[j] = raws[j], raws[i] })
		r := &Reassembler{}
		for i, raw := range raws {
			m, err := add(t, r, raw)
			if err != nil {
				t.Fatal(err)
			}
			if (m != nil) != (i == len(raws)-1) {
				t.Fatalf("limit %d: message after %d of %d", limit, i+1, len(raws))
			}
			if m != nil && (!m.Authenticated() || !m.Encrypted() || !reflect.DeepEqual(m.Payloads, want.Payloads)) {
				t.Errorf("limit %d: got %s", limit, m)
			}
		}
		if r.Pending() {
			t.Error("pending after the last fragment")
		}
	}
}

func TestSealFragmentsRefuses(t *testing.T) {
	m := exampleMessage()
	if _, err := m.SealFragments(newGCM(t, 1), 61); err == nil {
		t.Error("fragments without room")
	}
	m.Payloads = []Payload{&VendorID{Data: make([]byte, 65*40)}}
	if _, err := m.SealFragments(newGCM(t, 1), 100); err == nil {
		t.Error("more fragments than the limit")
	}
}

func TestReassemblerTakesOnlyAuthenticFragments(t *testing.T) {
	_, raws := fragments(t, 1, 128)
	r := &Reassembler{}
	forged := slices.Clone(raws[0])
	forged[len(forged)-1] ^= 1
	if m, err := add(t, r, forged); err == nil || m != nil || r.Pending() {
		t.Fatalf("a forged fragment entered: %v, %v", m, err)
	}
	if _, err := add(t, r, raws[0]); err != nil {
		t.Fatal(err)
	}
	// Neither the forged total nor the forged id restarts.
	forged = slices.Clone(raws[1])
	forged[HeaderLen+7]++
	if _, err := add(t, r, forged); err == nil {
		t.Error("a forged total entered")
	}
	for i, raw := range raws[1:] {
		m, err := add(t, r, raw)
		if err != nil {
			t.Fatal(err)
		}
		if (m != nil) != (i == len(raws)-2) {
			t.Fatal("the forged fragment disturbed the reassembly")
		}
	}
}

func TestReassemblerDuplicates(t *testing.T) {
	_, raws := fragments(t, 1, 128)
	r := &Reassembler{}
	for i, raw := range raws {
		for n := range 2 {
			last := i == len(raws)-1
			if last && n == 1 {
				break
			}
			m, err := add(t, r, raw)
			if err != nil || (m != nil) != last {
				t.Fatalf("fragment %d, copy %d: %v, %v", i+1, n, m, err)
			}
		}
	}
}

func TestReassemblerRestarts(t *testing.T) {
	_, coarse := fragments(t, 1, 300)
	_, fine := fragments(t, 1, 128)
	_, later := fragments(t, 2, 300)
	r := &Reassembler{}
	step := func(raw []byte, refused bool) *Message {
		t.Helper()
		m, err := add(t, r, raw)
		if (err != nil) != refused {
			t.Fatalf("got %v, want refused = %v", err, refused)
		}
		return m
	}
	step(coarse[0], false)
	step(fine[1], false)  // more fragments in all: anew
	step(coarse[1], true) // fewer: out of date
	step(later[1], false) // a later message: anew
	step(fine[0], true)   // an earlier one: out of date
	var got *Message
	for i, raw := range later {
		if i != 1 {
			got = step(raw, false)
		}
	}
	if got == nil || got.MessageID != 2 {
		t.Errorf("got %v", got)
	}
	step(fine[0], false) // nothing is under way: the owner looks at ids
	if !r.Pending() {
		t.Error("not pending")
	}
	r.Reset()
	if r.Pending() {
		t.Error("pending after Reset")
	}
}

func TestReassemblerBoundsTheWhole(t *testing.T) {
	const total = 3
	r := &Reassembler{}
	for number := 1; number <= total; number++ {
		m := exampleMessage()
		env := envelope{kind: TypeEncryptedFr, number: number, total: total}
		if number == 1 {
			env.first = TypeVendorID
		}
		raw, err := m.protect(newGCM(t, 1), env, make([]byte, 30000))
		if err != nil {
			t.Fatal(err)
		}
		_, err = add(t, r, raw)
		if (err != nil) != (number == total) {
			t.Fatalf("fragment %d: %v", number, err)
		}
	}
	if r.Pending() {
		t.Error("keeps what is too large")
	}
}

func TestReassemblerReportsSyntaxOfTheWhole(t *testing.T) {
	r := &Reassembler{}
	for number := 1; number <= 2; number++ {
		env := envelope{kind: TypeEncryptedFr, number: number, total: 2}
		if number == 1 {
			env.first = TypeNonce
		}
		raw, err := exampleMessage().protect(newGCM(t, 1), env, []byte{0, 0})
		if err != nil {
			t.Fatal(err)
		}
		m, err := add(t, r, raw)
		if number == 1 {
			continue
		}
		var e *Error
		if m == nil || !m.Authenticated() || !errors.As(err, &e) || e.Notify != InvalidSyntax {
			t.Errorf("got %v, %v", m, err)
		}
	}
}

func TestReassemblerRefusesWholeMessages(t *testing.T) {
	_, whole := fragments(t, 1, MaxMessage)
	if _, err := add(t, &Reassembler{}, whole[0]); err == nil {
		t.Error("a whole message was taken for a fragment")
	}
}
