package api

import (
	"context"
	"time"

	"github.com/vpngw/vpngw/control"
)

// ListP2CVgwConnections lists the clients that are connected.
func (h *handlers) ListP2CVgwConnections(ctx context.Context, req ListP2CVgwConnectionsRequestObject) (ListP2CVgwConnectionsResponseObject, error) {
	page, err := h.server.service.ClientConnections(ctx, req.ProjectID, req.P2CVgwID, req.Params.Limit, value(req.Params.Offset))
	if err != nil {
		return nil, err
	}
	answer := ListP2CVgwConnections200JSONResponse{
		Connections: make([]P2CConnection, len(page.Items)), TotalCount: int64(page.Total), RequestID: callOf(ctx).requestID,
	}
	for i, c := range page.Items {
		answer.Connections[i] = P2CConnection{
			ConnectionID:              c.ID,
			ClientVirtualIP:           c.VirtualIP.String(),
			ClientKeyID:               orAbsent(c.ClientKey),
			ClientIP:                  c.Remote.Addr().Unmap().String(),
			ClientUserName:            c.User,
			InboundPackets:            int64(c.Inbound.Packets),
			OutboundPackets:           int64(c.Outbound.Packets),
			InboundBytes:              int64(c.Inbound.Octets),
			OutboundBytes:             int64(c.Outbound.Octets),
			ConnectionEstablishedTime: control.FormatTime(c.Established),
			Timestamp:                 wholeSeconds(c.Sampled),
		}
		if c.VirtualIPv6.IsValid() {
			answer.Connections[i].ClientVirtualIPV6 = new(c.VirtualIPv6.String())
		}
	}
	return answer, nil
}

// wholeSeconds writes a time in the form that ends of certificates and samples
// of counters have, which is without a fraction.
func wholeSeconds(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// DeleteP2CVgwConnection ends the connection of a client.
func (h *handlers) DeleteP2CVgwConnection(ctx context.Context, req DeleteP2CVgwConnectionRequestObject) (DeleteP2CVgwConnectionResponseObject, error) {
	if err := h.server.service.DisconnectClient(ctx, req.ProjectID, req.P2CVgwID, req.ConnectionID); err != nil {
		return nil, err
	}
	return DeleteP2CVgwConnection200JSONResponse{RequestID: callOf(ctx).requestID}, nil
}

// UpdateVpnConnectionsLogConfig says where the log of client connections goes.
func (h *handlers) UpdateVpnConnectionsLogConfig(ctx context.Context, req UpdateVpnConnectionsLogConfigRequestObject) (UpdateVpnConnectionsLogConfigResponseObject, error) {
	c := control.LogConfig{GroupID: req.Body.LogConfig.LogGroupID, StreamID: req.Body.LogConfig.LogStreamID}
	if err := h.server.service.SetLogConfig(ctx, req.ProjectID, req.P2CVgwID, c); err != nil {
		return nil, err
	}
	return UpdateVpnConnectionsLogConfig200JSONResponse{LogConfig: logConfigAnswer(&c), RequestID: callOf(ctx).requestID}, nil
}

// ShowVpnConnectionsLogConfig shows where the log of client connections goes.
func (h *handlers) ShowVpnConnectionsLogConfig(ctx context.Context, req ShowVpnConnectionsLogConfigRequestObject) (ShowVpnConnectionsLogConfigResponseObject, error) {
	c, err := h.server.service.ShowLogConfig(ctx, req.ProjectID, req.P2CVgwID)
	if err != nil {
		return nil, err
	}
	return ShowVpnConnectionsLogConfig200JSONResponse{LogConfig: logConfigAnswer(c), RequestID: callOf(ctx).requestID}, nil
}

// DeleteVpnConnectionsLogConfig stops the log of client connections.
func (h *handlers) DeleteVpnConnectionsLogConfig(ctx context.Context, req DeleteVpnConnectionsLogConfigRequestObject) (DeleteVpnConnectionsLogConfigResponseObject, error) {
	if err := h.server.service.RemoveLogConfig(ctx, req.ProjectID, req.P2CVgwID); err != nil {
		return nil, err
	}
	return DeleteVpnConnectionsLogConfig204Response{}, nil
}

func logConfigAnswer(c *control.LogConfig) LogConfig {
	if c == nil {
		return LogConfig{}
	}
	return LogConfig{LogGroupID: &c.GroupID, LogStreamID: &c.StreamID}
}
