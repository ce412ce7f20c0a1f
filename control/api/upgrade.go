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

// CreateVgwCertificate imports the certificate of a gateway.
func (h *handlers) CreateVgwCertificate(ctx context.Context, req CreateVgwCertificateRequestObject) (CreateVgwCertificateResponseObject, error) {
	return nil, h.server.service.ImportCertificate(ctx, req.ProjectID, req.VgwID)
}

// ShowVpnGatewayCertificate shows the certificate of a gateway; none has one.
func (h *handlers) ShowVpnGatewayCertificate(context.Context, ShowVpnGatewayCertificateRequestObject) (ShowVpnGatewayCertificateResponseObject, error) {
	return nil, control.NotFound()
}

// UpdateVgwCertificate changes the certificate of a gateway; none has one.
func (h *handlers) UpdateVgwCertificate(context.Context, UpdateVgwCertificateRequestObject) (UpdateVgwCertificateResponseObject, error) {
	return nil, control.NotFound()
}

// ListVpnGatewayCertificates lists the certificates of gateways; none has one.
func (h *handlers) ListVpnGatewayCertificates(ctx context.Context, _ ListVpnGatewayCertificatesRequestObject) (ListVpnGatewayCertificatesResponseObject, error) {
	return ListVpnGatewayCertificates200JSONResponse{
		VpnGatewayCertificates: []VpnGatewayCertificate{}, RequestID: callOf(ctx).requestID,
	}, nil
}
