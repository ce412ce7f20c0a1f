//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// A NAT between the two, in front of either or both, that restarts with other
// mappings while traffic flows.
func TestNAT(t *testing.T) {
	t.Parallel()
	// atOnce is sooner than by the liveness check after ten idle seconds.
	const atOnce = 8 * time.Second
	for _, test := range []struct {
		name    string
		site    bool
		gateway netlab.CloudNAT
		ports   [2]int        // that stand for 4500 after each change
		outage  time.Duration // how long a change may stop traffic
	}{
		// ESP of the peer shows its new port at once.
		{name: "peer masqueraded", site: true, ports: [2]int{23000, 24000}, outage: atOnce},
		// strongSwan's libipsec learns a new port from IKE only: the liveness
		// check after ten idle seconds is what mends it.
		{name: "gateway masqueraded", gateway: netlab.Masquerade, ports: [2]int{23000, 24000}, outage: patience},
		// Such a NAT keeps the ports; it only forgets.
		{name: "gateway one to one", gateway: netlab.OneToOne, ports: [2]int{4500, 4500}, outage: atOnce},
		{name: "both", site: true, gateway: netlab.OneToOne, ports: [2]int{23000, 24000}, outage: atOnce},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 5*time.Minute, netlab.Config{
				Sites: []netlab.SiteConfig{{NAT: test.site}}, CloudNAT: test.gateway,
			}, netlab.DaemonOptions{})
			interval, timeout := 10, 2
			connection := w.connection(0, func(c *declare.Connection) {
				c.IKEPolicy.DPD = &declare.DPD{Interval: &interval, Timeout: &timeout}
				if test.site {
					c.IKEPolicy.PeerIDType, c.IKEPolicy.PeerID = "ip", w.Sites[0].Public.String()
				}
			})
			swan := w.swan(0, func(c *netlab.SwanConnection) { c.Initiate = test.site })
			if test.site {
				// Only the side behind the NAT can begin.
				w.apply(w.file([]declare.Connection{connection}, respondOnly))
				w.peer(0, nil, swan)
			} else {
				w.peer(0, nil, swan)
				w.apply(w.file([]declare.Connection{connection}))
			}
			w.waitStatus(connection.Name, "ACTIVE", patience)
			ike := w.expectOneSA(0, 1, patience)
			if test.site && !ike.NATLocal {
				t.Error("strongSwan does not see the NAT in front of itself")
			}
			up := w.waitLog(connection.Name, patience, "An IKE SA is established")
			// libipsec makes its side look like one behind a NAT in any case.
			if have := hasAny(up, "NAT in front of the gateway", "NAT in front of both sides"); have != (test.gateway != netlab.Direct) {
				t.Errorf("the log tells of a NAT in front of the gateway: %v: %s", have, up)
			}

			// The side behind the NAT that changes speaks first.
			site := w.Sites[0]
			nat, host, from, to := w.CloudNAT, w.CloudHost, w.CloudAddresses[0], site.Addresses[0]
			if test.site {
				nat, host, from, to = site.NAT, site.Host, to, from
			}
			w.reach(host, from, to)
			ping, err := host.StartPing("ping", from, to, 200*time.Millisecond)
			w.check(err)
			for i, port := range test.ports {
				before := ping.Received()
				changed := time.Now()
				w.check(nat.Map(w.ctx, port, port-4000))
				err := netlab.Poll(w.ctx, 50*time.Millisecond, func() (bool, error) {
					// One answer may have been under way.
					return ping.Received() > before+2, nil
				})
				outage := time.Since(changed)
				if err != nil || outage > test.outage {
					mappings, _ := nat.Mappings(w.ctx)
					t.Fatalf("change %d of the mapping stopped traffic for %v: %v\n%s", i+1, outage, err, mappings)
				}
				t.Logf("change %d of the mapping: traffic is back after %v", i+1, outage)
			}
			if test.site {
				w.waitLog(connection.Name, patience, "The address of the peer has changed", "24000")
			}
			// The tunnel goes on, with the same SAs, in both directions.
			_, err = ping.Finish(w.ctx)
			w.check(err)
			w.reach(site.Host, site.Addresses[0], w.CloudAddresses[0])
			w.check(w.peers[0].RekeyChild(w.ctx, "net"))
			w.check(w.peers[0].RekeyIKE(w.ctx, "cloud"))
			w.reach(w.CloudHost, w.CloudAddresses[0], site.Addresses[0])
			w.expectOneSA(0, 1, patience)
			w.expectNothingInClear()
		})
	}
}
