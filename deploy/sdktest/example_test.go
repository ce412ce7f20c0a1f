package sdktest

import (
	"strings"
	"testing"

	vpn "github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5"
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
		shown := ok(client.ShowVpnConnection(&model.ShowVpnConnectionRequest{VpnConnectionId: *c.Id}))(t).VpnConnection
		equal(t, "name", shown.Name, *c.Name)
		equal(t, "vgw_ip", shown.VgwIp, []string{eip1ID, eip2ID}[i])
		equal(t, "cgw_id", shown.CgwId, *peer.Id)
		equalList(t, "peer_subnets", shown.PeerSubnets, "192.168.44.0/24")
		equal(t, "tunnel_peer_address", shown.TunnelPeerAddress, *c.TunnelPeerAddress)
		equal(t, "ikepolicy.authentication_method", p(shown.Ikepolicy.AuthenticationMethod.Value()), "pre-share")
		equal(t, "ikepolicy.dpd.timeout", shown.Ikepolicy.Dpd.Timeout, 15)
		equal(t, "ipsecpolicy.encapsulation_mode", p(shown.Ipsecpolicy.EncapsulationMode.Value()), "tunnel")
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

// TestExamplesOfClientToCloud runs the other examples, in their order: a server
// whose clients authenticate by certificate, one with passwords, and for that a
// group, a user and an access policy.
func TestExamplesOfClientToCloud(t *testing.T) {
	client := newClient(t, accessKey, secretKey)
	withCertificates, _ := exampleServer(t, client, "100.10.1.0/24", true)
	deleteP2CGateway(t, client, withCertificates)
	gateway, server := exampleServer(t, client, "100.10.2.0/24", false)

	group := *ok(client.CreateVpnUserGroup(&model.CreateVpnUserGroupRequest{VpnServerId: server, Body: &model.CreateVpnUserGroupRequestBody{
		UserGroup: &model.CreateVpnUserGroupRequestBodyContent{Name: "user-group1", Description: p("用户组1")},
	}}))(t).UserGroup.Id
	shownGroup := ok(client.ShowVpnUserGroup(&model.ShowVpnUserGroupRequest{VpnServerId: server, GroupId: group}))(t).UserGroup
	equal(t, "id", shownGroup.Id, group)
	equal(t, "name", shownGroup.Name, "user-group1")
	equal(t, "description", shownGroup.Description, "用户组1")
	equal(t, "type", shownGroup.Type, "Custom")
	equal(t, "user_number", shownGroup.UserNumber, 0)

	user := *ok(client.CreateVpnUser(&model.CreateVpnUserRequest{VpnServerId: server, Body: &model.CreateVpnUserRequestBody{
		User: &model.CreateVpnUserRequestBodyContent{Name: "user001", Password: "Qwerasdf", Description: p("用户1"), UserGroupId: &group},
	}}))(t).User.Id
	shownUser := ok(client.ShowVpnUser(&model.ShowVpnUserRequest{VpnServerId: server, UserId: user}))(t).User
	equal(t, "id", shownUser.Id, user)
	equal(t, "name", shownUser.Name, "user001")
	equal(t, "description", shownUser.Description, "用户1")
	equal(t, "user_group_id", shownUser.UserGroupId, group)
	equal(t, "user_group_name", shownUser.UserGroupName, "user-group1")

	policy := *ok(client.CreateVpnAccessPolicy(&model.CreateVpnAccessPolicyRequest{VpnServerId: server, Body: &model.CreateVpnAccessPolicyRequestBody{
		AccessPolicy: &model.CreateVpnAccessPolicyRequestBodyContent{
			Name: "policy-001", UserGroupId: group, Description: p("访问策略1"), DestIpCidrs: []string{"172.16.0.0/24", "172.16.1.0/24"},
		},
	}}))(t).AccessPolicy.Id
	shownPolicy := ok(client.ShowVpnAccessPolicy(&model.ShowVpnAccessPolicyRequest{VpnServerId: server, PolicyId: policy}))(t).AccessPolicy
	equal(t, "id", shownPolicy.Id, policy)
	equal(t, "name", shownPolicy.Name, "policy-001")
	equal(t, "user_group_id", shownPolicy.UserGroupId, group)
	equal(t, "user_group_name", shownPolicy.UserGroupName, "user-group1")
	equal(t, "description", shownPolicy.Description, "访问策略1")
	equalList(t, "dest_ip_cidrs", shownPolicy.DestIpCidrs, "172.16.0.0/24", "172.16.1.0/24")

	deleteP2CGateway(t, client, gateway)
}

// exampleServer creates a gateway and runs the example of its server: with a server
// certificate of the inventory by its id alone and, where clients authenticate by
// certificate, a CA without a name.
func exampleServer(t *testing.T, client *vpn.VpnClient, clients string, certificates bool) (gateway, server string) {
	t.Helper()
	nextSecond() // both examples begin with the same request
	gateway = *ok(client.CreateP2cVgw(&model.CreateP2cVgwRequest{Body: &model.CreateP2cVgwRequestBody{
		P2cVpnGateway: &model.CreateP2cVgwRequestBodyContent{VpcId: vpcID, ConnectSubnet: subnetID, Eip: &model.CreateP2cRequestEip{Id: p(eip3ID)}},
	}}))(t).P2cVpnGateway.Id
	p2cGatewayIsActive(t, client, gateway)
	body := &model.CreateServerRequest{
		TunnelProtocol: p(model.GetCreateServerRequestTunnelProtocolEnum().SSL), ClientCidr: clients,
		LocalSubnets:      []string{"192.168.0.0/24", "192.168.1.0/24"},
		ClientAuthType:    p(model.GetCreateServerRequestClientAuthTypeEnum().LOCAL_PASSWORD),
		ServerCertificate: &model.CreateServerRequestServerCertificate{Id: p(certificateID)},
		SslOptions: &model.CreateServerRequestSslOptions{
			Protocol: p(model.GetCreateServerRequestSslOptionsProtocolEnum().TCP), Port: p(model.GetCreateServerRequestSslOptionsPortEnum().E_443),
			EncryptionAlgorithm: p(model.GetCreateServerRequestSslOptionsEncryptionAlgorithmEnum().AES_128_GCM), IsCompressed: p(false),
		},
	}
	root, _ := serverCertificate(t)
	if certificates {
		body.ClientAuthType = p(model.GetCreateServerRequestClientAuthTypeEnum().CERT)
		body.ClientCaCertificates = &[]model.CreateServerRequestClientCaCertificates{{Content: root}}
	}
	server = *ok(client.CreateVpnServer(&model.CreateVpnServerRequest{P2cVgwId: gateway, Body: &model.CreateServerRequestBody{VpnServer: body}}))(t).VpnServer.Id
	serverIsActive(t, client, server)

	shown := (*ok(client.ListVpnServersByVgw(&model.ListVpnServersByVgwRequest{P2cVgwId: gateway}))(t).VpnServers)[0]
	equal(t, "id", shown.Id, server)
	equal(t, "p2c_vgw_id", shown.P2cVgwId, gateway)
	equal(t, "client_cidr", shown.ClientCidr, clients)
	equalList(t, "local_subnets", shown.LocalSubnets, "192.168.0.0/24", "192.168.1.0/24")
	equal(t, "client_auth_type", shown.ClientAuthType, body.ClientAuthType.Value())
	equal(t, "tunnel_protocol", shown.TunnelProtocol, "SSL")
	equal(t, "server_certificate.id", shown.ServerCertificate.Id, certificateID)
	equal(t, "server_certificate.source", shown.ServerCertificate.Source, "CCM")
	equal(t, "server_certificate.issuer", shown.ServerCertificate.Issuer, "O=acme,CN=root")
	equal(t, "ssl_options.protocol", shown.SslOptions.Protocol, "TCP")
	equal(t, "ssl_options.port", shown.SslOptions.Port, 443)
	equal(t, "ssl_options.encryption_algorithm", shown.SslOptions.EncryptionAlgorithm, "AES-128-GCM")
	equal(t, "ssl_options.authentication_algorithm", shown.SslOptions.AuthenticationAlgorithm, "SHA256")
	equal(t, "ssl_options.is_compressed", shown.SslOptions.IsCompressed, false)
	authorities := *shown.ClientCaCertificates
	if !certificates {
		if len(authorities) != 0 {
			t.Errorf("client CAs are %v", authorities)
		}
		return gateway, server
	}
	if len(authorities) != 1 || !strings.HasPrefix(*authorities[0].Name, "ca-cert-") || authorities[0].CreatedAt.String() != shown.CreatedAt.String() {
		t.Errorf("client CAs %v of a server of %v", authorities, shown.CreatedAt)
	}
	profile := *ok(client.ExportClientConfig(&model.ExportClientConfigRequest{VpnServerId: server}))(t).ClientConfig
	if strings.Contains(profile, "auth-user-pass") || !strings.Contains(profile, "</ca>\n\n\nreneg-sec 0\n") || !strings.Contains(profile, root) {
		t.Errorf("profile is %s", profile)
	}
	return gateway, server
}
