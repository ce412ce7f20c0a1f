package control

import (
	"fmt"
	"strings"
	"testing"
)

func TestUserGroupFromCreationToDeletion(t *testing.T) {
	w := userWorld(t)
	ctx := t.Context()
	g, err := w.CreateUserGroup(ctx, project, serverOfUsers, UserGroupCreate{Name: new("user-group1"), Description: new("用户组1")})
	wantP2C(t, err, "")
	a, b := w.addUser("user-a"), w.addUser("user-b", func(r *UserCreate) { r.GroupID = &g.ID })
	wantP2C(t, w.AddUsersToGroup(ctx, project, serverOfUsers, g.ID, []string{a.ID, b.ID}), "")
	v, err := w.ShowUserGroup(ctx, project, serverOfUsers, g.ID)
	if err != nil || v.Name != "user-group1" || v.Description != "用户组1" || v.Type != TypeCustom || v.Users != 2 {
		t.Errorf("got %+v, %v", v, err)
	}
	members, err := w.ListUsersInGroup(ctx, project, serverOfUsers, g.ID, Page{Limit: new(1)})
	if err != nil || members.Total != 2 || len(members.Items) != 1 || members.Items[0].ID != b.ID || members.NextMarker == "" {
		t.Errorf("got %+v, %v", members, err)
	}
	// What is repeated unchanged is no change.
	v, err = w.UpdateUserGroup(ctx, project, serverOfUsers, g.ID, UserGroupUpdate{Name: &g.Name, Description: &g.Description})
	if err != nil || v.Generation != 1 || v.Users != 2 {
		t.Errorf("got %+v, %v", v, err)
	}
	v, err = w.UpdateUserGroup(ctx, project, serverOfUsers, g.ID, UserGroupUpdate{Name: new("renamed"), Description: new("test update")})
	if err != nil || v.Name != "renamed" || v.Description != "test update" {
		t.Errorf("got %+v, %v", v, err)
	}
	policy := w.addPolicy(g.ID)
	wantP2C(t, w.DeleteUserGroup(ctx, project, serverOfUsers, g.ID), "VPN.1313", "access policy")
	wantP2C(t, w.DeleteAccessPolicy(ctx, project, serverOfUsers, policy.ID), "")
	wantP2C(t, w.DeleteUserGroup(ctx, project, serverOfUsers, g.ID), "")
	_, err = w.ShowUserGroup(ctx, project, serverOfUsers, g.ID)
	wantP2C(t, err, "VPN.1301")
	// Its users are in no group, and may join another.
	if u := w.showUser(a.ID); u.GroupID != "" || u.GroupName != "" {
		t.Errorf("got %+v", u)
	}
	wantP2C(t, w.AddUsersToGroup(ctx, project, serverOfUsers, defaultGroup, []string{a.ID}), "")
	if u := w.showUser(a.ID); u.GroupName != "default" {
		t.Errorf("got %+v", u)
	}
	// A change of something else leaves that alone.
	u, err := w.UpdateUser(ctx, project, serverOfUsers, b.ID, UserUpdate{Description: new("x")})
	if err != nil || u.GroupID != "" {
		t.Errorf("got %+v, %v", u, err)
	}
}

func TestUserGroupRules(t *testing.T) {
	w := userWorld(t)
	w.addGroup("taken")
	for _, test := range []struct {
		name string
		req  UserGroupCreate
		code string
	}{
		{"no name", UserGroupCreate{}, CodeInvalid},
		{"empty name", UserGroupCreate{Name: new("")}, CodeInvalid},
		{"shortest name", UserGroupCreate{Name: new("a")}, ""},
		{"longest name", UserGroupCreate{Name: new(strings.Repeat("组", 64))}, ""},
		{"long name", UserGroupCreate{Name: new(strings.Repeat("组", 65))}, CodeInvalid},
		{"name with a dot", UserGroupCreate{Name: new("a.b")}, CodeInvalid},
		{"name with a space", UserGroupCreate{Name: new("a b")}, CodeInvalid},
		{"taken", UserGroupCreate{Name: new("taken")}, "VPN.1300"},
		{"default", UserGroupCreate{Name: new("default")}, "VPN.1300"},
		{"in another case", UserGroupCreate{Name: new("Taken")}, ""},
		{"longest description", UserGroupCreate{Name: new("b"), Description: new(strings.Repeat("组", 64))}, ""},
		{"long description", UserGroupCreate{Name: new("c"), Description: new(strings.Repeat("组", 65))}, CodeInvalid},
		{"specials", UserGroupCreate{Name: new("d"), Description: new("`~!@#$%^&*()-_=+\\|[{}];:'\",<.>/? ")}, ""},
		{"control character", UserGroupCreate{Name: new("e"), Description: new("a\nb")}, CodeInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := w.CreateUserGroup(t.Context(), project, serverOfUsers, test.req)
			wantP2C(t, err, test.code)
		})
	}
	g := w.addGroup("other")
	for name, code := range map[string]string{"taken": "VPN.1300", "a.b": CodeInvalid, "other": ""} {
		_, err := w.UpdateUserGroup(t.Context(), project, serverOfUsers, g.ID, UserGroupUpdate{Name: &name})
		wantP2C(t, err, code)
	}
}

