package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/deploy/netlab"
)

const (
	// maxLoss is the part of datagrams that may be lost.
	maxLoss = 0.001
	// firstRate is what a search begins with, in datagrams a second.
	firstRate = 4000
	// lastRate is where a search ends for which that is too much.
	lastRate = 50
	// searchSteps is how often the range is halved after the last doubling: the
	// result is within a fiftieth.
	searchSteps = 5
)

// searchRate finds the highest rate of datagrams from a to b of which at most
// maxLoss are lost: by doubling, then by halving the range. A rate has two
// tries, since a moment in which the machine does something else says nothing
// of the tunnel.
func (p *pair) searchRate(ctx context.Context, t traffic) (best result, err error) {
	s, err := openDatagrams(p, t)
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	holds := func(rate float64) (bool, error) {
		for range 2 {
			r, lost, err := s.try(ctx, rate, t.iperf.Duration/5)
			if err != nil {
				return false, err
			}
			if lost <= maxLoss {
				if r.PacketsPerSecond > best.PacketsPerSecond {
					best = r
				}
				// A generator that does not come up to the rate ends the search.
				return r.PacketsPerSecond > rate*0.9, nil
			}
		}
		return false, nil
	}
	low, high := 0.0, float64(firstRate)
	for {
		ok, err := holds(high)
		if err != nil {
			return result{}, err
		}
		if !ok && low == 0 && best.PacketsPerSecond == 0 {
			if high /= 2; high < lastRate {
				return result{}, fmt.Errorf("%s: datagrams are lost at every rate", t.name)
			}
			continue
		}
		if !ok {
			break
		}
		low, high = high, 2*high
	}
	for range searchSteps {
		middle := math.Sqrt(max(low, lastRate) * high)
		ok, err := holds(middle)
		if err != nil {
			return result{}, err
		}
		if ok {
			low = middle
		} else {
			high = middle
		}
	}
	return best, nil
}

// datagrams is a stream of datagrams from a to b.
type datagrams struct {
	p             *pair
	t             traffic
	send, receive *net.UDPConn
	number        atomic.Uint64 // number of the try under way
	arrived       atomic.Uint64 // of it
	ended         chan struct{}
}

// datagramBatch is how many datagrams a system call moves.
const datagramBatch = 64

func openDatagrams(p *pair, t traffic) (s *datagrams, err error) {
	s = &datagrams{p: p, t: t, ended: make(chan struct{})}
	to := netip.AddrPortFrom(p.b.inner, uint16(t.iperf.Port))
	if err := p.b.Inside(func() (err error) {
		s.receive, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(to))
		return err
	}); err != nil {
		return nil, err
	}
	if err := p.a.Inside(func() (err error) {
		s.send, err = net.DialUDP("udp4", &net.UDPAddr{IP: p.a.inner.AsSlice()}, net.UDPAddrFromAddrPort(to))
		return err
	}); err != nil {
		return nil, errors.Join(err, s.receive.Close())
	}
	if err := netlab.ForceBuffer(s.receive); err != nil {
		return nil, errors.Join(err, s.receive.Close(), s.send.Close())
	}
	go s.count()
	return s, nil
}

func (s *datagrams) close() error {
	err := errors.Join(s.receive.Close(), s.send.Close())
	<-s.ended
	return err
}

// messages makes room for a batch.
func (s *datagrams) messages() []ipv4.Message {
	list := make([]ipv4.Message, datagramBatch)
	for i := range list {
		list[i].Buffers = [][]byte{make([]byte, s.t.datagram)}
	}
	return list
}

// count counts what arrives of the try under way, until the socket is closed.
func (s *datagrams) count() {
	defer close(s.ended)
	conn, list := ipv4.NewPacketConn(s.receive), s.messages()
	for {
		n, err := conn.ReadBatch(list, 0)
		if err != nil {
			return
		}
		for _, m := range list[:n] {
			if binary.BigEndian.Uint64(m.Buffers[0]) == s.number.Load() {
				s.arrived.Add(1)
			}
		}
	}
}

// try sends at a rate for a while. lost is the part of the datagrams that did
// not arrive.
func (s *datagrams) try(ctx context.Context, rate float64, length time.Duration) (r result, lost float64, err error) {
	number := s.number.Add(1)
	s.arrived.Store(0)
	before, err := s.p.sample(ctx)
	if err != nil {
		return r, 0, err
	}
	begin := time.Now()
	sent, err := s.write(ctx, number, rate, length)
	took := time.Since(begin)
	if err != nil {
		return r, 0, err
	}
	// What is under way arrives within moments.
	for have, last := uint64(0), time.Now(); s.arrived.Load() < sent && time.Since(last) < 200*time.Millisecond; time.Sleep(5 * time.Millisecond) {
		if now := s.arrived.Load(); now != have {
			have, last = now, time.Now()
		}
	}
	arrived := s.arrived.Load()
	after, err := s.p.sample(ctx)
	if err != nil {
		return r, 0, err
	}
	fmt.Fprintf(os.Stderr, "  %.0f datagrams a second: %d of %d lost\n", rate, sent-arrived, sent)
	octets := float64(arrived) * float64(s.t.datagram)
	r = result{
		Test: s.t.name, PacketsPerSecond: float64(arrived) / took.Seconds(), GbitPerSecond: octets * 8 / 1e9 / took.Seconds(),
	}
	if arrived == 0 {
		return r, 1, nil
	}
	return r, float64(sent-arrived) / float64(sent), r.spent(before, after, octets)
}

// write sends at a steady pace. It has a thread that sleeps by itself and comes
// before others: the runtime's timers are too coarse, and a sender that waits for
// its turn makes bursts that queues do not hold.
func (s *datagrams) write(ctx context.Context, number uint64, rate float64, length time.Duration) (sent uint64, err error) {
	const (
		priority = -10
		pause    = 50 * time.Microsecond
		// maxBurst bounds what is sent at once after a moment in which this thread did
		// not run: half of the queue of a TUN interface.
		maxBurst = 256
	)
	var writing errgroup.Group
	writing.Go(func() error {
		runtime.LockOSThread() // for good: the thread ends with its priority
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, priority); err != nil {
			return fmt.Errorf("priority of the sender: %w", err)
		}
		conn, list := ipv4.NewPacketConn(s.send), s.messages()
		for _, m := range list {
			binary.BigEndian.PutUint64(m.Buffers[0], number)
		}
		begin, forgiven := time.Now(), 0.0
		for ctx.Err() == nil {
			elapsed := time.Since(begin)
			if elapsed >= length {
				return nil
			}
			due := rate*elapsed.Seconds() - float64(sent) - forgiven
			if due > maxBurst {
				forgiven += due - maxBurst
				due = maxBurst
			}
			for n := int(due); n > 0; {
				wrote, err := conn.WriteBatch(list[:min(n, len(list))], 0)
				if err != nil {
					return err
				}
				sent, n = sent+uint64(wrote), n-wrote
			}
			sleep := unix.NsecToTimespec(int64(pause))
			_ = unix.Nanosleep(&sleep, nil) // a signal only ends it early
		}
		return ctx.Err()
	})
	err = writing.Wait()
	return sent, err
}
