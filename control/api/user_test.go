package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/store"
)

const (
	p2cGatewayID = "aaaaaaaa-0000-4000-8000-000000000001"
	serverID     = "aaaaaaaa-0000-4000-8000-000000000002"
	otherID      = "aaaaaaaa-0000-4000-8000-00000000000f"

	userPassword    = "Qwerasdf-1"
	newUserPassword = "stringst-new"
)

// onServer returns a path below that of the server.
func onServer(elements ...string) string {
	return path(append([]string{"p2c-vpn-gateways", "vpn-servers", serverID}, elements...)...)
}

// passwordServer stores a server in password mode with what each has from the
// start.
func (b *bench) passwordServer() {
	b.t.Helper()
	meta := func(id, name string) control.Meta {
		return control.Meta{ID: id, Project: project, Name: name, Generation: 1, CreatedAt: b.now, UpdatedAt: b.now}
	}
	const group = "aaaaaaaa-0000-4000-8000-000000000003"
	var ops []store.Op
	put := func(kind control.Kind, id string, object any) {
		text, err := json.Marshal(object)
		check(b.t, err)
		ops = append(ops, store.Put("spec/"+string(kind)+"/"+project+"/"+id, text))
	}
	put(control.KindP2CGateway, p2cGatewayID, control.P2CGateway{Meta: meta(p2cGatewayID, "p2c-vpngw-1"), MaxConnections: 10})
	put(control.KindServer, serverID, control.VPNServer{
		Meta: meta(serverID, ""), GatewayID: p2cGatewayID, AuthType: control.ClientAuthPassword,
		ClientCIDR: netip.MustParsePrefix("172.16.0.0/24"),
	})
	put(control.KindUserGroup, group, control.UserGroup{
		Meta: meta(group, "default"), ServerID: serverID, Description: "Default user group", Type: control.TypeDefault,
	})
	put(control.KindAccessPolicy, otherID, control.AccessPolicy{
		Meta: meta(otherID, "default"), ServerID: serverID, GroupID: group, Type: control.TypeDefault,
		Destinations: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
	})
	_, err := b.store.Txn(b.t.Context(), nil, ops)
	check(b.t, err)
}

func userBody(o object) object   { return object{"user": o} }
func groupBody(o object) object  { return object{"user_group": o} }
func policyBody(o object) object { return object{"access_policy": o} }
func ids(of ...string) object {
	list := make([]object, len(of))
	for i, id := range of {
		list[i] = object{"id": id}
	}
	return object{"users": list}
}

func (b *bench) createUser(o object) (id string) {
	b.t.Helper()
	return b.call(http.MethodPost, onServer("users"), userBody(with(o, "password", userPassword))).want(http.StatusCreated).text("user", "id")
}

func (b *bench) createGroup(name string) (id string) {
	b.t.Helper()
	return b.call(http.MethodPost, onServer("groups"), groupBody(object{"name": name})).want(http.StatusCreated).text("user_group", "id")
}

func (b *bench) createPolicy(group string) (id string) {
	b.t.Helper()
	return b.call(http.MethodPost, onServer("access-policies"), policyBody(object{
		"name": "policy-001", "user_group_id": group, "dest_ip_cidrs": []string{"172.16.0.0/24"},
	})).want(http.StatusCreated).text("access_policy", "id")
}

