package api

import (
	"context"

	"github.com/vpngw/vpngw/control"
)

// CheckClientCaCertificate tells what a client CA certificate says.
func (h *handlers) CheckClientCaCertificate(ctx context.Context, req CheckClientCaCertificateRequestObject) (CheckClientCaCertificateResponseObject, error) {
	v, err := h.server.service.CheckClientCA(ctx, req.ProjectID, clientCARequest(&req.Body.ClientCaCertificate))
	if err != nil {
		return nil, err
	}
	return CheckClientCaCertificate200JSONResponse{
		Name:               v.Name,
		Issuer:             v.Issuer,
		Subject:            v.Subject,
		SerialNumber:       v.SerialNumber,
		ExpirationTime:     wholeSeconds(v.Expires),
		SignatureAlgorithm: v.SignatureAlgorithm,
	}, nil
}

// ImportClientCa adds a client CA certificate to a server.
func (h *handlers) ImportClientCa(ctx context.Context, req ImportClientCaRequestObject) (ImportClientCaResponseObject, error) {
	id, err := h.server.service.ImportClientCA(ctx, req.ProjectID, req.VpnServerID, clientCARequest(&req.Body.ClientCaCertificate))
	if err != nil {
		return nil, err
	}
	return ImportClientCa201JSONResponse{ClientCaCertificate: CreatedObject{ID: id}, RequestID: callOf(ctx).requestID}, nil
}

// ShowClientCa shows a client CA certificate.
func (h *handlers) ShowClientCa(ctx context.Context, req ShowClientCaRequestObject) (ShowClientCaResponseObject, error) {
	v, err := h.server.service.ShowClientCA(ctx, req.ProjectID, req.VpnServerID, req.ClientCaCertificateID)
	if err != nil {
		return nil, err
	}
	return ShowClientCa200JSONResponse{ClientCaCertificate: clientCAAnswer(&v), RequestID: callOf(ctx).requestID}, nil
}

// UpdateClientCa renames a client CA certificate.
func (h *handlers) UpdateClientCa(ctx context.Context, req UpdateClientCaRequestObject) (UpdateClientCaResponseObject, error) {
	name := req.Body.ClientCaCertificate.Name
	if err := h.server.service.RenameClientCA(ctx, req.ProjectID, req.VpnServerID, req.ClientCaCertificateID, name); err != nil {
		return nil, err
	}
	return UpdateClientCa200JSONResponse{RequestID: callOf(ctx).requestID}, nil
}

// DeleteClientCa takes a client CA certificate off a server.
func (h *handlers) DeleteClientCa(ctx context.Context, req DeleteClientCaRequestObject) (DeleteClientCaResponseObject, error) {
	if err := h.server.service.DeleteClientCA(ctx, req.ProjectID, req.VpnServerID, req.ClientCaCertificateID); err != nil {
		return nil, err
	}
	return DeleteClientCa204Response{}, nil
}

func clientCARequest(c *ClientCaRequest) control.ClientCARequest {
	return control.ClientCARequest{Name: c.Name, Content: &c.Content}
}

func clientCAAnswer(v *control.ClientCAView) ClientCa {
	return ClientCa{
		ID:                 v.ID,
		Name:               v.Name,
		Issuer:             v.Issuer,
		Subject:            v.Subject,
		SerialNumber:       v.SerialNumber,
		ExpirationTime:     wholeSeconds(v.Expires),
		SignatureAlgorithm: v.SignatureAlgorithm,
		CreatedAt:          control.FormatTime(v.CreatedAt),
		UpdatedAt:          control.FormatTime(v.UpdatedAt),
	}
}
