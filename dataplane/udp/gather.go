//go:build linux

package udp

import (
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// gather waits for more packets, for some nanoseconds.
func gather(nanoseconds int64) {
	pause := unix.NsecToTimespec(nanoseconds)
	// The scheduler does not hear of it: to hand over the processor costs more than
	// the pause is worth. A signal only ends it early.
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0) //nolint:errcheck // as it says
}

// Peers that send each datagram with a system call wake the reader of a Port
// for each, and it keeps up: none ever finds several. So it lets them gather when
// paceMessages come within paceWithin, of paceOctets each on average: what is
// smaller is acknowledgements and dialogues, for which it would be late. What one
// wake brings, a train of GRO too, is one message.
//
// The pause, in nanoseconds, is about what a gigabit per second needs to fill a
// batch of full packets. All that a wake costs, with the write to TUN behind it
// and the acknowledgement that this brings, is shared by as many.
//
// A reader that pauses never finds its socket empty, and one that does not stop for
// that keeps Go's scheduler from asking the kernel what other sockets have. So it
// pauses maxPauses times at most until it has found the socket empty.
const (
	paceMessages = 64
	paceWithin   = 3 * time.Millisecond
	paceOctets   = 500
	maxPauses    = 4
	portPause    = 250_000
)

// pace tells whether messages come so fast that they should gather.
type pace struct {
	fast      bool
	n, octets int // since the time
	since     time.Time
	pauses    int // since the socket was empty
}

// add learns that n messages have come, of octets in all.
func (p *pace) add(n, octets int, now func() time.Time) {
	p.n += n
	p.octets += octets
	if p.n < paceMessages {
		return
	}
	t := now()
	p.fast = t.Sub(p.since) < paceWithin && p.octets >= p.n*paceOctets
	p.n, p.octets, p.since = 0, 0, t
}

// empty learns that there was no message.
func (p *pace) empty() { p.pauses = 0 }

// gathering is held by the one reader that pauses. A pause holds a processor of
// the scheduler: of all but one, others can make use meanwhile.
var gathering atomic.Bool

// gather waits for more messages if they come fast.
func (p *pace) gather() {
	if !p.fast || p.pauses == maxPauses || runtime.GOMAXPROCS(0) < 2 || !gathering.CompareAndSwap(false, true) {
		return
	}
	p.pauses++
	gather(portPause)
	gathering.Store(false)
}
