package sslvpn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxFrame is the longest packet taken from a client, in octets: an inner
	// packet of 1,600 octets, or a full control packet, and room to spare.
	maxFrame = 2048
	// readRoom is what one read may bring. It holds frames for a write of several
	// super-packets to the TUN.
	readRoom = 256 << 10
	// The data that waits for one client is bounded, since more would only be
	// delay: TCP inside adapts to loss. What waits for longer than queueDelay, and
	// is more than queueSmall, closes the queue; queueLimit does in any case. All
	// but the delay are in octets.
	queueDelay = 15 * time.Millisecond
	queueSmall = 256 << 10
	queueLimit = 4 << 20
	// controlLimit bounds the control packets that wait.
	controlLimit = 64 << 10
	// unsentLimit is the octets that the kernel takes before it has sent them.
	unsentLimit = 128 << 10
	// stuckTime is how long the kernel may take nothing at all. It ends a client
	// that asks for packets and does not read them.
	stuckTime = time.Minute
)

var (
	errFrameLength  = errors.New("length of a frame out of bounds")
	errControlQueue = errors.New("control packets are not taken")
	errWouldBlock   = errors.New("the kernel takes no more at the moment")
	errFenced       = errors.New("this host may not use the local address at the moment")
)

// tcpLink is the TCP connection of one client. Whoever has something to send
// writes it at once when the kernel takes it; else a goroutine waits for the
// kernel, for as long as something is left.
type tcpLink struct {
	conn   *net.TCPConn
	socket *tcpSocket
	drops  *drops
	stuck  time.Duration // stuckTime
	guard  func() bool   // nil: nothing is fenced

	mu      sync.Mutex
	control []byte   // frames of control packets; guarded by mu, as all below
	waiting []*train // in the order of their sending
	octets  int      // of waiting, and of the train that is being written
	since   int64    // when the oldest of these came, in Unix nanoseconds
	writing bool     // somebody has the part of the writer
	closed  bool
	// finishing says that the deadline of writes is finish's.
	finishing bool
	draining  chan struct{} // closed when nothing is left to write; nil: nobody asks

	reader reader
}

// newTCPLink takes over a connection.
func newTCPLink(conn *net.TCPConn, d *drops) (*tcpLink, error) {
	if err := conn.SetNoDelay(true); err != nil {
		return nil, fmt.Errorf("set TCP_NODELAY: %w", err)
	}
	socket, err := newTCPSocket(conn)
	if err != nil {
		return nil, err
	}
	l := &tcpLink{conn: conn, socket: socket, drops: d, stuck: stuckTime}
	l.reader.socket, l.reader.gather.socket = socket, socket
	return l, nil
}

// fence ends the connection as soon as the guard does not let its local address
// be used. It is called before anything is read or sent.
func (l *tcpLink) fence(guard func(netip.Addr) bool) {
	local, ok := l.conn.LocalAddr().(*net.TCPAddr)
	if guard == nil || !ok {
		return
	}
	address := local.AddrPort().Addr().Unmap()
	l.guard = func() bool { return guard(address) }
	l.reader.guard = l.guard
}

// sendControl implements link.
func (l *tcpLink) sendControl(packet []byte) error {
	if len(packet) == 0 || len(packet) > maxFrame {
		return fmt.Errorf("control packet of %d octets: %w", len(packet), errFrameLength)
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return net.ErrClosed
	}
	if len(l.control)+len(packet) > controlLimit {
		l.mu.Unlock()
		return errControlQueue
	}
	l.control = binary.BigEndian.AppendUint16(l.control, uint16(len(packet)))
	l.control = append(l.control, packet...)
	l.mu.Unlock()
	l.flush()
	return nil
}

// framed implements link.
func (l *tcpLink) framed() bool { return true }

// maxSegment implements link: a stream has no packets to overfill.
func (l *tcpLink) maxSegment() uint16 { return 0 }

// full implements link.
func (l *tcpLink) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.octets >= queueLimit ||
		l.octets >= queueSmall && time.Now().UnixNano()-l.since > int64(queueDelay)
}

// sendData implements link.
func (l *tcpLink) sendData(t *train) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		l.drops.add(reasonSend, t.packets)
		t.release()
		return
	}
	if n := len(l.waiting); n > 0 {
		// While the client is slow, small trains become large ones.
		if last := l.waiting[n-1]; len(last.octets)+len(t.octets) <= trainWorth {
			last.octets = append(last.octets, t.octets...)
			last.packets += t.packets
			l.octets += len(t.octets)
			t.release()
			return
		}
	}
	t.queued = time.Now().UnixNano()
	if l.octets == 0 {
		l.since = t.queued
	}
	l.waiting = append(l.waiting, t)
	l.octets += len(t.octets)
}

