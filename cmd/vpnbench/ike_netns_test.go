//go:build netns

package main

import "testing"

// TestNetNSIKE sets a few tunnels up between every two ends. What it measures
// says nothing in a test; that all tunnels stand does.
func TestNetNSIKE(t *testing.T) {
	o := ikeOptions{tunnels: 60, rounds: 1, groups: []string{"curve25519"}, responders: ikeEnds, initiators: ikeEnds, seconds: 1}
	results, err := runIKE(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != len(ikeEnds)*len(ikeEnds) {
		t.Errorf("%d results", len(results))
	}
	for _, r := range results {
		if r.SetupsPerSecond <= 0 || r.CPU <= 0 || r.Ratio <= 0 {
			t.Errorf("%+v", r)
		}
	}
}

// maxFloodGrowth is far above what the half-open IKE SAs that the limits allow
// take, and far below what one for each message would.
const maxFloodGrowth = 120 // MB

// TestNetNSIKEFlood floods with forged first messages of every kind: a peer sets
// its tunnel up all the same, and memory is bounded.
func TestNetNSIKEFlood(t *testing.T) {
	results, err := runFloods(t.Context(), ikeOptions{tunnels: 1, groups: []string{"ecp256"}, flood: 20000, seconds: 5})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != len(floodKinds) {
		t.Fatalf("%d results", len(results))
	}
	for _, r := range results {
		t.Logf("%+v", r)
		if r.SentPerSecond < 100 || r.HandledPerSecond < 10 {
			t.Errorf("%s: %.0f messages a second were sent and %.0f handled: that is no flood", r.Kind, r.SentPerSecond, r.HandledPerSecond)
		}
		if r.Memory > maxFloodGrowth {
			t.Errorf("%s: the responder grew by %.0f MB", r.Kind, r.Memory)
		}
	}
}
