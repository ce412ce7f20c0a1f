package sslvpn

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// isForeign looks at the first octets of a connection, which stay to be read,
// and reports whether it is for another server. The read deadline ends the wait
// for them.
func isForeign(conn *net.TCPConn) (bool, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false, err
	}
	var head [wire.FrameHeaderLen + 1]byte
	var n int
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		n, _, failed = unix.Recvfrom(int(fd), head[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(failed, unix.EAGAIN), errors.Is(failed, unix.EINTR):
			return false
		case failed != nil, n == 0, n == len(head), !beginsAsOpenVPN(head[:n]):
			return true
		}
		return false // part of a beginning: the next octet wakes the reader again
	})
	if err = errors.Join(err, failed); err != nil || n == 0 {
		return false, err
	}
	return !beginsAsOpenVPN(head[:n]), nil
}
