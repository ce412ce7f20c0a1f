package api

import (
	"context"

	"github.com/vpngw/vpngw/control"
)

// CreateP2CVgw creates a client-to-cloud gateway.
func (h *handlers) CreateP2CVgw(ctx context.Context, req CreateP2CVgwRequestObject) (CreateP2CVgwResponseObject, error) {
	g := &req.Body.P2CVpnGateway
	created, err := h.server.service.CreateP2CGateway(ctx, req.ProjectID, control.P2CGatewayCreate{
		Name:                g.Name,
		VPCID:               &g.VpcID,
		ConnectSubnet:       &g.ConnectSubnet,
		Flavor:              text(g.Flavor),
		AvailabilityZoneIDs: list(g.AvailabilityZoneIds),
		EIP: &control.EIPRequest{
			ID:            g.Eip.ID,
			Type:          g.Eip.Type,
			ChargeMode:    text(g.Eip.ChargeMode),
			BandwidthSize: g.Eip.BandwidthSize,
			BandwidthName: g.Eip.BandwidthName,
		},
		MaxConnections:      g.MaxConnectionNumber,
		EnterpriseProjectID: g.EnterpriseProjectID,
		Tags:                tagsRequest(g.Tags),
	})
	if err != nil {
		return nil, err
	}
	return CreateP2CVgw201JSONResponse{P2CVpnGateway: CreatedObject{ID: created.ID}, RequestID: callOf(ctx).requestID}, nil
}

// ShowP2CVgw shows a client-to-cloud gateway.
func (h *handlers) ShowP2CVgw(ctx context.Context, req ShowP2CVgwRequestObject) (ShowP2CVgwResponseObject, error) {
	view, err := h.server.service.ShowP2CGateway(ctx, req.ProjectID, req.P2CVgwID)
	if err != nil {
		return nil, err
	}
	return ShowP2CVgw200JSONResponse{P2CVpnGateway: p2cGatewayAnswer(&view), RequestID: callOf(ctx).requestID}, nil
}

// ListP2CVgws lists a page of client-to-cloud gateways.
func (h *handlers) ListP2CVgws(ctx context.Context, req ListP2CVgwsRequestObject) (ListP2CVgwsResponseObject, error) {
	page, err := h.server.service.ListP2CGateways(ctx, req.ProjectID, control.Page{Limit: req.Params.Limit, Marker: value(req.Params.Marker)})
	if err != nil {
		return nil, err
	}
	answer := ListP2CVgws200JSONResponse{
		P2CVpnGateways: make([]P2CVgw, len(page.Items)),
		TotalCount:     page.Total,
		PageInfo:       pageInfo(len(page.Items), page.NextMarker),
		RequestID:      callOf(ctx).requestID,
	}
	for i := range page.Items {
		answer.P2CVpnGateways[i] = p2cGatewayAnswer(&page.Items[i])
	}
	return answer, nil
}

// UpdateP2CVgw changes a client-to-cloud gateway.
func (h *handlers) UpdateP2CVgw(ctx context.Context, req UpdateP2CVgwRequestObject) (UpdateP2CVgwResponseObject, error) {
	g := &req.Body.P2CVpnGateway
	err := h.server.service.UpdateP2CGateway(ctx, req.ProjectID, req.P2CVgwID, control.P2CGatewayUpdate{Name: g.Name, EIPID: g.EipID})
	if err != nil {
		return nil, err
	}
	return UpdateP2CVgw200JSONResponse{P2CVpnGateway: CreatedObject{ID: req.P2CVgwID}, RequestID: callOf(ctx).requestID}, nil
}

// DeleteP2CVgw deletes a client-to-cloud gateway with all that is below it.
func (h *handlers) DeleteP2CVgw(ctx context.Context, req DeleteP2CVgwRequestObject) (DeleteP2CVgwResponseObject, error) {
	if err := h.server.service.DeleteP2CGateway(ctx, req.ProjectID, req.P2CVgwID); err != nil {
		return nil, err
	}
	return DeleteP2CVgw204Response{}, nil
}

// ListP2CVgwAvailabilityZones lists the zones.
func (h *handlers) ListP2CVgwAvailabilityZones(ctx context.Context, req ListP2CVgwAvailabilityZonesRequestObject) (ListP2CVgwAvailabilityZonesResponseObject, error) {
	zones, err := h.server.service.P2CZones(ctx, req.ProjectID)
	if err != nil {
		return nil, err
	}
	return ListP2CVgwAvailabilityZones200JSONResponse{
		AvailabilityZones: append([]string{}, zones...), RequestID: callOf(ctx).requestID,
	}, nil
}

// What frozen_effect says: a frozen gateway can always be deleted.
const (
	notFrozen       = 0
	frozenDeletable = 1
)

func p2cGatewayAnswer(v *control.P2CGatewayView) P2CVgw {
	g := P2CVgw{
		ID:                      v.ID,
		Name:                    v.Name,
		Status:                  P2CVgwStatus(v.State),
		StatusMessage:           orAbsent(v.StatusMessage()),
		VpcID:                   v.VPCID,
		ConnectSubnet:           v.ConnectSubnet,
		Flavor:                  string(v.Flavor),
		AvailabilityZoneIds:     append([]string{}, v.AvailabilityZones...),
		MaxConnectionNumber:     v.MaxConnections,
		CurrentConnectionNumber: v.Connections,
		EnterpriseProjectID:     v.EnterpriseProjectID,
		Tags:                    tagsAnswer(v.Tags),
		AdminStateUp:            !v.Frozen,
		FrozenEffect:            notFrozen,
		Version:                 v.RunningVersion,
		UpgradeInfo:             P2CUnready,
		CreatedAt:               control.FormatTime(v.CreatedAt),
		UpdatedAt:               control.FormatTime(v.UpdatedAt),
	}
	if v.Upgradable {
		g.UpgradeInfo = P2CReady
	}
	if v.Frozen {
		g.FrozenEffect = frozenDeletable
	}
	if v.BoundEIP != nil {
		g.Eip = eipAnswer(v.BoundEIP)
	}
	if applied := v.Status.AppliedAt; !applied.IsZero() {
		g.AppliedAt = new(control.FormatTime(applied))
	}
	return g
}
