package route

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Manager sets addresses, routes and rules in the network namespace that it
// was made in. Its methods may be called by several goroutines. Changes need
// CAP_NET_ADMIN.
type Manager struct {
	mu      sync.Mutex
	handle  *netlink.Handle
	sockets map[int]*nl.SocketHandle
	// What this process added, for kernels without IFA_PROTO.
	added    map[Address]bool
	floating map[Address]floating
}

// NewManager returns a Manager for the network namespace of the calling thread.
func NewManager() (*Manager, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE) // to no group
	if err != nil {
		handle.Close()
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	if err := errors.Join(socket.SetSendTimeout(&nl.SocketTimeoutTv), socket.SetReceiveTimeout(&nl.SocketTimeoutTv)); err != nil {
		handle.Close()
		socket.Close()
		return nil, fmt.Errorf("rtnetlink socket: set timeout: %w", err)
	}
	return &Manager{
		handle:   handle,
		sockets:  map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}},
		added:    map[Address]bool{},
		floating: map[Address]floating{},
	}, nil
}

// Close releases the Manager. It leaves what has been set.
func (m *Manager) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.handle.Close()
	for _, s := range m.sockets {
		s.Close()
	}
}

// Set makes addresses, routes and rules of ours exactly those of want, and
// brings their devices up. What is right already is not touched. New routes
// come before old ones go, drops before others, and routes before the rules
// that lead to them, so that traffic neither lacks a route nor takes a shorter
// one in between. Where traffic has a way already, as when a destination is split
// or joined, it is not dropped in between either.
//
// Set goes on past what fails. The error joins one for each object that could
// not be set, and names it.
func (m *Manager) Set(want State) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	want, errs := want.normalize()
	have, err := m.read()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs, m.bringUp(have, want)...)
	errs = append(errs, m.addAddresses(have, want)...)
	deleted, deleteErrs := m.deleteAddresses(have, want)
	errs = append(errs, deleteErrs...)
	if deleted {
		// With the last address of a device Linux removes all routes over it.
		if have, err = m.read(); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	stay, routeErrs := m.setRoutes(have, want)
	errs = append(errs, routeErrs...)
	errs = append(errs, m.setRules(have, want)...)
	errs = append(errs, m.deleteRoutes(have, stay)...)
	return errors.Join(errs...)
}

// CleanUp removes all that is ours, also what an earlier process has left.
func (m *Manager) CleanUp() error { return m.Set(State{}) }

// Snapshot returns what the kernel has of ours, in a stable order.
func (m *Manager) Snapshot() (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	have, err := m.read()
	if err != nil {
		return State{}, err
	}
	var s State
	for a, ours := range have.addresses {
		if ours {
			s.Addresses = append(s.Addresses, a)
		}
	}
	slices.SortFunc(s.Addresses, func(a, b Address) int { return cmp.Or(cmp.Compare(a.Link, b.Link), a.Prefix.Compare(b.Prefix)) })
	for _, key := range slices.SortedFunc(maps.Keys(have.routes), compareKeys) {
		s.Routes = append(s.Routes, have.routes[key].Route)
	}
	s.Rules = slices.SortedFunc(maps.Keys(have.rules), func(a, b Rule) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.String(), b.String()))
	})
	return s, nil
}

func compareKeys(a, b routeKey) int {
	return cmp.Or(cmp.Compare(a.table, b.table), a.dst.Compare(b.dst), cmp.Compare(a.metric, b.metric))
}

