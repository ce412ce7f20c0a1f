package api

import (
	"context"

	"github.com/vpngw/vpngw/control"
)

// CreateConnectionMonitor creates the monitor of a connection.
func (h *handlers) CreateConnectionMonitor(ctx context.Context, req CreateConnectionMonitorRequestObject) (CreateConnectionMonitorResponseObject, error) {
	view, err := h.server.service.CreateMonitor(ctx, req.ProjectID, req.Body.ConnectionMonitor.VpnConnectionID)
	if err != nil {
		return nil, err
	}
	return CreateConnectionMonitor201JSONResponse{
		ConnectionMonitor: monitorAnswer(&view, created), RequestID: callOf(ctx).requestID,
	}, nil
}

// ShowConnectionMonitor shows a monitor.
func (h *handlers) ShowConnectionMonitor(ctx context.Context, req ShowConnectionMonitorRequestObject) (ShowConnectionMonitorResponseObject, error) {
	view, err := h.server.service.ShowMonitor(ctx, req.ProjectID, req.ConnectionMonitorID)
	if err != nil {
		return nil, err
	}
	return ShowConnectionMonitor200JSONResponse{
		ConnectionMonitor: monitorAnswer(&view, shown), RequestID: callOf(ctx).requestID,
	}, nil
}

// ListConnectionMonitors lists all monitors.
func (h *handlers) ListConnectionMonitors(ctx context.Context, req ListConnectionMonitorsRequestObject) (ListConnectionMonitorsResponseObject, error) {
	views, err := h.server.service.ListMonitors(ctx, req.ProjectID, control.MonitorFilter{
		ConnectionID: value(req.Params.VpnConnectionID), EnterpriseProjectIDs: list(req.Params.EnterpriseProjectID),
	})
	if err != nil {
		return nil, err
	}
	answer := ListConnectionMonitors200JSONResponse{
		ConnectionMonitors: make([]ConnectionMonitor, len(views)), RequestID: callOf(ctx).requestID,
	}
	for i := range views {
		answer.ConnectionMonitors[i] = monitorAnswer(&views[i], shown)
	}
	return answer, nil
}

// DeleteConnectionMonitor deletes a monitor.
func (h *handlers) DeleteConnectionMonitor(ctx context.Context, req DeleteConnectionMonitorRequestObject) (DeleteConnectionMonitorResponseObject, error) {
	if err := h.server.service.DeleteMonitor(ctx, req.ProjectID, req.ConnectionMonitorID); err != nil {
		return nil, err
	}
	return DeleteConnectionMonitor204Response{}, nil
}

func monitorAnswer(v *control.MonitorView, in answerOf) ConnectionMonitor {
	m := ConnectionMonitor{
		ID: v.ID, VpnConnectionID: v.ConnectionID, Type: MonitorOfGateway, ProtoType: MonitorByICMP,
		SourceIP: v.Source.String(), DestinationIP: address(v.Destination),
	}
	if in == shown {
		m.Status = pointer(ConnectionMonitorStatus(v.State))
	}
	return m
}
