package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vpngw/vpngw/control/store"
)

// Grant makes a lease and returns its id and its time to live, which the
// cluster may make longer than asked: with default settings it is two seconds
// at the least. The time runs from some moment between the call and its return,
// so a holder counts from the call. It is exact to the second.
func (c *Cluster) Grant(ctx context.Context, ttl time.Duration) (id int64, granted time.Duration, err error) {
	rctx, done := c.request(ctx)
	defer done()
	resp, err := c.client.Grant(rctx, int64((ttl+time.Second-1)/time.Second))
	if err != nil {
		return 0, 0, fmt.Errorf("grant a lease: %w", c.explain(ctx, err))
	}
	return int64(resp.ID), time.Duration(resp.TTL) * time.Second, nil
}

// Renew starts the time to live of a lease anew and returns it. It fails with
// store.ErrLapsed when there is no such lease; any other error leaves open whether it
// was renewed.
func (c *Cluster) Renew(ctx context.Context, id int64) (time.Duration, error) {
	rctx, done := c.request(ctx)
	defer done()
	ttl, err := c.keepAlive(rctx, id)
	if err != nil {
		return 0, fmt.Errorf("renew the lease: %w", c.explainLease(ctx, err))
	}
	if ttl <= 0 {
		return 0, fmt.Errorf("renew the lease: %w", store.ErrLapsed)
	}
	return time.Duration(ttl) * time.Second, nil
}

// keepAlive asks once. The client library's own call asks again and again,
// without a pause, while there is no connection.
func (c *Cluster) keepAlive(ctx context.Context, id int64) (ttl int64, err error) {
	ctx, cancel := context.WithCancel(ctx) // ends the stream
	defer cancel()
	stream, err := clientv3.RetryLeaseClient(c.client).LeaseKeepAlive(ctx)
	if err != nil {
		return 0, err
	}
	if err := stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: id}); err != nil {
		return 0, err
	}
	answer, err := stream.Recv()
	if err != nil {
		return 0, err
	}
	return answer.TTL, nil
}

// TimeToLive returns how long a lease still lasts if it is not renewed; zero
// when there is none.
func (c *Cluster) TimeToLive(ctx context.Context, id int64) (time.Duration, error) {
	rctx, done := c.request(ctx)
	defer done()
	resp, err := c.client.TimeToLive(rctx, clientv3.LeaseID(id))
	if err != nil {
		return 0, fmt.Errorf("look at a lease: %w", c.explain(ctx, err))
	}
	return time.Duration(max(resp.TTL, 0)) * time.Second, nil
}

// Revoke ends a lease: its entries are deleted. One that has lapsed is no
// error.
func (c *Cluster) Revoke(ctx context.Context, id int64) error {
	rctx, done := c.request(ctx)
	defer done()
	_, err := c.client.Revoke(rctx, clientv3.LeaseID(id))
	if err == nil || errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return fmt.Errorf("revoke the lease: %w", c.explain(ctx, err))
}

// TxnUnder is Txn, save that what it puts is deleted when the lease lapses or
// is revoked. It fails with store.ErrLapsed when that has happened.
func (c *Cluster) TxnUnder(ctx context.Context, lease int64, checks []store.Check, ops []store.Op) (int64, error) {
	return c.txn(ctx, checks, ops, clientv3.WithLease(clientv3.LeaseID(lease)))
}

// explainLease is explain for requests about a lease.
func (c *Cluster) explainLease(ctx context.Context, err error) error {
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return store.ErrLapsed
	}
	return c.explain(ctx, err)
}
