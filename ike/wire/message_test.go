package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

// gcmCipher is AES-GCM as RFC 5282 uses it: an 8-octet IV, one octet of pad
// length, a 16-octet ICV.
type gcmCipher struct {
	aead cipher.AEAD
	salt []byte
	next uint64
}

func newGCM(t testing.TB, key byte) *gcmCipher {
	t.Helper()
	return gcmWithSalt(t, slices.Repeat([]byte{key}, 16), []byte("salt"))
}

func gcmWithSalt(t testing.TB, key, salt []byte) *gcmCipher {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return &gcmCipher{aead: aead, salt: salt}
}

func (c *gcmCipher) SealedLen(n int) int { return 8 + n + 1 + 16 }

func (c *gcmCipher) nonce(iv []byte) []byte { return append(slices.Clone(c.salt), iv...) }

func (c *gcmCipher) Seal(message, plain []byte) ([]byte, error) {
	c.next++
	iv := binary.BigEndian.AppendUint64(nil, c.next)
	out := append(slices.Clone(message), iv...)
	return c.aead.Seal(out, c.nonce(iv), append(slices.Clone(plain), 0), message), nil
}

func (c *gcmCipher) Open(message []byte, offset int) ([]byte, error) {
	if len(message)-offset < 8+1+16 {
		return nil, errors.New("too short")
	}
	iv := message[offset : offset+8]
	plain, err := c.aead.Open(nil, c.nonce(iv), message[offset+8:], message[:offset])
	if err != nil {
		return nil, err
	}
	return plain[:len(plain)-1], nil
}

func prefix(s string) ipsec.TrafficSelector {
	return ipsec.SelectorFromPrefix(netip.MustParsePrefix(s))
}

// everyPayload has one payload of each type, with each variant of coding.
func everyPayload() []Payload {
	opaque := prefix("2001:db8::/64")
	opaque.Protocol, opaque.StartPort, opaque.EndPort = 6, 65535, 0
	return []Payload{
		&SA{Proposals: []ipsec.Proposal{
			{Number: 1, Protocol: ipsec.ProtocolIKE, SPI: []byte("8 octets"), Transforms: []ipsec.Transform{
				ipsec.Encryption(ipsec.EncryptionAESGCM16, 256), ipsec.PRF(ipsec.PRFHMACSHA2256),
				ipsec.Group(ipsec.GroupECP256), ipsec.Group(ipsec.GroupMODP2048),
			}},
			{Number: 2, Protocol: ipsec.ProtocolESP, SPI: []byte{1, 2, 3, 4}, Transforms: []ipsec.Transform{
				ipsec.Encryption(ipsec.EncryptionAESCBC, 128), ipsec.Integrity(ipsec.IntegrityHMACSHA2256128), ipsec.ESN(false),
			}},
		}},
		&KE{Group: ipsec.GroupECP256, Data: slices.Repeat([]byte{7}, 64)},
		&ID{IDType: IDFQDN, Data: []byte("gw.example.org")},
		&ID{Responder: true, IDType: IDIPv4Addr, Data: []byte{192, 0, 2, 1}},
		&Cert{Encoding: 4, Data: []byte{0x30, 0}},
		&CertReq{Encoding: 4, Authorities: slices.Repeat([]byte{9}, 20)},
		&Auth{Method: AuthSharedKey, Data: slices.Repeat([]byte{5}, 32)},
		&Nonce{Data: slices.Repeat([]byte{6}, 32)},
		&Notify{NotifyType: Cookie, Data: []byte("cookie")},
		&Notify{Protocol: ipsec.ProtocolESP, SPI: []byte{1, 2, 3, 4}, NotifyType: RekeySA},
		&Delete{Protocol: ipsec.ProtocolIKE},
		&Delete{Protocol: ipsec.ProtocolESP, SPIs: []ipsec.SPI{256, 0xfffffffe}},
		&VendorID{Data: []byte("vendor")},
		&VendorID{},
		&TS{Selectors: []ipsec.TrafficSelector{prefix("10.0.0.0/8"), opaque}},
		&TS{Responder: true, Selectors: []ipsec.TrafficSelector{prefix("0.0.0.0/0")}},
		&Config{ConfigType: ConfigRequest, Attributes: []ConfigAttribute{{Type: 1}, {Type: 13, Value: []byte{10, 0, 0, 0, 255, 0, 0, 0}}}},
		&EAP{Message: []byte{1, 2, 0, 5, 1}},
		&Unknown{PayloadType: 200, Body: []byte("later")},
	}
}

func exampleMessage() *Message {
	return &Message{
		Header: Header{
			InitiatorSPI: 0x1122334455667788, ResponderSPI: 0x99aabbccddeeff00,
			Exchange: IKEAuth, Initiator: true, MessageID: 1,
		},
		Payloads: everyPayload(),
	}
}

