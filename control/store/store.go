// Package store keeps the control plane's objects: keys and values under one
// global revision, changed by transactions and followed by watches. Its shape
// is that of etcd, so that one daemon alone (bbolt, in this package) and a
// fleet that shares a cluster run the same code above it.
//
//	      Txn(checks, ops)            Watch(prefix, after)
//	api ──────────────────▶ revision ──────────────────────▶ reconcile
//	                        1 2 3 …
//
// Every transaction that changes something takes a higher revision than all
// before; there may be holes between them. An entry remembers the revision that
// created it and the one that changed it last; a check compares the latter,
// which is how a writer learns that somebody was faster.
package store

import (
	"context"
	"errors"
	"fmt"
)

// Limits of every implementation. They are below those of an etcd cluster with
// default settings.
const (
	MaxKeySize   = 512     // octets of a key
	MaxValueSize = 1 << 20 // octets of a value, and of all values of a transaction together
	MaxTxnSize   = 128     // checks and, counted apart, operations of a transaction
)

// Errors that callers tell apart. They come wrapped.
var (
	// ErrNotFound says that the key has no entry.
	ErrNotFound = errors.New("no such entry")
	// ErrConflict says that a check of a transaction failed. Nothing was
	// changed: read again and decide anew.
	ErrConflict = errors.New("entry was changed meanwhile")
	// ErrCompacted says that the changes asked for are not kept: list again
	// and watch from the revision of that list.
	ErrCompacted = errors.New("history is not kept from that revision on")
	// ErrLapsed says that a lease is known no more: its entries are gone, and
	// others may have taken their keys.
	ErrLapsed = errors.New("lease has lapsed")
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("store is closed")
)

// Entry is a key with its value.
type Entry struct {
	Key      string
	Value    []byte // owned by the caller who got it
	Created  int64  // revision of the transaction that created the key
	Modified int64  // revision of the transaction that changed it last
}

// Check is a condition of a transaction: the entry was last changed at
// Revision. Revision zero says that there is no entry.
type Check struct {
	Key      string
	Revision int64
}

// Op is one change of a transaction. Make it with Put or Delete.
type Op struct {
	key    string
	value  []byte
	remove bool
}

// Put sets the value of a key, new or not.
func Put(key string, value []byte) Op { return Op{key: key, value: value} }

// Delete removes a key. A key that is not there is no error.
func Delete(key string) Op { return Op{key: key, remove: true} }

// Key returns the key that the operation changes.
func (o Op) Key() string { return o.key }

// Value returns what a Put sets; nil for a Delete.
func (o Op) Value() []byte { return o.value }

// IsDelete tells a Delete from a Put.
func (o Op) IsDelete() bool { return o.remove }

// Event is one change that a watch reports.
type Event struct {
	// Entry is the entry after the change. Of a deleted one there are Key and
	// Modified, the revision of the deletion; its other fields are zero.
	Entry
	Deleted bool
}

// Store is what the control plane needs of a database. All methods may be
// called from several goroutines; a call returns ctx.Err() when ctx ends
// before the work.
type Store interface {
	// Get returns the entry of a key, or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)

	// List returns the entries whose keys begin with prefix, in the order of
	// their keys, all as of the one revision that it returns too.
	List(ctx context.Context, prefix string) ([]Entry, int64, error)

	// Txn performs all operations if all checks hold, else none (ErrConflict).
	// It returns the revision of the change, durable by then. A transaction
	// that changes nothing takes no revision and returns the present one. A
	// key may stand in one operation only.
	Txn(ctx context.Context, checks []Check, ops []Op) (int64, error)

	// Watch reports every change to keys that begin with prefix, from the
	// first revision greater than after on, in order and without gaps. A
	// batch holds the changes of one or more whole transactions. It fails with
	// ErrCompacted when history no longer reaches back that far.
	//
	// The channel is closed when ctx ends, when the store is closed and when
	// the reader fell so far behind that history was cut: in the last case
	// list again and watch anew.
	Watch(ctx context.Context, prefix string, after int64) (<-chan []Event, error)

	// Close ends all watches and frees what the store holds.
	Close() error
}

// ValidateTxn checks a transaction against the limits that hold for every
// implementation.
func ValidateTxn(checks []Check, ops []Op) error {
	if len(checks) > MaxTxnSize || len(ops) > MaxTxnSize {
		return fmt.Errorf("transaction: %d checks and %d operations, at most %d of each", len(checks), len(ops), MaxTxnSize)
	}
	for _, c := range checks {
		if err := validateKey(c.Key); err != nil {
			return fmt.Errorf("check: %w", err)
		}
		if c.Revision < 0 {
			return fmt.Errorf("check of %q: revision %d is negative", c.Key, c.Revision)
		}
	}
	seen, total := make(map[string]bool, len(ops)), 0
	for _, op := range ops {
		if err := validateKey(op.key); err != nil {
			return fmt.Errorf("operation: %w", err)
		}
		if seen[op.key] {
			return fmt.Errorf("operation: key %q stands in more than one", op.key)
		}
		seen[op.key] = true
		if len(op.value) > MaxValueSize {
			return fmt.Errorf("operation on %q: value has %d octets, at most %d", op.key, len(op.value), MaxValueSize)
		}
		total += len(op.value)
	}
	if total > MaxValueSize {
		return fmt.Errorf("transaction: values have %d octets together, at most %d", total, MaxValueSize)
	}
	return nil
}

func validateKey(key string) error {
	if key == "" || len(key) > MaxKeySize {
		return fmt.Errorf("key has %d octets, wanted 1 to %d", len(key), MaxKeySize)
	}
	return nil
}
