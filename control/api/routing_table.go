package api

import (
	"context"
	"net/netip"

	"github.com/vpngw/vpngw/control"
)

// ShowVpnGatewayRoutingTable shows the routes of a gateway that are in force.
func (h *handlers) ShowVpnGatewayRoutingTable(ctx context.Context, req ShowVpnGatewayRoutingTableRequestObject) (ShowVpnGatewayRoutingTableResponseObject, error) {
	p := &req.Params
	table, err := h.server.service.RoutingTable(ctx, req.ProjectID, req.VgwID, control.RouteFilter{
		Limit: p.Limit, Marker: value(p.Marker), Offset: value(p.Offset),
	})
	if err != nil {
		return nil, err
	}
	answer := ShowVpnGatewayRoutingTable200JSONResponse{
		RoutingTable: make([]Route, len(table.Items)),
		TotalCount:   int64(table.Total),
		PageInfo:     pageInfo(len(table.Items), table.NextMarker),
		RequestID:    callOf(ctx).requestID,
	}
	for i, r := range table.Items {
		route := Route{Destination: r.Destination.String(), Nexthop: address(r.NextHop), OutboundInterfaceIP: address(r.Outbound)}
		if p.IsIncludeNexthopResource == nil || *p.IsIncludeNexthopResource {
			kind := NexthopGateway
			if r.Kind == control.KindConnection {
				kind = NexthopConnection
			}
			route.NexthopResource = &NexthopResource{ID: r.ID, Type: kind}
		}
		answer.RoutingTable[i] = route
	}
	return answer, nil
}

// address leaves out an address that is not known.
func address(a netip.Addr) *string {
	if !a.IsValid() {
		return nil
	}
	return pointer(a.String())
}
