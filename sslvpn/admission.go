package sslvpn

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// Limits bound what clients cost before they are authenticated.
type Limits struct {
	// HalfOpenTotal and HalfOpenAddress are how many clients may be on their way
	// to the verdict about their login, in all and from one address (of IPv6: one
	// /64).
	HalfOpenTotal, HalfOpenAddress int
	// FirstPacketTimeout is how long a TCP connection may take for its first
	// packet, HandshakeTimeout how long any negotiation of keys may take.
	FirstPacketTimeout, HandshakeTimeout time.Duration
	// Handshakes is how many TLS handshakes and PasswordChecks how many password
	// hashes may be computed at once. All others wait.
	Handshakes, PasswordChecks int
	// ResetsPerSecond is how many answers to first packets on UDP, which anybody
	// can send in somebody else's name, an endpoint gives.
	ResetsPerSecond int
}

// unproven are the limits of clients that have not shown that they are where
// their first packet says. It can be said again in anybody's name, so they have no
// more than half of all places: the others are for those who have shown it.
func (l Limits) unproven() Limits {
	l.HalfOpenTotal = max(l.HalfOpenTotal/2, 1)
	return l
}

// halfOpen counts clients that are not authenticated.
type halfOpen struct {
	mu     sync.Mutex
	total  int
	byAddr map[netip.Addr]int
}

func newHalfOpen() halfOpen { return halfOpen{byAddr: map[netip.Addr]int{}} }

func (h *halfOpen) enter(from netip.Addr, l Limits) bool {
	from = prefix64(from)
	h.mu.Lock()
	defer h.mu.Unlock()
	// An address may take half of what is left, so that a few of them cannot
	// keep all others out.
	if left := l.HalfOpenTotal - h.total; left <= 0 || h.byAddr[from] >= min(l.HalfOpenAddress, left/2+1) {
		return false
	}
	h.total++
	h.byAddr[from]++
	return true
}

func (h *halfOpen) leave(from netip.Addr) {
	from = prefix64(from)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.total--
	if h.byAddr[from]--; h.byAddr[from] == 0 {
		delete(h.byAddr, from)
	}
}

// open takes in a session that is counted as half-open already. It fails when
// the endpoint is on its way out.
func (ep *endpoint) open(s *session) error {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if ep.closed {
		return errSessionEnded
	}
	ep.opening[s] = true
	return nil
}

// silence is how long a session's client says nothing before another login of
// its user may take its place: two pings.
const silence = 2*pingInterval + 5*time.Second

// admit gives an authenticated client its place: an address, a peer id, its
// count. A refusal says what is in the way.
func (ep *endpoint) admit(s *session, id *identity, info *wire.PeerInfo) (*client, error) {
	if other := ep.replaced(id); other != nil {
		other.end(ending{
			reason:  "the user has logged in from elsewhere",
			message: wire.HaltClient("the user has logged in from elsewhere"),
		})
	}
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if ep.closed || !ep.opening[s] {
		return nil, errSessionEnded
	}
	cfg := ep.config()
	if n := cfg.MaxSessions; n > 0 && len(ep.sessions) >= n {
		return nil, refuseForNow(failedSessions, info, "all connections of the server are in use")
	}
	if n := cfg.MaxSessionsPerUser; n > 0 && ep.perUser[id.name] >= n {
		return nil, refuseForNow(failedUserLimit, info, "the user has as many connections as one may have")
	}
	address, err := cfg.staticIP(id), error(nil)
	if address.IsValid() {
		err = ep.pool.acquireStatic(id.name, address)
	} else {
		address, err = ep.pool.acquire(id.name)
	}
	if err != nil {
		return nil, refuseForNow(failedAddress, info, err.Error())
	}
	c := newClient(ep.peerIDLocked(), address, s.link)
	c.name = id.name
	c.address6 = addressNumber(ep.pool.beside(cfg.Pool6, address))
	delete(ep.opening, s)
	ep.server.halfOpen.leave(s.from)
	ep.sessions[s] = c
	ep.byPeerID.Store(c.id, s)
	ep.perUser[id.name]++
	return c, nil
}

