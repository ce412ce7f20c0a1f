//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// hitless is a change of a field, of the connection or of the gateway, under traffic.
type hitless struct {
	field string // of control.Edits; of the gateway with its object in front
	// update is the body of the update of the connection, or of the gateway.
	update client.Object
	// peer changes the peer's configuration likewise; nil: it has no part in it.
	// peerFirst has it change before the gateway, else some time after it has refused.
	peer      func(*netlab.SwanConnection)
	peerFirst bool
	// tolerated is what the peer takes that has not changed yet.
	tolerated bool
}

func ike(fields client.Object) client.Object { return client.Object{"ikepolicy": fields} }

func esp(fields client.Object) client.Object { return client.Object{"ipsecpolicy": fields} }

// editsV2 are changes of a connection of IKEv2 and style policy, each on top of those
// before. Those that the peer has to follow are made in both orders.
func editsV2(w *world) []hitless {
	site := w.Sites[0]
	rule := func(source string, destinations ...netip.Prefix) client.Object {
		var list []string
		for _, d := range destinations {
			list = append(list, d.String())
		}
		return client.Object{"policy_rules": []client.Object{{"source": source, "destination": list}}}
	}
	proposal := func(ike, esp string) func(*netlab.SwanConnection) {
		return func(c *netlab.SwanConnection) { c.Proposal, c.ESPProposal = ike, esp }
	}
	selectors := func(local []netip.Prefix, remote ...netip.Prefix) func(*netlab.SwanConnection) {
		return func(c *netlab.SwanConnection) {
			c.Children = []netlab.SwanChild{{Name: "net", Local: local, Remote: remote}}
		}
	}
	const ike0, esp0 = "aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256"
	wide := netip.MustParsePrefix("10.10.0.0/23")
	return []hitless{
		{field: "name", update: client.Object{"name": "renamed"}},
		{field: "peer_subnets", update: client.Object{"peer_subnets": []string{site.Subnets[0].String()}}},
		{field: "ikepolicy.lifetime_seconds", update: ike(client.Object{"lifetime_seconds": 7200})},
		{field: "ikepolicy.dpd.timeout", update: ike(client.Object{"dpd": client.Object{"timeout": 9}})},
		{field: "ikepolicy.dpd.interval", update: ike(client.Object{"dpd": client.Object{"interval": 20}})},
		{field: "ikepolicy.dpd.msg", update: ike(client.Object{"dpd": client.Object{"msg": "seq-notify-hash"}})},
		{field: "ipsecpolicy.lifetime_seconds", update: esp(client.Object{"lifetime_seconds": 1800})},
		{field: "vpn_gateway.name", update: client.Object{"name": "another"}},
		{field: "vpn_gateway.local_subnets", update: client.Object{"local_subnets": []string{"10.10.0.0/24"}}},

		{field: "ipsecpolicy.encryption_algorithm", update: esp(client.Object{"encryption_algorithm": "aes-256-gcm-16"}), peer: proposal(ike0, "aes256gcm16-ecp256"), peerFirst: true},
		{field: "ipsecpolicy.encryption_algorithm", update: esp(client.Object{"encryption_algorithm": "aes-128"}), peer: proposal(ike0, "aes128-sha256-ecp256")},
		{field: "ipsecpolicy.authentication_algorithm", update: esp(client.Object{"authentication_algorithm": "sha2-512"}), peer: proposal(ike0, "aes128-sha512-ecp256"), peerFirst: true},
		{field: "ipsecpolicy.pfs", update: esp(client.Object{"pfs": "group20"}), peer: proposal(ike0, "aes128-sha512-ecp384")},
		{field: "ipsecpolicy.pfs", update: esp(client.Object{"pfs": "disable"}), peer: proposal(ike0, "aes128-sha512"), peerFirst: true},
		{field: "policy_rules", update: rule("10.10.0.0/24", site.Subnets[0], site.Subnets[1]), peer: selectors(site.Subnets[:], w.CloudSubnets[0])},
		{field: "policy_rules", update: rule("10.10.0.0/24", site.Subnets[0]), peer: selectors(site.Subnets[:1], w.CloudSubnets[0]), peerFirst: true},
		{field: "policy_rules", update: rule(wide.String(), site.Subnets[0]), peer: selectors(site.Subnets[:1], wide), peerFirst: true},
		{field: "policy_rules", update: rule("10.10.0.0/24", site.Subnets[0]), peer: selectors(site.Subnets[:1], w.CloudSubnets[0]), tolerated: true},

		{field: "psk", update: client.Object{"psk": otherPSK}, peer: func(c *netlab.SwanConnection) { c.PSK = otherPSK }, peerFirst: true},
		{field: "psk", update: client.Object{"psk": psk}, peer: func(c *netlab.SwanConnection) { c.PSK = psk }},
		{field: "ikepolicy.encryption_algorithm", update: ike(client.Object{"encryption_algorithm": "aes-256"}), peer: proposal("aes256-sha256-ecp256", "aes128-sha512")},
		{field: "ikepolicy.authentication_algorithm", update: ike(client.Object{"authentication_algorithm": "sha2-512"}), peer: proposal("aes256-sha512-ecp256", "aes128-sha512"), peerFirst: true},
		{field: "ikepolicy.dh_group", update: ike(client.Object{"dh_group": "group20"}), peer: proposal("aes256-sha512-ecp384", "aes128-sha512")},
		{field: "ikepolicy.local_id_type", update: ike(client.Object{"local_id_type": "fqdn", "local_id": "cloud.test"}), peer: func(c *netlab.SwanConnection) { c.RemoteID = "cloud.test" }, peerFirst: true},
		{field: "ikepolicy.local_id", update: ike(client.Object{"local_id": "other.test"}), peer: func(c *netlab.SwanConnection) { c.RemoteID = "other.test" }},
		{field: "ikepolicy.peer_id_type", update: ike(client.Object{"peer_id_type": "fqdn", "peer_id": "office.test"}), peer: func(c *netlab.SwanConnection) { c.LocalID = "office.test" }},
		{field: "ikepolicy.peer_id", update: ike(client.Object{"peer_id": "branch.test"}), peer: func(c *netlab.SwanConnection) { c.LocalID = "branch.test" }, peerFirst: true},
		{field: "ikepolicy.ppk_id", update: client.Object{"ppk": ppk, "ikepolicy": client.Object{"ppk_id": "one"}}, peer: func(c *netlab.SwanConnection) { c.PPKID, c.PPK = "one", ppk }, peerFirst: true},
		{field: "ppk", update: client.Object{"ppk": ppk + "!"}, peer: func(c *netlab.SwanConnection) { c.PPK = ppk + "!" }, peerFirst: true},
		{field: "ikepolicy.ppk_required", update: ike(client.Object{"ppk_required": true}), peer: func(c *netlab.SwanConnection) { c.PPKRequired = true }, peerFirst: true},
	}
}

