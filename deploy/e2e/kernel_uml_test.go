//go:build e2e && uml

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// The kernel's data plane at both ends, with a tunnel of ESP and one of ESP in UDP.
// Traffic depends on no process: rekeys, the edit of another connection, and the
// daemon's violent end lose none of it, and the next daemon takes the tunnels over.
func TestUMLKernelDataPlane(t *testing.T) {
	const raw, edited, inUDP = 0, 1, 2 // sites
	w := newWorld(t, 6*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 3)}, netlab.DaemonOptions{Kernel: true, KeepSockets: true})
	peer := w.peer(raw, aggressiveSettings, w.swan(raw))
	w.peer(inUDP, aggressiveSettings, w.swan(inUDP))
	encapsulated := w.connection(inUDP, func(c *declare.Connection) { c.IPsecPolicy.UDPEncapsulation = "always" })
	other := w.connection(edited) // whose peer is not there
	w.apply(w.file([]declare.Connection{w.connection(raw), other, encapsulated}))
	for _, site := range []int{raw, inUDP} {
		w.waitStatus(connectionName(site), "ACTIVE", 2*patience)
		w.expectDataPlane(connectionName(site), "kernel")
	}
	w.expectEncapsulation(connectionName(inUDP), "udp", "asks for it")

	pings := []*netlab.Ping{w.ping(raw), w.ping(inUDP)}
	answers := func(more int) {
		t.Helper()
		for _, ping := range pings {
			want := ping.Received() + more
			w.check(netlab.Poll(w.ctx, 50*time.Millisecond, func() (bool, error) { return ping.Received() >= want, nil }))
		}
	}
	expectNoLoss := func(what string) {
		t.Helper()
		for i, ping := range pings {
			report, err := ping.Finish(w.ctx)
			w.check(err)
			if len(report.Lost) > 0 {
				t.Errorf("%s disturbed traffic of %s: %v", what, []string{"ESP", "ESP in UDP"}[i], report)
			}
		}
	}
	answers(5)
	w.check(peer.RekeyChild(w.ctx, "net"))
	w.check(peer.RekeyIKE(w.ctx, "cloud"))
	answers(5)
	other.IPsecPolicy = &declare.IPsecPolicy{EncryptionAlgorithm: "aes-256", PFS: "group20"}
	w.apply(w.file([]declare.Connection{w.connection(raw), other, encapsulated}))
	answers(5)

	w.expectKept(1)
	w.check(w.daemon.Kill())
	answers(10)
	expectNoLoss("rekeys, an edit or the daemon's end")

	// The first answer of IKE_AUTH is lost: the peer sends by its new SA long before
	// the daemon can have the other end.
	_, err := w.Internet.Run(w.ctx, "iptables-legacy", "-I", "FORWARD", "-s", w.Sites[raw].Public.String(), "-p", "udp", "--sport", "500",
		"-m", "u32", "--u32", "0>>22&0x3C@24&0xFF20=0x2320", "-m", "statistic", "--mode", "nth", "--every", "1000", "--packet", "0", "-j", "DROP")
	w.check(err)
	for i, site := range []int{raw, inUDP} {
		pings[i], err = w.CloudHost.StartPing(fmt.Sprintf("fast%d", i), w.CloudAddresses[0], w.Sites[site].Addresses[0], 50*time.Millisecond)
		w.check(err)
	}
	answers(10)
	w.check(w.daemon.Start(w.ctx))
	for _, site := range []int{raw, inUDP} {
		w.waitStatus(connectionName(site), "ACTIVE", 2*patience)
	}
	answers(60)
	expectNoLoss("the daemon's restart")
	w.expectKept(1)
	rules, err := w.Internet.Run(w.ctx, "iptables-legacy-save", "-c")
	w.check(err)
	if !strings.Contains(rules, "[1:") {
		t.Errorf("no answer of IKE_AUTH was lost:\n%s", rules)
	}
	if lost := w.figure(`vpngw_dataplane_dropped_packets_total{reason="unknown_spi"}`); lost != "" && lost != "0" {
		t.Errorf("the kernel has dropped %s packets for want of an SA", lost)
	}
	// The peers had no word of the end and keep the old IKE SAs until their DPD.
	w.expectNothingInClear()
}

// expectKept waits until the service manager keeps so many sockets of the daemon's.
func (w *world) expectKept(want int) {
	w.t.Helper()
	var have []string
	err := netlab.Poll(w.ctx, 50*time.Millisecond, func() (_ bool, err error) {
		have, err = w.daemon.Store.Kept()
		return len(have) == want, err
	})
	if err != nil {
		w.t.Fatalf("kept are %v, want %d sockets: %v", have, want, err)
	}
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
