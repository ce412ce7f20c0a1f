//go:build linux

package udp

import (
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// gather waits for more packets.
func gather() {
	pause := unix.NsecToTimespec(rawPause)
	// The scheduler does not hear of it: to hand over the processor costs more than
	// the pause is worth. A signal only ends it early.
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0) //nolint:errcheck // as it says
}

// Peers that send each datagram with a system call wake the reader of a Port
// for each, and it keeps up: none ever finds several. So it lets them gather when
// paceMessages come within paceWithin. What one wake brings, a train of GRO
// too, is one message.
const (
	paceMessages = 64
	paceWithin   = 3 * time.Millisecond
)

// pace tells whether messages come so fast that they should gather.
type pace struct {
	fast  bool
	n     int // since the time
	since time.Time
}

// add learns that n messages have come.
func (p *pace) add(n int, now func() time.Time) {
	if p.n += n; p.n < paceMessages {
		return
	}
	t := now()
	p.fast = t.Sub(p.since) < paceWithin
	p.n, p.since = 0, t
}

// gathering is held by the one reader that pauses. A pause holds a processor of
// the scheduler: of all but one, others can make use meanwhile.
var gathering atomic.Bool

// gather waits for more messages if they come fast.
func (p *pace) gather() {
	if !p.fast || runtime.GOMAXPROCS(0) < 2 || !gathering.CompareAndSwap(false, true) {
		return
	}
	gather()
	gathering.Store(false)
}
