package sslvpn

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

func TestRefusedLogins(t *testing.T) {
	info := func(proto, ciphers string) string {
		return "IV_VER=2.6.14\nIV_PROTO=" + proto + "\nIV_CIPHERS=" + ciphers + "\n"
	}
	tests := []struct {
		name           string
		user, password string
		info           string
		told, reason   string
	}{
		{"wrong password", "alice", "x", infoOf26, "AUTH_FAILED," + loginRefused, "wrong password"},
		{"unknown user", "mallory", "wonderland", infoOf26, "AUTH_FAILED," + loginRefused, "unknown user"},
		{"no user", "", "", infoOf26, "AUTH_FAILED," + loginRefused, "no user name"},
		{"name with an escape", "al\x1bice", "wonderland", infoOf26, "AUTH_FAILED," + loginRefused, "control characters"},
		{"forged token", "alice", tokenPrefix + strings.Repeat("A", 80), infoOf26, "AUTH_FAILED,SESSION:log in again", "auth-token"},
		{"broken challenge", "alice", "SCRV1:x", infoOf26, "AUTH_FAILED," + loginRefused, "static challenge"},
		{"cipher", "alice", "wonderland", info("990", "AES-256-GCM"), "AUTH_FAILED,Data channel cipher negotiation failed (no shared cipher)", "no shared cipher"},
		{"does not pull", "alice", "wonderland", info("46", "AES-128-GCM"), "AUTH_FAILED,the client takes no settings", "no settings"},
		{"2.3", "alice", "wonderland", "IV_VER=2.3.18\n", "AUTH_FAILED,the client is too old", "too old"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newRig(t, Options{}, nil)
			c := s.dial("tcp")
			c.info = tt.info
			if told := c.refused(s.trust(nil), tt.user, tt.password); !strings.HasPrefix(told, tt.told) {
				t.Errorf("told %q, want %q", told, tt.told)
			}
			if e := s.event(EventAuthFailed); !strings.Contains(e.Reason, tt.reason) {
				t.Errorf("reason %q, want %q", e.Reason, tt.reason)
			}
			if all := s.server.Snapshot()[0].Sessions; len(all) != 0 {
				t.Errorf("sessions: %+v", all)
			}
			for _, secret := range []string{"wonderland", "mallory", tokenPrefix} { // a name that nobody has may be a password
				if strings.Contains(s.log.String(), secret) {
					t.Errorf("%q is in the log", secret)
				}
			}
		})
	}
}

func TestFullServer(t *testing.T) {
	tests := []struct {
		name   string
		change func(*rig)
		reason string
	}{
		{"sessions", func(s *rig) { s.cfg.MaxSessions = 1 }, "all connections of the server are in use"},
		{"sessions of the user", func(s *rig) { s.cfg.MaxSessionsPerUser = 1 }, "the user has as many connections"},
		{"addresses", func(s *rig) { s.cfg.Pool = netip.MustParsePrefix("10.8.0.0/29") }, errPoolExhausted.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newRig(t, Options{}, tt.change)
			first := s.connected("tcp", "alice", "wonderland")
			if told, want := s.dial("tcp").refused(s.trust(nil), "alice", "wonderland"), "AUTH_FAILED,TEMP[backoff 15,advance no]:"+tt.reason; !strings.HasPrefix(told, want) {
				t.Errorf("told %q, want %q", told, want)
			}
			old := s.dial("tcp")
			old.info = "IV_VER=2.5.1\nIV_PROTO=6\nIV_CIPHERS=AES-128-GCM\n"
			if told, want := old.refused(s.trust(nil), "alice", "wonderland"), "AUTH_FAILED,"+tt.reason; !strings.HasPrefix(told, want) {
				t.Errorf("told an old client %q, want %q", told, want)
			}
			first.conn.Close()
			if e := s.event(EventDisconnected); e.Reason != "the client closed the connection" {
				t.Errorf("event: %+v", e)
			}
			s.connected("tcp", "alice", "wonderland")
		})
	}
}

// Repeated failures lock a user out, whoever has the right password then.
func TestLockOut(t *testing.T) {
	s := newRig(t, Options{}, nil)
	s.dial("tcp").refused(s.trust(nil), "alice", "x")
	for range freeByUser + 9 { // by others, until the wait is longer than this test takes
		s.server.throttle.failed(time.Now(), "alice", netip.MustParseAddr("192.0.2.1"))
	}
	checks := s.checks.Load()
	if told := s.dial("tcp").refused(s.trust(nil), "alice", "wonderland"); !strings.HasPrefix(told, "AUTH_FAILED,TEMP[backoff ") || !strings.Contains(told, "locked for") {
		t.Errorf("told %q", told)
	}
	if n := s.checks.Load(); n != checks {
		t.Error("a password was checked during the lock-out")
	}
	s.connected("tcp", "bob", "builder")
}

