package esp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

// Packets get the numbers that were reserved for them, whatever others take, and
// open like those sealed one by one.
func TestReserve(t *testing.T) {
	for _, s := range []suite{suites()[0], suites()[4]} {
		out, in := pair(t, s.sa(true))
		a, b, opener := out.NewSealer(), out.NewSealer(), in.NewOpener()
		first, err := a.Reserve(3, 60)
		if err != nil || first != 1 {
			t.Fatalf("%s: first is %d, %v", s.name, first, err)
		}
		if next, err := b.Reserve(2, 40); err != nil || next != 4 {
			t.Fatalf("%s: next is %d, %v", s.name, next, err)
		}
		for _, want := range []uint32{4, 5} {
			if got := binary.BigEndian.Uint32(mustSeal(t, b, counting(0, 20))[4:]); got != want {
				t.Errorf("%s: number %d, want %d", s.name, got, want)
			}
		}
		if out.NewSealer().ReserveNext(3, 1, 20) || !b.ReserveNext(5, 1, 20) {
			t.Errorf("%s: what follows on the number of another", s.name)
		}
		if _, err := b.Reserve(2, 40); err != nil { // the numbers 7 and 8; 6 is given up
			t.Fatal(err)
		}
		if s := out.State(); s.Packets != 8 || s.Bytes != 160 {
			t.Errorf("counters are %+v", s)
		}
		for _, of := range []struct {
			sealer *Sealer
			want   uint32
		}{{b, 7}, {a, 1}, {a, 2}, {b, 8}, {a, 3}, {b, 9}, {a, 10}} {
			sealed := mustSeal(t, of.sealer, counting(0, 20))
			if got := binary.BigEndian.Uint32(sealed[4:]); got != of.want {
				t.Errorf("%s: number %d, want %d", s.name, got, of.want)
			}
			if _, _, err := opener.Open(sealed); err != nil {
				t.Errorf("%s: number %d: %v", s.name, of.want, err)
			}
		}
	}
}

// What has its number is sealed though the keys are dropped meanwhile.
func TestReserveThenWipe(t *testing.T) {
	for _, s := range []suite{suites()[0], suites()[4]} {
		out, in := pair(t, s.sa(false))
		sealer := out.NewSealer()
		if _, err := sealer.Reserve(2, 40); err != nil {
			t.Fatal(err)
		}
		out.Wipe()
		for range 2 {
			if _, _, err := in.NewOpener().Open(mustSeal(t, sealer, counting(0, 20))); err != nil {
				t.Errorf("%s: %v", s.name, err)
			}
		}
		if _, err := sealer.Seal(nil, room(nil), 4); !errors.Is(err, ErrWiped) {
			t.Errorf("%s: behind the reserved ones: %v", s.name, err)
		}
		if _, err := sealer.Reserve(2, 40); !errors.Is(err, ErrWiped) {
			t.Errorf("%s: reserve: %v", s.name, err)
		}
	}
}

// A limit within the packets is for all of them; one by one as many pass as should.
func TestReserveAtLimits(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limits ipsec.Lifetime
		start  uint64
		n      int // too many
		passes int // of 100 octets
		want   error
	}{
		{"packets", ipsec.Lifetime{HardPackets: 3}, 0, 4, 3, ErrExpired},
		{"bytes", ipsec.Lifetime{HardBytes: 300}, 0, 4, 3, ErrExpired},
		{"bytes inside a packet", ipsec.Lifetime{HardBytes: 201}, 0, 4, 3, ErrExpired},
		{"numbers", ipsec.Lifetime{}, 1<<32 - 4, 4, 3, ErrSequenceExhausted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sa := suites()[0].sa(false)
			sa.Lifetime = tt.limits
			out, _ := pair(t, sa)
			out.sequence.Store(tt.start)
			sealer := out.NewSealer()
			if _, err := sealer.Reserve(tt.n, tt.n*100); !errors.Is(err, tt.want) {
				t.Fatalf("%d at once: %v, want %v", tt.n, err, tt.want)
			}
			if s := out.State(); s.Sequence != tt.start || s.Bytes != 0 {
				t.Errorf("numbers are taken: %+v", s)
			}
			for i := range tt.passes {
				if first, err := sealer.Reserve(1, 100); err != nil || first != tt.start+uint64(i)+1 {
					t.Errorf("packet %d: number %d, %v", i, first, err)
				}
			}
			if _, err := sealer.Reserve(1, 100); !errors.Is(err, tt.want) {
				t.Errorf("the last one: %v, want %v", err, tt.want)
			}
		})
	}
}

// Several workers never get the same number, and no number is left out.
func TestReserveConcurrently(t *testing.T) {
	out, _ := pair(t, suites()[0].sa(false))
	const workers, rounds, most = 4, 500, 7
	var mu sync.Mutex
	seen := map[uint32]bool{}
	var wait sync.WaitGroup
	for range workers {
		wait.Go(func() {
			sealer := out.NewSealer()
			for i := range rounds {
				n := i%most + 1
				if _, err := sealer.Reserve(n, n*20); err != nil {
					t.Error(err)
					return
				}
				for range n {
					sealed, err := sealer.Seal(nil, room(counting(0, 20)), 4)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					if number := binary.BigEndian.Uint32(sealed[4:]); seen[number] {
						t.Errorf("number %d twice", number)
					} else {
						seen[number] = true
					}
					mu.Unlock()
				}
			}
		})
	}
	wait.Wait()
	if s := out.State(); uint64(len(seen)) != s.Sequence || s.Bytes != 20*s.Packets {
		t.Errorf("%d numbers seen of %+v", len(seen), s)
	}
}

// The key of an AEAD is overwritten, and no worker gets one from then on.
func TestWipeClearsTheKey(t *testing.T) {
	out, in := pair(t, suites()[0].sa(false))
	a, b := out.transform.Load(), in.transform.Load()
	keys := [][]byte{a.key, b.key}
	if bytes.Equal(keys[0], make([]byte, len(keys[0]))) {
		t.Fatal("the key is zero already")
	}
	out.Wipe()
	in.Wipe()
	for i, key := range keys {
		if len(key) == 0 || !bytes.Equal(key, make([]byte, len(key))) {
			t.Errorf("key %d has %d octets, not all zero", i, len(key))
		}
	}
	if a.workerAEAD() != nil || b.workerAEAD() != nil {
		t.Error("a worker got an AEAD")
	}
	if _, _, err := in.NewOpener().Open(make([]byte, 100)); !errors.Is(err, ErrWiped) {
		t.Errorf("open: %v", err)
	}
}
