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

// aggressiveSettings let strongSwan respond in aggressive mode with a pre-shared
// key, which it refuses as a rule.
var aggressiveSettings = map[string]string{
	"i_dont_care_about_security_and_use_aggressive_mode_psk": "yes",
	"fragment_size": "500", // so that it sends fragments
}

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
		siteNAT    bool
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
		{
			name: "main, peer begins", mode: "main", initiator: "peer",
			encryption: [2]string{"aes-128", "aes-256"}, hash: [2]string{"sha1", "sha2-512"}, group: "group19", pfs: "disable",
			swanIKE: "aes128-sha1-ecp256", swanESP: "aes256-sha512",
		},
		{
			name: "aggressive, gateway begins", mode: "aggressive", initiator: "gateway",
			encryption: [2]string{"aes-192", "aes-192"}, hash: [2]string{"sha2-384", "sha2-384"}, group: "group20", pfs: "group16",
			swanIKE: "aes192-sha384-ecp384", swanESP: "aes192-sha384-modp4096",
		},
		{
			name: "aggressive, peer begins, by name", mode: "aggressive", initiator: "peer",
			encryption: [2]string{"aes-256", "aes-128"}, hash: [2]string{"sha2-512", "sha1"}, group: "group21", pfs: "group21",
			swanIKE: "aes256-sha512-ecp521", swanESP: "aes128-sha1-ecp521",
		},
		{
			name: "main, gateway begins behind a NAT, weak algorithms", mode: "main", initiator: "gateway", nat: netlab.Masquerade,
			encryption: [2]string{"3des", "3des"}, hash: [2]string{"md5", "md5"}, group: "group2", pfs: "group5",
			swanIKE: "3des-md5-modp1024", swanESP: "3des-md5-modp1536",
		},
		{
			name: "aggressive, peer begins behind a NAT, by name", mode: "aggressive", initiator: "peer", siteNAT: true,
			encryption: [2]string{"aes-256", "aes-256-gcm-16"}, hash: [2]string{"sha2-256", "sha2-256"}, group: "group15", pfs: "group15",
			swanIKE: "aes256-sha256-modp3072", swanESP: "aes256gcm16-modp3072",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2*time.Minute, netlab.Config{Sites: []netlab.SiteConfig{{NAT: test.siteNAT}}, CloudNAT: test.nat}, netlab.DaemonOptions{})
			connection := w.connection(0)
			connection.IKEPolicy = &declare.IKEPolicy{EncryptionAlgorithm: test.encryption[0], AuthenticationAlgorithm: test.hash[0], DHGroup: test.group}
			connection.IPsecPolicy = &declare.IPsecPolicy{EncryptionAlgorithm: test.encryption[1], AuthenticationAlgorithm: test.hash[1], PFS: test.pfs}
			swan := w.swan(0, func(c *netlab.SwanConnection) {
				c.Proposal, c.ESPProposal = test.swanIKE, test.swanESP
				c.Initiate = test.initiator == "peer"
			})
			ikev1(&connection, &swan, test.mode)
			file := w.file([]declare.Connection{connection})
			if strings.Contains(test.name, "by name") {
				connection.IKEPolicy.PeerIDType, connection.IKEPolicy.PeerID = "fqdn", "router.office.test"
				swan.LocalID = "router.office.test"
				file = w.file([]declare.Connection{connection}, respondOnly)
			}
			if test.initiator == "peer" {
				w.apply(file)
				w.peer(0, aggressiveSettings, swan)
			} else {
				w.peer(0, aggressiveSettings, swan)
				w.apply(file)
			}
			w.waitStatus(connection.Name, "ACTIVE", patience)
			ike := w.expectOneSA(0, 1, patience)
			if want := test.initiator == "peer"; test.initiator != "gateway" && ike.Initiator != want {
				t.Errorf("strongSwan is the initiator: %v, want %v", ike.Initiator, want)
			}
			site := w.Sites[0]
			w.reach(w.CloudHost, w.CloudAddresses[0], site.Addresses[0])
			w.reach(site.Host, site.Addresses[0], w.CloudAddresses[0])
			w.expectNothingInClear()
		})
	}
}

