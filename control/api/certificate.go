package api

import (
	"context"

	"github.com/vpngw/vpngw/control"
)

// CreateVgwCertificate imports the certificate of a gateway.
func (h *handlers) CreateVgwCertificate(ctx context.Context, req CreateVgwCertificateRequestObject) (CreateVgwCertificateResponseObject, error) {
	c := &req.Body.Certificate
	view, err := h.server.service.ImportCertificate(ctx, req.ProjectID, req.VgwID, control.CertificateRequest{
		Name: c.Name, Certificate: &c.Certificate, PrivateKey: secret(c.PrivateKey), Chain: &c.CertificateChain,
		EncCertificate: &c.EncCertificate, EncPrivateKey: secret(c.EncPrivateKey),
	})
	if err != nil {
		return nil, err
	}
	return CreateVgwCertificate201JSONResponse{Certificate: certificateAnswer(&view, created), RequestID: callOf(ctx).requestID}, nil
}

// ShowVpnGatewayCertificate shows the certificate of a gateway.
func (h *handlers) ShowVpnGatewayCertificate(ctx context.Context, req ShowVpnGatewayCertificateRequestObject) (ShowVpnGatewayCertificateResponseObject, error) {
	view, err := h.server.service.ShowCertificate(ctx, req.ProjectID, req.VgwID)
	if err != nil {
		return nil, err
	}
	return ShowVpnGatewayCertificate200JSONResponse{Certificate: certificateAnswer(&view, shown), RequestID: callOf(ctx).requestID}, nil
}

// UpdateVgwCertificate changes the certificate of a gateway.
func (h *handlers) UpdateVgwCertificate(ctx context.Context, req UpdateVgwCertificateRequestObject) (UpdateVgwCertificateResponseObject, error) {
	c := &req.Body.Certificate
	view, err := h.server.service.UpdateCertificate(ctx, req.ProjectID, req.VgwID, req.CertificateID, control.CertificateRequest{
		Name: c.Name, Certificate: c.Certificate, PrivateKey: secret(c.PrivateKey), Chain: c.CertificateChain,
		EncCertificate: c.EncCertificate, EncPrivateKey: secret(c.EncPrivateKey),
	})
	if err != nil {
		return nil, err
	}
	return UpdateVgwCertificate200JSONResponse{Certificate: certificateAnswer(&view, updated), RequestID: callOf(ctx).requestID}, nil
}

// ListVpnGatewayCertificates lists the certificates of all gateways.
func (h *handlers) ListVpnGatewayCertificates(ctx context.Context, req ListVpnGatewayCertificatesRequestObject) (ListVpnGatewayCertificatesResponseObject, error) {
	views, err := h.server.service.ListCertificates(ctx, req.ProjectID, control.CertificateFilter{
		PreExpireDays: req.Params.PreExpireDays, Page: control.Page{Limit: req.Params.Limit, Marker: value(req.Params.Marker)},
	})
	if err != nil {
		return nil, err
	}
	answer := ListVpnGatewayCertificates200JSONResponse{
		VpnGatewayCertificates: make([]VpnGatewayCertificate, len(views)), RequestID: callOf(ctx).requestID,
	}
	for i := range views {
		answer.VpnGatewayCertificates[i] = certificateAnswer(&views[i], shown)
	}
	return answer, nil
}

// certificateAnswer writes a certificate: neither keys nor PEM.
func certificateAnswer(v *control.CertificateView, in answerOf) VpnGatewayCertificate {
	answer := VpnGatewayCertificate{
		ID: v.ID, Name: v.Name, VgwID: v.GatewayID,
		Issuer: &v.Signing.Issuer, SignatureAlgorithm: &v.Signing.SignatureAlgorithm,
		CertificateSerialNumber: &v.Signing.SerialNumber, CertificateSubject: &v.Signing.Subject,
		CertificateExpireTime:        pointer(control.FormatTime(v.Signing.Expires)),
		CertificateChainSerialNumber: &v.Chain.SerialNumber, CertificateChainSubject: &v.Chain.Subject,
		CertificateChainExpireTime: pointer(control.FormatTime(v.Chain.Expires)),
		EncCertificateSerialNumber: &v.Encryption.SerialNumber, EncCertificateSubject: &v.Encryption.Subject,
		EncCertificateExpireTime: pointer(control.FormatTime(v.Encryption.Expires)),
		CreatedAt:                pointer(control.FormatTime(v.CreatedAt)),
	}
	if in == shown {
		answer.ProjectID, answer.UpdatedAt = &v.Project, pointer(control.FormatTime(v.UpdatedAt))
		answer.Status = pointer(VpnGatewayCertificateStatus(v.State))
	}
	return answer
}
