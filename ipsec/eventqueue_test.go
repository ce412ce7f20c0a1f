package ipsec

import (
	"net/netip"
	"testing"
)

func TestEventsFold(t *testing.T) {
	q := NewEventQueue()
	soft := func(n int) Event {
		return Event{Kind: EventSoftExpire, SA: SAID{SPI: SPI(n)}}
	}
	for i := range eventDepth {
		q.Emit(soft(i))
	}
	// The channel is full: each SA's later events fold into one.
	for i := range 1000 {
		ev := Event{Kind: EventMoved, ReqID: 7, From: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(i))}
		q.Emit(ev)
		q.Emit(soft(9999))
	}
	for i := range eventDepth {
		if ev := <-q.Channel(); ev != soft(i) {
			t.Fatalf("event %d: %+v", i, ev)
		}
	}
	q.Push()
	if ev := <-q.Channel(); ev.Kind != EventMoved || ev.From.Port() != 999 {
		t.Errorf("the latest move was not kept: %+v", ev)
	}
	if ev := <-q.Channel(); ev != soft(9999) {
		t.Errorf("got %+v", ev)
	}
	select {
	case ev := <-q.Channel():
		t.Errorf("one event too many: %+v", ev)
	default:
	}
}
