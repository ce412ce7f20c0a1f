package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// The file has two buckets. An entry's value is preceded by its two revisions,
// eight octets each, most significant first.
var (
	bucketMeta    = []byte("meta")
	bucketEntries = []byte("entries")
	keySchema     = []byte("schema")
	keyRevision   = []byte("revision")
)

const (
	revisionsSize = 16
	lockTimeout   = time.Second
)

// ErrLocked says that another process has the file open. One that was killed
// has it until the kernel is done with its other files and devices.
var ErrLocked = errors.New("another process has it open")

// Bolt is the Store of one daemon alone, in one file.
type Bolt struct {
	db *bbolt.DB

	// mu orders transactions with the history they append to.
	mu      sync.Mutex
	history *history
}

// OpenBolt opens the store in a file, which it makes, with mode 0600, if it is
// not there. Every transaction is on disk before it is reported done. One
// process at a time can have the file open: the others get ErrLocked, after a
// second.
//
// A store that an older release wrote is migrated, in one transaction, after a
// copy of the file was made beside it: path.schema-N, N being the version that
// the copy has. A store of a later release is refused.
func OpenBolt(path string) (*Bolt, error) { return openBolt(path, present) }

func openBolt(path string, s schema) (*Bolt, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open store %s: %w", path, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	rev, err := prepare(db, path, s)
	if err == nil {
		// The file holds secrets, if sealed ones: an older, wider mode goes.
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), db.Close())
	}
	return &Bolt{db: db, history: newHistory(rev)}, nil
}

// prepare makes the buckets of a new file, migrates an old one and returns its
// revision.
func prepare(db *bbolt.DB, path string, s schema) (rev int64, err error) {
	version := 0
	err = db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucketIfNotExists(bucketEntries); err != nil {
			return err
		}
		have := meta.Get(keySchema)
		if have == nil {
			version = s.version()
			return meta.Put(keySchema, []byte(strconv.Itoa(version)))
		}
		if version, err = strconv.Atoi(string(have)); err != nil {
			return fmt.Errorf("schema version %q is not a number", have)
		}
		return s.check(version)
	})
	if err != nil {
		return 0, err
	}
	if version < s.version() {
		if err := copyFile(db, fmt.Sprintf("%s.schema-%d", path, version)); err != nil {
			return 0, fmt.Errorf("copy before the migration: %w", err)
		}
		if err := migrateBolt(db, s, version); err != nil {
			return 0, err
		}
	}
	err = db.View(func(tx *bbolt.Tx) error {
		rev, err = revision(tx.Bucket(bucketMeta))
		return err
	})
	return rev, err
}

// copyFile writes a copy of the database. It appears whole or not at all.
func copyFile(db *bbolt.DB, path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".store-copy-*") // mode 0600
	if err != nil {
		return err
	}
	err = db.View(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(f)
		return err
	})
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// migrateBolt brings the entries to the version of s, all at once.
func migrateBolt(db *bbolt.DB, s schema, from int) error {
	return db.Update(func(tx *bbolt.Tx) error {
		meta, bucket := tx.Bucket(bucketMeta), tx.Bucket(bucketEntries)
		rev, err := revision(meta)
		if err != nil {
			return err
		}
		var entries []Entry
		err = bucket.ForEach(func(k, v []byte) error {
			e, err := decodeEntry(string(k), v)
			entries = append(entries, e)
			return err
		})
		if err != nil {
			return err
		}
		ops, err := s.migrate(entries, from)
		if err != nil {
			return err
		}
		events, err := perform(bucket, ops, rev+1)
		if err != nil {
			return err
		}
		if len(events) > 0 {
			rev++
		}
		return errors.Join(
			meta.Put(keyRevision, binary.BigEndian.AppendUint64(nil, uint64(rev))),
			meta.Put(keySchema, []byte(strconv.Itoa(s.version()))))
	})
}

