package sslvpn

import (
	"crypto/tls"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// A session can end at any moment, while other goroutines are at work for it.

func TestMessagesForASessionThatHasEnded(t *testing.T) {
	s := newRig(t, Options{}, nil)
	s.connected("udp", "alice", "wonderland")
	session := s.endpoint().established()[0]
	session.end(ending{reason: "over"}) // as when its connection breaks while the settings are pushed
	session.push()
	session.send(wire.PushToken("token"))
	session.message(wire.PushRequest)
	if e := s.event(EventDisconnected); e.Reason != "over" {
		t.Errorf("reason: %q", e.Reason)
	}
}

func TestAttachAfterTheEnd(t *testing.T) {
	s := newRig(t, Options{}, nil)
	s.connected("tcp", "alice", "wonderland")
	ep := s.endpoint()
	session := ep.established()[0]
	c := session.client.Load()
	session.end(ending{reason: "over"})
	if err := ep.attach(session, c); !errors.Is(err, errSessionEnded) {
		t.Errorf("attached: %v", err)
	}
	if ep.plane.lookup(c.address) != nil {
		t.Error("the address stays that of a session which has ended")
	}
	again := s.connected("tcp", "alice", "wonderland")
	if again.push.Local != c.virtualIP {
		t.Errorf("the address is not given again: %s, before %s", again.push.Local, c.virtualIP)
	}
	if !s.reaches(again, "192.168.77.1") {
		t.Error("a packet did not arrive")
	}
}

// A first login that fails after its verdict leaves no session without a
// control channel.
func TestFirstNegotiationFailsLate(t *testing.T) {
	s := newRig(t, Options{}, nil)
	s.connected("tcp", "alice", "wonderland")
	session := s.endpoint().established()[0]
	session.mu.Lock()
	k := session.keys[0]
	session.mu.Unlock()
	session.failed(k, errors.New("the address is in use"))
	if e := s.event(EventDisconnected); e.Reason != "the address is in use" {
		t.Errorf("reason: %q", e.Reason)
	}
}

// Clients come and go at every stage while the settings change and sessions are
// disconnected: nothing is left of them, and nobody waits for ever.
func TestCommotion(t *testing.T) {
	s := newRig(t, Options{}, nil)
	tcp, udp := s.endpoint().tcp[0], s.endpoint().udp[0].socket.local()
	trust := s.trust(nil)
	var clients, others sync.WaitGroup
	stop := make(chan struct{})
	repeat := func(f func(i int)) {
		others.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
					f(i)
				}
			}
		})
	}
	repeat(func(i int) {
		cfg := s.cfg
		cfg.Users = append([]User(nil), s.cfg.Users...)
		if i%2 == 0 {
			cfg.Users[1].StaticIP = netip.MustParseAddr("10.8.0.5")
		}
		if i%3 == 0 {
			cfg.Policies = nil
		}
		if err := s.server.Apply(Config{Endpoints: []Endpoint{cfg}}); err != nil {
			t.Errorf("Apply: %v", err)
		}
	})
	repeat(func(int) {
		for _, status := range s.server.Snapshot() {
			for _, session := range status.Sessions {
				s.server.Disconnect("ep1", session.ID)
			}
		}
	})
	for worker := range 4 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			for i := range 30 {
				network, address, user, password := "tcp", tcp, "alice", "wonderland"
				if i%2 == 1 {
					network, address = "udp", udp
				}
				if worker%2 == 1 {
					user, password = "bob", "builder"
				}
				c := dialTest(t, network, address)
				life := time.AfterFunc(time.Duration(random.IntN(int(30*time.Millisecond))), func() {
					c.mu.Lock()
					defer c.mu.Unlock()
					if c.stream {
						c.conn.Close()
					}
					c.in.write(nil, errSessionEnded)
				})
				c.commotion(trust, user, password)
				life.Stop()
				c.conn.Close()
				c.mu.Lock()
				c.in.write(nil, errSessionEnded)
				c.mu.Unlock()
			}
		})
	}
	clients.Wait()
	close(stop)
	others.Wait()
	s.until("nothing is kept", func() bool {
		ep := s.endpoint()
		for _, session := range ep.udp[0].all() { // of clients that said nothing, or take no leave
			session.end(ending{reason: "the test is over"})
			session.finish()
		}
		ep.mu.Lock()
		defer ep.mu.Unlock()
		taken := 0
		for _, b := range ep.pool.blocks {
			if b.taken {
				taken++
			}
		}
		for i := range ep.plane.blocks {
			if ep.plane.blocks[i].Load() != nil {
				taken++
			}
		}
		ep.byPeerID.Range(func(any, any) bool { taken++; return true })
		return taken == 0 && len(ep.opening)+len(ep.sessions)+len(ep.perUser) == 0
	})
	s.until("no client is half-open, none is on UDP", func() bool { return s.halfOpenNow() == 0 && s.origins() == 0 })
	s.apply()
	connected, disconnected := 0, 0
	for reading := true; reading; {
		select {
		case e := <-s.server.Events():
			switch e.Kind {
			case EventConnected:
				connected++
			case EventDisconnected:
				disconnected++
			case EventAuthFailed: // the address was another's for a moment
			}
		default:
			reading = false
		}
	}
	if connected == 0 || connected != disconnected {
		t.Errorf("%d connected, %d disconnected", connected, disconnected)
	}
	if c := s.connected("tcp", "alice", "wonderland"); !s.reaches(c, "192.168.77.1") {
		t.Error("a packet did not arrive")
	}
}

// all returns the sessions in any stage.
func (l *udpListener) all() []*session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.byControl))
}

// commotion connects as far as it is let.
func (c *testClient) commotion(cfg *tls.Config, user, password string) {
	c.mu.Lock()
	_ = c.rel.queue(wire.HardResetClientV2, nil)
	c.flush()
	c.mu.Unlock()
	select {
	case <-c.resets:
	case <-time.After(50 * time.Millisecond): // its end has come first
		return
	}
	if c.handshake(cfg) != nil {
		return
	}
	if _, err := c.login(user, password); err != nil {
		return
	}
	for {
		if _, err := c.message(); err != nil {
			return
		}
	}
}
