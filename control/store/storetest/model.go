package storetest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/control/store"
)

// model is the contract in its plainest form.
type model struct {
	entries map[string]store.Entry
	rev     int64
	events  []store.Event
}

// holds tells whether all checks of a transaction hold.
func (m *model) holds(checks []store.Check) bool {
	return !slices.ContainsFunc(checks, func(c store.Check) bool { return m.entries[c.Key].Modified != c.Revision })
}

// perform does the operations at a revision and tells whether they change
// anything.
func (m *model) perform(ops []store.Op, rev int64) bool {
	changed := false
	for _, op := range ops {
		old, there := m.entries[op.Key()]
		switch {
		case !op.IsDelete():
			e := store.Entry{Key: op.Key(), Value: op.Value(), Created: rev, Modified: rev}
			if there {
				e.Created = old.Created
			}
			m.entries[op.Key()] = e
			m.events = append(m.events, store.Event{Entry: e})
			changed = true
		case there:
			delete(m.entries, op.Key())
			m.events = append(m.events, store.Event{Entry: store.Entry{Key: op.Key(), Modified: rev}, Deleted: true})
			changed = true
		}
	}
	return changed
}

func (m *model) list(prefix string) []string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(m.entries)) {
		if strings.HasPrefix(key, prefix) {
			out = append(out, describe([]store.Event{{Entry: m.entries[key]}})...)
		}
	}
	return out
}

// testModel does random transactions on the store and on the model, and
// compares what both answer and, at the end, what a watch has seen.
func testModel(t *testing.T, s store.Store) {
	const steps = 300
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	_, start, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	m := &model{entries: map[string]store.Entry{}, rev: start}
	ch, err := s.Watch(t.Context(), "", start)
	if err != nil {
		t.Fatal(err)
	}
	key := func() string {
		return string([]byte{"ab"[random.IntN(2)], '/', "abcd"[random.IntN(4)]})
	}
	for step := range steps {
		checks, ops := randomTxn(random, m, key, step)
		rev, err := s.Txn(t.Context(), checks, ops)
		switch {
		case !m.holds(checks):
			if !errors.Is(err, store.ErrConflict) {
				t.Fatalf("step %d: %v, want ErrConflict", step, err)
			}
		case err != nil:
			t.Fatalf("step %d: %v, want success", step, err)
		default:
			if changed := m.perform(ops, rev); rev < m.rev || changed && rev == m.rev {
				t.Fatalf("step %d: revision %d after %d, changed: %t", step, rev, m.rev, changed)
			}
			m.rev = rev
		}
		prefix := []string{"", "a", "a/", "b/a", "c"}[random.IntN(5)]
		entries, at, err := s.List(t.Context(), prefix)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, describe([]store.Event{{Entry: e}})...)
		}
		if want := m.list(prefix); !slices.Equal(got, want) || at < m.rev {
			t.Fatalf("step %d: List(%q) = %q at %d, want %q at %d or later", step, prefix, got, at, want, m.rev)
		}
	}
	var seen []store.Event
	for len(seen) < len(m.events) {
		seen = append(seen, receive(t, ch)...)
	}
	if got, want := describe(seen), describe(m.events); !slices.Equal(got, want) {
		t.Errorf("watched\n%q, want\n%q", got, want)
	}
}

func randomTxn(random *rand.Rand, m *model, key func() string, step int) ([]store.Check, []store.Op) {
	var checks []store.Check
	for range random.IntN(3) {
		k := key()
		rev := m.entries[k].Modified
		if random.IntN(8) == 0 {
			rev = random.Int64N(m.rev + 2)
		}
		checks = append(checks, store.Check{Key: k, Revision: rev})
	}
	byKey := map[string]store.Op{}
	for i := range random.IntN(4) {
		k := key()
		byKey[k] = store.Put(k, fmt.Append(nil, step, ".", i))
		if random.IntN(3) == 0 {
			byKey[k] = store.Delete(k)
		}
	}
	var ops []store.Op
	for _, k := range slices.Sorted(maps.Keys(byKey)) {
		ops = append(ops, byKey[k])
	}
	return checks, ops
}
