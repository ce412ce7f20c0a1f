package tun

import (
	"bytes"
	"sync"
)

// Channel is a Device without a kernel, for tests: Send is what the kernel
// would route into the device, Received what it would get out of it.
type Channel struct {
	name   string
	queues []Queue
	closed chan struct{}
	once   sync.Once

	mu  sync.Mutex
	mtu int

	in  []chan []byte
	out chan []byte
}

// NewChannel returns a Device with a number of queues. Received holds up to
// depth frames, then Write drops them.
func NewChannel(name string, queues, depth int) *Channel {
	c := &Channel{name: name, closed: make(chan struct{}), out: make(chan []byte, depth)}
	for range queues {
		in := make(chan []byte, depth)
		c.in = append(c.in, in)
		c.queues = append(c.queues, &channelQueue{c: c, in: in})
	}
	return c
}

// Send puts a frame, virtio header first, on a queue.
func (c *Channel) Send(queue int, frame []byte) {
	select {
	case c.in[queue] <- bytes.Clone(frame):
	case <-c.closed:
	}
}

// SendPacket puts an IP packet on the first queue.
func (c *Channel) SendPacket(packet []byte) {
	c.Send(0, append(make([]byte, HeaderLen), packet...))
}

// Received returns the frames that were written to the device.
func (c *Channel) Received() <-chan []byte { return c.out }

// Overruns implements Device: Send waits instead.
func (c *Channel) Overruns() uint64 { return 0 }

// MTU returns what SetMTU was last given.
func (c *Channel) MTU() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mtu
}

// Closed is closed by Close.
func (c *Channel) Closed() <-chan struct{} { return c.closed }

// Name implements Device.
func (c *Channel) Name() string { return c.name }

// Queues implements Device.
func (c *Channel) Queues() []Queue { return c.queues }

// NewWriter implements Device.
func (c *Channel) NewWriter() Writer { return channelWriter{c} }

// SetMTU implements Device.
func (c *Channel) SetMTU(mtu int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mtu = mtu
	return nil
}

// Close implements Device.
func (c *Channel) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

type channelQueue struct {
	c    *Channel
	in   chan []byte
	next []byte
}

func (q *channelQueue) Read(buf []byte) (int, error) {
	frame := q.next
	q.next = nil
	if frame == nil {
		select {
		case <-q.c.closed:
			return 0, ErrClosed
		default:
		}
		select {
		case frame = <-q.in:
		default:
			return 0, ErrWouldBlock
		}
	}
	return copy(buf, frame), nil
}

func (q *channelQueue) Wait() error {
	if q.next != nil {
		return nil
	}
	select {
	case <-q.c.closed:
		return ErrClosed
	case q.next = <-q.in:
		return nil
	}
}

type channelWriter struct{ c *Channel }

func (w channelWriter) USO() bool { return true }

func (w channelWriter) Write(_ uint32, frame [][]byte) error {
	select {
	case <-w.c.closed:
		return ErrClosed
	default:
	}
	select {
	case w.c.out <- bytes.Join(frame, nil):
	default:
	}
	return nil
}
