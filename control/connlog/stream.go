package connlog

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/vpngw/vpngw/control"
)

// sink takes batches of records. One goroutine calls it.
type sink interface {
	// deliver returns how many of the records were taken, from the first on,
	// and why not all were: errRefused, wrapped, when it is of no use to try
	// the rest again.
	deliver(ctx context.Context, batch []Record) (taken int, err error)
	// close lets go of files and connections. The next deliver opens them anew.
	close()
}

func newSink(s *control.LogSink, host string) sink {
	switch {
	case s.Syslog != nil:
		return &syslogSink{config: *s.Syslog, host: host}
	case s.HTTP != nil:
		return newHTTPSink(s.HTTP)
	default:
		return &fileSink{path: s.File}
	}
}

// stream is a queue with the sink at its end.
type stream struct {
	config control.LogStream
	queue  chan Record
	sink   sink
	logger *slog.Logger
	cancel context.CancelFunc
	reopen atomic.Bool

	written, dropped atomic.Uint64
	failure          atomic.Pointer[string]
}

// finish has the stream end once its queue is empty, or after closeTimeout.
// Nothing may be queued any more.
func (s *stream) finish() {
	close(s.queue)
	time.AfterFunc(closeTimeout, s.cancel)
}

func (s *stream) run(ctx context.Context) {
	defer s.cancel()
	defer s.sink.close()
	for {
		batch, more := s.next()
		if len(batch) > 0 {
			s.deliver(ctx, batch)
		}
		if !more {
			return
		}
	}
}

// next waits for a record and returns it with those behind it.
func (s *stream) next() (batch []Record, more bool) {
	r, more := <-s.queue
	if !more {
		return nil, false
	}
	batch = append(batch, r)
	for len(batch) < maxBatch {
		select {
		case r, more := <-s.queue:
			if !more {
				return batch, false
			}
			batch = append(batch, r)
		default:
			return batch, true
		}
	}
	return batch, true
}

// deliver gives a batch to the sink until it was taken, was refused or ctx ends.
func (s *stream) deliver(ctx context.Context, batch []Record) {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		if s.reopen.Swap(false) {
			s.sink.close()
		}
		taken, err := s.sink.deliver(ctx, batch)
		s.written.Add(uint64(taken))
		batch = batch[taken:]
		s.note(err)
		if errors.Is(err, errRefused) || ctx.Err() != nil {
			s.dropped.Add(uint64(len(batch)))
			return
		}
		if err == nil && len(batch) == 0 {
			return
		}
		if taken > 0 {
			wait = firstRetry
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// note keeps why the sink fails, and logs when that changes.
func (s *stream) note(err error) {
	before := s.failure.Load()
	switch {
	case err == nil && before != nil:
		s.failure.Store(nil)
		s.logger.Info("the log stream works again", "dropped", s.dropped.Load())
	case err != nil:
		text := err.Error()
		s.failure.Store(&text)
		if before == nil {
			s.logger.Warn("the log stream fails", "error", text)
		}
	}
}
