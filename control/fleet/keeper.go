package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/store"
)

// Cluster is a store whose entries can be bound to leases.
type Cluster interface {
	store.Store
	// Grant makes a lease. Its time to live may be longer than asked for.
	Grant(ctx context.Context, ttl time.Duration) (lease int64, granted time.Duration, err error)
	// Renew starts the time to live anew, or fails with store.ErrLapsed.
	Renew(ctx context.Context, lease int64) (ttl time.Duration, err error)
	// Revoke ends a lease and deletes its entries.
	Revoke(ctx context.Context, lease int64) error
	// TimeToLive returns how long a lease lasts if it is not renewed.
	TimeToLive(ctx context.Context, lease int64) (time.Duration, error)
	// TxnUnder is store.Store.Txn whose puts are deleted with the lease.
	TxnUnder(ctx context.Context, lease int64, checks []store.Check, ops []store.Op) (int64, error)
}

// FloatingAddress is an address of this host that floats.
type FloatingAddress struct {
	Interface string
	Address   netip.Addr
}

// Options are what a Keeper works with.
type Options struct {
	Cluster Cluster
	Objects func(context.Context) (control.Served, error)
	Node    control.Node // without addresses
	// Inventory says which addresses this node can have.
	Inventory *control.Inventory
	// HostAddresses returns the addresses of this host.
	HostAddresses func() (map[netip.Addr]bool, error)
	// SetFloating gives the host exactly these addresses, for a lifetime after
	// which they end by themselves, and returns which ones failed.
	SetFloating func(want []FloatingAddress, lifetime time.Duration) map[netip.Addr]error
	// SetFence is told of the entry that is there as long as the lease.
	SetFence func(*store.Check)
	// Changed is called when the division has changed; lost says that this node
	// may have lost something. It must not block.
	Changed func(lost bool)
	// TTL is the time to live of the lease: how long others wait before they
	// take over from this node when it is gone.
	TTL time.Duration
	// Clock is the time that leases are counted by, from any origin. It must go
	// on while the host is suspended: see SinceBoot. nil: the monotonic clock of
	// the Go runtime, which stands still then.
	Clock   func() time.Duration
	History *History // nil: none
	Logger  *slog.Logger
}

// Keeper keeps this node's share of the fleet's work. Its methods may be called
// from several goroutines.
type Keeper struct {
	o         Options
	clock     func() time.Duration
	inventory atomic.Pointer[control.Inventory]
	division  atomic.Pointer[control.Division]
	guard     atomic.Pointer[guard]
	poke      chan struct{} // holds one
	applied   chan *control.Division
	stats     stats

	addresses sync.Mutex // held while SetFloating works

	mu       sync.Mutex
	session  *session // nil while there is none
	node     control.Node
	revision int64 // of the node's record
	view     view
	sites    map[netip.Addr]site // of the addresses that float, by how peers see them
	held     map[string]claim    // by name
	released map[string]bool     // held in the cluster still, and here no longer
	unfit    map[string]time.Time

	// Of the goroutine in Run.
	free     map[string]time.Time // what nobody holds, since when
	unwanted map[string]time.Time // what is held and should not be, since when
	since    time.Time            // there is no session; zero: there is one
	fixed    fixedElsewhere
}

// site is where an address is on this host.
type site struct {
	host   netip.Addr // the host's own address
	device string
}

// guard is what Holds looks at. It does not change.
type guard struct {
	session  *session
	floating map[netip.Addr]bool // of this host; the value tells whether it is held
}

// New returns a Keeper that holds nothing before Join.
func New(o Options) *Keeper {
	if o.Clock == nil {
		base := time.Now()
		o.Clock = func() time.Duration { return time.Since(base) }
	}
	k := &Keeper{
		o: o, clock: o.Clock, poke: make(chan struct{}, 1), applied: make(chan *control.Division, 1),
		node: o.Node, held: map[string]claim{}, released: map[string]bool{}, unfit: map[string]time.Time{},
		free: map[string]time.Time{}, unwanted: map[string]time.Time{}, since: time.Now(),
	}
	k.inventory.Store(o.Inventory)
	k.node.Started = k.node.Started.UTC().Round(0) // as the store has it
	k.sites = sites(o.Inventory, nil)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.arm()
	k.publish()
	return k
}

