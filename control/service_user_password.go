package control

import (
	"context"
	"slices"
)

// ChangePassword performs UpdateVpnUserPassword: the user shows the old
// password.
func (s *Service) ChangePassword(ctx context.Context, project, serverID, userID string, old, next Secret) error {
	return s.setPassword(ctx, project, serverID, userID, next, func(u *VPNUser) error {
		if len(u.Passwords) == 0 || !u.Passwords[0].Matches(old) {
			return refuse("VPN.1312", "The old password is incorrect.")
		}
		return nil
	})
}

// ResetPassword performs ResetVpnUserPassword.
func (s *Service) ResetPassword(ctx context.Context, project, serverID, userID string, next Secret) error {
	return s.setPassword(ctx, project, serverID, userID, next, func(*VPNUser) error { return nil })
}

// setPassword gives a user whom prove accepts another password. What takes long
// is done before the transaction, and anew when the passwords of the user have
// become others meanwhile.
func (s *Service) setPassword(ctx context.Context, project, serverID, userID string, next Secret, prove func(*VPNUser) error) error {
	leave, err := s.hashing.enter(ctx, project)
	if err != nil {
		return err
	}
	defer leave()
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
		if err := prove(&u); err != nil {
			return err
		}
		if err := passwordIsNew(next, u.Passwords); err != nil {
			return err
		}
		if hash.IsZero() {
			if hash, err = HashPassword(next, nil); err != nil {
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
