package sslvpn

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// udpListener is one UDP address of an endpoint. Before a client has shown that
// it is where its packets come from, nothing is kept of it.
type udpListener struct {
	ep      *endpoint
	socket  udpSocket
	answers *rate.Limiter // to resets, which anybody can send in another's name

	mu        sync.Mutex
	byControl map[udpOrigin]*session
	byAddr    map[netip.AddrPort]*session // established ones
}

// udpOrigin is what the control packets of a session have in common.
type udpOrigin struct {
	remote netip.AddrPort
	id     wire.SessionID
}

// minMove is the time between moves of a session to another address of its
// client.
const minMove = time.Second

// udpTransport is the transport of one client on UDP.
type udpTransport struct{ *udpLink }

func (t udpTransport) shut() {}

// openUDP opens the sockets of an endpoint. Packets are taken from now on.
func (ep *endpoint) openUDP(addresses []netip.AddrPort) error {
	limit := ep.server.opts.Limits.ResetsPerSecond
	for _, a := range addresses {
		l := &udpListener{
			ep: ep, answers: rate.NewLimiter(rate.Limit(limit), limit),
			byControl: map[udpOrigin]*session{}, byAddr: map[netip.AddrPort]*session{},
		}
		l.mu.Lock() // until the socket is there
		socket, err := openUDP(a, l, udpOptions{log: ep.log, cores: runtime.GOMAXPROCS(0), guard: ep.server.opts.Guard})
		l.socket = socket
		l.mu.Unlock()
		if err != nil {
			ep.closeUDP()
			return fmt.Errorf("listen on UDP %s: %w", a, err)
		}
		ep.udp = append(ep.udp, l)
	}
	return nil
}

func (ep *endpoint) closeUDP() {
	for _, l := range ep.udp {
		if err := l.socket.close(); err != nil {
			ep.log.Warn("close failed", "address", l.socket.local().String(), "error", err)
		}
	}
}

// control implements datagramHandler.
func (l *udpListener) control(from netip.AddrPort, packet []byte) {
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	var of *wire.TLSCrypt
	s := l.sessionOf(from, packet)
	if s != nil {
		of = s.wrap
	}
	c, why := l.ep.parse(packet, of)
	if why != "" {
		l.ep.control.add(why)
		return
	}
	switch {
	case s != nil:
	case isFirst(&c.Control):
		if !l.answers.Allow() {
			l.ep.control.add(dropResetRate)
			return
		}
		if l.ep.config().keys != nil && !c.keyAgain {
			// Its wrapped key comes once, so it has to be kept. Whoever sends it
			// has a profile of this server.
			if s = l.begin(from, &c, l.ep.server.opts.Limits.unproven()); s != nil {
				s.accept()
			}
			return
		}
		l.answer(from, &c)
		return
	default:
		if s = l.welcome(from, &c); s == nil {
			return
		}
	}
	s.receive(&c.Control)
}

