package esp

import (
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// slowWindow is the replay window by its definition: a set of numbers.
type slowWindow struct {
	size, highest uint64
	seen          map[uint64]bool
}

func (w *slowWindow) commit(seq uint64) (newest, ok bool) {
	if seq == 0 || seq < w.highest && w.highest-seq >= w.size || w.seen[seq] {
		return false, false
	}
	w.seen[seq] = true
	newest = seq > w.highest
	w.highest = max(w.highest, seq)
	return newest, true
}

// compare feeds one number to both and stops at the first difference.
func compare(t *testing.T, fast *replayWindow, slow *slowWindow, seq uint64) {
	t.Helper()
	fresh := fast.fresh(seq)
	gotNewest, got := fast.commit(seq)
	wantNewest, want := slow.commit(seq)
	if fresh != want || got != want || gotNewest != wantNewest || fast.highest.Load() != slow.highest {
		t.Fatalf("window %d: sequence %d with highest %d: fresh %t, commit %t (newest %t), want %t (newest %t)",
			fast.size, seq, slow.highest, fresh, got, gotNewest, want, wantNewest)
	}
}

// TestReplayEveryOrder plays every sequence of steps of a small world.
func TestReplayEveryOrder(t *testing.T) {
	steps := []int64{-130, -65, -64, -63, -1, 0, 1, 2, 63, 64, 65, 128, 1000}
	const depth = 4
	for _, size := range []int{1, 2, 63, 64, 65, 128} {
		path := make([]int, depth)
		for {
			fast := newReplayWindow(size)
			slow := &slowWindow{size: uint64(size), seen: map[uint64]bool{}}
			compare(t, fast, slow, 200)
			for _, i := range path {
				seq := int64(slow.highest) + steps[i]
				compare(t, fast, slow, uint64(max(seq, 0)))
			}
			// What the path left in the ring shows in every number of the window.
			low := max(int64(slow.highest)-int64(size)-2, 0)
			for seq := uint64(low); seq <= slow.highest; seq++ {
				want := seq != 0 && seq+slow.size > slow.highest && !slow.seen[seq]
				if got := fast.fresh(seq); got != want {
					t.Fatalf("window %d, path %v: fresh(%d) = %t with highest %d", size, path, seq, got, slow.highest)
				}
			}
			i := 0
			for ; i < depth; i++ {
				if path[i]++; path[i] < len(steps) {
					break
				}
				path[i] = 0
			}
			if i == depth {
				break
			}
		}
	}
}

// TestReplayRandomWalk goes far, with loss, reordering, duplicates and jumps.
func TestReplayRandomWalk(t *testing.T) {
	for _, size := range []int{1, 7, 64, 100, 1024, 4096} {
		rng := rand.New(rand.NewPCG(7, uint64(size)))
		for _, start := range []uint64{1, 1<<32 - 5000, math.MaxUint64 - 60_000} {
			fast := newReplayWindow(size)
			slow := &slowWindow{size: uint64(size), seen: map[uint64]bool{}}
			compare(t, fast, slow, start)
			for range 20_000 {
				reach := int64(size) + 70
				if rng.IntN(500) == 0 {
					reach *= 4
				}
				step := rng.Int64N(reach) - reach*2/3
				if step > 0 && rng.IntN(4) != 0 {
					step = 1
				}
				seq := slow.highest + uint64(step)
				if step > 0 && seq < slow.highest || step < 0 && seq > slow.highest {
					continue // past an end of the numbers
				}
				compare(t, fast, slow, seq)
			}
		}
	}
}

// TestReplayConcurrent has several workers offer the same numbers: each must
// be accepted exactly once, as long as none leaves the window.
func TestReplayConcurrent(t *testing.T) {
	const workers, count = 4, 2000
	w := newReplayWindow(count)
	var accepted [count + 1]atomic.Uint32
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(worker)))
			for _, i := range rng.Perm(count) {
				seq := uint64(i + 1)
				if !w.fresh(seq) {
					continue
				}
				if _, ok := w.commit(seq); ok {
					accepted[seq].Add(1)
				}
			}
		})
	}
	wg.Wait()
	for seq := 1; seq <= count; seq++ {
		if n := accepted[seq].Load(); n != 1 {
			t.Fatalf("sequence %d was accepted %d times", seq, n)
		}
	}
}

