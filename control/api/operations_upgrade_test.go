package api

import (
	"net/http"
	"strings"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/store"
)

// olderVersion makes the gateways of the scene ones that were confirmed on a
// version before that of the daemon.
func (s *scene) olderVersion() {
	s.t.Helper()
	for kind, id := range map[control.Kind]string{control.KindGateway: s.gateway, control.KindP2CGateway: s.p2cGateway} {
		key := "spec/" + string(kind) + "/" + project + "/" + id
		entry, err := s.store.Get(s.t.Context(), key)
		if id == "" || err != nil {
			continue // the scene lacks one of the kinds
		}
		older := strings.Replace(string(entry.Value), `"version":"1.2.3"`, `"version":"1.2.2"`, 1)
		_, err = s.store.Txn(s.t.Context(), nil, []store.Op{store.Put(key, []byte(older))})
		check(s.t, err)
	}
}

// upgraded has the gateway at a path upgraded to the end, or to where it waits to
// be confirmed, and makes its job the one to be deleted.
func (s *scene) upgraded(operation string, kind control.Kind, id, target string, finish bool) {
	s.t.Helper()
	s.olderVersion()
	job := s.call(http.MethodPost, target+"/upgrade", object{"action": "start"}).want(http.StatusAccepted).text("job_id")
	done := control.UpgradeProgress{Kind: kind, Project: project, ID: id, Done: []bool{true, true}}
	check(s.t, s.objects.AdvanceUpgrade(s.t.Context(), done, s.now))
	if finish {
		s.call(http.MethodPost, target+"/upgrade", object{"action": "finish"}).want(http.StatusAccepted)
	}
	jobs := strings.TrimSuffix(target, "/"+id) + "/jobs"
	s.calls[operation] = [3]any{http.MethodDelete, jobs + "/" + job, nil}
}

func (s *scene) upgradedGateway(finish bool) {
	s.upgraded("DeleteVpnGatewayJob", control.KindGateway, s.gateway, path("vpn-gateways", s.gateway), finish)
}

func (s *scene) upgradedClients(finish bool) {
	s.upgraded("DeleteP2cVpnGatewayJob", control.KindP2CGateway, s.p2cGateway, onGateway(s.p2cGateway), finish)
}

// upgradeContracts are those of upgrades and their jobs.
var upgradeContracts = map[string]contract{
	"UpgradeVpnGateway": {
		ready: (*scene).olderVersion,
		states: []wrongState{
			notReadyGateway,
			{"of the newest version", func(*scene) {}, denial{400, "VPN.0001", "no newer version"}},
			{"waits to be confirmed", func(s *scene) { s.upgradedGateway(false) }, denial{403, "VPN.0003", "currently UPGRADE_CONFIRMING"}},
		},
		endless: "a gateway has one upgrade at a time",
	},
	"DeleteVpnGatewayJob": {
		ready: func(s *scene) { s.upgradedGateway(true) },
		states: []wrongState{
			{"unfinished", func(s *scene) { s.upgradedGateway(false) }, denial{400, "VPN.0001", "the job has not finished"}},
		},
	},
	"UpgradeP2cVpnGateway": {
		ready: (*scene).olderVersion,
		states: []wrongState{
			{"of the newest version", func(*scene) {}, denial{400, "VPN.0001", "no newer version"}},
			{"waits to be confirmed", func(s *scene) { s.upgradedClients(false) }, denial{500, "VPN.0511", "The gateway is not ready."}},
		},
		endless: "a gateway has one upgrade at a time",
	},
	"DeleteP2cVpnGatewayJob": {
		ready: func(s *scene) { s.upgradedClients(true) },
		states: []wrongState{
			{"unfinished", func(s *scene) { s.upgradedClients(false) }, denial{400, "VPN.0001", "the job has not finished"}},
		},
	},
}
