//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// hitless is a change of a field under traffic.
type hitless struct {
	field string // of control.Edits; of other objects than the connection with the object in front
	// also are other fields that the update changes.
	also []string
	// update is the body of the update of the object.
	update client.Object
	// peer changes the peer's configuration likewise; nil: it has no part in it.
	// peerFirst has it change before the gateway, else some time after it has refused.
	peer      func(*netlab.SwanConnection)
	peerFirst bool
	// tolerated is what the peer takes that has not changed yet.
	tolerated bool
	// begin has the peer negotiate, which alone can; after both have changed.
	begin bool
	// refused are words of the refusal of an edit that cannot be made.
	refused string
	// then is what has to hold afterwards; nil: nothing more.
	then func(*world)
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
		{field: "ipsecpolicy.udp_encapsulation", update: esp(client.Object{"udp_encapsulation": "always"}), then: inUDP},
		{field: "ipsecpolicy.udp_encapsulation", update: esp(client.Object{"udp_encapsulation": "nat"}), then: inUDP},
		{field: "name", update: client.Object{"name": "renamed"}},
		{field: "peer_subnets", update: client.Object{"peer_subnets": []string{site.Subnets[0].String()}}},
		{field: "ikepolicy.lifetime_seconds", update: ike(client.Object{"lifetime_seconds": 7200})},
		{field: "ikepolicy.dpd.timeout", update: ike(client.Object{"dpd": client.Object{"timeout": 9}})},
		{field: "ikepolicy.dpd.interval", update: ike(client.Object{"dpd": client.Object{"interval": 20}})},
		{field: "ikepolicy.dpd.msg", update: ike(client.Object{"dpd": client.Object{"msg": "seq-notify-hash"}})},
		{field: "ipsecpolicy.lifetime_seconds", update: esp(client.Object{"lifetime_seconds": 1800})},
		{field: "enable_hub", update: client.Object{"enable_hub": true}, refused: "must be false with style"},
		{field: "ipsecpolicy.transform_protocol", update: esp(client.Object{"transform_protocol": "esp"})},
		{field: "ipsecpolicy.encapsulation_mode", update: esp(client.Object{"encapsulation_mode": "tunnel"})},
		{field: "vpn_gateway.name", update: client.Object{"name": "another"}},
		{field: "vpn_gateway.flavor", update: client.Object{"flavor": "Professional2"}},
		{field: "customer_gateway.name", update: client.Object{"name": "another"}},
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

// editsProbed are of a tunnel whose far end is probed.
func editsProbed(w *world) []hitless {
	answers := func(w *world) {
		figure := fmt.Sprintf("vpngw_probe_reachable{connection=%q,probe=%q}", w.id(connectionName(0)), "nqa")
		w.check(netlab.Poll(w.ctx, 100*time.Millisecond, func() (bool, error) { return w.figure(figure) == "1", nil }))
	}
	return []hitless{
		{field: "enable_nqa", update: client.Object{"enable_nqa": true}, then: answers},
		{field: "peer_subnets", update: client.Object{"peer_subnets": []string{"192.168.10.0/25", "192.168.10.128/25"}}, then: answers},
		{field: "enable_nqa", update: client.Object{"enable_nqa": false}},
	}
}

// editsIPv6 are of the members of IPv6 networks.
func editsIPv6(w *world) []hitless {
	office, cloud := w.IPv6.Sites[0].Subnet.String(), w.IPv6.CloudSubnet.String()
	const halfOffice, otherOffice = "2001:db8:20:1::/65", "2001:db8:20:1:8000::/65"
	const halfCloud, otherCloud, wideCloud = "2001:db8:10::/65", "2001:db8:10:0:8000::/65", "2001:db8:10::/63"
	rule := func(source string) client.Object {
		return client.Object{"policy_rules_v6": []client.Object{{"source": source, "destination": []string{office}}}}
	}
	selector := func(remote string) func(*netlab.SwanConnection) {
		return func(c *netlab.SwanConnection) { c.Children[0].Remote = []netip.Prefix{netip.MustParsePrefix(remote)} }
	}
	return []hitless{
		{field: "peer_subnets_v6", update: client.Object{"peer_subnets_v6": []string{halfOffice, otherOffice}}},
		{field: "peer_subnets_v6", update: client.Object{"peer_subnets_v6": []string{office}}},
		{field: "vpn_gateway.local_subnets_v6", update: client.Object{"local_subnets_v6": []string{halfCloud, otherCloud}}},
		{field: "vpn_gateway.local_subnets_v6", update: client.Object{"local_subnets_v6": []string{cloud}}},
		{field: "policy_rules_v6", update: rule(wideCloud), peer: selector(wideCloud), peerFirst: true},
		{field: "policy_rules_v6", update: rule(cloud), peer: selector(cloud), tolerated: true},
	}
}

// editsTemplate are of the template of a peer without a fixed address. A new IKE SA
// waits for the peer's next authentication.
func editsTemplate(*world) []hitless {
	policy := func(name string, fields client.Object) client.Object {
		return client.Object{"policy_template": client.Object{name: fields}}
	}
	proposal := func(ike, esp string) func(*netlab.SwanConnection) {
		return func(c *netlab.SwanConnection) { c.Proposal, c.ESPProposal = ike, esp }
	}
	const ikePolicy, ipsecPolicy = "ike_policy", "ipsec_policy"
	const of = "vpn_gateway.policy_template."
	return []hitless{
		{field: of + "ike_policy.lifetime_seconds", update: policy(ikePolicy, client.Object{"lifetime_seconds": 7200})},
		{field: of + "ipsec_policy.lifetime_seconds", update: policy(ipsecPolicy, client.Object{"lifetime_seconds": 1800})},
		{field: of + "ipsec_policy.encryption_algorithm", update: policy(ipsecPolicy, client.Object{"encryption_algorithm": "aes-128"}), peer: proposal("aes256-sha384-ecp256", "aes128-sha256-ecp256"), peerFirst: true},
		{field: of + "ipsec_policy.authentication_algorithm", update: policy(ipsecPolicy, client.Object{"authentication_algorithm": "sha2-512"}), peer: proposal("aes256-sha384-ecp256", "aes128-sha512-ecp256")},
		{field: of + "ipsec_policy.pfs", update: policy(ipsecPolicy, client.Object{"pfs": "group20"}), peer: proposal("aes256-sha384-ecp256", "aes128-sha512-ecp384"), peerFirst: true},
		{
			field: of + "ike_policy.encryption_algorithm", also: []string{of + "ike_policy.authentication_algorithm", of + "ike_policy.dh_group"},
			update: policy(ikePolicy, client.Object{"encryption_algorithm": "aes-128", "authentication_algorithm": "sha2-512", "dh_group": "group20"}),
			peer:   proposal("aes128-sha512-ecp384", "aes128-sha512-ecp384"), tolerated: true, begin: true,
		},
	}
}

// hitlessScenario is a tunnel, and the edits that are made of it.
type hitlessScenario struct {
	name  string
	edits func(*world) []hitless
	ipv6  bool
	// setup prepares the tunnel, whose peer begins if it says so.
	setup func(*world, *declare.File, *netlab.SwanConnection)
}

var hitlessScenarios = []hitlessScenario{
	{name: "IKEv2", edits: editsV2, setup: func(*world, *declare.File, *netlab.SwanConnection) {}},
	{name: "IKEv1", edits: editsV1, setup: func(_ *world, f *declare.File, s *netlab.SwanConnection) {
		f.Connections[0].IKEPolicy = &declare.IKEPolicy{EncryptionAlgorithm: "aes-128", AuthenticationAlgorithm: "sha2-256", DHGroup: "group19"}
		s.Proposal = "aes128-sha256-ecp256"
	}},
	{name: "routes", edits: editsStatic, setup: func(_ *world, f *declare.File, _ *netlab.SwanConnection) { static(f) }},
	{name: "probes", edits: editsProbed, setup: func(w *world, f *declare.File, s *netlab.SwanConnection) {
		static(f)
		w.check(w.Sites[0].Router.IP(w.ctx, "addr add 169.254.70.2/32 dev lo"))
		s.Children[0].Local = append(slices.Clip(s.Children[0].Local), netip.MustParsePrefix("169.254.70.2/32"))
		s.Children[0].Remote = append(slices.Clip(s.Children[0].Remote), netip.MustParsePrefix("169.254.70.1/32"))
	}},
	{name: "IPv6", edits: editsIPv6, ipv6: true, setup: func(w *world, f *declare.File, s *netlab.SwanConnection) {
		cloud, office := w.IPv6.CloudSubnet, w.IPv6.Sites[0].Subnet
		g, c := &f.Gateways[0], &f.Connections[0]
		g.IPVersion, g.LocalSubnets, g.LocalSubnetsV6 = "ipv6", nil, []string{cloud.String()}
		c.PeerSubnets, c.PolicyRules = nil, nil
		c.PeerSubnetsV6, c.PolicyRulesV6 = []string{office.String()}, []declare.PolicyRule{{Source: cloud.String(), Destination: []string{office.String()}}}
		s.Children = []netlab.SwanChild{{Name: "net", Local: []netip.Prefix{office}, Remote: []netip.Prefix{cloud}}}
	}},
	{name: "policy template", edits: editsTemplate, setup: func(w *world, f *declare.File, s *netlab.SwanConnection) {
		f.Gateways[0].Flavor = "Professional1-NonFixedIP"
		f.Gateways[0].PolicyTemplate = &declare.PolicyTemplate{
			IKEPolicy:   &declare.IKEPolicy{EncryptionAlgorithm: "aes-256", AuthenticationAlgorithm: "sha2-384", DHGroup: "group19"},
			IPsecPolicy: &declare.IPsecPolicy{EncryptionAlgorithm: "aes-256-gcm-16", PFS: "group19"},
		}
		c := &f.Connections[0]
		c.Style, c.PolicyRules, c.PeerSubnets, c.IKEPolicy, c.IPsecPolicy = "policy-template", nil, []string{"192.168.0.0/16"}, nil, nil
		respondOnly(&f.CustomerGateways[0])
		s.LocalID = connectionName(0) + ".test"
		s.Proposal, s.ESPProposal = "aes256-sha384-ecp256", "aes256gcm16-ecp256"
	}},
}

// static makes the file's connection one of style static.
func static(f *declare.File) {
	c := &f.Connections[0]
	c.Style, c.PolicyRules, c.PeerSubnets = "static", nil, c.PeerSubnets[:1]
	c.TunnelLocalAddress, c.TunnelPeerAddress = "169.254.70.1/30", "169.254.70.2/30"
}

// A stream of 1,000 datagrams a second in each direction goes on over every edit that
// is not to drop the tunnel. What is lost must have been counted by a queue. No edit
// does more than the plan said.
func TestHitlessEdits(t *testing.T) {
	for _, scenario := range hitlessScenarios {
		t.Run(scenario.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 6*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 1), IPv6: scenario.ipv6}, netlab.DaemonOptions{Retransmit: true})
			f, swan := w.file([]declare.Connection{w.connection(0)}), w.swan(0)
			scenario.setup(w, f, &swan)
			if respondsOnly := f.CustomerGateways[0].IDType == "fqdn"; respondsOnly {
				w.apply(f)
				w.check(w.peer(0, aggressiveSettings, swan).Initiate(w.ctx, "net", patience))
			} else {
				w.peer(0, aggressiveSettings, swan)
				w.apply(f)
			}
			w.waitStatus(connectionName(0), "ACTIVE", patience)
			cloud, office := w.CloudAddresses[0], w.Sites[0].Addresses[0]
			if scenario.ipv6 {
				cloud, office = w.IPv6.CloudAddress, w.IPv6.Sites[0].Address
			}
			w.reach(w.CloudHost, cloud, office)
			id := w.id(connectionName(0))
			w.settled(id)
			streams := w.startStreams(0, cloud, office)
			for _, e := range scenario.edits(w) {
				streams.next(e.field)
				w.editOne(id, &swan, e)
			}
			streams.finish()
			w.expectNothingInClear()
		})
	}
}

