package control

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// nodes is a fleet whose division a test sets.
type nodes struct{ division *Division }

func (n *nodes) Division() *Division { return n.division }

func (n *nodes) LeaseLeft(context.Context) (map[string]time.Duration, time.Duration, error) {
	return nil, 0, nil
}

// upgrade takes a step of the upgrade of a gateway.
func (w *world) upgrade(id string, action UpgradeAction) (job string) {
	w.t.Helper()
	job, err := w.UpgradeGateway(w.t.Context(), project, id, action)
	if err != nil {
		w.t.Fatalf("%s: %v", action, err)
	}
	return job
}

func (w *world) advance(id string, done ...bool) {
	w.t.Helper()
	p := UpgradeProgress{Kind: KindGateway, Project: project, ID: id, Done: done, Waiting: "connection x is not up"}
	if err := w.objects.AdvanceUpgrade(w.t.Context(), p, w.clock); err != nil {
		w.t.Fatal(err)
	}
}

// wantJob checks a job, which is listed, and the statuses of its parts.
func (w *world) wantJob(id string, status JobStatus, parts ...SubJobStatus) Job {
	w.t.Helper()
	jobs, err := w.Jobs(w.t.Context(), project, KindGateway, "", Page{})
	if err != nil {
		w.t.Fatal(err)
	}
	i := slices.IndexFunc(jobs, func(j Job) bool { return j.ID == id })
	if i < 0 {
		w.t.Fatalf("job %s is not listed", id)
	}
	var got []SubJobStatus
	for _, p := range jobs[i].Parts {
		got = append(got, p.Status)
	}
	if jobs[i].Status != status || !slices.Equal(got, parts) {
		w.t.Errorf("job is %s with parts %v, want %s with %v", jobs[i].Status, got, status, parts)
	}
	return jobs[i]
}

func (w *world) wantGateway(id string, state GatewayState, version string, upgradable bool) {
	w.t.Helper()
	v, err := w.ShowGateway(w.t.Context(), project, id)
	if err != nil {
		w.t.Fatal(err)
	}
	if v.State != state || v.Version != version || v.Upgradable != upgradable {
		w.t.Errorf("gateway is %s, confirmed on %q, upgradable %v; want %s, %q, %v", v.State, v.Version, v.Upgradable, state, version, upgradable)
	}
}

// A node alone whose daemon was replaced by a newer one.
func TestUpgradeOfANodeAlone(t *testing.T) {
	w := newWorld(t)
	w.version = "1.0.0"
	g := w.gateway()
	c := w.connection(g.ID, w.peer("198.51.100.1").ID)
	w.settleConnection(c.ID, ConnectionActive)
	w.wantGateway(g.ID, GatewayActive, "1.0.0", false)
	_, err := w.UpgradeGateway(t.Context(), project, g.ID, UpgradeStart)
	wantRefusal(t, err, CodeInvalid, "no newer version")

	w.version = "1.1.0"
	w.wantGateway(g.ID, GatewayActive, "1.0.0", true)
	job := w.upgrade(g.ID, UpgradeStart)
	w.wantGateway(g.ID, GatewayUpgrading, "1.0.0", false)
	w.wantJob(job, JobUpgrading, SubJobSuccess, SubJobUpgrading, SubJobUpgrading)
	stored, err := w.read(t.Context()).gateway(project, g.ID)
	if err != nil || !slices.Equal(stored.Upgrade.Up, []string{c.ID}) || stored.Upgrade.Wanted() != "1.1.0" {
		t.Errorf("the upgrade is %+v, %v", stored.Upgrade, err)
	}
	for _, action := range []UpgradeAction{UpgradeStart, UpgradeFinish, UpgradeRollback} {
		_, err := w.UpgradeGateway(t.Context(), project, g.ID, action)
		wantRefusal(t, err, CodeForbidden, "currently UPGRADING")
	}
	wantRefusal(t, w.DeleteConnection(t.Context(), project, c.ID), CodeForbidden, "currently UPGRADING")
	wantRefusal(t, w.DeleteJob(t.Context(), project, KindGateway, job), CodeInvalid, "has not finished")

	w.advance(g.ID, true, false)
	w.wantJob(job, JobUpgrading, SubJobSuccess, SubJobSuccess, SubJobUpgrading)
	w.advance(g.ID, true, true)
	w.wantJob(job, JobPendingUpgradeConfirm, SubJobSuccess, SubJobSuccess, SubJobSuccess)
	w.wantGateway(g.ID, GatewayPendingUpgradeConfirm, "1.0.0", false)
	_, err = w.UpgradeGateway(t.Context(), project, g.ID, UpgradeRollback)
	wantRefusal(t, err, CodeInvalid, `no node that could serve this gateway runs version "1.0.0" any more`)
	if got := w.upgrade(g.ID, UpgradeFinish); got != job {
		t.Errorf("finish names job %s, want %s", got, job)
	}
	w.wantGateway(g.ID, GatewayActive, "1.1.0", false)
	if j := w.wantJob(job, JobSuccess, SubJobSuccess, SubJobSuccess, SubJobSuccess); j.FinishedAt.Before(j.CreatedAt) || j.Error != "" {
		t.Errorf("job %+v", j)
	}
	wantRefusal(t, w.DeleteJob(t.Context(), project, KindP2CGateway, job), CodeNotFound)
	if err := w.DeleteJob(t.Context(), project, KindGateway, job); err != nil {
		t.Error(err)
	}
	wantRefusal(t, w.DeleteJob(t.Context(), project, KindGateway, job), CodeNotFound)
}

