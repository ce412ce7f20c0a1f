package api

import (
	"context"

	"github.com/vpngw/vpngw/control"
)

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
