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

// A minute of traffic to three sites while both ends rekey SAs under it. The
// gateway rekeys children about every five seconds and IKE SAs about every ten,
// everywhere. At the first site the peer does so, too, every three and about every
// seven seconds; at the third its lifetimes end at about the time ours do, so that
// rekeys collide. It has the machine for itself.
func TestRekeyUnderTraffic(t *testing.T) {
	const duration = 60 * time.Second
	w := newWorld(t, 4*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 3)}, netlab.DaemonOptions{ShortLives: true})
	crossing := func(c *netlab.SwanConnection) { c.RekeyTime, c.ChildRekeyTime = 10*time.Second, 6*time.Second }
	// strongSwan (5.9.8) forgets to remove an old child when it moves children to
	// a new IKE SA just as that removal is due: let it be due early.
	settings := map[string]string{"delete_rekeyed_delay": "1"}
	w.peer(0, settings, w.swan(0))
	w.peer(1, settings, w.swan(1))
	w.peer(2, settings, w.swan(2, crossing))
	w.apply(w.file([]declare.Connection{w.connection(0), w.connection(1), w.connection(2)}))
	var pings []*netlab.Ping
	var first []netlab.SwanIKE
	for site := range w.Sites {
		w.waitStatus(connectionName(site), "ACTIVE", patience)
		pings = append(pings, w.ping(site))
		first = append(first, w.expectOneSA(site, 1, patience))
	}

	ctx, stop := context.WithTimeout(w.ctx, duration)
	defer stop()
	rekeyed := make(chan [2]int, 1)
	go func() { rekeyed <- rekeyByPeer(ctx, t, w.peers[0]) }()
	type result struct {
		title  string
		report netlab.IPerfReport
		err    error
	}
	// The rates leave room on a small machine, and a window's burst fits into
	// the receive buffer of strongSwan's socket, some ninety packets.
	const window = 32 << 10
	flows := []struct {
		title string
		site  int
		what  netlab.IPerf
	}{
		{"TCP to the first site", 0, netlab.IPerf{Rate: "20M", Window: window}},
		{"UDP from the first site", 0, netlab.IPerf{UDP: true, Rate: "4M", Length: 1200, Reverse: true}},
		{"TCP from the second site", 1, netlab.IPerf{Rate: "20M", Window: window, Reverse: true}},
		{"UDP to the second site", 1, netlab.IPerf{UDP: true, Rate: "4M", Length: 1200}},
		{"UDP to the third site", 2, netlab.IPerf{UDP: true, Rate: "4M", Length: 1200}},
	}
	// A flow that waits for retransmissions all the time is far below its rate.
	const stalled = 2e6
	lost, sent := 0, 0
	results := make(chan result, len(flows))
	for i, flow := range flows {
		go func() {
			flow.what.Duration, flow.what.Port = duration, 5201+i
			s := w.Sites[flow.site]
			report, err := netlab.RunIPerf(w.ctx, w.CloudHost, s.Host, s.Addresses[0], flow.what)
			results <- result{flow.title, report, err}
		}()
	}
	for range flows {
		r := <-results
		t.Logf("%s: %v", r.title, r.report)
		switch {
		case r.err != nil:
			t.Errorf("%s: %v", r.title, r.err)
		case r.report.BitsPerSecond < stalled:
			t.Errorf("%s: all but stands still: %v", r.title, r.report)
		}
		lost, sent = lost+r.report.Lost, sent+r.report.Packets
	}
	count := <-rekeyed
	t.Logf("the peer rekeyed %d children and %d IKE SAs", count[0], count[1])
	if count[0] < 5 || count[1] < 2 {
		t.Errorf("the peer rekeyed %d children and %d IKE SAs", count[0], count[1])
	}
	// What a busy machine loses, it loses in queues, which count it; a rekey that
	// loses packets shows as packets without an SA or outside the window.
	overruns := w.overruns()
	t.Logf("%d of %d datagrams lost, queues overran by %d packets", lost, sent, overruns)
	if unexplained := lost - overruns; unexplained*50 > sent {
		t.Errorf("%d of %d datagrams are lost, queues overran by %d packets only", lost, sent, overruns)
	}
	page, err := w.daemon.Metrics(w.ctx)
	w.check(err)
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "vpngw_dataplane_dropped_packets_total{") {
			t.Errorf("the data plane dropped packets: %s", line)
		}
	}
	for site, p := range pings {
		report, err := p.Finish(w.ctx)
		w.check(err)
		if report.Sent < 100 || len(report.Lost) > overruns {
			t.Errorf("site %d: %v, queues overran by %d packets", site, report, overruns)
		}
		// Superseded SAs stay for some seconds to take what is under way.
		last := w.expectOneSA(site, 1, patience)
		if last.InitiatorSPI == first[site].InitiatorSPI && last.ResponderSPI == first[site].ResponderSPI {
			t.Errorf("site %d: the IKE SA was not rekeyed", site)
		}
		if last.Children[0].SPIIn == first[site].Children[0].SPIIn {
			t.Errorf("site %d: the CHILD_SA was not rekeyed", site)
		}
	}
	for site := range w.Sites {
		w.waitLog(connectionName(site), patience, "An IPSec tunnel is rekeyed")
		w.waitLog(connectionName(site), patience, "An IKE SA is rekeyed")
	}
	w.expectNothingInClear()
}

// rekeyByPeer has a peer rekey until ctx is over, and counts children and IKE
// SAs. A rekey that a collision puts off does not count.
func rekeyByPeer(ctx context.Context, t *testing.T, peer *netlab.StrongSwan) (count [2]int) {
	children, ikes := time.NewTicker(3*time.Second), time.NewTicker(7300*time.Millisecond)
	defer children.Stop()
	defer ikes.Stop()
	for {
		var err error
		kind := 0
		select {
		case <-ctx.Done():
			return count
		case <-children.C:
			err = peer.RekeyChild(ctx, "net")
		case <-ikes.C:
			kind = 1
			err = peer.RekeyIKE(ctx, "cloud")
		}
		switch {
		case err == nil:
			count[kind]++
		case ctx.Err() == nil:
			t.Logf("rekey by the peer: %v", err)
		}
	}
}
