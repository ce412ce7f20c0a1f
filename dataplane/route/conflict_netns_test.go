//go:build netns

package route

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// protected is what a tunnel from one site to another needs.
func protected(from, to string) State {
	return State{
		Routes: []Route{
			{Table: 7000, Dst: prefix(to), Metric: 100, NextHops: on("tun1")},
			{Table: 7000, Dst: prefix(to), Metric: 4294967294, Type: Blackhole},
		},
		Rules: []Rule{{Priority: 7016, From: prefix(from), Table: 7000}},
		Outer: []OuterPath{{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("198.51.100.9")}},
	}
}

// TestNetNSLaterConflict has the uplink get an address, as by DHCP, whose
// subnet covers what a tunnel is for. The tunnel that is there must stay.
func TestNetNSLaterConflict(t *testing.T) {
	for _, lease := range []string{"10.9.200.7/16", "10.9.200.7/24", "10.200.0.7/8"} {
		for _, from := range []string{"10.1.0.0/16", "0.0.0.0/0"} {
			t.Run(from+" beside "+lease, func(t *testing.T) {
				uplinkAndTunnels(t)
				m := newManager(t)
				ip(t, "addr add 10.1.0.1/16 dev tun2")
				s := protected(from, "10.9.0.0/16")
				wantSet(t, m, s)
				ip(t, "addr add "+lease+" dev up0")
				for range 2 {
					err := m.Set(s)
					if refused := lease != "10.9.200.7/24" || from == "0.0.0.0/0"; refused != (err != nil) {
						t.Errorf("Set: %v", err)
					}
				}
				if out := ip(t, "route get 10.9.200.9 from 10.1.0.1"); !strings.Contains(out, "tun1") {
					t.Errorf("what is for the tunnel goes elsewhere: %s", out)
				}
				// A change of the tunnel goes on to be followed.
				s.Routes[0].NextHops = on("tun2")
				_ = m.Set(s)
				if out := ip(t, "route get 10.9.200.9 from 10.1.0.1"); !strings.Contains(out, "tun2") {
					t.Errorf("the route has not moved: %s", out)
				}
			})
		}
	}
}

// TestNetNSEarlierConflict wants a tunnel where the uplink has a subnet of it
// already: nothing may be installed that carries, but the rest is closed.
func TestNetNSEarlierConflict(t *testing.T) {
	uplinkAndTunnels(t)
	m := newManager(t)
	ip(t, "addr add 10.9.200.7/24 dev up0")
	s := protected("10.0.0.0/8", "10.9.0.0/16")
	for range 3 {
		err := m.Set(s)
		if err == nil || !strings.Contains(err.Error(), "take over 10.9.200.0/24") || strings.Contains(err.Error(), "metric 4294967294") {
			t.Errorf("Set: %v", err)
		}
		table := ip(t, "route show table 7000")
		if !strings.Contains(table, "blackhole 10.9.0.0/16") || !strings.Contains(table, "throw 10.9.200.0/24") || strings.Contains(table, "tun1") {
			t.Errorf("the table has\n%s", table)
		}
		if out := ip(t, "route get 10.9.200.9 from 10.9.200.7"); !strings.Contains(out, "up0") {
			t.Errorf("the host is cut off from its subnet: %s", out)
		}
	}
	ip(t, "addr del 10.9.200.7/24 dev up0")
	wantSet(t, m, s) // the throw route goes with what it was for
}

// TestNetNSSourceValidation forges a packet of the far site on the uplink, in
// the clear. Strict source validation there alone drops it, whatever the
// tunnels have, also when the tunnel is closed.
func TestNetNSSourceValidation(t *testing.T) {
	uplinkAndTunnels(t)
	ip(t, "link add lan0 type veth peer name lan1")
	ip(t, "link set lan1 up")
	ip(t, "link set lan0 up")
	ip(t, "addr add 10.1.0.1/16 dev lan0")
	sysctl := func(name, value string) {
		t.Helper()
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sysctl("ip_forward", "1")
	sysctl("conf/all/rp_filter", "0")
	sysctl("conf/lan0/rp_filter", "1")
	passes := func(src, dst, in string) bool {
		return exec.Command("ip", "route", "get", dst, "from", src, "iif", in).Run() == nil
	}
	m := newManager(t)
	open := protected("10.1.0.0/16", "10.9.0.0/16")
	wantSet(t, m, open)
	for _, uplink := range []string{"0", "2", "1"} {
		sysctl("conf/up0/rp_filter", uplink)
		for _, tunnel := range []string{"0", "2", "1"} {
			sysctl("conf/tun1/rp_filter", tunnel)
			for _, dst := range []string{"10.1.0.7", "10.1.0.1"} {
				if got := passes("10.9.0.9", dst, "up0"); got != (uplink != "1") {
					t.Errorf("uplink %s, tunnel %s: in the clear to %s: %t", uplink, tunnel, dst, got)
				}
				if !passes("10.9.0.9", dst, "tun1") {
					t.Errorf("uplink %s, tunnel %s: dropped from the tunnel to %s", uplink, tunnel, dst)
				}
			}
			if !passes("10.1.0.7", "10.9.0.9", "lan0") || !passes("10.1.0.7", "192.0.2.1", "lan0") || !passes("192.0.2.1", "10.1.0.7", "up0") {
				t.Errorf("uplink %s, tunnel %s: other traffic is dropped", uplink, tunnel)
			}
		}
	}
	closed := open
	closed.Routes = open.Routes[1:]
	wantSet(t, m, closed)
	if passes("10.9.0.9", "10.1.0.7", "up0") {
		t.Error("in the clear while the tunnel is closed")
	}
}
