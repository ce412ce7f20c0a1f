//go:build linux

package udp

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watch is how the goroutine of a socket waits for packets: an epoll instance of
// its own, which Go's poller watches in the socket's place. A socket that the poller
// itself watches wakes a thread of it for each packet that comes, also while the
// goroutine is at work, and for each that is sent and gone. This one reports once,
// and only when it was armed since the goroutine found no packet.
type watch struct {
	file  *os.File
	conn  syscall.RawConn
	armed bool // of the goroutine that waits
	event unix.EpollEvent
}

// newWatch returns a watch of a socket, which is not armed.
func newWatch(socket int) (*watch, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll instance: %w", err)
	}
	disarmed := unix.EpollEvent{Events: unix.EPOLLONESHOT}
	if err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, socket, &disarmed); err == nil {
		err = unix.SetNonblock(fd, true) // which makes it one of the poller
	}
	if err != nil {
		unix.Close(fd) //nolint:errcheck // The first error is the one to report.
		return nil, fmt.Errorf("watch the socket: %w", err)
	}
	w := &watch{file: os.NewFile(uintptr(fd), "epoll")}
	if w.conn, err = w.file.SyscallConn(); err != nil {
		w.file.Close()
		return nil, err
	}
	return w, nil
}

// arm has the watch report when the socket has packets, or that it has them.
func (w *watch) arm(epoll, socket uintptr) unix.Errno {
	w.armed = true
	w.event = unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT}
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, epoll, unix.EPOLL_CTL_MOD, socket,
		uintptr(unsafe.Pointer(&w.event)), 0, 0)
	return errno
}

// disarm takes what the watch has reported.
func (w *watch) disarm(epoll uintptr) {
	if !w.armed {
		return
	}
	w.armed = false
	// Where there is nothing to take it stays armed, which costs no more than a wake-up.
	unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, epoll, uintptr(unsafe.Pointer(&w.event)), 1, 0, 0, 0) //nolint:errcheck // as it says
}
