package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

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

Needs root, iproute2, iperf3, strongSwan (charon-systemd, swanctl, the plugin
kernel-libipsec) and, unless --wireguard names a program, the Go tool chain and
the repository as the current folder, to build wireguard-go.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			results, err := runESP(cmd.Context(), o)
			if err != nil {
				return err
			}
			if o.json {
				out := json.NewEncoder(cmd.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(results)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), table(results))
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
	return cmd
}

// traffic is one kind of measurement.
type traffic struct {
	name  string
	iperf netlab.IPerf
}

var traffics = []traffic{
	{"tcp", netlab.IPerf{}},
	{"tcp-reverse", netlab.IPerf{Reverse: true}},
	{"udp-64", netlab.IPerf{UDP: true, Rate: "0", Length: 64}},
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
	// PacketsPerSecond is of delivered datagrams; zero for TCP.
	PacketsPerSecond float64 `json:"packets_per_second,omitempty"`
	// GatewayCPU and MachineCPU are CPU seconds for 10⁹ octets that arrived: of
	// both gateways' processes, and of the whole machine with iperf3.
	GatewayCPU float64 `json:"gateway_cpu_seconds_per_gb"`
	MachineCPU float64 `json:"machine_cpu_seconds_per_gb"`
	// Ratio is the throughput, or for datagrams the rate, to the baseline's; zero
	// without one.
	Ratio float64 `json:"ratio,omitempty"`
}

// runESP measures every subject by every test.
func runESP(ctx context.Context, o espOptions) ([]result, error) {
	if o.seconds < 1 {
		return nil, fmt.Errorf("--seconds %d: must be at least 1", o.seconds)
	}
	if o.rounds < 1 {
		return nil, fmt.Errorf("--rounds %d: must be at least 1", o.rounds)
	}
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
	var results []result
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
		r, err := net.run(ctx, t)
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
		a: side{lab: lab, role: "a", outer: netip.MustParseAddr("198.51.100.1"), prefix: netip.MustParsePrefix("10.1.0.0/24")},
		b: side{lab: lab, role: "b", outer: netip.MustParseAddr("198.51.100.2"), prefix: netip.MustParsePrefix("10.2.0.0/24")},
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

// route sends what is for the other side's prefix to an interface.
func (s *side) route(ctx context.Context, to *side, dev string) error {
	return s.IP(ctx, fmt.Sprintf("route add %s dev %s src %s", to.prefix, dev, s.inner))
}

// run sends traffic from a to b.
func (p *pair) run(ctx context.Context, t traffic) (result, error) {
	before, err := p.sample(ctx)
	if err != nil {
		return result{}, err
	}
	report, err := netlab.RunIPerf(ctx, p.a.Namespace, p.b.Namespace, p.b.inner, t.iperf)
	if err != nil {
		return result{}, err
	}
	after, err := p.sample(ctx)
	if err != nil {
		return result{}, err
	}
	gigabytes := report.BitsPerSecond / 8e9 * t.iperf.Duration.Seconds()
	if gigabytes == 0 {
		return result{}, fmt.Errorf("%s: nothing arrived", t.name)
	}
	r := result{
		Test: t.name, GbitPerSecond: report.BitsPerSecond / 1e9,
		GatewayCPU: (after.gateways - before.gateways).Seconds() / gigabytes,
		MachineCPU: (after.machine - before.machine).Seconds() / gigabytes,
	}
	if t.iperf.UDP {
		r.PacketsPerSecond = float64(report.Packets-report.Lost) / t.iperf.Duration.Seconds()
	}
	return r, nil
}

// addRatios compares with the baseline.
func addRatios(results []result) {
	for i, r := range results {
		for _, base := range results {
			if base.Subject == baseline && base.Test == r.Test {
				results[i].Ratio = r.GbitPerSecond / base.GbitPerSecond
			}
		}
	}
}

// table prints results for people.
func table(results []result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-20s %-12s %8s %10s %12s %12s %8s\n", "", "", "", "packets/s", "gateways", "machine", "")
	fmt.Fprintf(&b, "%-20s %-12s %8s %10s %12s %12s %8s\n", "subject", "test", "Gbit/s", "delivered", "CPU s/GB", "CPU s/GB", "ratio")
	for _, r := range slices.SortedStableFunc(slices.Values(results), func(x, y result) int {
		return cmp.Compare(slices.Index(testNames(), x.Test), slices.Index(testNames(), y.Test))
	}) {
		packets, ratio := "", ""
		if r.PacketsPerSecond > 0 {
			packets = fmt.Sprintf("%.0f", r.PacketsPerSecond)
		}
		if r.Ratio > 0 {
			ratio = fmt.Sprintf("%.2f", r.Ratio)
		}
		fmt.Fprintf(&b, "%-20s %-12s %8.2f %10s %12.2f %12.2f %8s\n", r.Subject, r.Test, r.GbitPerSecond, packets, r.GatewayCPU, r.MachineCPU, ratio)
	}
	fmt.Fprintf(&b, "ratio: throughput to that of %s in this run\n", baseline)
	return b.String()
}
