// Package planes makes one ipsec.Backend of two: the kernel's data plane and the
// one in user space. Each tunnel is served by the one that its ipsec.Interface
// names, and all SAs and policies follow the IfID.
//
// Both receive on the same addresses. ESP as IP protocol 50 the kernel takes by
// its SPIs, and gives a copy to the raw sockets of user space, which are open only
// while some tunnel is served there. ESP in UDP the kernel takes from sockets with
// a socket option, which then never show it to user space: so the peer of each
// inbound SA in the kernel gets a connected socket with that option, and the
// sockets of all other peers have it not.
//
// A peer behind a NAT that gives it another port is not seen by the kernel, since
// its packets reach the sockets without the option. Stray takes care of that: the
// new path gets a socket, too, and when the kernel has authenticated a packet there
// it reports the move, as user space does.
package planes

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/vpngw/vpngw/ipsec"
)

// Sockets are the outer sockets that both data planes share: udp.Mux.
type Sockets interface {
	// Decapsulate has the kernel take the ESP in UDP of one peer, or not.
	Decapsulate(local, remote netip.AddrPort, on bool) error
	// SetRawESP opens or closes the raw sockets of user space.
	SetRawESP(on bool) error
}

// Keeper is a data plane that can keep what comes by an SPI until its SA is there.
// The kernel's is one.
type Keeper interface {
	// Hold keeps the packets of an SPI until its AddSA, Release or some seconds later.
	Hold(id ipsec.SAID)
	Release(id ipsec.SAID)
}

// Policer is a data plane that limits what its tunnels carry. Both are.
type Policer interface {
	SetBandwidths([]ipsec.Bandwidth) error
}

// Backend is both data planes as one. Its methods may be called by several
// goroutines.
type Backend struct {
	kernel, userspace ipsec.Backend
	keeper            Keeper // the kernel's data plane; nil: it cannot
	sockets           Sockets
	log               *slog.Logger
	events            *ipsec.EventQueue

	mu       sync.RWMutex
	devices  map[uint32]ipsec.Interface // by IfID
	sas      map[ipsec.SAID]*association
	policies map[ipsec.PolicyID]ipsec.Plane
	paths    map[path]int // connected sockets, by how many SAs use them
}

// association is where an SA is installed.
type association struct {
	plane     ipsec.Plane
	direction ipsec.Direction
	path      path      // of an inbound SA in UDP
	stray     path      // where else its packets have come from
	strayed   time.Time // when they last did
}

// path is both ends of ESP in UDP.
type path struct{ local, remote netip.AddrPort }

// strayLife is how long a path that only a stray packet has shown gets a socket,
// and strayPause the least time between two of one SA: anybody can send such a
// packet who knows the SPI.
const (
	strayLife  = 10 * time.Second
	strayPause = time.Second
)

// New joins two data planes. What the kernel has from an earlier process is taken
// over.
func New(kernel, userspace ipsec.Backend, sockets Sockets, log *slog.Logger) (*Backend, error) {
	b := &Backend{
		kernel: kernel, userspace: userspace, sockets: sockets, log: log, events: ipsec.NewEventQueue(),
		devices: map[uint32]ipsec.Interface{}, sas: map[ipsec.SAID]*association{},
		policies: map[ipsec.PolicyID]ipsec.Plane{}, paths: map[path]int{},
	}
	b.keeper, _ = kernel.(Keeper)
	left, err := kernel.List()
	if err != nil {
		return nil, err
	}
	errs := []error{sockets.SetRawESP(false)}
	for _, i := range left.Interfaces {
		i.Plane = ipsec.PlaneKernel
		b.devices[i.IfID] = i
	}
	for _, sa := range left.SAs {
		a := &association{plane: ipsec.PlaneKernel, direction: sa.Direction, path: pathOf(&sa)}
		errs = append(errs, b.enter(a.plane, a.path))
		b.sas[sa.ID()] = a
	}
	return b, errors.Join(errs...)
}

// pathOf returns the path of an inbound SA in UDP.
func pathOf(sa *ipsec.SA) path {
	if sa.Direction != ipsec.In || !sa.Encap {
		return path{}
	}
	return path{netip.AddrPortFrom(sa.Dst, sa.DstPort), netip.AddrPortFrom(sa.Src, sa.SrcPort)}
}

// use opens the socket of a path for one more SA. The caller holds mu.
func (b *Backend) use(p path) error {
	if p == (path{}) {
		return nil
	}
	if b.paths[p] == 0 {
		if err := b.sockets.Decapsulate(p.local, p.remote, true); err != nil {
			return err
		}
	}
	b.paths[p]++
	return nil
}

// release is the reverse of use. The caller holds mu.
func (b *Backend) release(p path) {
	if b.paths[p] == 0 {
		return
	}
	if b.paths[p]--; b.paths[p] > 0 {
		return
	}
	delete(b.paths, p)
	if err := b.sockets.Decapsulate(p.local, p.remote, false); err != nil {
		b.log.Warn("socket of a peer not closed", "peer", p.remote.String(), "error", err)
	}
}

