package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vpngw/vpngw/control/store"
)

// What follows the prefix of the store in the keys of the cluster.
const (
	schemaKey = "/schema"
	entryKeys = "/entries/"
)

const (
	pageSize      = 512                   // entries that one request of a list returns
	leaderRecheck = 50 * time.Millisecond // before a transaction that found no leader is tried again
)

// Cluster is the store.Store, and the leases that a store on one host alone has no use
// for. Its methods may be called from several goroutines.
type Cluster struct {
	name    string // endpoints, for errors
	prefix  string
	timeout time.Duration
	log     *slog.Logger
	client  *clientv3.Client

	ctx    context.Context // ends when the store is closed
	cancel context.CancelFunc

	mu       sync.Mutex // orders the start of a watch and Close
	watchers sync.WaitGroup
}

func (c *Cluster) key(key string) string { return c.prefix + entryKeys + key }

func (c *Cluster) entry(kv *mvccpb.KeyValue) store.Entry {
	return store.Entry{
		Key:      string(kv.Key[len(c.prefix)+len(entryKeys):]),
		Value:    kv.Value,
		Created:  kv.CreateRevision,
		Modified: kv.ModRevision,
	}
}

// request derives the context of one request. A member that has lost touch
// with the leader refuses it at once, so that another one can be asked.
func (c *Cluster) request(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), c.timeout)
	unhook := context.AfterFunc(c.ctx, cancel)
	return ctx, func() { unhook(); cancel() }
}

// noAnswer is the error of a request that ran out of time.
type noAnswer struct{ reason string }

func (e *noAnswer) Error() string { return e.reason }

// keepReason is a grpc.UnaryClientInterceptor. The etcd client puts the error
// of the context in the place of one that tells why there was no connection
// in time, such as a certificate that is not trusted, unless it is hidden
// from it.
func keepReason(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, conn, opts...)
	if status.Code(err) == codes.DeadlineExceeded {
		return &noAnswer{status.Convert(err).Message()}
	}
	return err
}

// explain makes the error of a request one of the contract's. ctx is the
// caller's.
func (c *Cluster) explain(ctx context.Context, err error) error {
	var unanswered *noAnswer
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case c.ctx.Err() != nil:
		return store.ErrClosed
	case errors.As(err, &unanswered):
		return fmt.Errorf("etcd at %s: no answer within %s: %w", c.name, c.timeout, unanswered)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		// Not of the caller's context: it must not look as if it were.
		return fmt.Errorf("etcd at %s: no answer within %s", c.name, c.timeout)
	}
	return fmt.Errorf("etcd at %s: %w", c.name, err)
}

// Get implements store.Store.
func (c *Cluster) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := ctx.Err(); err != nil {
		return store.Entry{}, err
	}
	rctx, done := c.request(ctx)
	defer done()
	resp, err := c.client.Get(rctx, c.key(key))
	if err != nil {
		return store.Entry{}, c.explain(ctx, err)
	}
	if len(resp.Kvs) == 0 {
		return store.Entry{}, fmt.Errorf("%q: %w", key, store.ErrNotFound)
	}
	return c.entry(resp.Kvs[0]), nil
}

// List implements store.Store.
func (c *Cluster) List(ctx context.Context, prefix string) ([]store.Entry, int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	for {
		entries, rev, err := c.pages(ctx, prefix)
		if errors.Is(err, rpctypes.ErrCompacted) {
			continue // between two pages: the revision of the first is gone
		}
		if err != nil {
			return nil, 0, c.explain(ctx, err)
		}
		return entries, rev, nil
	}
}

// pages lists as of the revision at which the first page was read.
func (c *Cluster) pages(ctx context.Context, prefix string) (entries []store.Entry, rev int64, err error) {
	from := c.key(prefix)
	end := clientv3.GetPrefixRangeEnd(from)
	for {
		rctx, done := c.request(ctx)
		resp, err := c.client.Get(rctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(rev))
		done()
		if err != nil {
			return nil, 0, err
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			entries = append(entries, c.entry(kv))
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return entries, rev, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// Txn implements store.Store. When the cluster fails to answer, the error
// leaves open whether the transaction was performed, and says so.
func (c *Cluster) Txn(ctx context.Context, checks []store.Check, ops []store.Op) (int64, error) {
	return c.txn(ctx, checks, ops)
}

// txn performs a transaction whose puts have the options.
func (c *Cluster) txn(ctx context.Context, checks []store.Check, ops []store.Op, puts ...clientv3.OpOption) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := store.ValidateTxn(checks, ops); err != nil {
		return 0, err
	}
	compares := make([]clientv3.Cmp, len(checks))
	inspect := make([]clientv3.Op, len(checks))
	for i, check := range checks {
		compares[i] = clientv3.Compare(clientv3.ModRevision(c.key(check.Key)), "=", check.Revision)
		inspect[i] = clientv3.OpGet(c.key(check.Key), clientv3.WithKeysOnly())
	}
	perform := make([]clientv3.Op, len(ops))
	for i, op := range ops {
		perform[i] = clientv3.OpPut(c.key(op.Key()), string(op.Value()), puts...)
		if op.IsDelete() {
			perform[i] = clientv3.OpDelete(c.key(op.Key()))
		}
	}
	if len(perform) == 0 {
		// A member would answer an empty transaction with the revision that
		// it has itself, which may be an old one.
		perform = append(perform, clientv3.OpGet(c.prefix+schemaKey, clientv3.WithKeysOnly()))
	}
	rctx, done := c.request(ctx)
	defer done()
	resp, err := c.commit(rctx, compares, perform, inspect)
	if err != nil {
		var refusal rpctypes.EtcdError
		refused := errors.As(err, &refusal) && (refusal.Code() != codes.Unavailable || errors.Is(err, rpctypes.ErrNoLeader))
		if err = c.explainLease(ctx, err); refused {
			return 0, err
		}
		return 0, fmt.Errorf("transaction that may have been performed: %w", err)
	}
	if !resp.Succeeded {
		return 0, conflict(checks, resp)
	}
	return resp.Header.Revision, nil
}

// commit sends a transaction to the first member that has a leader.
func (c *Cluster) commit(ctx context.Context, compares []clientv3.Cmp, perform, otherwise []clientv3.Op) (*clientv3.TxnResponse, error) {
	for {
		resp, err := c.client.Txn(ctx).If(compares...).Then(perform...).Else(otherwise...).Commit()
		if !errors.Is(err, rpctypes.ErrNoLeader) {
			return resp, err
		}
		// Refused before it was begun, so it can be tried again: the next
		// member may be on the side of the leader.
		select {
		case <-time.After(leaderRecheck):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// conflict says which check did not hold.
func conflict(checks []store.Check, resp *clientv3.TxnResponse) error {
	for i, check := range checks {
		var have int64
		for _, kv := range resp.Responses[i].GetResponseRange().Kvs {
			have = kv.ModRevision
		}
		if have != check.Revision {
			return fmt.Errorf("%q is at revision %d, not %d: %w", check.Key, have, check.Revision, store.ErrConflict)
		}
	}
	return store.ErrConflict
}

// Close implements store.Store.
func (c *Cluster) Close() error {
	c.mu.Lock()
	c.cancel()
	c.mu.Unlock()
	c.watchers.Wait()
	if c.client == nil {
		return nil
	}
	if err := c.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close store in etcd: %w", err)
	}
	return nil
}
