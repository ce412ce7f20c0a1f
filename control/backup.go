package control

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/vpngw/vpngw/control/store"
)

// A backup is lines of JSON: a header, the entries of the store in the order
// of their keys, and a trailer with the SHA-256 of all before it. The trailer
// also has that sum sealed by the sealing key: whoever lacks the key can
// neither make nor change a backup that is restored. Secrets stay sealed.

const backupFormat = "vpngw-backup/1"

// PrefixFleet is where the nodes of a fleet keep what is bound to their leases.
const PrefixFleet = "fleet/"

// unsaved are the prefixes of what is of no use later, or harmful: a token
// that was revoked since must not come back.
var unsaved = []string{prefixTokens + "/", prefixClientTokens + "/", keyGuard, keySealingCheck, PrefixFleet, keyRestoring, keyEpoch, prefixRestores}

const (
	// maxBackupLine is room for the longest key and value, in base64.
	maxBackupLine = 2 * (store.MaxValueSize + store.MaxKeySize)
	placeOfBackup = "sum of a backup"
)

// BackupInfo is what a backup says of itself.
type BackupInfo struct {
	Format  string    `json:"format"`
	Schema  int       `json:"schema"` // store.SchemaVersion of the release that wrote it
	Taken   time.Time `json:"taken"`
	Entries int       `json:"entries"`
}

type backupEntry struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

type backupTrailer struct {
	SHA256 string `json:"sha256"` // hexadecimal
	Sealed []byte `json:"sealed"`
}

