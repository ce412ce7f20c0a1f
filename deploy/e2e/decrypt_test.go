//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// An independent implementation reads what we send: tshark, with the keys that
// the daemon writes under its debug switch, decrypts IKE and finds every ICV of
// ESP correct.
func TestTsharkDecrypts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, encryption, swanIKE, swanESP string
	}{
		{"AES-GCM", "aes-128-gcm-16", "aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256"},
		{"AES-CBC with SHA2-256", "aes-256", "aes256-sha256-ecp256", "aes256-sha256-ecp256"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 5*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 1)}, netlab.DaemonOptions{KeyLog: true})
			// Else a veth carries what one system call sent as a single packet,
			// which no real wire would.
			w.check(w.Gateway.IP(w.ctx, "link set "+netlab.WAN+" gso_max_segs 1"))
			wire, err := w.Internet.Capture(w.ctx, "wire", "cloud", "")
			w.check(err)
			w.peer(0, nil, w.swan(0, func(c *netlab.SwanConnection) { c.Proposal, c.ESPProposal = test.swanIKE, test.swanESP }))
			w.apply(w.file([]declare.Connection{w.connection(0, func(c *declare.Connection) {
				c.IKEPolicy.EncryptionAlgorithm, c.IPsecPolicy.EncryptionAlgorithm = test.encryption, test.encryption
			})}))
			w.waitStatus(connectionName(0), "ACTIVE", patience)
			w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[0].Addresses[0])
			w.check(w.peers[0].RekeyChild(w.ctx, "net"))
			w.check(w.peers[0].RekeyIKE(w.ctx, "cloud"))
			w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[0].Addresses[0])
			_, err = netlab.RunIPerf(w.ctx, w.CloudHost, w.Sites[0].Host, w.Sites[0].Addresses[0], netlab.IPerf{Duration: 3 * time.Second, Rate: "20M"})
			w.check(err)
			w.expectOneSA(0, 1, patience)
			w.check(w.daemon.Stop())
			w.check(wire.Finish(w.ctx))

			auth, err := wire.Fields(w.ctx, w.daemon.KeyDir, "isakmp.exchangetype==35", "ip.src", "isakmp.auth.method", "isakmp.id.data.ipv4_addr")
			w.check(err)
			sides := map[string]bool{} // a message may be there more than once
			for _, row := range auth {
				sides[row[0]] = true
				if row[1] != "2" || row[2] == "" {
					t.Errorf("an IKE_AUTH message is not decrypted: %v", row)
				}
			}
			if len(sides) != 2 {
				t.Errorf("want an IKE_AUTH request and response, have %v", auth)
			}
			rekeys, err := wire.Fields(w.ctx, w.daemon.KeyDir, "isakmp.exchangetype==36", "isakmp.nonce")
			w.check(err)
			if len(rekeys) < 4 {
				t.Errorf("want two CREATE_CHILD_SA exchanges, have %v", rekeys)
			}
			for _, row := range rekeys {
				if row[0] == "" {
					t.Errorf("a CREATE_CHILD_SA message is not decrypted: %v", rekeys)
				}
			}

			good, bad, inner := 0, 0, 0
			esp, err := wire.Fields(w.ctx, w.daemon.KeyDir, "esp", "ip.src", "esp.spi", "esp.icv_good", "esp.icv_bad", "ip.proto")
			w.check(err)
			sources := map[string]bool{}
			for _, row := range esp {
				outer, _, _ := strings.Cut(row[0], ",")
				switch {
				case row[3] == "1" || row[3] == "True":
					bad++
				case row[2] == "1" || row[2] == "True":
					good++
					sources[outer] = true
				}
				if strings.Contains(row[4], ",") { // an IP header within
					inner++
				}
			}
			t.Logf("%d ESP packets: %d ICVs correct, %d not, %d deciphered", len(esp), good, bad, inner)
			if len(esp) < 1000 || good != len(esp) || len(sources) != 2 || inner != len(esp) {
				t.Errorf("%d ESP packets from %v: %d ICVs correct, %d not, %d deciphered", len(esp), sources, good, bad, inner)
			}
		})
	}
}
