package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vpngw/vpngw/control/store"
)

// dying is a store that takes so many transactions and no more.
type dying struct {
	store.Store
	mu   sync.Mutex
	left int
}

var errDied = errors.New("the process was killed")

func (d *dying) Txn(ctx context.Context, checks []store.Check, ops []store.Op) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left == 0 {
		return 0, errDied
	}
	d.left--
	return d.Store.Txn(ctx, checks, ops)
}

// saved returns what a store has that backups have.
func saved(t *testing.T, s store.Store) map[string]string {
	t.Helper()
	entries, _, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		if isSaved(e.Key) {
			all[e.Key] = string(e.Value)
		}
	}
	return all
}

// changed fills a world with objects, takes a backup, and changes all of it:
// what is gone, what is new, what is another, what is the same.
func changed(t *testing.T, w *world) (backup string) {
	t.Helper()
	g := w.gateway()
	first := w.connection(g.ID, w.peer("198.51.100.1").ID)
	w.settleConnection(first.ID, ConnectionActive)
	w.limits.CustomerGateways = 200
	many(150, func(i int) CustomerGateway { return w.peer(fmt.Sprintf("peer-%d.example", i)) })
	var b bytes.Buffer
	if err := w.Backup(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	w.connection(g.ID, w.peer("198.51.100.2").ID)
	name := "renamed"
	if _, err := w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{Name: &name}); err != nil {
		t.Fatal(err)
	}
	if err := w.objects.change(t.Context(), func(tx *transaction) error {
		tx.ops = append(tx.ops, w.objects.connections.Delete(project+"/"+first.ID), w.objects.connectionStatus.Delete(project+"/"+first.ID))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRestoreReplacesWhatIsThere(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) store.Store{
		"memory": func(*testing.T) store.Store { return store.NewMemory() },
		"bbolt": func(t *testing.T) store.Store {
			db, err := store.OpenBolt(filepath.Join(t.TempDir(), "db"))
			if err != nil {
				t.Fatal(err)
			}
			return db
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldOn(t, open(t))
			backup := changed(t, w)
			other := newWorld(t)
			if _, err := RestoreBackup(t.Context(), other.store, other.key, strings.NewReader(backup)); err != nil {
				t.Fatal(err)
			}
			before, err := w.objects.Snapshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			info, err := w.objects.Restore(t.Context(), strings.NewReader(backup))
			if err != nil || info.Entries < 150 {
				t.Fatalf("restored %+v, %v", info, err)
			}
			if got, want := saved(t, w.store), saved(t, other.store); !maps.Equal(got, want) {
				t.Errorf("%d entries after the restore, want the %d of the backup", len(got), len(want))
			}
			after, err := w.objects.Snapshot(t.Context())
			if err != nil || after.Epoch == before.Epoch || len(after.Connections) != 1 || !after.Connections[0].PSK.Equal(NewSecret(goodPSK)) {
				t.Errorf("after the restore there are %d connections, epoch %q, %v", len(after.Connections), after.Epoch, err)
			}
			if left, _, err := w.store.List(t.Context(), prefixRestores); err != nil || len(left) > 0 {
				t.Errorf("%d entries are left over, %v", len(left), err)
			}
			w.peer("198.51.100.9") // changes go on
		})
	}
}

// A restore that is cut off after any of its transactions has changed nothing, or
// is carried out to the end by whoever comes next.
func TestRestoreIsAllOrNothing(t *testing.T) {
	w := newWorld(t)
	backup := changed(t, w)
	before := saved(t, w.store)
	gateways, err := w.ListGateways(t.Context(), project, GatewayFilter{})
	if err != nil {
		t.Fatal(err)
	}
	gateway := gateways[0].ID
	undone, finished := 0, 0
	for n := 0; ; n++ {
		memory := store.NewMemory()
		ops := map[string]store.Op{}
		for key, value := range before {
			ops[key] = store.Put(key, []byte(value))
		}
		if err := writeAll(t.Context(), memory, nil, ops); err != nil {
			t.Fatal(err)
		}
		service, err := NewService(ServiceOptions{Objects: NewObjects(memory, w.key), Inventory: w.inventory.Load(), Limits: w.limits})
		if err != nil {
			t.Fatal(err)
		}
		cut := &dying{Store: memory, left: n}
		_, err = NewObjects(cut, w.key).Restore(t.Context(), strings.NewReader(backup))
		if err == nil {
			break
		}
		if !errors.Is(err, errDied) {
			t.Fatalf("after %d transactions: %v", n, err)
		}
		next := NewObjects(memory, w.key)
		if _, err := next.Snapshot(t.Context()); err == nil {
			undone++
			if !maps.Equal(saved(t, memory), before) && !next.hasEpoch(t) {
				t.Errorf("after %d transactions the objects are others, and nobody knows", n)
			}
			if _, err := next.Restore(t.Context(), strings.NewReader(backup)); err != nil {
				t.Errorf("after %d transactions, once more: %v", n, err)
			}
		} else {
			finished++
			if !errors.Is(err, ErrRestoring) {
				t.Fatalf("after %d transactions: %v", n, err)
			}
			if err := service.objects.SetGatewayStatus(t.Context(), project, gateway, GatewayStatus{}); !errors.Is(err, store.ErrConflict) {
				t.Errorf("a status in the midst of a restore: %v", err)
			}
			_, err := service.CreateCustomerGateway(t.Context(), project, CustomerGatewayCreate{IDValue: new("198.51.100.3")})
			wantRefusal(t, err, CodeBusy)
			if _, err := next.Restore(t.Context(), strings.NewReader(backup)); !errors.Is(err, ErrRestoring) {
				t.Errorf("a second restore in the midst of the first: %v", err)
			}
			if err := service.Backup(t.Context(), &bytes.Buffer{}); !errors.Is(err, ErrRestoring) {
				t.Errorf("a backup in the midst of a restore: %v", err)
			}
			if err := next.FinishRestore(t.Context()); err != nil {
				t.Errorf("after %d transactions: %v", n, err)
			}
		}
		s, err := next.Snapshot(t.Context())
		if err != nil || len(s.Connections) != 1 || s.Gateways[0].Name == "renamed" || s.Epoch == "" {
			t.Errorf("after %d transactions, in the end: %d connections, %v", n, len(s.Connections), err)
		}
		if left, _, err := memory.List(t.Context(), prefixRestores); err != nil || len(left) > 0 {
			t.Errorf("after %d transactions %d entries are left over, %v", n, len(left), err)
		}
	}
	if undone < 3 || finished < 2 {
		t.Errorf("%d were undone and %d finished", undone, finished)
	}
}

// stopping is a store that takes no transaction after one that marks a restore.
type stopping struct {
	store.Store
	marked bool
}

func (s *stopping) Txn(ctx context.Context, checks []store.Check, ops []store.Op) (int64, error) {
	if s.marked {
		return 0, errDied
	}
	s.marked = slices.ContainsFunc(ops, func(op store.Op) bool { return op.Key() == keyRestoring && !op.IsDelete() })
	return s.Store.Txn(ctx, checks, ops)
}

// interrupted is a store to which something happens before its first transaction.
type interrupted struct {
	store.Store
	first func()
}

func (s *interrupted) Txn(ctx context.Context, checks []store.Check, ops []store.Op) (int64, error) {
	if first := s.first; first != nil {
		s.first = nil
		first()
	}
	return s.Store.Txn(ctx, checks, ops)
}

// A node that is late with one restore leaves alone what the next one has staged.
func TestRestoreAfterALateNode(t *testing.T) {
	w := newWorld(t)
	backup := changed(t, w)
	mark := func() {
		if _, err := NewObjects(&stopping{Store: w.store}, w.key).Restore(t.Context(), strings.NewReader(backup)); !errors.Is(err, errDied) {
			t.Fatalf("a restore that is cut off after its mark: %v", err)
		}
	}
	mark()
	late := NewObjects(&interrupted{Store: w.store, first: func() {
		if err := NewObjects(w.store, w.key).FinishRestore(t.Context()); err != nil {
			t.Fatal(err)
		}
		mark()
	}}, w.key)
	if err := late.FinishRestore(t.Context()); err != nil {
		t.Errorf("the late node: %v", err)
	}
	next := NewObjects(w.store, w.key)
	if _, err := next.Snapshot(t.Context()); !errors.Is(err, ErrRestoring) {
		t.Fatalf("the second restore is not under way: %v", err)
	}
	if err := next.FinishRestore(t.Context()); err != nil {
		t.Fatalf("the second restore: %v", err)
	}
	if s, err := next.Snapshot(t.Context()); err != nil || len(s.Connections) != 1 {
		t.Errorf("in the end: %d connections, %v", len(s.Connections), err)
	}
}

func (o *Objects) hasEpoch(t *testing.T) bool {
	s, err := o.Snapshot(t.Context())
	return err == nil && s.Epoch != ""
}

// What is not a backup of this store changes nothing.
func TestRestoreOfSomethingElse(t *testing.T) {
	w := newWorld(t)
	backup := changed(t, w)
	before := w.revision()
	key, err := newSealingKey(bytes.Repeat([]byte{7}, sealingKeySize))
	if err != nil {
		t.Fatal(err)
	}
	var foreign bytes.Buffer
	if err := NewObjects(w.store, key).Backup(t.Context(), &foreign, w.clock); err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"another sealing key": foreign.String(), "cut off": backup[:len(backup)-10], "damaged": strings.Replace(backup, "spec/", "spex/", 1),
		"later release": strings.Replace(backup, `"schema":1`, `"schema":99`, 1),
	} {
		if _, err := w.objects.Restore(t.Context(), strings.NewReader(text)); err == nil {
			t.Errorf("%s: restored", what)
		}
	}
	if after := w.revision(); after != before {
		t.Errorf("the store went from revision %d to %d", before, after)
	}
}
