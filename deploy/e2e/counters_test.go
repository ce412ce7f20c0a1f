//go:build e2e

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// The counters of a connection are exact to the packet while its SAs come and go.
func TestCountersOverRekeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5*time.Minute, netlab.Config{Sites: []netlab.SiteConfig{{}}}, netlab.DaemonOptions{ShortLives: true})
	w.peer(0, nil, w.swan(0))
	w.apply(w.file([]declare.Connection{w.connection(0)}))
	w.waitStatus(connectionName(0), "ACTIVE", patience)
	target := w.Sites[0].Addresses[0]
	w.reach(w.CloudHost, w.CloudAddresses[0], target)

	total := func(unit, direction string) int {
		t.Helper()
		value := w.figure(fmt.Sprintf("vpngw_connection_%s_total{connection=%q,direction=%q}", unit, w.id(connectionName(0)), direction))
		return int(must(strconv.ParseFloat(value, 64))(t))
	}
	kinds := [][2]string{{"packets", "in"}, {"packets", "out"}, {"bytes", "in"}, {"bytes", "out"}}
	var before []int
	for _, k := range kinds {
		before = append(before, total(k[0], k[1]))
	}
	const count, octets = 100, 20 + 8 + 56
	out, err := w.CloudHost.Run(w.ctx, "ping", "-n", "-c", strconv.Itoa(count), "-i", "0.2", "-W", "10", "-I", w.CloudAddresses[0].String(), target.String())
	if err != nil || !strings.Contains(out, fmt.Sprintf(" %d received", count)) {
		t.Fatalf("pings were lost: %v\n%s", err, out)
	}
	for i, k := range kinds {
		want := count
		if k[0] == "bytes" {
			want *= octets
		}
		if got := total(k[0], k[1]) - before[i]; got != want {
			t.Errorf("%d %s %s, want %d", got, k[0], k[1], want)
		}
	}
	if n := strings.Count(w.log(connectionName(0)), "rekeyed"); n < 2 {
		t.Errorf("the log tells of %d rekeys:\n%s", n, w.log(connectionName(0)))
	}
}
