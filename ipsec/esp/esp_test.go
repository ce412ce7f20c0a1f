package esp

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

// suite is one pair of algorithms with its lengths, in octets.
type suite struct {
	name            string
	enc, integ      ipsec.Transform
	encKey, integK  int
	iv, align, icvL int
}

func suites() []suite {
	ciphers := []suite{
		{enc: ipsec.Encryption(ipsec.EncryptionAESCBC, 128), encKey: 16, iv: 16, align: 16},
		{enc: ipsec.Encryption(ipsec.EncryptionAESCBC, 192), encKey: 24, iv: 16, align: 16},
		{enc: ipsec.Encryption(ipsec.EncryptionAESCBC, 256), encKey: 32, iv: 16, align: 16},
		{enc: ipsec.Encryption(ipsec.Encryption3DES, 0), encKey: 24, iv: 8, align: 8},
	}
	macs := []suite{
		{integ: ipsec.Integrity(ipsec.IntegrityHMACMD596), integK: 16, icvL: 12},
		{integ: ipsec.Integrity(ipsec.IntegrityHMACSHA196), integK: 20, icvL: 12},
		{integ: ipsec.Integrity(ipsec.IntegrityHMACSHA2256128), integK: 32, icvL: 16},
		{integ: ipsec.Integrity(ipsec.IntegrityHMACSHA2384192), integK: 48, icvL: 24},
		{integ: ipsec.Integrity(ipsec.IntegrityHMACSHA2512256), integK: 64, icvL: 32},
	}
	all := []suite{
		{enc: ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), encKey: 20, iv: 8, align: 4, icvL: 16},
		{enc: ipsec.Encryption(ipsec.EncryptionAESGCM16, 192), encKey: 28, iv: 8, align: 4, icvL: 16},
		{enc: ipsec.Encryption(ipsec.EncryptionAESGCM16, 256), encKey: 36, iv: 8, align: 4, icvL: 16},
		{enc: ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 0), encKey: 36, iv: 8, align: 4, icvL: 16},
	}
	for _, c := range ciphers {
		for _, m := range macs {
			c.integ, c.integK, c.icvL = m.integ, m.integK, m.icvL
			all = append(all, c)
		}
	}
	sm4 := ipsec.Encryption(ipsec.EncryptionSM4CBC, 0)
	all = append(
		all,
		suite{enc: ipsec.Encryption(ipsec.EncryptionSM4GCM16, 0), encKey: 20, iv: 8, align: 4, icvL: 16},
		suite{enc: sm4, encKey: 16, iv: 16, align: 16, integ: ipsec.Integrity(ipsec.IntegrityHMACSM396), integK: 32, icvL: 12},
		suite{enc: sm4, encKey: 16, iv: 16, align: 16, integ: ipsec.Integrity(ipsec.IntegrityHMACSM3128), integK: 32, icvL: 16},
		suite{enc: sm4, encKey: 16, iv: 16, align: 16, integ: ipsec.Integrity(ipsec.IntegrityHMACSM3256), integK: 32, icvL: 32},
	)
	for i := range all {
		all[i].name = all[i].enc.String()
		if all[i].integ.Type != 0 {
			all[i].name += "+" + all[i].integ.String()
		}
	}
	return all
}

