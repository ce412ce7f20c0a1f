package sslvpn

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// sequence returns n octets that count up from first.
func sequence(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// keyPair returns the keys of two ends that talk to each other.
func keyPair(t testing.TB, c Cipher, id uint8, peerID uint32) (here, there *dataKey) {
	t.Helper()
	n := c.keyLen()
	ours := dataKeys{c, sequence(1, n), sequence(101, n), sequence(50, 8), sequence(80, 8), false}
	theirs := dataKeys{c, ours.recvKey, ours.sendKey, ours.recvIV, ours.sendIV, false}
	here, err := newDataKey(id, peerID, ours)
	if err != nil {
		t.Fatal(err)
	}
	if there, err = newDataKey(id, peerID, theirs); err != nil {
		t.Fatal(err)
	}
	return here, there
}

func mustSeal(t testing.TB, k *dataKey, packet []byte) []byte {
	t.Helper()
	out, _, ok := k.sealTo(make([]byte, 0, k.sealedLen(len(packet))+tagLen), packet)
	if !ok {
		t.Fatal("the key is used up")
	}
	return out
}

var ciphers = []Cipher{AES128GCM, AES256GCM, ChaCha20Poly1305}

// TestPingVectors compares with a ping of known keys in both formats: key
// 00 01 …, implicit IV a0 a1 …, key id 0, peer id 7, packet id 1.
func TestPingVectors(t *testing.T) {
	keys := dataKeys{AES128GCM, sequence(0, 16), sequence(0, 16), sequence(0xa0, 8), sequence(0xa0, 8), false}
	v2 := unhex(t, "4800000700000001a11854ed695488f1a009c488a902b7e1691621137235f102537dd621339b07c5")
	v1 := unhex(t, "3000000001b8381109dd765baa19828ee384084224691621137235f102537dd621339b07c5")
	k, err := newDataKey(0, 7, keys)
	if err != nil {
		t.Fatal(err)
	}
	if got := mustSeal(t, k, pingPacket); !bytes.Equal(got, v2) {
		t.Errorf("sealed %x, want %x", got, v2)
	}
	for name, packet := range map[string][]byte{"DATA_V1": v1, "DATA_V2": v2} {
		k, err := newDataKey(0, 7, keys)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, why := k.openIn(bytes.Clone(packet)); why != reasonNone || !isPing(got) {
			t.Errorf("%s: opened %x, %s", name, got, why)
		}
	}
}

func TestSealAndOpen(t *testing.T) {
	for _, c := range ciphers {
		t.Run(string(c), func(t *testing.T) {
			here, there := keyPair(t, c, 5, 0x123456)
			for n := 1; n < 1600; n += 37 {
				packet := sequence(byte(n), n)
				sealed := mustSeal(t, here, packet)
				if len(sealed) != here.sealedLen(n) || !bytes.Equal(sealed[:4], []byte{9<<3 | 5, 0x12, 0x34, 0x56}) {
					t.Fatalf("%d octets: sealed %d, header %x", n, len(sealed), sealed[:8])
				}
				// What lies behind is another's.
				behind := sequence(200, tagLen)
				room := append(bytes.Clone(sealed), behind...)
				got, rekey, why := there.openIn(room[:len(sealed)])
				if why != reasonNone || rekey || !bytes.Equal(got, packet) {
					t.Fatalf("%d octets: %s, rekey %v, %x", n, why, rekey, got)
				}
				if !bytes.Equal(room[len(sealed):], behind) {
					t.Fatalf("%d octets: what lies behind was changed", n)
				}
			}
		})
	}
}

func TestOpenWithoutRoomBehind(t *testing.T) {
	here, there := keyPair(t, AES128GCM, 0, 1)
	sealed := mustSeal(t, here, []byte("packet"))
	if got, _, why := there.openIn(sealed[:len(sealed):len(sealed)]); why != reasonNone || string(got) != "packet" {
		t.Errorf("%q, %s", got, why)
	}
}

// TestForgeries changes each octet in turn: none is opened, and none keeps the
// packet itself from being opened.
func TestForgeries(t *testing.T) {
	for _, c := range ciphers {
		here, there := keyPair(t, c, 0, 9)
		sealed := mustSeal(t, here, []byte("a packet of some octets"))
		for i := 1; i < len(sealed); i++ {
			forged := bytes.Clone(sealed)
			forged[i] ^= 1
			want := reasonIntegrity
			if i == 7 {
				want = reasonReplay // packet id 0
			}
			if _, _, why := there.openIn(forged); why != want {
				t.Fatalf("%s, octet %d: %s, want %s", c, i, why, want)
			}
		}
		for n := range len(sealed) {
			if n == 0 {
				continue // nothing is opened without an opcode
			}
			if _, _, why := there.openIn(bytes.Clone(sealed[:n])); why != reasonIntegrity && why != reasonTruncated {
				t.Fatalf("%s, cut to %d: %s", c, n, why)
			}
		}
		if _, _, why := there.openIn(bytes.Clone(sealed)); why != reasonNone {
			t.Errorf("%s: %s", c, why)
		}
		if _, _, why := there.openIn(sealed); why != reasonReplay {
			t.Errorf("%s, again: %s", c, why)
		}
	}
}

func TestWrongKeys(t *testing.T) {
	good := dataKeys{AES256GCM, sequence(0, 32), sequence(0, 32), sequence(0, 8), sequence(0, 8), false}
	for _, tt := range []struct {
		name, want string
		id         uint8
		change     func(*dataKeys)
	}{
		{"cipher", `data channel cipher "BF-CBC": must be AES-128-GCM, `, 0, func(k *dataKeys) { k.cipher = "BF-CBC" }},
		{"key", "data channel key of 16 octets: AES-256-GCM needs 32", 0, func(k *dataKeys) { k.recvKey = k.recvKey[:16] }},
		{"IV", "implicit IV of 7 octets: must have 8", 0, func(k *dataKeys) { k.sendIV = k.sendIV[:7] }},
		{"key id", "key id 8: must be below 8", 8, func(*dataKeys) {}},
	} {
		k := good
		tt.change(&k)
		if _, err := newDataKey(tt.id, 0, k); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestKeyEnds drives a key to its limits: it asks once for another, and no
// packet id is ever used again.
func TestKeyEnds(t *testing.T) {
	room := make([]byte, 0, 256)
	t.Run("packet ids", func(t *testing.T) {
		k, _ := keyPair(t, AES128GCM, 0, 0)
		k.seal.packetID = rekeyPacketID - 2
		for i, want := range []bool{false, true, false} {
			if _, rekey, ok := k.sealTo(room, pingPacket); !ok || rekey != want {
				t.Errorf("packet %d: rekey %v, sealed %v", i, rekey, ok)
			}
		}
		k.seal.packetID = lastPacketID - 1
		sealed, _, ok := k.sealTo(room, pingPacket)
		if !ok || !bytes.Equal(sealed[4:8], []byte{255, 255, 255, 255}) {
			t.Errorf("the last packet: %x, %v", sealed, ok)
		}
		for range 2 {
			if out, _, ok := k.sealTo(room, pingPacket); ok || len(out) != 0 {
				t.Errorf("behind the last packet: %x", out)
			}
		}
	})
	t.Run("blocks", func(t *testing.T) {
		for _, c := range ciphers {
			here, there := keyPair(t, c, 0, 0)
			here.seal.blocks = rekeyBlocks - 3
			there.open.blocks = rekeyBlocks - 3
			want := c != ChaCha20Poly1305
			for i := range 3 {
				sealed, rekey, _ := here.sealTo(room, pingPacket) // a packet and a block
				_, rekeyThere, _ := there.openIn(sealed)
				if w := want && i == 1; rekey != w || rekeyThere != w {
					t.Errorf("%s, packet %d: rekey %v and %v", c, i, rekey, rekeyThere)
				}
			}
			here.seal.blocks = gcmBlocks - 1
			if _, _, ok := here.sealTo(room, pingPacket); ok == want {
				t.Errorf("%s: sealed beyond the limit: %v", c, ok)
			}
		}
	})
	t.Run("forgeries", func(t *testing.T) {
		here, there := keyPair(t, AES128GCM, 0, 0)
		there.forgeries = rekeyForgeries - 1
		forged := mustSeal(t, here, pingPacket)
		forged[10] ^= 1
		if _, rekey, why := there.openIn(forged); !rekey || why != reasonIntegrity {
			t.Errorf("rekey %v, %s", rekey, why)
		}
		there.forgeries = lastForgeries
		if _, _, why := there.openIn(mustSeal(t, here, pingPacket)); why != reasonExhausted {
			t.Errorf("%s", why)
		}
	})
}

// TestReplayWindow compares the window with a set of all that was seen.
func TestReplayWindow(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var w replayWindow
	seen := map[uint64]bool{}
	highest := uint64(0)
	for range 200_000 {
		var id uint64
		switch random.IntN(10) {
		case 0:
			id = highest + 1 + random.Uint64N(3*replayPackets)
		case 1, 2, 3:
			id = highest + 1
		default:
			id = highest - min(highest, random.Uint64N(replayPackets+100))
		}
		want := id != 0 && !seen[id] && (id > highest || highest-id < replayPackets)
		if got := w.fresh(id); got != want {
			t.Fatalf("packet id %d at %d: fresh %v, want %v", id, highest, got, want)
		}
		if want {
			w.commit(id)
			seen[id] = true
			highest = max(highest, id)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	for _, c := range ciphers {
		for _, n := range []int{64, 1400} {
			b.Run(fmt.Sprintf("%s/%d", c, n), func(b *testing.B) {
				k, _ := keyPair(b, c, 0, 1)
				packet, room := sequence(0, n), make([]byte, 0, 2048)
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					k.sealTo(room, packet)
				}
			})
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, c := range ciphers {
		for _, n := range []int{64, 1400} {
			b.Run(fmt.Sprintf("%s/%d", c, n), func(b *testing.B) {
				here, there := keyPair(b, c, 0, 1)
				sealed := mustSeal(b, here, sequence(0, n))
				room := make([]byte, len(sealed), len(sealed)+tagLen)
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					copy(room, sealed)
					there.window = replayWindow{}
					if _, _, why := there.openIn(room); why != reasonNone {
						b.Fatal(why)
					}
				}
			})
		}
	}
}
