package control

import (
	"slices"
)

// roster is a server with its users, groups and access policies: what the
// rules about any of them look at.
type roster struct {
	server   VPNServer
	gateway  P2CGateway
	users    []VPNUser // without their passwords
	groups   []UserGroup
	policies []AccessPolicy
}

// roster returns that of a server.
func (tx *transaction) roster(project, serverID string) (*roster, error) {
	var r roster
	var err error
	if r.server, err = tx.server(project, serverID); err != nil {
		return nil, err
	}
	if r.gateway, err = tx.p2cGateway(project, r.server.GatewayID); err != nil {
		return nil, err
	}
	if r.users, err = tx.users(project, serverID); err != nil {
		return nil, err
	}
	if r.groups, err = tx.userGroups(project, serverID); err != nil {
		return nil, err
	}
	r.policies, err = tx.accessPolicies(project, serverID)
	return &r, err
}

// rosterOfGroup returns one with nothing but a group, or without it where it is
// gone: enough to show what refers to it.
func (tx *transaction) rosterOfGroup(project, groupID string) (*roster, error) {
	var r roster
	if groupID == "" {
		return &r, nil
	}
	g, err := tx.userGroup(project, groupID)
	switch {
	case isCode(err, codeNoGroup):
		return &r, nil
	case err == nil:
		r.groups = []UserGroup{g}
	}
	return &r, err
}

// rosterToChange is roster for a change: the gateway must be neither frozen nor
// about to go. Whether the server is ready does not matter, since its users,
// groups and policies are made true apart from it.
func (tx *transaction) rosterToChange(project, serverID string) (*roster, error) {
	r, err := tx.roster(project, serverID)
	switch {
	case err != nil:
		return nil, err
	case r.gateway.DeletionRequested:
		return nil, gatewayInState(P2CPendingDelete)
	case r.gateway.Frozen || r.server.Frozen:
		return nil, gatewayInState(P2CFrozen)
	}
	return r, nil
}

// rosterToExtend is rosterToChange for something new: there is none of it where
// certificates say who may connect.
func (tx *transaction) rosterToExtend(project, serverID string) (*roster, error) {
	r, err := tx.rosterToChange(project, serverID)
	if err == nil && !r.server.AuthType.Passwords() {
		err = Invalid("vpn_server_id", "the client_auth_type of the server must be %s or %s", ClientAuthPassword, ClientAuthBoth)
	}
	return r, err
}

// group returns the group of an id, nil when the server has none such.
func (r *roster) group(id string) *UserGroup {
	i := slices.IndexFunc(r.groups, func(g UserGroup) bool { return g.ID == id })
	if i < 0 {
		return nil
	}
	return &r.groups[i]
}

// groupOf returns the group that a user is in, nil for none. A group that was
// deleted leaves its id with its users.
func (r *roster) groupOf(u *VPNUser) *UserGroup {
	if u.GroupID == "" {
		return nil
	}
	return r.group(u.GroupID)
}

// membersOf returns the users of a group.
func (r *roster) membersOf(groupID string) []VPNUser {
	var members []VPNUser
	for _, u := range r.users {
		if u.GroupID == groupID {
			members = append(members, u)
		}
	}
	return members
}
