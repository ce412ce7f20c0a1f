package sslvpn

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// endpoint is one running VPN server: its listeners, its device, its sessions.
type endpoint struct {
	server *Server
	id     string
	log    *slog.Logger

	settings atomic.Pointer[settings]
	plane    *plane
	control  controlDrops
	byPeerID sync.Map        // peer id (uint32) to *session; read for each batch of packets
	ctx      context.Context // ends with the endpoint
	stop     context.CancelFunc
	running  sync.WaitGroup
	tcp      []netip.AddrPort // that are listened on
	udp      []*udpListener

	mu       sync.Mutex
	closed   bool
	failure  error // why it does not serve any more
	pool     *addressPool
	opening  map[*session]bool    // before the verdict
	sessions map[*session]*client // after it
	perUser  map[string]int       // sessions
	logins   loginCounts
	codes    *usedCodes

	lastPeerID uint32
}

// settings are an Endpoint and what is worked out of it. They do not change.
type settings struct {
	Endpoint
	users   map[string]*User
	anyHash string                // of some user
	access  map[string]*accessSet // by group
	routes  *accessSet
	anchors map[[sha256.Size]byte]bool // of ClientCAs
	tls     *tls.Config
	wrapping
}

func newSettings(e Endpoint) (*settings, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	e.Users, e.Routes, e.DNS = slices.Clone(e.Users), slices.Clone(e.Routes), slices.Clone(e.DNS)
	e.TCP, e.UDP, e.ClientCRLs = slices.Clone(e.TCP), slices.Clone(e.UDP), slices.Clone(e.ClientCRLs)
	e.Foreign, e.RevokedClientKeys = slices.Clone(e.Foreign), slices.Clone(e.RevokedClientKeys)
	e.TLSCryptKey, e.TLSCryptV2Key = slices.Clone(e.TLSCryptKey), slices.Clone(e.TLSCryptV2Key)
	cfg := &settings{
		Endpoint: e, users: map[string]*User{}, access: map[string]*accessSet{},
		anchors: map[[sha256.Size]byte]bool{}, routes: newAccessSet(e.Routes),
	}
	for i := range e.Users {
		u := &e.Users[i]
		if !e.OneTimeCodes {
			u.CodeSecret = nil
		}
		cfg.users[u.Name], cfg.anyHash = u, u.PasswordHash
	}
	reach := map[string][]netip.Prefix{}
	for _, p := range e.Policies {
		reach[p.Group] = append(reach[p.Group], p.Destinations...)
	}
	for group, prefixes := range reach {
		cfg.access[group] = newAccessSet(prefixes, e.Foreign...)
	}
	anchors := x509.NewCertPool()
	for _, ca := range e.ClientCAs {
		anchors.AddCert(ca)
		cfg.anchors[sha256.Sum256(ca.Raw)] = true
	}
	var err error
	if cfg.wrapping, err = newWrapping(&cfg.Endpoint); err != nil {
		return nil, fmt.Errorf("wrap of the control channel: %w", err)
	}
	cfg.tls = &tls.Config{
		Certificates: []tls.Certificate{*e.Certificate},
		MinVersion:   tls.VersionTLS12,
		CipherSuites: []uint16{ // of TLS 1.2
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		// Every key id has a handshake of its own, and one message is one record.
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
	if e.Auth.Has(AuthCertificate) {
		cfg.tls.ClientAuth, cfg.tls.ClientCAs = tls.RequireAndVerifyClientCert, anchors
		cfg.tls.VerifyConnection = func(state tls.ConnectionState) error {
			if err := checkClientCertificate(cfg, &state); err != nil {
				return &certificateError{name: state.PeerCertificates[0].Subject.CommonName, err: err}
			}
			return nil
		}
	}
	return cfg, nil
}

// check reports what an endpoint cannot be run with.
func (e *Endpoint) check() error {
	switch {
	case e.Certificate == nil || len(e.Certificate.Certificate) == 0 || e.Certificate.PrivateKey == nil:
		return errors.New("certificate: a chain and its private key are needed")
	case e.Cipher.keyLen() == 0:
		return fmt.Errorf("cipher %q: must be %s, %s or %s", string(e.Cipher), AES128GCM, AES256GCM, ChaCha20Poly1305)
	case e.Auth <= 0 || e.Auth > AuthPassword|AuthCertificate:
		return errors.New("auth: must be AuthPassword, AuthCertificate or both")
	case e.OneTimeCodes && !e.Auth.Has(AuthPassword):
		return errors.New("one-time codes go with passwords")
	case e.TLSCryptKey != nil && e.TLSCryptV2Key != nil:
		return errors.New("a key for tls-crypt and one for tls-crypt-v2 exclude each other")
	case len(e.RevokedClientKeys) > 0 && e.TLSCryptV2Key == nil:
		return errors.New("revoked client keys go with a key for tls-crypt-v2")
	case len(e.TCP)+len(e.UDP) == 0:
		return errors.New("listen addresses: at least one is needed")
	case slices.Contains(e.TCP, e.PortShare):
		return errors.New("port sharing: the other server must not be this one")
	case e.Device == "" || len(e.Device) > 15:
		return fmt.Errorf("device %q: must have 1 to 15 octets", e.Device)
	case e.MaxSessions < 0 || e.MaxSessionsPerUser < 0 || e.BandwidthMbps < 0:
		return errors.New("limits must not be negative")
	}
	names := map[string]bool{}
	for _, u := range e.Users {
		if !validName(u.Name) || names[u.Name] {
			return fmt.Errorf("user %q: names must be unique, of 1 to %d octets that print", u.Name, maxName)
		}
		names[u.Name] = true
		if u.CodeSecret != nil && len(u.CodeSecret) < minCodeSecret {
			return fmt.Errorf("user %q: the secret of one-time codes must have at least %d octets", u.Name, minCodeSecret)
		}
	}
	for _, r := range e.Routes {
		if !r.IsValid() || r.Addr().Is4In6() || r.Addr().Is6() && !e.Pool6.IsValid() {
			return fmt.Errorf("route %s: must be a network of IPv4, or of IPv6 where clients have addresses of it", r)
		}
	}
	for _, p := range e.Foreign {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("foreign pool %s: must be a network", p)
		}
	}
	for _, d := range e.DNS {
		if !d.IsValid() || d.Is4In6() || d.Zone() != "" || d.Is6() && !e.Pool6.IsValid() {
			return fmt.Errorf("DNS server %s: must be an address of IPv4, or of IPv6 where clients have addresses of it", d)
		}
	}
	if !validDomain(e.Domain) {
		return fmt.Errorf("domain %q: must be a name of labels with letters, digits and -", e.Domain)
	}
	if e.Topology != TopologyNet30 && e.Topology != TopologySubnet {
		return errors.New("topology: must be TopologyNet30 or TopologySubnet")
	}
	if e.Pool6.IsValid() {
		if err := checkPool6(e.Pool6, e.Pool); err != nil {
			return err
		}
	}
	if len(e.Routes) > maxPushed || len(e.DNS) > maxPushed {
		return fmt.Errorf("at most %d routes and DNS servers can be pushed", maxPushed)
	}
	return checkPool(e.Pool)
}

// validDomain reports whether a name can be pushed: clients hand it to scripts and
// resolvers, where another character may mean something else (RFC 1123, 2.1).
func validDomain(name string) bool {
	if name == "" {
		return true
	}
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
			return false
		}
	}
	return true
}

