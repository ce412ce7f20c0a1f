package api

import (
	"context"

	"github.com/vpngw/vpngw/control"
)

// kinds are the types of objects that paths of tags name.
var kinds = map[ResourceType]control.Kind{
	ResourceGateway:         control.KindGateway,
	ResourceCustomerGateway: control.KindCustomerGateway,
	ResourceConnection:      control.KindConnection,
	ResourceP2CGateway:      control.KindP2CGateway,
}

// ListResourcesByTags lists objects by tags and name.
func (h *handlers) ListResourcesByTags(ctx context.Context, req ListResourcesByTagsRequestObject) (ListResourcesByTagsResponseObject, error) {
	filter := resourceFilter(req.Body)
	page, err := h.server.service.ListResources(ctx, req.ProjectID, kinds[req.ResourceType], filter, req.Params.Limit, value(req.Params.Offset))
	if err != nil {
		return nil, err
	}
	answer := ListResourcesByTags200JSONResponse{Resources: make([]Resource, len(page.Items)), TotalCount: page.Total}
	for i, m := range page.Items {
		answer.Resources[i] = Resource{
			ResourceID: m.ID, ResourceName: m.Name, ResourceDetail: map[string]any{}, Tags: tagsAnswer(m.Tags),
		}
	}
	return answer, nil
}

// CountResourcesByTags counts objects by tags and name.
func (h *handlers) CountResourcesByTags(ctx context.Context, req CountResourcesByTagsRequestObject) (CountResourcesByTagsResponseObject, error) {
	page, err := h.server.service.ListResources(ctx, req.ProjectID, kinds[req.ResourceType], resourceFilter(req.Body), nil, 0)
	if err != nil {
		return nil, err
	}
	return CountResourcesByTags200JSONResponse{TotalCount: page.Total}, nil
}

func resourceFilter(body *ResourceFilter) control.ResourceFilter {
	var f control.ResourceFilter
	if body == nil {
		return f
	}
	if w := body.WithoutAnyTag; w != nil {
		if yes, err := w.AsResourceFilterWithoutAnyTag0(); err == nil {
			f.WithoutAnyTag = yes
		} else if text, err := w.AsResourceFilterWithoutAnyTag1(); err == nil {
			f.WithoutAnyTag = text == "true"
		}
	}
	for _, t := range value(body.Tags) {
		f.Tags = append(f.Tags, control.TagFilter{Key: t.Key, Values: t.Values})
	}
	for _, m := range value(body.Matches) {
		f.Names = append(f.Names, m.Value)
	}
	return f
}

// BatchCreateResourceTags puts tags on an object.
func (h *handlers) BatchCreateResourceTags(ctx context.Context, req BatchCreateResourceTagsRequestObject) (BatchCreateResourceTagsResponseObject, error) {
	err := h.server.service.AddTags(ctx, req.ProjectID, kinds[req.ResourceType], req.ResourceID, tagChanges(req.Body))
	if err != nil {
		return nil, err
	}
	return BatchCreateResourceTags204Response{}, nil
}

// BatchDeleteResourceTags takes tags off an object.
func (h *handlers) BatchDeleteResourceTags(ctx context.Context, req BatchDeleteResourceTagsRequestObject) (BatchDeleteResourceTagsResponseObject, error) {
	err := h.server.service.RemoveTags(ctx, req.ProjectID, kinds[req.ResourceType], req.ResourceID, tagChanges(req.Body))
	if err != nil {
		return nil, err
	}
	return BatchDeleteResourceTags204Response{}, nil
}

func tagChanges(body *ResourceTagsRequestBody) []control.TagChange {
	changes := make([]control.TagChange, len(body.Tags))
	for i, t := range body.Tags {
		changes[i] = control.TagChange{Key: t.Key, Value: t.Value}
	}
	return changes
}

// ShowResourceTags shows the tags of an object.
func (h *handlers) ShowResourceTags(ctx context.Context, req ShowResourceTagsRequestObject) (ShowResourceTagsResponseObject, error) {
	tags, err := h.server.service.ResourceTags(ctx, req.ProjectID, kinds[req.ResourceType], req.ResourceID)
	if err != nil {
		return nil, err
	}
	return ShowResourceTags200JSONResponse{Tags: tagsAnswer(tags)}, nil
}

// ListProjectTags lists the tags that objects of a type have.
func (h *handlers) ListProjectTags(ctx context.Context, req ListProjectTagsRequestObject) (ListProjectTagsResponseObject, error) {
	tags, err := h.server.service.ProjectTags(ctx, req.ProjectID, kinds[req.ResourceType])
	if err != nil {
		return nil, err
	}
	answer := ListProjectTags200JSONResponse{Tags: make([]ProjectTag, len(tags))}
	for i, t := range tags {
		answer.Tags[i] = ProjectTag(t)
	}
	return answer, nil
}

// ShowQuotasInfo shows the quotas of a project.
func (h *handlers) ShowQuotasInfo(ctx context.Context, req ShowQuotasInfoRequestObject) (ShowQuotasInfoResponseObject, error) {
	quotas, err := h.server.service.Quotas(ctx, req.ProjectID)
	if err != nil {
		return nil, err
	}
	names := map[control.Kind]QuotaType{
		control.KindGateway: QuotaGateways, control.KindCustomerGateway: QuotaCustomerGateways, control.KindConnection: QuotaConnections,
	}
	answer := ShowQuotasInfo200JSONResponse{RequestID: callOf(ctx).requestID}
	for _, q := range quotas {
		answer.Quotas.Resources = append(answer.Quotas.Resources, Quota{Type: names[q.Kind], Quota: q.Limit, Used: q.Used})
	}
	return answer, nil
}
