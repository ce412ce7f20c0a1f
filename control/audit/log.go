// Package audit writes down who changed what: a line of JSON for every change
// that was asked for through the API, done or refused, in files of bounded
// size. Records hold no secret: the names of members alone tell that one was
// changed.
package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/vpngw/vpngw/control"
)

// Record is one call of the API.
type Record struct {
	Time      time.Time `json:"time"`
	RequestID string    `json:"request_id"`
	Operation string    `json:"operation"`
	Action    string    `json:"action,omitempty"` // the permission it needs
	Project   string    `json:"project,omitempty"`
	// Caller is an access key, or domain/user. Claimed says that who sent the
	// request did not prove to be that account.
	Caller  string       `json:"caller,omitempty"`
	Claimed bool         `json:"claimed,omitempty"`
	Role    control.Role `json:"role,omitempty"`
	Remote  string       `json:"remote"`
	Path    string       `json:"path"`
	Status  int          `json:"status"` // of the HTTP answer
	Error   string       `json:"error_code,omitempty"`

	Changes []control.ObjectChange `json:"changes,omitempty"`
	// Truncated says that there were more changes than a record may hold.
	Truncated bool `json:"truncated,omitempty"`
	// Suppressed counts the refused calls since the record before that came
	// too fast to be written down.
	Suppressed int64 `json:"suppressed,omitempty"`
}

// Bounds of a record.
const (
	maxRecord = 256 << 10 // octets
	maxText   = 512       // octets of what the sender of a request chooses
)

// Options say where records go.
type Options struct {
	// Path of the file; empty: none. The older ones are Path.1, Path.2 and so
	// on, Path.1 being the youngest.
	Path    string
	MaxSize int64 // octets of a file
	Keep    int   // older files
	// ToLog says that records also go to Logger, which hears of faults in any
	// case.
	ToLog  bool
	Logger *slog.Logger
}

// Log writes records. Its methods may be called from several goroutines.
type Log struct {
	options Options

	mu   sync.Mutex
	file *os.File // nil when it has to be opened
	size int64
}

// Open opens the file, to append to it, and makes it, with mode 0600, if it is
// not there.
func Open(o Options) (*Log, error) {
	if o.Logger == nil || o.Path != "" && (o.MaxSize < maxRecord || o.Keep < 0) {
		return nil, fmt.Errorf("audit log: a logger, a size of at least %d octets and a number of older files are required", maxRecord)
	}
	l := &Log{options: o}
	if o.Path == "" {
		return l, nil
	}
	return l, l.open()
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.options.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("audit log: %w", err), f.Close())
	}
	l.file, l.size = f, info.Size()
	return nil
}

// Write writes a record down. When the file takes none, the record goes to the
// logger as an error, so that it is not lost.
func (l *Log) Write(r Record) {
	line, err := encode(r)
	if err != nil {
		l.options.Logger.Error("audit record cannot be encoded", "request_id", r.RequestID, "error", err)
		return
	}
	if l.options.ToLog {
		l.options.Logger.Info("audit", "record", string(line))
	}
	if l.options.Path == "" {
		return
	}
	if err := l.append(append(line, '\n')); err != nil {
		l.options.Logger.Error("audit record was not written to its file", "error", err, "record", string(line))
	}
}

// encode makes one line of a record, within bounds.
func encode(r Record) ([]byte, error) {
	r.Caller, r.Path = cut(r.Caller), cut(r.Path)
	line, err := json.Marshal(r)
	if err != nil || len(line) <= maxRecord {
		return line, err
	}
	r.Truncated = true
	for len(line) > maxRecord && err == nil {
		// Halving, at most twice the work of one attempt is done in all.
		r.Changes = r.Changes[:len(r.Changes)/2]
		line, err = json.Marshal(r)
	}
	return line, err
}

func cut(text string) string {
	if len(text) > maxText {
		return text[:maxText] + "…"
	}
	return text
}

func (l *Log) append(line []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil && l.size > 0 && l.size+int64(len(line)) > l.options.MaxSize {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	if l.file == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(line)
	l.size += int64(n)
	if err != nil {
		// The next record begins a line of its own, in a file opened anew.
		_, _ = l.file.WriteString("\n")
		_ = l.file.Close()
		l.file = nil
	}
	return err
}

// rotate makes Path the first of the older files, and each of those one older.
// The oldest one goes.
func (l *Log) rotate() error {
	err := l.file.Close()
	l.file = nil
	if err != nil {
		return err
	}
	older := func(n int) string {
		if n == 0 {
			return l.options.Path
		}
		return l.options.Path + "." + strconv.Itoa(n)
	}
	if err := os.Remove(older(l.options.Keep)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for n := l.options.Keep; n > 0; n-- {
		if err := os.Rename(older(n-1), older(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	dir, err := os.Open(filepath.Dir(l.options.Path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Close closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := errors.Join(l.file.Sync(), l.file.Close())
	l.file = nil
	return err
}
