package control

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
)

func TestBatchOfUsers(t *testing.T) {
	w := userWorld(t)
	g := w.addGroup("group-1")
	invalid, err := w.CreateUsers(t.Context(), project, serverOfUsers, []UserCreate{
		{Name: new("user1"), Password: new(NewSecret(goodPassword)), Description: new("用户描述1"), GroupName: new("default")},
		{Name: new("user2"), Password: new(NewSecret(goodPassword)), GroupName: &g.Name, StaticIP: new("172.16.0.5")},
		{Name: new("user3"), Password: new(NewSecret(goodPassword)), GroupName: new(""), StaticIP: new("disable")},
	})
	if err != nil || len(invalid) != 0 {
		t.Fatalf("got %+v, %v", invalid, err)
	}
	l, err := w.ListUsers(t.Context(), project, serverOfUsers, Page{})
	if err != nil || l.Total != 3 {
		t.Fatalf("%d users, %v", l.Total, err)
	}
	for i, want := range []struct{ name, group, address string }{
		{"user3", "", "invalid IP"}, {"user2", "group-1", "172.16.0.5"}, {"user1", "default", "invalid IP"},
	} {
		if u := l.Items[i]; u.Name != want.name || u.GroupName != want.group || u.StaticIP.String() != want.address {
			t.Errorf("got %s, %s, %s, want %+v", u.Name, u.GroupName, u.StaticIP, want)
		}
	}
	for _, u := range l.Items {
		wantP2C(t, w.ChangePassword(t.Context(), project, serverOfUsers, u.ID, NewSecret(goodPassword), NewSecret("Another-1")), "")
	}
}

func TestBatchOfUsersIsAllOrNothing(t *testing.T) {
	w := userWorld(t)
	w.addUser("taken", func(r *UserCreate) { r.StaticIP = new("172.16.0.9") })
	good := userRequest("good-1")
	for _, test := range []struct {
		cause string
		edit  func(*UserCreate)
	}{
		{"Duplicate user name.", func(r *UserCreate) { r.Name = new("taken") }},
		{"Duplicate user name.", func(r *UserCreate) { r.Name = new("good-1") }},
		{"Password length invalid.", func(r *UserCreate) { r.Password = new(NewSecret("Ab1")) }},
		{"The password complexity does not meet requirements.", func(r *UserCreate) { r.Password = new(NewSecret("aaaaaaaa")) }},
		{"The password contains invalid characters.", func(r *UserCreate) { r.Password = new(NewSecret("Qwerasdf密")) }},
		{"The password cannot be the username or the reverse of the username.", func(r *UserCreate) { r.Name, r.Password = new("user-00001"), new(NewSecret("user-00001")) }},
		{"The password is weak.", func(r *UserCreate) { r.Password = new(NewSecret("Password123")) }},
		{"The username is unavailable.", func(r *UserCreate) { r.Name = new("Cascade") }},
		{"The user group does not exist.", func(r *UserCreate) { r.GroupName = new("no such") }},
		{"name: must have 4 to 32 characters.", func(r *UserCreate) { r.Name = new("abc") }},
		{"description: must have 0 to 64 characters.", func(r *UserCreate) { r.Description = new(strings.Repeat("x", 65)) }},
		{"static_ip: must be an IPv4 address.", func(r *UserCreate) { r.StaticIP = new("172.16.0.5.1") }},
		{"static_ip: 172.16.0.9 is that of user taken.", func(r *UserCreate) { r.StaticIP = new("172.16.0.9") }},
		{"static_ip: 172.16.0.13 is that of user good-2.", func(r *UserCreate) { r.StaticIP = new("172.16.0.13") }},
	} {
		t.Run(test.cause, func(t *testing.T) {
			bad, other := userRequest("bad-1"), userRequest("good-2")
			other.StaticIP = new("172.16.0.13")
			bad.Description = new("kept")
			test.edit(&bad)
			invalid, err := w.CreateUsers(t.Context(), project, serverOfUsers, []UserCreate{good, other, bad})
			if err != nil || len(invalid) != 1 {
				t.Fatalf("got %+v, %v, want one that is not valid", invalid, err)
			}
			got := invalid[0]
			if got.Cause != test.cause || *got.Request.Name != *bad.Name || got.Request.Password != nil || *got.Request.Description != *bad.Description {
				t.Errorf("got %q of %+v", got.Cause, got.Request)
			}
		})
	}
	if l, err := w.ListUsers(t.Context(), project, serverOfUsers, Page{}); err != nil || l.Total != 1 {
		t.Errorf("there are %d users (%v), want the one from before", l.Total, err)
	}
	bad1, bad2 := userRequest("abc"), userRequest("taken")
	invalid, err := w.CreateUsers(t.Context(), project, serverOfUsers, []UserCreate{bad1, good, bad2})
	if err != nil || len(invalid) != 2 || *invalid[0].Request.Name != "abc" || *invalid[1].Request.Name != "taken" {
		t.Errorf("got %+v, %v, want both", invalid, err)
	}
}

