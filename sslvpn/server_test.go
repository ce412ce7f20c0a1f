package sslvpn

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/sslvpn/wire"
)

// rig is a running Server with one endpoint on loopback.
type rig struct {
	t       *testing.T
	server  *Server
	ca      *authority
	clients *authority
	cfg     Endpoint
	checks  atomic.Int32 // of passwords
	log     syncLog

	denied uint64 // of the data path, seen so far

	mu  sync.Mutex
	dev *tun.Channel
}

type syncLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *syncLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *syncLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// panicPassword is one whose check meets a bug.
const panicPassword = "panic"

func newRig(t *testing.T, o Options, change func(*rig)) *rig {
	t.Helper()
	s := &rig{t: t, ca: newAuthority(t, "server CA"), clients: newAuthority(t, "client CA")}
	o.Logger = slog.New(slog.NewTextHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o.OpenDevice = func(name string, queues, _ int) (tun.Device, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dev = tun.NewChannel(name, queues, 256)
		return s.dev, nil
	}
	o.VerifyPassword = func(hash, password string) bool {
		s.checks.Add(1)
		if password == panicPassword {
			panic("a bug")
		}
		return hash == "hash of "+password
	}
	loopback := netip.MustParseAddrPort("127.0.0.1:0")
	s.cfg = Endpoint{
		ID: "ep1", Gateway: "gw1", Device: "test0", Cipher: AES128GCM, Auth: AuthPassword,
		TCP: []netip.AddrPort{loopback}, UDP: []netip.AddrPort{loopback}, Certificate: s.ca.server("vpn.example.org"),
		Users: []User{
			{ID: "u1", Name: "alice", PasswordHash: "hash of wonderland", Group: "g1"},
			{ID: "u2", Name: "bob", PasswordHash: "hash of builder", Group: "g2"},
		},
		Policies: []Policy{{ID: "p1", Group: "g1", Destinations: testRoutes}},
		Pool:     testPool, Routes: testRoutes, DNS: []netip.Addr{netip.MustParseAddr("192.168.77.53")},
	}
	if change != nil {
		change(s)
	}
	s.server = New(o)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error)
	go func() { stopped <- s.server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("Run: %v", err)
		}
		if t.Failed() {
			t.Logf("log of the server:\n%s", s.log.String())
		}
	})
	s.apply()
	s.until("the endpoint runs", func() bool { return s.endpoint() != nil })
	return s
}

var testRoutes = []netip.Prefix{netip.MustParsePrefix("192.168.77.0/24")}

func (s *rig) apply() {
	s.t.Helper()
	if err := s.server.Apply(Config{Endpoints: []Endpoint{s.cfg}}); err != nil {
		s.t.Fatalf("Apply: %v", err)
	}
}

func (s *rig) endpoint() *endpoint { return s.server.running()["ep1"] }

// until waits for something that other goroutines bring about.
func (s *rig) until(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited in vain: %s", what)
		}
	}
}

func (s *rig) dial(network string) *testClient {
	s.t.Helper()
	if network == "udp" {
		return dialTest(s.t, "udp", s.endpoint().udp[0].socket.local())
	}
	return dialTest(s.t, "tcp", s.endpoint().tcp[0])
}

// dialRaw returns a socket for whatever is to be said on UDP.
func (s *rig) dialRaw() net.Conn {
	s.t.Helper()
	conn, err := net.Dial("udp", s.endpoint().udp[0].socket.local().String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	return conn
}

// trust is the TLS configuration of a client with a certificate, or none.
func (s *rig) trust(cert *tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(s.ca.cert)
	// Clients check the purpose of the certificate and not its name.
	cfg := &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(state tls.ConnectionState) error {
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots})
		return err
	}}
	if cert != nil {
		// Whichever CAs the server asks for.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return cfg
}

// connected returns a client with a session.
func (s *rig) connected(network, user, password string) *testClient {
	s.t.Helper()
	c := s.dial(network)
	c.connect(s.trust(nil), user, password)
	s.event(EventConnected)
	return c
}

func (s *rig) event(kind EventKind) Event {
	s.t.Helper()
	for {
		select {
		case e := <-s.server.Events():
			if e.Kind == kind {
				return e
			}
		case <-time.After(20 * time.Second):
			s.t.Fatalf("no event of kind %d", kind)
		}
	}
}

func (s *rig) drops(why controlDrop) uint64 {
	return s.server.Snapshot()[0].Drops[string(why)]
}

// reaches reports whether a packet of a client comes out of the device.
func (s *rig) reaches(c *testClient, dst string) bool {
	s.t.Helper()
	packet := echoRequest(c.push.Local, netip.MustParseAddr(dst))
	c.send(packet)
	s.mu.Lock()
	dev := s.dev
	s.mu.Unlock()
	for deadline := time.Now().Add(20 * time.Second); ; {
		select {
		case frame := <-dev.Received():
			if bytes.Equal(frame[tun.HeaderLen:], packet) {
				return true
			}
		case <-time.After(10 * time.Millisecond):
			status := s.server.Snapshot()[0]
			if status.Drops["denied"] > s.denied {
				s.denied = status.Drops["denied"]
				return false
			}
			if time.Now().After(deadline) {
				s.t.Fatalf("a packet to %s came nowhere: %+v", dst, status)
			}
		}
	}
}

// echoRequest returns an ICMP echo request.
func echoRequest(src, dst netip.Addr) []byte {
	p := make([]byte, 28)
	p[0], p[3], p[8], p[9] = 0x45, 28, 64, 1
	a, b := src.As4(), dst.As4()
	copy(p[12:], a[:])
	copy(p[16:], b[:])
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	p[10], p[11] = byte(^sum>>8), byte(^sum)
	p[20], p[22], p[23] = 8, 0xf7, 0xff // checksum of an empty request
	return p
}

func TestSessions(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		for _, cipher := range []Cipher{AES128GCM, AES256GCM, ChaCha20Poly1305} {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				t.Run(fmt.Sprintf("%s/%s/%s", network, cipher, tls.VersionName(version)), func(t *testing.T) {
					s := newRig(t, Options{}, func(s *rig) { s.cfg.Cipher = cipher })
					cfg := s.trust(nil)
					cfg.MinVersion, cfg.MaxVersion = version, version
					c := s.dial(network)
					c.connect(cfg, "alice", "wonderland")
					if e := s.event(EventConnected); e.Session.User != "alice" || e.Session.UserID != "u1" || e.Session.VirtualIP != c.push.Local {
						t.Errorf("event: %+v", e)
					}
					want := wire.Push{
						Routes: testRoutes, DNS: s.cfg.DNS, Local: netip.MustParseAddr("10.8.0.5"), Peer: netip.MustParseAddr("10.8.0.6"),
						Ping: 10, PingRestart: 60, PeerID: c.push.PeerID, Cipher: string(cipher), Flags: []string{"cc-exit", "tls-ekm"},
						TunMTU: 1500, ExitNotify: network == "udp", AuthToken: c.push.AuthToken,
					}
					if fmt.Sprint(c.push) != fmt.Sprint(want) || !strings.HasPrefix(c.push.AuthToken, tokenPrefix) {
						t.Errorf("pushed: %+v\nwant %+v", c.push, want)
					}
					if !s.reaches(c, "192.168.77.1") {
						t.Error("a packet did not arrive")
					}
				})
			}
		}
	}
}
