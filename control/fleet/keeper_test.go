package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/store"
)

// TestTakeover cuts the node off that serves everything: it stops before
// another one takes over, and gets nothing back by coming back.
func TestTakeover(t *testing.T) {
	inWorld(t, func(w *world) {
		a := w.mustJoin("a", "az1")
		time.Sleep(time.Second)
		w.wants(a, everything, true)
		b := w.mustJoin("b", "az1")
		time.Sleep(time.Minute)
		w.wants(a, everything, true)
		w.wants(b, nil, false)
		if d := b.Division(); d.Owners[eip1] != "a" || d.Active["standby"] != "a" || d.Steward != "a" {
			t.Errorf("b knows of the division %+v", d)
		}

		a.link.Cut()
		for start := time.Now(); a.Holds(eip1); time.Sleep(time.Millisecond) {
			if b.Holds(eip1) {
				t.Fatal("both hold the address")
			}
			if time.Since(start) > ttl {
				t.Fatal("the node goes on without its lease")
			}
		}
		if b.Holds(eip1) {
			t.Fatal("taken over before the other one has stopped")
		}
		stopped := time.Now()
		for !b.Holds(eip1) {
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(stopped); took > time.Second {
			t.Errorf("taken over %v after the other one has stopped", took)
		}
		time.Sleep(100 * time.Millisecond)
		w.wants(a, nil, false)
		w.wants(b, everything, true)
		if err := a.Ready(); err != nil {
			t.Error(err)
		}
		time.Sleep(awayFor)
		if err := a.Ready(); !errors.Is(err, errNoLease) {
			t.Errorf("cut off for long, Ready says %v", err)
		}

		a.link.Mend()
		time.Sleep(time.Minute)
		w.wants(a, nil, false)
		w.wants(b, everything, true)
		if err := a.Ready(); err != nil {
			t.Error(err)
		}
		// Who stops in order makes nobody wait.
		b.stop()
		time.Sleep(500 * time.Millisecond)
		w.wants(a, everything, true)
		if st := a.Stats(); st.Lapses != 1 || st.Addresses != 6 || st.Gateways != 1 || st.Nodes != 1 || st.LeaseLeft <= 0 {
			t.Errorf("figures %+v", st)
		}
	})
}

// TestZones gives what is free to the node of the zone, and then to the first
// by name.
func TestZones(t *testing.T) {
	inWorld(t, func(w *world) {
		z := w.mustJoin("z", "az2")
		time.Sleep(time.Second)
		c := w.mustJoin("c", "az2")
		b := w.mustJoin("b", "az1")
		time.Sleep(time.Second)
		w.wants(z, everything, true) // it was first
		z.stop()
		time.Sleep(time.Second)
		w.wants(b, []netip.Addr{eip1, eip2, eip3, eip5, routerIP}, true)
		w.wants(c, []netip.Addr{eip4}, false)
	})
}

// TestUnfitNode lets another node take over where one cannot set an address.
func TestUnfitNode(t *testing.T) {
	inWorld(t, func(w *world) {
		broken := errors.New("no such device")
		a := w.mustJoin("a", "az1", func(n *node, _ *Options) { n.broken[eip2], n.broken[eip3] = broken, broken })
		b := w.mustJoin("b", "az1")
		time.Sleep(5 * time.Second)
		w.wants(a, []netip.Addr{eip4, eip5}, false)
		w.wants(b, []netip.Addr{eip1, eip2, eip3, routerIP}, true)
	})
}

// TestNameTaken refuses the name of a living node, and waits for a dead one.
func TestNameTaken(t *testing.T) {
	inWorld(t, func(w *world) {
		a := w.mustJoin("a", "az1")
		if _, err := w.join("a", "az1"); !errors.Is(err, ErrNameTaken) {
			t.Errorf("Join with the name of a living node: %v", err)
		}
		// It dies without a word.
		a.link.Cut()
		again, err := w.join("a", "az2")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		w.wants(again, everything, true)
		a.link.Mend()
		time.Sleep(time.Minute)
		w.wants(again, everything, true)
		w.wants(a, nil, false)
		a.stop()
	})
}

// TestEnginesStopFirst holds a node without a lease back until its engines have
// given up what was lost.
func TestEnginesStopFirst(t *testing.T) {
	inWorld(t, func(w *world) {
		a := w.mustJoin("a", "az1")
		time.Sleep(time.Second)
		a.mu.Lock()
		a.deaf = true
		a.mu.Unlock()
		a.link.Cut()
		time.Sleep(time.Minute)
		a.link.Mend()
		time.Sleep(time.Minute)
		w.wants(a, nil, false)
		a.mu.Lock()
		a.deaf = false
		a.mu.Unlock()
		time.Sleep(5 * time.Second)
		w.wants(a, everything, true)
	})
}

// TestLostAnswers has transactions performed whose answers are lost.
func TestLostAnswers(t *testing.T) {
	inWorld(t, func(w *world) {
		a := w.mustJoin("a", "az1")
		for range 20 {
			a.link.mu.Lock()
			a.link.lose = true
			a.link.mu.Unlock()
			time.Sleep(200 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		w.wants(a, everything, true)
	})
}

// TestSuspendedHost lets time pass that no timer sees: the first question
// afterwards finds the deadline passed.
func TestSuspendedHost(t *testing.T) {
	inWorld(t, func(w *world) {
		var suspended atomic.Int64
		base := time.Now()
		a := w.mustJoin("a", "az1", func(_ *node, o *Options) {
			o.Clock = func() time.Duration { return time.Since(base) + time.Duration(suspended.Load()) }
		})
		time.Sleep(time.Second)
		w.wants(a, everything, true)
		a.link.Cut()
		suspended.Store(int64(time.Hour))
		if a.Holds(eip1) {
			t.Error("the node goes on after it was suspended")
		}
		time.Sleep(ttl / renewals)
		w.wants(a, nil, false)
	})
}

// TestLateRenewal has a renewal answered after the deadline that it puts off, and
// after the node has begun to ask for a new lease: it holds nothing by the one
// that it gives back.
func TestLateRenewal(t *testing.T) {
	inWorld(t, func(w *world) {
		var stopped atomic.Int64
		base := time.Now()
		a := w.mustJoin("a", "az1", func(_ *node, o *Options) {
			o.Clock = func() time.Duration { return time.Since(base) + time.Duration(stopped.Load()) }
		})
		a.link.mu.Lock()
		a.link.slow = ttl / 10
		a.link.mu.Unlock()
		time.Sleep(2*ttl + 10*time.Millisecond) // a renewal is under way
		w.wants(a, everything, true)
		var early atomic.Bool
		first := true
		a.link.mu.Lock()
		a.link.sent = func() {
			if first {
				early.Store(a.Division().Serves(eip1) || a.Holds(eip1))
			}
			first = false
		}
		a.link.mu.Unlock()
		stopped.Store(int64(ttl * 2 / 3))
		a.wake()
		time.Sleep(ttl)
		if early.Load() {
			t.Error("the lease is given back, and the engines have not heard of it")
		}
		w.wants(a, everything, true)
		if st := a.Stats(); st.Lapses != 1 {
			t.Errorf("%d lapses", st.Lapses)
		}
	})
}

func TestSinceBoot(t *testing.T) {
	if before := SinceBoot(); before <= 0 || SinceBoot() < before {
		t.Errorf("the clock reads %v and then less", before)
	}
}

// TestAddressesEndWithTheLease answers renewals late, and stops answering: the
// kernel removes addresses no later than the lease ends, should the process not
// be there to do it.
func TestAddressesEndWithTheLease(t *testing.T) {
	inWorld(t, func(w *world) {
		a := w.mustJoin("a", "az1")
		a.link.mu.Lock()
		a.link.slow = ttl/attempts - time.Millisecond
		a.link.mu.Unlock()
		time.Sleep(time.Second)
		for range 200 {
			time.Sleep(50 * time.Millisecond)
			synctest.Wait()
			a.Keeper.mu.Lock()
			id := a.session.lease
			a.Keeper.mu.Unlock()
			w.cluster.mu.Lock()
			lease := w.cluster.leases[id].ends
			w.cluster.mu.Unlock()
			a.mu.Lock()
			if len(a.set) == 0 || a.ends.After(lease) {
				t.Errorf("%d addresses are set, and end %v after the lease", len(a.set), a.ends.Sub(lease))
			}
			a.mu.Unlock()
		}
	})
}

// TestAddressBeginsToFloat reloads an inventory by which an address of the host
// floats: it is fenced before other nodes can hear of it.
func TestAddressBeginsToFloat(t *testing.T) {
	inWorld(t, func(w *world) {
		a := w.mustJoin("a", "az1", func(_ *node, o *Options) {
			o.HostAddresses = func() (map[netip.Addr]bool, error) { return map[netip.Addr]bool{fixedEIP: true}, nil }
		})
		time.Sleep(time.Second)
		if !a.Division().Serves(fixedEIP) || !a.Holds(fixedEIP) {
			t.Fatal("an address of this node alone is not served")
		}
		var told atomic.Bool
		a.link.mu.Lock()
		a.link.sent = func() { told.Store(told.Load() || a.Holds(fixedEIP)) }
		a.link.mu.Unlock()
		next := inventory()
		next.EIPs[len(next.EIPs)-1].Floating, next.EIPs[len(next.EIPs)-1].Interface = true, "wan"
		a.SetInventory(next)
		time.Sleep(time.Second)
		if told.Load() || a.Holds(fixedEIP) || a.Division().Serves(fixedEIP) {
			t.Errorf("others were told while it was used: %v; afterwards it may be used: %v", told.Load(), a.Holds(fixedEIP))
		}
	})
}

// TestInventoriesDiffer has an address float for one node that another one has
// for itself: no lease ends that, so nobody takes it over.
func TestInventoriesDiffer(t *testing.T) {
	inWorld(t, func(w *world) {
		has := func(a netip.Addr) func(*node, *Options) {
			return func(_ *node, o *Options) {
				o.HostAddresses = func() (map[netip.Addr]bool, error) { return map[netip.Addr]bool{a: true}, nil }
			}
		}
		a := w.mustJoin("a", "az1", has(fixedEIP))
		floating := inventory()
		floating.EIPs[len(floating.EIPs)-1].Floating, floating.EIPs[len(floating.EIPs)-1].Interface = true, "wan"
		b := w.mustJoin("b", "az1", func(n *node, o *Options) {
			o.Inventory = floating
			o.Objects = func(ctx context.Context) (control.Served, error) {
				list := gateways()
				list[1].EIPs[0].Address = fixedEIP
				return n.objects(ctx, list)
			}
		})
		time.Sleep(time.Second)
		a.link.Cut()
		time.Sleep(time.Minute)
		if !a.Holds(fixedEIP) || b.Holds(fixedEIP) || b.Division().Serves(fixedEIP) {
			t.Errorf("the node that has the address goes on: %v; the other one took it: %v", a.Holds(fixedEIP), b.Holds(fixedEIP))
		}
		if !b.Holds(eip1) {
			t.Error("what floats for both was not taken over")
		}
		// The operator says so again, and means it.
		again := *floating
		b.SetInventory(&again)
		time.Sleep(2 * time.Second)
		if !b.Holds(fixedEIP) {
			t.Error("the address was not taken with a new inventory")
		}
	})
}

// TestDamagedRecord has a record that nobody can read: it hides its node alone.
func TestDamagedRecord(t *testing.T) {
	inWorld(t, func(w *world) {
		a := w.mustJoin("a", "az1")
		_, err := w.cluster.Memory.Txn(t.Context(), nil, []store.Op{store.Put(nodesPrefix+"z", []byte("?"))})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		w.wants(a, everything, true)
		left, _, err := a.LeaseLeft(t.Context())
		if err != nil || len(left) != 1 || left["a"] <= 0 {
			t.Errorf("the leases have left %v: %v", left, err)
		}
	})
}

// TestFence checks that the fence goes with the lease.
func TestFence(t *testing.T) {
	inWorld(t, func(w *world) {
		a := w.mustJoin("a", "az1")
		time.Sleep(time.Second)
		write := func() error {
			a.mu.Lock()
			defer a.mu.Unlock()
			_, err := w.cluster.Memory.Txn(t.Context(), []store.Check{a.fence}, []store.Op{store.Put("status", nil)})
			return err
		}
		if err := write(); err != nil {
			t.Error(err)
		}
		a.link.Cut()
		time.Sleep(2 * ttl)
		if err := write(); !errors.Is(err, store.ErrConflict) {
			t.Errorf("written without a lease: %v", err)
		}
		a.link.Mend()
		time.Sleep(2 * ttl)
		if err := write(); err != nil {
			t.Error(err)
		}
	})
}

// TestGatewayGone gives up what no gateway has any more, after a moment.
func TestGatewayGone(t *testing.T) {
	inWorld(t, func(w *world) {
		var mu sync.Mutex
		all := gateways()
		a := w.mustJoin("a", "az1", func(n *node, o *Options) {
			o.Objects = func(ctx context.Context) (control.Served, error) {
				mu.Lock()
				defer mu.Unlock()
				return n.objects(ctx, slices.Clone(all))
			}
		})
		time.Sleep(time.Second)
		w.wants(a, everything, true)
		mu.Lock()
		all = all[:1]
		mu.Unlock()
		w.put(control.ServedPrefixes[0] + "p/any")
		time.Sleep(2 * releaseDelay)
		w.wants(a, []netip.Addr{eip1, eip2, eip5, routerIP}, true)
		entries, _, err := w.cluster.Memory.List(t.Context(), claimsPrefix)
		if err != nil || len(entries) != 6 { // with the gateway and the steward
			t.Errorf("%d claims are left: %v", len(entries), err)
		}
	})
}

// TestUpgrade moves one gateway to the node that has the wanted version, with
// all its addresses at about the same time, and back. What no node can do stays
// where it is.
func TestUpgrade(t *testing.T) {
	inWorld(t, func(w *world) {
		var mu sync.Mutex
		var upgrade *control.Upgrade
		of := func(version string) func(*node, *Options) {
			return func(n *node, o *Options) {
				o.Node.Version = version
				o.Objects = func(ctx context.Context) (control.Served, error) {
					mu.Lock()
					defer mu.Unlock()
					all := gateways()
					all[0].Upgrade = upgrade
					return n.objects(ctx, all)
				}
			}
		}
		a := w.mustJoin("a", "az1", of("1.0.0"))
		time.Sleep(time.Second)
		b := w.mustJoin("b", "az2", of("1.1.0"))
		set := func(u *control.Upgrade) {
			mu.Lock()
			upgrade = u
			mu.Unlock()
			w.put(control.ServedPrefixes[0] + "p/any")
			time.Sleep(releaseDelay + time.Second)
		}
		w.wants(a, everything, true)

		set(&control.Upgrade{Phase: control.PhaseUpgrading, From: "1.0.0", To: "9.0.0"})
		w.wants(a, everything, true)
		w.wants(b, nil, false)
		set(&control.Upgrade{Phase: control.PhaseUpgrading, From: "1.0.0", To: "1.1.0"})
		time.Sleep(releaseDelay) // the address of the router follows
		w.wants(a, []netip.Addr{eip3, eip4, eip5}, false)
		w.wants(b, []netip.Addr{eip1, eip2, routerIP}, true)
		set(&control.Upgrade{Phase: control.PhaseConfirming, From: "1.0.0", To: "1.1.0"})
		w.wants(b, []netip.Addr{eip1, eip2, routerIP}, true)
		set(&control.Upgrade{Phase: control.PhaseRollingBack, From: "1.0.0", To: "1.1.0"})
		time.Sleep(releaseDelay)
		w.wants(a, everything, true)
		w.wants(b, nil, false)

		// Confirmed: from then on it stays with whoever has it.
		set(&control.Upgrade{Phase: control.PhaseUpgrading, From: "1.0.0", To: "1.1.0"})
		time.Sleep(releaseDelay)
		set(nil)
		w.wants(b, []netip.Addr{eip1, eip2, routerIP}, true)
		b.stop()
		time.Sleep(time.Second)
		w.wants(a, everything, true)
	})
}

// TestFaults cuts nodes off, stops and starts them at random for hours: never
// do two hold one address, and after each storm everything is served.
func TestFaults(t *testing.T) {
	inWorld(t, func(w *world) {
		random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test repeats itself
		zones := map[string]string{"a": "az1", "b": "az2", "c": "az1"}
		for name, zone := range zones {
			w.mustJoin(name, zone)
		}
		alone := func() {
			for _, a := range everything {
				var holders []string
				for name, n := range w.nodes {
					if n.Holds(a) {
						holders = append(holders, name)
					}
				}
				if len(holders) > 1 {
					t.Fatalf("%s is held by %v", a, holders)
				}
			}
		}
		pass := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(17 * time.Millisecond) {
				alone()
			}
		}
		names := slices.Sorted(maps.Keys(zones))
		for range 60 {
			for range 5 {
				name := names[random.IntN(len(names))]
				n := w.nodes[name]
				switch random.IntN(4) {
				case 0:
					n.link.Cut()
				case 1:
					n.link.Mend()
				case 2:
					n.link.mu.Lock()
					n.link.lose = true
					n.link.mu.Unlock()
				case 3:
					n.link.Mend()
					n.stop()
					n, err := w.join(name, zones[name])
					if err != nil {
						t.Fatal(err)
					}
					alone()
					_ = n
				}
				pass(time.Duration(random.IntN(4000)) * time.Millisecond)
			}
			for _, n := range w.nodes {
				n.link.Mend()
			}
			pass(8 * time.Second)
			for _, a := range everything {
				if !slices.ContainsFunc(names, func(name string) bool { return w.nodes[name].Holds(a) }) {
					t.Fatalf("nobody serves %s", a)
				}
			}
		}
	})
}

func TestHistory(t *testing.T) {
	at := func(at int64, node string, kind EventKind, until int64) Event {
		return Event{At: at, Node: node, Kind: kind, Claim: "address/x", Until: until}
	}
	tests := []struct {
		name   string
		events []Event
		good   bool
	}{
		{"empty", nil, true},
		{"one after the other", []Event{at(1, "a", Taken, 0), at(5, "a", Left, 9), at(5, "b", Taken, 0)}, true},
		{"the deadline counts when the process was stopped", []Event{at(1, "a", Taken, 0), at(50, "a", Left, 9), at(10, "b", Taken, 0)}, true},
		{"death ends it", []Event{at(1, "a", Taken, 0), {At: 4, Node: "a", Kind: Died}, at(5, "b", Taken, 0)}, true},
		{"killed after it was stopped for longer than its lease", []Event{
			at(1, "a", Taken, 0), {At: 2, Node: "a", Kind: Renewed, Until: 9}, at(10, "b", Taken, 0), {At: 50, Node: "a", Kind: Died},
		}, true},
		{"taken after the deadline, never used", []Event{at(10, "a", Taken, 0), at(12, "a", Left, 9), at(11, "b", Taken, 0)}, true},
		{"other claims", []Event{at(1, "a", Taken, 0), {At: 2, Node: "b", Kind: Taken, Claim: "address/y"}}, true},
		{"two at once", []Event{at(1, "a", Taken, 0), at(5, "b", Taken, 0), at(6, "a", Left, 9)}, false},
		{"never left", []Event{at(1, "a", Taken, 0), at(5, "b", Taken, 0)}, false},
		{"within another's time", []Event{at(1, "a", Taken, 0), at(20, "a", Left, 30), at(5, "b", Taken, 0), at(6, "b", Left, 30)}, false},
		{"the third falls into the first", []Event{
			at(1, "a", Taken, 0), at(20, "a", Left, 30), at(20, "b", Taken, 0), at(21, "b", Left, 30), at(19, "c", Taken, 0),
		}, false},
		{"the deadline is too late", []Event{at(1, "a", Taken, 0), at(50, "a", Left, 12), at(10, "b", Taken, 0)}, false},
		{"killed within its lease", []Event{
			at(1, "a", Taken, 0), {At: 2, Node: "a", Kind: Renewed, Until: 12}, at(10, "b", Taken, 0), {At: 50, Node: "a", Kind: Died},
		}, false},
		{"renewed and neither left nor dead", []Event{
			at(1, "a", Taken, 0), {At: 2, Node: "a", Kind: Renewed, Until: 9}, at(10, "b", Taken, 0),
		}, false},
		{"the deadline of the life before", []Event{
			{At: 2, Node: "a", Kind: Renewed, Until: 9},
			{At: 3, Node: "a", Kind: Died},
			at(10, "a", Taken, 0), at(11, "b", Taken, 0),
			{At: 12, Node: "a", Kind: Died},
		}, false},
		{"the death of another", []Event{at(1, "a", Taken, 0), {At: 4, Node: "c", Kind: Died}, at(5, "b", Taken, 0)}, false},
		{"taken twice", []Event{at(1, "a", Taken, 0), at(2, "a", Taken, 0), at(3, "a", Left, 9)}, false},
		{"left without taking", []Event{at(3, "a", Left, 9)}, false},
		{"unknown", []Event{at(3, "a", "borrowed", 9)}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var text bytes.Buffer
			for _, e := range tt.events {
				if err := json.NewEncoder(&text).Encode(e); err != nil {
					t.Fatal(err)
				}
			}
			text.WriteString(`{"at": 5, "node`) // the process was killed as it wrote
			events, err := ReadHistory(&text)
			if err != nil || len(events) != len(tt.events) {
				t.Fatalf("%d events are read, %d were written: %v", len(events), len(tt.events), err)
			}
			if err := CheckHistory(events); (err == nil) != tt.good {
				t.Errorf("CheckHistory: %v", err)
			}
		})
	}
}
