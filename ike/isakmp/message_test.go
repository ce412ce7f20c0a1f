package isakmp

import (
	"bytes"
	"crypto/md5"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
	"github.com/vpngw/vpngw/ipsec"
)

// everyPayload is one value of each payload that can be written.
func everyPayload() []Payload {
	nonce := bytes.Repeat([]byte{7}, 16)
	return []Payload{
		&SA{Proposals: []Proposal{
			{Number: 1, Protocol: ipsec.ProtocolIKE, Transforms: []Transform{
				{Number: 1, ID: 1, Attributes: []Attribute{Number(Phase1Encryption, 7), Number(Phase1KeyLength, 256), Number(Phase1LifeDuration, 86400)}},
				{Number: 2, ID: 1, Attributes: []Attribute{Number(Phase1Encryption, 5)}},
			}},
			{Number: 2, Protocol: ipsec.ProtocolESP, SPI: []byte{1, 2, 3, 4}, Transforms: []Transform{{Number: 1, ID: 12}}},
		}},
		&KE{Data: []byte{1, 2, 3}}, &Nonce{Data: nonce}, &Hash{Data: []byte{9}},
		&ID{IDType: IDFQDN, Protocol: 17, Port: 500, Data: []byte("gw.example")},
		&Notify{Protocol: ipsec.ProtocolIKE, SPI: make([]byte, 16), NotifyType: RUThere, Data: []byte{0, 0, 0, 1}},
		&Delete{Protocol: ipsec.ProtocolESP, SPIs: [][]byte{{1, 2, 3, 4}, {5, 6, 7, 8}}},
		&Delete{Protocol: ipsec.ProtocolIKE, SPIs: [][]byte{make([]byte, 16)}},
		&VendorID{Data: VendorNATT.Data}, &NATD{Data: nonce}, &NATD{Draft: true, Data: nonce}, &NATOA{Data: nonce},
		&Fragment{ID: 7, Number: 2, Last: true, Data: []byte("piece")},
		&Cert{Encoding: CertX509KeyExchange, Data: []byte("certificate")}, &Signature{Data: []byte{5}}, &SymmetricKey{Data: []byte{6}},
		&Unknown{PayloadType: 200, Body: []byte("?")},
	}
}

func TestPayloadRoundTrip(t *testing.T) {
	for _, p := range everyPayload() {
		checkStable(t, p)
	}
}

// checkStable asserts that what a payload is written as reads as itself.
func checkStable(t *testing.T, p Payload) {
	t.Helper()
	b, err := p.appendBody(nil)
	if err != nil {
		t.Fatalf("%s: %v", p.Type(), err)
	}
	again, e := parsePayload(p.Type(), b)
	if e != nil {
		t.Fatalf("%s: written but not parsed: %v", p.Type(), e)
	}
	for _, each := range []Payload{p, again} {
		if sa, ok := each.(*SA); ok {
			sa.Raw = nil
		}
	}
	if !reflect.DeepEqual(again, p) {
		t.Fatalf("got %+v, want %+v", again, p)
	}
}

func TestMessage(t *testing.T) {
	var list []Payload
	for _, p := range everyPayload() {
		if _, fragment := p.(*Fragment); !fragment {
			list = append(list, p)
		}
	}
	m := Message{Header: Header{InitiatorSPI: 1, ResponderSPI: 2, Exchange: QuickMode, Minor: 1, MessageID: 3}, Payloads: list}
	flip := func(b []byte) {
		for i := range b {
			b[i] ^= 0x55
		}
	}
	for name, encrypt := range map[string]func([]byte){"clear": nil, "encrypted": flip} {
		b, err := m.Encode(16, encrypt)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if encrypt != nil {
			if got.Payloads != nil || len(got.Ciphertext())%16 != 0 {
				t.Fatalf("%s: %d payloads, %d octets", name, len(got.Payloads), len(got.Ciphertext()))
			}
			plain := bytes.Clone(got.Ciphertext())
			flip(plain)
			if err := got.Open(plain); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if len(got.Payloads) != len(list) || got.InitiatorSPI != 1 || got.ResponderSPI != 2 || got.MessageID != 3 || got.Minor != 1 {
			t.Errorf("%s: got %s", name, got)
		}
		chain, err := Chain(list, NoNextPayload)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.chain, chain) {
			t.Errorf("%s: the chain differs", name)
		}
		pieces := Pieces(chain)
		if len(pieces) != len(list) || !bytes.Equal(bytes.Join(pieces, nil), chain) {
			t.Errorf("%s: %d pieces of %d payloads", name, len(pieces), len(list))
		}
	}
}

