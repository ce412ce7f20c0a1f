package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/store"
)

// task is one thing to be written to the store. Of the three ways one is set.
type task struct {
	key    string // what it is about: a later task of the same key takes its place
	object string // id
	write  func(context.Context) error
	status *control.Report[control.ConnectionStatus]
	log    *control.Report[[]control.LogLine]
}

// queues write to the store. Each gateway has a queue of its own: one whose
// writes fail or take long delays no other, and what is outdated before its
// turn comes is never written. A write that fails is repeated, at growing
// intervals, until it succeeds or its object is gone.
type queues struct {
	objects *control.Objects
	logger  *slog.Logger
	failed  func() // is called for each write that fails

	ctx     context.Context // of all writes
	cancel  context.CancelFunc
	mu      sync.Mutex
	all     map[string]*queue // by gateway; those with work
	closing bool              // every task has one attempt left
	left    []error           // of the last attempts
	running sync.WaitGroup
}

// queue is that of one gateway. A goroutine works on it while there is work.
type queue struct {
	gateway string
	tasks   []task // in the order in which they were first wanted
	retry   retry
	now     chan struct{} // holds one; ends a pause
}

func newQueues(objects *control.Objects, logger *slog.Logger, failed func()) *queues {
	q := &queues{objects: objects, logger: logger, failed: failed, all: make(map[string]*queue)}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	return q
}

// put adds a task for a gateway. It does not block.
func (q *queues) put(gateway string, t task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	of := q.all[gateway]
	if of == nil {
		of = &queue{gateway: gateway, now: make(chan struct{}, 1)}
		q.all[gateway] = of
		q.running.Go(func() { q.work(of) })
	}
	of.add(t)
}

func (of *queue) add(t task) {
	if i := of.index(t.key); i >= 0 {
		of.tasks[i] = t
		return
	}
	of.tasks = append(of.tasks, t)
}

func (of *queue) index(key string) int {
	return slices.IndexFunc(of.tasks, func(t task) bool { return t.key == key })
}

// retain drops the tasks about objects that are not kept. One that is being
// written is not stopped.
func (q *queues) retain(keep func(object string) bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, of := range q.all {
		of.tasks = slices.DeleteFunc(of.tasks, func(t task) bool { return !keep(t.object) })
	}
}

// hurry ends the pauses before repeated writes: the store is back.
func (q *queues) hurry() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, of := range q.all {
		select {
		case of.now <- struct{}{}:
		default:
		}
	}
}

// close gives every task one more attempt, stops what is not done when ctx ends
// and returns what could not be written.
func (q *queues) close(ctx context.Context) error {
	q.mu.Lock()
	q.closing = true
	q.mu.Unlock()
	q.hurry()
	stop := context.AfterFunc(ctx, q.cancel)
	q.running.Wait()
	stop()
	q.cancel()
	return errors.Join(q.left...)
}

// waiting is how many gateways have something to be written.
func (q *queues) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.all)
}

// work writes what a queue has until it is empty.
func (q *queues) work(of *queue) {
	for {
		q.mu.Lock()
		tasks := of.tasks
		of.tasks = nil
		if len(tasks) == 0 {
			delete(q.all, of.gateway)
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()

		again, err := q.write(tasks)
		if err == nil {
			of.retry = retry{}
			continue
		}
		q.failed()
		q.mu.Lock()
		if q.closing {
			q.left = append(q.left, fmt.Errorf("gateway %s: %w", of.gateway, err))
			q.mu.Unlock()
			continue
		}
		for _, t := range again {
			if of.index(t.key) < 0 { // else there is a later one
				of.tasks = append(of.tasks, t)
			}
		}
		q.mu.Unlock()
		pause, news := of.retry.failed(time.Now(), err)
		q.logger.Log(q.ctx, news, "not everything could be written to the store",
			"gateway", of.gateway, "retry_in", pause, "error", err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-of.now:
		}
		timer.Stop()
	}
}

// write performs tasks and returns those that failed.
func (q *queues) write(tasks []task) (failed []task, err error) {
	var statuses, logs []task
	for _, t := range tasks {
		switch {
		case t.status != nil:
			statuses = append(statuses, t)
		case t.log != nil:
			logs = append(logs, t)
		default:
			if one := t.write(q.ctx); one != nil && !errors.Is(one, store.ErrNotFound) {
				failed, err = append(failed, t), errors.Join(err, one)
			}
		}
	}
	more, statusErr := writeMany(q.ctx, statuses, func(t task) control.Report[control.ConnectionStatus] { return *t.status }, q.objects.SetConnectionStatuses)
	rest, logErr := writeMany(q.ctx, logs, func(t task) control.Report[[]control.LogLine] { return *t.log }, q.objects.SetLogs)
	return slices.Concat(failed, more, rest), errors.Join(err, statusErr, logErr)
}

// writeMany writes the reports of tasks in few transactions. It returns the
// tasks that failed and the first of their errors.
func writeMany[T any](ctx context.Context, tasks []task, report func(task) control.Report[T],
	set func(context.Context, []control.Report[T]) []error,
) (failed []task, first error) {
	reports := make([]control.Report[T], len(tasks))
	for i, t := range tasks {
		reports[i] = report(t)
	}
	for i, err := range set(ctx, reports) {
		if err == nil || errors.Is(err, store.ErrNotFound) {
			continue
		}
		if failed = append(failed, tasks[i]); first == nil {
			first = fmt.Errorf("%s: %w", tasks[i].key, err)
		}
	}
	return failed, first
}

// retry is the backoff of something that fails, and when its turn is.
type retry struct {
	pause   time.Duration
	due     time.Time
	trouble string
}

// failed notes a failure at now and returns the pause before the next attempt,
// and the level at which to log it: a trouble that stays the same is no news.
// An attempt before it was due, for the sake of something else, counts as none.
func (r *retry) failed(now time.Time, err error) (time.Duration, slog.Level) {
	level := slog.LevelDebug
	if text := err.Error(); text != r.trouble {
		r.trouble, level = text, slog.LevelWarn
	}
	if !now.Before(r.due) {
		r.pause = min(max(2*r.pause, retryMin), retryMax)
		r.due = now.Add(r.pause)
	}
	return r.due.Sub(now), level
}

// retries are the gateways that passes could not apply, each with a backoff of
// its own. What concerns no gateway stands under the empty id.
type retries map[string]*retry

// note takes over what a pass at now could not apply.
func (all retries) note(ctx context.Context, now time.Time, failures map[string]error, logger *slog.Logger) {
	for gateway := range all {
		if failures[gateway] == nil {
			delete(all, gateway)
		}
	}
	for gateway, err := range failures {
		if all[gateway] == nil {
			all[gateway] = &retry{}
		}
		pause, level := all[gateway].failed(now, err)
		logger.Log(ctx, level, "not everything could be applied", "gateway", gateway, "retry_in", pause, "error", err)
	}
}

// next is when something is to be tried again, or latest if that is earlier.
func (all retries) next(latest time.Time) time.Time {
	for _, r := range all {
		if r.due.Before(latest) {
			latest = r.due
		}
	}
	return latest
}
