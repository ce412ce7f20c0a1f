package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A client reset of a stock client, and what it may look like.
const clientReset = "38" + "0102030405060708" + "00" + "00000000"

func TestParseControl(t *testing.T) {
	id := SessionID{1, 2, 3, 4, 5, 6, 7, 8}
	peer := SessionID{9, 9, 9, 9, 9, 9, 9, 9}
	tests := []struct {
		name string
		hex  string
		want Control
	}{
		{"client reset", clientReset, Control{Opcode: HardResetClientV2, Session: id, Payload: []byte{}}},
		{
			"server reset", "40" + "0102030405060708" + "01" + "00000000" + "0909090909090909" + "00000000",
			Control{Opcode: HardResetServerV2, Session: id, Acks: []uint32{0}, Remote: peer, Payload: []byte{}},
		},
		{
			"TLS", "21" + "0102030405060708" + "00" + "00000001" + "160301",
			Control{Opcode: ControlV1, KeyID: 1, Session: id, PacketID: 1, Payload: []byte{0x16, 3, 1}},
		},
		{
			"acknowledgement", "28" + "0102030405060708" + "02" + "00000003" + "00000001" + "0909090909090909",
			Control{Opcode: AckV1, Session: id, Acks: []uint32{3, 1}, Remote: peer},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := unhex(t, tt.hex)
			got, err := ParseControl(b)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, tt.want)
			}
			if again := got.Append(nil); !bytes.Equal(again, b) {
				t.Errorf("written as %x, want %x", again, b)
			}
		})
	}
}

// A datagram of UDP can have 64 KiB; what is kept of a stranger is bounded.
func TestParseControlBoundsThePacket(t *testing.T) {
	c := Control{Opcode: ControlV1, Session: SessionID{1}, Payload: make([]byte, MaxFrame-14)}
	if _, err := ParseControl(c.Append(nil)); err != nil {
		t.Errorf("%d octets: %v", MaxFrame, err)
	}
	c.Payload = make([]byte, MaxFrame-13)
	if _, err := ParseControl(c.Append(nil)); !errors.Is(err, ErrMalformed) {
		t.Errorf("%d octets: %v", MaxFrame+1, err)
	}
}

func TestParseControlRejects(t *testing.T) {
	for name, s := range map[string]string{
		"empty":               "",
		"short":               "380102030405060708",
		"no packet id":        "38010203040506070800000000",
		"session id zero":     "38" + "0000000000000000" + "00" + "00000000",
		"nine acks":           "28" + "0102030405060708" + "09" + "000000000000000000000000000000000000000000000000000000000000000000000000" + "0909090909090909",
		"acks cut short":      "28" + "0102030405060708" + "02" + "00000000" + "0909090909090909",
		"acks nothing":        "28" + "0102030405060708" + "00",
		"octets behind ack":   "28" + "0102030405060708" + "01" + "00000000" + "0909090909090909" + "00",
		"key method 1 client": "08" + "0102030405060708" + "00" + "00000000",
		"data":                "48" + "0102030405060708" + "00" + "00000000",
		"opcode 12":           "60" + "0102030405060708" + "00" + "00000000",
	} {
		if c, err := ParseControl(unhex(t, s)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}

func TestKeyIDs(t *testing.T) {
	id, seen := uint8(0), []uint8{}
	for range 9 {
		id = NextKeyID(id)
		seen = append(seen, id)
	}
	if want := []uint8{1, 2, 3, 4, 5, 6, 7, 1, 2}; !reflect.DeepEqual(seen, want) {
		t.Errorf("got %v, want %v", seen, want)
	}
	if op, id := SplitOpcode(SoftReset.Octet(7)); op != SoftReset || id != 7 {
		t.Errorf("first octet: opcode %d, key id %d", op, id)
	}
}

func TestNextFrame(t *testing.T) {
	stream := AppendFrame(AppendFrame(nil, []byte("one")), []byte("two"))
	var got []string
	var pending []byte
	for _, octet := range stream { // a segment may end anywhere
		pending = append(pending, octet)
		packet, rest, err := NextFrame(pending)
		if err != nil {
			t.Fatal(err)
		}
		if packet != nil {
			got = append(got, string(packet))
			pending = rest
		}
	}
	if !reflect.DeepEqual(got, []string{"one", "two"}) || len(pending) > 0 {
		t.Errorf("got %q, left %x", got, pending)
	}
	for _, b := range [][]byte{{0, 0}, {8, 1}, {0xff, 0xff, 1}} {
		if _, _, err := NextFrame(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("length %x: %v", b, err)
		}
	}
	if p, _, err := NextFrame([]byte{8, 0}); p != nil || err != nil {
		t.Errorf("the longest frame, incomplete: %x, %v", p, err)
	}
}
