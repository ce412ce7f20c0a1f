package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vpngw/vpngw/control/store"
	"github.com/vpngw/vpngw/control/store/etcd"
	"github.com/vpngw/vpngw/control/store/storetest"
)

func TestContract(t *testing.T) {
	t.Parallel()
	endpoint := startServers(t, 1, "http")[0].endpoint
	stores := 0
	storetest.Run(t, func(t *testing.T) store.Store {
		stores++
		return open(t, etcd.Options{Endpoints: []string{endpoint}, Prefix: fmt.Sprintf("/store-%d", stores)})
	})
}

// Stores whose prefixes begin alike must not see each other's entries, nor
// a store what else is in the cluster.
func TestPrefixes(t *testing.T) {
	t.Parallel()
	endpoint := startServers(t, 1, "http")[0].endpoint
	var stores []store.Store
	for _, prefix := range []string{"", "/vpngw2", "/vpngw/entries", "/vpngw-"} {
		stores = append(stores, open(t, etcd.Options{Endpoints: []string{endpoint}, Prefix: prefix}))
	}
	for i, s := range stores {
		put(t, s, "key", fmt.Sprint(i))
	}
	for i, s := range stores {
		entries, _, err := s.List(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		// /vpngw/entries/entries/key is the key entries/key of the first.
		entries = slices.DeleteFunc(entries, func(e store.Entry) bool { return strings.Contains(e.Key, "/") || e.Key == "schema" })
		if len(entries) != 1 || entries[0].Key != "key" || string(entries[0].Value) != fmt.Sprint(i) {
			t.Errorf("store %d lists %+v", i, entries)
		}
	}
	// A slash at the end of a prefix makes no other store.
	again := open(t, etcd.Options{Endpoints: []string{endpoint}, Prefix: "/vpngw2/"})
	if e, err := again.Get(t.Context(), "key"); err != nil || string(e.Value) != "1" {
		t.Errorf("opened again: %+v, %v", e, err)
	}
}

func TestSchema(t *testing.T) {
	t.Parallel()
	endpoint := startServers(t, 1, "http")[0].endpoint
	o := etcd.Options{Endpoints: []string{endpoint}}
	rev := put(t, open(t, o), "key", "value")
	s := open(t, o)
	if e, err := s.Get(t.Context(), "key"); err != nil || e.Modified != rev {
		t.Errorf("opened again: %+v, %v", e, err)
	}
	if _, now, err := s.List(t.Context(), ""); err != nil || now != rev {
		t.Errorf("opening again took a revision: %d after %d, %v", now, rev, err)
	}
	administer(t, endpoint, func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.Put(ctx, "/vpngw/schema", "99")
		return err
	})
	if _, err := etcd.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), `"99"`) {
		t.Errorf("a schema of another release: %v, want an error that names it", err)
	}
}

// A list that takes several requests must be of one revision, although others
// write and history is cut between them.
func TestListOfManyPages(t *testing.T) {
	t.Parallel()
	endpoint := startServers(t, 1, "http")[0].endpoint
	s := open(t, etcd.Options{Endpoints: []string{endpoint}})
	const entries = 1500
	write := func(value string) int64 {
		var rev int64
		for first := 0; first < entries; first += store.MaxTxnSize {
			var ops []store.Op
			for i := first; i < min(first+store.MaxTxnSize, entries); i++ {
				ops = append(ops, store.Put(fmt.Sprintf("k/%04d", i), []byte(value)))
			}
			var err error
			if rev, err = s.Txn(t.Context(), nil, ops); err != nil {
				t.Error(err)
			}
		}
		return rev
	}
	write("0")
	written := make(chan struct{})
	go func() {
		defer close(written)
		for round := 1; round <= 4; round++ {
			compact(t, endpoint, write(fmt.Sprint(round)))
		}
	}()
	for lists, done := 0, false; !done || lists == 0; lists++ {
		select {
		case <-written:
			done = true
		default:
		}
		list, rev, err := s.List(t.Context(), "k/")
		if err != nil {
			t.Fatal(err)
		}
		if len(list) != entries {
			t.Fatalf("%d entries, want %d", len(list), entries)
		}
		// Rounds write in the order of the keys: within a snapshot values
		// fall from one round to the one before, once.
		for i, e := range list {
			if want := fmt.Sprintf("k/%04d", i); e.Key != want || e.Modified > rev {
				t.Fatalf("%q modified %d at place %d of a list at %d", e.Key, e.Modified, i, rev)
			}
			if i > 0 && (string(e.Value) > string(list[i-1].Value) || string(e.Value) < string(list[0].Value[:1]) && list[0].Value[0]-e.Value[0] > 1) {
				t.Fatalf("round %s at place %d after %s, %s at the first", e.Value, i, list[i-1].Value, list[0].Value)
			}
		}
	}
}

