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
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/dataplane/route"
	"github.com/vpngw/vpngw/sslvpn"
)

// ClientServer is the engine of client-to-cloud VPN.
type ClientServer interface {
	Apply(sslvpn.Config) error
	Snapshot() []sslvpn.EndpointStatus
	Events() <-chan sslvpn.Event
	Disconnect(endpoint, session string) bool
}

// clients is what a pass wants of client-to-cloud VPN and what it found wrong
// on the way.
type clients struct {
	gateways []*clientGateway
	networks []clientNetwork
	faults   map[string]error // of servers, by id
}

// clientGateway is a client-to-cloud gateway with its server.
type clientGateway struct {
	gateway  *control.P2CGateway
	local    netip.Addr         // that the host has for the EIP; invalid where this node has none
	missing  error              // why
	tended   bool               // this node answers for it
	server   *control.VPNServer // nil: it has none
	endpoint *sslvpn.Endpoint   // nil: it is not to run, or cannot
}

// clientNetwork is the network of the clients of a server.
type clientNetwork struct {
	server string // id
	eip    netip.Addr
	pool   netip.Prefix
	pool6  netip.Prefix // of IPv6; the zero value: none
	device string       // of the running endpoint; empty: its traffic is dropped
}

func (n clientNetwork) running() bool { return n.device != "" }

// fault notes why a server cannot be applied. It may be called again.
func (c *clients) fault(server string, err error) {
	c.faults[server] = errors.Join(c.faults[server], err)
}

