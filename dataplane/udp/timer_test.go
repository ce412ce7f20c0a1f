//go:build linux

package udp

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// arrive returns the reader of a Port's socket, without its goroutine, and what sends
// a datagram of 1,000 octets to it.
func arrive(t *testing.T) (r *reader, send func()) {
	t.Helper()
	s, err := openSocket(New(Options{}), kindDatagram, netip.AddrPortFrom(nextAddr(), 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Connect(fd, sockaddr(s.local)); err != nil {
		t.Fatal(err)
	}
	datagram := make([]byte, 1000)
	return newReader(s), func() {
		if _, err := unix.Write(fd, datagram); err != nil {
			t.Error(err)
		}
	}
}

// receive returns how many datagrams one call brings.
func receive(t *testing.T, r *reader) int {
	t.Helper()
	if err := r.receive(); err != nil || r.err != nil {
		t.Fatalf("%v, %v", err, r.err)
	}
	return r.octets() / 1000
}

// What comes while the reader waits ends the wait, whether the reader has paused
// before or not.
func TestReceiveOneByOne(t *testing.T) {
	r, send := arrive(t)
	for i := range 300 {
		r.pace.fast, r.n = i%2 == 1, i%3*portBatch/2
		sent := make(chan struct{})
		go func() {
			send()
			close(sent)
		}()
		if n := receive(t, r); n != 1 {
			t.Fatalf("wait %d brought %d datagrams", i, n)
		}
		<-sent
	}
}

// What has come when a pause ends is brought together, and a batch that is full is
// followed by the rest without a pause.
func TestReceiveTogether(t *testing.T) {
	r, send := arrive(t)
	r.pace.fast = true
	for _, count := range []int{1, 7, portBatch} {
		r.n = 0
		for range count {
			send()
		}
		if n := receive(t, r); n != count {
			t.Errorf("%d datagrams of %d", n, count)
		}
	}
	for range portBatch + 3 {
		send()
	}
	if n, rest := receive(t, r), receive(t, r); n != portBatch || rest != 3 {
		t.Errorf("%d and then %d datagrams, want %d and 3", n, rest, portBatch)
	}
}

func TestReceiveAllocatesNothing(t *testing.T) {
	r, send := arrive(t)
	for _, fast := range []bool{false, true} {
		r.pace.fast = fast
		if n := testing.AllocsPerRun(50, func() {
			r.n = 0
			send()
			if err := r.receive(); err != nil || r.octets() != 1000 {
				t.Errorf("%d octets, %v", r.octets(), err)
			}
		}); n > 0 {
			t.Errorf("fast %t: %v allocations", fast, n)
		}
	}
}

// A socket that is closed ends the wait for it.
func TestReceiveEnds(t *testing.T) {
	for _, fast := range []bool{false, true} {
		r, _ := arrive(t)
		r.pace.fast = fast
		ended := make(chan error)
		go func() { ended <- r.receive() }()
		r.s.close()
		if err := <-ended; err == nil && r.err == nil {
			t.Errorf("fast %t: no error", fast)
		}
	}
}

func TestTimer(t *testing.T) {
	timer, err := newTimer()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		begun := time.Now()
		if err := timer.wait(2 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begun); d < 2*time.Millisecond {
			t.Errorf("it was over after %s", d)
		}
	}
	ended := make(chan error)
	go func() { ended <- timer.wait(time.Hour) }()
	timer.close()
	if err := <-ended; err == nil {
		t.Error("a closed timer: no error")
	}
	if err := timer.wait(time.Nanosecond); err == nil {
		t.Error("a timer that was closed before: no error")
	}
}
