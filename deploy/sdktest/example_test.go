package sdktest

import (
	"testing"

	"github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5/model"
)

// TestExamplesOfSiteToCloud runs the examples that the API's reference works
// through, in its order: a gateway, a customer gateway, two connections, and a
// connection monitor.
func TestExamplesOfSiteToCloud(t *testing.T) {
	client := newClient(t, accessKey, secretKey)

	created := ok(client.CreateVgw(&model.CreateVgwRequest{Body: &model.CreateVgwRequestBody{
		VpnGateway: &model.CreateVgwRequestBodyContent{
			VpcId: p(vpcID), LocalSubnets: &[]string{"192.168.0.0/24", "192.168.1.0/24"}, ConnectSubnet: p(subnetID),
			Eip1: &model.CreateRequestEip{Id: p(eip1ID)}, Eip2: &model.CreateRequestEip{Id: p(eip2ID)},
		},
	}}))(t).VpnGateway
	gateway := *created.Id
	equal(t, "network_type", p(created.NetworkType.Value()), "public")
	equal(t, "attachment_type", p(created.AttachmentType.Value()), "vpc")
	equal(t, "bgp_asn", created.BgpAsn, 64512)
	equal(t, "access_vpc_id", created.AccessVpcId, vpcID)
	equal(t, "access_subnet_id", created.AccessSubnetId, subnetID)
	equal(t, "flavor", created.Flavor, "Professional1")
	equal(t, "used_connection_number", created.UsedConnectionNumber, 0)
	equal(t, "used_connection_group", created.UsedConnectionGroup, 0)
	equal(t, "enterprise_project_id", created.EnterpriseProjectId, "0")
	matches(t, "name", created.Name, "^vpngw-[0-9a-f]{4}$")
	poll(t, "gateway", gatewayStatus(t, client, gateway), "ACTIVE")
	shown := ok(client.ShowVgw(&model.ShowVgwRequest{VgwId: gateway}))(t).VpnGateway
	equal(t, "name", shown.Name, *created.Name)
	equalList(t, "local_subnets", shown.LocalSubnets, "192.168.0.0/24", "192.168.1.0/24")
	equal(t, "eip1.type", shown.Eip1.Type, "5_bgp")
	equal(t, "eip1.bandwidth_size", shown.Eip1.BandwidthSize, 300)
	equal(t, "eip2.ip_address", shown.Eip2.IpAddress, eip2)

	ip := model.GetCreateCgwRequestBodyContentIdTypeEnum().IP
	peer := ok(client.CreateCgw(&model.CreateCgwRequest{Body: &model.CreateCgwRequestBody{
		CustomerGateway: &model.CreateCgwRequestBodyContent{Name: p("cgw-3ebf"), IdType: &ip, IdValue: "198.51.100.21"},
	}}))(t).CustomerGateway
	there := ok(client.ShowCgw(&model.ShowCgwRequest{CustomerGatewayId: *peer.Id}))(t).CustomerGateway
	equal(t, "name", there.Name, "cgw-3ebf")
	equal(t, "id_value", there.IdValue, "198.51.100.21")

	connection := func(address string) model.CreateVpnConnectionRequestBodyContent {
		return model.CreateVpnConnectionRequestBodyContent{
			VgwIp: address, CgwId: *peer.Id, VgwId: gateway, PeerSubnets: &[]string{"192.168.44.0/24"}, Psk: p("Abcd-1234"),
		}
	}
	made := *ok(client.BatchCreateVpnConnection(&model.BatchCreateVpnConnectionRequest{Body: &model.BatchCreateVpnConnectionRequestBody{
		VpnConnections: []model.CreateVpnConnectionRequestBodyContent{connection(eip1ID), connection(eip2ID)},
	}}))(t).VpnConnections
	for i, c := range made {
		matches(t, "name", c.Name, "^vpn-[0-9a-f]{4}$")
		if c.Style.Value() != "STATIC" || len(*c.PolicyRules) != 0 {
			t.Errorf("style is %v with the rules %v", c.Style, c.PolicyRules)
		}
		equal(t, "enable_nqa", c.EnableNqa, false)
		matches(t, "tunnel_local_address", c.TunnelLocalAddress, `^169\.254\.\d+\.\d+/30$`)
		equal(t, "ikepolicy.ike_version", p(c.Ikepolicy.IkeVersion.Value()), "v2")
		equal(t, "ikepolicy.authentication_algorithm", p(c.Ikepolicy.AuthenticationAlgorithm.Value()), "sha2-256")
		equal(t, "ikepolicy.encryption_algorithm", p(c.Ikepolicy.EncryptionAlgorithm.Value()), "aes-128")
		equal(t, "ikepolicy.dh_group", c.Ikepolicy.DhGroup, "group15")
		equal(t, "ikepolicy.lifetime_seconds", c.Ikepolicy.LifetimeSeconds, 86400)
		equal(t, "ikepolicy.local_id", c.Ikepolicy.LocalId, []string{eip1, eip2}[i])
		equal(t, "ikepolicy.peer_id", c.Ikepolicy.PeerId, "198.51.100.21")
		equal(t, "ikepolicy.dpd.interval", c.Ikepolicy.Dpd.Interval, 30)
		equal(t, "ipsecpolicy.lifetime_seconds", c.Ipsecpolicy.LifetimeSeconds, 3600)
		equal(t, "ipsecpolicy.pfs", c.Ipsecpolicy.Pfs, "group15")
		equal(t, "ha_role", c.HaRole, "master")
		equal(t, "enterprise_project_id", c.EnterpriseProjectId, "0")
		poll(t, "connection", connectionStatus(t, client, *c.Id), "DOWN")
	}

	id := *made[0].Id
	monitor := *ok(client.CreateConnectionMonitor(&model.CreateConnectionMonitorRequest{Body: &model.CreateConnectionMonitorRequestBody{
		ConnectionMonitor: &model.CreateConnectionMonitorRequestBodyContent{VpnConnectionId: id},
	}}))(t).ConnectionMonitor
	equal(t, "source_ip", monitor.SourceIp, eip1)
	equal(t, "destination_ip", monitor.DestinationIp, "198.51.100.21")
	poll(t, "monitor", func() string {
		return *ok(client.ShowConnectionMonitor(&model.ShowConnectionMonitorRequest{ConnectionMonitorId: *monitor.Id}))(t).ConnectionMonitor.Status
	}, "ACTIVE")

	for _, c := range made {
		ok(client.DeleteVpnConnection(&model.DeleteVpnConnectionRequest{VpnConnectionId: *c.Id}))(t)
	}
	for _, c := range made {
		gone(t, "connection", func() error {
			_, err := client.ShowVpnConnection(&model.ShowVpnConnectionRequest{VpnConnectionId: *c.Id})
			return err
		})
	}
	ok(client.DeleteCgw(&model.DeleteCgwRequest{CustomerGatewayId: *peer.Id}))(t)
	ok(client.DeleteVgw(&model.DeleteVgwRequest{VgwId: gateway}))(t)
	gone(t, "gateway", func() error {
		_, err := client.ShowVgw(&model.ShowVgwRequest{VgwId: gateway})
		return err
	})
}
