package control

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// Ids of what userWorld stores.
const (
	gatewayOfUsers = "aaaaaaaa-0000-4000-8000-000000000001"
	serverOfUsers  = "aaaaaaaa-0000-4000-8000-000000000002"
	defaultGroup   = "aaaaaaaa-0000-4000-8000-000000000003"
	defaultPolicy  = "aaaaaaaa-0000-4000-8000-000000000004"
	otherServer    = "aaaaaaaa-0000-4000-8000-000000000005"

	goodPassword = "Qwerasdf"
)

// userWorld is a world with a server in password mode that has what each server
// has from the start, and one of another gateway.
func userWorld(t *testing.T, edit ...func(*P2CGateway, *VPNServer)) *world {
	t.Helper()
	w := newWorld(t)
	meta := func(id, name string) Meta {
		return Meta{ID: id, Project: project, Name: name, Generation: 1, CreatedAt: w.clock, UpdatedAt: w.clock}
	}
	g := P2CGateway{Meta: meta(gatewayOfUsers, "p2c-vpngw-1"), MaxConnections: 10}
	s := VPNServer{
		Meta: meta(serverOfUsers, ""), GatewayID: gatewayOfUsers, AuthType: ClientAuthPassword,
		ClientCIDR: netip.MustParsePrefix("172.16.0.0/24"), LocalSubnets: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24")},
	}
	for _, e := range edit {
		e(&g, &s)
	}
	other := s
	other.ID = otherServer
	w.bypass(func(tx *transaction) error {
		return errors.Join(
			tx.putP2CGateway(g), tx.putServer(s), tx.putServer(other),
			tx.putUserGroup(UserGroup{Meta: meta(defaultGroup, "default"), ServerID: serverOfUsers, Type: TypeDefault}),
			tx.putAccessPolicy(AccessPolicy{
				Meta: meta(defaultPolicy, "default"), ServerID: serverOfUsers, GroupID: defaultGroup, Type: TypeDefault,
				Destinations: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
			}),
		)
	})
	return w
}

// bypass writes past all rules.
func (w *world) bypass(decide func(*transaction) error) {
	w.t.Helper()
	if err := w.objects.change(w.t.Context(), decide); err != nil {
		w.t.Fatal(err)
	}
}

func userRequest(name string) UserCreate {
	return UserCreate{Name: &name, Password: new(NewSecret(goodPassword))}
}

func (w *world) addUser(name string, edit ...func(*UserCreate)) VPNUser {
	w.t.Helper()
	req := userRequest(name)
	for _, e := range edit {
		e(&req)
	}
	u, err := w.CreateUser(w.t.Context(), project, serverOfUsers, req)
	if err != nil {
		w.t.Fatalf("create user: %v", err)
	}
	return u
}

func (w *world) addGroup(name string) UserGroup {
	w.t.Helper()
	g, err := w.CreateUserGroup(w.t.Context(), project, serverOfUsers, UserGroupCreate{Name: &name})
	if err != nil {
		w.t.Fatalf("create group: %v", err)
	}
	return g
}

func (w *world) addPolicy(groupID string) AccessPolicy {
	w.t.Helper()
	a, err := w.CreateAccessPolicy(w.t.Context(), project, serverOfUsers, AccessPolicyCreate{
		Name: new("policy"), GroupID: &groupID, Destinations: []string{"192.168.1.0/24"},
	})
	if err != nil {
		w.t.Fatalf("create policy: %v", err)
	}
	return a
}

// storeUsers stores users without passwords, past all rules.
func (w *world) storeUsers(n int) (ids []string) {
	w.t.Helper()
	all := many(n, func(i int) VPNUser {
		id := fmt.Sprintf("bbbbbbbb-0000-4000-8000-%012d", i)
		ids = append(ids, id)
		return VPNUser{Meta: Meta{ID: id, Project: project, Name: fmt.Sprintf("stored-%d", i), Generation: 1}, ServerID: serverOfUsers}
	})
	for chunk := range slices.Chunk(all, userChunk) {
		w.bypass(func(tx *transaction) error {
			var errs []error
			for _, u := range chunk {
				errs = append(errs, tx.putUser(u))
			}
			return errors.Join(errs...)
		})
	}
	return ids
}

