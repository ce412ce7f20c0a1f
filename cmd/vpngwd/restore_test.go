package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/store"
)

func TestRestore(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	old, fresh := t.TempDir(), t.TempDir()
	key, err := control.LoadSealingKey(filepath.Join(old, sealingKeyFile))
	must(err)
	db, err := store.OpenBolt(filepath.Join(old, storeFile))
	must(err)
	_, err = db.Txn(t.Context(), nil, []store.Op{store.Put("spec/a", []byte("1"))})
	must(err)
	var text bytes.Buffer
	must(control.NewObjects(db, key).Backup(t.Context(), &text, time.Unix(1_800_000_000, 0)))
	must(db.Close())
	backup := filepath.Join(old, "backup")
	must(os.WriteFile(backup, text.Bytes(), 0o600))
	config := writeConfig(t, strings.Replace(wholeConfig, "data_dir: /var/lib/vpngw", "data_dir: "+fresh, 1))

	run := func(backup string, wantCode int, want string) {
		t.Helper()
		var stdout, stderr strings.Builder
		code := command([]string{"restore", "--config", config, backup}, strings.NewReader(""), &stdout, &stderr)
		if out := stdout.String() + stderr.String(); code != wantCode || !strings.Contains(out, want) {
			t.Errorf("exit code %d, %q; want %d and %q", code, out, wantCode, want)
		}
	}
	files := func() string {
		entries, err := os.ReadDir(fresh)
		must(err)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return fmt.Sprint(names)
	}

	run(backup, exitFailed, "put the key there that the backup was made with")
	_, err = control.LoadSealingKey(filepath.Join(fresh, sealingKeyFile))
	must(err)
	run(backup, exitFailed, "another sealing key")
	secret, err := os.ReadFile(filepath.Join(old, sealingKeyFile))
	must(err)
	must(os.WriteFile(filepath.Join(fresh, sealingKeyFile), secret, 0o600))
	run(backup+".none", exitFailed, "no such file")
	must(os.WriteFile(backup+".cut", text.Bytes()[:text.Len()-10], 0o600))
	run(backup+".cut", exitFailed, "cannot be read")
	if got := files(); got != "["+sealingKeyFile+"]" {
		t.Errorf("after failures there is %s", got)
	}
	must(os.WriteFile(filepath.Join(fresh, storeFile+".restore"), []byte("unfinished"), 0o600))
	run(backup, exitOK, "restored 1 entries of 2027-01-15")
	if got := files(); got != fmt.Sprint([]string{sealingKeyFile, storeFile}) {
		t.Errorf("afterwards there is %s", got)
	}
	run(backup, exitFailed, "is there: stop the daemon")
	db, err = store.OpenBolt(filepath.Join(fresh, storeFile))
	must(err)
	defer db.Close()
	if e, err := db.Get(t.Context(), "spec/a"); err != nil || string(e.Value) != "1" {
		t.Errorf("restored %q (%v)", e.Value, err)
	}
}
