//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// mistake is a site whose configuration does not fit ours, or whose way does not
// let all pass.
type mistake struct {
	name       string
	swan       func(*netlab.SwanConnection) // nil: nobody answers at all
	settings   map[string]string
	connection func(*declare.Connection)
	customer   func(*declare.CustomerGateway)
	filter     string // of nftables, on the site's router
	// A line of the log has all words of one of these, when we begin and when
	// the peer does. Without words it is not waited for.
	initiator, responder []string
	// What vpnctl explain says in the end: the cause, and the changes here and at
	// the peer, of which it has each.
	cause         string
	changes, peer []string
	// applied: the changes here, made through the API, bring the tunnel up.
	// lifted: the end of the filter does.
	applied, lifted bool
}

var otherRemote = []netip.Prefix{netip.MustParsePrefix("172.31.0.0/24")}

// filters of a router. What arrives there is seen before it is put together.
const (
	filterPort4500  = "udp dport 4500 drop; udp sport 4500 drop"
	filterFragments = "ip frag-off & 0x3fff != 0 drop"
)

var mistakes = []mistake{
	{
		name:      "pre-shared key",
		swan:      func(c *netlab.SwanConnection) { c.PSK = otherPSK },
		initiator: []string{"Reason=[authentication fail]", "parameter: pre-shared key", "exchange: IKE_AUTH", "198.51.100.10"},
		responder: []string{"Reason=[authentication fail]", "parameter: pre-shared key;", "exchange: IKE_AUTH"},
		cause:     "pre-shared-key", changes: []string{"psk: that of the peer"}, peer: []string{"pre-shared key: that of the connection"}, applied: true,
	},
	{
		name:      "IKE encryption",
		swan:      func(c *netlab.SwanConnection) { c.Proposal = "aes256-sha256-ecp256" },
		initiator: []string{"Reason=[phase1 proposal mismatch]", "ours: ", "AES-GCM-16-128", "theirs: AES-CBC-256", "exchange: IKE_SA_INIT", "from all that there are it chose"},
		responder: []string{"Reason=[phase1 proposal mismatch]", "parameter: encryption algorithm", "ours: AES-GCM-16-128", "theirs: AES-CBC-256", "exchange: IKE_SA_INIT"},
		cause:     "ike-proposal", changes: []string{"ikepolicy.encryption_algorithm: aes-128-gcm-16 → aes-256"},
		peer: []string{"encryption algorithm: AES-CBC-256 → AES-GCM-16-128"}, applied: true,
	},
	{
		name:      "IKE group",
		swan:      func(c *netlab.SwanConnection) { c.Proposal = "aes128gcm16-prfsha256-modp3072" },
		initiator: []string{"Reason=[responder dh mismatch]", "ours: ECP-256", "theirs: MODP-3072", "exchange: IKE_SA_INIT", "from all that there are it chose"},
		responder: []string{"Reason=[responder dh mismatch]", "parameter: DH group", "ours: ECP-256", "theirs: MODP-3072", "exchange: IKE_SA_INIT"},
		cause:     "ike-group", changes: []string{"ikepolicy.dh_group: group19 → group15"},
		peer: []string{"DH group: MODP-3072 (group 15) → ECP-256 (group 19)"}, applied: true,
	},
	{
		name:      "ESP encryption",
		swan:      func(c *netlab.SwanConnection) { c.ESPProposal = "aes256-sha256-ecp256" },
		initiator: []string{"Reason=[phase2 proposal or pfs mismatch]", "ours: AES-GCM-16-128", "theirs: AES-CBC-256", "from all that there are it chose"},
		responder: []string{"Reason=[phase2 proposal or pfs mismatch]", "parameter: encryption algorithm", "ours: AES-GCM-16-128", "theirs: AES-CBC-256", "; remedy: here ipsecpolicy", "exchange: CREATE_CHILD_SA; remedy: "},
		cause:     "esp-proposal", changes: []string{"ipsecpolicy.encryption_algorithm: aes-128-gcm-16 → aes-256"},
		peer: []string{"encryption algorithm: AES-CBC-256 → AES-GCM-16-128"}, applied: true,
	},
	{
		name:      "identity",
		swan:      func(c *netlab.SwanConnection) { c.LocalID = "wrong.office.test" },
		initiator: []string{"Reason=[authentication fail]", "identity", "ours: ", "198.51.100.74", "exchange: IKE_AUTH"},
		responder: []string{"Reason=[config ID mismatch]", "parameter: peer identity", "ours: ipv4 198.51.100.74", "theirs: fqdn wrong.office.test", "the pre-shared key is right"},
		cause:     "peer-identity", changes: []string{"ikepolicy.peer_id_type: ip → fqdn", "ikepolicy.peer_id: 198.51.100.74 → wrong.office.test"},
		peer: []string{"local identity: fqdn wrong.office.test → ipv4 198.51.100.74"}, applied: true,
	},
	{
		name: "traffic selectors",
		swan: func(c *netlab.SwanConnection) {
			c.Children[0].Local = []netip.Prefix{netip.MustParsePrefix("192.168.61.0/24")}
		},
		initiator: []string{"Reason=[flow or peer mismatch]", "parameter: traffic selectors", "ours: ", "10.10.0.0/24", "192.168.60.0/24"},
		responder: []string{"Reason=[flow or peer mismatch]", "parameter: traffic selectors", "ours: ", "192.168.60.0/24", "theirs: ", "192.168.61.0/24"},
		cause:     "selectors", changes: []string{"policy_rules[0].destination: 192.168.60.0/24 → 192.168.61.0/24"},
		peer: []string{"traffic selectors: local 192.168.61.0/24, remote 10.10.0.0/24 → local 192.168.60.0/24, remote 10.10.0.0/24"}, applied: true,
	},
	{
		name: "selectors exchanged",
		swan: func(c *netlab.SwanConnection) {
			c.Children[0].Local, c.Children[0].Remote = c.Children[0].Remote, c.Children[0].Local
		},
		responder: []string{"Reason=[flow or peer mismatch]", "has local and remote exchanged"},
		cause:     "selectors-swapped",
		peer:      []string{"traffic selectors: local 10.10.0.0/24, remote 192.168.70.0/24 → local 192.168.70.0/24, remote 10.10.0.0/24"},
	},
	{
		name: "one network at both ends",
		swan: func(c *netlab.SwanConnection) {
			c.Children[0].Local, c.Children[0].Remote = c.Children[0].Remote, otherRemote
		},
		responder: []string{"Reason=[flow or peer mismatch]", "both ends name one network as their own"},
		cause:     "selectors-mirrored",
		peer:      []string{"traffic selectors: local 10.10.0.0/24, remote 172.31.0.0/24 → local 192.168.80.0/24, remote 10.10.0.0/24"},
	},
	{
		name:      "IKE version",
		swan:      func(c *netlab.SwanConnection) { c.V1, c.Proposal = true, "aes128-sha256-ecp256" },
		initiator: []string{"Reason=[version mismatch]", "ours: 2", "theirs: 1", "the peer takes a first message of IKEv1"},
		responder: []string{"Reason=[version mismatch]", "ours: 2", "theirs: 1", "the peer begins with IKEv1"},
		cause:     "ike-version", changes: []string{"ikepolicy.ike_version: v2 → v1", "ikepolicy.encryption_algorithm: aes-128-gcm-16 → aes-128"},
		peer: []string{"IKE version: v1 → v2"}, applied: true,
	},
	{
		name:     "mode of phase 1",
		settings: aggressiveSettings,
		swan: func(c *netlab.SwanConnection) {
			c.V1, c.Aggressive, c.Proposal = true, true, "aes128-sha256-ecp256"
		},
		connection: func(c *declare.Connection) {
			c.IKEPolicy.IKEVersion, c.IKEPolicy.Phase1NegotiationMode, c.IKEPolicy.EncryptionAlgorithm = "v1", "main", "aes-128"
		},
		responder: []string{"Reason=[exchange mode mismatch]", "aggressive"},
		cause:     "ike-mode", changes: []string{"ikepolicy.phase1_negotiation_mode: main → aggressive"},
		peer: []string{"mode of phase 1: aggressive → main"}, applied: true,
	},
	{
		name:      "unreachable",
		initiator: []string{"Reason=[max transmit reached]", "exchange: IKE_SA_INIT", "no answer to IKE_SA_INIT"},
		cause:     "unreachable", peer: []string{"firewall: pass UDP ports 500 and 4500 between 203.0.113.10 and 198.51.100.170"},
	},
	{
		name: "UDP port 4500 filtered", filter: filterPort4500, swan: func(*netlab.SwanConnection) {},
		initiator: []string{"Reason=[max transmit reached]", "parameter: UDP port 4500", "a first message to port 4500 brings no answer either"},
		cause:     "udp-4500", peer: []string{"firewall: pass UDP port 4500 between 203.0.113.10 and 198.51.100.186"}, lifted: true,
	},
	{
		name: "fragments lost", filter: filterFragments,
		swan: func(c *netlab.SwanConnection) {
			c.NoFragmentation, c.LocalID, c.RemoteID = true, longName("site"), longName("cloud")
		},
		connection: func(c *declare.Connection) {
			k := c.IKEPolicy
			k.LocalIDType, k.LocalID, k.PeerIDType, k.PeerID = "fqdn", longName("cloud"), "fqdn", longName("site")
			rule := &c.PolicyRules[0]
			for i := range 49 {
				rule.Destination = append(rule.Destination, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 31, byte(i), 0}), 24).String())
			}
		},
		initiator: []string{"Reason=[max transmit reached]", "parameter: message size", "UDP port 4500 passes small messages"},
		cause:     "fragments", peer: []string{"fragmentation of IKE messages (RFC 7383): on", "firewall: pass IP fragments between 203.0.113.10 and 198.51.100.202"}, lifted: true,
	},
	{
		name:      "address of the customer gateway",
		swan:      func(*netlab.SwanConnection) {},
		customer:  func(c *declare.CustomerGateway) { c.IDValue = "198.51.100.250" },
		initiator: []string{"Reason=[max transmit reached]", "198.51.100.250"},
		cause:     "unreachable",
	},
}

