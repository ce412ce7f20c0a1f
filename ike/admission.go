package ike

import (
	"bytes"
	"context"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ike/wire"
)

// Limits bound what initiators cost before they are authenticated (RFC 8019).
// An IKE SA is half-open from its IKE_SA_INIT request to its IKE_AUTH.
type Limits struct {
	// CookieTotal and CookieAddress are how many half-open IKE SAs, in all and
	// from one address, or one /64 of IPv6, make an initiator prove its address with a cookie.
	CookieTotal, CookieAddress int
	// HalfOpenTotal and HalfOpenAddress are how many half-open IKE SAs there
	// may be, in all and from one address that has proved itself.
	HalfOpenTotal, HalfOpenAddress int
	// HalfOpenV1Total and HalfOpenV1Address are the same for IKEv1, which has no
	// cookie that keeps state away from forged addresses. They are counted apart,
	// so that a flood of IKEv1 does not hinder IKEv2.
	HalfOpenV1Total, HalfOpenV1Address int
	// HalfOpenTimeout is how long an IKE SA may be half-open.
	HalfOpenTimeout time.Duration
	// Workers is how many IKE_SA_INIT requests are answered at once, which is
	// what costs a key exchange, and WaitingRequests how many may wait.
	Workers, WaitingRequests int
}

// DefaultLimits returns the limits that hold where Options has none.
func DefaultLimits() Limits {
	return Limits{
		CookieTotal: 30, CookieAddress: 3,
		HalfOpenTotal: 4096, HalfOpenAddress: 512, HalfOpenTimeout: 30 * time.Second,
		HalfOpenV1Total: 1024, HalfOpenV1Address: 128,
		Workers: runtime.GOMAXPROCS(0), WaitingRequests: 256,
	}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	set := func(v *int, to int) {
		if *v <= 0 {
			*v = to
		}
	}
	set(&l.CookieTotal, d.CookieTotal)
	set(&l.CookieAddress, d.CookieAddress)
	set(&l.HalfOpenTotal, d.HalfOpenTotal)
	set(&l.HalfOpenAddress, d.HalfOpenAddress)
	set(&l.HalfOpenV1Total, d.HalfOpenV1Total)
	set(&l.HalfOpenV1Address, d.HalfOpenV1Address)
	set(&l.Workers, d.Workers)
	set(&l.WaitingRequests, d.WaitingRequests)
	if l.HalfOpenTimeout <= 0 {
		l.HalfOpenTimeout = d.HalfOpenTimeout
	}
	return l
}

// refusalHold is how long a request that was refused counts as half-open, so
// that refusals, which are reported, do not come cheaper than SAs.
const refusalHold = 2 * time.Second

// Bounds of an IKE_SA_INIT request, far above what any known peer sends. A large
// offer is compared with the proposals of each candidate, which may cost more
// than a key exchange: it takes a cookie in any case.
const (
	maxInitRequest = 8192 // octets
	largeOffer     = 256  // transforms in all
)

// offerSize returns the number of transforms in an IKE_SA_INIT request.
func offerSize(m *wire.Message) int {
	n := 0
	if offer, ok := wire.Find[*wire.SA](m); ok {
		for _, p := range offer.Proposals {
			n += len(p.Transforms)
		}
	}
	return n
}

// halfOpen counts half-open IKE SAs, those that wait for a worker included.
type halfOpen struct {
	total  int
	byAddr map[netip.Addr]int // by countedAs
}

func (h *halfOpen) enter(from netip.Addr) {
	h.total++
	h.byAddr[countedAs(from)]++
}

func (h *halfOpen) leave(from netip.Addr) {
	h.total--
	from = countedAs(from)
	if h.byAddr[from]--; h.byAddr[from] == 0 {
		delete(h.byAddr, from)
	}
}

// of returns the count of an address.
func (h *halfOpen) of(from netip.Addr) int { return h.byAddr[countedAs(from)] }

// countedAs returns what limits of one address are for: an IPv4 address, or all of a
// /64, since one host can have each address of its link in IPv6.
func countedAs(a netip.Addr) netip.Addr {
	if a.Is6() {
		link, _ := a.WithZone("").Prefix(64) // it has as many bits
		return link.Addr()
	}
	return a
}

// openOf returns the count of half-open IKE SAs of a version.
func (s *Server) openOf(v1 bool) *halfOpen {
	if v1 {
		return &s.openV1
	}
	return &s.open
}