// libreswan pads messages in the clear to a multiple of four octets.
func TestPaddingInTheClear(t *testing.T) {
	m := Message{Header: Header{InitiatorSPI: 1, Exchange: Aggressive}, Payloads: []Payload{&Nonce{Data: make([]byte, 17)}}}
	b, err := m.Encode(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	padded := append(b, 0, 0, 0)
	padded[27] += 3
	got, err := Parse(padded)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Payloads) != 1 || len(got.Payloads[0].(*Nonce).Data) != 17 || len(got.chain) != 21 {
		t.Errorf("got %s", got)
	}
}

// The hash covers the other payloads wherever it stands (RFC 3706 leaves the
// order open).
func TestSigned(t *testing.T) {
	hash, notify, nonce := &Hash{Data: []byte{1}}, &Notify{NotifyType: RUThere}, &Nonce{Data: make([]byte, 16)}
	for _, tc := range []struct {
		order []Payload
		parts [][]Payload
		after []PayloadType
	}{
		{[]Payload{hash, notify, nonce}, [][]Payload{{notify, nonce}}, []PayloadType{NoNextPayload}},
		{[]Payload{notify, hash}, [][]Payload{{notify}}, []PayloadType{TypeHash}},
		{[]Payload{notify, hash, nonce}, [][]Payload{{notify}, {nonce}}, []PayloadType{TypeHash, NoNextPayload}},
	} {
		m := Message{Header: Header{InitiatorSPI: 1}, Payloads: tc.order}
		b, err := m.Encode(0, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		var want []byte
		for i, part := range tc.parts {
			chain, err := Chain(part, tc.after[i])
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, chain...)
		}
		if !bytes.Equal(got.Signed(false), want) {
			t.Errorf("%s: covers %x, want %x", got, got.Signed(false), want)
		}
	}
}

