package api

import (
	"context"

	"github.com/vpngw/vpngw/control"
)

// UpgradeVpnGateway takes a step of an upgrade.
func (h *handlers) UpgradeVpnGateway(ctx context.Context, req UpgradeVpnGatewayRequestObject) (UpgradeVpnGatewayResponseObject, error) {
	return nil, h.server.service.UpgradeGateway(ctx, req.ProjectID, req.VgwID, control.UpgradeAction(req.Body.Action))
}

// ListVpnGatewayJobs lists the jobs of gateways: none, since upgrades are all
// that makes them.
func (h *handlers) ListVpnGatewayJobs(ctx context.Context, _ ListVpnGatewayJobsRequestObject) (ListVpnGatewayJobsResponseObject, error) {
	return ListVpnGatewayJobs200JSONResponse{Jobs: []Job{}, RequestID: callOf(ctx).requestID}, nil
}

// DeleteVpnGatewayJob deletes the record of a job, of which there is none.
func (h *handlers) DeleteVpnGatewayJob(context.Context, DeleteVpnGatewayJobRequestObject) (DeleteVpnGatewayJobResponseObject, error) {
	return nil, control.NotFound()
}
