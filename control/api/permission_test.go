package api

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
)

// publishedActions returns the action of each operation in the table of
// permissions that the API's reference publishes.
func publishedActions(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("testdata/permissions.tsv")
	check(t, err)
	actions := map[string]string{}
	for line := range strings.Lines(string(text)) {
		operation, action, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok {
			t.Fatalf("%q is not two columns", line)
		}
		actions[operation] = action
	}
	return actions
}

// ownActions are the actions of operations that the published table lacks.
var ownActions = map[string]string{
	"BackupStore":                           "vpngw:store:backup",
	"RestoreStore":                          "vpngw:store:restore",
	"CreateP2cVgw":                          "vpn:p2cVpnGateway:subscribe",
	"DeleteP2cVgw":                          "vpn:p2cVpnGateway:delete",
	"ExportVpnConnectionPeerConfiguration":  "vpn:vpnConnections:get",
	"ShowVpnConnectionDiagnosis":            "vpn:vpnConnections:getLog",
	"ListVpnConnectionEvents":               "vpn:vpnConnections:getLog",
	"ListConnectionIpsecSa":                 "vpn:vpnConnections:get",
	"ListNodes":                             "vpngw:nodes:list",
	"ListP2cVgwAvailabilityZones":           "vpn:system:listAvailabilityZones",
	"PlanVpnConnection":                     "vpn:vpnConnections:update",
	"ListPeerConfigurationSupportedDevices": "vpn:vpnConnections:list",
	"CreateVpnUserTotp":                     "vpn:p2cVpnUser:resetPassword",
	"DeleteVpnUserTotp":                     "vpn:p2cVpnUser:resetPassword",
	"ListVpnGatewayCertificates":            "vpn:vpnGateways:getCertificate",
}

func TestEveryOperationHasItsAction(t *testing.T) {
	published := publishedActions(t)
	operations, err := document()
	check(t, err)
	for pattern, op := range operations {
		if strings.HasSuffix(pattern, "/v3/auth/tokens") {
			if op.permission != "" {
				t.Errorf("%s needs %s: everybody may log in and out", op.id, op.permission)
			}
			continue
		}
		want, ok := published[op.id]
		if !ok {
			want, ok = ownActions[op.id]
		}
		if !ok || op.permission != want {
			t.Errorf("%s needs %q, want %q", op.id, op.permission, want)
		}
	}
}

const listNodes = "vpngw:nodes:list"

var pathParameter = regexp.MustCompile(`\{[a-z_0-9]+\}`)

// TestRolesOfEveryOperation asks for each operation of the document in each
// role. A request without a body, about an object that does not exist, is
// refused for its role or, later, for that.
func TestRolesOfEveryOperation(t *testing.T) {
	operations, err := document()
	check(t, err)
	b := newBench(t)
	for role, allows := range map[string]func(action, verb string) bool{
		"admin": func(action, _ string) bool { return strings.HasPrefix(action, "vpn:") || action == listNodes },
		"operator": func(action, verb string) bool {
			object := strings.Split(action, ":")[1]
			return reads(verb) || slices.Contains([]string{"customerGateways", "vpnConnections", "connectionMonitors", "p2cVpnUser", "resourceInstanceTags"}, object) ||
				object == "p2cVpnGateway" && (strings.HasSuffix(verb, "UserGroup") || strings.HasSuffix(verb, "AccessPolicy") ||
					slices.Contains([]string{"addUsers", "removeUsers", "disconnectConnection", "exportClientConfig"}, verb)) ||
				verb == "checkClientCaCertificate"
		},
		"readonly": func(action, verb string) bool {
			return strings.HasPrefix(action, "vpn:") && reads(verb) || action == listNodes
		},
		"auditor": func(action, verb string) bool {
			return strings.HasPrefix(action, "vpn:") && strings.HasPrefix(verb, "list") || action == "vpn:vpnConnections:getLog"
		},
		"backup":   func(action, _ string) bool { return action == "vpngw:store:backup" },
		"restore":  func(action, _ string) bool { return action == "vpngw:store:restore" },
		"stranger": func(action, _ string) bool { return action == listNodes }, // of whichever project
	} {
		for _, op := range operations {
			if op.permission == "" {
				continue
			}
			t.Run(role+"/"+op.id, func(t *testing.T) {
				b.t = t
				patterns := slices.Sorted(maps.Keys(op.patterns()))
				method, target, _ := strings.Cut(patterns[0], " ")
				target = strings.Replace(target, "{project_id}", project, 1)
				target = pathParameter.ReplaceAllString(target, "00000000-0000-4000-8000-000000000000")
				r, content := request(t, method, target, nil)
				b.now = b.now.Add(time.Second) // no two signatures are equal
				signRequest(r, content, role, testSecret+role, b.now)
				refused, message := b.refusal(r)
				verb := op.permission[strings.LastIndexByte(op.permission, ':')+1:]
				if want := !allows(op.permission, verb); refused != want {
					t.Fatalf("refused for the role: %v, want %v", refused, want)
				}
				if refused && role != "stranger" && message != fmt.Sprintf("Authentication failed: role %s does not allow %s", role, op.permission) {
					t.Errorf("the refusal says %q", message)
				}
			})
		}
	}
}

func reads(verb string) bool {
	return strings.HasPrefix(verb, "get") || strings.HasPrefix(verb, "list") || verb == "count"
}

// refusal sends a request and tells whether it was refused for who sent it.
func (b *bench) refusal(r *http.Request) (refused bool, message string) {
	b.t.Helper()
	a := b.send(r)
	message = a.text("error_msg")
	if a.Status == http.StatusForbidden && a.text("error_code") == control.CodeForbidden && strings.HasPrefix(message, "Authentication failed: ") {
		return true, message
	}
	if a.Status == http.StatusUnauthorized {
		b.t.Errorf("was not authenticated: %s", a.Text)
	}
	return false, message
}
