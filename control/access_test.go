package control

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control/store"
)

// accessWorld is an Access whose clock the test moves.
type accessWorld struct {
	*Access
	t     *testing.T
	clock time.Time
}

func newAccessWorld(t *testing.T, users ...User) *accessWorld {
	t.Helper()
	db, err := store.OpenBolt(filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &accessWorld{t: t, clock: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	w.Access, err = NewAccess(AccessOptions{Store: db, Accounts: Accounts{Users: users}, Now: func() time.Time { return w.clock }})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *accessWorld) issue(name, password string) string {
	w.t.Helper()
	w.clock = w.clock.Add(time.Millisecond)
	token, err := w.IssueToken(context.Background(), Login{Domain: "acme", Name: name, Password: NewSecret(password), ProjectID: "p1"})
	if err != nil {
		w.t.Fatal(err)
	}
	return token.Text
}

func (w *accessWorld) valid(token string) bool {
	_, err := w.VerifyToken(context.Background(), token)
	return err == nil
}

func accessUser(name, password string) User {
	return User{Domain: "acme", Name: name, Password: NewSecret(password), Role: RoleOperator, Project: "p1"}
}

func TestTokenIsVoidOnceItsUserChanges(t *testing.T) {
	user := accessUser("ops", "first password")
	for _, test := range []struct {
		name   string
		change func(u *User)
		valid  bool
	}{
		{"nothing", func(*User) {}, true},
		{"role", func(u *User) { u.Role = RoleReadOnly }, true},
		{"password", func(u *User) { u.Password = NewSecret("second password") }, false},
		{"project", func(u *User) { u.Project = "p2" }, false},
		{"name", func(u *User) { u.Name = "other" }, false},
		{"domain", func(u *User) { u.Domain = "other" }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newAccessWorld(t, user)
			token := w.issue("ops", "first password")
			changed := user
			test.change(&changed)
			if err := w.SetAccounts(Accounts{Users: []User{changed}}); err != nil {
				t.Fatal(err)
			}
			if got := w.valid(token); got != test.valid {
				t.Errorf("the token is valid: %v, want %v", got, test.valid)
			}
			if p, err := w.VerifyToken(t.Context(), token); err == nil && p.Role != changed.Role {
				t.Errorf("the token has role %s, want the present one %s", p.Role, changed.Role)
			}
		})
	}
}

func TestTokensOfAUserAreBounded(t *testing.T) {
	w := newAccessWorld(t, accessUser("ops", "a password"), accessUser("dev", "b password"))
	other := w.issue("dev", "b password")
	tokens := []string{w.issue("ops", "a password")}
	user := w.accounts.Load().users[userKey{"acme", "ops"}][0]
	for range tokensPerUser {
		w.clock = w.clock.Add(time.Millisecond)
		token, err := w.Access.issue(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, token.Text)
	}
	if w.valid(tokens[0]) || !w.valid(tokens[1]) || !w.valid(tokens[tokensPerUser]) || !w.valid(other) {
		t.Error("not the oldest token of the user went, or not it alone")
	}
	w.clock = w.clock.Add(tokenLifetime)
	w.issue("dev", "b password")
	rows, _, err := w.tokens.List(t.Context(), "")
	if err != nil || len(rows) != 1 {
		t.Errorf("%d tokens are kept (%v), want the one that has not expired", len(rows), err)
	}
}

func TestStoreHasNoToken(t *testing.T) {
	w := newAccessWorld(t, accessUser("ops", "a password"))
	token := w.issue("ops", "a password")
	entries, _, err := w.store.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if text := fmt.Sprintf("%s %s", e.Key, e.Value); strings.Contains(text, token) || strings.Contains(text, "a password") {
			t.Errorf("the store holds a secret: %s", text)
		}
	}
}

