package sslvpn

import (
	"crypto/x509"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/dataplane/tun"
)

func TestPoliciesChangeLive(t *testing.T) {
	s := newRig(t, Options{}, nil)
	alice := s.connected("udp", "alice", "wonderland")
	bob := s.connected("tcp", "bob", "builder")
	steps := []struct {
		name       string
		change     func()
		alice, bob bool // reaches 192.168.77.1
	}{
		{"at first", func() {}, true, false},
		{"nothing is left", func() { s.cfg.Policies = nil }, false, false},
		{"for the other group", func() {
			s.cfg.Policies = []Policy{{ID: "p2", Group: "g2", Destinations: testRoutes}}
		}, false, true},
		{"alice joins it", func() {
			s.cfg.Users = slices.Clone(s.cfg.Users)
			s.cfg.Users[0].Group = "g2"
		}, true, true},
		{"one address less", func() {
			s.cfg.Policies = []Policy{{ID: "p2", Group: "g2", Destinations: []netip.Prefix{netip.MustParsePrefix("192.168.77.2/31")}}}
		}, false, false},
	}
	for _, step := range steps {
		step.change()
		s.apply()
		if a, b := s.reaches(alice, "192.168.77.1"), s.reaches(bob, "192.168.77.1"); a != step.alice || b != step.bob {
			t.Errorf("%s: alice %t, bob %t", step.name, a, b)
		}
	}
	if n := len(s.server.Snapshot()[0].Sessions); n != 2 {
		t.Errorf("%d sessions", n)
	}
}

// What a change of the configuration does to a session.
func TestChangesEndSessions(t *testing.T) {
	tests := []struct {
		name         string
		change       func(*Endpoint)
		told, reason string // empty: the session goes on
	}{
		{"nothing", func(*Endpoint) {}, "", ""},
		{"another user", func(e *Endpoint) { e.Users = e.Users[:1] }, "", ""},
		{"routes, DNS and limits", func(e *Endpoint) {
			e.Routes, e.DNS, e.MaxSessions, e.BandwidthMbps = nil, nil, 1, 100
		}, "", ""},
		{"the user is gone", func(e *Endpoint) { e.Users = e.Users[1:] }, "HALT,the user was deleted", "the user was deleted"},
		{"another of the name", func(e *Endpoint) { e.Users[0].ID = "u9" }, "HALT,the user was deleted", "the user was deleted"},
		{"the password", func(e *Endpoint) { e.Users[0].PasswordHash = "hash of x" }, "AUTH_FAILED,the password was changed", "the password was changed"},
		{
			"a static address", func(e *Endpoint) { e.Users[0].StaticIP = netip.MustParseAddr("10.8.0.13") },
			"RESTART,[P]:another address", "was given the address 10.8.0.13",
		},
		{
			"the address is another's", func(e *Endpoint) { e.Users[1].StaticIP = netip.MustParseAddr("10.8.0.5") },
			"RESTART,[P]:another address", "10.8.0.5 was given to another user",
		},
		{"its own address made static", func(e *Endpoint) { e.Users[0].StaticIP = netip.MustParseAddr("10.8.0.5") }, "", ""},
		{"cipher", func(e *Endpoint) { e.Cipher = AES256GCM }, "RESTART,[P]:the server was changed", "the server was changed or removed"},
		{"pool", func(e *Endpoint) { e.Pool = netip.MustParsePrefix("10.9.0.0/24") }, "RESTART,[P]:the server was changed", "the server was changed or removed"},
	}
	for _, tt := range tests {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(tt.name+"/"+network, func(t *testing.T) {
				s := newRig(t, Options{}, nil)
				c := s.connected(network, "alice", "wonderland")
				s.cfg.Users = slices.Clone(s.cfg.Users)
				tt.change(&s.cfg)
				s.apply()
				if tt.told == "" {
					if !s.reaches(c, "192.168.77.1") && s.cfg.Routes != nil {
						t.Error("the session does not go on")
					}
					return
				}
				if m, err := c.message(); err != nil || !strings.HasPrefix(m, tt.told) {
					t.Errorf("told %q, %v, want %q", m, err, tt.told)
				}
				if e := s.event(EventDisconnected); !strings.Contains(e.Reason, tt.reason) {
					t.Errorf("reason %q, want %q", e.Reason, tt.reason)
				}
				if n := len(s.server.Snapshot()[0].Sessions); n != 0 {
					t.Errorf("%d sessions", n)
				}
			})
		}
	}
}

