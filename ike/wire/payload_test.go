package wire

import (
	"encoding/hex"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPayloadBodies(t *testing.T) {
	tests := []struct {
		name string
		t    PayloadType
		body string
		want Payload
		// again is what the payload is written as, when that is not body.
		again string
	}{
		{
			"SA", TypeSA,
			"0000002c 01 01 00 04  0300000c 01 00 000c 800e 0080  03000008 02 00 0005" +
				"03000008 03 00 000c  00000008 04 00 000e",
			&SA{Proposals: []ipsec.Proposal{{Number: 1, Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
				ipsec.Encryption(ipsec.EncryptionAESCBC, 128), ipsec.PRF(ipsec.PRFHMACSHA2256),
				ipsec.Integrity(ipsec.IntegrityHMACSHA2256128), ipsec.Group(ipsec.GroupMODP2048),
			}}}}, "",
		},
		{
			"SA, reserved octets set", TypeSA, "00ff0010 01 01 00 01  00ff0008 04 ff 000e",
			&SA{Proposals: []ipsec.Proposal{{Number: 1, Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
				ipsec.Group(ipsec.GroupMODP2048),
			}}}}, "00000010 01 01 00 01  00000008 04 00 000e",
		},
		{
			"SA, one transform with an unknown attribute", TypeSA,
			"0000001c 01 01 00 02  0300000c 04 00 000e 8011 0001  00000008 04 00 0013",
			&SA{Proposals: []ipsec.Proposal{{Number: 1, Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
				ipsec.Group(ipsec.GroupECP256),
			}}}}, "00000010 01 01 00 01  00000008 04 00 0013",
		},
		{
			"SA, the only ESN transform has an unknown attribute", TypeSA,
			"00000024 01 03 04 02 c0ffee00  0300000c 01 00 0014 800e 0100  0000000c 05 00 0001 8011 0001",
			&SA{}, "-",
		},
		{
			"SA, key length as TLV", TypeSA,
			"00000016 01 01 00 01  0000000e 01 00 000c 000e 0002 0080", &SA{}, "-",
		},
		{"KE", TypeKE, "001f 0000 0102", &KE{Group: ipsec.GroupCurve25519, Data: []byte{1, 2}}, ""},
		{
			"ID", TypeIDi, "01 000000 c0000201",
			&ID{IDType: IDIPv4Addr, Data: []byte{192, 0, 2, 1}}, "",
		},
		{
			"ID, reserved octets set", TypeIDr, "02 010203 6767",
			&ID{Responder: true, IDType: IDFQDN, Data: []byte("gg"), reserved: [3]byte{1, 2, 3}}, "02 000000 6767",
		},
		{"empty key id", TypeIDi, "0b 000000", &ID{IDType: IDKeyID}, ""},
		{"notify", TypeNotify, "00 00 4004 aabb", &Notify{NotifyType: NATDetectionSourceIP, Data: []byte{0xaa, 0xbb}}, ""},
		{
			"notify with protocol and no SPI", TypeNotify, "03 00 000e",
			&Notify{NotifyType: NoProposalChosen}, "00 00 000e",
		},
		{
			"notify with SPI", TypeNotify, "03 04 4009 01020304",
			&Notify{Protocol: ipsec.ProtocolESP, SPI: []byte{1, 2, 3, 4}, NotifyType: RekeySA}, "",
		},
		{"delete IKE", TypeDelete, "01 00 0000", &Delete{Protocol: ipsec.ProtocolIKE}, ""},
		{"delete AH", TypeDelete, "02 04 0001 00000100", &Delete{Protocol: ipsec.ProtocolAH, SPIs: []ipsec.SPI{256}}, ""},
		{"delete nothing", TypeDelete, "03 04 0000", &Delete{Protocol: ipsec.ProtocolESP}, ""},
		{
			"TS", TypeTSi, "02 000000 07 00 0010 0000 ffff 0a000000 0a0000ff 07 06 0010 01bb 01bb 0a010000 0a010000",
			&TS{Selectors: []ipsec.TrafficSelector{prefix("10.0.0.0/24"), func() ipsec.TrafficSelector {
				s := prefix("10.1.0.0/32")
				s.Protocol, s.StartPort, s.EndPort = 6, 443, 443
				return s
			}()}}, "",
		},
		{
			"TS of an unknown type left out", TypeTSr, "02 000000 0a 00 0008 00000000 07 00 0010 0000 ffff 00000000 ffffffff",
			&TS{Responder: true, Selectors: []ipsec.TrafficSelector{prefix("0.0.0.0/0")}},
			"01 000000 07 00 0010 0000 ffff 00000000 ffffffff",
		},
		{"TS of an unknown type alone", TypeTSr, "01 000000 0a 00 0008 00000000", &TS{Responder: true}, "-"},
		{
			"config, reserved bit set", TypeConfig, "01 000000 8001 0000",
			&Config{ConfigType: ConfigRequest, Attributes: []ConfigAttribute{{Type: 1}}}, "01 000000 0001 0000",
		},
		{"vendor id", TypeVendorID, "", &VendorID{}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parsePayload(tt.t, false, unhex(t, tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
			b, appendErr := got.appendBody(nil)
			if tt.again == "-" {
				if appendErr == nil {
					t.Errorf("written as %x, want a refusal", b)
				}
				return
			}
			want := unhex(t, tt.body)
			if tt.again != "" {
				want = unhex(t, tt.again)
			}
			if appendErr != nil || !slices.Equal(b, want) {
				t.Errorf("written as %x, %v, want %x", b, appendErr, want)
			}
		})
	}
}

