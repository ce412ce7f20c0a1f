package ike

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/ipsectest"
)

// network joins gateways in memory. It lives in a synctest bubble: latency
// passes in no time.
type network struct {
	mu    sync.Mutex
	hosts map[netip.Addr]*gateway
	// fate says how many copies of a datagram arrive, and after how long.
	fate func(local, remote netip.AddrPort) (copies int, delay time.Duration)
	// tap, when set, sees each datagram that is sent.
	tap func(sa.Datagram)
}

func newNetwork() *network {
	return &network{hosts: map[netip.Addr]*gateway{}, fate: func(_, _ netip.AddrPort) (int, time.Duration) {
		return 1, 10 * time.Millisecond
	}}
}

func (n *network) setFate(fate func(local, remote netip.AddrPort) (int, time.Duration)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fate = fate
}

func (n *network) setTap(tap func(sa.Datagram)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tap = tap
}

// SendIKE implements Transport. The marker of port 4500 is not the concern of
// either end here; a keepalive goes nowhere, as in a real NAT.
func (n *network) SendIKE(local, remote netip.AddrPort, datagram []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.hosts[remote.Addr()]
	if to == nil || len(datagram) == 1 {
		return nil
	}
	datagram = slices.Clone(datagram)
	if n.tap != nil {
		n.tap(sa.Datagram{Local: local, Remote: remote, Bytes: datagram})
	}
	copies, delay := n.fate(local, remote)
	for i := range copies {
		time.AfterFunc(delay*time.Duration(i+1), func() {
			n.mu.Lock()
			up := n.hosts[remote.Addr()] == to
			n.mu.Unlock()
			if up {
				to.Deliver(remote, local, datagram)
			}
		})
	}
	return nil
}

// gateway is a Server with its data plane.
type gateway struct {
	*Server
	backend *ipsectest.Backend
	addr    netip.Addr
	net     *network
	cancel  context.CancelFunc
	done    chan error

	mu     sync.Mutex
	events []sa.Event
}

var (
	west = netip.MustParseAddr("192.0.2.1")
	east = netip.MustParseAddr("192.0.2.2")
)

// start puts a gateway on the network and runs it to the end of the test.
func start(t *testing.T, n *network, addr netip.Addr, opts Options) *gateway {
	t.Helper()
	g := &gateway{backend: ipsectest.NewBackend(), addr: addr, net: n, done: make(chan error, 1)}
	opts.Transport, opts.Backend = n, g.backend
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("at", addr)
	}
	g.Server = NewServer(opts)
	n.mu.Lock()
	n.hosts[addr] = g
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	g.cancel = cancel
	go func() { g.done <- g.Run(ctx) }()
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			case e := <-g.Events():
				g.mu.Lock()
				g.events = append(g.events, e)
				g.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		g.stopAndCheck(t)
		close(stop)
	})
	return g
}

// stopAndCheck ends the gateway in good order, and asserts that nothing of it
// is left in the data plane.
func (g *gateway) stopAndCheck(t *testing.T) {
	t.Helper()
	g.cancel()
	if g.done == nil {
		return
	}
	if err := <-g.done; err != nil {
		t.Errorf("%s: %v", g.addr, err)
	}
	g.done = nil
	time.Sleep(refusalHold)
	if left := g.backend.SAs(); len(left) != 0 {
		t.Errorf("%s: %d SAs are left", g.addr, len(left))
	}
	if left := g.backend.Policies(); len(left) != 0 {
		t.Errorf("%s: policies are left: %v", g.addr, left)
	}
	if n := g.DropCounts()[dropPanic]; n != 0 {
		t.Errorf("%s: %d internal errors", g.addr, n)
	}
	g.Server.mu.Lock()
	defer g.Server.mu.Unlock()
	if n := len(g.peers) + len(g.bySPI) + len(g.bySA) + len(g.byInit) + g.open.total + len(g.open.byAddr) +
		g.openV1.total + len(g.openV1.byAddr); n != 0 {
		t.Errorf("%s: %d entries are left in the tables", g.addr, n)
	}
}

// crash takes the gateway off the network without a word to the peer.
func (g *gateway) crash() {
	g.net.mu.Lock()
	defer g.net.mu.Unlock()
	delete(g.net.hosts, g.addr)
}