// counting returns n octets first, first+1, …
func counting(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

func (s suite) sa(esn bool) *ipsec.SA {
	return &ipsec.SA{
		SPI: 0xc0ffee01, Encryption: s.enc, EncryptionKey: counting(1, s.encKey),
		Integrity: s.integ, IntegrityKey: counting(0x81, s.integK), ESN: esn,
	}
}

// pair returns both ends of an SA.
func pair(t testing.TB, sa *ipsec.SA) (*Outbound, *Inbound) {
	t.Helper()
	out, err := NewOutbound(sa)
	if err != nil {
		t.Fatal(err)
	}
	in, err := NewInbound(sa)
	if err != nil {
		t.Fatal(err)
	}
	return out, in
}

// room returns a copy of packet with the capacity that Seal wants behind it.
func room(packet []byte) []byte {
	return append(make([]byte, 0, len(packet)+MaxTrailer), packet...)
}

func mustSeal(t testing.TB, s *Sealer, packet []byte) []byte {
	t.Helper()
	sealed, err := s.Seal(nil, room(packet), 4)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestSealOpen(t *testing.T) {
	for _, s := range suites() {
		for _, esn := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/esn=%t", s.name, esn), func(t *testing.T) {
				out, in := pair(t, s.sa(esn))
				sealer, opener := out.NewSealer(), in.NewOpener()
				if got, want := out.HeaderLen(), 8+s.iv; got != want {
					t.Errorf("HeaderLen() = %d, want %d", got, want)
				}
				for n := range 100 {
					packet := counting(byte(n), n)
					sealed, err := sealer.Seal([]byte("before"), room(packet), 41)
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.HasPrefix(sealed, []byte("before")) {
						t.Fatalf("%d octets: dst was not kept", n)
					}
					sealed = sealed[len("before"):]
					encrypted := (n + 2 + s.align - 1) / s.align * s.align
					if got, want := len(sealed), 8+s.iv+encrypted+s.icvL; got != want || out.SealedLen(n) != want {
						t.Fatalf("%d octets: sealed to %d, SealedLen %d, want %d", n, got, out.SealedLen(n), want)
					}
					if n >= 16 && bytes.Contains(sealed, packet[:16]) {
						t.Fatalf("%d octets: plaintext is visible", n)
					}
					inner, next, err := opener.Open(sealed)
					if err != nil {
						t.Fatalf("%d octets: %v", n, err)
					}
					if !bytes.Equal(inner, packet) || next != 41 {
						t.Fatalf("%d octets: opened to %x, next header %d", n, inner, next)
					}
					if !opener.Newest() {
						t.Fatalf("%d octets: not the newest packet", n)
					}
				}
				wantBytes := uint64(99 * 100 / 2)
				if st := out.State(); st.Packets != 100 || st.Sequence != 100 || st.Bytes != wantBytes {
					t.Errorf("outbound state %+v", st)
				}
				if st := in.State(); st.Packets != 100 || st.Sequence != 100 || st.Bytes != wantBytes || len(st.Drops) != 0 {
					t.Errorf("inbound state %+v", st)
				}
			})
		}
	}
}

// TestSealInPlace has packets one behind the other in a buffer, as the
// segments of a large read are, and compares with sealing apart.
func TestSealInPlace(t *testing.T) {
	for _, s := range suites() {
		t.Run(s.name, func(t *testing.T) {
			const n = 61
			apart, in := pair(t, s.sa(false))
			buf := counting(0, 2*n+MaxTrailer)
			before := bytes.Clone(buf)
			first, err := apart.NewSealer().Seal(make([]byte, 0, 256), buf[:n], 4)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(buf, before) {
				t.Error("the octets behind the packet were not restored")
			}

			place, _ := pair(t, s.sa(false))
			wire := make([]byte, 3+place.SealedLen(n))
			at := 3 + place.HeaderLen()
			copy(wire[at:], before[:n])
			second, err := place.NewSealer().Seal(wire[:3], wire[at:at+n], 4)
			if err != nil {
				t.Fatal(err)
			}
			if &second[0] != &wire[0] {
				t.Error("sealing in place moved to another array")
			}
			if s.integ.Type == 0 && !bytes.Equal(first, second[3:]) {
				t.Errorf("in place %x, apart %x", second[3:], first)
			}
			inner, _, err := in.NewOpener().Open(second[3:])
			if err != nil || !bytes.Equal(inner, before[:n]) {
				t.Errorf("opened to %x, %v", inner, err)
			}
		})
	}
}

func TestMaxPayload(t *testing.T) {
	for _, s := range suites() {
		out, _ := pair(t, s.sa(false))
		for limit := range 200 {
			n := out.MaxPayload(limit)
			if n > 0 && out.SealedLen(n) > limit {
				t.Fatalf("%s: MaxPayload(%d) = %d, which seals to %d", s.name, limit, n, out.SealedLen(n))
			}
			if out.SealedLen(n+1) <= limit {
				t.Fatalf("%s: MaxPayload(%d) = %d, but one more fits", s.name, limit, n)
			}
		}
		for n := range 200 {
			if got := out.SealedLen(n) - n; got > MaxOverhead {
				t.Fatalf("%s: overhead %d is above MaxOverhead %d", s.name, got, MaxOverhead)
			}
		}
	}
}

