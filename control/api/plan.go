package api

import (
	"context"

	"github.com/vpngw/vpngw/control"
)

// PlanVpnConnection tells what changes would do to the tunnel of a connection.
func (h *handlers) PlanVpnConnection(ctx context.Context, req PlanVpnConnectionRequestObject) (PlanVpnConnectionResponseObject, error) {
	var wanted control.PlanRequest
	if c := req.Body.VpnConnection; c != nil {
		update := connectionUpdate(c)
		wanted.Connection = &update
	}
	if g := req.Body.VpnGateway; g != nil {
		update := gatewayUpdate(g)
		wanted.Gateway = &update
	}
	if c := req.Body.CustomerGateway; c != nil {
		wanted.CustomerGateway = &control.CustomerGatewayUpdate{Name: c.Name, CACertificate: caCertificateRequest(c.CaCertificate)}
	}
	plan, err := h.server.service.PlanConnection(ctx, req.ProjectID, req.VpnConnectionID, wanted)
	if err != nil {
		return nil, err
	}
	answer := Plan{
		VpnConnectionID: plan.ConnectionID, Disruption: Disruption(plan.Disruption), Established: plan.Established, Changes: []PlannedChange{},
	}
	for _, e := range plan.Changes {
		answer.Changes = append(answer.Changes, PlannedChange{Field: e.Object + "." + e.Field, Disruption: Disruption(e.Disruption)})
	}
	return PlanVpnConnection200JSONResponse{Plan: answer, RequestID: callOf(ctx).requestID}, nil
}
