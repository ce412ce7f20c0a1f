//go:build e2e

package e2e

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// Three peers without a fixed address on the template of one gateway, all within
// the same wide peer subnet: one behind a NAT with two CHILD_SAs, one that first
// asks for a network of the first and is refused, one of IKEv1 in aggressive mode.
// What each is for follows from what it asks for. The second comes back from
// another address.
func TestPolicyTemplate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4*time.Minute, netlab.Config{Sites: []netlab.SiteConfig{{NAT: true}, {}, {}}}, netlab.DaemonOptions{})
	whole := []string{"192.168.0.0/16"}
	var connections []declare.Connection
	var swans []netlab.SwanConnection
	for site := range w.Sites {
		connections = append(connections, w.connection(site, func(c *declare.Connection) {
			c.Style, c.PolicyRules, c.PeerSubnets = "policy-template", nil, whole
			c.IKEPolicy, c.IPsecPolicy = nil, nil // the template's count
		}))
		swans = append(swans, w.swan(site, func(c *netlab.SwanConnection) {
			c.Initiate, c.LocalID = true, connectionName(site)+".test"
			c.Proposal, c.ESPProposal = "aes256-sha384-ecp256", "aes256gcm16-ecp256"
		}))
	}
	second := netlab.SwanChild{Name: "second", Local: w.Sites[0].Subnets[1:], Remote: w.CloudSubnets[:1]}
	swans[0].Children = append(swans[0].Children, second)
	stolen := netlab.SwanChild{Name: "stolen", Local: w.Sites[0].Subnets[:1], Remote: w.CloudSubnets[:1]}
	swans[1].Children = append([]netlab.SwanChild{stolen}, swans[1].Children...)
	connections[2].IKEPolicy = &declare.IKEPolicy{IKEVersion: "v1", Phase1NegotiationMode: "aggressive"}
	swans[2].V1, swans[2].Aggressive = true, true

	f := w.file(connections, respondOnly)
	f.Gateways[0].Flavor = "Professional1-NonFixedIP"
	f.Gateways[0].PolicyTemplate = &declare.PolicyTemplate{
		IKEPolicy:   &declare.IKEPolicy{EncryptionAlgorithm: "aes-256", AuthenticationAlgorithm: "sha2-384", DHGroup: "group19"},
		IPsecPolicy: &declare.IPsecPolicy{EncryptionAlgorithm: "aes-256-gcm-16", PFS: "group19"},
	}
	w.apply(f)
	w.peer(0, nil, swans[0])
	w.waitStatus(connectionName(0), "ACTIVE", patience)
	w.expectOneSA(0, 2, patience)
	w.peer(1, nil, swans[1])
	w.peer(2, aggressiveSettings, swans[2])

	both := func(site int, address netip.Addr) {
		t.Helper()
		w.reach(w.Sites[site].Host, address, w.CloudAddresses[0])
		w.reach(w.CloudHost, w.CloudAddresses[0], address)
	}
	for site, s := range w.Sites {
		w.waitStatus(connectionName(site), "ACTIVE", patience)
		both(site, s.Addresses[0])
	}
	both(0, w.Sites[0].Addresses[1])
	w.waitLog(connectionName(1), patience, "Reason=[flow conflict]", "192.168.10.0/24")
	if log := w.peers[1].Log(); !strings.Contains(log, "TS_UNACCEPT") {
		t.Errorf("the peer was not told:\n%s", log)
	}
	w.expectOneSA(1, 1, patience)
	w.check(w.peers[0].RekeyChild(w.ctx, "net"))
	w.check(w.peers[0].RekeyIKE(w.ctx, "cloud"))

	// The second peer dies and comes back elsewhere.
	s := w.Sites[1]
	w.check(w.peers[1].Kill())
	moved := s.Public.Next()
	w.check(s.Router.IP(w.ctx, "addr add "+moved.String()+"/28 dev "+netlab.WAN))
	swans[1].Local, swans[1].Children = moved, swans[1].Children[1:]
	w.check(w.peers[1].Start(w.ctx, netlab.SwanConfig(swans[1])))
	w.waitLog(connectionName(1), patience, "An IKE SA is established", moved.String())
	w.expectOneSA(1, 1, patience)
	for site, s := range w.Sites {
		both(site, s.Addresses[0])
	}
	w.expectNothingInClear()
}
