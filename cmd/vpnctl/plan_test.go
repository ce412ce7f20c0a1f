package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/client/clienttest"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
)

func TestPlanCommand(t *testing.T) {
	server := clienttest.New(t)
	env := environment(t, server)
	run := func(code int, text string, args ...string) string {
		t.Helper()
		out, have, err := vpnctl(t.Context(), env, text, append(args, "-f", "-")...)
		if have != code || strings.Contains(out, "Secret-psk") {
			t.Errorf("%v: exit code %d, want %d: %s %v", args, have, code, out, err)
		}
		return out
	}
	run(1, file, "plan")
	run(exitOK, file, "apply")
	run(exitOK, file, "plan")
	edited := strings.Replace(file, "local_id: 203.0.113.10", "local_id: 203.0.113.11", 1)
	out := run(1, edited, "plan")
	for _, want := range []string{"TUNNEL", "office-1   updated   yes   drop", "vpn_connection.ikepolicy.local_id 203.0.113.10 → 203.0.113.11 (drop)"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q lacks %q", out, want)
		}
	}
	var plan declare.Plan
	if err := json.Unmarshal([]byte(run(1, edited, "plan", "-o", "json")), &plan); err != nil || plan.Tunnels[0].Disruption != "drop" || len(plan.Tunnels[0].Changes) != 1 {
		t.Errorf("%+v, %v", plan, err)
	}
	if out := run(1, edited, "plan", "-o", "yaml"); !strings.Contains(out, "disruption: drop") {
		t.Error(out)
	}
	server.Refuse = func(*http.Request) *client.Error { return &client.Error{Status: http.StatusInternalServerError} }
	run(2, file, "plan")
	server.Refuse = func(*http.Request) *client.Error { return &client.Error{Status: http.StatusForbidden} }
	run(exitDenied, file, "plan")
	run(2, "gateways: {", "plan")
}
