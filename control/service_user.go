package control

import (
	"context"
	"reflect"
	"slices"
	"time"
)

// UserView is a user as the API shows it. It has no passwords.
type UserView struct {
	VPNUser
	GroupName string // empty: in no group
}

// CreateUser performs CreateVpnUser.
func (s *Service) CreateUser(ctx context.Context, project, serverID string, req UserCreate) (VPNUser, error) {
	req.GroupName = nil
	var user VPNUser
	if done, err := recall(ctx, s, project, &user); done || err != nil {
		return user, err
	}
	admit := func(tx *transaction) (*roster, VPNUser, error) {
		r, err := tx.rosterToExtend(project, serverID)
		if err != nil {
			return nil, VPNUser{}, err
		}
		u, err := r.newUser(&req)
		if err == nil {
			err = usersFit(r, 1)
		}
		return r, u, err
	}
	if _, _, err := admit(s.read(ctx)); err != nil {
		return VPNUser{}, err // before the cost of a hash
	}
	hash, err := s.hashPasswords(ctx, project, []UserCreate{req})
	if err != nil {
		return VPNUser{}, err
	}
	err = once(ctx, s, project, &user, func(tx *transaction) error {
		r, u, err := admit(tx)
		if err != nil {
			return err
		}
		if u.Meta, err = s.newMeta(u.Meta, project, r.userMetas()); err != nil {
			return err
		}
		u.Passwords = hash
		user = u
		return tx.putUser(u)
	})
	user.Passwords = nil
	return user, err
}

// newUser decides on a user that is to be added to a server. It has no common
// part but its name yet, and no hash of its password.
func (r *roster) newUser(req *UserCreate) (VPNUser, error) {
	u, err := parseUser(req)
	if err != nil {
		return u, err
	}
	u.ServerID = r.server.ID
	if u.GroupID, err = r.groupOfRequest(req.GroupID, req.GroupName); err != nil {
		return u, err
	}
	return u, firstBroken(&userDraft{VPNUser: u, roster: r}, userRules)
}

func (r *roster) userMetas() []Meta {
	return metas(r.users, func(u *VPNUser) Meta { return u.Meta })
}

// hashPasswords returns the hashes of the passwords of requests that were
// admitted, in their order.
func (s *Service) hashPasswords(ctx context.Context, project string, reqs []UserCreate) ([]PasswordHash, error) {
	leave, err := s.hashing.enter(ctx, project)
	if err != nil {
		return nil, err
	}
	defer leave()
	hashes := make([]PasswordHash, len(reqs))
	for i := range reqs {
		if ctx.Err() != nil {
			return nil, ctx.Err() // nobody waits for the rest
		}
		if hashes[i], err = HashPassword(*reqs[i].Password, nil); err != nil {
			return nil, err
		}
	}
	return hashes, nil
}

// ShowUser performs ShowVpnUser.
func (s *Service) ShowUser(ctx context.Context, project, serverID, id string) (UserView, error) {
	tx := s.read(ctx)
	u, err := tx.userOf(project, serverID, id)
	if err != nil {
		return UserView{}, err
	}
	r, err := tx.rosterOfGroup(project, u.GroupID)
	return r.viewUser(u), err
}

// userOf returns a user of a server, with the passwords.
func (tx *transaction) userOf(project, serverID, id string) (VPNUser, error) {
	if _, err := tx.server(project, serverID); err != nil {
		return VPNUser{}, err
	}
	u, err := tx.user(project, id)
	if err == nil && u.ServerID != serverID {
		err = noUser()
	}
	return u, err
}

func (r *roster) viewUser(u VPNUser) UserView {
	v := UserView{VPNUser: u}
	v.Passwords, v.CodeSecret, v.GroupID = nil, Secret{}, ""
	if g := r.groupOf(&u); g != nil {
		v.GroupID, v.GroupName = g.ID, g.Name
	}
	return v
}

// ListUsers performs ListVpnUsers.
func (s *Service) ListUsers(ctx context.Context, project, serverID string, page Page) (List[UserView], error) {
	return s.listUsers(ctx, project, serverID, page, func(r *roster) ([]VPNUser, error) { return r.users, nil })
}

