package sslvpn

import (
	"errors"
	"testing"

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
