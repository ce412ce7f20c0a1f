package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"sync"

	"github.com/vpngw/vpngw/control/reconcile"
	"github.com/vpngw/vpngw/dataplane"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/planes"
	"github.com/vpngw/vpngw/ipsec/xfrm"
)

// Values of dataplane.backend.
const (
	backendAuto      = "auto"
	backendKernel    = "kernel"
	backendUserspace = "userspace"
)

var (
	errNotWanted = errors.New("dataplane.backend is userspace")
	// A node that may have lost its lease stops by what its sockets are told for
	// each batch; nobody tells the kernel's SAs.
	errFenced = errors.New("a node of a fleet must be able to stop at once, which SAs of the kernel cannot")
)

// openDataPlanes opens the outer sockets and the data planes: that in user space
// always, and the kernel's where it is wanted and there.
func (d *daemon) openDataPlanes() error {
	c := d.config.Dataplane
	if err := d.openKernel(c.Backend); err != nil {
		return err
	}
	sockets := udp.Options{
		Logger: d.log.With("part", "udp"), Sockets: socketsPerAddress(c.Queues), Guard: d.guard(), Decapsulation: d.kernel != nil,
		Inherited: inheritedFiles(os.Getenv),
	}
	switch manager, err := openServiceManager(os.Getenv); {
	case err != nil:
		d.log.Warn("sockets of the kernel's ESP in UDP will not outlive this process", "error", err)
	case manager != nil:
		d.onClose(manager.Close)
		sockets.Store = manager
	}
	d.mux = udp.New(sockets)
	d.onClose(d.mux.Close)
	o := dataplane.Options{Mux: d.mux, Logger: d.log.With("part", "dataplane"), Queues: c.Queues, OuterMTU: c.OuterMTU, OuterDF: outerDFs[c.OuterDF]}
	if d.kernel != nil {
		o.Stray = func(id ipsec.SAID, local, remote netip.AddrPort) bool { return d.planes.Stray(id, local, remote) }
	}
	var err error
	if d.engine, err = dataplane.New(o); err != nil {
		return err
	}
	d.onClose(d.engine.Close)
	if d.kernel != nil {
		d.planes, err = planes.New(d.kernel, d.engine, d.mux, d.log.With("part", "planes"))
	}
	d.mux.DropInherited()
	return err
}

// openKernel opens the kernel's data plane, where it is wanted and there.
func (d *daemon) openKernel(backend string) error {
	o := xfrm.Options{Logger: d.log.With("part", "xfrm")}
	switch {
	case backend == backendUserspace:
		d.kernelLack = errNotWanted
		return xfrm.CleanUp(o)
	case d.config.Store.Backend == storeEtcd:
		d.kernelLack = errFenced
		return xfrm.CleanUp(o)
	}
	kernel, err := xfrm.New(o)
	switch {
	case err != nil && backend == backendKernel:
		return fmt.Errorf("dataplane.backend: kernel: %w", err)
	case err != nil:
		d.kernelLack = err
	default:
		d.kernel = kernel
		d.onClose(kernel.Close)
		a := kernel.Abilities()
		d.log.Info("the kernel's data plane is used", "devices", a.Devices, "ipv6", a.IPv6, "lacking", len(a.Lacking()),
			"bandwidth", a.Bandwidth == nil, "segment_size", a.SegmentSize == nil)
	}
	return nil
}

// backend is what serves the tunnels.
func (d *daemon) backend() ipsec.Backend {
	if d.planes != nil {
		return d.planes
	}
	return d.engine
}

// policer is what limits the bandwidth of EIPs.
func (d *daemon) policer() reconcile.Policer {
	if d.planes != nil {
		return d.planes
	}
	return d.engine
}

// planeOf picks the data plane of a connection by its proposal for ESP, its local
// address and whether that has a limited bandwidth, and says why. An error says
// that none may serve it.
func (d *daemon) planeOf(esp ipsec.Proposal, local netip.Addr, limited bool) (plane ipsec.Plane, why string, err error) {
	if d.kernel == nil {
		return ipsec.PlaneUserspace, d.kernelLack.Error(), nil
	}
	a := d.kernel.Abilities()
	return pickPlane(&a, d.config.Dataplane.Backend == backendKernel, esp, local, limited)
}

// pickPlane picks by what the kernel can do. Where only is set the kernel is wanted for all.
func pickPlane(a *xfrm.Abilities, only bool, esp ipsec.Proposal, local netip.Addr, limited bool) (plane ipsec.Plane, why string, err error) {
	lack := a.Supports(esp)
	switch {
	case lack != nil:
	case a.Devices == "none":
		lack = errors.New("the kernel has neither XFRM interfaces nor VTI")
	case local.Is6() && !a.IPv6:
		lack = errors.New("the kernel has no ESP over IPv6")
	case local.Is6() && a.Devices != "xfrm":
		lack = errors.New("the kernel has no XFRM interfaces, and VTI is for IPv4")
	case limited && a.Bandwidth != nil && only:
		return ipsec.PlaneKernel, "dataplane.backend is kernel, which does not limit the bandwidth of the EIP: " + a.Bandwidth.Error(), nil
	case limited && a.Bandwidth != nil:
		lack = fmt.Errorf("it would not limit the bandwidth of the EIP: %w", a.Bandwidth)
	default:
		return ipsec.PlaneKernel, "the kernel has all that the connection needs", nil
	}
	if only {
		return 0, "", fmt.Errorf("dataplane.backend is kernel: %w", lack)
	}
	return ipsec.PlaneUserspace, "not the kernel: " + lack.Error(), nil
}

// espDrops sums the packets that the data planes dropped, by reason.
func (d *daemon) espDrops() map[string]uint64 {
	drops := d.engine.Drops()
	if d.kernel != nil {
		for reason, n := range d.kernel.Drops() {
			drops[reason] += n
		}
	}
	return drops
}

// neverFalling has counts stay at the highest that they were: a metric that falls
// looks like one that began anew. Those of the kernel fall when packets that came
// before their SA turn out to be in time.
func neverFalling(read func() map[string]uint64) func() map[string]uint64 {
	var mu sync.Mutex
	highest := map[string]uint64{}
	return func() map[string]uint64 {
		mu.Lock()
		defer mu.Unlock()
		for reason, n := range read() {
			highest[reason] = max(highest[reason], n)
		}
		return maps.Clone(highest)
	}
}