// everyUserOperation is everyOperation for users, groups and policies.
func everyUserOperation(user, group, policy string) map[string][3]any {
	password := object{"new_password": newUserPassword}
	return map[string][3]any{
		"CreateVpnUser":           {http.MethodPost, onServer("users"), userBody(object{"name": "user-new", "password": userPassword})},
		"BatchCreateVpnUsers":     {http.MethodPost, onServer("users", "batch-create"), object{"users": []object{{"name": "user-batch", "password": userPassword}}}},
		"ListVpnUsers":            {http.MethodGet, onServer("users"), nil},
		"ShowVpnUser":             {http.MethodGet, onServer("users", user), nil},
		"UpdateVpnUser":           {http.MethodPut, onServer("users", user), userBody(object{"description": "changed"})},
		"UpdateVpnUserPassword":   {http.MethodPut, onServer("users", user, "password"), with(password, "old_password", userPassword)},
		"ResetVpnUserPassword":    {http.MethodPost, onServer("users", user, "reset-password"), password},
		"CreateVpnUserTotp":       {http.MethodPost, onServer("users", user, "totp"), nil},
		"DeleteVpnUserTotp":       {http.MethodDelete, onServer("users", user, "totp"), nil},
		"BatchDeleteVpnUsers":     {http.MethodPost, onServer("users", "batch-delete"), ids(user)},
		"DeleteVpnUser":           {http.MethodDelete, onServer("users", user), nil},
		"CreateVpnUserGroup":      {http.MethodPost, onServer("groups"), groupBody(object{"name": "group-new"})},
		"ListVpnUserGroups":       {http.MethodGet, onServer("groups"), nil},
		"ShowVpnUserGroup":        {http.MethodGet, onServer("groups", group), nil},
		"UpdateVpnUserGroup":      {http.MethodPut, onServer("groups", group), groupBody(object{"description": "changed"})},
		"DeleteVpnUserGroup":      {http.MethodDelete, onServer("groups", group), nil},
		"AddVpnUsersToGroup":      {http.MethodPost, onServer("groups", group, "add-users"), ids(user)},
		"RemoveVpnUsersFromGroup": {http.MethodPost, onServer("groups", group, "remove-users"), ids(user)},
		"ListVpnUsersInGroup":     {http.MethodGet, onServer("groups", group, "users"), nil},
		"CreateVpnAccessPolicy":   {http.MethodPost, onServer("access-policies"), policyBody(object{"name": "new", "user_group_id": group, "dest_ip_cidrs": []string{"10.0.0.0/8"}})},
		"ListVpnAccessPolicies":   {http.MethodGet, onServer("access-policies"), nil},
		"ShowVpnAccessPolicy":     {http.MethodGet, onServer("access-policies", policy), nil},
		"UpdateVpnAccessPolicy":   {http.MethodPut, onServer("access-policies", policy), policyBody(object{"description": "changed"})},
		"DeleteVpnAccessPolicy":   {http.MethodDelete, onServer("access-policies", policy), nil},
	}
}

// The worked example of the API's reference: a group, a user of it and a policy.
func TestGroupUserAndPolicy(t *testing.T) {
	b := newBench(t)
	b.passwordServer()
	group := b.call(http.MethodPost, onServer("groups"), groupBody(object{"name": "user-group1", "description": "用户组1"})).
		want(http.StatusCreated).text("user_group", "id")
	shown := b.call(http.MethodGet, onServer("groups", group), nil).want(http.StatusOK).at("user_group")
	wantMembers(t, shown, object{"id": group, "name": "user-group1", "description": "用户组1", "type": "Custom", "user_number": 0})
	user := b.call(http.MethodPost, onServer("users"), userBody(object{
		"name": "user001", "password": "Qwerasdf", "description": "用户1", "user_group_id": group,
	})).want(http.StatusCreated).text("user", "id")
	a := b.call(http.MethodGet, onServer("users", user), nil).want(http.StatusOK)
	wantMembers(t, a.at("user"), object{
		"id": user, "name": "user001", "description": "用户1", "user_group_id": group, "user_group_name": "user-group1", "static_ip": "disable",
	})
	wantAbsent(t, a.at("user"), "password", "passwords", "password_hashes")
	for _, member := range []string{"created_at", "updated_at"} {
		if v := a.text("user", member); !timeFormat.MatchString(v) {
			t.Errorf("%s is %q", member, v)
		}
	}
	policy := b.call(http.MethodPost, onServer("access-policies"), policyBody(object{
		"name": "policy-001", "user_group_id": group, "description": "访问策略1", "dest_ip_cidrs": []string{"172.16.0.0/24", "172.16.1.0/24"},
	})).want(http.StatusCreated).text("access_policy", "id")
	wantMembers(t, b.call(http.MethodGet, onServer("access-policies", policy), nil).want(http.StatusOK).at("access_policy"), object{
		"id": policy, "name": "policy-001", "type": "Custom", "user_group_id": group, "user_group_name": "user-group1",
		"description": "访问策略1", "dest_ip_cidrs": []string{"172.16.0.0/24", "172.16.1.0/24"},
	})
	b.call(http.MethodDelete, onServer("groups", group), nil).wantError(http.StatusBadRequest, "VPN.1313", "Delete the access policy first.")
	b.call(http.MethodDelete, onServer("access-policies", policy), nil).want(http.StatusNoContent)
	b.call(http.MethodDelete, onServer("users", user), nil).want(http.StatusNoContent)
	b.call(http.MethodDelete, onServer("groups", group), nil).want(http.StatusNoContent)
	b.call(http.MethodGet, onServer("access-policies", policy), nil).wantError(http.StatusBadRequest, "VPN.1401", "The access policy does not exist.")
	b.call(http.MethodGet, onServer("users", user), nil).wantError(http.StatusNotFound, "VPN.1303", "The user does not exist.")
	b.call(http.MethodGet, onServer("groups", group), nil).wantError(http.StatusNotFound, "VPN.1301", "The user group does not exist.")
}

