// Package reconcile makes what users asked for true: it follows the objects of
// the control plane, turns them into whole configurations of the engines,
// applies those, and reports back what the engines see.
//
//	objects ──▶ pass ──▶ sockets, devices, routes, key exchange
//	   ▲                                        │
//	   └── queues ◀── status, log ◀── observe ◀── events, snapshot
//
// It is the only package that speaks both the words of the API and those of
// the engines. A pass always starts from all objects and applies everything;
// the engines leave alone what is unchanged. An object that cannot be applied
// gets a status that says why, and does not keep back the others: each gateway
// is tried again by a backoff of its own, and writes to the store, which may
// take their time, wait in a queue of its own.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/nqa"
	"github.com/vpngw/vpngw/control/store"
	"github.com/vpngw/vpngw/dataplane/route"
	"github.com/vpngw/vpngw/ike"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/sslvpn"
)

// KeyExchange is the IKE server.
type KeyExchange interface {
	Apply([]sa.Connection) error
	Snapshot() []ike.ConnectionStatus
	Events() <-chan sa.Event
	Reset(connection string) error
	EffectOf(next sa.Connection) (effect sa.Effect, up, known bool)
}

// Devices makes the interfaces of tunnels; it is part of ipsec.Backend.
type Devices interface {
	SetInterfaces([]ipsec.Interface) error
}

// Policer limits what the tunnels of local addresses carry.
type Policer interface {
	SetBandwidths([]ipsec.Bandwidth) error
}

// Router sets addresses, routes and rules of this node.
type Router interface {
	Set(route.State) error
	// HostNetworks returns what the host has by others.
	HostNetworks() ([]route.HostNetwork, error)
}

// Sockets receives IKE and ESP on addresses of this node.
type Sockets interface {
	SetAddresses([]netip.Addr) error
}

// Fleet tells which part of the gateways is this node's.
type Fleet interface {
	// Division returns the present one.
	Division() *control.Division
	// Applied is called when the engines have nothing but what a division
	// gives to this node.
	Applied(*control.Division)
}

// Options are what a Reconciler works with.
type Options struct {
	Objects     *control.Objects
	KeyExchange KeyExchange
	Devices     Devices
	Policer     Policer
	Router      Router
	Sockets     Sockets
	Prober      Prober
	Clients     ClientServer
	ClientLog   ClientLog
	History     History
	Inventory   *control.Inventory
	Fleet       Fleet // nil: this node is alone
	// Farewell tells all peers and clients that it is over, and returns when
	// they have answered or had time to.
	Farewell func()
	// HostAddresses returns the addresses of this node.
	HostAddresses func() (map[netip.Addr]bool, error)
	// Version is that of this daemon.
	Version string
	// ForceEncap asks for UDP encapsulation of ESP on every connection that the
	// data plane in user space serves.
	ForceEncap bool
	// Plane picks the data plane of a connection by its proposal for ESP, its local
	// address and whether the bandwidth of that address is limited, and says why.
	// nil: user space serves all.
	Plane func(esp ipsec.Proposal, local netip.Addr, limited bool) (plane ipsec.Plane, why string, err error)
	// GM is what this node is told of peers of gateways of flavor GM, by their
	// address or name; under the empty one what holds for the others.
	GM map[string]GMOptions
	// MOBIKE lets every peer of IKEv2 change its address, not only those that have
	// no fixed one, and us.
	MOBIKE bool
	// RedirectTo are the gateways that peers of IKEv2 may send this one to when it
	// initiates (RFC 5685); none: it does not say that it can be sent.
	RedirectTo []netip.Prefix
	// Childless has IKE SAs of IKEv2 that we begin set up without a first CHILD_SA.
	Childless bool
	// Lifetimes limits those of all SAs.
	Lifetimes LifetimeLimits
	PID       int // for log lines
	Logger    *slog.Logger
}

// Rhythm of the loop.
const (
	coalesce     = 20 * time.Millisecond  // changes that come together are one pass
	observeDelay = 100 * time.Millisecond // likewise events
	linger       = time.Second            // what a removed tunnel keeps its device, for its peer's answer
	storeDelay   = time.Second            // so far apart logs are stored, at the least
	fullPass     = 3 * time.Minute
	upgradePass  = time.Second // while a gateway is moved to another version
	retryMin     = time.Second
	retryMax     = time.Minute
	takeDownMax  = 5 * time.Second // for writing to the store
)

