package api

import "sync"

// maxCallerInFlight is how many requests of one caller are served at once, for
// the memory they take: an answer can list thousands of objects.
const maxCallerInFlight = 16

// tally counts what goes on at the moment under each of a set of names.
type tally struct {
	mu     sync.Mutex
	number map[string]int
}

func newTally() *tally { return &tally{number: map[string]int{}} }

// begin counts one more and returns how many there are.
func (t *tally) begin(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.number[name]++
	return t.number[name]
}

// end counts one less.
func (t *tally) end(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.number[name]--; t.number[name] <= 0 {
		delete(t.number, name)
	}
}
