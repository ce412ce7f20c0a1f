//go:build netns

package route

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newNamespace moves the test's thread into an empty network namespace, which
// goes with it.
func newNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace (needs root): %v", err)
	}
	ip(t, "link set lo up")
	// The kernel would add link-local addresses, and their routes a second or
	// two later, after duplicate address detection.
	for name, value := range map[string]string{"addr_gen_mode": "1", "accept_dad": "0"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/"+name, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// settled waits until iproute2 shows what the kernel does in the background.
func settled(t *testing.T, args, want string) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		text := ip(t, args)
		if strings.Contains(text, want) {
			return
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("ip %s does not show %q in\n%s", args, want, text)
		}
	}
}

// ip runs iproute2 in the thread's namespace.
func ip(t *testing.T, args string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// listing is all of a namespace that a Manager could change.
func listing(t *testing.T) string {
	t.Helper()
	var all []string
	for _, args := range []string{
		"-o addr show scope global", "route show table all", "rule show", "-6 rule show",
	} {
		lines := strings.Split(ip(t, args), "\n")
		slices.Sort(lines)
		all = append(all, lines...)
	}
	// Whether a device has a carrier shows a moment later.
	return strings.ReplaceAll(strings.Join(all, "\n"), " linkdown", "")
}

func newManager(t *testing.T) *Manager {
	t.Helper()
	m, err := NewManager()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func on(link string) []NextHop { return []NextHop{{Link: link}} }

// uplinkAndTunnels makes a host with an uplink and two tunnel devices.
func uplinkAndTunnels(t *testing.T) {
	t.Helper()
	newNamespace(t)
	ip(t, "link add up0 type veth peer name far0")
	ip(t, "link set far0 up")
	ip(t, "link set up0 up")
	ip(t, "addr add 203.0.113.10/24 dev up0")
	ip(t, "addr add 10.10.0.5/24 dev up0")
	ip(t, "-6 addr add 2001:db8:1::10/64 dev up0 nodad")
	ip(t, "route add default via 203.0.113.1")
	for _, name := range []string{"tun1", "tun2"} {
		ip(t, "tuntap add "+name+" mode tun")
	}
	settled(t, "link show up0", "state UP")
	settled(t, "-6 route show table local", "local 2001:db8:1::10 dev up0")
}

func tunnelState() State {
	return State{
		Addresses: []Address{
			{"tun1", prefix("169.254.70.1/30")},
			{"tun1", prefix("fd00:70::1/64")},
			{"tun2", prefix("169.254.71.1/30")},
		},
		Routes: []Route{
			{Dst: prefix("192.168.0.0/16"), Metric: 100, NextHops: []NextHop{{Link: "tun1", Weight: 3}, {Link: "tun2"}}},
			{Dst: prefix("192.168.0.0/16"), Metric: 9000, Type: Blackhole},
			{Dst: prefix("172.16.0.0/12"), NextHops: on("tun2"), Src: netip.MustParseAddr("169.254.71.1"), MTU: 1380},
			{Dst: prefix("2001:db8:9::/48"), NextHops: on("tun1")},
			{Dst: prefix("2001:db8:9::/48"), Metric: 9000, Type: Blackhole},
			{Dst: prefix("2001:db8:a::/48"), Metric: 50, NextHops: []NextHop{{Link: "tun1"}, {Link: "tun2"}}},
			{Table: 7700, Dst: prefix("0.0.0.0/0"), NextHops: on("tun1")},
			{Table: 7700, Dst: prefix("0.0.0.0/0"), Metric: 9000, Type: Blackhole},
			{Table: 7700, Dst: prefix("10.10.0.0/24"), Type: Throw},
		},
		Rules: []Rule{
			{Priority: 100, From: prefix("10.10.0.0/16"), To: prefix("10.0.0.0/8"), Table: 7700},
			{Priority: 101, From: prefix("10.10.0.0/24"), To: prefix("198.51.100.7/32"), IfIn: "up0", Table: 7700},
			{Priority: 102, From: prefix("2001:db8:1::/64"), To: prefix("2001:db8:b::/48"), Table: 7701},
		},
		Outer: []OuterPath{{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("198.51.100.1")}},
	}
}

func wantSet(t *testing.T, m *Manager, s State) {
	t.Helper()
	if err := m.Set(s); err != nil {
		t.Fatalf("Set: %v", err)
	}
	got, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	want, errs := s.normalize()
	if errs != nil {
		t.Fatal(errs)
	}
	want.Outer = nil
	sortState(&want)
	sortState(&got)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the kernel has\n%+v, want\n%+v", got, want)
	}
}

func sortState(s *State) {
	slices.SortFunc(s.Addresses, func(a, b Address) int { return strings.Compare(a.String(), b.String()) })
	slices.SortFunc(s.Routes, func(a, b Route) int { return strings.Compare(a.String(), b.String()) })
	slices.SortFunc(s.Rules, func(a, b Rule) int { return strings.Compare(a.String(), b.String()) })
}

func TestNetNSSetAndCleanUp(t *testing.T) {
	uplinkAndTunnels(t)
	before := listing(t)
	m := newManager(t)
	wantSet(t, m, tunnelState())
	text := listing(t)
	for _, line := range []string{
		"169.254.70.1/30", "fd00:70::1/64",
		"172.16.0.0/12 dev tun2 proto 175 scope link src 169.254.71.1 mtu 1380",
		"blackhole 192.168.0.0/16 proto 175 metric 9000",
		"throw 10.10.0.0/24 table 7700 proto 175",
		"101:	from 10.10.0.0/24 to 198.51.100.7 iif up0 lookup 7700 proto 175",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("ip does not show %q in\n%s", line, text)
		}
	}

	// Another process takes over what this one has left.
	if err := newManager(t).CleanUp(); err != nil {
		t.Fatalf("CleanUp: %v", err)
	}
	for _, name := range []string{"tun1", "tun2"} {
		ip(t, "link set "+name+" down")
	}
	if after := listing(t); after != before {
		t.Errorf("after CleanUp\n%s\nwant\n%s", after, before)
	}
}

