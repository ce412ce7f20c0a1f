package control

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control/store"
	"github.com/vpngw/vpngw/fuzztest"
)

// backedUp returns a world with one object of each kind, and a backup of it.
func backedUp(t *testing.T) (*world, []byte) {
	t.Helper()
	w := newWorld(t)
	c := w.connection(w.gateway().ID, w.peer("198.51.100.1").ID)
	w.settleConnection(c.ID, ConnectionActive)
	if err := w.objects.SetLog(t.Context(), project, c.ID, []LogLine{{Time: w.clock, Message: "a line"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Txn(t.Context(), nil, []store.Op{
		store.Put("token/abc", []byte("{}")), store.Put(prefixClientTokens+"/p/abc", []byte("{}")),
	}); err != nil {
		t.Fatal(err)
	}
	var backup bytes.Buffer
	if err := w.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	return w, backup.Bytes()
}

func emptyStore(t *testing.T) store.Store {
	t.Helper()
	s := store.NewMemory()
	t.Cleanup(func() { s.Close() })
	return s
}

func TestBackupAndRestore(t *testing.T) {
	w, backup := backedUp(t)
	if text := base64.StdEncoding.EncodeToString([]byte(goodPSK)); bytes.Contains(backup, []byte(goodPSK)) || bytes.Contains(backup, []byte(text)) {
		t.Error("the backup holds a secret")
	}
	s := emptyStore(t)
	info, err := RestoreBackup(t.Context(), s, w.key, bytes.NewReader(backup))
	if err != nil {
		t.Fatal(err)
	}
	if !info.Taken.Equal(w.clock.Truncate(time.Second)) || info.Schema != store.SchemaVersion() {
		t.Errorf("the backup says %+v", info)
	}
	want, err := w.objects.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	objects := NewObjects(s, w.key)
	got, err := objects.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got.Revision = want.Revision
	if len(got.Connections) != 1 || got.Connections[0].PSK.Reveal() != goodPSK || !reflect.DeepEqual(got, want) {
		t.Errorf("restored %+v, want %+v", got, want)
	}
	if log, err := objects.Log(t.Context(), project, got.Connections[0].ID); err != nil || len(log) != 1 {
		t.Errorf("the log is %v (%v)", log, err)
	}
	for _, prefix := range unsaved {
		if entries, _, err := s.List(t.Context(), prefix); err != nil || len(entries) > 0 {
			t.Errorf("there are %d entries below %s (%v)", len(entries), prefix, err)
		}
	}
	restored := newWorldOn(t, s)
	if _, err := restored.CreateCustomerGateway(t.Context(), project, CustomerGatewayCreate{IDValue: new("198.51.100.9")}); err != nil {
		t.Errorf("the restored store takes no change: %v", err)
	}
	if _, err := RestoreBackup(t.Context(), s, w.key, bytes.NewReader(backup)); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("restored over objects: %v", err)
	}
}

func TestRestoreRefuses(t *testing.T) {
	w, backup := backedUp(t)
	otherKey, err := newSealingKey(bytes.Repeat([]byte{7}, sealingKeySize))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(strings.TrimSuffix(string(backup), "\n"), "\n")
	for _, test := range []struct {
		name, text string
		key        *SealingKey
		want       string
	}{
		{"nothing", "", w.key, "cut off before line 1"},
		{"something else", "{}\n", w.key, "no backup of the format"},
		{"no JSON", "backup\n", w.key, "line 1 cannot be read"},
		{"another member", strings.Replace(string(backup), `"schema"`, `"other":1,"schema"`, 1), w.key, "line 1 cannot be read"},
		{"cut off", strings.Join(lines[:3], ""), w.key, "cut off before line 4"},
		{"no trailer", strings.Join(lines[:len(lines)-1], ""), w.key, "cut off before line"},
		{"a line missing", lines[0] + strings.Join(lines[2:], ""), w.key, "cannot be read"},
		{"a line twice", lines[0] + lines[1] + lines[1] + strings.Join(lines[3:], ""), w.key, "that of another line"},
		{"lines exchanged", lines[0] + lines[2] + lines[1] + strings.Join(lines[3:], ""), w.key, "damaged"},
		{"more", string(backup) + "{}\n", w.key, "more after its end"},
		{"another date", strings.Replace(string(backup), "2026-11", "2025-11", 1), w.key, "damaged"},
		{"another key", string(backup), otherKey, "another sealing key"},
		{"forged sum", forge(t, lines, w.clock), w.key, "another sealing key, or changed since"},
		{"later schema", reseal(t, w, lines), w.key, "schema version 99 is of a later release"},
		{"endless line", strings.Repeat("x", maxBackupLine+1), w.key, "line 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := emptyStore(t)
			_, err := RestoreBackup(t.Context(), s, test.key, strings.NewReader(test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if entries, _, err := s.List(t.Context(), ""); err != nil || len(entries) > 0 {
				t.Errorf("%d entries were written (%v)", len(entries), err)
			}
		})
	}
}

// forge changes a backup and makes its sum fit, without the key.
func forge(t *testing.T, lines []string, now time.Time) string {
	t.Helper()
	key, err := newSealingKey(bytes.Repeat([]byte{8}, sealingKeySize))
	if err != nil {
		t.Fatal(err)
	}
	s := emptyStore(t)
	if _, err := s.Txn(t.Context(), nil, []store.Op{store.Put("spec/forged/p/x", []byte("{}"))}); err != nil {
		t.Fatal(err)
	}
	var forged bytes.Buffer
	if err := NewObjects(s, key).Backup(t.Context(), &forged, now); err != nil {
		t.Fatal(err)
	}
	// The seal of the genuine backup beside the forged sum.
	_, genuine, _ := strings.Cut(lines[len(lines)-1], `"sealed"`)
	body, _, _ := strings.Cut(forged.String(), `"sealed"`)
	return body + `"sealed"` + genuine
}

// reseal makes a genuine backup of a later schema.
func reseal(t *testing.T, w *world, lines []string) string {
	t.Helper()
	body := strings.Replace(strings.Join(lines[:len(lines)-1], ""), fmt.Sprintf(`"schema":%d`, store.SchemaVersion()), `"schema":99`, 1)
	info, _, trailer, err := readBackup(strings.NewReader(body + lines[len(lines)-1]))
	if err == nil || info.Schema != 99 {
		t.Fatalf("the schema is %d (%v)", info.Schema, err)
	}
	trailer.SHA256 = hexSum(body)
	trailer.Sealed = w.key.Seal(NewSecret(trailer.SHA256), placeOfBackup)
	return body + encode(t, trailer) + "\n"
}

func hexSum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func TestRestoreOfMany(t *testing.T) {
	w := newWorld(t)
	big := bytes.Repeat([]byte("x"), store.MaxValueSize/2-1)
	for i := range 5 {
		if _, err := w.store.Txn(t.Context(), nil, []store.Op{store.Put(fmt.Sprint("big/", i), big)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		var ops []store.Op
		for n := range store.MaxTxnSize {
			ops = append(ops, store.Put(fmt.Sprint("small/", i, "/", n), nil))
		}
		if _, err := w.store.Txn(t.Context(), nil, ops); err != nil {
			t.Fatal(err)
		}
	}
	var backup bytes.Buffer
	if err := w.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	s := emptyStore(t)
	info, err := RestoreBackup(t.Context(), s, w.key, &backup)
	if err != nil || info.Entries != 5+3*store.MaxTxnSize {
		t.Fatalf("%+v, %v", info, err)
	}
	entries, _, err := s.List(t.Context(), "")
	if err != nil || len(entries) != info.Entries || !bytes.Equal(entries[0].Value, big) {
		t.Errorf("%d entries (%v), want %d", len(entries), err, info.Entries)
	}
}

func FuzzCheckBackup(f *testing.F) {
	target := fuzztest.New(f)
	key, err := newSealingKey(make([]byte, sealingKeySize))
	if err != nil {
		f.Fatal(err)
	}
	s := store.NewMemory()
	if _, err := s.Txn(f.Context(), nil, []store.Op{store.Put("a", []byte("b"))}); err != nil {
		f.Fatal(err)
	}
	var backup bytes.Buffer
	if err := NewObjects(s, key).Backup(f.Context(), &backup, time.Unix(1_800_000_000, 0)); err != nil {
		f.Fatal(err)
	}
	target.Add(backup.Bytes())
	target.Add([]byte("{}\n{}\n"))
	target.Fuzz(func(t *testing.T, text []byte) {
		if info, err := CheckBackup(bytes.NewReader(text)); err == nil && (info.Format != backupFormat || info.Entries < 0) {
			t.Errorf("accepted %+v", info)
		}
	})
}
