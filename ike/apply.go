package ike

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// Apply makes the connections exactly these. It may be called before Run and
// at any time in it, and does not wait for peers.
//
// A connection that is the same as before is not touched. A new one gets a
// Discard policy under each pair of selectors of its children, so that nothing
// passes in the clear while a tunnel is down, and begins its negotiation where
// it initiates. One that is no longer there is ended with a DELETE, and
// everything of it removed. Of a changed one go on what sa.EffectOf leaves, and
// the rest until its successors have taken over (see follow); where addresses
// changed, or no IKE SA stands, it is negotiated at once.
//
// One connection's failure does not hinder the others; the errors are joined.
// A connection that is refused stays as it was.
func (s *Server) Apply(conns []sa.Connection) error {
	s.apply.Lock()
	defer s.apply.Unlock()
	s.mu.Lock()
	ended := s.phase == stopping || s.phase == stopped
	s.mu.Unlock()
	if ended {
		return ErrStopped
	}
	want, errs := s.wanted(conns)
	s.reserve(want)
	errs = append(errs, s.applyPolicies(want)...)
	for _, c := range s.applyConnections(want) {
		errs = append(errs, s.retire(c))
	}
	return errors.Join(errs...)
}

// wanted returns copies of the valid connections by name. In the place of an
// invalid one stands what was applied before, if anything. That keeps its
// ReqIDs, so that it may in turn be in the way of another one.
func (s *Server) wanted(conns []sa.Connection) (map[string]*sa.Connection, []error) {
	next := make([]*sa.Connection, len(conns))
	refused := make([]error, len(conns))
	names := map[string]bool{}
	for i := range conns {
		c := cloneConnection(&conns[i])
		next[i], refused[i] = c, c.Validate()
		if refused[i] == nil && names[c.Name] {
			refused[i] = errors.New("there are two of that name")
		}
		names[c.Name] = names[c.Name] || refused[i] == nil
	}
	for {
		want, ok := s.assign(next, refused)
		if !ok {
			continue
		}
		var errs []error
		for i, err := range refused {
			if err != nil {
				errs = append(errs, fmt.Errorf("connection %q: %w", next[i].Name, err))
			}
		}
		return want, errs
	}
}

// assign gives each connection its ReqIDs: first those that stay because their
// next version is refused, then the others in their order. It refuses the first
// one whose ReqIDs are taken, and reports whether there was none.
func (s *Server) assign(next []*sa.Connection, refused []error) (want map[string]*sa.Connection, ok bool) {
	want = make(map[string]*sa.Connection, len(next))
	owners := map[uint32]string{}
	claim := func(c *sa.Connection) {
		want[c.Name] = c
		for _, child := range c.Children {
			owners[child.ReqID] = c.Name
		}
	}
	valid := map[string]bool{}
	for i, c := range next {
		valid[c.Name] = valid[c.Name] || refused[i] == nil
	}
	for _, c := range next {
		if old := s.applied(c.Name); old != nil && !valid[c.Name] {
			claim(old)
		}
	}
	for i, c := range next {
		if refused[i] != nil {
			continue
		}
		for _, child := range c.Children {
			if child.ReqID >= firstMade {
				refused[i] = fmt.Errorf("child %q: reqid %d is kept for children made from templates", child.Name, child.ReqID)
				return nil, false
			}
			if other, taken := owners[child.ReqID]; taken {
				refused[i] = fmt.Errorf("child %q: reqid %d is that of connection %q, too", child.Name, child.ReqID, other)
				return nil, false
			}
		}
		claim(c)
	}
	return want, true
}

func (s *Server) applied(name string) *sa.Connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.conns[name]; c != nil {
		return c.cfg
	}
	return nil
}

func cloneConnection(c *sa.Connection) *sa.Connection {
	d := *c
	d.Local, d.Remote = c.Local.Unmap(), c.Remote.Unmap()
	d.PSK, d.GM = slices.Clone(c.PSK), c.GM.Clone()
	if c.PPK != nil {
		ppk := *c.PPK
		ppk.Key = slices.Clone(ppk.Key)
		d.PPK = &ppk
	}
	d.Proposals = cloneProposals(c.Proposals)
	d.Children = slices.Clone(c.Children)
	d.Reservation.Flows = slices.Clone(c.Reservation.Flows)
	d.RedirectTo = slices.Clone(c.RedirectTo)
	for i := range d.Children {
		child := &d.Children[i]
		child.Proposals = cloneProposals(child.Proposals)
		child.Local, child.Remote = slices.Clone(child.Local), slices.Clone(child.Remote)
	}
	return &d
}

func cloneProposals(list []ipsec.Proposal) []ipsec.Proposal {
	list = slices.Clone(list)
	for i := range list {
		list[i].SPI, list[i].Transforms = slices.Clone(list[i].SPI), slices.Clone(list[i].Transforms)
	}
	return list
}

