package ike

import (
	"fmt"
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
	// crossing is how long after one IKE SA was set up the other end may have begun
	// one that crosses it: it may have to repeat its first message, and gives that up
	// after attemptGrace when it has an IKE SA.
	crossing = 15 * time.Second
	// contactDelay is how much later than we the peer may have authenticated an IKE
	// SA, or it us: as long as a message may take with repetitions.
	contactDelay = 200 * time.Second
	// attemptGrace is how long an attempt of ours may go without an answer beside
	// an IKE SA that stands.
	attemptGrace = 10 * time.Second
	// replacedGrace is how long the end that has not begun the better one of two IKE
	// SAs leaves it to the other to end the worse. That one knows when it has all
	// children: our answers may have to be repeated.
	replacedGrace = 30 * time.Second
	// messageGrace is how long an initiator of IKEv1 leaves what a new one replaces:
	// the last message of a quick mode, which is not answered, may be overtaken.
	messageGrace = 5 * time.Second
	// flightGrace is how long any initiator leaves what a new IKE SA replaces: for
	// packets of its SAs that are under way, or wait in the peer's queues.
	flightGrace = 2 * time.Second
)

// connection is one configured connection: it keeps IKE SAs with the peer up
// where it initiates, and sees to it that there is one. All of it is under
// Server.mu.
type connection struct {
	s        *Server
	cfg      *sa.Connection
	removed  bool // configured no more; the peers are ending
	released bool // and its Discard policies are removed

	peers    []*peer // that have found out they are this connection's, oldest first
	failures int     // in a row, for the delay
	retry    *time.Timer
	retryAt  time.Time // zero: none is planned
	recheck  *time.Timer
	failure  *Failure
	unproven *rate.Limiter // of what initiators say that are not authenticated
	inquiry  inquiry

	discards []ipsec.PolicyID // held in policyTable; under Server.apply
}

// startLocked begins an IKE SA with the peer.
func (c *connection) startLocked() {
	c.stopRetry()
	if c.s.phase != running || c.removed {
		return
	}
	p := c.s.newPeer(time.Now())
	p.conn, p.live, p.v1, p.cfg = c, true, c.cfg.IKEv1(), c.cfg
	c.peers = append(c.peers, p)
	c.s.peers[p] = true
	cfg := c.cfg
	c.s.peerGroup.Go(func() {
		var m machine
		var actions []sa.Action
		c.s.guard(func() {
			if p.v1 {
				m, actions = sa.InitiateV1(p.born, &p.env, cfg)
			} else {
				m, actions = sa.Initiate(p.born, &p.env, cfg)
			}
		})
		if m == nil {
			p.leave()
			return
		}
		p.run(m, actions)
	})
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
	var live, up, orphans []*peer
	for _, p := range c.peers {
		switch {
		case p.terminating:
		case p.live && p.up.at.IsZero():
			live = append(live, p)
		case p.live:
			live, up = append(live, p), append(up, p)
		case p.outdated:
			orphans = append(orphans, p) // children without an IKE SA, of IKEv1
		}
	}
	if slices.ContainsFunc(up, func(p *peer) bool { return p.childrenUp > 0 && !p.outdated }) {
		c.failures = 0
	}
	attempt := len(live) > len(up)
	served := slices.ContainsFunc(up, func(p *peer) bool { return !p.outdated })
	if !attempt && !served && c.cfg.Initiate && c.retry == nil {
		c.startIn(retryDelay(c.failures))
		c.failures++
	}
	if len(up) == 0 {
		return
	}
	if served {
		c.stopRetry()
	}
	c.keepBest(now, append(live, orphans...))
}

// best returns the peer whose IKE SA serves the connection, or nil.
func (c *connection) best() *peer {
	var best *peer
	for _, p := range c.peers {
		if p.live && !p.terminating && !p.up.at.IsZero() && (best == nil || p.isBetter(best)) {
			best = p
		}
	}
	return best
}

// isBetter reports whether a peer's IKE SA is to be kept rather than another one of
// the same connection.
func (p *peer) isBetter(o *peer) bool {
	if p.outdated != o.outdated {
		return o.outdated
	}
	return p.up.supersedes(o.up)
}

