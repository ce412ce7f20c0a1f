package api

import (
	"context"
	"errors"
	"net"
	"net/http"

	"github.com/vpngw/vpngw/control"
)

// KeystoneCreateUserTokenByPassword issues a token.
func (h *handlers) KeystoneCreateUserTokenByPassword(ctx context.Context, req KeystoneCreateUserTokenByPasswordRequestObject) (KeystoneCreateUserTokenByPasswordResponseObject, error) {
	s, c := h.server, callOf(ctx)
	user, project := &req.Body.Auth.Identity.Password.User, &req.Body.Auth.Scope.Project
	if value(project.ID) == "" && value(project.Name) == "" {
		return nil, control.Invalid("scope.project", "must have an id or a name")
	}
	host, _, _ := net.SplitHostPort(c.remote)
	name := user.Domain.Name + "/" + user.Name
	if s.access.HasUser(user.Domain.Name, user.Name) {
		c.claimed = name // of others it may be a password in the wrong place
	}
	if err := s.logins.admit(host, name, s.now()); err != nil {
		return nil, err
	}
	token, err := s.access.IssueToken(ctx, control.Login{
		Domain:      user.Domain.Name,
		Name:        user.Name,
		Password:    control.NewSecret(value(user.Password)),
		ProjectID:   value(project.ID),
		ProjectName: value(project.Name),
	})
	var refusal *control.Error
	if errors.As(err, &refusal) && refusal.Status == http.StatusUnauthorized {
		s.logins.failed(host, name, s.now())
	}
	if err != nil {
		return nil, err
	}
	s.logins.succeeded(name)
	c.caller = control.Principal{Name: token.User.Domain + "/" + token.User.Name, Project: token.User.Project, Role: token.User.Role}
	var t AuthToken
	t.Methods = []string{"password"}
	t.IssuedAt, t.ExpiresAt = control.FormatTime(token.Issued), control.FormatTime(token.Expires)
	t.User.Name, t.User.Domain.Name = token.User.Name, token.User.Domain
	t.Project.ID, t.Project.Name = token.User.Project, token.User.ProjectName
	if t.Project.Name == "" {
		t.Project.Name = token.User.Project
	}
	t.Roles = append(t.Roles, struct {
		Name string `json:"name"`
	}{string(token.User.Role)})
	return KeystoneCreateUserTokenByPassword201JSONResponse{
		Headers: KeystoneCreateUserTokenByPassword201ResponseHeaders{XSubjectToken: &token.Text},
		Body:    AuthTokenResponseBody{Token: t, RequestID: c.requestID},
	}, nil
}

// KeystoneRevokeToken ends a token of the caller, of whichever project.
func (h *handlers) KeystoneRevokeToken(ctx context.Context, req KeystoneRevokeTokenRequestObject) (KeystoneRevokeTokenResponseObject, error) {
	access := h.server.access
	owner, err := access.VerifyToken(ctx, req.Params.XSubjectToken)
	if err != nil || owner.Name != callOf(ctx).caller.Name {
		return nil, control.NotFound()
	}
	if err := access.RevokeToken(ctx, req.Params.XSubjectToken); err != nil {
		return nil, err
	}
	return KeystoneRevokeToken204Response{}, nil
}
