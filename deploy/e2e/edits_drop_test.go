//go:build e2e

package e2e

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/certtest"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// droppingEdit is a change after which a tunnel is between other addresses.
type droppingEdit struct {
	field   string
	dropped int // the site whose tunnel ends, and is negotiated anew
	kept    int // the site whose tunnel goes on
	unbound string
	update  func(moved string) client.Object // given the customer gateway to move to
}

// droppingEdits are made one after the other: the first site is on the first EIP of
// the gateway, the second on the second.
var droppingEdits = []droppingEdit{
	{field: "cgw_id", dropped: 0, kept: 1, update: func(moved string) client.Object { return client.Object{"cgw_id": moved} }},
	{field: "vpn_gateway.eip_id_1", dropped: 0, kept: 1, unbound: netlab.EIP1, update: func(string) client.Object { return client.Object{"eip_id_1": netlab.EIP3} }},
	{field: "vpn_gateway.eip_id_2", dropped: 1, kept: 0, unbound: netlab.EIP2, update: func(string) client.Object { return client.Object{"eip_id_2": netlab.EIP1} }},
}

// What drops a tunnel drops no other one: 1,000 datagrams a second in each direction
// go on there without loss. The tunnel comes back by itself.
func TestDroppingEdits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 2)}, netlab.DaemonOptions{Retransmit: true})
	moved := w.Sites[0].Public.Next()
	w.check(w.Sites[0].Router.IP(w.ctx, "addr add "+moved.String()+"/28 dev "+netlab.WAN))
	between := func(site int, name string, office, gateway netip.Addr) netlab.SwanConnection {
		return w.swan(site, func(c *netlab.SwanConnection) {
			c.Name, c.Local, c.LocalID, c.Remote, c.RemoteID = name, office, office.String(), gateway, gateway.String()
			c.Children[0].Name = name
		})
	}
	w.peer(0, nil, between(0, "first", w.Sites[0].Public, w.Public[0]), between(0, "moved", moved, w.Public[0]), between(0, "rebound", moved, w.ForClients))
	w.peer(1, nil, between(1, "first", w.Sites[1].Public, w.Public[1]), between(1, "rebound", w.Sites[1].Public, w.Public[0]))
	w.apply(w.file([]declare.Connection{w.connection(0), w.connection(1, func(c *declare.Connection) { c.VGWIP = netlab.EIP2 })}))
	other := must(w.api.Create(w.ctx, client.CustomerGateways, client.Object{"name": "moved", "id_value": moved.String()}))(t)
	for site, s := range w.Sites {
		w.waitStatus(connectionName(site), "ACTIVE", patience)
		w.reach(w.CloudHost, w.CloudAddresses[0], s.Addresses[0])
	}
	for _, e := range droppingEdits {
		w.dropUnderTraffic(e, e.update(other.ID()))
	}
	w.expectNothingInClear()
}

// dropUnderTraffic makes an edit that ends one tunnel while another carries traffic.
func (w *world) dropUnderTraffic(e droppingEdit, update client.Object) {
	w.t.Helper()
	dropped, kept := w.id(connectionName(e.dropped)), w.id(connectionName(e.kept))
	first, stays := w.expectOneSAOf(dropped, e.dropped, 1, patience), w.expectOneSAOf(kept, e.kept, 1, patience)
	object, field, edited := w.objectOf(dropped, e.field)
	streams := w.startStreams(e.kept, w.CloudAddresses[0], w.Sites[e.kept].Addresses[0])
	streams.next(e.field)
	if e.unbound == "" {
		if d := w.planned(dropped, object, field, update); d != control.DisruptAll {
			w.t.Errorf("%s: the plan says %s", e.field, d)
		}
	} else {
		// The tunnel ends when the address leaves the inventory: only then there may be another.
		w.check(w.daemon.TakeAway(e.unbound))
		w.check(netlab.Poll(w.ctx, 50*time.Millisecond, func() (bool, error) {
			_, err := w.api.Plan(w.ctx, dropped, map[string]any{object: update})
			if err != nil && strings.Contains(err.Error(), "still bound") {
				return false, nil // the inventory has not been read yet
			}
			return true, err
		}))
	}
	w.edit(edited, field, update)
	w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[e.dropped].Addresses[0])
	w.settled(dropped)
	if last := w.expectOneSAOf(dropped, e.dropped, 1, patience); last.InitiatorSPI == first.InitiatorSPI {
		w.t.Errorf("%s: the IKE SA is the one before", e.field)
	}
	streams.finish()
	last := w.expectOneSAOf(kept, e.kept, 1, patience)
	if last.InitiatorSPI != stays.InitiatorSPI || last.Children[0].SPIIn != stays.Children[0].SPIIn {
		w.t.Errorf("%s: the other tunnel has other SAs", e.field)
	}
}

// certificateEdit is the field that says whose certificates a peer is proved by.
const certificateEdit = "customer_gateway.ca_certificate"

// A tunnel whose peer was proved by an authority that is not trusted any more ends,
// and no other. It comes back once the authority is the peer's.
func TestDroppingCertificateEdit(t *testing.T) {
	t.Parallel()
	options := netlab.DaemonOptions{Retransmit: true}
	w := &gmWorld{world: newWorld(t, 5*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 2)}, options), ca: certtest.NewGM(t, "cloud root", validGMNow)}
	w.build("cloud", w.CloudSubnets[0])
	dropped, _ := w.gmSite(0, options)
	w.gmSite(1, options)
	for site, s := range w.Sites {
		w.waitStatus(connectionName(site), "ACTIVE", patience)
		w.reach(w.CloudHost, w.CloudAddresses[0], s.Addresses[0])
	}
	id := w.id(connectionName(0))
	trust := func(authority *certtest.GM) client.Object {
		return client.Object{"ca_certificate": client.Object{"content": authority.PEM()}}
	}
	before := w.spis(connectionName(1))
	streams := w.startStreams(1, w.CloudAddresses[0], w.Sites[1].Addresses[0])
	streams.next(certificateEdit)
	object, field, edited := w.objectOf(id, certificateEdit)
	stranger := certtest.NewGM(t, "stranger", validGMNow)
	if d := w.planned(id, object, field, trust(stranger)); d != control.DisruptAll {
		t.Errorf("the plan says %s", d)
	}
	w.edit(edited, field, trust(stranger))
	w.waitStatus(connectionName(0), "DOWN", patience)
	w.edit(edited, field, trust(dropped.ca))
	w.waitStatus(connectionName(0), "ACTIVE", patience)
	w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[0].Addresses[0])
	streams.finish()
	if after := w.spis(connectionName(1)); len(before) != 2 || !slices.Equal(before, after) {
		t.Errorf("the other tunnel had the SPIs %q, and has %q", before, after)
	}
	w.expectNothingInClear()
}