func TestTamper(t *testing.T) {
	for _, s := range suites() {
		t.Run(s.name, func(t *testing.T) {
			out, in := pair(t, s.sa(false))
			opener := in.NewOpener()
			sealed := mustSeal(t, out.NewSealer(), counting(0x45, 40))
			for i := range sealed {
				forged := bytes.Clone(sealed)
				forged[i] ^= 0x10
				want := ErrIntegrity
				if i < 4 {
					want = ErrSPI
				}
				if _, _, err := opener.Open(forged); !errors.Is(err, want) {
					t.Fatalf("octet %d changed: %v, want %v", i, err, want)
				}
			}
			for n := range sealed {
				if _, _, err := opener.Open(bytes.Clone(sealed[:n])); err == nil {
					t.Fatalf("cut to %d octets: accepted", n)
				}
			}
			if st := in.State(); st.Sequence != 0 || st.Packets != 0 {
				t.Fatalf("forgeries changed the state: %+v", st)
			}
			if _, _, err := opener.Open(sealed); err != nil {
				t.Fatalf("untouched: %v", err)
			}
		})
	}
}

func TestReplayDropped(t *testing.T) {
	out, in := pair(t, suites()[0].sa(false))
	sealer, opener := out.NewSealer(), in.NewOpener()
	first := mustSeal(t, sealer, counting(0, 20))
	second := mustSeal(t, sealer, counting(0, 20))
	open := func(packet []byte) error {
		_, _, err := opener.Open(bytes.Clone(packet))
		return err
	}
	if err := open(second); err != nil || !opener.Newest() {
		t.Fatalf("second: %v, newest %t", err, opener.Newest())
	}
	if err := open(first); err != nil || opener.Newest() {
		t.Fatalf("first, late: %v, newest %t", err, opener.Newest())
	}
	for _, packet := range [][]byte{first, second} {
		if err := open(packet); !errors.Is(err, ErrReplay) {
			t.Fatalf("again: %v", err)
		}
	}
	if got := in.State().Drops["replay"]; got != 2 {
		t.Errorf("%d replays counted, want 2", got)
	}
}

func TestDummy(t *testing.T) {
	out, in := pair(t, suites()[0].sa(false))
	sealed, err := out.NewSealer().Seal(nil, room(nil), 59)
	if err != nil {
		t.Fatal(err)
	}
	opener := in.NewOpener()
	if _, _, err := opener.Open(bytes.Clone(sealed)); !errors.Is(err, ErrDummy) {
		t.Errorf("dummy: %v", err)
	}
	if _, _, err := opener.Open(sealed); !errors.Is(err, ErrReplay) {
		t.Errorf("dummy again: %v", err)
	}
	if st := in.State(); st.Packets != 0 || st.Drops["dummy"] != 1 {
		t.Errorf("state %+v", st)
	}
}

func TestTrimPadding(t *testing.T) {
	tests := []struct {
		name  string
		plain []byte
		inner string
		next  uint8
		drop  Drop
	}{
		{"no padding", []byte("ab\x00\x04"), "ab", 4, 0},
		{"padding only", []byte{1, 2, 2, 4}, "", 4, 0},
		{"three", []byte{'x', 1, 2, 3, 3, 41}, "x", 41, 0},
		{"longer than the packet", []byte{1, 2, 3, 4}, "", 0, ErrPadding},
		{"longer by one", []byte{1, 2, 4}, "", 0, ErrPadding},
		{"not counting up", []byte{'x', 1, 3, 2, 4}, "", 0, ErrPadding},
		{"zeros", []byte{'x', 0, 0, 2, 4}, "", 0, ErrPadding},
		{"dummy with bad padding", []byte{'x', 0, 1, 59}, "", 0, ErrPadding},
		{"dummy", []byte{'x', 1, 1, 59}, "", 0, ErrDummy},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inner, next, drop := trimPadding(tt.plain)
			if string(inner) != tt.inner || next != tt.next || drop != tt.drop {
				t.Errorf("got %q, %d, %v", inner, next, drop)
			}
		})
	}
}

func TestSequenceExhausted(t *testing.T) {
	for _, esn := range []bool{false, true} {
		out, _ := pair(t, suites()[0].sa(esn))
		sealer := out.NewSealer()
		last := uint64(math.MaxUint32)
		if esn {
			last = math.MaxUint64
		}
		out.sequence.Store(last - 1)
		mustSeal(t, sealer, counting(0, 20))
		for range 3 {
			if got, err := sealer.Seal([]byte("dst"), room(nil), 4); !errors.Is(err, ErrSequenceExhausted) || string(got) != "dst" {
				t.Errorf("esn=%t: %q, %v", esn, got, err)
			}
		}
		if got := out.State().Sequence; got != last {
			t.Errorf("esn=%t: sequence %d, want %d", esn, got, last)
		}
	}
}

