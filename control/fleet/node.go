package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/store"
)

const (
	nodesPrefix  = control.PrefixFleet + "nodes/"
	claimsPrefix = control.PrefixFleet + "claims/"
)

// record is what a node says of itself.
type record struct {
	control.Node
	Lease int64         `json:"lease"`
	TTL   time.Duration `json:"ttl"`
}

// ErrNameTaken says that another living node has the name.
var ErrNameTaken = errors.New("another node of this name is alive")

// lapsePatience is what a lease may last longer than its time to live: the
// cluster looks twice a second, and gives all leases more time when its leader
// changes, as often as it does on a busy host.
const lapsePatience = 15 * time.Second

// Join gets a lease and registers the node. It waits for the lease of a node of
// the same name to lapse, such as that of this one before it was killed, and
// fails with ErrNameTaken when it does not.
func (k *Keeper) Join(ctx context.Context) error { return k.join(ctx, true) }

func (k *Keeper) join(ctx context.Context, wait bool) error {
	table := store.NewTable[record](k.o.Cluster, nodesPrefix)
	// The first record is complete, and the engines need not guess at the
	// beginning what is whose.
	if _, _, err := k.look(ctx); err != nil {
		return err
	}
	for start := time.Now(); ; {
		row, err := table.Get(ctx, k.o.Node.Name)
		switch {
		case errors.Is(err, store.ErrNotFound):
			s, err := k.register(ctx, table)
			if errors.Is(err, store.ErrConflict) {
				continue // somebody was faster
			}
			if err != nil {
				return err
			}
			v, _, err := k.look(ctx)
			if err == nil {
				k.adopt(s, v)
			}
			return err
		case err != nil:
			return fmt.Errorf("look for node %s: %w", k.o.Node.Name, err)
		case row.Value.Instance == k.o.Node.Instance:
			// The lease of a session of this very process, which is over.
			if err := k.o.Cluster.Revoke(ctx, row.Value.Lease); err != nil {
				return err
			}
			continue
		case !wait || time.Since(start) > row.Value.TTL+lapsePatience:
			return fmt.Errorf("node %s, started %s: %w", k.o.Node.Name, row.Value.Started.Format(time.RFC3339), ErrNameTaken)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// register begins a session with the record of the node.
func (k *Keeper) register(ctx context.Context, table store.Table[record]) (*session, error) {
	granted := k.clock()
	lease, ttl, err := k.o.Cluster.Grant(ctx, k.o.TTL)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	node := k.node
	k.mu.Unlock()
	put, err := table.Put(node.Name, record{node, lease, ttl})
	if err != nil {
		return nil, err
	}
	revision, err := k.o.Cluster.TxnUnder(ctx, lease, []store.Check{table.Check(node.Name, 0)}, []store.Op{put})
	if err != nil {
		return nil, fmt.Errorf("register node %s: %w", node.Name, err)
	}
	s := newSession(context.WithoutCancel(ctx), k.clock, func(left time.Duration) { k.note(k.o.History.renew(left)) }, lease, ttl, granted)
	k.mu.Lock()
	k.session, k.revision, k.since = s, revision, time.Time{}
	k.fence(table)
	k.arm()
	k.mu.Unlock()
	k.o.Logger.Info("lease granted", "node", node.Name, "ttl", ttl)
	go s.keep(k.o.Cluster, k.setAddresses, func(err error) {
		k.o.Logger.Warn("lease was not renewed", "left", s.left(), "error", err)
	})
	go func() {
		s.watch()
		k.lapse(s)
	}()
	return s, nil
}

// describe finds out which addresses the node can have, and writes its record
// anew when that has changed.
func (k *Keeper) describe(ctx context.Context, gateways []control.Gateway) error {
	inventory := k.inventory.Load()
	host, err := k.o.HostAddresses()
	if err != nil {
		return fmt.Errorf("addresses of this host: %w", err)
	}
	k.mu.Lock()
	node, revision, s := k.node, k.revision, k.session
	k.sites = sites(inventory, gateways)
	// What floats from now on is fenced before other nodes can hear of it.
	k.arm()
	node.Fixed, node.Floating = nil, nil
	for a := range k.sites {
		node.Floating = append(node.Floating, a)
	}
	k.mu.Unlock()
	for i := range inventory.EIPs {
		if e := &inventory.EIPs[i]; !e.Floating && host[e.HostAddress()] {
			node.Fixed = append(node.Fixed, e.Address)
		}
	}
	for i := range gateways {
		for _, a := range gateways[i].AccessPrivateIPs {
			if a.IsValid() && host[a] && !slices.Contains(node.Floating, a) {
				node.Fixed = append(node.Fixed, a)
			}
		}
	}
	slices.SortFunc(node.Fixed, netip.Addr.Compare)
	slices.SortFunc(node.Floating, netip.Addr.Compare)
	k.mu.Lock()
	same := reflect.DeepEqual(node, k.node)
	if s == nil {
		k.node = node
	}
	k.mu.Unlock()
	if same || s == nil {
		return nil
	}
	table := store.NewTable[record](k.o.Cluster, nodesPrefix)
	put, err := table.Put(node.Name, record{node, s.lease, s.ttl})
	if err != nil {
		return err
	}
	revision, err = k.o.Cluster.TxnUnder(ctx, s.lease, []store.Check{table.Check(node.Name, revision)}, []store.Op{put})
	if errors.Is(err, store.ErrConflict) {
		// The record is not what this session wrote last: it may have, without
		// hearing of it. A new session makes it right.
		s.end()
	}
	if err != nil {
		return fmt.Errorf("record of node %s: %w", node.Name, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.node, k.revision = node, revision
	k.fence(table)
	return nil
}

// fence tells of the present record. The caller holds mu.
func (k *Keeper) fence(table store.Table[record]) {
	check := table.Check(k.o.Node.Name, k.revision)
	k.o.SetFence(&check)
}

// sites returns the addresses of the inventory and of gateways that float, by
// how peers see them.
func sites(inventory *control.Inventory, gateways []control.Gateway) map[netip.Addr]site {
	found := map[netip.Addr]site{}
	for i := range inventory.EIPs {
		if e := &inventory.EIPs[i]; e.Floating {
			found[e.Address] = site{e.HostAddress(), e.Interface}
		}
	}
	for i := range inventory.VPCs {
		for j := range inventory.VPCs[i].Subnets {
			subnet := &inventory.VPCs[i].Subnets[j]
			if subnet.Interface == "" {
				continue
			}
			if subnet.RouterAddress.IsValid() {
				found[subnet.RouterAddress] = site{subnet.RouterAddress, subnet.Interface}
			}
			for n := range gateways {
				for _, a := range gateways[n].AccessPrivateIPs {
					if g := &gateways[n]; a.IsValid() && g.AccessSubnetID == subnet.ID {
						found[a] = site{a, subnet.Interface}
					}
				}
			}
		}
	}
	return found
}

// routers returns the addresses of the inventory by which hosts reach gateways.
func (k *Keeper) routers() []router {
	var list []router
	inventory := k.inventory.Load()
	for i := range inventory.VPCs {
		for j := range inventory.VPCs[i].Subnets {
			if subnet := &inventory.VPCs[i].Subnets[j]; subnet.RouterAddress.IsValid() {
				list = append(list, router{subnet.RouterAddress, subnet})
			}
		}
	}
	return list
}
