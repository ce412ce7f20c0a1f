//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// A backup that was taken while the tunnel was up brings it up again, with its
// key, after all was deleted. A key that may not take backups gets none.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 1)}, netlab.DaemonOptions{})
	w.peer(0, nil, w.swan(0))
	file := w.file([]declare.Connection{w.connection(0)})
	w.apply(file)
	w.waitStatus(connectionName(0), "ACTIVE", patience)

	backup := filepath.Join(t.TempDir(), "backup")
	save := func(environment []string) (string, error) {
		return w.Gateway.Run(w.ctx, append(append([]string{"env"}, environment...), vpnctl, "backup", backup)...)
	}
	if out, err := save(w.daemon.Environment()); err == nil {
		t.Errorf("the administrator of a project took a backup of all: %s", out)
	}
	out, err := save(w.daemon.BackupEnvironment())
	w.check(err)
	if !strings.Contains(out, "entries") {
		t.Errorf("vpnctl backup says %q", out)
	}

	w.check((&declare.Applier{Client: w.api, Every: 50 * time.Millisecond, Report: func(declare.Change) {}}).Delete(w.ctx, file))
	w.check(w.daemon.Stop())
	w.check(w.daemon.Restore(w.ctx, backup))
	w.check(w.daemon.Start(w.ctx))
	w.waitStatus(connectionName(0), "ACTIVE", patience)
	w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[0].Addresses[0])
	all, err := w.api.List(w.ctx, client.Connections)
	w.check(err)
	if len(all) != 1 {
		t.Errorf("there are %d connections, want the one of the backup", len(all))
	}
}
