//go:build netns

package netlab_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/deploy/netlab"
)

func newTopology(t *testing.T, config netlab.Config) (*netlab.Topology, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	topology, err := netlab.NewTopology(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := topology.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(topology.Dir); !os.IsNotExist(err) {
			t.Errorf("the lab's directory is left: %v", err)
		}
		list, err := exec.Command("ip", "netns", "list").Output()
		if err != nil || strings.Contains(string(list), topology.Gateway.Name) {
			t.Errorf("namespaces are left: %s, %v", list, err)
		}
	})
	return topology, ctx
}

const psk = "Lab-psk-of-32-octets-0123456789!"

// startPeers runs a strongSwan at the gateway and one at the first site, with a
// tunnel between the first subnets.
func startPeers(ctx context.Context, t *testing.T, top *netlab.Topology, siteInitiates bool) (gateway, site *netlab.StrongSwan) {
	t.Helper()
	proposal, esp := "aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256"
	s := top.Sites[0]
	conf := netlab.SwanConfig(netlab.SwanConnection{
		Name: "site", Local: top.Local[0], Remote: s.Public,
		LocalID: "gateway.test", RemoteID: "site.test", PSK: psk, Proposal: proposal, ESPProposal: esp,
		Children: []netlab.SwanChild{{Name: "net", Local: top.CloudSubnets[:1], Remote: s.Subnets[:1]}},
	})
	gateway, err := top.Gateway.StartStrongSwan(ctx, "swan-gateway", conf, nil)
	if err != nil {
		t.Fatal(err)
	}
	conf = netlab.SwanConfig(netlab.SwanConnection{
		Name: "gw", Local: s.Local, Remote: top.Public[0],
		LocalID: "site.test", RemoteID: "gateway.test", PSK: psk, Proposal: proposal, ESPProposal: esp,
		Children: []netlab.SwanChild{{Name: "net", Local: s.Subnets[:1], Remote: top.CloudSubnets[:1]}},
		DPD:      3 * time.Second,
	})
	site, err = s.Router.StartStrongSwan(ctx, "swan-site", conf, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("gateway:\n%s\nsite:\n%s", gateway.Log(), site.Log())
		}
	})
	initiator := gateway
	if siteInitiates {
		initiator = site
	}
	if err := initiator.Initiate(ctx, "net", time.Minute); err != nil {
		t.Fatal(err)
	}
	return gateway, site
}