func TestHardLimits(t *testing.T) {
	tests := []struct {
		name   string
		limits ipsec.Lifetime
		passes int // packets of 100 octets
	}{
		{"none", ipsec.Lifetime{}, 10},
		{"soft limits drop nothing", ipsec.Lifetime{SoftBytes: 1, SoftPackets: 1}, 10},
		{"packets", ipsec.Lifetime{HardPackets: 3}, 3},
		{"bytes", ipsec.Lifetime{HardBytes: 400}, 4},
		{"bytes inside a packet", ipsec.Lifetime{HardBytes: 401}, 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			free, _ := pair(t, suites()[0].sa(false))
			sa := suites()[0].sa(false)
			sa.Lifetime = tt.limits
			out, in := pair(t, sa)
			freeSealer, sealer, opener := free.NewSealer(), out.NewSealer(), in.NewOpener()
			for i := range 10 {
				var want error
				if i >= tt.passes {
					want = ErrExpired
				}
				if _, err := sealer.Seal(nil, room(counting(0, 100)), 4); !errors.Is(err, want) {
					t.Fatalf("seal %d: %v, want %v", i, err, want)
				}
				if _, _, err := opener.Open(mustSeal(t, freeSealer, counting(0, 100))); !errors.Is(err, want) {
					t.Fatalf("open %d: %v, want %v", i, err, want)
				}
			}
		})
	}
}

func TestWipe(t *testing.T) {
	for _, s := range []suite{suites()[0], suites()[4]} {
		out, in := pair(t, s.sa(false))
		sealer, opener := out.NewSealer(), in.NewOpener()
		sealed := mustSeal(t, sealer, counting(0, 20))
		length := out.SealedLen(20)
		out.Wipe()
		in.Wipe()
		for _, sealer := range []*Sealer{sealer, out.NewSealer()} {
			if _, err := sealer.Seal(nil, room(nil), 4); !errors.Is(err, ErrWiped) {
				t.Errorf("%s: seal: %v", s.name, err)
			}
		}
		for _, opener := range []*Opener{opener, in.NewOpener()} {
			if _, _, err := opener.Open(bytes.Clone(sealed)); !errors.Is(err, ErrWiped) {
				t.Errorf("%s: open: %v", s.name, err)
			}
		}
		if out.SealedLen(20) != length || out.State().Packets != 1 {
			t.Errorf("%s: lengths or counters went with the keys", s.name)
		}
	}
}

func TestNoTrailerRoom(t *testing.T) {
	out, _ := pair(t, suites()[0].sa(false))
	packet := make([]byte, 20, 24-1) // pad length and next header, and 2 to make it a multiple of 4
	if _, err := out.NewSealer().Seal(nil, packet, 4); !errors.Is(err, ErrNoTrailerRoom) {
		t.Errorf("got %v", err)
	}
	if got := out.State().Sequence; got != 0 {
		t.Errorf("the refusal took sequence number %d", got)
	}
}

