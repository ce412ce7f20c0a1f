//go:build linux || darwin || windows

package tun

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"

	"github.com/songgao/water"
)

// PlainOptions are what a plain TUN interface is made with.
type PlainOptions struct {
	// Name is that of the interface; macOS has utun and a number, Windows that of an
	// adapter of tap-windows6 that is there. Empty: what the system chooses.
	Name string
	// Network is the interface's address and network of IPv4, which the driver of
	// Windows has to know.
	Network netip.Prefix
}

// OpenPlain makes a TUN interface that has one queue and no offloads, as every
// system has it; on Linux in the network namespace of the calling thread. It is not
// up yet: addresses, MTU and state are set by the system's own means. The interface
// vanishes with Close or with the process.
func OpenPlain(o PlainOptions) (Device, error) {
	f, err := water.New(waterConfig(o))
	if err != nil {
		return nil, fmt.Errorf("tun %s: %w", o.Name, err)
	}
	return newPlainDevice(f.Name(), f), nil
}

// plainDevice carries one packet with a system call.
type plainDevice struct {
	name  string
	file  io.ReadWriteCloser
	queue *plainQueue
	once  sync.Once
	done  chan struct{} // closed by Close
	mu    sync.Mutex    // of writes
}

func newPlainDevice(name string, file io.ReadWriteCloser) *plainDevice {
	d := &plainDevice{name: name, file: file, done: make(chan struct{})}
	d.queue = &plainQueue{d: d, packet: make([]byte, MaxPacket)}
	return d
}

func (d *plainDevice) Name() string      { return d.name }
func (d *plainDevice) Queues() []Queue   { return []Queue{d.queue} }
func (d *plainDevice) NewWriter() Writer { return &plainWriter{d: d} }

// SetMTU implements Device: it is the system's to set.
func (d *plainDevice) SetMTU(mtu int) error {
	return fmt.Errorf("tun %s: set MTU %d: %w", d.name, mtu, errors.ErrUnsupported)
}

// Overruns implements Device: systems do not tell.
func (d *plainDevice) Overruns() uint64 { return 0 }

func (d *plainDevice) Close() (err error) {
	d.once.Do(func() {
		close(d.done)
		err = d.file.Close()
	})
	return err
}

// failed turns an error after Close into ErrClosed.
func (d *plainDevice) failed(what string, err error) error {
	select {
	case <-d.done:
		return ErrClosed
	default:
		return fmt.Errorf("tun %s: %s: %w", d.name, what, err)
	}
}

// plainQueue has one packet at most.
type plainQueue struct {
	d      *plainDevice
	packet []byte
	n      int // octets of the packet that waits
}

func (q *plainQueue) Read(buf []byte) (int, error) {
	select {
	case <-q.d.done:
		return 0, ErrClosed
	default:
	}
	if q.n == 0 {
		return 0, ErrWouldBlock
	}
	clear(buf[:HeaderLen]) // a whole packet with its checksums
	n := HeaderLen + copy(buf[HeaderLen:], q.packet[:q.n])
	q.n = 0
	return n, nil
}

func (q *plainQueue) Wait() error {
	for q.n == 0 {
		n, err := q.d.file.Read(q.packet)
		if err != nil {
			return q.d.failed("read", err)
		}
		q.n = n
	}
	return nil
}

// plainWriter cuts super-packets, since the interface takes none.
type plainWriter struct {
	d        *plainDevice
	frame    []byte
	segments Segments
}

func (w *plainWriter) USO() bool { return false }

func (w *plainWriter) Write(_ uint32, frame [][]byte) error {
	w.frame = w.frame[:0]
	for _, part := range frame {
		w.frame = append(w.frame, part...)
	}
	if err := w.segments.Reset(w.frame); err != nil {
		return err
	}
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	for packet := w.segments.Next(); packet != nil; packet = w.segments.Next() {
		if _, err := w.d.file.Write(packet); err != nil {
			return w.d.failed("write", err)
		}
	}
	return nil
}
