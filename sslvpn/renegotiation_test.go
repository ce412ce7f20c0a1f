package sslvpn

import (
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// renegotiate brings the next key id about as far as the login. begun says that
// the server has sent its reset, and reset that the client sends one: OpenVPN 3
// does not when the server has begun.
func (c *testClient) renegotiate(s *rig, begun, reset bool, user, password string) wire.ServerKeys {
	c.t.Helper()
	c.restart(wire.NextKeyID(c.keyID))
	switch {
	case begun:
		c.mu.Lock()
		c.rel.receive(wire.SoftReset, 0, nil)
		c.rel.deliver()
		if reset {
			_ = c.rel.queue(wire.SoftReset, nil)
			c.flush()
		}
		c.mu.Unlock()
	case reset:
		c.hello()
	}
	if err := c.handshake(s.trust(nil)); err != nil {
		c.t.Fatalf("TLS: %v", err)
	}
	keys, err := c.login(user, password)
	if err != nil {
		c.t.Fatalf("login: %v", err)
	}
	return keys
}

// awaitServer waits for the server's soft reset, which the client has not begun itself.
func (c *testClient) awaitServer() {
	c.t.Helper()
	if r := c.awaitReset(); r.Opcode != wire.SoftReset || r.KeyID != wire.NextKeyID(c.keyID) || r.PacketID != 0 {
		c.t.Fatalf("not a soft reset for the next key id: %+v", r)
	}
}

func TestClientRenegotiates(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			s := newRig(t, Options{}, nil)
			c := s.connected(network, "alice", "wonderland")
			ep := s.endpoint()
			for range wire.MaxKeyID + 2 { // over the wrap of the key id
				old := c.key
				token := c.push.AuthToken
				data := ep.established()[0].client.Load()
				data.received.Store(0)
				keys := c.renegotiate(s, false, true, "alice", token)
				m, err := c.message()
				if err != nil || !strings.HasPrefix(m, "PUSH_REPLY,auth-token "+tokenPrefix) {
					t.Fatalf("told %q, %v", m, err)
				}
				if data.lastReceived().IsZero() {
					t.Error("the renegotiation is no sign of life")
				}
				c.install(&keys, false)
				fresh := c.key
				if c.key = old; !s.reaches(c, "192.168.77.1") {
					t.Error("the old key is not taken any more")
				}
				if c.key = fresh; !s.reaches(c, "192.168.77.1") {
					t.Error("the new key is not taken")
				}
				for _, session := range ep.established() { // the client may at once begin the next
					session.mu.Lock()
					session.times.begun = time.Time{}
					session.mu.Unlock()
				}
			}
			if n := s.checks.Load(); n != 1 {
				t.Errorf("%d password checks", n)
			}
			if n := len(s.server.Snapshot()[0].Sessions); n != 1 {
				t.Errorf("%d sessions", n)
			}
		})
	}
}

func TestServerRenegotiates(t *testing.T) {
	for name, reset := range map[string]bool{"with a reset": true, "without a reset": false} {
		t.Run(name, func(t *testing.T) {
			s := newRig(t, Options{}, nil)
			c := s.connected("tcp", "alice", "wonderland")
			session := s.endpoint().established()[0]
			for range 3 {
				session.renegotiate("a test")
				session.renegotiate("said twice")
				c.awaitServer()
				keys := c.renegotiate(s, true, reset, "alice", c.push.AuthToken)
				if _, err := c.message(); err != nil {
					t.Fatal(err)
				}
				c.install(&keys, false)
				if !s.reaches(c, "192.168.77.1") {
					t.Error("the new key is not taken")
				}
			}
		})
	}
}

// What a renegotiation must not do.
func TestRenegotiationKeepsIdentity(t *testing.T) {
	for _, tt := range []struct {
		name, user, password, told, reason string
	}{
		{"another user", "bob", "builder", "AUTH_FAILED,the login of the renegotiation", "not that of the session"},
		{"wrong password", "alice", "x", "AUTH_FAILED," + loginRefused, "wrong password"},
		{"forged token", "alice", tokenPrefix + strings.Repeat("A", 80), "AUTH_FAILED,SESSION:", "auth-token"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newRig(t, Options{}, nil)
			c := s.connected("tcp", "alice", "wonderland")
			c.renegotiate(s, false, true, tt.user, tt.password)
			if m, err := c.message(); err != nil || !strings.HasPrefix(m, tt.told) {
				t.Errorf("told %q, %v, want %q", m, err, tt.told)
			}
			if e := s.event(EventDisconnected); !strings.Contains(e.Reason, tt.reason) || e.Session.User != "alice" {
				t.Errorf("event %+v", e)
			}
			if n := len(s.server.Snapshot()[0].Sessions); n != 0 {
				t.Errorf("%d sessions", n)
			}
		})
	}
}