// longName is an identity of 250 octets.
func longName(side string) string { return side + "." + strings.Repeat("x", 249-len(side)) }

// Each site has another mistake. The connection's log, the API's status and
// vpnctl explain tell which, in the role of either, and by which change both ends
// agree: made through the API, it brings the tunnel up.
func TestDiagnosis(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, len(mistakes))}, netlab.DaemonOptions{Retransmit: true})
	var connections []declare.Connection
	for i, m := range mistakes {
		if m.filter != "" {
			table := "table inet filter4500 { chain in { type filter hook prerouting priority -500; " + m.filter + "; }; }"
			must(w.Sites[i].Router.Input(w.ctx, table, "nft", "-f", "-"))(t)
		}
		if m.swan != nil {
			w.peer(i, m.settings, w.swan(i, m.swan))
		}
		c := w.connection(i)
		if m.connection != nil {
			m.connection(&c)
		}
		connections = append(connections, c)
	}
	w.apply(w.file(connections, func(c *declare.CustomerGateway) {
		for i, m := range mistakes {
			if m.customer != nil && c.Name == connectionName(i) {
				m.customer(c)
			}
		}
	}))
	for i, m := range mistakes {
		if line := w.waitLog(connectionName(i), patience, append(m.initiator, "IPSec tunnel negotiation fails")...); line != "" {
			t.Logf("%s, we begin: %s", m.name, line)
		}
	}
	for i, m := range mistakes {
		if m.swan == nil || m.filter != "" {
			continue
		}
		if err := w.peers[i].Initiate(w.ctx, "net", 3*time.Second); err == nil {
			t.Errorf("%s: strongSwan has its child installed", m.name)
		}
		if len(m.responder) == 0 {
			continue
		}
		if line := w.waitLog(connectionName(i), patience, append(m.responder, "IPSec tunnel negotiation fails")...); line != "" {
			t.Logf("%s, the peer begins: %s", m.name, line)
		}
	}
	changes := make([][]client.Remedy, len(mistakes))
	for i, m := range mistakes {
		changes[i] = w.expectDiagnosis(i, &m)
	}
	for i, m := range mistakes {
		switch {
		case m.applied:
			w.follow(i, changes[i])
		case m.lifted:
			must(w.Sites[i].Router.Run(w.ctx, "nft", "delete", "table", "inet", "filter4500"))(t)
		}
	}
	for i, m := range mistakes {
		if !m.applied && !m.lifted {
			continue
		}
		w.waitStatus(connectionName(i), "ACTIVE", patience)
		w.waitShown(func(shown string) bool {
			return hasAll(shown, "(up)", "IKE SA", "CHILD_SA", "begun by the", "nothing is to be done")
		}, "explain", connectionName(i))
		// It is up, and before that it failed.
		w.waitShown(func(shown string) bool {
			return hasAll(shown, "failed", "ike-up", "child-up") && strings.Index(shown, "failed") < strings.Index(shown, "child-up")
		}, "history", connectionName(i))
	}
	if cause := w.figure(`vpngw_ike_failures_total{cause="pre-shared-key"}`); cause == "" || cause == "0" {
		t.Error("no failure is counted for the pre-shared key")
	}
	if strings.Contains(w.daemon.Log(), psk) {
		t.Error("a pre-shared key is in the daemon's log")
	}
	w.expectNothingInClear()
}

