package api

import (
	"bytes"
	"compress/gzip"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/store"
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

// gzipped compresses a text for a request.
func gzipped(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text)) // to memory
	_ = w.Close()
	return b.Bytes()
}

func TestRestore(t *testing.T) {
	b := newBench(t)
	b.createConnection()
	taken := b.as("backup", http.MethodGet, "/vpngw/v1/backup", nil).want(http.StatusOK).Text
	b.call(http.MethodPost, path("customer-gateways"), cgw(object{"id_value": "198.51.100.200"})).want(http.StatusCreated)
	restore := func(backup any) *answer {
		b.now = b.now.Add(time.Second)
		return b.as("restore", http.MethodPost, "/vpngw/v1/restore", object{"backup": backup})
	}
	for _, test := range []struct {
		backup  any
		message string
	}{
		{[]byte(taken), "backup: must be compressed by gzip"},
		{gzipped("hello"), "backup: line 1 cannot be read"},
		{gzipped(taken[:len(taken)/2]), "backup: "},
		{gzipped(strings.Replace(taken, `"key":"spec`, `"key":"spex`, 1)), "backup: it is damaged: its SHA-256 is another one"},
		{"%", "backup"},
	} {
		restore(test.backup).wantError(http.StatusBadRequest, "VPN.0001", "invalid request: "+test.message)
	}
	peers := func() int {
		return len(b.call(http.MethodGet, path("customer-gateways"), nil).want(http.StatusOK).list("customer_gateways"))
	}
	if n := peers(); n != 2 {
		t.Fatalf("a restore that was refused changed the store: %d customer gateways", n)
	}
	b.audited()
	a := restore(gzipped(taken)).want(http.StatusOK)
	if n := peers(); n != 1 {
		t.Errorf("%d customer gateways after the restore, want that of the backup", n)
	}
	if info, err := control.CheckBackup(strings.NewReader(taken)); err != nil || a.at("entries") != float64(info.Entries) {
		t.Errorf("the answer is %s, the backup %+v, %v", a.Text, info, err)
	}
	if r := b.oneAudited(); r.Operation != "RestoreStore" || r.Caller != "restore" || r.Status != http.StatusOK {
		t.Errorf("the restore is recorded as %+v", r)
	}

	// While one is under way everything else has to wait, on every node.
	if _, err := b.store.Txn(t.Context(), nil, []store.Op{store.Put("spec/restoring", []byte(`{"id":"x","entries":1}`))}); err != nil {
		t.Fatal(err)
	}
	b.call(http.MethodPost, path("customer-gateways"), cgw(object{"id_value": "198.51.100.201"})).wantError(http.StatusBadRequest, "VPN.0030", "busy")
	restore(gzipped(taken)).wantError(http.StatusBadRequest, "VPN.0030", "busy")
	if _, err := b.objects.Snapshot(t.Context()); !errors.Is(err, control.ErrRestoring) {
		t.Errorf("a pass is given objects: %v", err)
	}
	b.call(http.MethodGet, path("customer-gateways"), nil).wantError(http.StatusBadRequest, "VPN.0030", "busy")
}
