package control

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestRoles(t *testing.T) {
	for _, test := range []struct {
		action                    string
		admin, operator, readOnly bool
	}{
		{"vpn:vpnGateways:create", true, false, false},
		{"vpn:vpnGateways:update", true, false, false},
		{"vpn:vpnGateways:delete", true, false, false},
		{"vpn:vpnGateways:get", true, true, true},
		{"vpn:vpnGateways:list", true, true, true},
		{"vpn:vpnGateways:getRoutingTable", true, true, true},
		{"vpn:vpnGateways:listResourceJobs", true, true, true},
		{"vpn:vpnGateways:importCertificate", true, false, false},
		{"vpn:customerGateways:create", true, true, false},
		{"vpn:vpnConnections:create", true, true, false},
		{"vpn:vpnConnections:batchCreate", true, true, false},
		{"vpn:vpnConnections:reset", true, true, false},
		{"vpn:vpnConnections:getLog", true, true, true},
		{"vpn:resourceInstances:count", true, true, true},
		{"vpc:vpcs:get", false, false, false},
		{"get", false, false, false},
		{"", false, false, false},
	} {
		for role, want := range map[Role]bool{RoleAdmin: test.admin, RoleOperator: test.operator, RoleReadOnly: test.readOnly, "": false, "root": false} {
			if got := role.Allows(test.action); got != want {
				t.Errorf("%q may %s: %t, want %t", role, test.action, got, want)
			}
			caller := Principal{Project: project, Role: role}
			code := CodeForbidden
			if want {
				code = ""
			}
			wantRefusal(t, caller.Authorise(project, test.action), code)
			wantRefusal(t, caller.Authorise("another-project", test.action), CodeForbidden, "project")
		}
	}
}

func accountsOfTest() ([]Credential, []User) {
	return []Credential{{AccessKey: "AK", SecretKey: NewSecret("SK"), Role: RoleOperator, Project: project}},
		[]User{{Domain: "home", Name: "ada", Password: NewSecret("Lovelace-1815"), Role: RoleAdmin, Project: project, ProjectName: "main"}}
}

func newAccess(t *testing.T) (*Access, *world) {
	t.Helper()
	w := newWorld(t)
	credentials, users := accountsOfTest()
	a, err := NewAccess(AccessOptions{Store: w.store, Credentials: credentials, Users: users, Now: func() time.Time { return w.clock }})
	if err != nil {
		t.Fatal(err)
	}
	return a, w
}

func TestAccountsAreChecked(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(*Credential, *User)
		want string
	}{
		{"good", func(*Credential, *User) {}, ""},
		{"no access key", func(c *Credential, _ *User) { c.AccessKey = "" }, "credentials[0]"},
		{"no secret key", func(c *Credential, _ *User) { c.SecretKey = Secret{} }, "credentials[0]"},
		{"unknown role", func(c *Credential, _ *User) { c.Role = "root" }, "credentials[0]: role"},
		{"no project", func(c *Credential, _ *User) { c.Project = "" }, "project_id"},
		{"bad project", func(_ *Credential, u *User) { u.Project = "a/b" }, "users[0]"},
		{"no user name", func(_ *Credential, u *User) { u.Name = "" }, "users[0]"},
		{"no password", func(_ *Credential, u *User) { u.Password = NewSecret("") }, "users[0]"},
		{"user without role", func(_ *Credential, u *User) { u.Role = "" }, "users[0]: role"},
	} {
		a, _ := newAccess(t)
		credentials, users := accountsOfTest()
		test.edit(&credentials[0], &users[0])
		err := a.SetAccounts(credentials, users)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
		if _, ok := a.Credential("AK"); !ok {
			t.Errorf("%s: a refused change took the old accounts away", test.name)
		}
	}
	credentials, users := accountsOfTest()
	a, _ := newAccess(t)
	if err := a.SetAccounts(append(credentials, credentials...), nil); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("one access key twice: %v", err)
	}
	if err := a.SetAccounts(nil, append(users, users...)); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("one user twice: %v", err)
	}
	if _, err := NewAccess(AccessOptions{}); err == nil {
		t.Error("made an access without a store")
	}
}

func TestCredentials(t *testing.T) {
	a, _ := newAccess(t)
	c, ok := a.Credential("AK")
	if !ok || c.SecretKey.Reveal() != "SK" || c.Principal() != (Principal{Name: "AK", Project: project, Role: RoleOperator}) {
		t.Errorf("credential %+v", c)
	}
	if _, ok := a.Credential(""); ok {
		t.Error("the empty access key has a credential")
	}
}

func login() Login {
	return Login{Domain: "home", Name: "ada", Password: NewSecret("Lovelace-1815"), ProjectName: "main"}
}

