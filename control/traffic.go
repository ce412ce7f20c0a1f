package control

import (
	"context"
	"net/netip"
	"time"
)

// Engines tells what the engines of this node have at the moment. Its methods
// may be called from several goroutines.
type Engines interface {
	// ChildSAs returns the CHILD_SAs of a connection that are in use, unless
	// this node does not serve the connection.
	ChildSAs(connection string) (list []ChildSA, served bool)

	// Tunnel returns what is known of a connection, unless this node does not
	// serve it.
	Tunnel(connection string) (state TunnelState, served bool)

	// Disruption returns what it does to the tunnel of a connection to go over
	// from its specification to another one, and whether it is established, unless
	// this node does not serve the connection.
	Disruption(before, next *TunnelSpec) (d Disruption, established, served bool)

	// ClientConnections returns the clients that are connected to a
	// client-to-cloud gateway, unless this node does not serve it.
	ClientConnections(gateway string) (list []ClientConnection, served bool)

	// DisconnectClient ends a connection that ClientConnections returned;
	// found is false when there is none.
	DisconnectClient(gateway, connection string) (found bool)

	// WaitApplied waits until the engine of client-to-cloud VPN has been given the
	// objects as of a revision of the store, or a later one. Whether it could do
	// what is asked of it, the statuses tell. It fails when ctx ends first.
	WaitApplied(ctx context.Context, revision int64) error
}

// History is what has happened to the connections that this node served. Its
// methods may be called from several goroutines.
type History interface {
	// Read returns the events of a connection that match, the newest first.
	Read(connection string, q HistoryQuery) ([]ConnectionEvent, error)
}

// ChildSA is a CHILD_SA with the traffic it has carried since it was
// established. While one is rekeyed, there are two of the same selectors.
type ChildSA struct {
	ID            string // unique among those of a connection
	Local, Remote []netip.Prefix
	Sent          Traffic
	Received      Traffic
}

// Traffic counts what has passed, without the octets of ESP.
type Traffic struct{ Packets, Octets uint64 }

// ConnectionChildSAs performs ListConnectionIpsecSa. It also tells when the
// engines were asked. It fails with *Elsewhere when another node serves the
// connection.
func (s *Service) ConnectionChildSAs(ctx context.Context, project, id string) ([]ChildSA, time.Time, error) {
	view, err := s.ShowConnection(ctx, project, id)
	if err != nil {
		return nil, time.Time{}, err
	}
	var list []ChildSA
	served := false
	if s.engines != nil {
		list, served = s.engines.ChildSAs(id)
	}
	if !served {
		if elsewhere := s.elsewhere(&view); elsewhere != nil {
			return nil, time.Time{}, elsewhere
		}
		if view.State == ConnectionActive {
			return nil, time.Time{}, servedElsewhere(id, "another node than this one")
		}
	}
	return list, s.now(), nil
}
