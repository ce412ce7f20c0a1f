package sslvpn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// startEndpoint opens what an endpoint needs, all of it or nothing, and serves.
func (s *Server) startEndpoint(cfg *settings) (_ *endpoint, err error) {
	ep := &endpoint{
		server: s, id: cfg.ID, log: s.log.With("endpoint", cfg.ID),
		opening: map[*session]bool{}, sessions: map[*session]*client{},
		perUser: map[string]int{}, codes: newUsedCodes(time.Now()),
	}
	ep.settings.Store(cfg)
	if ep.pool, err = newAddressPool(cfg.Pool); err != nil {
		return nil, err
	}
	if err := ep.pool.reserve(cfg.static()); err != nil {
		return nil, err
	}
	var opened []io.Closer
	defer func() {
		if err != nil {
			for _, c := range opened {
				_ = c.Close()
			}
		}
	}()
	var tcp []*net.TCPListener
	for _, a := range cfg.TCP {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
		if err != nil {
			return nil, fmt.Errorf("listen on TCP %s: %w", a, err)
		}
		opened, tcp = append(opened, l), append(tcp, l)
		ep.tcp = append(ep.tcp, l.Addr().(*net.TCPAddr).AddrPort())
	}
	dev, err := s.opts.OpenDevice(cfg.Device, runtime.GOMAXPROCS(0), tunMTU)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", cfg.Device, err)
	}
	opened = append(opened, dev)
	if ep.plane, err = newPlane(dev, cfg.Pool, planeOptions{log: ep.log, pool6: cfg.Pool6, bandwidthMbps: cfg.BandwidthMbps}); err != nil {
		return nil, err
	}
	if err := ep.openUDP(cfg.UDP); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	ep.ctx, ep.stop = ctx, func() {
		stop()
		for _, l := range tcp {
			_ = l.Close()
		}
	}
	ep.running.Go(func() {
		if err := ep.plane.run(ctx); err != nil {
			ep.fail(err)
		}
	})
	for _, l := range tcp {
		ep.running.Go(func() { ep.acceptTCP(l) })
	}
	ep.log.Info("VPN server started", "tcp", cfg.TCP, "udp", cfg.UDP, "device", cfg.Device, "pool", cfg.Pool.String())
	return ep, nil
}

// fail notes why the endpoint does not serve any more; the next Apply starts it
// anew.
func (ep *endpoint) fail(err error) {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if !ep.closed && ep.failure == nil {
		ep.failure = err
		ep.log.Error("VPN server failed", "error", err)
	}
}

// close ends all sessions and frees what the endpoint has opened. It returns
// when nothing of it runs any more.
func (ep *endpoint) close(reason string) {
	ep.mu.Lock()
	ep.closed = true
	var sessions []*session
	for s := range ep.opening {
		sessions = append(sessions, s)
	}
	for s := range ep.sessions {
		sessions = append(sessions, s)
	}
	ep.mu.Unlock()
	for _, s := range sessions {
		s.end(ending{reason: reason, message: wire.RestartClient(reason)})
	}
	// There is no time to wait for acknowledgements: what was sent is on its way.
	for _, s := range sessions {
		s.finish()
	}
	ep.stop()
	ep.closeUDP()
	ep.running.Wait()
	ep.log.Info("VPN server stopped", "reason", reason)
}

// Pauses of a listener whose accept fails, such as for want of descriptors.
const acceptPause = 50 * time.Millisecond

// acceptTCP takes connections until the listener is closed.
func (ep *endpoint) acceptTCP(l *net.TCPListener) {
	for {
		conn, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			ep.log.Warn("accept failed", "address", l.Addr().String(), "error", err)
			time.Sleep(acceptPause)
			continue
		}
		from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		if !ep.server.halfOpen.enter(from.Addr(), ep.server.opts.Limits) {
			ep.control.add(dropHalfOpen)
			_ = conn.Close()
			continue
		}
		ep.running.Go(func() { ep.serveTCP(conn, from) })
	}
}

// tcpTransport is the transport of one client on TCP.
type tcpTransport struct {
	*tcpLink
	running *sync.WaitGroup
	once    sync.Once
}

// shutTime is how long the last packets may take on TCP.
const shutTime = time.Second

func (t *tcpTransport) shut() {
	t.once.Do(func() { t.running.Go(func() { t.finish(shutTime) }) })
}

// serveTCP serves one connection to its end. The connection counts as half-open
// until its session takes that over.
func (ep *endpoint) serveTCP(conn *net.TCPConn, from netip.AddrPort) {
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	var s *session
	leave := sync.OnceFunc(func() { ep.server.halfOpen.leave(from.Addr()) })
	defer func() {
		if s == nil {
			leave()
		}
	}()
	link, err := newTCPLink(conn, &ep.plane.drops)
	if err != nil {
		_ = conn.Close()
		return
	}
	link.fence(ep.server.opts.Guard)
	_ = conn.SetReadDeadline(time.Now().Add(ep.server.opts.Limits.FirstPacketTimeout))
	unwatch := context.AfterFunc(ep.ctx, link.close)
	defer unwatch()
	if to := ep.config().PortShare; to.IsValid() {
		foreign, err := isForeign(conn)
		if err != nil || foreign {
			if isTimeout(err) {
				ep.control.add(dropSlow)
			}
			if foreign {
				leave() // it is no client of ours
				ep.share(conn, from, to, link.guard)
			}
			link.close()
			return
		}
	}
	err = link.run(func(packet []byte) error {
		var of *wire.TLSCrypt
		if s != nil {
			of = s.wrap
		}
		c, why := ep.parse(packet, of)
		switch {
		case s != nil && why != "":
			ep.control.add(why)
			return nil
		case s != nil:
			s.receive(&c.Control)
			return nil
		case why == dropRevoked:
			return errRevoked
		case why != "" || !isFirst(&c.Control):
			return errNotOpenVPN
		}
		// The deadlines of the session hold from here on, and the one of its end
		// must not be undone.
		if err := conn.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
		opened := newSession(ep, &tcpTransport{tcpLink: link, running: &ep.running}, true, from, &c)
		if err := ep.open(opened); err != nil {
			return err
		}
		s = opened
		unwatch() // it closes the connection itself
		s.accept()
		return nil
	}, func(packets [][]byte) error {
		if s == nil {
			return errNotOpenVPN
		}
		if c := s.client.Load(); c != nil {
			c.receive(packets)
		}
		return nil
	})
	if s == nil {
		ep.countStranger(err)
		link.close()
		return
	}
	s.end(ending{reason: closedReason(err)})
	s.finish()
}

// countStranger counts a connection on TCP that ended before it had a session.
func (ep *endpoint) countStranger(err error) {
	switch {
	case errors.Is(err, errNotOpenVPN):
		ep.control.add(dropNotOpenVPN)
	case errors.Is(err, errRevoked):
		ep.control.add(dropRevoked)
	case isTimeout(err):
		ep.control.add(dropSlow)
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func closedReason(err error) string {
	if errors.Is(err, io.EOF) {
		return "the client closed the connection"
	}
	return "the connection broke: " + err.Error()
}

// isFirst reports whether a packet is the first one of a client.
func isFirst(c *wire.Control) bool {
	return c.Opcode == wire.HardResetClientV2 && c.KeyID == 0 && c.PacketID == 0 && len(c.Acks) == 0
}
