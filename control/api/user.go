package api

import (
	"context"

	"github.com/vpngw/vpngw/control"
)

// CreateVpnUser creates a user.
func (h *handlers) CreateVpnUser(ctx context.Context, req CreateVpnUserRequestObject) (CreateVpnUserResponseObject, error) {
	u := &req.Body.User
	user, err := h.server.service.CreateUser(ctx, req.ProjectID, req.VpnServerID, control.UserCreate{
		Name: &u.Name, Password: pointer(control.NewSecret(u.Password)), Description: u.Description,
		GroupID: u.UserGroupID, StaticIP: u.StaticIP,
	})
	if err != nil {
		return nil, err
	}
	return CreateVpnUser201JSONResponse{User: CreatedObject{ID: user.ID}, RequestID: callOf(ctx).requestID}, nil
}

// BatchCreateVpnUsers creates several users or none.
func (h *handlers) BatchCreateVpnUsers(ctx context.Context, req BatchCreateVpnUsersRequestObject) (BatchCreateVpnUsersResponseObject, error) {
	users := value(req.Body.Users)
	reqs := make([]control.UserCreate, len(users))
	for i := range users {
		u := &users[i]
		reqs[i] = control.UserCreate{
			Name: &u.Name, Password: pointer(control.NewSecret(u.Password)), Description: u.Description,
			GroupName: u.UserGroupName, StaticIP: u.StaticIP,
		}
	}
	invalid, err := h.server.service.CreateUsers(ctx, req.ProjectID, req.VpnServerID, reqs)
	if err != nil {
		return nil, err
	}
	answer := BatchCreateVpnUsers201JSONResponse{InvalidUsers: make([]InvalidVpnUser, len(invalid)), RequestID: callOf(ctx).requestID}
	for i := range invalid {
		u := &invalid[i].Request
		answer.InvalidUsers[i] = InvalidVpnUser{
			Name: value(u.Name), Description: u.Description, UserGroupName: u.GroupName, StaticIP: u.StaticIP, Cause: invalid[i].Cause,
		}
	}
	return answer, nil
}

// ShowVpnUser shows a user.
func (h *handlers) ShowVpnUser(ctx context.Context, req ShowVpnUserRequestObject) (ShowVpnUserResponseObject, error) {
	user, err := h.server.service.ShowUser(ctx, req.ProjectID, req.VpnServerID, req.UserID)
	if err != nil {
		return nil, err
	}
	return ShowVpnUser200JSONResponse{User: userAnswer(&user), RequestID: callOf(ctx).requestID}, nil
}

// ListVpnUsers lists a page of users.
func (h *handlers) ListVpnUsers(ctx context.Context, req ListVpnUsersRequestObject) (ListVpnUsersResponseObject, error) {
	page, err := h.server.service.ListUsers(ctx, req.ProjectID, req.VpnServerID,
		control.Page{Limit: req.Params.Limit, Marker: value(req.Params.Marker)})
	if err != nil {
		return nil, err
	}
	answer := ListVpnUsers200JSONResponse{
		Users:      make([]VpnUser, len(page.Items)),
		TotalCount: page.Total, PageInfo: pageInfo(len(page.Items), page.NextMarker), RequestID: callOf(ctx).requestID,
	}
	for i := range page.Items {
		answer.Users[i] = userAnswer(&page.Items[i])
	}
	return answer, nil
}

// UpdateVpnUser changes a user.
func (h *handlers) UpdateVpnUser(ctx context.Context, req UpdateVpnUserRequestObject) (UpdateVpnUserResponseObject, error) {
	u := &req.Body.User
	user, err := h.server.service.UpdateUser(ctx, req.ProjectID, req.VpnServerID, req.UserID, control.UserUpdate{
		Description: u.Description, GroupID: u.UserGroupID, StaticIP: u.StaticIP,
	})
	if err != nil {
		return nil, err
	}
	return UpdateVpnUser200JSONResponse{User: userAnswer(&user), RequestID: callOf(ctx).requestID}, nil
}