// flush implements link: it writes what waits, unless somebody does already.
func (l *tcpLink) flush() {
	l.mu.Lock()
	if l.writing {
		l.mu.Unlock()
		return
	}
	l.writing = true
	l.mu.Unlock()
	for {
		chunk, t, ok := l.next()
		if !ok {
			return
		}
		rest, err := l.try(chunk)
		if err == nil && len(rest) > 0 {
			go l.drain(rest, t)
			return
		}
		if !l.wrote(t, err) {
			return
		}
	}
}

// drain writes what waits, and first the rest of a chunk, as the kernel takes
// it.
func (l *tcpLink) drain(rest []byte, t *train) {
	for ok := true; ok; rest, t, ok = l.next() {
		err := errFenced
		if l.guard == nil || l.guard() {
			l.expectProgress()
			_, err = l.conn.Write(rest)
		}
		if !l.wrote(t, err) {
			return
		}
	}
}

// expectProgress gives the kernel stuckTime for the next chunk, unless finish
// has set another time.
func (l *tcpLink) expectProgress() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.finishing {
		_ = l.conn.SetWriteDeadline(time.Now().Add(l.stuck))
	}
}

// next returns what the writer has to write: control packets first, then the
// oldest train. ok is false when there is nothing, and the caller no writer any
// more.
func (l *tcpLink) next() (chunk []byte, t *train, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.control) > 0:
		chunk, l.control = l.control, nil
	case len(l.waiting) > 0:
		t = l.waiting[0]
		n := copy(l.waiting, l.waiting[1:])
		l.waiting[n] = nil
		l.waiting = l.waiting[:n]
		chunk = t.octets
	default:
		l.writing = false
		if l.draining != nil {
			close(l.draining)
			l.draining = nil
		}
		return nil, nil, false
	}
	return chunk, t, true
}

// try writes without waiting and returns what the kernel did not take.
func (l *tcpLink) try(chunk []byte) (rest []byte, err error) {
	for len(chunk) > 0 {
		if l.guard != nil && !l.guard() {
			return nil, errFenced
		}
		n, err := l.socket.write(chunk)
		switch {
		case errors.Is(err, errWouldBlock):
			return chunk, nil
		case err != nil:
			return nil, err
		}
		chunk = chunk[n:]
	}
	return nil, nil
}

// wrote ends the writing of a chunk. Its octets count as waiting until then. It
// returns false when the connection has failed.
func (l *tcpLink) wrote(t *train, err error) bool {
	l.mu.Lock()
	if t != nil {
		l.octets -= len(t.octets)
		if len(l.waiting) > 0 {
			l.since = l.waiting[0].queued
		}
		t.release()
	}
	l.mu.Unlock()
	if err != nil {
		l.close()
		return false
	}
	return true
}

// close ends the connection; what waits is lost.
func (l *tcpLink) close() {
	l.mu.Lock()
	l.closed = true
	for _, t := range l.waiting {
		l.drops.add(reasonSend, t.packets)
		t.release()
	}
	l.waiting, l.control, l.octets = nil, nil, 0
	if l.draining != nil {
		close(l.draining)
		l.draining = nil
	}
	l.mu.Unlock()
	_ = l.conn.Close() // nothing is left that an error could be about
}

// finish lets what waits go out, for at most a time, says the end of the
// stream and closes.
func (l *tcpLink) finish(within time.Duration) {
	l.mu.Lock()
	// The deadline ends a drain that the client does not let end.
	l.finishing = true
	_ = l.conn.SetWriteDeadline(time.Now().Add(within))
	var drained chan struct{}
	if l.writing && !l.closed {
		if l.draining == nil {
			l.draining = make(chan struct{})
		}
		drained = l.draining
	}
	l.mu.Unlock()
	if drained != nil {
		<-drained
	}
	// A reset for octets that were never read would overtake what was sent.
	if l.conn.CloseWrite() == nil {
		// The deadline of reads is the reader's to change.
		giveUp := time.AfterFunc(within, l.close)
		defer giveUp.Stop()
		_, _ = io.Copy(io.Discard, io.LimitReader(l.conn, readRoom))
	}
	l.close()
}
