// Package storetest holds the contract that every implementation of
// store.Store passes.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control/store"
)

// patience bounds the waits of the suite, for what takes no time when all is
// well.
const patience = time.Minute

// Run runs the contract on stores that open makes: empty, and closed by the
// test's clean-up at the latest.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, store.Store)
	}{
		{"Revisions", testRevisions},
		{"Checks", testChecks},
		{"ListIsASnapshot", testListIsASnapshot},
		{"Limits", testLimits},
		{"ValuesAreCopied", testValuesAreCopied},
		{"Watch", testWatch},
		{"WatchKeepsTransactionsWhole", testWatchWhole},
		{"WatchFromThePast", testWatchFromThePast},
		{"WatchNotKept", testWatchNotKept},
		{"WatchEnds", testWatchEnds},
		{"WatchWhileWriting", testWatchWhileWriting},
		{"ConcurrentCounters", testConcurrentCounters},
		{"CancelledContext", testCancelledContext},
		{"Closed", testClosed},
		{"Model", testModel},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func txn(t *testing.T, s store.Store, checks []store.Check, ops ...store.Op) int64 {
	t.Helper()
	rev, err := s.Txn(t.Context(), checks, ops)
	if err != nil {
		t.Fatalf("Txn: %v", err)
	}
	return rev
}

func get(t *testing.T, s store.Store, key string) store.Entry {
	t.Helper()
	e, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("Get: %v", err)
	}
	return e
}

func testRevisions(t *testing.T, s store.Store) {
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Get of an absent key: %v, want ErrNotFound", err)
	}
	first := txn(t, s, nil, store.Put("a", []byte("1")), store.Put("b", []byte("1")))
	if a, b := get(t, s, "a"), get(t, s, "b"); a.Created != first || a.Modified != first || b.Created != first || b.Modified != first {
		t.Errorf("one transaction at %d gave %+v and %+v", first, a, b)
	}
	second := txn(t, s, nil, store.Put("a", []byte("2")))
	if second <= first {
		t.Errorf("revision %d after %d", second, first)
	}
	if a := get(t, s, "a"); a.Created != first || a.Modified != second || string(a.Value) != "2" {
		t.Errorf("after the second put: %+v", a)
	}
	if rev := txn(t, s, nil, store.Delete("nothing")); rev != second {
		t.Errorf("a transaction without a change took revision %d, want %d", rev, second)
	}
	third := txn(t, s, nil, store.Delete("a"))
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get of a deleted key: %v, want ErrNotFound", err)
	}
	fourth := txn(t, s, nil, store.Put("a", nil))
	if a := get(t, s, "a"); third <= second || a.Created != fourth || a.Modified != fourth || len(a.Value) != 0 {
		t.Errorf("made again at %d after %d: %+v", fourth, third, a)
	}
}