// Each field of control.Edits is edited by a test with streams under way: if it is
// classed as one that drops the tunnel, by one that watches other tunnels.
func TestEveryEditIsTried(t *testing.T) {
	hitless, dropping := map[string]bool{}, map[string]bool{}
	for _, scenario := range hitlessScenarios {
		for _, e := range scenario.edits(blank) {
			for _, field := range append(e.also, e.field) {
				hitless[field] = true
			}
		}
	}
	for _, e := range keyExchangeEdits {
		hitless[e.field] = true
	}
	for _, e := range droppingEdits {
		dropping[e.field] = true
	}
	dropping[certificateEdit] = true
	for _, e := range control.Edits {
		field := e.Field
		if e.Object != control.EditConnection {
			field = e.Object + "." + e.Field
		}
		tried := hitless
		if e.Disruption == control.DisruptAll {
			tried = dropping
		}
		if !tried[field] {
			t.Errorf("no edit of %s, of class %s, is tried under traffic", field, e.Disruption)
		}
		delete(tried, field)
	}
	for field := range hitless {
		t.Errorf("an edit of %s is tried as one without loss, which is not its class", field)
	}
	for field := range dropping {
		t.Errorf("an edit of %s is tried as one that drops the tunnel, which is not its class", field)
	}
}

// blank is a world whose edits are only listed.
var blank = &world{Topology: &netlab.Topology{
	Sites:        []*netlab.Site{{Subnets: [2]netip.Prefix{netip.MustParsePrefix("192.168.10.0/24"), netip.MustParsePrefix("192.168.11.0/24")}}},
	CloudSubnets: [2]netip.Prefix{netip.MustParsePrefix("10.10.0.0/24"), netip.MustParsePrefix("10.10.1.0/24")},
	IPv6:         &netlab.IPv6{Sites: make([]netlab.SiteIPv6, 1)},
}}