func TestCertificateChangesEndSessions(t *testing.T) {
	s := newRig(t, Options{}, func(s *rig) {
		s.cfg.Auth = AuthCertificate
		s.cfg.ClientCAs = []*x509.Certificate{s.clients.cert, newAuthority(s.t, "other").cert}
	})
	connect := func() (*testClient, *x509.Certificate) {
		cert := s.clients.client("laptop-7", nil)
		c := s.dial("tcp")
		c.connect(s.trust(cert), "", "")
		s.event(EventConnected)
		return c, cert.Leaf
	}
	revoked, leaf := connect()
	kept, _ := connect()
	s.cfg.ClientCRLs = []*x509.RevocationList{s.clients.revoke(s.clients.cert.NotAfter, leaf)}
	s.apply()
	if m, err := revoked.message(); err != nil || !strings.HasPrefix(m, "HALT,") {
		t.Errorf("told %q, %v", m, err)
	}
	if e := s.event(EventDisconnected); !strings.Contains(e.Reason, "was revoked on") {
		t.Errorf("reason %q", e.Reason)
	}
	if !s.reaches(kept, "192.168.77.1") {
		t.Error("the other session does not go on")
	}
	s.cfg.ClientCAs = s.cfg.ClientCAs[1:]
	s.apply()
	if e := s.event(EventDisconnected); !strings.Contains(e.Reason, "signed by none of the client CAs") {
		t.Errorf("reason %q", e.Reason)
	}
}

func TestDisconnect(t *testing.T) {
	s := newRig(t, Options{}, nil)
	c := s.connected("tcp", "alice", "wonderland")
	if !s.reaches(c, "192.168.77.1") {
		t.Error("a packet did not arrive")
	}
	// A batch is counted once it has been written to the device.
	var all []Session
	s.until("the packet is counted", func() bool {
		all = s.server.Snapshot()[0].Sessions
		return len(all) == 1 && all[0].Inbound == (Traffic{1, 28})
	})
	if all[0].User != "alice" || all[0].Remote.String() != c.conn.LocalAddr().String() {
		t.Fatalf("sessions: %+v", all)
	}
	if s.server.Disconnect("ep1", "x") || s.server.Disconnect("x", all[0].ID) {
		t.Error("an unknown session was found")
	}
	if !s.server.Disconnect("ep1", all[0].ID) {
		t.Error("the session was not found")
	}
	if m, err := c.message(); err != nil || m != "RESTART,[P]:disconnected by the operator" {
		t.Errorf("told %q, %v", m, err)
	}
	if e := s.event(EventDisconnected); e.Reason != "disconnected by the operator" || e.Session.Inbound != (Traffic{1, 28}) || e.Session.ID != all[0].ID {
		t.Errorf("event %+v", e)
	}
	again := s.connected("tcp", "alice", "wonderland")
	if again.push.Local != c.push.Local {
		t.Errorf("address %s, before %s", again.push.Local, c.push.Local)
	}
}

