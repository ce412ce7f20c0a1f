package api

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The answer to a change that has no status waits for the engines: for no longer
// than is bounded, and without an error, since it is stored.
func TestAnswerWaitsForTheEngines(t *testing.T) {
	for _, test := range []struct {
		name   string
		takes  time.Duration // that the engines take
		waited time.Duration
		warned bool
	}{
		{"at once", 0, 0, false},
		{"slow", 1500 * time.Millisecond, 1500 * time.Millisecond, false},
		{"stuck", time.Hour, applyTimeout, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.passwordServer()
				var revisions []int64
				b.engines.apply = func(ctx context.Context, revision int64) error {
					revisions = append(revisions, revision)
					select {
					case <-time.After(test.takes):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				began := time.Now()
				group := b.createGroup("staff")
				if took := time.Since(began); took != test.waited {
					t.Errorf("the answer took %v, want %v", took, test.waited)
				}
				_, stored, err := b.store.List(t.Context(), "spec/")
				check(t, err)
				if !slices.Equal(revisions, []int64{stored}) {
					t.Errorf("waited for the revisions %d, want %d", revisions, stored)
				}
				if warned := strings.Contains(b.log.String(), "answered before"); warned != test.warned {
					t.Errorf("a warning: %t, want %t", warned, test.warned)
				}

				// One that finds what it asks for waits for what it found.
				b.call(http.MethodPut, onServer("groups", group), groupBody(object{"name": "staff"})).want(http.StatusOK)
				if !slices.Equal(revisions, []int64{stored, stored}) {
					t.Errorf("waited for the revisions %d, want %d twice", revisions, stored)
				}
				// A refused one waits for nothing, nor does what only reads.
				b.call(http.MethodPost, onServer("groups"), groupBody(object{"name": "staff"})).want(http.StatusBadRequest)
				b.call(http.MethodGet, onServer("groups"), nil).want(http.StatusOK)
				if len(revisions) != 2 {
					t.Errorf("waited for the revisions %d", revisions)
				}
			})
		})
	}
}

// A request that is repeated waits for what the first one made.
func TestRepeatedRequestWaitsForTheEngines(t *testing.T) {
	b := newBench(t)
	b.passwordServer()
	var revisions []int64
	b.engines.apply = func(_ context.Context, revision int64) error {
		revisions = append(revisions, revision)
		return nil
	}
	for range 2 {
		r, content := request(t, http.MethodPost, onServer("users"), userBody(object{"name": "user001", "password": userPassword}))
		r.Header.Set(headerClientToken, "6d0b1d4a-9d6a-4f39-8b4f-2a4f3a4c8e11")
		b.now = b.now.Add(time.Second)
		signRequest(r, content, "admin", testSecret+"admin", b.now, "content-type", "host")
		b.send(r).want(http.StatusCreated)
	}
	if len(revisions) != 2 || revisions[0] == 0 || revisions[0] != revisions[1] {
		t.Errorf("waited for the revisions %d, want one twice", revisions)
	}
}

// Whoever gives up is not waited for.
func TestWaitForTheEnginesEndsWithTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.passwordServer()
		ctx, cancel := context.WithCancel(t.Context())
		b.engines.apply = func(ctx context.Context, _ int64) error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}
		r, content := request(t, http.MethodPost, onServer("groups"), groupBody(object{"name": "staff"}))
		signRequest(r, content, "admin", testSecret+"admin", b.now, "content-type", "host")
		began := time.Now()
		b.send(r.WithContext(ctx))
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
		if strings.Contains(b.log.String(), "answered before") {
			t.Error("it was warned of")
		}
	})
}

// Every change of what clients may do waits for the engines.
func TestChangesOfClientsAreInForce(t *testing.T) {
	operations, err := document()
	check(t, err)
	for _, op := range operations {
		tags := op.route.Operation.Tags
		clients := len(tags) == 1 && slices.Contains([]string{"users", "user groups", "access policies"}, tags[0])
		switch {
		case clients && op.inForce != (op.route.Method != http.MethodGet):
			t.Errorf("%s: x-in-force is %t", op.id, op.inForce)
		case op.inForce && op.route.Method == http.MethodGet:
			t.Errorf("%s only reads, and has x-in-force", op.id)
		}
	}
}
