package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// espOptions are the flags of `vpnbench esp`.
type espOptions struct {
	seconds   int
	rounds    int
	json      bool
	subjects  []string
	tests     []string
	wireguard string
	tunnels   int
}

// baseline is the subject that ratios are taken to.
const baseline = "wireguard-go"

func newESPCommand() *cobra.Command {
	var o espOptions
	cmd := &cobra.Command{
		Use:   "esp",
		Short: "throughput of one tunnel: vpngw, strongSwan kernel-libipsec, wireguard-go",
		Long: `Throughput of one tunnel between two gateways in network namespaces on this
machine, joined by a veth pair. Both gateways and iperf3 share its CPUs.

Subjects: ` + strings.Join(subjectNames(), ", ") + `
Tests:    ` + strings.Join(testNames(), ", ") + `

With --tunnels, it is vpngw alone: a TCP flow in each of so many tunnels at the
same time, and to compare with, one flow in a single tunnel, as many flows in a
single tunnel, and as many over the wire without any; then datagrams, at an equal
rate for each flow and more than pass, in so many tunnels and in one.

Needs root, iproute2, iperf3, strongSwan (charon-systemd, swanctl, the plugin
kernel-libipsec) and, unless --wireguard names a program, the Go tool chain and
the repository as the current folder, to build wireguard-go.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			var results any
			var text string
			if o.tunnels > 0 {
				many, err := runTunnels(cmd.Context(), o)
				if err != nil {
					return err
				}
				results, text = many, tunnelsTable(many)
			} else {
				list, err := runESP(cmd.Context(), o)
				if err != nil {
					return err
				}
				results, text = list, table(list)
			}
			if o.json {
				out := json.NewEncoder(cmd.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(results)
			}
			_, err := fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.seconds, "seconds", 10, "length of each measurement")
	f.IntVar(&o.rounds, "rounds", 1, "measure all subjects that often, in turn, and print medians")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.StringSliceVar(&o.subjects, "subjects", subjectNames(), "what to measure")
	f.StringSliceVar(&o.tests, "tests", []string{"tcp"}, "how to measure it")
	f.StringVar(&o.wireguard, "wireguard", "", "program built from deploy/bench/wireguard (default: build it)")
	f.IntVar(&o.tunnels, "tunnels", 0, fmt.Sprintf("compare so many tunnels with one, at most %d", maxTunnels))
	return cmd
}

// traffic is one kind of measurement.
type traffic struct {
	name  string
	iperf netlab.IPerf
	// octets of datagrams of which the highest rate is searched for; zero: iperf3's
	// TCP flow.
	datagram int
}

var traffics = []traffic{
	{name: "tcp"},
	{name: "tcp-reverse", iperf: netlab.IPerf{Reverse: true}},
	{name: "udp-64", datagram: 64},
}

func testNames() []string {
	var names []string
	for _, t := range traffics {
		names = append(names, t.name)
	}
	return names
}

// result is one measurement.
type result struct {
	Subject string `json:"subject"`
	Test    string `json:"test"`
	// GbitPerSecond is what iperf3 received.
	GbitPerSecond float64 `json:"gbit_per_second"`
	// PacketsPerSecond is the highest rate of datagrams of which at most one in a
	// thousand was lost; zero for TCP.
	PacketsPerSecond float64 `json:"packets_per_second,omitempty"`
	// RoundTrip is the mean time of pings meanwhile, in milliseconds; zero for
	// datagrams.
	RoundTrip float64 `json:"ping_ms,omitempty"`
	// GatewayCPU and MachineCPU are CPU seconds for 10⁹ octets that arrived: of
	// both gateways' processes, and of the whole machine with iperf3.
	GatewayCPU float64 `json:"gateway_cpu_seconds_per_gb"`
	MachineCPU float64 `json:"machine_cpu_seconds_per_gb"`
	// Ratio is the throughput, or for datagrams the rate, to the baseline's; zero
	// without one.
	Ratio float64 `json:"ratio,omitempty"`
	// CPURatio is GatewayCPU to the baseline's.
	CPURatio float64 `json:"cpu_ratio,omitempty"`
	// SwanRatio is the throughput to that of two strongSwans with the same algorithms.
	SwanRatio float64 `json:"strongswan_ratio,omitempty"`
}

func (o *espOptions) check() error {
	switch {
	case o.seconds < 1:
		return fmt.Errorf("--seconds %d: must be at least 1", o.seconds)
	case o.rounds < 1:
		return fmt.Errorf("--rounds %d: must be at least 1", o.rounds)
	case o.tunnels < 0 || o.tunnels > maxTunnels:
		return fmt.Errorf("--tunnels %d: must be 1 to %d", o.tunnels, maxTunnels)
	}
	return nil
}

// runESP measures every subject by every test.
func runESP(ctx context.Context, o espOptions) (results []result, err error) {
	var tests []traffic
	for _, name := range o.tests {
		i := slices.IndexFunc(traffics, func(t traffic) bool { return t.name == name })
		if i < 0 {
			return nil, fmt.Errorf("--tests %s: must be of %s", name, strings.Join(testNames(), ", "))
		}
		tests = append(tests, traffics[i])
	}
	var chosen []subject
	for _, name := range o.subjects {
		i := slices.IndexFunc(subjects, func(s subject) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("--subjects %s: must be of %s", name, strings.Join(subjectNames(), ", "))
		}
		chosen = append(chosen, subjects[i])
	}
	dir, err := os.MkdirTemp("", "vpnbench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := o.prepare(ctx, chosen, dir); err != nil {
		return nil, err
	}
	for range o.rounds {
		for _, s := range chosen {
			rs, err := measure(ctx, s, tests, o)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			results = append(results, rs...)
		}
	}
	results = medians(results)
	addRatios(results)
	return results, nil
}

// medians folds the rounds: of each subject and test, the measurement of median
// throughput stays.
func medians(results []result) []result {
	var order []result // of subject and test alone
	groups := map[result][]result{}
	for _, r := range results {
		key := result{Subject: r.Subject, Test: r.Test}
		if groups[key] == nil {
			order = append(order, key)
		}
		groups[key] = append(groups[key], r)
	}
	for i, key := range order {
		group := groups[key]
		slices.SortFunc(group, func(x, y result) int { return cmp.Compare(x.GbitPerSecond, y.GbitPerSecond) })
		order[i] = group[len(group)/2]
	}
	return order
}

// measure makes a tunnel of one subject and sends each kind of traffic
// through it.
func measure(ctx context.Context, s subject, tests []traffic, o espOptions) (results []result, err error) {
	lab, err := netlab.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := lab.Close(); err == nil {
			err = e
		}
	}()
	net, err := newPair(ctx, lab)
	if err != nil {
		return nil, err
	}
	if err := s.start(ctx, net, o); err != nil {
		return nil, err
	}
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := net.a.WaitPing(ready, net.a.inner, net.b.inner); err != nil {
		return nil, err
	}
	for i, t := range tests {
		fmt.Fprintf(os.Stderr, "%s, %s, %d s …\n", s.name, t.name, o.seconds)
		t.iperf.Duration = time.Duration(o.seconds) * time.Second
		t.iperf.Port = 5201 + i
		measure := net.run
		if t.datagram > 0 {
			measure = net.searchRate
		}
		r, err := measure(ctx, t)
		if err != nil {
			return nil, err
		}
		r.Subject = s.name
		results = append(results, r)
	}
	return results, nil
}

// pair is two gateways with a wire between. The traffic's ends are in the same
// namespaces.
type pair struct{ a, b side }

type side struct {
	*netlab.Namespace
	lab    *netlab.Lab
	role   string
	outer  netip.Addr
	inner  netip.Addr   // on the loopback interface
	prefix netip.Prefix // of inner
}

func newPair(ctx context.Context, lab *netlab.Lab) (pair, error) {
	p := pair{
		a: side{lab: lab, role: "a", outer: netip.MustParseAddr("198.51.100.1"), prefix: netip.MustParsePrefix("10.64.0.0/24")},
		b: side{lab: lab, role: "b", outer: netip.MustParseAddr("198.51.100.2"), prefix: netip.MustParsePrefix("10.128.0.0/24")},
	}
	for _, s := range []*side{&p.a, &p.b} {
		s.inner = s.prefix.Addr().Next()
		var err error
		if s.Namespace, err = lab.Namespace(ctx, s.role); err != nil {
			return pair{}, err
		}
	}
	if err := p.a.Link(ctx, "wire", p.b.Namespace, "wire", 1500); err != nil {
		return pair{}, err
	}
	for _, s := range []*side{&p.a, &p.b} {
		err := s.IP(ctx, fmt.Sprintf("addr add %s/24 dev wire", s.outer), fmt.Sprintf("addr add %s/32 dev lo", s.inner))
		if err != nil {
			return pair{}, err
		}
	}
	return p, nil
}

// prefixes returns what tunnel i protects on either side.
func (p *pair) prefixes(i int) (a, b netip.Prefix) {
	behind := func(p netip.Prefix) netip.Prefix {
		octets := p.Addr().As4()
		n := int(octets[1])<<8 + int(octets[2]) + i
		octets[1], octets[2] = byte(n>>8), byte(n)
		return netip.PrefixFrom(netip.AddrFrom4(octets), p.Bits())
	}
	return behind(p.a.prefix), behind(p.b.prefix)
}

// route sends what is for the other side's prefix to an interface.
func (s *side) route(ctx context.Context, to *side, dev string) error {
	return s.IP(ctx, fmt.Sprintf("route add %s dev %s src %s", to.prefix, dev, s.inner))
}

// run sends a TCP flow from a to b, and pings.
func (p *pair) run(ctx context.Context, t traffic) (r result, err error) {
	before, err := p.sample(ctx)
	if err != nil {
		return result{}, err
	}
	r.Test = t.name
	var pings errgroup.Group
	pings.Go(func() (err error) {
		r.RoundTrip, err = roundTrip(ctx, p.a.Namespace, p.a.inner, p.b.inner, int(t.iperf.Duration.Seconds()))
		return err
	})
	report, err := netlab.RunIPerf(ctx, p.a.Namespace, p.b.Namespace, p.b.inner, t.iperf)
	if err := errors.Join(err, pings.Wait()); err != nil {
		return result{}, err
	}
	after, err := p.sample(ctx)
	if err != nil {
		return result{}, err
	}
	r.GbitPerSecond = report.BitsPerSecond / 1e9
	return r, r.spent(before, after, report.BitsPerSecond/8*t.iperf.Duration.Seconds())
}

// spent sets the CPU times for some octets that arrived.
func (r *result) spent(before, after cpuTimes, octets float64) error {
	if octets == 0 {
		return fmt.Errorf("%s: nothing arrived", r.Test)
	}
	r.GatewayCPU = (after.gateways - before.gateways).Seconds() / octets * 1e9
	r.MachineCPU = (after.machine - before.machine).Seconds() / octets * 1e9
	return nil
}

// addRatios compares with the baseline and with strongSwan.
func addRatios(results []result) {
	for i, r := range results {
		rival := ""
		if at := slices.IndexFunc(subjects, func(s subject) bool { return s.name == r.Subject }); at >= 0 {
			rival = subjects[at].rival
		}
		for _, base := range results {
			if base.Test != r.Test {
				continue
			}
			if base.Subject == baseline {
				results[i].Ratio = r.GbitPerSecond / base.GbitPerSecond
				if base.GatewayCPU > 0 {
					results[i].CPURatio = r.GatewayCPU / base.GatewayCPU
				}
			}
			if base.Subject == rival {
				results[i].SwanRatio = r.GbitPerSecond / base.GbitPerSecond
			}
		}
	}
}

// table prints results for people.
func table(results []result) string {
	var b strings.Builder
	row := func(cells ...any) {
		fmt.Fprintf(&b, "%-23s %-11s %7s %10s %8s %9s %9s %7s %9s %11s\n", cells...)
	}
	figure := func(v float64, decimals int) string {
		if v == 0 {
			return ""
		}
		return strconv.FormatFloat(v, 'f', decimals, 64)
	}
	row("", "", "", "", "", "gateways", "machine", "", "gateways", "to two")
	row("subject", "test", "Gbit/s", "packets/s", "ping ms", "CPU s/GB", "CPU s/GB", "ratio", "CPU ratio", "strongSwans")
	for _, r := range slices.SortedStableFunc(slices.Values(results), func(x, y result) int {
		return cmp.Compare(slices.Index(testNames(), x.Test), slices.Index(testNames(), y.Test))
	}) {
		row(r.Subject, r.Test, figure(r.GbitPerSecond, 2), figure(r.PacketsPerSecond, 0), figure(r.RoundTrip, 2),
			figure(r.GatewayCPU, 2), figure(r.MachineCPU, 2), figure(r.Ratio, 2), figure(r.CPURatio, 2), figure(r.SwanRatio, 2))
	}
	fmt.Fprintf(&b, "ratio, CPU ratio: to %s in this run\n", baseline)
	return b.String()
}
