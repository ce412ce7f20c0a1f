//go:build netns

package sslvpn

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/deploy/netlab"
	"github.com/vpngw/vpngw/sslvpn/wire"
)

// Addresses of the tests: the server's and the client's on the link between
// them, a host behind the server, the pool.
var (
	stockServer = netip.MustParseAddr("198.51.100.1")
	stockHost   = netip.MustParseAddr("192.168.77.1")
	stockPool   = netip.MustParsePrefix("10.88.0.0/24")
	stockRoutes = []netip.Prefix{netip.MustParsePrefix("192.168.77.0/24")}
)

// site is a network namespace with a running Server, and one for clients beside
// it. All of its methods are called by the one goroutine that lives there.
type site struct {
	t      *testing.T
	client string // namespace
	newer  bool   // clients are of OpenVPN 2.7, and not of 2.6
	dir    string
	server *Server
	ca     *authority
	cfg    Endpoint
	log    *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// atSite runs f on a thread whose network namespace has a Server.
func atSite(t *testing.T, options Options, f func(s *site)) {
	t.Helper()
	t.Parallel()
	dir := t.TempDir()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("make a network namespace: %v", err)
			return
		}
		s := &site{t: t, dir: dir, client: fmt.Sprintf("sslvpn-%d-%d", os.Getpid(), time.Now().UnixNano()%1e9), log: &syncBuffer{}}
		s.run("ip", "netns", "add", s.client)
		defer s.run("ip", "netns", "del", s.client)
		s.run("ip", "link", "set", "lo", "up")
		s.run("ip", "link", "add", "wan", "type", "veth", "peer", "name", "wan", "netns", s.client)
		s.run("ip", "addr", "add", stockServer.String()+"/24", "dev", "wan")
		s.run("ip", "addr", "add", stockHost.String()+"/32", "dev", "lo")
		s.run("ip", "link", "set", "wan", "up")
		s.run("ip", "-n", s.client, "link", "set", "lo", "up")
		s.run("ip", "-n", s.client, "addr", "add", "198.51.100.2/24", "dev", "wan")
		s.run("ip", "-n", s.client, "link", "set", "wan", "up")
		if t.Failed() {
			return
		}
		options.Logger = slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		options.VerifyPassword = func(hash, password string) bool { return hash == "hash of "+password }
		s.server = New(options)
		ctx, cancel := context.WithCancel(context.Background())
		stopped := make(chan error)
		go func() { stopped <- s.server.Run(ctx) }()
		s.ca = newAuthority(t, "server CA")
		s.cfg = Endpoint{
			ID: "ep1", Gateway: "gw1", Device: "ovpn0", Cipher: AES128GCM, Auth: AuthPassword,
			TCP: []netip.AddrPort{netip.AddrPortFrom(stockServer, 443)}, Certificate: s.ca.server("vpn.example.org"),
			Users:    []User{{ID: "u1", Name: "alice", PasswordHash: "hash of wonderland", Group: "g1"}},
			Policies: []Policy{{ID: "p1", Group: "g1", Destinations: stockRoutes}},
			Pool:     stockPool, Routes: stockRoutes, MaxSessions: 50,
		}
		f(s)
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("Run: %v", err)
		}
		if t.Failed() {
			t.Logf("log of the server:\n%s", s.log)
		}
	}()
	<-done
}

