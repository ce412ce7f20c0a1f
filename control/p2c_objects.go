package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vpngw/vpngw/control/store"
)

// Where the objects of client-to-cloud VPN are kept. Below each stands
// project/id.
const (
	prefixP2CGateways      = prefixSpec + string(KindP2CGateway)
	prefixServers          = prefixSpec + string(KindServer)
	prefixUsers            = prefixSpec + string(KindUser)
	prefixUserGroups       = prefixSpec + string(KindUserGroup)
	prefixAccessPolicies   = prefixSpec + string(KindAccessPolicy)
	prefixP2CGatewayStatus = "status/" + string(KindP2CGateway)
	prefixServerStatus     = "status/" + string(KindServer)
)

// p2cTables are the tables of client-to-cloud VPN.
type p2cTables struct {
	gateways      store.Table[P2CGateway]
	servers       store.Table[storedServer]
	users         store.Table[storedUser]
	groups        store.Table[UserGroup]
	policies      store.Table[AccessPolicy]
	gatewayStatus store.Table[P2CGatewayStatus]
	serverStatus  store.Table[ServerStatus]
}

func newP2CTables(s store.Store) p2cTables {
	return p2cTables{
		gateways:      store.NewSharedTable[P2CGateway](s, prefixP2CGateways),
		servers:       store.NewSharedTable[storedServer](s, prefixServers),
		users:         store.NewSharedTable[storedUser](s, prefixUsers),
		groups:        store.NewSharedTable[UserGroup](s, prefixUserGroups),
		policies:      store.NewSharedTable[AccessPolicy](s, prefixAccessPolicies),
		gatewayStatus: store.NewSharedTable[P2CGatewayStatus](s, prefixP2CGatewayStatus),
		serverStatus:  store.NewSharedTable[ServerStatus](s, prefixServerStatus),
	}
}

// storedServer is a server with the private keys of its certificate and that of
// its control channel sealed.
type storedServer struct {
	VPNServer
	SealedKey        []byte `json:"sealed_key,omitempty"`
	SealedCAKey      []byte `json:"sealed_ca_key,omitempty"`
	SealedControlKey []byte `json:"sealed_control_key,omitempty"`
}

// storedUser is a user with the hashes of the passwords as text, and the secret
// of one-time codes sealed.
type storedUser struct {
	VPNUser
	PasswordHashes   []string `json:"password_hashes"`
	SealedCodeSecret []byte   `json:"sealed_code_secret,omitempty"`
}

func (o *Objects) sealServer(s VPNServer) storedServer {
	stored := storedServer{VPNServer: s}
	if !s.Certificate.Key.IsZero() {
		stored.SealedKey = o.key.Seal(s.Certificate.Key, keyPlace("key", &s))
	}
	if !s.Certificate.CAKey.IsZero() {
		stored.SealedCAKey = o.key.Seal(s.Certificate.CAKey, keyPlace("ca key", &s))
	}
	if !s.ControlKey.IsZero() {
		stored.SealedControlKey = o.key.Seal(s.ControlKey, keyPlace("control key", &s))
	}
	return stored
}

// unsealServer returns a server with its keys, or without them and why.
func (o *Objects) unsealServer(stored storedServer) (VPNServer, error) {
	s := stored.VPNServer
	var errs [3]error
	if len(stored.SealedKey) > 0 {
		s.Certificate.Key, errs[0] = o.key.Open(stored.SealedKey, keyPlace("key", &s))
	}
	if len(stored.SealedCAKey) > 0 {
		s.Certificate.CAKey, errs[1] = o.key.Open(stored.SealedCAKey, keyPlace("ca key", &s))
	}
	if s.ControlWrap != WrapNone {
		s.ControlKey, errs[2] = o.key.Open(stored.SealedControlKey, keyPlace("control key", &s))
	}
	return s, errors.Join(errs[:]...)
}

func keyPlace(which string, s *VPNServer) string {
	return which + " of server " + s.Project + "/" + s.ID
}

func (o *Objects) sealUser(u VPNUser) storedUser {
	stored := storedUser{VPNUser: u, PasswordHashes: make([]string, len(u.Passwords))}
	for i, h := range u.Passwords {
		stored.PasswordHashes[i] = h.Encode()
	}
	if !u.CodeSecret.IsZero() {
		stored.SealedCodeSecret = o.key.Seal(u.CodeSecret, secretPlace(&u))
	}
	return stored
}

