package control

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
)

// Route is one route of a gateway's routing table, as it is in force.
type Route struct {
	Destination netip.Prefix
	NextHop     netip.Addr // invalid where it is not known
	Outbound    netip.Addr // our address towards NextHop; invalid where it is not known
	Kind        Kind       // of what the route leads to
	ID          string     // of the same
}

// RouteFilter cuts a part out of a routing table.
type RouteFilter struct {
	Limit  *int   // nil: all
	Marker string // NextMarker of the page before
	Offset int    // routes to leave out, after Marker
}

// maxRoutePage is the largest page of a routing table that can be asked for.
const maxRoutePage = 2000

// RoutingTable performs ShowVpnGatewayRoutingTable: the routes to local subnets
// and into the tunnels of the gateway's connections, by destination. Unlike
// other lists it has a marker only when more follows.
func (s *Service) RoutingTable(ctx context.Context, project, gatewayID string, f RouteFilter) (List[Route], error) {
	var none List[Route]
	if f.Limit != nil && (*f.Limit < 0 || *f.Limit > maxRoutePage) {
		return none, Invalid("limit", "must be from 0 to %d", maxRoutePage)
	}
	if f.Offset < 0 {
		return none, Invalid("offset", "must not be negative")
	}
	routes, err := s.read(ctx).routes(project, gatewayID)
	if err != nil {
		return none, err
	}
	l := List[Route]{Total: len(routes)}
	if f.Marker != "" {
		last, err := parseRouteMarker(f.Marker)
		if err != nil {
			return none, err
		}
		routes = slices.DeleteFunc(routes, func(r Route) bool { return compareRoutes(r, last) <= 0 })
	}
	routes = routes[min(f.Offset, len(routes)):]
	size := len(routes)
	if f.Limit != nil {
		size = min(*f.Limit, size)
	}
	if l.Items = routes[:size]; size > 0 && size < len(routes) {
		l.NextMarker = l.Items[size-1].marker()
	}
	return l, nil
}

// routes returns the routing table of a gateway, by destination.
func (tx *transaction) routes(project, gatewayID string) ([]Route, error) {
	g, err := tx.gateway(project, gatewayID)
	if err != nil {
		return nil, err
	}
	status, err := tx.gatewayStatus(g.Meta)
	if err != nil {
		return nil, err
	}
	var routes []Route
	for _, r := range status.Routes {
		routes = append(routes, Route{Destination: r.Destination, NextHop: r.Address, Outbound: r.Address, Kind: KindGateway, ID: g.ID})
	}
	connections, err := tx.connections(project)
	if err != nil {
		return nil, err
	}
	for _, c := range connectionsOf(gatewayID, connections) {
		status, err := tx.connectionStatus(c.Meta)
		if err != nil {
			return nil, err
		}
		for _, destination := range status.Routes {
			routes = append(routes, Route{
				Destination: destination, NextHop: c.TunnelPeer.Addr(), Outbound: c.TunnelLocal.Addr(), Kind: KindConnection, ID: c.ID,
			})
		}
	}
	slices.SortFunc(routes, compareRoutes)
	return routes, nil
}

func compareRoutes(a, b Route) int {
	return cmp.Or(a.Destination.Compare(b.Destination), cmp.Compare(a.ID, b.ID))
}

// marker names a route by what the table is sorted by.
func (r Route) marker() string { return r.Destination.String() + "@" + r.ID }

func parseRouteMarker(marker string) (Route, error) {
	destination, id, _ := strings.Cut(marker, "@")
	p, err := netip.ParsePrefix(destination)
	if err != nil || id == "" {
		return Route{}, Invalid("marker", "must be the next_marker of the page before")
	}
	return Route{Destination: p, ID: id}, nil
}