func TestMalformed(t *testing.T) {
	valid := func(list ...Payload) []byte {
		m := Message{Header: Header{InitiatorSPI: 1, Exchange: IdentityProtection}, Payloads: list}
		b, err := m.Encode(0, nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	edit := func(b []byte, change func([]byte)) []byte {
		b = bytes.Clone(b)
		change(b)
		return b
	}
	nonce := valid(&Nonce{Data: make([]byte, 16)})
	sa := valid(everyPayload()[0])
	body := HeaderLen + payloadHeaderLen
	for name, tc := range map[string]struct {
		b    []byte
		want string
	}{
		"no header":         {make([]byte, 27), "no ISAKMP header"},
		"version 2":         {edit(nonce, func(b []byte) { b[17] = 0x20 }), "major version 2"},
		"length":            {edit(nonce, func(b []byte) { b[27]++ }), "length 49"},
		"payload length":    {edit(nonce, func(b []byte) { b[HeaderLen+3]++ }), "length 21 with 20"},
		"zero length":       {edit(nonce, func(b []byte) { b[HeaderLen+3] = 0 }), "length 0"},
		"trailing octets":   {edit(append(bytes.Clone(nonce), 0, 0, 1), func(b []byte) { b[27] += 3 }), "3 trailing"},
		"a word of padding": {edit(append(bytes.Clone(nonce), 0, 0, 0, 0), func(b []byte) { b[27] += 4 }), "4 trailing"},
		"short nonce":       {valid(&Unknown{TypeNonce, make([]byte, 7)}), "nonce of 7"},
		"two nonces":        {valid(&Nonce{make([]byte, 8)}, &Nonce{make([]byte, 8)}), "occurs 2 times"},
		"empty hash":        {valid(&Unknown{TypeHash, nil}), "no hash"},
		"empty KE":          {valid(&Unknown{TypeKE, nil}), "no public value"},
		"DOI":               {edit(sa, func(b []byte) { b[body+3] = 2 }), "DOI 2"},
		"situation":         {edit(sa, func(b []byte) { b[body+7] = 2 }), "situation 0x2"},
		"proposal length":   {edit(sa, func(b []byte) { b[body+11] = 3 }), "needs -1 octets"},
		"substructure":      {edit(sa, func(b []byte) { b[body+8] = 5 }), "substructure 5"},
		"transforms":        {edit(sa, func(b []byte) { b[body+15] = 0 }), "without transforms"},
		"ESP SPI":           {valid(&SA{Proposals: []Proposal{{Protocol: ipsec.ProtocolESP, Transforms: make([]Transform, 1)}}}), "SPI of 0 octets"},
		"Delete, protocol":  {valid(&Unknown{TypeDelete, []byte{0, 0, 0, 1, 9, 4, 0, 0}}), "SA of protocol 9"},
		"Delete, size":      {valid(&Unknown{TypeDelete, []byte{0, 0, 0, 1, 3, 8, 0, 0}}), "SPI of 8 octets"},
		"Delete, count":     {valid(&Unknown{TypeDelete, []byte{0, 0, 0, 1, 3, 4, 255, 255}}), "deletion of 65535"},
		"Delete, short":     {valid(&Unknown{TypeDelete, []byte{0, 0, 0, 1, 3, 4, 0, 1}}), "SPI needs 4"},
		"Notify, SPI":       {valid(&Unknown{TypeNotify, []byte{0, 0, 0, 1, 1, 16, 0, 1}}), "SPI needs 16"},
		"fragment 0":        {valid(&Unknown{TypeFragment, []byte{0, 1, 0, 0, 1}}), "fragment number 0"},
		"empty fragment":    {valid(&Unknown{TypeFragment, []byte{0, 1, 1, 0}}), "no fragment data"},
	} {
		_, err := Parse(tc.b)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want %q", name, err, tc.want)
		}
	}
	many := make([]Payload, MaxPayloads+1)
	for i := range many {
		many[i] = &VendorID{}
	}
	if _, err := Chain(many, 0); err == nil {
		t.Error("too many payloads are written")
	}
}

// Vendor ids are MD5 sums of texts that their inventors chose.
func TestVendorIDs(t *testing.T) {
	for text, v := range map[string]VendorID{
		"RFC 3947":                        VendorNATT,
		"draft-ietf-ipsec-nat-t-ike-03":   VendorNATTDraft03,
		"draft-ietf-ipsec-nat-t-ike-02":   VendorNATTDraft02,
		"draft-ietf-ipsec-nat-t-ike-02\n": VendorNATTDraft02n,
		"FRAGMENTATION":                   {Data: VendorFragmentation.Data[:16]},
	} {
		if sum := md5.Sum([]byte(text)); !bytes.Equal(v.Data, sum[:]) {
			t.Errorf("%q: %x, want %x", text, v.Data, sum)
		}
	}
	m := Message{Payloads: []Payload{&VendorID{VendorFragmentation.Data[:16]}, &VendorID{append(bytes.Clone(VendorDPD.Data[:14]), 1, 7)}}}
	if !m.Says(&VendorFragmentation) || !m.Says(&VendorDPD) || m.Says(&VendorNATT) {
		t.Error("vendor ids are not recognised")
	}
}

func TestSelector(t *testing.T) {
	whole := func(s string) ipsec.TrafficSelector { return ipsec.SelectorFromPrefix(netip.MustParsePrefix(s)) }
	ranged := whole("10.0.0.0/24")
	ranged.End = netip.MustParseAddr("10.0.0.99")
	port := whole("10.0.0.1/32")
	port.Protocol, port.StartPort, port.EndPort = 6, 443, 443
	for _, tc := range []struct {
		ts   ipsec.TrafficSelector
		want IDType
	}{
		{whole("10.1.0.0/16"), IDIPv4AddrSubnet},
		{whole("0.0.0.0/0"), IDIPv4AddrSubnet},
		{whole("10.1.2.3/32"), IDIPv4Addr},
		{ranged, IDIPv4AddrRange},
		{port, IDIPv4Addr},
		{whole("2001:db8::/33"), IDIPv6AddrSubnet},
		{whole("2001:db8::1/128"), IDIPv6Addr},
		{whole("::/0"), IDIPv6AddrSubnet},
	} {
		id, err := SelectorID(tc.ts)
		if err != nil {
			t.Fatal(err)
		}
		got, err := id.Selector()
		if err != nil || got != tc.ts || id.IDType != tc.want {
			t.Errorf("%s: type %d, back %s, %v", tc.ts, id.IDType, got, err)
		}
	}
	ports := whole("10.0.0.0/8")
	ports.StartPort = 80
	if _, err := SelectorID(ports); err == nil {
		t.Error("a range of ports has a notation")
	}
	for name, id := range map[string]*ID{
		"name":   {IDType: IDFQDN, Data: []byte("x")},
		"short":  {IDType: IDIPv4AddrSubnet, Data: make([]byte, 7)},
		"mask":   {IDType: IDIPv4AddrSubnet, Data: []byte{10, 0, 0, 0, 255, 0, 255, 0}},
		"range":  {IDType: IDIPv4AddrRange, Data: []byte{10, 0, 0, 9, 10, 0, 0, 1}},
		"length": {IDType: IDIPv6Addr, Data: make([]byte, 4)},
	} {
		if ts, err := id.Selector(); err == nil {
			t.Errorf("%s: %s", name, ts)
		}
	}
}

func TestFragments(t *testing.T) {
	m := Message{Header: Header{InitiatorSPI: 1, ResponderSPI: 2, Exchange: IdentityProtection}, Payloads: []Payload{&KE{Data: bytes.Repeat([]byte("octets"), 300)}}}
	whole, err := m.Encode(16, func([]byte) {})
	if err != nil {
		t.Fatal(err)
	}
	list, err := Fragments(whole, 3, 500)
	if err != nil || len(list) != 4 {
		t.Fatalf("%d fragments, %v", len(list), err)
	}
	read := func(i int) *Fragment {
		p, err := Parse(list[i])
		if err != nil || len(list[i]) > 500 || p.InitiatorSPI != 1 || p.ResponderSPI != 2 {
			t.Fatalf("%d octets, %v, %v", len(list[i]), p, err)
		}
		f, ok := Find[*Fragment](p)
		if !ok {
			t.Fatal("no fragment payload")
		}
		return f
	}
	var r Reassembler
	for _, i := range []int{3, 0, 0, 2} {
		if got, err := r.Add(read(i)); got != nil || err != nil {
			t.Fatalf("fragment %d: %x, %v", i, got, err)
		}
	}
	got, err := r.Add(read(1))
	if err != nil || !bytes.Equal(got, whole) {
		t.Fatalf("got %x, %v", got, err)
	}
	if r.Pending() {
		t.Error("the message is still incomplete")
	}
	// A new id starts anew; what does not fit is refused.
	other := read(0)
	other.ID = 9
	_, _ = r.Add(read(1))
	if got, err := r.Add(other); got != nil || err != nil || r.present != 1 {
		t.Errorf("got %x, %v, %d pieces", got, err, r.present)
	}
	// So does a piece that differs from what came for it: what somebody has made up
	// spoils one repetition of a message at most.
	r.Reset()
	forged := *read(2)
	forged.Data = []byte("made up")
	_, _ = r.Add(&forged)
	for range 2 {
		for i := range list {
			if got, err = r.Add(read(i)); err != nil {
				t.Fatal(err)
			}
			if got != nil {
				break
			}
		}
	}
	if !bytes.Equal(got, whole) {
		t.Errorf("with a forged piece ahead of it: got %x", got)
	}
	// What is kept is a piece, not the datagram that it came in.
	r.Reset()
	b := bytes.Clone(list[0])
	p, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	f, _ := Find[*Fragment](p)
	_, _ = r.Add(f)
	clear(b)
	if !bytes.Equal(r.pieces[0], read(0).Data) {
		t.Error("the datagram of a piece is kept")
	}
	r.Reset()
	for _, f := range []*Fragment{{ID: 1, Number: 2, Last: true, Data: []byte{1}}, {ID: 1, Number: 3, Data: []byte{1}}} {
		_, err = r.Add(f)
	}
	if err == nil || r.Pending() {
		t.Error("a fragment beyond the last one is taken")
	}
	big := make([]byte, MaxReassembled/2+1)
	for n := range 2 {
		_, err = r.Add(&Fragment{ID: 1, Number: uint8(n + 1), Data: big})
	}
	if err == nil || r.Pending() {
		t.Error("a message too large is taken")
	}
}

func FuzzMessage(f *testing.F) {
	target := fuzztest.New(f)
	for _, p := range everyPayload() {
		m := Message{Header: Header{InitiatorSPI: 1, Exchange: QuickMode}, Payloads: []Payload{p}}
		b, err := m.Encode(0, nil)
		if err != nil {
			f.Fatal(err)
		}
		target.Add(b)
	}
	target.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err == nil && m.Encrypted {
			err = m.Open(m.Ciphertext())
		}
		if err != nil {
			return
		}
		_ = m.String()
		_ = m.Signed(true)
		for _, p := range m.Payloads {
			checkStable(t, p)
			if id, ok := p.(*ID); ok {
				if ts, err := id.Selector(); err == nil && !ts.Valid() {
					t.Errorf("selector %s", ts)
				}
			}
		}
	})
}

func FuzzReassembler(f *testing.F) {
	target := fuzztest.New(f)
	target.Add([]byte{1, 1, 0, 'a', 1, 2, 1, 'b'})
	target.Fuzz(func(t *testing.T, b []byte) {
		var r Reassembler
		for ; len(b) >= 4; b = b[4:] {
			whole, err := r.Add(&Fragment{ID: uint16(b[0] % 2), Number: b[1], Last: b[2]%2 == 1, Data: b[3:4]})
			if err != nil && r.Pending() || len(whole) > MaxFragments {
				t.Fatalf("%d octets, %v", len(whole), err)
			}
		}
	})
}
