//go:build linux

package udp

import (
	"encoding/binary"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	rawBatch   = 64       // datagrams a system call brings from a raw socket
	rawRoom    = 10 << 10 // octets for each
	nattBatch  = 4        // trains of datagrams a system call brings from UDP 4500
	maxReceive = 65535    // octets of a datagram, or of a train that GRO made
	minESP     = 8        // SPI and sequence number

	// A raw socket wakes its reader for each packet, since nothing joins packets
	// on their way to it. After as many as rawBurst at once more are coming: the
	// reader lets them gather for a moment, in nanoseconds, to which the kernel
	// adds some fifty microseconds.
	rawBurst = 4
	rawPause = 60_000

	// portBatch is the trains of datagrams that a system call brings from the
	// socket of a Port.
	portBatch = 32
)

// reader is what the goroutine of a socket works with.
type reader struct {
	s        *socket
	receiver Receiver // nil until the first ESP packet
	origin   Origin

	datagrams DatagramReceiver // of a Port

	msgs  []mmsghdr
	iovs  []unix.Iovec
	names []name
	ctrls []control
	bufs  [][]byte

	lastName name // the name that origin.Remote was read from

	pace pace // of a Port

	n    int // what recvmmsg returned; zero without an error: there was nothing
	err  error
	recv func(fd uintptr)
	// wait receives, or arms the socket's watch, whose descriptor is epoll meanwhile.
	wait  func(epoll uintptr) bool
	arm   func(fd uintptr)
	epoll uintptr
}

func newReader(s *socket) *reader {
	batch, room := nattBatch, maxReceive
	switch s.kind {
	case kindRaw:
		batch, room = rawBatch, rawRoom
	case kindIKE:
		batch = 1
	case kindDatagram:
		batch, room = portBatch, maxReceive+Slack
	case kindNATT, kindPathMTU, kindRawSend:
	}
	r := &reader{
		s: s, msgs: make([]mmsghdr, batch), iovs: make([]unix.Iovec, batch),
		names: make([]name, batch), ctrls: make([]control, batch), bufs: make([][]byte, batch),
	}
	r.origin.Local = s.local
	r.origin.Encap = s.kind == kindNATT
	memory := make([]byte, batch*room)
	for i := range batch {
		r.bufs[i] = memory[i*room : (i+1)*room : (i+1)*room]
		r.iovs[i].Base = unsafe.SliceData(r.bufs[i])
		r.iovs[i].SetLen(min(room, maxReceive))
		h := &r.msgs[i].hdr
		if !r.headers() {
			h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
			h.Control = (*byte)(unsafe.Pointer(&r.ctrls[i]))
		}
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
	}
	// The call never blocks, so that the scheduler need not hear of it.
	r.recv = func(fd uintptr) {
		for {
			n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(unsafe.SliceData(r.msgs))),
				uintptr(len(r.msgs)), unix.MSG_DONTWAIT, 0, 0)
			switch errno {
			case 0:
				r.n, r.err = int(n), nil
			case unix.EINTR:
				continue
			case unix.EAGAIN:
				r.n, r.err = 0, nil
			default:
				r.n, r.err = 0, errno
			}
			return
		}
	}
	r.arm = func(fd uintptr) {
		if errno := s.watch.arm(r.epoll, fd); errno != 0 {
			r.err = errno
		}
	}
	r.wait = func(epoll uintptr) bool {
		s.watch.disarm(epoll)
		r.epoll = epoll
		closed := s.conn.Control(r.recv)
		if closed == nil && r.n == 0 && r.err == nil {
			closed = s.conn.Control(r.arm)
		}
		if closed != nil {
			r.n, r.err = 0, closed
		}
		return r.n > 0 || r.err != nil
	}
	return r
}

// run reads until the socket is closed. An error of the network that the
// kernel reports on the socket concerns one peer and ends nothing.
func (s *socket) run() {
	r := newReader(s)
	if s.newReceiver != nil {
		r.datagrams = s.newReceiver()
	}
	defer func() {
		if r.receiver != nil {
			r.receiver.Close()
		}
	}()
	var failures int
	for {
		for i := range r.msgs {
			h := &r.msgs[i].hdr
			h.Flags = 0
			if !r.headers() {
				h.Namelen = uint32(unsafe.Sizeof(r.names[i]))
				h.SetControllen(int(unsafe.Sizeof(r.ctrls[i])))
			}
		}
		if s.kind == kindRaw && r.n >= rawBurst && r.n < rawBatch {
			gather()
		}
		if r.receive() != nil {
			return
		}
		if r.err != nil {
			s.mux.stats.receiveErrors.Add(1)
			if failures++; failures > 10 {
				time.Sleep(10 * time.Millisecond) // it does not go away by itself: do not spin
			}
			continue
		}
		failures = 0
		if s.kind == kindDatagram {
			r.pace.add(r.n, r.octets(), time.Now)
		}
		if !s.mux.mayUse(s.local.Addr()) {
			s.mux.stats.fenced.Add(1)
			continue
		}
		for i := range r.n {
			r.message(i)
		}
		if r.receiver != nil {
			r.receiver.FlushESP()
		}
		if r.datagrams != nil {
			r.datagrams.Flush()
		}
	}
}