func TestUsersAreChanged(t *testing.T) {
	b := newBench(t)
	b.passwordServer()
	group, user := b.createGroup("group-1"), b.createUser(object{"name": "user-1"})
	changed := b.call(http.MethodPut, onServer("users", user), userBody(object{
		"description": "用户描述-update", "user_group_id": group, "static_ip": "172.16.0.5",
	})).want(http.StatusOK)
	wantMembers(t, changed.at("user"), object{
		"id": user, "name": "user-1", "description": "用户描述-update", "user_group_name": "group-1", "static_ip": "172.16.0.5",
	})
	b.call(http.MethodPut, onServer("users", user), userBody(object{"static_ip": "172.16.0.6"})).
		wantError(http.StatusBadRequest, "VPN.0001", "invalid request: static_ip: must be the first host")
	b.call(http.MethodPost, onServer("groups", group, "add-users"), ids(user)).want(http.StatusCreated)
	b.call(http.MethodPost, onServer("groups", group, "remove-users"), ids(user)).want(http.StatusCreated)
	b.call(http.MethodPost, onServer("groups", group, "remove-users"), ids(user)).wantError(http.StatusBadRequest, "VPN.1305", "user-1")
	b.call(http.MethodPost, onServer("groups", group, "add-users"), ids(user)).want(http.StatusCreated)
	members := b.call(http.MethodGet, onServer("groups", group, "users"), nil).want(http.StatusOK)
	if got, want := encoded(t, members.list("users")), encoded(t, []object{{"id": user, "name": "user-1", "description": "用户描述-update"}}); got != want {
		t.Errorf("members are %s, want %s", got, want)
	}
	b.call(http.MethodPost, onServer("groups", group, "add-users"), ids()).wantError(http.StatusBadRequest, "VPN.1318", "User list is empty.")
	b.call(http.MethodPost, onServer("users", "batch-delete"), `{"users":null}`).wantError(http.StatusBadRequest, "VPN.1318", "User list is empty.")
	b.call(http.MethodPost, onServer("users", "batch-delete"), ids(user, user)).wantError(http.StatusBadRequest, "VPN.1315", user)
	b.call(http.MethodPost, onServer("users", "batch-delete"), ids(user, b.createUser(object{"name": "user-2"}))).want(http.StatusOK)
	if n := len(b.call(http.MethodGet, onServer("users"), nil).want(http.StatusOK).list("users")); n != 0 {
		t.Errorf("%d users are left", n)
	}
}

