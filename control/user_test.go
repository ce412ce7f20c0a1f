package control

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control/store"
)

func TestUserFromCreationToDeletion(t *testing.T) {
	w := userWorld(t)
	g := w.addGroup("用户组-1")
	created := w.addUser("user.001_-", func(r *UserCreate) {
		r.Description, r.GroupID, r.StaticIP = new("用户描述-1"), &g.ID, new("172.16.0.5")
	})
	v := w.showUser(created.ID)
	if v.Name != "user.001_-" || v.Description != "用户描述-1" || v.GroupID != g.ID || v.GroupName != g.Name || v.StaticIP.String() != "172.16.0.5" {
		t.Errorf("got %+v", v)
	}
	if len(v.Passwords) != 0 || len(created.Passwords) != 0 {
		t.Error("a password left the store")
	}
	w.clock = w.clock.Add(time.Hour)
	// What is repeated unchanged is no change.
	same, err := w.UpdateUser(t.Context(), project, serverOfUsers, v.ID, UserUpdate{
		Description: &v.Description, GroupID: &v.GroupID, StaticIP: new("172.16.0.5"),
	})
	if err != nil || !same.UpdatedAt.Equal(v.UpdatedAt) || same.Generation != 1 {
		t.Errorf("got %+v, %v", same, err)
	}
	changed, err := w.UpdateUser(t.Context(), project, serverOfUsers, v.ID, UserUpdate{
		Description: new(""), GroupID: new(defaultGroup), StaticIP: new("disable"),
	})
	if err != nil || changed.Description != "" || changed.GroupName != "default" || changed.StaticIP.IsValid() || !changed.UpdatedAt.After(v.UpdatedAt) {
		t.Errorf("got %+v, %v", changed, err)
	}
	changed, err = w.UpdateUser(t.Context(), project, serverOfUsers, v.ID, UserUpdate{GroupID: new("")})
	if err != nil || changed.GroupID != "" || changed.GroupName != "" {
		t.Errorf("got %+v, %v", changed, err)
	}
	// None of it cost the user the password.
	wantP2C(t, w.ChangePassword(t.Context(), project, serverOfUsers, v.ID, NewSecret(goodPassword), NewSecret("Another-1")), "")
	wantP2C(t, w.DeleteUser(t.Context(), project, serverOfUsers, v.ID), "")
	_, err = w.ShowUser(t.Context(), project, serverOfUsers, v.ID)
	wantP2C(t, err, "VPN.1303")
	wantP2C(t, w.DeleteUser(t.Context(), project, serverOfUsers, v.ID), "VPN.1303")
}

