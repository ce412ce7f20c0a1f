package reconcile

import (
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/connlog"
	"github.com/vpngw/vpngw/sslvpn"
)

// ClientLog takes the log of client connections.
type ClientLog interface {
	// Write tells whether there is such a stream with room for the record.
	Write(to control.LogConfig, r connlog.Record) bool
}

// clientEvents are the events of the engine by the words of the log.
var clientEvents = map[sslvpn.EventKind]connlog.Event{
	sslvpn.EventConnected:    connlog.Connected,
	sslvpn.EventDisconnected: connlog.Disconnected,
	sslvpn.EventAuthFailed:   connlog.AuthenticationFailed,
}

// recordClient writes an event to the log that the gateway of its server has.
func (r *Reconciler) recordClient(e sslvpn.Event) {
	r.recorded = true
	place, known := r.logPlaces[e.Session.Endpoint]
	if !known || place.to == nil {
		return
	}
	s := &e.Session
	written := r.ClientLog.Write(*place.to, connlog.Record{
		Time: e.Time, Event: clientEvents[e.Kind], Project: place.project, Gateway: place.gateway, Server: s.Endpoint,
		Connection: s.ID, User: s.User, ClientIP: s.Remote.Addr().Unmap(), VirtualIP: s.VirtualIP,
		VirtualIPv6: s.VirtualIPv6, ClientKey: s.ClientKey, Reason: e.Reason,
		InboundPackets: s.Inbound.Packets, InboundBytes: s.Inbound.Octets,
		OutboundPackets: s.Outbound.Packets, OutboundBytes: s.Outbound.Octets,
	})
	if !written {
		r.Logger.Debug("a record of the connection log was lost", "gateway", place.gateway, "stream", place.to.StreamID)
	}
}

// logPlace is where the events of a server are told of.
type logPlace struct {
	project, gateway string
	to               *control.LogConfig // nil: nowhere
	left             time.Time          // when its server was taken down; zero: it was not
}

// logLinger is what the place of a server outlives the server: the last events
// are read after it was taken down.
const logLinger = time.Minute

// placeLogs notes where the events of each server go.
func (r *Reconciler) placeLogs(p *plan) {
	places := make(map[string]logPlace, len(p.clients.gateways))
	for _, g := range p.clients.gateways {
		if g.server != nil {
			places[g.server.ID] = logPlace{project: g.gateway.Project, gateway: g.gateway.ID, to: g.gateway.LogConfig}
		}
	}
	now := time.Now()
	for server, place := range r.logPlaces {
		if place.left.IsZero() {
			place.left = now
		}
		if _, stays := places[server]; !stays && now.Sub(place.left) < logLinger {
			places[server] = place
		}
	}
	r.logPlaces = places
	served := make(map[string]string, len(places))
	for _, g := range p.clients.gateways {
		if g.endpoint != nil {
			served[g.gateway.ID] = g.server.ID
		}
	}
	r.served.Store(&served)
}

// reportNumbers has the numbers of clients written that changed, for the other
// nodes of a fleet.
func (r *Reconciler) reportNumbers() {
	if r.Fleet == nil || r.snapshot == nil {
		return
	}
	numbers := make(map[string]int) // by server
	for _, status := range r.Clients.Snapshot() {
		numbers[status.ID] = len(status.Sessions)
	}
	for i := range r.snapshot.P2CGateways {
		g := &r.snapshot.P2CGateways[i]
		status, told := r.told[g.ID].(control.P2CGatewayStatus)
		server, _ := r.serverOf(g.ID)
		if told && status.Clients != numbers[server] {
			status.Clients = numbers[server]
			r.told[g.ID] = status
			r.tellP2CGateway(g.Meta, status)
		}
	}
}

// ClientConnections returns the clients that are connected to a
// client-to-cloud gateway; served is false where this node has no server of it.
// It may be called at any time.
func (r *Reconciler) ClientConnections(gateway string) (list []control.ClientConnection, served bool) {
	server, served := r.serverOf(gateway)
	if !served {
		return nil, false
	}
	now := time.Now().UTC()
	for _, status := range r.Clients.Snapshot() {
		if status.ID != server {
			continue
		}
		for _, s := range status.Sessions {
			list = append(list, control.ClientConnection{
				ID: s.ID, VirtualIP: s.VirtualIP, VirtualIPv6: s.VirtualIPv6, ClientKey: s.ClientKey, Remote: s.Remote, User: s.User,
				Inbound: control.Traffic(s.Inbound), Outbound: control.Traffic(s.Outbound),
				Established: s.Established.UTC(), Sampled: now,
			})
		}
	}
	return list, true
}

// DisconnectClient ends the connection of a client. It may be called at any
// time.
func (r *Reconciler) DisconnectClient(gateway, connection string) (found bool) {
	server, served := r.serverOf(gateway)
	return served && r.Clients.Disconnect(server, connection)
}

// serverOf returns the server of a gateway that the engine runs.
func (r *Reconciler) serverOf(gateway string) (server string, served bool) {
	if all := r.served.Load(); all != nil {
		server, served = (*all)[gateway]
	}
	return server, served
}