func TestPasswordsOfUsers(t *testing.T) {
	b := newBench(t)
	b.passwordServer()
	user := b.createUser(object{"name": "user-1"})
	change := func(old, next string) *answer {
		return b.call(http.MethodPut, onServer("users", user, "password"), object{"old_password": old, "new_password": next})
	}
	change("guess", newUserPassword).wantError(http.StatusBadRequest, "VPN.1312", "The old password is incorrect.")
	change(userPassword, userPassword).wantError(http.StatusBadRequest, "VPN.1311", "cannot be the same")
	change(userPassword, "Ab1").wantError(http.StatusBadRequest, "VPN.1308", "complexity")
	change(userPassword, strings.Repeat("Ab1", 11)).wantError(http.StatusBadRequest, "VPN.1308", "complexity")
	change(userPassword, newUserPassword).want(http.StatusOK)
	reset := func(next string) *answer {
		return b.call(http.MethodPost, onServer("users", user, "reset-password"), object{"new_password": next})
	}
	reset(newUserPassword).wantError(http.StatusBadRequest, "VPN.1311", "")
	reset("user-1\u00e9x").wantError(http.StatusBadRequest, "VPN.1310", "")
	reset("Another-1").want(http.StatusOK)
	reset("").wantError(http.StatusBadRequest, "VPN.1308", "")
	b.call(http.MethodPost, onServer("users", user, "reset-password"), object{}).wantError(http.StatusBadRequest, "VPN.0001", "new_password: is required")
}

func TestBatchOfUsersAnswers(t *testing.T) {
	b := newBench(t)
	b.passwordServer()
	target := onServer("users", "batch-create")
	user := object{"name": "user1", "password": userPassword, "description": "用户描述1", "user_group_name": "default"}
	if a := b.call(http.MethodPost, target, object{"users": []object{user}}).want(http.StatusCreated); len(a.list("invalid_users")) != 0 {
		t.Errorf("got %s", a.Text)
	}
	bad := b.call(http.MethodPost, target, object{"users": []object{
		with(user, "name", "user2"), user, with(user, "name", "user3", "password", "Ab1", "static_ip", "172.16.0.5", "user_group_name", nil),
	}}).want(http.StatusCreated)
	want := []object{
		{"name": "user1", "description": "用户描述1", "user_group_name": "default", "cause": "Duplicate user name."},
		{"name": "user3", "description": "用户描述1", "static_ip": "172.16.0.5", "cause": "Password length invalid."},
	}
	if encoded(t, bad.list("invalid_users")) != encoded(t, want) {
		t.Errorf("got %s, want %s", bad.Text, encoded(t, want))
	}
	if n := len(b.call(http.MethodGet, onServer("users"), nil).want(http.StatusOK).list("users")); n != 1 {
		t.Errorf("there are %d users, want one", n)
	}
	b.call(http.MethodPost, target, object{"users": []object{}}).wantError(http.StatusBadRequest, "VPN.1318", "User list is empty.")
	b.call(http.MethodPost, target, `{"users":null}`).wantError(http.StatusBadRequest, "VPN.1318", "User list is empty.")
	b.call(http.MethodPost, target, object{"users": []object{{"name": "user4"}}}).wantError(http.StatusBadRequest, "VPN.0001", "users[0].password: is required")
}

func TestPagesOfUsersGroupsAndPolicies(t *testing.T) {
	b := newBench(t)
	b.passwordServer()
	group := b.createGroup("group")
	for i := range 4 {
		user := b.createUser(object{"name": fmt.Sprintf("user-%d", i)})
		b.call(http.MethodPost, onServer("groups", group, "add-users"), ids(user)).want(http.StatusCreated)
		b.createPolicy(group)
		if i > 0 {
			b.createGroup(fmt.Sprintf("group-%d", i))
		}
	}
	for list, total := range map[string]int{"users": 4, "groups": 5, "access-policies": 5, "groups/" + group + "/users": 4} {
		t.Run(list, func(t *testing.T) {
			b.t = t
			member := map[string]string{"groups": "user_groups", "access-policies": "access_policies"}[list]
			if member == "" {
				member = "users"
			}
			all := b.call(http.MethodGet, onServer(list), nil).want(http.StatusOK)
			wantMembers(t, all.body, object{"total_count": total})
			wantMembers(t, all.at("page_info"), object{"current_count": total})
			wantAbsent(t, all.at("page_info"), "next_marker")
			var seen []any
			for marker := "first"; marker != ""; {
				query := "?limit=2&marker=" + strings.TrimPrefix(marker, "first")
				page := b.call(http.MethodGet, onServer(list+query), nil).want(http.StatusOK)
				wantMembers(t, page.body, object{"total_count": total})
				seen = append(seen, page.list(member)...)
				marker = page.text("page_info", "next_marker")
			}
			if encoded(t, seen) != encoded(t, all.list(member)) {
				t.Errorf("pages have %v, want %v", seen, all.list(member))
			}
			for query, message := range map[string]string{
				"limit=0": "query parameter limit: must be from 1 to 2000", "limit=2001": "query parameter limit",
				"marker=" + all.text("page_info", "x") + "2026-11-23T12:00:00.000Z": "marker", "limit=1&marker=x": "marker",
			} {
				b.call(http.MethodGet, onServer(list+"?"+query), nil).wantError(http.StatusBadRequest, "VPN.0001", message)
			}
		})
	}
}

