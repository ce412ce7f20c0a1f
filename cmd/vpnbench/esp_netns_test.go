//go:build netns

package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the program that a measurement starts in
// each namespace.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && strings.HasSuffix(os.Args[1], "-node") {
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
		defer stop()
		if err := newCommand().ExecuteContext(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestNetNSMeasure runs every kind of traffic through our own data plane, and one
// through every other kind of tunnel of ours. What it measures says nothing in a
// test; that it measures does.
func TestNetNSMeasure(t *testing.T) {
	results, err := runESP(t.Context(), espOptions{seconds: 1, rounds: 1, subjects: []string{"vpngw"}, tests: testNames()})
	if err != nil {
		t.Fatal(err)
	}
	others, err := runESP(t.Context(), espOptions{
		seconds: 1, rounds: 1, subjects: []string{"vpngw-raw-esp", "vpngw-cbc", "vpngw-to-strongswan"}, tests: []string{"tcp"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if results = append(results, others...); len(results) != len(traffics)+3 {
		t.Errorf("%d results", len(results))
	}
	for _, r := range results {
		// A hypervisor's stolen time is in a process's account and not in the
		// machine's: neither bounds the other.
		datagrams := r.Test == "udp-64"
		if r.GbitPerSecond <= 0 || r.GatewayCPU <= 0 || r.MachineCPU <= 0 || (r.PacketsPerSecond > 0) != datagrams || (r.RoundTrip > 0) == datagrams {
			t.Errorf("%+v", r)
		}
	}
}

func TestNetNSTunnels(t *testing.T) {
	results, err := runTunnels(t.Context(), espOptions{seconds: 1, rounds: 1, tunnels: 5})
	if err != nil {
		t.Fatal(err)
	}
	want := loads(5)
	if len(results) != len(want) || results[0].Ratio != 1 || results[1].TunnelsRatio != 1 || results[4].TunnelsRatio != 1 {
		t.Fatalf("%+v", results)
	}
	for i, r := range results {
		gateways, datagrams := r.Tunnels > 0, r.Protocol == "udp"
		if r.flowLoad != want[i] || r.GbitPerSecond <= 0 || r.MachineCPU <= 0 || (r.GatewayCPU > 0) != gateways || (r.Memory > 0) != gateways ||
			(r.Offered > 0) != datagrams || (r.Ratio > 0) == datagrams ||
			r.Fairness < 1/float64(r.Flows) || r.Fairness > 1.001 || r.Least > 1 || r.Most < 1 {
			t.Errorf("%+v", r)
		}
	}
}