func (w *world) showUser(id string) UserView {
	w.t.Helper()
	v, err := w.ShowUser(w.t.Context(), project, serverOfUsers, id)
	if err != nil {
		w.t.Fatalf("show user: %v", err)
	}
	return v
}

// wantP2C checks that an error is a refusal with this code, its status and these
// words; no code means that there is no error.
func wantP2C(t *testing.T, err error, code string, words ...string) {
	t.Helper()
	if code == "" {
		if err != nil {
			t.Errorf("got %v, want success", err)
		}
		return
	}
	status := http.StatusBadRequest
	switch code {
	case "VPN.0509", "VPN.1116", "VPN.1301", "VPN.1303":
		status = http.StatusNotFound
	case "VPN.0511":
		status = http.StatusInternalServerError
	}
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Code != code || refusal.Status != status {
		t.Errorf("got %v, want a refusal %s (%d)", err, code, status)
		return
	}
	for _, word := range words {
		if !strings.Contains(refusal.Message, word) {
			t.Errorf("message %q does not say %q", refusal.Message, word)
		}
	}
}

// everyRosterChange calls every operation that changes users, groups and
// policies.
func (w *world) everyRosterChange(userID, groupID, policyID string) map[string]error {
	ctx, secret := w.t.Context(), NewSecret("Another-1")
	one := func(_ any, err error) error { return err }
	return map[string]error{
		"create user":     one(w.CreateUser(ctx, project, serverOfUsers, userRequest("user-new"))),
		"create users":    one(w.CreateUsers(ctx, project, serverOfUsers, []UserCreate{userRequest("user-new2")})),
		"create group":    one(w.CreateUserGroup(ctx, project, serverOfUsers, UserGroupCreate{Name: new("new")})),
		"create policy":   one(w.CreateAccessPolicy(ctx, project, serverOfUsers, AccessPolicyCreate{Name: new("new"), GroupID: new(defaultGroup), Destinations: []string{"10.0.0.0/8"}})),
		"update user":     one(w.UpdateUser(ctx, project, serverOfUsers, userID, UserUpdate{Description: new("new")})),
		"change password": w.ChangePassword(ctx, project, serverOfUsers, userID, NewSecret(goodPassword), secret),
		"reset password":  w.ResetPassword(ctx, project, serverOfUsers, userID, NewSecret("Another-2")),
		"update group":    one(w.UpdateUserGroup(ctx, project, serverOfUsers, groupID, UserGroupUpdate{Description: new("new")})),
		"update policy":   one(w.UpdateAccessPolicy(ctx, project, serverOfUsers, policyID, AccessPolicyUpdate{Description: new("new")})),
		"add users":       w.AddUsersToGroup(ctx, project, serverOfUsers, groupID, []string{userID}),
		"remove users":    w.RemoveUsersFromGroup(ctx, project, serverOfUsers, groupID, []string{userID}),
		"delete policy":   w.DeleteAccessPolicy(ctx, project, serverOfUsers, policyID),
		"delete users":    w.DeleteUsers(ctx, project, serverOfUsers, []string{userID}),
		"delete group":    w.DeleteUserGroup(ctx, project, serverOfUsers, groupID),
	}
}

func TestStatesThatRefuseChangesOfUsers(t *testing.T) {
	for _, test := range []struct {
		name, creating, changing string // codes
		edit                     func(*P2CGateway, *VPNServer)
	}{
		{"active", "", "", func(*P2CGateway, *VPNServer) {}},
		{"certificate mode", CodeInvalid, "", func(_ *P2CGateway, s *VPNServer) { s.AuthType = ClientAuthCertificate }},
		{"deletion", "VPN.0508", "VPN.0508", func(g *P2CGateway, _ *VPNServer) { g.DeletionRequested = true }},
		{"frozen gateway", "VPN.0511", "VPN.0511", func(g *P2CGateway, _ *VPNServer) { g.Frozen = true }},
		{"frozen server", "VPN.0511", "VPN.0511", func(_ *P2CGateway, s *VPNServer) { s.Frozen = true }},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := userWorld(t)
			user, group := w.addUser("user-1"), w.addGroup("group-1")
			policy := w.addPolicy(group.ID)
			w.bypass(func(tx *transaction) error {
				g, err := tx.p2cGateway(project, gatewayOfUsers)
				if err != nil {
					return err
				}
				s, err := tx.server(project, serverOfUsers)
				test.edit(&g, &s)
				return errors.Join(err, tx.putP2CGateway(g), tx.putServer(s))
			})
			for name, err := range w.everyRosterChange(user.ID, group.ID, policy.ID) {
				code := test.changing
				if strings.HasPrefix(name, "create") {
					code = test.creating
				}
				t.Run(name, func(t *testing.T) { wantP2C(t, err, code) })
			}
			_, err := w.ListUsers(t.Context(), project, serverOfUsers, Page{})
			wantP2C(t, err, "")
		})
	}
}

