//go:build e2e

package e2e

import (
	"context"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// Every row is one tunnel with another choice of who begins, algorithms, group,
// identities and style; together they cover each choice.
func TestTunnel(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name          string
		initiator     string // "gateway", "peer" or "both"
		encryption    string // the API's word, for IKE and ESP
		group         string
		names         bool // identities are FQDNs
		static        bool // route-based with tunnel addresses, else 2 rules × 2 destinations
		swanIKE       string
		swanESP       string
		wantEnc       string
		wantBits      string
		wantIntegrity string // of a CHILD_SA
		wantGroup     string
	}{
		{
			name: "gateway begins, AES-GCM, ECP-256, addresses, policy", initiator: "gateway",
			encryption: "aes-128-gcm-16", group: "group19",
			swanIKE: "aes128gcm16-prfsha256-ecp256", swanESP: "aes128gcm16-ecp256",
			wantEnc: "AES_GCM_16", wantBits: "128", wantGroup: "ECP_256",
		},
		{
			name: "peer begins, AES-CBC, MODP-2048, names, policy", initiator: "peer",
			encryption: "aes-256", group: "group14", names: true,
			swanIKE: "aes256-sha256-modp2048", swanESP: "aes256-sha256-modp2048",
			wantEnc: "AES_CBC", wantBits: "256", wantIntegrity: "HMAC_SHA2_256_128", wantGroup: "MODP_2048",
		},
		{
			name: "gateway begins, AES-CBC, MODP-3072, names, static", initiator: "gateway",
			encryption: "aes-256", group: "group15", names: true, static: true,
			swanIKE: "aes256-sha256-modp3072", swanESP: "aes256-sha256-modp3072",
			wantEnc: "AES_CBC", wantBits: "256", wantIntegrity: "HMAC_SHA2_256_128", wantGroup: "MODP_3072",
		},
		{
			name: "peer begins, AES-GCM, ECP-384, addresses, static", initiator: "peer",
			encryption: "aes-128-gcm-16", group: "group20", static: true,
			swanIKE: "aes128gcm16-prfsha256-ecp384", swanESP: "aes128gcm16-ecp384",
			wantEnc: "AES_GCM_16", wantBits: "128", wantGroup: "ECP_384",
		},
		{
			name: "both begin at once, AES-GCM, ECP-256, addresses, policy", initiator: "both",
			encryption: "aes-128-gcm-16", group: "group19",
			swanIKE: "aes128gcm16-prfsha256-ecp256", swanESP: "aes128gcm16-ecp256",
			wantEnc: "AES_GCM_16", wantBits: "128", wantGroup: "ECP_256",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 5*time.Minute, netlab.Config{Sites: []netlab.SiteConfig{{}}}, netlab.DaemonOptions{})
			site := w.Sites[0]

			connection := w.connection(0, func(c *declare.Connection) {
				c.IKEPolicy = &declare.IKEPolicy{EncryptionAlgorithm: test.encryption, AuthenticationAlgorithm: "sha2-256", DHGroup: test.group}
				c.IPsecPolicy = &declare.IPsecPolicy{EncryptionAlgorithm: test.encryption, AuthenticationAlgorithm: "sha2-256", PFS: test.group}
				if test.names {
					c.IKEPolicy.LocalIDType, c.IKEPolicy.LocalID = "fqdn", "gateway.cloud.test"
					c.IKEPolicy.PeerIDType, c.IKEPolicy.PeerID = "fqdn", "router.office.test"
				} else if test.initiator == "peer" {
					c.IKEPolicy.PeerIDType, c.IKEPolicy.PeerID = "ip", site.Public.String()
				}
				if test.static {
					c.Style, c.PolicyRules = "static", nil
					c.TunnelLocalAddress, c.TunnelPeerAddress = "169.254.70.1/30", "169.254.70.2/30"
					return
				}
				destinations := []string{site.Subnets[0].String(), site.Subnets[1].String()}
				c.PolicyRules = []declare.PolicyRule{
					{Source: w.CloudSubnets[0].String(), Destination: destinations},
					{Source: w.CloudSubnets[1].String(), Destination: destinations},
				}
			})
			swan := w.swan(0, func(c *netlab.SwanConnection) {
				c.Proposal, c.ESPProposal = test.swanIKE, test.swanESP
				c.Initiate = test.initiator != "gateway"
				if test.names {
					c.LocalID, c.RemoteID = "router.office.test", "gateway.cloud.test"
				}
				c.Children = nil
				if test.static {
					any4 := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
					c.Children = append(c.Children, netlab.SwanChild{Name: "any", Local: any4, Remote: any4})
					return
				}
				for i, remote := range w.CloudSubnets {
					c.Children = append(c.Children, netlab.SwanChild{
						Name: []string{"first", "second"}[i], Local: site.Subnets[:], Remote: []netip.Prefix{remote},
					})
				}
			})
			file := w.file([]declare.Connection{connection})
			if test.initiator == "peer" {
				file = w.file([]declare.Connection{connection}, respondOnly)
			}

			if test.initiator == "gateway" {
				w.peer(0, nil, swan)
				w.apply(file)
			} else {
				w.apply(file)
				w.peer(0, nil, swan)
			}
			if test.static {
				// A router's own tunnel address, and the networks it is attached to
				// ahead of the default route that strongSwan lets into the tunnel.
				w.check(site.Router.IP(w.ctx,
					"addr add 169.254.70.2/32 dev lo",
					"route add 169.254.70.1/32 dev ipsec0 src 169.254.70.2",
					"rule add pref 100 table main suppress_prefixlength 0"))
			}
			w.waitStatus(connection.Name, "ACTIVE", patience)
			children := len(swan.Children)
			ike := w.expectOneSA(0, children, patience)

			if want := test.initiator == "peer"; test.initiator != "both" && ike.Initiator != want {
				t.Errorf("strongSwan is the initiator: %v, want %v", ike.Initiator, want)
			}
			if ike.Encryption != test.wantEnc || ike.EncryptionBits != test.wantBits || ike.Group != test.wantGroup {
				t.Errorf("the IKE SA has %s-%s and %s", ike.Encryption, ike.EncryptionBits, ike.Group)
			}
			for _, child := range ike.Children {
				if child.Encryption != test.wantEnc || child.EncryptionBits != test.wantBits || child.Integrity != test.wantIntegrity {
					t.Errorf("child %s has %s-%s and %s", child.Name, child.Encryption, child.EncryptionBits, child.Integrity)
				}
			}

			// Each pair of subnets, from both sides.
			for _, cloud := range w.CloudAddresses {
				for _, office := range site.Addresses {
					w.reach(w.CloudHost, cloud, office)
					w.reach(site.Host, office, cloud)
				}
			}
			if test.static {
				local, peer := netip.MustParseAddr("169.254.70.1"), netip.MustParseAddr("169.254.70.2")
				w.reach(site.Router, peer, local)
				w.reach(w.CloudHost, w.CloudAddresses[0], site.Addresses[0])
				addresses := must(w.Gateway.Run(w.ctx, "ip", "-o", "addr"))(t)
				if !strings.Contains(addresses, "169.254.70.1/30") {
					t.Errorf("the gateway lacks its tunnel address:\n%s", addresses)
				}
			}
			w.expectNothingInClear()
		})
	}
}

