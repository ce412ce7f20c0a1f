package sslvpn

// replayWindow remembers which of the last replayPackets packet ids have been
// seen. It serves one goroutine. Stock OpenVPN looks back 64 packets; batching
// and several receive queues on the way reorder more than that.
//
// The bits lie in a ring of words that is larger than the window by more than
// a word, so that the window moves on without shifting (RFC 6479).
type replayWindow struct {
	highest uint64
	ring    [replayWords]uint64
}

const (
	wordBits      = 64
	replayWords   = 32
	replayPackets = (replayWords - 2) * wordBits
)

// fresh reports whether a packet id is right of the window, or inside and not
// seen. Zero is never sent.
func (w *replayWindow) fresh(id uint64) bool {
	switch {
	case id == 0:
		return false
	case id > w.highest:
		return true
	case w.highest-id >= replayPackets:
		return false
	}
	return w.ring[id/wordBits%replayWords]&(1<<(id%wordBits)) == 0
}

// commit marks a fresh packet id as seen.
func (w *replayWindow) commit(id uint64) {
	if id > w.highest {
		from, to := w.highest/wordBits, id/wordBits
		for step := min(to-from, replayWords); step > 0; step-- {
			w.ring[(to-step+1)%replayWords] = 0
		}
		w.highest = id
	}
	w.ring[id/wordBits%replayWords] |= 1 << (id % wordBits)
}
