package control

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vpngw/vpngw/control/store"
)

// Credential is an access key with the secret that signs requests, in one
// project. An access key may have several, with a role in each.
type Credential struct {
	AccessKey string
	SecretKey Secret
	Role      Role
	Project   string // id
}

// User is somebody who obtains tokens by a password, in one project. A user may
// have several, with a role in each. Of the password either the text or the
// hash is given. Access keeps hashes only.
type User struct {
	Domain      string
	Name        string
	Password    Secret
	Hash        PasswordHash
	Role        Role
	Project     string // id
	ProjectName string
}

// Principal is the authenticated caller of the API.
type Principal struct {
	Name    string // access key, or domain/user
	Project string // id; the project that the caller acts in
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
	User    User // without the password and its hash
}

const (
	tokenLifetime  = 24 * time.Hour
	tokenSize      = 32 // octets of randomness
	tokensPerUser  = 64
	prefixTokens   = "token"
	maxTokenLength = 128
	// maxVerifying bounds the passwords that are hashed at once, for the
	// memory that each takes.
	maxVerifying = 4
)

type storedToken struct {
	Domain  string    `json:"domain"`
	Name    string    `json:"name"`
	Project string    `json:"project"`
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires"`
	// Binding ties a token to the password and project it was issued for: a
	// change of either ends it. The token itself is the key, so that the store
	// is of no help in guessing passwords.
	Binding []byte `json:"binding"`
}

func bindToken(text string, u User) []byte {
	mac := hmac.New(sha256.New, []byte(text))
	mac.Write([]byte(u.Project + "/" + u.Hash.Encode()))
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

	verifying chan struct{} // holds one element for each password being hashed
}

// Accounts are all who may call the API, and what their roles allow.
type Accounts struct {
	Credentials []Credential
	Users       []User
	Roles       Roles // besides the built-in ones
}

type accounts struct {
	credentials map[string][]Credential // by access key: one for each project
	users       map[userKey][]User      // likewise
	roles       Roles
	// nobody is compared with where there is no user. It is the hash of some
	// user, so that it takes as long if all hashes have the same cost.
	nobody PasswordHash
}

type userKey struct{ domain, name string }

// AccessOptions is what Access needs. Store is required.
type AccessOptions struct {
	Store    store.Store
	Accounts Accounts
	Random   io.Reader        // default crypto/rand.Reader
	Now      func() time.Time // default time.Now
}

// NewAccess returns an Access, unless an account is incomplete or ambiguous.
func NewAccess(o AccessOptions) (*Access, error) {
	if o.Store == nil {
		return nil, errors.New("access: a store is required")
	}
	a := &Access{
		store: o.Store, tokens: store.NewTable[storedToken](o.Store, prefixTokens), random: o.Random, now: o.Now,
		verifying: make(chan struct{}, maxVerifying),
	}
	if a.random == nil {
		a.random = rand.Reader
	}
	if a.now == nil {
		a.now = time.Now
	}
	return a, a.SetAccounts(o.Accounts)
}

// SetAccounts replaces the accounts; on an error it changes nothing. Tokens of
// users that are no longer there, or have another password, are void. Passwords
// that are given as texts are hashed, which takes some time for each.
func (a *Access) SetAccounts(all Accounts) error {
	if err := all.Roles.Validate(); err != nil {
		return err
	}
	next := &accounts{
		credentials: map[string][]Credential{}, users: map[userKey][]User{}, roles: all.Roles,
		nobody: PasswordHash{memory: hashMemory, passes: hashPasses, lanes: hashLanes, salt: "no user", sum: string(make([]byte, hashSize))},
	}
	for i, c := range all.Credentials {
		field := fmt.Sprintf("credentials[%d]", i)
		if c.AccessKey == "" || c.SecretKey.IsZero() {
			return fmt.Errorf("%s: access key and secret key are required", field)
		}
		if err := next.check(field, c.Role, c.Project); err != nil {
			return err
		}
		for _, other := range next.credentials[c.AccessKey] {
			if other.Project == c.Project || !other.SecretKey.Equal(c.SecretKey) {
				return fmt.Errorf("%s: its access key stands there twice, with one project or two secret keys", field)
			}
		}
		next.credentials[c.AccessKey] = append(next.credentials[c.AccessKey], c)
	}
	for i, u := range all.Users {
		field := fmt.Sprintf("users[%d]", i)
		if u.Name == "" || u.Password.IsZero() == u.Hash.IsZero() {
			return fmt.Errorf("%s: a name and either a password or its hash are required", field)
		}
		if len(u.Password.Reveal()) > maxPassword {
			return fmt.Errorf("%s: password must have at most %d octets", field, maxPassword)
		}
		if err := next.check(field, u.Role, u.Project); err != nil {
			return err
		}
		u = hashed(u)
		key := userKey{u.Domain, u.Name}
		for _, other := range next.users[key] {
			if other.Project == u.Project || other.Hash != u.Hash {
				return fmt.Errorf("%s: user %q of domain %q stands there twice, with one project or two passwords", field, u.Name, u.Domain)
			}
		}
		next.users[key] = append(next.users[key], u)
		next.nobody = u.Hash
	}
	a.accounts.Store(next)
	return nil
}

