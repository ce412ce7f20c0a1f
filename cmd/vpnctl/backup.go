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
			"vpnctl restore FILE puts it back while the daemon runs; vpngwd restore makes the\n" +
			"store of a daemon that has none from it.",
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

func (t *tool) restoreCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restore FILE",
		Short: "Replace the objects of all projects by those of a backup",
		Long: "Replace the objects of all projects by those of a backup, while the daemon runs. The\n" +
			"access key needs the role restore. What is equal is left alone, tunnels included; all\n" +
			"that was created or changed since the backup is lost. Nothing is changed unless the\n" +
			"backup is whole and was made with the daemon's sealing key.",
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := t.settings.client(t.getenv)
			if err != nil {
				return err
			}
			f, err := os.Open(args[0])
			if err != nil {
				return usageError{err}
			}
			defer f.Close()
			info, err := control.CheckBackup(f)
			if err != nil {
				return err
			}
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return err
			}
			entries, err := api.Restore(cmd.Context(), f)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "restored %d entries of %s\n", entries, info.Taken.Format("2006-01-02 15:04:05 MST"))
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