func TestUserRules(t *testing.T) {
	w := userWorld(t)
	w.addUser("taken", func(r *UserCreate) { r.StaticIP = new("172.16.0.9") })
	for _, test := range []struct {
		name string
		edit func(*UserCreate)
		code string
		word string
	}{
		{"smallest", func(*UserCreate) {}, "", ""},
		{"no name", func(r *UserCreate) { r.Name = nil }, CodeInvalid, "name: is required"},
		{"empty name", func(r *UserCreate) { r.Name = new("") }, CodeInvalid, "name: must have 4 to 32 characters"},
		{"short name", func(r *UserCreate) { r.Name = new("abc") }, CodeInvalid, "name: must have 4 to 32 characters"},
		{"shortest name", func(r *UserCreate) { r.Name = new("abcd") }, "", ""},
		{"longest name", func(r *UserCreate) { r.Name = new(strings.Repeat("a", 32)) }, "", ""},
		{"long name", func(r *UserCreate) { r.Name = new(strings.Repeat("a", 33)) }, CodeInvalid, "name: must have 4 to 32 characters"},
		{"chinese name", func(r *UserCreate) { r.Name = new("用户用户") }, CodeInvalid, "name: may hold"},
		{"name with a slash", func(r *UserCreate) { r.Name = new("user/1") }, CodeInvalid, "name: may hold"},
		{"taken name", func(r *UserCreate) { r.Name = new("taken") }, "VPN.1302", "already exists"},
		{"name in another case", func(r *UserCreate) { r.Name = new("Taken") }, "", ""},
		{"reserved name", func(r *UserCreate) { r.Name = new("SecureNAT") }, "VPN.1317", "unavailable"},
		{"reserved name in another case", func(r *UserCreate) { r.Name = new("LINK") }, "VPN.1317", "unavailable"},
		{"reserved prefix", func(r *UserCreate) { r.Name = new("l3sw_x") }, "VPN.1317", "unavailable"},
		{"nearly reserved", func(r *UserCreate) { r.Name = new("link1") }, "", ""},
		{"no password", func(r *UserCreate) { r.Password = nil }, CodeInvalid, "password: is required"},
		{"short password", func(r *UserCreate) { r.Password = new(NewSecret("Ab1defg")) }, "VPN.1308", ""},
		{"longest description", func(r *UserCreate) { r.Description = new(strings.Repeat("描", 64)) }, "", ""},
		{"long description", func(r *UserCreate) { r.Description = new(strings.Repeat("描", 65)) }, CodeInvalid, "description: must have 0 to 64"},
		{"description with a space", func(r *UserCreate) { r.Description = new("a b") }, CodeInvalid, "description: may hold"},
		{"empty group", func(r *UserCreate) { r.GroupID = new("") }, "", ""},
		{"default group", func(r *UserCreate) { r.GroupID = new(defaultGroup) }, "", ""},
		{"unknown group", func(r *UserCreate) { r.GroupID = new(nobody) }, "VPN.1301", "does not exist"},
		{"any address", func(r *UserCreate) { r.StaticIP = new("disable") }, "", ""},
		{"address", func(r *UserCreate) { r.StaticIP = new("172.16.0.5") }, "", ""},
		{"last block", func(r *UserCreate) { r.StaticIP = new("172.16.0.253") }, "", ""},
		{"no address", func(r *UserCreate) { r.StaticIP = new("") }, CodeInvalid, "static_ip: must be an IPv4 address"},
		{"IPv6", func(r *UserCreate) { r.StaticIP = new("2001:db8::5") }, CodeInvalid, "static_ip: must be an IPv4 address"},
		{"below the pool", func(r *UserCreate) { r.StaticIP = new("172.15.255.253") }, CodeInvalid, "static_ip: must lie in 172.16.0.0/24"},
		{"above the pool", func(r *UserCreate) { r.StaticIP = new("172.16.1.1") }, CodeInvalid, "static_ip: must lie in 172.16.0.0/24"},
		{"gateway", func(r *UserCreate) { r.StaticIP = new("172.16.0.1") }, CodeInvalid, "static_ip: must not be 172.16.0.1"},
		{"network of a block", func(r *UserCreate) { r.StaticIP = new("172.16.0.4") }, CodeInvalid, "static_ip: must be the first host of a block of /30: that of this block is 172.16.0.5"},
		{"second host", func(r *UserCreate) { r.StaticIP = new("172.16.0.6") }, CodeInvalid, "static_ip: must be the first host"},
		{"broadcast of a block", func(r *UserCreate) { r.StaticIP = new("172.16.0.7") }, CodeInvalid, "static_ip: must be the first host"},
		{"taken address", func(r *UserCreate) { r.StaticIP = new("172.16.0.9") }, CodeInvalid, "static_ip: 172.16.0.9 is that of user taken"},
	} {
		t.Run(test.name, func(t *testing.T) {
			req := userRequest("user-1")
			test.edit(&req)
			u, err := w.CreateUser(t.Context(), project, serverOfUsers, req)
			wantP2C(t, err, test.code, test.word)
			if err == nil {
				wantP2C(t, w.DeleteUser(t.Context(), project, serverOfUsers, u.ID), "")
			}
		})
	}
}

func TestUpdateOfUserRules(t *testing.T) {
	w := userWorld(t)
	w.addUser("taken", func(r *UserCreate) { r.StaticIP = new("172.16.0.9") })
	u := w.addUser("user-1")
	for _, test := range []struct {
		name string
		req  UserUpdate
		code string
	}{
		{"nothing", UserUpdate{}, ""},
		{"description", UserUpdate{Description: new("a b")}, CodeInvalid},
		{"unknown group", UserUpdate{GroupID: new(nobody)}, "VPN.1301"},
		{"taken address", UserUpdate{StaticIP: new("172.16.0.9")}, CodeInvalid},
		{"gateway", UserUpdate{StaticIP: new("172.16.0.1")}, CodeInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := w.UpdateUser(t.Context(), project, serverOfUsers, u.ID, test.req)
			wantP2C(t, err, test.code)
		})
	}
}