// SinceBoot reads CLOCK_BOOTTIME, which unlike the clock of the Go runtime goes
// on while the host is suspended, as the time to live of a lease does.
func SinceBoot() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // fails for unknown clocks only
	return time.Duration(t.Nano())
}

// Holds tells whether this node may use an address of the host at this moment:
// one that floats only while the lease is sure. It does not block.
func (k *Keeper) Holds(host netip.Addr) bool {
	g := k.guard.Load()
	held, floats := g.floating[host]
	return !floats || held && g.session.valid()
}

// Division implements control.Fleet.
func (k *Keeper) Division() *control.Division { return k.division.Load() }

// Applied tells that the engines do what a division wants, and no more.
func (k *Keeper) Applied(d *control.Division) {
	for {
		select {
		case k.applied <- d:
			return
		case <-k.applied: // an older one, which nobody waited for
		}
	}
}

// SetInventory replaces the inventory.
func (k *Keeper) SetInventory(inv *control.Inventory) {
	k.inventory.Store(inv)
	k.wake()
}

func (k *Keeper) wake() {
	select {
	case k.poke <- struct{}{}:
	default:
	}
}

// LeaseLeft implements control.Fleet.
func (k *Keeper) LeaseLeft(ctx context.Context) (map[string]time.Duration, time.Duration, error) {
	rows, _, err := store.NewTable[record](k.o.Cluster, nodesPrefix).List(ctx, "")
	if err != nil && !store.IsDamaged(err) {
		return nil, 0, fmt.Errorf("list nodes: %w", err)
	}
	left := map[string]time.Duration{}
	for _, row := range rows {
		if left[row.Key], err = k.o.Cluster.TimeToLive(ctx, row.Value.Lease); err != nil {
			return nil, 0, err
		}
	}
	return left, k.o.TTL, nil
}

// Run keeps the share until ctx ends, and then gives it up, so that others need
// not wait. The engines must have stopped by then. Join comes before.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		k.mu.Lock()
		s := k.session
		k.mu.Unlock()
		if s != nil {
			k.serve(ctx, s)
		}
		if ctx.Err() != nil {
			k.leave(context.WithoutCancel(ctx))
			return nil
		}
		if s != nil {
			// For good: its lease is given back below, and a renewal that is
			// answered late must not put the deadline off.
			k.lapse(s)
		}
		if !k.awaitApplied(ctx) {
			continue
		}
		if err := k.join(ctx, false); err != nil {
			k.o.Logger.Warn("no lease", "node", k.o.Node.Name, "error", err)
			select {
			case <-time.After(rejoinPause):
			case <-ctx.Done():
			}
		}
	}
}

const (
	rejoinPause = 500 * time.Millisecond
	refresh     = 15 * time.Second // the least often that the cluster is looked at
	leaveMax    = 3 * time.Second
)

// awaitApplied waits until the engines know that nothing that floats is held.
func (k *Keeper) awaitApplied(ctx context.Context) bool {
	for {
		k.o.Changed(true)
		select {
		case d := <-k.applied:
			if d == k.division.Load() {
				return true
			}
		case <-time.After(time.Second):
		case <-ctx.Done():
			return false
		}
	}
}

// serve follows the cluster until the session or ctx ends.
func (k *Keeper) serve(ctx context.Context, s *session) {
	var ended <-chan struct{} // nil: nothing is followed
	for s.valid() && ctx.Err() == nil {
		next := refresh
		v, revision, err := k.look(s.ctx)
		if err == nil {
			if ended == nil {
				ended, err = k.follow(s.ctx, revision)
			}
			k.adopt(s, v)
			wait, actErr := k.act(s, v)
			next, err = min(next, wait), errors.Join(err, actErr)
		}
		if err != nil && s.ctx.Err() == nil {
			k.o.Logger.Warn("the fleet's state was not read or written", "error", err)
			next = rejoinPause
		}
		select {
		case <-ended:
			ended = nil
		case <-k.poke:
		case <-time.After(next):
		case <-s.ctx.Done():
		case <-ctx.Done():
		}
	}
}