// editsV1 are changes of a connection that goes to IKEv1 and back.
func editsV1(*world) []hitless {
	proposal := func(ike, esp string) func(*netlab.SwanConnection) {
		return func(c *netlab.SwanConnection) { c.Proposal, c.ESPProposal = ike, esp }
	}
	return []hitless{
		{field: "ikepolicy.ike_version", update: ike(client.Object{"ike_version": "v1"}), peer: func(c *netlab.SwanConnection) { c.V1 = true }},
		{field: "ikepolicy.dh_group", update: ike(client.Object{"dh_group": "group20"}), peer: proposal("aes128-sha256-ecp384", "aes128gcm16-ecp256"), peerFirst: true},
		{field: "psk", update: client.Object{"psk": otherPSK}, peer: func(c *netlab.SwanConnection) { c.PSK = otherPSK }, peerFirst: true},
		{field: "ikepolicy.phase1_negotiation_mode", update: ike(client.Object{"phase1_negotiation_mode": "aggressive"}), peer: func(c *netlab.SwanConnection) { c.Aggressive = true }, peerFirst: true},
		{field: "ipsecpolicy.pfs", update: esp(client.Object{"pfs": "group20"}), peer: proposal("aes128-sha256-ecp384", "aes128gcm16-ecp384")},
		{field: "ikepolicy.ike_version", update: ike(client.Object{"ike_version": "v2"}), peer: func(c *netlab.SwanConnection) { c.V1, c.Aggressive = false, false }, peerFirst: true},
	}
}

// editsStatic are those that concern routes alone.
func editsStatic(w *world) []hitless {
	return []hitless{
		{field: "peer_subnets", update: client.Object{"peer_subnets": []string{"192.168.10.0/25", "192.168.10.128/25"}}},
		{field: "peer_subnets", update: client.Object{"peer_subnets": []string{w.Sites[0].Subnets[0].String()}}},
		{field: "vpn_gateway.local_subnets", update: client.Object{"local_subnets": []string{"10.10.0.0/25", "10.10.0.128/25"}}},
		{field: "vpn_gateway.local_subnets", update: client.Object{"local_subnets": []string{"10.10.0.0/24"}}},
		{field: "tunnel_local_address", update: client.Object{"tunnel_local_address": "169.254.70.2/30", "tunnel_peer_address": "169.254.70.1/30"}},
		{field: "tunnel_peer_address", update: client.Object{"tunnel_local_address": "169.254.90.1/30", "tunnel_peer_address": "169.254.90.2/30"}},
	}
}

