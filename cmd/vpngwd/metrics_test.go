package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control/nqa"
	"github.com/vpngw/vpngw/control/reconcile"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ike"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/sslvpn"
)

// figures are those of two connections, one of which is up.
type figures struct {
	status  []ike.ConnectionStatus
	probes  []reconcile.Probe
	clients []sslvpn.EndpointStatus
	ready   error
}

func (f *figures) handler() http.Handler {
	return metricsHandler(engineFigures{
		connections: func() []ike.ConnectionStatus { return f.status },
		ikeDrops:    func() map[string]uint64 { return map[string]uint64{"unknown SPI": 3} },
		ikeFailures: func() map[string]uint64 { return map[string]uint64{"pre-shared-key": 9} },
		espDrops:    func() map[string]uint64 { return map[string]uint64{"no_sa": 4} },
		clients:     func() []sslvpn.EndpointStatus { return f.clients },
		lostEvents:  func() uint64 { return 2 },
		sockets:     func() udp.Stats { return udp.Stats{Keepalives: 5} },
		reconciler: func() reconcile.Stats {
			return reconcile.Stats{Passes: 6, Failures: 7, Retrying: 2, Waiting: 3, LastDuration: 1500 * time.Millisecond, LastPass: time.Unix(8, 0)}
		},
		probes: func() []reconcile.Probe { return f.probes },
	}, func(context.Context) error { return f.ready }, slog.New(slog.DiscardHandler))
}

func child(name string, spi ipsec.SPI) ike.ChildStatus {
	return ike.ChildStatus{
		ChildStatus: sa.ChildStatus{
			Name: name, State: sa.Established,
			In:  ipsec.SAID{Dst: netip.MustParseAddr("203.0.113.1"), SPI: spi},
			Out: ipsec.SAID{Dst: netip.MustParseAddr("198.51.100.7"), SPI: spi},
		},
	}
}

func get(t *testing.T, handler http.Handler, path string) (status int, body string) {
	t.Helper()
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
	return w.Code, w.Body.String()
}

func wantLines(t *testing.T, body string, lines ...string) {
	t.Helper()
	have := strings.Split(body, "\n")
	for _, line := range lines {
		found := false
		for _, h := range have {
			found = found || h == line
		}
		if !found {
			name, _, _ := strings.Cut(line, "{")
			var like []string
			for _, h := range have {
				if strings.HasPrefix(h, name) {
					like = append(like, h)
				}
			}
			t.Errorf("no line %s, but %q", line, like)
		}
	}
}

func TestMetrics(t *testing.T) {
	f := &figures{status: []ike.ConnectionStatus{
		{
			Name: "a", State: ike.Up, IKE: []sa.IKEStatus{{State: sa.Established}},
			In: ike.Traffic{Packets: 10, Bytes: 1000}, Out: ike.Traffic{Packets: 20, Bytes: 2000},
			Children: []ike.ChildStatus{child("x", 1)}, Failure: &ike.Failure{Count: 9},
		},
		{Name: "b", State: ike.Connecting, IKE: []sa.IKEStatus{{State: sa.Connecting}}, Failure: &ike.Failure{Count: 9}},
	}}
	handler := f.handler()
	status, body := get(t, handler, "/metrics")
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, body)
	}
	wantLines(t, body,
		`vpngw_connection_up{connection="a"} 1`, `vpngw_connection_up{connection="b"} 0`,
		`vpngw_connection_ike_sas{connection="a"} 1`, `vpngw_connection_child_sas{connection="a"} 1`,
		`vpngw_connection_ike_sas{connection="b"} 0`,
		`vpngw_connection_failures{connection="a"} 0`, `vpngw_connection_failures{connection="b"} 9`,
		`vpngw_connection_bytes_total{connection="a",direction="in"} 1000`,
		`vpngw_connection_bytes_total{connection="a",direction="out"} 2000`,
		`vpngw_connection_packets_total{connection="a",direction="in"} 10`,
		`vpngw_connection_packets_total{connection="a",direction="out"} 20`,
		`vpngw_connections{state="up"} 1`, `vpngw_connections{state="connecting"} 1`, `vpngw_connections{state="down"} 0`,
		`vpngw_dataplane_dropped_packets_total{reason="no_sa"} 4`,
		`vpngw_ike_dropped_total{reason="unknown SPI"} 3`,
		`vpngw_ike_failures_total{cause="pre-shared-key"} 9`,
		`vpngw_socket_datagrams_total{kind="keepalive"} 5`,
		`vpngw_reconcile_passes_total 6`, `vpngw_reconcile_failures_total 7`,
		`vpngw_reconcile_retrying_gateways 2`, `vpngw_reconcile_waiting_gateways 3`,
		`vpngw_reconcile_last_duration_seconds 1.5`, `vpngw_reconcile_last_timestamp_seconds 8`,
	)
	if !strings.Contains(body, "vpngw_build_info{") {
		t.Error("no build information")
	}

	// One that is gone is forgotten.
	f.status = nil
	_, body = get(t, handler, "/metrics")
	if strings.Contains(body, `connection="a"`) {
		t.Error("a deleted connection still has metrics")
	}
}

