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

// tunnelsResult is what some tunnels carried at the same time.
type tunnelsResult struct {
	Tunnels int `json:"tunnels"`
	// GbitPerSecond is what arrived in all tunnels together.
	GbitPerSecond float64 `json:"gbit_per_second"`
	// Least and Most are the shares of the slowest and of the fastest tunnel, 1 being
	// an equal one.
	Least float64 `json:"least_share"`
	Most  float64 `json:"most_share"`
	// Fairness is Jain's index of the tunnels' throughputs: 1 when all are equal, and
	// one part in the number of tunnels when one has everything.
	Fairness float64 `json:"fairness"`
	// GatewayCPU is CPU seconds of both gateways for 10⁹ octets that arrived.
	GatewayCPU float64 `json:"gateway_cpu_seconds_per_gb"`
	// Memory is what a gateway has resident under this load, in MiB.
	Memory float64 `json:"gateway_mib"`
	// Ratio is the throughput to that of one tunnel.
	Ratio float64 `json:"ratio"`
}

// runTunnels measures one tunnel and many, in turn, and returns the medians.
func runTunnels(ctx context.Context, o espOptions) ([]tunnelsResult, error) {
	counts := []int{1, o.tunnels}
	rounds := map[int][]tunnelsResult{}
	for range o.rounds {
		for _, n := range counts {
			r, err := measureTunnels(ctx, n, o)
			if err != nil {
				return nil, fmt.Errorf("%d tunnels: %w", n, err)
			}
			rounds[n] = append(rounds[n], r)
		}
	}
	var results []tunnelsResult
	for _, n := range counts {
		list := rounds[n]
		slices.SortFunc(list, func(x, y tunnelsResult) int { return cmp.Compare(x.GbitPerSecond, y.GbitPerSecond) })
		results = append(results, list[len(list)/2])
	}
	for i := range results {
		results[i].Ratio = results[i].GbitPerSecond / results[0].GbitPerSecond
	}
	return results, nil
}

func measureTunnels(ctx context.Context, n int, o espOptions) (r tunnelsResult, err error) {
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
	fmt.Fprintf(os.Stderr, "%d tunnels, %d s …\n", n, o.seconds)
	if err := startVPNGW(ctx, p, gcm, true, n); err != nil {
		return r, err
	}
	flows, err := p.openFlows(ctx, n)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, flows.close()) }()
	return flows.measure(ctx, time.Duration(o.seconds)*time.Second)
}

// flows are TCP flows from a to b, one in each tunnel.
type flows struct {
	p        pair
	listener net.Listener
	mu       sync.Mutex
	conns    []net.Conn // guarded by mu
	running  errgroup.Group
	arrived  []atomic.Uint64 // octets, by tunnel
}

const flowsPort = 5300

// openFlows connects through every tunnel and begins to send. The server's side of
// a flow is told by its address which tunnel it is in.
func (p *pair) openFlows(ctx context.Context, n int) (f *flows, err error) {
	f = &flows{p: *p, arrived: make([]atomic.Uint64, n)}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	tunnels := map[netip.Addr]int{}
	for i := range n {
		_, behind := p.prefixes(i)
		tunnels[behind.Addr().Next()] = i
	}
	if err := p.b.Inside(func() (err error) {
		f.listener, err = net.Listen("tcp4", fmt.Sprintf(":%d", flowsPort))
		return err
	}); err != nil {
		return f, err
	}
	f.running.Go(func() error {
		for {
			conn, err := f.listener.Accept()
			if err != nil {
				return nil //nolint:nilerr // The listener was closed.
			}
			f.keep(conn)
			i, ok := tunnels[conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr()]
			if !ok {
				return fmt.Errorf("a flow to %s, which is in no tunnel", conn.LocalAddr())
			}
			f.running.Go(func() error { f.read(conn, i); return nil })
		}
	})
	dialing, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	var all errgroup.Group
	all.SetLimit(8)
	var dialed []net.Conn
	for to := range tunnels {
		all.Go(func() error {
			conn, err := p.a.DialContext(dialing, "tcp4", netip.AddrPortFrom(to, flowsPort).String())
			if err != nil {
				return err
			}
			f.keep(conn)
			f.mu.Lock()
			defer f.mu.Unlock()
			dialed = append(dialed, conn)
			return nil
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
const flowBuffer = 64 << 10

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
func (f *flows) read(conn net.Conn, tunnel int) {
	buf := make([]byte, flowBuffer)
	for {
		n, err := conn.Read(buf)
		f.arrived[tunnel].Add(uint64(n))
		if err != nil {
			if !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "flow", tunnel, err)
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
	begin, first := time.Now(), f.counts()
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
		Tunnels: len(octets), GbitPerSecond: sum * 8 / 1e9 / took.Seconds(),
		Least: slices.Min(octets) / equal, Most: slices.Max(octets) / equal, Fairness: fairness,
		GatewayCPU: (after.gateways - before.gateways).Seconds() / sum * 1e9,
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
	fmt.Fprintf(&b, "%7s %7s %6s %7s %18s %9s %8s\n", "", "", "", "Jain's", "slowest, fastest", "gateways", "MiB each")
	fmt.Fprintf(&b, "%7s %7s %6s %7s %18s %9s %8s\n", "tunnels", "Gbit/s", "ratio", "index", "of an equal share", "CPU s/GB", "gateway")
	for _, r := range results {
		fmt.Fprintf(&b, "%7d %7.2f %6.2f %7.3f %18s %9.2f %8.1f\n", r.Tunnels, r.GbitPerSecond, r.Ratio, r.Fairness,
			fmt.Sprintf("%.2f, %.2f", r.Least, r.Most), r.GatewayCPU, r.Memory)
	}
	return b.String()
}
