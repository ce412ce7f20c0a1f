package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/esp"
)

// Limits of what is taken for a path MTU, and what is assumed without one, in
// octets.
const (
	defaultOuterMTU = 1500
	minOuterMTU     = 576
	minInnerMTU     = 1280 // IPv6 needs it; longer packets of an SA are answered or cut
	maxInnerMTU     = 9000
)

// maxNameLen is the octets of an interface name (IFNAMSIZ without its end).
const maxNameLen = 15

// maxExtraQueues is how many queues all interfaces may have beyond one for each. The
// first interfaces get them: where there are many, the cores share out tunnels.
const maxExtraQueues = 64

// Limits of the ICMP errors on one interface.
const answersPerSecond, answersAtOnce = 100, 50

// device is one TUN interface with its goroutines.
type device struct {
	ipsec.Interface
	dev    tun.Device
	table  *table
	broken atomic.Bool // its queues gave up
	done   sync.WaitGroup

	writers sync.Pool // of tun.Writer, one for each goroutine at a time

	answers    sync.Mutex
	answering  tun.Writer    // guarded by answers
	answerRate *rate.Limiter // of ICMP errors

	mtu atomic.Int32 // what the interface has, in octets

	extraQueues int // beyond the first; guarded by Engine.mu

	lost    uint64 // of Overruns, the most that was seen; guarded by Engine.countersMu
	retired bool   // lost is in Engine.retired; guarded by Engine.countersMu
}

// overruns returns the packets that the interface's queue had no room for. The
// caller holds Engine.countersMu.
func (d *device) overruns() uint64 {
	if !d.retired {
		d.lost = max(d.lost, d.dev.Overruns())
	}
	return d.lost
}

// answer writes one packet of our own to the interface.
func (d *device) answer(packet []byte) error {
	d.answers.Lock()
	defer d.answers.Unlock()
	if d.answering == nil {
		d.answering = d.dev.NewWriter()
	}
	return d.answering.Write(0, [][]byte{make([]byte, tun.HeaderLen), packet})
}

// openDevice makes an interface and starts its goroutines. The caller holds mu.
func (e *Engine) openDevice(i ipsec.Interface) (*device, error) {
	mtu := i.MTU
	if mtu == 0 {
		mtu = e.innerMTU(i.IfID)
	}
	extra := min(e.options.Queues-1, maxExtraQueues-e.extraQueues)
	dev, err := e.options.OpenTUN(i.Name, 1+extra, mtu)
	if err != nil {
		return nil, err
	}
	e.extraQueues += extra
	d := &device{
		Interface: i, dev: dev, table: e.tableOf(i.IfID), extraQueues: extra,
		answerRate: rate.NewLimiter(answersPerSecond, answersAtOnce),
	}
	d.mtu.Store(int32(mtu))
	d.writers.New = func() any { return dev.NewWriter() }
	for _, q := range dev.Queues() {
		d.done.Go(func() { e.runQueue(d, q) })
	}
	return d, nil
}

// closeDevice ends an interface and its goroutines. The caller holds mu.
func (e *Engine) closeDevice(d *device) error {
	e.extraQueues -= d.extraQueues
	d.extraQueues = 0
	e.countersMu.Lock()
	if n := d.overruns(); !d.retired {
		e.retired.drops[reasonQueueFull].Add(n)
		d.retired = true
	}
	e.countersMu.Unlock()
	err := d.dev.Close()
	d.done.Wait()
	return err
}

