// Package history keeps what happens to connections in files of bounded size,
// which outlive the process.
//
//	ID.log    appended to, up to segmentSize
//	ID.1.log  what was ID.log before
//
// A line is one event: a checksum and JSON. What a crash has left half written,
// or a disk has spoilt, fails its checksum and is passed over; the next event
// begins a line of its own. Lines are handed to the kernel at once, so that they
// survive the end of the process in any way; a loss of power may take the last
// seconds.
package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/vpngw/vpngw/control"
)

// Bounds of a connection's history, in octets. Of a segment's size at least the
// events are kept, of twice that at most.
const (
	segmentSize = 128 << 10
	maxLine     = 16 << 10
)

const (
	suffix      = ".log"
	suffixOlder = ".1.log"
)

// Log is the histories of all connections. Its methods may be called from
// several goroutines.
type Log struct {
	dir    string
	logger *slog.Logger

	mu sync.Mutex
	// sizes are those of the files that end with a whole line, by connection.
	sizes   map[string]int64
	failing bool // the last Append did; it was logged
}

// Open makes the directory, with mode 0700, if it is not there.
func Open(dir string, logger *slog.Logger) (*Log, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return &Log{dir: dir, logger: logger, sizes: map[string]int64{}}, nil
}

// Append adds an event. That it cannot be written is logged, once until it can
// again: a full disk must not stop tunnels.
func (l *Log) Append(connection string, e control.ConnectionEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.append(connection, e)
	if err != nil && !l.failing {
		l.logger.Error("the history is not written", "connection", connection, "error", err)
	}
	l.failing = err != nil
}

func (l *Log) append(connection string, e control.ConnectionEvent) error {
	path, err := l.path(connection, suffix)
	if err != nil {
		return err
	}
	line, err := encode(e)
	if err != nil {
		return err
	}
	size, known := l.sizes[connection]
	if known && size+int64(len(line)) > segmentSize {
		older, err := l.path(connection, suffixOlder)
		if err == nil {
			err = os.Rename(path, older)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		size = 0
	}
	delete(l.sizes, connection) // until the line is there
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if !known {
		if size, err = endLine(f); err != nil {
			return err
		}
	}
	n, err := f.Write(line)
	if err != nil {
		return err
	}
	l.sizes[connection] = size + int64(n)
	return nil
}

// endLine ends what a crash has left of a line, and returns the file's size.
func endLine(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return 0, err
	}
	var last [1]byte
	if _, err := f.ReadAt(last[:], info.Size()-1); err != nil || last[0] == '\n' {
		return info.Size(), err
	}
	_, err = f.WriteString("\n")
	return info.Size() + 1, err
}

// path is where a connection's events are. Its id must not lead elsewhere.
func (l *Log) path(connection, suffix string) (string, error) {
	strange := func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}
	if connection == "" || strings.ContainsFunc(connection, strange) {
		return "", fmt.Errorf("history: %q is not the id of a connection", connection)
	}
	return filepath.Join(l.dir, connection+suffix), nil
}

// encode returns an event as a line.
func encode(e control.ConnectionEvent) ([]byte, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	if len(text) > maxLine {
		// The values in it are a peer's: the cause says what is at fault.
		e.Diagnosis, e.LocalSelectors, e.PeerSelectors = nil, nil, nil
		if text, err = json.Marshal(e); err != nil {
			return nil, fmt.Errorf("history: %w", err)
		}
		if len(text) > maxLine {
			return nil, fmt.Errorf("history: an event of %d octets, more than %d", len(text), maxLine)
		}
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE(text), text), nil
}

// decode reads a line; ok is false for one that is not whole.
func decode(line []byte) (e control.ConnectionEvent, ok bool) {
	sum, text, found := bytes.Cut(line, []byte{' '})
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if !found || len(text) > maxLine || err != nil || uint64(crc32.ChecksumIEEE(text)) != want {
		return e, false
	}
	return e, json.Unmarshal(text, &e) == nil
}

// Read returns the events of a connection that match, the newest first. Of a
// failure that repeated itself there is one event, with the last count. There
// are none of a connection that is not known.
func (l *Log) Read(connection string, q control.HistoryQuery) ([]control.ConnectionEvent, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var events []control.ConnectionEvent
	for _, suffix := range []string{suffixOlder, suffix} {
		path, err := l.path(connection, suffix)
		if err != nil {
			return nil, err
		}
		text, err := readBounded(path)
		if err != nil {
			return nil, err
		}
		for line := range bytes.Lines(text) {
			if e, ok := decode(bytes.TrimSuffix(line, []byte{'\n'})); ok {
				events = append(events, e)
			}
		}
	}
	slices.Reverse(events) // the order in which they came, whatever the clock did
	return choose(events, q), nil
}

// readBounded reads a segment; none is as good as an empty one.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 2*segmentSize))
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return text, nil
}

// repeat is what the events of one failure that repeats itself have in common.
type repeat struct {
	since         int64
	reason, child string
}

// choose returns those of events, the newest first, that a query asks for.
func choose(events []control.ConnectionEvent, q control.HistoryQuery) []control.ConnectionEvent {
	seen := map[repeat]bool{}
	chosen := []control.ConnectionEvent{}
	for _, e := range events {
		if len(chosen) == q.Limit {
			break
		}
		if e.Time.Before(q.Since) {
			continue
		}
		if e.Count > 0 {
			r := repeat{e.Since.UnixNano(), e.Reason, e.Child}
			if seen[r] {
				continue // a newer one has the count
			}
			seen[r] = true
		}
		chosen = append(chosen, e)
	}
	return chosen
}

// Retain removes the histories of connections that are not there.
func (l *Log) Retain(there func(connection string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	entries, err := os.ReadDir(l.dir)
	for _, entry := range entries {
		name, isLog := strings.CutSuffix(entry.Name(), suffix)
		connection := strings.TrimSuffix(name, strings.TrimSuffix(suffixOlder, suffix))
		if !isLog || there(connection) {
			continue
		}
		delete(l.sizes, connection)
		err = errors.Join(err, os.Remove(filepath.Join(l.dir, entry.Name())))
	}
	if err != nil {
		l.logger.Warn("not every history of a connection that is gone could be removed", "error", err)
	}
}
