package sslvpn

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/sslvpn/wire"
)

// Options are what a Server works with. VerifyPassword is needed for endpoints
// with AuthPassword.
type Options struct {
	Logger *slog.Logger // nil: no log
	// VerifyPassword reports whether a password has a hash of User. It is called
	// by several goroutines, at most Limits.PasswordChecks at once.
	VerifyPassword func(hash, password string) bool
	// Guard tells whether a local address may be used at this moment, as that of
	// dataplane/udp does: while it may not, nothing is sent from it, and what
	// arrives there is dropped, or on TCP ends the connection. nil: always.
	Guard func(local netip.Addr) bool
	// OpenDevice makes the TUN device of an endpoint; nil: tun.Open.
	OpenDevice func(name string, queues, mtu int) (tun.Device, error)
	// Limits bound what clients cost that are not authenticated; zero fields have
	// the value of DefaultLimits.
	Limits Limits
	// RenegotiateAfter is how long data keys are used before the server asks for
	// others; zero: 8 h; negative: until the cipher's own limits.
	RenegotiateAfter time.Duration
	// TokenKey makes auth-tokens; with the same one another Server takes the place
	// of this one without asking anybody for a password. Zero: a random one.
	TokenKey [32]byte
}

// DefaultLimits returns the limits that hold where Options has none.
func DefaultLimits() Limits {
	cores := runtime.GOMAXPROCS(0)
	return Limits{
		HalfOpenTotal: 4096, HalfOpenAddress: 1024,
		FirstPacketTimeout: 5 * time.Second, HandshakeTimeout: time.Minute,
		Handshakes: 2 * cores, PasswordChecks: cores, ResetsPerSecond: 500,
	}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	setInt := func(v *int, to int) {
		if *v <= 0 {
			*v = to
		}
	}
	setTime := func(v *time.Duration, to time.Duration) {
		if *v <= 0 {
			*v = to
		}
	}
	setInt(&l.HalfOpenTotal, d.HalfOpenTotal)
	setInt(&l.HalfOpenAddress, d.HalfOpenAddress)
	setInt(&l.Handshakes, d.Handshakes)
	setInt(&l.PasswordChecks, d.PasswordChecks)
	setInt(&l.ResetsPerSecond, d.ResetsPerSecond)
	setTime(&l.FirstPacketTimeout, d.FirstPacketTimeout)
	setTime(&l.HandshakeTimeout, d.HandshakeTimeout)
	return l
}

const (
	defaultRenegotiateAfter = 8 * time.Hour
	eventBuffer             = 1024
	// failuresPerSecond bounds the events about clients that nobody knows.
	failuresPerSecond, failuresAtOnce = 10, 100
)

// Server runs endpoints. Its methods may be called by several goroutines.
type Server struct {
	opts     Options
	log      *slog.Logger
	events   chan Event
	lost     controlDrops
	failures *rate.Limiter // of EventAuthFailed

	halfOpen     halfOpen
	shared       halfOpen // connections that are carried to other servers
	throttle     throttle
	tokens       tokenKey
	cookies      *cookieKey
	handshakes   chan struct{} // one element for each running handshake
	checks       chan struct{} // likewise, password checks
	negotiations sync.WaitGroup

	apply sync.Mutex // held by Apply from end to end

	mu        sync.Mutex
	phase     serverPhase
	wanted    Config
	endpoints map[string]*endpoint
	failed    map[string]error // endpoints that could not be started or updated
}

type serverPhase uint8

const (
	serverCreated serverPhase = iota
	serverRunning
	serverStopped
)

