package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/store"
	"github.com/vpngw/vpngw/dataplane/route"
	"github.com/vpngw/vpngw/ike/sa"
)

// faultyStore is a store whose transactions a test can hold up.
type faultyStore struct {
	store.Store
	mu      sync.Mutex
	before  func(ctx context.Context, key string) error // each change of a transaction; nil: nothing
	written map[string]int                              // by key
}

func (s *faultyStore) Txn(ctx context.Context, checks []store.Check, ops []store.Op) (int64, error) {
	s.mu.Lock()
	before := s.before
	s.mu.Unlock()
	for _, op := range ops {
		if before == nil {
			break
		}
		if err := before(ctx, op.Key()); err != nil {
			return 0, err
		}
	}
	revision, err := s.Store.Txn(ctx, checks, ops)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, op := range ops {
		if err == nil && s.written != nil {
			s.written[op.Key()]++
		}
	}
	return revision, err
}

// hold has f decide about each change from now on, and counts the changes anew.
func (s *faultyStore) hold(f func(ctx context.Context, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.written = f, make(map[string]int)
}

// statusWrites is how often the status of a connection was written since hold.
func (s *faultyStore) statusWrites(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written["status/"+string(control.KindConnection)+"/"+project+"/"+id]
}

// neighbours are two gateways with a connection each.
func (w *world) neighbours() (first, second, a, b string) {
	w.Helper()
	first = w.gateway()
	second = w.gateway(func(g *control.GatewayCreate) {
		g.EIP1, g.EIP2 = &control.EIPRequest{ID: ptr(eip3)}, &control.EIPRequest{ID: ptr(eip4)}
	})
	a = w.connection(first, eip1, w.customer("198.51.100.7"))
	b = w.connection(second, eip4, w.customer("198.51.100.8"), func(c *control.ConnectionCreate) {
		c.PeerSubnets = []string{"192.168.8.0/24"}
	})
	return first, second, a, b
}

// Writes about one gateway that fail, or that are not answered at all, hold up
// neither an edit of another gateway nor the engines. When they succeed again,
// what is written is the last state, once.
func TestWritesOfOneGatewayDelayNoOther(t *testing.T) {
	for _, kind := range []string{"fail", "block"} {
		t.Run(kind, func(t *testing.T) {
			inWorld(t, func(w *world) {
				_, _, a, b := w.neighbours()
				release := make(chan struct{})
				w.faults.hold(func(ctx context.Context, key string) error {
					if !strings.HasSuffix(key, a) || !strings.HasPrefix(key, "status/") && !strings.HasPrefix(key, "log/") {
						return nil
					}
					if kind == "fail" {
						return errors.New("no space left on device")
					}
					select {
					case <-release:
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				})
				for range 5 {
					w.engines.up(a)
					w.settle()
					w.engines.down(a, sa.Event{Kind: sa.IKEDown, Reason: sa.ReasonDPDTimeout})
					w.settle()
				}
				w.engines.up(a)
				w.settle()
				w.wantState(a, control.ConnectionDown) // as it was before all this

				subnets := control.ConnectionUpdate{PeerSubnets: []string{"192.168.9.0/24"}}
				if _, err := w.service.UpdateConnection(w.ctx, project, b, subnets); err != nil {
					t.Fatal(err)
				}
				w.engines.up(b)
				w.settle()
				w.wantState(b, control.ConnectionActive)
				routed := func(r route.Route) bool { return r.Type == route.Unicast && r.Dst.String() == "192.168.9.0/24" }
				if !slices.ContainsFunc(w.engines.routes.Routes, routed) {
					t.Errorf("the edit is not in the routes: %v", w.engines.routes.Routes)
				}
				if n := w.r.Stats().Waiting; n != 1 {
					t.Errorf("%d gateways wait for the store, want one", n)
				}

				w.faults.hold(nil)
				close(release)
				time.Sleep(retryMax)
				w.settle()
				w.wantState(a, control.ConnectionActive)
				most := 1
				if kind == "block" {
					most = 2 // the one that was held up comes first
				}
				if n := w.faults.statusWrites(a); n < 1 || n > most {
					t.Errorf("the status was written %d times, want at most %d", n, most)
				}
				if n := w.r.Stats().Waiting; n != 0 {
					t.Errorf("%d gateways still wait for the store", n)
				}
			})
		})
	}
}

// A gateway that has failed for long is tried every minute. Another one that
// fails now is tried again within seconds, and an edit is applied at once.
func TestEachGatewayHasABackoffOfItsOwn(t *testing.T) {
	inWorld(t, func(w *world) {
		_, _, a, b := w.neighbours()
		refused := func(id string) error { return fmt.Errorf("connection %q: policy refused", id) }
		w.engines.fail("ike", errors.Join(refused(a)))
		w.pass()
		time.Sleep(10 * time.Minute)
		w.settle()
		w.wantState(a, control.ConnectionError)
		passes := w.r.Stats().Passes
		time.Sleep(5 * retryMax)
		if n := w.r.Stats().Passes - passes; n < 4 || n > 6 {
			t.Errorf("%d passes in five minutes, want one a minute", n)
		}

		w.engines.fail("ike", errors.Join(refused(a), refused(b)))
		w.pass()
		w.wantState(b, control.ConnectionError)
		if n := w.r.Stats().Retrying; n != 2 {
			t.Errorf("%d gateways are tried again, want two", n)
		}
		w.engines.fail("ike", errors.Join(refused(a)))
		time.Sleep(3 * retryMin)
		w.settle()
		w.wantState(b, control.ConnectionDown, "negotiating")
		w.wantState(a, control.ConnectionError)

		psk := control.NewSecret("Another-key-of-16-2")
		if _, err := w.service.UpdateConnection(w.ctx, project, b, control.ConnectionUpdate{PSK: &psk}); err != nil {
			t.Fatal(err)
		}
		w.settle()
		if got := string(w.engines.connections[b].PSK); got != "Another-key-of-16-2" {
			t.Errorf("the key exchange still has the key %q", got)
		}
		w.engines.fail("ike", nil) // else the end of the test is refused, too
	})
}

// The daemon stops within bounds although the store takes no more writes.
func TestStopWhileWritesAreHeldUp(t *testing.T) {
	inWorld(t, func(w *world) {
		_, _, a, b := w.neighbours()
		w.faults.hold(func(ctx context.Context, key string) error {
			if strings.HasSuffix(key, a) {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		w.engines.up(a)
		w.engines.up(b)
		w.settle()
		start := time.Now()
		w.stop()
		if took := time.Since(start); took > takeDownMax {
			t.Errorf("the stop took %v", took)
		}
		w.open()
		w.wantState(b, control.ConnectionUnknown)
		if err := w.db.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// What is still to be written of a gateway that another node serves now is not
// written any more.
func TestNothingIsWrittenOfWhatIsAnotherNodes(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway := w.gateway()
		w.stop()
		s := &share{division: &control.Division{Node: "one"}}
		w.share = s
		w.start()
		s.divide(w, gateway, "one")
		id := w.connection(gateway, eip1, w.customer("198.51.100.7"))
		w.wantState(id, control.ConnectionDown)
		w.faults.hold(func(_ context.Context, key string) error {
			if strings.HasPrefix(key, "status/") {
				return errors.New("no space left on device")
			}
			return nil
		})
		w.engines.up(id)
		w.settle()
		s.divide(w, gateway, "two")
		w.faults.hold(nil)
		time.Sleep(retryMax)
		w.settle()
		w.wantState(id, control.ConnectionDown) // as the other node may have said
		if n := w.faults.statusWrites(id); n != 0 {
			t.Errorf("the status was written %d times", n)
		}
	})
}
