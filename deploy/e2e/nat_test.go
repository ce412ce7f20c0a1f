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
	for _, test := range []struct {
		name    string
		site    bool
		gateway netlab.CloudNAT
		outage  time.Duration // how long a change of the mapping may stop traffic
	}{
		// ESP of the peer shows its new port at once.
		{name: "peer masqueraded", site: true, outage: 3 * time.Second},
		// Nothing of the peer comes in before it has seen ours, and strongSwan's
		// libipsec learns a new port from IKE only: the liveness check after ten
		// idle seconds is what mends it.
		{name: "gateway masqueraded", gateway: netlab.Masquerade, outage: 20 * time.Second},
		{name: "gateway one to one", gateway: netlab.OneToOne, outage: 3 * time.Second},
		{name: "both", site: true, gateway: netlab.OneToOne, outage: 3 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2*time.Minute, netlab.Config{
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
			if ike.NATLocal != test.site {
				t.Errorf("strongSwan sees a NAT in front of itself: %v", ike.NATLocal)
			}
			up := w.waitLog(connection.Name, time.Second, "An IKE SA is established")
			for words, want := range map[string]bool{
				"NAT in front of the peer":    test.site && test.gateway == netlab.Direct,
				"NAT in front of the gateway": !test.site,
				"NAT in front of both sides":  test.site && test.gateway != netlab.Direct,
			} {
				if hasAll(up, words) != want {
					t.Errorf("the log says %q: %v, want %v: %s", words, !want, want, up)
				}
			}

			ping := w.ping(0)
			nat := w.CloudNAT
			if test.site {
				nat = w.Sites[0].NAT
			}
			for i, port := range []int{23000, 24000} {
				before := ping.Received()
				changed := time.Now()
				w.check(nat.Map(w.ctx, port, port+500))
				err := netlab.Poll(w.ctx, 50*time.Millisecond, func() (bool, error) {
					// A few answers may have been under way.
					return ping.Received() > before+5, nil
				})
				outage := time.Since(changed)
				if err != nil || outage > test.outage {
					mappings, _ := nat.Mappings(w.ctx)
					t.Fatalf("change %d of the mapping stopped traffic for %v: %v\n%s", i+1, outage, err, mappings)
				}
				t.Logf("change %d of the mapping: traffic is back after %v", i+1, outage)
			}
			if test.site {
				w.waitLog(connection.Name, 5*time.Second, "The address of the peer has changed", "24000")
			}
			// The tunnel goes on, with the same SAs, in both directions.
			_, err := ping.Finish(w.ctx)
			w.check(err)
			w.reach(w.Sites[0].Host, w.Sites[0].Addresses[0], w.CloudAddresses[0])
			w.check(w.peers[0].RekeyIKE(w.ctx, "cloud"))
			w.check(w.peers[0].RekeyChild(w.ctx, "net"))
			w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[0].Addresses[0])
			w.expectOneSA(0, 1, 15*time.Second)
			w.expectNothingInClear()
		})
	}
}
