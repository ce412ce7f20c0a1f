package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// plan is what one pass wants of the engines and what it found wrong on the
// way, by id of the object.
type plan struct {
	snapshot  *control.Snapshot
	gateways  map[string]*gatewayPlan
	tunnels   []*tunnel           // oldest connection first
	closed    []*tunnel           // that cannot be applied: their traffic is dropped
	host      map[netip.Addr]bool // addresses of this node
	division  *control.Division
	tended    map[string]bool  // connections that this node answers for
	faults    map[string]error // of connections
	failures  map[string]error // of anything else, by gateway; under the empty id those of none
	unserved  []error          // of addresses
	addresses map[netip.Addr]bool
	clients   *clients
}

// gatewayPlan is a gateway with the addresses that this node has for it.
type gatewayPlan struct {
	gateway   *control.Gateway
	local     [2]netip.Addr // by slot - 1; invalid where this node has it not
	missing   [2]error      // why
	elsewhere [2]bool       // another node serves it
}

// fault notes why a connection cannot be applied. It may be called again.
func (p *plan) fault(id string, err error) { p.faults[id] = errors.Join(p.faults[id], err) }

// fail notes what went wrong for a gateway, or with the empty id for none.
func (p *plan) fail(gateway string, err error) {
	p.failures[gateway] = errors.Join(p.failures[gateway], err)
}

// faultOfRoute notes what a route could not be set for: a connection, or the
// clients of a server.
func (p *plan) faultOfRoute(id string, err error) {
	if slices.ContainsFunc(p.clients.networks, func(n clientNetwork) bool { return n.server == id }) {
		p.clients.fault(id, err)
		return
	}
	p.fault(id, err)
}

// pass applies all objects. It returns the revision that it read, negative when
// nothing could be read, and what is to be tried again, by gateway.
func (r *Reconciler) pass(ctx context.Context) (revision int64, failures map[string]error) {
	start := time.Now()
	division := r.presentDivision()
	r.withdraw(division)
	snapshot, err := r.Objects.Snapshot(ctx)
	if errors.Is(err, control.ErrRestoring) {
		// Whoever began may be gone.
		r.queues.put("", task{key: "restore", write: r.Objects.FinishRestore})
	}
	if err != nil {
		return -1, r.passed(start, map[string]error{"": err})
	}
	if r.snapshot == nil || r.retries[""] != nil {
		r.queues.hurry() // the store may have been away
	}
	if r.snapshot != nil && r.snapshot.Epoch != snapshot.Epoch {
		r.begin()
	}
	r.snapshot = snapshot
	hostAddresses, err := r.HostAddresses()
	if err != nil {
		// Not to know is not to have none.
		return snapshot.Revision, r.passed(start, map[string]error{"": fmt.Errorf("addresses of this node: %w", err)})
	}
	p := r.plan(snapshot, hostAddresses, division)
	r.forget(p)
	r.meet(ctx, p)
	r.meetMonitors(p)
	r.apply(p)
	r.progress.reach(snapshot.Revision)
	r.applied(division)
	r.number()
	r.finalize(p)
	r.told = r.reportAll(p)
	r.followUpgrades(p)
	r.renewCertificates(p)
	r.resets(p)
	for id, live := range r.subjects {
		live.apply(p.faults[id])
	}
	r.ready.Store(true)
	for _, id := range slices.Sorted(maps.Keys(snapshot.DamagedStatus)) {
		r.Logger.Warn("status was damaged and is written anew", "object", id, "error", snapshot.DamagedStatus[id])
	}
	return snapshot.Revision, r.passed(start, p.allFailures())
}

// begin forgets what was reported: the store has been restored, and has other
// statuses and logs. The engines go on with what is the same.
func (r *Reconciler) begin() {
	r.Logger.Info("the store was restored from a backup")
	r.queues.retain(func(string) bool { return false })
	r.told = nil
	clear(r.subjects)
}

// passed counts a pass and what it could not apply.
func (r *Reconciler) passed(start time.Time, failures map[string]error) map[string]error {
	r.count(func(s *Stats) {
		s.Passes++
		s.LastDuration, s.LastPass = time.Since(start), start
		s.Retrying = len(failures)
		for _, err := range failures {
			s.Failures += uint64(len(split(err)))
		}
	})
	return failures
}