// bringUp sets the devices of the wanted addresses and routes up. One that is
// missing is left to the objects on it to report.
func (m *Manager) bringUp(have *kernel, want State) (errs []error) {
	names := map[string]bool{}
	for _, a := range want.Addresses {
		names[a.Link] = true
	}
	for _, r := range want.Routes {
		for _, hop := range r.NextHops {
			names[hop.Link] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		link, ok := have.links[name]
		if !ok || link.Attrs().Flags&net.FlagUp != 0 {
			continue
		}
		if err := m.handle.LinkSetUp(link); err != nil {
			errs = append(errs, fmt.Errorf("device %s: set up: %w", name, err))
		}
	}
	return errs
}

func (m *Manager) addAddresses(have *kernel, want State) (errs []error) {
	for _, a := range want.Addresses {
		if _, there := have.addresses[a]; there {
			continue
		}
		if err := m.addAddress(have, want, a); err != nil {
			errs = append(errs, fmt.Errorf("address %s: add: %w", a, err))
			continue
		}
		m.added[a] = true
	}
	return errs
}

func (m *Manager) addAddress(have *kernel, want State, a Address) error {
	link, ok := have.links[a.Link]
	if !ok {
		return fmt.Errorf("device %s: does not exist", a.Link)
	}
	m.makeRoom(have, want, link, a)
	if have.sharesSubnet(a) {
		if err := m.promoteSecondaries(link); err != nil {
			return err
		}
	}
	return m.changeAddress(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, link, a)
}

// makeRoom deletes what is in the way of a new address: IPv6 has an address once
// on a device, whatever the length of its subnet. That it failed, the adding
// shows.
func (m *Manager) makeRoom(have *kernel, want State, link netlink.Link, a Address) {
	for old, ours := range have.addresses {
		if ours && a.Prefix.Addr().Is6() && old.Link == a.Link && old.Prefix.Addr() == a.Prefix.Addr() &&
			!slices.Contains(want.Addresses, old) {
			_ = m.changeAddress(unix.RTM_DELADDR, 0, link, old)
		}
	}
}

func (m *Manager) deleteAddresses(have *kernel, want State) (deleted bool, errs []error) {
	for a, ours := range have.addresses {
		if !ours || slices.Contains(want.Addresses, a) {
			continue
		}
		err := m.changeAddress(unix.RTM_DELADDR, 0, have.links[a.Link], a)
		if err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("address %s: delete: %w", a, err))
			continue
		}
		deleted = true
		delete(m.added, a)
	}
	for a := range m.added {
		if _, there := have.addresses[a]; !there && !slices.Contains(want.Addresses, a) {
			delete(m.added, a) // went with its device
		}
	}
	return deleted, errs
}

var errForeign = errors.New("another of this destination, table and metric exists, which is not ours")

// setRoutes adds and replaces. It returns the routes that are to stay: those of
// want, what they need beside them, and of those that are in conflict what is
// installed already. To remove that since a conflict came later, such as a
// subnet that the uplink has leased, would lead protected traffic into the
// open.
func (m *Manager) setRoutes(have *kernel, want State) (stay map[routeKey]bool, errs []error) {
	stay = map[routeKey]bool{}
	routes := append(slices.Clone(want.Routes), have.spares(want)...)
	slices.SortStableFunc(routes, func(a, b Route) int { return cmp.Compare(have.installOrder(a), have.installOrder(b)) })
	for _, r := range routes {
		old, there := have.routes[r.key()]
		conflict := have.host.check(r, want)
		replace := conflict == nil || there && old.Type == r.Type
		if have.foreign[r.key()] {
			conflict, replace = cmp.Or(conflict, errForeign), false
		}
		if there || replace {
			stay[r.key()] = true
		}
		if conflict != nil {
			errs = append(errs, fmt.Errorf("route %s: %w", r, conflict))
		}
		if !replace || there && old.equal(r) {
			continue
		}
		kr, err := have.toKernel(r)
		if err == nil {
			err = m.handle.RouteReplace(kr)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("route %s: %w", r, err))
		}
	}
	return stay, errs
}

// spares returns the throw routes that wanted blackholes need beside them. Of a
// blackhole that is installed they are what is installed, too: a subnet that
// was connected later gets none.
func (k *kernel) spares(want State) (throws []Route) {
	for _, r := range want.Routes {
		_, closed := k.routes[r.key()]
		for _, throw := range k.host.spares(r, want) {
			same := func(other Route) bool { return other.key() == throw.key() }
			if closed && k.routes[throw.key()].Type != Throw ||
				slices.ContainsFunc(want.Routes, same) || slices.ContainsFunc(throws, same) {
				continue
			}
			throws = append(throws, throw)
		}
	}
	return throws
}

// installOrder has drops come first: no packet may take a shorter way in between.
// But where a wider route of ours leads the packets now, they do not take another
// one, and the drop comes last.
func (k *kernel) installOrder(r Route) int {
	switch r.Type {
	case Throw:
		return 0
	case Unicast:
		return 2
	case Blackhole:
	}
	for key, wider := range k.routes {
		if wider.Type == Unicast && key.table == r.Table && key.dst.Bits() < r.Dst.Bits() && key.dst.Contains(r.Dst.Addr()) {
			return 3
		}
	}
	return 1
}

