package fleet

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/vpngw/vpngw/control/store"
)

// cluster is a store with leases, in memory. It lapses a lease as late as a
// real one may and no earlier.
type cluster struct {
	*store.Memory

	mu     sync.Mutex
	next   int64
	leases map[int64]*lease
}

type lease struct {
	ttl   time.Duration
	ends  time.Time
	timer *time.Timer
	keys  map[string]bool
}

func newCluster() *cluster { return &cluster{Memory: store.NewMemory(), leases: map[int64]*lease{}} }

func (c *cluster) grant(ttl time.Duration) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	id := c.next
	l := &lease{ttl: ttl, ends: time.Now().Add(ttl), keys: map[string]bool{}}
	l.timer = time.AfterFunc(ttl, func() { c.revoke(id) })
	c.leases[id] = l
	return id
}

func (c *cluster) renew(id int64) (time.Duration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.leases[id]
	if l == nil {
		return 0, store.ErrLapsed
	}
	l.ends = time.Now().Add(l.ttl)
	l.timer.Reset(l.ttl)
	return l.ttl, nil
}

func (c *cluster) revoke(id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.leases[id]
	if l == nil {
		return
	}
	l.timer.Stop()
	delete(c.leases, id)
	var ops []store.Op
	for key := range l.keys {
		ops = append(ops, store.Delete(key))
	}
	if _, err := c.Memory.Txn(context.Background(), nil, ops); err != nil {
		panic(err)
	}
}

func (c *cluster) txnUnder(ctx context.Context, id int64, checks []store.Check, ops []store.Op) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.leases[id]
	if l == nil {
		return 0, store.ErrLapsed
	}
	rev, err := c.Memory.Txn(ctx, checks, ops)
	if err == nil {
		for _, op := range ops {
			l.keys[op.Key()] = true
		}
	}
	return rev, err
}

// link is a node's way to the cluster. While it is cut, requests wait until
// their context or their patience ends, and watches are silent.
type link struct {
	*cluster

	mu   sync.Mutex
	cut  chan struct{} // closed when it is mended; nil: it is not cut
	lose bool          // the next transaction is performed and its answer lost
	slow time.Duration // before the answer to a renewal
	sent func()        // is called for each transaction under a lease, and when one is revoked
}

const linkPatience = 5 * time.Second

var errLink = errors.New("no answer within 5s")

func (l *link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut == nil {
		l.cut = make(chan struct{})
	}
}

func (l *link) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut != nil {
		close(l.cut)
		l.cut = nil
	}
}

// pass waits for the link.
func (l *link) pass(ctx context.Context) error {
	l.mu.Lock()
	cut := l.cut
	l.mu.Unlock()
	if err := ctx.Err(); err != nil || cut == nil {
		return err
	}
	select {
	case <-cut:
		return errLink // what was sent is lost
	case <-time.After(linkPatience):
		return errLink
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *link) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := l.pass(ctx); err != nil {
		return store.Entry{}, err
	}
	return l.cluster.Get(ctx, key)
}

func (l *link) List(ctx context.Context, prefix string) ([]store.Entry, int64, error) {
	if err := l.pass(ctx); err != nil {
		return nil, 0, err
	}
	return l.cluster.List(ctx, prefix)
}

func (l *link) Txn(ctx context.Context, checks []store.Check, ops []store.Op) (int64, error) {
	if err := l.pass(ctx); err != nil {
		return 0, err
	}
	return l.cluster.Txn(ctx, checks, ops)
}

func (l *link) Watch(ctx context.Context, prefix string, after int64) (<-chan []store.Event, error) {
	if err := l.pass(ctx); err != nil {
		return nil, err
	}
	events, err := l.cluster.Watch(ctx, prefix, after)
	if err != nil {
		return nil, err
	}
	out := make(chan []store.Event)
	go func() {
		defer close(out)
		for batch := range events {
			for l.pass(ctx) != nil && ctx.Err() == nil { //nolint:revive // it waits
			}
			select {
			case out <- batch:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func (l *link) Grant(ctx context.Context, ttl time.Duration) (int64, time.Duration, error) {
	if err := l.pass(ctx); err != nil {
		return 0, 0, err
	}
	return l.grant(ttl), ttl, nil
}

func (l *link) Renew(ctx context.Context, id int64) (time.Duration, error) {
	if err := l.pass(ctx); err != nil {
		return 0, err
	}
	l.mu.Lock()
	slow := l.slow
	l.mu.Unlock()
	ttl, err := l.renew(id)
	time.Sleep(slow)
	return ttl, err
}

func (l *link) Revoke(ctx context.Context, id int64) error {
	if err := l.pass(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	sent := l.sent
	l.mu.Unlock()
	if sent != nil {
		sent()
	}
	l.revoke(id)
	return nil
}

func (l *link) TimeToLive(ctx context.Context, id int64) (time.Duration, error) {
	if err := l.pass(ctx); err != nil {
		return 0, err
	}
	l.cluster.mu.Lock()
	defer l.cluster.mu.Unlock()
	if lease := l.leases[id]; lease != nil {
		return time.Until(lease.ends), nil
	}
	return 0, nil
}

func (l *link) TxnUnder(ctx context.Context, id int64, checks []store.Check, ops []store.Op) (int64, error) {
	if err := l.pass(ctx); err != nil {
		return 0, err
	}
	l.mu.Lock()
	lose, sent := l.lose, l.sent
	l.lose = false
	l.mu.Unlock()
	if sent != nil {
		sent()
	}
	rev, err := l.txnUnder(ctx, id, checks, ops)
	if lose {
		return 0, errors.Join(errLink, err)
	}
	return rev, err
}