func (s *site) run(name string, args ...string) string {
	s.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		s.t.Errorf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// apply makes the site's endpoint the whole configuration. The sockets and the
// device are made in the namespace of the calling thread.
func (s *site) apply() {
	s.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for { // Run may not have begun
		err := s.server.Apply(Config{Endpoints: []Endpoint{s.cfg}})
		// A child that another test has forked and that has not begun its program
		// yet holds a copy of every socket and device, those that were closed since included.
		if err != nil && !errors.Is(err, unix.EADDRINUSE) && !errors.Is(err, unix.EBUSY) {
			s.t.Fatalf("Apply: %v", err)
		}
		if err == nil && len(s.server.Snapshot()) == 1 {
			break
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the endpoint does not run: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	s.run("ip", "route", "replace", stockPool.String(), "dev", s.cfg.Device)
}

// stock is a running OpenVPN client.
type stock struct {
	s   *site
	cmd *exec.Cmd
	log *syncBuffer
}

// profile returns what the server exports for a transport.
func (s *site) profile(proto string, port int, extra ...string) string {
	return fmt.Sprintf("client\ndev tun\nproto %s\nremote %s %d\nresolv-retry infinite\nnobind\npersist-key\npersist-tun\n"+
		"remote-cert-tls server\ndata-ciphers %s\nauth SHA256\nverb 4\n%s\n<ca>\n%s</ca>\nreneg-sec 0\ndisable-dco\n",
		proto, stockServer, port, s.cfg.Cipher, strings.Join(extra, "\n"), s.ca.pem())
}

// password returns the lines of a profile for a user.
func (s *site) password(user, password string) string {
	file := filepath.Join(s.dir, user+".txt")
	if err := os.WriteFile(file, []byte(user+"\n"+password+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return "auth-user-pass " + file
}

func (s *site) connect(profile string) *stock {
	s.t.Helper()
	file := filepath.Join(s.dir, fmt.Sprintf("client%d.ovpn", time.Now().UnixNano()))
	if err := os.WriteFile(file, []byte(profile), 0o600); err != nil {
		s.t.Fatal(err)
	}
	c := &stock{s: s, log: &syncBuffer{}}
	command := []string{"openvpn", "--config", file}
	if s.newer {
		command = netlab.NewerDebian(command...)
	}
	c.cmd = exec.Command("ip", append([]string{"netns", "exec", s.client}, command...)...)
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	// It ends with the site's thread, also when the test is killed.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// logs waits until a line of the client's log has a text, and reports how often.
func (c *stock) logs(text string, times int) bool {
	c.s.t.Helper()
	ok := c.s.eventually(func() bool { return strings.Count(c.log.String(), text) >= times })
	if !ok {
		c.s.t.Errorf("the client never said %q; its log:\n%s", text, c.log)
	}
	return ok
}

func (c *stock) stop() {
	_ = c.cmd.Process.Signal(unix.SIGTERM)
	_ = c.cmd.Wait()
}

func (s *site) eventually(ok func() bool) bool {
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return false
}

// event waits for an event of a kind and returns it.
func (s *site) event(kind EventKind) Event {
	s.t.Helper()
	timeout := time.After(60 * time.Second)
	for {
		select {
		case e := <-s.server.Events():
			if e.Kind == kind {
				return e
			}
		case <-timeout:
			s.t.Errorf("no event of kind %d", kind)
			return Event{}
		}
	}
}

func (s *site) sessions() []Session {
	all := s.server.Snapshot()
	if len(all) != 1 {
		return nil
	}
	return all[0].Sessions
}

// pingBoth pings the host behind the server from the client, and the client
// from the server.
func (s *site) pingBoth(virtual netip.Addr) {
	s.t.Helper()
	s.run("ip", "netns", "exec", s.client, "ping", "-n", "-q", "-c", "3", "-i", "0.2", "-w", "20", stockHost.String())
	s.run("ping", "-n", "-q", "-c", "3", "-i", "0.2", "-w", "20", "-I", stockHost.String(), virtual.String())
}

func TestNetNSStockPasswordTCP(t *testing.T) {
	for _, tt := range []struct {
		name   string
		newer  bool
		cipher Cipher
		extra  string
	}{
		{"AES-128-GCM, TLS 1.3", false, AES128GCM, "tls-version-min 1.3"},
		{"AES-256-GCM, TLS 1.2", false, AES256GCM, "tls-version-max 1.2"},
		{"2.7, AES-128-GCM, TLS 1.2", true, AES128GCM, "tls-version-max 1.2"},
		{"2.7, AES-256-GCM, TLS 1.3", true, AES256GCM, "tls-version-min 1.3"},
		{"2.7, ChaCha20-Poly1305", true, ChaCha20Poly1305, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			atSite(t, Options{}, func(s *site) {
				s.cfg.Cipher, s.newer = tt.cipher, tt.newer
				s.apply()
				c := s.connect(s.profile("tcp", 443, s.password("alice", "wonderland"), tt.extra))
				defer c.stop()
				if !c.logs("Initialization Sequence Completed", 1) {
					return
				}
				e := s.event(EventConnected)
				if e.Session.User != "alice" || e.Session.UserID != "u1" || !stockPool.Contains(e.Session.VirtualIP) {
					t.Errorf("connected: %+v", e)
				}
				s.pingBoth(e.Session.VirtualIP)
				c.logs("Data Channel: cipher '"+string(tt.cipher)+"'", 1)
			})
		})
	}
}

func TestNetNSStockCertificateUDP(t *testing.T) {
	for _, tt := range []struct {
		name  string
		newer bool
	}{{"2.6", false}, {"2.7", true}} {
		t.Run(tt.name, func(t *testing.T) {
			atSite(t, Options{}, func(s *site) {
				s.newer = tt.newer
				s.connectsByCertificate()
			})
		})
	}
}

// connectsByCertificate has a client in and out over UDP.
func (s *site) connectsByCertificate() {
	t := s.t
	// Certificates that take more packets than any window holds.
	var names []string
	for i := range 400 {
		names = append(names, fmt.Sprintf("gateway-%d.vpn.example.org", i))
	}
	long := func(c *x509.Certificate) { c.DNSNames = names }
	clients := newAuthority(t, "client CA")
	s.cfg.Certificate = s.ca.client("vpn.example.org", func(c *x509.Certificate) {
		long(c)
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	s.cfg.Auth, s.cfg.ClientCAs = AuthCertificate, []*x509.Certificate{clients.cert}
	s.cfg.UDP = []netip.AddrPort{netip.AddrPortFrom(stockServer, 1194)}
	s.apply()
	cert := clients.client("laptop-7", long)
	inline := "<cert>\n" + certificatePEM(cert.Certificate[0]) + "</cert>\n<key>\n" + keyPEM(t, cert) + "</key>"
	c := s.connect(s.profile("udp", 1194, inline))
	defer c.stop()
	if !c.logs("Initialization Sequence Completed", 1) {
		return
	}
	e := s.event(EventConnected)
	if e.Session.User != "laptop-7" || e.Session.UserID != "" {
		t.Errorf("connected: %+v", e)
	}
	s.pingBoth(e.Session.VirtualIP)
	c.stop() // says so
	if e := s.event(EventDisconnected); e.Reason != "the client has left" || e.Session.Inbound.Packets == 0 || e.Session.Outbound.Packets == 0 {
		t.Errorf("disconnected: %+v", e)
	}
}

// TestNetNSStockRefused asserts what a client is told, and the log, when its
// login is turned down.
func TestNetNSStockRefused(t *testing.T) {
	atSite(t, Options{}, func(s *site) {
		s.cfg.Users = append(s.cfg.Users, User{ID: "u2", Name: "bob", PasswordHash: "hash of builder"})
		s.cfg.UDP = []netip.AddrPort{netip.AddrPortFrom(stockServer, 1194)}
		s.apply()
		for _, tt := range []struct {
			name, proto    string
			port           int
			user, password string
			extra          string
			told, reason   string
			logged         string // the user
		}{
			{"wrong password", "tcp", 443, "alice", "wrong", "", "AUTH_FAILED,user name or password is wrong", "wrong password", "alice"},
			{"unknown user", "udp", 1194, "mallory", "wonderland", "", "AUTH_FAILED,user name or password is wrong", "unknown user", ""},
			{
				"no shared cipher", "tcp", 443, "alice", "wonderland", "data-ciphers AES-256-GCM",
				"no shared cipher", "no shared cipher", "alice",
			},
		} {
			profile := s.profile(tt.proto, tt.port, s.password(tt.user, tt.password), tt.extra)
			if tt.extra != "" {
				profile = strings.Replace(profile, "data-ciphers AES-128-GCM\n", "", 1)
			}
			c := s.connect(profile)
			c.logs(tt.told, 1)
			if e := s.event(EventAuthFailed); e.Session.User != tt.logged || !strings.Contains(e.Reason, tt.reason) {
				t.Errorf("%s: %+v", tt.name, e)
			}
			_ = c.cmd.Wait() // it exits by itself
		}
	})
}

// TestNetNSStockRenegotiates has soft resets begun by each side every two seconds
// under a steady TCP stream and a steady stream of datagrams, past the wrap of
// the key id: every datagram arrives once.
func TestNetNSStockRenegotiates(t *testing.T) {
	for _, tt := range []struct {
		name, proto string
		port        int
		newer       bool
		options     Options
		extra       string
	}{
		{"by the client, TCP", "tcp", 443, false, Options{}, "reneg-sec 2"},
		{"by the server, TCP", "tcp", 443, false, Options{RenegotiateAfter: 2 * time.Second}, ""},
		{"by the server, UDP, TLS 1.2", "udp", 1194, false, Options{RenegotiateAfter: 2 * time.Second}, "tls-version-max 1.2"},
		{"by both, UDP", "udp", 1194, false, Options{RenegotiateAfter: 2 * time.Second}, "reneg-sec 2"},
		{"2.7, by the server, TCP", "tcp", 443, true, Options{RenegotiateAfter: 2 * time.Second}, ""},
		{"2.7, by both, UDP", "udp", 1194, true, Options{RenegotiateAfter: 2 * time.Second}, "reneg-sec 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			atSite(t, tt.options, func(s *site) {
				s.newer = tt.newer
				s.cfg.UDP = []netip.AddrPort{netip.AddrPortFrom(stockServer, 1194)}
				s.apply()
				profile := s.profile(tt.proto, tt.port, s.password("alice", "wonderland"), tt.extra,
					fmt.Sprintf("txqueuelen %d\nsndbuf %d\nrcvbuf %[2]d", longQueue, 4<<20))
				if strings.HasPrefix(tt.extra, "reneg-sec") {
					profile = strings.Replace(profile, "reneg-sec 0\n", "", 1)
				}
				c := s.connect(profile)
				defer c.stop()
				if !c.logs("Initialization Sequence Completed", 1) {
					return
				}
				virtual := s.event(EventConnected).Session.VirtualIP
				s.run("ip", "link", "set", s.cfg.Device, "txqueuelen", fmt.Sprint(longQueue))
				before := s.overruns()
				datagrams, finish := s.startNumbered(virtual), s.carry(virtual)
				// One line for the first key and one for each after it, with 2.6 that from 7 to 1 included.
				c.logs("Control Channel: TLSv1", map[bool]int{false: 10, true: 5}[tt.newer])
				if err := finish(); err != nil {
					t.Errorf("TCP through the tunnel: %v", err)
				}
				sent, lost, twice := datagrams.finish()
				if overruns := s.overruns() - before; sent == 0 || lost > overruns || twice > 0 {
					t.Errorf("of %d datagrams %d were lost and %d came twice; queues have dropped %d; drops of the server %v; log of the client:\n%s",
						sent, lost, twice, overruns, s.server.Snapshot()[0].Drops, c.log)
				}
				if drops := s.server.Snapshot()[0].Drops; drops["unknown_key"]+drops["integrity"]+drops["no_key"]+drops["replay"] > 0 {
					t.Errorf("the change of keys shows in drops: %v", drops)
				}
				if n := len(s.sessions()); n != 1 {
					t.Errorf("%d sessions", n)
				}
				if n := strings.Count(c.log.String(), "Initialization Sequence Completed"); n != 1 {
					t.Errorf("connected %d times; log of the client:\n%s", n, c.log)
				}
			})
		})
	}
}

// TestNetNSStockComesBack disconnects a client, and restarts the server under
// it, with and without the key of the auth-tokens: it is back each time.
func TestNetNSStockComesBack(t *testing.T) {
	for _, tt := range []struct {
		name, proto string
		port        int
		newer       bool
	}{{"tcp", "tcp", 443, false}, {"udp", "udp", 1194, false}, {"2.7", "udp", 1194, true}} {
		t.Run(tt.name, func(t *testing.T) {
			atSite(t, Options{}, func(s *site) {
				s.newer = tt.newer
				s.cfg.UDP = []netip.AddrPort{netip.AddrPortFrom(stockServer, 1194)}
				s.apply()
				c := s.connect(s.profile(tt.proto, tt.port, s.password("alice", "wonderland")))
				defer c.stop()
				if !c.logs("Initialization Sequence Completed", 1) {
					return
				}
				e := s.event(EventConnected)
				s.pingBoth(e.Session.VirtualIP)
				if !s.server.Disconnect("ep1", e.Session.ID) {
					t.Error("the session was not found")
				}
				for range 2 {
					if e := s.event(EventDisconnected); e.Session.Inbound.Packets == 0 {
						t.Errorf("no packets are counted: %+v", e)
					}
					e = s.event(EventConnected)
					s.pingBoth(e.Session.VirtualIP)
					if err := s.server.Apply(Config{}); err != nil {
						t.Errorf("Apply: %v", err)
					}
					s.server.tokens[0]++ // no endpoint uses it now
					s.apply()
				}
				s.pingBoth(s.event(EventConnected).Session.VirtualIP)
			})
		})
	}
}

// TestNetNSStockPolicies changes what a user reaches while the client is
// connected, and deletes the user then.
func TestNetNSStockPolicies(t *testing.T) {
	atSite(t, Options{}, func(s *site) {
		s.apply()
		c := s.connect(s.profile("tcp", 443, s.password("alice", "wonderland")))
		defer c.stop()
		if !c.logs("Initialization Sequence Completed", 1) {
			return
		}
		virtual := s.event(EventConnected).Session.VirtualIP
		s.pingBoth(virtual)
		s.cfg.Policies = nil
		s.apply()
		out, err := exec.Command("ip", "netns", "exec", s.client, "ping", "-n", "-q", "-c", "3", "-i", "0.2", "-W", "1", stockHost.String()).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "100% packet loss") {
			t.Errorf("without a policy: %v: %s", err, out)
		}
		s.cfg.Policies = []Policy{{ID: "p1", Group: "g1", Destinations: []netip.Prefix{netip.PrefixFrom(stockHost, 32)}}}
		s.apply()
		s.pingBoth(virtual)
		if n := s.server.Snapshot()[0].Drops["denied"]; n < 3 {
			t.Errorf("%d packets were denied", n)
		}
		s.cfg.Users = nil
		s.apply()
		c.logs("the user was deleted", 1)
		if e := s.event(EventDisconnected); e.Reason != "the user was deleted" {
			t.Errorf("event %+v", e)
		}
		_ = c.cmd.Wait() // it exits by itself
	})
}

// TestNetNSStockTLSCrypt connects with a key for the control channel in the
// profile, and renegotiates under it.
func TestNetNSStockTLSCrypt(t *testing.T) {
	for _, tt := range []struct {
		proto string
		port  int
	}{{"tcp", 443}, {"udp", 1194}} {
		t.Run(tt.proto, func(t *testing.T) {
			atSite(t, Options{RenegotiateAfter: 2 * time.Second}, func(s *site) {
				s.cfg.TLSCryptKey = make([]byte, wire.StaticKeyLen)
				_, _ = rand.Read(s.cfg.TLSCryptKey)
				s.cfg.UDP = []netip.AddrPort{netip.AddrPortFrom(stockServer, 1194)}
				s.apply()
				key := "<tls-crypt>\n-----BEGIN OpenVPN Static key V1-----\n"
				for line := range slices.Chunk(s.cfg.TLSCryptKey, 16) {
					key += hex.EncodeToString(line) + "\n"
				}
				key += "-----END OpenVPN Static key V1-----\n</tls-crypt>"
				c := s.connect(s.profile(tt.proto, tt.port, s.password("alice", "wonderland"), key))
				defer c.stop()
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
			})
		})
	}
}
