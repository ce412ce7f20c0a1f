package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"

	"github.com/vishvananda/netlink"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/sslvpn/wire"
)

// defaultTunMTU is what both sides have when the server says nothing.
const defaultTunMTU = 1500

// openDevice makes the TUN device with the server's settings. All of it goes
// with the device. A pushed route that covers the server itself would send the
// tunnel's own packets into the tunnel.
func openDevice(name string, p wire.Push, server netip.Addr) (_ tun.Device, err error) {
	for _, r := range p.Routes {
		if r.Contains(server) {
			return nil, fmt.Errorf("the server's route %s covers the server %s itself", r, server)
		}
	}
	mtu := p.TunMTU
	if mtu == 0 {
		mtu = defaultTunMTU
	}
	dev, err := tun.Open(name, min(runtime.GOMAXPROCS(0), 4), mtu)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dev.Close())
		}
	}()
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", name, err)
	}
	address := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(p.Local, 32))}
	if p.Peer.IsValid() {
		address.Peer = ipNet(netip.PrefixFrom(p.Peer, 32))
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return nil, fmt.Errorf("device %s: address %s: %w", name, p.Local, err)
	}
	for _, r := range p.Routes {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r), Src: p.Local.AsSlice(), Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteAdd(route); err != nil {
			return nil, fmt.Errorf("device %s: route %s: %w", name, r, err)
		}
	}
	return dev, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