// Reconciler is the loop between the control plane and the engines.
type Reconciler struct {
	Options
	inventory atomic.Pointer[control.Inventory]
	wake      chan struct{}                      // holds one
	awaited   chan struct{}                      // likewise: somebody waits for the engine of clients
	interrupt atomic.Pointer[context.CancelFunc] // of the work under way
	ready     atomic.Bool
	served    atomic.Pointer[map[string]string] // server by client-to-cloud gateway, of those that run
	progress  progress
	counts    counts
	lookout   lookout

	// Below is owned by the goroutine in Run.
	translator    *translator
	routing       *routing
	clientDevices *numbers
	tunnels       map[string]*tunnel   // what the engines have, by connection
	leaving       map[string]time.Time // those of them that are going, since when
	departed      bool                 // one has gone since the last pass
	closed        []*tunnel            // wanted, and without a device for now
	networks      []clientNetwork      // of the clients, as applied last
	clientConfig  sslvpn.Config        // likewise
	logPlaces     map[string]logPlace  // by server
	routes        route.State          // as set last
	targets       []nqa.Target         // as applied last
	subjects      map[string]*live     // every connection, by id
	retries       retries              // what passes could not apply
	queues        *queues              // what is to be written
	told          map[string]any       // statuses of gateways and servers, as given to the queues last, by id
	upgrading     bool                 // some gateway is moved to another version
	recorded      bool                 // some event, since work was made due for it
	logsStored    time.Time
	division      *control.Division // of the last pass
	snapshot      *control.Snapshot // that was read last
}

// counts are the figures of Stats.
type counts struct {
	mu sync.Mutex
	Stats
}

// Stats are figures about the loop, for metrics.
type Stats struct {
	Passes       uint64
	Failures     uint64 // of objects and engines, over all passes, and of writes
	Retrying     int    // gateways that the last pass could not apply
	Waiting      int    // gateways of which something is to be written
	LastDuration time.Duration
	LastPass     time.Time
}

// New returns a Reconciler that does nothing before Run.
func New(o Options) *Reconciler {
	r := &Reconciler{
		Options:    o,
		wake:       make(chan struct{}, 1),
		awaited:    make(chan struct{}, 1),
		translator: o.newTranslator(),
		routing:    newRouting(),
		tunnels:    make(map[string]*tunnel),
		leaving:    make(map[string]time.Time),
		subjects:   make(map[string]*live),
		retries:    make(retries),

		clientDevices: newNumbers(firstClientDevice, clientDeviceCount),
	}
	r.queues = newQueues(o.Objects, o.Logger, func() { r.count(func(s *Stats) { s.Failures++ }) })
	r.inventory.Store(o.Inventory)
	return r
}

// newTranslator returns a translator as the options have it.
func (o *Options) newTranslator() *translator {
	t := newTranslator(o.ForceEncap, o.Lifetimes)
	t.plane = o.Plane
	t.gm, t.mobike, t.childless, t.redirectTo = o.GM, o.MOBIKE, o.Childless, o.RedirectTo
	return t
}

// SetInventory replaces the inventory and starts a pass.
func (r *Reconciler) SetInventory(inv *control.Inventory) {
	r.inventory.Store(inv)
	r.rouse()
}

// DivisionChanged starts a pass. If this node may have lost something, it
// interrupts what waits for the store. It does not block.
func (r *Reconciler) DivisionChanged(lost bool) {
	r.rouse()
	if stop := r.interrupt.Load(); lost && stop != nil {
		(*stop)()
	}
}

// rouse starts a pass. It does not block.
func (r *Reconciler) rouse() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Ready tells whether a pass over all objects has been made.
func (r *Reconciler) Ready() bool { return r.ready.Load() }

// Stats returns the figures so far.
func (r *Reconciler) Stats() Stats {
	waiting := r.queues.waiting()
	r.counts.mu.Lock()
	defer r.counts.mu.Unlock()
	r.counts.Waiting = waiting
	return r.counts.Stats
}

// count changes the figures.
func (r *Reconciler) count(change func(*Stats)) {
	r.counts.mu.Lock()
	defer r.counts.mu.Unlock()
	change(&r.counts.Stats)
}

