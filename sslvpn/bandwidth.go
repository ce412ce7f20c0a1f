package sslvpn

import (
	"sync/atomic"
	"time"
)

// bandwidth is a token bucket that any number of goroutines draw from. It is
// kept as the time at which all that was let through will be paid for (the
// generic cell rate algorithm of ITU-T I.371): one word, no refill to run.
type bandwidth struct {
	mbps atomic.Int64 // megabits per second; 0 is no limit
	paid atomic.Int64 // Unix nanoseconds
}

// bandwidthBurst is how much may pass at once, as time at the rate itself.
const bandwidthBurst = 50 * time.Millisecond

// limited reports whether there is a limit at all.
func (b *bandwidth) limited() bool { return b.mbps.Load() != 0 }

// allow reports whether octets may pass at a time, in Unix nanoseconds.
func (b *bandwidth) allow(octets int, now int64) bool {
	mbps := b.mbps.Load()
	if mbps == 0 {
		return true
	}
	cost := int64(octets) * 8000 / mbps
	for {
		paid := b.paid.Load()
		from := max(paid, now)
		if from-now > int64(bandwidthBurst) {
			return false
		}
		if b.paid.CompareAndSwap(paid, from+cost) {
			return true
		}
	}
}
