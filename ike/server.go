package ike

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// Transport sends IKE datagrams. It may be called by several goroutines and
// must not block for long. A datagram to or from port 4500 gets the non-ESP
// marker in front, except for the single octet 0xFF, a NAT keepalive
// (RFC 3948, section 2.3).
type Transport interface {
	SendIKE(local, remote netip.AddrPort, datagram []byte) error
}

// Options are what a Server works with. Transport and Backend are needed.
type Options struct {
	Transport Transport
	Backend   ipsec.Backend
	Logger    *slog.Logger // nil: no log

	// KeyLog is handed the keys of all SAs, for a packet analyser. It is called
	// by several goroutines. It is for an explicit debug switch only.
	KeyLog func(sa.Keys)

	// Retransmit is the rhythm of requests; zero: the default of package sa.
	Retransmit sa.Retransmit
	// Limits bound what peers cost that are not authenticated; zero fields
	// have the value of DefaultLimits.
	Limits Limits
	// StopTimeout is how long Run waits for peers to confirm that their SAs
	// are gone; zero: 5 s.
	StopTimeout time.Duration
}

const (
	defaultStopTimeout = 5 * time.Second
	eventBuffer        = 1024
)

// Server runs the IKE SAs of all connections. Its methods may be called by
// several goroutines.
type Server struct {
	opts      Options
	log       *slog.Logger
	host      sa.Host   // of all machines
	statuses  sync.Pool // of *sa.Status, for peers that work
	policies  policyTable
	drops     dropCounter
	failures  dropCounter // by cause
	cookies   cookieJar
	events    chan sa.Event
	admitted  chan admission // IKE_SA_INIT requests that wait for a worker
	quit      chan struct{}  // closed: peers end now
	peerGroup sync.WaitGroup // of peers that have not left
	// answers and notices bound what unauthenticated datagrams make us send
	// and tell.
	answers *rate.Limiter
	notices *quota
	// proofs bounds what certificates of such peers cost.
	proofs *quota
	// strangers bounds what cookies for addresses that no connection names cost.
	strangers *rate.Limiter
	// displacements bounds what a flood of IKEv1 costs beyond the limits.
	displacements *rate.Limiter

	// directory is what Candidates looks connections up in.
	directory atomic.Pointer[directory]

	// redirection is where initiators are sent; nil: nowhere.
	redirection atomic.Pointer[Redirection]

	apply sync.Mutex // held by Apply from end to end

	made atomic.Uint32 // ReqIDs given to children that are made from templates

	// steps is held for reading by each step of a machine, and for writing to
	// wipe a key. A step asks the directory anew for whom it may authenticate:
	// so once the directory lacks a connection, and the steps of that time are
	// over, only the connection's own peers know its key.
	steps sync.RWMutex

	mu      sync.Mutex
	phase   phase
	conns   map[string]*connection
	byReqID map[uint32]*connection
	// inherited are the ReqIDs of SAs that a process before this one has left in
	// the Backend, until they have a successor.
	inherited map[uint32]bool
	peers     map[*peer]bool
	bySPI     map[uint64]*peer  // by our SPI
	byInit    map[initKey]*peer // by IKE_SA_INIT request; nil while it waits for a worker
	bySA      map[ipsec.SAID]*peer
	open      halfOpen // of IKEv2
	openV1    halfOpen
	// mainModes are the peers that are half-open in main mode of IKEv1, by countedAs,
	// oldest first.
	mainModes map[netip.Addr][]*peer
	idle      chan struct{} // non-nil when stopping: closed when no peer is live
}

// phase is where a Server is in its life.
type phase uint8

const (
	created phase = iota
	running
	stopping
	stopped
)

// NewServer returns a Server, which does nothing until Run.
func NewServer(opts Options) *Server {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.StopTimeout == 0 {
		opts.StopTimeout = defaultStopTimeout
	}
	opts.Limits = opts.Limits.withDefaults()
	s := &Server{
		opts:          opts,
		log:           opts.Logger,
		policies:      policyTable{backend: opts.Backend},
		drops:         dropCounter{counts: map[string]uint64{}},
		failures:      dropCounter{counts: map[string]uint64{}},
		events:        make(chan sa.Event, eventBuffer),
		admitted:      make(chan admission, opts.Limits.WaitingRequests),
		quit:          make(chan struct{}),
		answers:       rate.NewLimiter(10, 20),
		notices:       newNotices(),
		proofs:        newProofs(),
		strangers:     rate.NewLimiter(strangerRate, strangerRate/10),
		displacements: rate.NewLimiter(displacementRate, displacementRate/4),
		conns:         map[string]*connection{},
		byReqID:       map[uint32]*connection{},
		peers:         map[*peer]bool{},
		bySPI:         map[uint64]*peer{},
		byInit:        map[initKey]*peer{},
		bySA:          map[ipsec.SAID]*peer{},
		open:          halfOpen{byAddr: map[netip.Addr]int{}},
		openV1:        halfOpen{byAddr: map[netip.Addr]int{}},
		mainModes:     map[netip.Addr][]*peer{},
	}
	s.made.Store(mathrand.Uint32()) // SAs of the process before may still have theirs
	s.directory.Store(&directory{})
	s.statuses.New = func() any { return &sa.Status{} }
	s.host = sa.Host{
		Rand:       rand.Reader,
		AllocSPI:   opts.Backend.AllocSPI,
		AllocReqID: s.allocReqID,
		QuerySA:    opts.Backend.QuerySA,
		Candidates: func(local, remote netip.Addr) []*sa.Connection { return s.directory.Load().candidates(local, remote) },
		Redirect:   s.redirectionOf,
		KeyLog:     opts.KeyLog,
		Retransmit: opts.Retransmit,
	}
	s.host.FollowRedirect, s.host.AllowProof, s.host.InquireChild = s.followRedirect, s.allowProof, s.inquireChild
	return s
}

