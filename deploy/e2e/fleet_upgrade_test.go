//go:build e2e

package e2e

import (
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// buildVersion builds a daemon that says to be of a version.
func buildVersion(t *testing.T, version string) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "vpngwd-"+version)
	out, err := exec.CommandContext(t.Context(), "go", "build", "-C", "../..", "-ldflags", "-s -w -X main.version="+version, "-o", program, "./cmd/vpngwd").CombinedOutput()
	if err != nil {
		t.Fatalf("build version %s: %v\n%s", version, err, out)
	}
	return program
}

// A gateway goes to the one node of a newer version, back, and there again, with
// its tunnel to a stock peer up each time before the job says so.
func TestFleetUpgrade(t *testing.T) {
	t.Parallel()
	first, second := buildVersion(t, "1.0.0"), buildVersion(t, "1.1.0")
	w := newFleetOf(t, first, 6*time.Minute, 3*time.Second, netlab.SiteConfig{})
	w.startPeer()
	w.apply(w.Nodes[0])
	w.reach()
	claim := w.active()
	older := w.holder(claim)
	newer, asked := w.Nodes[0], w.Nodes[1]
	if older == newer {
		newer = w.Nodes[2]
	}
	w.check(newer.Stop())
	newer.Become(second)
	w.check(newer.Start(w.ctx))

	api := w.client(asked)
	w.waitUntil("the node that is asked knows the newer one", patience, func() bool {
		nodes := must(api.Nodes(w.ctx))(t)
		return slices.ContainsFunc(nodes, func(n client.Object) bool { return n.Text("name") == newer.Name && n.Text("version") == "1.1.0" })
	})
	gateway := must(api.Find(w.ctx, client.Gateways, "cloud"))(t)
	status := func() string { return must(api.Get(w.ctx, client.Gateways, gateway.ID()))(t).Status() }
	step := func(action string) {
		t.Helper()
		w.check(api.Call(w.ctx, "POST", "vpn-gateways/"+gateway.ID()+"/upgrade", map[string]string{"action": action}, nil))
	}
	job := func() (status, why string) {
		t.Helper()
		var answer struct {
			Jobs []struct {
				Status string `json:"status"`
				Error  string `json:"error_message"`
			} `json:"jobs"`
		}
		w.check(api.Call(w.ctx, "GET", "vpn-gateways/jobs", nil, &answer))
		return answer.Jobs[0].Status, answer.Jobs[0].Error
	}
	moved := func(action, want string) {
		t.Helper()
		began := time.Now()
		step(action)
		w.waitUntil("the job is "+want, 2*patience, func() bool {
			got, why := job()
			if got == "fail" {
				t.Fatalf("%s has failed: %s", action, why)
			}
			return got == want
		})
		took := time.Since(began).Round(time.Millisecond)
		w.reach()
		// The job and the status of the connection are written one after the other.
		w.waitUntil("the connection is ACTIVE after "+action, patience, func() bool {
			return must(api.Find(w.ctx, client.Connections, "site-1"))(t).Status() == "ACTIVE"
		})
		t.Logf("%s: done after %v", action, took)
	}

	moved("start", "pending_upgrade_confirm")
	if got := w.holder(claim); got != newer || status() != "PENDING_UPGRADE_CONFIRM" {
		t.Errorf("after the upgrade the gateway is %s, at %v", status(), got)
	}
	moved("rollback", "rollback_success")
	if got := w.holder(claim); got == newer || status() != "ACTIVE" {
		t.Errorf("after the rollback the gateway is %s, at %v", status(), got)
	}
	moved("start", "pending_upgrade_confirm")
	step("finish")
	if got, _ := job(); got != "success" || status() != "ACTIVE" || w.holder(claim) != newer {
		t.Errorf("after the end the job is %s and the gateway %s, at %v", got, status(), w.holder(claim))
	}
}
