//go:build linux

package udp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Limits of one Send.
const (
	// MaxSegments is the packets that one UDP_SEGMENT call may carry.
	MaxSegments = 64
	// MaxOctets is the octets that it may carry: what fits an IP packet.
	MaxOctets = 65400
)

// Path is the outer way of an SA's packets. It does not change.
type Path struct {
	Local, Remote netip.AddrPort
	Encap         bool
	name          name
	nameLen       uint32
	hash          uint32 // of the remote address: which of several sockets sends

	fragmentable bool                 // by routers
	cut          atomic.Pointer[Path] // this one, fragmentable; nil: not asked for yet
}

// NewPath returns the path between two addresses: with encap in UDP, else as IP
// protocol 50, in which case the ports do not count. The error names the
// address that is not fit.
func NewPath(local, remote netip.AddrPort, encap bool) (*Path, error) {
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	if !local.Addr().IsValid() || !remote.Addr().IsValid() || local.Addr().Is4() != remote.Addr().Is4() {
		return nil, fmt.Errorf("udp: path from %s to %s: both must be addresses of one family", local, remote)
	}
	if !encap {
		local, remote = netip.AddrPortFrom(local.Addr(), 0), netip.AddrPortFrom(remote.Addr(), 0)
	} else if local.Port() == 0 || remote.Port() == 0 {
		return nil, fmt.Errorf("udp: path from %s to %s: ports must not be zero", local, remote)
	}
	p := &Path{Local: local, Remote: remote, Encap: encap}
	p.nameLen = p.name.set(remote)
	hash := fnv.New32a()
	hash.Write(p.name[:p.nameLen])
	p.hash = hash.Sum32()
	return p, nil
}

// Fragmentable returns the same path for packets that routers may fragment: in
// IPv4 their DF bit is clear (RFC 4301, section 8.1). In IPv6 no router fragments.
func (p *Path) Fragmentable() *Path {
	if p.fragmentable {
		return p
	}
	if cut := p.cut.Load(); cut != nil {
		return cut
	}
	p.cut.CompareAndSwap(nil, &Path{
		Local: p.Local, Remote: p.Remote, Encap: p.Encap,
		name: p.name, nameLen: p.nameLen, hash: p.hash, fragmentable: true,
	})
	return p.cut.Load()
}

// HeaderLen returns the octets of the IP and UDP headers before each packet.
func (p *Path) HeaderLen() int {
	n := 20
	if p.Local.Addr().Is6() {
		n = 40
	}
	if p.Encap {
		n += 8
	}
	return n
}

// gsoState remembers that a socket's device could not do UDP_SEGMENT.
type gsoState struct{ until atomic.Int64 } // Unix nanoseconds; zero: it could

// gsoPause is how long trains are not tried again: the route may lead over
// another device then.
const gsoPause = time.Minute

func (g *gsoState) off() bool {
	until := g.until.Load()
	return until != 0 && time.Now().UnixNano() < until
}

func (g *gsoState) pause() { g.until.Store(time.Now().Add(gsoPause).UnixNano()) }

// ErrTooBig is wrapped by Send's error when packets were longer than the path
// MTU. They were sent all the same, in fragments.
var ErrTooBig = errors.New("longer than the path MTU")

// Sender sends ESP packets for one goroutine at a time.
type Sender struct {
	mux  *Mux
	msgs []mmsghdr
	iovs []unix.Iovec // two for each: the first is for a header
	ctrl control
	// headers are those of raw packets over IPv4.
	headers [MaxSegments][ipv4HeaderLen]byte
	first   int // of msgs, for send
	n       int // of messages that the kernel took
	errno   unix.Errno
	send    func(fd uintptr)
	wait    func(fd uintptr) bool // send, waiting for room for up to sendPatience
}

// NewSender returns a Sender for one more goroutine.
func (m *Mux) NewSender() *Sender {
	s := &Sender{
		mux: m, msgs: make([]mmsghdr, MaxSegments), iovs: make([]unix.Iovec, 2*MaxSegments),
	}
	// The call never blocks, so that the scheduler need not hear of it.
	s.send = func(fd uintptr) {
		for {
			batch := s.msgs[s.first:]
			n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(unsafe.SliceData(batch))),
				uintptr(len(batch)), unix.MSG_DONTWAIT, 0, 0)
			if errno != unix.EINTR {
				s.n, s.errno = int(n), errno
				return
			}
		}
	}
	s.wait = func(fd uintptr) bool {
		batch := s.msgs[s.first:]
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(unsafe.SliceData(batch))),
			uintptr(len(batch)), 0, 0, 0)
		s.n, s.errno = int(n), errno
		return errno != unix.EAGAIN && errno != unix.EINTR
	}
	return s
}

