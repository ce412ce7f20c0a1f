package udp

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// roomSender returns a function that sends a number through a socket with room for a
// few, and the descriptor where they arrive.
func roomSender(t *testing.T) (to *socket, send func(i int) error, from int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pair[1]) })
	limit := unix.NsecToTimeval(sendPatience.Nanoseconds())
	if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	to = &socket{v6: true} // no DF bit to take care of
	to.conn.fd, to.conn.open = pair[0], true
	s := New(Options{}).NewSender()
	var number [4]byte
	return to, func(i int) error {
		binary.BigEndian.PutUint32(number[:], uint32(i))
		s.prepare(0, &Path{}, number[:], 0)
		s.msgs[0].hdr.Name, s.msgs[0].hdr.Namelen = nil, 0
		return s.call(to, &Path{}, 0, 1)
	}, pair[1]
}

// TestSendWaitsForRoom: what finds the socket's buffer full is sent when there is room.
func TestSendWaitsForRoom(t *testing.T) {
	to, send, from := roomSender(t)
	defer to.conn.Close()
	const count = 3000 // a socket has room for some hundred
	sent := make(chan error, 1)
	go func() {
		for i := range count {
			if err := send(i); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	var number [4]byte
	for i := range count {
		if n, err := unix.Read(from, number[:]); err != nil || n != 4 || int(binary.BigEndian.Uint32(number[:])) != i {
			t.Fatalf("%x came as number %d: %v", number[:n], i, err)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// TestCloseEndsWaitForRoom: who waits for room does not keep a socket open.
func TestCloseEndsWaitForRoom(t *testing.T) {
	to, send, _ := roomSender(t)
	ended := make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			if err := send(i); err != nil {
				ended <- err
				return
			}
		}
	}()
	waitUntil(t, "the sender waits for room", func() bool {
		if to.room.TryLock() {
			to.room.Unlock()
			return false
		}
		return true
	})
	if err := to.conn.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("the sender waits still")
	}
	if err := to.conn.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed again: %v", err)
	}
}
