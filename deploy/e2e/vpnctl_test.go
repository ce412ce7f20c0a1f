//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/deploy/netlab"
)

const objects = `
gateways:
- name: cloud
  vpc_id: ` + netlab.VPC + `
  connect_subnet: ` + netlab.Subnet1 + `
  local_subnets: [10.10.0.0/24, 10.10.1.0/24]
  availability_zone_ids: [az1, az2]
  ha_mode: active-active
  eip1: {id: ` + netlab.EIP1 + `}
  eip2: {id: ` + netlab.EIP2 + `}
  tags: [{key: stage, value: test}]
customer_gateways:
- name: office
  id_type: ip
  id_value: 198.51.100.10
  bgp_asn: 65010
connections:
- name: office-1
  gateway: cloud
  customer_gateway: office
  vgw_ip: ` + netlab.EIP1 + `
  style: policy
  peer_subnets: [192.168.10.0/24]
  policy_rules: [{source: 10.10.0.0/24, destination: [192.168.10.0/24]}]
  psk_env: OFFICE_PSK
  ikepolicy:
    ike_version: v2
    authentication_algorithm: sha2-256
    encryption_algorithm: aes-128-gcm-16
    authentication_method: pre-share
    dh_group: group19
    lifetime_seconds: 3600
    local_id_type: ip
    local_id: 203.0.113.10
    peer_id_type: ip
    peer_id: 198.51.100.10
    dpd: {interval: 10, timeout: 5, msg: seq-hash-notify}
  ipsecpolicy:
    authentication_algorithm: sha2-256
    encryption_algorithm: aes-128-gcm-16
    pfs: group19
    transform_protocol: esp
    encapsulation_mode: tunnel
    lifetime_seconds: 1800
`

// The command line against the real API: what was applied is found unchanged,
// an edit changes just its fields, and everything can be deleted again.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 1)}, netlab.DaemonOptions{})
	w.peer(0, nil, w.swan(0))
	file := filepath.Join(w.Dir, "objects.yaml")
	write := func(text string) { w.check(os.WriteFile(file, []byte(text), 0o600)) }
	command := func(code int, args []string, want ...string) string {
		t.Helper()
		line := append([]string{"env", "OFFICE_PSK=" + psk}, w.daemon.Environment()...)
		out, err := w.Gateway.Run(w.ctx, append(append(line, vpnctl, "--poll", "50ms"), args...)...)
		have := 0
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			have = exit.ExitCode()
		}
		if have != code || !hasAll(out, want...) || strings.Contains(out, psk) {
			t.Errorf("vpnctl %v: exit code %d, want %d; want %q in %s (%v)", args, have, code, want, out, err)
		}
		return out
	}

	write(objects)
	command(0, []string{"apply", "-f", file, "--wait"}, "gateway cloud created", "customer-gateway office created", "connection office-1 created", "connection office-1 is ACTIVE")
	command(0, []string{"apply", "-f", file}, "gateway cloud unchanged", "customer-gateway office unchanged", "connection office-1 unchanged")
	w.reach(w.CloudHost, w.CloudAddresses[0], w.Sites[0].Addresses[0])

	var connection map[string]any
	if err := json.Unmarshal([]byte(command(0, []string{"get", "connection", "office-1", "-o", "json"})), &connection); err != nil {
		t.Error(err)
	}
	if connection["style"] != "POLICY" || connection["status"] != "ACTIVE" || connection["psk"] != nil {
		t.Errorf("have %v", connection)
	}
	command(0, []string{"get", "gateways"}, "cloud", "ACTIVE", "203.0.113.10", "203.0.113.11")
	command(0, []string{"get", "customer-gateways", "-o", "yaml"}, "name: office", "id_value: 198.51.100.10")

	write(strings.NewReplacer("interval: 10", "interval: 20", "local_subnets: [10.10.0.0/24, 10.10.1.0/24]", "local_subnets: [10.10.0.0/24]").Replace(objects))
	command(0, []string{"apply", "-f", file}, "gateway cloud updated", "local_subnets [10.10.0.0/24 10.10.1.0/24] → [10.10.0.0/24]",
		"connection office-1 updated", "ikepolicy.dpd.interval 10 → 20")
	command(0, []string{"apply", "-f", file}, "gateway cloud unchanged", "connection office-1 unchanged")
	command(1, []string{"delete", "customer-gateway", "office"})

	command(0, []string{"reset", "office-1"}, "connection office-1 is reset")
	w.waitLog("office-1", patience, "An IKE SA is teared down")
	w.waitStatus("office-1", "ACTIVE", patience)
	w.waitLog("office-1", patience, "An IPSec tunnel is established")
	command(0, []string{"status"}, "office-1", "ACTIVE", "AES-GCM-16-128")
	command(0, []string{"logs", "office-1"}, "An IPSec tunnel is established")

	command(3, []string{"logs", "office-2"})
	command(2, []string{"get", "tunnels"})
	command(4, []string{"status", "--access-key", "other"})
	command(0, []string{"delete", "-f", file}, "connection office-1 deleted", "customer-gateway office deleted", "gateway cloud deleted")
	command(3, []string{"get", "gateway", "cloud"})
	if diff := must(w.Gateway.HostStateDiff(w.ctx, w.before))(t); strings.Contains(diff, "ip rule") || strings.Contains(diff, "ip route") {
		t.Errorf("without a connection the host has routes or rules of ours:\n%s", diff)
	}
}