func TestClientCertificates(t *testing.T) {
	stranger := newAuthority(t, "stranger")
	good := func(s *rig) *tls.Certificate { return s.clients.client("laptop-7", nil) }
	change := func(f func(*x509.Certificate)) func(*rig) *tls.Certificate {
		return func(s *rig) *tls.Certificate { return s.clients.client("laptop-7", f) }
	}
	var revoked *tls.Certificate
	tests := []struct {
		name   string
		cert   func(*rig) *tls.Certificate
		crls   func(*rig) []*x509.RevocationList
		reason string // empty: is let in
	}{
		{"good", good, nil, ""},
		{"none", func(*rig) *tls.Certificate { return nil }, nil, "the client sent no certificate"},
		{"expired", change(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2020, 6, 19, 0, 0, 0, 0, time.UTC)
		}), nil, `certificate of "laptop-7", or of a CA above it, has expired: its own date is 2020-06-19`},
		{"not yet valid", change(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Date(2090, 1, 2, 0, 0, 0, 0, time.UTC), time.Date(2091, 1, 1, 0, 0, 0, 0, time.UTC)
		}), nil, `certificate of "laptop-7" is valid from 2090-01-02 on`},
		{"foreign", func(*rig) *tls.Certificate { return stranger.client("laptop-7", nil) }, nil, `is signed by none of the client CAs: its issuer is "stranger"`},
		{"for servers", change(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), nil, "lacks clientAuth"},
		{"no purpose given", change(func(c *x509.Certificate) { c.ExtKeyUsage, c.KeyUsage = nil, 0 }), nil, ""},
		{"key usage", change(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), nil, "lacks digitalSignature"},
		{"no common name", change(func(c *x509.Certificate) { c.Subject = pkix.Name{Organization: []string{"acme"}} }), nil, "one common name"},
		{
			"two common names", change(func(c *x509.Certificate) {
				c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: []int{2, 5, 4, 3}, Value: "root"}, {Type: []int{2, 5, 4, 3}, Value: "laptop-7"}}
			}), nil, "one common name",
		},
		{
			"revoked", func(s *rig) *tls.Certificate { return revoked },
			func(s *rig) []*x509.RevocationList {
				revoked = good(s)
				return []*x509.RevocationList{s.clients.revoke(time.Now().Add(time.Hour), revoked.Leaf)}
			}, `the certificate of "laptop-7" was revoked on`,
		},
		{"another is revoked", good, func(s *rig) []*x509.RevocationList {
			return []*x509.RevocationList{s.clients.revoke(time.Now().Add(time.Hour), good(s).Leaf)}
		}, ""},
		{"outdated list", good, func(s *rig) []*x509.RevocationList {
			return []*x509.RevocationList{s.clients.revoke(time.Now().Add(-time.Minute))}
		}, `the revocation list of "client CA" expired on`},
		{"list of another CA of the name", good, func(s *rig) []*x509.RevocationList {
			return []*x509.RevocationList{newAuthority(t, "client CA").revoke(time.Now().Add(-time.Minute))}
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				s := newRig(t, Options{}, func(s *rig) {
					s.cfg.Auth, s.cfg.ClientCAs = AuthCertificate, []*x509.Certificate{s.clients.cert}
					if tt.crls != nil {
						s.cfg.ClientCRLs = tt.crls(s)
					}
				})
				cfg := s.trust(tt.cert(s))
				cfg.MinVersion, cfg.MaxVersion = version, version
				c := s.dial("tcp")
				if tt.reason == "" {
					c.connect(cfg, "", "")
					if e := s.event(EventConnected); e.Session.User != "laptop-7" || c.push.AuthToken != "" {
						t.Errorf("%+v, pushed %+v", e, c.push)
					}
					if !s.reaches(c, "192.168.77.1") {
						t.Error("a packet did not arrive")
					}
					continue
				}
				if told := c.refused(cfg, "", ""); !strings.Contains(told, "remote error: tls") {
					t.Errorf("told %q", told)
				}
				if e := s.event(EventAuthFailed); !strings.Contains(e.Reason, tt.reason) {
					t.Errorf("reason %q, want %q", e.Reason, tt.reason)
				}
			}
		})
	}
}

// Without client CAs nobody is let in.
func TestNoClientCA(t *testing.T) {
	s := newRig(t, Options{}, func(s *rig) { s.cfg.Auth = AuthCertificate })
	if told := s.dial("tcp").refused(s.trust(s.clients.client("laptop-7", nil)), "", ""); !strings.Contains(told, "remote error: tls") {
		t.Errorf("told %q", told)
	}
	if e := s.event(EventAuthFailed); !strings.Contains(e.Reason, "signed by none of the client CAs") {
		t.Errorf("reason %q", e.Reason)
	}
}

// With the auth-token that was pushed, nobody is asked for the password again;
// another password ends it.
func TestAuthToken(t *testing.T) {
	s := newRig(t, Options{}, nil)
	c := s.connected("tcp", "alice", "wonderland")
	token := c.push.AuthToken
	if n := s.checks.Load(); n != 1 {
		t.Errorf("%d password checks", n)
	}
	s.connected("tcp", "alice", token)
	if n := s.checks.Load(); n != 1 {
		t.Errorf("%d password checks after a login by token", n)
	}
	if told := s.dial("tcp").refused(s.trust(nil), "bob", token); !strings.HasPrefix(told, "AUTH_FAILED,SESSION:") {
		t.Errorf("another user with the token is told %q", told)
	}
	s.cfg.Users = []User{{ID: "u1", Name: "alice", PasswordHash: "hash of looking-glass", Group: "g1"}}
	s.apply()
	if told := s.dial("tcp").refused(s.trust(nil), "alice", token); !strings.HasPrefix(told, "AUTH_FAILED,SESSION:") {
		t.Errorf("after a change of the password: %q", told)
	}
}

