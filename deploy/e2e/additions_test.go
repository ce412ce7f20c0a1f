//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

const ppk = "E2e-ppk-of-48-octets-which-a-quantum-computer-fears"

// What goes beyond the API, against strongSwan: ChaCha20-Poly1305 and Curve25519,
// and a post-quantum pre-shared key, which strongSwan mixes in as we do: else no
// traffic would pass. Both SAs are rekeyed by both ends.
func TestAdditions(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		initiator string // "gateway" or "peer"
		chacha    bool
		ours      string // PPK: "", "optional" or "required"
		theirs    string
		want      bool // the PPK is used
	}{
		{name: "gateway begins, ChaCha20-Poly1305 and Curve25519", initiator: "gateway", chacha: true},
		{name: "peer begins, ChaCha20-Poly1305 and Curve25519, PPK required", initiator: "peer", chacha: true, ours: "required", theirs: "required", want: true},
		{name: "gateway begins, PPK optional", initiator: "gateway", ours: "optional", theirs: "optional", want: true},
		{name: "gateway begins, PPK optional, peer without", initiator: "gateway", ours: "optional"},
		{name: "peer begins, PPK optional, gateway without", initiator: "peer", theirs: "optional"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 3*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 1)}, netlab.DaemonOptions{})
			connection := w.connection(0, func(c *declare.Connection) {
				if test.chacha {
					c.IKEPolicy = &declare.IKEPolicy{EncryptionAlgorithm: "chacha20-poly1305", AuthenticationAlgorithm: "sha2-512", DHGroup: "group31"}
					c.IPsecPolicy = &declare.IPsecPolicy{EncryptionAlgorithm: "chacha20-poly1305", PFS: "group31"}
				}
				if test.ours != "" {
					required := test.ours == "required"
					c.PPK, c.IKEPolicy.PPKID, c.IKEPolicy.PPKRequired = ppk, "office-1", &required
				}
			})
			swan := w.swan(0, func(c *netlab.SwanConnection) {
				c.Initiate = test.initiator == "peer"
				if test.chacha {
					c.Proposal, c.ESPProposal = "chacha20poly1305-prfsha512-curve25519", "chacha20poly1305-curve25519"
				}
				if test.theirs != "" {
					c.PPK, c.PPKID, c.PPKRequired = ppk, "office-1", test.theirs == "required"
				}
			})
			if test.initiator == "peer" {
				connection.IKEPolicy.PeerIDType, connection.IKEPolicy.PeerID = "ip", w.Sites[0].Public.String()
				w.apply(w.file([]declare.Connection{connection}, respondOnly))
				w.peer(0, nil, swan)
			} else {
				w.peer(0, nil, swan)
				w.apply(w.file([]declare.Connection{connection}))
			}
			w.waitStatus(connection.Name, "ACTIVE", patience)
			ike := w.expectOneSA(0, 1, patience)
			if child := ike.Children[0]; test.chacha && (ike.Encryption != "CHACHA20_POLY1305" || child.Encryption != "CHACHA20_POLY1305" || ike.Group != "CURVE_25519") {
				t.Errorf("the SAs have %s with %s, and %s", ike.Encryption, ike.Group, child.Encryption)
			}
			if got := strings.Contains(w.peers[0].Log(), "using PPK for PPK_ID"); got != test.want {
				t.Errorf("strongSwan uses a PPK: %t, want %t", got, test.want)
			}
			site := w.Sites[0]
			both := func() {
				t.Helper()
				w.reach(w.CloudHost, w.CloudAddresses[0], site.Addresses[0])
				w.reach(site.Host, site.Addresses[0], w.CloudAddresses[0])
			}
			both()
			w.check(w.peers[0].RekeyIKE(w.ctx, swan.Name))
			w.waitLog(connection.Name, patience, "An IKE SA is rekeyed")
			w.check(w.peers[0].RekeyChild(w.ctx, "net"))
			w.waitLog(connection.Name, patience, "An IPSec tunnel is rekeyed")
			both()
			w.expectNothingInClear()
			if strings.Contains(w.daemon.Log(), ppk) || strings.Contains(w.log(connection.Name), ppk) {
				t.Error("the post-quantum key is in a log")
			}
		})
	}
}

// Ends that disagree about a post-quantum pre-shared key do not come together,
// and the log says why.
func TestAdditionsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 2)}, netlab.DaemonOptions{Retransmit: true})
	required := true
	var connections []declare.Connection
	for site := range w.Sites {
		connection := w.connection(site)
		connection.PPK, connection.IKEPolicy.PPKID, connection.IKEPolicy.PPKRequired = ppk, "office", &required
		connections = append(connections, connection)
		swan := w.swan(site)
		if site == 1 {
			swan.PPK, swan.PPKID = otherPSK+otherPSK, "office"
		}
		w.peer(site, nil, swan)
	}
	w.apply(w.file(connections))
	w.waitLog(connectionName(0), patience, "parameter: post-quantum pre-shared key", "ours: required, id office", "theirs: none")
	w.waitLog(connectionName(1), patience, "Reason=[authentication fail]")
	if err := w.peers[1].Initiate(w.ctx, "net", 3*time.Second); err == nil {
		t.Error("a tunnel with another post-quantum key is up")
	}
	w.waitLog(connectionName(1), patience, "parameter: post-quantum pre-shared key", "the keys of this id differ")
	w.expectNothingInClear()
}
