package sdktest

import (
	"net/http"
	"testing"

	vpn "github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5/model"
)

// TestUpgrade replaces the daemon by a newer version, as an operator does, and
// takes a gateway of either kind through its upgrade.
func TestUpgrade(t *testing.T) {
	client := newClient(t, accessKey, secretKey)
	nextSecond()
	gateway := createGateway(t, client)
	clients := *ok(client.CreateP2cVgw(&model.CreateP2cVgwRequest{Body: &model.CreateP2cVgwRequestBody{
		P2cVpnGateway: &model.CreateP2cVgwRequestBodyContent{VpcId: vpcID, ConnectSubnet: subnetID, Eip: &model.CreateP2cRequestEip{Id: p(eip3ID)}},
	}}))(t).P2cVpnGateway.Id
	p2cGatewayIsActive(t, client, clients)
	equal(t, "version", ok(client.ShowP2cVgw(&model.ShowP2cVgwRequest{P2cVgwId: clients}))(t).P2cVpnGateway.Version, firstVersion)
	if err := served.stop(); err != nil {
		t.Fatal(err)
	}
	if err := served.start(secondVersion); err != nil {
		t.Fatal(err)
	}
	upgradeOfGateway(t, client, gateway)
	upgradeOfClients(t, client, clients)
	ok(client.DeleteVgw(&model.DeleteVgwRequest{VgwId: gateway}))(t)
	gone(t, "gateway", func() error {
		_, err := client.ShowVgw(&model.ShowVgwRequest{VgwId: gateway})
		return err
	})
	deleteP2CGateway(t, client, clients)
}

var steps = model.GetUpgradeRequestBodyActionEnum()

func upgradeOfGateway(t *testing.T, client *vpn.VpnClient, gateway string) {
	t.Helper()
	info := func() *string {
		return p(ok(client.ShowVgw(&model.ShowVgwRequest{VgwId: gateway}))(t).VpnGateway.UpgradeInfo.Value())
	}
	step := func(action model.UpgradeRequestBodyAction) (*model.UpgradeVpnGatewayResponse, error) {
		nextSecond()
		return client.UpgradeVpnGateway(&model.UpgradeVpnGatewayRequest{VgwId: gateway, Body: &model.UpgradeRequestBody{Action: action}})
	}
	equal(t, "upgrade_info", info(), "ready")
	started := ok(step(steps.START))(t)
	if started.HttpStatusCode != http.StatusAccepted {
		t.Errorf("upgrade answers %d", started.HttpStatusCode)
	}
	pollJob(t, func() []model.Job {
		return *ok(client.ListVpnGatewayJobs(&model.ListVpnGatewayJobsRequest{ResourceId: &gateway}))(t).Jobs
	}, *started.JobId, "upgrading", "pending_upgrade_confirm")
	equal(t, "status", ok(client.ShowVgw(&model.ShowVgwRequest{VgwId: gateway}))(t).VpnGateway.Status, "PENDING_UPGRADE_CONFIRM")
	_, err := client.DeleteVpnGatewayJob(&model.DeleteVpnGatewayJobRequest{JobId: *started.JobId})
	refused(t, err, http.StatusBadRequest, "VPN.0001", "invalid request: job_id: the job has not finished, it is pending_upgrade_confirm")
	_, err = step(steps.ROLLBACK)
	refused(t, err, http.StatusBadRequest, "VPN.0001", "no node that could serve this gateway runs version \"1.0.0\" any more")
	equal(t, "job_id", ok(step(steps.FINISH))(t).JobId, *started.JobId)
	job := pollJob(t, func() []model.Job {
		return *ok(client.ListVpnGatewayJobs(&model.ListVpnGatewayJobsRequest{}))(t).Jobs
	}, *started.JobId, "pending_upgrade_confirm", "success")
	if job.FinishedAt == nil || job.JobType.Value() != "upgrade" || len(*job.SubJobs) != 3 {
		t.Errorf("job is %v", job)
	}
	poll(t, "gateway", gatewayStatus(t, client, gateway), "ACTIVE")
	equal(t, "upgrade_info", info(), "unready")
	deleted := ok(client.DeleteVpnGatewayJob(&model.DeleteVpnGatewayJobRequest{JobId: *started.JobId}))(t)
	if deleted.HttpStatusCode != http.StatusNoContent {
		t.Errorf("delete answers %d", deleted.HttpStatusCode)
	}
}

func upgradeOfClients(t *testing.T, client *vpn.VpnClient, gateway string) {
	t.Helper()
	jobs := func() []model.Job {
		return *ok(client.ListP2cVpnGatewayJobs(&model.ListP2cVpnGatewayJobsRequest{ResourceId: &gateway}))(t).Jobs
	}
	step := func(action model.UpgradeRequestBodyAction) *model.UpgradeP2cVpnGatewayResponse {
		nextSecond()
		return ok(client.UpgradeP2cVpnGateway(&model.UpgradeP2cVpnGatewayRequest{P2cVgwId: gateway, Body: &model.UpgradeRequestBody{Action: action}}))(t)
	}
	shown := ok(client.ShowP2cVgw(&model.ShowP2cVgwRequest{P2cVgwId: gateway}))(t).P2cVpnGateway
	equal(t, "upgrade_info", p(shown.UpgradeInfo.Value()), "ready")
	equal(t, "version", shown.Version, secondVersion)
	job := *step(steps.START).JobId
	pollJob(t, jobs, job, "upgrading", "pending_upgrade_confirm")
	step(steps.FINISH)
	pollJob(t, jobs, job, "pending_upgrade_confirm", "success")
	shown = ok(client.ShowP2cVgw(&model.ShowP2cVgwRequest{P2cVgwId: gateway}))(t).P2cVpnGateway
	equal(t, "upgrade_info", p(shown.UpgradeInfo.Value()), "unready")
	equal(t, "status", shown.Status, "ACTIVE")
	ok(client.DeleteP2cVpnGatewayJob(&model.DeleteP2cVpnGatewayJobRequest{JobId: job}))(t)
	if left := jobs(); len(left) != 0 {
		t.Errorf("jobs are %v", left)
	}
}

// pollJob waits until a job, which is listed at once, goes on from one status to
// another one.
func pollJob(t *testing.T, list func() []model.Job, id, from, to string) (job model.Job) {
	t.Helper()
	poll(t, "job", func() string {
		for _, job = range list() {
			if *job.Id == id {
				status := job.Status.Value()
				if status == from {
					return "PENDING_" + status
				}
				return status
			}
		}
		return "not listed"
	}, to)
	return job
}
