package sdktest

import (
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/sdkerr"
	vpn "github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5/model"
)

// TestLifecycle creates, lists, updates and deletes a gateway, a customer
// gateway and a connection.
func TestLifecycle(t *testing.T) {
	client := newClient(t, accessKey, secretKey)
	gateway := createGateway(t, client)
	peer := createCustomerGateway(t, client)
	connection := createConnection(t, client, gateway, peer)
	listPages(t, client, peer)
	updateConnection(t, client, connection)
	gatewayDetails(t, client, gateway, connection)
	refusedOfGateways(t, client, gateway)
	monitor(t, client, connection)
	tags(t, client, connection)
	peerConfiguration(t, client, connection)
	refusals(t, client, gateway, peer, connection)
	batchOfConnections(t, client, gateway)
	deleteAll(t, client, gateway, peer, connection)
}

func p[T any](v T) *T { return &v }

// ok fails the test when a call of the SDK failed.
func ok[T any](answer T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
}

func equal[T comparable](t *testing.T, what string, got *T, want T) {
	t.Helper()
	switch {
	case got == nil:
		t.Errorf("%s is absent, want %v", what, want)
	case *got != want:
		t.Errorf("%s is %v, want %v", what, *got, want)
	}
}

func matches(t *testing.T, what string, got *string, pattern string) {
	t.Helper()
	if got == nil || !regexp.MustCompile(pattern).MatchString(*got) {
		t.Errorf("%s is %v, want what matches %s", what, got, pattern)
	}
}

