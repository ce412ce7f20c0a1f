package wire

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

// TestIntAuthOctets: what AUTH covers of an IKE_INTERMEDIATE message is the same
// at its sender and at its receiver, in one piece and in fragments, and is just
// what RFC 9242, section 3.3.2, says.
func TestIntAuthOctets(t *testing.T) {
	m := &Message{
		Header:   Header{InitiatorSPI: 0x0102030405060708, ResponderSPI: 0x1112131415161718, Exchange: IKEIntermediate, Initiator: true, MessageID: 1},
		Payloads: []Payload{&KE{Group: ipsec.GroupMLKEM768, Data: bytes.Repeat([]byte{7}, 1184)}},
	}
	sent, err := m.IntAuthOctets()
	if err != nil {
		t.Fatal(err)
	}
	// Next payload SK, length 1224; SK: next payload KE, length 1196; KE: length
	// 1192, method 36.
	want := "01020304050607081112131415161718" + "2e202b08" + "00000001" + "000004c8" + "220004ac" + "000004a8" + "00240000" + hex.EncodeToString(bytes.Repeat([]byte{7}, 1184))
	if got := hex.EncodeToString(sent); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, limit := range []int{2000, 600} {
		datagrams, err := m.SealFragments(newGCM(t, 1), limit)
		if err != nil {
			t.Fatal(err)
		}
		var whole *Message
		var r Reassembler
		for i := range datagrams { // the last one first
			b := datagrams[len(datagrams)-1-i]
			got, err := Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			if len(datagrams) == 1 {
				whole, err = got, got.Open(b, newGCM(t, 1))
			} else {
				whole, err = r.Add(b, got, newGCM(t, 1))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		received, err := whole.IntAuthOctets()
		if err != nil || !bytes.Equal(received, sent) {
			t.Errorf("%d fragments: %x, %v", len(datagrams), received, err)
		}
	}
	m.Exchange = Informational
	if _, err := m.IntAuthOctets(); err == nil {
		t.Error("another exchange has them, too")
	}
}
