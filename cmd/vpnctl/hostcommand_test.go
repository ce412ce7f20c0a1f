package main

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/sslvpn/wire"
)

// pushes are what a server gives, in both topologies.
func pushes() (net30, subnet wire.Push) {
	net30 = wire.Push{
		Local: netip.MustParseAddr("10.8.0.5"), Peer: netip.MustParseAddr("10.8.0.6"),
		Local6: netip.MustParsePrefix("fd00:8::5/64"), Gateway6: netip.MustParseAddr("fd00:8::1"),
	}
	subnet = wire.Push{Local: netip.MustParseAddr("10.8.0.5"), Network: netip.MustParsePrefix("10.8.0.0/24")}
	return net30, subnet
}

// TestHostCommands wants the commands of other systems as they are documented there.
func TestHostCommands(t *testing.T) {
	var ran []string
	run := func(commands []hostCommand) error {
		for _, c := range commands {
			ran = append(ran, c.String())
			ran = append(ran, strings.FieldsFunc(c.input, func(r rune) bool { return r == '\n' })...)
		}
		return nil
	}
	net30, subnet := pushes()
	route, route6 := netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8:1::/48")
	dns := []netip.Addr{netip.MustParseAddr("10.1.0.53"), netip.MustParseAddr("10.1.0.54"), netip.MustParseAddr("2001:db8:1::53")}
	for _, tt := range []struct {
		name    string
		network hostNetwork
		push    wire.Push
		want    string
	}{
		{"macOS, net30", newMacNetwork("utun3", &net30, run), net30, `
			ifconfig utun3 inet 10.8.0.5 10.8.0.6 netmask 255.255.255.255 mtu 1400 up
			ifconfig utun3 inet6 fd00:8::5 prefixlen 64
			route -n add -inet 10.1.0.0/16 -interface utun3
			route -n add -inet6 2001:db8:1::/48 -interface utun3
			route -n delete -inet 10.1.0.0/16 -interface utun3
			scutil
			d.init
			d.add ServerAddresses * 10.1.0.53 10.1.0.54 2001:db8:1::53
			d.add SupplementalMatchDomains * example.org
			d.add SearchDomains * example.org
			set State:/Network/Service/vpngw-utun3/DNS
			scutil
			d.init
			d.add ServerAddresses * 10.1.0.53
			d.add SupplementalMatchDomains * ""
			set State:/Network/Service/vpngw-utun3/DNS
			scutil
			remove State:/Network/Service/vpngw-utun3/DNS`},
		{"macOS, subnet", newMacNetwork("utun3", &subnet, run), subnet, `
			ifconfig utun3 inet 10.8.0.5 10.8.0.5 netmask 255.255.255.0 mtu 1400 up
			route -n add -inet 10.8.0.0/24 -interface utun3`},
		{"Windows, net30", newWindowsNetwork("Ethernet_2", &net30, run), net30, `
			netsh interface ipv4 set address name=Ethernet_2 source=static address=10.8.0.5 mask=255.255.255.252 store=active
			netsh interface ipv4 set subinterface Ethernet_2 mtu=1400 store=active
			netsh interface ipv6 set address interface=Ethernet_2 address=fd00:8::5/64 store=active
			netsh interface ipv6 set subinterface Ethernet_2 mtu=1400 store=active
			netsh interface ipv4 add route prefix=10.1.0.0/16 interface=Ethernet_2 nexthop=10.8.0.6 store=active
			netsh interface ipv6 add route prefix=2001:db8:1::/48 interface=Ethernet_2 nexthop=fe80::8 store=active
			netsh interface ipv4 delete route prefix=10.1.0.0/16 interface=Ethernet_2 nexthop=10.8.0.6 store=active
			netsh interface ipv4 set dnsservers name=Ethernet_2 source=static address=10.1.0.53 validate=no
			netsh interface ipv4 add dnsservers name=Ethernet_2 address=10.1.0.54 index=2 validate=no
			netsh interface ipv6 set dnsservers name=Ethernet_2 source=static address=2001:db8:1::53 validate=no
			netsh interface ipv4 set dnsservers name=Ethernet_2 source=static address=10.1.0.53 validate=no
			netsh interface ipv6 set dnsservers name=Ethernet_2 source=dhcp
			netsh interface ipv4 set dnsservers name=Ethernet_2 source=dhcp
			netsh interface ipv6 set dnsservers name=Ethernet_2 source=dhcp`},
		{"Windows, subnet", newWindowsNetwork("Ethernet_2", &subnet, run), subnet, `
			netsh interface ipv4 set address name=Ethernet_2 source=static address=10.8.0.5 mask=255.255.255.0 store=active
			netsh interface ipv4 set subinterface Ethernet_2 mtu=1400 store=active`},
	} {
		ran = nil
		n := tt.network
		err := n.configure(&tt.push, 1400)
		if tt.push.Local6.IsValid() {
			err = errors.Join(err, n.addRoute(route), n.addRoute(route6), n.deleteRoute(route),
				n.setDNS(dns, "example.org"), n.setDNS(dns[:1], ""), n.setDNS(nil, ""))
		}
		want := strings.Split(strings.TrimSpace(tt.want), "\n")
		for i := range want {
			want[i] = strings.TrimSpace(want[i])
		}
		if err != nil || !slices.Equal(ran, want) {
			t.Errorf("%s: %v\n%s\nwant\n%s", tt.name, err, strings.Join(ran, "\n"), strings.Join(want, "\n"))
		}
	}
	ran = nil
	if err := errors.Join(run(resolvectl("tun0", dns[:2], "")), run(resolvectl("tun0", dns[:1], "example.org")), run(resolvectl("tun0", nil, ""))); err != nil {
		t.Error(err)
	}
	want := []string{"resolvectl dns tun0 10.1.0.53 10.1.0.54", "resolvectl domain tun0 ~.", "resolvectl dns tun0 10.1.0.53", "resolvectl domain tun0 example.org", "resolvectl revert tun0"}
	if !slices.Equal(ran, want) {
		t.Errorf("%q, want %q", ran, want)
	}
}

