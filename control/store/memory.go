package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Memory is a Store that forgets all when it is closed. It serves tests and
// dry runs, where waiting for a disk adds nothing.
type Memory struct {
	mu      sync.Mutex
	entries map[string]Entry
	rev     int64
	history *history
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{entries: map[string]Entry{}, history: newHistory(0)}
}

// lock takes the store for a call, unless ctx has ended or the store is closed.
func (s *Memory) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.history.isClosed() {
		s.mu.Unlock()
		return ErrClosed
	}
	return nil
}

// Get implements Store.
func (s *Memory) Get(ctx context.Context, key string) (Entry, error) {
	if err := s.lock(ctx); err != nil {
		return Entry{}, err
	}
	defer s.mu.Unlock()
	e, ok := s.entries[key]
	if !ok {
		return Entry{}, fmt.Errorf("%q: %w", key, ErrNotFound)
	}
	e.Value = slices.Clone(e.Value)
	return e, nil
}

// List implements Store.
func (s *Memory) List(ctx context.Context, prefix string) ([]Entry, int64, error) {
	if err := s.lock(ctx); err != nil {
		return nil, 0, err
	}
	defer s.mu.Unlock()
	var found []Entry
	for _, key := range slices.Sorted(maps.Keys(s.entries)) {
		if e := s.entries[key]; strings.HasPrefix(key, prefix) {
			e.Value = slices.Clone(e.Value)
			found = append(found, e)
		}
	}
	return found, s.rev, nil
}

// Txn implements Store.
func (s *Memory) Txn(ctx context.Context, checks []Check, ops []Op) (int64, error) {
	if err := ValidateTxn(checks, ops); err != nil {
		return 0, err
	}
	if err := s.lock(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	for _, c := range checks {
		if have := s.entries[c.Key].Modified; have != c.Revision {
			return 0, fmt.Errorf("%q is at revision %d, not %d: %w", c.Key, have, c.Revision, ErrConflict)
		}
	}
	var events []Event
	for _, op := range ops {
		old, there := s.entries[op.key]
		switch {
		case !op.remove:
			e := Entry{Key: op.key, Value: slices.Clone(op.value), Created: s.rev + 1, Modified: s.rev + 1}
			if there {
				e.Created = old.Created
			}
			s.entries[op.key] = e
			events = append(events, Event{Entry: e})
		case there:
			delete(s.entries, op.key)
			events = append(events, Event{Entry: Entry{Key: op.key, Modified: s.rev + 1}, Deleted: true})
		}
	}
	if len(events) > 0 {
		s.rev++
		s.history.append(s.rev, events)
	}
	return s.rev, nil
}

// Watch implements Store.
func (s *Memory) Watch(ctx context.Context, prefix string, after int64) (<-chan []Event, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	return s.history.watch(ctx, prefix, after)
}

// Close implements Store.
func (s *Memory) Close() error {
	s.history.close()
	return nil
}