// enter makes a path receive for one more SA. In the kernel it needs a socket. In
// user space it must have none: one that only a stray packet has opened goes. The
// caller holds mu.
func (b *Backend) enter(p ipsec.Plane, at path) error {
	if p == ipsec.PlaneKernel {
		return b.use(at)
	}
	for _, a := range b.sas {
		if at != (path{}) && a.stray == at {
			b.release(a.stray)
			a.stray = path{}
		}
	}
	return nil
}

// leave is the reverse of enter. The caller holds mu.
func (b *Backend) leave(p ipsec.Plane, at path) {
	if p == ipsec.PlaneKernel {
		b.release(at)
	}
}

// inUserspace reports whether user space has an inbound SA of a path, whose packets
// a socket of the kernel's would keep from it. The caller holds mu.
func (b *Backend) inUserspace(at path) bool {
	for _, a := range b.sas {
		if a.plane == ipsec.PlaneUserspace && a.path == at {
			return true
		}
	}
	return false
}

func (b *Backend) of(p ipsec.Plane) ipsec.Backend {
	if p == ipsec.PlaneKernel {
		return b.kernel
	}
	return b.userspace
}

// Run passes on what both report, until the context ends.
func (b *Backend) Run(ctx context.Context) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-b.kernel.Events():
			b.events.Emit(e)
		case e := <-b.userspace.Events():
			b.events.Emit(e)
		case now := <-ticker.C:
			b.events.Push()
			b.forgetStrays(now)
		}
	}
}

// Events implements ipsec.Backend. There are some only while Run works.
func (b *Backend) Events() <-chan ipsec.Event { return b.events.Channel() }

// AllocSPI implements ipsec.Backend. Neither has an SA of ours with the SPI. While
// the kernel serves some tunnel, what comes by it is kept until AddSA says whether
// that is the one.
func (b *Backend) AllocSPI(local netip.Addr) (ipsec.SPI, error) {
	for {
		spi, err := b.userspace.AllocSPI(local)
		if err != nil {
			return 0, err
		}
		b.mu.RLock()
		id := ipsec.SAID{Dst: local.Unmap(), SPI: spi}
		taken := b.sas[id] != nil
		keep := b.keeper != nil && b.inKernel()
		b.mu.RUnlock()
		if !taken {
			if keep {
				b.keeper.Hold(id)
			}
			return spi, nil
		}
	}
}

// inKernel reports whether the kernel serves some tunnel. The caller holds mu.
func (b *Backend) inKernel() bool {
	for _, i := range b.devices {
		if i.Plane == ipsec.PlaneKernel {
			return true
		}
	}
	return false
}

// AddSA implements ipsec.Backend.
func (b *Backend) AddSA(sa ipsec.SA) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	sa.Src, sa.Dst = sa.Src.Unmap(), sa.Dst.Unmap()
	a := &association{plane: b.devices[sa.IfID].Plane, direction: sa.Direction}
	if b.sas[sa.ID()] != nil {
		return b.of(b.sas[sa.ID()].plane).AddSA(sa) // which says so
	}
	a.path = pathOf(&sa)
	if err := b.enter(a.plane, a.path); err != nil {
		return err
	}
	if err := b.of(a.plane).AddSA(sa); err != nil {
		b.leave(a.plane, a.path)
		return err
	}
	b.sas[sa.ID()] = a
	if b.keeper != nil && a.plane == ipsec.PlaneUserspace && sa.Direction == ipsec.In {
		b.keeper.Release(sa.ID())
	}
	return nil
}

// UpdateSA implements ipsec.Backend.
func (b *Backend) UpdateSA(id ipsec.SAID, to ipsec.SAUpdate) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.sas[id]
	if a == nil {
		return b.userspace.UpdateSA(id, to) // which says so
	}
	next := ipsec.SA{
		SPI: id.SPI, Direction: a.direction, Src: to.Src.Unmap(), Dst: to.Dst.Unmap(),
		Encap: to.Encap, SrcPort: to.SrcPort, DstPort: to.DstPort,
	}
	wanted := pathOf(&next)
	if err := b.enter(a.plane, wanted); err != nil {
		return err
	}
	if err := b.of(a.plane).UpdateSA(id, to); err != nil {
		b.leave(a.plane, wanted)
		return err
	}
	b.leave(a.plane, a.path)
	b.release(a.stray)
	a.path, a.stray = wanted, path{}
	delete(b.sas, id)
	b.sas[next.ID()] = a
	return nil
}

// DeleteSA implements ipsec.Backend.
func (b *Backend) DeleteSA(id ipsec.SAID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.sas[id]
	if a == nil {
		return b.userspace.DeleteSA(id) // which says so
	}
	if err := b.of(a.plane).DeleteSA(id); err != nil && !errors.Is(err, ipsec.ErrNotFound) {
		return err
	}
	b.forget(id, a)
	return nil
}

// forget drops what is known of an SA. The caller holds mu.
func (b *Backend) forget(id ipsec.SAID, a *association) {
	b.leave(a.plane, a.path)
	b.release(a.stray)
	delete(b.sas, id)
}

