package sdktest

import (
	"net/http"
	"testing"

	vpn "github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5/model"
)

// gatewayDetails looks at the zones and the routing table, and changes the
// flavor of a gateway with a connection.
func gatewayDetails(t *testing.T, client *vpn.VpnClient, gateway, connection string) {
	t.Helper()
	zones := ok(client.ListAvailabilityZones(&model.ListAvailabilityZonesRequest{}))(t).AvailabilityZones
	equalList(t, "professional1.vpc", zones.Professional1.Vpc, "az1", "az2")
	equalList(t, "professional1.er", zones.Professional1.Er)
	extended := *ok(client.ListExtendedAvailabilityZones(&model.ListExtendedAvailabilityZonesRequest{}))(t).AvailabilityZones
	if len(extended) != 2 || len(*extended[0].AvailableSpecs) == 0 {
		t.Fatalf("extended zones are %v", extended)
	}
	equal(t, "name", extended[0].Name, "az1")
	equal(t, "flavor", (*extended[0].AvailableSpecs)[0].Flavor, "Basic")

	table := ok(client.ShowVpnGatewayRoutingTable(&model.ShowVpnGatewayRoutingTableRequest{VgwId: gateway}))(t)
	equal(t, "total_count", table.TotalCount, 4) // two local subnets, two peer subnets
	page := ok(client.ShowVpnGatewayRoutingTable(&model.ShowVpnGatewayRoutingTableRequest{
		VgwId: gateway, Limit: p(int32(1)), Offset: p(int32(1)), IsIncludeNexthopResource: p(true),
	}))(t)
	equal(t, "page_info.current_count", page.PageInfo.CurrentCount, 1)
	route := (*page.RoutingTable)[0]
	equal(t, "destination", route.Destination, "172.16.1.0/24")
	equal(t, "nexthop", route.Nexthop, "169.254.70.2")
	equal(t, "outbound_interface_ip", route.OutboundInterfaceIp, "169.254.70.1")
	equal(t, "nexthop_resource.id", route.NexthopResource.Id, connection)
	if route.NexthopResource.Type.Value() != "vpn_connection" {
		t.Errorf("nexthop_resource.type is %v", route.NexthopResource.Type)
	}
	next := ok(client.ShowVpnGatewayRoutingTable(&model.ShowVpnGatewayRoutingTableRequest{VgwId: gateway, Marker: page.PageInfo.NextMarker}))(t)
	equal(t, "page_info.current_count", next.PageInfo.CurrentCount, 2)

	change := func(flavor model.UpdateVgwSpecificationRequestBodyContentFlavor) (*model.UpdatePostpaidVgwSpecificationResponse, error) {
		return client.UpdatePostpaidVgwSpecification(&model.UpdatePostpaidVgwSpecificationRequest{
			VgwId: gateway, Body: &model.UpdateVgwSpecificationRequestBody{VpnGateway: &model.UpdateVgwSpecificationRequestBodyContent{Flavor: flavor}},
		})
	}
	flavors := model.GetUpdateVgwSpecificationRequestBodyContentFlavorEnum()
	_, err := change(flavors.BASIC)
	refused(t, err, http.StatusBadRequest, "VPN.0001", "invalid request: flavor: must be one of Professional1")
	changed := ok(change(flavors.PROFESSIONAL1))(t)
	equal(t, "flavor", changed.VpnGateway.Flavor, "Professional1")
	if changed.HttpStatusCode != http.StatusOK {
		t.Errorf("update-specification answers %d", changed.HttpStatusCode)
	}
	poll(t, "gateway", gatewayStatus(t, client, gateway), "ACTIVE")
}

// refusedOfGateways are the operations that this release has no gateway for.
func refusedOfGateways(t *testing.T, client *vpn.VpnClient, gateway string) {
	t.Helper()
	_, err := client.UpgradeVpnGateway(&model.UpgradeVpnGatewayRequest{
		VgwId: gateway, Body: &model.UpgradeRequestBody{Action: model.GetUpgradeRequestBodyActionEnum().START},
	})
	refused(t, err, http.StatusBadRequest, "VPN.0001", "invalid request: action: no newer version")
	jobs := ok(client.ListVpnGatewayJobs(&model.ListVpnGatewayJobsRequest{ResourceId: &gateway}))(t)
	if jobs.Jobs == nil || len(*jobs.Jobs) != 0 {
		t.Errorf("jobs are %v", jobs)
	}
	_, err = client.DeleteVpnGatewayJob(&model.DeleteVpnGatewayJobRequest{JobId: gateway})
	refused(t, err, http.StatusNotFound, "VPN.0004", "resource not found")

	_, err = client.CreateVgwCertificate(&model.CreateVgwCertificateRequest{VgwId: gateway, Body: &model.CreateVpnGatewayCertificateRequestBody{
		Certificate: &model.CreateVpnGatewayCertificateRequestBodyContent{
			Certificate: "C", PrivateKey: "K", CertificateChain: "A", EncCertificate: "E", EncPrivateKey: "L",
		},
	}})
	refused(t, err, http.StatusBadRequest, "VPN.0001", "only a gateway of flavor GM has one")
	_, err = client.ShowVpnGatewayCertificate(&model.ShowVpnGatewayCertificateRequest{VgwId: gateway})
	refused(t, err, http.StatusNotFound, "VPN.0004", "resource not found")
	_, err = client.UpdateVgwCertificate(&model.UpdateVgwCertificateRequest{VgwId: gateway, CertificateId: gateway, Body: &model.UpdateVpnGatewayCertificateRequestBody{
		Certificate: &model.UpdateVpnGatewayCertificateRequestBodyContent{Name: p("new")},
	}})
	refused(t, err, http.StatusNotFound, "VPN.0004", "resource not found")
	certificates := ok(client.ListVpnGatewayCertificates(&model.ListVpnGatewayCertificatesRequest{PreExpireDays: p(int32(30))}))(t)
	if certificates.VpnGatewayCertificates == nil || len(*certificates.VpnGatewayCertificates) != 0 {
		t.Errorf("certificates are %v", certificates)
	}
}
