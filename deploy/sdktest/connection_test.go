package sdktest

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/sdkerr"
	vpn "github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5/model"
)

// batchOfConnections creates two connections at once, looks at their SAs and
// deletes them.
func batchOfConnections(t *testing.T, client *vpn.VpnClient, gateway string) {
	t.Helper()
	peer := *ok(client.CreateCgw(&model.CreateCgwRequest{Body: &model.CreateCgwRequestBody{
		CustomerGateway: &model.CreateCgwRequestBodyContent{IdValue: "198.51.100.9"},
	}}))(t).CustomerGateway.Id
	connection := func(address string) model.CreateVpnConnectionRequestBodyContent {
		return model.CreateVpnConnectionRequestBodyContent{
			VgwId: gateway, VgwIp: address, CgwId: peer, PeerSubnets: &[]string{"172.16.44.0/24"}, Psk: p("Correct-Horse-7"),
		}
	}
	create := func(list ...model.CreateVpnConnectionRequestBodyContent) (*model.BatchCreateVpnConnectionResponse, error) {
		return client.BatchCreateVpnConnection(&model.BatchCreateVpnConnectionRequest{
			Body: &model.BatchCreateVpnConnectionRequestBody{VpnConnections: list},
		})
	}
	_, err := create(connection(eip1ID), connection(eip1ID))
	refused(t, err, http.StatusBadRequest, "VPN.0001", "invalid request: vpn_connections[1].cgw_id: ")
	made := ok(create(connection(eip1ID), connection(eip2ID)))(t)
	if made.HttpStatusCode != http.StatusCreated || len(*made.VpnConnections) != 2 {
		t.Fatalf("batch answers %v", made)
	}
	for i, c := range *made.VpnConnections {
		equal(t, "vgw_ip", c.VgwIp, []string{eip1ID, eip2ID}[i])
		poll(t, "connection", connectionStatus(t, client, *c.Id), "DOWN")
		sas := ok(client.ListConnectionIpsecSa(&model.ListConnectionIpsecSaRequest{VpnConnectionId: *c.Id}))(t)
		if sas.SaInfos == nil || len(*sas.SaInfos) != 0 {
			t.Errorf("a connection that is down has the SAs %v", sas.SaInfos)
		}
	}
	for _, c := range *made.VpnConnections {
		ok(client.DeleteVpnConnection(&model.DeleteVpnConnectionRequest{VpnConnectionId: *c.Id}))(t)
		gone(t, "connection", func() error {
			_, err := client.ShowVpnConnection(&model.ShowVpnConnectionRequest{VpnConnectionId: *c.Id})
			return err
		})
	}
	ok(client.DeleteCgw(&model.DeleteCgwRequest{CustomerGatewayId: peer}))(t)
}

// monitor creates the monitor of a connection, looks at it and deletes it.
func monitor(t *testing.T, client *vpn.VpnClient, connection string) {
	t.Helper()
	create := func() (*model.CreateConnectionMonitorResponse, error) {
		return client.CreateConnectionMonitor(&model.CreateConnectionMonitorRequest{Body: &model.CreateConnectionMonitorRequestBody{
			ConnectionMonitor: &model.CreateConnectionMonitorRequestBodyContent{VpnConnectionId: connection},
		}})
	}
	made := ok(create())(t)
	if made.HttpStatusCode != http.StatusCreated {
		t.Errorf("create answers %d", made.HttpStatusCode)
	}
	equal(t, "source_ip", made.ConnectionMonitor.SourceIp, eip1)
	equal(t, "destination_ip", made.ConnectionMonitor.DestinationIp, "198.51.100.7")
	id := *made.ConnectionMonitor.Id
	time.Sleep(time.Second) // the signature of the same request would be the same within a second
	_, err := create()
	refused(t, err, http.StatusBadRequest, "VPN.0001", "has monitor "+id+" already")
	show := func() (*model.ShowConnectionMonitorResponse, error) {
		return client.ShowConnectionMonitor(&model.ShowConnectionMonitorRequest{ConnectionMonitorId: id})
	}
	poll(t, "monitor", func() string { return *ok(show())(t).ConnectionMonitor.Status }, "ACTIVE")
	shown := ok(client.ShowVpnConnection(&model.ShowVpnConnectionRequest{VpnConnectionId: connection}))(t)
	equal(t, "connection_monitor_id", shown.VpnConnection.ConnectionMonitorId, id)
	listed := *ok(client.ListConnectionMonitors(&model.ListConnectionMonitorsRequest{VpnConnectionId: &connection}))(t).ConnectionMonitors
	if len(listed) != 1 || *listed[0].Id != id {
		t.Errorf("monitors are %v", listed)
	}
	ok(client.DeleteConnectionMonitor(&model.DeleteConnectionMonitorRequest{ConnectionMonitorId: id}))(t)
	gone(t, "monitor", func() error { _, err := show(); return err })
}

// peerConfiguration exports the configuration of every device there is.
func peerConfiguration(t *testing.T, client *vpn.VpnClient, connection string) {
	t.Helper()
	devices := *ok(client.ListPeerConfigurationSupportedDevices(&model.ListPeerConfigurationSupportedDevicesRequest{}))(t).SupportedDevices
	if len(devices) == 0 || devices[0].Vendor == nil || devices[0].Platform == nil || devices[0].Version == nil {
		t.Fatalf("devices are %v", devices)
	}
	exported := ok(client.ExportVpnConnectionPeerConfiguration(&model.ExportVpnConnectionPeerConfigurationRequest{
		VpnConnectionId: connection,
		Body:            &model.ExportPeerConfigurationRequestBody{Vendor: "strongSwan", Type: "swanctl", Model: "Linux", Version: "5.9"},
	}))(t)
	if text := *exported.PeerConfig; !strings.Contains(text, "remote_addrs = "+eip1) {
		t.Errorf("the configuration is %s", text)
	}
}

// gone waits until showing an object answers that it is not there.
func gone(t *testing.T, what string, show func() error) {
	t.Helper()
	poll(t, what, func() string {
		err := show()
		var refusal *sdkerr.ServiceResponseError
		switch {
		case err == nil:
			return "PENDING_DELETE"
		case errors.As(err, &refusal) && refusal.StatusCode == http.StatusNotFound:
			return "gone"
		default:
			return err.Error()
		}
	}, "gone")
}
