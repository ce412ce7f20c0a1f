package sslvpn

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
)

// epochPair returns the keys of two ends in the epoch format.
func epochPair(t testing.TB, c Cipher) (here, there *dataKey) {
	t.Helper()
	ours := dataKeys{cipher: c, epoch: true, sendKey: sequence(0, 32), recvKey: sequence(100, 32)}
	theirs := dataKeys{cipher: c, epoch: true, sendKey: ours.recvKey, recvKey: ours.sendKey}
	here, err := newDataKey(0, 7, ours)
	if err != nil {
		t.Fatal(err)
	}
	if there, err = newDataKey(0, 7, theirs); err != nil {
		t.Fatal(err)
	}
	return here, there
}

// skip moves sealing on by epochs.
func (k *dataKey) skip(t testing.TB, epochs int) {
	t.Helper()
	for range epochs {
		if !k.epochs.advance() {
			t.Fatal("there is no further epoch")
		}
	}
}

// opens wants a packet of a key to be opened, or not, by another.
func opens(t testing.TB, k *dataKey, sealed []byte, want reason) {
	t.Helper()
	if _, _, why := k.openIn(bytes.Clone(sealed)); why != want {
		t.Errorf("epoch %d: %q, want %q", binary.BigEndian.Uint16(sealed[4:]), why, want)
	}
}

// TestEpochPingVector compares with a ping of known keys: secret 00 01 …, peer
// id 7, epoch 1, counter 1.
func TestEpochPingVector(t *testing.T) {
	here, there := epochPair(t, AES128GCM)
	sealed := mustSeal(t, here, pingPacket)
	if want := unhex(t, "48000007000100000000000199adbeec51ccc1472c36aca86d5f3dda5187fb6e599a1fba11718faf467808c3"); !bytes.Equal(sealed, want) {
		t.Errorf("sealed %x, want %x", sealed, want)
	}
	if got, _, why := there.openIn(sealed); why != reasonNone || !isPing(got) {
		t.Errorf("opened %x, %s", got, why)
	}
}

func TestEpochSealAndOpen(t *testing.T) {
	for _, c := range ciphers {
		here, there := epochPair(t, c)
		for n := 1; n < 1600; n += 37 {
			packet := sequence(byte(n), n)
			sealed := mustSeal(t, here, packet)
			if len(sealed) != here.sealedLen(n) {
				t.Fatalf("%s: %d octets sealed are %d", c, n, len(sealed))
			}
			for i := range sealed {
				if i == 0 || n > 50 {
					continue
				}
				forged := bytes.Clone(sealed)
				forged[i] ^= 0x80
				if _, _, why := there.openIn(forged); why != reasonIntegrity && why != reasonEpoch {
					t.Fatalf("%s: octet %d changed: %q", c, i, why)
				}
			}
			got, rekey, why := there.openIn(bytes.Clone(sealed))
			if why != reasonNone || rekey || !bytes.Equal(got, packet) {
				t.Fatalf("%s: %d octets: %q, %x", c, n, why, got)
			}
			opens(t, there, sealed, reasonReplay)
			opens(t, there, sealed[:epochOverhead], reasonTruncated)
		}
		sealed := mustSeal(t, here, pingPacket)
		sealed[0] = opcodeDataV1 << 3
		opens(t, there, sealed, reasonUnknownKey)
	}
}

// TestEpochWindow: the epoch before the newest one and four after it are open, and
// nothing else, at either border.
func TestEpochWindow(t *testing.T) {
	here, there := epochPair(t, AES256GCM)
	of := map[int][]byte{}
	for number := 1; number <= 20; number++ {
		of[number] = mustSeal(t, here, pingPacket)
		here.skip(t, 1)
	}
	opens(t, there, of[1], reasonNone)
	opens(t, there, of[6], reasonEpoch)
	opens(t, there, of[5], reasonNone) // the last one that is ready
	opens(t, there, of[3], reasonEpoch)
	opens(t, there, of[1], reasonEpoch)
	opens(t, there, of[4], reasonNone)
	opens(t, there, of[10], reasonEpoch)
	opens(t, there, of[9], reasonNone)
	opens(t, there, of[4], reasonEpoch)
	// A forged packet moves nothing.
	forged := bytes.Clone(of[13])
	forged[20] ^= 1
	opens(t, there, forged, reasonIntegrity)
	opens(t, there, of[14], reasonEpoch)
	opens(t, there, of[8], reasonNone)
	opens(t, there, of[8], reasonReplay)
	zero := bytes.Clone(of[9])
	clear(zero[4:6])
	opens(t, there, zero, reasonEpoch)
	// Who hears of an epoch does not stay behind it.
	if answer := mustSeal(t, there, pingPacket); binary.BigEndian.Uint16(answer[4:]) != 9 {
		t.Errorf("the answer is of epoch %d", binary.BigEndian.Uint16(answer[4:]))
	}
}