// firstMade is the first ReqID of children that are made from templates.
const firstMade = 1 << 31

// allocReqID implements sa.Env.AllocReqID. Two thousand million later it begins anew.
func (s *Server) allocReqID() uint32 { return s.made.Add(1) | firstMade }

// ErrStopped is returned by calls to a Server whose Run has ended.
var ErrStopped = errors.New("the IKE server has stopped")

// Run sets connections up and keeps them until ctx is done. Then it tells
// every peer with a DELETE, waits a bounded time for the answers, and removes
// all of its SAs and policies from the Backend. A Server runs once.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.phase != created {
		s.mu.Unlock()
		return errors.New("an IKE server runs only once")
	}
	s.phase = running
	s.inheritLocked()
	s.startNewLocked()
	s.mu.Unlock()

	var workers sync.WaitGroup
	workCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	for range s.opts.Limits.Workers {
		workers.Go(func() { s.admitAll(workCtx) })
	}
	workers.Go(func() { s.watchBackend(workCtx) })

	<-ctx.Done()
	err := s.stop()
	cancel()
	workers.Wait()
	return err
}

// inheritLocked notes which SAs a process before this one has left in the Backend,
// where they carry traffic until they are replaced.
func (s *Server) inheritLocked() {
	s.inherited = map[uint32]bool{}
	inventory, err := s.opts.Backend.List()
	if err != nil {
		s.log.Warn("SAs of the process before are not known", "error", err)
		return
	}
	for _, sa := range inventory.SAs {
		s.inherited[sa.ReqID] = true
	}
}

// succeed notes that an SA carries the traffic of what a process before has left.
func (s *Server) succeed(sa *ipsec.SA) {
	if sa.Direction != ipsec.Out {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.inherited, sa.ReqID)
}

// stop ends all peers: in good order while the time lasts, then by force.
func (s *Server) stop() error {
	s.mu.Lock()
	s.phase = stopping
	s.idle = make(chan struct{})
	idle := s.idle
	for _, c := range s.conns {
		c.stopRetry()
	}
	for p := range s.peers {
		p.terminateLocked(sa.ReasonConfigModify)
	}
	s.checkIdleLocked()
	s.mu.Unlock()

	timeout := time.NewTimer(s.opts.StopTimeout)
	defer timeout.Stop()
	select {
	case <-idle:
	case <-timeout.C:
		s.log.Warn("stopped without an answer of every peer", "waited", s.opts.StopTimeout)
	}
	s.mu.Lock()
	s.phase = stopped
	close(s.quit)
	for p := range s.peers {
		p.in.wake()
	}
	s.mu.Unlock()
	s.peerGroup.Wait()
	if err := s.policies.removeAll(); err != nil {
		return fmt.Errorf("remove policies: %w", err)
	}
	return nil
}

// checkIdleLocked ends the wait of stop when no peer has an IKE SA any more.
func (s *Server) checkIdleLocked() {
	if s.idle == nil {
		return
	}
	for p := range s.peers {
		if p.rival.Live() {
			return
		}
	}
	close(s.idle)
	s.idle = nil
}

// watchBackend passes the Backend's reports on to the peers that they concern.
func (s *Server) watchBackend(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-s.opts.Backend.Events():
			s.report(e)
		}
	}
}

func (s *Server) report(e ipsec.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.bySA[e.SA]
	switch e.Kind {
	case ipsec.EventAcquire:
		// Without an IKE SA there is nothing to hurry: the connection is being
		// retried, or it is the peer's turn.
		if c := s.byReqID[e.ReqID]; c != nil {
			if p = c.best(); p != nil {
				p.in.command(sa.Acquire{ReqID: e.ReqID})
			}
		}
	case ipsec.EventSoftExpire, ipsec.EventHardExpire:
		if p != nil {
			p.in.command(sa.Expired{ID: e.SA, Hard: e.Kind == ipsec.EventHardExpire})
		}
	case ipsec.EventMoved:
		if p != nil {
			p.in.command(sa.Moved{ID: e.SA, From: e.From})
		}
	}
}

// Events returns the channel of what happens to connections. It is one channel
// for the Server's life, which is not closed. When its reader is slow, events
// are lost and counted in DropCounts: Snapshot has the truth.
func (s *Server) Events() <-chan sa.Event { return s.events }

// FailureCounts returns how many negotiations have failed, and SAs ended by a
// fault, by cause, since the Server was made. Causes are a closed set.
func (s *Server) FailureCounts() map[string]uint64 { return s.failures.snapshot() }

// DropCounts returns how many datagrams and events were dropped, by reason,
// since the Server was made.
func (s *Server) DropCounts() map[string]uint64 { return s.drops.snapshot() }
