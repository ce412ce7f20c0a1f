package reconcile

import (
	"fmt"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
)

// A pass over what is in force already changes nothing: no engine, and nothing
// in the store.
func TestPassOverTheSameTouchesNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		gateway := w.gateway()
		for i := range 50 {
			customer := w.customer(fmt.Sprintf("198.18.0.%d", i+1))
			subnets := func(c *control.ConnectionCreate) { c.PeerSubnets = []string{fmt.Sprintf("172.16.%d.0/24", i)} }
			w.engines.up(w.connection(gateway, eip1, customer, subnets))
			w.connection(gateway, eip2, customer, subnets)
		}
		time.Sleep(2 * storeDelay)
		w.settle()
		w.engines.changes()
		before, err := w.objects.Snapshot(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		passes := w.r.Stats().Passes
		time.Sleep(2 * fullPass)
		w.settle()
		if n := w.r.Stats().Passes - passes; n < 2 {
			t.Fatalf("%d passes were made", n)
		}
		w.wantChanges()
		after, err := w.objects.Snapshot(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if after.Revision != before.Revision {
			t.Errorf("the store went from revision %d to %d", before.Revision, after.Revision)
		}
	})
}
