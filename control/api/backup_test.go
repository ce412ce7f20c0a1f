package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/control"
)

func TestBackup(t *testing.T) {
	b := newBench(t)
	b.createConnection()
	b.audited()
	a := b.as("backup", http.MethodGet, "/vpngw/v1/backup", nil).want(http.StatusOK)
	info, err := control.CheckBackup(strings.NewReader(a.Text))
	if err != nil || info.Entries < 5 || !info.Taken.Equal(b.now) {
		t.Errorf("the backup says %+v (%v)", info, err)
	}
	for _, secret := range []string{testPSK, testPassword, testSecret} {
		if strings.Contains(a.Text, secret) {
			t.Error("the backup holds a secret")
		}
	}
	if r := b.oneAudited(); r.Operation != "BackupStore" || r.Caller != "backup" || r.Status != http.StatusOK {
		t.Errorf("the backup is recorded as %+v", r)
	}
	b.server.backup.Lock()
	b.as("backup", http.MethodGet, "/vpngw/v1/backup", nil).wantError(http.StatusBadRequest, "VPN.0030", "busy")
	b.server.backup.Unlock()
}
