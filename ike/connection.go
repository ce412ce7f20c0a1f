package ike

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

const (
	// firstRetry and lastRetry bound the delay before a connection that failed
	// or was lost is negotiated again. It doubles with each failure in a row.
	firstRetry = time.Second
	lastRetry  = time.Minute
	// startSpread is what the first negotiation of each connection adds to the
	// time over which those of all are spread at the start, up to startSpreadMax.
	startSpread    = 5 * time.Millisecond
	startSpreadMax = 2 * time.Second
)

// connection is one configured connection: it keeps IKE SAs with the peer up
// where it initiates, and sees to it that there is one. All of it is under
// Server.mu.
type connection struct {
	s        *Server
	cfg      *sa.Connection
	removed  bool // configured no more; the peers are ending
	released bool // and its Discard policies are removed

	peers     []*peer // that have found out they are this connection's, oldest first
	failures  int     // in a row, for the delay
	retry     *time.Timer
	retryAt   time.Time // zero: none is planned
	recheck   *time.Timer
	failure   *Failure
	unproven  *rate.Limiter // of what initiators say that are not authenticated
	inquiry   inquiry
	redirects []time.Time // that were followed, within sa.RedirectPeriod
	passage   passage

	discards []ipsec.PolicyID // held in policyTable; under Server.apply
}

// startLocked begins an IKE SA with the peer.
func (c *connection) startLocked() { c.startAtLocked(sa.Redirected{}) }

// startAtLocked is startLocked with the gateway that another one has sent us to.
func (c *connection) startAtLocked(at sa.Redirected) {
	c.stopRetry()
	if c.s.phase != running || c.removed {
		return
	}
	if _, away := c.s.redirectionOf(c.cfg.Local); away {
		return
	}
	p := c.s.newPeer(time.Now())
	p.conn, p.v1, p.cfg = c, c.cfg.IKEv1(), c.cfg
	p.rival.Begin(p.born)
	c.peers = append(c.peers, p)
	c.s.peers[p] = true
	cfg := c.cfg
	c.s.peerGroup.Add(1)
	go func() {
		var m machine
		var actions []sa.Action
		c.s.guard(func() {
			if p.v1 {
				m, actions = sa.InitiateV1(p.born, &p.env, cfg)
			} else {
				m, actions = sa.InitiateAt(p.born, &p.env, cfg, at)
			}
		})
		if m == nil {
			p.leave()
			return
		}
		p.run(m, actions)
	}()
}

// startIn plans the next negotiation.
func (c *connection) startIn(delay time.Duration) {
	c.stopRetry()
	c.retryAt = time.Now().Add(delay)
	var timer *time.Timer
	timer = time.AfterFunc(delay, func() {
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		if c.retry == timer {
			c.startLocked()
		}
	})
	c.retry = timer
}

func (c *connection) stopRetry() {
	if c.retry != nil {
		c.retry.Stop()
		c.retry, c.retryAt = nil, time.Time{}
	}
}

// retryDelay returns how long to wait after n failures in a row, spread over a
// fifth.
func retryDelay(n int) time.Duration {
	delay := lastRetry
	if n < 6 {
		delay = min(firstRetry<<n, lastRetry)
	}
	return delay - time.Duration(rand.Int64N(int64(delay)/5))
}

// review is called after each step of one of the connection's peers. It
// negotiates anew when none is left, and ends all IKE SAs but one.
func (c *connection) review(now time.Time) {
	if c.removed || c.s.phase != running {
		return
	}
	all := c.rivals()
	if all.Carrying() {
		c.failures = 0
	}
	serving := all.Serving()
	if !serving && !all.Attempting() && c.cfg.Initiate && c.retry == nil {
		c.startIn(retryDelay(c.failures))
		c.failures++
	}
	if serving {
		c.stopRetry()
	}
	c.obey(all.Review(now, len(c.cfg.Children)), now)
}

// obey does what a review of the peers asks for.
func (c *connection) obey(v sa.Review, now time.Time) {
	if c.recheck != nil {
		c.recheck.Stop()
		c.recheck = nil
	}
	for _, p := range c.peers {
		if slices.Contains(v.End, &p.rival) {
			p.in.command(sa.Terminate{Reason: sa.ReasonIKEReplaced})
		}
		if slices.Contains(v.Probe, &p.rival) {
			p.in.command(sa.Probe{})
		}
	}
	if v.Begin && c.cfg.Remote.IsValid() {
		c.startAtLocked(v.At)
	}
	if best := c.best(); best != nil && !v.Again.IsZero() {
		c.recheck = time.AfterFunc(v.Again.Sub(now), best.in.wake)
	}
}

// rivals returns what the peers are to each other.
func (c *connection) rivals() sa.Rivals {
	all := make(sa.Rivals, len(c.peers))
	for i, p := range c.peers {
		all[i] = &p.rival
	}
	return all
}

// best returns the peer whose IKE SA serves the connection, or nil.
func (c *connection) best() *peer {
	best := c.rivals().Best()
	i := slices.IndexFunc(c.peers, func(p *peer) bool { return &p.rival == best })
	if i < 0 {
		return nil
	}
	return c.peers[i]
}

// firstContact reports whether an IKE_AUTH request of ours carries
// INITIAL_CONTACT: there is no other IKE SA of the connection. So the peer
// forgets those that it still has from before we lost them. While the data plane
// has SAs of the process before, the peer keeps its ends of them: they carry
// traffic until they are replaced.
func (s *Server) firstContact(name string, p *peer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[name]
	return c != nil && c.rivals().Alone(&p.rival) &&
		!slices.ContainsFunc(c.cfg.Children, func(child sa.Child) bool { return s.inherited[child.ReqID] })
}

