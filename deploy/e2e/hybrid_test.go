//go:build e2e

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// hybridIKE and hybridESP are strongSwan's words for what hybrid asks for.
const (
	hybridIKE = "aes128gcm16-prfsha256-curve25519-ke1_mlkem768"
	hybridESP = "aes128gcm16-curve25519-ke1_mlkem768"
)

// hybrid has ML-KEM-768 beside Curve25519 in both key exchanges.
func hybrid(c *declare.Connection) {
	c.IKEPolicy.DHGroup, c.IKEPolicy.AdditionalKeyExchange = "group31", "mlkem768"
	c.IPsecPolicy.PFS, c.IPsecPolicy.AdditionalKeyExchange = "group31", "mlkem768"
}

// ML-KEM-768 as additional key exchange with strongSwan 6, begun by the gateway, and
// by a peer behind a NAT that asks for a post-quantum pre-shared key, too, and
// sends all messages in small fragments. The gateway rekeys both SAs, after which
// traffic goes on.
func TestHybridRekeys(t *testing.T) {
	t.Parallel()
	config := netlab.Config{Sites: []netlab.SiteConfig{{}, {NAT: true}}}
	w := newWorld(t, 4*time.Minute, config, netlab.DaemonOptions{Lifetime: 40 * time.Second, ChildLifetime: 30 * time.Second})
	required := true
	near, far := w.connection(0, hybrid), w.connection(1, hybrid)
	far.PPK, far.IKEPolicy.PPKID, far.IKEPolicy.PPKRequired = ppk, "office", &required
	far.IKEPolicy.PeerIDType, far.IKEPolicy.PeerID = "ip", w.Sites[1].Public.String()
	w.newerPeer(0, nil, w.swan(0, func(c *netlab.SwanConnection) { c.Proposal, c.ESPProposal = hybridIKE, hybridESP }))
	w.apply(w.file([]declare.Connection{near, far}, func(c *declare.CustomerGateway) {
		if c.Name == connectionName(1) {
			respondOnly(c)
		}
	}))
	w.newerPeer(1, map[string]string{"fragment_size": "500"}, w.swan(1, func(c *netlab.SwanConnection) {
		c.Proposal, c.ESPProposal, c.Initiate = hybridIKE, hybridESP, true
		c.PPK, c.PPKID, c.PPKRequired = ppk, "office", true
	}))
	for site := range w.Sites {
		w.waitStatus(connectionName(site), "ACTIVE", patience)
		w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[site].Addresses[0])
	}
	for site, s := range w.Sites {
		w.waitLog(connectionName(site), patience, "An IKE SA is rekeyed")
		w.waitLog(connectionName(site), patience, "An IPSec tunnel is rekeyed")
		w.waitExchanges(site, site == 1)
		w.reach(w.CloudHost, w.CloudAddresses[0], s.Addresses[0])
		w.reach(s.Host, s.Addresses[0], w.CloudAddresses[0])
		log := w.peers[site].Log()
		for _, words := range []string{"parsed IKE_FOLLOWUP_KE request", "IKE_INTERMEDIATE"} {
			if !strings.Contains(log, words) {
				t.Errorf("site %d: strongSwan does not tell of %s", site, words)
			}
		}
		if fragmented := strings.Contains(log, "splitting IKE message"); site == 1 && !fragmented {
			t.Error("strongSwan sends no fragments")
		}
	}
	w.expectNothingInClear()
}

// waitExchanges waits until the peer's SAs are rekeyed ones with ML-KEM-768, and have
// a post-quantum pre-shared key or none.
func (w *world) waitExchanges(site int, ppk bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	var sas []netlab.SwanIKE
	err := netlab.Poll(ctx, 100*time.Millisecond, func() (_ bool, err error) {
		sas, err = w.peers[site].SAs(w.ctx)
		for _, ike := range sas {
			for _, child := range ike.Children {
				if child.State == "INSTALLED" && child.Additional == "ML_KEM_768" && ike.Additional == "ML_KEM_768" && ike.PPK == ppk {
					return true, err
				}
			}
		}
		return false, err
	})
	if err != nil {
		w.t.Errorf("site %d: no SAs with ML-KEM-768 and a post-quantum pre-shared key %v: %+v", site, ppk, sas)
	}
}

// A peer without ML-KEM gets no tunnel that needs it, nor does one that needs it get a
// tunnel without. The log tells of the change by which both ends agree, whoever
// begins.
func TestHybridRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 3)}, netlab.DaemonOptions{Retransmit: true})
	without := func(c *netlab.SwanConnection) {
		c.Proposal, c.ESPProposal = "aes128gcm16-prfsha256-curve25519", "aes128gcm16-curve25519"
	}
	w.peer(0, nil, w.swan(0, without))
	w.newerPeer(1, nil, w.swan(1, without))
	w.newerPeer(2, nil, w.swan(2, func(c *netlab.SwanConnection) { c.Proposal, c.ESPProposal = hybridIKE, hybridESP }))
	w.apply(w.file([]declare.Connection{w.connection(0, hybrid), w.connection(1, hybrid), w.connection(2, func(c *declare.Connection) {
		hybrid(c)
		c.IKEPolicy.AdditionalKeyExchange, c.IPsecPolicy.AdditionalKeyExchange = "", ""
	})}))
	for site, change := range []string{"mlkem768 → disable", "mlkem768 → disable", "disable → mlkem768"} {
		change = "ikepolicy.additional_key_exchange: " + change
		w.waitLog(connectionName(site), patience, "from all that there are it chose", "parameter: additional key exchange 1", change)
		if err := w.peers[site].Initiate(w.ctx, "net", 3*time.Second); err == nil {
			t.Errorf("site %d: a tunnel is up", site)
		}
		w.waitLog(connectionName(site), patience, "exchange: IKE_SA_INIT; remedy: here "+change)
	}
	w.expectNothingInClear()
}
