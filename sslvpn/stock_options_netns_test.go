//go:build netns

package sslvpn

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// TestNetNSStockTLSCryptV2 connects with a key of the client's own in the
// profile, and renegotiates under it. On UDP the server keeps nothing before the
// client has said it again. A revoked key opens nothing.
func TestNetNSStockTLSCryptV2(t *testing.T) {
	for _, tt := range []struct {
		name, proto string
		port        int
		newer       bool
	}{{"tcp", "tcp", 443, false}, {"udp", "udp", 1194, false}, {"2.7", "udp", 1194, true}} {
		t.Run(tt.name, func(t *testing.T) {
			atSite(t, Options{RenegotiateAfter: 2 * time.Second}, func(s *site) {
				s.newer = tt.newer
				s.cfg.TLSCryptV2Key = randomKey(wire.TLSCryptV2KeyLen)
				s.cfg.UDP = []netip.AddrPort{netip.AddrPortFrom(stockServer, 1194)}
				s.apply()
				profile := s.profile(tt.proto, tt.port, s.password("alice", "wonderland"), keyLines(t, s.cfg.TLSCryptV2Key), "verb 7")
				c := s.connect(profile)
				defer func() { c.stop() }()
				if !c.logs("Initialization Sequence Completed", 1) {
					return
				}
				virtual := s.event(EventConnected).Session.VirtualIP
				s.pingBoth(virtual)
				c.logs("Control Channel: TLSv1", 2)
				s.pingBoth(virtual)
				if n := s.server.Snapshot()[0].Drops["tls_crypt"]; n != 0 {
					t.Errorf("%d packets were dropped", n)
				}
				if again := strings.Contains(c.log.String(), "P_CONTROL_WKC_V1"); again != (tt.proto == "udp") {
					t.Errorf("the client has sent its key again: %t", again)
				}

				// Its profile is revoked: the session ends, and there is no other.
				id := s.sessions()[0].ClientKey
				if len(id) != 32 {
					t.Errorf("the session has the key %q", id)
				}
				s.cfg.RevokedClientKeys = []string{id}
				s.apply()
				if e := s.event(EventDisconnected); e.Reason != "the key of its profile was revoked" || e.Session.ClientKey != id {
					t.Errorf("disconnected: %+v", e)
				}
				_ = c.cmd.Wait() // it is told to exit
				c = s.connect(profile)
				if !s.eventually(func() bool { return s.server.Snapshot()[0].Drops["client_key_revoked"] > 0 }) {
					t.Errorf("the first packet is not dropped: %v", s.server.Snapshot()[0].Drops)
				}
				if strings.Contains(c.log.String(), "TLS: Initial packet from") || len(s.sessions()) != 0 {
					t.Errorf("a revoked profile is answered:\n%s", c.log)
				}
				c.stop()
				c = s.connect(s.profile(tt.proto, tt.port, s.password("alice", "wonderland"), keyLines(t, s.cfg.TLSCryptV2Key)))
				c.logs("Initialization Sequence Completed", 1)
			})
		})
	}
}

// keyLines returns the lines of a profile with a key of its own.
func keyLines(t *testing.T, serverKey []byte) string {
	t.Helper()
	block := &pem.Block{Type: "OpenVPN tls-crypt-v2 client key", Bytes: wrappedFor(t, serverKey)}
	return "<tls-crypt-v2>\n" + string(pem.EncodeToMemory(block)) + "</tls-crypt-v2>"
}

// manager answers what a stock client asks a person for, over its management
// interface, as graphical clients do.
type manager struct {
	s    *site
	conn net.Conn
	log  *syncBuffer
	done chan struct{}
}

// manage has a profile ask for the login there.
func (s *site) manage(profile string) (*stock, *manager) {
	s.t.Helper()
	socket := filepath.Join(s.dir, fmt.Sprintf("management%d", time.Now().UnixNano()))
	c := s.connect(profile + "\nmanagement " + socket + " unix\nmanagement-query-passwords\nauth-retry interact\n")
	m := &manager{s: s, log: &syncBuffer{}, done: make(chan struct{})}
	if !s.eventually(func() bool {
		conn, err := net.Dial("unix", socket)
		m.conn = conn
		return err == nil
	}) {
		s.t.Fatalf("no management interface; log of the client:\n%s", c.log)
	}
	go func() {
		defer close(m.done)
		_, _ = io.Copy(m.log, m.conn)
	}()
	return c, m
}