// notUnderTraffic are fields that no stream can be watched over, and why.
var notUnderTraffic = map[string]string{
	"cgw_id":                              "drops the tunnel",
	"peer_subnets_v6":                     "of gateways that are not supported",
	"policy_rules_v6":                     "of gateways that are not supported",
	"enable_hub":                          "of a style that is not supported",
	"enable_nqa":                          "the peer's userspace ESP has no tunnel address that answers",
	"ikepolicy.additional_key_exchange":   "the peer has none",
	"ipsecpolicy.additional_key_exchange": "the peer has none",
	"ipsecpolicy.transform_protocol":      "has one value",
	"ipsecpolicy.encapsulation_mode":      "has one value",
	"vpn_gateway.local_subnets_v6":        "of gateways that are not supported",
	"vpn_gateway.eip_id_1":                "drops the tunnel",
	"vpn_gateway.eip_id_2":                "drops the tunnel",
	"vpn_gateway.flavor":                  "changes no tunnel",
}

// A stream of 1,000 datagrams a second in each direction goes on over every edit that
// is not to drop the tunnel. What is lost must have been counted by a queue. No edit
// does more than the plan said.
func TestHitlessEdits(t *testing.T) {
	covered := map[string]bool{}
	for name, scenario := range map[string]struct {
		edits func(*world) []hitless
		setup func(*declare.Connection, *netlab.SwanConnection)
	}{
		"IKEv2": {editsV2, func(*declare.Connection, *netlab.SwanConnection) {}},
		"IKEv1": {editsV1, func(c *declare.Connection, s *netlab.SwanConnection) {
			c.IKEPolicy = &declare.IKEPolicy{EncryptionAlgorithm: "aes-128", AuthenticationAlgorithm: "sha2-256", DHGroup: "group19"}
			s.Proposal = "aes128-sha256-ecp256"
		}},
		"routes": {editsStatic, func(c *declare.Connection, s *netlab.SwanConnection) {
			c.Style, c.PolicyRules, c.PeerSubnets = "static", nil, c.PeerSubnets[:1]
			c.TunnelLocalAddress, c.TunnelPeerAddress = "169.254.70.1/30", "169.254.70.2/30"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 6*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 1)}, netlab.DaemonOptions{Retransmit: true})
			connection, swan := w.connection(0), w.swan(0)
			scenario.setup(&connection, &swan)
			w.peer(0, aggressiveSettings, swan)
			w.apply(w.file([]declare.Connection{connection}))
			w.waitStatus(connection.Name, "ACTIVE", patience)
			w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[0].Addresses[0])
			w.editUnderTraffic(&swan, scenario.edits(w))
			w.expectNothingInClear()
		})
	}
	for _, edits := range [][]hitless{editsV2(blank), editsV1(blank), editsStatic(blank)} {
		for _, e := range edits {
			covered[e.field] = true
		}
	}
	for _, e := range control.Edits {
		field := e.Field
		if e.Object != control.EditConnection {
			field = e.Object + "." + e.Field
		}
		if !covered[field] && notUnderTraffic[field] == "" && e.Object != control.EditCustomerGateway && !strings.HasPrefix(field, "vpn_gateway.policy_template") {
			t.Errorf("no edit of %s is tried under traffic", field)
		}
	}
}

// blank is a world whose edits are only listed.
var blank = &world{Topology: &netlab.Topology{
	Sites:        []*netlab.Site{{Subnets: [2]netip.Prefix{netip.MustParsePrefix("192.168.10.0/24"), netip.MustParsePrefix("192.168.11.0/24")}}},
	CloudSubnets: [2]netip.Prefix{netip.MustParsePrefix("10.10.0.0/24"), netip.MustParsePrefix("10.10.1.0/24")},
}}

