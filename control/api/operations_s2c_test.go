package api

import (
	"fmt"
	"net/http"

	"github.com/vpngw/vpngw/control"
)

// The reconciler's part.

func (s *scene) pendGateway() {
	check(s.t, s.objects.SetGatewayStatus(s.t.Context(), project, s.gateway, control.GatewayStatus{}))
}

func (s *scene) pendConnection() {
	check(s.t, s.objects.SetConnectionStatus(s.t.Context(), project, s.connection, control.ConnectionStatus{}))
}

func (s *scene) dropConnection() {
	s.call(http.MethodDelete, path("vpn-connection", s.connection), nil).want(http.StatusNoContent)
	check(s.t, s.objects.FinalizeConnection(s.t.Context(), project, s.connection))
}

func (s *scene) deleteConnection() {
	s.call(http.MethodDelete, path("vpn-connection", s.connection), nil).want(http.StatusNoContent)
}

var (
	notReadyGateway    = wrongState{"gateway pending", (*scene).pendGateway, denial{403, "VPN.0003", "(type=GATEWAY, ID="}}
	notReadyConnection = wrongState{"connection pending", (*scene).pendConnection, denial{403, "VPN.0003", "(type=CONNECTION, ID="}}
	deletedConnection  = wrongState{"connection being deleted", (*scene).deleteConnection, denial{403, "VPN.0003", "currently DELETING"}}
	missing            = denial{404, "VPN.0004", "resource not found"}
)

// secondConnection is the body of a connection beside that of the scene.
func secondConnection(s *scene) object {
	return with(smallestConnection(s.gateway, s.customerGateway), "vgw_ip", eip2ID)
}