func TestPayloadBodiesRefused(t *testing.T) {
	tests := []struct {
		name string
		t    PayloadType
		body string
		want string
	}{
		{"SA empty", TypeSA, "", "needs 1 octets"},
		{"SA, length of proposal too small", TypeSA, "00000003", "needs -1 octets"},
		{"SA, proposal past the end", TypeSA, "00000011 01 01 00 01  00000008 04 00 000e", "needs 13 octets, 12"},
		{"SA, wrong substructure", TypeSA, "03000010 01 01 00 01  00000008 04 00 000e", "substructure 3"},
		{"SA, more announced than there", TypeSA, "02000010 01 01 00 01  00000008 04 00 000e", "needs 1 octets"},
		{"SA, octets after the last", TypeSA, "00000010 01 01 00 01  00000008 04 00 000e 00", "1 trailing"},
		{"SA, no transforms", TypeSA, "00000008 01 01 00 00", "without transforms"},
		{"SA, fewer transforms than counted", TypeSA, "00000010 01 01 00 02  03000008 04 00 000e", "needs 1 octets"},
		{"SA, more transforms than counted", TypeSA, "00000018 01 01 00 01  00000008 04 00 000e 00000008 04 00 000e", "8 trailing"},
		{"SA, transform list cut", TypeSA, "00000010 01 01 00 01  03000008 04 00 000e", "followed by substructure 3"},
		{"SA, attribute cut", TypeSA, "00000012 01 01 00 01  0000000a 04 00 000e 800e", "needs 2 octets"},
		{"SA, attribute value past the end", TypeSA, "00000014 01 01 00 01  0000000c 04 00 000e 000e 0001", "needs 1 octets"},
		{
			"SA, attributes without end", TypeSA, "00000024 01 01 00 01  0000001c 04 00 000e" +
				"8001 0000 8001 0000 8001 0000 8001 0000 8001 0000", "more than 4 attributes",
		},
		{"SA, IKE SPI of 4", TypeSA, "00000014 01 01 04 01 00000100 00000008 04 00 000e", "SPI of 4 octets"},
		{"SA, ESP without SPI", TypeSA, "00000010 01 03 00 01 00000008 05 00 0000", "SPI of 0 octets"},
		{"KE short", TypeKE, "0013", "needs 2 octets"},
		{"KE empty", TypeKE, "00130000", "no key exchange data"},
		{"ID short", TypeIDi, "0100", "needs 3 octets"},
		{"ID, address of 3", TypeIDi, "01 000000 0a0000", "identity of 3 octets"},
		{"ID, IPv6 address of 4", TypeIDi, "05 000000 0a000001", "identity of 4 octets"},
		{"auth empty", TypeAuth, "02000000", "no authentication data"},
		{"nonce of 15", TypeNonce, strings.Repeat("00", 15), "nonce of 15"},
		{"nonce of 257", TypeNonce, strings.Repeat("00", 257), "nonce of 257"},
		{"notify short", TypeNotify, "0000", "needs 2 octets"},
		{"notify, SPI past the end", TypeNotify, "03 04 4009 010203", "needs 4 octets, 3"},
		{"delete IKE with SPI", TypeDelete, "01 08 0001 0000000000000001", "IKE SA with 1 SPIs"},
		{"delete, count", TypeDelete, "03 04 0002 00000100", "needs 4 octets"},
		{"delete, rest", TypeDelete, "03 04 0001 00000100 00", "1 trailing"},
		{"delete, size", TypeDelete, "03 08 0001 0000000000000001", "SPI of 8 octets"},
		{"delete, protocol", TypeDelete, "07 04 0001 00000100", "protocol 7"},
		{"delete, too many", TypeDelete, "03 04 0401" + strings.Repeat("00000100", 1025), "more than 1024"},
		{"TS none", TypeTSi, "00000000", "no selectors"},
		{"TS too many", TypeTSi, "81000000", "more than 128"},
		{"TS rest", TypeTSi, "01000000 07 00 0010 0000 ffff 0a000000 0a0000ff 00", "1 trailing"},
		{"TS, selector long", TypeTSi, "01000000 07 00 0011 0000 ffff 0a000000 0a0000ff 00", "1 trailing"},
		{"TS, selector short", TypeTSi, "01000000 07 00 000f 0000 ffff 0a000000 0a0000", "needs 4 octets"},
		{"TS, selector tiny", TypeTSi, "01000000 07 00 0003 0000 ffff 0a000000 0a0000ff", "needs -1"},
		{"TS, empty range", TypeTSi, "01000000 07 00 0010 0000 ffff 0a000001 0a000000", "empty range"},
		{"TS, ports backward", TypeTSi, "01000000 07 06 0010 0002 0001 0a000000 0a000001", "empty range"},
		{"config, value past the end", TypeConfig, "01 000000 0001 0004 0a0000", "needs 4 octets"},
		{"EAP short", TypeEAP, "010200", "EAP message of 3"},
		{"EAP, length", TypeEAP, "01020006 01", "length 6 in 5"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parsePayload(tt.t, false, unhex(t, tt.body))
			if err == nil || err.Notify != InvalidSyntax || !strings.Contains(err.Reason, tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestAppendBodyRefuses(t *testing.T) {
	group := []ipsec.Transform{ipsec.Group(14)}
	tests := []struct {
		name string
		p    Payload
	}{
		{"SA without proposals", &SA{}},
		{"SA with too many", &SA{Proposals: slices.Repeat([]ipsec.Proposal{{Protocol: ipsec.ProtocolIKE, Transforms: group}}, MaxProposals+1)}},
		{"proposal without transforms", &SA{Proposals: []ipsec.Proposal{{Protocol: ipsec.ProtocolIKE}}}},
		{"too many transforms", &SA{Proposals: []ipsec.Proposal{{Protocol: ipsec.ProtocolIKE, Transforms: slices.Repeat(group, MaxTransforms+1)}}}},
		{"ESP without SPI", &SA{Proposals: []ipsec.Proposal{{Protocol: ipsec.ProtocolESP, Transforms: group}}}},
		{"IKE with SPI of 4", &SA{Proposals: []ipsec.Proposal{{Protocol: ipsec.ProtocolIKE, SPI: make([]byte, 4), Transforms: group}}}},
		{"SPI of 256", &SA{Proposals: []ipsec.Proposal{{Protocol: 9, SPI: make([]byte, 256), Transforms: group}}}},
		{"KE without data", &KE{Group: 14}},
		{"address of 5", &ID{IDType: IDIPv4Addr, Data: make([]byte, 5)}},
		{"AUTH without data", &Auth{Method: AuthSharedKey}},
		{"short nonce", &Nonce{Data: make([]byte, 15)}},
		{"long nonce", &Nonce{Data: make([]byte, 257)}},
		{"notify, long SPI", &Notify{Protocol: 3, SPI: make([]byte, 256)}},
		{"notify, protocol without SPI", &Notify{Protocol: 3}},
		{"delete IKE with SPI", &Delete{Protocol: ipsec.ProtocolIKE, SPIs: []ipsec.SPI{1}}},
		{"delete of nothing known", &Delete{}},
		{"delete of many", &Delete{Protocol: ipsec.ProtocolESP, SPIs: make([]ipsec.SPI, MaxDeleteSPIs+1)}},
		{"no selectors", &TS{}},
		{"many selectors", &TS{Selectors: slices.Repeat([]ipsec.TrafficSelector{prefix("0.0.0.0/0")}, MaxSelectors+1)}},
		{"zero selector", &TS{Selectors: make([]ipsec.TrafficSelector, 1)}},
		{"many attributes", &Config{Attributes: make([]ConfigAttribute, MaxConfigAttributes+1)}},
		{"wide attribute type", &Config{Attributes: []ConfigAttribute{{Type: 0x8000}}}},
		{"long attribute", &Config{Attributes: []ConfigAttribute{{Value: make([]byte, 65536)}}}},
		{"EAP of another length", &EAP{Message: []byte{1, 2, 0, 9}}},
		{"unknown of a known type", &Unknown{PayloadType: TypeEncrypted}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if b, err := tt.p.appendBody(nil); err == nil {
				t.Errorf("written as %x", b)
			}
		})
	}
}

func TestProposalNumbersFollowTheirPosition(t *testing.T) {
	p := ipsec.Proposal{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{ipsec.Group(14)}}
	b, err := (&SA{Proposals: []ipsec.Proposal{p, p}}).appendBody(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, e := parsePayload(TypeSA, false, b)
	if e != nil {
		t.Fatal(e)
	}
	for i, p := range got.(*SA).Proposals {
		if int(p.Number) != i+1 {
			t.Errorf("proposal %d has number %d", i+1, p.Number)
		}
	}
}

func TestAuthOctetsKeepReservedField(t *testing.T) {
	body := unhex(t, "02 010203 6767")
	p, err := parsePayload(TypeIDi, false, body)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.(*ID).AuthOctets(); !slices.Equal(got, body) {
		t.Errorf("got %x", got)
	}
}

func TestIDString(t *testing.T) {
	tests := []struct {
		id   ID
		want string
	}{
		{ID{IDType: IDIPv4Addr, Data: []byte{192, 0, 2, 1}}, "IDi(192.0.2.1)"},
		{ID{IDType: IDFQDN, Data: []byte("a\nb"), Responder: true}, `IDr(fqdn a\nb)`},
		{ID{IDType: IDRFC822Addr, Data: []byte("a@b")}, "IDi(email a@b)"},
		{ID{IDType: IDKeyID, Data: []byte{1}}, "IDi(type 11 01)"},
	}
	for _, tt := range tests {
		if got := tt.id.String(); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

func TestStrings(t *testing.T) {
	tests := []struct{ got, want string }{
		{(&SA{Proposals: []ipsec.Proposal{{Number: 1, Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{ipsec.Group(14)}}}}).String(), "SA(1 IKE: MODP-2048 (group 14))"},
		{(&KE{Group: ipsec.GroupECP256}).String(), "KE(ECP-256 (group 19))"},
		{(&TS{Responder: true, Selectors: []ipsec.TrafficSelector{prefix("10.0.0.0/24")}}).String(), "TSr(10.0.0.0/24)"},
		{(&Notify{NotifyType: NoProposalChosen}).String(), "N(NO_PROPOSAL_CHOSEN)"},
		{PayloadType(200).String(), "payload 200"},
		{NotifyType(50000).String(), "notify 50000"},
		{ExchangeType(99).String(), "exchange 99"},
		{(&Header{Exchange: CreateChildSA, Response: true, MessageID: 7}).String(), "CREATE_CHILD_SA response 7"},
		{(&Error{Payload: TypeNonce, Offset: 28, Reason: "short"}).Error(), "Nonce payload at octet 28: short"},
		{(&Error{Offset: 24, Reason: "length"}).Error(), "header at octet 24: length"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}
