package policer

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestRate(t *testing.T) {
	const mbps, second = 8, int64(time.Second) // 10⁶ octets a second
	for _, octets := range []int{64, 1000, 1500, 60_000} {
		var p Policer
		p.Set(mbps)
		passed := 0
		for now := second; now < 11*second; now += second / 20_000 {
			if p.Allow(octets, now) {
				passed += octets
			}
		}
		const want, burst = 10_000_000, 50_000
		if passed < want || passed > want+burst+2*octets {
			t.Errorf("packets of %d: %d octets in ten seconds, want %d", octets, passed, want)
		}
	}
}

// TestBurst: after a pause no more passes at once than the burst.
func TestBurst(t *testing.T) {
	var p Policer
	p.Set(8)
	now := int64(time.Hour)
	for range 3 {
		passed := 0
		for p.Allow(1000, now) {
			passed += 1000
		}
		if passed < 50_000 || passed > 51_000 {
			t.Errorf("%d octets at once, want those of %v", passed, Burst)
		}
		now += int64(time.Minute)
	}
}

func TestNoLimit(t *testing.T) {
	var p Policer
	for range 100 {
		if p.Limited() || !p.Allow(1<<30, 0) {
			t.Fatal("limited without a limit")
		}
	}
	p.Set(1)
	if !p.Limited() {
		t.Error("not limited")
	}
}

// TestShared has goroutines draw at one time: together they get what one would.
func TestShared(t *testing.T) {
	var p Policer
	p.Set(8)
	var passed atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for p.Allow(1000, int64(time.Hour)) {
				passed.Add(1000)
			}
		})
	}
	all.Wait()
	if got := passed.Load(); got < 50_000 || got > 51_000 {
		t.Errorf("%d octets", got)
	}
}

// TestNow: a change of the clock does not move it, since it counts from the start of
// the process.
func TestNow(t *testing.T) {
	first := Now()
	if first < 0 || first > int64(24*time.Hour) {
		t.Errorf("%v since the start of the process", time.Duration(first))
	}
	if again := Now(); again < first {
		t.Errorf("%d after %d", again, first)
	}
}
