package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/vpngw/vpngw/control"
)

func (t *tool) backupCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Save the objects of all projects in a file that vpngwd restore reads",
		Long: "Save the objects of all projects, as of one moment, in a file. The access key needs\n" +
			"the role backup. Secrets are sealed: keep a copy of the daemon's sealing key, apart.\n" +
			"vpngwd restore --config FILE BACKUP makes the store of a new daemon from it.",
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := t.settings.client(t.getenv)
			if err != nil {
				return err
			}
			info, err := save(args[0], func(w io.Writer) error { return api.Backup(cmd.Context(), w) })
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s holds %d entries\n", args[0], info.Entries)
			return nil
		},
	}
}

// save writes a backup to a file, which is replaced by a whole backup only.
func save(path string, write func(io.Writer) error) (info control.BackupInfo, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".backup-*") // mode 0600
	if err != nil {
		return info, usageError{err}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	defer f.Close()
	if err := write(f); err != nil {
		return info, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return info, err
	}
	if info, err = control.CheckBackup(f); err != nil {
		return info, err
	}
	if err := errors.Join(f.Sync(), os.Rename(f.Name(), path)); err != nil {
		return info, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return info, err
	}
	defer dir.Close()
	return info, dir.Sync()
}
