//go:build e2e && uml

package interop

import (
	"context"
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/deploy/netlab"
)

var onlyImpairment = flag.String("impairment", "", "run with this of libreswan's impairments only")

// What all impairments together may leave behind in the daemon.
const (
	// In octets that live. The store's history of changes alone may have 32 MiB
	// of values.
	maxHeapGrowth      = 96 << 20
	maxGoroutineGrowth = 16
)

// Libreswan breaks the protocols in every way it knows, as initiator and as
// responder of each version and mode. The daemon stays, loses nothing for good
// and keeps nothing: each tunnel is back after each impairment, with
// few SAs, without a restart of anything.
func TestUMLImpairments(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), umlPatience)
	defer cancel()
	array := []cell{
		{Number: 1, Mode: v2, Cipher: "aes-256", Group: "group19", PFS: "group19", ESPCipher: "aes-128", ESPHash: "sha2-256"},
		{Number: 2, Mode: v1Main, Cipher: "aes-128", Group: "group14", PFS: "group14", ESPCipher: "aes-256", ESPHash: "sha1"},
		{Number: 3, Mode: v1Aggressive, Cipher: "aes-192", Group: "group19", PFS: noPFS, ESPCipher: "aes-256-gcm-16", ESPHash: noHash},
	}
	for i := range array {
		array[i].Hash, array[i].Initiator, array[i].Path, array[i].Style = "sha2-256", byGateway, "direct", "policy"
	}
	w := newWorld(ctx, t, netlab.DaemonOptions{RawESP: true, Retransmit: true})
	m := &impaired{matrix: matrix{world: w, failed: map[int]string{}, ids: map[int]string{}}, peer: &libreswan{impatient: true}, array: array}
	w.answerTime = 2 * time.Second
	w.translate(array)
	m.add(w.connect("router", array), m.peer)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("pluto:\n%s", m.peer.log())
		}
	})
	m.listed()
	m.declare(array)
	m.recover("nothing yet")
	heap, goroutines := m.inUse()
	for _, i := range impairments {
		if i.why != "" || *onlyImpairment != "" && *onlyImpairment != i.name {
			continue
		}
		for _, v := range append(slices.Clone(i.values), make([]string, max(0, 1-len(i.values)))...) {
			m.impair(i.name, v)
		}
	}
	heapAfter, goroutinesAfter := m.inUse()
	t.Logf("heap in use: %d KiB before, %d KiB after; goroutines: %d and %d", heap>>10, heapAfter>>10, goroutines, goroutinesAfter)
	if heapAfter > heap+maxHeapGrowth || goroutinesAfter > goroutines+maxGoroutineGrowth {
		t.Error("the daemon has grown")
	}
	m.end(array)
	if len(m.failed) > 0 {
		t.Errorf("at the end: %v", m.failed)
	}
	m.expectNothingInClear()
}

type impaired struct {
	matrix
	peer  *libreswan
	array []cell
	runs  int
}

// listed fails the test when libreswan has other impairments than the list.
func (m *impaired) listed() {
	m.t.Helper()
	help := m.whack("--impair", "help")
	var have, want []string
	for _, match := range regexp.MustCompile(`(?m)^([a-z][-a-z0-9]+):`).FindAllStringSubmatch(help, -1) {
		have = append(have, match[1])
	}
	for _, i := range impairments {
		want = append(want, i.name)
	}
	slices.Sort(have)
	if !slices.Equal(have, want) {
		m.t.Fatalf("libreswan has the impairments %q, the list %q", have, want)
	}
}

// whack runs libreswan's control program, whose refusals do not matter here:
// what an impairment makes of a command is its own business. Some have it wait
// for what never comes.
func (m *impaired) whack(args ...string) string {
	ctx, cancel := context.WithTimeout(m.ctx, 2*time.Second)
	defer cancel()
	out, _ := m.peer.daemon.Whack(ctx, args...)
	return out
}

