package ike

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
)

func TestRetryDelay(t *testing.T) {
	for n, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		want *= time.Second
		for range 100 {
			if got := retryDelay(n); got > want || got < want*4/5 {
				t.Fatalf("after %d failures: %s, want %s less a fifth", n, got, want)
			}
		}
	}
	if got := retryDelay(1 << 30); got > lastRetry {
		t.Errorf("after many failures: %s", got)
	}
}

func TestFailuresFold(t *testing.T) {
	c := &connection{}
	start := time.Unix(1e9, 0)
	id := &sa.Diagnosis{Reason: sa.ReasonConfigID, Ours: "a", Theirs: "b"}
	var logged []int
	for i := range 10 {
		again := *id
		if c.noteFailure(&again, start.Add(time.Duration(i)*time.Second)) {
			logged = append(logged, i+1)
		}
	}
	if f := c.failure; f.Count != 10 || !f.First.Equal(start) || !f.Last.Equal(start.Add(9*time.Second)) {
		t.Errorf("got %+v", c.failure)
	}
	if want := []int{1, 2, 4, 8}; !slices.Equal(logged, want) {
		t.Errorf("logged %v, want %v", logged, want)
	}
	if !c.noteFailure(&sa.Diagnosis{Reason: sa.ReasonMaxTransmit}, start) || c.failure.Count != 1 {
		t.Errorf("another failure: got %+v", c.failure)
	}
}

func TestUnprovenFailuresFold(t *testing.T) {
	c := &connection{}
	now := time.Unix(1e9, 0)
	mismatch := func(theirs string) *sa.Diagnosis {
		return &sa.Diagnosis{Reason: sa.ReasonPhase1Proposal, Parameter: "encryption algorithm", Ours: "a", Theirs: theirs}
	}
	for i := range unprovenBurst {
		if log, tell := c.noteUnproven(mismatch(string(rune('b'+i))), now); !log || !tell {
			t.Errorf("number %d: log %t, tell %t", i, log, tell)
		}
	}
	if log, tell := c.noteUnproven(mismatch("z"), now); log || tell {
		t.Error("one above the limit is told")
	}
	if log, tell := c.noteUnproven(&sa.Diagnosis{Reason: sa.ReasonConfigID}, now); log || tell {
		t.Error("another one above the limit is told")
	}
	if f := c.failure; f.Count != unprovenBurst+1 || f.Diagnosis.Theirs != "e" {
		t.Errorf("got %+v", f)
	}
	now = now.Add(unprovenEvery)
	if log, tell := c.noteUnproven(mismatch("e"), now); log || !tell {
		t.Errorf("the sixth, which is not new: log %t, tell %t", log, tell)
	}
}

func TestDirectory(t *testing.T) {
	local, remote := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	conn := func(name string, l, r netip.Addr) *sa.Connection {
		return &sa.Connection{Name: name, Local: l, Remote: r}
	}
	d := newDirectory([]*sa.Connection{
		conn("any", local, netip.Addr{}), conn("a", local, remote), conn("b", local, remote),
		conn("other", netip.MustParseAddr("192.0.2.9"), remote),
	})
	names := func(list []*sa.Connection) (all []string) {
		for _, c := range list {
			all = append(all, c.Name)
		}
		return all
	}
	if got := names(d.candidates(local, remote)); !slices.Equal(got, []string{"a", "b", "any"}) {
		t.Errorf("known address: %v", got)
	}
	mapped := netip.AddrFrom16(remote.As16())
	if got := names(d.candidates(local, mapped)); !slices.Equal(got, []string{"a", "b", "any"}) {
		t.Errorf("mapped address: %v", got)
	}
	if got := names(d.candidates(local, local)); !slices.Equal(got, []string{"any"}) {
		t.Errorf("unknown address: %v", got)
	}
	if got := names(d.exact(local, local)); got != nil {
		t.Errorf("exact: %v", got)
	}
}
