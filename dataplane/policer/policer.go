// Package policer limits a rate of traffic by dropping what is above it.
package policer

import (
	"sync/atomic"
	"time"
)

// Policer is a token bucket that any number of goroutines draw from. It is
// kept as the time at which all that was let through will be paid for (the
// generic cell rate algorithm of ITU-T I.371): one word, no refill to run. The
// zero value has no limit.
type Policer struct {
	mbps atomic.Int64 // megabits per second; 0 is no limit
	paid atomic.Int64 // by Now
}

// Burst is how much may pass at once, as time at the rate itself.
const Burst = 50 * time.Millisecond

// Set changes the limit, in megabits (10⁶ bits) per second; 0 is none.
func (p *Policer) Set(mbps int) { p.mbps.Store(int64(mbps)) }

// Limited reports whether there is a limit at all.
func (p *Policer) Limited() bool { return p.mbps.Load() != 0 }

// started is when the process did, about.
var started = time.Now()

// Now returns the time for Allow, in nanoseconds. It is not that of the clock: were
// the clock set back, all that has passed would seem to be paid for much later, and
// nothing would pass until then.
func Now() int64 { return int64(time.Since(started)) }

// Allow reports whether a packet of some octets may pass at a time, as Now tells it,
// and counts it if so.
func (p *Policer) Allow(octets int, now int64) bool {
	mbps := p.mbps.Load()
	if mbps == 0 {
		return true
	}
	cost := int64(octets) * 8000 / mbps
	for {
		paid := p.paid.Load()
		from := max(paid, now)
		if from-now > int64(Burst) {
			return false
		}
		if p.paid.CompareAndSwap(paid, from+cost) {
			return true
		}
	}
}
