package control

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// A gateway runs the version of the daemon that serves it, and remembers the
// one that it was confirmed on last. Its upgrade moves what it has to nodes of
// another version:
//
//	start ─▶ upgrading ─▶ confirming ─ finish ──▶ confirmed on the new version
//	             │             └───── rollback ─▶ rolling back ─▶ as before
//	             └▶ failed: confirmed on the old version
//
// While it is under way, of the nodes that could serve the gateway only those
// of the wanted version do, unless there is none. A node alone is of the wanted
// version already: its daemon was replaced before, and the upgrade proves that
// the tunnels are up with it.

// UpgradeAction is a step of the upgrade of a gateway.
type UpgradeAction string

// Steps of an upgrade.
const (
	UpgradeStart    UpgradeAction = "start"
	UpgradeFinish   UpgradeAction = "finish"
	UpgradeRollback UpgradeAction = "rollback"
)

// UpgradePhase is how far the upgrade of a gateway is.
type UpgradePhase string

// Phases of an upgrade.
const (
	PhaseUpgrading   UpgradePhase = "upgrading"
	PhaseConfirming  UpgradePhase = "confirming"
	PhaseRollingBack UpgradePhase = "rolling-back"
)

// UpgradeMax is how long a move may take, until it has failed.
const UpgradeMax = 5 * time.Minute

// Upgrade is an upgrade that is under way, as a part of the specification of its
// gateway.
type Upgrade struct {
	Phase UpgradePhase `json:"phase"`
	From  string       `json:"from"` // version; empty: not known
	To    string       `json:"to"`
	Since time.Time    `json:"since"` // of the phase
	// Up are the ids of the connections that were up when the phase began, and
	// have to be up in the end.
	Up         []string `json:"up,omitempty"`
	JobID      string   `json:"job_id"`
	RollbackID string   `json:"rollback_id,omitempty"` // id of its job
}

// Wanted returns the version of the nodes that should serve the gateway; empty:
// any. The upgrade may be nil.
func (u *Upgrade) Wanted() string {
	switch {
	case u == nil:
		return ""
	case u.Phase == PhaseRollingBack:
		return u.From
	}
	return u.To
}

// Moving tells whether the gateway is to be moved to the wanted version, and
// that was not seen to be done.
func (u *Upgrade) Moving() bool { return u != nil && u.Phase != PhaseConfirming }

// Versions returns the versions of the living nodes that can serve addresses, as
// peers see them: of each version there is a node for each of the addresses
// that any node can serve.
func (d *Division) Versions(addresses ...netip.Addr) []string {
	addresses = slices.DeleteFunc(slices.Clone(addresses), func(a netip.Addr) bool { return !d.possible(a) })
	if len(addresses) == 0 {
		return nil
	}
	all := make(map[string]bool)
	for _, n := range d.Nodes {
		all[n.Version] = !slices.ContainsFunc(addresses, func(a netip.Addr) bool {
			return !slices.ContainsFunc(slices.Collect(maps.Values(d.Nodes)), func(other Node) bool {
				return other.Version == n.Version && (slices.Contains(other.Fixed, a) || slices.Contains(other.Floating, a))
			})
		})
	}
	maps.DeleteFunc(all, func(_ string, fits bool) bool { return !fits })
	return slices.Sorted(maps.Keys(all))
}

// versions returns those of the nodes that can serve addresses.
func (s *Service) versions(addresses ...netip.Addr) []string {
	if d := s.division(); d != nil {
		return d.Versions(addresses...)
	}
	return []string{s.version}
}

// upgradeTarget returns the newest version that a gateway can be moved to, empty
// when that is none newer than the one it was confirmed on.
func (s *Service) upgradeTarget(confirmed string, addresses ...netip.Addr) (target string) {
	for _, v := range s.versions(addresses...) {
		if newerVersion(v, confirmed) && newerVersion(v, target) {
			target = v
		}
	}
	return target
}

// upgrading is a gateway of either kind as its upgrade sees it.
type upgrading struct {
	Meta
	kind      Kind
	addresses []netip.Addr
	up        []string // connections that are up
	version   string   // that the gateway was confirmed on
	upgrade   *Upgrade
}