// SetInterfaces implements ipsec.Backend.
func (e *Engine) SetInterfaces(want []ipsec.Interface) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return fmt.Errorf("set interfaces: %w", errClosed)
	}
	var errs []error
	devices := map[uint32]*device{}
	names := map[string]bool{}
	if shared := e.devices[0]; shared != nil {
		names[shared.Name] = true
	}
	var checked []ipsec.Interface
	for _, i := range want {
		switch {
		case i.Name == "" || len(i.Name) > maxNameLen:
			errs = append(errs, fmt.Errorf("interface %q: the name must have 1 to %d octets", i.Name, maxNameLen))
		case i.IfID == 0:
			errs = append(errs, fmt.Errorf("interface %s: IfID must not be zero", i.Name))
		case names[i.Name]:
			errs = append(errs, fmt.Errorf("interface %s: the name is used twice", i.Name))
		case slices.ContainsFunc(checked, func(o ipsec.Interface) bool { return o.IfID == i.IfID }):
			errs = append(errs, fmt.Errorf("interface %s: IfID %d is used twice", i.Name, i.IfID))
		default:
			names[i.Name] = true
			checked = append(checked, i)
		}
	}
	// Those that go make room for their names first.
	for id, d := range e.devices {
		keep := id == 0 || slices.ContainsFunc(checked, func(i ipsec.Interface) bool {
			return i.IfID == id && i.Name == d.Name
		})
		if keep {
			devices[id] = d
			continue
		}
		if err := e.closeDevice(d); err != nil {
			errs = append(errs, fmt.Errorf("interface %s: close: %w", d.Name, err))
		}
		e.log.Info("interface removed", "interface", d.Name, "if_id", id)
	}
	for _, i := range checked {
		d := devices[i.IfID]
		if d == nil {
			d, err := e.openDevice(i)
			if err != nil {
				errs = append(errs, fmt.Errorf("interface %s: %w", i.Name, err))
				continue
			}
			devices[i.IfID] = d
			e.log.Info("interface made", "interface", i.Name, "if_id", i.IfID, "mtu", d.mtu.Load())
			continue
		}
		d.MTU = i.MTU
	}
	e.publishDevices(devices)
	e.reopenBroken()
	for ifID := range e.tables {
		e.releaseTable(ifID)
	}
	for _, i := range checked {
		e.fitMTU(i.IfID)
	}
	return errors.Join(errs...)
}

// reopenBroken makes the interfaces that somebody else removed again. The
// caller holds mu.
func (e *Engine) reopenBroken() {
	for id, d := range e.devices {
		if !d.broken.Load() {
			continue
		}
		// What is left of it is of no use: an error would say no more.
		_ = e.closeDevice(d)
		again, err := e.openDevice(d.Interface)
		if err != nil {
			e.log.Warn("interface not made again", "interface", d.Name, "error", err)
			continue
		}
		e.log.Info("interface made again", "interface", d.Name, "if_id", id)
		devices := maps.Clone(e.devices)
		devices[id] = again
		e.publishDevices(devices)
	}
}

// publishDevices replaces the interfaces. The caller holds mu.
func (e *Engine) publishDevices(devices map[uint32]*device) {
	e.devices = devices
	e.deviceMap.Store(&devices)
}

// device finds an interface without a lock.
func (e *Engine) device(ifID uint32) *device { return (*e.deviceMap.Load())[ifID] }

// innerMTU returns the MTU of an interface that is given none: what the outer
// path of each of its outbound SAs takes, and before there is one, what it
// takes with the largest overhead. The caller holds mu.
func (e *Engine) innerMTU(ifID uint32) int {
	smallest := 0
	for _, a := range e.sas {
		if a.out == nil || a.record.IfID != ifID || a.expired.Load() {
			continue
		}
		if n := int(a.maxInner.Load()); smallest == 0 || n < smallest {
			smallest = n
		}
	}
	if smallest == 0 {
		const outerHeaders = 40 + 8 // IPv6 and UDP
		smallest = cmp.Or(e.options.OuterMTU, defaultOuterMTU) - outerHeaders - esp.MaxOverhead
	}
	return min(max(smallest, minInnerMTU), maxInnerMTU)
}

// fitMTU gives an interface the MTU it should have. The caller holds mu.
func (e *Engine) fitMTU(ifID uint32) {
	d := e.devices[ifID]
	if d == nil {
		return
	}
	mtu := d.MTU
	if mtu == 0 {
		mtu = e.innerMTU(ifID)
	}
	if mtu == int(d.mtu.Load()) {
		return
	}
	if err := d.dev.SetMTU(mtu); err != nil {
		e.log.Warn("MTU not set", "interface", d.Name, "mtu", mtu, "error", err)
		return
	}
	e.log.Debug("MTU set", "interface", d.Name, "mtu", mtu)
	d.mtu.Store(int32(mtu))
}

// measurePath sets the largest inner packet of an outbound SA from its path and
// real overhead. The caller holds mu.
func (e *Engine) measurePath(a *association) {
	path := a.path.Load()
	outer, err := e.options.Mux.PathMTU(path.Local.Addr(), path.Remote.Addr())
	if err != nil {
		e.log.Debug("path MTU not known", "sa", a.id(), "error", err)
		outer = cmp.Or(e.options.OuterMTU, defaultOuterMTU)
	}
	if limit := e.options.OuterMTU; limit != 0 {
		outer = min(outer, limit)
	}
	outer = max(outer, minOuterMTU)
	payload := min(outer-path.HeaderLen(), udp.MaxOctets)
	a.maxInner.Store(int32(a.out.MaxPayload(payload)))
	a.staleMTU.Store(false)
	a.mtuChecked = time.Now()
}
