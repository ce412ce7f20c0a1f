package esp

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
	"github.com/vpngw/vpngw/ipsec"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPublishedPackets opens whole ESP packets of the documents named.
func TestPublishedPackets(t *testing.T) {
	gcm := func(bits uint16) ipsec.Transform { return ipsec.Encryption(ipsec.EncryptionAESGCM16, bits) }
	cbc := ipsec.Encryption(ipsec.EncryptionAESCBC, 128)
	tests := []struct {
		name string
		enc  ipsec.Transform
		key  string
		// high is the upper half of the extended sequence number; zero
		// without ESN.
		high   uint64
		packet string // without ICV for CBC, which RFC 3602 gives none
		inner  string
		next   uint8
	}{
		{
			name: "draft-mcgrew-gcm-test-01, AES-128, ESN", enc: gcm(128),
			key:  "4c80cdefbb5d10da906ac73c3613a634 2e443b68",
			high: 0x87654321,
			packet: "00004321 00000000 4956ed7e3b244cfe" +
				"fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34" +
				"cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce" +
				"61bc17d768fd9732 459018148f6cbe722fd04796562dfdb4",
			inner: "45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000" +
				"00000000045f736970045f756470037369700963796265726369747902646b00 00210001",
			next: 1,
		},
		{
			name: "draft-mcgrew-gcm-test-01, AES-192", enc: gcm(192),
			key: "feffe9928665731c6d6a8f9467308308feffe9928665731c cafebabe",
			packet: "0000a5f8 0000000a facedbaddecaf888" +
				"a5b1f8066029aea40e598b8122de02420938b3ab33f828e687b8858b5bfbdbd0" +
				"315b27452144cc77 95457b9652037f5318027b5b4cd7a636",
			inner: "45000028a4ad4000400678800a01038f0a010612802306b8cb712602dd6bb03e501016d07568",
			next:  1,
		},
		{
			name: "draft-mcgrew-gcm-test-01, AES-256", enc: gcm(256),
			key: "abbccddef00112233445566778899aababbccddef00112233445566778899aab 11223344",
			packet: "4a2cbfe3 00000002 0102030405060708" +
				"ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763" +
				"748a637985771d347f0545659f14e99def842d8eb335f4eecfdbf831824b4c4915956c96",
			inner: "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee000000000" +
				"7002400020bf0000020405b401010402",
			next: 1,
		},
		{
			name: "RFC 7634, appendix A", enc: ipsec.Encryption(ipsec.EncryptionChaCha20Poly1305, 0),
			key: "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f a0a1a2a3",
			packet: "01020304 00000005 1011121314151617" +
				"24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6" +
				"14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3" +
				"cbec163fac469b502773f6fb94e664da9165b82829f641e0" +
				"76aaa8266b7fb0f7b11b369907e1ad43",
			inner: "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10" +
				"0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223" +
				"2425262728292a2b2c2d2e2f3031323334353637",
			next: 4,
		},
		{
			name: "RFC 3602, case 5", enc: cbc, key: "90d382b410eeba7ad938c46cec1a82bf",
			packet: "00004321 00000001 e96e8c08ab465763fd098d45dd3ff893" +
				"f663c25d325c18c6a9453e194e120849a4870b66cc6b9965330013b4898dc856" +
				"a4699e523a55db080b59ec3a8e4b7e52775b07d1db34ed9c538ab50c551b874a" +
				"a269add047ad2d5913ac19b7cfbad4a6",
			inner: "08000ebda70a00008e9c083db95b070008090a0b0c0d0e0f101112131415161718191a1b" +
				"1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637",
			next: 1,
		},
		{
			name: "RFC 3602, case 7", enc: cbc, key: "0123456789abcdef0123456789abcdef",
			packet: "00008765 00000002 f4e765244f6407adf13dc1380f673f37" +
				"773b5241a4c449225e4f3ce5ed611b0c237ca96cf74a93013c1b0ea1a0cf70f8" +
				"e4ecaec78ac53aad7a0f022b859243c647752e94a859352b8a4d4d2decd136e5" +
				"c177f132ad3fbfb2201ac9904c74ee0a109e0ca1e4dfe9d5a100b842f1c22f0d",
			inner: "45000054090400004001f988c0a87b03c0a87bc808009f76a90a0100b49c083d02a2040008090a0b0c0d0e0f" +
				"101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637",
			next: 4,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			packet := unhex(t, tt.packet)
			sa := &ipsec.SA{
				SPI: ipsec.SPI(binary.BigEndian.Uint32(packet)), Encryption: tt.enc,
				EncryptionKey: unhex(t, tt.key), ESN: tt.high != 0,
			}
			if !tt.enc.IsAEAD() {
				sa.Integrity, sa.IntegrityKey = ipsec.Integrity(ipsec.IntegrityHMACSHA2256128), counting(9, 32)
				mac := hmac.New(sha256.New, sa.IntegrityKey)
				mac.Write(packet)
				packet = append(packet, mac.Sum(nil)[:16]...)
			}
			_, in := pair(t, sa)
			if tt.high != 0 {
				in.window.highest.Store(tt.high<<32 - 1)
			}
			inner, next, err := in.NewOpener().Open(packet)
			if err != nil {
				t.Fatal(err)
			}
			if want := unhex(t, tt.inner); !bytes.Equal(inner, want) || next != tt.next {
				t.Errorf("next header %d, inner\n%x, want %d\n%x", next, inner, tt.next, want)
			}
		})
	}
}

