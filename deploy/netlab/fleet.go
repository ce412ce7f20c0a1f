package netlab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vpngw/vpngw/control/fleet"
)

// MGMT is the interface by which the nodes of a fleet reach etcd and each other.
const MGMT = "mgmt"

// Fleet is a lab with several gateways that share a cluster, the addresses
// towards the internet and the one by which the cloud's host reaches the sites.
type Fleet struct {
	// Topology has no Gateway of its own.
	*Topology
	Etcd  *Etcd
	Nodes []*FleetNode

	management *Namespace
}

// FleetNode is one gateway of a fleet, with its daemon.
type FleetNode struct {
	*Daemon
	Name      string
	Namespace *Namespace
	History   string // file
}

// NewFleet builds a lab with nodes, whose daemons do not run yet, and as many
// sites as are configured. Lease is the time to live of their leases.
func NewFleet(ctx context.Context, program string, nodes int, lease time.Duration, sites ...SiteConfig) (*Fleet, error) {
	lab, err := Open(ctx)
	if err != nil {
		return nil, err
	}
	f := &Fleet{Topology: &Topology{Lab: lab}}
	if err := f.build(ctx, program, nodes, lease, sites); err != nil {
		_ = lab.Close()
		return nil, fmt.Errorf("build the fleet: %w", err)
	}
	return f, nil
}

func (f *Fleet) build(ctx context.Context, program string, nodes int, lease time.Duration, sites []SiteConfig) (err error) {
	program, err = filepath.Abs(program)
	if err != nil {
		return err
	}
	f.Public = [2]netip.Addr{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("203.0.113.11")}
	f.Local, f.ForClients = f.Public, netip.MustParseAddr("203.0.113.12")
	f.CloudSubnets = [2]netip.Prefix{netip.MustParsePrefix("10.10.0.0/24"), netip.MustParsePrefix("10.10.1.0/24")}
	f.CloudAddresses = [2]netip.Addr{netip.MustParseAddr("10.10.0.10"), netip.MustParseAddr("10.10.1.10")}
	if f.Internet, err = f.router(ctx, "internet"); err != nil {
		return err
	}
	if f.CloudHost, err = f.Namespace(ctx, "cloud-host"); err != nil {
		return err
	}
	if f.management, err = f.Namespace(ctx, "management"); err != nil {
		return err
	}
	for _, bridge := range []struct {
		n       *Namespace
		address string
	}{{f.Internet, "203.0.113.1/24"}, {f.CloudHost, "10.10.0.10/24"}, {f.management, "10.99.0.1/24"}} {
		err := bridge.n.IP(ctx, "link add name shared type bridge", "addr add "+bridge.address+" dev shared", "link set shared up")
		if err != nil {
			return err
		}
	}
	if err := f.CloudHost.IP(ctx, "addr add 10.10.1.10/24 dev shared", "route add default via 10.10.0.1"); err != nil {
		return err
	}
	for i, site := range sites {
		s, err := f.buildSite(ctx, i, site, 1500)
		if err != nil {
			return fmt.Errorf("site %d: %w", i, err)
		}
		f.Sites = append(f.Sites, s)
	}
	if f.Etcd, err = f.management.StartEtcd(ctx, netip.MustParseAddr("10.99.0.1")); err != nil {
		return err
	}
	key := make([]byte, 32)
	rand.Read(key)
	if err := os.WriteFile(f.sealingKey(), []byte(hex.EncodeToString(key)+"\n"), 0o600); err != nil {
		return err
	}
	for i := range nodes {
		if err := f.addNode(ctx, program, i+1, lease); err != nil {
			return fmt.Errorf("node %d: %w", i+1, err)
		}
	}
	return nil
}

func (f *Fleet) sealingKey() string { return filepath.Join(f.Dir, "sealing.key") }

// addNode builds a gateway, on the three shared networks.
func (f *Fleet) addNode(ctx context.Context, program string, number int, lease time.Duration) (err error) {
	node := &FleetNode{Name: fmt.Sprintf("node-%d", number)}
	if node.Namespace, err = f.router(ctx, node.Name); err != nil {
		return err
	}
	for _, link := range []struct {
		name    string
		shared  *Namespace
		address string
	}{
		{WAN, f.Internet, fmt.Sprintf("203.0.113.%d/24", 100+number)},
		{LAN, f.CloudHost, fmt.Sprintf("10.10.0.%d/24", 100+number)},
		{MGMT, f.management, fmt.Sprintf("10.99.0.%d/24", 100+number)},
	} {
		port := fmt.Sprintf("%s-%d", link.name, number)
		if err := node.Namespace.Link(ctx, link.name, link.shared, port, 1500); err != nil {
			return err
		}
		if err := link.shared.IP(ctx, "link set "+port+" master shared"); err != nil {
			return err
		}
		if err := node.Namespace.IP(ctx, "addr add "+link.address+" dev "+link.name); err != nil {
			return err
		}
	}
	if err := node.Namespace.IP(ctx, fmt.Sprintf("addr add 10.10.1.%d/24 dev %s", 100+number, LAN), "route add default via 203.0.113.1"); err != nil {
		return err
	}
	node.Daemon = &Daemon{
		namespace: node.Namespace, name: node.Name, endpoint: fmt.Sprintf("https://10.99.0.%d:8443", 100+number),
		program: program, dir: filepath.Join(f.Dir, node.Name),
	}
	node.History = filepath.Join(node.dir, "history")
	if err := os.MkdirAll(filepath.Join(node.dir, "data"), 0o700); err != nil {
		return err
	}
	f.Nodes = append(f.Nodes, node)
	return os.WriteFile(node.config(), []byte(f.render(node, number, lease)), 0o600)
}

