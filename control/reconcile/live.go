package reconcile

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/nqa"
	"github.com/vpngw/vpngw/ike/sa"
)

// live is what the loop knows of a connection while it runs.
type live struct {
	connection control.Connection
	place      place
	localID    string // in effect
	peerID     string
	journal    journal
	stored     control.ConnectionStatus // as the store has it, or the queue

	fault    error // of the last pass
	observed int64 // generation that the last pass applied, or failed to
	applied  bool  // some generation was applied
	resets   int64 // done

	condition condition
	routes    []netip.Prefix // into the tunnel
	dataPlane *control.DataPlane
	verdict   nqa.Verdict // of the probe inside the tunnel
	carried   bool        // traffic, ever since the tunnel came up or its peer answered
	story     story

	monitor       *control.Monitor      // nil: the connection has none
	monitorStatus control.MonitorStatus // as the store has it, or the queue
}

// condition is what the key exchange says of a connection.
type condition struct {
	established bool // an IKE SA is
	children    int  // that are up, of those wanted
	wanted      int
	outdated    bool       // some SA still serves that is not as the connection has it now
	remote      netip.Addr // where the peer's packets come from; invalid while no IKE SA is
	agreed      []flow     // with a template: what the peer has asked for, in order
	// encapsulation is of ESP under the IKE SA that serves; nil while none does.
	encapsulation *control.Encapsulation
}

// up is what the API calls ACTIVE.
func (c condition) up() bool { return c.established && c.children > 0 }

// conditions asks the key exchange, by connection.
func (r *Reconciler) conditions() map[string]condition {
	all := make(map[string]condition)
	for _, status := range r.KeyExchange.Snapshot() {
		c := condition{outdated: true}
		for _, ike := range status.IKE {
			if serves(ike.State) {
				c.established, c.remote = true, ike.Remote.Addr().Unmap()
				c.encapsulation = encapsulation(&ike, r.tunnels[status.Name])
				c.outdated = c.outdated && ike.Outdated
			}
		}
		up := make(map[string]bool) // and whether as it is configured
		tn := r.tunnels[status.Name]
		for i := range status.Children {
			child := &status.Children[i]
			if serves(child.State) {
				up[child.Name] = up[child.Name] || !child.Outdated
				if tn != nil && tn.template {
					c.agreed = append(c.agreed, agreedFlows(&child.ChildStatus)...)
				}
			}
		}
		slices.SortFunc(c.agreed, compareFlows)
		c.agreed = slices.Compact(c.agreed)
		c.agreed = c.agreed[:min(len(c.agreed), maxAgreed)]
		c.children = len(up)
		c.outdated = c.established && (c.outdated || slices.Contains(slices.Collect(maps.Values(up)), false))
		all[status.Name] = c
	}
	return all
}

// encapsulation tells what ESP goes in under an IKE SA, and why.
func encapsulation(ike *sa.IKEStatus, tn *tunnel) *control.Encapsulation {
	asked := ""
	if tn != nil && tn.connection.ForceEncap {
		asked = tn.encapWhy
	}
	e := &control.Encapsulation{Name: control.EncapsulationUDP}
	switch {
	case !ike.Encap && asked == "":
		e.Name, e.Reason = control.EncapsulationNone, "no NAT is in between, and neither end asks for UDP"
	case !ike.Encap:
		e.Name, e.Reason = control.EncapsulationNone, asked+", and the peer has not agreed to it"
	case ike.NATLocal:
		e.Reason = "a NAT is in front of this gateway"
	case ike.NATRemote:
		e.Reason = "a NAT is in front of the peer, or the peer asks for it"
	case asked != "":
		e.Reason = asked
	default: // another connection with the peer's address may have asked
		e.Reason = "the ends agreed on it before they knew which connection is meant"
	}
	return e
}

// serves tells whether an SA in this state is in use.
func serves(s sa.State) bool { return s == sa.Established || s == sa.Rekeying }

