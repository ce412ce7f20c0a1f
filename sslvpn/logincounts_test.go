package sslvpn

import (
	"maps"
	"testing"
)

// The counts of an endpoint outlive the sessions that they are of.
func TestLoginCounts(t *testing.T) {
	s := newRig(t, Options{}, nil)
	s.dial("tcp").refused(s.trust(nil), "alice", "x")
	s.dial("tcp").refused(s.trust(nil), "eve", "x")
	s.dial("tcp").refused(s.trust(nil), "eve", "y")
	want := map[string]uint64{"wrong_password": 1, "unknown_user": 2}
	s.until("three failures are counted", func() bool {
		return maps.Equal(s.server.Snapshot()[0].LoginFailures, want)
	})

	c := s.connected("tcp", "alice", "wonderland")
	for _, session := range s.endpoint().established() {
		session.client.Load().inbound.add(3, 300)
		session.client.Load().outbound.add(2, 200)
	}
	c.conn.Close()
	s.event(EventDisconnected)
	status := s.server.Snapshot()[0]
	if status.Logins != 1 || len(status.Sessions) != 0 || status.Inbound != (Traffic{3, 300}) || status.Outbound != (Traffic{2, 200}) {
		t.Errorf("status: %+v", status)
	}
}
