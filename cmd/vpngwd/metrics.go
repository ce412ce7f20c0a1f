package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/vpngw/vpngw/control/fleet"
	"github.com/vpngw/vpngw/control/nqa"
	"github.com/vpngw/vpngw/control/reconcile"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ike"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/sslvpn"
)

// engineFigures is where the metrics come from. Each function may be called at
// any time.
type engineFigures struct {
	connections func() []ike.ConnectionStatus
	ikeDrops    func() map[string]uint64
	ikeFailures func() map[string]uint64 // by cause
	espDrops    func() map[string]uint64
	clients     func() []sslvpn.EndpointStatus
	lostEvents  func() uint64 // of clients
	sockets     func() udp.Stats
	reconciler  func() reconcile.Stats
	probes      func() []reconcile.Probe
	fleet       func() fleet.Stats // nil: this node is alone
}

// maxSeries is how many connections have metrics of their own. Those beyond
// are in the sums only, so that the number of series is bounded.
const maxSeries = 5000

// Metrics. docs/operations.md lists them.
var (
	descBuild = desc("build_info", "1, with the version and the Go release it was built with.", "version", "go")

	descUp       = desc("connection_up", "1 while an IKE SA and at least one CHILD_SA of the connection are up.", "connection")
	descIKE      = desc("connection_ike_sas", "IKE SAs of the connection that are up.", "connection")
	descChildren = desc("connection_child_sas", "CHILD_SAs of the connection that are up.", "connection")
	descBytes    = desc("connection_bytes_total", "Inner octets that passed, over all SAs of the connection.", "connection", "direction")
	descPackets  = desc("connection_packets_total", "Inner packets that passed, over all SAs of the connection.", "connection", "direction")
	descFailures = desc("connection_failures", "How often in a row the present failure of the connection has come.", "connection")
	descTotal    = desc("connections", "Connections on this node, by state of the key exchange.", "state")

	descProbeUp       = desc("probe_reachable", "1 while the probed address answers; absent while it is too early to say.", "connection", "probe")
	descProbeRTT      = desc("probe_rtt_seconds", "Round-trip time of the last reply; absent before the first.", "connection", "probe")
	descProbeAnswered = desc("probe_answered_total", "Requests that were answered.", "connection", "probe")
	descProbeLost     = desc("probe_lost_total", "Requests that were not answered, or could not be sent.", "connection", "probe")

	descServerUp      = desc("client_server_up", "1 while the server of a client-to-cloud gateway serves.", "server")
	descSessions      = desc("client_sessions", "Clients that are connected.", "server")
	descClientBytes   = desc("client_bytes_total", "Inner octets that passed, over all clients.", "server", "direction")
	descClientPackets = desc("client_packets_total", "Inner packets that passed, over all clients.", "server", "direction")
	descLogins        = desc("client_logins_total", "Logins of clients.", "server")
	descLoginFailures = desc("client_login_failures_total", "Logins that were turned down.", "server", "reason")
	descClientDrops   = desc("client_dropped_packets_total", "Packets from and to clients that were dropped.", "server", "reason")
	descClientEvents  = desc("client_lost_events_total", "Connects, disconnects and failed logins that no log has, since there were too many.")

	descESPDrops = desc("dataplane_dropped_packets_total", "Packets that the data plane dropped.", "reason")
	descFailed   = desc("ike_failures_total", "Negotiations that failed and SAs that a fault ended; docs/troubleshooting.md has the causes.", "cause")
	descIKEDrops = desc("ike_dropped_total", "Datagrams and events that the IKE server dropped.", "reason")
	descSockets  = desc("socket_datagrams_total", "Datagrams at the outer sockets that are not ESP, and faults there.", "kind")

	descLease     = desc("fleet_lease_seconds", "Time until the node stops what floats, unless its lease is renewed; 0 without a lease.")
	descNodes     = desc("fleet_nodes", "Nodes that are alive, as this one knows.")
	descAddresses = desc("fleet_addresses", "Floating addresses that this node serves.")
	descActive    = desc("fleet_active_gateways", "Active-standby gateways that this node carries.")
	descTaken     = desc("fleet_taken_total", "Claims that this node took: addresses, gateways and the office of the steward.")
	descLapses    = desc("fleet_lapses_total", "Leases of this node that were not renewed in time.")

	descPasses    = desc("reconcile_passes_total", "Passes over all objects.")
	descPassFails = desc("reconcile_failures_total", "What passes could not apply and the store did not take.")
	descRetrying  = desc("reconcile_retrying_gateways", "Gateways that the last pass could not apply, each of which is tried again by a backoff of its own.")
	descWaiting   = desc("reconcile_waiting_gateways", "Gateways of which something waits to be written to the store.")
	descPassTime  = desc("reconcile_last_duration_seconds", "How long the last pass took.")
	descPassWhen  = desc("reconcile_last_timestamp_seconds", "When the last pass began, in Unix time.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("vpngw_"+name, help, labels, nil)
}

// collector reads the figures at each scrape.
type collector struct{ figures engineFigures }

// Describe sends nothing: which reasons and connections there are shows only
// in a scrape.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	counter := func(d *prometheus.Desc, value uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	gauge(descBuild, 1, version, runtime.Version())

	connections := c.figures.connections()
	states := map[ike.ConnectionState]int{ike.Down: 0, ike.Connecting: 0, ike.Up: 0}
	for i, status := range connections {
		states[status.State]++
		if i >= maxSeries {
			continue
		}
		ikeSAs, children := standing(status)
		up := 0.0
		if ikeSAs > 0 && children > 0 {
			up = 1
		}
		gauge(descUp, up, status.Name)
		gauge(descIKE, float64(ikeSAs), status.Name)
		gauge(descChildren, float64(children), status.Name)
		failures := 0
		if status.Failure != nil && up == 0 {
			failures = status.Failure.Count
		}
		gauge(descFailures, float64(failures), status.Name)
		counter(descBytes, status.In.Bytes, status.Name, "in")
		counter(descBytes, status.Out.Bytes, status.Name, "out")
		counter(descPackets, status.In.Packets, status.Name, "in")
		counter(descPackets, status.Out.Packets, status.Name, "out")
	}
	for state, n := range states {
		gauge(descTotal, float64(n), state.String())
	}

	for i, p := range c.figures.probes() {
		if i >= maxSeries {
			break
		}
		labels := []string{p.Connection, string(p.Kind)}
		if p.Verdict != nqa.Unknown {
			up := 0.0
			if p.Verdict == nqa.Reachable {
				up = 1
			}
			gauge(descProbeUp, up, labels...)
		}
		if p.RTT > 0 {
			gauge(descProbeRTT, p.RTT.Seconds(), labels...)
		}
		counter(descProbeAnswered, p.Answered, labels...)
		counter(descProbeLost, p.Lost, labels...)
	}

	c.collectClients(gauge, counter)
	for reason, n := range c.figures.espDrops() {
		counter(descESPDrops, n, reason)
	}
	for cause, n := range c.figures.ikeFailures() {
		counter(descFailed, n, cause)
	}
	for reason, n := range c.figures.ikeDrops() {
		counter(descIKEDrops, n, reason)
	}
	s := c.figures.sockets()
	for kind, n := range map[string]uint64{
		"ike_received": s.IKEReceived, "keepalive": s.Keepalives, "short": s.Short, "truncated": s.Truncated,
		"ike_dropped": s.IKEDropped, "esp_dropped": s.ESPDropped, "receive_error": s.ReceiveErrors, "send_error": s.SendErrors,
		"fenced": s.Fenced, "overflow": s.Overflow,
	} {
		counter(descSockets, n, kind)
	}

	if c.figures.fleet != nil {
		f := c.figures.fleet()
		gauge(descLease, f.LeaseLeft.Seconds())
		gauge(descNodes, float64(f.Nodes))
		gauge(descAddresses, float64(f.Addresses))
		gauge(descActive, float64(f.Gateways))
		counter(descTaken, f.Taken)
		counter(descLapses, f.Lapses)
	}

	r := c.figures.reconciler()
	counter(descPasses, r.Passes)
	counter(descPassFails, r.Failures)
	gauge(descRetrying, float64(r.Retrying))
	gauge(descWaiting, float64(r.Waiting))
	gauge(descPassTime, r.LastDuration.Seconds())
	gauge(descPassWhen, float64(r.LastPass.UnixMilli())/1000)
}

