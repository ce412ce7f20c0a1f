//go:build netns

package sslvpn

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

var (
	stockHost6 = netip.MustParseAddr("2001:db8:77::1")
	stockPool6 = netip.MustParsePrefix("fd00:88::/64")
)

// withIPv6 gives the site IPv6 inside: a host behind the server, a pool, routes and
// a policy.
func (s *site) withIPv6() {
	s.run("ip", "addr", "add", stockHost6.String()+"/128", "dev", "lo", "nodad")
	network := netip.MustParsePrefix("2001:db8:77::/48")
	s.cfg.Pool6 = stockPool6
	s.cfg.Routes = append([]netip.Prefix{network}, s.cfg.Routes...)
	s.cfg.Policies = append(s.cfg.Policies, Policy{ID: "p6", Group: "g1", Destinations: []netip.Prefix{network}})
	s.apply()
	s.run("ip", "-6", "route", "replace", stockPool6.String(), "dev", s.cfg.Device)
}

// iperf measures TCP between the client and an address behind the server, in both
// directions, and wants octets to arrive.
func (s *site) iperf(host netip.Addr) {
	s.t.Helper()
	for i, direction := range []string{"", "--reverse"} {
		// Each has a server of its own: one may take a while to see that a test is over.
		port := strconv.Itoa(5201 + i)
		server := exec.Command("iperf3", "--server", "--bind", host.String(), "--port", port)
		server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := server.Start(); err != nil {
			s.t.Error(err)
			return
		}
		s.eventually(func() bool {
			found, err := exec.Command("ss", "-Hltn", "sport", "=", port).Output()
			return err == nil && len(found) > 0
		})
		args := []string{"netns", "exec", s.client, "iperf3", "--client", host.String(), "--port", port, "--time", "1", "--json"}
		if direction != "" {
			args = append(args, direction)
		}
		answer, err := exec.Command("ip", args...).Output()
		_ = server.Process.Signal(unix.SIGTERM)
		_ = server.Wait()
		var report struct {
			End struct {
				Received struct {
					Bytes uint64  `json:"bytes"`
					Rate  float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			} `json:"end"`
		}
		if err == nil {
			err = json.Unmarshal(answer, &report)
		}
		if err != nil || report.End.Received.Bytes == 0 {
			s.t.Errorf("iperf3 %s: %v: %s", direction, err, answer)
			continue
		}
		s.t.Logf("iperf3 %s to %s: %.0f Mbit/s", direction, host, report.End.Received.Rate/1e6)
	}
}

// TestNetNSStockIPv6 has a stock client take an address, a route and a policy of
// IPv6, in both topologies, and carry traffic of it both ways.
func TestNetNSStockIPv6(t *testing.T) {
	for _, tt := range []struct {
		proto    string
		port     int
		topology Topology
	}{{"tcp", 443, TopologyNet30}, {"udp", 1194, TopologySubnet}} {
		t.Run(tt.proto, func(t *testing.T) {
			atSite(t, Options{}, func(s *site) {
				s.cfg.UDP = []netip.AddrPort{netip.AddrPortFrom(stockServer, 1194)}
				s.cfg.Topology = tt.topology
				s.withIPv6()
				c := s.connect(s.profile(tt.proto, tt.port, s.password("alice", "wonderland")))
				defer c.stop()
				if !c.logs("Initialization Sequence Completed", 1) {
					return
				}
				e := s.event(EventConnected)
				own := e.Session.VirtualIPv6
				if !stockPool6.Contains(own) {
					t.Fatalf("connected: %+v", e)
				}
				link := s.run("ip", "-n", s.client, "addr", "show", "dev", "tun0")
				want := fmt.Sprintf("inet %s peer %s/32", e.Session.VirtualIP, e.Session.VirtualIP.Next())
				if tt.topology == TopologySubnet {
					want = fmt.Sprintf("inet %s/24", e.Session.VirtualIP)
				}
				if !strings.Contains(link, want) || !strings.Contains(link, "inet6 "+own.String()+"/64") {
					t.Errorf("addresses of the client, want %s: %s", want, link)
				}
				s.pingBoth(e.Session.VirtualIP)
				s.run("ip", "netns", "exec", s.client, "ping", "-6", "-n", "-q", "-c", "3", "-i", "0.2", "-w", "20", stockHost6.String())
				s.run("ping", "-6", "-n", "-q", "-c", "3", "-i", "0.2", "-w", "20", "-I", stockHost6.String(), own.String())
				// As large as fits, and larger.
				s.run("ip", "netns", "exec", s.client, "ping", "-6", "-n", "-q", "-c", "1", "-w", "20", "-s", "1452", stockHost6.String())
				s.run("ip", "netns", "exec", s.client, "ping", "-6", "-n", "-q", "-c", "1", "-w", "20", "-s", "3000", stockHost6.String())
				s.iperf(stockHost6)

				// Another's address, and what no policy allows.
				s.run("ip", "-n", s.client, "addr", "add", "fd00:88::bad/128", "dev", "tun0", "nodad")
				drops := func(word string) uint64 { return s.server.Snapshot()[0].Drops[word] }
				before := drops("source")
				_, _ = exec.Command("ip", "netns", "exec", s.client, "ping", "-6", "-n", "-q", "-c", "1", "-W", "1", "-I", "fd00:88::bad", stockHost6.String()).CombinedOutput()
				if !s.eventually(func() bool { return drops("source") > before }) {
					t.Errorf("a spoofed source is not dropped: %v", s.server.Snapshot()[0].Drops)
				}
				s.run("ip", "-n", s.client, "addr", "del", "fd00:88::bad/128", "dev", "tun0")
				s.cfg.Policies = s.cfg.Policies[:1]
				s.apply()
				before = drops("denied")
				out, err := exec.Command("ip", "netns", "exec", s.client, "ping", "-6", "-n", "-q", "-c", "1", "-W", "1", stockHost6.String()).CombinedOutput()
				if err == nil || drops("denied") == before {
					t.Errorf("without a policy: %s, %v", out, s.server.Snapshot()[0].Drops)
				}
				s.pingBoth(e.Session.VirtualIP)
			})
		})
	}
}
