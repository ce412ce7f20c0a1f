//go:build !race

package sa

import (
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// Of the model each scenario is explored by one goroutine, which has it to itself:
// the race detector would find nothing, in ten times the time.

// runModel explores scenarios, as many worlds at once as there are processors.
func runModel(t *testing.T, scenarios []scenario) {
	t.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // what is kept is little beside what is made
	byWorld := map[setting][]scenario{}
	for _, sc := range scenarios {
		byWorld[sc.setting] = append(byWorld[sc.setting], sc)
	}
	var states, steps, ends, known, inputs atomic.Int64
	work := make(chan []scenario)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for list := range work {
				w, err := newWorld(list[0].setting, nil)
				if err != nil {
					t.Errorf("%s: %v", list[0], err)
					continue
				}
				for _, sc := range list {
					if t.Failed() {
						break
					}
					m := newModel(sc, w)
					m.explore()
					states.Add(int64(m.states))
					steps.Add(int64(m.steps))
					ends.Add(int64(m.ends))
					if m.failed != "" {
						t.Errorf("%s\n%s\n%s", sc, m.failed, m.transcript(t))
					}
				}
				known.Add(int64(len(w.known[0]) + len(w.known[1])))
				inputs.Add(int64(len(w.steps[0]) + len(w.steps[1])))
			}
		})
	}
	for _, list := range byWorld {
		work <- list
	}
	close(work)
	workers.Wait()
	t.Logf("%d scenarios, %d states, %d steps, %d of them at rest; of single ends %d states, %d steps",
		len(scenarios), states.Load(), steps.Load(), ends.Load(), known.Load(), inputs.Load())
}

// pairs returns all that two commands can be: each of them at either end, or one
// only.
func pairs(ops []operation) [][]order {
	var single []order
	for _, op := range ops {
		single = append(single, order{0, op}, order{1, op})
	}
	var list [][]order
	for i, first := range single {
		list = append(list, onBothEnds(first))
		for _, then := range single[i:] {
			list = append(list, onBothEnds(first, then))
		}
	}
	return list
}

// onBothEnds gives a change of the configuration to both ends: it cannot be kept by
// one alone.
func onBothEnds(orders ...order) []order {
	i := slices.IndexFunc(orders, func(o order) bool { return o.op == removesChild })
	if i < 0 {
		return orders
	}
	both := order{1 - orders[i].end, removesChild}
	if slices.Contains(orders, both) {
		return orders
	}
	return append(orders, both)
}

// every returns the scenarios of all pairs of commands with all that a scenario can
// be beside them.
func every(ops []operation, faults int, v1 bool) []scenario {
	var list []scenario
	for _, orders := range pairs(ops) {
		aged := hasOp(orders, reauthenticates) && !v1
		for _, nonces := range []nonceOrder{rising, falling, scattered} {
			for _, initiates := range []int{0, 1, 3} {
				for n := range 4 {
					list = append(list, scenario{
						orders: orders, busy: n&2 != 0, faults: faults,
						setting: setting{
							nonces: nonces, initiates: initiates, hurriedB: n&1 != 0, v1: v1, two: hasOp(orders, removesChild), aged: aged,
							dpd: v1 && hasOp(orders, deletesIKE), // a DELETE of IKEv1 is not answered
						},
					})
				}
			}
		}
	}
	return list
}

// usual picks those of the scenarios that differ in more than the speed of timers:
// of a busy tunnel that a keeps up.
func usual(list []scenario) []scenario {
	return slices.DeleteFunc(slices.Clone(list), func(sc scenario) bool {
		return sc.initiates != 1 || !sc.busy || sc.hurriedB || sc.nonces == scattered
	})
}

// whole says that the model is to be explored in full, which takes minutes.
var whole = os.Getenv("VPNGW_MODEL") == "full"

var operations = []operation{rekeysChild, rekeysIKE, deletesChild, removesChild, deletesIKE, reauthenticates, probes}

// rekeys picks those of the scenarios in which two rekeys meet.
func rekeys(list []scenario) []scenario {
	return slices.DeleteFunc(slices.Clone(list), func(sc scenario) bool {
		return len(sc.orders) < 2 || sc.has(deletesChild, removesChild, deletesIKE, reauthenticates, probes)
	})
}

// TestModel takes two machines of IKEv2 through all that two commands and a number
// of faults of the network can bring about.
func TestModel(t *testing.T) {
	withModelGroup(t)
	none, one := every(operations, 0, false), every(operations, 1, false)
	if !whole {
		none = slices.DeleteFunc(usual(none), func(sc scenario) bool {
			twice := !slices.ContainsFunc(sc.orders, func(o order) bool { return o.op != reauthenticates })
			return sc.aged && (sc.nonces != rising || twice && len(sc.orders) > 1)
		})
		one = rekeys(usual(one))
	} else {
		one = slices.DeleteFunc(one, func(sc scenario) bool { return sc.initiates != 1 || sc.nonces == scattered })
	}
	t.Run("faults=0", func(t *testing.T) { runModel(t, none) })
	t.Run("faults=1", func(t *testing.T) { runModel(t, one) })
	if whole {
		t.Run("faults=2", func(t *testing.T) { runModel(t, rekeys(usual(every(operations, 2, false)))) })
	}
}

// TestV1Model does the same to two machines of IKEv1, over a network without faults.
func TestV1Model(t *testing.T) {
	withModelGroup(t)
	scenarios := every([]operation{rekeysChild, rekeysIKE, deletesChild, deletesIKE, probes}, 0, true)
	if !whole {
		scenarios = slices.DeleteFunc(usual(scenarios), func(sc scenario) bool {
			return sc.nonces == falling || sc.has(deletesChild, deletesIKE) && len(sc.orders) > 1
		})
	}
	runModel(t, scenarios)
}

func hasOp(orders []order, op operation) bool {
	return slices.ContainsFunc(orders, func(o order) bool { return o.op == op })
}