// Tokens that follow from each other are good for logins only for a while after the
// first one; a session that stands goes on by its own.
func TestTokensOfOneLogin(t *testing.T) {
	s := newRig(t, Options{}, func(s *rig) {
		s.cfg.OneTimeCodes, s.cfg.Users[0].CodeSecret = true, codeSecret
	})
	alice, ok := s.endpoint().config().user("alice")
	if !ok {
		t.Fatal("no such user")
	}
	login := func(first time.Time) string {
		return s.server.tokens.issue(time.Now().Add(-time.Minute), first, "ep1", alice)
	}
	soon := time.Now().Add(30*time.Minute - tokenLifetime)
	c := s.connected("tcp", "alice", login(soon))
	first, ok := s.server.tokens.check(time.Now(), c.push.AuthToken, "ep1", alice)
	if !ok || first.Unix() != soon.Unix() {
		t.Errorf("the next token: %t, of a first login at %s, want %s", ok, first, soon)
	}
	old := login(time.Now().Add(-tokenLifetime))
	if told := s.dial("tcp").refused(s.trust(nil), "alice", old); !strings.HasPrefix(told, "AUTH_FAILED,SESSION:") {
		t.Errorf("a token of an old login: %q", told)
	}
	c.renegotiate(s, false, true, "alice", old)
	if m, err := c.message(); err != nil || !strings.HasPrefix(m, "PUSH_REPLY,auth-token "+tokenPrefix) {
		t.Errorf("a renegotiation by it: %q, %v", m, err)
	}
}

// Clients without TLS exporter get keys by PRF, and are not told otherwise.
func TestPRFClient(t *testing.T) {
	for _, tt := range []struct{ name, info string }{
		{"2.5", "IV_VER=2.5.11\nIV_PROTO=6\nIV_CIPHERS=AES-256-GCM:AES-128-GCM\nIV_COMP_STUBv2=1\n"},
		{"2.4", "IV_VER=2.4.12\nIV_PROTO=2\nIV_NCP=2\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newRig(t, Options{}, nil)
			c := s.dial("udp")
			c.info = tt.info
			c.hello()
			if err := c.handshake(s.trust(nil)); err != nil {
				t.Fatal(err)
			}
			keys, err := c.login("alice", "wonderland")
			if err != nil {
				t.Fatal(err)
			}
			s.event(EventConnected)
			if tt.name == "2.4" { // takes settings when it asks for them
				c.say(wire.PushRequest)
			}
			c.pushed()
			if len(c.push.Flags) > 0 || c.push.KeyDerivation != "" || c.push.Cipher != "AES-128-GCM" {
				t.Errorf("pushed %+v", c.push)
			}
			c.install(&keys, true)
			if !s.reaches(c, "192.168.77.1") {
				t.Error("a packet did not arrive")
			}
		})
	}
}

// A static address has one session, which the newest login gets.
func TestStaticAddress(t *testing.T) {
	s := newRig(t, Options{}, func(s *rig) { s.cfg.Users[0].StaticIP = netip.MustParseAddr("10.8.0.9") })
	first := s.connected("tcp", "alice", "wonderland")
	if first.push.Local != s.cfg.Users[0].StaticIP {
		t.Errorf("address %s", first.push.Local)
	}
	if other := s.connected("tcp", "bob", "builder"); other.push.Local == first.push.Local {
		t.Error("two clients with one address")
	}
	second := s.connected("tcp", "alice", "wonderland")
	if second.push.Local != first.push.Local {
		t.Errorf("address %s", second.push.Local)
	}
	if m, err := first.message(); err != nil || !strings.HasPrefix(m, "HALT,") {
		t.Errorf("the first client is told %q, %v", m, err)
	}
	if !s.reaches(second, "192.168.77.1") {
		t.Error("a packet did not arrive")
	}
}

// A bug that a login meets ends its session and nothing else.
func TestPanicInLogin(t *testing.T) {
	s := newRig(t, Options{}, nil)
	other := s.connected("tcp", "bob", "builder")
	for range 2 * cap(s.server.handshakes) { // more than there are places
		if told := s.dial("tcp").refused(s.trust(nil), "alice", panicPassword); told != "EOF" {
			t.Errorf("told %q", told)
		}
	}
	if n := s.drops(dropPanic); n != uint64(2*cap(s.server.handshakes)) {
		t.Errorf("%d panics are counted", n)
	}
	s.connected("tcp", "alice", "wonderland")
	if !s.reaches(other, "192.168.77.1") && !strings.Contains(s.log.String(), "denied") {
		t.Error("another session does not go on")
	}
}
