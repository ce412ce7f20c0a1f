package control

import (
	"context"
	"net/http"
	"slices"
)

// ChangePassword performs UpdateVpnUserPassword: the user shows the old
// password.
func (s *Service) ChangePassword(ctx context.Context, project, serverID, userID string, old, next Secret) error {
	return s.setPassword(ctx, project, serverID, userID, next, func(ctx context.Context, u *VPNUser) error {
		same := false
		if len(u.Passwords) > 0 {
			var err error
			if same, err = s.passwords.matches(ctx, u.Passwords[0], old); err != nil {
				return err
			}
		}
		if !same {
			return p2cRefusal("VPN.1312", http.StatusBadRequest, "The old password is incorrect.")
		}
		return nil
	})
}

// ResetPassword performs ResetVpnUserPassword.
func (s *Service) ResetPassword(ctx context.Context, project, serverID, userID string, next Secret) error {
	return s.setPassword(ctx, project, serverID, userID, next, func(context.Context, *VPNUser) error { return nil })
}

// setPassword gives a user whom prove accepts another password. What takes long
// is done before the transaction, and anew when the passwords of the user have
// become others meanwhile.
func (s *Service) setPassword(ctx context.Context, project, serverID, userID string, next Secret, prove func(context.Context, *VPNUser) error) error {
	ctx, cancel := s.passwords.within(ctx)
	defer cancel()
	var hash PasswordHash
	for range changeAttempts {
		tx := s.read(ctx)
		if _, err := tx.rosterToChange(project, serverID); err != nil {
			return err
		}
		u, err := tx.userOf(project, serverID, userID)
		if err != nil {
			return err
		}
		if err := checkPassword(u.Name, next); err != nil {
			return err
		}
		if err := prove(ctx, &u); err != nil {
			return err
		}
		if err := s.passwords.passwordIsNew(ctx, next, u.Passwords); err != nil {
			return err
		}
		if hash.IsZero() {
			if hash, err = s.passwords.hash(ctx, next); err != nil {
				return err
			}
		}
		done, err := s.replacePassword(ctx, &u, hash)
		if done || err != nil {
			return err
		}
	}
	return Busy()
}

// replacePassword makes a hash the valid one of a user, unless the user has
// other passwords than before.
func (s *Service) replacePassword(ctx context.Context, before *VPNUser, hash PasswordHash) (done bool, err error) {
	err = s.objects.change(ctx, func(tx *transaction) error {
		if _, err := tx.rosterToChange(before.Project, before.ServerID); err != nil {
			return err
		}
		u, err := tx.userOf(before.Project, before.ServerID, before.ID)
		if err != nil {
			return err
		}
		if done = slices.Equal(u.Passwords, before.Passwords); !done {
			return nil
		}
		u.Passwords = slices.Insert(u.Passwords, 0, hash)
		u.Passwords = u.Passwords[:min(len(u.Passwords), passwordHistory)]
		s.touch(&u.Meta)
		return tx.putUser(u)
	})
	return done, err
}