// TestNetNSSetTouchesNothing watches the kernel's notifications: the same state
// again makes none, a change makes its own alone.
func TestNetNSSetTouchesNothing(t *testing.T) {
	uplinkAndTunnels(t)
	m := newManager(t)
	s := tunnelState()
	wantSet(t, m, s)

	settled(t, "-6 route show table local", "local fd00:70::1 dev tun1")
	heard := subscribe(t)
	for range 3 {
		wantSet(t, m, s)
	}
	wantSet(t, newManager(t), s) // nor does a process that starts anew
	if changes := heard.of(t, s); len(changes) != 0 {
		t.Errorf("setting the same state made changes:\n%s", strings.Join(changes, "\n"))
	}
	s.Routes[2].MTU = 1300
	wantSet(t, m, s)
	if changes := heard.of(t, s); len(changes) != 1 || !strings.Contains(changes[0], "172.16.0.0/12") {
		t.Errorf("one changed route made changes:\n%s", strings.Join(changes, "\n"))
	}
	s.Rules = s.Rules[1:]
	s.Addresses = s.Addresses[1:]
	wantSet(t, m, s)
	if changes := heard.of(t, tunnelState()); len(changes) < 2 {
		t.Errorf("a rule and an address less made changes:\n%s", strings.Join(changes, "\n"))
	}
}

