package reconcile

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vpngw/vpngw/control"
)

// followUpgrades has the progress written of the gateways that are moved to
// another version and that this node answers for.
func (r *Reconciler) followUpgrades(p *plan) {
	r.upgrading = false
	for _, g := range p.gateways {
		if g.gateway.Upgrade.Moving() && !g.gateway.DeletionRequested && p.division.FollowsUpgrade(g.gateway) {
			done, waiting := r.movedGateway(p, g)
			r.advance(control.KindGateway, g.gateway.Meta, done, waiting)
		}
	}
	for _, g := range p.clients.gateways {
		if g.gateway.Upgrade.Moving() && !g.gateway.DeletionRequested && p.division.FollowsP2CUpgrade(g.gateway) {
			waiting := r.movedClients(p, g)
			r.advance(control.KindP2CGateway, g.gateway.Meta, []bool{waiting == ""}, waiting)
		}
	}
}

func (r *Reconciler) advance(kind control.Kind, m control.Meta, done []bool, waiting string) {
	r.upgrading = true
	progress := control.UpgradeProgress{Kind: kind, Project: m.Project, ID: m.ID, Done: done, Waiting: waiting}
	r.queues.put(m.ID, task{key: "upgrade of " + m.ID, object: m.ID, write: func(ctx context.Context) error {
		if err := r.Objects.AdvanceUpgrade(ctx, progress, time.Now()); err != nil {
			return fmt.Errorf("upgrade of %s: %w", m.ID, err)
		}
		return nil
	}})
}

// movedGateway tells which of the addresses of a gateway are where the upgrade
// wants them, with the connections that were up before, and what lacks first.
func (r *Reconciler) movedGateway(p *plan, g *gatewayPlan) (done []bool, waiting string) {
	for _, slot := range []control.Slot{control.Slot1, control.Slot2} {
		if !g.gateway.Address(slot).IsValid() {
			continue
		}
		lacks := cmp.Or(r.movedAddress(p, g, slot), r.movedConnections(p, g.gateway, slot))
		done, waiting = append(done, lacks == ""), cmp.Or(waiting, lacks)
	}
	return done, waiting
}

// movedAddress tells what lacks until an address of a gateway is served by a
// node of the wanted version. An address that no node can have is no hindrance
// while there is another one.
func (r *Reconciler) movedAddress(p *plan, g *gatewayPlan, slot control.Slot) string {
	a := g.gateway.Address(slot)
	wanted := g.gateway.Upgrade.Wanted()
	lacks := r.servedBy(p, a, wanted)
	switch carrier, shared := p.division.Carrier(g.gateway); {
	case lacks != "":
		return lacks
	case shared && carrier == "":
		return "no node carries the gateway at the moment"
	case shared && p.division.Nodes[carrier].Version != wanted:
		return fmt.Sprintf("node %s, which carries the gateway, is not of version %s", carrier, wanted)
	case g.elsewhere[slot-1] || g.local[slot-1].IsValid():
		return ""
	case g.elsewhere[2-slot] || g.local[2-slot].IsValid():
		return ""
	}
	return fmt.Sprintf("address %s: %v", a, g.missing[slot-1])
}

// servedBy tells what lacks until an address is served by a node of a version.
func (r *Reconciler) servedBy(p *plan, a netip.Addr, wanted string) string {
	version, owner := r.Version, p.division.OwnerOf(a)
	switch {
	case owner != "":
		version = p.division.Nodes[owner].Version
	case p.division.Name() != "" && len(p.division.Versions(a)) > 0:
		return fmt.Sprintf("no node serves address %s at the moment", a)
	}
	if version != wanted {
		return fmt.Sprintf("address %s is served by version %s, not %s", a, version, wanted)
	}
	return ""
}

// movedConnections tells which connection that was up before is not at its new
// place.
func (r *Reconciler) movedConnections(p *plan, g *control.Gateway, slot control.Slot) string {
	owner, conditions := p.division.Owner(g, slot), r.conditions()
	for i := range p.snapshot.Connections {
		c := &p.snapshot.Connections[i]
		if c.GatewayID != g.ID || c.Slot != slot || !slices.Contains(g.Upgrade.Up, c.ID) {
			continue
		}
		status := p.snapshot.ConnectionStatus[c.ID]
		up := status.State == control.ConnectionActive && status.Node == owner
		if p.tended[c.ID] {
			up = conditions[c.ID].up() // what was reported may be of a moment ago
		}
		if !up {
			return fmt.Sprintf("connection %s is not up", c.ID)
		}
	}
	return ""
}

// movedClients tells what lacks until a client-to-cloud gateway is served by
// this node with the wanted version.
func (r *Reconciler) movedClients(p *plan, g *clientGateway) string {
	lacks := r.servedBy(p, g.gateway.EIP.Address, g.gateway.Upgrade.Wanted())
	switch {
	case lacks != "":
		return lacks
	case g.missing != nil:
		return g.missing.Error()
	case g.server != nil && p.clients.faults[g.server.ID] != nil:
		return fmt.Sprintf("server %s: %v", g.server.ID, p.clients.faults[g.server.ID])
	case g.server != nil && g.endpoint == nil:
		return fmt.Sprintf("server %s does not run", g.server.ID)
	}
	return ""
}
