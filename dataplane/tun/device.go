package tun

import (
	"errors"
	"os"
)

// MaxPacket is the largest IP packet of a frame, in octets.
const MaxPacket = 65535

// Errors of a Device. Both are returned as they are.
var (
	// ErrWouldBlock: no frame is waiting.
	ErrWouldBlock = errors.New("no frame is waiting")
	// ErrClosed: the device was closed.
	ErrClosed = os.ErrClosed
)

// Device is a network interface whose packets pass through this process.
type Device interface {
	// Name returns the name of the interface.
	Name() string
	// Queues returns the reading side: the kernel keeps a flow on one queue.
	Queues() []Queue
	// NewWriter returns a writing side for one goroutine.
	NewWriter() Writer
	// SetMTU sets the largest inner packet, in octets.
	SetMTU(mtu int) error
	// Overruns returns the packets that the kernel dropped since Open because
	// the queues were full; less when the interface is gone.
	Overruns() uint64
	// Close removes the interface and wakes its readers, which get ErrClosed.
	Close() error
}

// Queue is read by one goroutine at a time.
type Queue interface {
	// Read reads one frame without waiting and returns its length. buf has to
	// have room for HeaderLen+MaxPacket octets. ErrWouldBlock is returned when
	// there is none, and ErrClosed after Close.
	Read(buf []byte) (int, error)
	// Wait returns when a frame may be waiting, and ErrClosed after Close.
	Wait() error
}

// Writer is used by one goroutine at a time.
type Writer interface {
	// Write hands a frame to the kernel; its parts lie one behind the other
	// and the first is the virtio header. Frames with the same flow number
	// teach the kernel to deliver the answers of that flow on one queue.
	Write(flow uint32, frame [][]byte) error
	// USO reports whether frames may be super-packets of UDP.
	USO() bool
}
