package sslvpn

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/sslvpn/wire"
)

// Each test has a loopback address of its own, so that ports never meet.
var loopbacks atomic.Uint32

func loopback() netip.AddrPort {
	n := uint32(os.Getpid())<<6 + loopbacks.Add(1)
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(94 + n>>16&7), byte(n >> 8), byte(n)}), 11194)
}

// testServer is a Server with one endpoint whose device is a channel.
type testServer struct {
	*Server
	endpoint Endpoint
	ca       *authority
	device   *tun.Channel
}

// startServer runs a Server until the test ends. change may alter its endpoint.
func startServer(t *testing.T, o Options, change func(*testServer)) *testServer {
	t.Helper()
	s := &testServer{ca: newAuthority(t, "CA"), device: tun.NewChannel("server0", 1, 1024)}
	o.VerifyPassword = func(hash, password string) bool { return hash == "hash of "+password }
	o.OpenDevice = func(string, int, int) (tun.Device, error) { return s.device, nil }
	s.Server = New(o)
	at := loopback()
	s.endpoint = Endpoint{
		ID: "e1", Gateway: "g1", Device: "server0", Cipher: AES128GCM, Auth: AuthPassword,
		TCP: []netip.AddrPort{at}, UDP: []netip.AddrPort{at}, Certificate: s.ca.server("vpn.example.org"),
		Users:    []User{{ID: "u1", Name: "alice", PasswordHash: "hash of wonderland", Group: "g1"}},
		Policies: []Policy{{ID: "p1", Group: "g1", Destinations: prefixes("10.1.0.0/16")}},
		Pool:     testPool, Routes: prefixes("10.1.0.0/16"),
		DNS: []netip.Addr{netip.MustParseAddr("10.1.0.53")},
	}
	if change != nil {
		change(s)
	}
	if err := s.Apply(Config{Endpoints: []Endpoint{s.endpoint}}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	wait(t, "the server to serve", func() bool { return len(s.Snapshot()) == 1 && s.Snapshot()[0].Err == nil })
	return s
}

// wait waits until something holds.
func wait(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// options return what alice connects with.
func (s *testServer) options(udp bool) ConnectOptions {
	roots := x509.NewCertPool()
	roots.AddCert(s.ca.cert)
	o := ConnectOptions{Remote: s.endpoint.TCP[0], UDP: udp, RootCAs: roots, UserName: "alice", Password: "wonderland"}
	if udp {
		o.Local = o.Remote.Addr()
	}
	return o
}

// connected runs a connection over a channel until the test ends.
func connected(t *testing.T, o ConnectOptions) (*Connection, *tun.Channel) {
	t.Helper()
	c, err := Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	dev := tun.NewChannel("client0", 1, 1024)
	done := make(chan error)
	go func() { done <- c.Run(context.Background(), dev) }()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return c, dev
}

// passes sends a packet into one device until it comes out of another. Packets
// before the other side is ready are lost, as they would be on any network.
func passes(t *testing.T, from, to *tun.Channel, packet []byte) {
	t.Helper()
	sent := time.Time{}
	wait(t, fmt.Sprintf("a packet from %s at %s", from.Name(), to.Name()), func() bool {
		if time.Since(sent) > 100*time.Millisecond {
			from.SendPacket(packet)
			sent = time.Now()
		}
		for got := received(to); got != nil; got = received(to) {
			if bytes.Equal(got, packet) {
				return true
			}
		}
		return false
	})
}

var transports = map[string]bool{"TCP": false, "UDP": true}

func TestConnect(t *testing.T) {
	for name, udp := range transports {
		for _, auth := range []AuthMethod{AuthPassword, AuthCertificate} {
			t.Run(fmt.Sprintf("%s %v", name, auth), func(t *testing.T) {
				s := startServer(t, Options{}, func(s *testServer) {
					s.endpoint.Auth, s.endpoint.Cipher = auth, AES256GCM
					s.endpoint.ClientCAs = []*x509.Certificate{s.ca.cert}
				})
				o := s.options(udp)
				if auth == AuthCertificate {
					o.Certificate, o.UserName, o.Password = s.ca.client("alice", nil), "", ""
				}
				c, dev := connected(t, o)
				p := c.Settings()
				if p.Cipher != string(AES256GCM) || !testPool.Contains(p.Local) || p.Peer != p.Local.Next() ||
					fmt.Sprint(p.Routes) != "[10.1.0.0/16]" || fmt.Sprint(p.DNS) != "[10.1.0.53]" {
					t.Errorf("settings %+v", p)
				}
				passes(t, dev, s.device, ipUDP(p.Local.String(), host, 100))
				passes(t, s.device, dev, ipUDP(host, p.Local.String(), 200))
				passes(t, dev, s.device, icmp(8, p.Local.String(), "10.8.0.1", nil))
				sent, got := c.Traffic()
				wait(t, "the server to count the same", func() bool {
					now := s.Snapshot()[0].Sessions
					return len(now) == 1 && now[0].User == "alice" && now[0].Inbound.Packets >= sent.Packets && now[0].Outbound.Packets >= got.Packets
				})
				if err := c.Close(); err != nil {
					t.Error(err)
				}
				wait(t, "the session to end", func() bool { return len(s.Snapshot()[0].Sessions) == 0 })
			})
		}
	}
}

// TestRenegotiate lets the server ask for new keys again and again: packets
// pass under each of them, and the key ids come round to 1, not to 0.
func TestRenegotiate(t *testing.T) {
	for name, udp := range transports {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, Options{RenegotiateAfter: 20 * time.Millisecond}, nil)
			c, dev := connected(t, s.options(udp))
			address := c.Settings().Local.String()
			seen := map[uint8]bool{}
			wait(t, "every key id and the first again", func() bool {
				passes(t, dev, s.device, ipUDP(address, host, 100))
				passes(t, s.device, dev, ipUDP(host, address, 200))
				c.mu.Lock()
				id := c.current
				c.mu.Unlock()
				again := id == 1 && seen[7]
				seen[id] = true
				return again
			})
			if err := c.err(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRenegotiationTellsOfTheServer has a server that sends no data: the client goes on for as
// long as it gets new keys.
func TestRenegotiationTellsOfTheServer(t *testing.T) {
	s := startServer(t, Options{RenegotiateAfter: 20 * time.Millisecond}, nil)
	c, _ := connected(t, s.options(false))
	wait(t, "other keys", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.current > 0
	})
	if c.peer.lastReceived().IsZero() {
		t.Error("the server counts as silent")
	}
}

func TestConnectInVain(t *testing.T) {
	s := startServer(t, Options{}, nil)
	stranger := newAuthority(t, "stranger")
	withCertificates := startServer(t, Options{}, func(s *testServer) {
		s.endpoint.Auth, s.endpoint.ClientCAs = AuthCertificate, []*x509.Certificate{s.ca.cert}
	})
	for _, tt := range []struct {
		name   string
		server *testServer
		change func(*ConnectOptions)
		want   string
	}{
		{"wrong password", s, func(o *ConnectOptions) { o.Password = "looking glass" }, "AUTH_FAILED"},
		{"unknown user", s, func(o *ConnectOptions) { o.UserName = "bob" }, "AUTH_FAILED"},
		{"cipher", s, func(o *ConnectOptions) { o.Ciphers = []Cipher{AES256GCM} }, "no shared cipher"},
		{"server of another CA", s, func(o *ConnectOptions) {
			o.RootCAs = x509.NewCertPool()
			o.RootCAs.AddCert(stranger.cert)
		}, "certificate signed by unknown authority"},
		{"certificate of another CA", withCertificates, func(o *ConnectOptions) { o.Certificate = stranger.client("alice", nil) }, "tls: "},
		{"no certificate", withCertificates, func(*ConnectOptions) {}, "tls: "},
		{"no server", s, func(o *ConnectOptions) { o.Remote = netip.AddrPortFrom(o.Remote.Addr(), 1) }, "connection refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := tt.server.options(false)
			tt.change(&o)
			c, err := Connect(t.Context(), o)
			if err == nil {
				c.Close()
				t.Fatal("connected")
			}
			var refused *RefusedError
			if !strings.Contains(err.Error(), tt.want) || errors.As(err, &refused) != (tt.want == "AUTH_FAILED" || tt.want == "no shared cipher") {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	// A certificate that is no server's.
	s.endpoint.Certificate = s.ca.client("vpn.example.org", nil)
	if err := s.Apply(Config{Endpoints: []Endpoint{s.endpoint}}); err != nil {
		t.Fatal(err)
	}
	if c, err := Connect(t.Context(), s.options(false)); err == nil {
		c.Close()
		t.Error("took a client's certificate for a server's")
	} else if !strings.Contains(err.Error(), "incompatible key usage") {
		t.Error(err)
	}
}

func TestConnectGivesUp(t *testing.T) {
	s := startServer(t, Options{}, nil)
	o := s.options(true)
	o.Remote = netip.AddrPortFrom(o.Remote.Addr(), 9) // nobody answers
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := Connect(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", c, err)
	}
}

// TestConnectionEnds: the server's last word is the reason.
func TestConnectionEnds(t *testing.T) {
	for name, udp := range transports {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, Options{}, nil)
			c, err := Connect(t.Context(), s.options(udp))
			if err != nil {
				t.Fatal(err)
			}
			dev := tun.NewChannel("client0", 1, 16)
			done := make(chan error)
			go func() { done <- c.Run(context.Background(), dev) }()
			s.endpoint.Users = nil
			if err := s.Apply(Config{Endpoints: []Endpoint{s.endpoint}}); err != nil {
				t.Fatal(err)
			}
			var refused *RefusedError
			if err := <-done; !errors.As(err, &refused) || !strings.HasPrefix(refused.Message, "HALT") {
				t.Errorf("%v", err)
			}
			select {
			case <-dev.Closed():
			default:
				t.Error("the device is open")
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRunUntilTheContextEnds(t *testing.T) {
	s := startServer(t, Options{}, nil)
	c, err := Connect(t.Context(), s.options(false))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx, nil) }()
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	<-c.Ended()
}

// TestPRF connects as clients before OpenVPN 2.6 do, without the TLS exporter.
func TestPRFKeysAgree(t *testing.T) {
	s := startServer(t, Options{}, nil)
	o := s.options(false)
	o.withoutExporter = true
	c, dev := connected(t, o)
	passes(t, dev, s.device, ipUDP(c.Settings().Local.String(), host, 100))
	passes(t, s.device, dev, ipUDP(host, c.Settings().Local.String(), 100))
	if c.exporter {
		t.Error("the keys are the exporter's")
	}
	if v := c.keys[0].tls.ConnectionState().Version; v != tls.VersionTLS13 {
		t.Errorf("TLS version %x", v)
	}
}

// TestConnectEpochKeys: the epoch format is spoken where both ends want it, and moves
// on under traffic.
func TestConnectEpochKeys(t *testing.T) {
	for _, tt := range []struct {
		name            string
		classic, client bool // either side keeps to the classic format
	}{{"both", false, false}, {"not the server", true, false}, {"not the client", false, true}} {
		t.Run(tt.name, func(t *testing.T) {
			s := startServer(t, Options{}, func(s *testServer) { s.endpoint.ClassicKeys = tt.classic })
			o := s.options(true)
			o.withoutEpoch = tt.client
			c, dev := connected(t, o)
			address := c.Settings().Local.String()
			passes(t, dev, s.device, ipUDP(address, host, 100))
			passes(t, s.device, dev, ipUDP(host, address, 200))
			key := c.peer.keys[0]
			if want := !tt.classic && !tt.client; (key.epochs != nil) != want {
				t.Fatalf("epoch keys: %v", !want)
			}
			if key.epochs == nil {
				return
			}
			unlock := c.peer.both()
			key.skip(t, futureEpochs)
			unlock()
			passes(t, dev, s.device, ipUDP(address, host, 300))
			passes(t, s.device, dev, ipUDP(host, address, 400))
			unlock = c.peer.both()
			defer unlock()
			if got := key.epochs.newest; got != 1+futureEpochs {
				t.Errorf("the server answers in epoch %d", got)
			}
		})
	}
}

// TestSettingsChange pushes other routes and DNS servers to a connected client, and
// nothing to one that does not take it.
func TestSettingsChange(t *testing.T) {
	for name, udp := range transports {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, Options{}, func(s *testServer) { s.endpoint.Pool6 = testPool6 })
			changes := make(chan wire.Push, 10)
			o := s.options(udp)
			o.OnChange = func(p wire.Push) { changes <- p }
			c, dev := connected(t, o)
			if p := c.Settings(); p.Local6.String() != "fd00:8::"+fmt.Sprint(p.Local.As4()[3])+"/64" || p.Gateway6.String() != "fd00:8::1" {
				t.Errorf("settings %+v", p)
			}
			s.endpoint.Routes = nil
			for i := range 100 { // several messages
				s.endpoint.Routes = append(s.endpoint.Routes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), 24))
			}
			s.endpoint.Routes = append(s.endpoint.Routes, prefixes("2001:db8:1::/48")...)
			s.endpoint.DNS, s.endpoint.Domain = []netip.Addr{netip.MustParseAddr("10.1.0.54")}, "example.org"
			// A bandwidth is nothing that clients are told.
			for _, mbps := range []int{0, 100} {
				s.endpoint.BandwidthMbps = mbps
				if err := s.Apply(Config{Endpoints: []Endpoint{s.endpoint}}); err != nil {
					t.Fatal(err)
				}
			}
			p := <-changes
			if fmt.Sprint(p.Routes) != fmt.Sprint(s.endpoint.Routes) || fmt.Sprint(p.DNS) != "[10.1.0.54]" || p.Domain != "example.org" {
				t.Errorf("changed to routes %v, DNS servers %v, domain %q", p.Routes, p.DNS, p.Domain)
			}
			if now := c.Settings(); !reflect.DeepEqual(now, p) {
				t.Errorf("the settings are %v", now.Options())
			}
			s.endpoint.Routes, s.endpoint.DNS, s.endpoint.Domain = nil, nil, ""
			if err := s.Apply(Config{Endpoints: []Endpoint{s.endpoint}}); err != nil {
				t.Fatal(err)
			}
			if p := <-changes; len(p.Routes) != 0 || len(p.DNS) != 0 || p.Domain != "" {
				t.Errorf("changed to %+v", p)
			}
			address := p.Local.String()
			passes(t, dev, s.device, ipUDP(address, host, 100))
		})
	}
}

// TestSettingsOfOldClients: who announces nothing of the kind is pushed no option
// of newer clients, and no change.
func TestSettingsOfOldClients(t *testing.T) {
	s := newRig(t, Options{}, nil)
	c := s.connected("tcp", "alice", "wonderland")
	if c.push.DNSOption || slices.Contains(c.push.Flags, wire.FlagEpochData) {
		t.Errorf("pushed %+v", c.push)
	}
	s.cfg.Routes = nil
	s.apply()
	c.say(wire.Exit) // what comes before the end has been sent before it
	s.event(EventDisconnected)
	for {
		m, err := c.message()
		if err != nil {
			break
		}
		if strings.HasPrefix(m, wire.PushUpdate) {
			t.Errorf("told %q", m)
		}
	}
}

func TestConnectNeedsTrustAnchors(t *testing.T) {
	s := newRig(t, Options{}, nil)
	c, err := Connect(t.Context(), ConnectOptions{Remote: s.endpoint().tcp[0], UserName: "alice", Password: "wonderland"})
	if err == nil || !strings.Contains(err.Error(), "RootCAs") {
		t.Errorf("%v, %v", c, err)
	}
	if s.checks.Load() != 0 {
		t.Error("the password was sent")
	}
}
