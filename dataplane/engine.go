package dataplane

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ipsec"
)

var errClosed = errors.New("data plane is closed")

// Options of an Engine.
type Options struct {
	// Mux has the outer sockets. The Engine takes its ESP packets; it neither
	// opens nor closes it.
	Mux *udp.Mux
	// Logger is for changes and faults, never for packets. nil: no log.
	Logger *slog.Logger
	// Name of an interface for the SAs and policies without an IfID. Empty:
	// there is none, and what such an SA receives is dropped.
	Name string
	// Queues of an interface, among which the kernel spreads flows, so that several
	// cores encrypt for one tunnel. Where there are many interfaces, those that come
	// late have one. Zero means one for each CPU, at most 4.
	Queues int
	// OuterMTU is an upper limit of outer packets, in octets. Zero means the
	// path MTU that the kernel knows.
	OuterMTU int
	// OuterDF is what becomes of the DF bit of IPv4 outer packets.
	OuterDF OuterDF
	// Stray is told of packets whose SA is not here, with the outer addresses and
	// UDP ports, and reports whether another data plane has it: then the packet
	// counts as dropped nowhere here. nil: there is no other.
	Stray func(id ipsec.SAID, local, remote netip.AddrPort) bool
	// OpenTUN makes an interface; nil means tun.Open.
	OpenTUN func(name string, queues, mtu int) (tun.Device, error)
}

// OuterDF says which IPv4 outer packets carry the DF bit, so that routers must
// not fragment them (RFC 4301, section 8.1). A packet that is known not to fit
// the path is fragmented, or its sender told, with each.
type OuterDF uint8

const (
	// CopyDF is for those whose inner packet must not be fragmented; an IPv6 one
	// never may.
	CopyDF OuterDF = iota
	SetDF
	ClearDF
)

// Engine is the data plane. It implements ipsec.Backend; its methods may be
// called by several goroutines.
type Engine struct {
	options Options
	log     *slog.Logger
	events  *ipsec.EventQueue

	// What packets see.
	inbound   index[association]
	larvals   index[larval]
	deviceMap atomic.Pointer[map[uint32]*device]
	senders   sync.Pool    // of *outbound
	held      atomic.Int64 // octets that wait for larval SAs

	countersMu sync.Mutex
	counters   map[*counters]struct{} // guarded by countersMu
	retired    counters               // of goroutines that ended

	mu       sync.Mutex
	closed   bool                        // guarded by mu, as all below
	sas      map[ipsec.SAID]*association // both directions
	requests map[uint32]*request         // by ReqID
	tables   map[uint32]*table           // by IfID
	devices  map[uint32]*device          // by IfID; 0 is that of Options.Name
	// extraQueues is how many the devices have beyond one for each.
	extraQueues int
	limits      map[string]*limit     // by name
	limited     map[netip.Addr]*limit // by local address
}

// New returns an Engine that passes packets from the first SA on. Run keeps its time; Close ends it.
func New(o Options) (*Engine, error) {
	if o.Mux == nil {
		return nil, errors.New("data plane: no Mux")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Queues < 1 {
		o.Queues = min(runtime.GOMAXPROCS(0), 4)
	}
	if o.OpenTUN == nil {
		o.OpenTUN = tun.Open
	}
	e := &Engine{
		options: o, log: o.Logger, events: ipsec.NewEventQueue(),
		counters: map[*counters]struct{}{},
		sas:      map[ipsec.SAID]*association{},
		requests: map[uint32]*request{},
		tables:   map[uint32]*table{},
	}
	e.senders.New = func() any { return newOutbound(e) }
	e.mu.Lock()
	defer e.mu.Unlock()
	devices := map[uint32]*device{}
	if o.Name != "" {
		shared, err := e.openDevice(ipsec.Interface{Name: o.Name})
		if err != nil {
			return nil, err
		}
		devices[0] = shared
	}
	e.publishDevices(devices)
	o.Mux.OnESP(e.newInbound)
	return e, nil
}

const (
	tickEvery    = time.Second
	pathMTUEvery = 30 * time.Second
)

// Run watches lifetimes and path MTUs until the context ends, then closes the
// Engine. Packets pass without it.
func (e *Engine) Run(ctx context.Context) error {
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return e.Close()
		case <-ticker.C:
			e.tick(time.Now())
		}
	}
}