// allFailures returns all that is to be tried again, by gateway.
func (p *plan) allFailures() map[string]error {
	gateways := make(map[string]string, len(p.snapshot.Connections)) // by connection
	for i := range p.snapshot.Connections {
		gateways[p.snapshot.Connections[i].ID] = p.snapshot.Connections[i].GatewayID
	}
	for _, id := range slices.Sorted(maps.Keys(p.faults)) {
		p.fail(gateways[id], fmt.Errorf("connection %s: %w", id, p.faults[id]))
	}
	for _, id := range slices.Sorted(maps.Keys(p.snapshot.Unreadable)) {
		p.fail(gateways[id], fmt.Errorf("object %s: %w", id, p.snapshot.Unreadable[id]))
	}
	return p.failures
}

// plan translates all connections that are this node's.
func (r *Reconciler) plan(snapshot *control.Snapshot, hostAddresses map[netip.Addr]bool, division *control.Division) *plan {
	p := &plan{
		snapshot: snapshot, gateways: make(map[string]*gatewayPlan), faults: make(map[string]error), failures: make(map[string]error),
		addresses: make(map[netip.Addr]bool), host: hostAddresses, division: division, tended: make(map[string]bool),
	}
	inventory := r.inventory.Load()
	for i := range snapshot.Gateways {
		g := &gatewayPlan{gateway: &snapshot.Gateways[i]}
		p.gateways[g.gateway.ID] = g
		for _, slot := range []control.Slot{control.Slot1, control.Slot2} {
			a, err := inventory.LocalAddress(g.gateway, slot)
			switch {
			case !division.Serves(g.gateway.Address(slot)):
				g.elsewhere[slot-1] = division.Owner(g.gateway, slot) != ""
				g.missing[slot-1] = fmt.Errorf("no node has address %s", g.gateway.Address(slot))
			case err != nil:
				g.missing[slot-1] = err
			case !hostAddresses[a]:
				g.missing[slot-1] = fmt.Errorf("address %s is not on this node", a)
			default:
				g.local[slot-1] = a
				if !g.gateway.DeletionRequested && !g.gateway.Frozen {
					p.addresses[a] = true
				}
			}
		}
	}
	customers := make(map[string]*control.CustomerGateway)
	for i := range snapshot.CustomerGateways {
		customers[snapshot.CustomerGateways[i].ID] = &snapshot.CustomerGateways[i]
	}
	connections := slices.Clone(snapshot.Connections)
	slices.SortFunc(connections, func(a, b control.Connection) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	known := make(map[string]bool)
	owners := make(map[flow]string)
	for i := range connections {
		c := &connections[i]
		tended, closed := r.tends(p, c)
		if !tended && !closed {
			continue
		}
		known[c.ID], p.tended[c.ID] = true, tended
		if c.DeletionRequested {
			continue
		}
		unreadable := snapshot.Unreadable[c.ID]
		if unreadable != nil && tended && r.tunnels[c.ID] != nil {
			continue // it goes on with what it has, below
		}
		flows, err := r.claim(p, c, owners)
		var tn *tunnel
		if err = cmp.Or(err, unreadable); err == nil && !c.Frozen && tended {
			tn, err = r.tunnel(p, c, customers[c.CustomerGatewayID])
		}
		if err != nil && tended {
			p.fault(c.ID, err)
		}
		if tn == nil {
			tn = &tunnel{id: c.ID, gatewayID: c.GatewayID, flows: flows}
			p.closed = append(p.closed, tn)
			continue
		}
		p.tunnels = append(p.tunnels, tn)
	}
	going := make(map[string]bool)
	for i := range connections {
		going[connections[i].ID] = connections[i].DeletionRequested || !p.tended[connections[i].ID]
	}
	for id := range snapshot.Unreadable {
		// What cannot be read was not asked to go.
		if tn := r.tunnels[id]; tn != nil && !going[id] {
			known[id] = true
			p.tunnels = append(p.tunnels, tn)
			p.addresses[tn.connection.Local] = true
		}
	}
	for id := range r.leaving {
		known[id] = true
	}
	r.translator.retain(known)
	r.planClients(p)
	return p
}

// tends tells whether this node answers for a connection and, if it does not,
// whether it must not let the connection's traffic pass in the clear: it may
// come to serve the connection, so hosts may route by it.
func (r *Reconciler) tends(p *plan, c *control.Connection) (tended, closed bool) {
	if p.division == nil {
		return true, false
	}
	g := p.gateways[c.GatewayID]
	if g == nil || c.Slot != control.Slot1 && c.Slot != control.Slot2 {
		return p.division.IsSteward(), false
	}
	return p.division.Tends(g.gateway, c.Slot),
		p.division.Eligible[g.gateway.Address(control.Slot1)] || p.division.Eligible[g.gateway.Address(control.Slot2)]
}

// claim returns the traffic that a connection is for, without what belongs to
// another gateway already; then there is an error, too.
func (r *Reconciler) claim(p *plan, c *control.Connection, owners map[flow]string) ([]flow, error) {
	g := p.gateways[c.GatewayID]
	if g == nil {
		return nil, nil // translation says so
	}
	return claim(c, flowsOf(c, g.gateway), owners)
}

// tunnel translates one connection. It is nil while its gateway is frozen.
func (r *Reconciler) tunnel(p *plan, c *control.Connection, customer *control.CustomerGateway) (*tunnel, error) {
	g := p.gateways[c.GatewayID]
	switch {
	case g == nil:
		return nil, fmt.Errorf("vgw_id: there is no gateway %s", c.GatewayID)
	case g.gateway.Frozen:
		return nil, nil
	case customer == nil:
		return nil, fmt.Errorf("cgw_id: there is no customer gateway %s", c.CustomerGatewayID)
	case c.Slot != control.Slot1 && c.Slot != control.Slot2:
		return nil, fmt.Errorf("vgw_ip: slot %d does not exist", c.Slot)
	case g.missing[c.Slot-1] != nil:
		return nil, fmt.Errorf("vgw_ip: %w", g.missing[c.Slot-1])
	}
	s := subject{
		connection: c, gateway: g.gateway, customer: customer, local: g.local[c.Slot-1], carried: p.division.Carries(g.gateway),
	}
	s.identity, s.identityErr = r.Objects.GatewayIdentity(g.gateway)
	return r.translator.translate(s)
}

// apply gives the engines the plan: sockets, then devices, then what leads
// traffic into them, then the key exchange. Tunnels that have gone from the
// plan keep socket and device until their peers know.
func (r *Reconciler) apply(p *plan) {
	now := time.Now()
	wanted := make(map[string]bool, len(p.tunnels))
	for _, tn := range p.tunnels {
		wanted[tn.id] = true
	}
	for id := range r.tunnels {
		if _, going := r.leaving[id]; !wanted[id] && !going {
			r.leaving[id] = now
		}
	}
	for id := range wanted {
		delete(r.leaving, id)
	}

	r.applySockets(p)
	r.applyBandwidths(p)
	r.applyDevices(p)
	p.tunnels = slices.DeleteFunc(p.tunnels, func(tn *tunnel) bool {
		broken := p.faults[tn.id] != nil
		if broken && r.tunnels[tn.id] != nil {
			r.leaving[tn.id] = now
		}
		if broken {
			p.closed = append(p.closed, &tunnel{id: tn.id, gatewayID: tn.gatewayID, flows: tn.flows})
		}
		return broken
	})
	r.closed = p.closed
	r.applyClients(p)
	r.applyRoutes(p)

	var connections []sa.Connection
	for _, tn := range p.tunnels {
		connections = append(connections, tn.connection)
		r.tunnels[tn.id] = tn
	}
	ids := make(map[string]string, len(p.tunnels))
	for _, tn := range p.tunnels {
		ids[tn.id] = tn.id
	}
	for _, err := range split(r.KeyExchange.Apply(connections)) {
		p.blame(err, ids)
	}
}

func (r *Reconciler) applySockets(p *plan) {
	addresses := maps.Clone(p.addresses)
	for id := range r.leaving {
		addresses[r.tunnels[id].connection.Local] = true
	}
	err := r.Sockets.SetAddresses(slices.SortedFunc(maps.Keys(addresses), netip.Addr.Compare))
	if p.unserved = split(err); err != nil {
		p.fail("", err)
	}
	for _, tn := range p.tunnels {
		if err := p.socketFault(tn.connection.Local); err != nil {
			p.fault(tn.id, fmt.Errorf("vgw_ip: %w", err))
		}
	}
}

// applyBandwidths limits the tunnels of each gateway with EIPs to their
// bandwidth. EIPs that share one have it together.
func (r *Reconciler) applyBandwidths(p *plan) {
	byName := make(map[string]*ipsec.Bandwidth)
	for _, g := range p.gateways {
		if g.gateway.NetworkType == control.NetworkPrivate {
			continue
		}
		for i, local := range g.local {
			eip := &g.gateway.EIPs[i]
			if !local.IsValid() || eip.BandwidthMbps < 1 {
				continue
			}
			name := eip.ID
			if eip.Shared {
				name = eip.BandwidthID
			}
			b := byName[name]
			if b == nil {
				b = &ipsec.Bandwidth{Name: name, Mbps: eip.BandwidthMbps}
				byName[name] = b
			}
			b.Addresses = append(b.Addresses, local)
		}
	}
	var list []ipsec.Bandwidth
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		slices.SortFunc(byName[name].Addresses, netip.Addr.Compare)
		list = append(list, *byName[name])
	}
	if err := r.Policer.SetBandwidths(list); err != nil {
		p.fail("", err)
	}
}