// UpgradeGateway performs UpgradeVpnGateway and returns the id of the job that
// tells of the step.
func (s *Service) UpgradeGateway(ctx context.Context, project, id string, action UpgradeAction) (jobID string, err error) {
	err = s.objects.change(ctx, func(tx *transaction) error {
		states := []GatewayState{GatewayActive}
		if action != UpgradeStart {
			states = append(states, GatewayPendingUpgradeConfirm)
		}
		g, _, err := tx.readyGateway(project, id, states...)
		if err != nil {
			return err
		}
		u := upgrading{
			Meta: g.Meta, kind: KindGateway, addresses: g.addresses(), version: g.Version, upgrade: g.Upgrade,
		}
		if u.up, err = tx.connectionsUp(&g); err != nil {
			return err
		}
		if jobID, err = s.step(tx, &u, action); err != nil {
			return err
		}
		g.Meta, g.Version, g.Upgrade = u.Meta, u.version, u.upgrade
		return tx.putGateway(g)
	})
	return jobID, err
}

// UpgradeP2CGateway performs UpgradeP2cVpnGateway. Its clients find out for
// themselves that they are to connect again.
func (s *Service) UpgradeP2CGateway(ctx context.Context, project, id string, action UpgradeAction) (jobID string, err error) {
	err = s.objects.change(ctx, func(tx *transaction) error {
		states := []P2CGatewayState{P2CActive}
		if action != UpgradeStart {
			states = append(states, P2CPendingUpgradeConfirm)
		}
		g, err := tx.readyP2CGateway(project, id, states...)
		if err != nil {
			return err
		}
		u := upgrading{
			Meta: g.Meta, kind: KindP2CGateway, addresses: []netip.Addr{g.EIP.Address}, version: g.Version, upgrade: g.Upgrade,
		}
		if jobID, err = s.step(tx, &u, action); err != nil {
			return err
		}
		g.Meta, g.Version, g.Upgrade = u.Meta, u.version, u.upgrade
		return tx.putP2CGateway(g)
	})
	return jobID, err
}

// connectionsUp returns the connections of a gateway that are up.
func (tx *transaction) connectionsUp(g *Gateway) ([]string, error) {
	connections, err := tx.connections(g.Project)
	if err != nil {
		return nil, err
	}
	status, err := statuses(tx.ctx, tx.objects.connectionStatus, g.Project)
	if err != nil {
		return nil, err
	}
	var up []string
	for _, c := range connectionsOf(g.ID, connections) {
		if !c.DeletionRequested && status[c.ID].State == ConnectionActive {
			up = append(up, c.ID)
		}
	}
	return up, nil
}

// step takes a step of an upgrade and returns the id of its job.
func (s *Service) step(tx *transaction, u *upgrading, action UpgradeAction) (jobID string, err error) {
	if action != UpgradeStart && action != UpgradeFinish && action != UpgradeRollback {
		return "", Invalid("action", "must be one of %s", oneOf([]UpgradeAction{UpgradeStart, UpgradeFinish, UpgradeRollback}))
	}
	if action != UpgradeStart && u.upgrade == nil {
		return "", Invalid("action", "no upgrade of this gateway is under way")
	}
	now := s.now().UTC().Truncate(time.Millisecond)
	s.touchQuietly(&u.Meta)
	switch action {
	case UpgradeStart:
		target := s.upgradeTarget(u.version, u.addresses...)
		if target == "" {
			return "", Invalid("action", "no newer version than that of this gateway is installed")
		}
		job, err := s.newJob(tx, u.kind, u.Meta, JobUpgrade, JobUpgrading, len(u.addresses))
		if err != nil {
			return "", err
		}
		u.upgrade = &Upgrade{Phase: PhaseUpgrading, From: u.version, To: target, Since: now, Up: u.up, JobID: job.ID}
		return job.ID, tx.putJob(&job)
	case UpgradeFinish:
		id := u.upgrade.JobID
		u.version, u.upgrade = u.upgrade.To, nil
		return id, tx.changeJob(u.Project, id, func(j *Job) { j.finish(JobSuccess, "", now) })
	case UpgradeRollback:
	}
	if !slices.Contains(s.versions(u.addresses...), u.upgrade.From) {
		return "", Invalid("action", "no node that could serve this gateway runs version %q any more", u.upgrade.From)
	}
	job, err := s.newJob(tx, u.kind, u.Meta, JobRollback, JobRollingBack, len(u.addresses))
	if err != nil {
		return "", err
	}
	next := *u.upgrade
	next.Phase, next.Since, next.Up, next.RollbackID = PhaseRollingBack, now, u.up, job.ID
	u.upgrade = &next
	if err := tx.changeJob(u.Project, next.JobID, func(j *Job) { j.Status = JobRollingBack }); err != nil {
		return "", err
	}
	return job.ID, tx.putJob(&job)
}

