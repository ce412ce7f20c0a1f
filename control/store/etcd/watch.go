package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vpngw/vpngw/control/store"
)

// What a watch keeps here for a reader that is behind, and one answer of the
// cluster more; the rest waits there.
const (
	maxPendingEvents = 1024
	maxPendingOctets = 4 << 20
)

// How long an interrupted watch waits before it is opened again.
const (
	firstReopen = 100 * time.Millisecond
	lastReopen  = 2 * time.Second
)

var errFeedEnded = errors.New("the client library ended it")

// watcher feeds one channel. It takes all that the client library has, which
// would keep any number of events, and stops the feed from the cluster while
// the reader is behind.
type watcher struct {
	cluster *Cluster
	prefix  string
	out     chan []store.Event

	after   int64 // the events up to this revision were taken
	pending []store.Event
	octets  int // of the values of pending

	feed clientv3.WatchChan // nil while there is none
	stop context.CancelFunc // ends feed
	wait time.Duration      // before the next attempt to open
}

// Watch implements store.Store.
func (c *Cluster) Watch(ctx context.Context, prefix string, after int64) (<-chan []store.Event, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if after < 0 {
		return nil, fmt.Errorf("watch from revision %d: %w", after, store.ErrCompacted)
	}
	// An empty cluster is at revision 1.
	w := &watcher{cluster: c, prefix: prefix, out: make(chan []store.Event), after: max(after, 1)}
	life, end := context.WithCancel(ctx)
	unhook := context.AfterFunc(c.ctx, end)
	release := func() { unhook(); end() }
	if err := w.open(life); err != nil {
		release()
		if errors.Is(err, store.ErrCompacted) {
			return nil, fmt.Errorf("watch from revision %d: %w", after, err)
		}
		return nil, c.explain(ctx, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		release()
		return nil, store.ErrClosed
	}
	c.watchers.Go(func() {
		defer release()
		w.run(life)
	})
	return w.out, nil
}

// open begins a feed of what follows after. It fails with store.ErrCompacted
// if that is not all there.
func (w *watcher) open(ctx context.Context) error {
	c := w.cluster
	rctx, done := c.request(ctx)
	defer done()
	// A watch from a revision of the future would wait for it in silence, and
	// one from the past tells late that it was compacted.
	_, err := c.client.Get(rctx, c.prefix+schemaKey, clientv3.WithRev(w.after), clientv3.WithCountOnly())
	if errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrFutureRev) {
		return store.ErrCompacted
	}
	if err != nil {
		return err
	}
	fctx, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
	unhook := context.AfterFunc(rctx, stop)
	feed := c.client.Watch(fctx, c.key(w.prefix), clientv3.WithPrefix(), clientv3.WithRev(w.after+1))
	if !unhook() {
		stop()
		return rctx.Err()
	}
	w.feed, w.stop = feed, stop
	return nil
}

// run feeds the channel until ctx ends or history was cut under the reader.
func (w *watcher) run(ctx context.Context) {
	defer close(w.out)
	defer func() { w.halt() }()
	for {
		if w.feed == nil && len(w.pending) == 0 && !w.reopen(ctx) {
			return
		}
		var out chan<- []store.Event
		if len(w.pending) > 0 {
			out = w.out
		}
		select {
		case out <- w.pending:
			w.pending, w.octets = nil, 0
		case resp, ok := <-w.feed:
			if resp.CompactRevision != 0 {
				return
			}
			err := resp.Err()
			if !ok {
				err = errFeedEnded
			}
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				w.interrupted(err)
			case w.full():
				w.halt() // these events come again, once there is room
			default:
				w.take(resp.Events)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (w *watcher) full() bool {
	return len(w.pending) >= maxPendingEvents || w.octets >= maxPendingOctets
}

// take adds the events of one answer, whole transactions, to the pending ones.
func (w *watcher) take(events []*clientv3.Event) {
	w.wait = 0
	for _, e := range events {
		event := store.Event{Entry: w.cluster.entry(e.Kv)}
		if e.Type == mvccpb.DELETE {
			event = store.Event{Entry: store.Entry{Key: event.Key, Modified: event.Modified}, Deleted: true}
		}
		w.pending = append(w.pending, event)
		w.octets += len(event.Value)
		w.after = event.Modified
	}
}

func (w *watcher) halt() {
	if w.feed != nil {
		w.stop()
		w.feed = nil
	}
}

// interrupted gives up a feed, or an attempt to open one, that failed.
func (w *watcher) interrupted(err error) {
	w.halt()
	w.wait = min(max(2*w.wait, firstReopen), lastReopen)
	w.cluster.log.Warn("watch interrupted", "prefix", w.prefix, "after_revision", w.after, "retry_in", w.wait, "error", err)
}

// reopen tries until there is a feed. It reports whether there is one: not if
// ctx ended or history was cut.
func (w *watcher) reopen(ctx context.Context) bool {
	for {
		select {
		case <-time.After(w.wait):
		case <-ctx.Done():
			return false
		}
		err := w.open(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil || errors.Is(err, store.ErrCompacted) {
			return false
		}
		w.interrupted(w.cluster.explain(ctx, err))
	}
}
