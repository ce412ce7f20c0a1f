//go:build netns

package sslvpn

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What OpenVPN 2.7 speaks and 2.6 does not.

// TestNetNSStockEpochs moves both directions of a session to the next epoch: a
// client with epoch data keys follows, and so does the server.
func TestNetNSStockEpochs(t *testing.T) {
	for _, tt := range []struct {
		cipher Cipher
		proto  string
		port   int
	}{{AES128GCM, "udp", 1194}, {AES256GCM, "tcp", 443}} {
		t.Run(string(tt.cipher), func(t *testing.T) {
			atSite(t, Options{}, func(s *site) {
				s.newer, s.cfg.Cipher = true, tt.cipher
				s.cfg.UDP = []netip.AddrPort{netip.AddrPortFrom(stockServer, 1194)}
				s.apply()
				c := s.connect(s.profile(tt.proto, tt.port, s.password("alice", "wonderland")))
				defer c.stop()
				if !c.logs("Initialization Sequence Completed", 1) || !c.logs("Outgoing Epoch Data key 1:", 1) {
					return
				}
				e := s.event(EventConnected)
				s.pingBoth(e.Session.VirtualIP)
				client := s.clientOf(e.Session.VirtualIP)
				const last = 7
				ping := func() {
					s.run("ip", "netns", "exec", s.client, "ping", "-n", "-q", "-c", "1", "-w", "20", stockHost.String())
				}
				for epoch := 2; epoch <= last; epoch++ {
					client.send.Lock()
					moved := client.sealing.epochs.advance()
					client.send.Unlock()
					if !moved {
						t.Fatalf("there is no epoch %d", epoch)
					}
					ping()
					c.logs(fmt.Sprintf("Outgoing Epoch Data key %d:", epoch), 1)
					client.recv.Lock()
					newest := client.keys[0].epochs.newest
					client.recv.Unlock()
					if int(newest) > epoch {
						t.Errorf("the client is in epoch %d, and the server moved to %d", newest, epoch)
					}
				}
				// Its answer to what was sent in the last one came under its own of that number.
				heard := func() bool {
					ping()
					client.recv.Lock()
					defer client.recv.Unlock()
					return client.keys[0].epochs.newest == last
				}
				if !s.eventually(heard) {
					t.Errorf("the server has not followed; log of the client:\n%s", c.log)
				}
				if drops := s.server.Snapshot()[0].Drops; drops["epoch"]+drops["integrity"]+drops["replay"] > 0 {
					t.Errorf("drops %v", drops)
				}
			})
		})
	}
}

// clientOf returns the client with an address of the pool.
func (s *site) clientOf(virtual netip.Addr) *client {
	s.t.Helper()
	for _, session := range s.server.running()["ep1"].established() {
		if c := session.client.Load(); c != nil && c.virtualIP == virtual {
			return c
		}
	}
	s.t.Fatalf("no client has %s", virtual)
	return nil
}

// TestNetNSStockPushUpdate changes routes and DNS servers under a session: it stays,
// and the client's routes are the new ones. What it does not install is not sent.
func TestNetNSStockPushUpdate(t *testing.T) {
	for _, tt := range []struct {
		proto string
		port  int
	}{{"tcp", 443}, {"udp", 1194}} {
		t.Run(tt.proto, func(t *testing.T) {
			atSite(t, Options{}, func(s *site) {
				s.newer = true
				s.cfg.UDP = []netip.AddrPort{netip.AddrPortFrom(stockServer, 1194)}
				s.cfg.Topology = TopologySubnet
				s.cfg.Routes = append(s.cfg.Routes, netip.MustParsePrefix("192.168.78.0/24"))
				s.cfg.DNS, s.cfg.Domain = []netip.Addr{netip.MustParseAddr("192.168.77.53")}, "corp.example.org"
				s.apply()
				c := s.connect(s.profile(tt.proto, tt.port, s.password("alice", "wonderland")))
				defer c.stop()
				if !c.logs("Initialization Sequence Completed", 1) {
					return
				}
				e := s.event(EventConnected)
				s.pingBoth(e.Session.VirtualIP)
				resolv := filepath.Join("/proc", fmt.Sprint(c.cmd.Process.Pid), "root", "etc", "resolv.conf")
				expectDNS := func(when, server string) {
					t.Helper()
					content, err := os.ReadFile(resolv)
					if err != nil || !strings.Contains(string(content), "nameserver "+server+"\nsearch corp.example.org") {
						t.Errorf("%s: %v: %s", when, err, content)
					}
				}
				expectDNS("connected", "192.168.77.53")

				s.cfg.Routes = append(s.cfg.Routes[:1:1], netip.MustParsePrefix("192.168.79.0/24"), netip.MustParsePrefix("192.168.80.0/24"))
				s.cfg.DNS = []netip.Addr{netip.MustParseAddr("192.168.77.54")}
				s.apply()
				if !c.logs("'PUSH_UPDATE,route 192.168.77.0 255.255.255.0,route 192.168.79.0 255.255.255.0,route 192.168.80.0 255.255.255.0'", 1) ||
					!c.logs("Initialization Sequence Completed", 2) {
					return
				}
				routes := s.run("ip", "-n", s.client, "-4", "route")
				for route, want := range map[string]bool{"192.168.77.0/24": true, "192.168.78.0/24": false, "192.168.79.0/24": true, "192.168.80.0/24": true} {
					if strings.Contains(routes, route) != want {
						t.Errorf("a route to %s is wanted %t: %s", route, want, routes)
					}
				}
				expectDNS("changed", "192.168.77.53")
				s.pingBoth(e.Session.VirtualIP)
				if all := s.sessions(); len(all) != 1 || all[0].ID != e.Session.ID {
					t.Errorf("sessions %+v, before the change %s", all, e.Session.ID)
				}

				// The next connection has it all.
				if !s.server.Disconnect("ep1", e.Session.ID) {
					t.Error("the session was not found")
				}
				if !c.logs("Initialization Sequence Completed", 3) {
					return
				}
				expectDNS("connected again", "192.168.77.54")
				s.pingBoth(s.event(EventConnected).Session.VirtualIP)
			})
		})
	}
}