func TestNumberOfUsersIsBounded(t *testing.T) {
	w := userWorld(t) // for 10 connections
	ids := w.storeUsers(9)
	last := w.addUser("user-10")
	_, err := w.CreateUser(t.Context(), project, serverOfUsers, userRequest("user-11"))
	wantP2C(t, err, "VPN.1307", "exceeds the upper limit")
	_, err = w.CreateUsers(t.Context(), project, serverOfUsers, []UserCreate{userRequest("user-11")})
	wantP2C(t, err, "VPN.1307")
	wantP2C(t, w.DeleteUsers(t.Context(), project, serverOfUsers, append(ids[1:3], last.ID)), "")
	batch := many(4, func(i int) UserCreate { return userRequest(fmt.Sprintf("batch-%d", i)) })
	_, err = w.CreateUsers(t.Context(), project, serverOfUsers, batch)
	wantP2C(t, err, "VPN.1307")
	_, err = w.CreateUsers(t.Context(), project, serverOfUsers, batch[:3])
	wantP2C(t, err, "")
}

func TestUsersByPage(t *testing.T) {
	w := userWorld(t)
	var newestFirst []string
	for i := range 5 { // all in one millisecond
		newestFirst = append([]string{w.addUser(fmt.Sprintf("user-%d", i)).ID}, newestFirst...)
	}
	list := func(page Page) List[UserView] {
		t.Helper()
		l, err := w.ListUsers(t.Context(), project, serverOfUsers, page)
		wantP2C(t, err, "")
		return l
	}
	ids := func(l List[UserView]) (out []string) {
		for _, u := range l.Items {
			out = append(out, u.ID)
		}
		return out
	}
	if all := list(Page{}); all.Total != 5 || all.NextMarker != "" || !slices.Equal(ids(all), newestFirst) {
		t.Errorf("got %d of %d, %q", len(all.Items), all.Total, all.NextMarker)
	}
	first := list(Page{Limit: new(2)})
	if first.Total != 5 || first.NextMarker == "" || !slices.Equal(ids(first), newestFirst[:2]) {
		t.Errorf("got %v, %q", ids(first), first.NextMarker)
	}
	// What comes and goes between the pages moves nothing.
	w.addUser("user-6")
	wantP2C(t, w.DeleteUser(t.Context(), project, serverOfUsers, newestFirst[1]), "")
	second := list(Page{Limit: new(2), Marker: first.NextMarker})
	if !slices.Equal(ids(second), newestFirst[2:4]) || second.NextMarker == "" {
		t.Errorf("got %v, %q", ids(second), second.NextMarker)
	}
	last := list(Page{Limit: new(2), Marker: second.NextMarker})
	if !slices.Equal(ids(last), newestFirst[4:]) || last.NextMarker != "" {
		t.Errorf("got %v, %q", ids(last), last.NextMarker)
	}
	if whole := list(Page{Limit: new(5)}); len(whole.Items) != 5 || whole.NextMarker != "" {
		t.Errorf("got %d, %q", len(whole.Items), whole.NextMarker)
	}
	list(Page{Limit: new(1)})
	list(Page{Limit: new(2000)})
	for _, page := range []Page{{Limit: new(0)}, {Limit: new(2001)}, {Marker: first.NextMarker}, {Limit: new(1), Marker: "x"}} {
		_, err := w.ListUsers(t.Context(), project, serverOfUsers, page)
		wantP2C(t, err, CodeInvalid)
	}
}

// A provider creates users, groups and policies many at a time: none fails, and
// no two have the same time of creation.
func TestUsersAreCreatedAtOnce(t *testing.T) {
	w := userWorld(t, func(g *P2CGateway, _ *VPNServer) { g.MaxConnections = 20 })
	ctx := t.Context()
	var errs [30]error
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			_, errs[i] = w.CreateUser(ctx, project, serverOfUsers, userRequest(fmt.Sprintf("user-%d", i)))
		})
		wg.Go(func() {
			g, err := w.CreateUserGroup(ctx, project, serverOfUsers, UserGroupCreate{Name: new(fmt.Sprintf("group-%d", i))})
			if err == nil {
				_, err = w.CreateAccessPolicy(ctx, project, serverOfUsers, AccessPolicyCreate{Name: new("p"), GroupID: &g.ID, Destinations: []string{"10.0.0.0/8"}})
			}
			errs[10+i] = err
		})
	}
	wg.Wait()
	for _, err := range errs {
		wantP2C(t, err, "")
	}
	l, err := w.ListUsers(ctx, project, serverOfUsers, Page{})
	wantP2C(t, err, "")
	times := map[time.Time]bool{}
	for _, u := range l.Items {
		times[u.CreatedAt] = true
	}
	if len(times) != 10 {
		t.Errorf("%d users have %d times of creation", len(l.Items), len(times))
	}
}