// keepBest ends the other IKE SAs once the best one is known to be complete at
// both ends, by a sign of life that is later than both. If it gives none, it
// ends itself. An attempt of ours that the peer has answered is left to its
// end, since the peer may take it for established already.
func (c *connection) keepBest(now time.Time, all []*peer) {
	best := c.best()
	if c.recheck != nil {
		c.recheck.Stop()
		c.recheck = nil
	}
	recheckIn := func(wait time.Duration) {
		if c.recheck == nil {
			c.recheck = time.AfterFunc(wait, best.in.wake)
		}
	}
	grace := replacedGrace
	switch {
	case best.up.initiator && best.v1:
		grace = messageGrace
	case best.up.initiator:
		grace = flightGrace
	}
	patience := grace - now.Sub(best.settled)
	for _, p := range all {
		switch {
		case p == best:
		case p.up.at.IsZero():
			wait := attemptGrace - now.Sub(best.up.at)
			switch {
			case p.answered, p.born.After(best.up.at): // it is to replace what stands
			case wait > 0:
				recheckIn(wait)
			default:
				p.terminateLocked(sa.ReasonIKEReplaced)
			}
		case best.up.toldAlone(p.up):
			p.terminateLocked(sa.ReasonIKEReplaced)
		case best.outlived(p) && patience > 0:
			recheckIn(patience)
		case best.outlived(p):
			p.terminateLocked(sa.ReasonIKEReplaced)
		case best.probed.Before(p.up.at) || best.probed.Before(best.up.at):
			best.probed = now
			best.in.command(sa.Probe{})
		}
	}
}

// outlived reports whether a peer's IKE SA is known to be alive since another
// one was there beside it, with as many children, or where these are of another
// configuration, with all.
func (p *peer) outlived(o *peer) bool {
	children := max(o.childrenUp, 1)
	if o.outdated && !p.outdated {
		children = len(p.conn.cfg.Children)
	}
	return p.lastSeen.After(p.up.at) && p.lastSeen.After(o.up.at) && p.childrenUp >= children
}

// supersedes reports whether an IKE SA is to be kept rather than another one
// of the same connection. The later one is, make before break. But when each
// end began one, they may have crossed, and each end may have seen the other's
// later: then the one counts that alone carried INITIAL_CONTACT, for which the
// peer may have dropped the other, and else the one with the lower SPI of its
// initiator. So both ends choose the same. When it was no crossing, because one
// end has lost the older one, that choice may be wrong: the liveness check in
// keepBest then tells.
func (a contact) supersedes(b contact) bool {
	if a.crossed(b) {
		if a.initialContact != b.initialContact {
			return a.initialContact
		}
		return a.spi < b.spi
	}
	return a.at.After(b.at)
}

// crossed reports whether each end began one of two IKE SAs, and the later one
// before it had the other, as far as that can be told.
func (a contact) crossed(b contact) bool {
	if a.initiator == b.initiator {
		return false
	}
	if a.at.After(b.at) {
		a, b = b, a
	}
	return b.begun.Sub(a.at) < crossing
}

// toldAlone reports whether the peer has said, with an IKE SA that it began
// later, that it knows nothing of another one (RFC 7296, section 2.4).
func (a contact) toldAlone(b contact) bool {
	return a.initialContact && !a.initiator && a.at.After(b.at) &&
		(!b.initiator || a.at.Sub(b.at) >= contactDelay)
}

// firstContact reports whether an IKE_AUTH request of ours carries
// INITIAL_CONTACT: there is no other IKE SA of the connection. So the peer
// forgets those that it still has from before we lost them.
func (s *Server) firstContact(name string, p *peer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[name]
	return c != nil &&
		!slices.ContainsFunc(c.peers, func(o *peer) bool { return o != p && o.live })
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
	case unproven(e):
		return c.noteUnproven(e.Diagnosis, time.Now())
	}
	return c.noteFailure(e.Diagnosis, time.Now()), true
}

// eventNames are what the log calls events.
var eventNames = map[sa.EventKind]string{
	sa.IKEUp: "IKE SA up", sa.IKERekeyed: "IKE SA rekeyed", sa.IKEDown: "IKE SA down",
	sa.ChildUp: "CHILD_SA up", sa.ChildRekeyed: "CHILD_SA rekeyed", sa.ChildDown: "CHILD_SA down",
	sa.PeerMoved: "peer moved", sa.Failed: "negotiation failed",
}

func spiString(spi uint64) string { return fmt.Sprintf("%016x", spi) }

func (s *Server) logEvent(e sa.Event) {
	args := []any{"connection", e.Connection, "local", e.Local.String(), "peer", e.Remote.String()}
	switch e.Kind {
	case sa.IKEUp, sa.IKERekeyed, sa.IKEDown, sa.PeerMoved:
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
