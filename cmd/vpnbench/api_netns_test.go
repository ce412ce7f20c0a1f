//go:build netns

package main

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// TestNetNSAPI runs the whole load in small: no call fails, no write is lost, and
// a second apply touches nothing.
func TestNetNSAPI(t *testing.T) {
	program := filepath.Join(t.TempDir(), "vpngwd")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../vpngwd").CombinedOutput(); err != nil {
		t.Fatalf("build vpngwd: %v: %s", err, out)
	}
	figures, err := runAPI(t.Context(), apiOptions{clients: 8, connections: 48, users: 20, policies: 10, calls: 10, vpngwd: program})
	if err != nil {
		t.Fatal(err)
	}
	if figures.Devices != 48 || figures.Converged <= 0 || figures.Empty <= 0 || figures.Full < figures.Empty || figures.Peak < figures.Full || figures.StoreSize <= 0 {
		t.Errorf("%+v", figures)
	}
	for _, w := range figures.Writes {
		if w.Calls != w.Number || w.P50 <= 0 || w.P99 < w.P50 || w.Max < w.P99 {
			t.Errorf("%+v", w)
		}
	}
	for _, r := range figures.Reads {
		if r.Calls == 0 || r.P50 <= 0 || r.P99 < r.P50 {
			t.Errorf("%+v", r)
		}
	}
}