// sessionOf returns the session that a control packet says that it is for, nil
// for none.
func (l *udpListener) sessionOf(from netip.AddrPort, packet []byte) *session {
	id, ok := wire.SenderOf(packet)
	if !ok {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byControl[udpOrigin{from, id}]
}

// answer answers a client's reset with a cookie.
func (l *udpListener) answer(from netip.AddrPort, c *controlPacket) {
	now := time.Now()
	reply := wire.Control{
		Opcode: wire.HardResetServerV2, Acks: []uint32{0}, Remote: c.Session,
		Session: l.ep.server.cookies.bake(now, l.socket.local(), from, c.Session),
	}
	if c.keyAgain {
		reply.Payload = wire.KeyAgain
	}
	_ = sendTo(l.socket, from, format(&reply, c.wrap, 1, now)) // a lost answer: the client asks again
}

// welcome makes the session of a client that echoes a cookie.
func (l *udpListener) welcome(from netip.AddrPort, c *controlPacket) *session {
	if !l.echoes(from, &c.Control) {
		l.ep.control.add(dropCookie)
		return nil
	}
	s := l.begin(from, c, l.ep.server.opts.Limits)
	if s != nil {
		s.resume(c.Remote)
	}
	return s
}

// begin makes the session of a client whose first packet has come, where there
// is room for one within limits.
func (l *udpListener) begin(from netip.AddrPort, c *controlPacket, limits Limits) *session {
	ep := l.ep
	if !ep.server.halfOpen.enter(from.Addr(), limits) {
		ep.control.add(dropHalfOpen)
		return nil
	}
	link, err := newUDPLink(l.socket, from, &ep.plane.drops)
	if err == nil {
		s := newSession(ep, udpTransport{link}, false, from, c)
		s.listener, s.udp = l, link
		l.mu.Lock()
		l.byControl[udpOrigin{from, c.Session}] = s
		l.mu.Unlock()
		if err = ep.open(s); err == nil {
			return s
		}
		l.forget(s)
	}
	ep.server.halfOpen.leave(from.Addr())
	return nil
}

// echoes reports whether a packet is what follows the stateless exchange of
// resets, and no later packet of a session that is gone or has moved.
func (l *udpListener) echoes(from netip.AddrPort, c *wire.Control) bool {
	if c.KeyID != 0 || len(c.Acks) == 0 || c.Opcode != wire.AckV1 && (c.Opcode != wire.ControlV1 || c.PacketID > 1) {
		return false
	}
	for _, id := range c.Acks {
		if id > 1 {
			return false
		}
	}
	return l.ep.server.cookies.check(time.Now(), c.Remote, l.socket.local(), from, c.Session)
}

// data implements datagramHandler.
func (l *udpListener) data(from netip.AddrPort, peerID uint32, packets [][]byte) {
	found, ok := l.ep.byPeerID.Load(peerID)
	if !ok {
		l.ep.plane.drops.add(reasonNoClient, len(packets))
		return
	}
	s := found.(*session)
	c := s.client.Load()
	if c == nil || s.listener != l {
		l.ep.plane.drops.add(reasonNoClient, len(packets))
		return
	}
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	// Only an authentic packet that was not seen before may move a session.
	if c.receive(packets) > 0 && from != s.udp.remote() {
		l.move(s, from)
	}
}

// move follows a client to another address.
func (l *udpListener) move(s *session, to netip.AddrPort) {
	now := time.Now()
	l.mu.Lock()
	s.mu.Lock()
	was, id := s.addr, s.identity
	other := l.byAddr[to]
	allowed := s.phase == phaseEstablished && now.Sub(s.moved) >= minMove && was != to
	if allowed && other != nil && other != s {
		s.mu.Unlock()
		other.mu.Lock()
		allowed = other.identity != nil && other.identity.same(id)
		other.mu.Unlock()
		s.mu.Lock()
		allowed = allowed && s.phase == phaseEstablished
	}
	if !allowed || s.udp.move(to) != nil {
		s.mu.Unlock()
		l.mu.Unlock()
		l.ep.control.add(dropMove)
		return
	}
	s.addr, s.moved = to, now
	delete(l.byControl, udpOrigin{was, s.remote})
	l.byControl[udpOrigin{to, s.remote}] = s
	if l.byAddr[was] == s {
		delete(l.byAddr, was)
	}
	l.byAddr[to] = s
	s.mu.Unlock()
	l.mu.Unlock()
	l.ep.log.Info("client moved", "session", s.id, "from", was.String(), "to", to.String())
	if other != nil && other != s {
		other.end(ending{reason: "the client has connected anew"})
	}
}

// settle notes the address of an established session. A session that was there
// before is that of the same client before it started anew.
func (l *udpListener) settle(s *session) {
	l.mu.Lock()
	at := s.address()
	before := l.byAddr[at]
	l.byAddr[at] = s
	l.mu.Unlock()
	if before != nil && before != s {
		before.end(ending{reason: "the client has connected anew"})
	}
}

// forget drops what leads to a session.
func (l *udpListener) forget(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := s.address()
	if origin := (udpOrigin{at, s.remote}); l.byControl[origin] == s {
		delete(l.byControl, origin)
	}
	if l.byAddr[at] == s {
		delete(l.byAddr, at)
	}
}