// A renegotiation that a client, or somebody in its name, begins and does not
// end leaves the session as it was; one that the server needs ends it.
func TestRenegotiationUnfinished(t *testing.T) {
	expire := func(session *session) (expired bool) {
		session.mu.Lock()
		if k := session.negotiating(); k != nil {
			k.deadline, expired = time.Unix(1, 0), true
		}
		session.mu.Unlock()
		session.tick()
		return expired
	}
	t.Run("begun by the client", func(t *testing.T) {
		s := newRig(t, Options{}, nil)
		c := s.connected("udp", "alice", "wonderland")
		session := s.endpoint().established()[0]
		c.restart(1)
		c.hello()
		if !expire(session) {
			t.Error("nothing is being negotiated")
		}
		s.until("it is given up", func() bool { return s.drops(dropNegotiation) == 1 })
		if !s.reaches(c, "192.168.77.1") {
			t.Error("the session does not go on")
		}
		session.mu.Lock()
		session.times.begun = time.Now()
		session.mu.Unlock()
		reset := wire.Control{Opcode: wire.SoftReset, KeyID: 1, Session: c.id}
		c.write(reset.Append(nil))
		s.until("another one comes too soon", func() bool { return s.drops(dropTooOften) == 1 })
	})
	t.Run("needed by the server", func(t *testing.T) {
		s := newRig(t, Options{}, nil)
		c := s.connected("tcp", "alice", "wonderland")
		session := s.endpoint().established()[0]
		session.renegotiate("a test")
		if !expire(session) {
			t.Error("nothing is being negotiated")
		}
		if m, err := c.message(); err != nil || m != "RESTART,[P]:renegotiation failed" {
			t.Errorf("told %q, %v", m, err)
		}
		if e := s.event(EventDisconnected); !strings.HasPrefix(e.Reason, "renegotiation failed: ") {
			t.Errorf("reason %q", e.Reason)
		}
	})
}

// A client that says nothing is pinged, and given up after twice the time that
// it was told to wait itself.
func TestSilentClient(t *testing.T) {
	s := newRig(t, Options{}, nil)
	c := s.connected("tcp", "alice", "wonderland")
	session := s.endpoint().established()[0]
	data := session.client.Load()
	now := time.Now()
	session.keepAlive(now.Add(pingInterval), data)
	select {
	case p := <-c.data:
		if _, _, why := c.key.openIn(p); why != reasonNone {
			t.Errorf("ping: %s", why)
		}
	case <-time.After(20 * time.Second):
		t.Error("no ping")
	}
	session.keepAlive(now.Add(clientTimeout-5*time.Second), data)
	if n := len(s.server.Snapshot()[0].Sessions); n != 1 {
		t.Errorf("%d sessions", n)
	}
	session.keepAlive(now.Add(clientTimeout+5*time.Second), data)
	if m, err := c.message(); err != nil || m != "RESTART,[P]:ping timeout" {
		t.Errorf("told %q, %v", m, err)
	}
	if e := s.event(EventDisconnected); e.Reason != "nothing was heard of the client for 2m0s" {
		t.Errorf("reason %q", e.Reason)
	}
}

// A client that begins a renegotiation and leaves it there does not keep the
// server from having its own.
func TestRenegotiationIsPutOff(t *testing.T) {
	s := newRig(t, Options{RenegotiateAfter: -1}, nil)
	c := s.connected("tcp", "alice", "wonderland")
	reset := wire.Control{Opcode: wire.SoftReset, KeyID: 1, Session: c.id}
	c.write(reset.Append(nil))
	c.awaitServer() // its answer
	session := s.endpoint().established()[0]
	session.renegotiate("the data keys are used up")
	session.mu.Lock()
	stalled, at := session.negotiating(), session.times.renegotiate
	session.mu.Unlock()
	if at.IsZero() {
		t.Fatal("forgotten")
	}
	session.failed(stalled, errNegotiation)
	session.mu.Lock()
	now := time.Now()
	session.times.renegotiate = now
	session.schedule(now)
	session.mu.Unlock()
	c.awaitServer()
}
