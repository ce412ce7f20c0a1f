package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/dataplane/route"
)

// Places of ours in the kernel's tables. Each source has a table of its own,
// which holds nothing but what the tunnels are for; so an address without a
// tunnel is looked up in the main table as ever.
//
//	rules    7000… from SOURCE → table N          longest prefix first
//	table N  DESTINATION dev TUNNEL…              metric 100
//	         DESTINATION blackhole                metric 4294967294
//	         throw LOCAL SUBNET, throw PEER       where a destination holds them
//
// The blackhole stays when the devices are gone, also after a crash: what a
// tunnel is for never leaves in the clear.
const (
	rulePriority    = 7000 // and as many as an address has bits
	firstTable      = 7000
	tableCount      = 50000
	tunnelMetric    = 100
	blackholeMetric = 1<<32 - 2
)

// routing works out addresses, routes and rules from tunnels.
type routing struct {
	tables *numbers
}

func newRouting() *routing { return &routing{tables: newNumbers(firstTable, tableCount)} }

// routes is a state under construction.
type routes struct {
	route.State
	// owners tells which connections an object is for, by the words that
	// errors of the route manager begin with.
	owners map[string][]string
}

func (s *routes) address(a route.Address, owner string) {
	s.Addresses = append(s.Addresses, a)
	s.owners["address "+a.String()] = []string{owner}
}

func (s *routes) route(r route.Route, owners ...string) {
	key := "route " + r.String()
	if _, there := s.owners[key]; !there {
		s.Routes = append(s.Routes, r)
	}
	s.owners[key] = append(s.owners[key], owners...)
}

// carriage says how a tunnel takes part in the flows of its group.
type carriage uint8

const (
	idle      carriage = iota // has no SA: used only while no other of the group carries
	carries                   // used
	withdrawn                 // has SAs and does not get through: never used
)

// state returns what the kernel is to hold for the tunnels, given how each of
// them takes part. Tunnels of one gateway for the same flow are one failover
// group: those that carry share the flow, a standby only takes part while no
// other carries, and while none carries the choice is as if the idle ones did.
func (r *routing) state(tunnels []*tunnel, of func(id string) carriage) routes {
	s := routes{owners: make(map[string][]string)}
	tunnels = slices.SortedFunc(slices.Values(tunnels), func(a, b *tunnel) int { return cmp.Compare(a.id, b.id) })
	groups := make(map[flow][]*tunnel)
	for _, tn := range tunnels {
		if tn.address.IsValid() {
			s.address(route.Address{Link: tn.device.Name, Prefix: tn.address}, tn.id)
		}
		if remote := tn.connection.Remote; remote.IsValid() {
			s.Outer = append(s.Outer, route.OuterPath{Local: tn.connection.Local, Remote: remote})
		}
		for _, f := range tn.flows {
			groups[f] = append(groups[f], tn)
		}
	}
	owners := make(map[netip.Prefix][]string) // by source
	for _, f := range slices.SortedFunc(maps.Keys(groups), compareFlows) {
		var ids []string
		var hops []route.NextHop
		for _, tn := range groups[f] {
			ids = append(ids, tn.id)
		}
		for _, tn := range carriers(groups[f], of) {
			hops = append(hops, route.NextHop{Link: tn.device.Name})
		}
		owners[f.source] = append(owners[f.source], ids...)
		table := r.table(f.source)
		if len(hops) > 0 {
			s.route(route.Route{Table: table, Dst: f.destination, Metric: tunnelMetric, NextHops: hops}, ids...)
		}
		s.route(route.Route{Table: table, Dst: f.destination, Metric: blackholeMetric, Type: route.Blackhole}, ids...)
		for _, spared := range spared(f, groups[f], tunnels) {
			s.route(route.Route{Table: table, Dst: spared, Type: route.Throw, Metric: tunnelMetric}, ids...)
		}
	}
	names := make(map[string]bool, len(owners))
	for _, source := range slices.SortedFunc(maps.Keys(owners), netip.Prefix.Compare) {
		names[source.String()] = true
		rule := route.Rule{Priority: rulePriority + source.Addr().BitLen() - source.Bits(), From: source, Table: r.table(source)}
		s.Rules = append(s.Rules, rule)
		s.owners["rule "+rule.String()] = owners[source]
	}
	r.tables.retain(func(name string) bool { return names[name] })
	return s
}