// DeleteVpnUser deletes a user.
func (h *handlers) DeleteVpnUser(ctx context.Context, req DeleteVpnUserRequestObject) (DeleteVpnUserResponseObject, error) {
	if err := h.server.service.DeleteUser(ctx, req.ProjectID, req.VpnServerID, req.UserID); err != nil {
		return nil, err
	}
	return DeleteVpnUser204Response{}, nil
}

// BatchDeleteVpnUsers deletes several users.
func (h *handlers) BatchDeleteVpnUsers(ctx context.Context, req BatchDeleteVpnUsersRequestObject) (BatchDeleteVpnUsersResponseObject, error) {
	if err := h.server.service.DeleteUsers(ctx, req.ProjectID, req.VpnServerID, userIDs(req.Body)); err != nil {
		return nil, err
	}
	return BatchDeleteVpnUsers200JSONResponse{RequestID: callOf(ctx).requestID}, nil
}

// UpdateVpnUserPassword changes the password of a user.
func (h *handlers) UpdateVpnUserPassword(ctx context.Context, req UpdateVpnUserPasswordRequestObject) (UpdateVpnUserPasswordResponseObject, error) {
	err := h.server.service.ChangePassword(ctx, req.ProjectID, req.VpnServerID, req.UserID,
		control.NewSecret(req.Body.OldPassword), control.NewSecret(req.Body.NewPassword))
	if err != nil {
		return nil, err
	}
	return UpdateVpnUserPassword200JSONResponse{RequestID: callOf(ctx).requestID}, nil
}

// ResetVpnUserPassword gives a user another password.
func (h *handlers) ResetVpnUserPassword(ctx context.Context, req ResetVpnUserPasswordRequestObject) (ResetVpnUserPasswordResponseObject, error) {
	err := h.server.service.ResetPassword(ctx, req.ProjectID, req.VpnServerID, req.UserID, control.NewSecret(req.Body.NewPassword))
	if err != nil {
		return nil, err
	}
	return ResetVpnUserPassword200JSONResponse{RequestID: callOf(ctx).requestID}, nil
}

// CreateVpnUserTotp gives a user a secret of one-time codes, and tells it this
// once.
func (h *handlers) CreateVpnUserTotp(ctx context.Context, req CreateVpnUserTotpRequestObject) (CreateVpnUserTotpResponseObject, error) {
	e, err := h.server.service.EnrollUser(ctx, req.ProjectID, req.VpnServerID, req.UserID)
	if err != nil {
		return nil, err
	}
	return CreateVpnUserTotp200JSONResponse{Totp: Totp{Secret: e.Secret, URI: e.URI}, RequestID: callOf(ctx).requestID}, nil
}

// DeleteVpnUserTotp takes the secret of one-time codes away from a user.
func (h *handlers) DeleteVpnUserTotp(ctx context.Context, req DeleteVpnUserTotpRequestObject) (DeleteVpnUserTotpResponseObject, error) {
	if err := h.server.service.UnenrollUser(ctx, req.ProjectID, req.VpnServerID, req.UserID); err != nil {
		return nil, err
	}
	return DeleteVpnUserTotp204Response{}, nil
}

func userIDs(body *VpnUserIDsRequestBody) []string {
	users := value(body.Users)
	ids := make([]string, len(users))
	for i := range users {
		ids[i] = users[i].ID
	}
	return ids
}

func userAnswer(u *control.UserView) VpnUser {
	answer := VpnUser{
		ID: u.ID, Name: u.Name, Description: u.Description, UserGroupID: u.GroupID, UserGroupName: u.GroupName,
		StaticIP:  control.AnyAddress,
		CreatedAt: control.FormatTime(u.CreatedAt), UpdatedAt: control.FormatTime(u.UpdatedAt),
	}
	if u.StaticIP.IsValid() {
		answer.StaticIP = u.StaticIP.String()
	}
	if !u.EnrolledAt.IsZero() {
		answer.TotpEnrolledAt = new(control.FormatTime(u.EnrolledAt))
	}
	return answer
}
