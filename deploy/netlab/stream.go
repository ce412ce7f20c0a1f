package netlab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Stream is datagrams with sequence numbers under way from one namespace to another.
type Stream struct {
	send, receive *net.UDPConn
	stop          chan struct{}
	running       sync.WaitGroup

	mu       sync.Mutex
	sent     uint64
	received []bool // by sequence number
}

// streamBuffer is that of the receiving socket, in octets. A busy machine may not run
// its reader for a while.
const streamBuffer = 4 << 20

// StartStream sends datagrams of 64 octets at a steady rate from an address in one
// namespace to an address in another, until Finish.
func StartStream(from, to *Namespace, source, target netip.Addr, port uint16, perSecond int) (*Stream, error) {
	s := &Stream{stop: make(chan struct{})}
	err := to.Inside(func() (err error) {
		s.receive, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(target, port)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("receive a stream: %w", err)
	}
	if err := ForceBuffer(s.receive); err != nil {
		return nil, err
	}
	err = from.Inside(func() (err error) {
		s.send, err = net.DialUDP("udp", &net.UDPAddr{IP: source.AsSlice()}, net.UDPAddrFromAddrPort(netip.AddrPortFrom(target, port)))
		return err
	})
	if err != nil {
		_ = s.receive.Close()
		return nil, fmt.Errorf("send a stream: %w", err)
	}
	s.running.Go(s.read)
	s.running.Go(func() { s.write(perSecond) })
	return s, nil
}

// ForceBuffer gives a socket a receive buffer that a busy machine does not overrun,
// whatever the host allows by itself.
func ForceBuffer(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = syscall.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, streamBuffer)
	}); err != nil {
		return err
	}
	return set
}

// maxCatchUp is how many datagrams at most are sent at once to make up for a sender
// that did not run: more would be a burst that queues do not hold.
const maxCatchUp = 8

func (s *Stream) write(perSecond int) {
	ticker := time.NewTicker(time.Second / time.Duration(perSecond))
	defer ticker.Stop()
	var packet [64]byte
	last := time.Now()
	for {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
		}
		due := int(time.Since(last) * time.Duration(perSecond) / time.Second)
		last = last.Add(time.Duration(due) * time.Second / time.Duration(perSecond))
		for range min(due, maxCatchUp) {
			s.mu.Lock()
			binary.BigEndian.PutUint64(packet[:], s.sent)
			s.sent++
			s.received = append(s.received, false)
			s.mu.Unlock()
			// What the network refuses, such as for want of a route, is lost, too.
			_, _ = s.send.Write(packet[:])
		}
	}
}

func (s *Stream) read() {
	var packet [128]byte
	for {
		n, err := s.receive.Read(packet[:])
		if err != nil {
			return
		}
		if n < 8 {
			continue
		}
		sequence := binary.BigEndian.Uint64(packet[:])
		s.mu.Lock()
		if sequence < s.sent {
			s.received[sequence] = true
		}
		s.mu.Unlock()
	}
}

// Sent returns how many datagrams were sent so far.
func (s *Stream) Sent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.sent)
}

// Lost returns the sequence numbers, from zero, that have not arrived so far of those
// from one on and before another.
func (s *Stream) Lost(from, before int) (lost []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, arrived := range s.received[from:min(before, len(s.received))] {
		if !arrived {
			lost = append(lost, from+i)
		}
	}
	return lost
}

// Finish ends the stream and returns what was lost of it: what is under way is waited
// for, as long as anything still arrives.
func (s *Stream) Finish() (sent int, lost []int) {
	close(s.stop)
	for have := -1; ; {
		lost = s.Lost(0, s.Sent())
		if len(lost) == 0 || len(lost) == have {
			break
		}
		have = len(lost)
		time.Sleep(time.Second)
	}
	_ = s.receive.Close()
	s.running.Wait()
	_ = s.send.Close()
	return s.Sent(), slices.Clone(lost)
}