func (f *Fleet) render(node *FleetNode, number int, lease time.Duration) string {
	zone := 1 + (number+1)%2
	return fmt.Sprintf(`node: {name: %s, availability_zone: az%d}
data_dir: %s
log: {level: debug, format: text}
store: {backend: etcd, endpoints: ['%s'], ca_file: %s, seal_key_file: %s}
fleet: {lease: %s, history_file: %s}
api:
  listen: %s
  tls: auto
  credentials: [{access_key: %s, secret_key: %s, role: admin, project_id: %s}]
metrics: {listen: %s}
dataplane: {backend: userspace}
ike: {retransmit: {initial: 500ms, factor: 1.5, tries: 3}}
inventory:
  availability_zones: [az1, az2]
  vpcs:
    - id: %s
      cidr: 10.10.0.0/16
      subnets:
        - {id: %s, cidr: %s, interface: %s, router_address: 10.10.0.1}
        - {id: %s, cidr: %s}
  eips:
    - {id: %s, address: %s, interface: %s, floating: true, type: 5_bgp, bandwidth_mbps: 300}
    - {id: %s, address: %s, interface: %[22]s, floating: true, type: 5_bgp, bandwidth_mbps: 300}
    - {id: %[25]s, address: %s, interface: %[22]s, floating: true, type: 5_bgp, bandwidth_mbps: 300}
`, node.Name, zone, filepath.Join(node.dir, "data"), f.Etcd.Endpoint, f.Etcd.CA, f.sealingKey(), lease, node.History,
		strings.TrimPrefix(node.endpoint, "https://"), accessKey, secretKey, Project, strings.TrimPrefix(metrics, "http://"),
		VPC, Subnet1, f.CloudSubnets[0], LAN, Subnet2, f.CloudSubnets[1],
		EIP1, f.Public[0], WAN, EIP2, f.Public[1], EIP3, f.ForClients)
}

// Become makes the node's next start one of another program.
func (n *FleetNode) Become(program string) { n.program = program }

// Cut keeps the node and etcd apart, in both directions, until Mend; the
// node's other networks are as ever.
func (n *FleetNode) Cut(ctx context.Context) error {
	_, err := n.Namespace.Input(ctx, fmt.Sprintf(`table inet cut {
  chain in { type filter hook input priority 0; iifname %q drop; }
  chain out { type filter hook output priority 0; oifname %[1]q drop; }
}
`, MGMT), "nft", "-f", "-")
	return err
}

// Mend ends a Cut.
func (n *FleetNode) Mend(ctx context.Context) error {
	_, err := n.Namespace.Run(ctx, "nft", "delete", "table", "inet", "cut")
	return err
}

// Unplug takes the link to etcd down, until Plug.
func (n *FleetNode) Unplug(ctx context.Context) error {
	return n.Namespace.IP(ctx, "link set "+MGMT+" down")
}

// Plug brings the link to etcd up again.
func (n *FleetNode) Plug(ctx context.Context) error {
	return n.Namespace.IP(ctx, "link set "+MGMT+" up")
}

// Has tells whether the node has an address.
func (n *FleetNode) Has(ctx context.Context, a netip.Addr) (bool, error) {
	out, err := n.Namespace.Run(ctx, "ip", "-o", "addr", "show", "to", a.String())
	return strings.Contains(out, a.String()+"/"), err
}

// Kill ends the daemon with SIGKILL and notes in its history that it died.
func (n *FleetNode) Kill() error {
	if err := n.Daemon.Kill(); err != nil {
		return err
	}
	return fleet.RecordDeath(n.History, n.Name)
}

// Histories returns those of all nodes.
func (f *Fleet) Histories() ([]fleet.Event, error) {
	var all []fleet.Event
	for _, n := range f.Nodes {
		file, err := os.Open(n.History)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		events, err := fleet.ReadHistory(file)
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("history of %s: %w", n.Name, err)
		}
		all = append(all, events...)
	}
	return all, nil
}
