package fleet

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vpngw/vpngw/control"
)

// Names of claims.
const (
	addressClaims = "address/"
	activeClaims  = "active/"
	stewardClaim  = "steward"
)

func addressClaim(a netip.Addr) string { return addressClaims + a.String() }

func activeClaim(gateway string) string { return activeClaims + gateway }

// claimedAddress returns the address of a claim.
func claimedAddress(claim string) (netip.Addr, bool) {
	text, ok := strings.CutPrefix(claim, addressClaims)
	a, err := netip.ParseAddr(text)
	return a, ok && err == nil
}

// claim is who holds something.
type claim struct {
	Node  string `json:"node"`
	Lease int64  `json:"lease"`

	revision int64
}

// view is what the cluster had at one time.
type view struct {
	nodes   map[string]control.Node
	claims  map[string]claim
	objects control.Served
}

// wish is something that one of several nodes should hold.
type wish struct {
	claim      string
	candidates []string // the best first
}

// wishes returns what should be held, and by whom. What follows from another
// claim comes after it.
func (v *view) wishes(routers []router) []wish {
	list := []wish{{stewardClaim, v.rank("", func(control.Node) bool { return true })}}
	gateways := slices.SortedFunc(slices.Values(v.objects.Gateways), func(a, b control.Gateway) int { return cmp.Compare(a.ID, b.ID) })
	for i := range gateways {
		g := &gateways[i]
		if g.HAMode == control.ActiveStandby {
			list = append(list, wish{activeClaim(g.ID), v.upgraded(g.Upgrade, v.rank(zoneOf(g, control.Slot1), func(n control.Node) bool {
				return canHave(n, g.Address(control.Slot1)) || canHave(n, g.Address(control.Slot2))
			}))})
		}
		for _, slot := range []control.Slot{control.Slot1, control.Slot2} {
			a := g.Address(slot)
			if !a.IsValid() || v.fixedAt(a) != "" {
				continue
			}
			w := wish{addressClaim(a), v.upgraded(g.Upgrade, v.rank(zoneOf(g, slot), floats(a)))}
			if g.HAMode == control.ActiveStandby {
				// The addresses follow the gateway, once somebody carries it. In an
				// upgrade they leave the old node together with it.
				active := v.claims[activeClaim(g.ID)].Node
				if active == "" || slices.Contains(w.candidates, active) {
					w.candidates = []string{active}
				}
			}
			list = append(list, w)
		}
	}
	for i := range v.objects.P2CGateways {
		g := &v.objects.P2CGateways[i]
		if a := g.EIP.Address; a.IsValid() && v.fixedAt(a) == "" {
			list = append(list, wish{addressClaim(a), v.upgraded(g.Upgrade, v.rank(firstZone(g.AvailabilityZones), floats(a)))})
		}
	}
	for _, r := range routers {
		if node := v.server(r, gateways); node != "" {
			list = append(list, wish{addressClaim(r.address), []string{node}})
		}
	}
	return list
}

// upgraded returns those of the candidates that have the version which an upgrade
// wants, or all if none has.
func (v *view) upgraded(u *control.Upgrade, candidates []string) []string {
	fit := slices.DeleteFunc(slices.Clone(candidates), func(name string) bool { return v.nodes[name].Version != u.Wanted() })
	if u == nil || len(fit) == 0 {
		return candidates
	}
	return fit
}

// rank returns the nodes that can do something, those in a zone first, by name.
func (v *view) rank(zone string, can func(control.Node) bool) []string {
	var nodes []control.Node
	for _, n := range v.nodes {
		if can(n) {
			nodes = append(nodes, n)
		}
	}
	elsewhere := func(n control.Node) int {
		if zone == "" || n.Zone == zone {
			return 0
		}
		return 1
	}
	slices.SortFunc(nodes, func(a, b control.Node) int {
		return cmp.Or(cmp.Compare(elsewhere(a), elsewhere(b)), cmp.Compare(a.Name, b.Name))
	})
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.Name
	}
	return names
}

// fixedAt returns the node that alone can have an address; empty: none. Should
// several say so, it is the first by name, for all nodes alike.
func (v *view) fixedAt(a netip.Addr) string {
	found := ""
	for name, n := range v.nodes {
		if slices.Contains(n.Fixed, a) && (found == "" || name < found) {
			found = name
		}
	}
	return found
}