// Send sends the ESP packets that lie one behind the other in data. All have
// size octets, save the last, which may have fewer; there are at most
// MaxSegments of them and MaxOctets in all. tos is the type of service or
// traffic class of the outer header. Send waits while the socket's buffer is
// full.
//
// failed counts the packets that were not sent. An error that wraps ErrTooBig
// says that the packets should become smaller.
func (s *Sender) Send(p *Path, data []byte, size int, tos uint8) (failed int, err error) {
	packets := (len(data) + size - 1) / size
	socket, err := s.mux.find(p.Local, p.hash)
	if err != nil {
		return packets, err
	}
	if packets > 1 && p.Encap && !socket.noGSO.off() {
		err := s.sendTrain(socket, p, data, size, tos)
		switch {
		case err == nil:
			return 0, nil
		case errors.Is(err, unix.EIO) || errors.Is(err, unix.ENOPROTOOPT):
			// The device cannot compute checksums, or the kernel is older
			// than 4.18.
			socket.noGSO.pause()
		case errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EINVAL):
			// A train is never fragmented; its packets alone are.
			failed, err := s.sendEach(socket, p, data, size, tos)
			if err == nil {
				err = fmt.Errorf("udp: %d octets to %s: %w", size, p.Remote, ErrTooBig)
			}
			return failed, err
		default:
			s.mux.stats.sendErrors.Add(1)
			return packets, fmt.Errorf("udp: send to %s: %w", p.Remote, err)
		}
	}
	if socket.sends != nil {
		return s.sendRaw(socket, p, data, size, tos)
	}
	return s.sendEach(socket, p, data, size, tos)
}

// control writes the control messages and returns their length.
func (s *Sender) control(p *Path, segment int, tos uint8) int {
	at := 0
	if segment != 0 {
		var v [2]byte
		binary.NativeEndian.PutUint16(v[:], uint16(segment))
		at = s.ctrl.put(at, unix.IPPROTO_UDP, unix.UDP_SEGMENT, v[:])
	}
	if tos != 0 {
		var v [4]byte
		binary.NativeEndian.PutUint32(v[:], uint32(tos))
		level, typ := int32(unix.IPPROTO_IP), int32(unix.IP_TOS)
		if p.Local.Addr().Is6() {
			level, typ = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
		}
		at = s.ctrl.put(at, level, typ, v[:])
	}
	return at
}

// prepare fills in message i.
func (s *Sender) prepare(i int, p *Path, data []byte, controlLen int) {
	iov := &s.iovs[2*i+1]
	iov.Base = unsafe.SliceData(data)
	iov.SetLen(len(data))
	h := &s.msgs[i].hdr
	h.Name, h.Namelen = (*byte)(unsafe.Pointer(&p.name)), p.nameLen
	h.Iov = iov
	h.SetIovlen(1)
	h.Control = nil
	if controlLen > 0 {
		h.Control = (*byte)(unsafe.Pointer(&s.ctrl))
	}
	h.SetControllen(controlLen)
}

// sendTrain sends all packets as one message, which the kernel cuts.
func (s *Sender) sendTrain(socket *socket, p *Path, data []byte, size int, tos uint8) error {
	s.prepare(0, p, data, s.control(p, size, tos))
	return s.call(socket, p, 0, 1)
}

// sendEach sends each packet as a message, all with as few calls as possible.
func (s *Sender) sendEach(socket *socket, p *Path, data []byte, size int, tos uint8) (failed int, err error) {
	controlLen := s.control(p, 0, tos)
	count := 0
	for ; len(data) > 0; count++ {
		n := min(size, len(data))
		s.prepare(count, p, data[:n], controlLen)
		data = data[n:]
	}
	for at := 0; at < count; {
		if e := s.call(socket, p, at, count); e != nil {
			s.mux.stats.sendErrors.Add(1)
			failed++
			if err == nil {
				err = fmt.Errorf("udp: send to %s: %w", p.Remote, e)
			}
			at++ // the kernel stopped at this one
			continue
		}
		at += s.n
	}
	return failed, err
}

// call gives messages from first to end to the kernel, which takes at least
// one of them, or fails at the first.
func (s *Sender) call(socket *socket, p *Path, first, end int) error {
	alone, err := socket.lockDF(p.fragmentable)
	if err != nil {
		return err
	}
	defer socket.unlockDF(alone)
	all := s.msgs
	s.msgs, s.first = all[:end], first
	closed := socket.conn.Control(s.send)
	if closed == nil && s.errno == unix.EAGAIN {
		closed = socket.waitRoom(s.wait)
	}
	s.msgs = all
	if closed != nil {
		return os.ErrClosed
	}
	if s.errno != 0 {
		return s.errno
	}
	return nil
}

// PathMTU returns the largest outer IP packet, in octets, that the kernel
// believes to reach a remote address: the MTU of the route, or less when a
// router said so (RFC 1191, RFC 8201).
func (m *Mux) PathMTU(local, remote netip.Addr) (int, error) {
	local, remote = local.Unmap(), remote.Unmap()
	family, level, option := unix.AF_INET, unix.IPPROTO_IP, unix.IP_MTU
	if local.Is6() {
		family, level, option = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	fail := func(step string, err error) (int, error) {
		return 0, fmt.Errorf("udp: path MTU from %s to %s: %s: %w", local, remote, step, err)
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return fail("socket", err)
	}
	defer unix.Close(fd) //nolint:errcheck // Nothing was written to it.
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(local, 0))); err != nil {
		return fail("bind", err)
	}
	if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(remote, PortNATT))); err != nil {
		return fail("connect", err)
	}
	mtu, err := unix.GetsockoptInt(fd, level, option)
	if err != nil {
		return fail("ask", err)
	}
	return mtu, nil
}
