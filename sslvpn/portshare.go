package sslvpn

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// Port sharing: a connection on TCP that does not begin as an OpenVPN client's
// is handed to another server, such as one of HTTPS, with all that it said. It
// sees the address of this host as that of its client.
const (
	// shareDial is how long the other server may take to accept.
	shareDial = 5 * time.Second
	// sharedTotal and sharedAddress bound the connections that are handed on by
	// all endpoints together, in all and from one address.
	sharedTotal, sharedAddress = 1024, 256
	// sharedStuck is how long either side may take nothing of what the other one
	// says and, when one of them has ended, how long the other one may say nothing:
	// the other server's own limits do not reach who keeps a connection to us.
	sharedStuck = time.Minute
)

// beginsAsOpenVPN reports whether the first octets of a stream, of which there
// may be fewer than are needed to tell, can be those of a client: a length and
// the opcode of a first packet.
func beginsAsOpenVPN(b []byte) bool {
	if len(b) > 0 && b[0] > wire.MaxFrame>>8 {
		return false
	}
	if len(b) < wire.FrameHeaderLen+1 {
		return true
	}
	op, keyID := wire.SplitOpcode(b[wire.FrameHeaderLen])
	return keyID == 0 && (op == wire.HardResetClientV2 || op == wire.HardResetClientV3)
}

// share carries a connection to another server and back, until both have ended.
// allowed tells whether the local address may still be used; nil: always.
func (ep *endpoint) share(conn *net.TCPConn, from netip.AddrPort, to netip.AddrPort, allowed func() bool) {
	limits := Limits{HalfOpenTotal: sharedTotal, HalfOpenAddress: sharedAddress}
	if !ep.server.shared.enter(from.Addr(), limits) {
		ep.control.add(dropSharedLimit)
		return
	}
	defer ep.server.shared.leave(from.Addr())
	dialer := net.Dialer{Timeout: shareDial}
	dialled, err := dialer.DialContext(ep.ctx, "tcp", to.String())
	if err != nil {
		ep.control.add(dropSharedDial)
		ep.log.Debug("port sharing failed", "remote", from.String(), "error", err)
		return
	}
	other := dialled.(*net.TCPConn)
	defer func() { _ = other.Close() }()
	unwatch := context.AfterFunc(ep.ctx, func() { _ = other.Close() })
	defer unwatch()
	if conn.SetReadDeadline(time.Time{}) != nil {
		return
	}
	c := carrier{allowed: allowed, stuck: sharedStuck}
	c.both(conn, other)
}

// carrier carries a connection to another one and back.
type carrier struct {
	allowed func() bool
	stuck   time.Duration // sharedStuck

	mu   sync.Mutex
	half bool // one of the two has ended
}

// both carries until both connections have ended.
func (c *carrier) both(a, b *net.TCPConn) {
	var back sync.WaitGroup
	back.Go(func() { c.carry(a, b) })
	c.carry(b, a)
	back.Wait()
}

// expect has a read of what is still to come end when that takes too long.
func (c *carrier) expect(from *net.TCPConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.half {
		_ = from.SetReadDeadline(time.Now().Add(c.stuck))
	}
}

// ended notes that a connection brings no more, which limits the other one.
func (c *carrier) ended(other *net.TCPConn) {
	c.mu.Lock()
	c.half = true
	c.mu.Unlock()
	c.expect(other)
}

// carry writes to one connection what another one brings, its end too. When
// something fails both are closed.
func (c *carrier) carry(to, from *net.TCPConn) {
	buf := make([]byte, 16<<10)
	for {
		c.expect(from)
		n, err := from.Read(buf)
		if c.allowed != nil && !c.allowed() {
			n, err = 0, errFenced
		}
		if n > 0 {
			_ = to.SetWriteDeadline(time.Now().Add(c.stuck))
			if _, failed := to.Write(buf[:n]); failed != nil {
				err = failed
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			_ = to.CloseWrite()
			c.ended(to)
			return
		default:
			_, _ = to.Close(), from.Close()
			return
		}
	}
}
