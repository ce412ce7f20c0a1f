package etcd_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/store"
	"github.com/vpngw/vpngw/control/store/etcd"
)

// A backup restored into a cluster that nodes are using, and into an empty one.
// What goes with the leases of nodes stays as it is.
func TestRestore(t *testing.T) {
	t.Parallel()
	endpoint := startServers(t, 1, "http")[0].endpoint
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(hex.EncodeToString(bytes.Repeat([]byte{7}, 32))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := control.ReadSealingKey(file)
	if err != nil {
		t.Fatal(err)
	}
	one := open(t, etcd.Options{Endpoints: []string{endpoint}, Prefix: "/one"})
	objects := control.NewObjects(one, key)
	for i := range 300 {
		put(t, one, fmt.Sprintf("other/%03d", i), "before")
	}
	put(t, one, control.PrefixFleet+"nodes/a", "lease of before")
	var backup bytes.Buffer
	if err := objects.Backup(t.Context(), &backup, time.Now()); err != nil {
		t.Fatal(err)
	}

	put(t, one, "other/000", "after")
	put(t, one, "other/300", "after")
	put(t, one, control.PrefixFleet+"nodes/a", "lease of now")
	if _, err := one.Txn(t.Context(), nil, []store.Op{store.Delete("other/001")}); err != nil {
		t.Fatal(err)
	}
	info, err := objects.Restore(t.Context(), bytes.NewReader(backup.Bytes()))
	if err != nil || info.Entries != 300 {
		t.Fatalf("restored %+v, %v", info, err)
	}
	two := open(t, etcd.Options{Endpoints: []string{endpoint}, Prefix: "/two"})
	if _, err := control.RestoreBackup(t.Context(), two, key, bytes.NewReader(backup.Bytes())); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]store.Store{"in use": one, "empty": two} {
		entries, _, err := s.List(t.Context(), "other/")
		if err != nil || len(entries) != 300 || string(entries[0].Value) != "before" || entries[1].Key != "other/001" {
			t.Errorf("%s: %d entries, %v", name, len(entries), err)
		}
	}
	if e, err := one.Get(t.Context(), control.PrefixFleet+"nodes/a"); err != nil || string(e.Value) != "lease of now" {
		t.Errorf("what goes with a lease is %q, %v", e.Value, err)
	}
	if s, err := objects.Snapshot(t.Context()); err != nil || s.Epoch == "" {
		t.Errorf("the epoch is %q, %v", s.Epoch, err)
	}
	all, _, err := one.List(t.Context(), "")
	for _, e := range all {
		if strings.HasPrefix(e.Key, "restore/") {
			t.Errorf("%s is left over, %v", e.Key, err)
		}
	}
}
