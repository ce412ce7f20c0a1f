package ike

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// machine is one peer's side of the key exchange: of IKEv2 an *sa.Machine, of
// IKEv1 an *sa.MachineV1.
type machine interface {
	Handle(now time.Time, d sa.Datagram) []sa.Action
	Do(now time.Time, c sa.Command) []sa.Action
	Timeout(now time.Time) []sa.Action
	Deadline() time.Time
	Pending() bool
	Done() bool
	SPIs() []uint64
	Connection() string
	Configuration() *sa.Connection
	Status() sa.Status
	Describe(*sa.Status)
	Drops() map[string]uint64
}

// peer is what is around one machine. At most one goroutine at a time works for it:
// none while it is idle.
type peer struct {
	s    *Server
	env  sa.Env
	born time.Time
	in   mailbox
	v1   bool // it speaks IKEv1
	asks bool // its machine is an sa.Inquiry

	// status is as of the last step. It is nil while the peer rests: nothing changes
	// the machine then, so that who wants to know asks it.
	statusMu sync.Mutex
	status   *sa.Status // guarded by statusMu

	// Of the goroutine that works alone.
	machine machine
	proven  bool              // the IKE SA is authenticated
	timer   *time.Timer       // wakes it when something is due; nil: nothing was yet
	sas     []ipsec.SAID      // in the Backend
	spis    []uint64          // as registered
	counted map[string]uint64 // drops of the machine that are counted already
	handed  bool              // its SA is another peer's now: see handover

	// Of responders, until the peer is gone.
	init initKey

	// Under Server.mu.
	conn     *connection // nil until a responder knows it
	halfOpen netip.Addr  // while the peer counts as half-open, else zero
	rival    sa.Rival    // among the peers of the connection
	// cfg is the configuration that the IKE SA was negotiated for. When it is outdated,
	// end ends the IKE SA with the life it had.
	cfg     *sa.Connection
	end     *time.Timer
	closing bool // it takes no more commands
}

func (s *Server) newPeer(now time.Time) *peer {
	p := &peer{s: s, env: sa.Env{Host: &s.host}, born: now, status: &unborn}
	p.in = newMailbox(p.work)
	p.env.InitialContact = func(c *sa.Connection) bool {
		return p.s.firstContact(c.Name, p)
	}
	p.env.Handover = func(c *sa.Connection, isakmp *sa.ISAKMPSA) bool {
		p.handed = p.s.handover(c.Name, p, isakmp)
		return p.handed
	}
	return p
}

// unborn is the status of a peer whose machine is being made.
var unborn sa.Status

// current returns how the machine stood after its last step.
func (p *peer) current() sa.Status {
	p.statusMu.Lock()
	defer p.statusMu.Unlock()
	if p.status == nil {
		return p.machine.Status()
	}
	status := *p.status // its memory is used again
	status.IKE, status.Children = slices.Clone(status.IKE), slices.Clone(status.Children)
	return status
}

// show makes known how the machine stands, to which the goroutine that works is held
// until it shows the next step. It returns the status, which is good until then.
func (p *peer) show() *sa.Status {
	status := p.s.statuses.Get().(*sa.Status)
	p.machine.Describe(status)
	p.proven = !status.Contact.At.IsZero()
	p.statusMu.Lock()
	defer p.statusMu.Unlock()
	p.s.reuse(p.status)
	p.status = status
	return status
}

// stir has the goroutine change the machine from now on.
func (p *peer) stir() {
	p.statusMu.Lock()
	defer p.statusMu.Unlock()
	if p.status == nil {
		p.status = p.s.statuses.Get().(*sa.Status)
		p.machine.Describe(p.status)
	}
}

// rest ends the goroutine's work, unless the peer was woken since it took what waits.
func (p *peer) rest() (ok bool) {
	p.statusMu.Lock()
	defer p.statusMu.Unlock()
	if ok = p.in.rest(); ok {
		p.s.reuse(p.status)
		p.status = nil
	}
	return ok
}

// reuse keeps the memory of a status that nobody sees any more.
func (s *Server) reuse(status *sa.Status) {
	if status != nil && status != &unborn {
		clear(status.IKE)
		clear(status.Children)
		s.statuses.Put(status)
	}
}