// TestESNOverICV checks by hand what the ICV covers with HMAC: the packet, then
// the high half of the sequence number (RFC 4303, section 2.2.1).
func TestESNOverICV(t *testing.T) {
	s := suites()[6] // AES-CBC-128 with HMAC-SHA2-256-128
	out, _ := pair(t, s.sa(true))
	out.sequence.Store(0x0a0b0c0d_00000010)
	sealed := mustSeal(t, out.NewSealer(), counting(0, 20))
	end := len(sealed) - 16
	mac := hmac.New(sha256.New, counting(0x81, 32))
	mac.Write(sealed[:end])
	mac.Write([]byte{0x0a, 0x0b, 0x0c, 0x0d})
	if want := mac.Sum(nil)[:16]; !bytes.Equal(sealed[end:], want) {
		t.Errorf("ICV %x, want %x", sealed[end:], want)
	}
	if got := binary.BigEndian.Uint32(sealed[4:]); got != 0x11 {
		t.Errorf("sequence number %#x on the wire", got)
	}
}

func FuzzOpen(f *testing.F) {
	target := fuzztest.New(f)
	algorithms := []suite{suites()[0], suites()[3], suites()[6], suites()[19], suites()[24], suites()[25]}
	for i, s := range algorithms {
		out, _ := pair(f, s.sa(i%2 == 0))
		target.Add(uint8(i), mustSeal(f, out.NewSealer(), counting(0x45, 40)))
	}
	target.Add(uint8(0), []byte{})
	target.Add(uint8(2), []byte{0xc0, 0xff, 0xee, 0x01, 0, 0, 0, 1, 2, 3})
	target.Fuzz(func(t *testing.T, which uint8, packet []byte) {
		i := int(which) % len(algorithms)
		sealed, in := pair(t, algorithms[i].sa(i%2 == 0))
		opener := in.NewOpener()
		given := bytes.Clone(packet)
		inner, _, err := opener.Open(packet)
		if err == nil || errors.Is(err, ErrPadding) || errors.Is(err, ErrDummy) {
			// Only a packet of the key's owner gets here; the fuzzer's seeds are.
			if len(inner) >= len(given) || in.State().Sequence == 0 {
				t.Fatalf("%d octets opened to %d", len(given), len(inner))
			}
			if _, _, err := opener.Open(given); !errors.Is(err, ErrReplay) {
				t.Fatalf("opened twice: %v", err)
			}
			return
		}
		if st := in.State(); st.Sequence != 0 || st.Packets != 0 || len(st.Drops) != 1 {
			t.Fatalf("a drop (%v) changed the state: %+v", err, st)
		}
		if _, _, err := opener.Open(mustSeal(t, sealed.NewSealer(), given)); err != nil {
			t.Fatalf("after a drop: %v", err)
		}
	})
}

func BenchmarkSeal(b *testing.B) { benchmark(b, false) }
func BenchmarkOpen(b *testing.B) { benchmark(b, true) }

func benchmark(b *testing.B, open bool) {
	for _, i := range []int{0, 2, 3, 5, 6} {
		s := suites()[i]
		for _, size := range []int{64, 512, 1420} {
			b.Run(s.name+"/"+map[int]string{64: "64", 512: "512", 1420: "1420"}[size], func(b *testing.B) {
				out, in := pair(b, s.sa(true))
				sealer, opener := out.NewSealer(), in.NewOpener()
				packet, wire := room(counting(0, size)), make([]byte, 0, 2048)
				// Opening consumes its packet, so a batch is sealed ahead of the clock.
				const batch = 256
				sealed := make([][]byte, batch)
				for i := range sealed {
					sealed[i] = make([]byte, 0, 2048)
				}
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				for i := range b.N {
					var err error
					if !open {
						_, err = sealer.Seal(wire, packet, 4)
					} else {
						if i%batch == 0 {
							b.StopTimer()
							for j := range sealed {
								if sealed[j], err = sealer.Seal(sealed[j][:0], packet, 4); err != nil {
									b.Fatal(err)
								}
							}
							b.StartTimer()
						}
						_, _, err = opener.Open(sealed[i%batch])
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
