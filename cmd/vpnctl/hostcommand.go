package main

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// hostCommand is a command of the system that sets up its network.
type hostCommand struct {
	args  []string
	input string
}

func (c hostCommand) String() string { return strings.Join(c.args, " ") }

// command splits words at spaces, and takes more as they are.
func command(words string, more ...string) hostCommand {
	return hostCommand{args: append(strings.Fields(words), more...)}
}

// runAll runs commands one after the other up to the first that fails.
func runAll(commands []hostCommand) error {
	for _, c := range commands {
		run := exec.Command(c.args[0], c.args[1:]...)
		run.Stdin = strings.NewReader(c.input)
		if out, err := run.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", c, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// resolvectl returns what gives systemd-resolved the DNS servers of a link.
func resolvectl(device string, servers []netip.Addr, domain string) []hostCommand {
	if len(servers) == 0 {
		return []hostCommand{command("resolvectl revert", device)}
	}
	c := []hostCommand{command("resolvectl dns", append([]string{device}, texts(servers)...)...)}
	if domain == "" {
		return append(c, command("resolvectl domain", device, "~."))
	}
	return append(c, command("resolvectl domain", device, domain))
}

func texts(addresses []netip.Addr) (all []string) {
	for _, a := range addresses {
		all = append(all, a.String())
	}
	return all
}

func netmask(bits int) string { return net.IP(net.CIDRMask(bits, 32)).String() }

// family is the word that commands have for the family of a network.
func family(r netip.Prefix, ipv4, ipv6 string) string {
	if r.Addr().Is4() {
		return ipv4
	}
	return ipv6
}

// macNetwork is a hostNetwork of macOS, by ifconfig, route and scutil.
type macNetwork struct {
	device string
	run    func([]hostCommand) error
}

func newMacNetwork(device string, _ *wire.Push, run func([]hostCommand) error) *macNetwork {
	return &macNetwork{device, run}
}

func (n *macNetwork) configure(p *wire.Push, mtu int) error {
	peer, mask := p.Peer, netmask(32)
	if p.Network.IsValid() {
		peer, mask = p.Local, netmask(p.Network.Bits()) // a utun interface has two ends
	}
	c := []hostCommand{command("ifconfig", n.device, "inet", p.Local.String(), peer.String(), "netmask", mask, "mtu", strconv.Itoa(mtu), "up")}
	if p.Network.IsValid() {
		c = append(c, n.route("add", p.Network.Masked()))
	}
	if p.Local6.IsValid() {
		c = append(c, command("ifconfig", n.device, "inet6", p.Local6.Addr().String(), "prefixlen", strconv.Itoa(p.Local6.Bits())))
	}
	return n.run(c)
}

func (n *macNetwork) route(verb string, r netip.Prefix) hostCommand {
	return command("route -n "+verb, family(r, "-inet", "-inet6"), r.String(), "-interface", n.device)
}

func (n *macNetwork) addRoute(r netip.Prefix) error { return n.run([]hostCommand{n.route("add", r)}) }

func (n *macNetwork) deleteRoute(r netip.Prefix) error {
	return n.run([]hostCommand{n.route("delete", r)})
}

func (n *macNetwork) close() {}

// setDNS keeps them in the dynamic store under a service of our own. Without a
// domain they are for all names.
func (n *macNetwork) setDNS(servers []netip.Addr, domain string) error {
	key := "State:/Network/Service/vpngw-" + n.device + "/DNS"
	c := command("scutil")
	c.input = "remove " + key + "\n"
	if len(servers) > 0 {
		match := domain
		if match == "" {
			match = `""`
		}
		c.input = "d.init\nd.add ServerAddresses * " + strings.Join(texts(servers), " ") + "\n" +
			"d.add SupplementalMatchDomains * " + match + "\n"
		if domain != "" {
			c.input += "d.add SearchDomains * " + domain + "\n"
		}
		c.input += "set " + key + "\n"
	}
	return n.run([]hostCommand{c})
}

// windowsNetwork is a hostNetwork of Windows, by netsh.
type windowsNetwork struct {
	device  string
	gateway netip.Addr // of IPv4
	run     func([]hostCommand) error
}

// tapNeighbour is the neighbour of IPv6 that tap-windows6 answers for.
const tapNeighbour = "fe80::8"

func newWindowsNetwork(device string, p *wire.Push, run func([]hostCommand) error) *windowsNetwork {
	n := &windowsNetwork{device: device, gateway: p.Peer, run: run}
	if p.Network.IsValid() {
		n.gateway = p.Network.Masked().Addr().Next()
	}
	return n
}

func (n *windowsNetwork) configure(p *wire.Push, mtu int) error {
	link := linkNetwork(p)
	c := []hostCommand{
		command("netsh interface ipv4 set address", "name="+n.device, "source=static", "address="+p.Local.String(), "mask="+netmask(link.Bits()), "store=active"),
		command("netsh interface ipv4 set subinterface", n.device, "mtu="+strconv.Itoa(mtu), "store=active"),
	}
	if p.Local6.IsValid() {
		c = append(c,
			command("netsh interface ipv6 set address", "interface="+n.device, "address="+p.Local6.String(), "store=active"),
			command("netsh interface ipv6 set subinterface", n.device, "mtu="+strconv.Itoa(mtu), "store=active"))
	}
	return n.run(c)
}

func (n *windowsNetwork) route(verb string, r netip.Prefix) []hostCommand {
	return []hostCommand{command("netsh interface", family(r, "ipv4", "ipv6"), verb, "route", "prefix="+r.String(), "interface="+n.device,
		"nexthop="+family(r, n.gateway.String(), tapNeighbour), "store=active")}
}

func (n *windowsNetwork) addRoute(r netip.Prefix) error    { return n.run(n.route("add", r)) }
func (n *windowsNetwork) deleteRoute(r netip.Prefix) error { return n.run(n.route("delete", r)) }

func (n *windowsNetwork) close() {}

func (n *windowsNetwork) setDNS(servers []netip.Addr, _ string) error {
	var c []hostCommand
	for _, version := range []string{"ipv4", "ipv6"} {
		var own []netip.Addr
		for _, a := range servers {
			if a.Is4() == (version == "ipv4") {
				own = append(own, a)
			}
		}
		set := "netsh interface " + version
		if len(own) == 0 {
			c = append(c, command(set+" set dnsservers", "name="+n.device, "source=dhcp"))
			continue
		}
		c = append(c, command(set+" set dnsservers", "name="+n.device, "source=static", "address="+own[0].String(), "validate=no"))
		for i, a := range own[1:] {
			c = append(c, command(set+" add dnsservers", "name="+n.device, "address="+a.String(), "index="+strconv.Itoa(i+2), "validate=no"))
		}
	}
	return n.run(c)
}