// impair has both sides begin each tunnel anew, and libreswan rekey it, under an
// impairment, and waits until all is well again without it.
func (m *impaired) impair(name, value string) {
	m.t.Helper()
	m.runs++
	begun := time.Now()
	what := name
	if value != "" {
		what += ":" + m.number(value)
	}
	m.whack("--impair", what)
	m.whack("--name", everyCell, "--terminate") // the gateway begins anew by itself
	m.whack("--name", everyCell, "--initiate", "--asynchronous")
	m.await(time.Second) // which many impairments keep them from
	m.whack("--name", everyCell, "--rekey-ipsec", "--asynchronous")
	m.whack("--name", everyCell, "--rekey-ike", "--asynchronous")
	m.whack("--impair", "none")
	m.recover(what)
	heap, goroutines := m.inUse()
	m.t.Logf("%s: %v, heap %d KiB, %d goroutines", what, time.Since(begun).Round(time.Millisecond), heap>>10, goroutines)
}

// number replaces the names of SAs by their numbers at the moment.
func (m *impaired) number(value string) string {
	kind := map[string]string{newestIKE: "IKE SA established|established IKE SA", newestChild: "established Child SA"}[value]
	if kind == "" {
		return value
	}
	status, err := m.peer.daemon.Whack(m.ctx, "--status")
	m.check(err)
	all := regexp.MustCompile(`(?m)^000 #(\d+): "`+m.array[0].name()+`":.*(?:`+kind+`)`).FindAllStringSubmatch(status, -1)
	if len(all) == 0 {
		m.t.Fatalf("libreswan has no %s of %s:\n%s", value, m.array[0].name(), status)
	}
	return all[len(all)-1][1]
}

// few tells of a figure that it is not zero and does not grow without bounds: of
// SAs that both ends begin at once, or that the peer begins beside others, two or
// three may be in use.
func few(figure string) bool { return figure == "1" || figure == "2" || figure == "3" }

// await waits until the gateway has few IKE SAs and CHILD_SAs in use for each
// tunnel, and returns what it has otherwise at the end of the limit.
func (m *impaired) await(limit time.Duration) (bad []string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.ctx, limit)
	defer cancel()
	_ = netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		if !m.daemon.Running() || !m.peer.daemon.Running() {
			m.t.Fatal("a daemon has ended")
		}
		figures := m.figures()
		bad = nil
		for _, c := range m.array {
			ike, child := figures[m.figure("ike_sas", c, "")], figures[m.figure("child_sas", c, "")]
			if !few(ike) || !few(child) {
				bad = append(bad, fmt.Sprintf("%s: %s IKE SAs and %s CHILD_SAs", c.Mode, ike, child))
			}
		}
		return len(bad) == 0, nil
	})
	return bad
}

// recover waits until each tunnel is up and carries traffic. Where it does not
// by itself, libreswan ends what it believes to have, and begins anew.
func (m *impaired) recover(after string) {
	m.t.Helper()
	const tries = 10
	var bad []string
	for i := range tries {
		if i > 0 {
			m.whack("--name", everyCell, "--terminate")
			m.whack("--name", everyCell, "--initiate", "--asynchronous")
		}
		if bad = m.await(patience / tries); len(bad) > 0 {
			continue
		}
		for number, err := range m.exchange(m.routers, func(cell) bool { return false }) {
			bad = append(bad, fmt.Sprintf("%s: %v", m.array[number-1].Mode, err))
		}
		if len(bad) == 0 {
			return
		}
	}
	m.t.Fatalf("after %s: %s", after, strings.Join(bad, "; "))
}

// inUse returns how many octets of the daemon's heap its last garbage collection
// found in use, and how many goroutines it has.
func (m *impaired) inUse() (heap, goroutines int) {
	m.t.Helper()
	page, err := m.daemon.Metrics(m.ctx)
	m.check(err)
	gauge := func(name string) int {
		match := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(page)
		if match == nil {
			m.t.Fatalf("no %s among the metrics", name)
		}
		value, err := strconv.ParseFloat(match[1], 64)
		m.check(err)
		return int(value)
	}
	// The next collection is due when the heap is double (GOGC=100).
	return gauge("go_memstats_next_gc_bytes") / 2, gauge("go_goroutines")
}
