package reconcile

import (
	"slices"

	"github.com/vpngw/vpngw/control"
)

// presentDivision is nil for a node alone.
func (r *Reconciler) presentDivision() *control.Division {
	if r.Fleet == nil {
		return nil
	}
	return r.Fleet.Division()
}

// applied notes that the engines have nothing but what a division gives to this
// node.
func (r *Reconciler) applied(d *control.Division) {
	r.division = d
	if r.Fleet != nil {
		r.Fleet.Applied(d)
	}
}

// withdraw takes what this node serves no longer away from the engines. It goes
// by the objects that were read last: the store may be out of reach, which is
// why the node has lost it.
func (r *Reconciler) withdraw(d *control.Division) {
	if d == r.division || r.Fleet == nil {
		return
	}
	if r.snapshot == nil || !r.lost(d) {
		if len(r.tunnels) == 0 && !slices.ContainsFunc(r.networks, clientNetwork.running) {
			r.applied(d) // there is nothing to take away
		}
		return
	}
	hostAddresses, err := r.HostAddresses()
	if err != nil {
		r.Logger.Error("nothing was withdrawn; the sockets are fenced all the same", "error", err)
		return
	}
	r.apply(r.plan(r.snapshot, hostAddresses, d))
	r.applied(d)
}

// lost tells whether a tunnel or a server of clients stands that is not this
// node's any more.
func (r *Reconciler) lost(d *control.Division) bool {
	if slices.ContainsFunc(r.networks, func(n clientNetwork) bool { return n.running() && !d.Serves(n.eip) }) {
		return true
	}
	gateways := make(map[string]*control.Gateway, len(r.snapshot.Gateways))
	for i := range r.snapshot.Gateways {
		gateways[r.snapshot.Gateways[i].ID] = &r.snapshot.Gateways[i]
	}
	for i := range r.snapshot.Connections {
		c := &r.snapshot.Connections[i]
		g := gateways[c.GatewayID]
		if g == nil || r.tunnels[c.ID] == nil || c.Slot != control.Slot1 && c.Slot != control.Slot2 {
			continue
		}
		if !d.Serves(g.Address(c.Slot)) || r.division.Carries(g) && !d.Carries(g) {
			return true
		}
	}
	return false
}