// guard runs one step of a machine, and reports whether it came to its end. A
// panic in it is a bug of ours that a peer may have provoked: the step is
// dropped, counted and logged.
func (s *Server) guard(step func()) (ok bool) {
	s.steps.RLock()
	defer s.steps.RUnlock()
	defer func() {
		if r := recover(); r != nil {
			ok = false
			s.drops.add(dropPanic, 1)
			s.log.Error("internal error in a step of the key exchange", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
		}
	}()
	step()
	return true
}

// run begins the peer's life, which ends with the machine or with the Server.
func (p *peer) run(m machine, actions []sa.Action) {
	p.machine = m
	p.settle(actions)
	p.work()
}

// work does what waits in the mailbox and what is due, until nothing is left: then
// the goroutine that it runs on ends, and the mailbox or the timer starts another one.
func (p *peer) work() {
	p.stir()
	for p.goesOn() {
		p.setTimer()
		if p.rest() {
			return
		}
		commands, datagrams := p.in.take()
		for _, c := range commands {
			p.obey(c)
		}
		for _, d := range datagrams {
			p.step(func(now time.Time) []sa.Action { return p.machine.Handle(now, d) })
		}
		switch deadline := p.deadline(); {
		case !deadline.IsZero() && !time.Now().Before(deadline):
			if !p.timeout() {
				p.leave()
				return
			}
		case len(commands)+len(datagrams) == 0:
			p.publish()
		}
	}
	p.leave()
}

// goesOn reports whether there may be more to do.
func (p *peer) goesOn() bool {
	select {
	case <-p.s.quit:
		return false
	default:
		return !p.machine.Done() || p.wanted()
	}
}

// timeout has the machine do what is due. It reports whether the peer goes on.
func (p *peer) timeout() bool {
	if !p.step(p.machine.Timeout) {
		return false // it would be due at once again
	}
	if !p.overdue() {
		return true
	}
	p.s.log.Debug("half-open IKE SA given up", "age", time.Since(p.born))
	p.step(func(now time.Time) []sa.Action {
		return p.machine.Do(now, sa.Terminate{Reason: sa.ReasonExchangeTimeout})
	})
	return false
}

// setTimer has the peer woken when something is due. What is due already is so in
// a nanosecond: a timer that is set to the past in a synctest bubble runs at once, on
// the race detector's state of the bubble, which two goroutines must not use together.
func (p *peer) setTimer() {
	deadline := p.deadline()
	if deadline.IsZero() {
		p.stopTimer()
		return
	}
	wait := max(time.Until(deadline), time.Nanosecond)
	if p.timer == nil {
		p.timer = time.AfterFunc(wait, p.in.wake)
		return
	}
	p.timer.Reset(wait)
}

func (p *peer) stopTimer() {
	if p.timer != nil {
		p.timer.Stop()
	}
}

// wanted reports whether a peer whose machine is done has been given something
// to go on with. If not, it takes nothing more.
func (p *peer) wanted() bool {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.closing = !p.in.adopts()
	return !p.closing
}

// handover gives an ISAKMP SA that a responder has authenticated to the peer that
// serves the connection already, if there is one. In IKEv1 all SAs of a
// connection are one machine's: the children do not belong to an ISAKMP SA.
func (s *Server) handover(name string, from *peer, isakmp *sa.ISAKMPSA) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[name]
	if c == nil || s.phase != running {
		return false
	}
	for _, p := range c.peers {
		if p != from && p.v1 && !p.rival.Ending && !p.closing && !p.rival.Outdated {
			s.bySPI[isakmp.SPI()] = p
			p.in.command(sa.Adopt{SA: isakmp})
			return true
		}
	}
	return false
}

// deadline is when the machine, or its end while half-open, is due.
func (p *peer) deadline() time.Time {
	deadline := p.machine.Deadline()
	if limit := p.halfOpenLimit(); !limit.IsZero() && (deadline.IsZero() || limit.Before(deadline)) {
		return limit
	}
	return deadline
}

// halfOpenLimit is when a responder that is not authenticated ends.
func (p *peer) halfOpenLimit() time.Time {
	if p.init == (initKey{}) || p.proven {
		return time.Time{}
	}
	return p.born.Add(p.s.opts.Limits.HalfOpenTimeout)
}

func (p *peer) overdue() bool {
	limit := p.halfOpenLimit()
	return !limit.IsZero() && !time.Now().Before(limit)
}

// obey has the machine do what a command asks for.
func (p *peer) obey(c sa.Command) {
	if a, ok := c.(awaited); ok {
		defer close(a.done)
		c = a.Command
	}
	p.step(func(now time.Time) []sa.Action { return p.machine.Do(now, c) })
}

// step lets the machine do something and performs what comes of it. It reports
// whether the machine came through.
func (p *peer) step(do func(now time.Time) []sa.Action) (ok bool) {
	var actions []sa.Action
	ok = p.s.guard(func() { actions = do(time.Now()) })
	p.settle(actions)
	return ok
}

// maxRefusals bounds how often the machine may answer a refusal of the Backend
// with actions that are refused again.
const maxRefusals = 8

