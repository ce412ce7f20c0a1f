package reconcile

import (
	"context"
	"math"
	"sync"
)

// progress is the revision of the store whose objects the engine of clients was
// given last. The zero progress is that of no object.
type progress struct {
	mu       sync.Mutex
	revision int64
	further  chan struct{} // closed when the revision grows; nil while nobody waits
}

// reach notes that the engine has the objects as of a revision.
func (p *progress) reach(revision int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if revision <= p.revision {
		return
	}
	p.revision = revision
	if p.further != nil {
		close(p.further)
		p.further = nil
	}
}

// end lets all who wait go: the engine gets no more objects.
func (p *progress) end() { p.reach(math.MaxInt64) }

// until returns nil if a revision was reached, or else what is closed when the
// progress is worth another look.
func (p *progress) until(revision int64) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if revision <= p.revision {
		return nil
	}
	if p.further == nil {
		p.further = make(chan struct{})
	}
	return p.further
}

// WaitApplied waits until the engine of client-to-cloud VPN has been given the
// objects as of a revision of the store, or is taken down. It has the work begin
// at once: those who come while it is under way share the next. It may be called
// at any time, and fails when ctx ends first.
func (r *Reconciler) WaitApplied(ctx context.Context, revision int64) error {
	further := r.progress.until(revision)
	if further == nil {
		return nil
	}
	select {
	case r.awaited <- struct{}{}:
	default:
	}
	for ; further != nil; further = r.progress.until(revision) {
		select {
		case <-further:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
