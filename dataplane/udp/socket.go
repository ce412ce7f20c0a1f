//go:build linux

package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

type socketKind uint8

const (
	kindIKE      socketKind = iota + 1 // UDP 500
	kindNATT                           // UDP 4500
	kindRaw                            // IP protocol 50
	kindDatagram                       // any UDP port, of a Port
	// kindPathMTU is a raw ESP socket of IPv6 that neither sends nor receives.
	// Linux heeds a "packet too big" for ESP only on a raw socket that is
	// connected or asks for errors (rawv6_err), and an error that is asked for
	// makes the next call on the socket fail.
	kindPathMTU
	// kindRawSend sends IP protocol 50 over IPv4, with the headers of the packets: the
	// kernel has less to do for them. It receives nothing.
	kindRawSend
)

func (k socketKind) raw() bool { return k == kindRaw || k == kindPathMTU || k == kindRawSend }

// receives reports whether there is a goroutine that reads such a socket.
func (k socketKind) receives() bool { return k != kindPathMTU && k != kindRawSend }

// socketBuffer is the octets that the kernel may hold for a socket in each
// direction: 40 ms at 3 Gbit/s. It has room for the first packets of a thousand TCP
// flows at once, which with less lose so many of them that each waits for its
// retransmission timer most of the time.
const socketBuffer = 16 << 20

// socket is one outer socket. Its goroutine reads; any goroutine sends.
type socket struct {
	mux   *Mux
	kind  socketKind
	local netip.AddrPort
	v6    bool
	conn  descriptor
	watch *watch     // nil for a kind that does not receive
	timer *timer     // of a Port's reader
	room  sync.Mutex // of the one sender that waits for room in the buffer
	noGSO gsoState
	df    dfState

	newReceiver func() DatagramReceiver // of a Port

	sends *socket // of kindRawSend, for one of kindRaw over IPv4
	ttl   uint8   // of the headers that one of kindRawSend sends

	// decapsulates is the only peer that the socket is for, whose ESP the kernel
	// takes out; it is not valid for all other sockets.
	decapsulates netip.AddrPort
}

func openSocket(m *Mux, kind socketKind, local netip.AddrPort) (*socket, error) {
	s := &socket{mux: m, kind: kind, local: local, v6: local.Addr().Is6()}
	return s, s.open()
}

