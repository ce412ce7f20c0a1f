package ike

import (
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// TestIdleTunnelsAreLight: what a tunnel that is up and idle keeps of the heap, and
// that it has no goroutine. The data plane is the fake one, which counts, too.
func TestIdleTunnelsAreLight(t *testing.T) {
	const (
		tunnels = 40
		limit   = 12_500 // octets at each end
	)
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		opts := Options{Logger: slog.New(slog.DiscardHandler)}
		a, b := start(t, n, west, opts), start(t, n, east, opts)
		var atWest, atEast []sa.Connection
		for i := range tunnels {
			w, e := joined(fmt.Sprint("c", i), uint32(i+1), west)
			w.LocalID, w.RemoteID = sa.FQDNIdentity(fmt.Sprint("w", i)), sa.FQDNIdentity(fmt.Sprint("e", i))
			e.LocalID, e.RemoteID = w.RemoteID, w.LocalID
			here, there := prefix(fmt.Sprintf("10.1.%d.0/24", i)), prefix(fmt.Sprintf("10.2.%d.0/24", i))
			w.Children[0].Local, w.Children[0].Remote = []ipsec.TrafficSelector{here}, []ipsec.TrafficSelector{there}
			e.Children[0].Local, e.Children[0].Remote = w.Children[0].Remote, w.Children[0].Local
			atWest, atEast = append(atWest, w), append(atEast, e)
		}
		apply(t, b, atEast...)
		for i := range atWest { // what is configured does not count
			atWest[i].Initiate = false
		}
		apply(t, a, atWest...)
		synctest.Wait()
		heap, goroutines := inUse(), runtime.NumGoroutine()
		for i := range atWest {
			atWest[i].Initiate = true
		}
		apply(t, a, atWest...)
		settleFor(30 * time.Second)
		for _, g := range []*gateway{a, b} {
			if up := len(g.seen(sa.ChildUp)); up != tunnels {
				t.Fatalf("%s: %d tunnels are up", g.addr, up)
			}
			g.forgetEvents()
		}
		if more := runtime.NumGoroutine() - goroutines; more > tunnels/2 {
			t.Errorf("%d goroutines more", more)
		}
		if each := (inUse() - heap) / (2 * tunnels); each > limit {
			t.Errorf("%d octets of an idle tunnel, more than %d", each, limit)
		} else {
			t.Logf("%d octets", each)
		}
		runtime.KeepAlive(atWest)
	})
}

// inUse returns the octets of live objects.
func inUse() int {
	var m runtime.MemStats
	for range 2 { // what a pool or a finalizer holds outlasts one collection
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

func (g *gateway) forgetEvents() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = nil
}