func TestNetNSTunnelBetweenStrongSwans(t *testing.T) {
	t.Parallel()
	top, ctx := newTopology(t, netlab.Config{Sites: []netlab.SiteConfig{{}}})
	before, err := top.Gateway.HostState(ctx)
	if err != nil {
		t.Fatal(err)
	}
	gateway, site := startPeers(ctx, t, top, false)
	if err := site.WaitChild(ctx, "net", 1); err != nil {
		t.Fatal(err)
	}
	ping, err := top.CloudHost.StartPing("ping", top.CloudAddresses[0], top.Sites[0].Addresses[0], 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	report, err := netlab.RunIPerf(ctx, top.CloudHost, top.Sites[0].Host, top.Sites[0].Addresses[0], netlab.IPerf{Duration: 2 * time.Second, Rate: "20M", Window: 32 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report)
	if report.BitsPerSecond < 1e6 {
		t.Errorf("TCP is at %v", report)
	}
	if err := site.RekeyIKE(ctx, "gw"); err != nil {
		t.Error(err)
	}
	if err := gateway.RekeyChild(ctx, "net"); err != nil {
		t.Error(err)
	}
	udp, err := netlab.RunIPerf(ctx, top.CloudHost, top.Sites[0].Host, top.Sites[0].Addresses[0],
		netlab.IPerf{Duration: 2 * time.Second, UDP: true, Rate: "10M", Length: 1200, Reverse: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(udp)
	if udp.Packets == 0 {
		t.Errorf("UDP is at %v", udp)
	}
	pings, err := ping.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(pings)
	if pings.Sent < 20 || len(pings.Lost) > 1 {
		t.Errorf("%v", pings)
	}
	during, err := top.Gateway.HostState(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if before.Diff(during) == "" {
		t.Error("a running charon left no trace in the host's state")
	}
	if err := gateway.Stop(); err != nil {
		t.Error(err)
	}
	var sas []netlab.SwanIKE
	err = netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		var err error
		sas, err = site.SAs(ctx)
		return len(sas) == 0, err
	})
	if err != nil {
		t.Errorf("SAs after the peer's DELETE: %v, %v", sas, err)
	}
	if diff, err := top.Gateway.HostStateDiff(ctx, before); err != nil || diff != "" {
		t.Errorf("the host is not as it was: %v\n%s", err, diff)
	}
}

func TestNetNSMappingChanges(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]netlab.Config{
		"site masqueraded":    {Sites: []netlab.SiteConfig{{NAT: true}}},
		"gateway masqueraded": {Sites: []netlab.SiteConfig{{}}, CloudNAT: netlab.Masquerade},
		"gateway one to one":  {Sites: []netlab.SiteConfig{{}}, CloudNAT: netlab.OneToOne},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			top, ctx := newTopology(t, config)
			capture, err := top.Internet.Capture(ctx, "internet", "any", "udp")
			if err != nil {
				t.Fatal(err)
			}
			// Behind a masquerade only the inner side can begin; one to one,
			// the outer one can as well.
			siteInitiates := config.CloudNAT != netlab.Masquerade
			gateway, site := startPeers(ctx, t, top, siteInitiates)
			if err := top.CloudHost.WaitPing(ctx, top.CloudAddresses[0], top.Sites[0].Addresses[0]); err != nil {
				t.Fatal(err)
			}
			// Another mapping: the side behind the NAT speaks first, with IKE,
			// which is all that moves an address with libipsec.
			inner, nat, port := gateway, top.CloudNAT, "22222"
			if nat == nil {
				inner, nat = site, top.Sites[0].NAT
			}
			if err := nat.Map(ctx, 22222, 23333); err != nil {
				t.Fatal(err)
			}
			if err := inner.RekeyChild(ctx, "net"); err != nil {
				t.Fatal(err)
			}
			if err := top.CloudHost.WaitPing(ctx, netip.Addr{}, top.Sites[0].Addresses[0]); err != nil {
				t.Fatal(err)
			}
			if err := capture.Finish(ctx); err != nil {
				t.Fatal(err)
			}
			rows, err := capture.Fields(ctx, "", "udp.srcport=="+port, "ip.src", "ip.dst")
			if err != nil || len(rows) == 0 {
				t.Errorf("no packet came from the new mapping: %v", err)
			}
			rows, err = capture.Fields(ctx, "", "udp.dstport=="+port, "ip.src", "ip.dst")
			if err != nil || len(rows) == 0 {
				t.Errorf("no packet went to the new mapping: %v", err)
			}
		})
	}
}

func TestNetNSDialFromNamespace(t *testing.T) {
	t.Parallel()
	top, ctx := newTopology(t, netlab.Config{Sites: []netlab.SiteConfig{{}, {}}})
	if err := top.Sites[1].Router.WaitPing(ctx, netip.Addr{}, top.Public[1]); err != nil {
		t.Fatal(err)
	}
	conn, err := top.Gateway.DialContext(ctx, "udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	// The cloud host has no daemon: the refusal comes from inside.
	if _, err := top.CloudHost.DialContext(ctx, "tcp", "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("dial in the namespace: %v", err)
	}
}

func TestNetNSSweepRemovesDeadLabs(t *testing.T) {
	top, ctx := newTopology(t, netlab.Config{Sites: []netlab.SiteConfig{{}}})
	// A lab whose owner is gone, with a process left in it.
	sleep, err := top.Gateway.Start("sleep", nil, "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	// Before that it is `ip`, on its way into the namespace.
	err = netlab.Poll(ctx, 5*time.Millisecond, func() (bool, error) {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", sleep.PID))
		return string(name) == "sleep\n", err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(top.Dir+"/owner", []byte("1 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := netlab.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := sleep.Wait(ended); err == nil || ended.Err() != nil {
		t.Errorf("the process of the dead lab: %v", err)
	}
}
