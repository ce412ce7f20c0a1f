package sslvpn

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tcpSocket reads and writes a TCP connection by single system calls that do not
// wait, so that the scheduler need not hear of them. Each direction serves one
// goroutine.
type tcpSocket struct {
	conn *net.TCPConn
	raw  syscall.RawConn

	// Of the writer and of the reader; a closure for each call would be allocated.
	out struct {
		chunk []byte
		n     int
		errno unix.Errno
		try   func(fd uintptr)
	}
	in struct {
		r     *reader
		errno unix.Errno
		try   func(fd uintptr) bool
	}
}

// canGather says that wakeAt has an effect.
const canGather = true

func newTCPSocket(conn *net.TCPConn) (*tcpSocket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &tcpSocket{conn: conn, raw: raw}
	// Kernels before 3.12 do not know the option; then the delay is longer.
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentLimit)
	})
	s.out.try = s.tryWrite
	s.in.try = s.tryRead
	return s, nil
}

func (s *tcpSocket) tryWrite(fd uintptr) {
	o := &s.out
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(o.chunk))),
			uintptr(len(o.chunk)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		if errno != unix.EINTR {
			o.n, o.errno = int(n), errno
			return
		}
	}
}

// write writes what the kernel takes at once; the error is errWouldBlock when that
// is nothing.
func (s *tcpSocket) write(chunk []byte) (n int, err error) {
	o := &s.out
	o.chunk = chunk
	closed := s.raw.Control(o.try)
	o.chunk = nil
	switch {
	case closed != nil:
		return 0, net.ErrClosed
	case o.errno == unix.EAGAIN:
		return 0, errWouldBlock
	case o.errno != 0:
		return 0, os.NewSyscallError("send", o.errno)
	}
	return o.n, nil
}

func (s *tcpSocket) tryRead(fd uintptr) bool {
	r := s.in.r
	if r.gather.wait() {
		return false
	}
	into := r.borrow()
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(into))),
			uintptr(len(into)), unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		r.n, s.in.errno = int(n), errno
		if errno == unix.EAGAIN {
			r.giveBack()
			return false
		}
		return true
	}
}

// read waits for octets, and only then borrows a buffer for them. Without an error
// the reader has one.
func (s *tcpSocket) read(r *reader) error {
	s.in.r = r
	if err := s.raw.Read(s.in.try); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if s.in.errno != 0 {
		r.giveBack()
		return os.NewSyscallError("read", s.in.errno)
	}
	return nil
}

// wakeAt sets how many octets wake the reader.
func (s *tcpSocket) wakeAt(octets int) {
	_ = s.raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, octets)
	})
}
