package dataplane

import "sync"

// turn has the batches of an outbound SA sent in the order of their sequence
// numbers, whoever sealed them. Else the ones of two queues would be late for the
// replay window of a peer, which may be as small as 32 packets (RFC 4303, section
// 3.4.3). Who has taken numbers waits for nothing but its turn, so that it comes.
type turn struct {
	mu    sync.Mutex
	moved sync.Cond // by mu
	sent  uint64    // the last number that was sent or given up; guarded by mu
}

func newTurn() *turn {
	t := &turn{}
	t.moved.L = &t.mu
	return t
}

// wait returns when all numbers before first were sent or given up.
func (t *turn) wait(first uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.sent != first-1 {
		t.moved.Wait()
	}
}

// pass ends the turn that the caller has waited for, whose last number it tells.
func (t *turn) pass(last uint64) {
	t.mu.Lock()
	t.sent = last
	t.mu.Unlock()
	t.moved.Broadcast()
}
