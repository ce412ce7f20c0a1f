//go:build netns

package route

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// throughTunnel is a state in which traffic to destinations takes a tunnel, and is
// dropped without one.
func throughTunnel(address string, destinations ...string) (s State) {
	s.Addresses = []Address{{"tun1", prefix(address)}}
	for _, d := range destinations {
		s.Routes = append(s.Routes,
			Route{Table: 7700, Dst: prefix(d), Metric: 100, NextHops: on("tun1")},
			Route{Table: 7700, Dst: prefix(d), Metric: 9000, Type: Blackhole})
	}
	return s
}

// TestNetNSEditsKeepTheWay follows the kernel's notifications: at no moment of a
// change is there no way for what has one before and after.
func TestNetNSEditsKeepTheWay(t *testing.T) {
	const address = "169.254.70.1/30"
	for name, change := range map[string][2]State{
		"split":          {throughTunnel(address, "192.168.10.0/24"), throughTunnel(address, "192.168.10.0/25", "192.168.10.128/25")},
		"join":           {throughTunnel(address, "192.168.10.0/25", "192.168.10.128/25"), throughTunnel(address, "192.168.10.0/24")},
		"one more":       {throughTunnel(address, "192.168.10.0/24"), throughTunnel(address, "192.168.10.0/24", "192.168.0.0/16")},
		"address":        {throughTunnel(address, "192.168.10.0/24"), throughTunnel("169.254.71.1/30", "192.168.10.0/24")},
		"other end":      {throughTunnel(address, "192.168.10.0/24"), throughTunnel("169.254.70.2/30", "192.168.10.0/24")},
		"other subnet's": {throughTunnel("169.254.70.1/29", "192.168.10.0/24"), throughTunnel("169.254.70.5/29", "192.168.10.0/24")},
	} {
		t.Run(name, func(t *testing.T) {
			uplinkAndTunnels(t)
			m := newManager(t)
			wantSet(t, m, change[0])
			heard := subscribe(t)
			wantSet(t, m, change[1])
			routes := map[netip.Prefix]map[int]bool{} // types by destination
			for _, r := range change[0].Routes {
				note(routes, r.Dst, kernelType(r.Type), true)
			}
			target := netip.MustParseAddr("192.168.10.7")
			for _, text := range heard.of(t, State{}) {
				var kind, message int
				text = strings.NewReplacer(",", " ", ":", " ").Replace(text)
				fields := strings.Fields(text)
				if fields[0] != "route" {
					continue
				}
				if _, err := fmt.Sscanf(text[strings.Index(text, "type"):], "type %d  message %d", &kind, &message); err != nil {
					t.Fatalf("%q: %v", text, err)
				}
				note(routes, prefix(fields[1]), kind, message == unix.RTM_NEWROUTE)
				if !leads(routes, target) {
					t.Errorf("after %q there is no way to %s", text, target)
				}
			}
		})
	}
}

func kernelType(t Type) int {
	if t == Blackhole {
		return unix.RTN_BLACKHOLE
	}
	return unix.RTN_UNICAST
}

func note(routes map[netip.Prefix]map[int]bool, dst netip.Prefix, kind int, there bool) {
	if routes[dst] == nil {
		routes[dst] = map[int]bool{}
	}
	routes[dst][kind] = there
}

// leads reports whether the longest prefix with the target has a way.
func leads(routes map[netip.Prefix]map[int]bool, target netip.Addr) bool {
	var best netip.Prefix
	for dst, kinds := range routes {
		if dst.Contains(target) && (kinds[unix.RTN_UNICAST] || kinds[unix.RTN_BLACKHOLE]) && (!best.IsValid() || dst.Bits() > best.Bits()) {
			best = dst
		}
	}
	return best.IsValid() && routes[best][unix.RTN_UNICAST]
}
