package ipsec

import (
	"errors"
	"slices"
	"testing"
)

var (
	cbc128 = Encryption(EncryptionAESCBC, 128)
	cbc256 = Encryption(EncryptionAESCBC, 256)
	gcm128 = Encryption(EncryptionAESGCM16, 128)
	sha1   = Integrity(IntegrityHMACSHA196)
	sha256 = Integrity(IntegrityHMACSHA2256128)
)

func esp(spi byte, transforms ...Transform) Proposal {
	return Proposal{Number: spi, Protocol: ProtocolESP, SPI: []byte{1, 2, 3, spi}, Transforms: transforms}
}

func ike(transforms ...Transform) Proposal {
	return Proposal{Protocol: ProtocolIKE, Transforms: transforms}
}

func TestChoose(t *testing.T) {
	tests := []struct {
		name         string
		ours, theirs []Proposal
		want         string
		number       uint8
	}{
		{
			"the only one",
			[]Proposal{esp(0, cbc128, sha256, ESN(false))},
			[]Proposal{esp(1, cbc128, sha256, ESN(false))},
			"ESP: AES-CBC-128, HMAC-SHA2-256-128, no ESN", 1,
		},
		{
			"our order within a proposal",
			[]Proposal{esp(0, cbc256, cbc128, sha256, sha1, ESN(false))},
			[]Proposal{esp(1, cbc128, cbc256, sha1, sha256, ESN(false))},
			"ESP: AES-CBC-256, HMAC-SHA2-256-128, no ESN", 1,
		},
		{
			"our order of proposals",
			[]Proposal{esp(0, gcm128), esp(0, cbc128, sha256)},
			[]Proposal{esp(1, cbc128, sha256), esp(2, gcm128)},
			"ESP: AES-GCM-16-128", 2,
		},
		{
			"combined mode among others in one proposal",
			[]Proposal{esp(0, gcm128, ESN(true))},
			[]Proposal{esp(1, cbc128, gcm128, sha1, sha256, ESN(true), ESN(false))},
			"ESP: AES-GCM-16-128, ESN", 1,
		},
		{
			"combined mode with integrity NONE",
			[]Proposal{esp(0, gcm128)},
			[]Proposal{esp(1, gcm128, Integrity(IntegrityNone))},
			"ESP: AES-GCM-16-128, NONE", 1,
		},
		{
			"absent ESN means none",
			[]Proposal{esp(0, cbc128, sha256, ESN(false))},
			[]Proposal{esp(1, cbc128, sha256)},
			"ESP: AES-CBC-128, HMAC-SHA2-256-128", 1,
		},
		{
			"group NONE is no group",
			[]Proposal{esp(0, cbc128, sha256)},
			[]Proposal{esp(1, cbc128, sha256, Group(GroupNone))},
			"ESP: AES-CBC-128, HMAC-SHA2-256-128, NONE", 1,
		},
		{
			"IKE",
			[]Proposal{ike(cbc256, sha256, PRF(PRFHMACSHA2256), Group(GroupECP256), Group(GroupMODP2048))},
			[]Proposal{ike(cbc256, sha256, PRF(PRFHMACSHA1), PRF(PRFHMACSHA2256), Group(GroupMODP2048))},
			"IKE: AES-CBC-256, HMAC-SHA2-256-128, PRF-HMAC-SHA2-256, MODP-2048 (group 14)", 0,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Choose(tt.ours, tt.theirs)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != tt.want || got.Number != tt.number {
				t.Errorf("chose number %d, %s; want %d, %s", got.Number, got, tt.number, tt.want)
			}
			if i := slices.IndexFunc(tt.theirs, func(p Proposal) bool { return p.Number == got.Number }); !slices.Equal(got.SPI, tt.theirs[i].SPI) {
				t.Errorf("SPI %x is not the peer's %x", got.SPI, tt.theirs[i].SPI)
			}
		})
	}
}