func testChecks(t *testing.T, s store.Store) {
	rev := txn(t, s, []store.Check{{Key: "a"}}, store.Put("a", []byte("1")))
	newer := txn(t, s, nil, store.Put("b", []byte("1")))
	for _, test := range []struct {
		name  string
		check store.Check
		holds bool
	}{
		{"present where absence is wanted", store.Check{Key: "a"}, false},
		{"at its revision", store.Check{Key: "a", Revision: rev}, true},
		{"at an older revision", store.Check{Key: "b", Revision: rev}, false},
		{"at a newer revision", store.Check{Key: "a", Revision: newer}, false},
		{"absent where a revision is wanted", store.Check{Key: "c", Revision: rev}, false},
		{"absent", store.Check{Key: "c"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, before, err := s.List(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Txn(t.Context(), []store.Check{test.check}, []store.Op{store.Put("probe", nil)})
			_, after, listErr := s.List(t.Context(), "")
			if listErr != nil {
				t.Fatal(listErr)
			}
			if test.holds && (err != nil || after <= before) {
				t.Errorf("got %v at revision %d after %d, want success", err, after, before)
			}
			if !test.holds && (!errors.Is(err, store.ErrConflict) || after != before) {
				t.Errorf("got %v at revision %d after %d, want ErrConflict and no change", err, after, before)
			}
		})
	}
	if _, err := s.Txn(t.Context(), []store.Check{{Key: "a", Revision: rev}, {Key: "b"}}, []store.Op{store.Delete("a")}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("one of two checks fails: %v, want ErrConflict", err)
	}
	get(t, s, "a")
}

func testListIsASnapshot(t *testing.T, s store.Store) {
	rev := txn(t, s, nil, store.Put("p/b", []byte("b")), store.Put("p/a", []byte("a")), store.Put("p", []byte("p")), store.Put("q/a", nil))
	entries, at, err := s.List(t.Context(), "p/")
	if err != nil {
		t.Fatal(err)
	}
	if got := keys(entries); !slices.Equal(got, []string{"p/a", "p/b"}) || at < rev {
		t.Errorf("List(p/) = %v at %d, want p/a p/b at %d or later", got, at, rev)
	}
	if entries, _, err = s.List(t.Context(), ""); err != nil || len(entries) != 4 {
		t.Errorf("List of everything: %d entries, %v; want 4", len(entries), err)
	}
	if entries, at, err = s.List(t.Context(), "none"); err != nil || len(entries) != 0 || at < rev {
		t.Errorf("List of nothing: %d entries at %d, %v; want 0 at %d or later", len(entries), at, err, rev)
	}
}

func keys(entries []store.Entry) []string {
	var out []string
	for _, e := range entries {
		out = append(out, e.Key)
	}
	return out
}

func testLimits(t *testing.T, s store.Store) {
	many := make([]store.Op, store.MaxTxnSize+1)
	manyChecks := make([]store.Check, store.MaxTxnSize+1)
	for i := range many {
		many[i] = store.Put(fmt.Sprint("k", i), nil)
		manyChecks[i] = store.Check{Key: fmt.Sprint("k", i)}
	}
	key, value := strings.Repeat("k", store.MaxKeySize), make([]byte, store.MaxValueSize)
	longestChecks := make([]store.Check, store.MaxTxnSize)
	longestOps := make([]store.Op, store.MaxTxnSize)
	for i := range store.MaxTxnSize {
		k := fmt.Sprintf("%s%03d", key[3:], i)
		longestChecks[i] = store.Check{Key: k}
		longestOps[i] = store.Put(k, value[:store.MaxValueSize/store.MaxTxnSize])
	}
	for _, test := range []struct {
		name   string
		checks []store.Check
		ops    []store.Op
		ok     bool
	}{
		{"as many operations as allowed", manyChecks[1:], many[1:], true},
		{"one operation more", nil, many, false},
		{"one check more", manyChecks, many[:1], false},
		{"longest key and value", nil, []store.Op{store.Put(key, value)}, true},
		{"key too long", nil, []store.Op{store.Put(key+"k", nil)}, false},
		{"value too long", nil, []store.Op{store.Put("k", append(value, 0))}, false},
		{"values as long together as allowed", nil, []store.Op{store.Put("k", value[1:]), store.Put("l", value[:1])}, true},
		{"values too long together", nil, []store.Op{store.Put("k", value), store.Put("l", value[:1])}, false},
		{"longest transaction", longestChecks, longestOps, true},
		{"empty key", nil, []store.Op{store.Put("", nil)}, false},
		{"empty key of a check", []store.Check{{}}, nil, false},
		{"negative revision", []store.Check{{Key: "k", Revision: -1}}, nil, false},
		{"one key twice", nil, []store.Op{store.Put("k", nil), store.Delete("k")}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := s.Txn(t.Context(), test.checks, test.ops)
			if test.ok != (err == nil) {
				t.Errorf("got %v, want success: %t", err, test.ok)
			}
		})
	}
}

func testValuesAreCopied(t *testing.T, s store.Store) {
	value := []byte("text")
	rev := txn(t, s, nil, store.Put("a", value))
	value[0] = 'n'
	e := get(t, s, "a")
	e.Value[0] = 'b'
	if got := get(t, s, "a"); string(got.Value) != "text" {
		t.Errorf("the value became %q", got.Value)
	}
	for range 2 {
		ch, err := s.Watch(t.Context(), "a", rev-1)
		if err != nil {
			t.Fatal(err)
		}
		events := receive(t, ch)
		if string(events[0].Value) != "text" {
			t.Errorf("the watched value became %q", events[0].Value)
		}
		events[0].Value[0] = 'b'
	}
}