// emit notes what an event says about its connection, logs it, and hands it
// on unless the reader is too slow.
func (s *Server) emit(e sa.Event) {
	s.refine(&e)
	s.hand(e)
}

func (s *Server) hand(e sa.Event) {
	if e.Diagnosis != nil {
		s.failures.add(string(e.Diagnosis.Code()), 1)
	}
	log, tell := s.note(&e)
	if log {
		s.logEvent(e)
	}
	if !tell {
		s.drops.add(dropUntold, 1)
		return
	}
	select {
	case s.events <- e:
	default:
		s.drops.add(dropEventLost, 1)
	}
}

// note returns whether to log an event and whether to hand it on.
func (s *Server) note(e *sa.Event) (log, tell bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[e.Connection]
	switch {
	case c == nil && e.Kind == sa.Failed:
		ok := s.notices.allow(e.Remote.Addr())
		return ok, ok
	case c == nil || e.Diagnosis == nil:
		return true, true
	case unproven(e) && e.Reason == sa.ReasonExchangeTimeout && c.rivals().Serving():
		return false, false // it crossed ours, or the peer has begun anew since
	case unproven(e):
		return c.noteUnproven(e.Diagnosis, time.Now())
	}
	return c.noteFailure(e.Diagnosis, time.Now()), true
}

// eventNames are what the log calls events.
var eventNames = map[sa.EventKind]string{
	sa.IKEUp: "IKE SA up", sa.IKERekeyed: "IKE SA rekeyed", sa.IKEDown: "IKE SA down",
	sa.ChildUp: "CHILD_SA up", sa.ChildRekeyed: "CHILD_SA rekeyed", sa.ChildDown: "CHILD_SA down",
	sa.PeerMoved: "peer moved", sa.PeerRedirected: "peer sent to another gateway", sa.RedirectedByPeer: "sent to another gateway", sa.Failed: "negotiation failed",
}

func spiString(spi uint64) string { return fmt.Sprintf("%016x", spi) }

func (s *Server) logEvent(e sa.Event) {
	level := slog.LevelInfo
	if e.Diagnosis != nil {
		level = slog.LevelWarn
	}
	if !s.log.Enabled(context.Background(), level) {
		return
	}
	args := []any{"connection", e.Connection, "local", e.Local.String(), "peer", e.Remote.String()}
	switch e.Kind {
	case sa.IKEUp, sa.IKERekeyed, sa.IKEDown, sa.PeerMoved, sa.PeerRedirected, sa.RedirectedByPeer:
		args = append(args, "ike", spiString(e.InitiatorSPI), "ike_r", spiString(e.ResponderSPI))
	case sa.ChildUp, sa.ChildRekeyed, sa.ChildDown:
		args = append(args, "child", e.Child, "in", e.In.String(), "out", e.Out.String())
	case sa.Failed:
	}
	switch e.Kind {
	case sa.IKEUp, sa.IKERekeyed:
		args = append(args, "version", e.Version, "proposal", e.Proposal.String())
		if e.Variant != "" {
			args = append(args, "gm", "peer uses "+e.Variant)
		}
	case sa.ChildUp, sa.ChildRekeyed:
		args = append(args, "proposal", e.Proposal.String(), "local_ts", ipsec.SelectorList(e.LocalTS), "remote_ts", ipsec.SelectorList(e.RemoteTS))
	case sa.PeerRedirected, sa.RedirectedByPeer:
		args = append(args, "gateway", e.Gateway)
	case sa.IKEDown, sa.ChildDown, sa.PeerMoved, sa.Failed:
	}
	if e.Reason != "" {
		args = append(args, "reason", string(e.Reason))
	}
	if e.Diagnosis == nil {
		s.log.Info(eventNames[e.Kind], args...)
		return
	}
	s.log.Warn(eventNames[e.Kind], append(args, "diagnosis", e.Diagnosis.String())...)
}

// directory is the connections by address, as Apply has left them.
type directory struct {
	byPair  map[[2]netip.Addr][]*sa.Connection // local, remote
	anyPeer map[netip.Addr][]*sa.Connection    // local; the remote address is not known
}

func newDirectory(conns []*sa.Connection) *directory {
	d := &directory{byPair: map[[2]netip.Addr][]*sa.Connection{}, anyPeer: map[netip.Addr][]*sa.Connection{}}
	for _, c := range conns {
		if c.Remote.IsValid() {
			pair := [2]netip.Addr{c.Local, c.Remote}
			d.byPair[pair] = append(d.byPair[pair], c)
		} else {
			d.anyPeer[c.Local] = append(d.anyPeer[c.Local], c)
		}
	}
	return d
}

// exact returns the connections with that very remote address.
func (d *directory) exact(local, remote netip.Addr) []*sa.Connection {
	return d.byPair[[2]netip.Addr{local.Unmap(), remote.Unmap()}]
}

// speaksV1 reports whether a candidate is of IKEv1.
func (d *directory) speaksV1(local, remote netip.Addr) bool {
	return slices.ContainsFunc(d.candidates(local, remote), (*sa.Connection).IKEv1)
}

// candidates implements sa.Env.Candidates.
func (d *directory) candidates(local, remote netip.Addr) []*sa.Connection {
	return slices.Concat(d.exact(local, remote), d.anyPeer[local.Unmap()])
}