// deleteOrder has a drop go ahead of the route that it lies under, and what is
// spared from a route go after it.
func deleteOrder(r Route) int {
	switch r.Type {
	case Blackhole:
		return 0
	case Throw:
		return 2
	case Unicast:
	}
	return 1
}

func (m *Manager) deleteRoutes(have *kernel, stay map[routeKey]bool) (errs []error) {
	order := func(a, b routeKey) int {
		return cmp.Or(cmp.Compare(deleteOrder(have.routes[a].Route), deleteOrder(have.routes[b].Route)), compareKeys(a, b))
	}
	for _, key := range slices.SortedFunc(maps.Keys(have.routes), order) {
		if stay[key] {
			continue
		}
		r := have.routes[key]
		err := m.handle.RouteDel(&netlink.Route{
			Table: r.Table, Dst: ipNetOf(r.Dst), Priority: r.Metric, Type: r.kind,
			Protocol: Protocol, Scope: netlink.SCOPE_NOWHERE, // any
		})
		if err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("route %s: delete: %w", r, err))
		}
	}
	return errs
}

func (m *Manager) setRules(have *kernel, want State) (errs []error) {
	for _, r := range want.Rules {
		if have.rules[r] {
			continue
		}
		if err := m.handle.RuleAdd(ruleToKernel(r)); err != nil {
			errs = append(errs, fmt.Errorf("rule %s: add: %w", r, err))
		}
	}
	for r := range have.rules {
		if slices.Contains(want.Rules, r) {
			continue
		}
		if err := m.handle.RuleDel(ruleToKernel(r)); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("rule %s: delete: %w", r, err))
		}
	}
	return errs
}

// gone reports whether a deletion failed since there is nothing to delete, as
// when a device has gone in between.
func gone(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) ||
		errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV)
}

// Path is the way from this host to an address.
type Path struct {
	Link   string
	MTU    int        // octets of an IP packet
	Source netip.Addr // that the host would choose
	Via    netip.Addr // gateway; invalid when the address is on the link
}

// PathTo looks up the way to dst as a packet from src would take it; src may
// be invalid.
func (m *Manager) PathTo(src, dst netip.Addr) (Path, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	routes, err := m.handle.RouteGetWithOptions(ipOf(dst), &netlink.RouteGetOptions{SrcAddr: ipOf(src)})
	if err != nil {
		return Path{}, fmt.Errorf("path to %s: %w", dst, err)
	}
	if len(routes) == 0 {
		return Path{}, fmt.Errorf("path to %s: %w", dst, unix.ENETUNREACH)
	}
	link, err := m.handle.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return Path{}, fmt.Errorf("path to %s: device: %w", dst, err)
	}
	p := Path{
		Link: link.Attrs().Name, MTU: link.Attrs().MTU,
		Source: addrOf(routes[0].Src), Via: addrOf(routes[0].Gw),
	}
	if mtu := routes[0].MTU; mtu != 0 {
		p.MTU = mtu
	}
	return p, nil
}

// HostNetworks returns the networks and addresses that this host has by others
// than us, in order, but for default routes, link-local and multicast ones.
func (m *Manager) HostNetworks() ([]HostNetwork, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	have, err := m.read()
	if err != nil {
		return nil, err
	}
	all := make(map[HostNetwork]bool)
	for _, n := range have.host.routed {
		n.Attached = slices.Contains(have.host.connected, connectedSubnet{n.Prefix, n.Link})
		all[n] = true
	}
	for a, ours := range have.addresses {
		if ip := a.Prefix.Addr(); !ours && !ip.IsLinkLocalUnicast() && !ip.IsLoopback() {
			all[HostNetwork{netip.PrefixFrom(ip, ip.BitLen()), a.Link, true}] = true
		}
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b HostNetwork) int {
		return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Link, b.Link))
	}), nil
}

// LocalAddresses returns the addresses of all devices, each with its subnet's
// length, in order.
func (m *Manager) LocalAddresses() ([]Address, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	have, err := m.read()
	if err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Keys(have.addresses), func(a, b Address) int {
		return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Link, b.Link))
	}), nil
}