func TestApplyRejects(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Endpoint)
		want   string
	}{
		{"certificate", func(e *Endpoint) { e.Certificate = nil }, "certificate:"},
		{"cipher", func(e *Endpoint) { e.Cipher = "BF-CBC" }, `cipher "BF-CBC"`},
		{"auth", func(e *Endpoint) { e.Auth = 0 }, "auth:"},
		{"nowhere to listen", func(e *Endpoint) { e.TCP, e.UDP = nil, nil }, "listen addresses:"},
		{"device", func(e *Endpoint) { e.Device = "a-name-that-is-too-long" }, "device "},
		{"limit", func(e *Endpoint) { e.MaxSessions = -1 }, "limits "},
		{"two users of a name", func(e *Endpoint) { e.Users = append(slices.Clone(e.Users), e.Users[0]) }, `user "alice"`},
		{"user name", func(e *Endpoint) { e.Users = []User{{Name: "a\nb"}} }, `user "a\nb"`},
		{"route", func(e *Endpoint) { e.Routes = []netip.Prefix{netip.MustParsePrefix("fd00::/8")} }, "route "},
		{"DNS", func(e *Endpoint) { e.DNS = []netip.Addr{netip.MustParseAddr("fd00::1")} }, "DNS server "},
		{"pool", func(e *Endpoint) { e.Pool = netip.MustParsePrefix("10.8.0.0/30") }, "pool "},
		{"static address", func(e *Endpoint) { e.Users = []User{{Name: "a", StaticIP: netip.MustParseAddr("10.8.0.6")}} }, "address 10.8.0.6"},
	}
	s := newRig(t, Options{}, nil)
	c := s.connected("tcp", "alice", "wonderland")
	for _, tt := range tests {
		bad := s.cfg
		tt.change(&bad)
		if err := s.server.Apply(Config{Endpoints: []Endpoint{bad}}); err == nil || !strings.Contains(err.Error(), "endpoint ep1: "+tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err := s.server.Snapshot()[0].Err; err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: status %v", tt.name, err)
		}
	}
	if !s.reaches(c, "192.168.77.1") {
		t.Error("the last good settings are not in force")
	}
	if err := s.server.Apply(Config{Endpoints: []Endpoint{s.cfg, s.cfg}}); err == nil || !strings.Contains(err.Error(), "not unique") {
		t.Errorf("an endpoint twice: %v", err)
	}
	s.apply()
	if err := s.server.Snapshot()[0].Err; err != nil {
		t.Errorf("status %v", err)
	}
}

// An endpoint that cannot be started does not keep others from it, and is tried
// again.
func TestStartFails(t *testing.T) {
	s := newRig(t, Options{}, nil)
	other := s.cfg
	other.ID, other.Device = "ep2", "test1"
	other.TCP, other.UDP = []netip.AddrPort{s.endpoint().tcp[0]}, nil
	err := s.server.Apply(Config{Endpoints: []Endpoint{other, s.cfg}})
	if err == nil || !strings.Contains(err.Error(), "endpoint ep2: listen on TCP 127.0.0.1:") {
		t.Errorf("a port in use: %v", err)
	}
	status := s.server.Snapshot()
	if len(status) != 2 || status[0].Err != nil || status[1].ID != "ep2" || status[1].Err == nil {
		t.Errorf("status: %+v", status)
	}
	s.server.opts.OpenDevice = func(string, int, int) (tun.Device, error) { return nil, errors.New("no such device") }
	other.TCP = s.cfg.TCP
	if err := s.server.Apply(Config{Endpoints: []Endpoint{other, s.cfg}}); err == nil || !strings.Contains(err.Error(), "device test1: no such device") {
		t.Errorf("no device: %v", err)
	}
	s.server.opts.OpenDevice = func(name string, queues, _ int) (tun.Device, error) { return tun.NewChannel(name, queues, 1), nil }
	if err := s.server.Apply(Config{Endpoints: []Endpoint{other, s.cfg}}); err != nil {
		t.Errorf("at last: %v", err)
	}
	// A device that breaks down is noticed, and made anew.
	s.mu.Lock()
	dev := s.dev
	s.mu.Unlock()
	dev.Close()
	s.until("the loss of the device is noticed", func() bool { return s.endpoint().dead() != nil })
	if err := s.server.Apply(Config{Endpoints: []Endpoint{other, s.cfg}}); err != nil {
		t.Errorf("after the loss: %v", err)
	}
	if err := s.server.Snapshot()[0].Err; err != nil {
		t.Errorf("status after the loss: %v", err)
	}
}
