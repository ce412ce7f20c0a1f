//go:build netns

package main

import "testing"

// TestNetNSMeasureP2C runs our own and stock clients through our server. What it
// measures says nothing in a test; that it measures does.
func TestNetNSMeasureP2C(t *testing.T) {
	results, err := runP2C(t.Context(), p2cOptions{
		seconds: 1, rounds: 1, pairs: []string{ours + "/" + ours, ours + "/" + stock},
		transports: p2cTransports, directions: p2cDirections, clients: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 8 {
		t.Errorf("%d results", len(results))
	}
	for _, r := range results {
		if r.GbitPerSecond <= 0 || r.ServerCPU <= 0 || r.ClientCPU <= 0 || r.ClientCores <= 0 || r.MachineCores <= 0 || r.Ratio != 0 {
			t.Errorf("%+v", r)
		}
	}
}

func TestNetNSSessions(t *testing.T) {
	results, err := runSessions(t.Context(), sessionsOptions{sessions: 20, parallel: 4, servers: []string{ours}, transport: "tcp"})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 1 || results[0].Seconds <= 0 || results[0].ServerCPU < 0 {
		t.Errorf("%+v", results)
	}
}

// Two hundred sessions that are killed and come back all at once cost the pings
// through others nothing.
func TestNetNSReconnectStorm(t *testing.T) {
	results, err := runSessions(t.Context(), sessionsOptions{sessions: 50, parallel: 8, servers: []string{ours}, transport: "tcp", reconnect: 200})
	if err != nil {
		t.Fatal(err)
	}
	storm := results[0].Storm
	if storm == nil || storm.Sessions != 200 || storm.Seconds <= 0 || storm.Calm.Sent < stormWatched || storm.Storm.Sent < stormWatched ||
		storm.Calm.Lost+storm.Storm.Lost > 0 {
		t.Errorf("%+v", storm)
	}
}
