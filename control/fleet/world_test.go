package fleet

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/store"
)

const ttl = 3 * time.Second

var (
	eip1, eip2 = netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")
	eip3, eip4 = netip.MustParseAddr("203.0.113.3"), netip.MustParseAddr("203.0.113.4")
	eip5       = netip.MustParseAddr("203.0.113.5") // of a client-to-cloud gateway
	fixedEIP   = netip.MustParseAddr("203.0.113.9")
	routerIP   = netip.MustParseAddr("10.10.0.1")
)

func inventory() *control.Inventory {
	inv := &control.Inventory{
		AvailabilityZones: []string{"az1", "az2"},
		VPCs: []control.VPC{{ID: "vpc", CIDR: netip.MustParsePrefix("10.10.0.0/16"), Subnets: []control.Subnet{
			{ID: "subnet", CIDR: netip.MustParsePrefix("10.10.0.0/24"), Interface: "lan", RouterAddress: routerIP},
		}}},
	}
	for i, a := range []netip.Addr{eip1, eip2, eip3, eip4, eip5} {
		inv.EIPs = append(inv.EIPs, control.EIP{ID: fmt.Sprint("eip", i+1), Address: a, Interface: "wan", Floating: true})
	}
	inv.EIPs = append(inv.EIPs, control.EIP{ID: "fixed", Address: fixedEIP})
	if err := inv.Validate(); err != nil {
		panic(err)
	}
	return inv
}

// gateways are an active-standby one at the first two addresses, and an
// active-active one at the others, with a slot in each zone.
func gateways() []control.Gateway {
	standby := control.Gateway{HAMode: control.ActiveStandby, AvailabilityZones: []string{"az1", "az2"}, ConnectSubnet: "subnet"}
	standby.ID = "standby"
	standby.EIPs = [2]control.EIPBinding{{Address: eip1}, {Address: eip2}}
	active := control.Gateway{HAMode: control.ActiveActive, AvailabilityZones: []string{"az1", "az2"}}
	active.ID = "active"
	active.EIPs = [2]control.EIPBinding{{Address: eip3}, {Address: eip4}}
	return []control.Gateway{standby, active}
}

// world is a cluster with the histories of all nodes.
type world struct {
	*testing.T
	cluster *cluster

	mu      sync.Mutex
	history bytes.Buffer
	nodes   map[string]*node
}

// node is one node, with a reconciler that does what it is told after a moment.
type node struct {
	*Keeper
	w    *world
	name string
	link *link
	stop func() // gracefully

	mu      sync.Mutex
	broken  map[netip.Addr]error
	set     []FloatingAddress
	ends    time.Time // when the kernel removes what is set
	fence   store.Check
	deaf    bool // the engines do not hear of changes
	changed chan struct{}
}

func (w *world) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.history.Write(line)
}
func (w *world) Close() error { return nil }

var origin = time.Now()

func now() int64 { return int64(time.Since(origin)) }

func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, cluster: newCluster(), nodes: map[string]*node{}}
		w.put("spec/" + string(control.KindGateway) + "/p/any")
		test(w)
		for _, name := range slices.Sorted(maps.Keys(w.nodes)) {
			w.nodes[name].link.Mend()
			w.nodes[name].stop()
		}
		events, err := ReadHistory(&w.history)
		if err != nil {
			t.Error(err)
		}
		if err := CheckHistory(events); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute) // leases of nodes that did not join lapse
		if err := w.cluster.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
	})
}