// planClients translates the client-to-cloud gateways. Of servers that conflict,
// the older one has its way.
func (r *Reconciler) planClients(p *plan) {
	c := &clients{faults: make(map[string]error)}
	p.clients = c
	servers := make(map[string]*control.VPNServer) // by gateway
	for i := range p.snapshot.Servers {
		servers[p.snapshot.Servers[i].GatewayID] = &p.snapshot.Servers[i]
	}
	rosters := rostersOf(p.snapshot)
	gateways := slices.Clone(p.snapshot.P2CGateways)
	slices.SortFunc(gateways, func(a, b control.P2CGateway) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	host, err := r.hostNetworks(gateways, servers)
	if err != nil {
		p.fail("", err)
	}
	known := make(map[string]bool)
	var elsewhere []clientNetwork // that may come here: till then nothing for them leaves by another way
	for i := range gateways {
		g := &clientGateway{gateway: &gateways[i], server: servers[gateways[i].ID]}
		c.gateways = append(c.gateways, g)
		g.local, g.missing = r.clientAddress(p, g.gateway)
		g.tended = p.division.TendsAddress(g.gateway.EIP.Address)
		if g.server == nil || g.gateway.DeletionRequested {
			continue
		}
		network := clientNetwork{server: g.server.ID, eip: g.gateway.EIP.Address, pool: g.server.ClientCIDR, pool6: g.server.ClientCIDRv6}
		if !g.tended {
			if p.division.Eligible[network.eip] {
				elsewhere = append(elsewhere, network)
			}
			continue
		}
		known[g.server.ID] = true
		err := cmp.Or(p.snapshot.Unreadable[g.server.ID], g.missing, c.overlap(network), overlapOfTunnels(network, p))
		if conflict := overlapOfHost(network, host); conflict != nil && err == nil {
			if err = conflict; r.serves(network) {
				err = nil // what came later ends no session
				c.fault(g.server.ID, conflict)
			}
		}
		if err == nil && !g.gateway.Frozen {
			g.endpoint, err = r.endpoint(g, rosters[g.server.ID])
		}
		if err != nil {
			c.fault(g.server.ID, err)
		}
		if g.endpoint != nil {
			network.device = g.endpoint.Device
		}
		c.networks = append(c.networks, network)
	}
	c.networks = append(c.networks, elsewhere...)
	c.separate()
	r.clientDevices.retain(func(id string) bool { return known[id] })
}

// clientAddress returns the address of this node that the EIP of a gateway
// stands for.
func (r *Reconciler) clientAddress(p *plan, g *control.P2CGateway) (netip.Addr, error) {
	eip, ok := r.inventory.Load().EIP(g.EIP.ID)
	switch {
	case !p.division.Serves(g.EIP.Address):
		return netip.Addr{}, fmt.Errorf("no node has address %s", g.EIP.Address)
	case !ok:
		return netip.Addr{}, fmt.Errorf("eip %s is not in the inventory", g.EIP.ID)
	case !p.host[eip.HostAddress()]:
		return netip.Addr{}, fmt.Errorf("address %s is not on this node", eip.HostAddress())
	}
	return eip.HostAddress(), nil
}

// overlap tells which server before has clients in a network.
func (c *clients) overlap(n clientNetwork) error {
	for _, other := range c.networks {
		for _, theirs := range other.pools() {
			for _, pool := range n.pools() {
				if theirs.Overlaps(pool) {
					return fmt.Errorf("client_cidr: %s overlaps %s of server %s", pool, theirs, other.server)
				}
			}
		}
	}
	return nil
}

// separate has the clients of a server reach those of another one by a policy
// that names them alone: the default policy is about what is in the cloud.
func (c *clients) separate() {
	for _, g := range c.gateways {
		if g.endpoint == nil {
			continue
		}
		for _, n := range c.networks {
			if n.server != g.server.ID {
				g.endpoint.Foreign = append(g.endpoint.Foreign, n.pools()...)
			}
		}
	}
}

// pools returns the networks of both families.
func (n clientNetwork) pools() []netip.Prefix {
	if n.pool6.IsValid() {
		return []netip.Prefix{n.pool, n.pool6}
	}
	return []netip.Prefix{n.pool}
}

// overlapOfTunnels tells which connection has hosts in a network. Traffic to
// them goes into the tunnel first, so a server cannot have them, too.
func overlapOfTunnels(n clientNetwork, p *plan) error {
	for _, tn := range slices.Concat(p.tunnels, p.closed) {
		for _, f := range tn.flows {
			for _, pool := range n.pools() {
				if f.destination.Bits() > 0 && f.destination.Overlaps(pool) {
					return fmt.Errorf("client_cidr: %s overlaps %s at the peer of connection %s", pool, f.destination, tn.id)
				}
			}
		}
	}
	return nil
}

// hostNetworks returns what the host has by others, where that matters: there are
// servers.
func (r *Reconciler) hostNetworks(gateways []control.P2CGateway, servers map[string]*control.VPNServer) ([]route.HostNetwork, error) {
	if !slices.ContainsFunc(gateways, func(g control.P2CGateway) bool { return servers[g.ID] != nil }) {
		return nil, nil
	}
	host, err := r.Router.HostNetworks()
	if err != nil {
		return nil, fmt.Errorf("networks of this node: %w", err)
	}
	return host, nil
}

// overlapOfHost tells which network of this node clients cannot be in.
func overlapOfHost(n clientNetwork, host []route.HostNetwork) error {
	for _, h := range host {
		if h.Conflicts(n.pool) {
			return fmt.Errorf("client_cidr: %s overlaps %s", n.pool, h)
		}
		if n.pool6.IsValid() && h.Conflicts(n.pool6) {
			return fmt.Errorf("client_cidr_v6: %s overlaps %s", n.pool6, h)
		}
	}
	return nil
}

// serves tells whether the engine has run a server with these networks since the
// last pass.
func (r *Reconciler) serves(n clientNetwork) bool {
	return slices.ContainsFunc(r.networks, func(o clientNetwork) bool {
		return o.running() && o.server == n.server && o.pool == n.pool && o.pool6 == n.pool6
	})
}

// roster is who may use a server, and what for.
type roster struct {
	users    []sslvpn.User
	policies []sslvpn.Policy
}

var everything = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// rostersOf sorts users and policies by server. A user whose group is gone is
// in none.
func rostersOf(s *control.Snapshot) map[string]roster {
	groups := make(map[string]bool, len(s.UserGroups))
	for i := range s.UserGroups {
		groups[s.UserGroups[i].ID] = true
	}
	all := make(map[string]roster)
	for i := range s.Users {
		u := &s.Users[i]
		if len(u.Passwords) == 0 {
			continue // nothing would match
		}
		user := sslvpn.User{ID: u.ID, Name: u.Name, PasswordHash: u.Passwords[0].Encode(), StaticIP: u.StaticIP}
		if !u.CodeSecret.IsZero() {
			user.CodeSecret = []byte(u.CodeSecret.Reveal())
		}
		if groups[u.GroupID] {
			user.Group = u.GroupID
		}
		of := all[u.ServerID]
		of.users = append(of.users, user)
		all[u.ServerID] = of
	}
	for i := range s.AccessPolicies {
		policy := &s.AccessPolicies[i]
		of := all[policy.ServerID]
		destinations := policy.Destinations
		if policy.Type == control.TypeDefault {
			destinations = everything // what the API shows of it is of IPv4
		}
		of.policies = append(of.policies, sslvpn.Policy{ID: policy.ID, Group: policy.GroupID, Destinations: destinations})
		all[policy.ServerID] = of
	}
	return all
}

// endpoint translates the server of a gateway.
func (r *Reconciler) endpoint(g *clientGateway, who roster) (*sslvpn.Endpoint, error) {
	v := g.server
	certificate, err := r.inventory.Load().ServerCertificate(v)
	if err != nil {
		return nil, fmt.Errorf("server_certificate: %w", err)
	}
	e := &sslvpn.Endpoint{
		ID: v.ID, Gateway: g.gateway.ID, Device: clientDevice(r.clientDevices.of(v.ID)),
		TCP:    []netip.AddrPort{netip.AddrPortFrom(g.local, uint16(v.Port))},
		Cipher: sslvpn.Cipher(v.Cipher), Compressed: v.Compressed, Certificate: certificate,
		Pool: v.ClientCIDR, Pool6: v.ClientCIDRv6, Routes: slices.Concat(v.LocalSubnets, v.LocalSubnetsV6), DNS: v.DNSServers, Domain: v.DNSDomain,
		MaxSessions: g.gateway.MaxConnections, BandwidthMbps: g.gateway.EIP.BandwidthMbps,
		PortShare: v.PortShare, OneTimeCodes: v.SecondFactor == control.FactorTOTP,
	}
	if v.Topology == control.TopologySubnet {
		e.Topology = sslvpn.TopologySubnet
	}
	for _, port := range v.UDPPorts {
		e.UDP = append(e.UDP, netip.AddrPortFrom(g.local, uint16(port)))
	}
	switch v.ControlWrap {
	case control.WrapTLSCrypt:
		e.TLSCryptKey = []byte(v.ControlKey.Reveal())
	case control.WrapTLSCryptV2:
		e.TLSCryptV2Key, e.RevokedClientKeys = []byte(v.ControlKey.Reveal()), v.RevokedClientKeys
	case control.WrapNone:
	}
	if v.AuthType.Passwords() {
		e.Auth, e.Users, e.Policies, e.MaxSessionsPerUser = sslvpn.AuthPassword, who.users, who.policies, sessionsPerUser
	}
	if !v.AuthType.Certificates() {
		return e, nil
	}
	e.Auth |= sslvpn.AuthCertificate
	for _, ca := range v.ClientCAs {
		certificate, err := ca.Certificate()
		if err != nil {
			return nil, fmt.Errorf("client_ca_certificates: %s: %w", ca.ID, err)
		}
		e.ClientCAs = append(e.ClientCAs, certificate)
	}
	return e, nil
}

// Numbers of the devices of servers.
const (
	firstClientDevice = 1
	clientDeviceCount = 1<<31 - 1
)

// sessionsPerUser is how many devices one user may connect with at once.
const sessionsPerUser = 5

// clientDevice is the name of the device of a server: 13 octets of at most 15.
func clientDevice(number uint32) string { return fmt.Sprintf("vpngc%08x", number) }

// applyClients gives the engine the plan. Servers that it cannot run are closed:
// the traffic to their clients is dropped.
func (r *Reconciler) applyClients(p *plan) {
	var config sslvpn.Config
	for _, g := range p.clients.gateways {
		if g.endpoint != nil {
			config.Endpoints = append(config.Endpoints, *g.endpoint)
		}
	}
	err := r.Clients.Apply(config)
	r.clientConfig = config
	failed := false
	status := make(map[string]error)
	for _, s := range r.Clients.Snapshot() {
		status[s.ID] = s.Err
	}
	for i, network := range p.clients.networks {
		why, there := status[network.server]
		if !network.running() || there && why == nil {
			continue
		}
		failed = true
		p.clients.networks[i].device = ""
		p.clients.fault(network.server, cmp.Or(why, err, errors.New("the engine does not run it")))
	}
	if err != nil && !failed {
		p.fail("", fmt.Errorf("client-to-cloud servers: %w", err))
	}
	r.networks = p.clients.networks
	r.placeLogs(p)
}

// workFor returns what changes make due. What users may do does not need a pass.
func workFor(changes []control.Change) int {
	for i := range changes {
		if !changes[i].Kind.IsRoster() {
			return duePass
		}
	}
	if len(changes) == 0 {
		return duePass
	}
	return dueRoster
}

// applyRoster gives the engine what users may do at present, in endpoints that
// are otherwise as the last pass has left them. It is false when that takes a
// pass.
func (r *Reconciler) applyRoster(ctx context.Context) bool {
	if r.snapshot == nil || r.retries[""] != nil {
		return false
	}
	revision, ok, err := r.Objects.Roster(ctx, r.snapshot)
	if err != nil || !ok {
		return false
	}
	rosters := rostersOf(r.snapshot)
	config := sslvpn.Config{Endpoints: slices.Clone(r.clientConfig.Endpoints)}
	for i := range config.Endpoints {
		if e := &config.Endpoints[i]; e.Auth.Has(sslvpn.AuthPassword) {
			e.Users, e.Policies = rosters[e.ID].users, rosters[e.ID].policies
		}
	}
	if err := r.Clients.Apply(config); err != nil {
		return false
	}
	r.clientConfig = config
	r.progress.reach(revision)
	return true
}

// all returns what the kernel is to hold for tunnels and for the clients of
// servers. A server that is not running keeps a blackhole, so nothing for its
// clients leaves by another way.
func (r *routing) all(tunnels []*tunnel, of func(id string) carriage, networks []clientNetwork) routes {
	s := r.state(tunnels, of)
	sources := make(map[netip.Prefix]bool) // of flows to everywhere, which clients are no part of
	for _, tn := range tunnels {
		for _, f := range tn.flows {
			if f.destination.Bits() == 0 {
				sources[f.source] = true
			}
		}
	}
	for _, n := range networks {
		for _, pool := range n.pools() {
			for _, source := range slices.SortedFunc(maps.Keys(sources), netip.Prefix.Compare) {
				if source.Addr().Is4() == pool.Addr().Is4() {
					s.route(route.Route{Table: r.table(source), Dst: pool, Type: route.Throw, Metric: tunnelMetric}, n.server)
				}
			}
			if n.running() {
				first := pool.Addr().Next()
				s.address(route.Address{Link: n.device, Prefix: netip.PrefixFrom(first, first.BitLen())}, n.server)
				s.route(route.Route{Dst: pool, Metric: tunnelMetric, NextHops: []route.NextHop{{Link: n.device}}}, n.server)
			}
			s.route(route.Route{Dst: pool, Metric: blackholeMetric, Type: route.Blackhole}, n.server)
		}
	}
	return s
}

// renewCertificates has our own CAs sign what is due. The pass that the change
// starts gives it to the engine.
func (r *Reconciler) renewCertificates(p *plan) {
	for _, g := range p.clients.gateways {
		if g.endpoint == nil {
			continue
		}
		server, eip := g.server.Meta, g.gateway.EIP.Address
		r.queues.put(g.gateway.ID, task{key: "certificate of server " + server.ID, object: server.ID, write: func(ctx context.Context) error {
			renewed, err := r.Objects.RenewServerCertificate(ctx, server.Project, server.ID, eip, time.Now())
			if err != nil {
				return fmt.Errorf("server %s: renew its certificate: %w", server.ID, err)
			}
			if renewed {
				r.Logger.Info("certificate of a server renewed", "server", server.ID)
			}
			return nil
		}})
	}
}

// reportClientGateway has the status of a gateway written if it changed. It is
// in force when this node has its address.
func (r *Reconciler) reportClientGateway(p *plan, g *clientGateway) control.P2CGatewayStatus {
	id := g.gateway.ID
	old := toldOf(r, p, id, p.snapshot.P2CGatewayStatus)
	status := control.P2CGatewayStatus{
		Observed: g.gateway.Generation, AppliedAt: old.AppliedAt, LastChange: old.LastChange, Fault: g.missing != nil,
		Clients: old.Clients,
	}
	if g.missing != nil {
		status.Message = g.missing.Error()
		p.fail(id, fmt.Errorf("gateway %s: %w", id, g.missing))
	} else if status.AppliedAt.IsZero() {
		status.AppliedAt = time.Now().UTC()
	}
	if reflect.DeepEqual(status, old) {
		return old
	}
	status.LastChange = time.Now().UTC()
	r.tellP2CGateway(g.gateway.Meta, status)
	return status
}

func (r *Reconciler) tellP2CGateway(m control.Meta, status control.P2CGatewayStatus) {
	r.tell(m.ID, m, func(ctx context.Context) error {
		return r.Objects.SetP2CGatewayStatus(ctx, m.Project, m.ID, status)
	})
}

// reportClientServer has the status of a server written if it changed. It is in
// force when the engine runs it.
func (r *Reconciler) reportClientServer(p *plan, g *clientGateway) control.ServerStatus {
	id, fault := g.server.ID, p.clients.faults[g.server.ID]
	old := toldOf(r, p, id, p.snapshot.ServerStatus)
	status := control.ServerStatus{
		Observed: g.server.Generation, AppliedAt: old.AppliedAt, LastChange: old.LastChange, Fault: fault != nil,
	}
	if fault != nil {
		status.Message = fault.Error()
		p.fail(g.gateway.ID, fmt.Errorf("server %s: %w", id, fault))
	} else if status.AppliedAt.IsZero() && g.endpoint != nil {
		status.AppliedAt = time.Now().UTC()
	}
	if reflect.DeepEqual(status, old) {
		return old
	}
	status.LastChange = time.Now().UTC()
	r.tell(g.gateway.ID, g.server.Meta, func(ctx context.Context) error {
		return r.Objects.SetServerStatus(ctx, g.server.Project, id, status)
	})
	return status
}