// meet brings the table of connections up to a snapshot. A connection that is
// new to this process brings its status and log along.
func (r *Reconciler) meet(ctx context.Context, p *plan) {
	customers := make(map[string]*control.CustomerGateway, len(p.snapshot.CustomerGateways))
	for i := range p.snapshot.CustomerGateways {
		customers[p.snapshot.CustomerGateways[i].ID] = &p.snapshot.CustomerGateways[i]
	}
	tunnels := make(map[string]*tunnel, len(p.tunnels))
	for _, tn := range p.tunnels {
		tunnels[tn.id] = tn
	}
	r.lookout.set(p.tunnels)
	present := make(map[string]bool)
	for i := range p.snapshot.Connections {
		c := p.snapshot.Connections[i]
		if !p.tended[c.ID] {
			continue // another node reports of it
		}
		present[c.ID] = true
		l := r.subjects[c.ID]
		if l == nil {
			status := p.snapshot.ConnectionStatus[c.ID]
			l = &live{stored: status, applied: status.Applied, resets: status.Resets}
			lines, err := r.Objects.Log(ctx, c.Project, c.ID)
			if err != nil {
				p.fail(c.GatewayID, fmt.Errorf("connection %s: log: %w", c.ID, err))
			}
			l.journal.restore(lines)
			r.subjects[c.ID] = l
		}
		if p.snapshot.DamagedStatus[c.ID] != nil {
			l.stored = control.ConnectionStatus{} // to be written anew
		}
		if l.connection.Generation != c.Generation {
			l.story = story{} // it was that of another configuration
		}
		l.connection = c
		l.place = place{name: c.Name, pid: r.PID}
		l.localID, l.peerID = "", ""
		if g := p.gateways[c.GatewayID]; g != nil && (c.Slot == control.Slot1 || c.Slot == control.Slot2) {
			l.place.gateway = g.gateway.Address(c.Slot)
			if customer := customers[c.CustomerGatewayID]; customer != nil {
				l.localID, l.peerID = c.EffectiveIDs(g.gateway, customer)
			}
		}
		l.condition.wanted = 0
		if tn := tunnels[c.ID]; tn != nil {
			l.place.peer = tn.connection.Remote
			l.condition.wanted = len(tn.connection.Children)
		}
	}
	forget := !r.ready.Load() // connections that went while the process was not there
	for id := range r.subjects {
		if !present[id] && p.snapshot.Unreadable[id] == nil {
			delete(r.subjects, id)
			forget = true
		}
	}
	if forget {
		known := make(map[string]bool, len(p.snapshot.Connections))
		for i := range p.snapshot.Connections {
			known[p.snapshot.Connections[i].ID] = true
		}
		r.History.Retain(func(id string) bool { return known[id] || p.snapshot.Unreadable[id] != nil })
	}
}

// number notes the indexes of the tunnels' devices.
func (r *Reconciler) number() {
	links, err := net.Interfaces()
	if err != nil {
		r.Logger.Warn("devices of this node", "error", err)
	}
	indexes := make(map[string]int, len(links))
	for _, link := range links {
		indexes[link.Name] = link.Index
	}
	for id, l := range r.subjects {
		l.place.ifIndex, l.dataPlane = 0, nil
		if tn := r.tunnels[id]; tn != nil {
			l.place.ifIndex = indexes[tn.device.Name]
			if tn.planeWhy != "" {
				l.dataPlane = &control.DataPlane{Name: tn.device.Plane.String(), Reason: tn.planeWhy}
			}
		}
	}
}

// apply notes how the pass went for the connection.
func (l *live) apply(fault error) {
	l.fault = fault
	l.observed = l.connection.Generation
	if fault == nil {
		l.applied = true
	}
}

// status is what the API shows of the connection.
func (l *live) status(node string) control.ConnectionStatus {
	s := control.ConnectionStatus{
		Node:     node,
		Observed: l.observed, Applied: l.applied, Resets: l.resets,
		State: control.ConnectionDown, LastChange: l.stored.LastChange,
	}
	if l.fault == nil {
		s.Routes, s.DataPlane, s.Encapsulation = l.routes, l.dataPlane, l.condition.encapsulation
	}
	switch {
	case l.fault != nil:
		s.State = control.ConnectionError
		s.Message = printable(l.fault.Error())
	case l.condition.up():
		s.State = control.ConnectionActive
		if l.condition.outdated {
			s.Message = "it goes on as it was before the last change, to which the peer has not agreed yet"
			l.explain(&s)
		} else if l.condition.children < l.condition.wanted {
			s.Message = fmt.Sprintf("%d of %d CHILD_SAs are up", l.condition.children, l.condition.wanted)
			l.explain(&s)
		}
		if l.connection.EnableNQA && l.verdict != nqa.Reachable && !l.carried {
			s.Message = join("; ", s.Message, fmt.Sprintf(
				"no traffic is routed into the tunnel: probes to %s are not answered", l.connection.TunnelPeer.Addr()))
		}
	case l.connection.DeletionRequested:
		s.Message = "being deleted"
	case l.connection.Frozen:
		s.Message = "frozen"
	case l.story.failure != nil:
		l.explain(&s)
		next := "waiting for the peer"
		if l.place.peer.IsValid() {
			next = "negotiation is tried again at growing intervals"
		}
		s.Message = join("; ", s.Message, next)
	case l.place.peer.IsValid():
		s.Message = "negotiating with " + l.place.peer.String()
	default:
		s.Message = "waiting for the peer"
	}
	if l.connection.ShortPSK() {
		s.Message = join("; ", s.Message, fmt.Sprintf("the pre-shared key has fewer than %d characters", control.GoodPSKLen))
	}
	return s
}

