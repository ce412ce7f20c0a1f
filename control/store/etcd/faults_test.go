//go:build etcd

package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vpngw/vpngw/control/store"
	"github.com/vpngw/vpngw/control/store/etcd"
)

// TestKill kills the cluster in the middle of its work: what a writer was told
// is stored must be there, whole, and watches go on without a gap.
func TestKill(t *testing.T) {
	t.Parallel()
	server := startServers(t, 1, "http")[0]
	s := open(t, etcd.Options{Endpoints: []string{server.endpoint}})
	impatient := open(t, etcd.Options{Endpoints: []string{server.endpoint}, Timeout: time.Second})
	start := put(t, s, "start", "")
	watch, err := s.Watch(t.Context(), "", start)
	if err != nil {
		t.Fatal(err)
	}
	var acknowledged, failures int
	for round := range 3 {
		killed, underWay := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(killed)
			<-underWay
			time.Sleep(time.Duration(10+37*round) * time.Millisecond)
			server.kill(t)
		}()
		begun := sync.OnceFunc(func() { close(underWay) })
		for n := acknowledged + 1; ; n++ {
			value := fmt.Append(nil, n)
			if _, err := s.Txn(t.Context(), nil, []store.Op{store.Put("left", value), store.Put("right", value)}); err != nil {
				failures++
				break
			}
			acknowledged = n
			begun()
		}
		begun()
		<-killed
		if round == 0 {
			if _, err := impatient.Get(t.Context(), "left"); err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Get while the cluster is down: %v, want an error that is not the caller's", err)
			}
		}
		server.start(t)
		server.waitListening(t)

		entries, _, err := s.List(t.Context(), "")
		if err != nil {
			t.Fatalf("after the restart: %v", err)
		}
		left, right := entries[0], entries[1]
		var n int
		if _, err := fmt.Sscan(string(left.Value), &n); err != nil || n < acknowledged || n > acknowledged+1 {
			t.Errorf("stored %q, acknowledged %d (%v)", left.Value, acknowledged, err)
		}
		if string(left.Value) != string(right.Value) || left.Modified != right.Modified {
			t.Errorf("half a transaction: %+v and %+v", left, right)
		}
		acknowledged = n
	}
	put(t, s, "end", "")
	t.Logf("%d transactions, %d restarts", acknowledged, failures)

	for n, ended := 0, false; !ended; {
		select {
		case events, ok := <-watch:
			if !ok {
				t.Fatal("the watch ended")
			}
			for _, e := range events {
				switch e.Key {
				case "left":
					n++
					fallthrough
				case "right":
					if string(e.Value) != fmt.Sprint(n) {
						t.Fatalf("watched %s=%s, want %d", e.Key, e.Value, n)
					}
				case "end":
					ended = true
				}
			}
		case <-time.After(patience):
			t.Fatalf("nothing after %d of %d", n, acknowledged)
		}
	}
}

// With three members, the store goes on without their leader, and again after
// two were gone.
func TestMembersLost(t *testing.T) {
	t.Parallel()
	servers := startServers(t, 3, "http")
	var endpoints []string
	for _, s := range servers {
		endpoints = append(endpoints, s.endpoint)
	}
	s := open(t, etcd.Options{Endpoints: endpoints})
	impatient := open(t, etcd.Options{Endpoints: endpoints, Timeout: 2 * time.Second})
	n := 0
	last := put(t, s, "n", "0")
	watch, err := s.Watch(t.Context(), "n", last)
	if err != nil {
		t.Fatal(err)
	}
	// A writer whose transaction failed reads whether it was performed.
	increment := func() {
		for deadline := time.Now().Add(patience); ; {
			rev, err := s.Txn(t.Context(), []store.Check{{Key: "n", Revision: last}}, []store.Op{store.Put("n", fmt.Append(nil, n+1))})
			if err == nil {
				n, last = n+1, rev
				return
			}
			e, getErr := s.Get(t.Context(), "n")
			if getErr == nil && string(e.Value) == fmt.Sprint(n+1) {
				n, last = n+1, e.Modified
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("transaction: %v; then %v", err, getErr)
			}
		}
	}
	isLeader := func(s *server) (leader bool) {
		administer(t, s.endpoint, func(ctx context.Context, client *clientv3.Client) error {
			status, err := client.Status(ctx, s.endpoint)
			leader = err == nil && status.Leader == status.Header.MemberId
			return err
		})
		return leader
	}
	increment()
	i := -1
	for deadline := time.Now().Add(patience); i < 0; i = slices.IndexFunc(servers, isLeader) {
		if time.Now().After(deadline) {
			t.Fatal("no member is the leader")
		}
	}
	servers[0], servers[i] = servers[i], servers[0] // the leader first
	servers[0].kill(t)
	for range 20 {
		increment()
	}

	servers[1].kill(t)
	if _, err := impatient.Txn(t.Context(), nil, []store.Op{store.Put("other", nil)}); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one member of three: %v, want an error that is not the caller's", err)
	}
	for _, lost := range servers[:2] {
		lost.start(t)
		lost.waitListening(t)
	}
	for range 20 {
		increment()
	}
	for seen := 0; seen < n; {
		select {
		case events, ok := <-watch:
			if !ok {
				t.Fatal("the watch ended")
			}
			for _, e := range events {
				seen++
				if string(e.Value) != fmt.Sprint(seen) {
					t.Fatalf("watched %s, want %d", e.Value, seen)
				}
			}
		case <-time.After(patience):
			t.Fatalf("nothing after %d of %d", seen, n)
		}
	}
}

// A member that answers but has lost its leader must not be waited for: the
// others are asked.
func TestMemberWithoutLeader(t *testing.T) {
	healthy := startServers(t, 1, "http")[0]
	// What is left of a cluster of two stands for a member that is cut off.
	pair := startServers(t, 2, "http")
	put(t, open(t, etcd.Options{Endpoints: []string{pair[0].endpoint}}), "k", "joined")
	pair[1].kill(t)
	administer(t, pair[0].endpoint, func(ctx context.Context, client *clientv3.Client) error {
		for {
			status, err := client.Status(ctx, pair[0].endpoint)
			if err != nil || status.Leader == 0 {
				return err
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	s := open(t, etcd.Options{Endpoints: []string{pair[0].endpoint, healthy.endpoint}})
	start := put(t, s, "k", "start")
	var watches []<-chan []store.Event
	for range 4 {
		watch, err := s.Watch(t.Context(), "k", start)
		if err != nil {
			t.Fatal(err)
		}
		watches = append(watches, watch)
	}
	began := time.Now()
	const writes = 10
	for i := range writes {
		put(t, s, "k", fmt.Sprint(i))
	}
	for _, watch := range watches {
		for seen := 0; seen < writes; {
			select {
			case events := <-watch:
				seen += len(events)
			case <-time.After(patience):
				t.Fatalf("watched %d of %d", seen, writes)
			}
		}
	}
	t.Logf("%d transactions and %d watches took %s", writes, len(watches), time.Since(began))
}
