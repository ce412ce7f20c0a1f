package control

import (
	"fmt"
	"strings"
)

// Role is the name of what an account may do.
type Role string

// Roles that are always there. A configuration may define others.
const (
	RoleAdmin    Role = "admin"    // everything within the project
	RoleOperator Role = "operator" // reads all, changes all but gateways and servers themselves
	RoleReadOnly Role = "readonly" // reads all
	// RoleBackup reads the whole store, that is the objects of all projects,
	// and nothing else. It is apart from RoleAdmin since an administrator of
	// one project has no business with the others.
	RoleBackup Role = "backup"
	// RoleRestore replaces the whole store by a backup, and nothing else.
	RoleRestore Role = "restore"
)

// Permissions are the actions that a role allows. An action is written
// service:resource:verb, as in vpn:vpnGateways:create; an asterisk stands for
// any characters within one of the three.
type Permissions []string

var readPermissions = Permissions{"vpn:*:get*", "vpn:*:list*", "vpn:*:count", "vpngw:nodes:list"}

// builtinRoles has a copy for nobody to change.
var builtinRoles = map[Role]Permissions{
	RoleAdmin: {"vpn:*:*", "vpngw:nodes:list"},
	// What an operator cannot change holds the addresses and the capacity that
	// a project pays for.
	RoleOperator: append(Permissions{
		"vpn:customerGateways:*", "vpn:vpnConnections:*", "vpn:connectionMonitors:*", "vpn:resourceInstanceTags:*",
		"vpn:p2cVpnUser:*", "vpn:p2cVpnGateway:*UserGroup", "vpn:p2cVpnGateway:*AccessPolicy", "vpn:p2cVpnGateway:addUsers",
		"vpn:p2cVpnGateway:removeUsers", "vpn:p2cVpnGateway:disconnectConnection", "vpn:p2cVpnGateway:exportClientConfig",
		"vpn:system:checkClientCaCertificate",
	}, readPermissions...),
	RoleReadOnly: readPermissions,
	RoleBackup:   {"vpngw:store:backup"},
	RoleRestore:  {"vpngw:store:restore"},
}

// Bounds of the roles that a configuration defines.
const (
	maxRoles       = 256
	maxPermissions = 256 // of a role
	maxPattern     = 128 // octets of an action
)

// Allow tells whether the permissions hold an action.
func (p Permissions) Allow(action string) bool {
	for _, pattern := range p {
		if MatchAction(pattern, action) {
			return true
		}
	}
	return false
}

// MatchAction tells whether a pattern of Permissions covers an action.
func MatchAction(pattern, action string) bool {
	patterns, parts := strings.Split(pattern, ":"), strings.Split(action, ":")
	if len(patterns) != 3 || len(parts) != 3 {
		return false
	}
	for i := range parts {
		if parts[i] == "" || !matchWildcard(patterns[i], parts[i]) {
			return false
		}
	}
	return true
}

// matchWildcard matches text with a pattern in which an asterisk stands for
// any characters. The first fit of each piece is the best one, so the time is
// bounded by the product of the lengths.
func matchWildcard(pattern, text string) bool {
	pieces := strings.Split(pattern, "*")
	first, last := pieces[0], pieces[len(pieces)-1]
	if len(pieces) == 1 {
		return pattern == text
	}
	if len(text) < len(first)+len(last) || !strings.HasPrefix(text, first) || !strings.HasSuffix(text, last) {
		return false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, piece := range pieces[1 : len(pieces)-1] {
		at := strings.Index(text, piece)
		if at < 0 {
			return false
		}
		text = text[at+len(piece):]
	}
	return true
}

// validate says what is wrong with the patterns.
func (p Permissions) validate() error {
	if len(p) < 1 || len(p) > maxPermissions {
		return fmt.Errorf("must have 1 to %d actions", maxPermissions)
	}
	for i, pattern := range p {
		parts := strings.Split(pattern, ":")
		ok := len(parts) == 3 && len(pattern) <= maxPattern
		for _, part := range parts {
			ok = ok && part != "" && strings.IndexFunc(part, func(r rune) bool { return r != '*' && !isASCIIAlnum(r) }) < 0
		}
		if !ok {
			return fmt.Errorf("action %d must be service:resource:verb of letters, digits and asterisks, at most %d characters", i, maxPattern)
		}
	}
	return nil
}

// Roles are the roles that a configuration defines, by name.
type Roles map[Role]Permissions

// Validate says what is wrong with the roles.
func (r Roles) Validate() error {
	if len(r) > maxRoles {
		return fmt.Errorf("roles: at most %d", maxRoles)
	}
	for name, permissions := range r {
		if _, taken := builtinRoles[name]; taken {
			return fmt.Errorf("roles.%s: is there already, and cannot be changed", name)
		}
		if len(name) < 1 || len(name) > maxNameLen {
			return fmt.Errorf("roles.%s: its name must have 1 to %d characters", name, maxNameLen)
		}
		if err := permissions.validate(); err != nil {
			return fmt.Errorf("roles.%s: %w", name, err)
		}
	}
	return nil
}

// Permissions returns what a role allows; ok is false when there is no such
// role.
func (r Roles) Permissions(name Role) (p Permissions, ok bool) {
	if p, ok = builtinRoles[name]; !ok {
		p, ok = r[name]
	}
	return p, ok
}