// follow wakes serve at every change after a revision. The channel is closed
// when changes may have been missed.
func (k *Keeper) follow(ctx context.Context, revision int64) (ended <-chan struct{}, err error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	context.AfterFunc(ctx, func() { close(done) })
	var watches []<-chan []store.Event
	for _, prefix := range append([]string{control.PrefixFleet}, control.ServedPrefixes...) {
		events, err := k.o.Cluster.Watch(ctx, prefix, revision)
		if err != nil {
			cancel()
			return nil, fmt.Errorf("follow %s: %w", prefix, err)
		}
		watches = append(watches, events)
	}
	go func() {
		defer cancel()
		var running sync.WaitGroup
		for _, events := range watches {
			running.Go(func() {
				for range events {
					k.wake()
				}
				cancel() // one that ends ends all
			})
		}
		running.Wait()
	}()
	return done, nil
}

// look reads what the cluster has, and keeps the node's record up to date.
func (k *Keeper) look(ctx context.Context) (view, int64, error) {
	// What changes between the lists is seen again by the watches.
	objects, err := k.o.Objects(ctx)
	if err != nil {
		return view{}, 0, err
	}
	revision := objects.Revision
	v := view{nodes: map[string]control.Node{}, claims: map[string]claim{}, objects: objects}
	if err := k.describe(ctx, objects.Gateways); err != nil {
		return v, revision, err
	}
	nodes, _, err := store.NewTable[record](k.o.Cluster, nodesPrefix).List(ctx, "")
	if err != nil && !store.IsDamaged(err) {
		return v, revision, fmt.Errorf("list nodes: %w", err)
	}
	for _, row := range nodes {
		v.nodes[row.Key] = row.Value.Node
	}
	// A damaged claim is still one: only its key counts for others.
	entries, _, err := k.o.Cluster.List(ctx, claimsPrefix)
	if err != nil {
		return v, revision, fmt.Errorf("list claims: %w", err)
	}
	table := store.NewTable[claim](k.o.Cluster, claimsPrefix)
	for _, e := range entries {
		row, err := table.Decode(e)
		if err != nil {
			row.Key, row.Value = e.Key[len(table.Prefix()):], claim{Node: "?"}
		}
		row.Value.revision = e.Modified
		v.claims[row.Key] = row.Value
	}
	return v, revision, nil
}

// adopt makes what the cluster says the share of this node.
func (k *Keeper) adopt(s *session, v view) {
	k.mu.Lock()
	if k.session != s || !s.valid() {
		k.mu.Unlock()
		return
	}
	held := map[string]claim{}
	for name, c := range v.claims {
		mine := c.Node == k.o.Node.Name && c.Lease == s.lease
		if mine && !k.released[name] {
			held[name] = c
		}
		if !mine {
			delete(k.released, name)
		}
	}
	for name := range k.released {
		if _, there := v.claims[name]; !there {
			delete(k.released, name)
		}
	}
	for name := range held {
		if _, already := k.held[name]; !already {
			k.note(k.o.History.take(name))
			k.stats.taken.Add(1)
			k.o.Logger.Info("taken", "claim", name)
		}
	}
	before := k.held
	moved, lost := !maps.Equal(before, held), false
	k.held, k.view = held, v
	k.arm()
	for name := range before {
		if _, still := held[name]; !still {
			lost = true
			// Somebody deleted the key by hand: others may have it.
			k.note(k.o.History.leave(name, s.left()))
			k.o.Logger.Warn("lost", "claim", name)
		}
	}
	k.mu.Unlock()
	if moved {
		k.setAddresses() // before the engines are told of them
	}
	k.mu.Lock()
	changed := k.session == s && k.publish()
	k.mu.Unlock()
	if changed {
		k.o.Changed(lost)
	}
}