// ListUsersInGroup performs ListVpnUsersInGroup.
func (s *Service) ListUsersInGroup(ctx context.Context, project, serverID, groupID string, page Page) (List[UserView], error) {
	return s.listUsers(ctx, project, serverID, page, func(r *roster) ([]VPNUser, error) {
		if r.group(groupID) == nil {
			return nil, noUserGroup()
		}
		return r.membersOf(groupID), nil
	})
}

func (s *Service) listUsers(ctx context.Context, project, serverID string, page Page, which func(*roster) ([]VPNUser, error)) (List[UserView], error) {
	var views List[UserView]
	r, err := s.read(ctx).roster(project, serverID)
	if err != nil {
		return views, err
	}
	users, err := which(r)
	if err != nil {
		return views, err
	}
	l, err := paginateP2C(users, func(u *VPNUser) time.Time { return u.CreatedAt }, page)
	views.Total, views.NextMarker = l.Total, l.NextMarker
	for _, u := range l.Items {
		views.Items = append(views.Items, r.viewUser(u))
	}
	return views, err
}

// UpdateUser performs UpdateVpnUser.
func (s *Service) UpdateUser(ctx context.Context, project, serverID, id string, req UserUpdate) (UserView, error) {
	var view UserView
	err := s.objects.change(ctx, func(tx *transaction) error {
		r, err := tx.rosterToChange(project, serverID)
		if err != nil {
			return err
		}
		u, err := tx.userOf(project, serverID, id)
		if err != nil {
			return err
		}
		merged, err := mergeUser(&req, u)
		if err != nil {
			return err
		}
		if req.GroupID != nil && *req.GroupID != u.GroupID {
			if merged.GroupID, err = r.groupOfRequest(req.GroupID, nil); err != nil {
				return err
			}
		}
		if err := firstBroken(&userDraft{VPNUser: merged, roster: r}, userRules); err != nil {
			return err
		}
		if changed := !reflect.DeepEqual(merged, u); changed {
			s.touch(&merged.Meta)
			err = tx.putUser(merged)
		}
		view = r.viewUser(merged)
		return err
	})
	return view, err
}

// DeleteUser performs DeleteVpnUser.
func (s *Service) DeleteUser(ctx context.Context, project, serverID, id string) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		if _, err := tx.rosterToChange(project, serverID); err != nil {
			return err
		}
		return tx.removeUser(project, serverID, id)
	})
}

// removeUser has the transaction remove a user of a server.
func (tx *transaction) removeUser(project, serverID, id string) error {
	u, err := tx.userOf(project, serverID, id)
	if err == nil {
		tx.deleteUser(u.Meta)
	}
	return err
}

// DeleteUsers performs BatchDeleteVpnUsers.
func (s *Service) DeleteUsers(ctx context.Context, project, serverID string, ids []string) error {
	return s.eachUser(ctx, project, serverID, ids, func(tx *transaction, _ *roster, id string) error {
		return tx.removeUser(project, serverID, id)
	})
}

// userChunk is how many users one transaction changes: with the guard of all
// writers that stays below store.MaxTxnSize.
const userChunk = 100

// eachUser has edit change each of the users. When one of them is refused none
// is changed, unless another writer is the reason: many users take several
// transactions, and those that were done stay.
func (s *Service) eachUser(ctx context.Context, project, serverID string, ids []string, edit func(tx *transaction, r *roster, id string) error) error {
	if err := userList(ids); err != nil {
		return err
	}
	decide := func(tx *transaction, ids []string) error {
		r, err := tx.rosterToChange(project, serverID)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := edit(tx, r, id); err != nil {
				return err
			}
		}
		return nil
	}
	if len(ids) > userChunk {
		if err := decide(s.read(ctx), ids); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(ids, userChunk) {
		if err := s.objects.change(ctx, func(tx *transaction) error { return decide(tx, chunk) }); err != nil {
			return err
		}
	}
	return nil
}
