package control

import (
	"net/netip"
	"reflect"
	"slices"
	"time"
)

// Node is one daemon of a fleet.
type Node struct {
	Name     string    `json:"name"` // unique in the fleet
	Zone     string    `json:"zone,omitempty"`
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	Instance string    `json:"instance"` // another one for every start

	// APIURL is where other nodes reach the API; empty: nowhere. Fingerprint is
	// the SHA-256 of the certificate there, in hexadecimal.
	APIURL      string `json:"api_url,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`

	// Fixed are the addresses, as peers see them, that this node alone can
	// have, Floating those that other nodes may have in its place.
	Fixed    []netip.Addr `json:"fixed,omitempty"`
	Floating []netip.Addr `json:"floating,omitempty"`
}

// Division tells which node of a fleet does what, as one node knows it at one
// time. It does not change. The nil Division is that of a node alone, which
// does everything.
type Division struct {
	Node  string // whose knowledge it is
	Nodes map[string]Node
	// Owners are the nodes that serve addresses, as peers see them.
	Owners map[netip.Addr]string
	// Active are the nodes that carry the traffic of active-standby gateways,
	// by the gateway's id.
	Active map[string]string
	// Steward is the node that looks after what no node can serve.
	Steward string
	// Eligible are the addresses that this node may come to serve.
	Eligible map[netip.Addr]bool
}

// Equal tells whether two divisions say the same.
func (d *Division) Equal(other *Division) bool { return reflect.DeepEqual(d, other) }

// Serves tells whether this node serves an address, as peers see it.
func (d *Division) Serves(a netip.Addr) bool {
	return d == nil || d.Owners[a] != "" && d.Owners[a] == d.Node
}

// Owner returns the node that serves a slot of a gateway; empty: none does.
func (d *Division) Owner(g *Gateway, s Slot) string {
	return d.OwnerOf(g.Address(s))
}

// OwnerOf returns the node that serves an address, as peers see it; empty: none
// does, or this node is alone.
func (d *Division) OwnerOf(a netip.Addr) string {
	if d == nil {
		return ""
	}
	return d.Owners[a]
}

// Tends tells whether this node answers for what is at a slot of a gateway: it
// serves the slot, or no node can and this one is the steward.
func (d *Division) Tends(g *Gateway, s Slot) bool {
	return d == nil || d.TendsAddress(g.Address(s))
}

// TendsAddress is Tends for what is at an address, as peers see it.
func (d *Division) TendsAddress(a netip.Addr) bool {
	if d == nil {
		return true
	}
	owner := d.Owners[a]
	if owner == "" && !d.possible(a) {
		owner = d.Steward
	}
	return owner == d.Node
}

// possible tells whether a living node can serve an address.
func (d *Division) possible(a netip.Addr) bool {
	for _, n := range d.Nodes {
		if slices.Contains(n.Fixed, a) || slices.Contains(n.Floating, a) {
			return true
		}
	}
	return false
}

// Carries tells whether traffic of a gateway may be routed into tunnels on this
// node. Of an active-standby gateway one node carries at a time.
func (d *Division) Carries(g *Gateway) bool {
	return d == nil || g.HAMode != ActiveStandby || d.Active[g.ID] == d.Node
}

// Carrier returns the node that carries a gateway, empty for none at the moment,
// if one node at a time does: in a fleet, that of an active-standby gateway.
func (d *Division) Carrier(g *Gateway) (node string, one bool) {
	if d == nil || g.HAMode != ActiveStandby {
		return "", false
	}
	return d.Active[g.ID], true
}

// Reports tells whether this node writes the status of a gateway: it carries
// the gateway, or serves the first of the addresses that are served, or no node
// can and this one is the steward.
func (d *Division) Reports(g *Gateway) bool {
	if d == nil {
		return true
	}
	for _, reporter := range []string{d.Active[g.ID], d.Owner(g, Slot1), d.Owner(g, Slot2)} {
		if reporter != "" {
			return reporter == d.Node
		}
	}
	return d.Steward == d.Node && !d.possible(g.Address(Slot1)) && !d.possible(g.Address(Slot2))
}

// FollowsUpgrade tells whether this node tells how far the upgrade of a gateway
// is: it reports of the gateway, or no node has it and this one is the steward.
// For those that should have it next may all fail to take it, and the upgrade has
// to end all the same.
func (d *Division) FollowsUpgrade(g *Gateway) bool {
	nobody := d.OwnerOf(g.Address(Slot1)) == "" && d.OwnerOf(g.Address(Slot2)) == ""
	return d.Reports(g) || nobody && d.Active[g.ID] == "" && d.IsSteward()
}

// FollowsP2CUpgrade is FollowsUpgrade for a client-to-cloud gateway.
func (d *Division) FollowsP2CUpgrade(g *P2CGateway) bool {
	return d.TendsAddress(g.EIP.Address) || d.OwnerOf(g.EIP.Address) == "" && d.IsSteward()
}

// IsSteward tells whether this node looks after what no node can serve.
func (d *Division) IsSteward() bool { return d == nil || d.Steward == d.Node }

// Name returns the name of this node, empty for a node alone.
func (d *Division) Name() string {
	if d == nil {
		return ""
	}
	return d.Node
}
