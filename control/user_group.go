package control

import (
	"slices"
)

// UserGroupCreate is a request for a group. A nil member was not sent.
type UserGroupCreate struct {
	Name        *string
	Description *string
}

// UserGroupUpdate is a change of a group. A nil member stays as it is.
type UserGroupUpdate struct {
	Name        *string
	Description *string
}

// parseUserGroup reads a request for a group.
func parseUserGroup(req *UserGroupCreate) (UserGroup, error) {
	g := UserGroup{Type: TypeCustom}
	p := &parser{}
	if req.Name == nil {
		p.fail("name", "is required")
	}
	p.userGroup(req.Name, req.Description, &g)
	return g, p.result()
}

// mergeUserGroup reads a change of a group over its present specification.
func mergeUserGroup(req *UserGroupUpdate, g UserGroup) (UserGroup, error) {
	p := &parser{}
	p.userGroup(req.Name, req.Description, &g)
	return g, p.result()
}

func (p *parser) userGroup(name, description *string, g *UserGroup) {
	p.characters("name", name, &g.Name, 1, maxNameLen, groupNameCharacters)
	p.characters("description", description, &g.Description, 0, maxNameLen, descriptionCharacters)
}

// groupNameIsFree: groups of a batch are given by their names.
func groupNameIsFree(r *roster, g *UserGroup) error {
	if slices.ContainsFunc(r.groups, func(o UserGroup) bool { return o.ID != g.ID && o.Name == g.Name }) {
		return refuse("VPN.1300", "The user group name already exists.")
	}
	return nil
}

func groupsFit(r *roster) error {
	if len(r.groups) >= maxUserGroups {
		return refuse("VPN.1306", "The number of user groups exceeds the upper limit (%d).", maxUserGroups)
	}
	return nil
}

// groupIsCustom: the Default group stays as it is. Its members may change.
func groupIsCustom(g *UserGroup) error {
	if g.Type == TypeDefault {
		return refuse("VPN.1316", "Operations on the default user group are not allowed.")
	}
	return nil
}

func groupHasNoPolicy(r *roster, g *UserGroup) error {
	if slices.ContainsFunc(r.policies, func(p AccessPolicy) bool { return p.GroupID == g.ID }) {
		return refuse("VPN.1313", "The user group has been associated with an access policy. Delete the access policy first.")
	}
	return nil
}

// userIsInNoOtherGroup: a user is in one group at most, and leaves it before
// joining another.
func userIsInNoOtherGroup(r *roster, u *VPNUser, groupID string) error {
	if g := r.groupOf(u); g != nil && g.ID != groupID {
		return refuse("VPN.1304", "The user %s has been added to another user group.", u.Name)
	}
	return nil
}

func userIsInGroup(u *VPNUser, groupID string) error {
	if u.GroupID != groupID {
		return refuse("VPN.1305", "The user %s is not in the current user group.", u.Name)
	}
	return nil
}
