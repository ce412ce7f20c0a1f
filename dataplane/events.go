package dataplane

import (
	"sync"

	"github.com/vpngw/vpngw/ipsec"
)

// eventDepth is how many events wait in the channel before they fold.
const eventDepth = 256

// events hands events to a reader without ever waiting for it.
type events struct {
	channel chan ipsec.Event

	mu      sync.Mutex
	pending []ipsec.Event // guarded by mu; each kind of an SA or policy once
}

func newEvents() *events {
	return &events{channel: make(chan ipsec.Event, eventDepth)}
}

// emit reports an event. While the channel is full, a later event of the same
// kind for the same SA or policy takes the place of the one before.
func (q *events) emit(ev ipsec.Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, p := range q.pending {
		if p.Kind == ev.Kind && p.ReqID == ev.ReqID && p.SA == ev.SA {
			q.pending[i] = ev
			q.pushLocked()
			return
		}
	}
	q.pending = append(q.pending, ev)
	q.pushLocked()
}

// push moves what has waited to the channel as far as there is room.
func (q *events) push() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pushLocked()
}

func (q *events) pushLocked() {
	for len(q.pending) > 0 {
		select {
		case q.channel <- q.pending[0]:
			q.pending = q.pending[1:]
		default:
			return
		}
	}
	q.pending = nil
}
