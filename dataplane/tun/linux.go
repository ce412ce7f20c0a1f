//go:build linux

package tun

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// offloads are the sets of offloads asked for, the best first. Kernels before
// 6.2 know no USO.
var offloads = []struct {
	flags int
	uso   bool
}{
	{unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN | unix.TUN_F_USO4 | unix.TUN_F_USO6, true},
	{unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN, false},
	{unix.TUN_F_CSUM, false},
	{0, false},
}

// linuxDevice is a multi-queue TUN interface.
type linuxDevice struct {
	name    string
	files   []*queue
	queues  []Queue
	uso     bool
	netlink *netlink.Handle // of the interface's namespace, whatever the calling thread's is
	link    netlink.Link
	close   sync.Once
}

// Open makes a TUN interface in the network namespace of the calling thread
// and brings it up. It fails when an interface of the name exists. The
// interface vanishes with Close or with the process. The error names what the
// kernel refused.
func Open(name string, queues, mtu int) (Device, error) {
	if name == "" || len(name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("tun: name %q: must have 1 to %d octets", name, unix.IFNAMSIZ-1)
	}
	if queues < 1 {
		return nil, fmt.Errorf("tun: %d queues: must be at least 1", queues)
	}
	d := &linuxDevice{name: name}
	for i := range queues {
		q, uso, err := openQueue(name, i == 0)
		if err != nil {
			_ = d.Close() // the first error is the one to report
			return nil, fmt.Errorf("tun %s: queue %d: %w", name, i, err)
		}
		d.uso = uso
		d.files = append(d.files, q)
		d.queues = append(d.queues, q)
	}
	if err := d.bringUp(mtu); err != nil {
		_ = d.Close() // the first error is the one to report
		return nil, fmt.Errorf("tun %s: %w", name, err)
	}
	return d, nil
}

func openQueue(name string, first bool) (q *queue, uso bool, err error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, false, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd) //nolint:errcheck // The first error is the one to report.
		}
	}()
	ifreq, err := unix.NewIfreq(name)
	if err != nil {
		return nil, false, err
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE)
	if first {
		flags |= unix.IFF_TUN_EXCL // never attach to somebody else's interface
	}
	ifreq.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifreq); err != nil {
		if first && errors.Is(err, unix.EBUSY) {
			return nil, false, fmt.Errorf("an interface of this name exists: %w", err)
		}
		return nil, false, fmt.Errorf("make the interface: %w", err)
	}
	for _, o := range offloads {
		if err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, o.flags); err == nil {
			uso = o.uso
			break
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("set offloads: %w", err)
	}
	// The interface has to be attached before the poller sees the file.
	q, err = newQueue(os.NewFile(uintptr(fd), "/dev/net/tun"))
	return q, uso, err
}

