package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/store"
	"github.com/vpngw/vpngw/control/store/etcd"
)

// restore makes the store of a data directory that has none, or fills that of a
// cluster that is empty, from a backup. The sealing key that the backup was made
// with must be there.
func restore(ctx context.Context, c *config, backup string, stdout, stderr io.Writer) int {
	var info control.BackupInfo
	var err error
	into := filepath.Join(c.DataDir, storeFile)
	if c.Store.Backend == storeEtcd {
		into = "etcd"
		info, err = restoreCluster(ctx, c, backup)
	} else {
		info, err = restoreFile(ctx, c.DataDir, c.sealingKeyPath(), backup)
	}
	if err != nil {
		fmt.Fprintln(stderr, "vpngwd: restore:", err)
		return exitFailed
	}
	fmt.Fprintf(stdout, "restored %d entries of %s into %s\n", info.Entries, info.Taken.Format("2006-01-02 15:04:05 MST"), into)
	return exitOK
}

// restoreCluster fills the store of a fleet, all of whose nodes are stopped.
func restoreCluster(ctx context.Context, c *config, backup string) (info control.BackupInfo, err error) {
	key, f, err := openBackup(c.sealingKeyPath(), backup)
	if err != nil {
		return info, err
	}
	defer f.Close()
	cluster, err := etcd.Open(ctx, c.Store.options())
	if err != nil {
		return info, err
	}
	info, err = control.RestoreBackup(ctx, cluster, key, f)
	return info, errors.Join(err, cluster.Close())
}

// openBackup reads the sealing key and opens a backup.
func openBackup(keyFile, backup string) (*control.SealingKey, *os.File, error) {
	key, err := control.ReadSealingKey(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w; put the key there that the backup was made with", err)
	}
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(backup)
	return key, f, err
}

func restoreFile(ctx context.Context, dir, keyFile, backup string) (info control.BackupInfo, err error) {
	path := filepath.Join(dir, storeFile)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("%s is there: stop the daemon and move it away first", path)
		}
		return info, err
	}
	key, f, err := openBackup(keyFile, backup)
	if err != nil {
		return info, err
	}
	defer f.Close()

	// The store appears whole or not at all.
	unfinished := path + ".restore"
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return info, err
	}
	db, err := store.OpenBolt(unfinished)
	if err != nil {
		return info, err
	}
	info, err = control.RestoreBackup(ctx, db, key, f)
	if err = errors.Join(err, db.Close()); err != nil {
		return info, errors.Join(err, os.Remove(unfinished))
	}
	// Unlike a rename, a link replaces no store that a daemon made meanwhile.
	if err := os.Link(unfinished, path); err != nil {
		return info, errors.Join(err, os.Remove(unfinished))
	}
	directory, err := os.Open(dir)
	if err != nil {
		return info, err
	}
	return info, errors.Join(os.Remove(unfinished), directory.Sync(), directory.Close())
}