// TestRunAll: the error of a command says what it said.
func TestRunAll(t *testing.T) {
	good := command("sh -c", `read line; test "$line" = hello`)
	good.input = "hello\n"
	err := runAll([]hostCommand{good, command("sh -c", "echo cannot do that >&2; exit 3"), command("sh -c", "exit 4")})
	if err == nil || !strings.Contains(err.Error(), "exit status 3: cannot do that") {
		t.Errorf("%v", err)
	}
	if err := runAll([]hostCommand{command("no-such-command of-this-host")}); err == nil || !strings.Contains(err.Error(), "no-such-command of-this-host") {
		t.Errorf("%v", err)
	}
}

// recordedNetwork notes what is asked of it.
type recordedNetwork struct {
	done []string
	bad  string // a route that cannot be set
}

func (n *recordedNetwork) configure(*wire.Push, int) error { return nil }

func (n *recordedNetwork) addRoute(r netip.Prefix) error {
	if r.String() == n.bad {
		return errors.New("no such thing")
	}
	n.done = append(n.done, "+"+r.String())
	return nil
}

func (n *recordedNetwork) deleteRoute(r netip.Prefix) error {
	n.done = append(n.done, "-"+r.String())
	return nil
}

func (n *recordedNetwork) setDNS(servers []netip.Addr, domain string) error {
	n.done = append(n.done, "dns "+strings.Join(texts(servers), " ")+" "+domain)
	return nil
}

func (n *recordedNetwork) close() { n.done = append(n.done, "closed") }

// namedDevice has a name and nothing else.
type namedDevice struct{ tun.Device }

func (namedDevice) Name() string { return "tun0" }

// TestHostFollowsChanges changes only what differs, and takes back what outlives the
// interface.
func TestHostFollowsChanges(t *testing.T) {
	n := &recordedNetwork{bad: "10.9.0.0/16"}
	h := &host{dev: namedDevice{}, network: n, server: netip.MustParseAddr("198.51.100.1"), dns: true}
	settings := func(dns string, routes ...string) (p wire.Push) {
		for _, r := range routes {
			p.Routes = append(p.Routes, netip.MustParsePrefix(r))
		}
		if dns != "" {
			p.DNS = []netip.Addr{netip.MustParseAddr(dns)}
		}
		return p
	}
	for _, tt := range []struct {
		push       wire.Push
		want, fail string
	}{
		{settings("", "10.1.0.0/16", "2001:db8:1::/48"), "+10.1.0.0/16 +2001:db8:1::/48", ""},
		{settings("10.1.0.53", "10.1.0.0/16", "10.2.0.0/16"), "-2001:db8:1::/48 +10.2.0.0/16 dns 10.1.0.53 ", ""},
		{settings("10.1.0.53", "10.9.0.0/16", "10.2.0.0/16", "10.3.0.0/16"), "-10.1.0.0/16 +10.3.0.0/16 dns 10.1.0.53 ", "device tun0: route 10.9.0.0/16: no such thing"},
		{settings("", "0.0.0.0/0"), "", "covers the server"},
		{settings(""), "-10.2.0.0/16 -10.3.0.0/16 dns  ", ""},
	} {
		n.done = nil
		err := h.apply(tt.push)
		if tt.fail == "" && err != nil || tt.fail != "" && (err == nil || !strings.Contains(err.Error(), tt.fail)) {
			t.Errorf("%v: %v, want %q", tt.push.Routes, err, tt.fail)
		}
		if got := strings.Join(n.done, " "); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.push.Routes, got, tt.want)
		}
	}
	n.done = nil
	if err := h.close(); err != nil || !slices.Equal(n.done, []string{"dns  ", "closed"}) {
		t.Errorf("%v, %q", err, n.done)
	}
}
