package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vpngw/vpngw/control/store"
)

// prefixJobs is where jobs are kept. Below it stands project/id.
const prefixJobs = "job"

// JobType says what a job does.
type JobType string

// Types of jobs.
const (
	JobUpgrade  JobType = "upgrade"
	JobRollback JobType = "rollback"
)

// JobStatus is how far a job is.
type JobStatus string

// Statuses of a job. The last three are final.
const (
	JobUpgrading             JobStatus = "upgrading"
	JobPendingUpgradeConfirm JobStatus = "pending_upgrade_confirm"
	JobRollingBack           JobStatus = "rolling_back"
	JobSuccess               JobStatus = "success"
	JobRollbackSuccess       JobStatus = "rollback_success"
	JobFail                  JobStatus = "fail"
)

// SubJobType says what a part of a job does.
type SubJobType string

// Types of the parts of a job: finding the nodes, and the move of each of the
// gateway's addresses.
const (
	SubJobPrepare SubJobType = "prepare_resource"
	SubJobWorker1 SubJobType = "upgrade_worker_1"
	SubJobWorker2 SubJobType = "upgrade_worker_2"
)

// SubJobStatus is how far a part of a job is.
type SubJobStatus string

// Statuses of a part of a job.
const (
	SubJobUpgrading SubJobStatus = "upgrading"
	SubJobSuccess   SubJobStatus = "success"
	SubJobFail      SubJobStatus = "fail"
)

// Job is the record of an upgrade of a gateway, or of a rollback.
type Job struct {
	ID         string    `json:"id"`
	Project    string    `json:"project"`
	Kind       Kind      `json:"kind"` // of the gateway
	GatewayID  string    `json:"gateway_id"`
	Type       JobType   `json:"type"`
	Status     JobStatus `json:"status"`
	Error      string    `json:"error,omitempty"`
	CreatedAt  time.Time `json:"created_at"` // unique in the project: the marker of pages
	FinishedAt time.Time `json:"finished_at,omitzero"`
	Parts      []SubJob  `json:"parts"`
}

// SubJob is a part of a Job.
type SubJob struct {
	ID         string       `json:"id"`
	Type       SubJobType   `json:"type"`
	Status     SubJobStatus `json:"status"`
	Error      string       `json:"error,omitempty"`
	CreatedAt  time.Time    `json:"created_at"`
	FinishedAt time.Time    `json:"finished_at,omitzero"`
}

func (j *Job) finished() bool { return !j.FinishedAt.IsZero() }

// finish ends a job and the parts of it that have not ended.
func (j *Job) finish(status JobStatus, why string, now time.Time) {
	j.Status, j.Error, j.FinishedAt = status, why, now
	for i := range j.Parts {
		if part := &j.Parts[i]; part.FinishedAt.IsZero() {
			part.Status, part.Error, part.FinishedAt = SubJobFail, why, now
		}
	}
}

// note takes over which workers are done, the first at index zero. It tells
// whether that was news.
func (j *Job) note(done []bool, now time.Time) (news bool) {
	for i := range j.Parts {
		part := &j.Parts[i]
		worker := slices.Index([]SubJobType{SubJobWorker1, SubJobWorker2}, part.Type)
		if worker < 0 || worker >= len(done) || !done[worker] || part.Status == SubJobSuccess {
			continue
		}
		part.Status, part.FinishedAt, news = SubJobSuccess, now, true
	}
	return news
}

// maxJobs is how many jobs of one gateway are kept; the oldest that have
// finished go first.
const maxJobs = 20

// maxJobPage is how long a page of the list of S2C jobs is at most.
const maxJobPage = 2000

