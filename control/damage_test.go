package control

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/control/store"
)

// damage overwrites an entry of the store with what cannot be decoded.
func (w *world) damage(key string) {
	w.t.Helper()
	if _, err := w.store.Txn(w.t.Context(), nil, []store.Op{store.Put(key, []byte("{"))}); err != nil {
		w.t.Fatal(err)
	}
}

func TestDamagedEntriesDoNotHideOthers(t *testing.T) {
	w := newWorld(t)
	g, good, bad := w.gateway(), w.peer("198.51.100.7"), w.peer("198.51.100.8")
	c, err := w.CreateConnection(t.Context(), project, connectionRequest(g.ID, good.ID))
	if err != nil {
		t.Fatal(err)
	}
	m, err := w.CreateMonitor(t.Context(), project, c.ID)
	if err != nil {
		t.Fatal(err)
	}
	w.damage(prefixMonitorStatus + "/" + project + "/" + m.ID)
	w.damage(prefixCustomerGateways + "/" + project + "/" + bad.ID)
	w.damage(prefixGatewayStatus + "/" + project + "/" + g.ID)
	w.damage(prefixConnectionStatus + "/" + project + "/" + c.ID)

	peers, err := w.ListCustomerGateways(t.Context(), project, CustomerGatewayFilter{})
	if err != nil || len(peers.Items) != 1 || peers.Items[0].ID != good.ID {
		t.Errorf("customer gateways: %v, %v", peers.Items, err)
	}
	gateways, err := w.ListGateways(t.Context(), project, GatewayFilter{})
	if err != nil || len(gateways) != 1 {
		t.Errorf("gateways: %v, %v", gateways, err)
	}
	if _, err := w.ShowConnection(t.Context(), project, c.ID); err != nil {
		t.Errorf("connection: %v", err)
	}
	if _, err := w.ShowMonitor(t.Context(), project, m.ID); err != nil {
		t.Errorf("monitor: %v", err)
	}
	s, err := w.objects.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.CustomerGateways) != 1 || len(s.Connections) != 1 || s.Unreadable[bad.ID] == nil ||
		s.DamagedStatus[g.ID] == nil || s.DamagedStatus[c.ID] == nil || s.DamagedStatus[m.ID] == nil || len(s.Monitors) != 1 {
		t.Errorf("snapshot: %+v", s)
	}
}

func TestNoNewSealingKeyBesideObjects(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "sealing.key")
	if _, err := LoadSealingKeyOf(t.Context(), w.store, path); err != nil {
		t.Errorf("beside an empty store: %v", err)
	}
	w.gateway()
	if _, err := LoadSealingKeyOf(t.Context(), w.store, path); err != nil {
		t.Errorf("the key that is there: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadSealingKeyOf(t.Context(), w.store, path); err == nil || !strings.Contains(err.Error(), path+" is missing") {
		t.Errorf("without the key: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a key was made")
	}
}