func TestUsersOfProjectsAreApart(t *testing.T) {
	b := newBench(t)
	b.passwordServer()
	group, user := b.createGroup("group"), b.createUser(object{"name": "user-1"})
	for id, op := range everyUserOperation(user, group, b.createPolicy(group)) {
		t.Run(id, func(t *testing.T) {
			b.t = t
			method, target, body := op[0].(string), op[1].(string), op[2]
			b.as("stranger", method, target, body).wantError(http.StatusForbidden, "VPN.0003", "Authentication failed: ")
			own := strings.Replace(target, project, otherProject, 1)
			b.as("stranger", method, own, body).wantError(http.StatusNotFound, "VPN.1116", "The server does not exist.")
		})
	}
}

func TestCreationsOfUsersAreRepeatable(t *testing.T) {
	b := newBench(t)
	b.passwordServer()
	group := b.createGroup("group")
	every := everyUserOperation("", group, "")
	for i, id := range []string{"CreateVpnUser", "BatchCreateVpnUsers", "CreateVpnUserGroup", "CreateVpnAccessPolicy"} {
		target, body := every[id][1].(string), every[id][2]
		token := fmt.Sprintf("5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c000%d", i)
		first := b.marked("admin", token, target, body).want(http.StatusCreated)
		again := b.marked("admin", token, target, body).want(http.StatusCreated)
		delete(first.body, "request_id")
		delete(again.body, "request_id")
		if encoded(t, first.body) != encoded(t, again.body) {
			t.Errorf("%s: the second answer is %s, want %s", id, again.Text, first.Text)
		}
		b.marked("admin", token, target, strings.Replace(encoded(t, body), "new", "old", 1)+" ").
			wantError(http.StatusBadRequest, "VPN.0031", "Repeated operation.")
	}
	for list, total := range map[string]int{"users": 2, "groups": 3, "access-policies": 2} {
		wantMembers(t, b.call(http.MethodGet, onServer(list), nil).want(http.StatusOK).body, object{"total_count": total})
	}
}

// No password of a user, and no hash of one, is in an answer, the log, the
// audit log or what tokens stand for.
func TestPasswordsOfUsersAreNowhere(t *testing.T) {
	b := newBench(t)
	b.passwordServer()
	group, user := b.createGroup("group"), b.createUser(object{"name": "user-1"})
	every := everyUserOperation(user, group, b.createPolicy(group))
	secrets := []string{userPassword, newUserPassword, "argon2"}
	names := slices.Sorted(maps.Keys(every))
	slices.SortStableFunc(names, func(x, y string) int { // deletions come last
		return strings.Count(x, "Delete") - strings.Count(y, "Delete")
	})
	for _, name := range names {
		for _, who := range []string{"admin", "readonly"} {
			a := b.as(who, every[name][0].(string), every[name][1].(string), every[name][2])
			for _, secret := range secrets {
				if strings.Contains(a.Text, secret) {
					t.Errorf("the answer of %s holds %q", name, secret)
				}
			}
		}
	}
	text, err := os.ReadFile(b.auditFile)
	check(t, err)
	if !strings.Contains(string(text), `"password_hashes","before":"[hidden]","after":"[hidden]"`) {
		t.Error("the audit log does not tell that a password was changed")
	}
	for where, content := range map[string]string{"audit log": string(text), "log": b.log.String()} {
		for _, secret := range secrets {
			if strings.Contains(content, secret) {
				t.Errorf("the %s holds %q", where, secret)
			}
		}
	}
}