// New returns a Server, which does nothing until Run.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.OpenDevice == nil {
		o.OpenDevice = tun.Open
	}
	if o.VerifyPassword == nil {
		o.VerifyPassword = func(string, string) bool { return false }
	}
	if o.RenegotiateAfter == 0 {
		o.RenegotiateAfter = defaultRenegotiateAfter
	}
	o.Limits = o.Limits.withDefaults()
	s := &Server{
		opts: o, log: o.Logger,
		events:     make(chan Event, eventBuffer),
		failures:   rate.NewLimiter(failuresPerSecond, failuresAtOnce),
		halfOpen:   newHalfOpen(),
		shared:     newHalfOpen(),
		cookies:    newCookieKey(),
		handshakes: make(chan struct{}, o.Limits.Handshakes),
		checks:     make(chan struct{}, o.Limits.PasswordChecks),
		endpoints:  map[string]*endpoint{},
		failed:     map[string]error{},
	}
	if s.tokens = o.TokenKey; s.tokens == (tokenKey{}) {
		_, _ = rand.Read(s.tokens[:])
	}
	return s
}

// Run serves what Apply says until ctx is done. Then it tells every client to
// connect again later, and closes all devices. A Server runs once.
func (s *Server) Run(ctx context.Context) error {
	s.apply.Lock()
	s.mu.Lock()
	if s.phase != serverCreated {
		s.mu.Unlock()
		s.apply.Unlock()
		return errors.New("a VPN server runs only once")
	}
	s.phase = serverRunning
	wanted := s.wanted
	s.mu.Unlock()
	_ = s.enforce(wanted) // Snapshot has the errors
	s.apply.Unlock()

	<-ctx.Done()

	s.apply.Lock()
	defer s.apply.Unlock()
	s.mu.Lock()
	s.phase = serverStopped
	s.mu.Unlock()
	err := s.enforce(Config{})
	s.negotiations.Wait()
	return err
}

// ErrStopped is returned by Apply when Run has ended.
var ErrStopped = errors.New("the VPN server has stopped")

// Apply makes a configuration the wanted state. Endpoints that are not in it
// any more end with their sessions; those that are new, or of which an address,
// the device, the cipher, the pool, the authentication method or a key of the
// control channel has changed,
// start anew; all else is changed as they run, and ends only the sessions that
// are not allowed any more. It goes on past an endpoint that fails, joins the
// errors, and tries a failed one again when it is next called. Before Run it
// only keeps the configuration.
func (s *Server) Apply(cfg Config) error {
	s.apply.Lock()
	defer s.apply.Unlock()
	s.mu.Lock()
	phase := s.phase
	if phase != serverStopped {
		s.wanted = cfg
	}
	s.mu.Unlock()
	switch phase {
	case serverStopped:
		return ErrStopped
	case serverCreated:
		var errs []error
		for _, e := range cfg.Endpoints {
			if _, err := newSettings(e); err != nil {
				errs = append(errs, fmt.Errorf("endpoint %s: %w", e.ID, err))
			}
		}
		return errors.Join(errs...)
	default:
		return s.enforce(cfg)
	}
}