// Traffic to two sites goes on while both ends rekey both phases under it. The
// gateway renews children about every five seconds and ISAKMP SAs about every
// ten; at the second site the peer renews them, too. It has the machine for
// itself.
func TestIKEv1RekeyUnderTraffic(t *testing.T) {
	const duration = 30 * time.Second
	w := newWorld(t, 3*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 2)}, netlab.DaemonOptions{ShortLives: true})
	var connections []declare.Connection
	for site := range w.Sites {
		connection := w.connection(site, func(c *declare.Connection) {
			c.IKEPolicy = &declare.IKEPolicy{EncryptionAlgorithm: "aes-128", AuthenticationAlgorithm: "sha2-256", DHGroup: "group19"}
		})
		swan := w.swan(site, func(c *netlab.SwanConnection) { c.Proposal = "aes128-sha256-ecp256" })
		ikev1(&connection, &swan, "main")
		if site == 1 {
			swan.ReauthTime, swan.ChildRekeyTime = 8*time.Second, 4*time.Second
		}
		connections = append(connections, connection)
		w.peer(site, nil, swan)
	}
	w.apply(w.file(connections))
	var pings []*netlab.Ping
	var first []netlab.SwanIKE
	for site := range w.Sites {
		w.waitStatus(connectionName(site), "ACTIVE", patience)
		pings = append(pings, w.ping(site))
		first = append(first, w.expectOneSA(site, 1, patience))
	}
	w.check(netlab.Poll(w.ctx, time.Second, func() (bool, error) {
		return pings[0].Received() >= int(duration.Seconds())*5 && pings[1].Received() >= int(duration.Seconds())*5, nil
	}))
	for site, p := range pings {
		report, err := p.Finish(w.ctx)
		w.check(err)
		// A rekey that stops traffic loses more: five a second.
		if len(report.Lost) > 2 {
			t.Errorf("site %d: %v", site, report)
		}
		w.waitLog(connectionName(site), time.Second, "An IPSec tunnel is rekeyed")
		w.waitLog(connectionName(site), time.Second, "An IKE SA is rekeyed")
		if strings.Contains(w.log(connectionName(site)), "teared down") {
			t.Errorf("site %d: the tunnel went down:\n%s", site, w.log(connectionName(site)))
		}
		for _, ike := range must(w.peers[site].SAs(w.ctx))(t) {
			if ike.InitiatorSPI == first[site].InitiatorSPI {
				t.Errorf("site %d: the first ISAKMP SA is still there", site)
			}
		}
	}
	w.expectNothingInClear()
}

// The peer dies without a DELETE and comes back; so does the gateway.
func TestIKEv1Crash(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 1)}, netlab.DaemonOptions{})
	interval, timeout := 10, 2
	connection := w.connection(0, func(c *declare.Connection) {
		c.IKEPolicy = &declare.IKEPolicy{EncryptionAlgorithm: "aes-128", AuthenticationAlgorithm: "sha2-256", DHGroup: "group19"}
		c.IKEPolicy.DPD = &declare.DPD{Interval: &interval, Timeout: &timeout, Msg: "seq-notify-hash"}
	})
	swan := w.swan(0, func(c *netlab.SwanConnection) { c.Proposal = "aes128-sha256-ecp256" })
	ikev1(&connection, &swan, "main")
	peer := w.peer(0, nil, swan)
	w.apply(w.file([]declare.Connection{connection}))
	w.waitStatus(connection.Name, "ACTIVE", patience)
	w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[0].Addresses[0])
	w.check(peer.Kill())
	// Ten idle seconds and three repeats, two seconds apart.
	w.waitStatus(connection.Name, "DOWN", 2*patience)
	w.waitLog(connection.Name, patience, "OfflineReason=[dpd timeout]")
	w.check(peer.Start(w.ctx, netlab.SwanConfig(swan)))
	w.waitStatus(connection.Name, "ACTIVE", 2*patience)
	w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[0].Addresses[0])
	w.expectOneSA(0, 1, patience)

	w.check(w.daemon.Kill())
	w.check(w.daemon.Start(w.ctx))
	w.waitStatus(connection.Name, "ACTIVE", patience)
	w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[0].Addresses[0])
	w.expectOneSA(0, 1, patience)
	w.check(peer.TerminateIKE(w.ctx, "cloud"))
	w.waitLog(connection.Name, patience, "OfflineReason=[peer request]")
	w.waitStatus(connection.Name, "ACTIVE", 2*patience)
	w.expectOneSA(0, 1, patience)
	w.expectNothingInClear()
}

