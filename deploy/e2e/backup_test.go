//go:build e2e

package e2e

import (
	"context"
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

// A backup is restored while the daemon runs: the tunnel that it has goes on
// without a new SA, what was created since is gone, and what was deleted since
// comes up again.
func TestRestoreWhileRunning(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 2)}, netlab.DaemonOptions{})
	for i := range 2 {
		w.peer(i, nil, w.swan(i))
	}
	w.apply(w.file([]declare.Connection{w.connection(0), w.connection(1)}))
	w.waitStatus(connectionName(0), "ACTIVE", patience)
	w.waitStatus(connectionName(1), "ACTIVE", patience)
	backup := filepath.Join(t.TempDir(), "backup")
	command := func(environment []string, args ...string) (string, error) {
		return w.Gateway.Run(w.ctx, append(append(append([]string{"env"}, environment...), vpnctl), args...)...)
	}
	_, err := command(w.daemon.BackupEnvironment(), "backup", backup)
	w.check(err)
	sas := func() string {
		c, err := w.api.Find(w.ctx, client.Connections, connectionName(0))
		w.check(err)
		var answer struct {
			SAs []struct {
				ID string `json:"id"`
			} `json:"sa_infos"`
		}
		w.check(w.api.Call(w.ctx, "GET", "vpn-connection/"+c.ID()+"/ipsec-sa", nil, &answer))
		if len(answer.SAs) == 0 {
			t.Fatal("there is no SA")
		}
		return answer.SAs[0].ID
	}
	before := sas()

	second, err := w.api.Find(w.ctx, client.Connections, connectionName(1))
	w.check(err)
	w.check(w.api.Delete(w.ctx, client.Connections, second.ID()))
	w.waitNoConnection(second.ID())
	_, err = w.api.Create(w.ctx, client.CustomerGateways, client.Object{"name": "since", "id_value": "198.51.100.99"})
	w.check(err)
	if out, err := command(w.daemon.BackupEnvironment(), "restore", backup); err == nil {
		t.Errorf("who may take backups restored one: %s", out)
	}
	out, err := command(w.daemon.RestoreEnvironment(), "restore", backup)
	w.check(err)
	if !strings.Contains(out, "restored ") {
		t.Errorf("vpnctl restore says %q", out)
	}
	w.waitStatus(connectionName(1), "ACTIVE", patience)
	w.waitStatus(connectionName(0), "ACTIVE", patience)
	w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[0].Addresses[0])
	w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[1].Addresses[0])
	if after := sas(); after != before {
		t.Errorf("the tunnel that was not concerned was negotiated anew: %s, then %s", before, after)
	}
	peers, err := w.api.List(w.ctx, client.CustomerGateways)
	w.check(err)
	if len(peers) != 2 {
		t.Errorf("there are %d customer gateways, want those of the backup", len(peers))
	}
}

// waitNoConnection waits until a connection is gone.
func (w *world) waitNoConnection(id string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	w.check(netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		_, err := w.api.Get(ctx, client.Connections, id)
		if client.IsNotFound(err) {
			return true, nil
		}
		return false, err
	}))
}
