package control

import (
	"net/netip"
	"slices"
	"strings"
)

// UserCreate is a request for a user. A nil member was not sent.
type UserCreate struct {
	Name        *string
	Password    *Secret
	Description *string
	GroupID     *string // empty: none
	GroupName   *string // likewise; in a batch instead of GroupID
	StaticIP    *string
}

// UserUpdate is a change of a user. A nil member stays as it is.
type UserUpdate struct {
	Description *string
	GroupID     *string // empty: none
	StaticIP    *string
}

// AnyAddress is the static_ip of a user who has none: any of the pool will do.
const AnyAddress = "disable"

// parseUser reads the members of a request for a user that say nothing of
// other objects, and decides on the password.
func parseUser(req *UserCreate) (VPNUser, error) {
	var u VPNUser
	p := &parser{}
	if req.Name == nil {
		p.fail("name", "is required")
	}
	if req.Password == nil {
		p.fail("password", "is required")
	}
	p.characters("name", req.Name, &u.Name, minUserNameLen, maxUserNameLen, userNameCharacters)
	p.characters("description", req.Description, &u.Description, 0, maxNameLen, userDescriptionCharacters)
	p.staticIP("static_ip", req.StaticIP, &u.StaticIP)
	if err := p.result(); err != nil {
		return u, err
	}
	if err := userNameIsNotReserved(u.Name); err != nil {
		return u, err
	}
	return u, checkPassword(u.Name, *req.Password)
}

// mergeUser reads a change of a user over its present specification.
func mergeUser(req *UserUpdate, u VPNUser) (VPNUser, error) {
	p := &parser{}
	p.characters("description", req.Description, &u.Description, 0, maxNameLen, userDescriptionCharacters)
	p.staticIP("static_ip", req.StaticIP, &u.StaticIP)
	return u, p.result()
}

// staticIP reads the address of a user, or that there is none.
func (p *parser) staticIP(field string, v *string, to *netip.Addr) {
	switch {
	case v == nil:
	case *v == AnyAddress:
		*to = netip.Addr{}
	default:
		*to = p.ipv4(field, *v)
	}
}

// reservedUserNames are those that clients or servers of VPNs use themselves,
// in lower case.
var reservedUserNames = []string{"link", "cascade", "securenat", "localbridge", "administrator"}

func userNameIsNotReserved(name string) error {
	name = strings.ToLower(name)
	if strings.HasPrefix(name, "l3sw_") || slices.Contains(reservedUserNames, name) {
		return refuse("VPN.1317", "The username is unavailable.")
	}
	return nil
}
