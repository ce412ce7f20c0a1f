package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestNodes(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/vpngw/v1/nodes" || r.Header.Get("Authorization") == "" {
			t.Errorf("was asked %s %s", r.Method, r.URL)
		}
		_, _ = w.Write([]byte(`{"nodes":[
			{"name":"node-1","availability_zone":"az1","version":"1.0","self":true,"addresses":["203.0.113.10"],"gateways":["g1"],"can_have":[],
			 "lease":{"age_seconds":2,"ttl_seconds":5,"left_seconds":3}},
			{"name":"node-2","version":"1.0","self":false,"addresses":[],"gateways":[],"can_have":["203.0.113.10"]}]}`))
	}))
	defer server.Close()
	env := map[string]string{
		"HOME": t.TempDir(), "VPNGW_ENDPOINT": server.URL, "VPNGW_PROJECT": "p", "VPNGW_ACCESS_KEY": "AK", "VPNGW_SECRET_KEY": "S3cr3t",
	}
	table, code, err := vpnctl(t.Context(), env, "", "nodes")
	lines := strings.Split(strings.TrimSpace(table), "\n")
	if code != exitOK || len(lines) != 3 {
		t.Fatalf("exit code %d (%v): %s", code, err, table)
	}
	for i, want := range [][]string{{"NODE", "LEASE", "SERVES"}, {"node-1 *", "az1", "2s of 5s", "203.0.113.10", "g1"}, {"node-2 ", "-", "203.0.113.10"}} {
		for _, w := range want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("line %q lacks %q", lines[i], w)
			}
		}
	}
	text, _, err := vpnctl(t.Context(), env, "", "nodes", "-o", "json")
	var nodes []map[string]any
	if jsonErr := json.Unmarshal([]byte(text), &nodes); err != nil || jsonErr != nil || len(nodes) != 2 || nodes[1]["name"] != "node-2" {
		t.Errorf("JSON: %v, %v: %s", err, jsonErr, text)
	}
	if text, _, err = vpnctl(t.Context(), env, "", "nodes", "-o", "yaml"); err != nil || !strings.Contains(text, "name: node-2") {
		t.Errorf("YAML: %v: %s", err, text)
	}
}