// s2cContracts are those of site-to-cloud VPN, tags, tokens and the store.
var s2cContracts = map[string]contract{
	"KeystoneCreateUserTokenByPassword": {
		call:      func(s *scene) *answer { return s.login(login()) },
		stateless: "users are in the configuration", endless: "tokens end by themselves, and logins are rare by their rate",
	},
	"KeystoneRevokeToken": {
		call: func(s *scene) *answer {
			token := s.login(login()).want(http.StatusCreated).Header.Get("X-Subject-Token")
			r, _ := request(s.t, http.MethodDelete, "/v3/auth/tokens", nil)
			r.Header.Set(headerToken, token)
			r.Header.Set("X-Subject-Token", token)
			return s.send(r)
		},
		stateless: "a token is valid or not there",
	},
	"BackupStore": {call: func(s *scene) *answer { return s.as("backup", http.MethodGet, "/vpngw/v1/backup", nil) }},

	"RestoreStore": {
		caller: "restore",
		call: func(s *scene) *answer {
			taken := s.as("backup", http.MethodGet, "/vpngw/v1/backup", nil).want(http.StatusOK)
			return s.as("restore", http.MethodPost, "/vpngw/v1/restore", object{"backup": gzipped(taken.Text)})
		},
		stateless: "it is about all objects", endless: "it replaces what is there",
	},

	"CreateVgw": {
		body: func(*scene) object {
			return vgw(with(smallestGateway(), "eip1", object{"id": eip3ID}, "eip2", object{"id": eip4ID}))
		},
		stateless: "it depends on no other object",
		quotas:    []quota{{limits: control.Limits{Gateways: 1}, message: "quota exceeded: gateways, at most 1"}},
	},
	"UpdateVgw":                      {states: []wrongState{notReadyGateway}},
	"UpdatePostpaidVgwSpecification": {states: []wrongState{notReadyGateway}},
	"DeleteVgw": {
		call: func(s *scene) *answer {
			s.dropConnection()
			return s.call(http.MethodDelete, path("vpn-gateways", s.gateway), nil)
		},
		states: []wrongState{notReadyGateway, {"with a connection", func(*scene) {}, denial{400, "VPN.0001", "has connection"}}},
	},
	"CreateVgwCertificate": {
		ready: func(s *scene) { s.withNationalGateway() },
		states: []wrongState{
			{"gateway pending", func(s *scene) { s.withNationalGateway(); s.pendNationalGateway() }, denial{403, "VPN.0003", "(type=GATEWAY, ID="}},
			{"gateway of another flavor", func(*scene) {}, denial{400, "VPN.0001", "only a gateway of flavor GM has one"}},
			{"with a certificate", func(s *scene) { s.withNationalCertificate() }, denial{400, "VPN.0001", "change it instead"}},
		},
		endless: "a gateway has one",
	},
	"ShowVpnGatewayCertificate": {ready: func(s *scene) { s.withNationalCertificate() }},
	"UpdateVgwCertificate": {
		ready: func(s *scene) { s.withNationalCertificate() },
		states: []wrongState{
			{"gateway pending", func(s *scene) { s.withNationalCertificate(); s.pendNationalGateway() }, denial{403, "VPN.0003", "(type=GATEWAY, ID="}},
			{"without a certificate", func(s *scene) { s.withNationalGateway() }, missing},
		},
	},

	"CreateCgw": {
		stateless: "it depends on no other object",
		quotas:    []quota{{limits: control.Limits{CustomerGateways: 1}, message: "quota exceeded: customer gateways, at most 1"}},
	},
	"UpdateCgw": {stateless: "a customer gateway changes at once"},
	"DeleteCgw": {
		call: func(s *scene) *answer {
			s.dropConnection()
			return s.call(http.MethodDelete, path("customer-gateways", s.customerGateway), nil)
		},
		states: []wrongState{{"with a connection", func(*scene) {}, denial{400, "VPN.0001", "has connection"}}},
	},

	"CreateVpnConnection": {
		states: []wrongState{notReadyGateway},
		quotas: []quota{
			{limits: control.Limits{Connections: 1}, message: "quota exceeded: connections, at most 1"},
			{limits: control.Limits{GatewayConnections: map[control.Flavor]int{control.FlavorProfessional1: 1}}, message: "quota exceeded: connections of a gateway of flavor Professional1, at most 1"},
		},
		references: map[string]denial{
			"vpn_connection.vgw_id": missing, "vpn_connection.cgw_id": missing,
			"vpn_connection.vgw_ip": {400, "VPN.0001", "vgw_ip: is none of the gateway"},
		},
	},
	"BatchCreateVpnConnection": {
		states: []wrongState{notReadyGateway},
		quotas: []quota{{limits: control.Limits{Connections: 1}, message: "quota exceeded: connections, at most 1"}},
	},
	"UpdateVpnConnection": {
		states:     []wrongState{notReadyGateway, notReadyConnection, deletedConnection},
		references: map[string]denial{"vpn_connection.cgw_id": missing},
	},
	"DeleteVpnConnection": {states: []wrongState{notReadyGateway, notReadyConnection, deletedConnection}},
	"ResetVpnConnection":  {states: []wrongState{notReadyConnection, deletedConnection}},
	"ListConnectionIpsecSa": {call: func(s *scene) *answer {
		s.engines.children = map[string][]control.ChildSA{s.connection: nil}
		return s.call(http.MethodGet, path("vpn-connection", s.connection, "ipsec-sa"), nil)
	}},

	"CreateConnectionMonitor": {
		body: func(s *scene) object {
			second := s.call(http.MethodPost, path("vpn-connection"), vpn(secondConnection(s))).want(http.StatusCreated)
			return object{"connection_monitor": object{"vpn_connection_id": second.text("vpn_connection", "id")}}
		},
		states: []wrongState{{"connection being deleted", func(s *scene) {
			s.calls["CreateConnectionMonitor"] = [3]any{http.MethodPost, path("connection-monitors"), object{"connection_monitor": object{"vpn_connection_id": s.connection}}}
			s.deleteConnection()
		}, denial{403, "VPN.0003", "currently DELETING"}}},
		quotas: []quota{{
			prepare: func(*scene) {}, message: "has monitor",
		}},
		references: map[string]denial{"connection_monitor.vpn_connection_id": missing},
	},
	"DeleteConnectionMonitor": {states: []wrongState{{"being deleted", func(s *scene) {
		s.call(http.MethodDelete, path("connection-monitors", s.monitor), nil).want(http.StatusNoContent)
	}, denial{403, "VPN.0003", "currently DELETING"}}}},

	"ListResourcesByTags":                  {stateless: "reads"},
	"CountResourcesByTags":                 {stateless: "reads"},
	"ExportVpnConnectionPeerConfiguration": {stateless: "reads"},
	"BatchCreateResourceTags": {
		stateless: "tags change in any state",
		quotas: []quota{{
			prepare: func(s *scene) {
				tags := []object{}
				for i := range 20 {
					tags = append(tags, object{"key": fmt.Sprint("key-", i)})
				}
				s.call(http.MethodPost, path("vpn-connection", s.connection, "tags", "create"), object{"tags": tags}).want(http.StatusNoContent)
			},
			message: "an object has at most 20",
		}},
	},
	"PlanVpnConnection":       {stateless: "changes nothing"},
	"BatchDeleteResourceTags": {stateless: "tags change in any state"},
}