func revision(meta *bbolt.Bucket) (int64, error) {
	b := meta.Get(keyRevision)
	if b == nil {
		return 0, nil
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("revision has %d octets, wanted 8", len(b))
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}

func decodeEntry(key string, b []byte) (Entry, error) {
	if len(b) < revisionsSize {
		return Entry{}, fmt.Errorf("entry %q has %d octets, wanted %d or more", key, len(b), revisionsSize)
	}
	return Entry{
		Key:      key,
		Value:    slices.Clone(b[revisionsSize:]), // b is valid within its transaction only
		Created:  int64(binary.BigEndian.Uint64(b)),
		Modified: int64(binary.BigEndian.Uint64(b[8:])),
	}, nil
}

func encodeEntry(e Entry) []byte {
	b := make([]byte, 0, revisionsSize+len(e.Value))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Created))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Modified))
	return append(b, e.Value...)
}

// translate maps the errors of the database.
func translate(err error) error {
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

// Get implements Store.
func (s *Bolt) Get(ctx context.Context, key string) (e Entry, err error) {
	if err := ctx.Err(); err != nil {
		return Entry{}, err
	}
	err = s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketEntries).Get([]byte(key))
		if b == nil {
			return fmt.Errorf("%q: %w", key, ErrNotFound)
		}
		e, err = decodeEntry(key, b)
		return err
	})
	return e, translate(err)
}

// List implements Store.
func (s *Bolt) List(ctx context.Context, prefix string) (entries []Entry, rev int64, err error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	err = s.db.View(func(tx *bbolt.Tx) error {
		if rev, err = revision(tx.Bucket(bucketMeta)); err != nil {
			return err
		}
		c, p := tx.Bucket(bucketEntries).Cursor(), []byte(prefix)
		for k, v := c.Seek(p); k != nil && bytes.HasPrefix(k, p); k, v = c.Next() {
			e, err := decodeEntry(string(k), v)
			if err != nil {
				return err
			}
			entries = append(entries, e)
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, 0, translate(err)
	}
	return entries, rev, nil
}

// Txn implements Store.
func (s *Bolt) Txn(ctx context.Context, checks []Check, ops []Op) (rev int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := ValidateTxn(checks, ops); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var events []Event
	err = s.db.Update(func(tx *bbolt.Tx) error {
		meta, entries := tx.Bucket(bucketMeta), tx.Bucket(bucketEntries)
		if rev, err = revision(meta); err != nil {
			return err
		}
		if err := hold(entries, checks); err != nil {
			return err
		}
		events, err = perform(entries, ops, rev+1)
		if err != nil || len(events) == 0 {
			return err
		}
		rev++
		return meta.Put(keyRevision, binary.BigEndian.AppendUint64(nil, uint64(rev)))
	})
	if err != nil {
		return 0, translate(err)
	}
	if len(events) > 0 {
		s.history.append(rev, events)
	}
	return rev, nil
}

// hold fails with ErrConflict unless all checks hold.
func hold(entries *bbolt.Bucket, checks []Check) error {
	for _, c := range checks {
		var have Entry
		if b := entries.Get([]byte(c.Key)); b != nil {
			var err error
			if have, err = decodeEntry(c.Key, b); err != nil {
				return err
			}
		}
		if have.Modified != c.Revision {
			return fmt.Errorf("%q is at revision %d, not %d: %w", c.Key, have.Modified, c.Revision, ErrConflict)
		}
	}
	return nil
}

// perform does the operations at a revision and returns what they changed.
func perform(entries *bbolt.Bucket, ops []Op, rev int64) ([]Event, error) {
	var events []Event
	for _, op := range ops {
		key := []byte(op.key)
		old := entries.Get(key)
		if op.remove {
			if old == nil {
				continue
			}
			if err := entries.Delete(key); err != nil {
				return nil, err
			}
			events = append(events, Event{Entry: Entry{Key: op.key, Modified: rev}, Deleted: true})
			continue
		}
		e := Entry{Key: op.key, Value: slices.Clone(op.value), Created: rev, Modified: rev}
		if old != nil {
			before, err := decodeEntry(op.key, old)
			if err != nil {
				return nil, err
			}
			e.Created = before.Created
		}
		if err := entries.Put(key, encodeEntry(e)); err != nil {
			return nil, err
		}
		events = append(events, Event{Entry: e})
	}
	return events, nil
}

// Watch implements Store.
func (s *Bolt) Watch(ctx context.Context, prefix string, after int64) (<-chan []Event, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// A revision that a List returned may be on its way into the history.
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.history.watch(ctx, prefix, after)
}

// Close implements Store.
func (s *Bolt) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history.close()
	return s.db.Close()
}