func equalList(t *testing.T, what string, got *[]string, want ...string) {
	t.Helper()
	if got == nil || !slices.Equal(*got, want) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// poll calls status until it is one of those wanted. Statuses of work under
// way begin with PENDING_.
func poll(t *testing.T, what string, status func() string, wanted ...string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		got := status()
		if slices.Contains(wanted, got) {
			return
		}
		if !strings.HasPrefix(got, "PENDING_") || time.Now().After(deadline) {
			t.Fatalf("%s is %q, want one of %q", what, got, wanted)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func gatewayStatus(t *testing.T, client *vpn.VpnClient, id string) func() string {
	return func() string {
		answer := ok(client.ShowVgw(&model.ShowVgwRequest{VgwId: id}))(t)
		return *answer.VpnGateway.Status
	}
}

func connectionStatus(t *testing.T, client *vpn.VpnClient, id string) func() string {
	return func() string {
		answer := ok(client.ShowVpnConnection(&model.ShowVpnConnectionRequest{VpnConnectionId: id}))(t)
		return *answer.VpnConnection.Status
	}
}

func createGateway(t *testing.T, client *vpn.VpnClient) (id string) {
	t.Helper()
	created := ok(client.CreateVgw(&model.CreateVgwRequest{Body: &model.CreateVgwRequestBody{
		VpnGateway: &model.CreateVgwRequestBodyContent{
			Name:           p("sdk-gateway"),
			VpcId:          p(vpcID),
			ConnectSubnet:  p(subnetID),
			LocalSubnets:   &[]string{"192.168.0.0/24"},
			Flavor:         p(model.GetCreateVgwRequestBodyContentFlavorEnum().PROFESSIONAL2),
			AttachmentType: p(model.GetCreateVgwRequestBodyContentAttachmentTypeEnum().VPC),
			Eip1:           &model.CreateRequestEip{Id: p(eip1ID)},
			Eip2:           &model.CreateRequestEip{Id: p(eip2ID)},
			Tags:           &[]model.VpnResourceTag{{Key: "made by", Value: "sdk"}},
		},
	}}))(t)
	if created.HttpStatusCode != http.StatusCreated {
		t.Errorf("create answers %d", created.HttpStatusCode)
	}
	g := created.VpnGateway
	equal(t, "name", g.Name, "sdk-gateway")
	equal(t, "flavor", g.Flavor, "Professional2")
	equal(t, "bgp_asn", g.BgpAsn, 64512)
	equal(t, "connection_number", g.ConnectionNumber, 200)
	equal(t, "access_vpc_id", g.AccessVpcId, vpcID)
	equal(t, "enterprise_project_id", g.EnterpriseProjectId, "0")
	id = *g.Id
	poll(t, "gateway", gatewayStatus(t, client, id), "ACTIVE")

	shown := ok(client.ShowVgw(&model.ShowVgwRequest{VgwId: id}))(t).VpnGateway
	equal(t, "eip1.ip_address", shown.Eip1.IpAddress, eip1)
	equal(t, "eip2.id", shown.Eip2.Id, eip2ID)
	equalList(t, "availability_zone_ids", shown.AvailabilityZoneIds, "az1", "az2")
	equalList(t, "supported_features", shown.SupportedFeatures, "query_connection_log")
	if shown.CreatedAt == nil || time.Since(time.Time(*shown.CreatedAt)).Abs() > time.Minute {
		t.Errorf("created_at is %v", shown.CreatedAt)
	}
	if shown.Tags == nil || len(*shown.Tags) != 1 || (*shown.Tags)[0].Value != "sdk" {
		t.Errorf("tags are %v", shown.Tags)
	}
	listed := *ok(client.ListVgws(&model.ListVgwsRequest{EnterpriseProjectId: &[]string{"0", "other"}}))(t).VpnGateways
	if len(listed) != 1 || *listed[0].Id != id {
		t.Errorf("list has %d gateways", len(listed))
	}
	updated := ok(client.UpdateVgw(&model.UpdateVgwRequest{VgwId: id, Body: &model.UpdateVgwRequestBody{
		VpnGateway: &model.UpdateVgwRequestBodyContent{LocalSubnets: &[]string{"192.168.0.0/24", "192.168.1.0/24"}},
	}}))(t).VpnGateway
	equalList(t, "local_subnets", updated.LocalSubnets, "192.168.0.0/24", "192.168.1.0/24")
	equal(t, "name", updated.Name, "sdk-gateway")
	poll(t, "gateway", gatewayStatus(t, client, id), "ACTIVE")
	return id
}

func createCustomerGateway(t *testing.T, client *vpn.VpnClient) (id string) {
	t.Helper()
	created := ok(client.CreateCgw(&model.CreateCgwRequest{Body: &model.CreateCgwRequestBody{
		CustomerGateway: &model.CreateCgwRequestBodyContent{Name: p("sdk-peer"), IdValue: "198.51.100.7", BgpAsn: p(int64(65000))},
	}}))(t).CustomerGateway
	equal(t, "id_value", created.IdValue, "198.51.100.7")
	equal(t, "bgp_asn", created.BgpAsn, 65000)
	id = *created.Id
	updated := ok(client.UpdateCgw(&model.UpdateCgwRequest{CustomerGatewayId: id, Body: &model.UpdateCgwRequestBody{
		CustomerGateway: &model.UpdateCgwRequestBodyContent{Name: p("sdk-peer-2")},
	}}))(t).CustomerGateway
	equal(t, "name", updated.Name, "sdk-peer-2")
	shown := ok(client.ShowCgw(&model.ShowCgwRequest{CustomerGatewayId: id}))(t).CustomerGateway
	equal(t, "name", shown.Name, "sdk-peer-2")
	if shown.CreatedAt == nil || shown.UpdatedAt == nil {
		t.Error("times are absent")
	}
	return id
}

func createConnection(t *testing.T, client *vpn.VpnClient, gateway, peer string) (id string) {
	t.Helper()
	created := ok(client.CreateVpnConnection(&model.CreateVpnConnectionRequest{Body: &model.CreateVpnConnectionRequestBody{
		VpnConnection: &model.CreateVpnConnectionRequestBodyContent{
			Name: p("sdk-connection"), VgwId: gateway, VgwIp: eip1ID, CgwId: peer,
			PeerSubnets: &[]string{"172.16.0.0/24"}, Psk: p("Correct-Horse-7"),
			TunnelLocalAddress: p("169.254.70.1/30"), TunnelPeerAddress: p("169.254.70.2/30"),
			Ikepolicy: &model.IkePolicy{
				EncryptionAlgorithm: p(model.GetIkePolicyEncryptionAlgorithmEnum().AES_256_GCM_16),
				DhGroup:             p("group19"),
				Dpd:                 &model.Dpd{Interval: p(int32(20))},
			},
		},
	}}))(t).VpnConnection
	if created.Style == nil || created.Style.Value() != "STATIC" {
		t.Errorf("style is %v", created.Style)
	}
	equal(t, "vgw_ip", created.VgwIp, eip1ID)
	equal(t, "tunnel_local_address", created.TunnelLocalAddress, "169.254.70.1/30")
	equal(t, "enable_nqa", created.EnableNqa, false)
	equal(t, "ikepolicy.local_id", created.Ikepolicy.LocalId, eip1)
	equal(t, "ikepolicy.peer_id", created.Ikepolicy.PeerId, "198.51.100.7")
	equal(t, "ikepolicy.lifetime_seconds", created.Ikepolicy.LifetimeSeconds, 86400)
	equal(t, "ikepolicy.dpd.interval", created.Ikepolicy.Dpd.Interval, 20)
	equal(t, "ikepolicy.dpd.timeout", created.Ikepolicy.Dpd.Timeout, 15)
	id = *created.Id
	// No peer answers, so DOWN is where it ends.
	poll(t, "connection", connectionStatus(t, client, id), "DOWN")
	return id
}

func listPages(t *testing.T, client *vpn.VpnClient, first string) {
	t.Helper()
	second := *ok(client.CreateCgw(&model.CreateCgwRequest{Body: &model.CreateCgwRequestBody{
		CustomerGateway: &model.CreateCgwRequestBodyContent{
			IdType: p(model.GetCreateCgwRequestBodyContentIdTypeEnum().FQDN), IdValue: "branch.example",
		},
	}}))(t).CustomerGateway.Id
	var seen []string
	request := &model.ListCgwsRequest{Limit: p(int32(1))}
	for range 3 {
		page := ok(client.ListCgws(request))(t)
		equal(t, "total_count", page.TotalCount, 2)
		equal(t, "page_info.current_count", page.PageInfo.CurrentCount, int32(len(*page.CustomerGateways)))
		for _, c := range *page.CustomerGateways {
			seen = append(seen, *c.Id)
		}
		request.Marker = page.PageInfo.NextMarker
	}
	if !slices.Equal(seen, []string{second, first}) {
		t.Errorf("pages have %v, want %v", seen, []string{second, first})
	}
	if answer := ok(client.DeleteCgw(&model.DeleteCgwRequest{CustomerGatewayId: second}))(t); answer.HttpStatusCode != http.StatusNoContent {
		t.Errorf("delete answers %d", answer.HttpStatusCode)
	}
}

func updateConnection(t *testing.T, client *vpn.VpnClient, id string) {
	t.Helper()
	request := &model.UpdateVpnConnectionRequest{VpnConnectionId: id, Body: &model.UpdateVpnConnectionRequestBody{
		VpnConnection: &model.UpdateVpnConnectionRequestBodyContent{
			Name: p("sdk-connection-2"), PeerSubnets: &[]string{"172.16.0.0/24", "172.16.1.0/24"}, Psk: p("Correct-Horse-8"),
			Ikepolicy: &model.UpdateIkePolicy{LifetimeSeconds: p(int32(7200))},
		},
	}}
	for range 2 { // the second changes nothing
		updated := ok(client.UpdateVpnConnection(request))(t).VpnConnection
		equal(t, "name", updated.Name, "sdk-connection-2")
		equalList(t, "peer_subnets", updated.PeerSubnets, "172.16.0.0/24", "172.16.1.0/24")
		equal(t, "ikepolicy.lifetime_seconds", updated.Ikepolicy.LifetimeSeconds, 7200)
		equal(t, "ikepolicy.dh_group", updated.Ikepolicy.DhGroup, "group19")
		poll(t, "connection", connectionStatus(t, client, id), "DOWN")
		time.Sleep(time.Second) // the signature of the same request would be the same within a second
	}
	listed := ok(client.ListVpnConnections(&model.ListVpnConnectionsRequest{VgwIp: p(eip1ID), Limit: p(int32(10))}))(t)
	if c := *listed.VpnConnections; len(c) != 1 || *c[0].Id != id {
		t.Errorf("list has %d connections", len(c))
	}
	equal(t, "total_count", listed.TotalCount, 1)

	reset := ok(client.ResetVpnConnection(&model.ResetVpnConnectionRequest{VpnConnectionId: id}))(t)
	if reset.HttpStatusCode != http.StatusOK || reset.RequestId == nil {
		t.Errorf("reset answers %d with request id %v", reset.HttpStatusCode, reset.RequestId)
	}
	log := ok(client.ShowVpnConnectionLog(&model.ShowVpnConnectionLogRequest{VpnConnectionId: id}))(t)
	if log.Logs == nil {
		t.Error("the log is absent")
	}
	poll(t, "connection", connectionStatus(t, client, id), "DOWN")
}

// refused checks that the SDK made an error of a refusal.
func refused(t *testing.T, err error, status int, code, message string) {
	t.Helper()
	var refusal *sdkerr.ServiceResponseError
	switch {
	case !errors.As(err, &refusal):
		t.Errorf("got %v, want an error of the service", err)
	case refusal.StatusCode != status || refusal.ErrorCode != code || !strings.Contains(refusal.ErrorMessage, message):
		t.Errorf("got %d %s %q, want %d %s %q", refusal.StatusCode, refusal.ErrorCode, refusal.ErrorMessage, status, code, message)
	case !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(refusal.RequestId):
		t.Errorf("request id is %q", refusal.RequestId)
	}
}

func refusals(t *testing.T, client *vpn.VpnClient, gateway, peer, connection string) {
	t.Helper()
	const unknown = "00000000-0000-4000-8000-000000000000"
	_, err := client.ShowVgw(&model.ShowVgwRequest{VgwId: unknown})
	refused(t, err, http.StatusNotFound, "VPN.0004", "resource not found")
	_, err = client.DeleteVpnConnection(&model.DeleteVpnConnectionRequest{VpnConnectionId: unknown})
	refused(t, err, http.StatusNotFound, "VPN.0004", "resource not found")
	_, err = client.DeleteCgw(&model.DeleteCgwRequest{CustomerGatewayId: peer})
	refused(t, err, http.StatusBadRequest, "VPN.0001", "invalid request: customer gateway "+peer+" has connection")
	_, err = client.DeleteVgw(&model.DeleteVgwRequest{VgwId: gateway})
	refused(t, err, http.StatusBadRequest, "VPN.0001", "has connection")
	_, err = client.UpdateVpnConnection(&model.UpdateVpnConnectionRequest{VpnConnectionId: connection, Body: &model.UpdateVpnConnectionRequestBody{
		VpnConnection: &model.UpdateVpnConnectionRequestBodyContent{Psk: p("weak")},
	}})
	refused(t, err, http.StatusBadRequest, "VPN.0001", "invalid request: psk: ")
	_, err = newClient(t, accessKey, "guess").ListVgws(&model.ListVgwsRequest{})
	refused(t, err, http.StatusUnauthorized, "VPN.0003", "Authentication failed: ")
	_, err = newClient(t, "NOBODY", secretKey).ListVgws(&model.ListVgwsRequest{})
	refused(t, err, http.StatusUnauthorized, "VPN.0003", "Authentication failed: ")
}

func deleteAll(t *testing.T, client *vpn.VpnClient, gateway, peer, connection string) {
	t.Helper()
	if answer := ok(client.DeleteVpnConnection(&model.DeleteVpnConnectionRequest{VpnConnectionId: connection}))(t); answer.HttpStatusCode != http.StatusNoContent {
		t.Errorf("delete answers %d", answer.HttpStatusCode)
	}
	gone(t, "connection", func() error {
		_, err := client.ShowVpnConnection(&model.ShowVpnConnectionRequest{VpnConnectionId: connection})
		return err
	})
	ok(client.DeleteCgw(&model.DeleteCgwRequest{CustomerGatewayId: peer}))(t)
	_, err := client.ShowCgw(&model.ShowCgwRequest{CustomerGatewayId: peer})
	refused(t, err, http.StatusNotFound, "VPN.0004", "resource not found")
	ok(client.DeleteVgw(&model.DeleteVgwRequest{VgwId: gateway}))(t)
	gone(t, "gateway", func() error {
		_, err := client.ShowVgw(&model.ShowVgwRequest{VgwId: gateway})
		return err
	})
}
