package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// Kinds of servers and clients.
const (
	ours  = "vpngw"
	stock = "openvpn"
)

// p2cOptions are the flags of `vpnbench p2c`.
type p2cOptions struct {
	seconds    int
	rounds     int
	json       bool
	pairs      []string
	transports []string
	directions []string
	clients    int
	newer      bool
}

// p2cPairs are server and client; the last one is what ratios are taken to.
var p2cPairs = []string{ours + "/" + ours, ours + "/" + stock, stock + "/" + ours, stock + "/" + stock}

var (
	p2cTransports = []string{"tcp", "udp"}
	p2cDirections = []string{"down", "up"}
)

func newP2CCommand() *cobra.Command {
	var o p2cOptions
	cmd := &cobra.Command{
		Use:   "p2c",
		Short: "throughput of client-to-cloud VPN: vpngw and OpenVPN as server and as client",
		Long: `Throughput between clients and a host behind a server, in two network
namespaces on this machine, joined by a veth pair. Server, clients and iperf3
share its CPUs. Every session has AES-128-GCM and a client certificate; each
client carries one TCP flow.

Pairs of server/client: ` + strings.Join(p2cPairs, ", ") + `

Needs root, iproute2, iperf3 and OpenVPN.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			results, err := runP2C(cmd.Context(), o)
			if err != nil {
				return err
			}
			if o.json {
				out := json.NewEncoder(cmd.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(results)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), p2cTable(results))
			return err
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.seconds, "seconds", 10, "length of each measurement")
	f.IntVar(&o.rounds, "rounds", 1, "measure all that often, in turn, and print medians")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.StringSliceVar(&o.pairs, "pairs", p2cPairs, "server/client")
	f.StringSliceVar(&o.transports, "transports", []string{"tcp"}, "of "+strings.Join(p2cTransports, ", "))
	f.StringSliceVar(&o.directions, "directions", p2cDirections, "of "+strings.Join(p2cDirections, ", "))
	f.IntVar(&o.clients, "clients", 1, "sessions at the same time, each with one flow")
	f.BoolVar(&o.newer, "newer", false, "of OpenVPN take the one that deploy/newer-debian.sh fetches, and not the host's")
	return cmd
}

// p2cResult is one measurement.
type p2cResult struct {
	Pair      string `json:"pair"` // server/client
	Transport string `json:"transport"`
	Direction string `json:"direction"`
	Clients   int    `json:"clients"`
	// GbitPerSecond is what iperf3 received, of all clients together.
	GbitPerSecond float64 `json:"gbit_per_second"`
	// ServerCPU and ClientCPU are CPU seconds for 10⁹ octets that arrived: of the
	// server's process and of all clients' processes.
	ServerCPU float64 `json:"server_cpu_seconds_per_gb"`
	ClientCPU float64 `json:"client_cpu_seconds_per_gb"`
	// ServerCores, ClientCores and MachineCores are CPU seconds for each second: of the
	// server's process, of all clients' processes, and of everything on the machine.
	// A process of OpenVPN has one thread, so that one core is its limit.
	ServerCores  float64 `json:"server_cores"`
	ClientCores  float64 `json:"client_cores"`
	MachineCores float64 `json:"machine_cores"`
	// RoundTrip is the mean time in milliseconds of pings from the first client to
	// the host and back meanwhile.
	RoundTrip float64 `json:"round_trip_ms"`
	// Ratio is the throughput, and CPURatio the server's CPU time, to OpenVPN's on
	// both sides; zero without such a measurement.
	Ratio    float64 `json:"ratio,omitempty"`
	CPURatio float64 `json:"server_cpu_ratio,omitempty"`
}

func (o *p2cOptions) check() error {
	if o.seconds < 1 {
		return fmt.Errorf("--seconds %d: must be at least 1", o.seconds)
	}
	if o.rounds < 1 {
		return fmt.Errorf("--rounds %d: must be at least 1", o.rounds)
	}
	if o.clients < 1 || o.clients > 64 {
		return fmt.Errorf("--clients %d: must be 1 to 64", o.clients)
	}
	for _, list := range []struct {
		flag         string
		given, known []string
	}{{"pairs", o.pairs, p2cPairs}, {"transports", o.transports, p2cTransports}, {"directions", o.directions, p2cDirections}} {
		for _, v := range list.given {
			if !slices.Contains(list.known, v) {
				return fmt.Errorf("--%s %s: must be of %s", list.flag, v, strings.Join(list.known, ", "))
			}
		}
	}
	return nil
}

// runP2C measures every pair.
func runP2C(ctx context.Context, o p2cOptions) ([]p2cResult, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	var results []p2cResult
	for range o.rounds {
		for _, transport := range o.transports {
			for _, pair := range o.pairs {
				rs, err := measureP2C(ctx, pair, transport, o)
				if err != nil {
					return nil, fmt.Errorf("%s on %s: %w", pair, transport, err)
				}
				results = append(results, rs...)
			}
		}
	}
	results = p2cMedians(results)
	addP2CRatios(results)
	return results, nil
}

// measureP2C measures one pair on one transport.
func measureP2C(ctx context.Context, pair, transport string, o p2cOptions) (results []p2cResult, err error) {
	lab, err := openP2CLab(ctx, transport == "udp")
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := lab.close(); err == nil {
			err = e
		}
	}()
	lab.newer = o.newer
	server, client, _ := strings.Cut(pair, "/")
	if err := lab.startServer(ctx, server); err != nil {
		return nil, err
	}
	if err := lab.startClients(ctx, client, o.clients); err != nil {
		return nil, err
	}
	for _, direction := range o.directions {
		fmt.Fprintf(os.Stderr, "%s, %s, %s, %d clients, %d s …\n", pair, transport, direction, o.clients, o.seconds)
		r, err := lab.measure(ctx, direction, o)
		if err != nil {
			return nil, err
		}
		r.Pair, r.Transport, r.Direction, r.Clients = pair, transport, direction, o.clients
		results = append(results, r)
	}
	return results, nil
}

// measure sends one flow for each client.
func (l *p2cLab) measure(ctx context.Context, direction string, o p2cOptions) (r p2cResult, err error) {
	before, err := l.cpu()
	if err != nil {
		return r, err
	}
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		bits    float64
		failed  error
	)
	running.Go(func() {
		ms, err := roundTrip(ctx, l.clients, l.addresses[0], p2cHost, o.seconds)
		mu.Lock()
		defer mu.Unlock()
		r.RoundTrip, failed = ms, cmp.Or(failed, err)
	})
	for i, address := range l.addresses {
		running.Go(func() {
			report, err := netlab.RunIPerf(ctx, l.clients, l.server, p2cHost, netlab.IPerf{
				Duration: time.Duration(o.seconds) * time.Second, Reverse: direction == "down", Port: 5201 + i, Source: address,
			})
			mu.Lock()
			defer mu.Unlock()
			bits += report.BitsPerSecond
			failed = cmp.Or(failed, err)
		})
	}
	running.Wait()
	if failed != nil {
		return r, failed
	}
	used, err := l.cpu()
	if err != nil {
		return r, err
	}
	used = used.since(before)
	gigabytes := bits / 8e9 * float64(o.seconds)
	if gigabytes == 0 {
		return r, fmt.Errorf("%s: nothing arrived", direction)
	}
	r.GbitPerSecond = bits / 1e9
	seconds := float64(o.seconds)
	r.ServerCPU, r.ClientCPU = used.server.Seconds()/gigabytes, used.clients.Seconds()/gigabytes
	r.ServerCores, r.ClientCores, r.MachineCores = used.server.Seconds()/seconds, used.clients.Seconds()/seconds, used.machine.Seconds()/seconds
	return r, nil
}

// p2cMedians folds the rounds: of each kind of measurement, the one of median
// throughput stays.
func p2cMedians(results []p2cResult) []p2cResult {
	var order []p2cResult // of the kind alone
	groups := map[p2cResult][]p2cResult{}
	for _, r := range results {
		key := p2cResult{Pair: r.Pair, Transport: r.Transport, Direction: r.Direction, Clients: r.Clients}
		if groups[key] == nil {
			order = append(order, key)
		}
		groups[key] = append(groups[key], r)
	}
	for i, key := range order {
		group := groups[key]
		slices.SortFunc(group, func(x, y p2cResult) int { return cmp.Compare(x.GbitPerSecond, y.GbitPerSecond) })
		order[i] = group[len(group)/2]
	}
	return order
}

// addP2CRatios compares with OpenVPN on both sides.
func addP2CRatios(results []p2cResult) {
	for i, r := range results {
		for _, base := range results {
			if base.Pair == stock+"/"+stock && base.Transport == r.Transport && base.Direction == r.Direction && base.Clients == r.Clients {
				results[i].Ratio = r.GbitPerSecond / base.GbitPerSecond
				if base.ServerCPU > 0 {
					results[i].CPURatio = r.ServerCPU / base.ServerCPU
				}
			}
		}
	}
}

// p2cTable prints results for people.
func p2cTable(results []p2cResult) string {
	var b strings.Builder
	const head = "%-16s %-5s %-5s %7s %8s %9s %9s %7s %8s %8s %8s %7s %10s\n"
	fmt.Fprintf(&b, head, "", "", "", "", "", "server", "clients", "server", "clients", "machine", "ping", "", "server")
	fmt.Fprintf(&b, head, "server/client", "", "", "clients", "Gbit/s", "CPU s/GB", "CPU s/GB", "cores", "cores", "cores", "ms", "ratio", "CPU ratio")
	for _, r := range results {
		ratio, cpu := "", ""
		if r.Ratio > 0 {
			ratio, cpu = fmt.Sprintf("%.2f", r.Ratio), fmt.Sprintf("1/%.1f", 1/r.CPURatio)
		}
		fmt.Fprintf(&b, "%-16s %-5s %-5s %7d %8.2f %9.2f %9.2f %7.2f %8.2f %8.2f %8.1f %7s %10s\n",
			r.Pair, r.Transport, r.Direction, r.Clients, r.GbitPerSecond, r.ServerCPU, r.ClientCPU,
			r.ServerCores, r.ClientCores, r.MachineCores, r.RoundTrip, ratio, cpu)
	}
	fmt.Fprintf(&b, "ratios: to %s/%s in this run; cores: CPU seconds a second, of %d on this machine; a process of %s has one thread\n",
		stock, stock, runtime.NumCPU(), stock)
	return b.String()
}
