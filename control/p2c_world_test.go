package control

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// server makes a gateway with a server, both ACTIVE.
func (w *world) server(t *testing.T, edits ...func(*ServerCreate)) VPNServer {
	t.Helper()
	g := w.p2cGateway(t)
	req := serverRequest()
	for _, edit := range edits {
		edit(&req)
	}
	m, err := w.CreateServer(t.Context(), project, g, req)
	if err != nil {
		t.Fatal(err)
	}
	w.settleServer(t, m.ID, ServerStatus{})
	return w.storedServer(t, m.ID)
}

func (w *world) storedServer(t *testing.T, id string) VPNServer {
	t.Helper()
	v, err := w.read(context.Background()).server(project, id)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// settleServer does what the reconciler does once it has applied a server.
func (w *world) settleServer(t *testing.T, id string, s ServerStatus) {
	t.Helper()
	s.Observed, s.AppliedAt = w.storedServer(t, id).Generation, w.clock
	if err := w.objects.SetServerStatus(t.Context(), project, id, s); err != nil {
		t.Fatal(err)
	}
}

func p2cGatewayRequest() P2CGatewayCreate {
	return P2CGatewayCreate{VPCID: new(vpcID), ConnectSubnet: new(subnetID), EIP: &EIPRequest{ID: new(eip1)}}
}

// p2cGateway makes a client-to-cloud gateway that is ACTIVE.
func (w *world) p2cGateway(t *testing.T, edits ...func(*P2CGatewayCreate)) (id string) {
	t.Helper()
	req := p2cGatewayRequest()
	for _, edit := range edits {
		edit(&req)
	}
	m, err := w.CreateP2CGateway(t.Context(), project, req)
	if err != nil {
		t.Fatal(err)
	}
	w.settleP2CGateway(t, m.ID, false)
	return m.ID
}

func (w *world) settleP2CGateway(t *testing.T, id string, fault bool) {
	t.Helper()
	v, err := w.ShowP2CGateway(t.Context(), project, id)
	if err != nil {
		t.Fatal(err)
	}
	status := P2CGatewayStatus{Observed: v.Generation, Fault: fault, AppliedAt: w.clock}
	if err := w.objects.SetP2CGatewayStatus(t.Context(), project, id, status); err != nil {
		t.Fatal(err)
	}
}

func serverRequest() ServerCreate {
	return ServerCreate{
		ClientCIDR: new("172.16.0.1/24"), LocalSubnets: []string{"192.168.0.0/24"},
		Certificate: &ServerCertificateRequest{Source: new("SERVICE_SIGN")},
	}
}

// wantCode checks that an error is a refusal with a code and its published
// status that says the words; no code means that there is no error.
func wantCode(t *testing.T, err error, code, words string) {
	t.Helper()
	if code == "" {
		if err != nil {
			t.Errorf("got %v, want success", err)
		}
		return
	}
	status := map[string]int{
		"VPN.0509": 404, "VPN.0563": 404, "VPN.1115": 404, "VPN.1116": 404, "VPN.0510": 500, "VPN.0511": 500, "VPN.1117": 500,
	}[code]
	if status == 0 {
		status = 400
	}
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Code != code || refusal.Status != status || !strings.Contains(refusal.Message, words) {
		t.Errorf("got %v, want %s (%d) %q", err, code, status, words)
	}
}
