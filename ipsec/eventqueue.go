package ipsec

import "sync"

// eventDepth is how many events wait in the channel before they fold.
const eventDepth = 256

// EventQueue hands a Backend's events to a reader without ever waiting for it.
// Its methods may be called by several goroutines.
type EventQueue struct {
	channel chan Event

	mu      sync.Mutex
	pending []Event // guarded by mu; each kind of an SA or policy once
}

// NewEventQueue returns an empty queue.
func NewEventQueue() *EventQueue {
	return &EventQueue{channel: make(chan Event, eventDepth)}
}

// Channel returns what the reader reads. It is never closed.
func (q *EventQueue) Channel() <-chan Event { return q.channel }

// Emit reports an event. While the channel is full, a later event of the same
// kind for the same SA or policy takes the place of the one before.
func (q *EventQueue) Emit(ev Event) {
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

// Push moves what has waited to the channel as far as there is room. Somebody
// has to call it from time to time.
func (q *EventQueue) Push() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pushLocked()
}

func (q *EventQueue) pushLocked() {
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
