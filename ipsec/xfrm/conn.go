package xfrm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// maxMessage is the octets of a netlink datagram; the kernel's dumps are of at
// most 32 KiB.
const maxMessage = 64 << 10

// netlinkTimeout bounds the wait for an answer of the kernel.
const netlinkTimeout = 10 * time.Second

// conn is a NETLINK_XFRM socket. Requests and answers hold keys: their octets
// are wiped, which the requests of package nl could not be.
type conn struct {
	mu  sync.Mutex
	fd  int    // guarded by mu; -1: closed
	seq uint32 // guarded by mu
	buf []byte // guarded by mu
}

var errClosed = errors.New("xfrm: closed")

// openConn opens a socket in the network namespace of the calling thread, which
// hears the multicast groups.
func openConn(timeout time.Duration, groups ...int) (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_XFRM)
	if err != nil {
		return nil, fmt.Errorf("netlink socket of XFRM: %w", err)
	}
	c := &conn{fd: fd, buf: make([]byte, maxMessage)}
	if err := c.configure(timeout, groups); err != nil {
		unix.Close(fd) //nolint:errcheck // the first error is the one to report
		return nil, fmt.Errorf("netlink socket of XFRM: %w", err)
	}
	return c, nil
}

func (c *conn) configure(timeout time.Duration, groups []int) error {
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			return err
		}
	}
	if len(groups) == 0 {
		// The kernel's own words for what it does not like.
		_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	} else {
		// Many SAs may expire at once.
		_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	}
	tv := unix.NsecToTimeval(timeout.Nanoseconds())
	return unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
}

func (c *conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd >= 0 {
		unix.Close(c.fd) //nolint:errcheck // nothing was written that could be lost
		c.fd = -1
	}
}

// message is one message of the kernel. The body is wiped when its handler
// returns.
type message struct {
	kind uint16
	body []byte
}

// request is a message to the kernel under construction.
type request struct {
	kind, flags uint16
	body        []byte
}

// newRequest begins a request with its fixed part.
func newRequest(kind int, flags uint16, fixed []byte) *request {
	r := &request{kind: uint16(kind), flags: flags, body: make([]byte, 0, 4096)}
	r.body = append(r.body, fixed...)
	r.pad()
	return r
}

func (r *request) pad() {
	for len(r.body)%unix.NLMSG_ALIGNTO != 0 {
		r.body = append(r.body, 0)
	}
}

// attribute adds an attribute made of parts.
func (r *request) attribute(kind int, parts ...[]byte) {
	at := len(r.body)
	r.body = append(r.body, 0, 0, 0, 0)
	for _, p := range parts {
		r.body = append(r.body, p...)
	}
	binary.NativeEndian.PutUint16(r.body[at:], uint16(len(r.body)-at))
	binary.NativeEndian.PutUint16(r.body[at+2:], uint16(kind))
	r.pad()
}

// do sends a request, wipes it and hands each message of the answer over. An
// error of the kernel is a unix.Errno with the kernel's words.
func (c *conn) do(r *request, each func(message)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer clear(r.body)
	if c.fd < 0 {
		return errClosed
	}
	c.seq++
	packet := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(r.body))
	binary.NativeEndian.PutUint32(packet, uint32(unix.NLMSG_HDRLEN+len(r.body)))
	binary.NativeEndian.PutUint16(packet[4:], r.kind)
	binary.NativeEndian.PutUint16(packet[6:], r.flags|unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(packet[8:], c.seq)
	packet = append(packet, r.body...)
	defer clear(packet)
	if err := unix.Sendto(c.fd, packet, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for {
		n, err := c.receive()
		if err != nil {
			return err
		}
		done, err := answer(c.buf[:n], c.seq, r.flags, each)
		clear(c.buf[:n])
		if done || err != nil {
			return err
		}
	}
}

// receive reads one datagram of the kernel into buf.
func (c *conn) receive() (int, error) {
	for {
		n, from, err := unix.Recvfrom(c.fd, c.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if a, ok := from.(*unix.SockaddrNetlink); ok && a.Pid == 0 {
			return n, nil
		}
	}
}

// header is what counts of a struct nlmsghdr.
type header struct {
	kind, flags uint16
	seq         uint32
}

// messages takes a datagram apart, until the function returns false.
func messages(b []byte, each func(h header, body []byte) bool) error {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return errors.New("netlink: message longer than its datagram")
		}
		h := header{binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint32(b[8:])}
		if !each(h, b[unix.NLMSG_HDRLEN:size]) {
			return nil
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return nil
}

// answer takes a datagram apart that answers the request with a number.
func answer(b []byte, seq uint32, flags uint16, each func(message)) (done bool, err error) {
	malformed := messages(b, func(h header, body []byte) bool {
		switch {
		case h.seq != seq:
		case h.kind == unix.NLMSG_DONE:
			done = true
		case h.kind == unix.NLMSG_ERROR:
			done, err = true, errorOf(body, h.flags)
		case h.flags&unix.NLM_F_DUMP_INTR != 0:
			done, err = true, errInterrupted
		default:
			if each != nil {
				each(message{h.kind, body})
			}
			done = flags&(unix.NLM_F_DUMP|unix.NLM_F_ACK) == 0
		}
		return !done
	})
	return done || malformed != nil, errors.Join(err, malformed)
}

// errInterrupted says that the SAD or SPD changed while it was read.
var errInterrupted = errors.New("netlink: dump interrupted by a change")

// errorOf reads an NLMSG_ERROR: nil for an acknowledgement.
func errorOf(body []byte, marks uint16) error {
	if len(body) < 4 {
		return errors.New("netlink: short error message")
	}
	code := int32(binary.NativeEndian.Uint32(body))
	if code == 0 {
		return nil
	}
	errno := unix.Errno(-code)
	if marks&unix.NLM_F_ACK_TLVS == 0 || len(body) < 4+unix.NLMSG_HDRLEN {
		return errno
	}
	skip := unix.NLMSG_HDRLEN
	if marks&unix.NLM_F_CAPPED == 0 {
		skip = (int(binary.NativeEndian.Uint32(body[4:])) + 3) &^ 3
	}
	if words := attributes(body[min(len(body), 4+skip):])[nl.NLMSGERR_ATTR_MSG]; len(words) > 1 {
		return fmt.Errorf("%w (%s)", errno, unix.ByteSliceToString(words))
	}
	return errno
}

// dump reads a whole table, again when it changed meanwhile.
func (c *conn) dump(kind int, each func(message)) error {
	const attempts = 8
	for range attempts {
		var found []message
		err := c.do(newRequest(kind, unix.NLM_F_DUMP, nil), func(m message) {
			found = append(found, message{m.kind, append([]byte(nil), m.body...)})
		})
		if err == nil {
			for _, m := range found {
				each(m)
			}
		}
		for _, m := range found {
			clear(m.body)
		}
		if !errors.Is(err, errInterrupted) {
			return err
		}
	}
	return errInterrupted
}

// attributeType is the bits of an attribute's type beside its flags (NLA_TYPE_MASK).
const attributeType = 0x3fff

// attributes reads the attributes of a message, by type. Of several with one
// type, the last counts.
func attributes(b []byte) map[int][]byte {
	found := map[int][]byte{}
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			break
		}
		found[int(binary.NativeEndian.Uint16(b[2:])&attributeType)] = b[unix.SizeofRtAttr:size]
		b = b[min(len(b), (size+3)&^3):]
	}
	return found
}