// QuerySA implements ipsec.Backend.
func (b *Backend) QuerySA(id ipsec.SAID) (ipsec.SAState, error) {
	plane := ipsec.PlaneUserspace
	b.mu.RLock()
	if a := b.sas[id]; a != nil {
		plane = a.plane
	}
	b.mu.RUnlock()
	return b.of(plane).QuerySA(id)
}

// AddPolicy implements ipsec.Backend.
func (b *Backend) AddPolicy(p ipsec.Policy) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	plane := b.devices[p.IfID].Plane
	if err := b.of(plane).AddPolicy(p); err != nil {
		return err
	}
	before, known := b.policies[p.PolicyID]
	b.policies[p.PolicyID] = plane
	if known && before != plane {
		return b.of(before).DeletePolicy(p.PolicyID)
	}
	return nil
}

// DeletePolicy implements ipsec.Backend.
func (b *Backend) DeletePolicy(id ipsec.PolicyID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.of(b.policies[id]).DeletePolicy(id)
	if err == nil || errors.Is(err, ipsec.ErrNotFound) {
		delete(b.policies, id)
	}
	return err
}

// SetInterfaces implements ipsec.Backend. A tunnel that changes over to the other
// data plane gets its device there when it is gone here; what is negotiated from
// then on is served there.
func (b *Backend) SetInterfaces(want []ipsec.Interface) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all, staying [2][]ipsec.Interface // by plane
	changes, userspace := false, false
	next := map[uint32]ipsec.Interface{}
	for _, i := range want {
		all[i.Plane] = append(all[i.Plane], i)
		userspace = userspace || i.Plane == ipsec.PlaneUserspace
		if have, known := b.devices[i.IfID]; known && have.Plane == i.Plane {
			staying[i.Plane] = append(staying[i.Plane], i)
		} else if known {
			changes = true
		}
		next[i.IfID] = i
	}
	var errs []error
	if changes {
		errs = append(errs, b.userspace.SetInterfaces(staying[ipsec.PlaneUserspace]), b.kernel.SetInterfaces(staying[ipsec.PlaneKernel]))
	}
	errs = append(errs, b.sockets.SetRawESP(userspace))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	b.devices = next
	return errors.Join(b.userspace.SetInterfaces(all[ipsec.PlaneUserspace]), b.kernel.SetInterfaces(all[ipsec.PlaneKernel]))
}

// SetBandwidths gives each data plane the limits of local addresses, for the tunnels
// that it serves.
func (b *Backend) SetBandwidths(want []ipsec.Bandwidth) error {
	var errs []error
	for _, plane := range []ipsec.Backend{b.userspace, b.kernel} {
		if p, ok := plane.(Policer); ok {
			errs = append(errs, p.SetBandwidths(want))
		}
	}
	return errors.Join(errs...)
}

// List implements ipsec.Backend.
func (b *Backend) List() (ipsec.Inventory, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	inventory, err := b.kernel.List()
	if err != nil {
		return inventory, err
	}
	for i := range inventory.Interfaces {
		inventory.Interfaces[i].Plane = ipsec.PlaneKernel
	}
	more, err := b.userspace.List()
	if err != nil {
		return inventory, err
	}
	inventory.SAs = append(inventory.SAs, more.SAs...)
	inventory.Policies = append(inventory.Policies, more.Policies...)
	inventory.Interfaces = append(inventory.Interfaces, more.Interfaces...)
	return inventory, nil
}

// Stray is told of a packet in UDP whose SA user space has not. When it is one of
// the kernel's, whose packets come from elsewhere, the path gets a socket for a
// while, so that the kernel sees the next. It reports whether the kernel has the SA.
func (b *Backend) Stray(id ipsec.SAID, local, remote netip.AddrPort) bool {
	now := time.Now()
	if !b.mu.TryRLock() { // a packet waits for nobody
		return false
	}
	a := b.sas[id]
	known := a != nil && a.plane == ipsec.PlaneKernel && a.direction == ipsec.In
	due := known && a.path != (path{}) && now.Sub(a.strayed) >= strayPause
	b.mu.RUnlock()
	if !due || !b.mu.TryLock() {
		return known
	}
	defer b.mu.Unlock()
	from := path{local, remote}
	if b.sas[id] != a || from == a.path || now.Sub(a.strayed) < strayPause {
		return known
	}
	a.strayed = now
	// Who knows the SPI may write anybody's address: the traffic of another peer, which
	// user space receives there, is not to be had so.
	if from == a.stray || b.inUserspace(from) {
		return known
	}
	if err := b.use(from); err != nil {
		b.log.Warn("no socket for a peer that has moved", "sa", id, "peer", remote.String(), "error", err)
		return known
	}
	b.release(a.stray)
	a.stray = from
	return known
}

// forgetStrays closes sockets of paths that no SA was moved to.
func (b *Backend) forgetStrays(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.sas {
		if a.stray != (path{}) && now.Sub(a.strayed) >= strayLife {
			b.release(a.stray)
			a.stray = path{}
		}
	}
}
