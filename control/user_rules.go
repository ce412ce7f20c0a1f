package control

import (
	"fmt"
	"slices"
)

// userDraft is a user that is being decided on, with what its rules look at.
type userDraft struct {
	VPNUser
	roster *roster
}

// userRules are the rules that hold for a user at any time, beyond those of
// its single members.
var userRules = []func(*userDraft) *Error{
	userNameIsFree,
	staticIPIsInPool,
	staticIPIsNotGateway,
	staticIPIsFirstHost,
	staticIPIsFree,
}

// others returns the users of the server besides the one in question, which
// has no id before it is created.
func (d *userDraft) others() []VPNUser {
	if d.ID == "" {
		return d.roster.users
	}
	return slices.DeleteFunc(slices.Clone(d.roster.users), func(o VPNUser) bool { return o.ID == d.ID })
}

func userNameIsFree(d *userDraft) *Error {
	if slices.ContainsFunc(d.others(), func(o VPNUser) bool { return o.Name == d.Name }) {
		err := refuse("VPN.1302", "The username already exists.")
		err.rule = "Duplicate user name."
		return err
	}
	return nil
}

func staticIPIsInPool(d *userDraft) *Error {
	if d.StaticIP.IsValid() && !d.roster.server.ClientCIDR.Contains(d.StaticIP) {
		return Invalid("static_ip", "must lie in %s, the client_cidr of the server", d.roster.server.ClientCIDR)
	}
	return nil
}

// staticIPIsNotGateway: the server takes the first host of the first block.
func staticIPIsNotGateway(d *userDraft) *Error {
	if gateway := d.roster.server.ClientCIDR.Masked().Addr().Next(); d.StaticIP == gateway {
		return Invalid("static_ip", "must not be %s, the address of the gateway in client_cidr", gateway)
	}
	return nil
}

// staticIPIsFirstHost: with topology net30 each client has a block of /30, of
// which its address is the first host.
func staticIPIsFirstHost(d *userDraft) *Error {
	if !d.StaticIP.IsValid() {
		return nil
	}
	if block, err := d.StaticIP.Prefix(30); err == nil && block.Addr().Next() != d.StaticIP {
		return Invalid("static_ip", "must be the first host of a block of /30: that of this block is %s", block.Addr().Next())
	}
	return nil
}

func staticIPIsFree(d *userDraft) *Error {
	if !d.StaticIP.IsValid() {
		return nil
	}
	for _, o := range d.others() {
		if o.StaticIP == d.StaticIP {
			return Invalid("static_ip", "%s is that of user %s", d.StaticIP, o.Name)
		}
	}
	return nil
}

// usersFit: a gateway has no more users than can be connected to it.
func usersFit(r *roster, added int) error {
	if len(r.users)+added > r.gateway.MaxConnections {
		return refuse("VPN.1307", "The number of users exceeds the upper limit.")
	}
	return nil
}

// groupOfRequest returns the id of the group that a request names by its id or
// its name, empty for none. Nil members name none.
func (r *roster) groupOfRequest(id, name *string) (string, error) {
	var i int
	switch {
	case id != nil && *id != "":
		i = slices.IndexFunc(r.groups, func(g UserGroup) bool { return g.ID == *id })
	case name != nil && *name != "":
		i = slices.IndexFunc(r.groups, func(g UserGroup) bool { return g.Name == *name })
	default:
		return "", nil
	}
	if i < 0 {
		return "", noUserGroup()
	}
	return r.groups[i].ID, nil
}

// userList checks the users that a request is about, by id: some, not too many,
// none of them twice.
func userList(ids []string) error {
	if len(ids) == 0 {
		return emptyUserList()
	}
	if len(ids) > maxUserList {
		return Invalid("users", "must be at most %d", maxUserList)
	}
	seen := map[string]bool{}
	for _, id := range ids {
		if seen[id] {
			return refuse("VPN.1315", "Duplicate user %s.", id)
		}
		seen[id] = true
	}
	return nil
}

func emptyUserList() *Error {
	return refuse("VPN.1318", "User list is empty.")
}

// cause says why an entry of a batch is not valid, in the words of the API's
// reference where it has some.
func (e *Error) cause() string {
	switch {
	case e.field != "":
		return fmt.Sprintf("%s: %s.", e.field, e.rule)
	case e.rule != "":
		return e.rule
	default:
		return e.Message
	}
}