// receive waits for packets. It returns an error when the socket is closed.
func (r *reader) receive() error {
	if r.pace.fast && r.n < portBatch {
		if err := r.s.timer.wait(portPause); err != nil {
			return err
		}
	}
	return r.s.watch.conn.Read(r.wait)
}

// headers reports whether packets come with their IP headers, which tell what
// socket addresses and control messages would.
func (r *reader) headers() bool { return r.s.kind == kindRaw && !r.s.v6 }

// octets is how many all messages of recvmmsg have.
func (r *reader) octets() (n int) {
	for i := range r.n {
		n += int(r.msgs[i].n)
	}
	return n
}

// message takes one message of recvmmsg apart.
func (r *reader) message(i int) {
	m := &r.msgs[i]
	if m.hdr.Flags&unix.MSG_TRUNC != 0 {
		r.s.mux.stats.truncated.Add(1)
		return
	}
	data := r.bufs[i][:m.n]
	if r.headers() {
		r.rawIPv4(data)
		return
	}
	if r.names[i] != r.lastName {
		r.lastName = r.names[i]
		r.origin.Remote = r.names[i].addrPort()
	}
	segment := len(data)
	r.origin.TOS = 0
	r.ctrls[i].each(int(m.hdr.Controllen), func(level, typ int32, value []byte) {
		switch {
		case level == unix.IPPROTO_UDP && typ == unix.UDP_GRO && len(value) >= 4:
			segment = int(binary.NativeEndian.Uint32(value))
		case level == unix.IPPROTO_IP && typ == unix.IP_TOS && len(value) >= 1:
			r.origin.TOS = value[0]
		case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_TCLASS && len(value) >= 4:
			r.origin.TOS = uint8(binary.NativeEndian.Uint32(value))
		}
	})
	if r.s.kind == kindRaw {
		r.origin.Remote = netip.AddrPortFrom(r.origin.Remote.Addr(), 0)
		r.deliver(data[:len(data):len(data)])
		return
	}
	if r.s.kind == kindDatagram {
		for ; segment > 0 && len(data) > segment; data = data[segment:] {
			r.datagrams.Receive(r.origin.Remote, data[:segment])
		}
		r.datagrams.Receive(r.origin.Remote, data)
		return
	}
	for segment > 0 && len(data) > segment {
		r.datagram(data[:segment:segment])
		data = data[segment:]
	}
	r.datagram(data[:len(data):len(data)])
}

// rawIPv4 takes a packet of a raw socket with its IP header.
func (r *reader) rawIPv4(data []byte) {
	if len(data) < ipv4HeaderLen || len(data) < int(data[0]&0xf)*4 {
		r.s.mux.stats.short.Add(1)
		return
	}
	r.origin.TOS = data[1]
	r.origin.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte(data[12:])), 0)
	data = data[int(data[0]&0xf)*4:]
	r.deliver(data[:len(data):len(data)])
}

// datagram sorts one UDP datagram.
func (r *reader) datagram(data []byte) {
	stats := &r.s.mux.stats
	switch {
	case r.s.kind == kindIKE:
		r.deliverIKE(data)
	case isKeepalive(data):
		stats.keepalives.Add(1)
	case len(data) < minESP:
		stats.short.Add(1)
	case binary.BigEndian.Uint32(data) == 0:
		r.deliverIKE(data[markerLen:])
	default:
		r.deliver(data)
	}
}

func (r *reader) deliverIKE(data []byte) {
	stats := &r.s.mux.stats
	stats.ikeReceived.Add(1)
	h := r.s.mux.ike.Load()
	if h == nil {
		stats.ikeDropped.Add(1)
		return
	}
	(*h)(r.s.local, r.origin.Remote, append([]byte(nil), data...))
}

func (r *reader) deliver(packet []byte) {
	if len(packet) < minESP {
		r.s.mux.stats.short.Add(1)
		return
	}
	if r.receiver == nil {
		newReceiver := r.s.mux.esp.Load()
		if newReceiver == nil {
			r.s.mux.stats.espDropped.Add(1)
			return
		}
		r.receiver = (*newReceiver)()
	}
	r.receiver.ReceiveESP(&r.origin, packet)
}
