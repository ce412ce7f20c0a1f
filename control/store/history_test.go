package store

import (
	"errors"
	"fmt"
	"testing"
)

func fill(h *history, from, to int64, perRevision int, value []byte) {
	for rev := from; rev <= to; rev++ {
		var events []Event
		for i := range perRevision {
			events = append(events, Event{Entry: Entry{Key: fmt.Sprint("k", i), Value: value, Modified: rev}})
		}
		h.append(rev, events)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	const perRevision = 3
	h := newHistory(10)
	last := int64(10 + 2*historyEvents/perRevision)
	fill(h, 11, last, perRevision, nil)
	if len(h.events) > historyEvents || len(h.events) < historyEvents-perRevision {
		t.Errorf("kept %d events, want about %d", len(h.events), historyEvents)
	}
	if _, _, _, err := h.since("", h.compacted-1); !errors.Is(err, ErrCompacted) {
		t.Errorf("one revision before what is kept: %v, want ErrCompacted", err)
	}
	events, upTo, _, err := h.since("", h.compacted)
	if err != nil || upTo != last || len(events) != len(h.events) || events[0].Modified != h.compacted+1 {
		t.Errorf("from the first revision kept: %d events up to %d, %v", len(events), upTo, err)
	}
	if len(events)%perRevision != 0 {
		t.Errorf("a transaction was cut: %d events", len(events))
	}
}

func TestHistoryBoundsOctets(t *testing.T) {
	h := newHistory(0)
	value := make([]byte, historyOctets/4)
	fill(h, 1, 9, 1, value)
	if len(h.events) != 4 || h.octets != historyOctets {
		t.Errorf("kept %d events of %d octets, want 4", len(h.events), h.octets)
	}
	h.append(10, []Event{{Entry: Entry{Key: "a", Value: make([]byte, historyOctets+1), Modified: 10}}})
	if events, _, _, err := h.since("", 9); err != nil || len(events) != 1 {
		t.Errorf("the latest transaction must stay whatever its size: %d events, %v", len(events), err)
	}
}

// A reader that falls behind what is kept must notice: its channel ends.
func TestHistoryEndsSlowReaders(t *testing.T) {
	h := newHistory(0)
	fill(h, 1, 1, 1, nil)
	ch, err := h.watch(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	fill(h, 2, 2*historyEvents, 1, nil)
	next := int64(1)
	for events := range ch {
		for _, e := range events {
			if e.Modified != next {
				t.Fatalf("revision %d, want %d", e.Modified, next)
			}
			next++
		}
		if next > 2*historyEvents {
			return // fast enough after all
		}
	}
	if next > historyEvents+2 {
		t.Errorf("the watch ended at revision %d", next)
	}
}