// editOne makes one edit, with the peer ahead or behind, and waits until both ends
// have gone over to it.
func (w *world) editOne(id string, swan *netlab.SwanConnection, e hitless) {
	t := w.t
	t.Helper()
	object, field, edited := w.objectOf(id, e.field)
	if e.refused != "" {
		if _, err := w.api.Update(w.ctx, edited.kind, edited.id, e.update); err == nil || !strings.Contains(err.Error(), e.refused) {
			t.Errorf("%s: %v, want a refusal with %q", e.field, err, e.refused)
		}
		w.settled(id)
		return
	}
	disruption := w.planned(id, object, field, e.update)
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
	t.Logf("%s: %s, peer first: %v", e.field, disruption, e.peerFirst)
	w.edit(edited, field, e.update)
	if e.peer != nil && !e.peerFirst {
		if !e.tolerated {
			w.waitMessage(id, "before the last change")
		}
		load()
	}
	if e.begin {
		w.check(w.peers[0].Initiate(w.ctx, "net", patience))
	}
	w.settled(id)
	last := w.expectOneSAOf(id, 0, 1, patience)
	sameIKE := last.InitiatorSPI == first.InitiatorSPI && last.ResponderSPI == first.ResponderSPI
	sameChild := last.Children[0].SPIIn == first.Children[0].SPIIn
	switch d := disruption; {
	case d == control.DisruptNothing && !sameChild, d.Compare(control.DisruptChild) <= 0 && !sameIKE:
		t.Errorf("%s: planned was %s: the IKE SA is the same: %v, the CHILD_SA: %v", e.field, d, sameIKE, sameChild)
	case d == control.DisruptChild && sameChild, d == control.DisruptIKE && sameIKE:
		t.Errorf("%s: has no effect on the tunnel", e.field)
	}
	if e.then != nil {
		e.then(w)
	}
}