// unsealUser returns a user with the passwords and the secret of one-time codes.
// What of them is damaged it lacks, and the error says why.
func (o *Objects) unsealUser(stored storedUser) (VPNUser, error) {
	u := stored.VPNUser
	var errs []error
	for _, text := range stored.PasswordHashes {
		h, err := ParsePasswordHash(text)
		if err != nil {
			u.Passwords, errs = nil, append(errs, err)
			break
		}
		u.Passwords = append(u.Passwords, h)
	}
	if !u.EnrolledAt.IsZero() {
		var err error
		if u.CodeSecret, err = o.key.Open(stored.SealedCodeSecret, secretPlace(&u)); err != nil {
			u.EnrolledAt, errs = time.Time{}, append(errs, fmt.Errorf("secret of one-time codes: %w", err))
		}
	}
	if len(errs) > 0 {
		return u, fmt.Errorf("user %s: %w", u.ID, errors.Join(errs...))
	}
	return u, nil
}

func secretPlace(u *VPNUser) string { return "code secret of user " + u.Project + "/" + u.ID }

func (o *Objects) decodeP2CInto(s *Snapshot, kind Kind, e store.Entry) error {
	switch kind {
	case KindP2CGateway:
		return decodeOne(o.p2c.gateways, e, &s.P2CGateways)
	case KindServer:
		row, err := o.p2c.servers.Decode(e)
		if err != nil {
			return err
		}
		// One whose keys cannot be opened stands there without them: it has a
		// status and can be deleted.
		server, err := o.unsealServer(row.Value)
		s.Servers = append(s.Servers, server)
		return err
	case KindUser:
		row, err := o.p2c.users.Decode(e)
		if err != nil {
			return err
		}
		user, err := o.unsealUser(row.Value)
		if err == nil {
			s.Users = append(s.Users, user)
		}
		return err
	case KindUserGroup:
		return decodeOne(o.p2c.groups, e, &s.UserGroups)
	case KindAccessPolicy:
		return decodeOne(o.p2c.policies, e, &s.AccessPolicies)
	default:
		return fmt.Errorf("kind %q is unknown", kind)
	}
}

func decodeOne[T any](t store.Table[T], e store.Entry, into *[]T) error {
	row, err := t.Decode(e)
	if err == nil {
		*into = append(*into, row.Value)
	}
	return err
}

// IsRoster tells whether objects of this kind say what users of client-to-cloud
// VPN may do, and nothing about gateways and servers.
func (k Kind) IsRoster() bool { return k == KindUser || k == KindUserGroup || k == KindAccessPolicy }

// Roster reads what users of client-to-cloud VPN may do into a Snapshot of an
// earlier time, in which all else stays as it is, and returns the revision of
// that. It is not ok, and changes nothing, when something else has changed since
// the Snapshot, or something of it cannot be read: then a new Snapshot is called
// for.
func (o *Objects) Roster(ctx context.Context, s *Snapshot) (revision int64, ok bool, err error) {
	entries, revision, err := o.store.List(ctx, prefixSpec)
	if err != nil {
		return 0, false, fmt.Errorf("list objects: %w", err)
	}
	var next Snapshot
	for _, e := range entries {
		kind, _, _, object := splitSpecKey(e.Key)
		switch {
		case object && kind.IsRoster():
			if o.decodeP2CInto(&next, kind, e) != nil {
				return 0, false, nil
			}
		case e.Modified > s.Revision:
			return 0, false, nil
		}
	}
	s.Users, s.UserGroups, s.AccessPolicies = next.Users, next.UserGroups, next.AccessPolicies
	return revision, true, nil
}

// SetP2CGatewayStatus writes the status of a client-to-cloud gateway. It is for
// the reconciler alone. It fails with store.ErrNotFound when the gateway is
// gone.
func (o *Objects) SetP2CGatewayStatus(ctx context.Context, project, id string, s P2CGatewayStatus) error {
	return setStatus(ctx, o, o.p2c.gatewayStatus, prefixP2CGateways, project, id, s)
}

// SetServerStatus writes the status of a server. It is for the reconciler
// alone. It fails with store.ErrNotFound when the server is gone.
func (o *Objects) SetServerStatus(ctx context.Context, project, id string, s ServerStatus) error {
	return setStatus(ctx, o, o.p2c.serverStatus, prefixServers, project, id, s)
}

// finalizeBatch is how many objects below a gateway one transaction removes:
// with those of the gateway itself, the guard and their statuses it stays
// below store.MaxTxnSize.
const finalizeBatch = 100

