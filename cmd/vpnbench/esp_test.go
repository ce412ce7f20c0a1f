package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseProcessTime(t *testing.T) {
	// A command that looks like the fields behind it.
	const stat = "77 (a) b) R 1) S 1 77 77 0 -1 4194560 100 0 0 0 250 125 9 9 20 0 5 0 12345 0 0"
	if got, err := parseProcessTime(stat); err != nil || got != 3750*time.Millisecond {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "77 (x) S 1", "77 (x) S 1 77 77 0 -1 4194560 100 0 0 0 a b 9 9"} {
		if _, err := parseProcessTime(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestBusyTime(t *testing.T) {
	// user nice system idle iowait irq softirq steal
	const stat = "cpu  100 10 50 99999 8888 5 35 77 0 0\ncpu0 1 1 1 1\n"
	if got, err := busyTime(stat); err != nil || got != 2*time.Second {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := busyTime("intr 1 2 3"); err == nil {
		t.Error("no line of all CPUs: no error")
	}
}

func TestRatiosAndTable(t *testing.T) {
	results := []result{
		{Subject: "vpngw", Test: "tcp", GbitPerSecond: 5, RoundTrip: 0.5, GatewayCPU: 1.5, MachineCPU: 2.25},
		{Subject: "vpngw", Test: "udp-64", GbitPerSecond: 0.08, PacketsPerSecond: 160000},
		{Subject: baseline, Test: "tcp", GbitPerSecond: 2.5, GatewayCPU: 3},
		{Subject: libipsec, Test: "tcp", GbitPerSecond: 0.5},
		{Subject: "vpngw-cbc", Test: "tcp", GbitPerSecond: 2},
		{Subject: libipsecCBC, Test: "tcp", GbitPerSecond: 0.25},
	}
	addRatios(results)
	for i, want := range []struct{ ratio, cpu, swan float64 }{
		{2, 0.5, 10}, {}, {1, 1, 5}, {0.2, 0, 0}, {0.8, 0, 8}, {0.1, 0, 0},
	} {
		if r := results[i]; r.Ratio != want.ratio || r.CPURatio != want.cpu || r.SwanRatio != want.swan {
			t.Errorf("got %+v, want %v", r, want)
		}
	}
	lines := strings.Split(table(results), "\n")
	for i, w := range []string{
		"vpngw tcp 5.00 0.50 1.50 2.25 2.00 0.50 10.00", "wireguard-go tcp 2.50 3.00 1.00 1.00 5.00", "strongswan-libipsec tcp 0.50 0.20",
		"vpngw-cbc tcp 2.00 0.80 8.00", "strongswan-libipsec-cbc tcp 0.25 0.10", "vpngw udp-64 0.08 160000",
	} {
		if got := strings.Join(strings.Fields(lines[2+i]), " "); got != w {
			t.Errorf("line %q, want %q", got, w)
		}
	}
}

func TestJain(t *testing.T) {
	for _, tt := range []struct {
		shares     []float64
		sum, index float64
	}{
		{[]float64{3, 3, 3}, 9, 1},
		{[]float64{0, 8, 0, 0}, 8, 0.25},
		{[]float64{1, 3}, 4, 0.8},
		{[]float64{0, 0}, 0, 0},
	} {
		if sum, index := jain(tt.shares); sum != tt.sum || index != tt.index {
			t.Errorf("%v: %v, %v", tt.shares, sum, index)
		}
	}
}

func TestMedians(t *testing.T) {
	var results []result
	for _, g := range []float64{3, 1, 2} {
		results = append(results,
			result{Subject: "a", Test: "tcp", GbitPerSecond: g, GatewayCPU: 10 * g},
			result{Subject: "b", Test: "tcp", GbitPerSecond: 5 * g})
	}
	got := medians(results)
	want := []result{{Subject: "a", Test: "tcp", GbitPerSecond: 2, GatewayCPU: 20}, {Subject: "b", Test: "tcp", GbitPerSecond: 10}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestWrongFlags(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"esp --tests icmp", "--tests icmp: must be of tcp"},
		{"esp --subjects openvpn", "--subjects openvpn: must be of vpngw"},
		{"esp --seconds 0", "--seconds 0: must be at least 1"},
		{"esp --rounds 0", "--rounds 0: must be at least 1"},
		{"esp --tunnels 100000", "--tunnels 100000: must be 1 to"},
		{"esp-node", "accepts 1 arg"},
		{"esp-node /does/not/exist", "no such file"},
	} {
		cmd := newCommand()
		cmd.SetArgs(strings.Fields(tt.args))
		cmd.SetOut(new(bytes.Buffer))
		cmd.SetErr(new(bytes.Buffer))
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.args, err, tt.want)
		}
	}
}

// TestPrerequisites says before anything is measured what is not there.
func TestPrerequisites(t *testing.T) {
	o := espOptions{wireguard: "./no-such-wireguard"}
	chosen := []subject{{name: baseline}, {name: "other", programs: []string{"no-such-one", "no-such-two"}}}
	err := o.prepare(t.Context(), chosen, t.TempDir())
	for _, want := range []string{"no-such-wireguard", "no-such-one", "no-such-two"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want one that names %s", err, want)
		}
	}
	if _, err := buildWireGuard(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "repository's root") {
		t.Errorf("outside of the repository's root: %v", err)
	}
}