func TestSizeOfBatch(t *testing.T) {
	w := userWorld(t, func(g *P2CGateway, _ *VPNServer) { g.MaxConnections = 500 })
	batch := many(101, func(i int) UserCreate { return userRequest(fmt.Sprintf("user-%d", i)) })
	_, err := w.CreateUsers(t.Context(), project, serverOfUsers, nil)
	wantP2C(t, err, "VPN.1318")
	_, err = w.CreateUsers(t.Context(), project, serverOfUsers, batch)
	wantP2C(t, err, CodeInvalid, "users: must be at most 100")
	taken := w.addUser("user-99")
	invalid, err := w.CreateUsers(t.Context(), project, serverOfUsers, batch[:100])
	if err != nil || len(invalid) != 1 {
		t.Errorf("got %+v, %v, want one that is taken", invalid, err)
	}
	wantP2C(t, w.DeleteUser(t.Context(), project, serverOfUsers, taken.ID), "")
	ctx := WithClientToken(t.Context(), ClientToken{Caller: "admin", Text: "1", Digest: sha256.Sum256([]byte("batch"))})
	for range 2 { // the second time nothing is done
		invalid, err := w.CreateUsers(ctx, project, serverOfUsers, batch[:100])
		if err != nil || len(invalid) > 0 {
			t.Fatalf("got %+v, %v", invalid, err)
		}
	}
	if l, err := w.ListUsers(t.Context(), project, serverOfUsers, Page{}); err != nil || l.Total != 100 {
		t.Errorf("there are %d users, %v", l.Total, err)
	}
}

// A batch that created nothing is not what its token stands for.
func TestBatchThatFailedIsNotRemembered(t *testing.T) {
	w := userWorld(t)
	u := w.addUser("user-1")
	ctx := WithClientToken(t.Context(), ClientToken{Caller: "admin", Text: "1"})
	invalid, err := w.CreateUsers(ctx, project, serverOfUsers, []UserCreate{userRequest("user-1")})
	if err != nil || len(invalid) != 1 {
		t.Fatalf("got %+v, %v", invalid, err)
	}
	wantP2C(t, w.DeleteUser(t.Context(), project, serverOfUsers, u.ID), "")
	if invalid, err = w.CreateUsers(ctx, project, serverOfUsers, []UserCreate{userRequest("user-1")}); err != nil || len(invalid) != 0 {
		t.Errorf("got %+v, %v", invalid, err)
	}
}

func TestCreationOfUserIsRepeated(t *testing.T) {
	w := userWorld(t)
	ctx := WithClientToken(t.Context(), ClientToken{Caller: "admin", Text: "1"})
	first, err := w.CreateUser(ctx, project, serverOfUsers, userRequest("user-1"))
	wantP2C(t, err, "")
	again, err := w.CreateUser(ctx, project, serverOfUsers, userRequest("user-1"))
	if err != nil || again.ID != first.ID {
		t.Errorf("got %s, %v, want %s", again.ID, err, first.ID)
	}
	other := WithClientToken(t.Context(), ClientToken{Caller: "admin", Text: "1", Digest: sha256.Sum256([]byte("other"))})
	_, err = w.CreateUser(other, project, serverOfUsers, userRequest("user-2"))
	wantP2C(t, err, CodeRepeated)
	entries, _, err := w.store.List(t.Context(), prefixClientTokens)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%d results, %v", len(entries), err)
	}
	if text := string(entries[0].Value); strings.Contains(text, "argon2") || strings.Contains(text, goodPassword) {
		t.Errorf("the result of a request holds the password: %s", text)
	}
}