// collectClients tells of client-to-cloud VPN.
func (c *collector) collectClients(gauge func(*prometheus.Desc, float64, ...string), counter func(*prometheus.Desc, uint64, ...string)) {
	for i, s := range c.figures.clients() {
		if i >= maxSeries {
			break
		}
		up := 1.0
		if s.Err != nil {
			up = 0
		}
		gauge(descServerUp, up, s.ID)
		gauge(descSessions, float64(len(s.Sessions)), s.ID)
		counter(descClientBytes, s.Inbound.Octets, s.ID, "in")
		counter(descClientBytes, s.Outbound.Octets, s.ID, "out")
		counter(descClientPackets, s.Inbound.Packets, s.ID, "in")
		counter(descClientPackets, s.Outbound.Packets, s.ID, "out")
		counter(descLogins, s.Logins, s.ID)
		for reason, n := range s.LoginFailures {
			counter(descLoginFailures, n, s.ID, reason)
		}
		for reason, n := range s.Drops {
			counter(descClientDrops, n, s.ID, reason)
		}
	}
	counter(descClientEvents, c.figures.lostEvents())
}

// standing counts the IKE SAs and CHILD_SAs of a connection that are in use.
func standing(status ike.ConnectionStatus) (ikeSAs, children int) {
	for _, i := range status.IKE {
		if i.State == sa.Established || i.State == sa.Rekeying {
			ikeSAs++
		}
	}
	for _, c := range status.Children {
		if c.State == sa.Established || c.State == sa.Rekeying {
			children++
		}
	}
	return ikeSAs, children
}

// metricsHandler serves /livez, /readyz and /metrics. ready returns why the
// daemon cannot do its work yet.
func metricsHandler(figures engineFigures, ready func(context.Context) error, log *slog.Logger) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		&collector{figures},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: 4,
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelError),
	}))
	return mux
}

const metricsTimeout = 10 * time.Second

// serveMetrics listens until ctx ends.
func serveMetrics(ctx context.Context, listen string, handler http.Handler, log *slog.Logger) error {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	log.Info("metrics are served", "url", "http://"+listener.Addr().String()+"/metrics")
	server := &http.Server{
		Handler: handler, ReadTimeout: metricsTimeout, WriteTimeout: metricsTimeout, IdleTimeout: time.Minute,
		MaxHeaderBytes: 1 << 14, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}
