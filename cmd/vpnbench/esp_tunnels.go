package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// maxTunnels is how many pairs of prefixes fit below the address ranges of both
// sides.
const maxTunnels = 1 << 14

// flowLoad is some flows, spread over tunnels of their own. Without tunnels they go
// over the bare wire.
type flowLoad struct {
	// Protocol is tcp, or udp: the same number of datagrams in each flow, as many as the
	// sender can make, whatever becomes of them.
	Protocol string `json:"protocol"`
	Tunnels  int    `json:"tunnels"`
	Flows    int    `json:"flows"`
}

func (l flowLoad) String() string {
	return fmt.Sprintf("%d flows of %s in %d tunnels", l.Flows, l.Protocol, l.Tunnels)
}

// loads are what tells the cost of n tunnels from that of n flows, and what the
// gateways do to a flow from what its TCP makes of it.
func loads(n int) []flowLoad {
	return []flowLoad{{"tcp", 1, 1}, {"tcp", 1, n}, {"tcp", n, n}, {"tcp", 0, n}, {"udp", 1, n}, {"udp", n, n}}
}

// tunnelsResult is what the flows of a load carried at the same time.
type tunnelsResult struct {
	flowLoad
	// GbitPerSecond is what arrived in all flows together.
	GbitPerSecond float64 `json:"gbit_per_second"`
	// Least and Most are the shares of the slowest and of the fastest flow, 1 being
	// an equal one.
	Least float64 `json:"least_share"`
	Most  float64 `json:"most_share"`
	// Fairness is Jain's index of the flows' throughputs: 1 when all are equal, and
	// one part in the number of flows when one has everything.
	Fairness float64 `json:"fairness"`
	// GatewayCPU is CPU seconds of both gateways for 10⁹ octets that arrived.
	GatewayCPU float64 `json:"gateway_cpu_seconds_per_gb"`
	// MachineCPU is the same of the whole machine, with the ends of the flows.
	MachineCPU float64 `json:"machine_cpu_seconds_per_gb"`
	// Memory is what a gateway has resident under this load, in MiB.
	Memory float64 `json:"gateway_mib"`
	// Offered is what was sent in all flows together, of datagrams.
	Offered float64 `json:"offered_gbit_per_second,omitempty"`
	// Ratio is the throughput to that of one flow in one tunnel; zero for datagrams.
	Ratio float64 `json:"ratio,omitempty"`
	// TunnelsRatio is the throughput to that of as many flows in one tunnel.
	TunnelsRatio float64 `json:"tunnels_ratio,omitempty"`
}

// runTunnels measures loads in turn and returns the medians.
func runTunnels(ctx context.Context, o espOptions) ([]tunnelsResult, error) {
	all := loads(o.tunnels)
	rounds := make([][]tunnelsResult, len(all))
	for range o.rounds {
		for i, l := range all {
			r, err := measureTunnels(ctx, l, o)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", l, err)
			}
			rounds[i] = append(rounds[i], r)
		}
	}
	var results []tunnelsResult
	for _, list := range rounds {
		slices.SortFunc(list, func(x, y tunnelsResult) int { return cmp.Compare(x.GbitPerSecond, y.GbitPerSecond) })
		results = append(results, list[len(list)/2])
	}
	one := results[0].GbitPerSecond
	together := map[string]float64{"tcp": results[1].GbitPerSecond, "udp": results[4].GbitPerSecond}
	for i := range results {
		r := &results[i]
		if r.Protocol == "tcp" {
			r.Ratio = r.GbitPerSecond / one
		}
		if r.Flows == o.tunnels {
			r.TunnelsRatio = r.GbitPerSecond / together[r.Protocol]
		}
	}
	return results, nil
}