func TestInferESN(t *testing.T) {
	const sub = 1 << 32
	tests := []struct {
		name            string
		highest, window uint64
		low             uint32
		want            uint64
		ok              bool
	}{
		{"first packet", 0, 64, 1, 1, true},
		{"nothing is left of the first", 0, 64, math.MaxUint32, 0, false},
		{"bottom of the window", 1000, 64, 937, 937, true},
		{"left of the window means the next subspace", 1000, 64, 936, sub + 936, true},
		{"right of the window", 1000, 64, 70_000, 70_000, true},
		{"wrap", sub - 1, 64, 0, sub, true},
		{"wrap by more", sub - 1, 64, 5, sub + 5, true},
		{"late, before the wrap", sub + 3, 64, math.MaxUint32, sub - 1, true},
		{"late, bottom of the window", sub + 3, 64, math.MaxUint32 - 59, sub - 60, true},
		{"below the bottom means far right", sub + 3, 64, math.MaxUint32 - 60, sub + math.MaxUint32 - 60, true},
		{"window begins the subspace", sub + 63, 64, 0, sub, true},
		{"window begins the subspace, wrap", sub + 63, 64, math.MaxUint32, sub + math.MaxUint32, true},
		{"window of one", sub + 5, 1, 4, 2*sub + 4, true},
		{"last subspace", math.MaxUint64 - 5, 64, math.MaxUint32, math.MaxUint64, true},
		{"past the last subspace", math.MaxUint64, 64, 0, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := inferESN(tt.highest, tt.window, tt.low)
			if got != tt.want || ok != tt.ok {
				t.Errorf("got %#x, %t, want %#x, %t", got, ok, tt.want, tt.ok)
			}
		})
	}
}

// TestInferESNFindsSent: whatever was sent inside the window, or less than a
// subspace minus the window right of it, is found again from its low half.
func TestInferESNFindsSent(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 100_000 {
		window := uint64(1 + rng.IntN(MaxReplayWindow))
		highest := rng.Uint64N(5 << 32)
		if rng.IntN(2) == 0 { // near a wrap
			highest = uint64(rng.IntN(4)+1)<<32 + rng.Uint64N(2*window) - window
		}
		bottom := uint64(0)
		if highest >= window {
			bottom = highest - window + 1
		}
		sent := bottom + rng.Uint64N(1<<32-(window-min(window, highest)))
		if got, ok := inferESN(highest, window, uint32(sent)); !ok || got != sent {
			t.Fatalf("highest %#x, window %d: sent %#x, inferred %#x, %t", highest, window, sent, got, ok)
		}
	}
}

// TestESNWrap carries an SA over the end of the low half, with late packets.
func TestESNWrap(t *testing.T) {
	for _, s := range []suite{suites()[0], suites()[6]} {
		t.Run(s.name, func(t *testing.T) {
			out, in := pair(t, s.sa(true))
			sealer, opener := out.NewSealer(), in.NewOpener()
			out.sequence.Store(1<<32 - 5)
			in.window.highest.Store(1<<32 - 5)
			var sealed [][]byte
			for range 10 {
				sealed = append(sealed, mustSeal(t, sealer, counting(0, 30)))
			}
			for _, i := range []int{0, 1, 4, 3, 6, 2, 9, 5, 8, 7} {
				if _, _, err := opener.Open(append([]byte(nil), sealed[i]...)); err != nil {
					t.Fatalf("packet %d: %v", i, err)
				}
			}
			if got := in.State().Sequence; got != 1<<32+5 {
				t.Errorf("highest is %#x", got)
			}
			// The next subspace's packets differ from these in the ICV alone.
			in.window.highest.Store(2<<32 - 5)
			if _, _, err := opener.Open(sealed[8]); !errors.Is(err, ErrIntegrity) {
				t.Errorf("packet of an earlier subspace: %v", err)
			}
		})
	}
}

func newReplayWindow(size int) *replayWindow {
	w := &replayWindow{}
	w.init(size)
	return w
}