// socketFault returns why an address is not served.
func (p *plan) socketFault(a netip.Addr) error {
	for _, err := range p.unserved {
		if mentions(err, a.String()) {
			return err
		}
	}
	return nil
}

// blame gives an error to the connection whose word it mentions.
func (p *plan) blame(err error, words map[string]string) {
	for word, id := range words {
		if mentions(err, word) {
			p.fault(id, err)
			return
		}
	}
	p.fail("", err)
}

// mentions tells whether an error has a word in its text.
func mentions(err error, word string) bool {
	inWord := func(c byte) bool {
		return c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
	}
	text := err.Error()
	for start := 0; ; {
		i := strings.Index(text[start:], word)
		if i < 0 {
			return false
		}
		i += start
		end := i + len(word)
		if (i == 0 || !inWord(text[i-1])) && (end == len(text) || !inWord(text[end])) {
			return true
		}
		start = i + 1
	}
}

func (r *Reconciler) applyDevices(p *plan) {
	var devices []ipsec.Interface
	owners := make(map[string]string)
	for _, tn := range p.tunnels {
		devices = append(devices, tn.device)
		owners[tn.device.Name] = tn.id
	}
	for id := range r.leaving {
		if device := r.tunnels[id].device; owners[device.Name] == "" {
			devices = append(devices, device)
			owners[device.Name] = id
		}
	}
	slices.SortFunc(devices, func(a, b ipsec.Interface) int { return cmp.Compare(a.Name, b.Name) })
	for _, err := range split(r.Devices.SetInterfaces(devices)) {
		p.blame(err, owners)
	}
}

