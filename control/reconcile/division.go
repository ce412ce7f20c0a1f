package reconcile

import (
	"maps"
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
	p := r.plan(r.snapshot, hostAddresses, d)
	r.forget(p)
	r.apply(p)
	r.applied(d)
}

// forget takes back what is to be written of objects that are another node's
// now: it would overwrite what that node says.
func (r *Reconciler) forget(p *plan) {
	if p.division == r.division || r.Fleet == nil {
		return
	}
	r.told = nil
	mine := maps.Clone(p.tended)
	for id, g := range p.gateways {
		mine[id] = p.division.Reports(g.gateway)
	}
	for _, g := range p.clients.gateways {
		mine[g.gateway.ID] = g.tended
		if g.server != nil {
			mine[g.server.ID] = g.tended
		}
	}
	for i := range p.snapshot.Monitors {
		mine[p.snapshot.Monitors[i].ID] = r.finalizes(p, &p.snapshot.Monitors[i])
	}
	r.queues.retain(func(object string) bool { return mine[object] })
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
