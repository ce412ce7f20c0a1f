//go:build e2e

package interop

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// The program under test; VPNGW_BIN names another directory than bin.
var vpngwd = filepath.Join(cmp.Or(os.Getenv("VPNGW_BIN"), "../../bin"), "vpngwd")

// The gateway has one address itself and one behind a NAT; all of its traffic
// passes core, which stands for the internet and for every NAT:
//
//	peers' routers - core - gateway - cloud host
//
// A router has one public address for each of its cells, or a private one that
// core translates.
var (
	gatewayDirect  = netip.MustParseAddr("203.0.113.10")
	gatewayNATed   = netip.MustParseAddr("203.0.113.11")
	gatewayPrivate = netip.MustParseAddr("172.16.0.11")
	cloudSubnets   = [2]netip.Prefix{netip.MustParsePrefix("10.10.0.0/24"), netip.MustParsePrefix("10.10.1.0/24")}
	cloudHost      = netip.MustParseAddr("10.10.0.10")
)

const (
	// coreAddress is the next hop of all routers.
	coreAddress = "192.0.2.1"
	// mtu is that of all links.
	mtu = 1500
)

// public is the address of the cell's peer as the gateway sees it.
func (c cell) public() netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 0, byte(c.Number)}) }

// local is the address of the cell's peer as its router has it. The side that
// begins is the one behind the NAT.
func (c cell) local() netip.Addr {
	if c.nat() && c.Initiator == byPeer {
		return netip.AddrFrom4([4]byte{172, 20, 0, byte(c.Number)})
	}
	return c.public()
}

// gateway is the gateway's address as the cell's peer sees it.
func (c cell) gateway() netip.Addr {
	if c.nat() && c.Initiator == byGateway {
		return gatewayNATed
	}
	return gatewayDirect
}

// subnet is what is behind the cell's peer, and host an address there, which
// the router has itself.
func (c cell) subnet() netip.Prefix { return netip.PrefixFrom(c.host(), 24).Masked() }

func (c cell) host() netip.Addr { return netip.AddrFrom4([4]byte{192, 168, byte(c.Number), 10}) }

// id is the identity of the cell's peer: names and addresses take turns.
func (c cell) id() string {
	if c.named() {
		return c.name() + ".test"
	}
	return c.public().String()
}

func (c cell) named() bool { return c.Number%2 == 1 }

// roaming tells that the gateway does not know the address of the peer, and so
// only answers. In main mode it must: the key is found by it.
func (c cell) roaming() bool { return c.Initiator == byPeer && c.Mode != v1Main }

func (c cell) psk() string { return fmt.Sprintf("Interop-psk-%03d-of-its-own!", c.Number) }

// ppk is the post-quantum pre-shared key of a cell that has one.
func (c cell) ppk() string {
	return fmt.Sprintf("Interop-ppk-%03d-which-no-quantum-computer-tells", c.Number)
}

// world is a gateway with its daemon, and the peers' routers.
type world struct {
	*netlab.Topology
	t      *testing.T
	ctx    context.Context
	daemon *netlab.Daemon
	api    *client.Client
	// answers are the addresses that send datagrams back.
	answers map[netip.Addr]bool
	// answerTime is how long an answer through a tunnel may take.
	answerTime time.Duration
}

// router is a namespace with the addresses of some cells.
type router struct {
	*netlab.Namespace
	name  string
	cells []cell
}

// newWorld builds the gateway's side and starts the daemon.
func newWorld(ctx context.Context, t *testing.T, options netlab.DaemonOptions) *world {
	t.Helper()
	lab, err := netlab.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, ctx: ctx, answers: map[netip.Addr]bool{}, answerTime: answerTime, Topology: &netlab.Topology{
		Lab:          lab,
		Public:       [2]netip.Addr{gatewayDirect, gatewayNATed},
		Local:        [2]netip.Addr{gatewayDirect, gatewayPrivate},
		CloudSubnets: cloudSubnets,
	}}
	w.Internet, w.Gateway, w.CloudHost = w.namespace("core"), w.namespace("gateway"), w.namespace("cloud-host")
	w.check(w.Gateway.Link(ctx, netlab.WAN, w.Internet, "cloud", mtu))
	w.check(w.Gateway.Link(ctx, netlab.LAN, w.CloudHost, netlab.WAN, mtu))
	w.check(w.Gateway.IP(ctx,
		fmt.Sprintf("addr add %s/32 dev %s", gatewayDirect, netlab.WAN),
		fmt.Sprintf("addr add %s/32 dev %s", gatewayPrivate, netlab.WAN),
		fmt.Sprintf("route add default via %s dev %s onlink", coreAddress, netlab.WAN),
		"addr add 10.10.0.1/24 dev "+netlab.LAN, "addr add 10.10.1.1/24 dev "+netlab.LAN))
	w.check(w.CloudHost.IP(ctx, fmt.Sprintf("addr add %s/24 dev %s", cloudHost, netlab.WAN), "route add default via 10.10.0.1"))
	w.check(w.Internet.IP(ctx, "addr add "+coreAddress+"/32 dev cloud",
		fmt.Sprintf("route add %s/32 dev cloud", gatewayDirect),
		fmt.Sprintf("route add %s/32 dev cloud", gatewayPrivate),
		"route add unreachable 203.0.113.0/24", "route add unreachable 198.18.0.0/16"))
	t.Cleanup(w.stopDaemon)
	if w.daemon, err = w.StartDaemon(ctx, vpngwd, options); err != nil {
		t.Fatal(err)
	}
	w.api, err = w.daemon.Client()
	w.check(err)
	return w
}