// vpnctl runs the program and returns what it prints.
func (w *world) vpnctl(args ...string) string {
	w.t.Helper()
	command := append(append([]string{"env"}, w.daemon.Environment()...), vpnctl)
	return must(w.Gateway.Run(w.ctx, append(command, args...)...))(w.t)
}

// waitShown waits until what the program prints is as it should be.
func (w *world) waitShown(fits func(shown string) bool, args ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	var shown string
	err := netlab.Poll(ctx, 200*time.Millisecond, func() (bool, error) {
		shown = w.vpnctl(args...)
		return fits(shown), nil
	})
	if err != nil {
		w.t.Errorf("vpnctl %v prints\n%s", args, shown)
	}
}

// explanation is what vpnctl explain says of a site's connection.
func (w *world) explanation(site int) (x client.Explanation) {
	w.t.Helper()
	w.check(json.Unmarshal([]byte(w.vpnctl("explain", connectionName(site), "-o", "json")), &x))
	return x
}

// expectDiagnosis waits until the API and vpnctl say of a mistake what it is. While
// both ends go on trying, what they say changes with each attempt. It returns the
// changes on our side.
func (w *world) expectDiagnosis(site int, m *mistake) (changes []client.Remedy) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	var wrong []string
	var shown string
	err := netlab.Poll(ctx, 200*time.Millisecond, func() (bool, error) {
		wrong, shown, changes = w.compareDiagnosis(site, m)
		return len(wrong) == 0, nil
	})
	if err != nil {
		w.t.Errorf("%s: %s; vpnctl explain prints\n%s", m.name, strings.Join(wrong, "; "), shown)
	}
	w.t.Logf("%s:\n%s", m.name, shown)
	if log := w.log(connectionName(site)) + shown; strings.Contains(log, psk) || strings.Contains(log, otherPSK) {
		w.t.Errorf("%s: a pre-shared key is in the log", m.name)
	}
	return changes
}