// newJob makes the record of a job of a gateway with some workers. It finds the
// nodes at once: what prepares the job is done.
func (s *Service) newJob(tx *transaction, kind Kind, gateway Meta, what JobType, status JobStatus, workers int) (Job, error) {
	all, err := tx.jobs(gateway.Project)
	if err != nil {
		return Job{}, err
	}
	m, err := s.newMeta(Meta{}, gateway.Project, metas(all, func(j *Job) Meta { return Meta{CreatedAt: j.CreatedAt} }))
	if err != nil {
		return Job{}, err
	}
	own := slices.DeleteFunc(all, func(j Job) bool { return j.GatewayID != gateway.ID })
	slices.SortFunc(own, func(a, b Job) int { return a.CreatedAt.Compare(b.CreatedAt) })
	for i := 0; i < len(own) && len(own)-i >= maxJobs; i++ {
		if own[i].finished() {
			tx.ops = append(tx.ops, tx.objects.jobs.Delete(own[i].Project+"/"+own[i].ID))
		}
	}
	job := Job{
		ID: m.ID, Project: gateway.Project, Kind: kind, GatewayID: gateway.ID, Type: what, Status: status, CreatedAt: m.CreatedAt,
	}
	for _, part := range []SubJobType{SubJobPrepare, SubJobWorker1, SubJobWorker2}[:1+workers] {
		id, err := s.newMeta(Meta{}, gateway.Project, nil)
		if err != nil {
			return Job{}, err
		}
		job.Parts = append(job.Parts, SubJob{ID: id.ID, Type: part, Status: SubJobUpgrading, CreatedAt: m.CreatedAt})
	}
	job.Parts[0].Status, job.Parts[0].FinishedAt = SubJobSuccess, m.CreatedAt
	return job, nil
}

// Jobs performs ListVpnGatewayJobs and ListP2cVpnGatewayJobs: those of a kind of
// gateways, and of one gateway unless its id is empty.
func (s *Service) Jobs(ctx context.Context, project string, kind Kind, gatewayID string, page Page) ([]Job, error) {
	if err := validProject(project); err != nil {
		return nil, err
	}
	all, err := s.read(ctx).jobs(project)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(j Job) bool { return j.Kind != kind || gatewayID != "" && j.GatewayID != gatewayID })
	created := func(j *Job) time.Time { return j.CreatedAt }
	var l List[Job]
	if kind == KindP2CGateway {
		l, err = paginateP2C(all, created, page)
	} else {
		l, err = paginate(all, created, page, maxJobPage)
	}
	return l.Items, err
}

// DeleteJob performs DeleteVpnGatewayJob and DeleteP2cVpnGatewayJob.
func (s *Service) DeleteJob(ctx context.Context, project string, kind Kind, id string) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		j, err := get(ctx, s.objects.jobs, project, id)
		switch {
		case err != nil:
			return err
		case j.Kind != kind:
			return NotFound()
		case !j.finished():
			return Invalid("job_id", "the job has not finished, it is %s", j.Status)
		}
		tx.ops = append(tx.ops, s.objects.jobs.Delete(project+"/"+id))
		return nil
	})
}

func (tx *transaction) jobs(project string) ([]Job, error) {
	return list(tx.ctx, tx.objects.jobs, project)
}

// job returns a job, nil when somebody has removed its record.
func (tx *transaction) job(project, id string) (*Job, error) {
	row, err := tx.objects.jobs.Get(tx.ctx, project+"/"+id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", id, err)
	}
	return &row.Value, nil
}

func (tx *transaction) putJob(j *Job) error {
	op, err := tx.objects.jobs.Put(j.Project+"/"+j.ID, *j)
	if err == nil {
		tx.ops = append(tx.ops, op)
	}
	return err
}

// removeJobs removes the records of the jobs of a gateway that goes.
func (tx *transaction) removeJobs(gateway Meta) error {
	all, err := tx.jobs(gateway.Project)
	for _, j := range all {
		if j.GatewayID == gateway.ID {
			tx.ops = append(tx.ops, tx.objects.jobs.Delete(j.Project+"/"+j.ID))
		}
	}
	return err
}
