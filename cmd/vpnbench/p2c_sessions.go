package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// sessionsOptions are the flags of `vpnbench p2c-sessions`.
type sessionsOptions struct {
	sessions  int
	parallel  int
	servers   []string
	transport string
	reconnect int
	json      bool
}

func newSessionsCommand() *cobra.Command {
	var o sessionsOptions
	cmd := &cobra.Command{
		Use:   "p2c-sessions",
		Short: "how fast and how large many sessions are: servers of vpngw and of OpenVPN",
		Long: `Connects many sessions of our own client, which carry nothing but pings, to each
server in turn, and says how long that took, what it cost the server, and what
the server holds for each session then.

With --reconnect as many more connect, lose their connections at once, as their
process is killed, and come back all at the same time. It says how long that took, and
what became of pings through sessions that stay up meanwhile.

Needs root, iproute2 and OpenVPN.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			results, err := runSessions(cmd.Context(), o)
			if err != nil {
				return err
			}
			if o.json {
				out := json.NewEncoder(cmd.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(results)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), sessionsTable(results))
			return err
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.sessions, "sessions", 1000, "sessions at the same time")
	f.IntVar(&o.parallel, "parallel", 16, "of which are in their handshakes")
	f.StringSliceVar(&o.servers, "servers", []string{ours, stock}, "of "+ours+", "+stock)
	f.StringVar(&o.transport, "transport", "tcp", "tcp or udp")
	f.IntVar(&o.reconnect, "reconnect", 0, "sessions beside them that lose their connections and come back, all at once")
	f.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// sessionsResult is one server with all its sessions.
type sessionsResult struct {
	Server    string `json:"server"`
	Transport string `json:"transport"`
	Sessions  int    `json:"sessions"`
	// Seconds is the time from the first packet to the last session's settings.
	Seconds float64 `json:"seconds"`
	// ServerCPU is the server's CPU milliseconds for one session's start.
	ServerCPU float64 `json:"server_cpu_ms_per_session"`
	// ServerMemory is the octets that the server's process has grown by, for each
	// session; the kernel's sockets are not in it.
	ServerMemory float64 `json:"server_octets_per_session"`
	// Storm is what --reconnect has measured.
	Storm *stormResult `json:"storm,omitempty"`
}

func runSessions(ctx context.Context, o sessionsOptions) (results []sessionsResult, err error) {
	switch {
	case o.sessions < 1 || o.sessions > 30000:
		return nil, fmt.Errorf("--sessions %d: must be 1 to 30000", o.sessions)
	case o.reconnect < 0 || o.sessions+2*o.reconnect > 30000:
		// On UDP the server keeps those that were killed for a while.
		return nil, fmt.Errorf("--reconnect %d: must be 0 to %d with %d sessions", o.reconnect, (30000-o.sessions)/2, o.sessions)
	case o.parallel < 1:
		return nil, fmt.Errorf("--parallel %d: must be at least 1", o.parallel)
	case o.transport != "tcp" && o.transport != "udp":
		return nil, fmt.Errorf("--transport %s: must be of tcp, udp", o.transport)
	}
	for _, server := range o.servers {
		if server != ours && server != stock {
			return nil, fmt.Errorf("--servers %s: must be of %s, %s", server, ours, stock)
		}
		r, err := measureSessions(ctx, server, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", server, err)
		}
		results = append(results, r)
	}
	return results, nil
}

var connectedLine = regexp.MustCompile(`connected (\d+) in ([0-9.]+) s`)

func measureSessions(ctx context.Context, server string, o sessionsOptions) (r sessionsResult, err error) {
	lab, err := openP2CLab(ctx, o.transport == "udp")
	if err != nil {
		return r, err
	}
	defer func() {
		if e := lab.close(); err == nil {
			err = e
		}
	}()
	if err := lab.startServer(ctx, server); err != nil {
		return r, err
	}
	fmt.Fprintf(os.Stderr, "%s, %s, %d sessions …\n", server, o.transport, o.sessions)
	before, err := lab.cpu()
	if err != nil {
		return r, err
	}
	memoryBefore, err := residentMemory(lab.serverProcess.PID)
	if err != nil {
		return r, err
	}
	staying := p2cNode{Sessions: o.sessions, Parallel: o.parallel}
	if o.reconnect > 0 {
		staying.Devices = min(o.sessions, stormWatched)
	}
	clients, err := lab.startClientsNode(ctx, "clients", staying)
	if err != nil {
		return r, err
	}
	used, err := lab.cpu()
	if err != nil {
		return r, err
	}
	memory, err := residentMemory(lab.serverProcess.PID)
	if err != nil {
		return r, err
	}
	m := connectedLine.FindStringSubmatch(clients.Output())
	if m == nil {
		return r, fmt.Errorf("the clients say %q", clients.Output())
	}
	r = sessionsResult{Server: server, Transport: o.transport, Sessions: o.sessions}
	if r.Seconds, err = strconv.ParseFloat(m[2], 64); err != nil {
		return r, err
	}
	r.ServerCPU = 1000 * used.since(before).server.Seconds() / float64(o.sessions)
	r.ServerMemory = float64(memory-memoryBefore) / float64(o.sessions)
	if o.reconnect > 0 {
		r.Storm, err = lab.measureStorm(ctx, o, staying.Devices)
	}
	return r, err
}

// residentMemory returns the octets of a process that are in memory.
func residentMemory(pid int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return parseResident(string(status))
}

func parseResident(status string) (int, error) {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")))
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process status without VmRSS")
}

func sessionsTable(results []sessionsResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-8s %-5s %8s %8s %10s %14s %14s\n", "server", "", "sessions", "seconds", "sessions/s", "CPU ms/session", "kB/session")
	for _, r := range results {
		fmt.Fprintf(&b, "%-8s %-5s %8d %8.2f %10.0f %14.2f %14.1f\n", r.Server, r.Transport, r.Sessions, r.Seconds,
			float64(r.Sessions)/r.Seconds, r.ServerCPU, r.ServerMemory/1000)
	}
	for _, r := range results {
		if r.Storm != nil {
			fmt.Fprintf(&b, "%s, %s: %s\n", r.Server, r.Transport, r.Storm)
		}
	}
	return b.String()
}
