package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Migrations of the tests: the second version has upper-case values, the third
// calls old/ new/ and has a mark.
var testSchema = schema{
	func(entries []Entry) ([]Op, error) {
		var ops []Op
		for _, e := range entries {
			ops = append(ops, Put(e.Key, []byte(strings.ToUpper(string(e.Value)))))
		}
		return ops, nil
	},
	func(entries []Entry) ([]Op, error) {
		ops := []Op{Put("mark", nil)}
		for _, e := range entries {
			if name, ok := strings.CutPrefix(e.Key, "old/"); ok {
				ops = append(ops, Delete(e.Key), Put("new/"+name, e.Value))
			}
		}
		return ops, nil
	},
}

func contents(t *testing.T, s Store) string {
	t.Helper()
	entries, _, err := s.List(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Key+"="+string(e.Value))
	}
	return strings.Join(out, " ")
}

// with opens a store for a look or a change.
func with(t *testing.T, path string, s schema, do func(*Bolt)) {
	t.Helper()
	b, err := openBolt(path, s)
	if err != nil {
		t.Fatal(err)
	}
	do(b)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

const (
	firstContents = "a=x old/b=y same=Z"
	thirdContents = "a=X mark= new/b=Y same=Z"
)

func oldStore(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "store.db")
	with(t, path, nil, func(b *Bolt) {
		if _, err := b.Txn(t.Context(), nil, []Op{Put("a", []byte("x")), Put("old/b", []byte("y")), Put("same", []byte("Z"))}); err != nil {
			t.Fatal(err)
		}
	})
	return path
}

func TestMigration(t *testing.T) {
	path := oldStore(t)
	with(t, path, testSchema, func(b *Bolt) {
		if got := contents(t, b); got != thirdContents {
			t.Errorf("migrated: %s, want %s", got, thirdContents)
		}
		same, err := b.Get(t.Context(), "same")
		a, errA := b.Get(t.Context(), "a")
		if err != nil || errA != nil || same.Modified != 1 || a.Created != 1 || a.Modified != 2 {
			t.Errorf("entries are %+v and %+v, want the first as it was and the second changed at 2", same, a)
		}
		if rev, err := b.Txn(t.Context(), nil, []Op{Put("c", nil)}); err != nil || rev != 3 {
			t.Errorf("the next revision is %d (%v), want 3", rev, err)
		}
	})
	with(t, path, testSchema, func(b *Bolt) {
		if got := contents(t, b); !strings.Contains(got, "c=") {
			t.Errorf("opened again: %s", got)
		}
	})
	if _, err := os.Stat(path + ".schema-3"); err == nil {
		t.Error("a store of the present version was copied")
	}

	// The way back.
	if _, err := openBolt(path, nil); err == nil || !strings.Contains(err.Error(), "schema version 3 is of a later release") {
		t.Errorf("the older release opens it: %v", err)
	}
	info, err := os.Stat(path + ".schema-1")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the copy: %v, %v", info, err)
	}
	if err := os.Rename(path+".schema-1", path); err != nil {
		t.Fatal(err)
	}
	with(t, path, nil, func(b *Bolt) {
		if got := contents(t, b); got != firstContents {
			t.Errorf("restored: %s, want %s", got, firstContents)
		}
	})
	with(t, path, testSchema[:1], func(b *Bolt) {
		if got := contents(t, b); got != "a=X old/b=Y same=Z" {
			t.Errorf("migrated one step: %s", got)
		}
	})
	with(t, path, testSchema, func(b *Bolt) {
		if got := contents(t, b); got != thirdContents {
			t.Errorf("migrated the other step: %s", got)
		}
	})
}

func TestFailedMigrationChangesNothing(t *testing.T) {
	path := oldStore(t)
	for range 2 {
		_, err := openBolt(path, schema{testSchema[0], func([]Entry) ([]Op, error) { return nil, errors.New("no way") }})
		if err == nil || !strings.Contains(err.Error(), "migrate from schema version 2: no way") {
			t.Fatalf("got %v, want the cause", err)
		}
	}
	with(t, path, nil, func(b *Bolt) {
		if got := contents(t, b); got != firstContents {
			t.Errorf("afterwards: %s, want %s", got, firstContents)
		}
	})
}

func TestMigrate(t *testing.T) {
	entries := []Entry{{Key: "a", Value: []byte("x")}}
	if ops, err := Migrate(entries, SchemaVersion()); err != nil || len(ops) != 0 {
		t.Errorf("entries of this release change: %v, %v", ops, err)
	}
	for _, version := range []int{-1, 0, SchemaVersion() + 1} {
		if _, err := Migrate(entries, version); err == nil {
			t.Errorf("version %d was migrated", version)
		}
	}
}