// maxPushed bounds the options of one kind that are pushed.
const maxPushed = 256

func (cfg *settings) user(name string) (*User, bool) {
	u, ok := cfg.users[name]
	return u, ok
}

// accessOf returns what a client reaches.
func (cfg *settings) accessOf(id *identity) *accessSet {
	if cfg.Auth == AuthCertificate {
		return cfg.routes
	}
	u := cfg.users[id.name]
	if u == nil || u.Group == "" {
		return nil
	}
	return cfg.access[u.Group]
}

// staticIP returns the address that a client has for its own; the zero Addr is
// none.
func (cfg *settings) staticIP(id *identity) netip.Addr {
	if u := cfg.users[id.name]; cfg.Auth.Has(AuthPassword) && u != nil {
		return u.StaticIP
	}
	return netip.Addr{}
}

// static returns the addresses that belong to users.
func (cfg *settings) static() []netip.Addr {
	var static []netip.Addr
	for _, u := range cfg.Users {
		if u.StaticIP.IsValid() {
			static = append(static, u.StaticIP)
		}
	}
	return static
}

// outdated returns why a session must not go on under these settings; "" is
// that it may. message is for the client.
func (cfg *settings) outdated(id *identity, address netip.Addr) (reason, message string) {
	if cfg.Auth.Has(AuthCertificate) {
		if err := cfg.trusted(time.Now(), id.chains); err != nil {
			return err.Error(), wire.HaltClient("the certificate is not accepted any more")
		}
	}
	if !cfg.Auth.Has(AuthPassword) {
		return "", ""
	}
	u := cfg.users[id.name]
	switch {
	case u == nil || u.ID != id.userID:
		return "the user was deleted", wire.HaltClient("the user was deleted")
	case u.PasswordHash != id.hash:
		return "the password was changed", wire.RefuseLogin("the password was changed")
	case u.proof() != id.proof:
		return "the second factor was changed", wire.RefuseLogin("the second factor was changed")
	case u.StaticIP.IsValid() && u.StaticIP != address:
		return "the user was given the address " + u.StaticIP.String(), wire.RestartClient("another address")
	case slices.Contains(cfg.static(), address) && u.StaticIP != address:
		return "the address " + address.String() + " was given to another user", wire.RestartClient("another address")
	}
	return "", ""
}