func (w *world) put(key string) {
	w.Helper()
	if _, err := w.cluster.Memory.Txn(context.Background(), nil, []store.Op{store.Put(key, []byte("{}"))}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) join(name, zone string, change ...func(*node, *Options)) (*node, error) {
	w.Helper()
	n := &node{w: w, name: name, link: &link{cluster: w.cluster}, broken: map[netip.Addr]error{}, changed: make(chan struct{}, 1)}
	host := map[netip.Addr]bool{}
	o := Options{
		Cluster: n.link, Inventory: inventory(), TTL: ttl, Logger: slog.New(slog.DiscardHandler),
		Node:          control.Node{Name: name, Zone: zone, Instance: fmt.Sprint(name, rand.Uint64()), Started: time.Now()},
		Objects:       func(ctx context.Context) (control.Served, error) { return n.objects(ctx, gateways()) },
		HostAddresses: func() (map[netip.Addr]bool, error) { return host, nil },
		SetFloating:   n.setFloating,
		SetFence:      func(c *store.Check) { n.mu.Lock(); n.fence = *c; n.mu.Unlock() },
		Changed: func(bool) {
			select {
			case n.changed <- struct{}{}:
			default:
			}
		},
		History: &History{node: name, out: w, now: now},
	}
	for _, c := range change {
		c(n, &o)
	}
	n.Keeper = New(o)
	if err := n.Join(context.Background()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			w.Errorf("Run of %s: %v", name, err)
		}
	})
	running.Go(func() {
		for {
			select {
			case <-n.changed:
				time.Sleep(50 * time.Millisecond)
				n.mu.Lock()
				deaf := n.deaf
				n.mu.Unlock()
				if !deaf {
					n.Applied(n.Division())
				}
			case <-ctx.Done():
				return
			}
		}
	})
	n.stop = func() {
		cancel()
		running.Wait()
		n.stop = func() {}
	}
	w.nodes[name] = n
	return n, nil
}

func (w *world) mustJoin(name, zone string, change ...func(*node, *Options)) *node {
	w.Helper()
	n, err := w.join(name, zone, change...)
	if err != nil {
		w.Fatal(err)
	}
	return n
}

// objects are some gateways and a client-to-cloud gateway, as of now.
func (n *node) objects(ctx context.Context, list []control.Gateway) (control.Served, error) {
	_, rev, err := n.link.List(ctx, control.ServedPrefixes[0])
	clients := control.P2CGateway{AvailabilityZones: []string{"az1"}, EIP: control.EIPBinding{Address: eip5}}
	return control.Served{Gateways: list, P2CGateways: []control.P2CGateway{clients}, Revision: rev}, err
}

func (n *node) setFloating(want []FloatingAddress, lifetime time.Duration) map[netip.Addr]error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.set, n.ends = nil, time.Now().Add(lifetime)
	failed := map[netip.Addr]error{}
	for _, f := range want {
		if err := n.broken[f.Address]; err != nil {
			failed[f.Address] = err
			continue
		}
		n.set = append(n.set, f)
	}
	return failed
}

// wants checks what a node serves, carries and has set.
func (w *world) wants(n *node, addresses []netip.Addr, carries bool) {
	w.Helper()
	synctest.Wait()
	d := n.Division()
	n.mu.Lock()
	set := slices.Clone(n.set)
	n.mu.Unlock()
	var have []netip.Addr
	for _, f := range set {
		have = append(have, f.Address)
	}
	for _, a := range []netip.Addr{routerIP, eip1, eip2, eip3, eip4, eip5} {
		want := slices.Contains(addresses, a)
		if d.Serves(a) != want || n.Holds(a) != want || slices.Contains(have, a) != want {
			w.Errorf("%s: %s is served: %v, may be used: %v, is set: %v, want %v", n.name, a, d.Serves(a), n.Holds(a), slices.Contains(have, a), want)
		}
	}
	for _, g := range gateways() {
		if g.HAMode == control.ActiveStandby && d.Carries(&g) != carries {
			w.Errorf("%s: carries the active-standby gateway: %v, want %v", n.name, d.Carries(&g), carries)
		}
	}
	if !n.Holds(fixedEIP) {
		w.Errorf("%s may not use an address that does not float", n.name)
	}
}

var everything = []netip.Addr{eip1, eip2, eip3, eip4, eip5, routerIP}