// TestNetNSEveryChange goes from each of many states to each other one.
func TestNetNSEveryChange(t *testing.T) {
	uplinkAndTunnels(t)
	m := newManager(t)
	one := Route{Dst: prefix("192.168.0.0/16"), Metric: 100, NextHops: on("tun1")}
	six := Route{Dst: prefix("2001:db8:9::/48"), Metric: 100, NextHops: on("tun1")}
	var states []State
	for _, r := range []Route{one, six} {
		other, both, black, weighted := r, r, r, r
		other.NextHops = on("tun2")
		both.NextHops = []NextHop{{Link: "tun1"}, {Link: "tun2"}}
		weighted.NextHops = []NextHop{{Link: "tun1", Weight: 2}, {Link: "tun2", Weight: 5}}
		black.NextHops, black.Type = nil, Blackhole
		second := r
		second.Metric = 200
		for _, routes := range [][]Route{{r}, {other}, {both}, {weighted}, {black}, {r, second}, {black, second}} {
			states = append(states, State{Routes: routes})
		}
	}
	states = append(states, State{}, tunnelState())
	for i, from := range states {
		for j, to := range states {
			t.Run(fmt.Sprintf("%d to %d", i, j), func(t *testing.T) {
				wantSet(t, m, from)
				wantSet(t, m, to)
			})
		}
	}
}

func TestNetNSForeignStaysUntouched(t *testing.T) {
	uplinkAndTunnels(t)
	ip(t, "link set tun1 up")
	ip(t, "addr add 169.254.70.1/30 dev tun1")
	ip(t, "route add 192.168.0.0/16 dev tun1 metric 100 proto static")
	ip(t, "route add 192.168.0.0/16 dev tun1 metric 50 proto static")
	ip(t, "rule add from 10.10.0.0/16 to 10.0.0.0/8 lookup 7700 priority 100")
	m := newManager(t)
	s := State{
		Addresses: []Address{{"tun1", prefix("169.254.70.1/30")}},
		Routes: []Route{
			{Dst: prefix("192.168.0.0/16"), Metric: 100, NextHops: on("tun2")},
			{Dst: prefix("192.168.0.0/16"), Metric: 70, NextHops: on("tun2")},
		},
		Rules: []Rule{{Priority: 100, From: prefix("10.10.0.0/16"), To: prefix("10.0.0.0/8"), Table: 7700}},
	}
	err := m.Set(s)
	if err == nil || !strings.Contains(err.Error(), "route 192.168.0.0/16 table 254 metric 100: another of this destination") {
		t.Errorf("Set over a route of another: %v", err)
	}
	if err := m.CleanUp(); err != nil {
		t.Fatal(err)
	}
	text := listing(t)
	for _, line := range []string{
		"169.254.70.1/30", "192.168.0.0/16 dev tun1 proto static scope link metric 100",
		"192.168.0.0/16 dev tun1 proto static scope link metric 50", "100:	from 10.10.0.0/16 to 10.0.0.0/8 lookup 7700",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("%q is gone from\n%s", line, text)
		}
	}
	if strings.Contains(text, "proto 175") {
		t.Errorf("something of ours is left in\n%s", text)
	}
}

func TestNetNSFailuresAreApart(t *testing.T) {
	uplinkAndTunnels(t)
	m := newManager(t)
	good := State{
		Addresses: []Address{{"tun1", prefix("169.254.70.1/30")}},
		Routes:    []Route{{Dst: prefix("192.168.0.0/16"), NextHops: on("tun1")}},
	}
	bad := good
	bad.Addresses = append([]Address{{"gone0", prefix("169.254.80.1/30")}}, good.Addresses...)
	bad.Routes = append([]Route{
		{Dst: prefix("192.168.0.0/17"), NextHops: on("gone0")},
		{Dst: prefix("10.10.0.128/25"), NextHops: on("tun1")},
		{Dst: prefix("0.0.0.0/0"), NextHops: on("tun1")},
	}, good.Routes...)
	bad.Outer = []OuterPath{{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("198.51.100.1")}}
	err := m.Set(bad)
	if err == nil {
		t.Fatal("no error")
	}
	for _, line := range []string{
		"address 169.254.80.1/30 on gone0: add: device gone0: does not exist",
		"route 192.168.0.0/17 table 254 metric 0: device gone0: does not exist",
		"route 10.10.0.128/25 table 254 metric 0: would take over 10.10.0.0/24, which is connected to up0",
		"route 0.0.0.0/0 table 254 metric 0: would lead the tunnel's own packets to 198.51.100.1 into a tunnel",
	} {
		if !strings.Contains(err.Error(), line) {
			t.Errorf("the error does not say %q:\n%v", line, err)
		}
	}
	wantSet(t, m, good)
}