// enforce moves what runs to what is wanted. The caller holds apply.
func (s *Server) enforce(cfg Config) error {
	type change struct {
		id  string
		cfg *settings
	}
	failed := map[string]error{}
	var start, update []change
	keep := map[string]bool{}
	running := s.running()
	for _, e := range cfg.Endpoints {
		if keep[e.ID] || failed[e.ID] != nil {
			failed[e.ID] = errors.New("the id is not unique")
			continue
		}
		settings, err := newSettings(e)
		if err != nil {
			failed[e.ID] = err
			keep[e.ID] = running[e.ID] != nil // the last good settings stay in force
			continue
		}
		keep[e.ID] = true
		if ep := running[e.ID]; ep == nil || ep.dead() != nil || !ep.config().alike(settings) {
			start = append(start, change{e.ID, settings})
			keep[e.ID] = false
		} else {
			update = append(update, change{e.ID, settings})
		}
	}
	var stopping sync.WaitGroup
	for id, ep := range running {
		if !keep[id] {
			stopping.Go(func() { ep.close("the server was changed or removed") })
			s.mu.Lock()
			delete(s.endpoints, id)
			s.mu.Unlock()
		}
	}
	stopping.Wait()
	for _, c := range update {
		if err := running[c.id].update(c.cfg); err != nil {
			failed[c.id] = err
		}
	}
	for _, c := range start {
		ep, err := s.startEndpoint(c.cfg)
		if err != nil {
			failed[c.id] = err
			continue
		}
		s.mu.Lock()
		s.endpoints[c.id] = ep
		s.mu.Unlock()
	}
	s.mu.Lock()
	s.failed = failed
	s.mu.Unlock()
	var errs []error
	for _, e := range cfg.Endpoints {
		if err := failed[e.ID]; err != nil {
			errs = append(errs, fmt.Errorf("endpoint %s: %w", e.ID, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Server) running() map[string]*endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	running := make(map[string]*endpoint, len(s.endpoints))
	for id, ep := range s.endpoints {
		running[id] = ep
	}
	return running
}

// alike reports whether settings can take the place of others while the
// endpoint runs.
func (cfg *settings) alike(to *settings) bool {
	return slices.Equal(cfg.TCP, to.TCP) && slices.Equal(cfg.UDP, to.UDP) && cfg.Device == to.Device &&
		cfg.Cipher == to.Cipher && cfg.Compressed == to.Compressed && cfg.Auth == to.Auth && cfg.Pool == to.Pool &&
		cfg.Pool6 == to.Pool6 && cfg.Topology == to.Topology && bytes.Equal(cfg.TLSCryptKey, to.TLSCryptKey) &&
		bytes.Equal(cfg.TLSCryptV2Key, to.TLSCryptV2Key) && cfg.OneTimeCodes == to.OneTimeCodes
}

// Snapshot returns how the endpoints do, ordered by id.
func (s *Server) Snapshot() []EndpointStatus {
	s.mu.Lock()
	failed := make(map[string]error, len(s.failed))
	for id, err := range s.failed {
		failed[id] = err
	}
	s.mu.Unlock()
	running := s.running()
	var all []EndpointStatus
	for id, ep := range running {
		status := ep.snapshot()
		if status.Err == nil {
			status.Err = failed[id]
		}
		delete(failed, id)
		all = append(all, status)
	}
	for id, err := range failed {
		all = append(all, EndpointStatus{ID: id, Err: err})
	}
	slices.SortFunc(all, func(a, b EndpointStatus) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// Disconnect ends a session of an endpoint by the session's id. The client is
// told to connect anew, which it may. It reports whether there was such a
// session.
func (s *Server) Disconnect(endpoint, id string) bool {
	ep := s.running()[endpoint]
	if ep == nil {
		return false
	}
	for _, session := range ep.established() {
		if session.id == id {
			session.end(ending{reason: "disconnected by the operator", message: wire.RestartClient("disconnected by the operator")})
			return true
		}
	}
	return false
}

// Events returns the channel of what happens to sessions. It is one channel for
// the Server's life, which is not closed. When its reader is slow, events are
// lost and counted in LostEvents: Snapshot has the truth.
func (s *Server) Events() <-chan Event { return s.events }

// LostEvents returns how many events found no room since the Server was made.
func (s *Server) LostEvents() uint64 { return s.lost.snapshot()[string(dropEvent)] }

func (s *Server) emit(e Event) {
	select {
	case s.events <- e:
	default:
		s.lost.add(dropEvent)
	}
}

// enterHandshake waits for a place among the handshakes that run. A handshake
// that waits for its client gives its place back meanwhile.
func (s *Server) enterHandshake() { s.handshakes <- struct{}{} }

func (s *Server) leaveHandshake() { <-s.handshakes }

// enterPasswordCheck waits for a place among the password checks that run.
func (s *Server) enterPasswordCheck() (leave func()) {
	s.leaveHandshake()
	s.checks <- struct{}{}
	return func() {
		<-s.checks
		s.enterHandshake()
	}
}