func receive(t *testing.T, ch <-chan []store.Event) []store.Event {
	t.Helper()
	select {
	case events, ok := <-ch:
		if !ok {
			t.Fatal("the watch ended")
		}
		return events
	case <-time.After(patience):
		t.Fatal("the watch reports nothing")
	}
	return nil
}

func testWatch(t *testing.T, s store.Store) {
	before := txn(t, s, nil, store.Put("p/old", nil))
	ch, err := s.Watch(t.Context(), "p/", before)
	if err != nil {
		t.Fatal(err)
	}
	put := txn(t, s, nil, store.Put("p/a", []byte("1")))
	txn(t, s, nil, store.Put("q/a", []byte("1")))
	gone := txn(t, s, nil, store.Delete("p/a"))
	var got []store.Event
	for len(got) < 2 {
		got = append(got, receive(t, ch)...)
	}
	want := []string{
		fmt.Sprintf("p/a=1 created %d modified %d", put, put),
		fmt.Sprintf("p/a deleted %d", gone),
	}
	if have := describe(got); !slices.Equal(have, want) {
		t.Errorf("watched %q, want %q", have, want)
	}
}

func describe(events []store.Event) []string {
	var out []string
	for _, e := range events {
		if e.Deleted {
			out = append(out, fmt.Sprintf("%s deleted %d", e.Key, e.Modified))
		} else {
			out = append(out, fmt.Sprintf("%s=%s created %d modified %d", e.Key, e.Value, e.Created, e.Modified))
		}
	}
	return out
}

func testWatchWhole(t *testing.T, s store.Store) {
	_, rev, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	ch, err := s.Watch(t.Context(), "", rev)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		txn(t, s, nil, store.Put("a", nil), store.Put("b", nil), store.Put("c", nil))
	}
	for seen := 0; seen < 60; {
		events := receive(t, ch)
		if len(events)%3 != 0 {
			t.Fatalf("a batch of %d events cuts a transaction", len(events))
		}
		seen += len(events)
	}
}

func testWatchFromThePast(t *testing.T, s store.Store) {
	first := txn(t, s, nil, store.Put("a", []byte("1")))
	txn(t, s, nil, store.Put("a", []byte("2")))
	last := txn(t, s, nil, store.Put("b", []byte("3")))
	for _, test := range []struct {
		after int64
		want  int
	}{{first - 1, 3}, {first, 2}, {last - 1, 1}} {
		ch, err := s.Watch(t.Context(), "", test.after)
		if err != nil {
			t.Fatal(err)
		}
		var got []store.Event
		for len(got) < test.want {
			got = append(got, receive(t, ch)...)
		}
		if len(got) != test.want || got[0].Modified <= test.after {
			t.Errorf("after %d: %q, want %d events", test.after, describe(got), test.want)
		}
	}
}

func testWatchNotKept(t *testing.T, s store.Store) {
	rev := txn(t, s, nil, store.Put("a", nil))
	if _, err := s.Watch(t.Context(), "", -1); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("before the first revision: %v, want ErrCompacted", err)
	}
	if _, err := s.Watch(t.Context(), "", rev+1000); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("from a revision that is yet to come: %v, want ErrCompacted", err)
	}
}

func testWatchEnds(t *testing.T, s store.Store) {
	rev := txn(t, s, nil, store.Put("a", nil))
	ctx, cancel := context.WithCancel(t.Context())
	cancelled, err := s.Watch(ctx, "", rev)
	if err != nil {
		t.Fatal(err)
	}
	closed, err := s.Watch(t.Context(), "", rev)
	if err != nil {
		t.Fatal(err)
	}
	unread, err := s.Watch(t.Context(), "", rev-1)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	ends(t, "cancelled", cancelled)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ends(t, "of the closed store", closed)
	ends(t, "that nobody read", unread)
}

// ends waits until a watch is over; what it still had to say is dropped.
func ends(t *testing.T, which string, ch <-chan []store.Event) {
	t.Helper()
	for deadline := time.After(patience); ; {
		select {
		case _, ok := <-ch:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatalf("the watch %s goes on", which)
		}
	}
}

