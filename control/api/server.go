package api

import (
	"context"
	"crypto/tls"
	_ "embed" // for the document
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/audit"
)

// Document is the OpenAPI document of the API, in YAML.
//
//go:embed openapi.yaml
var Document []byte

// Options is what a Server needs.
type Options struct {
	Service *control.Service
	Access  *control.Access
	Logger  *slog.Logger
	Audit   *audit.Log // nil: changes are not written down

	Node   string // name of this one, for other nodes of a fleet
	Listen string // address and port
	TLS    TLS
	// DataDir is where the certificate of TLSAuto is kept.
	DataDir string

	Now func() time.Time // default time.Now
}

// Limits of the server.
const (
	maxConnections = 512
	maxStreams     = 8 // of one connection, with HTTP/2
	maxInFlight    = 128
	maxPublic      = 8 // of requests without authentication

	// One address, which may be that of a proxy, leaves room for others, and
	// one caller leaves memory: an answer can list thousands of objects.
	maxAddressConnections = 256
	maxCallerInFlight     = 16

	// What one sender has in memory leaves room for others. It is as much as a
	// caller may have in flight, and again as much on its way.
	maxBodies       = 64 << 20 // octets
	maxSenderBodies = 8 << 20  // octets

	callerRate      = 50 // per second
	callerBurst     = 100
	loginRate       = 1 // per second
	loginBurst      = 10
	maxBody         = 256 << 10 // octets
	maxPublicBody   = 16 << 10  // octets
	maxHeader       = 32 << 10  // octets
	headerTimeout   = 10 * time.Second
	readTimeout     = 10 * time.Second
	writeTimeout    = 30 * time.Second
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 10 * time.Second
	applyTimeout    = 2 * time.Second // that an answer waits for the engines
)

// Server serves the API.
type Server struct {
	service  *control.Service
	access   *control.Access
	callers  *limiters // requests of one caller
	logins   loginGuard
	auditor  *auditor
	backup   sync.Mutex // held while a backup is made
	replay   replayGuard
	log      *slog.Logger
	now      func() time.Time
	inFlight chan struct{}
	public   chan struct{} // likewise, of requests without authentication
	working  *tally        // requests of each caller
	bodies   *bodies
	handler  http.Handler

	node   string // name of this one
	listen string
	tls    *tls.Config // nil: plain HTTP

	listening atomic.Bool
}

// New returns a server. It reads or makes the certificate, and opens no socket
// yet.
func New(o Options) (*Server, error) {
	if o.Service == nil || o.Access == nil || o.Logger == nil {
		return nil, errors.New("api: service, access and logger are required")
	}
	s := &Server{
		service: o.Service, access: o.Access, log: o.Logger, now: o.Now, node: o.Node, listen: o.Listen,
		callers: newLimiters(callerRate, callerBurst), logins: newLoginGuard(), auditor: newAuditor(o.Audit),
		inFlight: make(chan struct{}, maxInFlight), public: make(chan struct{}, maxPublic), working: newTally(), bodies: newBodies(),
	}
	if s.now == nil {
		s.now = time.Now
	}
	address, err := netip.ParseAddrPort(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("api: listen %q: %w", o.Listen, err)
	}
	if s.tls, err = o.TLS.config(address, o.DataDir, s.now()); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	routes, err := s.newRouter()
	if err != nil {
		return nil, fmt.Errorf("api: document: %w", err)
	}
	s.handler = s.logged(routes)
	return s, nil
}

// Handler returns the handler of all routes, for servers other than Run.
func (s *Server) Handler() http.Handler { return s.handler }

// Run serves until ctx ends, and then lets requests under way finish.
func (s *Server) Run(ctx context.Context) error {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", s.listen)
	if err != nil {
		return fmt.Errorf("api: %w", err)
	}
	return s.serve(ctx, listener)
}

// Listening reports whether the API takes connections.
func (s *Server) Listening() bool { return s.listening.Load() }

func (s *Server) serve(ctx context.Context, listener net.Listener) error {
	s.listening.Store(true)
	defer s.listening.Store(false)
	server := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		TLSConfig: s.tls,
		ConnState: boundConnections(),
		HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		// Handshakes of port scanners and clients that distrust the
		// certificate are no news for operators.
		ErrorLog: log.New(debugWriter{s.log}, "", 0),
	}
	failed := make(chan error, 1)
	if s.tls == nil {
		s.log.Info("api is listening", "url", "http://"+listener.Addr().String())
		go func() { failed <- server.Serve(listener) }()
	} else {
		s.log.Info("api is listening", "url", "https://"+listener.Addr().String())
		go func() { failed <- server.ServeTLS(listener, "", "") }()
	}
	select {
	case err := <-failed:
		return fmt.Errorf("api: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		_ = server.Close() // what did not finish in time is cut off
		return fmt.Errorf("api: shutdown: %w", err)
	}
	return nil
}

// debugWriter makes log lines of net/http debug messages.
type debugWriter struct{ log *slog.Logger }

func (d debugWriter) Write(line []byte) (int, error) {
	d.log.Debug("api connection", "message", string(line))
	return len(line), nil
}