// What no rule is for does not go into the tunnel.
func TestTrafficOutsideTheRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5*time.Minute, netlab.Config{Sites: []netlab.SiteConfig{{}}}, netlab.DaemonOptions{})
	site := w.Sites[0]
	w.peer(0, nil, w.swan(0))
	w.apply(w.file([]declare.Connection{w.connection(0)}))
	w.waitStatus(connectionName(0), "ACTIVE", patience)
	w.reach(w.CloudHost, w.CloudAddresses[0], site.Addresses[0])

	ctx, cancel := context.WithTimeout(w.ctx, 2*time.Second)
	defer cancel()
	if err := site.Host.WaitPing(ctx, site.Addresses[1], w.CloudAddresses[0]); err == nil {
		t.Error("a source outside the peer's selectors got through")
	}
	before := w.expectOneSA(0, 1, patience).Children[0]
	for _, pair := range [][2]netip.Addr{{w.CloudAddresses[1], site.Addresses[0]}, {w.CloudAddresses[0], site.Addresses[1]}} {
		ctx, cancel := context.WithTimeout(w.ctx, time.Second)
		if err := w.CloudHost.WaitPing(ctx, pair[0], pair[1]); err == nil {
			t.Errorf("%s reached %s without a rule", pair[0], pair[1])
		}
		cancel()
	}
	if after := w.expectOneSA(0, 1, patience).Children[0]; after.BytesIn != before.BytesIn {
		t.Errorf("traffic without a rule went into the tunnel: %d octets", after.BytesIn-before.BytesIn)
	}
}

// A packet that may not be fragmented and is too large for the tunnel comes
// back as an ICMP message with the size that fits; one that may be is.
func TestPathMTU(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5*time.Minute, netlab.Config{Sites: []netlab.SiteConfig{{}}}, netlab.DaemonOptions{})
	w.peer(0, nil, w.swan(0))
	w.apply(w.file([]declare.Connection{w.connection(0)}))
	w.waitStatus(connectionName(0), "ACTIVE", patience)
	target := w.Sites[0].Addresses[0]
	w.reach(w.CloudHost, w.CloudAddresses[0], target)

	out, err := w.CloudHost.Run(w.ctx, "ping", "-n", "-c", "1", "-W", "10", "-M", "do", "-s", "1472", target.String())
	told := regexp.MustCompile(`mtu ?= ?(\d+)`).FindStringSubmatch(out)
	if err == nil || told == nil {
		t.Fatalf("a packet of 1,500 octets got through, or nobody told the MTU: %v\n%s", err, out)
	}
	mtu := must(strconv.Atoi(told[1]))(t)
	if mtu < 1300 || mtu > 1446 {
		t.Errorf("the tunnel's MTU is told to be %d", mtu)
	}
	const headers = 28 // IPv4 and ICMP
	_, err = w.CloudHost.Run(w.ctx, "ping", "-n", "-c", "1", "-W", "10", "-M", "do", "-s", strconv.Itoa(mtu-headers), target.String())
	if err != nil {
		t.Errorf("a packet of the MTU told does not get through: %v", err)
	}
	_, err = w.CloudHost.Run(w.ctx, "ping", "-n", "-c", "1", "-W", "10", "-M", "dont", "-s", "4000", target.String())
	if err != nil {
		t.Errorf("a packet that may be fragmented does not get through: %v", err)
	}
}
