//go:build e2e && uml

package e2e

import (
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// Without a NAT and without asking for encapsulation, which a daemon or one of its
// connections may do without, ESP is IP protocol 50, to and from strongSwan with the
// kernel's own ESP. Only a guest whose kernel has that can run it (uml.sh test).
func TestUMLRawESP(t *testing.T) {
	for _, test := range []struct{ name, encryption, swanIKE, swanESP, v1, option string }{
		{"AES-GCM", "aes-128-gcm-16", "aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256", "", "nat"},
		{"AES-CBC with SHA2-256", "aes-256", "aes256-sha256-ecp256", "aes256-sha256-ecp256", "", ""},
		{"IKEv1, main mode", "aes-256", "aes256-sha256-ecp256", "aes256-sha256-ecp256", "main", "nat"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, 3*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 1)}, netlab.DaemonOptions{RawESP: test.option == ""})
			raw, err := w.Internet.Capture(w.ctx, "esp", "cloud", "esp")
			w.check(err)
			encapsulated, err := w.Internet.Capture(w.ctx, "udp", "cloud", "udp port 4500")
			w.check(err)
			swan := w.swan(0, func(c *netlab.SwanConnection) { c.Proposal, c.ESPProposal = test.swanIKE, test.swanESP })
			connection := w.connection(0, func(c *declare.Connection) {
				c.IKEPolicy.EncryptionAlgorithm, c.IPsecPolicy.EncryptionAlgorithm = test.encryption, test.encryption
				c.IPsecPolicy.UDPEncapsulation = test.option
			})
			if test.v1 != "" {
				ikev1(&connection, &swan, test.v1)
			}
			peer := w.peer(0, aggressiveSettings, swan)
			if !peer.KernelESP {
				t.Fatal("the kernel has no ESP")
			}
			w.apply(w.file([]declare.Connection{connection}))
			w.waitStatus(connectionName(0), "ACTIVE", 2*patience)
			w.expectEncapsulation(connectionName(0), "none", "neither end asks")
			ping := w.ping(0)
			if test.v1 == "" { // of IKEv1 strongSwan keeps what it has rekeyed to the end of its life
				w.check(peer.RekeyChild(w.ctx, "net"))
				w.check(peer.RekeyIKE(w.ctx, "cloud"))
			}
			w.check(netlab.Poll(w.ctx, 50*time.Millisecond, func() (bool, error) { return ping.Received() > 10, nil }))
			report, err := ping.Finish(w.ctx)
			w.check(err)
			if len(report.Lost) > 0 {
				t.Errorf("rekeying disturbed: %v", report)
			}
			w.reach(w.Sites[0].Host, w.Sites[0].Addresses[0], w.CloudAddresses[0])
			if child := w.expectOneSA(0, 1, patience).Children[0]; child.Encap {
				t.Errorf("ESP is encapsulated: %+v", child)
			}
			w.check(raw.Finish(w.ctx))
			w.check(encapsulated.Finish(w.ctx))
			for _, source := range []string{w.Public[0].String(), w.Sites[0].Public.String()} {
				rows, err := raw.Fields(w.ctx, "", "esp && ip.src=="+source, "esp.spi")
				w.check(err)
				if len(rows) < 10 {
					t.Errorf("%d packets of protocol 50 from %s", len(rows), source)
				}
			}
			rows, err := encapsulated.Fields(w.ctx, "", "esp", "ip.src")
			w.check(err)
			if len(rows) > 0 {
				t.Errorf("%d packets of ESP in UDP", len(rows))
			}
			w.expectNothingInClear()
		})
	}
}