// bringUp sets the MTU, keeps the kernel from talking IPv6 on the link by
// itself, and sets it up.
func (d *linuxDevice) bringUp(mtu int) (err error) {
	if d.netlink, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	if d.link, err = d.netlink.LinkByName(d.name); err != nil {
		return fmt.Errorf("find the interface: %w", err)
	}
	if err := d.netlink.LinkSetMTU(d.link, mtu); err != nil {
		return fmt.Errorf("set MTU %d: %w", mtu, err)
	}
	// Router solicitations would only meet the lack of a policy. A kernel
	// without IPv6 has no such mode to set.
	const addrGenModeNone = 1
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		if err := d.netlink.LinkSetIP6AddrGenMode(d.link, addrGenModeNone); err != nil {
			return fmt.Errorf("turn off IPv6 link-local addresses: %w", err)
		}
	}
	if err := d.netlink.LinkSetUp(d.link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

func (d *linuxDevice) Name() string    { return d.name }
func (d *linuxDevice) Queues() []Queue { return d.queues }

func (d *linuxDevice) SetMTU(mtu int) error {
	if err := d.netlink.LinkSetMTU(d.link, mtu); err != nil {
		return fmt.Errorf("tun %s: set MTU %d: %w", d.name, mtu, err)
	}
	return nil
}

func (d *linuxDevice) Overruns() uint64 {
	link, err := d.netlink.LinkByIndex(d.link.Attrs().Index)
	if err != nil || link.Attrs().Statistics == nil {
		return 0
	}
	return link.Attrs().Statistics.TxDropped
}

func (d *linuxDevice) Close() error {
	var errs []error
	d.close.Do(func() {
		for _, q := range d.files {
			errs = append(errs, q.file.Close())
		}
		if d.netlink != nil {
			d.netlink.Close()
		}
	})
	return errors.Join(errs...)
}

// queue is one file of the interface. It does not block: calls return at once,
// and Wait leaves the waiting to the runtime's poller.
type queue struct {
	file *os.File
	conn syscall.RawConn

	// What tryRead and ready work on; they are made once, since a closure for
	// each call would be allocated.
	buf     []byte
	n       int
	errno   unix.Errno
	woken   bool // ready has been called before
	tryRead func(fd uintptr)
	ready   func(fd uintptr) bool
}

func newQueue(file *os.File) (*queue, error) {
	conn, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	q := &queue{file: file, conn: conn}
	// The file never blocks, so that the scheduler need not hear of the calls: told
	// of one that takes some tens of microseconds, it would wake another thread to
	// take over, which costs more than the call.
	q.tryRead = func(fd uintptr) {
		for {
			n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(q.buf))), uintptr(len(q.buf)))
			if errno != unix.EINTR {
				q.n, q.errno = int(n), errno
				return
			}
		}
	}
	poll, atOnce := &unix.PollFd{Events: unix.POLLIN}, &unix.Timespec{}
	q.ready = func(fd uintptr) bool {
		if q.woken {
			return true
		}
		q.woken = true // when the poller calls again
		poll.Fd, poll.Revents = int32(fd), 0
		n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(poll)), 1, uintptr(unsafe.Pointer(atOnce)), 0, 0, 0)
		return errno == 0 && n > 0 || errno != 0 && errno != unix.EINTR
	}
	return q, nil
}

func (q *queue) Read(buf []byte) (int, error) {
	q.buf = buf
	closed := q.conn.Control(q.tryRead)
	q.buf = nil
	switch {
	case closed != nil:
		return 0, ErrClosed
	case q.errno == 0:
		return q.n, nil
	case q.errno == unix.EAGAIN:
		return 0, ErrWouldBlock
	}
	return 0, fmt.Errorf("tun: read: %w", q.errno)
}

func (q *queue) Wait() error {
	q.woken = false
	if q.conn.Read(q.ready) != nil {
		return ErrClosed
	}
	return nil
}

// writer writes to the queues of an interface, each flow to one of them.
type writer struct {
	d   *linuxDevice
	iov []unix.Iovec // grows to what frames need: many interfaces carry little each
	err error
	try func(fd uintptr)
}

func (d *linuxDevice) NewWriter() Writer {
	w := &writer{d: d}
	w.try = func(fd uintptr) {
		for {
			_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, fd,
				uintptr(unsafe.Pointer(unsafe.SliceData(w.iov))), uintptr(len(w.iov)))
			if errno == unix.EINTR {
				continue
			}
			w.err = nil
			if errno != 0 {
				w.err = errno
			}
			return
		}
	}
	return w
}

func (w *writer) USO() bool { return w.d.uso }

func (w *writer) Write(flow uint32, frame [][]byte) error {
	w.iov = w.iov[:0]
	for _, part := range frame {
		if len(part) == 0 {
			continue
		}
		v := unix.Iovec{Base: unsafe.SliceData(part)}
		v.SetLen(len(part))
		w.iov = append(w.iov, v)
	}
	q := w.d.files[flow%uint32(len(w.d.files))]
	closed := q.conn.Control(w.try)
	runtime.KeepAlive(frame)
	clear(w.iov)
	if closed != nil {
		return ErrClosed
	}
	return w.err
}