// TestEpochEnds: sealing moves on before the limits of the cipher, asks for other
// keys in time, and stops at the last epoch.
func TestEpochEnds(t *testing.T) {
	number := func(sealed []byte) uint16 { return binary.BigEndian.Uint16(sealed[4:]) }
	here, there := epochPair(t, AES128GCM)
	here.epochs.blocks = epochBlocks - 2
	if got := mustSeal(t, here, pingPacket); number(got) != 1 {
		t.Errorf("the last blocks are of epoch %d", number(got))
	}
	next := mustSeal(t, here, pingPacket)
	if number(next) != 2 || next[11] != 1 {
		t.Errorf("after the last blocks: %x", next[4:12])
	}
	opens(t, there, next, reasonNone)
	here.epochs.counter = lastCounter
	if got := mustSeal(t, here, pingPacket); number(got) != 3 {
		t.Errorf("after the last counter: epoch %d", number(got))
	}
	chacha, _ := epochPair(t, ChaCha20Poly1305)
	chacha.epochs.blocks = epochBlocks
	if got := mustSeal(t, chacha, pingPacket); number(got) != 1 {
		t.Errorf("ChaCha20 has no limit of blocks: epoch %d", number(got))
	}

	room := make([]byte, 0, 100)
	asked := 0
	for n := int(here.epochs.sending.number); n < lastEpoch; n++ {
		here.skip(t, 1)
		if n == rekeyEpoch-2 && asked != 0 {
			t.Error("asks for keys too early")
		}
		if _, rekey, ok := here.sealTo(room, pingPacket); !ok {
			t.Fatalf("epoch %d: used up", n)
		} else if rekey {
			asked++
		}
	}
	if asked != 1 {
		t.Errorf("asked for keys %d times", asked)
	}
	here.epochs.counter = lastCounter
	if _, _, ok := here.sealTo(room, pingPacket); ok {
		t.Error("sealed beyond the last epoch")
	}
}

func TestEpochKeysAreWiped(t *testing.T) {
	here, _ := epochPair(t, AES128GCM)
	here.wipe()
	e := here.epochs
	if e.sendChain.secret != [32]byte{} || e.recvChain.secret != [32]byte{} || e.sending.aead != nil || e.sending.iv != [12]byte{} {
		t.Error("something is left")
	}
	if _, err := newDataKey(0, 7, dataKeys{cipher: AES128GCM, epoch: true, sendKey: sequence(0, 31), recvKey: sequence(0, 32)}); err == nil {
		t.Error("a short secret is taken")
	}
}

// FuzzEpochOpen gives octets of anybody: nothing is opened, nothing is kept of them.
func FuzzEpochOpen(f *testing.F) {
	target := fuzztest.New(f)
	here, there := epochPair(f, AES128GCM)
	target.Add(mustSeal(f, here, pingPacket)[:30])
	target.Add(append([]byte{0x48, 0, 0, 7, 0, 5, 0, 0, 0, 0, 0, 1}, make([]byte, 40)...))
	target.Add(append([]byte{0x48, 0, 0, 7, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, make([]byte, 17)...))
	target.Fuzz(func(t *testing.T, packet []byte) {
		there.forgeries = 0
		if len(packet) == 0 {
			return
		}
		if _, _, why := there.openIn(bytes.Clone(packet)); why == reasonNone {
			t.Fatalf("%x was opened", packet)
		}
		if there.epochs.newest != 1 {
			t.Fatalf("%x moved on to epoch %d", packet, there.epochs.newest)
		}
	})
}
