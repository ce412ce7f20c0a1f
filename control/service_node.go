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

// NodeView is a node as the API shows it.
type NodeView struct {
	Node
	Self bool // the one that answers
	// LeaseLeft is how long the lease lasts if it is not renewed, of TTL. Both
	// are zero of a node alone, which has none.
	LeaseLeft, TTL time.Duration
	Addresses      []netip.Addr // that it serves, as peers see them
	Gateways       []string     // active-standby ones that it carries, by id
	Steward        bool
}

// Nodes performs ListNodes: those that are alive, by name.
func (s *Service) Nodes(ctx context.Context) ([]NodeView, error) {
	if s.fleet == nil {
		return []NodeView{{Node: s.node, Self: true, Steward: true, Addresses: s.node.Fixed}}, nil
	}
	d := s.fleet.Division()
	left, ttl, err := s.fleet.LeaseLeft(ctx)
	if err != nil {
		return nil, err
	}
	var views []NodeView
	for _, name := range slices.Sorted(maps.Keys(d.Nodes)) {
		v := NodeView{Node: d.Nodes[name], Self: name == d.Node, LeaseLeft: left[name], TTL: ttl, Steward: name == d.Steward}
		for a, owner := range d.Owners {
			if owner == name {
				v.Addresses = append(v.Addresses, a)
			}
		}
		for id, owner := range d.Active {
			if owner == name {
				v.Gateways = append(v.Gateways, id)
			}
		}
		slices.SortFunc(v.Addresses, netip.Addr.Compare)
		slices.Sort(v.Gateways)
		views = append(views, v)
	}
	return views, nil
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

// nodeAway is the message of a connection whose node is not there.
func nodeAway(node string) string { return "node " + node + ", which served it last, is away" }

// current replaces a status that a node left which is no longer there.
func (d *Division) current(status ConnectionStatus) ConnectionStatus {
	if status.Node == "" || d.Alive(status.Node) || status.State == ConnectionError {
		return status
	}
	status.State, status.Message, status.Diagnosis, status.Routes = ConnectionUnknown, nodeAway(status.Node), nil, nil
	return status
}
