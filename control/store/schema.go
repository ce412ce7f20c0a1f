package store

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A migration returns the changes that make the entries of one schema version
// those of the next. The entries are in the order of their keys.
type migration func(entries []Entry) ([]Op, error)

// schema is what is known of the versions of the entries' layout: schema[i]
// leads from version i+1 to i+2.
type schema []migration

// present is the schema of this release.
var present schema

// SchemaVersion returns the version of what this release stores.
func SchemaVersion() int { return present.version() }

// Migrate returns the changes that make entries of an older schema version
// those of this release.
func Migrate(entries []Entry, from int) ([]Op, error) { return present.migrate(entries, from) }

func (s schema) version() int { return len(s) + 1 }

// check refuses a version that this release cannot read.
func (s schema) check(version int) error {
	switch {
	case version > s.version():
		return fmt.Errorf("schema version %d is of a later release: this one reads up to %d. "+
			"Run the later release, or restore a backup or the copy that it kept when it migrated the store", version, s.version())
	case version < 1:
		return fmt.Errorf("schema version %d: there is none below 1", version)
	}
	return nil
}

func (s schema) migrate(entries []Entry, from int) ([]Op, error) {
	if err := s.check(from); err != nil {
		return nil, err
	}
	before := make(map[string]Entry, len(entries))
	for _, e := range entries {
		before[e.Key] = e
	}
	after := maps.Clone(before)
	for i, step := range s[from-1:] {
		sorted := slices.SortedFunc(maps.Values(after), func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
		ops, err := step(sorted)
		if err != nil {
			return nil, fmt.Errorf("migrate from schema version %d: %w", from+i, err)
		}
		for _, op := range ops {
			if op.remove {
				delete(after, op.key)
			} else {
				after[op.key] = Entry{Key: op.key, Value: op.value}
			}
		}
	}
	var ops []Op
	for key := range before {
		if _, there := after[key]; !there {
			ops = append(ops, Delete(key))
		}
	}
	for key, e := range after {
		if old, there := before[key]; !there || !bytes.Equal(old.Value, e.Value) {
			ops = append(ops, Put(key, e.Value))
		}
	}
	return ops, nil
}
