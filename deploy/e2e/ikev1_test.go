//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// aggressiveSettings let strongSwan respond in aggressive mode with a pre-shared
// key, which it refuses as a rule.
var aggressiveSettings = map[string]string{"i_dont_care_about_security_and_use_aggressive_mode_psk": "yes"}

// ikev1 makes a connection and its peer's configuration ones of IKEv1.
func ikev1(c *declare.Connection, swan *netlab.SwanConnection, mode string) {
	c.IKEPolicy.IKEVersion, c.IKEPolicy.Phase1NegotiationMode = "v1", mode
	swan.V1, swan.Aggressive = true, mode == "aggressive"
}

// Every row is one tunnel of IKEv1 with another choice of mode, of who begins, of
// algorithms and of what is between the two.
func TestIKEv1(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		mode       string
		initiator  string // "gateway" or "peer"
		nat        netlab.CloudNAT
		encryption [2]string // the API's words, of IKE and ESP
		hash       [2]string
		group      string
		pfs        string
		swanIKE    string
		swanESP    string
	}{
		{
			name: "main, gateway begins", mode: "main", initiator: "gateway",
			encryption: [2]string{"aes-256", "aes-128-gcm-16"}, hash: [2]string{"sha2-256", "sha2-256"}, group: "group14", pfs: "group14",
			swanIKE: "aes256-sha256-modp2048", swanESP: "aes128gcm16-modp2048",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2*time.Minute, netlab.Config{Sites: []netlab.SiteConfig{{}}, CloudNAT: test.nat}, netlab.DaemonOptions{})
			connection := w.connection(0)
			connection.IKEPolicy = &declare.IKEPolicy{EncryptionAlgorithm: test.encryption[0], AuthenticationAlgorithm: test.hash[0], DHGroup: test.group}
			connection.IPsecPolicy = &declare.IPsecPolicy{EncryptionAlgorithm: test.encryption[1], AuthenticationAlgorithm: test.hash[1], PFS: test.pfs}
			swan := w.swan(0, func(c *netlab.SwanConnection) {
				c.Proposal, c.ESPProposal = test.swanIKE, test.swanESP
				c.Initiate = test.initiator == "peer"
			})
			ikev1(&connection, &swan, test.mode)
			file := w.file([]declare.Connection{connection})
			if test.initiator == "peer" {
				w.apply(file)
				w.peer(0, aggressiveSettings, swan)
			} else {
				w.peer(0, aggressiveSettings, swan)
				w.apply(file)
			}
			w.waitStatus(connection.Name, "ACTIVE", patience)
			w.expectOneSA(0, 1, patience)
			site := w.Sites[0]
			w.reach(w.CloudHost, w.CloudAddresses[0], site.Addresses[0])
			w.reach(site.Host, site.Addresses[0], w.CloudAddresses[0])
			w.expectNothingInClear()
		})
	}
}
