package control

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vpngw/vpngw/control/store"
)

// Role is what an account may do.
type Role string

// Roles.
const (
	RoleAdmin    Role = "admin"    // everything
	RoleOperator Role = "operator" // reads all, changes all but gateways and servers themselves
	RoleReadOnly Role = "readonly" // reads all
)

// operatorResources are the resource types whose every action an operator may
// take. The others hold addresses and capacity that a project pays for.
var operatorResources = []string{"customerGateways", "vpnConnections", "connectionMonitors", "p2cVpnUser", "resourceInstanceTags"}

// Allows tells whether a role may take an action, which is written
// service:resource:verb as in vpn:vpnGateways:create.
func (r Role) Allows(action string) bool {
	parts := strings.Split(action, ":")
	if len(parts) != 3 || parts[0] != "vpn" {
		return false
	}
	resource, verb := parts[1], parts[2]
	reads := strings.HasPrefix(verb, "get") || strings.HasPrefix(verb, "list") || verb == "count"
	switch r {
	case RoleAdmin:
		return true
	case RoleOperator:
		return reads || slices.Contains(operatorResources, resource)
	case RoleReadOnly:
		return reads
	}
	return false
}

// Credential is an access key with the secret that signs requests.
type Credential struct {
	AccessKey string
	SecretKey Secret
	Role      Role
	Project   string // id
}

// User is somebody who obtains tokens by a password.
type User struct {
	Domain      string
	Name        string
	Password    Secret
	Role        Role
	Project     string // id
	ProjectName string
}

// Principal is the authenticated caller of the API.
type Principal struct {
	Name    string // access key, or domain/user
	Project string // id; the only project the caller has
	Role    Role
}

// Login is a request for a token.
type Login struct {
	Domain, Name string
	Password     Secret
	// Project is the id or the name of the project that the token is to be
	// for.
	ProjectID, ProjectName string
}

// Token is proof of a login. Text is shown to its owner once: the store has
// only its hash.
type Token struct {
	Text    string
	Issued  time.Time
	Expires time.Time
	User    User // without the password
}

const (
	tokenLifetime  = 24 * time.Hour
	tokenSize      = 32 // octets of randomness
	tokensPerUser  = 64
	prefixTokens   = "token"
	maxTokenLength = 128
)

type storedToken struct {
	Domain  string    `json:"domain"`
	Name    string    `json:"name"`
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires"`
	// Binding ties a token to the password and project it was issued for: a
	// change of either ends it. The token itself is the key, so that the store
	// is of no help in guessing passwords.
	Binding []byte `json:"binding"`
}

func bindToken(text string, u User) []byte {
	mac := hmac.New(sha256.New, []byte(text))
	mac.Write([]byte(u.Project + "/" + u.Password.Reveal()))
	return mac.Sum(nil)
}

// Access knows who may call the API. The accounts are those of the daemon's
// configuration; tokens are kept in the store. Its methods may be called from
// several goroutines.
type Access struct {
	tokens   store.Table[storedToken]
	store    store.Store
	accounts atomic.Pointer[accounts]
	random   io.Reader
	now      func() time.Time
}

type accounts struct {
	credentials map[string]Credential
	users       map[userKey]User
}

type userKey struct{ domain, name string }

// AccessOptions is what Access needs. Store is required.
type AccessOptions struct {
	Store       store.Store
	Credentials []Credential
	Users       []User
	Random      io.Reader        // default crypto/rand.Reader
	Now         func() time.Time // default time.Now
}

// NewAccess returns an Access, unless an account is incomplete or ambiguous.
func NewAccess(o AccessOptions) (*Access, error) {
	if o.Store == nil {
		return nil, errors.New("access: a store is required")
	}
	a := &Access{store: o.Store, tokens: store.NewTable[storedToken](o.Store, prefixTokens), random: o.Random, now: o.Now}
	if a.random == nil {
		a.random = rand.Reader
	}
	if a.now == nil {
		a.now = time.Now
	}
	return a, a.SetAccounts(o.Credentials, o.Users)
}

// SetAccounts replaces the accounts; on an error it changes nothing. Tokens of
// users that are no longer there, or have another password, are void.
func (a *Access) SetAccounts(credentials []Credential, users []User) error {
	next := &accounts{credentials: map[string]Credential{}, users: map[userKey]User{}}
	for i, c := range credentials {
		field := fmt.Sprintf("credentials[%d]", i)
		if c.AccessKey == "" || c.SecretKey.IsZero() {
			return fmt.Errorf("%s: access key and secret key are required", field)
		}
		if err := checkAccount(field, c.Role, c.Project); err != nil {
			return err
		}
		if _, taken := next.credentials[c.AccessKey]; taken {
			return fmt.Errorf("%s: its access key stands there twice", field)
		}
		next.credentials[c.AccessKey] = c
	}
	for i, u := range users {
		field := fmt.Sprintf("users[%d]", i)
		if u.Name == "" || u.Password.IsZero() {
			return fmt.Errorf("%s: name and password are required", field)
		}
		if err := checkAccount(field, u.Role, u.Project); err != nil {
			return err
		}
		if _, taken := next.users[userKey{u.Domain, u.Name}]; taken {
			return fmt.Errorf("%s: user %q of domain %q stands there twice", field, u.Name, u.Domain)
		}
		next.users[userKey{u.Domain, u.Name}] = u
	}
	a.accounts.Store(next)
	return nil
}

