//go:build e2e

package e2e

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpngw/vpngw/control/fleet"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// fleetFaults is how many faults TestFleetFaults injects; VPNGW_FAULTS is
// another number.
const fleetFaults = 100

// storm injects faults into a fleet, in parallel on its nodes and on etcd, each
// of which is mended before the next one there.
type storm struct {
	w      *fleetWorld
	left   int // of the faults to come
	counts map[string]int
	mu     sync.Mutex
	random *rand.Rand
}

// next takes one of the faults that are left, and draws a number below n and a
// pause of at most half a second and a length of one to five seconds.
func (s *storm) next(n int) (kind int, pause, length time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == 0 {
		return 0, 0, 0, false
	}
	s.left--
	ms := func(n int) time.Duration { return time.Duration(s.random.IntN(n)) * time.Millisecond }
	return s.random.IntN(n), ms(500), time.Second + ms(4000), true
}

func (s *storm) count(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[name]++
}

// node injects faults into one node.
func (s *storm) node(n *netlab.FleetNode) error {
	ctx := s.w.ctx
	for {
		kind, pause, length, ok := s.next(4)
		if !ok {
			return nil
		}
		time.Sleep(pause)
		var err error
		switch kind {
		case 0:
			s.count("SIGKILL")
			if err = n.Kill(); err == nil {
				time.Sleep(length / 4)
				err = s.start(n)
			}
		case 1:
			s.count("SIGSTOP")
			if err = n.Pause(); err == nil {
				time.Sleep(length)
				err = n.Resume()
			}
		case 2:
			s.count("nftables")
			if err = n.Cut(ctx); err == nil {
				time.Sleep(length)
				err = n.Mend(ctx)
			}
		case 3:
			s.count("link down")
			if err = n.Unplug(ctx); err == nil {
				time.Sleep(length)
				err = n.Plug(ctx)
			}
		}
		if err != nil {
			return fmt.Errorf("fault of %s: %w", n.Name, err)
		}
	}
}

// start starts a node again, which may end at once while etcd is away: then it
// is started as a service manager would.
func (s *storm) start(n *netlab.FleetNode) error {
	var err error
	for range 5 {
		if err = n.Start(s.w.ctx); err == nil {
			return nil
		}
		if n.Running() || !strings.Contains(n.Log(), "etcd at") {
			return err
		}
	}
	return err
}

// etcd kills the cluster every now and then.
func (s *storm) etcd() error {
	for {
		s.mu.Lock()
		quiet := 4*time.Second + time.Duration(s.random.IntN(6000))*time.Millisecond
		s.mu.Unlock()
		time.Sleep(quiet)
		_, _, length, ok := s.next(1)
		if !ok {
			return nil
		}
		s.count("etcd killed")
		if err := s.w.Etcd.Kill(); err != nil {
			return err
		}
		time.Sleep(length / 4)
		if err := s.w.Etcd.Start(s.w.ctx); err != nil {
			return err
		}
	}
}

// Three daemons suffer random faults, and so does etcd. Never do two of them
// hold one claim, and in the end all is held again.
func TestFleetFaults(t *testing.T) {
	t.Parallel()
	faults := fleetFaults
	if n, err := strconv.Atoi(os.Getenv("VPNGW_FAULTS")); err == nil {
		faults = n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := newFleetWorld(t, 10*time.Minute+time.Duration(faults)*5*time.Second, 2*time.Second)
	w.apply(w.Nodes[0])
	claim := w.active()
	w.waitUntil("the gateway is carried", patience, func() bool { return w.holder(claim) != nil })

	s := &storm{w: w, left: faults, counts: map[string]int{}, random: rand.New(rand.NewPCG(seed, 0))}
	start := time.Now()
	var g errgroup.Group
	for _, n := range w.Nodes {
		g.Go(func() error { return s.node(n) })
	}
	g.Go(s.etcd)
	w.check(g.Wait())
	t.Logf("%d faults in %v: %v", faults, time.Since(start).Round(time.Second), s.counts)

	for _, claim := range []string{claim, "address/203.0.113.10", "address/203.0.113.11", "address/10.10.0.1", "steward"} {
		w.waitUntil(claim+" is held again", patience, func() bool { return w.holder(claim) != nil })
	}
	holder := w.holder(claim)
	w.expectNodes(holder)
	for _, n := range w.Nodes {
		for _, a := range w.Public {
			w.waitUntil(fmt.Sprintf("%s has %s, or not, as it should", n.Name, a), patience, func() bool { return w.has(n, a) == (n == holder) })
		}
	}
	w.summarise(w.checkHistories(), claim)
}

// summarise logs how long the gateway was without a holder.
func (w *fleetWorld) summarise(events []fleet.Event, claim string) {
	w.t.Helper()
	slices.SortStableFunc(events, func(a, b fleet.Event) int { return cmp.Compare(a.At, b.At) })
	var gaps []time.Duration
	taken, holder, free := 0, "", int64(0)
	for _, e := range events {
		switch {
		case e.Kind == fleet.Taken && e.Claim == claim:
			if free != 0 {
				gaps = append(gaps, time.Duration(e.At-free))
			}
			taken, holder, free = taken+1, e.Node, 0
		case e.Node == holder && (e.Kind == fleet.Died || e.Kind == fleet.Left && e.Claim == claim):
			holder, free = "", e.At
			if e.Kind == fleet.Left {
				free = min(e.At, e.Until)
			}
		}
	}
	slices.Sort(gaps)
	if len(gaps) > 0 {
		w.t.Logf("the gateway was taken %d times; without a holder for %v in the median, %v at most",
			taken, gaps[len(gaps)/2].Round(time.Millisecond), gaps[len(gaps)-1].Round(time.Millisecond))
	}
}