// tick does what is due.
func (e *Engine) tick(now time.Time) {
	var hard []*association
	e.mu.Lock()
	moved := map[uint32]bool{}
	for _, a := range e.sas {
		s := a.query(now)
		age := now.Sub(a.added)
		e.checkSoft(a, &s, age)
		if !a.expired.Load() && a.checkHard(&s, age) {
			hard = append(hard, a)
		}
		if a.out != nil && (a.staleMTU.Load() || now.Sub(a.mtuChecked) >= pathMTUEvery) {
			before := a.maxInner.Load()
			e.measurePath(a)
			if a.maxInner.Load() != before {
				moved[a.record.IfID] = true
			}
		}
	}
	for ifID := range moved {
		e.fitMTU(ifID)
	}
	if !e.closed {
		e.reopenBroken()
	}
	e.larvals.all(func(id ipsec.SAID, l *larval) {
		if now.Sub(l.since) >= reservation {
			e.release(id, l)
		}
	})
	e.mu.Unlock()
	for _, a := range hard {
		e.expire(a)
	}
	e.events.Push()
}

// Close removes the interfaces, wipes all SAs and stops all goroutines but
// those of the Mux. Closing again does nothing.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	var errs []error
	for _, d := range e.devices {
		errs = append(errs, e.closeDevice(d))
	}
	e.publishDevices(map[uint32]*device{})
	for _, a := range e.sas {
		e.remove(a)
	}
	e.larvals.all(e.release)
	return errors.Join(errs...)
}

// Events implements ipsec.Backend. The channel is never closed.
func (e *Engine) Events() <-chan ipsec.Event { return e.events.Channel() }

// List implements ipsec.Backend.
func (e *Engine) List() (ipsec.Inventory, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var inv ipsec.Inventory
	for _, a := range e.sas {
		inv.SAs = append(inv.SAs, a.snapshot())
	}
	for _, t := range e.tables {
		for _, p := range slices.Concat(t.in, *t.out.Load()) {
			inv.Policies = append(inv.Policies, p.Policy)
		}
	}
	for id, d := range e.devices {
		if id != 0 {
			inv.Interfaces = append(inv.Interfaces, d.Interface)
		}
	}
	slices.SortFunc(inv.SAs, func(a, b ipsec.SA) int {
		return cmp.Or(a.Dst.Compare(b.Dst), cmp.Compare(a.SPI, b.SPI))
	})
	slices.SortFunc(inv.Policies, func(a, b ipsec.Policy) int {
		return cmp.Or(cmp.Compare(a.IfID, b.IfID), cmp.Compare(a.Direction, b.Direction),
			cmp.Compare(a.Priority, b.Priority), ipsec.CompareSelectors(a.Remote, b.Remote),
			ipsec.CompareSelectors(a.Local, b.Local))
	})
	slices.SortFunc(inv.Interfaces, func(a, b ipsec.Interface) int { return cmp.Compare(a.IfID, b.IfID) })
	return inv, nil
}

// snapshot returns the SA's record, which shares nothing. The caller holds
// Engine.mu.
func (a *association) snapshot() ipsec.SA {
	sa := a.record
	sa.Local, sa.Remote = slices.Clone(sa.Local), slices.Clone(sa.Remote)
	return sa
}

// SAStatus is one SA with its counters.
type SAStatus struct {
	SA       ipsec.SA // without keys
	State    ipsec.SAState
	Added    time.Time
	MaxInner int  // outbound: the largest inner packet, in octets
	Expired  bool // a hard limit is reached
}

// InterfaceStatus is one TUN interface.
type InterfaceStatus struct {
	ipsec.Interface      // MTU as it is, never zero
	Broken          bool // removed by somebody else; Run makes it again
}

// Snapshot is the state of an Engine at one time.
type Snapshot struct {
	SAs        []SAStatus
	Policies   int
	Interfaces []InterfaceStatus // that without an IfID first
	Drops      map[string]uint64
}

// Snapshot returns SAs, interfaces and counters for status and metrics.
func (e *Engine) Snapshot() Snapshot {
	s := Snapshot{Drops: e.Drops()}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for _, t := range e.tables {
		s.Policies += len(t.in) + len(*t.out.Load())
	}
	for _, a := range e.sas {
		s.SAs = append(s.SAs, SAStatus{
			SA: a.snapshot(), State: a.query(now), Added: a.added,
			MaxInner: int(a.maxInner.Load()), Expired: a.expired.Load(),
		})
	}
	for _, d := range e.devices {
		i := InterfaceStatus{Interface: d.Interface, Broken: d.broken.Load()}
		i.MTU = int(d.mtu.Load())
		s.Interfaces = append(s.Interfaces, i)
	}
	slices.SortFunc(s.SAs, func(a, b SAStatus) int {
		return cmp.Or(a.SA.Dst.Compare(b.SA.Dst), cmp.Compare(a.SA.SPI, b.SA.SPI))
	})
	slices.SortFunc(s.Interfaces, func(a, b InterfaceStatus) int { return cmp.Compare(a.IfID, b.IfID) })
	return s
}