// act takes and gives up what it should, and returns when to look again.
func (k *Keeper) act(s *session, v view) (next time.Duration, err error) {
	taken, next, err := k.takeFree(s, v)
	if taken || err != nil {
		return 0, err
	}
	var errs []error
	now := time.Now()
	should := map[string]bool{}
	for _, w := range v.wishes(k.routers()) {
		should[w.claim] = slices.Contains(w.candidates, k.o.Node.Name)
	}
	for name, c := range v.claims {
		if c.Node == k.o.Node.Name && c.Lease == s.lease {
			wait, err := k.retain(s, name, should[name], now)
			next, errs = min(next, wait), append(errs, err)
		}
	}
	return next, errors.Join(errs...)
}

// takeFree takes all that nobody holds and this node should, and returns when
// there may be more. What follows from what it has taken it takes, too, so that
// the engines hear of it all at once.
func (k *Keeper) takeFree(s *session, v view) (taken bool, next time.Duration, err error) {
	k.fixed.see(v, k.o.Node.Name, k.inventory.Load())
	now := time.Now()
	free := map[string]time.Time{}
	for more := true; more; {
		more, next = false, refresh
		for _, w := range v.wishes(k.routers()) {
			if _, held := v.claims[w.claim]; held {
				continue
			}
			since, known := k.free[w.claim]
			if !known {
				since = now
			}
			free[w.claim] = since
			rank := slices.Index(w.candidates, k.o.Node.Name)
			if rank < 0 || k.isUnfit(w.claim, now) || k.fixed.has(w.claim) {
				continue
			}
			if wait := since.Add(time.Duration(rank) * rankDelay).Sub(now); wait > 0 {
				next = min(next, wait)
				continue
			}
			if err := k.take(s, w.claim); err != nil {
				if errors.Is(err, store.ErrConflict) {
					return true, 0, nil // somebody was faster: look
				}
				return taken, 0, err
			}
			v.claims[w.claim] = claim{Node: k.o.Node.Name, Lease: s.lease}
			taken, more = true, true
		}
	}
	k.free = free
	return taken, next, nil
}

func (k *Keeper) isUnfit(name string, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return now.Before(k.unfit[name])
}

// take claims something that nobody holds.
func (k *Keeper) take(s *session, name string) error {
	table := store.NewTable[claim](k.o.Cluster, claimsPrefix)
	put, err := table.Put(name, claim{Node: k.o.Node.Name, Lease: s.lease})
	if err != nil {
		return err
	}
	if _, err = k.o.Cluster.TxnUnder(s.ctx, s.lease, []store.Check{table.Check(name, 0)}, []store.Op{put}); err != nil {
		return fmt.Errorf("take %s: %w", name, err)
	}
	return nil
}

// retain goes on with a claim of this node, or gives it up when it should not
// be this node's for some time, or at once when the node is unfit for it.
func (k *Keeper) retain(s *session, name string, should bool, now time.Time) (next time.Duration, err error) {
	k.mu.Lock()
	unfit, released := now.Before(k.unfit[name]), k.released[name]
	k.mu.Unlock()
	if should && !unfit && !released {
		delete(k.unwanted, name)
		return refresh, nil
	}
	if _, known := k.unwanted[name]; !known {
		k.unwanted[name] = now
	}
	if wait := k.unwanted[name].Add(releaseDelay).Sub(now); wait > 0 && !unfit && !released {
		return wait, nil
	}
	delete(k.unwanted, name)
	k.mu.Lock()
	held, there := k.held[name]
	if there {
		k.released[name] = true
		delete(k.held, name)
		k.arm()
		k.publish()
		k.note(k.o.History.leave(name, s.left()))
		k.o.Logger.Info("given up", "claim", name)
	} else {
		held = k.view.claims[name] // an earlier attempt to delete it failed
	}
	k.mu.Unlock()
	k.setAddresses()
	k.o.Changed(true)
	table := store.NewTable[claim](k.o.Cluster, claimsPrefix)
	_, err = k.o.Cluster.Txn(s.ctx, []store.Check{table.Check(name, held.revision)}, []store.Op{table.Delete(name)})
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return rejoinPause, fmt.Errorf("give up %s: %w", name, err)
	}
	return 0, nil
}