// discards returns the policies under all that a connection protects.
func discards(c *sa.Connection) map[ipsec.PolicyID]bool {
	ids := map[ipsec.PolicyID]bool{}
	for _, child := range c.Children {
		for _, local := range child.Local {
			for _, remote := range child.Remote {
				if local.Start.BitLen() != remote.Start.BitLen() {
					continue
				}
				for _, direction := range []ipsec.Direction{ipsec.Out, ipsec.In} {
					ids[ipsec.PolicyID{
						Direction: direction, Local: local, Remote: remote,
						Priority: ipsec.PriorityDiscard, IfID: child.IfID,
					}] = true
				}
			}
		}
	}
	return ids
}

// reserve makes peers that choose their traffic leave alone what connections are
// for, those that have some of it already among them.
func (s *Server) reserve(want map[string]*sa.Connection) {
	var list []reservation
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if r := want[name].Reservation; len(r.Flows) > 0 {
			list = append(list, reservation{name, r})
		}
	}
	for owner, refused := range s.policies.reserve(list) {
		if p, ok := owner.(*peer); ok {
			for _, r := range refused {
				p.in.command(r)
			}
		}
	}
}

// applyPolicies adds the Discard policies of new and changed connections, and
// then removes those of selectors that are no longer there.
func (s *Server) applyPolicies(want map[string]*sa.Connection) []error {
	s.mu.Lock()
	for name, cfg := range want {
		if s.conns[name] == nil {
			s.conns[name] = &connection{s: s, cfg: &sa.Connection{Name: name, Local: cfg.Local}}
		}
	}
	conns := maps.Clone(s.conns)
	s.mu.Unlock()
	var errs []error
	for name, c := range conns {
		cfg := want[name]
		if cfg == nil {
			continue // its policies go when its SAs are gone
		}
		ids := discards(cfg)
		var held []ipsec.PolicyID
		for id := range ids {
			if err := s.policies.add(c, "", ipsec.Policy{PolicyID: id, Action: ipsec.Discard}); err != nil {
				errs = append(errs, fmt.Errorf("connection %q: %w", name, err))
				continue
			}
			held = append(held, id)
		}
		for _, id := range c.discards {
			if !ids[id] {
				if err := s.policies.remove(c, id); err != nil {
					errs = append(errs, fmt.Errorf("connection %q: %w", name, err))
				}
			}
		}
		c.discards = held
	}
	return errs
}

// retire wipes the key of a connection that is gone, and removes the policies
// under it.
func (s *Server) retire(c *connection) error {
	s.steps.Lock()
	c.cfg.Wipe()
	s.steps.Unlock()
	if _, err := s.policies.release(c); err != nil {
		return fmt.Errorf("connection %q: %w", c.cfg.Name, err)
	}
	return nil
}

// applyConnections compares the wanted connections with those at work. It
// returns the removed ones that have no IKE SA to end.
func (s *Server) applyConnections(want map[string]*sa.Connection) (gone []*connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*sa.Connection
	for _, name := range slices.Sorted(maps.Keys(want)) {
		list = append(list, want[name])
	}
	s.directory.Store(newDirectory(list))
	for name, c := range s.conns {
		if want[name] == nil {
			c.removeLocked()
			if c.isGone() {
				gone = append(gone, c)
			}
		}
	}
	clear(s.byReqID)
	now := time.Now()
	for name, cfg := range want {
		c := s.conns[name]
		for _, child := range cfg.Children {
			s.byReqID[child.ReqID] = c
		}
		if !reflect.DeepEqual(c.cfg, cfg) {
			c.change(cfg, now)
		}
	}
	if s.phase == running {
		s.startNewLocked()
	}
	return gone
}

// removeLocked ends a connection that is no longer configured. Its Discard
// policies stay until its peers have removed their SAs.
func (c *connection) removeLocked() {
	delete(c.s.conns, c.cfg.Name)
	c.removed = true
	c.stopRetry()
	for _, p := range c.peers {
		p.terminateLocked(sa.ReasonConfigModify)
	}
}

// isGone reports, once, that nothing of a removed connection is left but its
// Discard policies.
func (c *connection) isGone() bool {
	if !c.removed || c.released || slices.ContainsFunc(c.peers, func(p *peer) bool { return p.rival.Live() }) {
		return false
	}
	c.released = true
	return true
}

// startNewLocked begins the negotiation of connections that have none, nor a
// time set for one, spread a little.
func (s *Server) startNewLocked() {
	var idle []*connection
	for _, c := range s.conns {
		if c.cfg.Initiate && len(c.peers) == 0 && c.retry == nil {
			idle = append(idle, c)
		}
	}
	spread := min(time.Duration(len(idle))*startSpread, startSpreadMax)
	for _, c := range idle {
		c.startIn(rand.N(spread))
	}
}

// ErrUnknownConnection is returned by Reset.
var ErrUnknownConnection = errors.New("no such connection")

// Reset ends the IKE SAs of a connection with a DELETE, forgets how often it
// failed, and negotiates at once where the connection initiates.
func (s *Server) Reset(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[name]
	if c == nil {
		return fmt.Errorf("connection %q: %w", name, ErrUnknownConnection)
	}
	if s.phase != running {
		return ErrStopped
	}
	for _, p := range c.peers {
		p.terminateLocked(sa.ReasonConfigModify)
	}
	c.failures = 0
	c.stopRetry()
	if c.cfg.Initiate {
		c.startLocked()
	}
	return nil
}
