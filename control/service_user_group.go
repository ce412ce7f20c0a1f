package control

import (
	"context"
	"time"
)

// UserGroupView is a group as the API shows it.
type UserGroupView struct {
	UserGroup
	Users int // number of its members
}

// CreateUserGroup performs CreateVpnUserGroup.
func (s *Service) CreateUserGroup(ctx context.Context, project, serverID string, req UserGroupCreate) (UserGroup, error) {
	var group UserGroup
	err := once(ctx, s, project, &group, func(tx *transaction) error {
		r, err := tx.rosterToExtend(project, serverID)
		if err != nil {
			return err
		}
		if group, err = parseUserGroup(&req); err != nil {
			return err
		}
		if err := groupNameIsFree(r, &group); err != nil {
			return err
		}
		if err := groupsFit(r); err != nil {
			return err
		}
		group.ServerID = serverID
		group.Meta, err = s.newMeta(group.Meta, project, metas(r.groups, func(g *UserGroup) Meta { return g.Meta }))
		if err != nil {
			return err
		}
		return tx.putUserGroup(group)
	})
	return group, err
}

// ShowUserGroup performs ShowVpnUserGroup.
func (s *Service) ShowUserGroup(ctx context.Context, project, serverID, id string) (UserGroupView, error) {
	r, err := s.read(ctx).roster(project, serverID)
	if err != nil {
		return UserGroupView{}, err
	}
	g := r.group(id)
	if g == nil {
		return UserGroupView{}, noUserGroup()
	}
	return r.viewGroup(*g), nil
}

func (r *roster) viewGroup(g UserGroup) UserGroupView {
	return UserGroupView{UserGroup: g, Users: len(r.membersOf(g.ID))}
}

// ListUserGroups performs ListVpnUserGroups.
func (s *Service) ListUserGroups(ctx context.Context, project, serverID string, page Page) (List[UserGroupView], error) {
	var views List[UserGroupView]
	r, err := s.read(ctx).roster(project, serverID)
	if err != nil {
		return views, err
	}
	l, err := paginateP2C(r.groups, func(g *UserGroup) time.Time { return g.CreatedAt }, page)
	views.Total, views.NextMarker = l.Total, l.NextMarker
	for _, g := range l.Items {
		views.Items = append(views.Items, r.viewGroup(g))
	}
	return views, err
}

// UpdateUserGroup performs UpdateVpnUserGroup.
func (s *Service) UpdateUserGroup(ctx context.Context, project, serverID, id string, req UserGroupUpdate) (UserGroupView, error) {
	var view UserGroupView
	err := s.changeGroup(ctx, project, serverID, id, func(tx *transaction, r *roster, g *UserGroup) error {
		if err := groupIsCustom(g); err != nil {
			return err
		}
		merged, err := mergeUserGroup(&req, *g)
		if err != nil {
			return err
		}
		if err := groupNameIsFree(r, &merged); err != nil {
			return err
		}
		if changed := merged.Name != g.Name || merged.Description != g.Description; changed {
			s.touch(&merged.Meta)
			err = tx.putUserGroup(merged)
		}
		view = r.viewGroup(merged)
		return err
	})
	return view, err
}

// DeleteUserGroup performs DeleteVpnUserGroup. Its users are in no group then.
func (s *Service) DeleteUserGroup(ctx context.Context, project, serverID, id string) error {
	return s.changeGroup(ctx, project, serverID, id, func(tx *transaction, r *roster, g *UserGroup) error {
		if err := groupIsCustom(g); err != nil {
			return err
		}
		if err := groupHasNoPolicy(r, g); err != nil {
			return err
		}
		tx.deleteUserGroup(g.Meta)
		return nil
	})
}

func (s *Service) changeGroup(ctx context.Context, project, serverID, id string, edit func(*transaction, *roster, *UserGroup) error) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		r, err := tx.rosterToChange(project, serverID)
		if err != nil {
			return err
		}
		g := r.group(id)
		if g == nil {
			return noUserGroup()
		}
		return edit(tx, r, g)
	})
}

// AddUsersToGroup performs AddVpnUsersToGroup. One who is in the group already
// stays there.
func (s *Service) AddUsersToGroup(ctx context.Context, project, serverID, groupID string, userIDs []string) error {
	return s.eachMember(ctx, project, serverID, groupID, userIDs, func(tx *transaction, r *roster, u *VPNUser) error {
		if err := userIsInNoOtherGroup(r, u, groupID); err != nil || u.GroupID == groupID {
			return err
		}
		u.GroupID = groupID
		s.touch(&u.Meta)
		return tx.putUser(*u)
	})
}

// RemoveUsersFromGroup performs RemoveVpnUsersFromGroup.
func (s *Service) RemoveUsersFromGroup(ctx context.Context, project, serverID, groupID string, userIDs []string) error {
	return s.eachMember(ctx, project, serverID, groupID, userIDs, func(tx *transaction, _ *roster, u *VPNUser) error {
		if err := userIsInGroup(u, groupID); err != nil {
			return err
		}
		u.GroupID = ""
		s.touch(&u.Meta)
		return tx.putUser(*u)
	})
}

func (s *Service) eachMember(ctx context.Context, project, serverID, groupID string, userIDs []string, edit func(*transaction, *roster, *VPNUser) error) error {
	return s.eachUser(ctx, project, serverID, userIDs, func(tx *transaction, r *roster, id string) error {
		if r.group(groupID) == nil {
			return noUserGroup()
		}
		u, err := tx.userOf(project, serverID, id)
		if err != nil {
			return err
		}
		return edit(tx, r, &u)
	})
}
