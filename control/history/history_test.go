package history

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/fuzztest"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const id = "11111111-1111-4111-8111-111111111111"

func open(t *testing.T, dir string) *Log {
	t.Helper()
	l, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func event(n int) control.ConnectionEvent {
	return control.ConnectionEvent{Time: start.Add(time.Duration(n) * time.Second), Event: control.EventChildUp, Child: fmt.Sprint("child ", n)}
}

func read(t *testing.T, l *Log, connection string, q control.HistoryQuery) (children []string) {
	t.Helper()
	if q.Limit == 0 {
		q.Limit = 1 << 20
	}
	events, err := l.Read(connection, q)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		children = append(children, e.Child)
	}
	return children
}

func TestHistorySurvivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	for n := range 3 {
		l.Append(id, event(n))
	}
	l = open(t, dir)
	l.Append(id, event(3))
	if have := fmt.Sprint(read(t, l, id, control.HistoryQuery{})); have != "[child 3 child 2 child 1 child 0]" {
		t.Errorf("have %s", have)
	}
	if have := fmt.Sprint(read(t, l, id, control.HistoryQuery{Limit: 2})); have != "[child 3 child 2]" {
		t.Errorf("the latest two are %s", have)
	}
	if have := fmt.Sprint(read(t, l, id, control.HistoryQuery{Since: start.Add(2 * time.Second)})); have != "[child 3 child 2]" {
		t.Errorf("since a time there are %s", have)
	}
	if have := read(t, l, "unknown", control.HistoryQuery{}); len(have) != 0 {
		t.Errorf("an unknown connection has %v", have)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	const events = 5000
	for n := range events {
		l.Append(id, event(n))
	}
	var octets int64
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		octets += info.Size()
	}
	have := read(t, l, id, control.HistoryQuery{})
	if octets > 2*segmentSize || len(have) < 500 || have[0] != fmt.Sprint("child ", events-1) {
		t.Errorf("%d octets, %d events, the newest %s", octets, len(have), have[0])
	}
	for i, child := range have {
		if child != fmt.Sprint("child ", events-1-i) {
			t.Fatalf("event %d is %s: there is a gap", i, child)
		}
	}
}

func TestHistoryAfterACrash(t *testing.T) {
	for _, test := range []struct {
		name string
		tail string
	}{
		{"half a line", `0badcafe {"time":"2026-01-02T`},
		{"zeros", strings.Repeat("\x00", 700)},
		{"a whole line without its end", `00000000 {}`},
	} {
		dir := t.TempDir()
		l := open(t, dir)
		l.Append(id, event(0))
		path := filepath.Join(dir, id+suffix)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(text, test.tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		l = open(t, dir)
		if have := fmt.Sprint(read(t, l, id, control.HistoryQuery{})); have != "[child 0]" {
			t.Errorf("%s: have %s", test.name, have)
		}
		l.Append(id, event(1))
		if have := fmt.Sprint(read(t, l, id, control.HistoryQuery{})); have != "[child 1 child 0]" {
			t.Errorf("%s: after the next event have %s", test.name, have)
		}
	}
}

func TestHistoryFoldsRepeats(t *testing.T) {
	l := open(t, t.TempDir())
	failed := control.ConnectionEvent{Event: control.EventFailed, Reason: "phase1 proposal mismatch", Since: start}
	for i, count := range []int{1, 2, 4, 8} {
		failed.Time, failed.Count = start.Add(time.Duration(i)*time.Minute), count
		l.Append(id, failed)
	}
	l.Append(id, control.ConnectionEvent{Time: start.Add(time.Hour), Event: control.EventIKEUp})
	events, err := l.Read(id, control.HistoryQuery{Limit: 10})
	if err != nil || len(events) != 2 || events[1].Count != 8 {
		t.Errorf("have %+v, %v", events, err)
	}
}

func TestHistoryRetains(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	for n := range 3000 {
		l.Append(id, event(n)) // both segments
	}
	l.Append("other", event(0))
	l.Retain(func(connection string) bool { return connection == "other" })
	if have := read(t, l, id, control.HistoryQuery{}); len(have) != 0 {
		t.Errorf("%d events of a connection that is gone", len(have))
	}
	if have := read(t, l, "other", control.HistoryQuery{}); len(have) != 1 {
		t.Errorf("the other connection has %v", have)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("files left: %v, %v", files, err)
	}
}

func TestHistoryStaysInItsDirectory(t *testing.T) {
	l := open(t, t.TempDir())
	for _, connection := range []string{"", "..", "a/b", "a.1"} {
		l.Append(connection, event(0))
		if _, err := l.Read(connection, control.HistoryQuery{Limit: 1}); err == nil {
			t.Errorf("%q is taken for a connection", connection)
		}
	}
	files, err := os.ReadDir(l.dir)
	if err != nil || len(files) != 0 {
		t.Errorf("files: %v, %v", files, err)
	}
}

func TestHistoryBoundsAnEvent(t *testing.T) {
	l := open(t, t.TempDir())
	e := event(0)
	e.Cause, e.Diagnosis = "selectors", &control.Diagnosis{Theirs: strings.Repeat("x", 2*maxLine)}
	l.Append(id, e)
	events, err := l.Read(id, control.HistoryQuery{Limit: 1})
	if err != nil || len(events) != 1 || events[0].Diagnosis != nil || events[0].Cause != "selectors" {
		t.Errorf("have %+v, %v", events, err)
	}
}

func FuzzDecode(f *testing.F) {
	target := fuzztest.New(f)
	line, err := encode(event(1))
	if err != nil {
		f.Fatal(err)
	}
	target.Add(line[:len(line)-1])
	target.Add([]byte("00000000 "))
	target.Add([]byte("zz {}"))
	target.Fuzz(func(t *testing.T, line []byte) {
		if e, ok := decode(line); ok {
			if _, err := encode(e); err != nil {
				t.Errorf("an event that was read cannot be written: %v", err)
			}
		}
	})
}
