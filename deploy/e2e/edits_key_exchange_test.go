//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// keyExchangeEdits are of both ends of a tunnel between two gateways.
var keyExchangeEdits = []hitless{
	{field: "ikepolicy.additional_key_exchange", update: ike(client.Object{"additional_key_exchange": "mlkem768"})},
	{field: "ipsecpolicy.additional_key_exchange", update: esp(client.Object{"additional_key_exchange": "mlkem768"})},
	{field: "ipsecpolicy.additional_key_exchange", update: esp(client.Object{"additional_key_exchange": "disable"}), peerFirst: true},
	{field: "ikepolicy.additional_key_exchange", update: ike(client.Object{"additional_key_exchange": "disable"}), peerFirst: true},
}

// As TestHitlessEdits, of an additional key exchange (RFC 9370). Both ends are
// vpngwd: strongSwan 5.9 and libreswan have none.
func TestHitlessKeyExchangeEdits(t *testing.T) {
	t.Parallel()
	options := netlab.DaemonOptions{Retransmit: true}
	w := newWorld(t, 4*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 1)}, options)
	site := w.Sites[0]
	far := &world{Topology: w.Topology, t: t, ctx: w.ctx}
	t.Cleanup(far.end)
	far.daemon = must(w.StartSiteDaemon(w.ctx, vpngwd, site, options))(t)
	far.api = must(far.daemon.Client())(t)
	near := w.file([]declare.Connection{w.connection(0)})
	w.apply(near)
	mirrored := w.file([]declare.Connection{w.connection(0, func(c *declare.Connection) {
		c.PeerSubnets = []string{w.CloudSubnets[0].String()}
		c.PolicyRules = []declare.PolicyRule{{Source: site.Subnets[0].String(), Destination: c.PeerSubnets}}
	})})
	mirrored.Gateways[0].LocalSubnets = []string{site.Subnets[0].String()}
	mirrored.CustomerGateways[0].IDValue = w.Public[0].String()
	far.apply(mirrored)

	ends := []*world{w, far}
	for _, end := range ends {
		end.waitStatus(connectionName(0), "ACTIVE", patience)
	}
	w.reach(w.CloudHost, w.CloudAddresses[0], site.Addresses[0])
	streams := w.startStreams(0, w.CloudAddresses[0], site.Addresses[0])
	for _, e := range keyExchangeEdits {
		streams.next(e.field)
		before := w.tunnelBetween(far)
		order := ends
		if e.peerFirst {
			order = []*world{far, w}
		}
		var planned control.Disruption
		for i, end := range order {
			id := end.id(connectionName(0))
			object, field, edited := end.objectOf(id, e.field)
			d := end.planned(id, object, field, e.update)
			if end == w {
				planned = d
			}
			end.edit(edited, field, e.update)
			if i == 0 {
				end.waitMessage(id, "before the last change")
			}
		}
		for _, end := range ends {
			end.settled(end.id(connectionName(0)))
		}
		after := w.tunnelBetween(far)
		t.Logf("%s: %s, %+v, then %+v", e.field, planned, before, after)
		if sameIKE, sameChild := before.ike == after.ike, before.child == after.child; sameChild || sameIKE != (planned == control.DisruptChild) {
			t.Errorf("%s: planned was %s: the IKE SA is the same: %v, the CHILD_SA: %v", e.field, planned, sameIKE, sameChild)
		}
	}
	streams.finish()
	w.expectNothingInClear()
}

// spis are those of an IKE SA, and of its CHILD_SA, as one end tells them.
type spis struct{ ike, child string }

// tunnelBetween waits until both ends have one IKE SA, the same, with one CHILD_SA.
func (w *world) tunnelBetween(far *world) spis {
	w.t.Helper()
	var near, other []string
	err := netlab.Poll(w.ctx, 100*time.Millisecond, func() (bool, error) {
		near, other = w.spis(connectionName(0)), far.spis(connectionName(0))
		if len(near) != 2 || len(other) != 2 || near[0] != other[0] {
			return false, nil
		}
		var in, out string
		if _, err := fmt.Sscanf(near[1], "in %8s, out %8s", &in, &out); err != nil {
			return false, err
		}
		return other[1] == fmt.Sprintf("in %s, out %s", out, in), nil
	})
	if err != nil {
		w.t.Fatalf("the ends have not the same tunnel: %q and %q: %v", near, other, err)
	}
	return spis{near[0], near[1]}
}

// spis returns what the daemon says of the SPIs of a connection: a text for each IKE SA
// and one for each CHILD_SA.
func (w *world) spis(name string) (all []string) {
	w.t.Helper()
	x, err := w.api.Explain(w.ctx, w.id(name))
	w.check(err)
	for _, fact := range x.Facts {
		if strings.TrimSpace(fact.Name) == "SPIs" {
			all = append(all, fact.Value)
		}
	}
	return all
}