// admission is an IKE_SA_INIT request, or the first message of IKEv1, that a
// worker may answer.
type admission struct {
	key      initKey
	datagram sa.Datagram
	v1       bool
	mainMode bool // of IKEv1
}

// admit decides whether an IKE_SA_INIT request is worth a key exchange. It is
// cheap, and keeps nothing of a request that it does not admit.
func (s *Server) admit(now time.Time, key initKey, d sa.Datagram) {
	from := d.Remote.Addr()
	if len(s.directory.Load().candidates(d.Local.Addr(), from)) == 0 {
		s.drops.add(dropNoConnection, 1)
		s.stranger(d, wire.IKESAInit.String())
		return
	}
	if len(d.Bytes) > maxInitRequest {
		s.drops.add(dropLargeInit, 1)
		return
	}
	m, err := wire.Parse(d.Bytes)
	if err == nil {
		err = m.Check()
	}
	if err != nil {
		s.drops.add(dropMalformed, 1)
		return
	}
	nonce, _ := wire.Find[*wire.Nonce](m) // Check has seen to it
	proven := false
	if c, ok := m.Notify(wire.Cookie); ok {
		proven = s.cookies.check(now, c.Data, from, m.InitiatorSPI, nonce.Data)
	}
	switch s.enter(key, from, proven, offerSize(m) > largeOffer) {
	case askCookie:
		// An answer costs several times what a drop costs: those to strangers
		// must not take the time of the peers that we know.
		if len(s.directory.Load().exact(d.Local.Addr(), from)) == 0 && !s.strangers.Allow() {
			s.drops.add(dropStrangers, 1)
			return
		}
		s.drops.add(dropCookieDue, 1)
		cookie := s.cookies.bake(now, from, m.InitiatorSPI, nonce.Data)
		s.answer(d.Local, d.Remote, &m.Header, &wire.Notify{NotifyType: wire.Cookie, Data: cookie})
		return
	case refuse:
		s.drops.add(dropHalfOpen, 1)
		return
	case accept:
	}
	s.queue(admission{key: key, datagram: d})
}

// admitV1 decides whether the first message of IKEv1 is worth an answer. It
// leaves half of the waiting room to IKEv2.
func (s *Server) admitV1(key initKey, d sa.Datagram) {
	if len(d.Bytes) > maxInitRequest {
		s.drops.add(dropLargeInit, 1)
		return
	}
	h, err := isakmp.ParseHeader(d.Bytes)
	if err != nil {
		s.drops.add(dropMalformed, 1)
		return
	}
	if len(s.admitted) > cap(s.admitted)/2 {
		s.drops.add(dropBusy, 1)
		return
	}
	a := admission{key: key, datagram: d, v1: true, mainMode: h.Exchange == isakmp.IdentityProtection}
	if !s.enterV1(a) {
		s.drops.add(dropHalfOpen, 1)
		return
	}
	s.queue(a)
}

// displacementRate is how many half-open SAs in main mode may give way in a
// second.
const displacementRate = 200

// reservedV1 is how many half-open SAs of IKEv1 an address that a connection names
// may have in any case: a flood from all other addresses, which a connection for
// peers at any address lets in, does not lock it out.
const reservedV1 = 4

// enterV1 counts a first message as half-open when the limits let it in. Whoever
// sends first messages in a peer's name would lock the peer out for as long as
// they stay half-open. So where there is no room in main mode, whose first answer
// costs little, the oldest one of the address gives way: a peer that goes on at
// once is through by then.
func (s *Server) enterV1(a admission) bool {
	l, from := s.opts.Limits, a.datagram.Remote.Addr()
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.byInit[a.key]; known || s.phase != running {
		return false
	}
	crowded := s.openV1.of(from) >= l.HalfOpenV1Address
	full := s.openV1.total >= l.HalfOpenV1Total
	if full && s.openV1.of(from) < reservedV1 && len(s.directory.Load().exact(a.datagram.Local.Addr(), from)) > 0 {
		full = false
	}
	if crowded || full {
		if !a.mainMode || !s.displacements.Allow() { // ahead of the search, which takes its time
			return false
		}
		crowd := countedAs(from)
		if !crowded {
			crowd = s.crowdLocked()
		}
		waiting := s.mainModes[crowd]
		if len(waiting) == 0 {
			return false
		}
		oldest := waiting[0]
		oldest.vacateLocked()
		oldest.terminateLocked(sa.ReasonExchangeTimeout)
		s.drops.add(dropDisplaced, 1)
	}
	s.openV1.enter(from)
	s.byInit[a.key] = nil
	return true
}