// compareDiagnosis returns what is not as it should be, what vpnctl prints, and the
// changes on our side.
func (w *world) compareDiagnosis(site int, m *mistake) (wrong []string, shown string, changes []client.Remedy) {
	w.t.Helper()
	name := connectionName(site)
	expect := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	shown = w.vpnctl("explain", name)
	expect(hasAll(shown, append(slices.Concat(m.changes, m.peer), "DOWN", m.cause, "negotiation is tried again")...), "not all is printed")
	if m.customer != nil {
		expect(strings.Contains(shown, "unknown peer "+w.Sites[site].Public.String()), "nothing of who asks instead")
	}
	x := w.explanation(site)
	if x.Diagnosis == nil {
		return append(wrong, "there is no diagnosis"), shown, nil
	}
	texts := func(list []client.Remedy) (texts []string) {
		for _, r := range list {
			text := r.Field + ": " + r.To
			if r.From != "" {
				text = r.Field + ": " + r.From + " → " + r.To
			}
			texts = append(texts, text)
		}
		return texts
	}
	expect(x.Diagnosis.Cause == m.cause, "the cause is %s, want %s", x.Diagnosis.Cause, m.cause)
	have := texts(x.Diagnosis.Changes)
	expect(m.changes == nil || slices.Equal(have, m.changes), "the changes here are %q, want %q", have, m.changes)
	have = texts(x.Diagnosis.PeerChanges)
	for _, change := range m.peer {
		expect(slices.Contains(have, change), "the changes at the peer are %q, without %q", have, change)
	}
	object := must(w.api.Get(w.ctx, client.Connections, w.id(name)))(w.t)
	diagnosis, _ := object["diagnosis"].(map[string]any)
	parameter, _ := diagnosis["parameter"].(string)
	expect(object.Status() == "DOWN" && parameter != "" && strings.Contains(object.StatusMessage(), parameter),
		"the API's status is %s: %q, %v", object.Status(), object.StatusMessage(), diagnosis)
	return wrong, shown, x.Diagnosis.Changes
}

// follow makes the changes that vpnctl explain has named.
func (w *world) follow(site int, changes []client.Remedy) {
	w.t.Helper()
	id := w.id(connectionName(site))
	update := client.Object{}
	for _, change := range changes {
		var value any = change.To
		if change.Field == "psk" {
			value = otherPSK // which the API does not know
		}
		if rest, ok := strings.CutPrefix(change.Field, "policy_rules["); ok {
			index, member, _ := strings.Cut(rest, "].")
			rules, _ := must(w.api.Get(w.ctx, client.Connections, id))(w.t)["policy_rules"].([]any)
			i, err := strconv.Atoi(index)
			w.check(err)
			for _, rule := range rules {
				delete(rule.(map[string]any), "rule_index")
			}
			rule := rules[i].(map[string]any)
			rule[member] = value
			if member == "destination" {
				rule[member] = strings.Split(change.To, ",")
			}
			update["policy_rules"] = rules
			continue
		}
		policy, member, nested := strings.Cut(change.Field, ".")
		if !nested {
			update[policy] = value
			continue
		}
		if update[policy] == nil {
			update[policy] = client.Object{}
		}
		update[policy].(client.Object)[member] = value
	}
	_, err := w.api.Update(w.ctx, client.Connections, id, update)
	w.check(err)
}

func hasAny(text string, words ...string) bool {
	for _, word := range words {
		if word != "" && strings.Contains(text, word) {
			return true
		}
	}
	return false
}