func (ep *endpoint) config() *settings { return ep.settings.Load() }

func (ep *endpoint) tlsConfig() *tls.Config { return ep.config().tls }

// update puts other settings in force that need no restart. Sessions that they
// do not allow end; all others go on.
func (ep *endpoint) update(cfg *settings) error {
	ep.mu.Lock()
	if err := ep.pool.reserve(cfg.static()); err != nil {
		ep.mu.Unlock()
		return err
	}
	ep.settings.Store(cfg)
	sessions := make([]*session, 0, len(ep.sessions))
	for s := range ep.sessions {
		sessions = append(sessions, s)
	}
	ep.mu.Unlock()
	ep.plane.setBandwidth(cfg.BandwidthMbps)
	for _, s := range sessions {
		s.review()
		s.pushChange()
	}
	return nil
}

// established returns the sessions that have a place.
func (ep *endpoint) established() []*session {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	return slices.Collect(maps.Keys(ep.sessions))
}

// connected tells of an established session.
func (ep *endpoint) connected(status Session) {
	ep.logins.succeeded.Add(1)
	ep.log.Info("client connected", "session", status.ID, "user", status.User, "virtual_ip", status.VirtualIP.String(), "remote", status.Remote.String())
	ep.server.emit(Event{Kind: EventConnected, Time: status.Established, Session: status})
}

// left takes back what a session had, and tells of its end. was is the phase
// that it ended in.
func (ep *endpoint) left(s *session, was phase, refused loginFailure, reason string) {
	ep.leave(s)
	ep.loginFailed(refused)
	status := s.snapshot()
	kind := EventDisconnected
	if was == phaseOpening {
		if refused == "" {
			// A stranger who never came as far as a login: counted, or a scan
			// would fill the log.
			ep.control.add(dropHandshake)
			ep.log.Debug("no login", "remote", status.Remote.String(), "reason", reason)
			return
		}
		if kind = EventAuthFailed; !ep.server.failures.Allow() {
			ep.server.lost.add(dropEvent)
			return
		}
	}
	ep.log.Info(map[EventKind]string{EventDisconnected: "client disconnected", EventAuthFailed: "login failed"}[kind],
		"session", s.id, "user", status.User, "remote", status.Remote.String(), "reason", reason)
	ep.server.emit(Event{Kind: kind, Time: time.Now(), Session: status, Reason: reason})
}

// forget drops the last reference to a session.
func (ep *endpoint) forget(s *session) {
	if s.listener != nil {
		s.listener.forget(s)
	}
}

// token returns an auth-token for a user; "" with certificates.
func (ep *endpoint) token(id *identity, now time.Time) string {
	u, ok := ep.config().user(id.name)
	if !ok || !ep.config().Auth.Has(AuthPassword) {
		return ""
	}
	return ep.server.tokens.issue(now, id.first, ep.id, u)
}

// snapshot returns the state of a session.
func (s *session) snapshot() Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshotLocked()
}

func (s *session) snapshotLocked() Session {
	status := Session{ID: s.id, Endpoint: s.ep.id, User: s.claimed, ClientKey: s.key.String(), Remote: s.addr, Established: s.established}
	if s.identity != nil {
		status.User, status.UserID = s.identity.name, s.identity.userID
	}
	if c := s.client.Load(); c != nil {
		status.VirtualIP = c.virtualIP
		if !c.address6.isZero() {
			status.VirtualIPv6 = c.address6.addr()
		}
		status.Inbound, status.Outbound = c.traffic()
	}
	return status
}

// address returns where the client is.
func (s *session) address() netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

func (ep *endpoint) snapshot() EndpointStatus {
	status := EndpointStatus{ID: ep.id, Err: ep.dead(), Drops: ep.control.snapshot()}
	maps.Copy(status.Drops, ep.plane.drops.snapshot())
	ep.countLogins(&status)
	for _, s := range ep.established() {
		if one := s.snapshot(); one.VirtualIP.IsValid() {
			status.Sessions = append(status.Sessions, one)
		}
	}
	slices.SortFunc(status.Sessions, func(a, b Session) int { return a.VirtualIP.Compare(b.VirtualIP) })
	return status
}

// dead returns why the endpoint does not serve any more.
func (ep *endpoint) dead() error {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	return ep.failure
}
