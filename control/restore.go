package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/vpngw/vpngw/control/store"
)

// A restore replaces the objects of a store under running daemons. A store takes
// so much in one transaction and no more, so the one step that decides is a mark:
//
//	stage      the entries of the backup, which was checked whole, beside the objects
//	mark       in one transaction: from here on the restore is carried out
//	carry out  staged entries in the place of the objects, in batches
//	finish     the mark goes, and the epoch is another one
//
// Before the mark nothing has changed: a restore that is cut off leaves what it
// staged, which the next one removes. After it, whoever finds the mark carries
// the restore out, after a crash, too. While it stands no object and no status is
// changed by anybody else, and no pass of a reconciler is made.

// Keys of a restore. The mark and the epoch stand among the specifications, so
// that whoever lists these knows at that revision.
const (
	keyRestoring   = prefixSpec + "restoring"
	keyEpoch       = prefixSpec + "epoch"
	prefixRestores = "restore/"
)

// ErrRestoring says that the objects are being replaced by those of a backup.
var ErrRestoring = errors.New("a restore is under way")

// restoreMark is what stands at keyRestoring.
type restoreMark struct {
	ID      string `json:"id"`      // of the restore
	Entries int    `json:"entries"` // that it has staged
}

func restoreHead(id string) string   { return prefixRestores + id }
func restoreStaged(id string) string { return prefixRestores + id + "/" }

// unlessRestoring is what every change of objects and statuses checks.
func unlessRestoring() store.Check { return store.Check{Key: keyRestoring} }

// isSaved tells whether the entry of a key is part of backups.
func isSaved(key string) bool {
	return !slices.ContainsFunc(unsaved, func(prefix string) bool { return strings.HasPrefix(key, prefix) })
}

// Restoring tells whether this node knows that a restore is under way.
func (o *Objects) Restoring() bool { return o.restoring.Load() }

// Restore replaces all objects, of all projects, by those of a backup. It changes
// nothing before it has read all of the backup and found that it was sealed by
// the key of this store; one of an older release is migrated. It fails with
// ErrRestoring while another one is under way. When it fails after the objects
// began to change, it will be carried out by FinishRestore.
func (o *Objects) Restore(ctx context.Context, r io.Reader) (BackupInfo, error) {
	info, entries, err := openBackup(r, o.key)
	if err != nil {
		return info, err
	}
	id := uuid.NewString()
	staged := map[string]store.Op{}
	for key, value := range entries {
		staged[key] = store.Put(restoreStaged(id)+key, value)
	}
	head, err := o.store.Txn(ctx, []store.Check{unlessRestoring()}, []store.Op{store.Put(restoreHead(id), nil)})
	if err == nil {
		err = writeAll(ctx, o.store, nil, staged)
	}
	if err != nil {
		return info, fmt.Errorf("restore: stage: %w", restoreConflict(err))
	}
	mark, err := json.Marshal(restoreMark{ID: id, Entries: len(staged)})
	if err != nil {
		return info, err
	}
	_, err = o.store.Txn(ctx, []store.Check{unlessRestoring(), {Key: restoreHead(id), Revision: head}},
		[]store.Op{store.Put(keyRestoring, mark), store.Put(keyGuard, nil)})
	if err != nil {
		return info, fmt.Errorf("restore: %w", restoreConflict(err))
	}
	o.restoring.Store(true)
	return info, o.FinishRestore(context.WithoutCancel(ctx))
}

// restoreConflict says what a conflict means where nothing but another restore
// makes one.
func restoreConflict(err error) error {
	if errors.Is(err, store.ErrConflict) {
		return ErrRestoring
	}
	return err
}

// FinishRestore carries out a restore whose mark is there, if one is. Several
// nodes may do so at once.
func (o *Objects) FinishRestore(ctx context.Context) error {
	o.finishing.Lock()
	defer o.finishing.Unlock()
	e, err := o.store.Get(ctx, keyRestoring)
	if errors.Is(err, store.ErrNotFound) {
		o.restoring.Store(false)
		return nil
	}
	var mark restoreMark
	if err == nil {
		err = json.Unmarshal(e.Value, &mark)
	}
	if err != nil {
		return fmt.Errorf("restore: its mark: %w", err)
	}
	err = o.carryOut(ctx, mark, store.Check{Key: keyRestoring, Revision: e.Modified})
	if errors.Is(err, store.ErrConflict) {
		err = nil // another node has finished it
	}
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	o.restoring.Store(false)
	return o.removeStaged(ctx)
}

// carryOut puts the staged entries in the place of the objects, and then removes
// the mark, all while the mark stands. What is the same stays as it is.
func (o *Objects) carryOut(ctx context.Context, mark restoreMark, marked store.Check) error {
	staged, _, err := o.store.List(ctx, restoreStaged(mark.ID))
	if err != nil {
		return err
	}
	there, _, err := o.store.List(ctx, "")
	if err != nil {
		return err
	}
	if len(staged) != mark.Entries {
		// Else somebody has finished it since, and the mark is gone.
		if _, err := o.store.Get(ctx, keyRestoring); errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return fmt.Errorf("%d of %d staged entries are there", len(staged), mark.Entries)
	}
	ops := map[string]store.Op{}
	for _, e := range staged {
		key := strings.TrimPrefix(e.Key, restoreStaged(mark.ID))
		ops[key] = store.Put(key, e.Value)
	}
	for _, e := range there {
		put, restored := ops[e.Key]
		switch {
		case restored && string(put.Value()) == string(e.Value):
			delete(ops, e.Key)
		case !restored && (isSaved(e.Key) || strings.HasPrefix(e.Key, prefixClientTokens+"/")):
			ops[e.Key] = store.Delete(e.Key) // what a client token stands for may be gone
		}
	}
	if err := writeAll(ctx, o.store, []store.Check{marked}, ops); err != nil {
		return err
	}
	_, err = o.store.Txn(ctx, []store.Check{marked}, []store.Op{
		store.Delete(keyRestoring), store.Put(keyEpoch, []byte(mark.ID)), store.Put(keyGuard, nil),
	})
	return err
}

// removeStaged removes what restores have staged that are over or were cut off,
// of each the head first: one that is still being staged fails then. While one is
// marked it removes nothing, since that one needs what it has staged; whoever
// carries that out removes the rest, too.
func (o *Objects) removeStaged(ctx context.Context) error {
	entries, _, err := o.store.List(ctx, prefixRestores)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	heads, rest := map[string]store.Op{}, map[string]store.Op{}
	for _, e := range entries {
		if strings.Contains(strings.TrimPrefix(e.Key, prefixRestores), "/") {
			rest[e.Key] = store.Delete(e.Key)
		} else {
			heads[e.Key] = store.Delete(e.Key)
		}
	}
	err = writeAll(ctx, o.store, []store.Check{unlessRestoring()}, heads)
	if errors.Is(err, store.ErrConflict) {
		return nil
	}
	if err == nil {
		err = writeAll(ctx, o.store, nil, rest)
	}
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}
