//go:build linux

package udp

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// gather waits for more packets of a raw socket.
func gather() {
	pause := unix.NsecToTimespec(rawPause)
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
// portPause is about what a gigabit per second needs to fill a batch of full packets.
// All that a wake costs, with the write to TUN behind it and the acknowledgement
// that this brings, is shared by as many.
const (
	paceMessages = 64
	paceWithin   = 3 * time.Millisecond
	paceOctets   = 500
	portPause    = 300 * time.Microsecond
)

// pace tells whether messages come so fast that they should gather.
type pace struct {
	fast      bool
	n, octets int // since the time
	since     time.Time
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
