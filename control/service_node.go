package control

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Fleet is what the nodes that share a store know of each other. Its methods
// may be called from several goroutines.
type Fleet interface {
	// Division returns the present one.
	Division() *Division
	// LeaseLeft returns how long the lease of each node still lasts if it is
	// not renewed, and the time to live of a lease that was just renewed.
	LeaseLeft(ctx context.Context) (left map[string]time.Duration, ttl time.Duration, err error)
}

// NodeView is a node as the API shows it to a project.
type NodeView struct {
	Node
	Self    bool // the one that answers
	Steward bool
	// LeaseLeft is how long the lease lasts if it is not renewed, of TTL. Both
	// are zero of a node alone, which has none.
	LeaseLeft, TTL time.Duration

	// Of the project's gateways, as peers see them: the addresses that the node
	// serves, and those that it serves or could serve.
	Addresses, CanHave []netip.Addr
	Gateways           []string // active-standby ones that it carries, by id
}

// Nodes performs ListNodes: those that are alive, by name.
func (s *Service) Nodes(ctx context.Context, project string) ([]NodeView, error) {
	gateways, err := s.read(ctx).gateways(project)
	if err != nil {
		return nil, err
	}
	d := s.division()
	nodes := map[string]Node{s.node.Name: s.node}
	var left map[string]time.Duration
	var ttl time.Duration
	if d != nil {
		nodes = d.Nodes
		if left, ttl, err = s.fleet.LeaseLeft(ctx); err != nil {
			return nil, err
		}
	}
	var views []NodeView
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		v := NodeView{
			Node: nodes[name], Self: d == nil || name == d.Node, Steward: d == nil || name == d.Steward,
			LeaseLeft: left[name], TTL: ttl,
		}
		for i := range gateways {
			v.add(d, &gateways[i])
		}
		slices.SortFunc(v.Addresses, netip.Addr.Compare)
		slices.SortFunc(v.CanHave, netip.Addr.Compare)
		slices.Sort(v.Gateways)
		views = append(views, v)
	}
	return views, nil
}

// add notes what the node does for a gateway.
func (v *NodeView) add(d *Division, g *Gateway) {
	for _, slot := range []Slot{Slot1, Slot2} {
		a := g.Address(slot)
		if !a.IsValid() {
			continue
		}
		if d == nil || d.Owners[a] == v.Name {
			v.Addresses = append(v.Addresses, a)
		}
		if d == nil || slices.Contains(v.Fixed, a) || slices.Contains(v.Floating, a) {
			v.CanHave = append(v.CanHave, a)
		}
	}
	if g.HAMode == ActiveStandby && (d == nil || d.Active[g.ID] == v.Name) {
		v.Gateways = append(v.Gateways, g.ID)
	}
}

// division is nil for a node alone.
func (s *Service) division() *Division {
	if s.fleet == nil {
		return nil
	}
	return s.fleet.Division()
}

// Elsewhere says that another node has what was asked for: the request is to
// be sent there. Refusal is what to answer where that cannot be done.
type Elsewhere struct {
	Node    Node
	Refusal *Error
}

func (e *Elsewhere) Error() string { return e.Refusal.Error() }

// Unwrap returns the refusal.
func (e *Elsewhere) Unwrap() error { return e.Refusal }

// noNodeServes begins the message of a connection that no node serves.
const noNodeServes = "no node serves it"

// current replaces the status of a connection that no node serves at the
// moment: what the last one left is over.
func (d *Division) current(status ConnectionStatus, g *Gateway, s Slot) ConnectionStatus {
	if d == nil || status.Node == "" || status.State == ConnectionError || d.Owner(g, s) != "" {
		return status
	}
	status.State, status.Diagnosis, status.Routes = ConnectionUnknown, nil, nil
	status.Message = noNodeServes + "; the last one was " + status.Node
	return status
}
