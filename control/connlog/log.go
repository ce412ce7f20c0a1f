package connlog

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/vpngw/vpngw/control"
)

const (
	queueLength = 4096 // records of a stream that wait
	maxBatch    = 256  // records that a sink takes at once

	firstRetry = time.Second
	lastRetry  = time.Minute

	// closeTimeout is how long Close waits for what is queued.
	closeTimeout = 5 * time.Second
)

// Log has the streams of the inventory. Its methods may be called from several
// goroutines.
type Log struct {
	logger *slog.Logger
	host   string

	mu      sync.Mutex
	closed  bool
	streams map[control.LogConfig]*stream
	running sync.WaitGroup
}

// New returns a Log without streams. host is what syslog servers are told to be
// the origin.
func New(logger *slog.Logger, host string) *Log {
	return &Log{logger: logger, host: host, streams: map[control.LogConfig]*stream{}}
}

// Status is what has become of the records of a stream.
type Status struct {
	Stream  control.LogConfig
	Written uint64
	Dropped uint64 // there was no room, or the sink would not have them
	Failure string // why the sink takes none at the moment; empty: it does
}

// Apply makes the streams those given, all of them. One that stays as it is
// keeps its queue and opens its file anew, which is how files are rotated:
// rename the file, then reload.
func (l *Log) Apply(streams []control.LogStream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	wanted := map[control.LogConfig]bool{}
	for _, s := range streams {
		id := control.LogConfig{GroupID: s.GroupID, StreamID: s.StreamID}
		wanted[id] = true
		if there := l.streams[id]; there != nil {
			if reflect.DeepEqual(there.config, s) {
				there.reopen.Store(true)
				continue
			}
			there.finish()
		}
		l.start(id, s, newSink(&s.Sink, l.host))
	}
	for id, s := range l.streams {
		if !wanted[id] {
			s.finish()
			delete(l.streams, id)
		}
	}
}

// start begins a stream. The caller holds mu.
func (l *Log) start(id control.LogConfig, config control.LogStream, to sink) {
	s := &stream{config: config, queue: make(chan Record, queueLength), sink: to, logger: l.logger.With("log_group", id.GroupID, "log_stream", id.StreamID)}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	l.streams[id] = s
	l.running.Go(func() { s.run(ctx) })
}

// Write queues a record for a stream. It tells whether there is such a stream
// with room for it.
func (l *Log) Write(to control.LogConfig, r Record) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.streams[to]
	if s == nil {
		return false
	}
	select {
	case s.queue <- r:
		return true
	default:
		s.dropped.Add(1)
		return false
	}
}

// Snapshot returns the status of all streams, in the order of their ids.
func (l *Log) Snapshot() []Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Status, 0, len(l.streams))
	for id, s := range l.streams {
		status := Status{Stream: id, Written: s.written.Load(), Dropped: s.dropped.Load()}
		if failure := s.failure.Load(); failure != nil {
			status.Failure = *failure
		}
		all = append(all, status)
	}
	slices.SortFunc(all, func(a, b Status) int {
		return slices.Compare([]string{a.Stream.GroupID, a.Stream.StreamID}, []string{b.Stream.GroupID, b.Stream.StreamID})
	})
	return all
}

// Close ends all streams. What is queued is given to the sinks, for a few
// seconds at most.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed = true
	for id, s := range l.streams {
		s.finish()
		delete(l.streams, id)
	}
	l.mu.Unlock()
	l.running.Wait()
	return nil
}

// errRefused says that a sink will not take a batch, however often it is tried.
var errRefused = errors.New("refused")