// Each site has another mistake in its configuration. The log names the
// parameter that differs; a wrong key is told apart from a wrong identity.
func TestIKEv1Diagnosis(t *testing.T) {
	t.Parallel()
	sites := []struct {
		name                 string
		mode                 string
		swan                 func(*netlab.SwanConnection)
		initiator, responder []string
	}{
		{
			name: "pre-shared key, main", mode: "main",
			swan:      func(c *netlab.SwanConnection) { c.PSK = otherPSK },
			initiator: []string{"Reason=[authentication fail]", "parameter: pre-shared key;", "exchange: main mode"},
			responder: []string{"Reason=[authentication fail]", "parameter: pre-shared key;", "exchange: main mode", "message 5 does not decrypt"},
		},
		{
			name: "pre-shared key, aggressive", mode: "aggressive",
			swan:      func(c *netlab.SwanConnection) { c.PSK = otherPSK },
			initiator: []string{"Reason=[authentication fail]", "parameter: pre-shared key;", "exchange: aggressive mode", "the hash in message 2"},
		},
		{
			name: "identity", mode: "main",
			swan:      func(c *netlab.SwanConnection) { c.LocalID = "wrong.office.test" },
			initiator: []string{"Reason=[config ID mismatch]", "parameter: peer identity", "theirs: fqdn wrong.office.test"},
			responder: []string{"Reason=[config ID mismatch]", "parameter: peer identity", "ours: ipv4", "theirs: fqdn wrong.office.test"},
		},
		{
			name: "hash", mode: "main",
			swan:      func(c *netlab.SwanConnection) { c.Proposal = "aes128-sha512-ecp256" },
			initiator: []string{"Reason=[phase1 proposal mismatch]", "parameter: proposal", "ours: ", "PRF-HMAC-SHA2-256"},
			responder: []string{"Reason=[phase1 proposal mismatch]", "parameter: hash algorithm", "ours: PRF-HMAC-SHA2-256", "theirs: PRF-HMAC-SHA2-512"},
		},
		{
			name: "PFS", mode: "main",
			swan:      func(c *netlab.SwanConnection) { c.ESPProposal = "aes128gcm16-ecp384" },
			initiator: []string{"Reason=[phase2 proposal or pfs mismatch]", "ours: ", "ECP-256"},
			responder: []string{"Reason=[phase2 proposal or pfs mismatch]", "parameter: PFS group", "ours: ECP-256", "theirs: ECP-384"},
		},
		{
			name: "traffic selectors", mode: "main",
			swan: func(c *netlab.SwanConnection) {
				c.Children[0].Local = []netip.Prefix{netip.MustParsePrefix("172.31.0.0/24")}
			},
			initiator: []string{"Reason=[flow or peer mismatch]", "parameter: traffic selectors", "ours: ", "10.10.0.0/24"},
			responder: []string{"Reason=[flow or peer mismatch]", "parameter: traffic selectors", "ours: ", "theirs: ", "172.31.0.0/24"},
		},
		{
			name: "mode", mode: "main",
			swan: func(c *netlab.SwanConnection) { c.Aggressive = true },
			// strongSwan tells only in message 6 that it wants another mode.
			initiator: []string{"Reason=[authentication fail]", "exchange: main mode"},
			responder: []string{"Reason=[exchange mode mismatch]", "ours: main mode", "theirs: aggressive mode"},
		},
		{
			name: "version", mode: "main",
			swan:      func(c *netlab.SwanConnection) { c.V1 = false },
			initiator: []string{"exchange: main mode"},
			responder: []string{"Reason=[version mismatch]", "ours: 1", "theirs: 2"},
		},
	}
	w := newWorld(t, 3*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, len(sites))}, netlab.DaemonOptions{Retransmit: true})
	var connections []declare.Connection
	for i, s := range sites {
		connection := w.connection(i, func(c *declare.Connection) {
			c.IKEPolicy = &declare.IKEPolicy{EncryptionAlgorithm: "aes-128", AuthenticationAlgorithm: "sha2-256", DHGroup: "group19"}
		})
		swan := w.swan(i, func(c *netlab.SwanConnection) { c.Proposal = "aes128-sha256-ecp256" })
		ikev1(&connection, &swan, s.mode)
		s.swan(&swan)
		connections = append(connections, connection)
		w.peer(i, aggressiveSettings, swan)
	}
	w.apply(w.file(connections))
	for i, s := range sites {
		if line := w.waitLog(connectionName(i), patience, append(s.initiator, "IPSec tunnel negotiation fails")...); line != "" {
			t.Logf("%s, we begin: %s", s.name, line)
		}
	}
	for i, s := range sites {
		if s.responder == nil {
			continue
		}
		if err := w.peers[i].Initiate(w.ctx, "net", 3*time.Second); err == nil {
			t.Errorf("%s: strongSwan has its child installed", s.name)
		}
		if line := w.waitLog(connectionName(i), 5*time.Second, append(s.responder, "IPSec tunnel negotiation fails")...); line != "" {
			t.Logf("%s, the peer begins: %s", s.name, line)
		}
	}
	for i := range sites {
		if log := w.log(connectionName(i)); strings.Contains(log, psk) || strings.Contains(log, otherPSK) {
			t.Errorf("%s: a pre-shared key is in the log", sites[i].name)
		}
	}
	if strings.Contains(w.daemon.Log(), psk) {
		t.Error("a pre-shared key is in the daemon's log")
	}
	w.expectNothingInClear()
}