func TestNewRefuses(t *testing.T) {
	base := func(change func(*ipsec.SA)) *ipsec.SA {
		sa := suites()[6].sa(false) // AES-CBC-128 with HMAC-SHA2-256-128
		change(sa)
		return sa
	}
	tests := []struct {
		name        string
		sa          *ipsec.SA
		want        string
		unsupported bool
	}{
		{
			"reserved SPI", base(func(sa *ipsec.SA) { sa.SPI = 255 }),
			"SA 000000ff: spi 000000ff: values below 00000100 are reserved", false,
		},
		{
			"short key", base(func(sa *ipsec.SA) { sa.EncryptionKey = sa.EncryptionKey[1:] }),
			"SA c0ffee01: key of AES-CBC-128: has 15 octets, needs 16", false,
		},
		{
			"short integrity key", base(func(sa *ipsec.SA) { sa.IntegrityKey = nil }),
			"SA c0ffee01: key of HMAC-SHA2-256-128: has 0 octets, needs 32", false,
		},
		{
			"no integrity", base(func(sa *ipsec.SA) { sa.Integrity, sa.IntegrityKey = ipsec.Transform{}, nil }),
			"SA c0ffee01: integrity: a cipher without authentication needs an integrity algorithm", false,
		},
		{
			"integrity of no name", base(func(sa *ipsec.SA) { sa.Integrity = ipsec.Integrity(99) }),
			"SA c0ffee01: integrity integrity algorithm 99: not supported by this data plane", true,
		},
		{
			"NULL", base(func(sa *ipsec.SA) { sa.Encryption = ipsec.Encryption(ipsec.EncryptionNull, 0) }),
			"SA c0ffee01: encryption NULL: not supported by this data plane", true,
		},
		{
			"odd key length", base(func(sa *ipsec.SA) { sa.Encryption.KeyBits = 160 }),
			"SA c0ffee01: encryption encryption algorithm 12 (160-bit key): not supported by this data plane", true,
		},
		{"GCM without salt", base(func(sa *ipsec.SA) {
			sa.Encryption = ipsec.Encryption(ipsec.EncryptionAESGCM16, 128)
			sa.Integrity, sa.IntegrityKey = ipsec.Transform{}, nil
		}), "SA c0ffee01: key of AES-GCM-16-128: has 16 octets, needs 20", false},
		{"GCM with integrity", base(func(sa *ipsec.SA) {
			sa.Encryption = ipsec.Encryption(ipsec.EncryptionAESGCM16, 128)
		}), "SA c0ffee01: integrity HMAC-SHA2-256-128: a combined-mode cipher takes none", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, outErr := NewOutbound(tt.sa)
			_, inErr := NewInbound(tt.sa)
			for direction, err := range map[string]error{"outbound ": outErr, "inbound ": inErr} {
				if err == nil || err.Error() != direction+tt.want {
					t.Errorf("got  %v\nwant %s", err, direction+tt.want)
				}
				if errors.Is(err, ipsec.ErrUnsupported) != tt.unsupported {
					t.Errorf("%v: ErrUnsupported is %t, want %t", err, !tt.unsupported, tt.unsupported)
				}
			}
		})
	}
	for _, size := range []int{-1, MaxReplayWindow + 1} {
		if _, err := NewInbound(base(func(sa *ipsec.SA) { sa.ReplayWindow = size })); err == nil {
			t.Errorf("replay window %d: accepted", size)
		}
	}
}

// TestIVs checks that AEAD takes the sequence number, and that CBC's IVs
// neither repeat nor follow from one another by counting.
func TestIVs(t *testing.T) {
	for _, s := range []suite{suites()[0], suites()[4], suites()[19]} {
		out, _ := pair(t, s.sa(true))
		out.sequence.Store(1<<32 + 6)
		sealers := []*Sealer{out.NewSealer(), out.NewSealer()}
		seen := map[string]bool{}
		for i := range 64 {
			sealed := mustSeal(t, sealers[i%2], counting(0, 20))
			iv := sealed[8 : 8+s.iv]
			if s.integ.Type == 0 {
				if want := []byte{0, 0, 0, 1, 0, 0, 0, byte(7 + i)}; !bytes.Equal(iv, want) {
					t.Errorf("%s: IV %x, want %x", s.name, iv, want)
				}
				continue
			}
			if half := string(iv[:s.iv/2]); seen[half] {
				t.Errorf("%s: IV %x begins as an earlier one", s.name, iv)
			} else {
				seen[half] = true
			}
		}
	}
}

func TestDropNames(t *testing.T) {
	seen := map[string]bool{}
	for d := Drop(1); d < DropCount; d++ {
		if d.Reason() == "" || seen[d.Reason()] || d.Error() == "esp: " {
			t.Errorf("drop %d: reason %q, text %q", uint8(d), d.Reason(), d.Error())
		}
		seen[d.Reason()] = true
	}
	for _, d := range []Drop{0, DropCount, 255} {
		if d.Reason() != "unknown" || d.Error() != "esp: unknown reason" {
			t.Errorf("drop %d: %q, %q", uint8(d), d.Reason(), d.Error())
		}
	}
}

func TestNoAllocations(t *testing.T) {
	for _, s := range suites() {
		out, in := pair(t, s.sa(true))
		sealer, opener := out.NewSealer(), in.NewOpener()
		packet, wire := room(counting(0, 1400)), make([]byte, 0, 2048)
		n := testing.AllocsPerRun(100, func() {
			sealed, err := sealer.Seal(wire, packet, 4)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := opener.Open(sealed); err != nil {
				t.Fatal(err)
			}
			if _, _, err := opener.Open(sealed); !errors.Is(err, ErrReplay) {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations for a packet", s.name, n)
		}
	}
}
