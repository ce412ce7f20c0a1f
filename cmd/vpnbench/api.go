package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// apiOptions are the flags of `vpnbench api`.
type apiOptions struct {
	clients     int
	connections int
	users       int
	policies    int
	calls       int
	json        bool
	vpngwd      string
}

func newAPICommand() *cobra.Command {
	o := apiOptions{}
	cmd := &cobra.Command{
		Use:   "api",
		Short: "the REST API under load: creations, shows, lists, and the way to the engines",
		Long: `Starts vpngwd in a network namespace and creates connections, users and access
policies through its API by several clients at once. No peer answers. Measures creations, shows and
lists, the memory of the daemon, and the time from the last write until the
engines hold it all; then applies all of it again, which must touch nothing.

It fails when a call fails, when a write is lost, or when the second apply
changes anything. Needs root and iproute2.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			figures, err := runAPI(cmd.Context(), o)
			if err != nil {
				return err
			}
			if o.json {
				out := json.NewEncoder(cmd.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(figures)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), figures.table())
			return err
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.clients, "clients", 8, "how many write at once")
	f.IntVar(&o.connections, "connections", 1000, "how many to create")
	f.IntVar(&o.users, "users", 500, "how many users of client-to-cloud VPN to create")
	f.IntVar(&o.policies, "policies", 200, "how many access policies to create")
	f.IntVar(&o.calls, "calls", 200, "how often to list, and each client to show")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.StringVar(&o.vpngwd, "vpngwd", "", "the daemon's program (default: vpngwd beside this one)")
	return cmd
}

// apiFigures is what `vpnbench api` measures.
type apiFigures struct {
	Writes []writes  `json:"writes"`
	Reads  []latency `json:"reads"`
	// Converged is from the last write until the engines hold everything.
	Converged time.Duration `json:"converged_ns"`
	// NoOpApply is how long a pass over everything took that changed nothing.
	NoOpApply time.Duration `json:"no_op_apply_ns"`
	Devices   int           `json:"devices"`      // of tunnels, in the daemon's namespace
	Empty     int64         `json:"rss_empty"`    // octets that the daemon occupied before the first write
	Full      int64         `json:"rss"`          // and after the last read
	Peak      int64         `json:"rss_peak"`     // at most
	StoreSize int64         `json:"store_octets"` // of the file
}

// writes are changes of one kind, made by all clients at once.
type writes struct {
	What   string        `json:"what"`
	Number int           `json:"number"`
	Took   time.Duration `json:"took_ns"`
	// CPU is what the daemon used meanwhile, its work on what was written before
	// and on the peers included.
	CPU time.Duration `json:"cpu_ns"`
	latency
}

// latency sums up how long calls of one kind took.
type latency struct {
	Call  string        `json:"call"`
	Calls int           `json:"calls"`
	P50   time.Duration `json:"p50_ns"`
	P99   time.Duration `json:"p99_ns"`
	Max   time.Duration `json:"max_ns"`
}

// summary sorts the times of calls.
func summary(call string, times []time.Duration) latency {
	l := latency{Call: call, Calls: len(times)}
	if len(times) == 0 {
		return l
	}
	slices.Sort(times)
	l.P50, l.P99, l.Max = quantile(times, 50), quantile(times, 99), times[len(times)-1]
	return l
}

// quantile is the nearest-rank percentile of sorted times.
func quantile(sorted []time.Duration, percent int) time.Duration {
	rank := (len(sorted)*percent + 99) / 100
	return sorted[max(rank, 1)-1]
}

func (f *apiFigures) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-28s %8s %10s %10s %10s %10s %10s\n", "", "number", "per second", "p50", "p99", "max", "daemon CPU")
	for _, w := range f.Writes {
		fmt.Fprintf(&b, "%-28s %8d %10.1f %10s %10s %10s %10s\n", w.What, w.Number, float64(w.Number)/w.Took.Seconds(),
			milliseconds(w.P50), milliseconds(w.P99), milliseconds(w.Max), w.CPU.Round(10*time.Millisecond))
	}
	for _, r := range f.Reads {
		fmt.Fprintf(&b, "%-28s %8d %10s %10s %10s %10s\n", r.Call, r.Calls, "", milliseconds(r.P50), milliseconds(r.P99), milliseconds(r.Max))
	}
	fmt.Fprintf(&b, "\nlast write to all in the engines: %v, with %d devices\n", f.Converged.Round(time.Millisecond), f.Devices)
	fmt.Fprintf(&b, "apply of the same again: %v, nothing touched\n", f.NoOpApply.Round(time.Millisecond))
	fmt.Fprintf(&b, "memory of the daemon: %d MiB empty, %d MiB full, %d MiB at most; store: %d KiB\n",
		f.Empty>>20, f.Full>>20, f.Peak>>20, f.StoreSize>>10)
	return b.String()
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// runAPI measures. It leaves nothing behind.
func runAPI(ctx context.Context, o apiOptions) (figures *apiFigures, err error) {
	if o.clients < 1 || o.clients > maxClients {
		return nil, fmt.Errorf("--clients %d: must be from 1 to %d", o.clients, maxClients)
	}
	if o.connections < 2 || o.connections > maxGateways*gatewayConnections || o.calls < 1 {
		return nil, fmt.Errorf("--connections must be from 2 to %d, --calls at least 1", maxGateways*gatewayConnections)
	}
	if o.users < 0 || o.policies < 0 || o.users > maxServers*usersOfServer || o.policies > maxServers*policiesOfServer {
		return nil, fmt.Errorf("--users must be at most %d, --policies at most %d", maxServers*usersOfServer, maxServers*policiesOfServer)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	d, err := startAPIDaemon(ctx, cmp.Or(o.vpngwd, filepath.Join(filepath.Dir(self), "vpngwd")))
	if err != nil {
		return nil, err
	}
	defer func() {
		if closeErr := d.close(); err == nil {
			err = closeErr
		}
	}()
	l := &load{daemon: d, options: o, figures: &apiFigures{}}
	for _, step := range []func(context.Context) error{
		l.createGateways, l.createConnections, l.converge, l.rename, l.createUsers, l.tagTogether, l.read, l.applyAgain, l.memory,
	} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("%w\n%s", err, d.complaints())
		}
	}
	return l.figures, nil
}