func checkAccount(field string, role Role, project string) error {
	if !slices.Contains([]Role{RoleAdmin, RoleOperator, RoleReadOnly}, role) {
		return fmt.Errorf("%s: role must be one of %s, %s, %s", field, RoleAdmin, RoleOperator, RoleReadOnly)
	}
	if err := validProject(project); err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	return nil
}

// Credential returns the credential of an access key.
func (a *Access) Credential(accessKey string) (Credential, bool) {
	c, ok := a.accounts.Load().credentials[accessKey]
	return c, ok
}

// Principal returns who a credential stands for.
func (c Credential) Principal() Principal {
	return Principal{Name: c.AccessKey, Project: c.Project, Role: c.Role}
}

// IssueToken checks a password and returns a token, good for 24 hours. A wrong
// user, password or project are refused alike. A user has at most 64 tokens:
// beyond that the oldest is void.
func (a *Access) IssueToken(ctx context.Context, l Login) (Token, error) {
	user, known := a.accounts.Load().users[userKey{l.Domain, l.Name}]
	// Unknown users take as long as known ones.
	matches := equalDigest(user.Password.Reveal(), l.Password.Reveal())
	scoped := (l.ProjectID == "" || l.ProjectID == user.Project) &&
		(l.ProjectName == "" || l.ProjectName == user.ProjectName || l.ProjectName == user.Project)
	if !known || !matches || !scoped {
		return Token{}, Unauthenticated("the user, the password or the project is wrong")
	}
	var secret [tokenSize]byte
	if _, err := io.ReadFull(a.random, secret[:]); err != nil {
		return Token{}, fmt.Errorf("random token: %w", err)
	}
	t := Token{Text: base64.RawURLEncoding.EncodeToString(secret[:]), Issued: a.now().UTC(), User: user}
	t.Expires = t.Issued.Add(tokenLifetime)
	t.User.Password = Secret{}
	put, err := a.tokens.Put(tokenKey(t.Text), storedToken{
		Domain: user.Domain, Name: user.Name, Issued: t.Issued, Expires: t.Expires, Binding: bindToken(t.Text, user),
	})
	if err != nil {
		return Token{}, err
	}
	stale, err := a.staleTokens(ctx, user)
	if err != nil {
		return Token{}, err
	}
	if _, err := a.store.Txn(ctx, nil, append(stale, put)); err != nil {
		return Token{}, fmt.Errorf("store token: %w", err)
	}
	return t, nil
}

func equalDigest(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// staleTokens returns the removal of expired tokens, and of the oldest ones of
// a user who is about to get one too many.
func (a *Access) staleTokens(ctx context.Context, user User) ([]store.Op, error) {
	rows, _, err := a.tokens.List(ctx, "")
	var ops []store.Op
	for _, d := range store.Damage(err) {
		ops = append(ops, store.Delete(d.Key)) // nobody can use it
	}
	if err != nil && len(ops) == 0 {
		return nil, err
	}
	var own []store.Row[storedToken]
	for _, row := range rows {
		switch t := row.Value; {
		case !a.now().Before(t.Expires):
			ops = append(ops, a.tokens.Delete(row.Key))
		case t.Domain == user.Domain && t.Name == user.Name:
			own = append(own, row)
		}
	}
	slices.SortFunc(own, func(x, y store.Row[storedToken]) int { return x.Value.Issued.Compare(y.Value.Issued) })
	for _, row := range own[:max(0, len(own)-tokensPerUser+1)] {
		ops = append(ops, a.tokens.Delete(row.Key))
	}
	return ops[:min(len(ops), store.MaxTxnSize-1)], nil
}

// VerifyToken returns the caller who holds a token, or the refusal of one that
// is unknown, expired or void.
func (a *Access) VerifyToken(ctx context.Context, text string) (Principal, error) {
	refused := Unauthenticated("the token is not valid")
	if text == "" || len(text) > maxTokenLength {
		return Principal{}, refused
	}
	row, err := a.tokens.Get(ctx, tokenKey(text))
	if errors.Is(err, store.ErrNotFound) {
		return Principal{}, refused
	}
	if err != nil {
		return Principal{}, err
	}
	user, known := a.accounts.Load().users[userKey{row.Value.Domain, row.Value.Name}]
	if !known || !a.now().Before(row.Value.Expires) || !hmac.Equal(row.Value.Binding, bindToken(text, user)) {
		return Principal{}, refused
	}
	return Principal{Name: user.Domain + "/" + user.Name, Project: user.Project, Role: user.Role}, nil
}

// RevokeToken makes a token void at once. One that is not known is no error.
func (a *Access) RevokeToken(ctx context.Context, text string) error {
	_, err := a.store.Txn(ctx, nil, []store.Op{a.tokens.Delete(tokenKey(text))})
	return err
}

// tokenKey is the hash of a token: who reads the store cannot use it, and a
// look-up takes no time that depends on how much of a guess is right.
func tokenKey(text string) string {
	h := sha256.Sum256([]byte(text))
	return hex.EncodeToString(h[:])
}

// Authorise refuses a caller who lacks the permission for an action on a
// project.
func (p Principal) Authorise(project, action string) error {
	if p.Project != project {
		return Forbidden("the project is not one of the caller's")
	}
	if !p.Role.Allows(action) {
		return Forbidden("role %s does not allow %s", p.Role, action)
	}
	return nil
}