func TestProbeMetrics(t *testing.T) {
	f := &figures{probes: []reconcile.Probe{
		{Kind: reconcile.ProbeMonitor, Connection: "a", Status: nqa.Status{Lost: 2}},
		{Kind: reconcile.ProbeNQA, Connection: "a", Status: nqa.Status{
			Verdict: nqa.Reachable, Answered: 5, Lost: 1, RTT: 1500 * time.Microsecond,
		}},
		{Kind: reconcile.ProbeNQA, Connection: "b", Status: nqa.Status{Verdict: nqa.Unreachable, Lost: 3}},
	}}
	_, body := get(t, f.handler(), "/metrics")
	wantLines(t, body,
		`vpngw_probe_lost_total{connection="a",probe="monitor"} 2`, `vpngw_probe_answered_total{connection="a",probe="monitor"} 0`,
		`vpngw_probe_reachable{connection="a",probe="nqa"} 1`, `vpngw_probe_rtt_seconds{connection="a",probe="nqa"} 0.0015`,
		`vpngw_probe_answered_total{connection="a",probe="nqa"} 5`, `vpngw_probe_reachable{connection="b",probe="nqa"} 0`,
	)
	for _, absent := range []string{`vpngw_probe_reachable{connection="a",probe="monitor"}`, `vpngw_probe_rtt_seconds{connection="b"`} {
		if strings.Contains(body, absent) {
			t.Errorf("there is a line %s", absent)
		}
	}
}

func TestHealth(t *testing.T) {
	f := &figures{ready: errors.New("not yet")}
	handler := f.handler()
	if status, _ := get(t, handler, "/livez"); status != http.StatusOK {
		t.Errorf("/livez is %d", status)
	}
	if status, body := get(t, handler, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "not yet") {
		t.Errorf("/readyz is %d: %s", status, body)
	}
	f.ready = nil
	if status, _ := get(t, handler, "/readyz"); status != http.StatusOK {
		t.Errorf("/readyz is %d", status)
	}
	if status, _ := get(t, handler, "/debug/pprof/"); status != http.StatusNotFound {
		t.Errorf("/debug/pprof/ is %d", status)
	}
}

func TestServeMetrics(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	log := slog.New(slog.DiscardHandler)
	err = serveMetrics(t.Context(), taken.Addr().String(), http.NotFoundHandler(), log)
	if err == nil || !strings.HasPrefix(err.Error(), "metrics: ") {
		t.Errorf("a taken port gives %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- serveMetrics(ctx, "127.0.0.1:0", http.NotFoundHandler(), log) }()
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("the end of the context gives %v", err)
	}
}

func TestClientMetrics(t *testing.T) {
	f := &figures{clients: []sslvpn.EndpointStatus{
		{
			ID: "s1", Sessions: make([]sslvpn.Session, 3), Logins: 5, LoginFailures: map[string]uint64{"wrong_password": 2},
			Drops:   map[string]uint64{"denied": 7},
			Inbound: sslvpn.Traffic{Packets: 10, Octets: 1000}, Outbound: sslvpn.Traffic{Packets: 20, Octets: 2000},
		},
		{ID: "s2", Err: errors.New("listen: address already in use")},
	}}
	_, body := get(t, f.handler(), "/metrics")
	wantLines(t, body,
		`vpngw_client_server_up{server="s1"} 1`, `vpngw_client_server_up{server="s2"} 0`,
		`vpngw_client_sessions{server="s1"} 3`, `vpngw_client_sessions{server="s2"} 0`,
		`vpngw_client_logins_total{server="s1"} 5`,
		`vpngw_client_login_failures_total{reason="wrong_password",server="s1"} 2`,
		`vpngw_client_bytes_total{direction="in",server="s1"} 1000`, `vpngw_client_bytes_total{direction="out",server="s1"} 2000`,
		`vpngw_client_packets_total{direction="in",server="s1"} 10`, `vpngw_client_packets_total{direction="out",server="s1"} 20`,
		`vpngw_client_dropped_packets_total{reason="denied",server="s1"} 7`,
		`vpngw_client_lost_events_total 2`,
	)
}

func TestNeverFalling(t *testing.T) {
	var now map[string]uint64
	read := neverFalling(func() map[string]uint64 { return now })
	for _, step := range []struct{ now, want map[string]uint64 }{
		{map[string]uint64{"a": 5, "b": 1}, map[string]uint64{"a": 5, "b": 1}},
		{map[string]uint64{"a": 2, "b": 3}, map[string]uint64{"a": 5, "b": 3}},
		{map[string]uint64{"b": 3}, map[string]uint64{"a": 5, "b": 3}},
		{map[string]uint64{"a": 6, "b": 3}, map[string]uint64{"a": 6, "b": 3}},
	} {
		now = step.now
		if have := read(); !maps.Equal(have, step.want) {
			t.Errorf("%v, want %v", have, step.want)
		}
	}
}
