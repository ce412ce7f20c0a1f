package wire

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// recording is testdata/strongswan-psk.txt.
type recording struct {
	keys [][2]string // SK_ei, SK_er with salt, hexadecimal, of each IKE SA
	from []string
	raws [][]byte
}

func readRecording(t testing.TB) recording {
	t.Helper()
	text, err := os.ReadFile("testdata/strongswan-psk.txt")
	if err != nil {
		t.Fatal(err)
	}
	var rec recording
	for line := range strings.Lines(string(text)) {
		switch f := strings.Fields(line); {
		case strings.HasPrefix(line, "#"):
		case f[0] == "keys":
			rec.keys = append(rec.keys, [2]string{f[1], f[2]})
		default:
			rec.from, rec.raws = append(rec.from, f[0]), append(rec.raws, unhex(t, f[1]))
		}
	}
	return rec
}

// The names of the payloads are what strongSwan itself wrote into its log.
func TestRecordedMessages(t *testing.T) {
	want := []string{
		"IKE_SA_INIT request 0 [SA, KE, Nonce, N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), N(IKEV2_FRAGMENTATION_SUPPORTED), N(SIGNATURE_HASH_ALGORITHMS), N(REDIRECT_SUPPORTED)]",
		"IKE_SA_INIT response 0 [N(INVALID_KE_PAYLOAD)]",
		"IKE_SA_INIT request 0 [SA, KE, Nonce, N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), N(IKEV2_FRAGMENTATION_SUPPORTED), N(SIGNATURE_HASH_ALGORITHMS), N(REDIRECT_SUPPORTED)]",
		"IKE_SA_INIT response 0 [SA, KE, Nonce, N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), N(IKEV2_FRAGMENTATION_SUPPORTED), N(SIGNATURE_HASH_ALGORITHMS), N(CHILDLESS_IKEV2_SUPPORTED), N(notify 16404)]",
		"IKE_AUTH request 1 [IDi, N(INITIAL_CONTACT), IDr, AUTH, SA, TSi, TSr, N(MOBIKE_SUPPORTED), N(NO_ADDITIONAL_ADDRESSES), N(notify 16404), N(notify 16417), N(notify 16420)]",
		"IKE_AUTH response 1 [IDr, AUTH, SA, TSi, TSr, N(MOBIKE_SUPPORTED), N(NO_ADDITIONAL_ADDRESSES)]",
		"CREATE_CHILD_SA request 2 [N(REKEY_SA), SA, Nonce, KE, TSi, TSr]",
		"CREATE_CHILD_SA response 2 [SA, Nonce, KE, TSi, TSr]",
		"INFORMATIONAL request 3 [D(ESP ddb279db)]",
		"INFORMATIONAL response 3 [D(ESP a196b7f7)]",
		"CREATE_CHILD_SA request 0 [SA, Nonce, KE]",
		"CREATE_CHILD_SA response 0 [SA, Nonce, KE]",
		"INFORMATIONAL request 1 [D(IKE)]",
		"INFORMATIONAL response 1 []",
		"INFORMATIONAL request 0 [N(NO_ADDITIONAL_ADDRESSES)]",
		"INFORMATIONAL response 0 []",
		"INFORMATIONAL request 0 [D(IKE)]",
		"INFORMATIONAL response 0 []",
	}
	rec := readRecording(t)
	var spis []uint64 // of the initiators, in order of the keys
	reassemblers := map[bool]*Reassembler{false: {}, true: {}}
	var got []string
	for i, raw := range rec.raws {
		m, err := Parse(raw)
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if m.Encrypted() {
			if !slices.Contains(spis, m.InitiatorSPI) {
				spis = append(spis, m.InitiatorSPI)
			}
			side := 0
			if !m.Initiator {
				side = 1
			}
			key := unhex(t, rec.keys[slices.Index(spis, m.InitiatorSPI)][side])
			c := gcmWithSalt(t, key[:16], key[16:])
			if _, _, fragment := m.Fragment(); fragment {
				if m, err = reassemblers[m.Response].Add(raw, m, c); m == nil && err == nil {
					continue
				}
			} else {
				err = m.Open(raw, c)
			}
			if err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
		}
		if err := m.Check(); err != nil {
			t.Errorf("message %d: %v", i, err)
		}
		got = append(got, m.String())
		if !m.Encrypted() {
			if again, err := m.Append(nil); err != nil || !slices.Equal(again, raw) {
				t.Errorf("message %d: written as %x, %v\nwant %x", i, again, err, raw)
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got:\n%s", strings.Join(got, "\n"))
	}
}