// Run works until ctx ends. Then it takes everything down: peers are told,
// and devices, addresses, routes and rules are removed.
func (r *Reconciler) Run(ctx context.Context) error {
	due := newSchedule()
	due.at(duePass, time.Now())
	var changes <-chan []control.Change
	for {
		select {
		case <-ctx.Done():
			r.progress.end()
			return r.takeDown(context.WithoutCancel(ctx))
		case batch, open := <-changes:
			if !open {
				changes = nil // fell behind: the next pass watches anew
			}
			due.at(workFor(batch), time.Now().Add(coalesce))
		case <-r.awaited:
			due.at(dueRoster, time.Now())
		case <-r.wake:
			due.at(duePass, time.Now())
		case e := <-r.KeyExchange.Events():
			r.record(time.Now(), e)
		case e := <-r.Clients.Events():
			r.recordClient(e)
		case <-r.Prober.Changed():
			due.at(dueObserve, time.Now())
			due.at(dueStore, later(time.Now(), r.logsStored.Add(storeDelay)))
		case <-due.timer.C:
		}
		now := time.Now()
		work, done := context.WithCancel(ctx)
		r.interrupt.Store(&done)
		if due.take(dueRoster, now) && !r.applyRoster(work) {
			due.at(duePass, now)
		}
		if due.take(duePass, now) {
			revision, failures := r.pass(work)
			if revision >= 0 && changes == nil {
				// What could not be applied is no reason to miss what changes.
				watch, err := r.Objects.Watch(ctx, revision)
				switch {
				case errors.Is(err, store.ErrCompacted):
					due.at(duePass, now) // changed under our feet
				case err != nil:
					failures[""] = errors.Join(failures[""], err)
				default:
					changes = watch
				}
			}
			if work.Err() == nil {
				r.retries.note(ctx, now, failures, r.Logger)
				due.at(duePass, r.retries.next(now.Add(fullPass)))
				due.at(dueObserve, now)
				if r.upgrading {
					due.at(duePass, now.Add(upgradePass))
				}
			} else {
				due.at(duePass, now) // interrupted
			}
		}
		if due.take(dueObserve, now) {
			if err := r.observe(); err != nil {
				r.Logger.Warn("not everything that was seen could be acted on", "error", err)
				due.at(duePass, time.Now().Add(retryMin))
			}
			if len(r.leaving) > 0 {
				due.at(dueObserve, time.Now().Add(linger))
			}
			if r.departed {
				r.departed = false
				due.at(duePass, time.Now()) // finalises
			}
		}
		if due.take(dueStore, now) {
			r.storeLogs()
		}
		done()
		if r.recorded {
			r.recorded = false
			soon := time.Now().Add(observeDelay)
			due.at(dueObserve, soon)
			due.at(dueStore, later(soon, r.logsStored.Add(storeDelay)))
		}
		due.arm()
	}
}

// takeDown leaves the node as it was before Run.
func (r *Reconciler) takeDown(ctx context.Context) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.Farewell()
	}()
	for waiting := true; waiting; {
		select {
		case e := <-r.KeyExchange.Events():
			r.record(time.Now(), e)
		case e := <-r.Clients.Events():
			r.recordClient(e)
		case <-stopped:
			waiting = false
		}
	}
	r.drain()
	err := errors.Join(r.Prober.Apply(nil), r.Router.Set(route.State{}), r.Devices.SetInterfaces(nil), r.Sockets.SetAddresses(nil))
	if err != nil {
		err = fmt.Errorf("the node was not left as it was: %w", err)
	}
	r.storeLogs()
	for _, l := range r.subjects {
		status := l.stored
		status.State, status.Message, status.Diagnosis = control.ConnectionUnknown, "the node that serves it is stopped", nil
		status.Routes = nil
		r.report(l, time.Now(), status)
	}
	ctx, cancel := context.WithTimeout(ctx, takeDownMax)
	defer cancel()
	if storeErr := r.queues.close(ctx); storeErr != nil {
		r.Logger.Warn("not every status says that the node is stopped", "error", storeErr)
	}
	return err
}

// Work that falls due.
const (
	dueRoster = iota
	duePass
	dueObserve
	dueStore
	dueCount
)

// schedule is one timer for several pieces of work.
type schedule struct {
	timer *time.Timer
	next  [dueCount]time.Time // zero: not due
}

func newSchedule() *schedule { return &schedule{timer: time.NewTimer(0)} }

// at makes work due at t, if it is not earlier.
func (s *schedule) at(work int, t time.Time) {
	if s.next[work].IsZero() || t.Before(s.next[work]) {
		s.next[work] = t
	}
}

// take tells whether work is due, and clears it.
func (s *schedule) take(work int, now time.Time) bool {
	if s.next[work].IsZero() || now.Before(s.next[work]) {
		return false
	}
	s.next[work] = time.Time{}
	return true
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// arm sets the timer to the earliest work.
func (s *schedule) arm() {
	var first time.Time
	for _, t := range s.next {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	s.timer.Stop()
	if !first.IsZero() {
		s.timer.Reset(time.Until(first))
	}
}