// changeJob changes the record of a job, if it is there.
func (tx *transaction) changeJob(project, id string, change func(*Job)) error {
	j, err := tx.job(project, id)
	if err != nil || j == nil {
		return err
	}
	change(j)
	return tx.putJob(j)
}

// UpgradeProgress is what the reconciler sees of a gateway that is moved.
type UpgradeProgress struct {
	Kind        Kind // of the gateway
	Project, ID string
	Done        []bool // by address, the first at index zero
	Waiting     string // for what, unless all is done
}

// AdvanceUpgrade takes the progress of an upgrade or a rollback over into the
// gateway and its jobs, or ends it when it has taken too long. It is for the
// reconciler alone.
func (o *Objects) AdvanceUpgrade(ctx context.Context, p UpgradeProgress, now time.Time) error {
	now = now.UTC().Truncate(time.Millisecond)
	return o.change(ctx, func(tx *transaction) error {
		if p.Kind == KindP2CGateway {
			g, err := tx.p2cGateway(p.Project, p.ID)
			if isCode(err, codeNoGateway) || err == nil && !g.Upgrade.Moving() {
				return nil
			}
			if err != nil {
				return err
			}
			next, err := tx.advance(g.Upgrade, p, now)
			if err != nil || next == g.Upgrade {
				return err
			}
			g.Upgrade = next
			return tx.putP2CGateway(g)
		}
		g, err := tx.gateway(p.Project, p.ID)
		if isNotFound(err) || err == nil && !g.Upgrade.Moving() {
			return nil
		}
		if err != nil {
			return err
		}
		next, err := tx.advance(g.Upgrade, p, now)
		if err != nil || next == g.Upgrade {
			return err
		}
		g.Upgrade = next
		return tx.putGateway(g)
	})
}

// advance changes the jobs of an upgrade that is moving, and returns what it is
// then: the same, another one, or nil when it is over.
func (tx *transaction) advance(u *Upgrade, p UpgradeProgress, now time.Time) (*Upgrade, error) {
	back := u.Phase == PhaseRollingBack
	current := u.JobID
	if back {
		current = u.RollbackID
	}
	job, err := tx.job(p.Project, current)
	if err != nil {
		return u, err
	}
	if job == nil {
		job = &Job{} // its record was removed by hand: the upgrade goes on
	}
	news := job.note(p.Done, now)
	switch {
	case !slices.Contains(p.Done, false):
		next := *u
		next.Phase, next.Since, next.Up = PhaseConfirming, now, nil
		if u = &next; back {
			u = nil
			job.finish(JobRollbackSuccess, "", now)
			if err := tx.changeJob(p.Project, next.JobID, func(j *Job) { j.finish(JobRollbackSuccess, "", now) }); err != nil {
				return nil, err
			}
		} else {
			job.Status = JobPendingUpgradeConfirm
		}
	case now.Sub(u.Since) > UpgradeMax:
		why := fmt.Sprintf("not done within %v: %s", UpgradeMax, p.Waiting)
		job.finish(JobFail, why, now)
		if back {
			if err := tx.changeJob(p.Project, u.JobID, func(j *Job) { j.finish(JobFail, why, now) }); err != nil {
				return nil, err
			}
		}
		u = nil
	case !news:
		return u, nil
	}
	if job.ID == "" {
		return u, nil
	}
	return u, tx.putJob(job)
}