func TestTokens(t *testing.T) {
	a, w := newAccess(t)
	token, err := a.IssueToken(t.Context(), login())
	if err != nil {
		t.Fatal(err)
	}
	if !token.User.Password.IsZero() || token.Expires.Sub(token.Issued) != 24*time.Hour || len(token.Text) < 43 {
		t.Errorf("token %+v", token)
	}
	want := Principal{Name: "home/ada", Project: project, Role: RoleAdmin}
	if got, err := a.VerifyToken(t.Context(), token.Text); err != nil || got != want {
		t.Errorf("verified as %+v, %v", got, err)
	}
	entries, _, err := w.store.List(t.Context(), prefixTokens)
	if err != nil || len(entries) != 1 || strings.Contains(entries[0].Key+string(entries[0].Value), token.Text) {
		t.Errorf("the store shows the token in %v, or %v", entries, err)
	}
	for _, wrong := range []string{"", token.Text[1:], token.Text + "A", strings.Repeat("A", 43), strings.Repeat("A", 10000), tokenKey(token.Text)} {
		_, err := a.VerifyToken(t.Context(), wrong)
		wantUnauthenticated(t, err)
	}

	issued := w.clock
	w.clock = issued.Add(24*time.Hour - time.Nanosecond)
	if _, err := a.VerifyToken(t.Context(), token.Text); err != nil {
		t.Errorf("just before it expires: %v", err)
	}
	w.clock = issued.Add(24 * time.Hour)
	_, err = a.VerifyToken(t.Context(), token.Text)
	wantUnauthenticated(t, err)

	w.clock = issued
	if err := a.RevokeToken(t.Context(), token.Text); err != nil {
		t.Fatal(err)
	}
	_, err = a.VerifyToken(t.Context(), token.Text)
	wantUnauthenticated(t, err)
	if err := a.RevokeToken(t.Context(), token.Text); err != nil {
		t.Errorf("revoked twice: %v", err)
	}
}

func wantUnauthenticated(t *testing.T, err error) {
	t.Helper()
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Status != 401 {
		t.Errorf("got %v, want a refusal with status 401", err)
	}
}

func TestLoginIsRefused(t *testing.T) {
	a, _ := newAccess(t)
	for name, edit := range map[string]func(*Login){
		"wrong password":       func(l *Login) { l.Password = NewSecret("Lovelace-1816") },
		"no password":          func(l *Login) { l.Password = Secret{} },
		"unknown user":         func(l *Login) { l.Name = "bob" },
		"nobody at all":        func(l *Login) { *l = Login{} },
		"another domain":       func(l *Login) { l.Domain = "away" },
		"another project":      func(l *Login) { l.ProjectName = "other" },
		"another project's id": func(l *Login) { l.ProjectID = "other" },
	} {
		l := login()
		edit(&l)
		_, err := a.IssueToken(t.Context(), l)
		wantUnauthenticated(t, err)
		if err != nil && strings.Contains(err.Error(), "Lovelace") {
			t.Errorf("%s: the refusal shows the password: %v", name, err)
		}
	}
	for name, edit := range map[string]func(*Login){
		"no project":         func(l *Login) { l.ProjectName = "" },
		"project by id":      func(l *Login) { l.ProjectName, l.ProjectID = "", project },
		"project id as name": func(l *Login) { l.ProjectName = project },
	} {
		l := login()
		edit(&l)
		if _, err := a.IssueToken(t.Context(), l); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a token stands for is decided when it is used.
func TestTokensFollowTheAccounts(t *testing.T) {
	for name, test := range map[string]struct {
		edit  func(*User)
		valid bool
		role  Role
	}{
		"same":             {func(*User) {}, true, RoleAdmin},
		"another role":     {func(u *User) { u.Role = RoleReadOnly }, true, RoleReadOnly},
		"another password": {func(u *User) { u.Password = NewSecret("another") }, false, ""},
		"another project":  {func(u *User) { u.Project = "another" }, false, ""},
		"another user":     {func(u *User) { u.Name = "bob" }, false, ""},
	} {
		a, _ := newAccess(t)
		token, err := a.IssueToken(t.Context(), login())
		if err != nil {
			t.Fatal(err)
		}
		_, users := accountsOfTest()
		test.edit(&users[0])
		if err := a.SetAccounts(nil, users); err != nil {
			t.Fatal(err)
		}
		p, err := a.VerifyToken(t.Context(), token.Text)
		if test.valid && (err != nil || p.Role != test.role) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
		if !test.valid {
			wantUnauthenticated(t, err)
		}
	}
}

func TestTokensOfAUserAreBounded(t *testing.T) {
	a, w := newAccess(t)
	var texts []string
	for range tokensPerUser + 1 {
		w.clock = w.clock.Add(time.Second)
		token, err := a.IssueToken(t.Context(), login())
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, token.Text)
	}
	_, err := a.VerifyToken(t.Context(), texts[0])
	wantUnauthenticated(t, err)
	for _, text := range []string{texts[1], texts[tokensPerUser]} {
		if _, err := a.VerifyToken(t.Context(), text); err != nil {
			t.Errorf("a token within the limit: %v", err)
		}
	}
	w.clock = w.clock.Add(25 * time.Hour)
	if _, err := a.IssueToken(t.Context(), login()); err != nil {
		t.Fatal(err)
	}
	if entries, _, err := w.store.List(t.Context(), prefixTokens); err != nil || len(entries) != 1 {
		t.Errorf("%d tokens are kept once the others have expired, %v", len(entries), err)
	}
}