// testWatchWhileWriting follows a store that several write to: each reader
// must see every change once and in order, wherever it begins.
func testWatchWhileWriting(t *testing.T, s store.Store) {
	const writers, writes, readers = 4, 25, 4
	begin := txn(t, s, nil, store.Put("k/begin", nil))
	var writing, listing, reading sync.WaitGroup
	written := make([][]int64, writers)
	for w := range writers {
		writing.Go(func() {
			for i := range writes {
				rev, err := s.Txn(t.Context(), nil, []store.Op{store.Put(fmt.Sprintf("k/%d", w), fmt.Append(nil, i))})
				if err != nil {
					t.Errorf("Txn: %v", err)
				}
				written[w] = append(written[w], rev)
			}
		})
	}
	starts, seen := make([]int64, readers), make([][]int64, readers)
	for r := range readers {
		listing.Add(1)
		reading.Go(func() {
			var err error
			_, starts[r], err = s.List(t.Context(), "")
			listing.Done()
			if err != nil {
				t.Errorf("List: %v", err)
				return
			}
			seen[r] = follow(t, s, starts[r])
		})
	}
	writing.Wait()
	listing.Wait() // a reader that begins after the end would wait for it in vain
	txn(t, s, nil, store.Put("k/end", nil))
	reading.Wait()

	all := slices.Concat(written...)
	slices.Sort(all)
	for r := range readers {
		if starts[r] < begin {
			t.Errorf("listed at %d after a transaction at %d", starts[r], begin)
		}
		want := slices.DeleteFunc(slices.Clone(all), func(rev int64) bool { return rev <= starts[r] })
		if !slices.Equal(seen[r], want) {
			t.Errorf("a reader after %d saw %d, want %d", starts[r], seen[r], want)
		}
	}
}

// follow returns the revisions of all changes after one, up to that of k/end.
func follow(t *testing.T, s store.Store, after int64) []int64 {
	ch, err := s.Watch(t.Context(), "k/", after)
	if err != nil {
		t.Errorf("Watch: %v", err)
		return nil
	}
	var seen []int64
	for {
		select {
		case events, ok := <-ch:
			if !ok {
				t.Error("the watch ended")
				return seen
			}
			for _, e := range events {
				if e.Key == "k/end" {
					return seen
				}
				seen = append(seen, e.Modified)
			}
		case <-time.After(patience):
			t.Errorf("nothing after %d changes", len(seen))
			return seen
		}
	}
}

// testConcurrentCounters increments one counter from several sides: checks
// must let no increment be lost.
func testConcurrentCounters(t *testing.T, s store.Store) {
	const sides, increments = 4, 10
	txn(t, s, nil, store.Put("n", []byte("0")))
	var group sync.WaitGroup
	for range sides {
		group.Go(func() {
			for done := 0; done < increments; {
				e, err := s.Get(t.Context(), "n")
				if err != nil {
					t.Errorf("Get: %v", err)
					return
				}
				var n int
				if _, err := fmt.Sscan(string(e.Value), &n); err != nil {
					t.Errorf("counter %q: %v", e.Value, err)
					return
				}
				_, err = s.Txn(t.Context(), []store.Check{{Key: "n", Revision: e.Modified}}, []store.Op{store.Put("n", fmt.Append(nil, n+1))})
				switch {
				case err == nil:
					done++
				case !errors.Is(err, store.ErrConflict):
					t.Errorf("Txn: %v", err)
					return
				}
			}
		})
	}
	group.Wait()
	if got := string(get(t, s, "n").Value); got != fmt.Sprint(sides*increments) {
		t.Errorf("counted %s, want %d", got, sides*increments)
	}
}

func testCancelledContext(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := s.Get(ctx, "a")
	_, _, listErr := s.List(ctx, "")
	_, txnErr := s.Txn(ctx, nil, []store.Op{store.Put("a", nil)})
	_, watchErr := s.Watch(ctx, "", 0)
	for _, err := range []error{getErr, listErr, txnErr, watchErr} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	}
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the cancelled transaction was done: %v", err)
	}
}

func testClosed(t *testing.T, s store.Store) {
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	_, getErr := s.Get(t.Context(), "a")
	_, _, listErr := s.List(t.Context(), "")
	_, txnErr := s.Txn(t.Context(), nil, []store.Op{store.Put("a", nil)})
	_, watchErr := s.Watch(t.Context(), "", 0)
	for _, err := range []error{getErr, listErr, txnErr, watchErr} {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	}
}
