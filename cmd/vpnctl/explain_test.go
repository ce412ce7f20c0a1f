package main

import (
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
)

func TestExplanationText(t *testing.T) {
	x := client.Explanation{
		Name: "office-1", Status: "DOWN", Situation: "failed", Summary: "responder dh mismatch", Next: "negotiation is tried again", Count: 3,
		Diagnosis: &client.Diagnosis{
			Cause: "peer-identity", Exchange: "IKE_AUTH", BegunBy: "peer", Parameter: "peer identity", Ours: "ipv4 198.51.100.7", Theirs: "fqdn gw.example",
			Changes: []client.Remedy{
				{Field: "ikepolicy.peer_id_type", From: "ip", To: "fqdn"}, {Field: "ikepolicy.peer_id", From: "198.51.100.7", To: "gw.example"},
			},
			PeerChanges: []client.Remedy{{Field: "local identity", To: "ipv4 198.51.100.7"}},
		},
	}
	text := explanationText(&x)
	for _, want := range []string{
		"office-1 is DOWN (failed)\n", "cause              peer-identity\n", "IKE_AUTH, begun by the peer\n",
		"change here        ikepolicy.peer_id_type: ip → fqdn\n  and              ikepolicy.peer_id: 198.51.100.7 → gw.example\n",
		"or at the peer     local identity: ipv4 198.51.100.7\n", "3 times since", "next               negotiation is tried again\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("nothing of %q in\n%s", want, text)
		}
	}
	x.Diagnosis.AnyOf = true
	if text := explanationText(&x); !strings.Contains(text, "  or               ikepolicy.peer_id") {
		t.Errorf("one of the changes is needed:\n%s", text)
	}
	x.Diagnosis = nil
	if text := explanationText(&x); !strings.Contains(text, "summary            responder dh mismatch") {
		t.Errorf("without a diagnosis:\n%s", text)
	}
}

func TestEventText(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	for _, test := range []struct {
		event client.Event
		want  string
	}{
		{
			client.Event{
				Time: at, Event: "ike-up", BegunBy: "peer", IKEVersion: 2, Local: "203.0.113.1:500", Peer: "198.51.100.7:500",
				InitiatorSPI: "0123", ResponderSPI: "4567", Proposal: "IKE: AES-GCM-16-128",
			},
			"2026-01-02 03:04:05  ike-up; begun by the peer; IKEv2; 203.0.113.1:500 - 198.51.100.7:500; SPIs 0123 4567; IKE: AES-GCM-16-128",
		},
		{
			client.Event{Time: at, Event: "child-up", Child: "any", SPIIn: "1", SPIOut: "2", LocalSelectors: []string{"10.0.0.0/8"}, PeerSelectors: []string{"0.0.0.0/0"}, UDP: true},
			"2026-01-02 03:04:05  child-up; any; SPIs in 1 out 2; 10.0.0.0/8 - 0.0.0.0/0; ESP in UDP",
		},
		{
			client.Event{
				Time: at, Event: "failed", Reason: "responder dh mismatch", Count: 8, Since: at.Add(-time.Hour),
				Diagnosis: &client.Diagnosis{Parameter: "DH group", Exchange: "IKE_SA_INIT", Ours: "ECP-256"},
			},
			"2026-01-02 03:04:05  failed; responder dh mismatch; DH group in IKE_SA_INIT; ours ECP-256, theirs not told (8 times since 2026-01-02 02:04:05)",
		},
	} {
		if have := eventText(&test.event); have != test.want {
			t.Errorf("have %s\nwant %s", have, test.want)
		}
	}
}

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"": {}, "2h": now.Add(-2 * time.Hour), "2026-01-01T00:00:00Z": time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		"2026-01-01": time.Date(2026, 1, 1, 0, 0, 0, 0, time.Local), "2026-01-01 10:20:30": time.Date(2026, 1, 1, 10, 20, 30, 0, time.Local),
	} {
		if have, err := parseSince(text, now); err != nil || !have.Equal(want) {
			t.Errorf("%q: %v, %v, want %v", text, have, err, want)
		}
	}
	for _, text := range []string{"yesterday", "-2h"} {
		if _, err := parseSince(text, now); err == nil {
			t.Errorf("%q is taken for a time", text)
		}
	}
}
