package control

import (
	"strings"
	"testing"
)

func TestRolePermissions(t *testing.T) {
	roles := Roles{"reset": {"vpn:vpnConnections:reset", "vpn:*:list*"}}
	for _, test := range []struct {
		action  string
		allowed string // roles
	}{
		{"vpn:vpnGateways:create", "admin"},
		{"vpn:vpnGateways:update", "admin"},
		{"vpn:vpnGateways:get", "admin operator readonly"},
		{"vpn:vpnGateways:getCertificate", "admin operator readonly"},
		{"vpn:vpnGateways:importCertificate", "admin"},
		{"vpn:vpnConnections:create", "admin operator"},
		{"vpn:vpnConnections:reset", "admin operator reset"},
		{"vpn:vpnConnections:getLog", "admin operator readonly"},
		{"vpn:vpnConnections:list", "admin operator readonly reset"},
		{"vpn:customerGateways:delete", "admin operator"},
		{"vpn:resourceInstances:count", "admin operator readonly"},
		{"vpn:p2cVpnGateway:createServer", "admin"},
		{"vpn:p2cVpnGateway:createUserGroup", "admin operator"},
		{"vpn:p2cVpnGateway:listUserGroup", "admin operator readonly reset"},
		{"vpn:p2cVpnGateway:exportClientConfig", "admin operator"},
		{"vpn:p2cVpnUser:resetPassword", "admin operator"},
		{"vpngw:store:backup", "backup"},
		{"ecs:servers:list", ""},
		{"vpn:vpnGateways", ""},
		{"vpn::list", ""},
		{"vpn:vpnGateways:list:all", ""},
		{"", ""},
	} {
		allowed := strings.Fields(test.allowed)
		for _, role := range []Role{RoleAdmin, RoleOperator, RoleReadOnly, RoleBackup, "reset", "", "root"} {
			want := false
			for _, a := range allowed {
				want = want || a == string(role)
			}
			permissions, _ := roles.Permissions(role)
			if got := permissions.Allow(test.action); got != want {
				t.Errorf("role %q, action %q: got %v, want %v", role, test.action, got, want)
			}
		}
	}
}

func TestMatchAction(t *testing.T) {
	for _, test := range []struct {
		pattern, action string
		want            bool
	}{
		{"a:b:c", "a:b:c", true},
		{"a:b:*", "a:b:c", true},
		{"*:*:*", "a:b:c", true},
		{"*", "a:b:c", false},
		{"a:*", "a:b:c", false},
		{"a:b:c*", "a:b:c", true},
		{"a:b:*c", "a:b:c", true},
		{"a:b:c*c", "a:b:c", false},
		{"a:b:c*c", "a:b:cc", true},
		{"a:b:get*By*", "a:b:getUserByName", true},
		{"a:b:get*By*", "a:b:getUser", false},
		{"a:b:*x*y*z*", "a:b:1x2y3z4", true},
		{"a:b:*x*y*z*", "a:b:1x2z3y4", false},
		{"a:b:*aa", "a:b:aaa", true},
		{"a:b:C", "a:b:c", false},
		{"a:*:c", "a:b:b:c", false},
	} {
		if got := MatchAction(test.pattern, test.action); got != test.want {
			t.Errorf("pattern %q, action %q: got %v, want %v", test.pattern, test.action, got, test.want)
		}
	}
}

func TestRolesAreChecked(t *testing.T) {
	for _, test := range []struct {
		name  string
		roles Roles
		want  string // part of the error; empty: all is well
	}{
		{"none", nil, ""},
		{"good", Roles{"a": {"vpn:*:get*"}}, ""},
		{"built in", Roles{"admin": {"vpn:*:get*"}}, "roles.admin: is there already"},
		{"no name", Roles{"": {"vpn:*:get*"}}, "its name"},
		{"no action", Roles{"a": {}}, "roles.a: must have 1 to 256 actions"},
		{"too many actions", Roles{"a": make(Permissions, maxPermissions+1)}, "roles.a: must have 1 to 256 actions"},
		{"two parts", Roles{"a": {"vpn:*"}}, "roles.a: action 0"},
		{"empty part", Roles{"a": {"vpn:*:get", "vpn::get"}}, "roles.a: action 1"},
		{"other characters", Roles{"a": {"vpn:*:get?"}}, "roles.a: action 0"},
		{"endless", Roles{"a": {"vpn:*:" + strings.Repeat("x", maxPattern)}}, "roles.a: action 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.roles.Validate()
			if (test.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
