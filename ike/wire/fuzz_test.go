package wire

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
)

func FuzzHeader(f *testing.F) {
	target := fuzztest.New(f)
	for _, b := range readRecording(f).raws {
		target.Add(b[:HeaderLen])
	}
	target.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil {
			return
		}
		// Reserved flags are the only bits that do not come back.
		want := slices.Clone(b[:HeaderLen])
		want[19] &= flagInitiator | flagVersion | flagResponse
		if got := h.Append(nil); !bytes.Equal(got, want) {
			t.Errorf("got %x, want %x", got, want)
		}
	})
}

// FuzzPayload is one target for the parser of each payload: the type is input.
func FuzzPayload(f *testing.F) {
	target := fuzztest.New(f)
	for _, p := range everyPayload() {
		body, err := p.appendBody(nil)
		if err != nil {
			f.Fatal(err)
		}
		target.Add(byte(p.Type()), body)
	}
	target.Fuzz(func(t *testing.T, kind byte, body []byte) {
		p, e := parsePayload(PayloadType(kind), false, body)
		if e != nil {
			return
		}
		checkStable(t, p)
	})
}

// checkStable asserts that what a payload is written as reads as itself.
func checkStable(t *testing.T, p Payload) {
	t.Helper()
	b, err := p.appendBody(nil)
	if err != nil {
		if emptied(p) {
			return
		}
		t.Fatalf("%s parsed but not written: %v", p.Type(), err)
	}
	again, e := parsePayload(p.Type(), false, b)
	if e != nil {
		t.Fatalf("%s written but not parsed: %v", p.Type(), e)
	}
	if id, ok := p.(*ID); ok {
		id.reserved = [3]byte{} // sent as zero
	}
	if sa, ok := p.(*SA); ok {
		for i := range sa.Proposals { // zero means: by position
			if sa.Proposals[i].Number == 0 {
				sa.Proposals[i].Number = uint8(i + 1)
			}
		}
	}
	if !reflect.DeepEqual(again, p) {
		t.Fatalf("got %+v, want %+v", again, p)
	}
}

// emptied reports whether a payload has lost all that it had because nothing
// of it was known. That cannot be written.
func emptied(p Payload) bool {
	switch p := p.(type) {
	case *SA:
		return len(p.Proposals) == 0
	case *TS:
		return len(p.Selectors) == 0
	}
	return false
}

func FuzzParse(f *testing.F) {
	target := fuzztest.New(f)
	for _, b := range readRecording(f).raws {
		target.Add(b)
	}
	raw, err := exampleMessage().Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	target.Add(raw)
	target.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		_ = m.Check()
		_ = m.String()
		if m.Encrypted() || slices.ContainsFunc(m.Payloads, emptied) {
			return
		}
		once, err := m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(once)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := again.Append(nil); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("not stable: %x, %x, %v", once, twice, err)
		}
	})
}

// FuzzOpen feeds the parsers behind the decryption.
func FuzzOpen(f *testing.F) {
	target := fuzztest.New(f)
	plain, first, err := appendChain(nil, everyPayload())
	if err != nil {
		f.Fatal(err)
	}
	target.Add(byte(first), plain, []byte{})
	target.Add(byte(TypeEncrypted), []byte{0, 0, 0, 4}, []byte{3})
	c := newGCM(f, 1)
	target.Fuzz(func(t *testing.T, first byte, plain, flips []byte) {
		if len(plain) > 4096 {
			return
		}
		c.next = 0
		raw, err := exampleMessage().protect(c, envelope{kind: TypeEncrypted, first: PayloadType(first)}, plain)
		if err != nil {
			t.Fatal(err)
		}
		genuine := true
		for i, b := range flips {
			at := (HeaderLen + i*7) % len(raw)
			raw[at] ^= b
			genuine = genuine && b == 0
		}
		m, err := Parse(raw)
		if err != nil {
			return
		}
		err = m.Open(raw, c)
		if genuine && !m.Authenticated() {
			t.Fatalf("a genuine message was refused: %v", err)
		}
		if m.Authenticated() && err == nil {
			_ = m.Check()
			for _, p := range m.Payloads {
				checkStable(t, p)
			}
		}
	})
}

// FuzzReassembler feeds authentic and other fragments in any order. Each octet
// names a fragment; its bits: forged, three of number, one of message id, one of total.
func FuzzReassembler(f *testing.F) {
	target := fuzztest.New(f)
	target.Add([]byte{0x10, 0x20, 0x30})
	target.Add([]byte{0x31, 0x12, 0x23, 0x80})
	c := newGCM(f, 1)
	var fragments [256][]byte
	for step := range fragments {
		fragments[step] = fuzzFragment(f, c, byte(step))
	}
	whole := byType(TypeNonce, TypeVendorID)
	target.Fuzz(func(t *testing.T, steps []byte) {
		if len(steps) > 64 {
			return
		}
		r := &Reassembler{}
		for _, step := range steps {
			forged, raw := step&0x80 != 0, bytes.Clone(fragments[step]) // opened where it lies
			fragment, err := Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			var before partial
			if r.Pending() {
				before = *r.partial
			}
			m, err := r.Add(raw, fragment, c)
			if forged && (m != nil || r.Pending() != (before.message != nil) || r.Pending() && r.missing != before.missing) {
				t.Fatal("a forged fragment had an effect")
			}
			if m != nil && (err != nil || !reflect.DeepEqual(m.Payloads, whole)) {
				t.Fatalf("got %v, %v", m, err)
			}
		}
	})
}

func fuzzFragment(f *testing.F, c *gcmCipher, step byte) []byte {
	f.Helper()
	plain, first, err := appendChain(nil, byType(TypeNonce, TypeVendorID))
	if err != nil {
		f.Fatal(err)
	}
	total := 3 + int(step&1)
	env := envelope{kind: TypeEncryptedFr, number: 1 + int(step>>4&7)%total, total: total}
	if env.number == 1 {
		env.first = first
	}
	m := exampleMessage()
	m.MessageID += uint32(step >> 1 & 1)
	size := (len(plain) + total - 1) / total
	raw, err := m.protect(c, env, plain[(env.number-1)*size:min(env.number*size, len(plain))])
	if err != nil {
		f.Fatal(err)
	}
	if step&0x80 != 0 {
		raw[len(raw)-1] ^= 1
	}
	return raw
}