func (s *socket) open() error {
	local, kind := s.local, s.kind
	what := fmt.Sprintf("udp: socket on %s", local)
	typ, protocol := unix.SOCK_DGRAM, unix.IPPROTO_UDP
	if kind.raw() {
		what = fmt.Sprintf("udp: raw ESP socket on %s", local.Addr())
		typ, protocol = unix.SOCK_RAW, unix.IPPROTO_ESP
	}
	if kind == kindRawSend {
		protocol = unix.IPPROTO_RAW // each packet begins with its header (raw(7))
	}
	family := unix.AF_INET
	if s.v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := s.configure(fd); err != nil {
		unix.Close(fd) //nolint:errcheck // The first error is the one to report.
		return fmt.Errorf("%s: %w", what, err)
	}
	if kind.receives() {
		if s.watch, err = newWatch(fd); err != nil {
			unix.Close(fd) //nolint:errcheck // The first error is the one to report.
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if kind == kindDatagram {
		if s.timer, err = newTimer(); err != nil {
			s.watch.file.Close()
			unix.Close(fd) //nolint:errcheck // The first error is the one to report.
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	s.conn.fd, s.conn.open = fd, true
	return nil
}

// close ends the socket and its goroutine. Closing again does nothing.
func (s *socket) close() {
	if s.watch != nil { // at first, for the goroutine to find its end there
		_ = s.watch.file.Close() // it was open, or is closed already
	}
	if s.timer != nil {
		s.timer.close()
	}
	_ = s.conn.Close() // the same
}

// receiveNothing has the kernel drop what comes for a socket.
func receiveNothing(fd int) error {
	const smallest = 1 // the kernel makes it a few kB
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]}); err != nil {
		return fmt.Errorf("attach a filter: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, smallest); err != nil {
		return fmt.Errorf("set socket buffer: %w", err)
	}
	return nil
}

// watchPathMTU makes a socket one that only takes part in the discovery of path
// MTUs. The errors that it queues are never read: there is room for a few, and the
// kernel learns from the others all the same.
func watchPathMTU(fd int, local netip.AddrPort) error {
	if err := receiveNothing(fd); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1); err != nil {
		return fmt.Errorf("set IPV6_RECVERR: %w", err)
	}
	if err := unix.Bind(fd, sockaddr(local)); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

// configure sets the options and binds.
func (s *socket) configure(fd int) error {
	if s.kind == kindPathMTU {
		return watchPathMTU(fd, s.local)
	}
	set := func(name string, level, option, value int) error {
		if err := unix.SetsockoptInt(fd, level, option, value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
		return nil
	}
	for _, o := range []struct{ forced, plain int }{
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF},
	} {
		// Without CAP_NET_ADMIN the size is what net.core.*mem_max allows.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.forced, socketBuffer) != nil {
			if err := set("socket buffer", unix.SOL_SOCKET, o.plain, socketBuffer); err != nil {
				return err
			}
		}
	}
	// Who waits for room does not see that the socket is closed meanwhile.
	patience := unix.NsecToTimeval(sendPatience.Nanoseconds())
	err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience)
	if err != nil {
		return fmt.Errorf("set SO_SNDTIMEO: %w", err)
	}
	if s.v6 {
		if s.kind != kindRaw {
			err = set("IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
		}
		if err == nil {
			err = set("IPV6_MTU_DISCOVER", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_WANT)
		}
		if err == nil && s.kind != kindDatagram { // whose receiver does not ask
			err = set("IPV6_RECVTCLASS", unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
		}
	} else {
		err = set("IP_MTU_DISCOVER", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_WANT)
		if err == nil && s.kind != kindDatagram && !s.kind.raw() { // whose packets come with their headers
			err = set("IP_RECVTOS", unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
		}
	}
	if err == nil && (s.kind == kindNATT || s.kind == kindDatagram) {
		if s.mux.options.Sockets > 1 || s.mux.options.Decapsulation {
			err = set("SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}
		// Kernels before 5.0 have no UDP_GRO; then each datagram comes alone. What the
		// kernel decapsulates it must see datagram by datagram.
		gro := 1
		if s.decapsulates.IsValid() {
			gro = 0
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, gro)
	}
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, sockaddr(s.local)); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if s.decapsulates.IsValid() {
		if err := unix.Connect(fd, sockaddr(s.decapsulates)); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		return set("UDP_ENCAP", unix.IPPROTO_UDP, udpEncap, udpEncapESPInUDP)
	}
	switch {
	case s.kind == kindRawSend:
		var ttl int
		if ttl, err = unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL); err != nil {
			return fmt.Errorf("get IP_TTL: %w", err)
		}
		s.ttl = uint8(ttl)
		err = receiveNothing(fd)
	case s.kind == kindDatagram && s.local.Port() == 0:
		s.local, err = bound(fd)
	}
	return err
}

// sockaddr converts an address and port.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// overflow returns the datagrams that the kernel dropped since there was no room
// for them. Kernels before 4.12 do not tell.
func (s *socket) overflow() uint64 {
	if !s.kind.receives() {
		return 0 // it drops everything
	}
	var info [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(info))
	told := false
	_ = s.conn.Control(func(fd uintptr) { // of a closed socket there is nothing to tell
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		told = errno == 0
	})
	if !told {
		return 0
	}
	return uint64(info[unix.SK_MEMINFO_DROPS])
}

// dfState is whether an IPv4 socket sends with the DF bit. That is an option of
// the whole socket, so who sends holds the lock, and who changes it holds it
// alone.
type dfState struct {
	mu    sync.RWMutex
	clear bool // guarded by mu
}

// lockDF makes sure that packets which the socket sends until unlockDF may be
// fragmented by routers, or may not. The result is for unlockDF.
func (s *socket) lockDF(fragmentable bool) (alone bool, err error) {
	if s.v6 || s.kind == kindRawSend { // whose packets have the bit in their headers
		return false, nil
	}
	s.df.mu.RLock()
	if s.df.clear == fragmentable {
		return false, nil
	}
	s.df.mu.RUnlock()
	s.df.mu.Lock()
	if s.df.clear == fragmentable { // another sender has changed it
		return true, nil
	}
	if err := s.setDF(fragmentable); err != nil {
		s.df.mu.Unlock()
		return false, err
	}
	s.df.clear = fragmentable
	return true, nil
}

func (s *socket) setDF(fragmentable bool) error {
	mode := unix.IP_PMTUDISC_WANT
	if fragmentable {
		mode = unix.IP_PMTUDISC_DONT
	}
	var err error
	if s.conn.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, mode)
	}) != nil {
		return os.ErrClosed
	}
	return err
}

func (s *socket) unlockDF(alone bool) {
	switch {
	case s.v6 || s.kind == kindRawSend:
	case alone:
		s.df.mu.Unlock()
	default:
		s.df.mu.RUnlock()
	}
}

// sendTo sends one datagram, waiting while the socket's buffer is full.
func (s *socket) sendTo(remote netip.AddrPort, datagram []byte) error {
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	if remote.Addr().Is6() != s.v6 || !remote.IsValid() {
		return fmt.Errorf("address %s: must be of the family of %s", remote, s.local)
	}
	alone, err := s.lockDF(false)
	if err != nil {
		return err
	}
	defer s.unlockDF(alone)
	to := sockaddr(remote)
	if s.conn.Control(func(fd uintptr) { err = unix.Sendto(int(fd), datagram, unix.MSG_DONTWAIT, to) }) != nil {
		return os.ErrClosed
	}
	if !errors.Is(err, unix.EAGAIN) {
		return err
	}
	if closed := s.waitRoom(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), datagram, 0, to)
		return !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN)
	}); closed != nil {
		return os.ErrClosed
	}
	return err
}

// sendPatience is how long one system call may wait for room in a socket's buffer.
const sendPatience = time.Second

// waitRoom calls send, which waits in the kernel, until it reports true or the socket
// is closed. One sender at a time does: each holds a thread.
func (s *socket) waitRoom(send func(fd uintptr) bool) (closed error) {
	s.room.Lock()
	defer s.room.Unlock()
	for done := false; !done && closed == nil; {
		closed = s.conn.Control(func(fd uintptr) { done = send(fd) })
	}
	return closed
}