// crowdLocked returns the address with most half-open SAs in main mode.
func (s *Server) crowdLocked() (crowd netip.Addr) {
	for addr, waiting := range s.mainModes {
		if len(waiting) > len(s.mainModes[crowd]) {
			crowd = addr
		}
	}
	return crowd
}

// vacateLocked ends the count of a responder as half-open.
func (p *peer) vacateLocked() {
	if !p.halfOpen.IsValid() {
		return
	}
	s := p.s
	s.openOf(p.v1).leave(p.halfOpen)
	address := countedAs(p.halfOpen)
	if list := slices.DeleteFunc(s.mainModes[address], func(o *peer) bool { return o == p }); len(list) > 0 {
		s.mainModes[address] = list
	} else {
		delete(s.mainModes, address)
	}
	p.halfOpen = netip.Addr{}
}

// queue lets a request wait for a worker, if there is room.
func (s *Server) queue(a admission) {
	a.datagram.Bytes = bytes.Clone(a.datagram.Bytes)
	select {
	case s.admitted <- a:
	default:
		s.drops.add(dropBusy, 1)
		s.leave(a)
	}
}

// strangerRate is how many cookies a second go to addresses that no connection
// names.
const strangerRate = 5000

// verdict is what becomes of an IKE_SA_INIT request.
type verdict uint8

const (
	accept verdict = iota
	askCookie
	refuse
)

// enter counts a request as half-open when the limits let it in.
func (s *Server) enter(key initKey, from netip.Addr, proven, large bool) verdict {
	l := s.opts.Limits
	s.mu.Lock()
	defer s.mu.Unlock()
	total, address := s.open.total, s.open.of(from)
	_, known := s.byInit[key]
	switch {
	case known || s.phase != running || total >= l.HalfOpenTotal || address >= l.HalfOpenAddress:
		return refuse
	case !proven && (large || total >= l.CookieTotal || address >= l.CookieAddress):
		return askCookie
	}
	s.open.enter(from)
	s.byInit[key] = nil
	return accept
}

// leave forgets a request that came to nothing.
func (s *Server) leave(a admission) {
	s.forget(a.key)
	s.vacate(a)
}

// forget lets the request be handled as a new one when it comes again.
func (s *Server) forget(key initKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byInit, key)
}

func (s *Server) vacate(a admission) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.openOf(a.v1).leave(a.datagram.Remote.Addr())
}

// admitAll is a worker: it answers one request after the other.
func (s *Server) admitAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-s.admitted:
			s.respond(a)
		}
	}
}

// respond makes the machine for a request, and the peer around it.
func (s *Server) respond(a admission) {
	p := s.newPeer(time.Now())
	p.init, p.halfOpen, p.v1 = a.key, a.datagram.Remote.Addr(), a.v1
	var m machine
	var actions []sa.Action
	var err error
	s.guard(func() { m, actions, err = p.answer(a.datagram) })
	if err != nil {
		s.drops.add(dropRefusedRequest, 1)
		s.log.Debug("first message dropped", "peer", a.datagram.Remote.String(), "error", err)
	}
	if m == nil {
		// Without a machine there is at most an answer and an event.
		p.perform(actions)
		s.forget(a.key)
		time.AfterFunc(refusalHold, func() { s.vacate(a) })
		return
	}
	s.mu.Lock()
	if s.phase != running {
		s.mu.Unlock()
		s.leave(a)
		return
	}
	p.rival.Begin(p.born)
	if a.mainMode {
		s.mainModes[countedAs(p.halfOpen)] = append(s.mainModes[countedAs(p.halfOpen)], p)
	}
	s.peers[p] = true
	s.byInit[a.key] = p
	s.peerGroup.Add(1)
	go p.run(m, actions)
	s.mu.Unlock()
}

// answer makes the machine that answers a first message. Without one the machine
// is nil.
func (p *peer) answer(d sa.Datagram) (machine, []sa.Action, error) {
	if p.v1 {
		m, actions, err := sa.RespondV1(p.born, &p.env, d)
		if m == nil {
			return nil, actions, err
		}
		return m, actions, err
	}
	m, actions, err := sa.Respond(p.born, &p.env, d)
	if m == nil {
		return nil, actions, err
	}
	return m, actions, err
}