func (r *routing) table(source netip.Prefix) int { return int(r.tables.of(source.String())) }

// spared returns what of a flow's destination does not belong into the tunnel:
// the sources of the same gateway, whose hosts are on this side, and the peers
// whose outer packets start within the flow's source.
func spared(f flow, group, tunnels []*tunnel) []netip.Prefix {
	within := make(map[netip.Prefix]bool)
	for _, tn := range tunnels {
		if tn.gatewayID == group[0].gatewayID {
			for _, other := range tn.flows {
				if f.destination.Bits() < other.source.Bits() && f.destination.Contains(other.source.Addr()) {
					within[other.source] = true
				}
			}
		}
		remote := tn.connection.Remote
		if f.source.Contains(tn.connection.Local) && remote.IsValid() && f.destination.Contains(remote) {
			within[netip.PrefixFrom(remote, remote.BitLen())] = true
		}
	}
	return slices.SortedFunc(maps.Keys(within), netip.Prefix.Compare)
}

// carriers picks those of a group that a flow goes over: none when all are
// closed, passive or withdrawn.
func carriers(group []*tunnel, of func(id string) carriage) []*tunnel {
	byCarriage := make(map[carriage][]*tunnel)
	for _, tn := range group {
		if !tn.closed() && !tn.passive {
			byCarriage[of(tn.id)] = append(byCarriage[of(tn.id)], tn)
		}
	}
	chosen := byCarriage[carries]
	if len(chosen) == 0 {
		chosen = byCarriage[idle]
	}
	active := slices.DeleteFunc(slices.Clone(chosen), func(tn *tunnel) bool { return tn.standby })
	if len(active) > 0 {
		return active
	}
	return chosen
}

// claim gives the flows of a connection to its gateway and returns them. Those
// that belong to another gateway already are left out, and the error names the
// first. Flows of the tunnel's own address are not told apart by gateway.
func claim(c *control.Connection, flows []flow, owners map[flow]string) (claimed []flow, err error) {
	for _, f := range flows {
		self := c.TunnelLocal.IsValid() && f.source.Addr() == c.TunnelLocal.Addr()
		if other, taken := owners[f]; taken && other != c.GatewayID && !self {
			err = cmp.Or(err, fmt.Errorf("traffic from %s to %s belongs to gateway %s already", f.source, f.destination, other))
			continue
		}
		claimed = append(claimed, f)
	}
	for _, f := range claimed {
		if _, taken := owners[f]; !taken {
			owners[f] = c.GatewayID
		}
	}
	return claimed, err
}

func compareFlows(a, b flow) int {
	return cmp.Or(a.source.Compare(b.source), a.destination.Compare(b.destination))
}

// blame gives each of the joined errors of a route manager to the connections
// that it concerns. What concerns none is returned.
func (s *routes) blame(err error, fault func(connection string, err error)) error {
	var rest []error
	for _, one := range split(err) {
		known := false
		for object, owners := range s.owners {
			if strings.HasPrefix(one.Error(), object+": ") {
				known = true
				for _, id := range owners {
					fault(id, one)
				}
			}
		}
		if !known {
			rest = append(rest, one)
		}
	}
	return errors.Join(rest...)
}

// split returns the parts of a joined error.
func split(err error) []error {
	if err == nil {
		return nil
	}
	// A word before joined errors, as in "x: a, b", is about all of them: such an
	// error is one.
	if joined, ok := err.(interface{ Unwrap() []error }); ok && !wrapsAround(err, joined.Unwrap()) {
		var parts []error
		for _, part := range joined.Unwrap() {
			parts = append(parts, split(part)...)
		}
		return parts
	}
	return []error{err}
}

// wrapsAround tells whether an error says more than its parts, as one made by
// fmt.Errorf does.
func wrapsAround(err error, parts []error) bool { return err.Error() != errors.Join(parts...).Error() }
