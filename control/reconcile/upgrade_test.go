package reconcile

import (
	"errors"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/ike/sa"
)

func (w *world) upgrade(gateway string, action control.UpgradeAction) (job string) {
	w.Helper()
	job, err := w.service.UpgradeGateway(w.ctx, project, gateway, action)
	if err != nil {
		w.Fatalf("%s: %v", action, err)
	}
	time.Sleep(2 * upgradePass)
	w.settle()
	return job
}

var errNoPort = errors.New("listen: address already in use")

// wantJobs checks the statuses of all jobs, the newest first.
func (w *world) wantJobs(kind control.Kind, want ...control.JobStatus) {
	w.Helper()
	jobs, err := w.service.Jobs(w.ctx, project, kind, "", control.Page{})
	if err != nil {
		w.Fatal(err)
	}
	if len(jobs) != len(want) {
		w.Fatalf("%d jobs, want %d", len(jobs), len(want))
	}
	for i, status := range want {
		if jobs[i].Status != status {
			w.Errorf("job %d is %s (%s), want %s", i, jobs[i].Status, jobs[i].Error, status)
		}
	}
}

// A node alone is stopped, and one of a newer version takes its store over. The
// upgrade is done when the tunnel that was up is up.
func TestUpgradeIsDoneWhenTheTunnelsAreUp(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stop()
		w.version = "1.0.0"
		w.start()
		gateway := w.gateway()
		up := w.connection(gateway, eip1, w.customer("198.51.100.7"))
		w.connection(gateway, eip2, w.customer("198.51.100.8")) // never was up
		clients, _ := w.clientGateway(eip4, "172.20.0.0/24")
		w.engines.up(up)
		w.settle()
		w.stop()
		w.version = "1.1.0"
		w.start()

		w.engines.up(up)
		w.settle()
		w.upgrade(gateway, control.UpgradeStart)
		w.wantGateway(gateway, control.GatewayPendingUpgradeConfirm)
		w.upgrade(gateway, control.UpgradeFinish)
		w.wantGateway(gateway, control.GatewayActive)
		w.wantJobs(control.KindGateway, control.JobSuccess)

		// The next one finds the tunnel gone after its start.
		w.stop()
		w.version = "1.2.0"
		w.start()
		w.engines.up(up)
		w.settle()
		if _, err := w.service.UpgradeGateway(w.ctx, project, gateway, control.UpgradeStart); err != nil {
			t.Fatal(err)
		}
		w.engines.down(up, sa.Event{Kind: sa.IKEDown, Reason: sa.ReasonDPDTimeout})
		time.Sleep(time.Minute)
		w.settle()
		w.wantGateway(gateway, control.GatewayUpgrading)
		w.engines.up(up)
		time.Sleep(2 * upgradePass)
		w.settle()
		w.wantGateway(gateway, control.GatewayPendingUpgradeConfirm)
		passes := w.r.Stats().Passes
		time.Sleep(time.Minute)
		if n := w.r.Stats().Passes - passes; n > 2 {
			t.Errorf("%d passes in a minute while nothing moves", n)
		}

		// Clients are not waited for, their server is.
		server := w.clients.endpoints()[0].ID
		w.clients.fail(server, errNoPort)
		if _, err := w.service.UpgradeP2CGateway(w.ctx, project, clients, control.UpgradeStart); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * upgradePass)
		w.settle()
		w.wantJobs(control.KindP2CGateway, control.JobUpgrading)
		w.clients.fail(server, nil)
		time.Sleep(3 * upgradePass)
		w.settle()
		w.wantJobs(control.KindP2CGateway, control.JobPendingUpgradeConfirm)
	})
}

// In a fleet the node that has the gateway now tells that it is there.
func TestUpgradeInAFleetIsDoneAtTheOtherNode(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stop()
		w.version = "1.0.0"
		w.start()
		gateway := w.gateway(func(g *control.GatewayCreate) { g.HAMode = ptr("active-standby") })
		w.stop()
		s := &share{division: &control.Division{Node: "one"}, versions: map[string]string{"one": "1.1.0", "two": "1.0.0"}}
		w.share, w.version = s, "1.1.0"
		w.start()
		s.divide(w, gateway, "two")
		if _, err := w.service.UpgradeGateway(w.ctx, project, gateway, control.UpgradeStart); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		w.settle()
		w.wantJobs(control.KindGateway, control.JobUpgrading) // it is for the other node to say
		s.divide(w, gateway, "one")
		time.Sleep(2 * upgradePass)
		w.settle()
		w.wantJobs(control.KindGateway, control.JobPendingUpgradeConfirm)

		// Back: this node has it still, which is of no use to the rollback.
		w.upgrade(gateway, control.UpgradeRollback)
		w.wantGateway(gateway, control.GatewayRollingBack)
		time.Sleep(6 * time.Minute)
		w.settle()
		w.wantJobs(control.KindGateway, control.JobFail, control.JobFail)
		w.wantGateway(gateway, control.GatewayActive)
	})
}

// When those that should have a gateway next fail to take it, nobody serves it:
// the steward ends the upgrade, so that the others may have it again.
func TestUpgradeToNobodyEnds(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stop()
		w.version = "1.0.0"
		w.start()
		gateway := w.gateway(func(g *control.GatewayCreate) { g.HAMode = ptr("active-standby") })
		w.stop()
		s := &share{division: &control.Division{Node: "one"}, versions: map[string]string{"one": "1.0.0", "two": "1.1.0"}, steward: "one"}
		w.share = s
		w.start()
		s.divide(w, gateway, "one")
		if _, err := w.service.UpgradeGateway(w.ctx, project, gateway, control.UpgradeStart); err != nil {
			t.Fatal(err)
		}
		s.divide(w, gateway, "")
		time.Sleep(6 * time.Minute)
		w.settle()
		w.wantJobs(control.KindGateway, control.JobFail)
		w.wantGateway(gateway, control.GatewayActive)
	})
	inWorld(t, func(w *world) {
		w.stop()
		w.version = "1.0.0"
		w.start()
		gateway, _ := w.clientGateway(eip1, "172.20.0.0/24")
		w.stop()
		s := &share{division: &control.Division{Node: "one"}, versions: map[string]string{"one": "1.0.0", "two": "1.1.0"}, steward: "one"}
		w.share = s
		w.start()
		s.divide(w, "", "one")
		if _, err := w.service.UpgradeP2CGateway(w.ctx, project, gateway, control.UpgradeStart); err != nil {
			t.Fatal(err)
		}
		s.divide(w, "", "")
		time.Sleep(6 * time.Minute)
		w.settle()
		w.wantJobs(control.KindP2CGateway, control.JobFail)
	})
}