// tshark, with the keys that the daemon writes under its debug switch, decrypts
// IKEv1 and finds every ICV of ESP correct.
func TestIKEv1TsharkDecrypts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 1)}, netlab.DaemonOptions{KeyLog: true})
	w.check(w.Gateway.IP(w.ctx, "link set "+netlab.WAN+" gso_max_segs 1"))
	wire, err := w.Internet.Capture(w.ctx, "wire", "cloud", "")
	w.check(err)
	connection := w.connection(0, func(c *declare.Connection) {
		c.IKEPolicy = &declare.IKEPolicy{EncryptionAlgorithm: "aes-256", AuthenticationAlgorithm: "sha1", DHGroup: "group14"}
	})
	// A key longer than the hash is made of several blocks.
	swan := w.swan(0, func(c *netlab.SwanConnection) { c.Proposal = "aes256-sha1-modp2048" })
	ikev1(&connection, &swan, "main")
	w.peer(0, nil, swan)
	w.apply(w.file([]declare.Connection{connection}))
	w.waitStatus(connection.Name, "ACTIVE", patience)
	w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[0].Addresses[0])
	w.check(w.peers[0].RekeyChild(w.ctx, "net"))
	w.waitLog(connection.Name, patience, "An IPSec tunnel is rekeyed")
	w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[0].Addresses[0])
	w.check(w.daemon.Stop())
	w.check(wire.Finish(w.ctx))
	for _, check := range []struct {
		filter, field string
		want          int // messages that have it
	}{
		{"isakmp.exchangetype==2", "isakmp.id.data.ipv4_addr", 2},
		{"isakmp.exchangetype==32", "isakmp.nonce", 4},
		{"isakmp.exchangetype==5", "isakmp.hash", 1},
	} {
		rows, err := wire.Fields(w.ctx, w.daemon.KeyDir, check.filter, check.field)
		w.check(err)
		have := 0
		for _, row := range rows {
			if row[0] != "" {
				have++
			}
		}
		if have < check.want {
			t.Errorf("%s of %s: %d messages have it, want %d: %v", check.field, check.filter, have, check.want, rows)
		}
	}
	esp, err := wire.Fields(w.ctx, w.daemon.KeyDir, "esp", "esp.icv_good", "esp.icv_bad")
	w.check(err)
	for _, row := range esp {
		if row[0] != "1" && row[0] != "True" {
			t.Errorf("an ICV is not correct: %v", row)
		}
	}
	if len(esp) < 4 {
		t.Errorf("%d ESP packets", len(esp))
	}
}