func (w *world) namespace(role string) *netlab.Namespace {
	w.t.Helper()
	n, err := w.Namespace(w.ctx, role)
	w.check(err)
	w.check(n.Sysctl(w.ctx, "net.ipv4.ip_forward=1"))
	return n
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// stopDaemon ends the daemon, which has to heed that. What the daemon itself
// calls an error fails the test.
func (w *world) stopDaemon() {
	if w.daemon == nil {
		return
	}
	if err := w.daemon.Stop(); err != nil {
		w.t.Errorf("stop vpngwd: %v", err)
	}
	for line := range strings.Lines(w.daemon.Log()) {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "panic") {
			w.t.Errorf("vpngwd: %s", line)
		}
	}
	if w.t.Failed() {
		w.t.Logf("vpngwd:\n%s", w.daemon.Log())
	}
}

// connect links a router for the cells to core.
func (w *world) connect(name string, cells []cell) *router {
	w.t.Helper()
	r := &router{Namespace: w.namespace(name), name: name, cells: cells}
	w.check(r.Link(w.ctx, netlab.WAN, w.Internet, name, mtu))
	near := []string{fmt.Sprintf("route add default via %s dev %s onlink", coreAddress, netlab.WAN)}
	far := []string{"addr add " + coreAddress + "/32 dev " + name}
	for _, c := range cells {
		near = append(near, fmt.Sprintf("addr add %s/32 dev %s", c.local(), netlab.WAN), fmt.Sprintf("addr add %s/32 dev lo", c.host()))
		far = append(far, fmt.Sprintf("route add %s/32 dev %s", c.local(), name))
	}
	w.check(r.IP(w.ctx, near...))
	w.check(w.Internet.IP(w.ctx, far...))
	return r
}

// expectNothingInClear looks at what core has dropped because it was inner
// traffic.
func (w *world) expectNothingInClear() {
	w.t.Helper()
	rules, err := w.Internet.Run(w.ctx, "iptables-legacy-save", "-c", "-t", "filter")
	w.check(err)
	seen := 0
	for line := range strings.Lines(rules) {
		if counters, rule, ok := strings.Cut(line, "] "); ok && strings.HasSuffix(strings.TrimSpace(rule), "/16 -j DROP") {
			seen++
			if counters != "[0:0" {
				w.t.Errorf("inner packets on the internet: %s", line)
			}
		}
	}
	if seen != 3 {
		w.t.Errorf("%d rules for inner traffic:\n%s", seen, rules)
	}
}

// translate makes core the NAT of the gateway's second address and of the cells
// behind one, which shifts ports, and the firewall of the peers whose address
// the gateway knows while they are to begin: it lets no first message of IKE
// through to them, which is one without a responder's SPI.
func (w *world) translate(cells []cell) {
	w.t.Helper()
	var nat, filter strings.Builder
	fmt.Fprintf(&filter, "-A FORWARD -s 10.10.0.0/16 -j DROP\n-A FORWARD -s 192.168.0.0/16 -j DROP\n-A FORWARD -s 169.254.0.0/16 -j DROP\n")
	shift := func(from, to netip.Addr) {
		for _, port := range []int{500, 4500} {
			fmt.Fprintf(&nat, "-A POSTROUTING -s %s -p udp --sport %d -j SNAT --to-source %s:%d\n", from, port, to, 20000+port)
		}
		fmt.Fprintf(&nat, "-A POSTROUTING -s %s -j SNAT --to-source %s\n", from, to)
	}
	shift(gatewayPrivate, gatewayNATed)
	for _, c := range cells {
		if c.local() != c.public() {
			shift(c.local(), c.public())
		}
		if c.Initiator == byPeer && !c.roaming() {
			fmt.Fprintf(&filter, "-A FORWARD -s %s -d %s -p udp --dport 500 -m u32 --u32 \"0>>22&0x3C@16=0 && 0>>22&0x3C@20=0\" -j DROP\n",
				gatewayDirect, c.public())
		}
	}
	_, err := w.Internet.Input(w.ctx, "*nat\n"+nat.String()+"COMMIT\n*filter\n"+filter.String()+"COMMIT\n", "iptables-legacy-restore")
	w.check(err)
}