// fixedElsewhere are addresses that other nodes had for themselves when they were
// last seen, by their claims. No lease ends that: a node that is cut off goes on
// with them. Where the inventories of two nodes differ, what floats for one may
// be such an address of the other.
type fixedElsewhere struct {
	inventory *control.Inventory // since which nodes were seen
	node      map[string]string
}

// see notes what living nodes say. A new inventory begins anew: the operator
// may have moved the address of a node that is gone.
func (f *fixedElsewhere) see(v view, self string, inventory *control.Inventory) {
	if f.inventory != inventory {
		f.inventory, f.node = inventory, map[string]string{}
	}
	maps.DeleteFunc(f.node, func(_, name string) bool { _, alive := v.nodes[name]; return alive })
	for name, n := range v.nodes {
		for _, a := range n.Fixed {
			if name != self {
				f.node[addressClaim(a)] = name
			}
		}
	}
}

func (f *fixedElsewhere) has(claim string) bool { return f.node[claim] != "" }

// router is an address by which hosts of a subnet reach the gateways.
type router struct {
	address netip.Addr
	subnet  *control.Subnet
}

// server returns the node that serves the gateways of a router's subnet: that
// of the first which somebody serves.
func (v *view) server(r router, gateways []control.Gateway) string {
	for i := range gateways {
		g := &gateways[i]
		if g.ConnectSubnet != r.subnet.ID && !slices.Contains(g.LocalSubnets, r.subnet.CIDR) {
			continue
		}
		claims := []string{addressClaim(g.Address(control.Slot1)), addressClaim(g.Address(control.Slot2))}
		if g.HAMode == control.ActiveStandby {
			claims = []string{activeClaim(g.ID)}
		}
		for _, c := range claims {
			if node := v.claims[c].Node; node != "" {
				return node
			}
		}
	}
	for i := range v.objects.P2CGateways {
		if g := &v.objects.P2CGateways[i]; g.ConnectSubnet == r.subnet.ID {
			if node := v.claims[addressClaim(g.EIP.Address)].Node; node != "" {
				return node
			}
		}
	}
	return ""
}

// division puts the view in the words of the control plane, as one node knows
// it.
func (v *view) division(self string) *control.Division {
	d := &control.Division{
		Node: self, Nodes: v.nodes, Steward: v.claims[stewardClaim].Node,
		Owners: map[netip.Addr]string{}, Active: map[string]string{}, Eligible: map[netip.Addr]bool{},
	}
	for name, c := range v.claims {
		if a, ok := claimedAddress(name); ok {
			d.Owners[a] = c.Node
		}
		if id, ok := strings.CutPrefix(name, activeClaims); ok {
			d.Active[id] = c.Node
		}
	}
	for _, n := range v.nodes {
		for _, a := range n.Fixed {
			d.Owners[a] = v.fixedAt(a)
		}
	}
	for _, a := range slices.Concat(v.nodes[self].Fixed, v.nodes[self].Floating) {
		d.Eligible[a] = true
	}
	return d
}

func canHave(n control.Node, a netip.Addr) bool {
	return slices.Contains(n.Fixed, a) || slices.Contains(n.Floating, a)
}

// floats returns what tells whether a node can have a floating address.
func floats(a netip.Addr) func(control.Node) bool {
	return func(n control.Node) bool { return slices.Contains(n.Floating, a) }
}

func firstZone(zones []string) string {
	if len(zones) == 0 {
		return ""
	}
	return zones[0]
}

// zoneOf returns the availability zone that a slot of a gateway is meant for.
func zoneOf(g *control.Gateway, s control.Slot) string {
	if len(g.AvailabilityZones) == 0 {
		return ""
	}
	return g.AvailabilityZones[min(int(s), len(g.AvailabilityZones))-1]
}

// Rhythm of the division.
const (
	// Who is not the best candidate for what nobody holds waits so long for
	// each better one, which may be unable to take it.
	rankDelay = 300 * time.Millisecond
	// A holder who should hold no longer goes on so long: a gateway that is
	// changed may want the same again.
	releaseDelay = 2 * time.Second
	// A node that could not set an address leaves it to others so long.
	unfitFor = 30 * time.Second
)