// refuseForNow is a refusal after which the client may try again.
func refuseForNow(why loginFailure, info *wire.PeerInfo, reason string) *refusal {
	if info.Proto.Has(wire.ProtoAuthTemp) {
		return &refusal{why: why, message: wire.RefuseForNow(15, reason), reason: reason}
	}
	return &refusal{why: why, message: wire.RefuseLogin(reason), reason: reason}
}

// replaced returns the session that has to make way for another login of its
// user: one with the user's own address, or else, where the user has no
// connection left, one whose client has gone silent.
func (ep *endpoint) replaced(id *identity) *session {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	cfg, now := ep.config(), time.Now()
	static := cfg.staticIP(id)
	full := cfg.MaxSessionsPerUser > 0 && ep.perUser[id.name] >= cfg.MaxSessionsPerUser
	if !full && !static.IsValid() {
		return nil
	}
	for s, c := range ep.sessions {
		switch {
		case c.name != id.name:
		case static.IsValid() && c.virtualIP == static:
			return s
		case full && !c.lastReceived().IsZero() && now.Sub(c.lastReceived()) > silence:
			return s
		}
	}
	return nil
}

// peerIDLocked returns a peer id that no session has. An id is used again as
// late as can be, so that a stray packet meets no stranger's session.
func (ep *endpoint) peerIDLocked() uint32 {
	for {
		ep.lastPeerID = (ep.lastPeerID + 1) % wire.UndefinedPeerID
		if _, taken := ep.byPeerID.Load(ep.lastPeerID); !taken {
			return ep.lastPeerID
		}
	}
}

// attach starts the traffic of an established session. It fails when the
// session has ended meanwhile.
func (ep *endpoint) attach(s *session, c *client) error {
	ep.mu.Lock()
	err := errSessionEnded
	if ep.sessions[s] == c {
		err = ep.plane.attach(c)
	}
	ep.mu.Unlock()
	if err != nil {
		return err
	}
	if s.listener != nil {
		s.listener.settle(s)
	}
	s.review()
	return nil
}

// leave takes a session's place back.
func (ep *endpoint) leave(s *session) {
	ep.mu.Lock()
	c := ep.sessions[s]
	delete(ep.sessions, s) // so that nobody attaches it any more
	if c != nil {
		in, out := c.traffic()
		ep.logins.in.add(in)
		ep.logins.out.add(out)
	}
	if ep.opening[s] {
		delete(ep.opening, s)
		ep.server.halfOpen.leave(s.from)
	}
	ep.mu.Unlock()
	if c == nil {
		return
	}
	ep.plane.detach(c) // before the address can be another's
	ep.mu.Lock()
	defer ep.mu.Unlock()
	ep.byPeerID.Delete(c.id)
	ep.pool.release(c.virtualIP)
	if ep.perUser[c.name]--; ep.perUser[c.name] == 0 {
		delete(ep.perUser, c.name)
	}
}

// review holds an established session against the settings of now: it ends
// when they do not allow it, and reaches what they say.
func (s *session) review() {
	s.mu.Lock()
	id, c := s.identity, s.client.Load()
	if s.phase != phaseEstablished || id == nil || c == nil {
		s.mu.Unlock()
		return // it comes here itself when it is established
	}
	cfg := s.ep.config()
	reason, message := cfg.outdated(id, c.virtualIP)
	if cfg.revokedKeys[s.key] {
		reason, message = "the key of its profile was revoked", wire.HaltClient("the profile was revoked")
	}
	if reason == "" {
		c.allow(cfg.accessOf(id))
	}
	s.mu.Unlock()
	if reason != "" {
		s.end(ending{reason: reason, message: message})
	}
}

// These end a connection without an answer.
var (
	errNotOpenVPN = errors.New("not the first packet of an OpenVPN client")
	errRevoked    = errors.New("the key of the profile was revoked")
)