func (m *manager) close() {
	_ = m.conn.Close()
	<-m.done
}

// login waits until a question was asked so many times, and answers it.
func (m *manager) login(times int, user, password, code string) {
	m.s.t.Helper()
	if !m.s.eventually(func() bool {
		return strings.Count(m.log.String(), ">PASSWORD:Need 'Auth' username/password SC:1,One-time code") >= times
	}) {
		m.s.t.Errorf("asked for no code; management:\n%s", m.log)
		return
	}
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	if _, err := fmt.Fprintf(m.conn, "username \"Auth\" %s\npassword \"Auth\" \"SCRV1:%s:%s\"\n", user, encode(password), encode(code)); err != nil {
		m.s.t.Error(err)
	}
}

// TestNetNSStockSecondFactor logs in with a certificate, a password and a
// one-time code, of which each is needed, and renegotiates without asking.
func TestNetNSStockSecondFactor(t *testing.T) {
	atSite(t, Options{RenegotiateAfter: 2 * time.Second}, func(s *site) {
		clients := newAuthority(t, "client CA")
		s.cfg.Auth, s.cfg.ClientCAs = AuthCertificate|AuthPassword, []*x509.Certificate{clients.cert}
		s.cfg.OneTimeCodes, s.cfg.Users[0].CodeSecret = true, codeSecret
		s.apply()
		s.server.running()["ep1"].codes.start = 0
		laptop := clients.client("laptop-7", nil)
		cert := "<cert>\n" + certificatePEM(laptop.Certificate[0]) + "</cert>\n<key>\n" + keyPEM(t, laptop) + "</key>"

		// What is missing is missed.
		c := s.connect(s.profile("tcp", 443, s.password("alice", "wonderland")))
		if e := s.event(EventAuthFailed); e.Reason != "the client sent no certificate" {
			t.Errorf("without a certificate: %q", e.Reason)
		}
		c.stop()
		c = s.connect(s.profile("tcp", 443, s.password("alice", "wonderland"), cert))
		c.logs("AUTH_FAILED,a one-time code is needed", 1)
		s.event(EventAuthFailed)
		c.stop()

		challenge := `static-challenge "One-time code" 1`
		c, m := s.manage(s.profile("tcp", 443, "auth-user-pass", challenge, cert))
		defer m.close()
		defer c.stop()
		code := func(step int64) string { return string(oneTimeCode(codeSecret, step)) }
		m.login(1, "alice", "wonderland", code(stepOf(time.Now())-5))
		c.logs("AUTH_FAILED,user name, password or one-time code is wrong", 1)
		if e := s.event(EventAuthFailed); e.Reason != "wrong one-time code" || e.Session.User != "alice" {
			t.Errorf("wrong code: %+v", e)
		}
		right := code(stepOf(time.Now()))
		m.login(2, "alice", "wonderland", right)
		if !c.logs("Initialization Sequence Completed", 1) {
			return
		}
		virtual := s.event(EventConnected).Session.VirtualIP
		s.pingBoth(virtual)
		c.logs("Control Channel: TLSv1", 3) // new keys by the auth-token
		s.pingBoth(virtual)
		if n := strings.Count(m.log.String(), "Need 'Auth'"); n != 2 {
			t.Errorf("asked %d times", n)
		}

		// The code was used.
		again, m2 := s.manage(s.profile("tcp", 443, "auth-user-pass", challenge, cert))
		defer m2.close()
		defer again.stop()
		m2.login(1, "alice", "wonderland", right)
		again.logs("AUTH_FAILED,the one-time code was used before", 1)
		if strings.Contains(s.log.String(), right) || strings.Contains(s.log.String(), "wonderland") {
			t.Error("a secret is in the log")
		}
	})
}