// inUDP: strongSwan's ESP in user space asks for UDP, whatever this side wants.
func inUDP(w *world) {
	w.t.Helper()
	w.expectEncapsulation(connectionName(0), "udp", "or the peer asks for it")
}

// expectEncapsulation waits until the API says that the ESP of a connection goes in
// something, for a reason.
func (w *world) expectEncapsulation(connection, name, reason string) {
	w.t.Helper()
	id := w.id(connection)
	var in map[string]any
	err := netlab.Poll(w.ctx, 50*time.Millisecond, func() (bool, error) {
		o, err := w.api.Get(w.ctx, client.Connections, id)
		if err != nil {
			return false, err
		}
		in, _ = o["esp_encapsulation"].(map[string]any)
		return client.Object(in).Text("name") == name && strings.Contains(client.Object(in).Text("reason"), reason), nil
	})
	if err != nil {
		w.t.Fatalf("connection %s: ESP goes in %v, want %s since %q: %v", connection, in, name, reason, err)
	}
}

// object is one object of the API.
type object struct {
	kind client.Kind
	id   string
}

// objectOf tells of what object a field is, by the name that plans have for it, and
// which one that is of a connection.
func (w *world) objectOf(connection, field string) (name, of string, found object) {
	w.t.Helper()
	kind, reference := client.Connections, ""
	if rest, ok := strings.CutPrefix(field, control.EditGateway+"."); ok {
		kind, reference, name, field = client.Gateways, "vgw_id", control.EditGateway, rest
	} else if rest, ok := strings.CutPrefix(field, control.EditCustomerGateway+"."); ok {
		kind, reference, name, field = client.CustomerGateways, "cgw_id", control.EditCustomerGateway, rest
	} else {
		return control.EditConnection, field, object{kind, connection}
	}
	o, err := w.api.Get(w.ctx, client.Connections, connection)
	w.check(err)
	return name, field, object{kind, o.Text(reference)}
}

// edit updates an object and waits until it is as it shall be. A flavor has an
// operation of its own.
func (w *world) edit(o object, field string, update client.Object) {
	w.t.Helper()
	var err error
	if field == "flavor" {
		err = w.api.Call(w.ctx, http.MethodPost, "vpn-gateways/"+o.id+"/update-specification", client.Object{"vpn_gateway": update}, nil)
	} else {
		_, err = w.api.Update(w.ctx, o.kind, o.id, update)
	}
	w.check(err)
	if o.kind.Name != client.CustomerGateways.Name {
		_, err = w.api.WaitSettled(w.ctx, o.kind, o.id, 50*time.Millisecond)
		w.check(err)
	}
}

// planned returns what the plan of an edit says, which is at most its class. A flavor
// cannot be planned, and changes nothing.
func (w *world) planned(connection, object, field string, update client.Object) control.Disruption {
	w.t.Helper()
	if field == "flavor" {
		return control.DisruptNothing
	}
	plan, err := w.api.Plan(w.ctx, connection, map[string]any{object: update})
	w.check(err)
	w.checkPlan(plan, object, field)
	return control.Disruption(plan.Text("disruption"))
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
