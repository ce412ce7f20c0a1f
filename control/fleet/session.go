package fleet

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/vpngw/vpngw/control/store"
)

// Renewals of a lease.
const (
	renewals     = 4                     // within its time to live
	attempts     = 3                     // likewise, the least if the cluster does not answer
	retryRenewal = 50 * time.Millisecond // after an attempt that failed
)

// session is the time of one lease.
type session struct {
	lease int64
	ttl   time.Duration
	clock func() time.Duration
	note  func(left time.Duration) // is told of a deadline before it is in force
	until atomic.Int64             // deadline by clock
	ended atomic.Bool

	ctx    context.Context // ends with the session
	cancel context.CancelFunc
}

// margin is what a node stops before its lease can lapse: for the packets it
// has in hand, and for a clock that is slower than the cluster's.
func margin(ttl time.Duration) time.Duration { return max(ttl/10, 200*time.Millisecond) }

func newSession(ctx context.Context, clock func() time.Duration, note func(left time.Duration), lease int64, ttl, granted time.Duration) *session {
	s := &session{lease: lease, ttl: ttl, clock: clock, note: note}
	s.extend(granted, ttl)
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s
}

// extend puts the deadline off: the cluster started the time to live anew, not
// before the request was sent.
func (s *session) extend(sent, ttl time.Duration) {
	until := sent + ttl - margin(ttl)
	s.note(until - s.clock())
	s.until.Store(int64(until))
}

// valid tells whether what the lease is for is still this node's.
func (s *session) valid() bool {
	return s != nil && !s.ended.Load() && int64(s.clock()) < s.until.Load()
}

// left is the time until the deadline.
func (s *session) left() time.Duration { return time.Duration(s.until.Load()) - s.clock() }

// end ends the session for good, however long the lease lasts still.
func (s *session) end() {
	s.ended.Store(true)
	s.cancel()
}

// keep renews the lease until it lapses or the session ends. renewed is called
// after each time.
func (s *session) keep(cluster Cluster, renewed func(), failed func(error)) {
	next := s.ttl / renewals
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(next):
		}
		sent := s.clock()
		ctx, cancel := context.WithTimeout(s.ctx, s.ttl/attempts)
		ttl, err := cluster.Renew(ctx, s.lease)
		cancel()
		switch {
		case s.ctx.Err() != nil:
			return
		case errors.Is(err, store.ErrLapsed):
			failed(err)
			s.end()
			return
		case err != nil:
			failed(err)
			next = retryRenewal
		default:
			s.extend(sent, ttl)
			next = max(s.ttl/renewals-(s.clock()-sent), retryRenewal)
			renewed()
		}
	}
}

// watch returns when the session has ended or its deadline has passed. Timers
// stand still while the host is suspended, and the clock does not, so that it
// looks more often than once.
func (s *session) watch() {
	for s.valid() {
		select {
		case <-s.ctx.Done():
		case <-time.After(min(s.left(), s.ttl/renewals)):
		}
	}
}
