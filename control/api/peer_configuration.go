package api

import (
	"context"

	"github.com/vpngw/vpngw/control/peerconfig"
)

// ExportVpnConnectionPeerConfiguration writes the configuration of the device
// at the other end of a connection.
func (h *handlers) ExportVpnConnectionPeerConfiguration(ctx context.Context, req ExportVpnConnectionPeerConfigurationRequestObject) (ExportVpnConnectionPeerConfigurationResponseObject, error) {
	view, err := h.server.service.ShowConnection(ctx, req.ProjectID, req.VpnConnectionID)
	if err != nil {
		return nil, err
	}
	b := req.Body
	text, err := peerconfig.Render(peerconfig.Device{Vendor: b.Vendor, Type: b.Type, Model: b.Model, Version: b.Version}, &view)
	if err != nil {
		return nil, err
	}
	return ExportVpnConnectionPeerConfiguration200JSONResponse{PeerConfig: text, RequestID: callOf(ctx).requestID}, nil
}

// ListPeerConfigurationSupportedDevices lists the devices that configurations
// are written for.
func (h *handlers) ListPeerConfigurationSupportedDevices(ctx context.Context, _ ListPeerConfigurationSupportedDevicesRequestObject) (ListPeerConfigurationSupportedDevicesResponseObject, error) {
	devices := peerconfig.Devices()
	answer := ListPeerConfigurationSupportedDevices200JSONResponse{
		SupportedDevices: make([]SupportedDevice, len(devices)), RequestID: callOf(ctx).requestID,
	}
	for i, d := range devices {
		answer.SupportedDevices[i] = SupportedDevice{
			Vendor: d.Vendor, Type: d.Type, Model: d.Model, Version: d.Version, Platform: d.Type,
		}
	}
	return answer, nil
}