// drain records the events at hand.
func (r *Reconciler) drain() {
	for {
		select {
		case e := <-r.KeyExchange.Events():
			r.record(time.Now(), e)
		case e := <-r.Clients.Events():
			r.recordClient(e)
		default:
			return
		}
	}
}

// concerned returns the connections that an event is for. A peer that did not
// get so far as to be recognised may be any of those between its addresses.
func (r *Reconciler) concerned(e sa.Event) []*live {
	if e.Connection != "" {
		if l := r.subjects[e.Connection]; l != nil {
			return []*live{l}
		}
		return nil
	}
	var exact, open []*live
	for id, tn := range r.tunnels {
		l := r.subjects[id]
		switch {
		case l == nil || tn.connection.Local != e.Local.Addr():
		case tn.connection.Remote == e.Remote.Addr():
			exact = append(exact, l)
		case !tn.connection.Remote.IsValid():
			open = append(open, l)
		}
	}
	if len(exact) > 0 {
		return exact
	}
	return open
}

// observe compares the engines with what was reported, and has the status of
// each connection that changed written.
func (r *Reconciler) observe() error {
	now := time.Now()
	conditions := r.conditions()
	for id, since := range r.leaving {
		if now.Sub(since) >= linger {
			delete(r.leaving, id)
			delete(r.tunnels, id)
			r.departed = true
		}
	}
	for id, l := range r.subjects {
		if l.observed == 0 {
			continue // not yet part of a pass
		}
		c := conditions[id]
		c.wanted = l.condition.wanted
		l.condition = c
		if l.fault == nil && l.condition.up() && l.condition.children >= l.condition.wanted && !l.condition.outdated {
			l.story.failure = nil
		}
	}
	if err := r.probe(now); err != nil {
		r.Logger.Error("not everything is probed", "error", err)
	}
	err := r.reroute()
	for id, l := range r.subjects {
		l.carried = r.carriage(id) == carries
	}
	var routes map[string][]netip.Prefix
	if err == nil {
		routes = r.routed()
	}
	for id, l := range r.subjects {
		if l.observed == 0 {
			continue
		}
		l.routes = routes[id]
		r.report(l, now, l.status(r.division.Name()))
		r.reportMonitor(l, r.tunnels[id])
	}
	r.reportNumbers()
	return err
}

// routed returns the destinations that are routed into the tunnel of each
// connection, in order.
func (r *Reconciler) routed() map[string][]netip.Prefix {
	owners := make(map[string]string, len(r.tunnels)) // by device
	addresses := make(map[netip.Prefix]bool)
	for id, tn := range r.tunnels {
		owners[tn.device.Name] = id
		addresses[tn.self()] = true
	}
	// What the node itself sends from a tunnel address has routes of its own.
	private := make(map[int]bool)
	for _, rule := range r.routes.Rules {
		private[rule.Table] = addresses[rule.From]
	}
	all := make(map[string][]netip.Prefix)
	for _, route := range r.routes.Routes {
		if private[route.Table] {
			continue
		}
		for _, hop := range route.NextHops {
			if id := owners[hop.Link]; id != "" {
				all[id] = append(all[id], route.Dst)
			}
		}
	}
	for id, list := range all {
		slices.SortFunc(list, netip.Prefix.Compare)
		all[id] = slices.Compact(list) // one route for each source
	}
	return all
}

// report has the status of a connection written if it is another one than the
// store has.
func (r *Reconciler) report(l *live, now time.Time, status control.ConnectionStatus) {
	if reflect.DeepEqual(status, l.stored) {
		return
	}
	if status.State != l.stored.State {
		status.LastChange = now.UTC()
	}
	l.stored = status
	c := &l.connection
	r.queues.put(c.GatewayID, task{
		key: "status of connection " + c.ID, object: c.ID,
		status: &control.Report[control.ConnectionStatus]{Project: c.Project, ID: c.ID, Value: status},
	})
}

// storeLogs has the logs written that have new lines.
func (r *Reconciler) storeLogs() {
	r.logsStored = time.Now()
	for _, l := range r.subjects {
		if !l.journal.changed {
			continue
		}
		l.journal.changed = false
		c := &l.connection
		r.queues.put(c.GatewayID, task{
			key: "log of connection " + c.ID, object: c.ID,
			log: &control.Report[[]control.LogLine]{Project: c.Project, ID: c.ID, Value: l.journal.stored()},
		})
	}
}