func (r *Reconciler) applyRoutes(p *plan) {
	routes := r.routing.all(r.agreed(slices.Concat(p.tunnels, p.closed)), r.carriage, r.networks)
	if rest := routes.blame(r.Router.Set(routes.State), p.faultOfRoute); rest != nil {
		p.fail("", rest)
	}
	r.routes = routes.State
}

// reroute sets the routes anew when other tunnels carry traffic than before
// and that makes a difference. What goes wrong is left to the next pass.
func (r *Reconciler) reroute() error {
	var tunnels []*tunnel
	for _, id := range slices.Sorted(maps.Keys(r.tunnels)) {
		if _, going := r.leaving[id]; !going {
			tunnels = append(tunnels, r.tunnels[id])
		}
	}
	routes := r.routing.all(r.agreed(append(tunnels, r.closed...)), r.carriage, r.networks)
	if reflect.DeepEqual(routes.State, r.routes) {
		return nil
	}
	r.routes = routes.State
	return r.Router.Set(routes.State)
}

// finalize has the objects removed that were asked to go and are gone from the
// engines. A gateway goes when all its connections have.
func (r *Reconciler) finalize(p *plan) {
	left := make(map[string]bool) // gateways with connections
	for i := range p.snapshot.Connections {
		c := &p.snapshot.Connections[i]
		left[c.GatewayID] = true
		if c.DeletionRequested && r.tunnels[c.ID] == nil && p.tended[c.ID] {
			r.remove(c.GatewayID, "connection", c.Meta, r.Objects.FinalizeConnection)
		}
	}
	for _, g := range p.gateways {
		if g.gateway.DeletionRequested && !left[g.gateway.ID] && p.division.Reports(g.gateway) {
			r.remove(g.gateway.ID, "gateway", g.gateway.Meta, r.Objects.FinalizeGateway)
		}
	}
	for _, g := range p.clients.gateways {
		// The endpoint of such a gateway is not in the engine any more.
		if g.gateway.DeletionRequested && g.tended {
			r.remove(g.gateway.ID, "client-to-cloud gateway", g.gateway.Meta, r.Objects.FinalizeP2CGateway)
		}
	}
}

// remove has an object finalised.
func (r *Reconciler) remove(gateway, what string, m control.Meta, finalize func(ctx context.Context, project, id string) error) {
	r.queues.put(gateway, task{key: "finalize " + m.ID, object: m.ID, write: func(ctx context.Context) error {
		if err := finalize(ctx, m.Project, m.ID); err != nil {
			return fmt.Errorf("finalize %s %s: %w", what, m.ID, err)
		}
		r.Logger.Info(what+" deleted", "id", m.ID)
		return nil
	}})
}