func TestAppendParseRoundTrip(t *testing.T) {
	m := exampleMessage()
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Payloads, m.Payloads) {
		t.Errorf("got  %v\nwant %v", got.Payloads, m.Payloads)
	}
	want := m.Header
	want.MajorVersion, want.NextPayload, want.Length = 2, TypeSA, uint32(len(b))
	if got.Header != want {
		t.Errorf("header: got %+v, want %+v", got.Header, want)
	}
	if got.Encrypted() || got.Authenticated() {
		t.Error("a message in the clear says it is protected")
	}
	for i := range b {
		b[i] = 0xff
	}
	if !reflect.DeepEqual(got.Payloads, m.Payloads) {
		t.Error("a payload aliases the datagram")
	}
}

func TestSealOpenRoundTrip(t *testing.T) {
	for _, payloads := range [][]Payload{everyPayload(), nil} {
		m := exampleMessage()
		m.Payloads = payloads
		raw, err := m.Seal(newGCM(t, 1))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Encrypted() || got.Authenticated() || len(got.Payloads) != 0 {
			t.Fatalf("after Parse: %s", got)
		}
		before := slices.Clone(raw)
		if err := got.Open(raw, newGCM(t, 2)); err == nil || got.Authenticated() {
			t.Fatalf("opened with another key: %v", err)
		}
		if err := got.Open(raw, newGCM(t, 1)); err != nil {
			t.Fatal(err)
		}
		if !got.Authenticated() || !reflect.DeepEqual(got.Payloads, payloads) {
			t.Errorf("got %v", got.Payloads)
		}
		if !slices.Equal(raw, before) {
			t.Error("Open changed the datagram")
		}
		if err := got.Open(raw, newGCM(t, 1)); err == nil {
			t.Error("opened twice")
		}
	}
}