func TestUpgradeThatTakesTooLong(t *testing.T) {
	w := newWorld(t)
	w.version = "1.0.0"
	g := w.gateway()
	w.version = "1.1.0"
	job := w.upgrade(g.ID, UpgradeStart)
	w.clock = w.clock.Add(UpgradeMax)
	w.advance(g.ID, true, false)
	w.wantGateway(g.ID, GatewayUpgrading, "1.0.0", false)
	w.clock = w.clock.Add(time.Second)
	w.advance(g.ID, true, false)
	w.wantGateway(g.ID, GatewayActive, "1.0.0", true)
	j := w.wantJob(job, JobFail, SubJobSuccess, SubJobSuccess, SubJobFail)
	if !strings.Contains(j.Error, "connection x is not up") || j.Parts[2].Error != j.Error {
		t.Errorf("the job does not say why it failed: %+v", j)
	}
	w.advance(g.ID, true, true) // of one that is over
	w.wantGateway(g.ID, GatewayActive, "1.0.0", true)

	// The jobs go with their gateway, and of many the oldest.
	for i := range maxJobs + 3 {
		w.version = fmt.Sprintf("2.%d.0", i)
		w.upgrade(g.ID, UpgradeStart)
		w.advance(g.ID, true, true)
		w.upgrade(g.ID, UpgradeFinish)
	}
	all, err := w.Jobs(t.Context(), project, KindGateway, g.ID, Page{})
	if err != nil || len(all) != maxJobs {
		t.Errorf("%d jobs are kept, %v", len(all), err)
	}
	limit := 3
	page, err := w.Jobs(t.Context(), project, KindGateway, g.ID, Page{Limit: &limit, Marker: FormatTime(all[1].CreatedAt)})
	if err != nil || !reflect.DeepEqual(page, all[2:5]) {
		t.Errorf("a page is %v, %v", page, err)
	}
	if err := w.DeleteGateway(t.Context(), project, g.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.objects.FinalizeGateway(t.Context(), project, g.ID); err != nil {
		t.Fatal(err)
	}
	if all, err := w.Jobs(t.Context(), project, KindGateway, "", Page{}); err != nil || len(all) != 0 {
		t.Errorf("left over: %v, %v", all, err)
	}
}

// In a fleet there is something to go back to.
func TestUpgradeAndRollbackInAFleet(t *testing.T) {
	w := newWorld(t)
	w.version = "1.0.0"
	g := w.gateway()
	a1, a2 := g.Address(Slot1), g.Address(Slot2)
	both := []netip.Addr{a1, a2}
	n := &nodes{&Division{Node: "a", Nodes: map[string]Node{
		"a": {Name: "a", Version: "1.0.0", Floating: both},
		"b": {Name: "b", Version: "1.2.0", Floating: both[:1]},
	}}}
	w.fleet = n
	w.wantGateway(g.ID, GatewayActive, "1.0.0", false) // nobody has the second address in a newer version
	n.division.Nodes["c"] = Node{Name: "c", Version: "1.1.0", Floating: both}
	w.wantGateway(g.ID, GatewayActive, "1.0.0", true)

	job := w.upgrade(g.ID, UpgradeStart)
	stored, err := w.read(t.Context()).gateway(project, g.ID)
	if err != nil || stored.Upgrade.Wanted() != "1.1.0" {
		t.Errorf("the upgrade is %+v, %v", stored.Upgrade, err)
	}
	w.advance(g.ID, true, true)
	back := w.upgrade(g.ID, UpgradeRollback)
	w.wantGateway(g.ID, GatewayRollingBack, "1.0.0", false)
	w.wantJob(job, JobRollingBack, SubJobSuccess, SubJobSuccess, SubJobSuccess)
	w.wantJob(back, JobRollingBack, SubJobSuccess, SubJobUpgrading, SubJobUpgrading)
	if stored, err = w.read(t.Context()).gateway(project, g.ID); err != nil || stored.Upgrade.Wanted() != "1.0.0" {
		t.Errorf("the rollback is %+v, %v", stored.Upgrade, err)
	}
	w.advance(g.ID, true, true)
	w.wantGateway(g.ID, GatewayActive, "1.0.0", true)
	w.wantJob(job, JobRollbackSuccess, SubJobSuccess, SubJobSuccess, SubJobSuccess)
	w.wantJob(back, JobRollbackSuccess, SubJobSuccess, SubJobSuccess, SubJobSuccess)

	// A rollback that does not get there leaves the gateway where it is.
	w.upgrade(g.ID, UpgradeStart)
	w.advance(g.ID, true, true)
	back = w.upgrade(g.ID, UpgradeRollback)
	w.clock = w.clock.Add(UpgradeMax + time.Second)
	w.advance(g.ID, false, false)
	w.wantGateway(g.ID, GatewayActive, "1.0.0", true)
	w.wantJob(back, JobFail, SubJobSuccess, SubJobFail, SubJobFail)
}