// reportAll has the statuses of gateways and servers written that changed, and
// returns all that this node reports.
func (r *Reconciler) reportAll(p *plan) (told map[string]any) {
	told = make(map[string]any)
	for _, g := range p.gateways {
		if p.division.Reports(g.gateway) && !g.gateway.DeletionRequested {
			told[g.gateway.ID] = r.reportGateway(p, g)
		}
	}
	for _, g := range p.clients.gateways {
		if g.gateway.DeletionRequested || !g.tended {
			continue
		}
		told[g.gateway.ID] = r.reportClientGateway(p, g)
		if g.server != nil {
			told[g.server.ID] = r.reportClientServer(p, g)
		}
	}
	return told
}

// toldOf returns the status that was given to the queues last, or the one that
// the store has. A damaged one is none.
func toldOf[T any](r *Reconciler, p *plan, id string, stored map[string]T) T {
	if told, ok := r.told[id].(T); ok && p.snapshot.DamagedStatus[id] == nil {
		return told
	}
	return stored[id]
}

// reportGateway has the status of a gateway written if it changed. A gateway is
// in force when this node serves one of its addresses.
func (r *Reconciler) reportGateway(p *plan, g *gatewayPlan) control.GatewayStatus {
	id := g.gateway.ID
	old := toldOf(r, p, id, p.snapshot.GatewayStatus)
	status := control.GatewayStatus{Observed: g.gateway.Generation, AppliedAt: old.AppliedAt, LastChange: old.LastChange}
	for slot, local := range g.local {
		if g.elsewhere[slot] {
			continue
		}
		if missing := g.missing[slot]; missing != nil {
			status.Message = join("; ", status.Message, fmt.Sprintf("address %d: %v", slot+1, missing))
		} else if err := p.socketFault(local); err != nil {
			g.local[slot] = netip.Addr{}
			status.Message = join("; ", status.Message, fmt.Sprintf("address %d: %v", slot+1, err))
		}
	}
	served := func(slot int) bool { return g.local[slot].IsValid() || g.elsewhere[slot] }
	status.Fault = !served(0) && !served(1)
	if _, err := r.Objects.GatewayIdentity(g.gateway); err != nil {
		status.Fault, status.Message = true, join("; ", status.Message, err.Error())
	}
	if status.Fault {
		p.fail(id, fmt.Errorf("gateway %s: %s", id, status.Message))
	} else if status.AppliedAt.IsZero() {
		status.AppliedAt = time.Now().UTC()
	}
	if !status.Fault {
		status.Routes = localRoutes(g.gateway, p.host)
	}
	if reflect.DeepEqual(status, old) {
		return old
	}
	status.LastChange = time.Now().UTC()
	r.tell(id, g.gateway.Meta, func(ctx context.Context) error {
		return r.Objects.SetGatewayStatus(ctx, g.gateway.Project, id, status)
	})
	return status
}

// tell has the status of an object written.
func (r *Reconciler) tell(gateway string, m control.Meta, write func(context.Context) error) {
	r.queues.put(gateway, task{key: "status of " + m.ID, object: m.ID, write: func(ctx context.Context) error {
		if err := write(ctx); err != nil {
			return fmt.Errorf("status of %s: %w", m.ID, err)
		}
		return nil
	}})
}

// localRoutes returns the routes to the local subnets of a gateway, each with
// the lowest address that this node has there.
func localRoutes(g *control.Gateway, host map[netip.Addr]bool) []control.LocalRoute {
	var routes []control.LocalRoute
	for _, subnet := range g.LocalSubnets {
		route := control.LocalRoute{Destination: subnet}
		for a := range host {
			if subnet.Contains(a) && (!route.Address.IsValid() || a.Less(route.Address)) {
				route.Address = a
			}
		}
		routes = append(routes, route)
	}
	return routes
}

// resets carries out the resets that were asked for.
func (r *Reconciler) resets(p *plan) {
	for _, tn := range p.tunnels {
		live := r.subjects[tn.id]
		if live == nil || live.connection.Resets <= live.resets || p.faults[tn.id] != nil {
			continue
		}
		if err := r.KeyExchange.Reset(tn.id); err != nil {
			p.fault(tn.id, fmt.Errorf("reset: %w", err))
			continue
		}
		live.resets = live.connection.Resets
	}
}
