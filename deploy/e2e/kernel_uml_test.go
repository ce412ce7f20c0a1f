//go:build e2e && uml

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// The kernel's data plane at both ends. Its traffic depends on no process: rekeys,
// the edit of another connection, and the daemon's violent end lose none of it, and
// the next daemon takes the tunnel over.
func TestUMLKernelDataPlane(t *testing.T) {
	w := newWorld(t, 5*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 2)}, netlab.DaemonOptions{Kernel: true})
	peer := w.peer(0, aggressiveSettings, w.swan(0))
	other := w.connection(1) // whose peer is not there
	w.apply(w.file([]declare.Connection{w.connection(0), other}))
	w.waitStatus(connectionName(0), "ACTIVE", 2*patience)
	w.expectDataPlane(connectionName(0), "kernel")

	ping := w.ping(0)
	answers := func(more int) {
		t.Helper()
		want := ping.Received() + more
		w.check(netlab.Poll(w.ctx, 50*time.Millisecond, func() (bool, error) { return ping.Received() >= want, nil }))
	}
	answers(5)
	w.check(peer.RekeyChild(w.ctx, "net"))
	w.check(peer.RekeyIKE(w.ctx, "cloud"))
	answers(5)
	other.IPsecPolicy = &declare.IPsecPolicy{EncryptionAlgorithm: "aes-256", PFS: "group20"}
	w.apply(w.file([]declare.Connection{w.connection(0), other}))
	answers(5)

	w.check(w.daemon.Kill())
	answers(10)
	report, err := ping.Finish(w.ctx)
	w.check(err)
	if len(report.Lost) > 0 {
		t.Errorf("rekeys, an edit or the daemon's end disturbed traffic: %v", report)
	}

	// The first answer of IKE_AUTH is lost: the peer sends by its new SA long before
	// the daemon can have the other end.
	_, err = w.Internet.Run(w.ctx, "iptables-legacy", "-I", "FORWARD", "-s", w.Sites[0].Public.String(), "-p", "udp", "--sport", "500",
		"-m", "u32", "--u32", "0>>22&0x3C@24&0xFF20=0x2320", "-m", "statistic", "--mode", "nth", "--every", "1000", "--packet", "0", "-j", "DROP")
	w.check(err)
	ping, err = w.CloudHost.StartPing("fast", w.CloudAddresses[0], w.Sites[0].Addresses[0], 50*time.Millisecond)
	w.check(err)
	answers(10)
	w.check(w.daemon.Start(w.ctx))
	w.waitStatus(connectionName(0), "ACTIVE", 2*patience)
	answers(60)
	report, err = ping.Finish(w.ctx)
	w.check(err)
	if len(report.Lost) > 0 {
		t.Errorf("the daemon's restart disturbed traffic: %v", report)
	}
	rules, err := w.Internet.Run(w.ctx, "iptables-legacy-save", "-c")
	w.check(err)
	if !strings.Contains(rules, "[1:") {
		t.Errorf("no answer of IKE_AUTH was lost:\n%s", rules)
	}
	if lost := w.figure(`vpngw_dataplane_dropped_packets_total{reason="unknown_spi"}`); lost != "" && lost != "0" {
		t.Errorf("the kernel has dropped %s packets for want of an SA", lost)
	}
	// The peer had no word of the end and keeps the old IKE SA until its DPD.
	w.expectNothingInClear()
}

// expectDataPlane checks what the API says serves a connection.
func (w *world) expectDataPlane(connection, want string) {
	w.t.Helper()
	o, err := w.api.Get(w.ctx, client.Connections, w.id(connection))
	w.check(err)
	plane, _ := o["data_plane"].(map[string]any)
	if got := client.Object(plane).Text("name"); got != want {
		w.t.Errorf("connection %s: data plane %v, want %s", connection, plane, want)
	}
}
