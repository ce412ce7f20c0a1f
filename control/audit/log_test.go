package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/vpngw/vpngw/control"
)

func open(t *testing.T, o Options) (*Log, *bytes.Buffer) {
	t.Helper()
	heard := &bytes.Buffer{}
	o.Logger = slog.New(slog.NewJSONHandler(heard, nil))
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, heard
}

// records returns the request ids of the records in a file.
func records(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for line := range strings.Lines(string(text)) {
		var r Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%s: %v in %q", path, err, line)
		}
		ids = append(ids, r.RequestID)
	}
	return ids
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	o := Options{Path: path, MaxSize: maxRecord, Keep: 2}
	l, heard := open(t, o)
	const size = 8 << 10
	perFile := maxRecord / size
	for i := range 5 * perFile {
		if i == perFile/2 { // a restart goes on where it was
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l, _ = open(t, o)
		}
		r := Record{RequestID: fmt.Sprint(i)}
		empty, err := encode(r)
		if err != nil {
			t.Fatal(err)
		}
		r.Project = strings.Repeat("x", size-len(empty)-len(`"project":"",`)-1)
		l.Write(r)
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != 3 {
		t.Fatalf("the files are %q (%v), want three", files, err)
	}
	next := 5*perFile - 1
	for n, file := range []string{path, path + ".1", path + ".2"} {
		info, err := os.Stat(file)
		if err != nil || info.Size() > maxRecord || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %d octets, mode %s (%v)", file, info.Size(), info.Mode(), err)
		}
		ids := records(t, file)
		if len(ids) != perFile || ids[len(ids)-1] != fmt.Sprint(next) {
			t.Errorf("file %d holds %d records, the last of them %s; want %d, %d", n, len(ids), ids[len(ids)-1], perFile, next)
		}
		next -= perFile
	}
	if heard.Len() > 0 {
		t.Errorf("the logger heard %s", heard)
	}
}

func TestNoOlderFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, _ := open(t, Options{Path: path, MaxSize: maxRecord})
	for range 3 * maxRecord / maxText {
		l.Write(Record{Path: strings.Repeat("x", maxText)})
	}
	if files, err := filepath.Glob(path + "*"); err != nil || len(files) != 1 {
		t.Errorf("the files are %q (%v), want one", files, err)
	}
}

func TestRecordsAreBounded(t *testing.T) {
	long := strings.Repeat("x", 100<<10)
	change := control.ObjectChange{Kind: control.KindGateway, Fields: []control.FieldChange{{Field: "a", After: json.RawMessage(`"` + strings.Repeat("y", 1000) + `"`)}}}
	r := Record{Caller: long, Path: long}
	for range 1000 {
		r.Changes = append(r.Changes, change)
	}
	line, err := encode(r)
	if err != nil || len(line) > maxRecord || len(line) < maxRecord/4 {
		t.Fatalf("a record has %d octets (%v), at most %d are wanted", len(line), err, maxRecord)
	}
	var got Record
	if err := json.Unmarshal(line, &got); err != nil || !got.Truncated || len(got.Caller) > maxText+4 {
		t.Errorf("truncated: %v, caller of %d octets (%v)", got.Truncated, len(got.Caller), err)
	}
}

func TestRecordIsNotLost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "audit.log")
	l, heard := open(t, Options{Path: path, MaxSize: maxRecord})
	if err := l.file.Close(); err != nil { // as a disk that takes no more
		t.Fatal(err)
	}
	l.Write(Record{RequestID: "lost"})
	if !strings.Contains(heard.String(), "audit record was not written") || !strings.Contains(heard.String(), "lost") {
		t.Errorf("the logger heard %q", heard)
	}
	l.Write(Record{RequestID: "next"})
	if ids := records(t, path); len(ids) != 1 || ids[0] != "next" {
		t.Errorf("the file holds %q, want the next record", ids)
	}
}

func TestToLog(t *testing.T) {
	l, heard := open(t, Options{ToLog: true})
	l.Write(Record{RequestID: "r1"})
	if !strings.Contains(heard.String(), `\"request_id\":\"r1\"`) {
		t.Errorf("the logger heard %q", heard)
	}
}

func TestWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, _ := open(t, Options{Path: path, MaxSize: 1 << 20})
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for n := range 50 {
				l.Write(Record{RequestID: fmt.Sprint(i, "-", n)})
			}
		})
	}
	group.Wait()
	if ids := records(t, path); len(ids) != 400 {
		t.Errorf("%d records, want 400", len(ids))
	}
}

func TestOpenRefuses(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	for name, o := range map[string]Options{
		"no logger":    {},
		"small":        {Path: "x", MaxSize: maxRecord - 1, Logger: logger},
		"negative":     {Path: "x", MaxSize: maxRecord, Keep: -1, Logger: logger},
		"no directory": {Path: filepath.Join(t.TempDir(), "none", "x"), MaxSize: maxRecord, Logger: logger},
	} {
		if _, err := Open(o); err == nil {
			t.Errorf("%s: was opened", name)
		}
	}
}
