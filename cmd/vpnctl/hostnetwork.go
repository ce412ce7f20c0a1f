package main

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"syscall"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/sslvpn/wire"
)

// Drivers of the TUN device: with offloads and several queues, which Linux has, or
// packet by packet, as every system has it.
const (
	driverAuto    = "auto"
	driverOffload = "offload"
	driverPlain   = "plain"
)

var drivers = []string{driverAuto, driverOffload, driverPlain}

// hostNetwork sets up this host's side of a TUN interface by the system's own means.
type hostNetwork interface {
	// configure gives the interface its addresses and MTU and sets it up.
	configure(p *wire.Push, mtu int) error
	addRoute(r netip.Prefix) error
	deleteRoute(r netip.Prefix) error
	// setDNS has names looked up by servers, all of those or those of a domain;
	// without servers it takes that back.
	setDNS(servers []netip.Addr, domain string) error
	// close ends the use of all others.
	close()
}

// defaultTunMTU is what both sides have when the server says nothing.
const defaultTunMTU = 1500

// host is a TUN interface with what the server has pushed. All but the DNS servers
// goes with the interface.
type host struct {
	dev     tun.Device
	network hostNetwork
	server  netip.Addr
	routes  []netip.Prefix
	dns     bool // DNS servers are installed, too
	hasDNS  bool
}

// openHost makes the TUN device with the server's settings.
func (o *connectOptions) openHost(p wire.Push, server netip.Addr) (_ *host, err error) {
	if err := checkRoutes(p.Routes, server); err != nil {
		return nil, err
	}
	dev, err := openDevice(o.device, o.driver, &p)
	if err != nil {
		return nil, err
	}
	h := &host{dev: dev, server: server, dns: o.dns}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close(), dev.Close())
		}
	}()
	if h.network, err = newHostNetwork(dev.Name(), &p); err != nil {
		return nil, err
	}
	mtu := p.TunMTU
	if mtu == 0 {
		mtu = defaultTunMTU
	}
	if err := h.network.configure(&p, mtu); err != nil {
		return nil, err
	}
	if err := h.apply(p); err != nil {
		return nil, err
	}
	return h, nil
}

// openDevice makes the interface by a driver.
func openDevice(name, driver string, p *wire.Push) (tun.Device, error) {
	mtu := p.TunMTU
	if mtu == 0 {
		mtu = defaultTunMTU
	}
	if driver != driverPlain {
		dev, err := tun.Open(name, min(runtime.GOMAXPROCS(0), 4), mtu)
		unsupported := errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL)
		if err == nil || driver == driverOffload || !unsupported {
			return dev, err
		}
	}
	return tun.OpenPlain(tun.PlainOptions{Name: name, Network: linkNetwork(p)})
}

// linkNetwork is the client's address with the network of its link.
func linkNetwork(p *wire.Push) netip.Prefix {
	if p.Network.IsValid() {
		return netip.PrefixFrom(p.Local, p.Network.Bits())
	}
	return netip.PrefixFrom(p.Local, 30)
}

// checkRoutes refuses a route that covers the server itself: it would send the
// tunnel's own packets into the tunnel.
func checkRoutes(routes []netip.Prefix, server netip.Addr) error {
	for _, r := range routes {
		if r.Contains(server) {
			return fmt.Errorf("the server's route %s covers the server %s itself", r, server)
		}
	}
	return nil
}

// apply makes routes and DNS servers those of the settings. Of what fails, all the
// rest is done.
func (h *host) apply(p wire.Push) error {
	if err := checkRoutes(p.Routes, h.server); err != nil {
		return err
	}
	var errs []error
	var routes []netip.Prefix
	for _, r := range h.routes {
		if slices.Contains(p.Routes, r) {
			routes = append(routes, r)
		} else if err := h.network.deleteRoute(r); err != nil {
			errs = append(errs, fmt.Errorf("device %s: delete route %s: %w", h.dev.Name(), r, err))
		}
	}
	for _, r := range p.Routes {
		if slices.Contains(routes, r) {
			continue
		}
		if err := h.network.addRoute(r); err != nil {
			errs = append(errs, fmt.Errorf("device %s: route %s: %w", h.dev.Name(), r, err))
			continue
		}
		routes = append(routes, r)
	}
	h.routes = routes
	if h.dns && (h.hasDNS || len(p.DNS) > 0) {
		h.hasDNS = true
		if err := h.network.setDNS(p.DNS, p.Domain); err != nil {
			errs = append(errs, fmt.Errorf("device %s: DNS servers %v: %w", h.dev.Name(), p.DNS, err))
		}
	}
	return errors.Join(errs...)
}

// close takes back what does not go with the interface. The host is not used any
// more then.
func (h *host) close() (err error) {
	if h.network == nil {
		return nil
	}
	if h.hasDNS {
		if err = h.network.setDNS(nil, ""); err != nil {
			err = fmt.Errorf("device %s: take DNS servers back: %w", h.dev.Name(), err)
		}
	}
	h.network.close()
	return err
}