func TestOpenRefusesEveryFlippedBit(t *testing.T) {
	m := exampleMessage()
	m.Payloads = []Payload{&Delete{Protocol: ipsec.ProtocolIKE}}
	raw, err := m.Seal(newGCM(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 * len(raw) {
		flipped := slices.Clone(raw)
		flipped[i/8] ^= 1 << (i % 8)
		got, err := Parse(flipped)
		if err != nil {
			continue
		}
		if err := got.Open(flipped, newGCM(t, 1)); err == nil || got.Authenticated() {
			t.Fatalf("bit %d of octet %d is not protected", i%8, i/8)
		}
	}
}

func TestOpenTellsAuthenticSyntaxErrors(t *testing.T) {
	c := newGCM(t, 1)
	tests := []struct {
		name    string
		first   PayloadType
		plain   []byte
		notify  NotifyType
		payload PayloadType
	}{
		{"short payload", TypeNonce, []byte{0, 0, 0, 5, 1}, InvalidSyntax, TypeNonce},
		{"critical", 200, []byte{0, 0x80, 0, 4}, UnsupportedCriticalPayload, 200},
		{"nested", TypeEncrypted, []byte{0, 0, 0, 4}, InvalidSyntax, TypeEncrypted},
		{"trailing", TypeVendorID, []byte{0, 0, 0, 4, 0}, InvalidSyntax, NoNextPayload},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			raw, err := exampleMessage().protect(c, envelope{kind: TypeEncrypted, first: tt.first}, tt.plain)
			if err != nil {
				t.Fatal(err)
			}
			m, err := Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			var e *Error
			if err := m.Open(raw, c); !errors.As(err, &e) || e.Notify != tt.notify || e.Payload != tt.payload {
				t.Errorf("got %v", err)
			}
			if !m.Authenticated() {
				t.Error("not authenticated")
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	// change edits a datagram with two vendor id payloads of 8 octets each.
	tests := []struct {
		name    string
		change  func(b []byte) []byte
		notify  NotifyType
		payload PayloadType
		want    string
	}{
		{"no header", func(b []byte) []byte { return b[:27] }, 0, 0, "no IKE header"},
		{"length", func(b []byte) []byte { return b[:40] }, 0, 0, "length 44 in a datagram of 40"},
		{"trailing", func(b []byte) []byte { return append(b, 0) }, 0, 0, "length 44 in a datagram of 45"},
		{"version 1", func(b []byte) []byte { b[17] = 0x10; return b }, 0, 0, "major version 1"},
		{"version 3", func(b []byte) []byte { b[17] = 0x30; return b }, InvalidMajorVersion, 0, "major version 3"},
		{"payload short", func(b []byte) []byte { b[31] = 3; return b }, InvalidSyntax, TypeVendorID, "length 3"},
		{"payload long", func(b []byte) []byte { b[39] = 9; return b }, InvalidSyntax, TypeVendorID, "length 9 with 8"},
		{"chain past the end", func(b []byte) []byte { b[36] = 43; return b }, InvalidSyntax, TypeVendorID, "0 octets are no payload"},
		{"chain before the end", func(b []byte) []byte { b[28] = 0; return b }, InvalidSyntax, 0, "8 trailing octets"},
		{"critical", func(b []byte) []byte { b[16], b[29] = 1, 0x80; return b }, UnsupportedCriticalPayload, 1, "critical"},
		{"SK not last", func(b []byte) []byte { b[16] = 46; return b }, InvalidSyntax, TypeEncrypted, "not the last"},
		{"fragment 0", func(b []byte) []byte { b[28] = 53; b[43] = 1; return b }, InvalidSyntax, TypeEncryptedFr, "fragment 0 of"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := exampleMessage()
			m.Payloads = []Payload{&VendorID{Data: make([]byte, 4)}, &VendorID{Data: make([]byte, 4)}}
			b, err := m.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse(tt.change(b))
			var e *Error
			if !errors.As(err, &e) || e.Notify != tt.notify || e.Payload != tt.payload || !strings.Contains(e.Reason, tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestUnknownPayloadWithoutCriticalBitIsKept(t *testing.T) {
	m := exampleMessage()
	m.Payloads = []Payload{&Unknown{PayloadType: 5, Body: []byte{1}}, &Unknown{PayloadType: 250, Critical: true}}
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Parse(b)
	var e *Error
	if !errors.As(err, &e) || e.Notify != UnsupportedCriticalPayload || e.Payload != 250 {
		t.Errorf("got %v", err)
	}
	m.Payloads = m.Payloads[:1]
	if b, err = m.Append(nil); err != nil {
		t.Fatal(err)
	}
	got, err := Parse(b)
	if err != nil || !reflect.DeepEqual(got.Payloads, m.Payloads) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestPayloadLimit(t *testing.T) {
	m := exampleMessage()
	m.Payloads = slices.Repeat([]Payload{&VendorID{}}, MaxPayloads+1)
	if _, err := m.Append(nil); err == nil {
		t.Error("appended more than the limit")
	}
	m.Payloads = m.Payloads[:MaxPayloads]
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(b); err != nil {
		t.Fatal(err)
	}
	// One more by hand, in front.
	one := append([]byte{byte(TypeVendorID), 0, 0, 4}, b[HeaderLen:]...)
	h := m.Header
	h.MajorVersion, h.NextPayload, h.Length = 2, TypeVendorID, uint32(HeaderLen+len(one))
	if _, err := Parse(append(h.Append(nil), one...)); err == nil {
		t.Error("parsed more than the limit")
	}
}

func TestAppendRefusesWhatDoesNotFit(t *testing.T) {
	m := exampleMessage()
	m.Payloads = []Payload{&VendorID{Data: make([]byte, 65532)}}
	if _, err := m.Append(nil); err == nil {
		t.Error("a payload of 65536 octets")
	}
	m.Payloads = []Payload{&VendorID{Data: make([]byte, 40000)}, &VendorID{Data: make([]byte, 40000)}}
	if _, err := m.Append(nil); err == nil {
		t.Error("a message of 80000 octets")
	}
	if _, err := m.Seal(newGCM(t, 1)); err == nil {
		t.Error("a sealed message of 80000 octets")
	}
}

func TestLookups(t *testing.T) {
	m := exampleMessage()
	if ke, ok := Find[*KE](m); !ok || ke.Group != ipsec.GroupECP256 {
		t.Error("KE not found")
	}
	if n, ok := m.Notify(RekeySA); !ok || n.Protocol != ipsec.ProtocolESP {
		t.Error("REKEY_SA not found")
	}
	if _, ok := m.Notify(InitialContact); ok {
		t.Error("INITIAL_CONTACT found")
	}
	if _, ok := m.ErrorNotify(); ok {
		t.Error("error found")
	}
	if id, ok := m.ID(true); !ok || !id.Responder {
		t.Error("IDr not found")
	}
	if ts, ok := m.TS(true); !ok || !ts.Responder {
		t.Error("TSr not found")
	}
	if n := len(All[*Delete](m)); n != 2 {
		t.Errorf("%d Deletes", n)
	}
	m.Payloads = nil
	if _, ok := m.ID(false); ok {
		t.Error("IDi found in nothing")
	}
}

func TestMessageStringHidesSecrets(t *testing.T) {
	m := exampleMessage()
	got := m.String()
	want := "IKE_AUTH request 1 [SA, KE, IDi, IDr, CERT, CERTREQ, AUTH, Nonce, N(COOKIE), N(REKEY_SA), D(IKE), " +
		"D(ESP 00000100 fffffffe), V, V, TSi, TSr, CP, EAP, payload 200]"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
