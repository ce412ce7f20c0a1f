package sdktest

import (
	"net/http"
	"testing"

	vpn "github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5/model"
)

const contentType = "application/json"

// tags puts tags on a connection, finds it by them and takes them off, and
// looks at the quotas.
func tags(t *testing.T, client *vpn.VpnClient, connection string) {
	t.Helper()
	add := []model.ResourceTag{{Key: "site", Value: p("berlin")}, {Key: "env", Value: p("prod")}}
	put := ok(client.BatchCreateResourceTags(&model.BatchCreateResourceTagsRequest{
		ContentType: contentType, ResourceType: model.GetBatchCreateResourceTagsRequestResourceTypeEnum().VPN_CONNECTION,
		ResourceId: connection, Body: &model.CreateResourcesTagsRequestBody{Tags: add},
	}))(t)
	if put.HttpStatusCode != http.StatusNoContent {
		t.Errorf("tags/create answers %d", put.HttpStatusCode)
	}
	query := &model.QueryResourcesRequestBody{Tags: &[]model.Tag{{Key: "site", Values: []string{"berlin", "paris"}}}}
	found := ok(client.ListResourcesByTags(&model.ListResourcesByTagsRequest{
		ContentType: contentType, ResourceType: model.GetListResourcesByTagsRequestResourceTypeEnum().VPN_CONNECTION,
		Limit: p("10"), Offset: p("0"), Body: query,
	}))(t)
	if l := *found.Resources; len(l) != 1 || *l[0].ResourceId != connection || len(*l[0].Tags) != 2 {
		t.Errorf("found %v", found)
	}
	count := ok(client.CountResourcesByTags(&model.CountResourcesByTagsRequest{
		ContentType: contentType, ResourceType: model.GetCountResourcesByTagsRequestResourceTypeEnum().VPN_CONNECTION, Body: query,
	}))(t)
	equal(t, "total_count", count.TotalCount, 1)
	project := ok(client.ListProjectTags(&model.ListProjectTagsRequest{
		ContentType: contentType, ResourceType: model.GetListProjectTagsRequestResourceTypeEnum().VPN_CONNECTION,
	}))(t)
	if l := *project.Tags; len(l) != 2 || l[0].Key != "env" || l[1].Values[0] != "berlin" {
		t.Errorf("project tags are %v", project)
	}
	ok(client.BatchDeleteResourceTags(&model.BatchDeleteResourceTagsRequest{
		ContentType: contentType, ResourceType: model.GetBatchDeleteResourceTagsRequestResourceTypeEnum().VPN_CONNECTION,
		ResourceId: connection, Body: &model.DeleteResourcesTagsRequestBody{Tags: []model.ResourceTag{{Key: "site"}, {Key: "gone"}}},
	}))(t)
	left := ok(client.ShowResourceTags(&model.ShowResourceTagsRequest{
		ContentType: contentType, ResourceType: model.GetShowResourceTagsRequestResourceTypeEnum().VPN_CONNECTION, ResourceId: connection,
	}))(t)
	if l := *left.Tags; len(l) != 1 || l[0].Key != "env" || *l[0].Value != "prod" {
		t.Errorf("left are %v", left)
	}

	quotas := *ok(client.ShowQuotasInfo(&model.ShowQuotasInfoRequest{}))(t).Quotas.Resources
	if len(quotas) != 3 {
		t.Fatalf("quotas are %v", quotas)
	}
	for i, want := range []struct {
		kind  string
		quota int32
	}{{"vpn_gateway", 50}, {"customer_gateway", 100}, {"vpn_connection", 5000}} {
		equal(t, "type", quotas[i].Type, want.kind)
		equal(t, "quota", quotas[i].Quota, want.quota)
		equal(t, "used", quotas[i].Used, 1)
	}
}
