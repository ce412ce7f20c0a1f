package esp

import (
	"sync"
	"sync/atomic"
)

const wordBits = 64

// replayWindow remembers which of the last size sequence numbers have been
// seen (RFC 4303, section 3.4.3). The bits lie in a ring of words, so that the
// window moves on without shifting (RFC 6479); the ring is larger than the
// window by at least a word, and a word is cleared when the highest number
// enters it.
//
// fresh reads without a lock: what it sees while commit moves the window can
// be out of date, but then the number it asks for lies left of the new window
// and is refused now or by commit.
type replayWindow struct {
	size    uint64 // packets
	mask    uint64 // words in the ring, less one
	highest atomic.Uint64

	mu   sync.Mutex // held to change highest and ring
	ring []atomic.Uint64
}

// init makes it a window of a number of packets.
func (w *replayWindow) init(size int) {
	words := uint64(2)
	for words*wordBits < uint64(size)+2*wordBits {
		words *= 2
	}
	w.size, w.mask, w.ring = uint64(size), words-1, make([]atomic.Uint64, words)
}

// fresh reports whether a sequence number is right of the window, or inside
// and not seen. Zero is never sent (RFC 4303, section 3.3.3).
func (w *replayWindow) fresh(seq uint64) bool {
	highest := w.highest.Load()
	switch {
	case seq == 0:
		return false
	case seq > highest:
		return true
	case highest-seq >= w.size:
		return false
	}
	return w.ring[seq/wordBits&w.mask].Load()&(1<<(seq%wordBits)) == 0
}

// commit marks a sequence number as seen. ok is false when it is not fresh any
// more; newest tells that it is the highest so far.
func (w *replayWindow) commit(seq uint64) (newest, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.fresh(seq) {
		return false, false
	}
	highest := w.highest.Load()
	newest = seq > highest
	if newest {
		from, to := highest/wordBits, seq/wordBits
		for step := min(to-from, w.mask+1); step > 0; step-- {
			w.ring[(to-step+1)&w.mask].Store(0)
		}
	}
	word := &w.ring[seq/wordBits&w.mask]
	word.Store(word.Load() | 1<<(seq%wordBits))
	if newest {
		w.highest.Store(seq)
	}
	return newest, true
}
