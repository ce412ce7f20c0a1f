package api

import (
	"context"

	"github.com/vpngw/vpngw/control"
)

// CreateVpnUserGroup creates a group.
func (h *handlers) CreateVpnUserGroup(ctx context.Context, req CreateVpnUserGroupRequestObject) (CreateVpnUserGroupResponseObject, error) {
	g := &req.Body.UserGroup
	group, err := h.server.service.CreateUserGroup(ctx, req.ProjectID, req.VpnServerID,
		control.UserGroupCreate{Name: &g.Name, Description: g.Description})
	if err != nil {
		return nil, err
	}
	return CreateVpnUserGroup201JSONResponse{UserGroup: CreatedObject{ID: group.ID}, RequestID: callOf(ctx).requestID}, nil
}

// ShowVpnUserGroup shows a group.
func (h *handlers) ShowVpnUserGroup(ctx context.Context, req ShowVpnUserGroupRequestObject) (ShowVpnUserGroupResponseObject, error) {
	group, err := h.server.service.ShowUserGroup(ctx, req.ProjectID, req.VpnServerID, req.GroupID)
	if err != nil {
		return nil, err
	}
	return ShowVpnUserGroup200JSONResponse{UserGroup: userGroupAnswer(&group), RequestID: callOf(ctx).requestID}, nil
}

// ListVpnUserGroups lists a page of groups.
func (h *handlers) ListVpnUserGroups(ctx context.Context, req ListVpnUserGroupsRequestObject) (ListVpnUserGroupsResponseObject, error) {
	page, err := h.server.service.ListUserGroups(ctx, req.ProjectID, req.VpnServerID,
		control.Page{Limit: req.Params.Limit, Marker: value(req.Params.Marker)})
	if err != nil {
		return nil, err
	}
	answer := ListVpnUserGroups200JSONResponse{
		UserGroups: make([]VpnUserGroup, len(page.Items)),
		TotalCount: page.Total, PageInfo: pageInfo(len(page.Items), page.NextMarker), RequestID: callOf(ctx).requestID,
	}
	for i := range page.Items {
		answer.UserGroups[i] = userGroupAnswer(&page.Items[i])
	}
	return answer, nil
}

// UpdateVpnUserGroup changes a group.
func (h *handlers) UpdateVpnUserGroup(ctx context.Context, req UpdateVpnUserGroupRequestObject) (UpdateVpnUserGroupResponseObject, error) {
	g := &req.Body.UserGroup
	group, err := h.server.service.UpdateUserGroup(ctx, req.ProjectID, req.VpnServerID, req.GroupID,
		control.UserGroupUpdate{Name: g.Name, Description: g.Description})
	if err != nil {
		return nil, err
	}
	return UpdateVpnUserGroup200JSONResponse{UserGroup: userGroupAnswer(&group), RequestID: callOf(ctx).requestID}, nil
}

// DeleteVpnUserGroup deletes a group.
func (h *handlers) DeleteVpnUserGroup(ctx context.Context, req DeleteVpnUserGroupRequestObject) (DeleteVpnUserGroupResponseObject, error) {
	if err := h.server.service.DeleteUserGroup(ctx, req.ProjectID, req.VpnServerID, req.GroupID); err != nil {
		return nil, err
	}
	return DeleteVpnUserGroup204Response{}, nil
}

// AddVpnUsersToGroup puts users into a group.
func (h *handlers) AddVpnUsersToGroup(ctx context.Context, req AddVpnUsersToGroupRequestObject) (AddVpnUsersToGroupResponseObject, error) {
	if err := h.server.service.AddUsersToGroup(ctx, req.ProjectID, req.VpnServerID, req.GroupID, userIDs(req.Body)); err != nil {
		return nil, err
	}
	return AddVpnUsersToGroup201JSONResponse{RequestID: callOf(ctx).requestID}, nil
}

// RemoveVpnUsersFromGroup takes users out of their group.
func (h *handlers) RemoveVpnUsersFromGroup(ctx context.Context, req RemoveVpnUsersFromGroupRequestObject) (RemoveVpnUsersFromGroupResponseObject, error) {
	if err := h.server.service.RemoveUsersFromGroup(ctx, req.ProjectID, req.VpnServerID, req.GroupID, userIDs(req.Body)); err != nil {
		return nil, err
	}
	return RemoveVpnUsersFromGroup201JSONResponse{RequestID: callOf(ctx).requestID}, nil
}

// ListVpnUsersInGroup lists a page of the users of a group.
func (h *handlers) ListVpnUsersInGroup(ctx context.Context, req ListVpnUsersInGroupRequestObject) (ListVpnUsersInGroupResponseObject, error) {
	page, err := h.server.service.ListUsersInGroup(ctx, req.ProjectID, req.VpnServerID, req.GroupID,
		control.Page{Limit: req.Params.Limit, Marker: value(req.Params.Marker)})
	if err != nil {
		return nil, err
	}
	answer := ListVpnUsersInGroup200JSONResponse{
		Users:      make([]GroupUser, len(page.Items)),
		TotalCount: page.Total, PageInfo: pageInfo(len(page.Items), page.NextMarker), RequestID: callOf(ctx).requestID,
	}
	for i := range page.Items {
		u := &page.Items[i]
		answer.Users[i] = GroupUser{ID: u.ID, Name: u.Name, Description: u.Description}
	}
	return answer, nil
}

func userGroupAnswer(g *control.UserGroupView) VpnUserGroup {
	return VpnUserGroup{
		ID: g.ID, Name: g.Name, Description: g.Description, Type: BuiltIn(g.Type), UserNumber: g.Users,
		CreatedAt: control.FormatTime(g.CreatedAt), UpdatedAt: control.FormatTime(g.UpdatedAt),
	}
}