// What another server or project has does not exist.
func TestUsersOfOtherServersDoNotExist(t *testing.T) {
	w := userWorld(t)
	user, group := w.addUser("user-1"), w.addGroup("group-1")
	policy := w.addPolicy(group.ID)
	ctx := t.Context()
	for _, place := range []struct{ project, server, user, group, policy string }{
		{project, nobody, "VPN.1116", "VPN.1116", "VPN.1116"},
		{"other", serverOfUsers, "VPN.1116", "VPN.1116", "VPN.1116"},
		{project, otherServer, "VPN.1303", "VPN.1301", "VPN.1401"},
	} {
		one := func(_ any, err error) error { return err }
		in, server := place.project, place.server
		for name, got := range map[string]struct {
			err  error
			code string
		}{
			"show user":       {one(w.ShowUser(ctx, in, server, user.ID)), place.user},
			"update user":     {one(w.UpdateUser(ctx, in, server, user.ID, UserUpdate{})), place.user},
			"delete user":     {w.DeleteUser(ctx, in, server, user.ID), place.user},
			"delete users":    {w.DeleteUsers(ctx, in, server, []string{user.ID}), place.user},
			"change password": {w.ChangePassword(ctx, in, server, user.ID, NewSecret(goodPassword), NewSecret("Another-1")), place.user},
			"reset password":  {w.ResetPassword(ctx, in, server, user.ID, NewSecret("Another-1")), place.user},
			"show group":      {one(w.ShowUserGroup(ctx, in, server, group.ID)), place.group},
			"update group":    {one(w.UpdateUserGroup(ctx, in, server, group.ID, UserGroupUpdate{})), place.group},
			"delete group":    {w.DeleteUserGroup(ctx, in, server, group.ID), place.group},
			"users of group":  {one(w.ListUsersInGroup(ctx, in, server, group.ID, Page{})), place.group},
			"add users":       {w.AddUsersToGroup(ctx, in, server, group.ID, []string{user.ID}), place.group},
			"remove users":    {w.RemoveUsersFromGroup(ctx, in, server, group.ID, []string{user.ID}), place.group},
			"show policy":     {one(w.ShowAccessPolicy(ctx, in, server, policy.ID)), place.policy},
			"update policy":   {one(w.UpdateAccessPolicy(ctx, in, server, policy.ID, AccessPolicyUpdate{})), place.policy},
			"delete policy":   {w.DeleteAccessPolicy(ctx, in, server, policy.ID), place.policy},
		} {
			t.Run(in+"/"+server+"/"+name, func(t *testing.T) { wantP2C(t, got.err, got.code) })
		}
	}
	_, err := w.CreateAccessPolicy(ctx, project, otherServer, AccessPolicyCreate{Name: new("p"), GroupID: &group.ID, Destinations: []string{"10.0.0.0/8"}})
	wantP2C(t, err, "VPN.1301")
	_, err = w.CreateUser(ctx, project, otherServer, UserCreate{Name: new("user-2"), Password: new(NewSecret(goodPassword)), GroupID: &group.ID})
	wantP2C(t, err, "VPN.1301")
	wantP2C(t, w.AddUsersToGroup(ctx, project, serverOfUsers, group.ID, []string{user.ID, nobody}), "VPN.1303")
	if v := w.showUser(user.ID); v.GroupID != "" {
		t.Error("one user of two was put into the group")
	}
}
