package control

import (
	"context"
	"errors"

	"github.com/vpngw/vpngw/control/store"
)

// SetGatewayStatus writes the status of a gateway. It is for the reconciler
// alone. It fails with store.ErrNotFound when the gateway is gone.
func (o *Objects) SetGatewayStatus(ctx context.Context, project, id string, s GatewayStatus) error {
	return setStatus(ctx, o, o.gatewayStatus, prefixGateways, project, id, s)
}

// SetConnectionStatus writes the status of a connection. It is for the
// reconciler alone. It fails with store.ErrNotFound when the connection is
// gone.
func (o *Objects) SetConnectionStatus(ctx context.Context, project, id string, s ConnectionStatus) error {
	return setStatus(ctx, o, o.connectionStatus, prefixConnections, project, id, s)
}

// SetFence has reports written only while a check holds: that of an entry which
// goes with the lease of this node. So a node that was stopped for a while
// cannot overwrite what its successor reports. nil: always.
func (o *Objects) SetFence(c *store.Check) { o.fence.Store(c) }

// setStatus writes one report.
func setStatus[T any](ctx context.Context, o *Objects, t store.Table[T], specs, project, id string, status T) error {
	return setMany(ctx, o, t, specs, []Report[T]{{project, id, status}})[0]
}

// SetLog replaces the log of a connection by lines, oldest first, of which it
// keeps the latest MaxLogLines. It is for the reconciler alone. It fails with
// store.ErrNotFound when the connection is gone.
func (o *Objects) SetLog(ctx context.Context, project, id string, lines []LogLine) error {
	return setStatus(ctx, o, o.connectionLog, prefixConnections, project, id, boundLog(lines))
}

// Report is what the reconciler has to say of one object.
type Report[T any] struct {
	Project, ID string
	Value       T
}

// SetConnectionStatuses is SetConnectionStatus for many connections in few
// transactions. It returns an error for each, in order.
func (o *Objects) SetConnectionStatuses(ctx context.Context, reports []Report[ConnectionStatus]) []error {
	return setMany(ctx, o, o.connectionStatus, prefixConnections, reports)
}

// SetLogs is SetLog for many connections in few transactions. It returns an
// error for each, in order.
func (o *Objects) SetLogs(ctx context.Context, reports []Report[[]LogLine]) []error {
	for i := range reports {
		reports[i].Value = boundLog(reports[i].Value)
	}
	return setMany(ctx, o, o.connectionLog, prefixConnections, reports)
}

// One transaction of setMany has so many operations at most, and so many octets
// unless one value alone has more.
const (
	manyReports = store.MaxTxnSize / 2
	manyOctets  = store.MaxValueSize / 4
)

// setMany writes reports, each unless its object was finalised meanwhile, so
// that none is left behind.
func setMany[T any](ctx context.Context, o *Objects, t store.Table[T], specs string, reports []Report[T]) []error {
	errs := make([]error, len(reports))
	var batch []*pending
	octets := 0
	write := func() {
		o.writePending(ctx, batch)
		batch, octets = nil, 0
	}
	for i, r := range reports {
		key, err := objectKey(r.Project, r.ID)
		var put store.Op
		if err == nil {
			put, err = t.Put(key, r.Value)
		}
		if err != nil {
			errs[i] = err
			continue
		}
		if len(batch) == manyReports || octets+len(put.Value()) > manyOctets {
			write()
		}
		batch, octets = append(batch, &pending{specs + "/" + key, put, &errs[i]}), octets+len(put.Value())
	}
	write()
	return errs
}

// pending is a report about to be written.
type pending struct {
	spec string // key of the object
	put  store.Op
	err  *error
}

// writePending writes a batch in one transaction, without those whose object is
// gone.
func (o *Objects) writePending(ctx context.Context, batch []*pending) {
	var err error
	for range changeAttempts {
		checks := []store.Check{unlessRestoring()}
		var ops []store.Op
		if fence := o.fence.Load(); fence != nil {
			checks = append(checks, *fence)
		}
		for _, p := range batch {
			if *p.err != nil {
				continue
			}
			var spec store.Entry
			if spec, *p.err = o.store.Get(ctx, p.spec); *p.err == nil {
				checks, ops = append(checks, store.Check{Key: p.spec, Revision: spec.Modified}), append(ops, p.put)
			}
		}
		if len(ops) == 0 {
			return
		}
		if _, err = o.store.Txn(ctx, checks, ops); !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	for _, p := range batch {
		if *p.err == nil {
			*p.err = err
		}
	}
}
