package api

import (
	"context"

	"github.com/vpngw/vpngw/control"
)

// UpgradeVpnGateway takes a step of an upgrade.
func (h *handlers) UpgradeVpnGateway(ctx context.Context, req UpgradeVpnGatewayRequestObject) (UpgradeVpnGatewayResponseObject, error) {
	job, err := h.server.service.UpgradeGateway(ctx, req.ProjectID, req.VgwID, control.UpgradeAction(req.Body.Action))
	if err != nil {
		return nil, err
	}
	return UpgradeVpnGateway202JSONResponse{JobID: job, RequestID: callOf(ctx).requestID}, nil
}

// UpgradeP2CVpnGateway takes a step of an upgrade.
func (h *handlers) UpgradeP2CVpnGateway(ctx context.Context, req UpgradeP2CVpnGatewayRequestObject) (UpgradeP2CVpnGatewayResponseObject, error) {
	job, err := h.server.service.UpgradeP2CGateway(ctx, req.ProjectID, req.P2CVgwID, control.UpgradeAction(req.Body.Action))
	if err != nil {
		return nil, err
	}
	return UpgradeP2CVpnGateway202JSONResponse{JobID: job, RequestID: callOf(ctx).requestID}, nil
}

// ListVpnGatewayJobs lists the jobs of site-to-cloud gateways.
func (h *handlers) ListVpnGatewayJobs(ctx context.Context, req ListVpnGatewayJobsRequestObject) (ListVpnGatewayJobsResponseObject, error) {
	p := &req.Params
	jobs, err := h.jobs(ctx, req.ProjectID, control.KindGateway, p.ResourceID, p.Limit, p.Marker)
	if err != nil {
		return nil, err
	}
	return ListVpnGatewayJobs200JSONResponse{Jobs: jobs, RequestID: callOf(ctx).requestID}, nil
}

// ListP2CVpnGatewayJobs lists the jobs of client-to-cloud gateways.
func (h *handlers) ListP2CVpnGatewayJobs(ctx context.Context, req ListP2CVpnGatewayJobsRequestObject) (ListP2CVpnGatewayJobsResponseObject, error) {
	p := &req.Params
	jobs, err := h.jobs(ctx, req.ProjectID, control.KindP2CGateway, p.ResourceID, p.Limit, p.Marker)
	if err != nil {
		return nil, err
	}
	return ListP2CVpnGatewayJobs200JSONResponse{Jobs: jobs, RequestID: callOf(ctx).requestID}, nil
}

func (h *handlers) jobs(ctx context.Context, project string, kind control.Kind, gateway *string, limit *int, marker *string) ([]Job, error) {
	list, err := h.server.service.Jobs(ctx, project, kind, value(gateway), control.Page{Limit: limit, Marker: value(marker)})
	answer := make([]Job, len(list))
	for i := range list {
		answer[i] = jobAnswer(&list[i])
	}
	return answer, err
}

func jobAnswer(j *control.Job) Job {
	answer := Job{
		ID: j.ID, ResourceID: j.GatewayID, JobType: JobJobType(j.Type), Status: JobStatus(j.Status),
		CreatedAt: control.FormatTime(j.CreatedAt), ErrorMessage: j.Error,
	}
	switch {
	case !j.FinishedAt.IsZero():
		answer.FinishedAt = new(control.FormatTime(j.FinishedAt))
	case j.Status != control.JobPendingUpgradeConfirm:
		answer.ExpectedTimeSeconds = new(int(control.UpgradeMax.Seconds()))
	}
	parts := make([]SubJob, len(j.Parts))
	for i, part := range j.Parts {
		parts[i] = SubJob{
			ID: part.ID, JobType: SubJobJobType(part.Type), Status: SubJobStatus(part.Status),
			CreatedAt: control.FormatTime(part.CreatedAt), ErrorMessage: part.Error,
		}
		if part.FinishedAt.IsZero() {
			parts[i].ExpectedTimeSeconds = new(int(control.UpgradeMax.Seconds()))
		} else {
			parts[i].FinishedAt = new(control.FormatTime(part.FinishedAt))
		}
	}
	answer.SubJobs = &parts
	return answer
}

// DeleteVpnGatewayJob deletes the record of a job that has finished.
func (h *handlers) DeleteVpnGatewayJob(ctx context.Context, req DeleteVpnGatewayJobRequestObject) (DeleteVpnGatewayJobResponseObject, error) {
	if err := h.server.service.DeleteJob(ctx, req.ProjectID, control.KindGateway, req.JobID); err != nil {
		return nil, err
	}
	return DeleteVpnGatewayJob204Response{}, nil
}

// DeleteP2CVpnGatewayJob deletes the record of a job that has finished.
func (h *handlers) DeleteP2CVpnGatewayJob(ctx context.Context, req DeleteP2CVpnGatewayJobRequestObject) (DeleteP2CVpnGatewayJobResponseObject, error) {
	if err := h.server.service.DeleteJob(ctx, req.ProjectID, control.KindP2CGateway, req.JobID); err != nil {
		return nil, err
	}
	return DeleteP2CVpnGatewayJob204Response{}, nil
}