func TestNumberOfUserGroupsIsBounded(t *testing.T) {
	w := userWorld(t) // with the Default group
	for i := range 49 {
		w.addGroup(fmt.Sprintf("group-%d", i))
	}
	_, err := w.CreateUserGroup(t.Context(), project, serverOfUsers, UserGroupCreate{Name: new("one-more")})
	wantP2C(t, err, "VPN.1306", "exceeds the upper limit (50).")
	l, err := w.ListUserGroups(t.Context(), project, serverOfUsers, Page{})
	if err != nil || l.Total != 50 || l.Items[49].Type != TypeDefault {
		t.Errorf("%d groups, %v", l.Total, err)
	}
}

func TestDefaultGroupStays(t *testing.T) {
	w := userWorld(t)
	ctx := t.Context()
	_, err := w.UpdateUserGroup(ctx, project, serverOfUsers, defaultGroup, UserGroupUpdate{Description: new("x")})
	wantP2C(t, err, "VPN.1316")
	wantP2C(t, w.DeleteUserGroup(ctx, project, serverOfUsers, defaultGroup), "VPN.1316")
	u := w.addUser("user-1")
	wantP2C(t, w.AddUsersToGroup(ctx, project, serverOfUsers, defaultGroup, []string{u.ID}), "")
	wantP2C(t, w.RemoveUsersFromGroup(ctx, project, serverOfUsers, defaultGroup, []string{u.ID}), "")
	if v := w.showUser(u.ID); v.GroupID != "" {
		t.Errorf("the user is in group %s", v.GroupID)
	}
}

func TestMembership(t *testing.T) {
	w := userWorld(t)
	ctx := t.Context()
	g, other := w.addGroup("group-1"), w.addGroup("group-2")
	free := w.addUser("free-user")
	member := w.addUser("member", func(r *UserCreate) { r.GroupID = &g.ID })
	add := func(group string, ids ...string) error {
		return w.AddUsersToGroup(ctx, project, serverOfUsers, group, ids)
	}
	remove := func(group string, ids ...string) error {
		return w.RemoveUsersFromGroup(ctx, project, serverOfUsers, group, ids)
	}
	wantP2C(t, add(other.ID), "VPN.1318")
	wantP2C(t, add(other.ID, free.ID, free.ID), "VPN.1315")
	wantP2C(t, add(other.ID, free.ID, member.ID), "VPN.1304", "The user member has been added to another user group.")
	wantP2C(t, add(defaultGroup, member.ID), "VPN.1304")
	wantP2C(t, remove(other.ID), "VPN.1318")
	wantP2C(t, remove(other.ID, member.ID, member.ID), "VPN.1315")
	wantP2C(t, remove(g.ID, member.ID, free.ID), "VPN.1305", "The user free-user is not in the current user group.")
	wantP2C(t, remove(other.ID, member.ID), "VPN.1305")
	if a, b := w.showUser(free.ID), w.showUser(member.ID); a.GroupID != "" || b.GroupID != g.ID {
		t.Errorf("a refused change moved %s to %q and %s to %q", a.Name, a.GroupName, b.Name, b.GroupName)
	}
	wantP2C(t, remove(g.ID, member.ID), "")
	wantP2C(t, add(other.ID, free.ID, member.ID), "")
	wantP2C(t, add(other.ID, member.ID), "")
	// An update moves a user from group to group.
	v, err := w.UpdateUser(ctx, project, serverOfUsers, member.ID, UserUpdate{GroupID: &g.ID})
	if err != nil || v.GroupName != "group-1" {
		t.Errorf("got %+v, %v", v, err)
	}
}