func TestWatchCompacted(t *testing.T) {
	t.Parallel()
	endpoint := startServers(t, 1, "http")[0].endpoint
	s := open(t, etcd.Options{Endpoints: []string{endpoint}})
	first := put(t, s, "a", "1")
	second := put(t, s, "a", "2")
	third := put(t, s, "a", "3")
	compact(t, endpoint, second)
	for _, after := range []int64{0, first} {
		if _, err := s.Watch(t.Context(), "", after); !errors.Is(err, store.ErrCompacted) {
			t.Errorf("after revision %d, compacted at %d: %v, want ErrCompacted", after, second, err)
		}
	}
	ch, err := s.Watch(t.Context(), "", second)
	if err != nil {
		t.Fatal(err)
	}
	if events := <-ch; len(events) != 1 || events[0].Modified != third {
		t.Errorf("after what was compacted: %+v, want revision %d", events, third)
	}
}

// A reader that is far behind gets everything all the same, and its channel
// ends if history is cut meanwhile.
func TestWatchSlowReader(t *testing.T) {
	t.Parallel()
	endpoint := startServers(t, 1, "http")[0].endpoint
	s := open(t, etcd.Options{Endpoints: []string{endpoint}})
	const rounds, keys = 40, 100
	start := put(t, s, "start", "")
	slow, err := s.Watch(t.Context(), "k/", start)
	if err != nil {
		t.Fatal(err)
	}
	tooSlow, err := s.Watch(t.Context(), "k/", start)
	if err != nil {
		t.Fatal(err)
	}
	var last int64
	for round := range rounds {
		var ops []store.Op
		for i := range keys {
			ops = append(ops, store.Put(fmt.Sprintf("k/%d", i), fmt.Append(nil, round)))
		}
		if last, err = s.Txn(t.Context(), nil, ops); err != nil {
			t.Fatal(err)
		}
	}
	seen, batches := 0, 0
	for seen < rounds*keys {
		events := <-slow
		if len(events) == 0 || len(events)%keys != 0 {
			t.Fatalf("a batch of %d events", len(events))
		}
		if len(events) >= rounds*keys {
			t.Error("all events were kept for the reader")
		}
		for _, e := range events {
			if want := fmt.Sprintf("k/%d=%d", seen%keys, seen/keys); e.Key+"="+string(e.Value) != want {
				t.Fatalf("event %d is %s=%s, want %s", seen, e.Key, e.Value, want)
			}
			seen++
		}
		batches++
	}
	t.Logf("%d events in %d batches", seen, batches)

	waitWatchers(t, endpoint, 1) // the other has stopped its feed
	compact(t, endpoint, last)
	next := put(t, s, "k/next", "")
	seen = 0
	for events := range tooSlow {
		seen += len(events)
		if events[len(events)-1].Modified == next {
			break
		}
	}
	if seen == 0 || seen >= rounds*keys {
		t.Errorf("the channel brought %d of %d events although history was cut", seen, rounds*keys+1)
	}
	if e := <-slow; len(e) != 1 || e[0].Modified != next {
		t.Errorf("the reader that had caught up got %+v", e)
	}
}
