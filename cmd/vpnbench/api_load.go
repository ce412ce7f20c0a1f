package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// load is one run against one daemon.
type load struct {
	daemon  *apiDaemon
	options apiOptions
	figures *apiFigures

	gateways    []string
	connections []string // ids, by number
	servers     []*benchServer
	lastWrite   time.Time
}

// caller returns the API as one client sees it for its nth call.
func (l *load) caller(who, n int) *client.Client {
	keys := l.daemon.clients[who]
	return keys[n%len(keys)]
}

// together has every client make its share of n calls, all clients at once, and
// notes how long they took.
func (l *load) together(ctx context.Context, what string, n int, call func(ctx context.Context, api *client.Client, i int) error) error {
	var mu sync.Mutex
	var times []time.Duration
	pid := strconv.Itoa(l.daemon.process.PID)
	before, err := processTime(pid)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for who := range l.options.clients {
		group.Go(func() error {
			var own []time.Duration
			for i := who; i < n; i += l.options.clients {
				begin := time.Now()
				if err := call(ctx, l.caller(who, len(own)), i); err != nil {
					return fmt.Errorf("%s %d: %w", what, i, err)
				}
				own = append(own, time.Since(begin))
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, own...)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	l.lastWrite = time.Now()
	after, err := processTime(pid)
	l.figures.Writes = append(l.figures.Writes, writes{
		What: what, Number: n, Took: l.lastWrite.Sub(start), CPU: after - before, latency: summary(what, times),
	})
	return err
}

// createGateways makes as many gateways as the connections need.
func (l *load) createGateways(ctx context.Context) (err error) {
	if l.figures.Empty, _, err = l.daemon.memory(); err != nil {
		return err
	}
	api := l.caller(0, 0)
	for i := range (l.options.connections + gatewayConnections - 1) / gatewayConnections {
		g, err := api.Create(ctx, client.Gateways, client.Object{
			"vpc_id": benchVPC, "connect_subnet": subnetID,
			// Two gateways must not be for the same traffic.
			"local_subnets": []string{fmt.Sprintf("10.10.%d.0/24", i)},
			"eip1":          client.Object{"id": eipID(2 * i)}, "eip2": client.Object{"id": eipID(2*i + 1)},
		})
		if err != nil {
			return err
		}
		l.gateways = append(l.gateways, g.ID())
	}
	for _, id := range l.gateways {
		if _, err := api.WaitSettled(ctx, client.Gateways, id, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// createConnections makes customer gateways, and two connections to each.
func (l *load) createConnections(ctx context.Context) error {
	n := l.options.connections
	customers := make([]string, (n+1)/2)
	err := l.together(ctx, "customer gateways created", len(customers), func(ctx context.Context, api *client.Client, i int) error {
		o, err := api.Create(ctx, client.CustomerGateways, client.Object{"id_value": fmt.Sprintf("198.18.%d.%d", i/250, 1+i%250)})
		customers[i] = o.ID()
		return err
	})
	if err != nil {
		return err
	}
	l.connections = make([]string, n)
	return l.together(ctx, "connections created", n, func(ctx context.Context, api *client.Client, i int) error {
		gateway, pair := i/gatewayConnections, i/2
		o, err := api.Create(ctx, client.Connections, client.Object{
			"name":   fmt.Sprintf("new-%d", i),
			"vgw_id": l.gateways[gateway], "vgw_ip": eipID(2*gateway + i%2), "cgw_id": customers[pair],
			"peer_subnets": []string{fmt.Sprintf("172.%d.%d.0/24", 16+pair/256, pair%256)}, "psk": "Bench-of-the-API-1",
		})
		l.connections[i] = o.ID()
		return err
	})
}

// converge waits until the engines hold what was created.
func (l *load) converge(ctx context.Context) error {
	if _, err := l.settled(ctx); err != nil {
		return err
	}
	l.figures.Converged = time.Since(l.lastWrite)
	links, err := l.daemon.namespace.Run(ctx, "ip", "-brief", "link")
	if err != nil {
		return err
	}
	if l.figures.Devices = strings.Count(links, "vpngw"); l.figures.Devices != len(l.connections) {
		return fmt.Errorf("there are %d devices for %d connections", l.figures.Devices, len(l.connections))
	}
	return nil
}

// settled waits until no connection is worked on and returns all.
func (l *load) settled(ctx context.Context) (all []client.Object, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	n := 0
	err = netlab.Poll(ctx, 100*time.Millisecond, func() (bool, error) {
		var err error
		n++
		if all, err = l.caller(0, n).List(ctx, client.Connections); err != nil {
			return false, err
		}
		return !slices.ContainsFunc(all, func(o client.Object) bool { return strings.HasPrefix(o.Status(), "PENDING_") }), nil
	})
	if err != nil {
		return nil, fmt.Errorf("the engines do not hold everything: %w", err)
	}
	return all, nil
}

// rename has all clients change every connection, and looks that no write was
// lost.
func (l *load) rename(ctx context.Context) error {
	name := func(i int) string { return fmt.Sprintf("connection-%d", i) }
	err := l.together(ctx, "connections renamed", len(l.connections), func(ctx context.Context, api *client.Client, i int) error {
		_, err := api.Update(ctx, client.Connections, l.connections[i], client.Object{"name": name(i)})
		return err
	})
	if err != nil {
		return err
	}
	all, err := l.settled(ctx)
	if err != nil {
		return err
	}
	have := make(map[string]client.Object, len(all))
	for _, o := range all {
		have[o.ID()] = o
	}
	for i, id := range l.connections {
		if o := have[id]; o.Name() != name(i) || o.Status() != "DOWN" {
			return fmt.Errorf("a write was lost or refused: connection %d is %q and %s: %s", i, o.Name(), o.Status(), o.StatusMessage())
		}
	}
	if len(all) != len(l.connections) {
		return fmt.Errorf("there are %d connections, %d were created", len(all), len(l.connections))
	}
	return nil
}

// tagTogether has all clients change one object at once: each puts tags of its
// own on the same gateway.
func (l *load) tagTogether(ctx context.Context) error {
	const each = 2
	path := "vpn-gateway/" + l.gateways[0] + "/tags"
	n := l.options.clients * each
	if n > 20 {
		n = 20 // tags that an object may have
	}
	err := l.together(ctx, "tags put on one gateway", n, func(ctx context.Context, api *client.Client, i int) error {
		body := client.Object{"tags": []client.Object{{"key": fmt.Sprintf("key-%d", i), "value": "v"}}}
		return api.Call(ctx, http.MethodPost, path+"/create", body, nil)
	})
	if err != nil {
		return err
	}
	var answer struct {
		Tags []struct{ Key string } `json:"tags"`
	}
	if err := l.caller(0, 1).Call(ctx, http.MethodGet, path, nil, &answer); err != nil {
		return err
	}
	if len(answer.Tags) != n {
		return fmt.Errorf("a write was lost: the gateway has %d tags, %d were put on it", len(answer.Tags), n)
	}
	return nil
}

// read measures shows by all clients at once, and lists of everything one after
// the other. What is timed is the call up to the last octet of its answer.
func (l *load) read(ctx context.Context) error {
	var mu sync.Mutex
	var shows []time.Duration
	group, inGroup := errgroup.WithContext(ctx)
	for who := range l.options.clients {
		group.Go(func() error {
			own, err := l.timed(inGroup, who, l.options.calls, func(n int) string {
				return "vpn-connection/" + l.connections[(who*l.options.calls+n)%len(l.connections)]
			})
			mu.Lock()
			defer mu.Unlock()
			shows = append(shows, own...)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	lists, err := l.timed(ctx, 0, l.options.calls, func(int) string { return "vpn-connection" })
	if err != nil {
		return err
	}
	l.figures.Reads = append(l.figures.Reads,
		summary(fmt.Sprintf("show, %d clients at once", l.options.clients), shows),
		summary(fmt.Sprintf("list of %d connections", len(l.connections)), lists))
	if len(l.servers) == 0 {
		return nil
	}
	lists, err = l.timed(ctx, 0, l.options.calls, func(int) string { return l.servers[0].path("users") })
	l.figures.Reads = append(l.figures.Reads, summary("list of a server's users", lists))
	return err
}

func (l *load) timed(ctx context.Context, who, n int, path func(n int) string) ([]time.Duration, error) {
	var times []time.Duration
	for i := range n {
		begin := time.Now()
		if err := l.caller(who, i).Call(ctx, http.MethodGet, path(i), nil, nil); err != nil {
			return nil, err
		}
		times = append(times, time.Since(begin))
	}
	return times, nil
}

// applyAgain has the daemon compare everything, and watches the kernel
// meanwhile: it must not be told anything.
func (l *load) applyAgain(ctx context.Context) error {
	const passes, duration = "vpngw_reconcile_passes_total", "vpngw_reconcile_last_duration_seconds"
	const canary = "192.0.2.99/32"
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// What the tags have set off is over when no pass has been made for a while.
	before, quiet := -1.0, 0
	err := netlab.Poll(limit, 200*time.Millisecond, func() (bool, error) {
		now, err := l.daemon.metric(limit, passes)
		if quiet++; now != before {
			before, quiet = now, 0
		}
		return quiet >= 10, err
	})
	if err != nil {
		return fmt.Errorf("passes do not end: %w", err)
	}
	monitor, err := l.daemon.namespace.Start("monitor", nil, "ip", "monitor", "link", "address", "route", "rule")
	if err != nil {
		return err
	}
	// It listens once it tells of something.
	if err := netlab.Poll(limit, 20*time.Millisecond, func() (bool, error) {
		if strings.Contains(monitor.Output(), canary) {
			return true, nil
		}
		return false, errors.Join(l.daemon.namespace.IP(ctx, "addr add "+canary+" dev lo"), l.daemon.namespace.IP(ctx, "addr del "+canary+" dev lo"))
	}); err != nil {
		return fmt.Errorf("ip monitor: %w", err)
	}
	if err := l.daemon.process.Signal(unix.SIGHUP); err != nil {
		return err
	}
	err = netlab.Poll(limit, 50*time.Millisecond, func() (bool, error) {
		now, err := l.daemon.metric(limit, passes)
		return now > before, err
	})
	if err != nil {
		return fmt.Errorf("no pass was made: %w", err)
	}
	seconds, err := l.daemon.metric(ctx, duration)
	if err != nil {
		return err
	}
	l.figures.NoOpApply = time.Duration(seconds * float64(time.Second))
	if err := monitor.Kill(); err != nil {
		return err
	}
	for line := range strings.Lines(monitor.Output()) {
		if strings.Contains(line, "vpngw") || strings.Contains(line, "proto 175") {
			return fmt.Errorf("an apply of the same touched the kernel: %s", line)
		}
	}
	return nil
}

// memory notes what the daemon occupies in the end.
func (l *load) memory(context.Context) (err error) {
	if l.figures.Full, l.figures.Peak, err = l.daemon.memory(); err != nil {
		return err
	}
	store, err := os.Stat(filepath.Join(l.daemon.dir, "data", "vpngw.db"))
	if err == nil {
		l.figures.StoreSize = store.Size()
	}
	return err
}