// editUnderTraffic makes the edits one after the other.
func (w *world) editUnderTraffic(swan *netlab.SwanConnection, edits []hitless) {
	t, site := w.t, w.Sites[0]
	t.Helper()
	id := w.id(connectionName(0))
	gateway, err := w.api.Find(w.ctx, client.Gateways, "cloud")
	w.check(err)
	w.settled(id)
	before := w.overruns()
	out := must(netlab.StartStream(w.CloudHost, site.Host, w.CloudAddresses[0], site.Addresses[0], 7001, 1000))(t)
	in := must(netlab.StartStream(site.Host, w.CloudHost, site.Addresses[0], w.CloudAddresses[0], 7002, 1000))(t)
	type mark struct {
		what    string
		out, in int
	}
	var marks []mark
	for _, e := range edits {
		marks = append(marks, mark{e.field, out.Sent(), in.Sent()})
		w.editOne(id, gateway.ID(), swan, e)
	}
	marks = append(marks, mark{"the end", out.Sent(), in.Sent()})
	sentOut, lostOut := out.Finish()
	sentIn, lostIn := in.Finish()
	overruns := w.overruns() - before
	t.Logf("%d edits: %d of %d datagrams to the site and %d of %d from it lost; queues overran by %d packets", len(edits), len(lostOut), sentOut, len(lostIn), sentIn, overruns)
	for i := range marks[1:] {
		a, b := marks[i], marks[i+1]
		lostTo, lostFrom := out.Lost(a.out, b.out), in.Lost(a.in, b.in)
		if len(lostTo)+len(lostFrom) > 0 {
			t.Logf("%s: lost to the site %v, from it %v", a.what, lostTo, lostFrom)
		}
	}
	if len(lostOut)+len(lostIn) > overruns {
		t.Errorf("%d datagrams are lost, queues overran by %d packets only", len(lostOut)+len(lostIn), overruns)
	}
	if sentOut < 50*len(edits) || sentIn < 50*len(edits) {
		t.Errorf("the streams stood still: %d and %d datagrams", sentOut, sentIn)
	}
	page, err := w.daemon.Metrics(w.ctx)
	w.check(err)
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "vpngw_dataplane_dropped_packets_total{") {
			t.Logf("dropped: %s", line)
		}
	}
}

// editOne makes one edit, with the peer ahead or behind, and waits until both ends
// have gone over to it.
func (w *world) editOne(id, gateway string, swan *netlab.SwanConnection, e hitless) {
	t := w.t
	t.Helper()
	object, field := "vpn_connection", e.field
	if of, ok := strings.CutPrefix(e.field, "vpn_gateway."); ok {
		object, field = "vpn_gateway", of
	}
	plan, err := w.api.Plan(w.ctx, id, map[string]any{object: e.update})
	w.check(err)
	w.checkPlan(plan, object, field)
	first := w.expectOneSAOf(id, 0, 1, patience)
	load := func() {
		if e.peer != nil {
			e.peer(swan)
			w.check(w.peers[0].Load(w.ctx, netlab.SwanConfig(*swan)))
		}
	}
	if e.peerFirst {
		load()
	}
	t.Logf("%s: %s, peer first: %v", e.field, plan.Text("disruption"), e.peerFirst)
	kind, target := client.Connections, id
	if object == "vpn_gateway" {
		kind, target = client.Gateways, gateway
	}
	_, err = w.api.Update(w.ctx, kind, target, e.update)
	w.check(err)
	_, err = w.api.WaitSettled(w.ctx, kind, target, 50*time.Millisecond)
	w.check(err)
	if e.peer != nil && !e.peerFirst {
		if !e.tolerated {
			w.waitMessage(id, "before the last change")
		}
		load()
	}
	w.settled(id)
	last := w.expectOneSAOf(id, 0, 1, patience)
	sameIKE := last.InitiatorSPI == first.InitiatorSPI && last.ResponderSPI == first.ResponderSPI
	sameChild := last.Children[0].SPIIn == first.Children[0].SPIIn
	switch d := control.Disruption(plan.Text("disruption")); {
	case d == control.DisruptNothing && !sameChild, d.Compare(control.DisruptChild) <= 0 && !sameIKE:
		t.Errorf("%s: planned was %s: the IKE SA is the same: %v, the CHILD_SA: %v", e.field, d, sameIKE, sameChild)
	case d == control.DisruptChild && sameChild, d == control.DisruptIKE && sameIKE:
		t.Errorf("%s: has no effect on the tunnel", e.field)
	}
}

// checkPlan compares the plan of an edit with the class of its field.
func (w *world) checkPlan(plan client.Object, object, field string) {
	w.t.Helper()
	for _, e := range control.Edits {
		if e.Object != object || e.Field != field {
			continue
		}
		if have := control.Disruption(plan.Text("disruption")); have.Compare(e.Disruption) > 0 || plan["established"] != true {
			w.t.Errorf("%s: the plan says %v, its class is %s", field, plan, e.Disruption)
		}
		return
	}
	w.t.Errorf("%s is not in control.Edits", field)
}

// settled waits until a connection is ACTIVE as it is configured, with nothing to say.
func (w *world) settled(id string) { w.waitMessage(id, "") }

// waitMessage waits until a connection is ACTIVE with a message that has these words;
// without any, until it has no message.
func (w *world) waitMessage(id, words string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	var o client.Object
	err := netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		var err error
		if o, err = w.api.Get(ctx, client.Connections, id); err != nil {
			return false, err
		}
		said := strings.Contains(o.StatusMessage(), words)
		if words == "" {
			said = o.StatusMessage() == ""
		}
		return o.Status() == "ACTIVE" && said, nil
	})
	if err != nil {
		w.t.Fatalf("the connection is %s (%s), want %q: %v", o.Status(), fmt.Sprint(o["status_message"]), words, err)
	}
}
