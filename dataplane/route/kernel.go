package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ifaProto is the attribute IFA_PROTO of linux/if_addr.h.
const ifaProto = 11

// tunnelEnd stands for "no gateway" in an IPv6 route of several next hops, for
// which Linux insists on gateways. A tunnel's device resolves no addresses, so
// any one serves.
var tunnelEnd = netip.MustParseAddr("fe80::7670:6e67:77")

// kernel is what of the network namespace concerns us, as one look at it found.
type kernel struct {
	links     map[string]netlink.Link
	addresses map[Address]bool // all; the value tells whether it is ours
	routes    map[routeKey]installedRoute
	rules     map[Rule]bool     // ours
	foreign   map[routeKey]bool // routes of others
	host      host
}

// installedRoute is a route of ours as the kernel has it. When a Route has no
// words for some part of it, such as a device that is gone, it equals none.
type installedRoute struct {
	Route
	kind int // rtm_type
}

// retryDump repeats a dump that a change in the kernel has interrupted.
func retryDump[T any](dump func() (T, error)) (result T, err error) {
	for range 5 {
		if result, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return result, err
		}
	}
	return result, err
}

// read looks at the kernel.
func (m *Manager) read() (*kernel, error) {
	links, err := retryDump(m.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	k := &kernel{
		links: map[string]netlink.Link{}, routes: map[routeKey]installedRoute{},
		rules: map[Rule]bool{}, foreign: map[routeKey]bool{},
	}
	names := map[int]string{}
	for _, l := range links {
		k.links[l.Attrs().Name] = l
		names[l.Attrs().Index] = l.Attrs().Name
	}
	if k.addresses, err = retryDump(func() (map[Address]bool, error) { return m.readAddresses(names) }); err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	if err := m.readRoutes(k, names); err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	rules, err := retryDump(func() ([]netlink.Rule, error) { return m.handle.RuleList(netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	for _, r := range rules {
		if r.Protocol == Protocol {
			k.rules[ruleFromKernel(r)] = true
		}
	}
	return k, nil
}

// readAddresses lists addresses. The value tells whether one is ours.
func (m *Manager) readAddresses(names map[int]string) (map[Address]bool, error) {
	protocols, err := m.dumpAddresses(names)
	found := make(map[Address]bool, len(protocols))
	for a, protocol := range protocols {
		found[a] = protocol == Protocol || m.added[a]
	}
	return found, err
}

// dumpAddresses lists addresses with their IFA_PROTO, which the netlink package
// does not decode.
func (m *Manager) dumpAddresses(names map[int]string) (map[Address]uint8, error) {
	req := m.request(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	if err != nil {
		return nil, err
	}
	found := map[Address]uint8{}
	for _, b := range messages {
		if len(b) < unix.SizeofIfAddrmsg {
			return nil, errors.New("message is too short")
		}
		msg := nl.DeserializeIfAddrmsg(b)
		attrs, err := nl.ParseRouteAttr(b[msg.Len():])
		if err != nil {
			return nil, err
		}
		var local, address netip.Addr
		var protocol uint8
		for _, attr := range attrs {
			switch attr.Attr.Type {
			case unix.IFA_LOCAL:
				local, _ = netip.AddrFromSlice(attr.Value)
			case unix.IFA_ADDRESS:
				address, _ = netip.AddrFromSlice(attr.Value)
			case ifaProto:
				if len(attr.Value) == 1 {
					protocol = attr.Value[0]
				}
			}
		}
		if !local.IsValid() { // as IPv6 has it, save on point-to-point devices
			local = address
		}
		if name := names[int(msg.Index)]; name != "" && local.IsValid() {
			found[Address{name, netip.PrefixFrom(local, int(msg.Prefixlen))}] = protocol
		}
	}
	return found, nil
}

// readRoutes lists the routes of all tables.
func (m *Manager) readRoutes(k *kernel, names map[int]string) error {
	all, err := retryDump(func() ([]netlink.Route, error) {
		return m.handle.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return err
	}
	for _, kr := range all {
		if kr.Table == unix.RT_TABLE_LOCAL {
			continue
		}
		r := routeFromKernel(kr, names)
		if kr.Protocol == Protocol {
			k.routes[r.key()] = installedRoute{r, kr.Type}
			continue
		}
		k.foreign[r.key()] = true
		if r.Table != TableMain {
			continue
		}
		k.host.main = append(k.host.main, r.Dst)
		if r.Dst.Bits() > 0 && !r.Dst.Addr().IsLinkLocalUnicast() && !r.Dst.Addr().IsMulticast() {
			n := HostNetwork{Prefix: r.Dst}
			if len(r.NextHops) > 0 {
				n.Link = r.NextHops[0].Link
			}
			if n.Link == "" || !k.onlyOurs(n.Link) {
				k.host.routed = append(k.host.routed, n)
			}
		}
		if kr.Protocol == unix.RTPROT_KERNEL && kr.Type == unix.RTN_UNICAST && len(r.NextHops) == 1 && !r.Dst.Addr().IsLinkLocalUnicast() &&
			!r.Dst.Addr().IsMulticast() && !k.onlyOurs(r.NextHops[0].Link) {
			k.host.connected = append(k.host.connected, connectedSubnet{r.Dst, r.NextHops[0].Link})
		}
	}
	return nil
}

// onlyOurs reports whether a device has addresses of ours and of nobody else,
// save link-local ones: it is a tunnel's.
func (k *kernel) onlyOurs(link string) bool {
	some := false
	for a, ours := range k.addresses {
		if a.Link == link && !a.Prefix.Addr().IsLinkLocalUnicast() {
			if !ours {
				return false
			}
			some = true
		}
	}
	return some
}

// routeFromKernel translates a route, as far as a Route has the words.
func routeFromKernel(kr netlink.Route, names map[int]string) Route {
	r := Route{Table: kr.Table, Dst: prefixOf(kr.Dst), Metric: kr.Priority}
	switch kr.Type {
	case unix.RTN_BLACKHOLE:
		r.Type = Blackhole
		return r
	case unix.RTN_THROW:
		r.Type = Throw
		return r
	}
	r.MTU, r.Src = kr.MTU, addrOf(kr.Src)
	if len(kr.MultiPath) == 0 {
		r.NextHops = []NextHop{{Link: names[kr.LinkIndex], Via: addrOf(kr.Gw), Weight: 1}}
	}
	for _, hop := range kr.MultiPath {
		via := addrOf(hop.Gw)
		if via == tunnelEnd {
			via = netip.Addr{}
		}
		r.NextHops = append(r.NextHops, NextHop{Link: names[hop.LinkIndex], Via: via, Weight: hop.Hops + 1})
	}
	if normal, err := r.normalize(); err == nil {
		return normal
	}
	return r
}

// toKernel translates a route of ours. The error names a device that is
// missing.
func (k *kernel) toKernel(r Route) (*netlink.Route, error) {
	kr := &netlink.Route{
		Table: r.Table, Dst: ipNetOf(r.Dst), Priority: r.Metric, MTU: r.MTU,
		Protocol: Protocol, Src: ipOf(r.Src), Family: familyOf(r.Dst.Addr()),
	}
	switch r.Type {
	case Blackhole:
		kr.Type = unix.RTN_BLACKHOLE
		return kr, nil
	case Throw:
		kr.Type = unix.RTN_THROW
		return kr, nil
	case Unicast:
		kr.Type = unix.RTN_UNICAST
	}
	direct := true
	for _, hop := range r.NextHops {
		link, ok := k.links[hop.Link]
		if !ok {
			return nil, fmt.Errorf("device %s: does not exist", hop.Link)
		}
		direct = direct && !hop.Via.IsValid()
		if len(r.NextHops) == 1 {
			kr.LinkIndex, kr.Gw = link.Attrs().Index, ipOf(hop.Via)
			continue
		}
		via := hop.Via
		if !via.IsValid() && r.Dst.Addr().Is6() {
			if link.Attrs().Flags&net.FlagPointToPoint == 0 {
				return nil, fmt.Errorf("device %s: an IPv6 route of several next hops needs a gateway here", hop.Link)
			}
			via = tunnelEnd
		}
		kr.MultiPath = append(kr.MultiPath, &netlink.NexthopInfo{
			LinkIndex: link.Attrs().Index, Gw: ipOf(via), Hops: hop.Weight - 1,
		})
	}
	if direct && r.Dst.Addr().Is4() {
		kr.Scope = netlink.SCOPE_LINK
	}
	return kr, nil
}

func ruleFromKernel(kr netlink.Rule) Rule {
	r := Rule{
		Priority: kr.Priority, Table: kr.Table, IfIn: kr.IifName,
		From: prefixOf(kr.Src), To: prefixOf(kr.Dst),
	}
	if !r.From.IsValid() && !r.To.IsValid() {
		r.From = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if kr.Family == unix.AF_INET6 {
			r.From = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	return r
}

func ruleToKernel(r Rule) *netlink.Rule {
	kr := netlink.NewRule()
	kr.Priority, kr.Table, kr.IifName, kr.Protocol = r.Priority, r.Table, r.IfIn, Protocol
	kr.Family = familyOf(r.family().Addr())
	if r.From.IsValid() && r.From.Bits() > 0 {
		kr.Src = ipNetOf(r.From)
	}
	if r.To.IsValid() {
		kr.Dst = ipNetOf(r.To)
	}
	return kr
}

// changeAddress adds or deletes an address with IFA_PROTO, which the netlink
// package does not encode. Kernels that do not know the attribute ignore it.
func (m *Manager) changeAddress(message, flags int, link netlink.Link, a Address) error {
	req := m.addressRequest(message, flags, link, a, Protocol)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// sharesSubnet reports whether the device of an IPv4 address has another one in its
// subnet, to which the kernel makes the new one secondary.
func (k *kernel) sharesSubnet(a Address) bool {
	for other := range k.addresses {
		if a.Prefix.Addr().Is4() && other.Link == a.Link && other.Prefix.Masked() == a.Prefix.Masked() {
			return true
		}
	}
	return false
}

// Of linux/ip.h and linux/if_link.h.
const (
	devconfPromoteSecondaries = 20 // IPV4_DEVCONF_PROMOTE_SECONDARIES
	iflaInetConf              = 1  // IFLA_INET_CONF
)

// promoteSecondaries has a device keep its secondary addresses, and the routes over
// it, when the primary one goes.
func (m *Manager) promoteSecondaries(link netlink.Link) error {
	req := m.request(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link.Attrs().Index)
	req.AddData(msg)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(iflaInetConf, nil)
	conf.AddRtAttr(devconfPromoteSecondaries, nl.Uint32Attr(1))
	req.AddData(spec)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("device %s: promote secondary addresses: %w", link.Attrs().Name, err)
	}
	return nil
}

func (m *Manager) addressRequest(message, flags int, link netlink.Link, a Address, protocol uint8) *nl.NetlinkRequest {
	req := m.request(message, flags|unix.NLM_F_ACK)
	msg := nl.NewIfAddrmsg(familyOf(a.Prefix.Addr()))
	msg.Index = uint32(link.Attrs().Index)
	msg.Prefixlen = uint8(a.Prefix.Bits())
	if a.Prefix.Addr().Is6() {
		// Nobody else can have the address of a tunnel's end.
		msg.Flags = unix.IFA_F_NODAD
	}
	req.AddData(msg)
	raw := a.Prefix.Addr().AsSlice()
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, raw))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, raw))
	req.AddData(nl.NewRtAttr(ifaProto, []byte{protocol}))
	return req
}

// request begins a message on the manager's own socket.
func (m *Manager) request(message, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(message, flags)
	req.Sockets = m.sockets
	return req
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addrOf(n.IP), bits)
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func ipNetOf(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func ipOf(a netip.Addr) net.IP {
	if !a.IsValid() {
		return nil
	}
	return a.AsSlice()
}
