//go:build e2e

package e2e

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// Each site has another mistake in its configuration. The connection's log, and
// vpnctl's status that is made of it, name the parameter that differs and both
// values where they are known: as initiator we may only know our own.
func TestDiagnosis(t *testing.T) {
	t.Parallel()
	sites := []struct {
		name       string
		swan       func(*netlab.SwanConnection) // nil: nobody answers at all
		connection func(*declare.Connection)
		// A line of the log has all words of one of these, when we begin and
		// when the peer does.
		initiator, responder []string
	}{
		{
			name:      "pre-shared key",
			swan:      func(c *netlab.SwanConnection) { c.PSK = otherPSK },
			initiator: []string{"Reason=[authentication fail]", "parameter: pre-shared key", "exchange: IKE_AUTH", "198.51.100.10"},
			responder: []string{"Reason=[authentication fail]", "parameter: pre-shared key;", "exchange: IKE_AUTH"},
		},
		{
			name:      "IKE encryption",
			swan:      func(c *netlab.SwanConnection) { c.Proposal = "aes256-sha256-ecp256" },
			initiator: []string{"Reason=[phase1 proposal mismatch]", "parameter: proposal", "ours: ", "AES-GCM-16-128", "exchange: IKE_SA_INIT"},
			responder: []string{"Reason=[phase1 proposal mismatch]", "parameter: encryption algorithm", "ours: AES-GCM-16-128", "theirs: AES-CBC-256", "exchange: IKE_SA_INIT"},
		},
		{
			name:      "IKE group",
			swan:      func(c *netlab.SwanConnection) { c.Proposal = "aes128gcm16-prfsha256-modp3072" },
			initiator: []string{"Reason=[phase1 proposal mismatch]", "parameter: proposal", "ours: ", "ECP-256", "exchange: IKE_SA_INIT"},
			responder: []string{"Reason=[responder dh mismatch]", "parameter: DH group", "ours: ECP-256", "theirs: MODP-3072", "exchange: IKE_SA_INIT"},
		},
		{
			name:      "ESP encryption",
			swan:      func(c *netlab.SwanConnection) { c.ESPProposal = "aes256-sha256-ecp256" },
			initiator: []string{"Reason=[phase2 proposal or pfs mismatch]", "ours: ", "AES-GCM-16-128"},
			responder: []string{"Reason=[phase2 proposal or pfs mismatch]", "parameter: encryption algorithm", "ours: AES-GCM-16-128", "theirs: AES-CBC-256"},
		},
		{
			name:      "identity",
			swan:      func(c *netlab.SwanConnection) { c.LocalID = "wrong.office.test" },
			initiator: []string{"Reason=[authentication fail]", "identity", "ours: ", "198.51.100.74", "exchange: IKE_AUTH"},
			responder: []string{"Reason=[config ID mismatch]", "parameter: peer identity", "ours: ipv4 198.51.100.74", "theirs: fqdn wrong.office.test", "exchange: IKE_AUTH"},
		},
		{
			name: "traffic selectors",
			swan: func(c *netlab.SwanConnection) {
				c.Children[0].Local = []netip.Prefix{netip.MustParsePrefix("172.31.0.0/24")}
			},
			initiator: []string{"Reason=[flow or peer mismatch]", "parameter: traffic selectors", "ours: ", "10.10.0.0/24", "192.168.60.0/24"},
			responder: []string{"Reason=[flow or peer mismatch]", "parameter: traffic selectors", "ours: ", "192.168.60.0/24", "theirs: ", "172.31.0.0/24"},
		},
		{
			name:      "unreachable",
			initiator: []string{"Reason=[max transmit reached]", "PeerAddress=[198.51.100.106]", "exchange: IKE_SA_INIT", "198.51.100.106:500"},
		},
	}
	w := newWorld(t, 4*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, len(sites))}, netlab.DaemonOptions{Retransmit: true})
	var connections []declare.Connection
	for i, s := range sites {
		if s.swan != nil {
			w.peer(i, nil, w.swan(i, s.swan))
		}
		connections = append(connections, w.connection(i))
	}
	w.apply(w.file(connections))
	for i, s := range sites {
		if line := w.waitLog(connectionName(i), patience, append(s.initiator, "IPSec tunnel negotiation fails")...); line != "" {
			t.Logf("%s, we begin: %s", s.name, line)
		}
	}
	for i, s := range sites {
		if s.swan == nil {
			continue
		}
		if err := w.peers[i].Initiate(w.ctx, "net", 3*time.Second); err == nil {
			t.Errorf("%s: strongSwan has its child installed", s.name)
		}
		if line := w.waitLog(connectionName(i), patience, append(s.responder, "IPSec tunnel negotiation fails")...); line != "" {
			t.Logf("%s, the peer begins: %s", s.name, line)
		}
	}
	for i, s := range sites {
		name := connectionName(i)
		object := must(w.api.Get(w.ctx, client.Connections, w.id(name)))(t)
		if have := object.Status(); have != "DOWN" {
			t.Errorf("%s: connection %s is %s", s.name, name, have)
		}
		diagnosis, _ := object["diagnosis"].(map[string]any)
		if parameter, _ := diagnosis["parameter"].(string); parameter == "" || !strings.Contains(object.StatusMessage(), parameter) {
			t.Errorf("%s: the API's status does not name the parameter: %q, %v", s.name, object.StatusMessage(), diagnosis)
		}
		t.Logf("%s, in the API: %s: %v", s.name, object.StatusMessage(), diagnosis)
		command := append(append([]string{"env"}, w.daemon.Environment()...), vpnctl, "status", name)
		shown := must(w.Gateway.Run(w.ctx, command...))(t)
		// The newest line is that of either role.
		if !hasAll(shown, "DOWN", "parameter: ") || !hasAny(shown, reasonOf(s.initiator), reasonOf(s.responder)) {
			t.Errorf("%s: vpnctl status does not tell why:\n%s", s.name, shown)
		}
		if log := w.log(name) + shown; strings.Contains(log, psk) || strings.Contains(log, otherPSK) {
			t.Errorf("%s: a pre-shared key is in the log", s.name)
		}
	}
	if strings.Contains(w.daemon.Log(), psk) {
		t.Error("a pre-shared key is in the daemon's log")
	}
	w.expectNothingInClear()
}

// reasonOf returns the word of the reason among the words of a line.
func reasonOf(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return strings.TrimSuffix(strings.TrimPrefix(words[0], "Reason=["), "]")
}

func hasAny(text string, words ...string) bool {
	for _, word := range words {
		if word != "" && strings.Contains(text, word) {
			return true
		}
	}
	return false
}