// TestNetNSDeviceGone has a device of a multipath route vanish, as a TUN device
// does, and come back.
func TestNetNSDeviceGone(t *testing.T) {
	uplinkAndTunnels(t)
	m := newManager(t)
	s := tunnelState()
	wantSet(t, m, s)
	ip(t, "link del tun2")
	if err := m.Set(s); err == nil || !strings.Contains(err.Error(), "device tun2: does not exist") {
		t.Errorf("with the device gone: %v", err)
	}
	one := s
	one.Addresses = s.Addresses[:2]
	one.Routes = slices.DeleteFunc(slices.Clone(s.Routes), func(r Route) bool {
		return slices.ContainsFunc(r.NextHops, func(h NextHop) bool { return h.Link == "tun2" })
	})
	one.Routes = append(one.Routes, Route{Dst: prefix("192.168.0.0/16"), Metric: 100, NextHops: on("tun1")})
	wantSet(t, m, one)
	ip(t, "tuntap add tun2 mode tun")
	wantSet(t, m, s)
}

// TestNetNSPrefixLength gives an address another subnet.
func TestNetNSPrefixLength(t *testing.T) {
	uplinkAndTunnels(t)
	m := newManager(t)
	for _, p := range []string{"fd00:1::1/126", "fd00:1::1/64", "fd00:1::1/126", "169.254.70.1/30", "169.254.70.1/24"} {
		wantSet(t, m, State{
			Addresses: []Address{{"tun1", prefix(p)}},
			Routes:    []Route{{Dst: prefix("2001:db8:9::/48"), NextHops: on("tun1")}},
		})
	}
}

func TestNetNSPathTo(t *testing.T) {
	uplinkAndTunnels(t)
	ip(t, "link set up0 mtu 1400")
	ip(t, "route add 198.51.100.0/24 via 203.0.113.2 mtu lock 1300")
	m := newManager(t)
	tests := []struct {
		dst  string
		want Path
	}{
		{"192.0.2.1", Path{"up0", 1400, netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("203.0.113.1")}},
		{"203.0.113.7", Path{"up0", 1400, netip.MustParseAddr("203.0.113.10"), netip.Addr{}}},
		{"198.51.100.1", Path{"up0", 1300, netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("203.0.113.2")}},
		{"2001:db8:1::7", Path{"up0", 1400, netip.MustParseAddr("2001:db8:1::10"), netip.Addr{}}},
	}
	for _, tt := range tests {
		got, err := m.PathTo(netip.Addr{}, netip.MustParseAddr(tt.dst))
		if err != nil || got != tt.want {
			t.Errorf("PathTo(%s) = %+v, %v, want %+v", tt.dst, got, err, tt.want)
		}
	}
	if got, err := m.PathTo(netip.MustParseAddr("10.10.0.5"), netip.MustParseAddr("192.0.2.1")); err != nil || got.Link != "up0" {
		t.Errorf("with a source: %+v, %v", got, err)
	}
	if _, err := m.PathTo(netip.Addr{}, netip.MustParseAddr("2001:db8:ffff::1")); err == nil {
		t.Error("a path without a route")
	}
	host, err := m.HostNetworks()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []HostNetwork{
		{prefix("10.10.0.0/24"), "up0", true},
		{prefix("10.10.0.5/32"), "up0", true},
		{prefix("2001:db8:1::/64"), "up0", true},
		{prefix("198.51.100.0/24"), "up0", false},
	} {
		if !slices.Contains(host, want) {
			t.Errorf("HostNetworks lacks %v: %v", want, host)
		}
	}
	for _, n := range host {
		if n.Link == "tun1" || n.Link == "tun2" || n.Prefix.Bits() == 0 {
			t.Errorf("HostNetworks has %v", n)
		}
	}
	list, err := m.LocalAddresses()
	if err != nil || !slices.Contains(list, Address{"up0", prefix("203.0.113.10/24")}) {
		t.Errorf("LocalAddresses: %v, %v", list, err)
	}
}