// settle performs actions, tells the machine what the Backend refused, and
// publishes how the peer stands then.
func (p *peer) settle(actions []sa.Action) {
	p.performAll(actions)
	for p.machine.Pending() {
		p.appear()
		actions = nil
		if !p.s.guard(func() { actions = p.machine.Timeout(time.Now()) }) {
			break
		}
		p.performAll(actions)
	}
	p.publish()
}

// performAll performs actions, and those with which the machine answers what the
// Backend refused.
func (p *peer) performAll(actions []sa.Action) {
	p.register()
	p.giveWay(actions)
	refused := p.perform(actions)
	for n := 0; len(refused) > 0 && n < maxRefusals; n++ {
		actions = nil
		for _, c := range refused {
			p.s.guard(func() { actions = append(actions, p.machine.Do(time.Now(), c)...) })
		}
		p.register()
		refused = p.perform(actions)
	}
}

// perform does what the machine asks for, in its order, and returns what the
// Backend refused.
func (p *peer) perform(actions []sa.Action) (refused []sa.Command) {
	backend := p.s.opts.Backend
	for _, a := range actions {
		var err error
		var refusal sa.Refused
		switch a := a.(type) {
		case sa.Send:
			if err := p.s.opts.Transport.SendIKE(a.Local, a.Remote, a.Datagram); err != nil {
				p.s.drops.add(dropSendFailed, 1)
				p.s.log.Debug("sending failed", "local", a.Local.String(), "peer", a.Remote.String(), "error", err)
			}
		case sa.AddSA:
			refusal.SA = a.SA.ID()
			if err = backend.AddSA(a.SA); err == nil {
				p.sas = append(p.sas, a.SA.ID())
				p.s.claimSA(a.SA.ID(), p)
				p.s.succeed(&a.SA)
				p.passageOf(func(t *passage) {
					t.standing = append(t.standing, standingSA{id: a.SA.ID(), outbound: a.SA.Direction == ipsec.Out})
				})
			}
			clear(a.SA.EncryptionKey) // the Backend has copies
			clear(a.SA.IntegrityKey)
		case sa.UpdateSA:
			refusal.SA = ipsec.SAID{Dst: a.To.Dst, SPI: a.ID.SPI}
			err = p.moveSA(a.ID, a.To)
		case sa.DeleteSA:
			p.deleteSA(a.ID)
		case sa.AddPolicy:
			refusal.Policy = a.Policy.PolicyID
			err = p.s.policies.add(p, p.s.claimant(p.machine), a.Policy)
		case sa.DeletePolicy:
			if err := p.s.policies.remove(p, a.ID); err != nil {
				p.s.log.Error("the data plane keeps a policy", "error", err)
			}
		case sa.Replace:
			p.s.mu.Lock()
			p.rival.ReplaceAt(time.Now(), a.At)
			p.s.mu.Unlock()
		case sa.Emit:
			p.emit(a.Event)
		}
		if err != nil {
			if errors.Is(err, sa.ErrFlowConflict) {
				p.s.log.Info("refused", "connection", p.machine.Connection(), "error", err)
			} else {
				p.s.log.Error("refused by the data plane", "error", err)
			}
			refusal.Err = err
			refused = append(refused, refusal)
		}
	}
	return refused
}

// claimant returns that of a machine's connection.
func (s *Server) claimant(m machine) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.conns[m.Connection()]; c != nil {
		return c.cfg.Claimant
	}
	return ""
}

// moveSA moves an SA to new outer addresses. One that cannot go there is of no
// use where it was, and is removed.
func (p *peer) moveSA(id ipsec.SAID, to ipsec.SAUpdate) error {
	if !slices.Contains(p.sas, id) {
		return nil // its AddSA was refused
	}
	if err := p.s.opts.Backend.UpdateSA(id, to); err != nil {
		p.deleteSA(id)
		return err
	}
	moved := ipsec.SAID{Dst: to.Dst, SPI: id.SPI}
	p.forgetSA(id)
	p.passageOf(func(t *passage) {
		if i := t.find(id); i >= 0 {
			t.standing[i].id = moved
		}
	})
	p.sas = append(p.sas, moved)
	p.s.claimSA(moved, p)
	return nil
}

// deleteSA removes an SA that is the peer's own. An outbound SPI is the remote
// end's choice: one whose AddSA or UpdateSA was refused may be the name of an SA
// of another peer at the same address.
func (p *peer) deleteSA(id ipsec.SAID) {
	if !slices.Contains(p.sas, id) {
		return
	}
	// Nothing is sent on it any more: this is what it passed.
	final := p.s.counters(id)
	if err := p.s.opts.Backend.DeleteSA(id); err != nil && !errors.Is(err, ipsec.ErrNotFound) {
		p.s.log.Error("the data plane keeps an SA", "sa", id.String(), "error", err)
	}
	p.passageOf(func(t *passage) {
		t.see(id, &final)
		t.end(id)
	})
	p.forgetSA(id)
}