func measureTunnels(ctx context.Context, l flowLoad, o espOptions) (r tunnelsResult, err error) {
	lab, err := netlab.Open(ctx)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	p, err := newPair(ctx, lab)
	if err != nil {
		return r, err
	}
	for _, s := range []*side{&p.a, &p.b} {
		if err := s.IP(ctx, fmt.Sprintf("route add local %s/10 dev lo", s.prefix.Addr())); err != nil {
			return r, err
		}
	}
	fmt.Fprintf(os.Stderr, "%s, %d s …\n", l, o.seconds)
	if l.Tunnels > 0 {
		if err := startVPNGW(ctx, p, gcm, true, l.Tunnels); err != nil {
			return r, err
		}
	}
	open := p.openFlows
	if l.Protocol == "udp" {
		open = p.openDatagrams
	}
	flows, err := open(ctx, l)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, flows.close()) }()
	r, err = flows.measure(ctx, time.Duration(o.seconds)*time.Second)
	r.flowLoad = l
	return r, err
}

// flows go from a to b.
type flows struct {
	p        pair
	listener net.Listener
	mu       sync.Mutex
	conns    []net.Conn // guarded by mu
	running  errgroup.Group
	arrived  []atomic.Uint64 // octets, by flow
	offered  atomic.Uint64   // octets of datagrams
}

func newFlows(p *pair, l flowLoad) *flows {
	return &flows{p: *p, arrived: make([]atomic.Uint64, l.Flows)}
}

const flowsPort = 5300

// to returns where a flow of a load goes.
func (p *pair) to(l flowLoad, flow int) netip.Addr {
	if l.Tunnels == 0 {
		return p.b.outer
	}
	_, behind := p.prefixes(flow % l.Tunnels)
	return behind.Addr().Next()
}

// openFlows connects all flows and begins to send.
func (p *pair) openFlows(ctx context.Context, l flowLoad) (f *flows, err error) {
	f = newFlows(p, l)
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if err := p.b.Inside(func() (err error) {
		f.listener, err = net.Listen("tcp4", fmt.Sprintf(":%d", flowsPort))
		return err
	}); err != nil {
		return f, err
	}
	f.running.Go(func() error {
		for i := range f.arrived {
			conn, err := f.listener.Accept()
			if err != nil {
				return nil //nolint:nilerr // The listener was closed.
			}
			f.keep(conn)
			f.running.Go(func() error { f.read(conn, i); return nil })
		}
		return nil
	})
	dialing, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	var all errgroup.Group
	all.SetLimit(8)
	dialed := make([]net.Conn, l.Flows)
	for i := range dialed {
		all.Go(func() (err error) {
			dialed[i], err = p.a.DialContext(dialing, "tcp4", netip.AddrPortFrom(p.to(l, i), flowsPort).String())
			if err == nil {
				f.keep(dialed[i])
			}
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return f, err
	}
	for _, conn := range dialed {
		f.running.Go(func() error { write(conn); return nil })
	}
	return f, nil
}

func (f *flows) keep(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns = append(f.conns, c)
}

// flowBuffer is the octets of a system call of either end.
const flowBuffer = 128 << 10

var flowData [flowBuffer]byte

// write sends until the flow is closed.
func write(conn net.Conn) {
	for {
		if _, err := conn.Write(flowData[:]); err != nil {
			return
		}
	}
}

// read counts until the flow is closed.
func (f *flows) read(conn net.Conn, flow int) {
	buf := make([]byte, flowBuffer)
	for {
		n, err := conn.Read(buf)
		f.arrived[flow].Add(uint64(n))
		if err != nil {
			if !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "flow", flow, err)
			}
			return
		}
	}
}

func (f *flows) close() error {
	var errs []error
	if f.listener != nil {
		errs = append(errs, f.listener.Close())
	}
	f.mu.Lock()
	for _, c := range f.conns {
		_ = c.Close() // the writer's next call fails, which is what is wanted
	}
	f.mu.Unlock()
	return errors.Join(append(errs, f.running.Wait())...)
}