// arm makes the guard of what is held. The caller holds mu.
func (k *Keeper) arm() {
	g := &guard{session: k.session, floating: map[netip.Addr]bool{}}
	for a, s := range k.sites {
		_, held := k.held[addressClaim(a)]
		g.floating[s.host] = held
	}
	k.guard.Store(g)
}

// publish makes the division of what is held. It tells whether it is another
// one than before. The caller holds mu.
func (k *Keeper) publish() bool {
	v := view{nodes: maps.Clone(k.view.nodes), claims: map[string]claim{}}
	if v.nodes == nil {
		v.nodes = map[string]control.Node{}
	}
	v.nodes[k.o.Node.Name] = k.node
	for name, c := range k.view.claims {
		if _, held := k.held[name]; held || c.Node != k.o.Node.Name {
			v.claims[name] = c
		}
	}
	d := v.division(k.o.Node.Name)
	if old := k.division.Load(); old != nil && old.Equal(d) {
		return false
	}
	k.division.Store(d)
	return true
}

// setAddresses gives the host the addresses that are held, until the deadline of
// the lease. What cannot be set is left to other nodes.
func (k *Keeper) setAddresses() {
	k.addresses.Lock()
	defer k.addresses.Unlock()
	k.mu.Lock()
	var want []FloatingAddress
	claims := map[netip.Addr]string{}
	s := k.session
	lifetime := k.o.TTL
	if s.valid() {
		lifetime = s.left() // a renewal may have taken long to be answered
		for a, at := range k.sites {
			if _, held := k.held[addressClaim(a)]; held && at.device != "" {
				want = append(want, FloatingAddress{at.device, at.host})
				claims[at.host] = addressClaim(a)
			}
		}
	}
	k.mu.Unlock()
	slices.SortFunc(want, func(a, b FloatingAddress) int { return a.Address.Compare(b.Address) })
	failed := k.o.SetFloating(want, lifetime)
	for host, err := range failed {
		k.o.Logger.Error("address was not set", "address", host, "error", err)
		if name := claims[host]; name != "" {
			k.disqualify(name)
			k.wake()
		}
	}
}

// disqualify leaves an address to other nodes for some time, and with it the
// active-standby gateway that it belongs to.
func (k *Keeper) disqualify(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	until := time.Now().Add(unfitFor)
	k.unfit[name] = until
	for i := range k.view.objects.Gateways {
		g := &k.view.objects.Gateways[i]
		if name == addressClaim(g.Address(control.Slot1)) || name == addressClaim(g.Address(control.Slot2)) {
			k.unfit[activeClaim(g.ID)] = until
		}
	}
}

// note logs that the history could not be written.
func (k *Keeper) note(err error) {
	if err != nil {
		k.o.Logger.Error("history was not written", "error", err)
	}
}

// lose ends a session: from here on nothing that floats is held. It tells
// whether it had not ended before.
func (k *Keeper) lose(s *session, why string) bool {
	s.end()
	k.mu.Lock()
	if k.session != s {
		k.mu.Unlock()
		return false
	}
	for name := range k.held {
		k.note(k.o.History.leave(name, s.left()))
	}
	if len(k.held) > 0 {
		k.o.Logger.Warn("everything is left", "why", why, "claims", slices.Sorted(maps.Keys(k.held)))
	}
	k.held, k.released, k.session, k.since = map[string]claim{}, map[string]bool{}, nil, time.Now()
	k.arm()
	k.publish()
	k.mu.Unlock()
	k.setAddresses()
	k.o.Changed(true)
	return true
}

// lapse ends a session whose deadline has passed.
func (k *Keeper) lapse(s *session) {
	if k.lose(s, "the lease was not renewed in time") {
		k.stats.lapses.Add(1)
	}
}

// leave gives the share up at the end.
func (k *Keeper) leave(ctx context.Context) {
	k.mu.Lock()
	s := k.session
	k.mu.Unlock()
	if s == nil {
		return
	}
	k.lose(s, "the node stops")
	ctx, cancel := context.WithTimeout(ctx, leaveMax)
	defer cancel()
	if err := k.o.Cluster.Revoke(ctx, s.lease); err != nil {
		k.o.Logger.Warn("others have to wait until the lease lapses", "error", err)
	}
}
