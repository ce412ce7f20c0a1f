package api

import (
	"context"

	"github.com/vpngw/vpngw/control"
)

// CreateVpnAccessPolicy creates a policy.
func (h *handlers) CreateVpnAccessPolicy(ctx context.Context, req CreateVpnAccessPolicyRequestObject) (CreateVpnAccessPolicyResponseObject, error) {
	a := &req.Body.AccessPolicy
	policy, err := h.server.service.CreateAccessPolicy(ctx, req.ProjectID, req.VpnServerID, control.AccessPolicyCreate{
		Name: &a.Name, GroupID: &a.UserGroupID, Description: a.Description, Destinations: list(&a.DestIPCidrs),
	})
	if err != nil {
		return nil, err
	}
	return CreateVpnAccessPolicy201JSONResponse{AccessPolicy: CreatedObject{ID: policy.ID}, RequestID: callOf(ctx).requestID}, nil
}

// ShowVpnAccessPolicy shows a policy.
func (h *handlers) ShowVpnAccessPolicy(ctx context.Context, req ShowVpnAccessPolicyRequestObject) (ShowVpnAccessPolicyResponseObject, error) {
	policy, err := h.server.service.ShowAccessPolicy(ctx, req.ProjectID, req.VpnServerID, req.PolicyID)
	if err != nil {
		return nil, err
	}
	return ShowVpnAccessPolicy200JSONResponse{AccessPolicy: accessPolicyAnswer(&policy), RequestID: callOf(ctx).requestID}, nil
}

// ListVpnAccessPolicies lists a page of policies.
func (h *handlers) ListVpnAccessPolicies(ctx context.Context, req ListVpnAccessPoliciesRequestObject) (ListVpnAccessPoliciesResponseObject, error) {
	page, err := h.server.service.ListAccessPolicies(ctx, req.ProjectID, req.VpnServerID,
		control.Page{Limit: req.Params.Limit, Marker: value(req.Params.Marker)})
	if err != nil {
		return nil, err
	}
	answer := ListVpnAccessPolicies200JSONResponse{
		AccessPolicies: make([]VpnAccessPolicy, len(page.Items)),
		TotalCount:     page.Total, PageInfo: pageInfo(len(page.Items), page.NextMarker), RequestID: callOf(ctx).requestID,
	}
	for i := range page.Items {
		answer.AccessPolicies[i] = accessPolicyAnswer(&page.Items[i])
	}
	return answer, nil
}

// UpdateVpnAccessPolicy changes a policy.
func (h *handlers) UpdateVpnAccessPolicy(ctx context.Context, req UpdateVpnAccessPolicyRequestObject) (UpdateVpnAccessPolicyResponseObject, error) {
	a := &req.Body.AccessPolicy
	policy, err := h.server.service.UpdateAccessPolicy(ctx, req.ProjectID, req.VpnServerID, req.PolicyID, control.AccessPolicyUpdate{
		Name: a.Name, GroupID: a.UserGroupID, Description: a.Description, Destinations: list(a.DestIPCidrs),
	})
	if err != nil {
		return nil, err
	}
	return UpdateVpnAccessPolicy200JSONResponse{AccessPolicy: accessPolicyAnswer(&policy), RequestID: callOf(ctx).requestID}, nil
}

// DeleteVpnAccessPolicy deletes a policy.
func (h *handlers) DeleteVpnAccessPolicy(ctx context.Context, req DeleteVpnAccessPolicyRequestObject) (DeleteVpnAccessPolicyResponseObject, error) {
	if err := h.server.service.DeleteAccessPolicy(ctx, req.ProjectID, req.VpnServerID, req.PolicyID); err != nil {
		return nil, err
	}
	return DeleteVpnAccessPolicy204Response{}, nil
}

func accessPolicyAnswer(a *control.AccessPolicyView) VpnAccessPolicy {
	answer := VpnAccessPolicy{
		ID: a.ID, Name: a.Name, Type: BuiltIn(a.Type), UserGroupID: a.GroupID, UserGroupName: a.GroupName,
		Description: a.Description, DestIPCidrs: make([]string, len(a.Destinations)),
		CreatedAt: control.FormatTime(a.CreatedAt), UpdatedAt: control.FormatTime(a.UpdatedAt),
	}
	for i, n := range a.Destinations {
		answer.DestIPCidrs[i] = n.String()
	}
	return answer
}
