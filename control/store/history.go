package store

import (
	"context"
	"slices"
	"strings"
	"sync"
)

// What a history keeps for watchers that are behind.
const (
	historyEvents = 8192
	historyOctets = 32 << 20
)

// history holds the latest changes in the order of their revisions and wakes
// those who wait for more. It lives in memory: after a restart watchers list
// again.
type history struct {
	mu        sync.Mutex
	events    []Event
	octets    int
	compacted int64         // changes up to this revision are gone
	latest    int64         // revision of the last change
	more      chan struct{} // closed, and replaced, when there are changes
	done      chan struct{} // closed when no more will come
}

func newHistory(rev int64) *history {
	return &history{compacted: rev, latest: rev, more: make(chan struct{}), done: make(chan struct{})}
}

// append adds the changes of one transaction.
func (h *history) append(rev int64, events []Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, events...)
	h.latest = rev
	for _, e := range events {
		h.octets += len(e.Value)
	}
	h.cut()
	close(h.more)
	h.more = make(chan struct{})
}

// cut drops the oldest transactions, whole ones, down to what is kept. The
// latest one stays whatever its size.
func (h *history) cut() {
	n := 0
	for len(h.events)-n > historyEvents || h.octets > historyOctets {
		rev := h.events[n].Modified
		if rev == h.latest {
			break
		}
		for n < len(h.events) && h.events[n].Modified == rev {
			h.octets -= len(h.events[n].Value)
			n++
		}
		h.compacted = rev
	}
	if n > 0 {
		h.events = slices.Delete(h.events, 0, n)
	}
}

func (h *history) isClosed() bool {
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}

func (h *history) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.isClosed() {
		close(h.done)
	}
}

// since returns the changes after a revision to keys that begin with prefix,
// the revision up to which it looked, and the channel that tells of more. It
// fails when the changes are not kept.
func (h *history) since(prefix string, after int64) ([]Event, int64, <-chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.isClosed() {
		return nil, 0, nil, ErrClosed
	}
	if after < h.compacted || after > h.latest {
		return nil, 0, nil, ErrCompacted
	}
	first, _ := slices.BinarySearchFunc(h.events, after+1, func(e Event, rev int64) int {
		return int(min(max(e.Modified-rev, -1), 1))
	})
	var found []Event
	for _, e := range h.events[first:] {
		if strings.HasPrefix(e.Key, prefix) {
			e.Value = slices.Clone(e.Value)
			found = append(found, e)
		}
	}
	return found, h.latest, h.more, nil
}

// watch feeds a channel until ctx ends, history is closed or was cut under
// the reader.
func (h *history) watch(ctx context.Context, prefix string, after int64) (<-chan []Event, error) {
	if _, _, _, err := h.since(prefix, after); err != nil {
		return nil, err
	}
	out := make(chan []Event)
	go func() {
		defer close(out)
		for {
			events, upTo, more, err := h.since(prefix, after)
			if err != nil {
				return
			}
			after = upTo
			if len(events) == 0 {
				select {
				case <-more:
				case <-h.done:
					return
				case <-ctx.Done():
					return
				}
				continue
			}
			select {
			case out <- events:
			case <-h.done:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}