// Backup writes all objects, of all projects, with their status and logs, as
// of one revision.
func (o *Objects) Backup(ctx context.Context, w io.Writer, now time.Time) error {
	entries, _, err := o.store.List(ctx, "")
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if slices.ContainsFunc(entries, func(e store.Entry) bool { return e.Key == keyRestoring }) {
		return fmt.Errorf("backup: %w", ErrRestoring)
	}
	entries = slices.DeleteFunc(entries, func(e store.Entry) bool { return !isSaved(e.Key) })
	sum := sha256.New()
	out := json.NewEncoder(io.MultiWriter(w, sum))
	err = out.Encode(BackupInfo{Format: backupFormat, Schema: store.SchemaVersion(), Taken: now.UTC().Truncate(time.Second), Entries: len(entries)})
	for _, e := range entries {
		if err != nil {
			break
		}
		err = out.Encode(backupEntry{Key: e.Key, Value: e.Value})
	}
	if err == nil {
		text := hex.EncodeToString(sum.Sum(nil))
		err = json.NewEncoder(w).Encode(backupTrailer{SHA256: text, Sealed: o.key.Seal(NewSecret(text), placeOfBackup)})
	}
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

// CheckBackup reads a backup to its end and tells whether it is whole. That it
// is genuine can only be told with the sealing key, by RestoreBackup.
func CheckBackup(r io.Reader) (BackupInfo, error) {
	info, _, _, err := readBackup(r)
	return info, err
}

// RestoreBackup writes a backup into a store, which must be empty. It writes
// nothing before it has read all of the backup and found that it was sealed by
// key. One of an older release is migrated. When writing fails midway, a part
// of the entries is there.
func RestoreBackup(ctx context.Context, s store.Store, key *SealingKey, r io.Reader) (BackupInfo, error) {
	info, entries, err := openBackup(r, key)
	if err != nil {
		return info, err
	}
	there, _, err := s.List(ctx, "")
	if err != nil {
		return info, fmt.Errorf("backup: %w", err)
	}
	if len(there) > 0 {
		return info, fmt.Errorf("backup: the store is not empty: it has %d entries", len(there))
	}
	final := map[string]store.Op{}
	for key, value := range entries {
		final[key] = store.Put(key, value)
	}
	if err := writeAll(ctx, s, nil, final); err != nil {
		return info, fmt.Errorf("backup: %w", err)
	}
	return info, nil
}

// openBackup reads a whole backup that was sealed by key and returns the values
// that it has for a store of this release, by their keys.
func openBackup(r io.Reader, key *SealingKey) (BackupInfo, map[string][]byte, error) {
	info, entries, trailer, err := readBackup(r)
	if err != nil {
		return info, nil, err
	}
	sum, err := key.Open(trailer.Sealed, placeOfBackup)
	if err != nil || !sum.Equal(NewSecret(trailer.SHA256)) {
		return info, nil, errors.New("backup: it was made with another sealing key, or changed since")
	}
	changes, err := store.Migrate(entries, info.Schema)
	if err != nil {
		return info, nil, fmt.Errorf("backup: %w", err)
	}
	values := map[string][]byte{}
	for _, e := range entries {
		values[e.Key] = e.Value
	}
	for _, op := range changes {
		if values[op.Key()] = op.Value(); op.IsDelete() {
			delete(values, op.Key())
		}
	}
	maps.DeleteFunc(values, func(key string, _ []byte) bool { return !isSaved(key) })
	return info, values, nil
}

// writeAll performs operations in as few transactions as the limits allow, each
// if the checks hold.
func writeAll(ctx context.Context, s store.Store, checks []store.Check, ops map[string]store.Op) error {
	var batch []store.Op
	size := 0
	flush := func() error {
		_, err := s.Txn(ctx, checks, batch)
		batch, size = batch[:0], 0
		return err
	}
	for _, op := range ops {
		if len(batch) == store.MaxTxnSize || size+len(op.Value()) > store.MaxValueSize {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, size = append(batch, op), size+len(op.Value())
	}
	return flush()
}

// readBackup reads a whole backup and checks its sum.
func readBackup(r io.Reader) (info BackupInfo, entries []store.Entry, trailer backupTrailer, err error) {
	lines := backupLines{scanner: bufio.NewScanner(r), sum: sha256.New()}
	lines.scanner.Buffer(nil, maxBackupLine)
	if err := lines.next(&info, true); err != nil {
		return info, nil, trailer, err
	}
	if info.Format != backupFormat || info.Entries < 0 {
		return info, nil, trailer, fmt.Errorf("backup: this is no backup of the format %s", backupFormat)
	}
	seen := map[string]bool{}
	for range info.Entries {
		var e backupEntry
		if err := lines.next(&e, true); err != nil {
			return info, nil, trailer, err
		}
		if e.Key == "" || seen[e.Key] {
			return info, nil, trailer, fmt.Errorf("backup: line %d has no key or that of another line", lines.number)
		}
		seen[e.Key] = true
		entries = append(entries, store.Entry{Key: e.Key, Value: e.Value})
	}
	if err := lines.next(&trailer, false); err != nil {
		return info, nil, trailer, err
	}
	if lines.scanner.Scan() || lines.scanner.Err() != nil {
		return info, nil, trailer, errors.New("backup: there is more after its end")
	}
	if trailer.SHA256 != hex.EncodeToString(lines.sum.Sum(nil)) {
		return info, nil, trailer, errors.New("backup: it is damaged: its SHA-256 is another one")
	}
	return info, entries, trailer, nil
}

// backupLines reads the lines of a backup.
type backupLines struct {
	scanner *bufio.Scanner
	sum     hash.Hash
	number  int
}

func (l *backupLines) next(into any, summed bool) error {
	l.number++
	if !l.scanner.Scan() {
		if err := l.scanner.Err(); err != nil {
			return fmt.Errorf("backup: line %d: %w", l.number, err)
		}
		return fmt.Errorf("backup: it is cut off before line %d", l.number)
	}
	line := l.scanner.Bytes()
	if summed {
		l.sum.Write(line)
		l.sum.Write([]byte{'\n'})
	}
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("backup: line %d cannot be read", l.number) // it may hold what is nobody's business
	}
	return nil
}
