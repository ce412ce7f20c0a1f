//go:build e2e

package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// What the API exports for strongSwan brings the tunnel up as it stands, but for
// the pre-shared key.
func TestExportedPeerConfiguration(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*declare.Connection){
		"policy": func(*declare.Connection) {},
		"static": func(c *declare.Connection) { c.Style, c.PolicyRules = "static", nil },
		"names, AES-CBC": func(c *declare.Connection) {
			c.IKEPolicy = &declare.IKEPolicy{
				EncryptionAlgorithm: "aes-256", AuthenticationAlgorithm: "sha2-384", DHGroup: "group14",
				LocalIDType: "fqdn", LocalID: "gateway.cloud.test", PeerIDType: "fqdn", PeerID: "router.office.test",
			}
			c.IPsecPolicy = &declare.IPsecPolicy{EncryptionAlgorithm: "aes-192", AuthenticationAlgorithm: "sha2-512", PFS: "disable"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 5*time.Minute, netlab.Config{Sites: []netlab.SiteConfig{{}}}, netlab.DaemonOptions{})
			connection := w.connection(0, edit)
			w.apply(w.file([]declare.Connection{connection}))
			var exported struct {
				Text string `json:"peer_config"`
			}
			w.check(w.api.Call(w.ctx, http.MethodPost, "vpn-connection/"+w.id(connection.Name)+"/peer-configuration/export",
				client.Object{"vendor": "strongSwan", "type": "swanctl", "model": "Linux", "version": "5.9"}, &exported))
			const placeholder = `"<PRE-SHARED KEY>"`
			if strings.Count(exported.Text, placeholder) != 1 || strings.Contains(exported.Text, psk) {
				t.Fatalf("the configuration has not one place for the key:\n%s", exported.Text)
			}
			peer, err := w.Sites[0].Router.StartStrongSwan(w.ctx, "strongswan0", strings.ReplaceAll(exported.Text, placeholder, `"`+psk+`"`), nil)
			if peer != nil {
				w.peers[0] = peer
			}
			w.check(err)
			w.waitStatus(connection.Name, "ACTIVE", patience)
			w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[0].Addresses[0])
			w.reach(w.Sites[0].Host, w.Sites[0].Addresses[0], w.CloudAddresses[0])
			w.expectNothingInClear()
		})
	}
}