func TestAccountsAreChecked(t *testing.T) {
	credential := Credential{AccessKey: "ak", SecretKey: NewSecret("sk"), Role: RoleAdmin, Project: "p1"}
	user := accessUser("ops", "a password")
	elsewhere, userElsewhere := credential, user
	elsewhere.Project, userElsewhere.Project = "p2", "p2"
	otherSecret, otherPassword := elsewhere, userElsewhere
	otherSecret.SecretKey, otherPassword.Password = NewSecret("sk2"), NewSecret("b password")
	for _, test := range []struct {
		name        string
		credentials []Credential
		users       []User
		field       string // empty: all is well
	}{
		{"good", []Credential{credential}, []User{user}, ""},
		{"no access key", []Credential{{SecretKey: NewSecret("sk"), Role: RoleAdmin, Project: "p1"}}, nil, "credentials[0]"},
		{"no secret key", []Credential{credential, {AccessKey: "b", Role: RoleAdmin, Project: "p1"}}, nil, "credentials[1]"},
		{"no role", []Credential{{AccessKey: "b", SecretKey: NewSecret("sk"), Project: "p1"}}, nil, "credentials[0]"},
		{"no project", []Credential{{AccessKey: "b", SecretKey: NewSecret("sk"), Role: RoleAdmin}}, nil, "credentials[0]"},
		{"same access key", []Credential{credential, credential}, nil, "credentials[1]"},
		{"unknown role", []Credential{{AccessKey: "b", SecretKey: NewSecret("sk"), Role: "root", Project: "p1"}}, nil, `role "root"`},
		{"no password", nil, []User{{Name: "ops", Role: RoleAdmin, Project: "p1"}}, "users[0]"},
		{"password and hash", nil, []User{{Name: "ops", Password: NewSecret("a"), Hash: testHash, Role: RoleAdmin, Project: "p1"}}, "users[0]"},
		{"hash alone", nil, []User{{Name: "ops", Hash: testHash, Role: RoleAdmin, Project: "p1"}}, ""},
		{"two projects", []Credential{credential, elsewhere}, []User{user, userElsewhere}, ""},
		{"two secret keys", []Credential{credential, otherSecret}, nil, "credentials[1]"},
		{"two passwords", nil, []User{user, otherPassword}, "users[1]"},
		{"same user", nil, []User{user, user}, "users[1]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newAccessWorld(t, accessUser("before", "a password"))
			token := w.issue("before", "a password")
			err := w.SetAccounts(Accounts{Credentials: test.credentials, Users: test.users})
			switch {
			case test.field == "" && err != nil:
				t.Error(err)
			case test.field != "" && (err == nil || !strings.Contains(err.Error(), test.field)):
				t.Errorf("got %v, want an error that names %s", err, test.field)
			case test.field != "" && !w.valid(token):
				t.Error("accounts changed in spite of the error")
			}
		})
	}
}

func TestProjectsOfOneAccount(t *testing.T) {
	user, elsewhere := accessUser("ops", "a password"), accessUser("ops", "a password")
	elsewhere.Project, elsewhere.ProjectName, elsewhere.Role = "p2", "second", RoleReadOnly
	w := newAccessWorld(t, user, elsewhere)
	for _, test := range []struct {
		id, name string
		want     Principal // zero: refused
	}{
		{"p1", "", Principal{"acme/ops", "p1", RoleOperator}},
		{"p2", "", Principal{"acme/ops", "p2", RoleReadOnly}},
		{"", "second", Principal{"acme/ops", "p2", RoleReadOnly}},
		{"p1", "second", Principal{}},
		{"p3", "", Principal{}},
	} {
		token, err := w.IssueToken(t.Context(), Login{Domain: "acme", Name: "ops", Password: NewSecret("a password"), ProjectID: test.id, ProjectName: test.name})
		if test.want == (Principal{}) {
			if err == nil {
				t.Errorf("project %q %q: a token of %s", test.id, test.name, token.User.Project)
			}
			continue
		}
		if got, err2 := w.VerifyToken(t.Context(), token.Text); err != nil || err2 != nil || got != test.want {
			t.Errorf("project %q %q: %+v (%v, %v), want %+v", test.id, test.name, got, err, err2, test.want)
		}
	}
	credential := func(project string, role Role) Credential {
		return Credential{AccessKey: "ak", SecretKey: NewSecret("sk"), Project: project, Role: role}
	}
	if err := w.SetAccounts(Accounts{Credentials: []Credential{credential("p1", RoleAdmin), credential("p2", RoleReadOnly)}}); err != nil {
		t.Fatal(err)
	}
	for project, want := range map[string]Principal{
		"p1": {"ak", "p1", RoleAdmin}, "p2": {"ak", "p2", RoleReadOnly}, "p3": {"ak", "p1", RoleAdmin}, "": {"ak", "p1", RoleAdmin},
	} {
		c, ok := w.Credential("ak", project)
		if got := c.Principal(); !ok || got != want {
			t.Errorf("in project %q: %+v, want %+v", project, got, want)
		}
		allowed := w.Authorise(c.Principal(), project, "vpn:vpnGateways:create") == nil
		if allowed != (project == "p1" || project == "") {
			t.Errorf("in project %q creation is allowed: %v", project, allowed)
		}
	}
	if _, ok := w.Credential("other", "p1"); ok {
		t.Error("there is a credential of an unknown key")
	}
}
