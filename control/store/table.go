package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
)

// Table is the typed view of the entries under one prefix. Values are JSON.
type Table[T any] struct {
	store  Store
	prefix string
	shared *decoded[T] // nil: every value is decoded anew
}

// Row is an entry of a table. Key is relative to the table's prefix.
type Row[T any] struct {
	Key      string
	Value    T
	Created  int64
	Modified int64
}

// NewTable returns the table of the entries whose keys begin with prefix,
// which ends in a slash so that no table holds another.
func NewTable[T any](s Store, prefix string) Table[T] {
	return Table[T]{store: s, prefix: strings.TrimSuffix(prefix, "/") + "/"}
}

// NewSharedTable returns a table as NewTable does, whose List and Decode decode
// each version of an entry once. What lies behind pointers, slices and maps in
// their values is shared by all callers, who must not change it; the value that
// Get returns is the caller's own.
func NewSharedTable[T any](s Store, prefix string) Table[T] {
	t := NewTable[T](s, prefix)
	t.shared = &decoded[T]{rows: make(map[string]Row[T])}
	return t
}

// decoded keeps the rows that were decoded last, by the key of their entry.
type decoded[T any] struct {
	mu   sync.Mutex
	rows map[string]Row[T]
}

// maxDecoded bounds the rows that a table keeps. Those of deleted entries are
// among them, until the bound is reached and all are dropped.
const maxDecoded = 20_000

func (d *decoded[T]) get(e Entry) (Row[T], bool) {
	if d == nil {
		return Row[T]{}, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	row, ok := d.rows[e.Key]
	return row, ok && row.Modified == e.Modified
}

func (d *decoded[T]) put(e Entry, row Row[T]) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.rows) >= maxDecoded {
		clear(d.rows)
	}
	d.rows[e.Key] = row
}

// Prefix returns what the keys of the table begin with.
func (t Table[T]) Prefix() string { return t.prefix }

// Get returns one row, or ErrNotFound.
func (t Table[T]) Get(ctx context.Context, key string) (Row[T], error) {
	e, err := t.store.Get(ctx, t.prefix+key)
	if err != nil {
		return Row[T]{}, err
	}
	return t.decode(e)
}

// List returns the rows whose keys begin with under, in the order of their
// keys, and the revision they are of. Rows that cannot be decoded do not hide
// the others: they are left out, and the error joins a DamagedError for each.
func (t Table[T]) List(ctx context.Context, under string) ([]Row[T], int64, error) {
	entries, rev, err := t.store.List(ctx, t.prefix+under)
	if err != nil {
		return nil, 0, err
	}
	rows := make([]Row[T], 0, len(entries))
	var damaged []error
	for _, e := range entries {
		row, err := t.Decode(e)
		if err != nil {
			damaged = append(damaged, err)
			continue
		}
		rows = append(rows, row)
	}
	return rows, rev, errors.Join(damaged...)
}

// Put returns the operation that sets a row.
func (t Table[T]) Put(key string, value T) (Op, error) {
	b, err := json.Marshal(value)
	if err != nil {
		return Op{}, fmt.Errorf("encode %s%s: %w", t.prefix, key, err)
	}
	return Put(t.prefix+key, b), nil
}

// Delete returns the operation that removes a row.
func (t Table[T]) Delete(key string) Op { return Delete(t.prefix + key) }

// Check returns the condition that a row was last changed at revision; zero
// says that there is none.
func (t Table[T]) Check(key string, revision int64) Check {
	return Check{Key: t.prefix + key, Revision: revision}
}

// Decode reads a row from an entry of the table, such as a watch reports it.
func (t Table[T]) Decode(e Entry) (Row[T], error) {
	if row, ok := t.shared.get(e); ok {
		return row, nil
	}
	row, err := t.decode(e)
	if err == nil {
		t.shared.put(e, row)
	}
	return row, err
}

func (t Table[T]) decode(e Entry) (Row[T], error) {
	key, ok := strings.CutPrefix(e.Key, t.prefix)
	if !ok {
		return Row[T]{}, fmt.Errorf("key %q is not of table %q", e.Key, t.prefix)
	}
	row := Row[T]{Key: key, Created: e.Created, Modified: e.Modified}
	if err := json.Unmarshal(e.Value, &row.Value); err != nil {
		return Row[T]{}, &DamagedError{Key: e.Key, Err: err}
	}
	return row, nil
}

// DamagedError says that an entry is there and cannot be decoded.
type DamagedError struct {
	Key string // in the store
	Err error
}

// Error reads "decode \"p/1\": …".
func (e *DamagedError) Error() string { return fmt.Sprintf("decode %q: %v", e.Key, e.Err) }

// Unwrap returns why.
func (e *DamagedError) Unwrap() error { return e.Err }

// IsDamaged tells whether nothing but damaged entries is wrong. It looks at
// single entries and at what List of a Table returns.
func IsDamaged(err error) bool { return len(Damage(err)) > 0 }

// Damage returns the damaged entries of which an error of Get or List tells.
func Damage(err error) []*DamagedError {
	var found []*DamagedError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range joined.Unwrap() {
			found = append(found, Damage(one)...)
		}
		return found
	}
	var one *DamagedError
	if errors.As(err, &one) {
		found = append(found, one)
	}
	return found
}
