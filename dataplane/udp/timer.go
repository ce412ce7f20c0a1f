//go:build linux

package udp

import (
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// timer lets one goroutine wait for less than the runtime's own timers can, which
// end with the millisecond of epoll_wait. It holds neither a thread nor a
// processor of the scheduler meanwhile.
type timer struct {
	file *os.File
	conn syscall.RawConn
	spec unix.ItimerSpec
	set  bool
	err  error
	tick func(fd uintptr) bool // a closure for each call would be allocated
}

func newTimer() (*timer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	t := &timer{file: os.NewFile(uintptr(fd), "timer")}
	if t.conn, err = t.file.SyscallConn(); err != nil {
		t.file.Close()
		return nil, err
	}
	t.tick = func(fd uintptr) bool {
		if t.set { // the poller calls again, since the time is over
			return true
		}
		t.set = true
		if _, _, errno := unix.RawSyscall6(unix.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&t.spec)), 0, 0, 0); errno != 0 {
			t.err = errno
		}
		return t.err != nil
	}
	return t, nil
}

// wait returns when a time is over, which is more than zero. It returns an error when
// the timer is closed.
func (t *timer) wait(d time.Duration) error {
	t.spec.Value = unix.NsecToTimespec(d.Nanoseconds())
	t.set, t.err = false, nil
	if err := t.conn.Read(t.tick); err != nil {
		return err
	}
	return t.err
}

// close ends the wait.
func (t *timer) close() { _ = t.file.Close() } // it was open, or is closed already
