package api

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/vpngw/vpngw/control"
)

// ofServers makes a server with a client CA and a client that is connected.
func (s *scene) ofServers() {
	s.t.Helper()
	s.server, s.p2cGateway = s.createServer()
	s.clientCA = s.call(http.MethodPost, onServerID(s.server, "client-ca-certificates"), clientCA(0)).
		want(http.StatusCreated).text("client_ca_certificate", "id")
	s.engines.clients = map[string][]control.ClientConnection{s.p2cGateway: {{
		ID: vpcID, VirtualIP: netip.MustParseAddr("172.21.0.5"), Remote: netip.MustParseAddrPort("198.51.100.9:50000"), User: "user-1",
		Established: s.now, Sampled: s.now,
	}}}
	for id, call := range everyServerOperation(s.p2cGateway, s.server) {
		// The CA of that table is unknown.
		if target := call[1].(string); strings.HasSuffix(target, "/client-ca-certificates/"+vpcID) {
			call[1] = onServerID(s.server, "client-ca-certificates", s.clientCA)
		}
		s.calls[id] = call
	}
}

// ofUsers makes a user, a group and a policy, of a server in password mode.
func (s *scene) ofUsers() {
	s.t.Helper()
	s.passwordServer()
	s.group, s.user = s.createGroup("group"), s.oneUser()
	s.policy = s.createPolicy(s.group)
	for id, call := range everyUserOperation(s.user, s.group, s.policy) {
		s.calls[id] = call
	}
}

// clientCAs are certificates that may be imported. Each is made once.
var clientCAs []string

func clientCA(n int) object {
	return object{"client_ca_certificate": object{"name": fmt.Sprint("clients-", n), "content": clientCAs[n]}}
}

// secondP2CGateway is the body of a gateway beside that of the scene.
func secondP2CGateway(*scene) object {
	return p2c(with(smallestP2CGateway(), "eip", object{"id": eip4ID}))
}

func (s *scene) pendP2CGateway() { s.settleP2CGateway(s.p2cGateway, control.P2CGatewayStatus{}) }

func (s *scene) deleteP2CGateway() {
	s.call(http.MethodDelete, onGateway(s.p2cGateway), nil).want(http.StatusNoContent)
}

func (s *scene) pendServer() { s.settleServer(s.server, control.ServerStatus{}) }

var (
	creatingGateway = wrongState{"gateway being created", (*scene).pendP2CGateway, denial{400, "VPN.0506", "The gateway is being created"}}
	deletedGateway  = wrongState{"gateway being deleted", (*scene).deleteP2CGateway, denial{400, "VPN.0508", "The gateway is being deleted."}}
	creatingServer  = wrongState{"server being created", (*scene).pendServer, denial{400, "VPN.1113", "The server is being created"}}
	unknownUser     = denial{404, "VPN.1303", "The user does not exist."}
)

const atOnce = "users, groups and policies change at once, whatever their server does"

