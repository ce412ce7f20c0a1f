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

// TestNetNSMeasure runs every kind of traffic through our own data plane. What
// it measures says nothing in a test; that it measures does.
func TestNetNSMeasure(t *testing.T) {
	results, err := runESP(t.Context(), espOptions{
		seconds: 1, rounds: 1, subjects: []string{"vpngw", "vpngw-raw-esp"}, tests: testNames(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 2*len(traffics) {
		t.Errorf("%d results", len(results))
	}
	for _, r := range results {
		// A hypervisor's stolen time is in a process's account and not in the
		// machine's: neither bounds the other.
		if r.GbitPerSecond <= 0 || r.GatewayCPU <= 0 || r.MachineCPU <= 0 || (r.PacketsPerSecond > 0) != (r.Test == "udp-64") {
			t.Errorf("%+v", r)
		}
	}
}