func TestChooseMismatch(t *testing.T) {
	tests := []struct {
		name         string
		ours, theirs []Proposal
		want         string
	}{
		{
			"cipher",
			[]Proposal{esp(0, cbc128, sha256)},
			[]Proposal{esp(1, cbc256, sha256)},
			"ESP: no common encryption algorithm: we have AES-CBC-128, the peer has AES-CBC-256",
		},
		{
			"integrity",
			[]Proposal{esp(0, cbc128, sha256)},
			[]Proposal{esp(1, cbc128, sha1)},
			"ESP: no common integrity algorithm: we have HMAC-SHA2-256-128, the peer has HMAC-SHA1-96",
		},
		{
			"no integrity",
			[]Proposal{esp(0, cbc128, sha256)},
			[]Proposal{esp(1, cbc128)},
			"ESP: no common integrity algorithm: we have HMAC-SHA2-256-128, the peer has NONE",
		},
		{
			"group wanted",
			[]Proposal{esp(0, gcm128, Group(GroupECP256))},
			[]Proposal{esp(1, gcm128)},
			"ESP: no common DH group: we have ECP-256 (group 19), the peer has NONE",
		},
		{
			"ESN wanted",
			[]Proposal{esp(0, gcm128, ESN(true))},
			[]Proposal{esp(1, gcm128)},
			"ESP: no common extended sequence numbers: we have ESN, the peer has no ESN",
		},
		{
			"the proposal that came closest is blamed",
			[]Proposal{esp(0, cbc128, sha256, ESN(false))},
			[]Proposal{esp(1, cbc256, sha1), esp(2, cbc128, sha256, ESN(true)), esp(3, cbc128, sha1)},
			"ESP: no common extended sequence numbers: we have no ESN, the peer has ESN",
		},
		{
			"PRF",
			[]Proposal{ike(cbc256, sha256, PRF(PRFHMACSHA2256))},
			[]Proposal{ike(cbc256, sha256, PRF(PRFHMACSHA1))},
			"IKE: no common pseudorandom function: we have PRF-HMAC-SHA2-256, the peer has PRF-HMAC-SHA1",
		},
		{"protocol", []Proposal{esp(0, gcm128)}, []Proposal{{Protocol: ProtocolAH, Transforms: []Transform{sha256}}}, "no proposal for ESP"},
		{"nothing offered", []Proposal{esp(0, gcm128)}, nil, "no proposal for ESP"},
		{
			"type of no name",
			[]Proposal{esp(0, gcm128)},
			[]Proposal{esp(1, gcm128, Transform{Type: 13, ID: 1})},
			"ESP: no common transform type 13: we have none, the peer has transform type 13 1",
		},
		{
			"key length missing",
			[]Proposal{esp(0, cbc128, sha256)},
			[]Proposal{esp(1, Encryption(EncryptionAESCBC, 0), sha256)},
			"ESP: no common encryption algorithm: we have AES-CBC-128, the peer has encryption algorithm 12",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Choose(tt.ours, tt.theirs)
			var mismatch *MismatchError
			if !errors.As(err, &mismatch) || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestChooseLeavesItsArguments(t *testing.T) {
	ours, theirs := []Proposal{esp(0, gcm128, ESN(false))}, []Proposal{esp(1, cbc128, gcm128, sha1, sha256)}
	chosen, err := Choose(ours, theirs)
	if err != nil {
		t.Fatal(err)
	}
	clear(chosen.SPI)
	clear(chosen.Transforms)
	if want := esp(1, cbc128, gcm128, sha1, sha256); theirs[0].String() != want.String() || !slices.Equal(theirs[0].SPI, want.SPI) {
		t.Errorf("the offer became %s", theirs[0])
	}
}

func TestWithout(t *testing.T) {
	p := esp(1, gcm128, Group(GroupECP256), ESN(false), Group(GroupMODP2048))
	if got := p.Without(TransformGroup).String(); got != "ESP: AES-GCM-16-128, no ESN" {
		t.Errorf("got %s", got)
	}
	if len(p.Of(TransformGroup)) != 2 {
		t.Error("the original lost its groups")
	}
}

func TestNames(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{SPI(0xab).String(), "000000ab"},
		{SAID{Dst: v4(0xc0000201), SPI: 0x0a1b2c3d}.String(), "esp 0a1b2c3d to 192.0.2.1"},
		{PolicyID{Direction: Out, Local: prefix("10.0.0.0/24"), Remote: prefix("192.168.0.0/16")}.String(), "out 10.0.0.0/24 to 192.168.0.0/16"},
		{PolicyID{Direction: In, Local: prefix("10.0.0.0/24"), Remote: prefix("192.168.0.0/16")}.String(), "in 10.0.0.0/24 from 192.168.0.0/16"},
		{Encryption(999, 64).String(), "encryption algorithm 999 (64-bit key)"},
		{Protocol(9).String(), "protocol 9"},
		{Direction(0).String(), "invalid direction"},
		{PolicyAction(0).String(), "invalid action"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
	if !gcm128.IsAEAD() || cbc128.IsAEAD() || Group(EncryptionAESGCM16).IsAEAD() {
		t.Error("IsAEAD takes the wrong transforms")
	}
}