func TestListsOfUsers(t *testing.T) {
	w := userWorld(t)
	ids := w.storeUsers(3)
	ctx := t.Context()
	wantP2C(t, w.DeleteUsers(ctx, project, serverOfUsers, nil), "VPN.1318", "User list is empty.")
	wantP2C(t, w.DeleteUsers(ctx, project, serverOfUsers, []string{ids[0], ids[1], ids[0]}), "VPN.1315", "Duplicate user "+ids[0]+".")
	wantP2C(t, w.DeleteUsers(ctx, project, serverOfUsers, []string{ids[0], nobody}), "VPN.1303")
	wantP2C(t, w.DeleteUsers(ctx, project, serverOfUsers, many(501, func(i int) string { return fmt.Sprint(i) })), CodeInvalid, "users: must be at most 500")
	if l, err := w.ListUsers(ctx, project, serverOfUsers, Page{}); err != nil || l.Total != 3 {
		t.Errorf("%d users are left, want all 3 (%v)", l.Total, err)
	}
}

// More users than one transaction takes are checked before the first is changed.
func TestManyUsersAtOnce(t *testing.T) {
	w := userWorld(t, func(g *P2CGateway, _ *VPNServer) { g.MaxConnections = 500 })
	ids := w.storeUsers(500)
	g, other := w.addGroup("group"), w.addGroup("other")
	ctx := t.Context()
	wantP2C(t, w.AddUsersToGroup(ctx, project, serverOfUsers, other.ID, ids[499:]), "")
	wantP2C(t, w.AddUsersToGroup(ctx, project, serverOfUsers, g.ID, ids), "VPN.1304", "stored-499")
	if v, err := w.ShowUserGroup(ctx, project, serverOfUsers, g.ID); err != nil || v.Users != 0 {
		t.Errorf("%d users were put into the group (%v)", v.Users, err)
	}
	wantP2C(t, w.AddUsersToGroup(ctx, project, serverOfUsers, g.ID, ids[:499]), "")
	if v, err := w.ShowUserGroup(ctx, project, serverOfUsers, g.ID); err != nil || v.Users != 499 {
		t.Errorf("%d users are in the group (%v)", v.Users, err)
	}
	wantP2C(t, w.DeleteUsers(ctx, project, serverOfUsers, ids), "")
	if l, err := w.ListUsers(ctx, project, serverOfUsers, Page{}); err != nil || l.Total != 0 {
		t.Errorf("%d users are left (%v)", l.Total, err)
	}
}

// A user whose hashes cannot be read has no password, and can be mended.
func TestUserWithDamagedHashes(t *testing.T) {
	w := newWorld(t)
	v := w.server(t)
	req := UserCreate{Name: new("user-1"), Password: new(NewSecret("Qwerasdf-1"))}
	u, err := w.CreateUser(t.Context(), project, v.ID, req)
	if err != nil {
		t.Fatal(err)
	}
	damage := func() {
		t.Helper()
		put, err := w.objects.p2c.users.Put(project+"/"+u.ID, storedUser{VPNUser: u, PasswordHashes: []string{"$argon2id$", "x"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.Txn(t.Context(), nil, []store.Op{put}); err != nil {
			t.Fatal(err)
		}
	}
	damage()
	if s := w.snapshot(); len(s.Users) != 0 || s.Unreadable[u.ID] == nil {
		t.Errorf("the reconciler is given users %v, unreadable %v", s.Users, s.Unreadable)
	}
	wantCode(t, w.ChangePassword(t.Context(), project, v.ID, u.ID, NewSecret("Qwerasdf-1"), NewSecret("Qwerasdf-2")), "VPN.1312", "")
	if err := w.ResetPassword(t.Context(), project, v.ID, u.ID, NewSecret("Qwerasdf-2")); err != nil {
		t.Errorf("reset: %v", err)
	}
	if s := w.snapshot(); len(s.Users) != 1 || !s.Users[0].Passwords[0].Matches(NewSecret("Qwerasdf-2")) {
		t.Error("the new password is not in force")
	}
	damage()
	if _, err := w.ShowUser(t.Context(), project, v.ID, u.ID); err != nil {
		t.Errorf("show: %v", err)
	}
	if err := w.DeleteUser(t.Context(), project, v.ID, u.ID); err != nil {
		t.Errorf("delete: %v", err)
	}
}