// hashed returns a user whose password is a hash. The salt of a password that
// was given as a text follows from the user's name, so that tokens, which are
// bound to the hash, outlive a restart and are good at every node of a fleet.
// That hash never leaves the memory.
func hashed(u User) User {
	if u.Hash.IsZero() {
		salt := sha256.Sum256(fmt.Appendf(nil, "salt of user %q of domain %q", u.Name, u.Domain))
		u.Hash = hashWithSalt(u.Password, salt[:hashSalt])
	}
	u.Password = Secret{}
	return u
}

func (a *accounts) check(field string, role Role, project string) error {
	if _, ok := a.roles.Permissions(role); !ok {
		return fmt.Errorf("%s: role %q is neither %s, %s, %s, %s nor one of roles", field, role, RoleAdmin, RoleOperator, RoleReadOnly, RoleBackup)
	}
	if err := validProject(project); err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	return nil
}

// Credential returns the credential of an access key in a project or, where it
// has none there, in the first of its projects.
func (a *Access) Credential(accessKey, project string) (Credential, bool) {
	own := a.accounts.Load().credentials[accessKey]
	if len(own) == 0 {
		return Credential{}, false
	}
	i := slices.IndexFunc(own, func(c Credential) bool { return c.Project == project })
	return own[max(i, 0)], true
}

// HasUser tells whether there is a user of that name.
func (a *Access) HasUser(domain, name string) bool {
	_, ok := a.accounts.Load().users[userKey{domain, name}]
	return ok
}

// Principal returns who a credential stands for.
func (c Credential) Principal() Principal {
	return Principal{Name: c.AccessKey, Project: c.Project, Role: c.Role}
}

// IssueToken checks a password and returns a token, good for 24 hours. A wrong
// user, password or project are refused alike. A user has at most 64 tokens:
// beyond that the oldest is void.
func (a *Access) IssueToken(ctx context.Context, l Login) (Token, error) {
	all := a.accounts.Load()
	own, hash := all.users[userKey{l.Domain, l.Name}], all.nobody
	if len(own) > 0 {
		hash = own[0].Hash // that of all
	}
	matches, err := a.verify(hash, l.Password)
	if err != nil {
		return Token{}, err
	}
	i := slices.IndexFunc(own, func(u User) bool {
		return (l.ProjectID == "" || l.ProjectID == u.Project) &&
			(l.ProjectName == "" || l.ProjectName == u.ProjectName || l.ProjectName == u.Project)
	})
	if !matches || i < 0 {
		return Token{}, Unauthenticated("the user, the password or the project is wrong")
	}
	return a.issue(ctx, own[i])
}

// issue returns a token of a user who proved to be that user.
func (a *Access) issue(ctx context.Context, user User) (Token, error) {
	var secret [tokenSize]byte
	if _, err := io.ReadFull(a.random, secret[:]); err != nil {
		return Token{}, fmt.Errorf("random token: %w", err)
	}
	t := Token{Text: base64.RawURLEncoding.EncodeToString(secret[:]), Issued: a.now().UTC(), User: user}
	t.Expires = t.Issued.Add(tokenLifetime)
	t.User.Hash = PasswordHash{}
	put, err := a.tokens.Put(tokenKey(t.Text), storedToken{
		Domain: user.Domain, Name: user.Name, Project: user.Project, Issued: t.Issued, Expires: t.Expires, Binding: bindToken(t.Text, user),
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

// verify compares a password with a hash, unless too many are compared at this
// moment.
func (a *Access) verify(hash PasswordHash, password Secret) (bool, error) {
	select {
	case a.verifying <- struct{}{}:
		defer func() { <-a.verifying }()
		return hash.Matches(password), nil
	default:
		return false, Busy()
	}
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
	own := a.accounts.Load().users[userKey{row.Value.Domain, row.Value.Name}]
	i := slices.IndexFunc(own, func(u User) bool { return u.Project == row.Value.Project })
	if i < 0 {
		return Principal{}, refused
	}
	user := own[i]
	if !a.now().Before(row.Value.Expires) || !hmac.Equal(row.Value.Binding, bindToken(text, user)) {
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

// Authorise refuses a caller whose role does not allow an action, or who asks
// for a project other than its own. An operation on none names no project.
func (a *Access) Authorise(p Principal, project, action string) error {
	if project != "" && p.Project != project {
		return Forbidden("the project is not one of the caller's")
	}
	if permissions, _ := a.accounts.Load().roles.Permissions(p.Role); !permissions.Allow(action) {
		return Forbidden("role %s does not allow %s", p.Role, action)
	}
	return nil
}