// FinalizeP2CGateway removes a client-to-cloud gateway that was taken down,
// with its server and the users, groups and policies of that: its deletion must
// have been asked for. One that is gone is no error. It is for the reconciler
// alone.
//
// What stands below the gateway may take several transactions, the gateway goes
// with the last one: a call that was cut short is to be repeated.
func (o *Objects) FinalizeP2CGateway(ctx context.Context, project, id string) error {
	for done := false; !done; {
		err := o.change(ctx, func(tx *transaction) error {
			done = true
			g, err := tx.p2cGateway(project, id)
			switch {
			case isCode(err, codeNoGateway):
				return nil
			case err != nil:
				return err
			case !g.DeletionRequested:
				return fmt.Errorf("gateway %s: its deletion was not asked for", id)
			}
			below, servers, err := tx.belowGateway(&g)
			if err != nil {
				return err
			}
			if len(below) > finalizeBatch {
				done = false
				tx.ops = append(tx.ops, below[:finalizeBatch]...)
				return nil
			}
			key := project + "/" + id
			tx.ops = append(append(tx.ops, below...), servers...)
			tx.ops = append(tx.ops, o.p2c.gateways.Delete(key), o.p2c.gatewayStatus.Delete(key))
			return tx.removeJobs(g.Meta)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// belowGateway returns the removal of what a gateway has: that of users, groups
// and policies, and that of its servers with their status.
func (tx *transaction) belowGateway(g *P2CGateway) (below, servers []store.Op, err error) {
	t := &tx.objects.p2c
	all, err := tx.servers(g.Project)
	if err != nil {
		return nil, nil, err
	}
	mine := map[string]bool{}
	for _, s := range all {
		if s.GatewayID == g.ID {
			mine[s.ID] = true
			key := s.Project + "/" + s.ID
			servers = append(servers, t.servers.Delete(key), t.serverStatus.Delete(key))
		}
	}
	users, err1 := list(tx.ctx, t.users, g.Project)
	groups, err2 := list(tx.ctx, t.groups, g.Project)
	policies, err3 := list(tx.ctx, t.policies, g.Project)
	for _, u := range users {
		if mine[u.ServerID] {
			below = append(below, t.users.Delete(u.Project+"/"+u.ID))
		}
	}
	for _, v := range groups {
		if mine[v.ServerID] {
			below = append(below, t.groups.Delete(v.Project+"/"+v.ID))
		}
	}
	for _, p := range policies {
		if mine[p.ServerID] {
			below = append(below, t.policies.Delete(p.Project+"/"+p.ID))
		}
	}
	return below, servers, errors.Join(err1, err2, err3)
}

// getOr is get with the refusal of an id that is not there.
func getOr[T any](ctx context.Context, t store.Table[T], project, id string, missing *Error) (T, error) {
	v, err := get(ctx, t, project, id)
	if isNotFound(err) {
		err = missing
	}
	return v, err
}

func (tx *transaction) p2cGateway(project, id string) (P2CGateway, error) {
	return getOr(tx.ctx, tx.objects.p2c.gateways, project, id, noGateway())
}

// p2cGateways returns those of a project, or of all when project is empty.
func (tx *transaction) p2cGateways(project string) ([]P2CGateway, error) {
	return list(tx.ctx, tx.objects.p2c.gateways, project)
}

// server returns a server without its private keys; putServer keeps those.
func (tx *transaction) server(project, id string) (VPNServer, error) {
	s, err := getOr(tx.ctx, tx.objects.p2c.servers, project, id, noServer())
	return s.VPNServer, err
}

// servers returns those of a project without their private keys.
func (tx *transaction) servers(project string) ([]VPNServer, error) {
	stored, err := list(tx.ctx, tx.objects.p2c.servers, project)
	out := make([]VPNServer, len(stored))
	for i := range stored {
		out[i] = stored[i].VPNServer
	}
	return out, err
}

// user returns a user with the passwords and the secret of one-time codes. One
// whose secrets are damaged has none, so that the user can be deleted and given
// others.
func (tx *transaction) user(project, id string) (VPNUser, error) {
	s, err := getOr(tx.ctx, tx.objects.p2c.users, project, id, noUser())
	if err != nil {
		return VPNUser{}, err
	}
	u, _ := tx.objects.unsealUser(s)
	return u, nil
}

// users returns those of a server, without their passwords.
func (tx *transaction) users(project, serverID string) ([]VPNUser, error) {
	stored, err := list(tx.ctx, tx.objects.p2c.users, project)
	var out []VPNUser
	for i := range stored {
		if stored[i].ServerID == serverID {
			out = append(out, stored[i].VPNUser)
		}
	}
	return out, err
}

func (tx *transaction) userGroup(project, id string) (UserGroup, error) {
	return getOr(tx.ctx, tx.objects.p2c.groups, project, id, noUserGroup())
}

// userGroups returns those of a server.
func (tx *transaction) userGroups(project, serverID string) ([]UserGroup, error) {
	all, err := list(tx.ctx, tx.objects.p2c.groups, project)
	var out []UserGroup
	for _, g := range all {
		if g.ServerID == serverID {
			out = append(out, g)
		}
	}
	return out, err
}

func (tx *transaction) accessPolicy(project, id string) (AccessPolicy, error) {
	return getOr(tx.ctx, tx.objects.p2c.policies, project, id, noAccessPolicy())
}

// accessPolicies returns those of a server.
func (tx *transaction) accessPolicies(project, serverID string) ([]AccessPolicy, error) {
	all, err := list(tx.ctx, tx.objects.p2c.policies, project)
	var out []AccessPolicy
	for _, p := range all {
		if p.ServerID == serverID {
			out = append(out, p)
		}
	}
	return out, err
}

func (tx *transaction) putP2CGateway(g P2CGateway) error {
	return put(tx, tx.objects.p2c.gateways, g.Meta, g)
}

// serverWithKeys returns a server with its keys.
func (tx *transaction) serverWithKeys(project, id string) (VPNServer, error) {
	stored, err := getOr(tx.ctx, tx.objects.p2c.servers, project, id, noServer())
	if err != nil {
		return stored.VPNServer, err
	}
	return tx.objects.unsealServer(stored)
}

// putServer stores a server. Without a key its certificate keeps the sealed
// keys that stand beside the same certificates, and its control channel the one
// of the same wrap.
func (tx *transaction) putServer(s VPNServer) error {
	stored := tx.objects.sealServer(s)
	keepsCertificate := s.Certificate.Key.IsZero() && s.Certificate.Chain != ""
	keepsControl := s.ControlKey.IsZero() && s.ControlWrap != WrapNone
	if keepsCertificate || keepsControl {
		before, err := get(tx.ctx, tx.objects.p2c.servers, s.Project, s.ID)
		switch {
		case err != nil:
			return err
		case keepsCertificate && before.Certificate.Chain != s.Certificate.Chain:
			return fmt.Errorf("server %s: another certificate without its key", s.ID)
		case keepsControl && before.ControlWrap != s.ControlWrap:
			return fmt.Errorf("server %s: another wrap of the control channel without its key", s.ID)
		}
		if keepsCertificate {
			stored.SealedKey, stored.SealedCAKey = before.SealedKey, before.SealedCAKey
		}
		if keepsControl {
			stored.SealedControlKey = before.SealedControlKey
		}
	}
	return put(tx, tx.objects.p2c.servers, s.Meta, stored)
}

// putUser stores a user with the secrets.
func (tx *transaction) putUser(u VPNUser) error {
	return put(tx, tx.objects.p2c.users, u.Meta, tx.objects.sealUser(u))
}

func (tx *transaction) putUserGroup(g UserGroup) error {
	return put(tx, tx.objects.p2c.groups, g.Meta, g)
}

func (tx *transaction) putAccessPolicy(p AccessPolicy) error {
	return put(tx, tx.objects.p2c.policies, p.Meta, p)
}

func (tx *transaction) deleteUser(m Meta) {
	tx.ops = append(tx.ops, tx.objects.p2c.users.Delete(m.Project+"/"+m.ID))
}

func (tx *transaction) deleteUserGroup(m Meta) {
	tx.ops = append(tx.ops, tx.objects.p2c.groups.Delete(m.Project+"/"+m.ID))
}

func (tx *transaction) deleteAccessPolicy(m Meta) {
	tx.ops = append(tx.ops, tx.objects.p2c.policies.Delete(m.Project+"/"+m.ID))
}

// p2cGatewayStatus returns the status of a gateway, the zero one where there is
// none yet or it is damaged.
func (tx *transaction) p2cGatewayStatus(m Meta) (P2CGatewayStatus, error) {
	return statusOf(tx.ctx, tx.objects.p2c.gatewayStatus, m)
}

// serverStatus returns the status of a server likewise.
func (tx *transaction) serverStatus(m Meta) (ServerStatus, error) {
	return statusOf(tx.ctx, tx.objects.p2c.serverStatus, m)
}
