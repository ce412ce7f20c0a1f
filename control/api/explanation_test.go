package api

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
)

func TestConnectionDiagnosis(t *testing.T) {
	b := newBench(t)
	id, _, _ := b.createConnection()
	b.report(id, control.ConnectionStatus{
		State: control.ConnectionDown, Message: "responder dh mismatch",
		Diagnosis: &control.Diagnosis{
			Cause: "ike-group", Exchange: "IKE_SA_INIT", BegunBy: control.PeerSide, Parameter: "DH group", Ours: "ECP-256", Theirs: "MODP-3072",
			Changes:     []control.Remedy{{Field: "ikepolicy.dh_group", From: "group19", To: "group15"}},
			PeerChanges: []control.Remedy{{Field: "DH group", From: "MODP-3072", To: "ECP-256"}},
		},
	})
	first := b.now.Add(-time.Hour)
	b.engines.tunnels = map[string]control.TunnelState{id: {
		Initiates: true, Wanted: 1, Failures: 7, First: first, Last: b.now, NextTry: b.now.Add(time.Minute),
		Strangers: []control.Stranger{{Address: netip.MustParseAddr("198.51.100.99"), Last: b.now.Add(-5 * time.Second), Count: 3}},
	}}
	a := b.call(http.MethodGet, path("vpn-connection", id, "diagnosis"), nil).want(http.StatusOK)
	x := a.body["explanation"].(object)
	wantMembers(t, x, object{
		"vpn_connection_id": id, "status": "DOWN", "situation": "failed", "summary": "responder dh mismatch", "count": 7,
		"first": first.Format(time.RFC3339), "next": "negotiation is tried again at growing intervals",
	})
	d := x["diagnosis"].(object)
	wantMembers(t, d, object{"cause": "ike-group", "exchange": "IKE_SA_INIT", "begun_by": "peer", "parameter": "DH group", "ours": "ECP-256", "theirs": "MODP-3072"})
	wantMembers(t, d["changes"].([]any)[0].(object), object{"field": "ikepolicy.dh_group", "from": "group19", "to": "group15"})
	wantMembers(t, d["peer_changes"].([]any)[0].(object), object{"field": "DH group", "from": "MODP-3072", "to": "ECP-256"})
	stranger := false
	for _, f := range x["facts"].([]any) {
		stranger = stranger || f.(object)["name"] == "unknown peer 198.51.100.99"
	}
	if !stranger {
		t.Errorf("the facts are %v", x["facts"])
	}
	// The same is in the connection itself.
	shown := b.call(http.MethodGet, path("vpn-connection", id), nil).want(http.StatusOK)
	wantMembers(t, shown.body["vpn_connection"].(object)["diagnosis"].(object), object{"cause": "ike-group"})
	b.call(http.MethodGet, path("vpn-connection", vpcID, "diagnosis"), nil).wantError(http.StatusNotFound, "VPN.0004", "")
}

func TestConnectionHistory(t *testing.T) {
	b := newBench(t)
	id, _, _ := b.createConnection()
	now := b.now
	b.engines.tunnels = map[string]control.TunnelState{id: {}}
	b.engines.events = map[string][]control.ConnectionEvent{id: {
		{
			Time: now, Event: control.EventChildUp, BegunBy: control.OurSide, Child: "any", SPIIn: "c0ffee01", SPIOut: "0badcafe",
			LocalSelectors: []string{"0.0.0.0/0"}, PeerSelectors: []string{"0.0.0.0/0"}, NAT: []control.Side{control.PeerSide}, UDP: true,
		},
		{Time: now.Add(-time.Hour), Event: control.EventFailed, Reason: "authentication fail", Cause: "pre-shared-key", Count: 3, Since: now.Add(-2 * time.Hour)},
	}}
	list := func(query string) []any {
		t.Helper()
		return b.call(http.MethodGet, path("vpn-connection", id, "history"+query), nil).want(http.StatusOK).list("events")
	}
	events := list("")
	if len(events) != 2 {
		t.Fatalf("%d events", len(events))
	}
	wantMembers(t, events[0].(object), object{"event": "child-up", "begun_by": "gateway", "child": "any", "spi_in": "c0ffee01", "spi_out": "0badcafe", "udp": true})
	wantMembers(t, events[1].(object), object{"event": "failed", "cause": "pre-shared-key", "count": 3, "since": now.Add(-2 * time.Hour).Format(time.RFC3339)})
	if n := len(list("?limit=1")); n != 1 {
		t.Errorf("with a limit there are %d", n)
	}
	if n := len(list("?since=" + now.Add(-time.Minute).Format(time.RFC3339))); n != 1 {
		t.Errorf("since a minute there are %d", n)
	}
	for _, query := range []string{"?limit=0", "?limit=1001", "?since=yesterday"} {
		b.call(http.MethodGet, path("vpn-connection", id, "history"+query), nil).wantError(http.StatusBadRequest, "VPN.0001", "")
	}
}

// What the serving node alone knows is asked there.
func TestDiagnosisAndHistoryAreForwarded(t *testing.T) {
	b := newBench(t)
	id, _, _ := b.createConnection()
	_, there := b.fleet()
	there.engines.tunnels = map[string]control.TunnelState{id: {Strangers: []control.Stranger{{Address: netip.MustParseAddr("198.51.100.99"), Last: b.now}}}}
	there.engines.events = map[string][]control.ConnectionEvent{id: {{Time: b.now, Event: control.EventIKEUp, ResponderSPI: "0123456789abcdef"}}}
	for member, want := range map[string]string{"diagnosis": "unknown peer 198.51.100.99", "history": "0123456789abcdef"} {
		there.now = b.now
		if a := b.call(http.MethodGet, path("vpn-connection", id, member), nil).want(http.StatusOK); !strings.Contains(a.Text, want) {
			t.Errorf("%s: the answer has nothing of %q: %s", member, want, a.Text)
		}
	}
}
