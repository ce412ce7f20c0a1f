package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/vpngw/vpngw/control/store"
	"github.com/vpngw/vpngw/control/store/storetest"
)

// A test binary with this variable set is the writer that
// TestBoltSurvivesKill kills.
const writerFile = "VPNGW_TEST_WRITER_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(writerFile); path != "" {
		if err := writeUntilKilled(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func open(t *testing.T, path string) *store.Bolt {
	t.Helper()
	s, err := store.OpenBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestBoltContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		return open(t, filepath.Join(t.TempDir(), "store.db"))
	})
}

func TestBoltReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	rev, err := s.Txn(t.Context(), nil, []store.Op{store.Put("a", []byte("1"))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	e, err := s.Get(t.Context(), "a")
	if err != nil || string(e.Value) != "1" || e.Created != rev || e.Modified != rev {
		t.Errorf("after opening again: %+v, %v; want 1 at %d", e, err, rev)
	}
	if _, err := s.Watch(t.Context(), "", rev-1); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("a watch across the restart: %v, want ErrCompacted", err)
	}
	ch, err := s.Watch(t.Context(), "", rev)
	if err != nil {
		t.Fatalf("a watch from the present revision: %v", err)
	}
	next, err := s.Txn(t.Context(), nil, []store.Op{store.Put("a", []byte("2"))})
	if err != nil || next != rev+1 {
		t.Errorf("next revision %d, %v; want %d", next, err, rev+1)
	}
	if events := <-ch; len(events) != 1 || events[0].Modified != next {
		t.Errorf("watched %+v", events)
	}
}

func TestBoltFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	mode := func() os.FileMode {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	if got := mode(); got != 0o600 {
		t.Errorf("new file has mode %#o, want 0600", got)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	if got := mode(); got != 0o600 {
		t.Errorf("file that others could read has mode %#o once open, want 0600", got)
	}
	if _, err := store.OpenBolt(path); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opened twice: %v, want an error that says who has it", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte("99"))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenBolt(path); err == nil || !strings.Contains(err.Error(), "schema version 99 is of a later release") {
		t.Errorf("a schema of another release: %v, want an error that names it", err)
	}
}

// writeUntilKilled stores 1, 2, 3 … under both keys and prints each number
// once it is stored.
func writeUntilKilled(path string) error {
	s, err := store.OpenBolt(path)
	if err != nil {
		return err
	}
	for n := 1; ; n++ {
		value := []byte(strconv.Itoa(n))
		if _, err := s.Txn(context.Background(), nil, []store.Op{store.Put("left", value), store.Put("right", value)}); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// TestBoltSurvivesKill kills a writer in the middle of its work: what it was
// told is stored must be there, whole, and nothing half done.
func TestBoltSurvivesKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	acknowledged := 0
	for round := range 30 {
		writer := exec.Command(os.Args[0])
		writer.Env = append(os.Environ(), writerFile+"="+path)
		writer.Stderr = os.Stderr
		out, err := writer.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for i := 0; i < 1+7*round%50 && lines.Scan(); i++ {
			if acknowledged, err = strconv.Atoi(lines.Text()); err != nil {
				t.Error(err)
			}
		}
		if err := writer.Process.Signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		for lines.Scan() {
			if acknowledged, err = strconv.Atoi(lines.Text()); err != nil {
				t.Error(err)
			}
		}
		var exit *exec.ExitError
		if err := writer.Wait(); !errors.As(err, &exit) || exit.Exited() {
			t.Fatalf("the writer ended by itself: %v", err)
		}

		s := open(t, path)
		left, leftErr := s.Get(t.Context(), "left")
		right, rightErr := s.Get(t.Context(), "right")
		if err := errors.Join(leftErr, rightErr); err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(string(left.Value))
		if err != nil || n < acknowledged || n > acknowledged+1 {
			t.Errorf("stored %q, acknowledged %d (%v)", left.Value, acknowledged, err)
		}
		if string(left.Value) != string(right.Value) || left.Modified != right.Modified {
			t.Errorf("half a transaction: %+v and %+v", left, right)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