func (p *peer) forgetSA(id ipsec.SAID) {
	p.sas = slices.DeleteFunc(p.sas, func(own ipsec.SAID) bool { return own == id })
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.s.bySA[id] == p {
		delete(p.s.bySA, id)
	}
}

func (s *Server) claimSA(id ipsec.SAID, p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bySA[id] = p
}

// emit hands an event on.
func (p *peer) emit(e sa.Event) {
	if p.asks {
		p.s.found(e)
		return
	}
	p.s.emit(e)
}

// register makes the machine's SPIs lead here. It comes before the actions:
// the answer to one of them may be quick.
func (p *peer) register() {
	spis := p.machine.SPIs()
	if slices.Equal(spis, p.spis) {
		return
	}
	s := p.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, spi := range p.spis {
		if !slices.Contains(spis, spi) && s.bySPI[spi] == p {
			delete(s.bySPI, spi)
		}
	}
	for _, spi := range spis {
		s.bySPI[spi] = p
	}
	p.spis = spis
}

// appear shows a responder's IKE SA to the others of its connection before the remote
// end has the answer: it may end one of them then. See giveWay.
func (p *peer) appear() {
	name := p.machine.Connection()
	if p.v1 || p.conn != nil || name == "" {
		return
	}
	status := p.show()
	if !p.proven {
		return
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.rival.Observe(status)
	p.bindLocked(name)
}

// publish makes the peer's state known to the others after a step.
func (p *peer) publish() {
	m := p.machine
	status := p.show()
	drops := m.Drops()
	for reason, n := range drops {
		if more := n - p.counted[reason]; more > 0 {
			p.s.drops.add(reason, more)
		}
	}
	p.counted = drops
	s := p.s
	s.mu.Lock()
	p.rival.Observe(status)
	if p.rival.Up() { // one that failed stays half-open until it is gone
		p.vacateLocked()
	}
	if name := m.Connection(); p.conn == nil && name != "" && p.rival.Up() {
		p.bindLocked(name)
	}
	if p.conn != nil {
		p.conn.review(time.Now())
	}
	s.afterLocked(p.conn)
}

// afterLocked ends a change to one of a connection's peers: it unlocks, and
// does what such a change may make due.
func (s *Server) afterLocked(c *connection) {
	s.checkIdleLocked()
	gone := c != nil && c.isGone()
	s.mu.Unlock()
	if gone {
		if err := s.retire(c); err != nil {
			s.log.Error("the data plane keeps policies", "error", err)
		}
	}
}

// bindLocked makes a responder, which has learned whom it speaks to, one of
// its connection's peers.
func (p *peer) bindLocked(name string) {
	c := p.s.conns[name]
	if c == nil {
		p.terminateLocked(sa.ReasonConfigModify)
		return
	}
	p.conn = c
	c.peers = append(c.peers, p)
	p.cfg = p.machine.Configuration()
	if p.cfg != c.cfg {
		c.follow(p, p.cfg, time.Now())
	}
	if to, ok := p.redirectionLocked(); ok { // since its IKE_AUTH
		p.in.command(sa.Redirect{To: to})
	}
}

// terminateLocked ends the peer with a DELETE, once.
func (p *peer) terminateLocked(reason sa.Reason) {
	if !p.rival.Ending {
		p.rival.Ending = true
		p.in.command(sa.Terminate{Reason: reason})
	}
}

// leave removes all traces of the peer, whose work is over.
func (p *peer) leave() {
	s := p.s
	defer s.peerGroup.Done()
	p.stopTimer()
	if p.handed {
		// What has come for the SA meanwhile is for its new owner.
		_, late := p.in.take()
		for _, d := range late {
			s.Deliver(d.Local, d.Remote, d.Bytes)
		}
	}
	for _, id := range slices.Clone(p.sas) {
		p.deleteSA(id)
	}
	if _, err := s.policies.release(p); err != nil {
		s.log.Error("the data plane keeps policies", "error", err)
	}
	s.mu.Lock()
	for _, spi := range p.spis {
		if s.bySPI[spi] == p {
			delete(s.bySPI, spi)
		}
	}
	if s.byInit[p.init] == p {
		delete(s.byInit, p.init)
	}
	p.vacateLocked()
	p.stopEnd()
	delete(s.peers, p)
	p.rival.Leave()
	if c := p.conn; c != nil {
		c.peers = slices.DeleteFunc(c.peers, func(o *peer) bool { return o == p })
		c.review(time.Now())
	}
	s.afterLocked(p.conn)
}
