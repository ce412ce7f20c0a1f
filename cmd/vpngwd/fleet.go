package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/fleet"
	"github.com/vpngw/vpngw/control/reconcile"
	"github.com/vpngw/vpngw/control/store"
	"github.com/vpngw/vpngw/control/store/etcd"
	"github.com/vpngw/vpngw/dataplane/route"
)

// storeRetry is the pause between two attempts to reach a cluster at start.
const storeRetry = 500 * time.Millisecond

// openEtcd connects to the cluster. Later it may be away for any time: what
// needs the store fails meanwhile, and goes on when it is back.
func (d *daemon) openEtcd(ctx context.Context) (store.Store, error) {
	o := d.config.Store.options()
	o.Logger = d.log.With("part", "store")
	for start := time.Now(); ; {
		cluster, err := etcd.Open(ctx, o)
		if err == nil {
			return cluster, nil
		}
		if ctx.Err() != nil || time.Since(start) > storePatience || errors.Is(err, etcd.ErrSchema) {
			return nil, err
		}
		d.log.Warn("waiting for the store", "error", err)
		select {
		case <-time.After(storeRetry):
		case <-ctx.Done():
		}
	}
}

// openFleet describes this node and, where nodes share a cluster, makes what
// keeps its share.
func (d *daemon) openFleet(objects *control.Objects) error {
	c := d.config
	fingerprint, err := d.apiOptions().Fingerprint()
	if err != nil {
		return err
	}
	d.node = control.Node{
		Name: c.Node.Name, Zone: c.Node.AvailabilityZone, Version: version, Started: time.Now().UTC(),
		Instance: rand.Text(), APIURL: c.apiURL(), Fingerprint: fingerprint,
	}
	cluster, ok := d.store.(*etcd.Cluster)
	if !ok {
		return nil
	}
	var history *fleet.History
	if path := c.Fleet.HistoryFile; path != "" {
		if history, err = fleet.OpenHistory(path, c.Node.Name); err != nil {
			return fmt.Errorf("fleet.history_file: %w", err)
		}
		d.onClose(history.Close)
	}
	d.keeper = fleet.New(fleet.Options{
		Cluster: cluster, Objects: objects.Served, Node: d.node, Inventory: &c.Inventory,
		HostAddresses: addressSet, SetFloating: d.setFloating, SetFence: objects.SetFence,
		Changed: func(lost bool) { d.reconciler.DivisionChanged(lost) },
		TTL:     c.Fleet.Lease, Clock: fleet.SinceBoot, History: history, Logger: d.log.With("part", "fleet"),
	})
	return nil
}

// setFloating gives the host addresses that float.
func (d *daemon) setFloating(want []fleet.FloatingAddress, lifetime time.Duration) map[netip.Addr]error {
	list := make([]route.Address, len(want))
	for i, w := range want {
		list[i] = route.Address{Link: w.Interface, Prefix: netip.PrefixFrom(w.Address, w.Address.BitLen())}
	}
	return d.routes.SetFloating(list, lifetime)
}

// The rest of the daemon is given nil where this node is alone.

func (d *daemon) fleet() reconcile.Fleet {
	if d.keeper == nil {
		return nil
	}
	return d.keeper
}

func (d *daemon) serviceFleet() control.Fleet {
	if d.keeper == nil {
		return nil
	}
	return d.keeper
}

func (d *daemon) guard() func(netip.Addr) bool {
	if d.keeper == nil {
		return nil
	}
	return d.keeper.Holds
}

func (d *daemon) fleetStats() func() fleet.Stats {
	if d.keeper == nil {
		return nil
	}
	return d.keeper.Stats
}
