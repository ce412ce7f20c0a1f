package sslvpn

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"testing"
	"time"
)

// footprint is all that a server holds for clients, in numbers.
type footprint struct {
	halfOpen, halfOpenAddresses, opening  int // on their way to a login
	sessions, users, peerIDs              int
	addresses, attached                   int // of the pool; in the data path
	udpOrigins, udpAddresses              int
	handshakes, checks                    int // that run
	failedUsers, failedAddresses, atHomes int // that the throttle knows
	homes                                 int
}

func (s *rig) footprint() (f footprint) {
	ep, server := s.endpoint(), s.server
	server.halfOpen.mu.Lock()
	f.halfOpen, f.halfOpenAddresses = server.halfOpen.total, len(server.halfOpen.byAddr)
	server.halfOpen.mu.Unlock()
	ep.mu.Lock()
	f.opening, f.sessions, f.users = len(ep.opening), len(ep.sessions), len(ep.perUser)
	for _, b := range ep.pool.blocks {
		if b.taken {
			f.addresses++
		}
	}
	ep.mu.Unlock()
	ep.byPeerID.Range(func(any, any) bool {
		f.peerIDs++
		return true
	})
	for i := range ep.plane.blocks {
		if ep.plane.blocks[i].Load() != nil {
			f.attached++
		}
	}
	for _, l := range ep.udp {
		l.mu.Lock()
		f.udpOrigins += len(l.byControl)
		f.udpAddresses += len(l.byAddr)
		l.mu.Unlock()
	}
	f.handshakes, f.checks = len(server.handshakes), len(server.checks)
	server.throttle.mu.Lock()
	f.failedUsers, f.failedAddresses = len(server.throttle.byUser), len(server.throttle.byAddr)
	f.atHomes, f.homes = len(server.throttle.byHome), len(server.throttle.homes)
	server.throttle.mu.Unlock()
	return f
}

// A refused login leaves nothing behind but, where somebody guesses at passwords, a
// failure of that user and that address.
func TestRefusedLoginsLeaveNothing(t *testing.T) {
	const other = "IV_VER=2.6.14\nIV_PROTO=990\nIV_CIPHERS=AES-256-GCM\n"
	byCertificate := func(s *rig) { s.cfg.Auth, s.cfg.ClientCAs = AuthCertificate, []*x509.Certificate{s.clients.cert} }
	tests := []struct {
		name           string
		change         func(*rig)
		user, password string
		info           string
		cert           func(*rig) *tls.Certificate
		guess          footprint // what is left
	}{
		// Alice has logged in from there before.
		{name: "wrong password", user: "alice", password: "x", guess: footprint{failedAddresses: 1, atHomes: 1}},
		{name: "another's password", user: "bob", password: "wonderland", guess: footprint{failedAddresses: 1, failedUsers: 1}},
		{name: "unknown user", user: "mallory", password: "wonderland", guess: footprint{failedAddresses: 1, failedUsers: 1}},
		{name: "cipher", user: "alice", password: "wonderland", info: other},
		{name: "pool", change: func(s *rig) { s.cfg.Pool = netip.MustParsePrefix("10.8.0.0/29") }, user: "alice", password: "wonderland"},
		{name: "connections of the server", change: func(s *rig) { s.cfg.MaxSessions = 1 }, user: "alice", password: "wonderland"},
		{name: "connections of the user", change: func(s *rig) { s.cfg.MaxSessionsPerUser = 1 }, user: "alice", password: "wonderland"},
		{name: "no certificate", change: byCertificate, cert: func(*rig) *tls.Certificate { return nil }},
		{name: "expired certificate", change: byCertificate, cert: func(s *rig) *tls.Certificate {
			return s.clients.client("late", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
		}},
		{name: "foreign certificate", change: byCertificate, cert: func(s *rig) *tls.Certificate {
			return newAuthority(s.t, "stranger").client("laptop-7", nil)
		}},
		{name: "revoked certificate", change: byCertificate, cert: func(s *rig) *tls.Certificate {
			revoked := s.clients.client("stolen", nil)
			s.cfg.ClientCRLs = []*x509.RevocationList{s.clients.revoke(time.Now().Add(time.Hour), revoked.Leaf)}
			s.apply()
			return revoked
		}},
	}
	for _, tt := range tests {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(tt.name+"/"+network, func(t *testing.T) {
				t.Parallel()
				s := newRig(t, Options{}, tt.change)
				first, refused := s.dial("tcp"), s.trust(nil)
				if tt.cert == nil {
					first.connect(s.trust(nil), "alice", "wonderland")
				} else {
					first.connect(s.trust(s.clients.client("laptop-7", nil)), "", "")
					refused = s.trust(tt.cert(s))
				}
				s.event(EventConnected)
				var want footprint
				s.until("the session stands", func() bool {
					want = s.footprint()
					return want.addresses == 1 && want.attached == 1 && want.halfOpen+want.handshakes+want.checks == 0
				})
				want.failedUsers, want.failedAddresses, want.atHomes = tt.guess.failedUsers, tt.guess.failedAddresses, tt.guess.atHomes
				for range 2 {
					c := s.dial(network)
					if tt.info != "" {
						c.info = tt.info
					}
					c.refused(refused, tt.user, tt.password)
					s.event(EventAuthFailed)
					var have footprint
					for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
						if have = s.footprint(); have == want {
							break
						}
					}
					if have != want {
						t.Errorf("left\n%+v, want\n%+v", have, want)
					}
				}
			})
		}
	}
}
