package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/control"
)

// count is how often Apply was called.
func (e *clientEngine) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.calls
}

// take makes Apply of the engine take its time.
func (e *clientEngine) take(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.slow = d
}

// accessPolicy lets the first group of a server reach a network, and returns the revision that has it.
func (w *world) accessPolicy(server, name, destination string) int64 {
	w.Helper()
	groups, err := w.service.ListUserGroups(w.ctx, project, server, control.Page{})
	if err != nil || len(groups.Items) == 0 {
		w.Fatal(groups, err)
	}
	ctx, changes := control.GatherChanges(w.ctx)
	_, err = w.service.CreateAccessPolicy(ctx, project, server, control.AccessPolicyCreate{
		Name: &name, GroupID: &groups.Items[0].ID, Destinations: []string{destination},
	})
	if err != nil {
		w.Error(err)
	}
	return changes.Revision()
}

// policies returns how many policies the engine has.
func (w *world) policies() int {
	list := w.clients.endpoints()
	if len(list) != 1 {
		w.Fatalf("the engine has %d endpoints", len(list))
	}
	return len(list[0].Policies)
}

// Who waits for a revision finds the engines to have it, however slow they are.
func TestWaitApplied(t *testing.T) {
	inWorld(t, func(w *world) {
		_, server := w.clientGateway(eip1, "172.20.0.0/24")
		before := w.policies()
		w.clients.take(700 * time.Millisecond)
		began := time.Now()
		revision := w.accessPolicy(server, "one", "10.10.0.0/24")
		if n := w.policies(); n != before {
			t.Fatalf("the engine has %d policies at once, want %d", n, before)
		}
		if err := w.r.WaitApplied(w.ctx, revision); err != nil {
			t.Fatal(err)
		}
		if n, took := w.policies(), time.Since(began); n != before+1 || took != 700*time.Millisecond {
			t.Errorf("after %v the engine has %d policies, want %d", took, n, before+1)
		}
		began = time.Now()
		if err := w.r.WaitApplied(w.ctx, revision); err != nil || time.Since(began) != 0 {
			t.Errorf("a revision that is in force was waited for %v: %v", time.Since(began), err)
		}
	})
}

// One who comes while a pass is under way does not get its result, which may be
// of before the change, and all who come then share the next pass.
func TestWaitersShareAPass(t *testing.T) {
	inWorld(t, func(w *world) {
		_, server := w.clientGateway(eip1, "172.20.0.0/24")
		before := w.policies()
		w.clients.take(500 * time.Millisecond)
		applied, passes, began := w.clients.count(), w.r.Stats().Passes, time.Now()
		first := w.accessPolicy(server, "first", "10.10.0.0/24")
		const writers = 8
		var waiting sync.WaitGroup
		waiting.Go(func() {
			if err := w.r.WaitApplied(w.ctx, first); err != nil || w.policies() != before+1 {
				t.Errorf("the engine has %d policies, want %d: %v", w.policies(), before+1, err)
			}
		})
		synctest.Wait() // its pass is under way
		for i := range writers {
			revision := w.accessPolicy(server, fmt.Sprint("later-", i), "10.10.0.0/24")
			waiting.Go(func() {
				if err := w.r.WaitApplied(w.ctx, revision); err != nil || w.policies() != before+1+writers {
					t.Errorf("the engine has %d policies, want %d: %v", w.policies(), before+1+writers, err)
				}
			})
		}
		waiting.Wait()
		if took := time.Since(began); took != time.Second {
			t.Errorf("all was in force after %v, want two passes", took)
		}
		synctest.Wait()
		if n := w.clients.count() - applied; n != 2 {
			t.Errorf("the engine was called %d times, want 2", n)
		}
		if n := w.r.Stats().Passes - passes; n != 0 {
			t.Errorf("%d passes, want none", n)
		}
	})
}

// A wait ends with its context.
func TestWaitAppliedIsBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		_, server := w.clientGateway(eip1, "172.20.0.0/24")
		w.clients.take(time.Hour)
		revision := w.accessPolicy(server, "one", "10.10.0.0/24")
		ctx, cancel := context.WithTimeout(w.ctx, 2*time.Second)
		defer cancel()
		began := time.Now()
		if err := w.r.WaitApplied(ctx, revision); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("waited %v", took)
		}
	})
}

// A change of a server takes a pass, and who waits for it gets that: also when a
// change of a policy follows, which alone would take none.
func TestWaitAppliedForAServer(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway, server := w.clientGateway(eip1, "172.20.0.0/24")
		before := w.policies()
		ctx, changes := control.GatherChanges(w.ctx)
		to := control.LogConfig{GroupID: "group", StreamID: "stream"}
		if err := w.service.SetLogConfig(ctx, project, gateway, to); err != nil {
			t.Fatal(err)
		}
		w.accessPolicy(server, "one", "10.10.0.0/24")
		passes := w.r.Stats().Passes
		if err := w.r.WaitApplied(w.ctx, changes.Revision()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := w.r.Stats().Passes - passes; n == 0 || w.policies() != before+1 {
			t.Errorf("%d passes, %d policies", n, w.policies())
		}
		// What a later pass starts from has the policy, too.
		w.pass()
		if n := w.policies(); n != before+1 {
			t.Errorf("after another pass the engine has %d policies", n)
		}
	})
}

// Nobody waits for engines that are being taken down.
func TestWaitAppliedEndsWithRun(t *testing.T) {
	inWorld(t, func(w *world) {
		waited := make(chan error, 1)
		go func() { waited <- w.r.WaitApplied(w.ctx, 1<<40) }()
		synctest.Wait()
		select {
		case err := <-waited:
			t.Fatalf("a revision that is to come was in force: %v", err)
		default:
		}
		w.stop()
		if err := <-waited; err != nil {
			t.Error(err)
		}
	})
}