// Older clients, as far as OpenVPN 2.6 can be told to be like them, and profiles
// with what such clients have in theirs.
func TestNetNSStockOlderClients(t *testing.T) {
	for _, tt := range []struct {
		name, proto string
		port        int
		extra       []string
		logs        string
	}{
		{"as 2.4, TLS 1.2", "tcp", 443, []string{"compat-mode 2.4.0", "tls-version-max 1.2"}, "TLSv1.2"},
		{"as 2.5, UDP", "udp", 1194, []string{"compat-mode 2.5.0"}, ""},
		{"compression framing", "udp", 1194, []string{"comp-lzo no"}, ""},
		{"compression allowed", "tcp", 443, []string{"allow-compression asym", "compress"}, ""},
		{"small MTU", "udp", 1194, []string{"tun-mtu 1300"}, ""},
		{"one cipher of TLS 1.2", "tcp", 443, []string{"tls-version-max 1.2", "tls-cipher TLS-ECDHE-ECDSA-WITH-CHACHA20-POLY1305-SHA256"}, "ECDHE-ECDSA-CHACHA20-POLY1305"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			atSite(t, Options{}, func(s *site) {
				s.cfg.UDP = []netip.AddrPort{netip.AddrPortFrom(stockServer, 1194)}
				s.apply()
				c := s.connect(s.profile(tt.proto, tt.port, append(tt.extra, s.password("alice", "wonderland"))...))
				defer c.stop()
				if !c.logs("Initialization Sequence Completed", 1) {
					return
				}
				s.pingBoth(s.event(EventConnected).Session.VirtualIP)
				if !strings.Contains(c.log.String(), tt.logs) {
					t.Errorf("the client did not say %q", tt.logs)
				}
				_ = c.cmd.Process.Signal(unix.SIGTERM)
				s.event(EventDisconnected)
			})
		})
	}
}

// TestNetNSStockNoRoom tells a client whose login is right why there is no place
// for it. It tries again, and comes in when there is.
func TestNetNSStockNoRoom(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limit  func(*Endpoint)
		reason string
	}{
		{"pool", func(e *Endpoint) { e.Pool = netip.MustParsePrefix("10.88.0.0/29") }, "no free address in the pool"},
		{"connections of the server", func(e *Endpoint) { e.MaxSessions = 1 }, "all connections of the server are in use"},
		{"connections of the user", func(e *Endpoint) { e.MaxSessionsPerUser = 1 }, "the user has as many connections as one may have"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			atSite(t, Options{}, func(s *site) {
				tt.limit(&s.cfg)
				s.apply()
				profile := s.profile("tcp", 443, s.password("alice", "wonderland"))
				first := s.connect(profile)
				defer first.stop()
				if !first.logs("Initialization Sequence Completed", 1) {
					return
				}
				s.event(EventConnected)
				second := s.connect(profile)
				defer second.stop()
				second.logs("AUTH_FAILED,TEMP[backoff 15,advance no]:", 1)
				second.logs(tt.reason, 1)
				if e := s.event(EventAuthFailed); !strings.Contains(e.Reason, tt.reason) || e.Session.User != "alice" {
					t.Errorf("event %+v", e)
				}
				if n := len(s.sessions()); n != 1 {
					t.Errorf("%d sessions", n)
				}
				first.stop()
				s.event(EventConnected)
				second.logs("Initialization Sequence Completed", 1)
			})
		})
	}
}

// TestNetNSStockCertificateRefused tells a client by the alert of TLS what is
// wrong with its certificate.
func TestNetNSStockCertificateRefused(t *testing.T) {
	atSite(t, Options{}, func(s *site) {
		clients, foreign := newAuthority(t, "client CA"), newAuthority(t, "foreign CA")
		revoked := clients.client("revoked", nil)
		s.cfg.Auth, s.cfg.ClientCAs = AuthCertificate, []*x509.Certificate{clients.cert}
		s.cfg.ClientCRLs = []*x509.RevocationList{clients.revoke(time.Now().Add(time.Hour), revoked.Leaf)}
		s.apply()
		for _, tt := range []struct {
			name         string
			cert         *tls.Certificate
			told, reason string
		}{
			{"foreign", foreign.client("foreign", nil), "unknown CA", "signed by none of the client CAs"},
			{"expired", clients.client("expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "certificate expired", "has expired"},
			{"revoked", revoked, "bad certificate", "was revoked on"},
			{"for servers", clients.client("server", func(c *x509.Certificate) {
				c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			}), "certificate", "lacks clientAuth"},
		} {
			inline := "<cert>\n" + certificatePEM(tt.cert.Certificate[0]) + "</cert>\n<key>\n" + keyPEM(t, tt.cert) + "</key>"
			c := s.connect(s.profile("tcp", 443, inline))
			c.logs("Received fatal SSL alert: ", 1)
			if log := c.log.String(); !strings.Contains(log, tt.told) {
				t.Errorf("%s: told\n%s", tt.name, log)
			}
			if e := s.event(EventAuthFailed); !strings.Contains(e.Reason, tt.reason) {
				t.Errorf("%s: %+v", tt.name, e)
			}
			c.stop()
		}
	})
}