// seen returns the events of a kind.
func (g *gateway) seen(kind sa.EventKind) (found []sa.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.events {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

func (g *gateway) connection(t *testing.T, name string) ConnectionStatus {
	t.Helper()
	for _, c := range g.Snapshot() {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("%s: no connection %q", g.addr, name)
	return ConnectionStatus{}
}

// joined returns the two ends of a connection: each selector and identity of
// one is the other's.
func joined(name string, reqID uint32, initiate ...netip.Addr) (atWest, atEast sa.Connection) {
	end := func(local, remote netip.Addr, net, peer string) sa.Connection {
		c := testConnection(name, local, remote, reqID)
		c.LocalID, c.RemoteID = sa.AddressIdentity(local), sa.AddressIdentity(remote)
		c.Children[0].Local = []ipsec.TrafficSelector{prefix(net)}
		c.Children[0].Remote = []ipsec.TrafficSelector{prefix(peer)}
		c.Initiate = slices.Contains(initiate, local)
		c.Lifetime = time.Hour
		c.Children[0].Lifetime.Hard = time.Hour / 2
		c.DPD = sa.DPD{Interval: 30 * time.Second, Timeout: 5 * time.Second}
		return c
	}
	return end(west, east, "10.1.0.0/16", "10.2.0.0/16"), end(east, west, "10.2.0.0/16", "10.1.0.0/16")
}

func apply(t *testing.T, g *gateway, conns ...sa.Connection) {
	t.Helper()
	if err := g.Apply(conns); err != nil {
		t.Fatal(err)
	}
}

// settleFor lets time pass.
func settleFor(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// wantUp asserts that both ends have the connection up, exactly once, with the
// same keys in the same direction.
func wantUp(t *testing.T, name string, a, b *gateway) {
	t.Helper()
	for _, g := range []*gateway{a, b} {
		c := g.connection(t, name)
		if c.State != Up || len(c.IKE) != 1 || len(c.Children) != 1 {
			t.Fatalf("%s: %s, %d IKE SAs, %d children, failure %v\n%+v", g.addr, c.State, len(c.IKE), len(c.Children), c.Failure, c.Children)
		}
	}
	ca, cb := a.connection(t, name), b.connection(t, name)
	if ca.IKE[0].InitiatorSPI != cb.IKE[0].InitiatorSPI || ca.IKE[0].ResponderSPI != cb.IKE[0].ResponderSPI {
		t.Fatalf("the ends kept different IKE SAs: %+v, %+v", ca.IKE[0], cb.IKE[0])
	}
	wantSameKeys(t, a, b, ca.Children[0].ReqID)
	wantSameKeys(t, b, a, ca.Children[0].ReqID)
}

// wantSameKeys asserts that what one gateway sends, the other can open.
func wantSameKeys(t *testing.T, from, to *gateway, reqID uint32) {
	t.Helper()
	out, ok := from.backend.Outbound(reqID)
	if !ok {
		t.Fatalf("%s: no outbound SA of reqid %d", from.addr, reqID)
	}
	for _, in := range to.backend.SAs() {
		if in.Direction == ipsec.In && in.SPI == out.SPI {
			if !slices.Equal(in.EncryptionKey, out.EncryptionKey) {
				t.Fatalf("%s: other keys for %s", to.addr, out.SPI)
			}
			return
		}
	}
	t.Fatalf("%s: no inbound SA %s", to.addr, out.SPI)
}

// wantNoGap asserts that from the first outbound SA of a child on there was
// always one, and the same for the policies that lead traffic into it.
func wantNoGap(t *testing.T, g *gateway, reqID uint32) {
	t.Helper()
	outbound, policies, began := map[ipsec.SAID]bool{}, map[ipsec.PolicyID]bool{}, false
	for _, call := range g.backend.Calls() {
		switch {
		case call.Err != nil:
			continue
		case call.Op == ipsectest.OpAddSA && call.SA.Direction == ipsec.Out && call.SA.ReqID == reqID:
			outbound[call.ID] = true
		case call.Op == ipsectest.OpDeleteSA:
			delete(outbound, call.ID)
		case call.Op == ipsectest.OpAddPolicy && call.Policy.Action == ipsec.Protect && call.Policy.ReqID == reqID:
			policies[call.Policy.PolicyID] = true
		case call.Op == ipsectest.OpDeletePolicy:
			delete(policies, call.Policy.PolicyID)
		}
		began = began || len(outbound) > 0 && len(policies) == 2
		if began && (len(outbound) == 0 || len(policies) != 2) {
			t.Errorf("%s: nothing carries the traffic after %s", g.addr, call)
			return
		}
	}
	if !began {
		t.Errorf("%s: nothing ever carried the traffic", g.addr)
	}
}

// protects returns the Protect policies.
func protects(g *gateway) (list []ipsec.Policy) {
	for _, p := range g.backend.Policies() {
		if p.Action == ipsec.Protect {
			list = append(list, p)
		}
	}
	return list
}

// lossy drops, repeats and delays datagrams.
func lossy(seed uint64, drop, repeat float64) func(_, _ netip.AddrPort) (int, time.Duration) {
	r := rand.New(rand.NewPCG(seed, 1))
	return func(_, _ netip.AddrPort) (int, time.Duration) {
		delay := time.Duration(r.IntN(200)) * time.Millisecond
		switch p := r.Float64(); {
		case p < drop:
			return 0, 0
		case p < drop+repeat:
			return 2, delay
		}
		return 1, delay
	}
}

func onlyDiagnosis(t *testing.T, g *gateway, name string) sa.Diagnosis {
	t.Helper()
	f := g.connection(t, name).Failure
	if f == nil {
		t.Fatalf("%s: no failure of %q", g.addr, name)
	}
	return f.Diagnosis
}

func mustContain(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not tell %q", text, part)
		}
	}
}

func sortedSPIs(g *gateway) []ipsec.SPI {
	var spis []ipsec.SPI
	for _, s := range g.backend.SAs() {
		spis = append(spis, s.SPI)
	}
	slices.SortFunc(spis, cmp.Compare)
	return spis
}