// p2cContracts are those of client-to-cloud VPN.
var p2cContracts = map[string]contract{
	"CreateP2cVgw": {
		body:      secondP2CGateway,
		stateless: "it depends on no other object",
		quotas:    []quota{{limits: control.Limits{P2CGateways: 1}, code: "VPN.0513", message: "Insufficient gateway quota."}},
	},
	"UpdateP2cVgw":                  {states: []wrongState{creatingGateway, deletedGateway}},
	"DeleteP2cVgw":                  {states: []wrongState{creatingGateway, deletedGateway}},
	"DeleteP2cVgwConnection":        {stateless: "a client is connected, or not there"},
	"UpdateVpnConnectionsLogConfig": {states: []wrongState{creatingGateway, deletedGateway}},
	"DeleteVpnConnectionsLogConfig": {states: []wrongState{creatingGateway, deletedGateway}},

	"CreateVpnServer": {
		ready: func(s *scene) {
			gateway := s.call(http.MethodPost, path("p2c-vpn-gateways"), secondP2CGateway(s)).want(http.StatusCreated).text("p2c_vpn_gateway", "id")
			s.settleP2CGateway(gateway, control.P2CGatewayStatus{Observed: everyGeneration, AppliedAt: s.now})
			s.calls["CreateVpnServer"] = [3]any{
				http.MethodPost, onGateway(gateway, "vpn-servers"), serverBody(with(smallestServer(), "client_cidr", "172.22.0.0/24")),
			}
		},
		states: []wrongState{creatingGateway, deletedGateway},
		quotas: []quota{{prepare: func(*scene) {}, code: "VPN.1102", message: "The number of servers exceeds the upper limit."}},
	},
	"UpdateVpnServer":          {states: []wrongState{creatingGateway, deletedGateway, creatingServer}},
	"ExportClientConfig":       {stateless: "reads"},
	"CheckClientCaCertificate": {body: func(*scene) object { return clientCA(1) }, stateless: "reads"},
	"ImportClientCa": {
		body:   func(*scene) object { return clientCA(1) },
		states: []wrongState{creatingGateway, deletedGateway, creatingServer},
		quotas: []quota{{prepare: func(s *scene) {
			for n := 1; n < 10; n++ { // beside that of the scene
				s.call(http.MethodPost, onServerID(s.server, "client-ca-certificates"), clientCA(n)).want(http.StatusCreated)
				s.settleServer(s.server, control.ServerStatus{Observed: everyGeneration, AppliedAt: s.now})
			}
			s.calls["ImportClientCa"] = [3]any{http.MethodPost, onServerID(s.server, "client-ca-certificates"), clientCA(10)}
		}, code: "VPN.1111", message: "The number of client CA certificates exceeds the upper limit."}},
	},
	"UpdateClientCa": {body: func(*scene) object { return clientCA(0) }, states: []wrongState{creatingGateway, deletedGateway, creatingServer}},
	"DeleteClientCa": {states: []wrongState{creatingGateway, deletedGateway, creatingServer}},

	"CreateVpnUser": {
		stateless:  atOnce,
		quotas:     []quota{{prepare: (*scene).fillUsers, code: "VPN.1307", message: "The number of users exceeds the upper limit."}},
		references: map[string]denial{"user.user_group_id": unknownGroup},
	},
	"BatchCreateVpnUsers": {
		stateless: atOnce,
		quotas:    []quota{{prepare: (*scene).fillUsers, code: "VPN.1307", message: "The number of users exceeds the upper limit."}},
	},
	"UpdateVpnUser":         {stateless: atOnce, references: map[string]denial{"user.user_group_id": unknownGroup}},
	"UpdateVpnUserPassword": {stateless: atOnce},
	"ResetVpnUserPassword":  {stateless: atOnce},
	"CreateVpnUserTotp":     {stateless: atOnce, endless: "it takes the place of the one before"},
	"DeleteVpnUserTotp":     {stateless: atOnce},
	"DeleteVpnUser":         {stateless: atOnce},
	"BatchDeleteVpnUsers":   {stateless: atOnce, references: map[string]denial{"users.0.id": unknownUser}},

	"CreateVpnUserGroup": {
		stateless: atOnce,
		quotas: []quota{{prepare: func(s *scene) {
			for i := range 48 { // beside the default one and that of the scene
				s.createGroup(fmt.Sprint("group-", i))
			}
		}, code: "VPN.1306", message: "exceeds the upper limit (50)"}},
	},
	"UpdateVpnUserGroup": {stateless: atOnce},
	"DeleteVpnUserGroup": {
		call: func(s *scene) *answer {
			s.call(http.MethodDelete, onServer("access-policies", s.policy), nil).want(http.StatusNoContent)
			return s.call(http.MethodDelete, onServer("groups", s.group), nil)
		},
		states: []wrongState{{"with a policy", func(*scene) {}, denial{400, "VPN.1313", "access policy"}}},
	},
	"AddVpnUsersToGroup": {
		states: []wrongState{{"user in another group", func(s *scene) {
			other := s.createGroup("other")
			s.call(http.MethodPost, onServer("groups", other, "add-users"), ids(s.user)).want(http.StatusCreated)
		}, denial{400, "VPN.1304", "user-1 has been added to another user group"}}},
		endless:    "a group has as many members as the server has users",
		references: map[string]denial{"users.0.id": unknownUser},
	},
	"RemoveVpnUsersFromGroup": {
		call: func(s *scene) *answer {
			s.call(http.MethodPost, onServer("groups", s.group, "add-users"), ids(s.user)).want(http.StatusCreated)
			return s.call(http.MethodPost, onServer("groups", s.group, "remove-users"), ids(s.user))
		},
		states:  []wrongState{{"user not in the group", func(*scene) {}, denial{400, "VPN.1305", "user-1 is not in the current user group"}}},
		endless: "it takes away",
	},
	"CreateVpnAccessPolicy": {
		stateless: atOnce,
		quotas: []quota{{prepare: func(s *scene) {
			for i := range 99 {
				s.call(http.MethodPost, onServer("access-policies"), policyBody(object{
					"name": fmt.Sprint("policy-", i), "user_group_id": s.group, "dest_ip_cidrs": []string{"10.0.0.0/8"},
				})).want(http.StatusCreated)
			}
		}, code: "VPN.1400", message: "exceeds the upper limit (100)"}},
		references: map[string]denial{"access_policy.user_group_id": unknownGroup},
	},
	"UpdateVpnAccessPolicy": {stateless: atOnce, references: map[string]denial{"access_policy.user_group_id": unknownGroup}},
	"DeleteVpnAccessPolicy": {stateless: atOnce},
}

// fillUsers creates as many users as the gateway may have.
func (s *scene) fillUsers() {
	for i := range 9 { // beside that of the scene
		s.createUser(object{"name": fmt.Sprint("user-of-many-", i)})
	}
}
