package control

import (
	"context"
	"errors"
)

// InvalidUser is an entry of a batch that is not valid, and why.
type InvalidUser struct {
	Request UserCreate // without the password
	Cause   string
}

// CreateUsers performs BatchCreateVpnUsers: all users, whose groups are given
// by name, or none of them. It returns the entries that are not valid.
func (s *Service) CreateUsers(ctx context.Context, project, serverID string, reqs []UserCreate) ([]InvalidUser, error) {
	if len(reqs) == 0 {
		return nil, emptyUserList()
	}
	if len(reqs) > maxBatchUsers {
		return nil, Invalid("users", "must be at most %d", maxBatchUsers)
	}
	var created struct{} // the answer names no user
	if done, err := recall(ctx, s, project, &created); done || err != nil {
		return nil, err
	}
	admit := func(tx *transaction) (*roster, []VPNUser, error) {
		r, err := tx.rosterToExtend(project, serverID)
		if err != nil {
			return nil, nil, err
		}
		if err := usersFit(r, len(reqs)); err != nil {
			return nil, nil, err
		}
		users, err := r.newUsers(reqs)
		return r, users, err
	}
	err := s.createUsers(ctx, project, reqs, &created, admit)
	var invalid *invalidUsersError
	if errors.As(err, &invalid) {
		return invalid.users, nil
	}
	return nil, err
}

func (s *Service) createUsers(ctx context.Context, project string, reqs []UserCreate, created *struct{}, admit func(*transaction) (*roster, []VPNUser, error)) error {
	if _, _, err := admit(s.read(ctx)); err != nil {
		return err // before the cost of the hashes
	}
	hashes, err := s.hashPasswords(ctx, project, reqs)
	if err != nil {
		return err
	}
	return once(ctx, s, project, created, func(tx *transaction) error {
		r, users, err := admit(tx)
		if err != nil {
			return err
		}
		others := metas(r.users[:len(r.users)-len(users)], func(u *VPNUser) Meta { return u.Meta })
		for i, u := range users {
			if u.Meta, err = s.newMeta(u.Meta, project, others); err != nil {
				return err
			}
			u.Passwords = hashes[i : i+1]
			others = append(others, u.Meta)
			if err := tx.putUser(u); err != nil {
				return err
			}
		}
		return nil
	})
}

// invalidUsersError says that entries of a batch are not valid.
type invalidUsersError struct{ users []InvalidUser }

func (e *invalidUsersError) Error() string { return "users of a batch are not valid" }

// newUsers decides on users that are to be added to a server together, and adds
// them to the roster.
func (r *roster) newUsers(reqs []UserCreate) ([]VPNUser, error) {
	var users []VPNUser
	var invalid invalidUsersError
	for i := range reqs {
		req := reqs[i]
		req.GroupID = nil
		u, err := r.newUser(&req)
		var refusal *Error
		switch {
		case errors.As(err, &refusal):
			req.Password = nil
			invalid.users = append(invalid.users, InvalidUser{Request: req, Cause: refusal.cause()})
		case err != nil:
			return nil, err
		}
		// It counts for the later ones even so: a name that stands there twice
		// is one too many whatever else is wrong with the first.
		r.users = append(r.users, u)
		users = append(users, u)
	}
	if len(invalid.users) > 0 {
		return nil, &invalid
	}
	return users, nil
}
