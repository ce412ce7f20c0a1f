package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

const defaultDevice = "vpngw0"

// netlinkNetwork is a hostNetwork of Linux. DNS servers are those of
// systemd-resolved.
type netlinkNetwork struct {
	name          string
	handle        *netlink.Handle // of the interface's namespace, whatever the calling thread's is
	link          netlink.Link
	local, local6 netip.Addr
}

func newHostNetwork(device string, p *wire.Push) (hostNetwork, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	link, err := handle.LinkByName(device)
	if err != nil {
		handle.Close()
		return nil, fmt.Errorf("device %s: %w", device, err)
	}
	return &netlinkNetwork{name: device, handle: handle, link: link, local: p.Local, local6: p.Local6.Addr()}, nil
}

func (n *netlinkNetwork) close() { n.handle.Close() }

func (n *netlinkNetwork) configure(p *wire.Push, mtu int) error {
	if err := n.handle.LinkSetMTU(n.link, mtu); err != nil {
		return fmt.Errorf("device %s: MTU %d: %w", n.name, mtu, err)
	}
	if err := n.handle.LinkSetUp(n.link); err != nil {
		return fmt.Errorf("device %s: set up: %w", n.name, err)
	}
	address := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(p.Local, 32))}
	switch {
	case p.Network.IsValid():
		address.IPNet = ipNet(netip.PrefixFrom(p.Local, p.Network.Bits()))
	case p.Peer.IsValid():
		address.Peer = ipNet(netip.PrefixFrom(p.Peer, 32))
	}
	if err := n.handle.AddrAdd(n.link, address); err != nil {
		return fmt.Errorf("device %s: address %s: %w", n.name, p.Local, err)
	}
	if !p.Local6.IsValid() {
		return nil
	}
	// The server alone is at the other end: there is nobody to have the same address.
	if err := n.handle.AddrAdd(n.link, &netlink.Addr{IPNet: ipNet(p.Local6), Flags: unix.IFA_F_NODAD}); err != nil {
		return fmt.Errorf("device %s: address %s: %w", n.name, p.Local6, err)
	}
	return nil
}

func (n *netlinkNetwork) route(r netip.Prefix) *netlink.Route {
	route := &netlink.Route{LinkIndex: n.link.Attrs().Index, Dst: ipNet(r), Scope: netlink.SCOPE_LINK}
	switch {
	case r.Addr().Is4():
		route.Src = n.local.AsSlice()
	case n.local6.IsValid():
		route.Scope, route.Src = netlink.SCOPE_UNIVERSE, n.local6.AsSlice()
	}
	return route
}

func (n *netlinkNetwork) addRoute(r netip.Prefix) error { return n.handle.RouteAdd(n.route(r)) }

func (n *netlinkNetwork) deleteRoute(r netip.Prefix) error { return n.handle.RouteDel(n.route(r)) }

func (n *netlinkNetwork) setDNS(servers []netip.Addr, domain string) error {
	if _, err := os.Stat("/run/systemd/resolve"); errors.Is(err, os.ErrNotExist) {
		return errors.New("this host has no systemd-resolved: enter them where it keeps its own")
	}
	return runAll(resolvectl(n.name, servers, domain))
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
