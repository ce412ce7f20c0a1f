package api

import (
	"context"

	"github.com/vpngw/vpngw/control"
)

// CreateCgw creates a customer gateway.
func (h *handlers) CreateCgw(ctx context.Context, req CreateCgwRequestObject) (CreateCgwResponseObject, error) {
	c := &req.Body.CustomerGateway
	cgw, err := h.server.service.CreateCustomerGateway(ctx, req.ProjectID, control.CustomerGatewayCreate{
		Name:          c.Name,
		IDType:        text(c.IDType),
		IDValue:       c.IDValue,
		IP:            c.IP,
		BGPASN:        c.BgpAsn,
		CACertificate: caCertificateRequest(c.CaCertificate),
		Tags:          tagsRequest(c.Tags),
	})
	if err != nil {
		return nil, err
	}
	answer, err := h.customerGatewayAnswer(ctx, &cgw)
	return CreateCgw201JSONResponse{CustomerGateway: answer, RequestID: callOf(ctx).requestID}, err
}

// ShowCgw shows a customer gateway.
func (h *handlers) ShowCgw(ctx context.Context, req ShowCgwRequestObject) (ShowCgwResponseObject, error) {
	cgw, err := h.server.service.ShowCustomerGateway(ctx, req.ProjectID, req.CustomerGatewayID)
	if err != nil {
		return nil, err
	}
	answer, err := h.customerGatewayAnswer(ctx, &cgw)
	return ShowCgw200JSONResponse{CustomerGateway: answer, RequestID: callOf(ctx).requestID}, err
}

// ListCgws lists a page of customer gateways.
func (h *handlers) ListCgws(ctx context.Context, req ListCgwsRequestObject) (ListCgwsResponseObject, error) {
	page, err := h.server.service.ListCustomerGateways(ctx, req.ProjectID, control.CustomerGatewayFilter{
		ID:   value(req.Params.CgwID),
		Page: control.Page{Limit: req.Params.Limit, Marker: value(req.Params.Marker)},
	})
	if err != nil {
		return nil, err
	}
	answer := ListCgws200JSONResponse{
		CustomerGateways: make([]Cgw, len(page.Items)),
		TotalCount:       int64(page.Total),
		PageInfo:         pageInfo(len(page.Items), page.NextMarker),
		RequestID:        callOf(ctx).requestID,
	}
	authorities, err := h.server.service.CACertificates(ctx, req.ProjectID, page.Items...)
	if err != nil {
		return nil, err
	}
	for i := range page.Items {
		answer.CustomerGateways[i] = customerGatewayAnswer(&page.Items[i], authorities)
	}
	return answer, nil
}

// UpdateCgw changes a customer gateway.
func (h *handlers) UpdateCgw(ctx context.Context, req UpdateCgwRequestObject) (UpdateCgwResponseObject, error) {
	c := &req.Body.CustomerGateway
	cgw, err := h.server.service.UpdateCustomerGateway(ctx, req.ProjectID, req.CustomerGatewayID, control.CustomerGatewayUpdate{
		Name:          c.Name,
		CACertificate: caCertificateRequest(c.CaCertificate),
	})
	if err != nil {
		return nil, err
	}
	answer, err := h.customerGatewayAnswer(ctx, &cgw)
	return UpdateCgw200JSONResponse{CustomerGateway: answer, RequestID: callOf(ctx).requestID}, err
}

// DeleteCgw deletes a customer gateway.
func (h *handlers) DeleteCgw(ctx context.Context, req DeleteCgwRequestObject) (DeleteCgwResponseObject, error) {
	if err := h.server.service.DeleteCustomerGateway(ctx, req.ProjectID, req.CustomerGatewayID); err != nil {
		return nil, err
	}
	return DeleteCgw204Response{}, nil
}

func caCertificateRequest(c *CaCertificateRequest) *control.CACertificateRequest {
	if c == nil {
		return nil
	}
	return &control.CACertificateRequest{ID: c.ID, Content: c.Content}
}

// customerGatewayAnswer writes a customer gateway with its CA certificate.
func (h *handlers) customerGatewayAnswer(ctx context.Context, c *control.CustomerGateway) (Cgw, error) {
	authorities, err := h.server.service.CACertificates(ctx, c.Project, *c)
	return customerGatewayAnswer(c, authorities), err
}

func customerGatewayAnswer(c *control.CustomerGateway, authorities map[string]control.CACertificateView) Cgw {
	answer := Cgw{
		ID:        c.ID,
		Name:      c.Name,
		IDType:    IDType(c.IDType),
		IDValue:   c.IDValue,
		CreatedAt: control.FormatTime(c.CreatedAt),
		UpdatedAt: control.FormatTime(c.UpdatedAt),
		Tags:      tagsAnswer(c.Tags),
	}
	if c.BGPASN != 0 {
		answer.BgpAsn = pointer(int64(c.BGPASN))
	}
	if a, ok := authorities[c.ID]; ok {
		answer.CaCertificate = &CaCertificate{
			ID: a.ID, SerialNumber: a.SerialNumber, SignatureAlgorithm: a.SignatureAlgorithm, Issuer: a.Issuer, Subject: a.Subject,
			ExpireTime: control.FormatTime(a.Expires), IsUpdatable: a.Updatable,
		}
	}
	return answer
}

func pageInfo(items int, nextMarker string) PageInfo {
	info := PageInfo{CurrentCount: items}
	if nextMarker != "" {
		info.NextMarker = &nextMarker
	}
	return info
}