func (f *flows) measure(ctx context.Context, length time.Duration) (r tunnelsResult, err error) {
	select {
	case <-ctx.Done():
		return r, ctx.Err()
	case <-time.After(length / 4): // the windows open
	}
	begin, first, offered := time.Now(), f.counts(), f.offered.Load()
	before, err := f.p.sample(ctx)
	if err != nil {
		return r, err
	}
	select {
	case <-ctx.Done():
		return r, ctx.Err()
	case <-time.After(length):
	}
	last, took := f.counts(), time.Since(begin)
	offered = f.offered.Load() - offered
	after, err := f.p.sample(ctx)
	if err != nil {
		return r, err
	}
	memory, err := f.p.residentMemory(ctx)
	if err != nil {
		return r, err
	}
	octets := make([]float64, len(first))
	for i := range octets {
		octets[i] = last[i] - first[i]
	}
	sum, fairness := jain(octets)
	if sum == 0 {
		return r, errors.New("nothing arrived")
	}
	equal := sum / float64(len(octets))
	return tunnelsResult{
		GbitPerSecond: sum * 8 / 1e9 / took.Seconds(), Offered: float64(offered) * 8 / 1e9 / took.Seconds(),
		Least: slices.Min(octets) / equal, Most: slices.Max(octets) / equal, Fairness: fairness,
		GatewayCPU: (after.gateways - before.gateways).Seconds() / sum * 1e9,
		MachineCPU: (after.machine - before.machine).Seconds() / sum * 1e9,
		Memory:     float64(memory) / 2 / (1 << 20),
	}, nil
}

// jain returns the sum of shares and Jain's index of their fairness (R. Jain and
// others, DEC-TR-301).
func jain(shares []float64) (sum, index float64) {
	squares := 0.0
	for _, x := range shares {
		sum, squares = sum+x, squares+x*x
	}
	if squares == 0 {
		return 0, 0
	}
	return sum, sum * sum / (float64(len(shares)) * squares)
}

// residentMemory returns the octets of both gateways.
func (p *pair) residentMemory(ctx context.Context) (sum int, err error) {
	for _, s := range []*side{&p.a, &p.b} {
		list, err := s.Run(ctx, "ip", "netns", "pids", s.Name)
		if err != nil {
			return 0, err
		}
		for _, pid := range strings.Fields(list) {
			number, err := strconv.Atoi(pid)
			if err != nil {
				return 0, err
			}
			n, err := residentMemory(number)
			if err != nil {
				continue // it was the `ip` that listed it
			}
			sum += n
		}
	}
	return sum, nil
}

func (f *flows) counts() []float64 {
	list := make([]float64, len(f.arrived))
	for i := range list {
		list[i] = float64(f.arrived[i].Load())
	}
	return list
}

// tunnelsTable prints results for people.
func tunnelsTable(results []tunnelsResult) string {
	var b strings.Builder
	row := func(cells ...any) {
		fmt.Fprintf(&b, "%5s %7s %6s %7s %7s %6s %8s %7s %18s %9s %9s %8s\n", cells...)
	}
	figure := func(format string, v float64) string {
		if v == 0 {
			return ""
		}
		return fmt.Sprintf(format, v)
	}
	row("", "", "", "Gbit/s", "Gbit/s", "", "to one", "Jain's", "slowest, fastest", "gateways", "machine", "MiB each")
	row("", "tunnels", "flows", "offered", "carried", "ratio", "tunnel", "index", "of an equal share", "CPU s/GB", "CPU s/GB", "gateway")
	for _, r := range results {
		row(r.Protocol, strconv.Itoa(r.Tunnels), strconv.Itoa(r.Flows), figure("%.2f", r.Offered), figure("%.2f", r.GbitPerSecond), figure("%.2f", r.Ratio),
			figure("%.2f", r.TunnelsRatio), figure("%.3f", r.Fairness), fmt.Sprintf("%.2f, %.2f", r.Least, r.Most),
			figure("%.2f", r.GatewayCPU), figure("%.2f", r.MachineCPU), figure("%.1f", r.Memory))
	}
	b.WriteString("ratio: to one flow in one tunnel; to one tunnel: to as many flows in one tunnel\n")
	return b.String()
}
