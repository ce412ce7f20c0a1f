package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/client/clienttest"
)

const file = `
gateways:
- {name: gw, vpc_id: v, connect_subnet: s, local_subnets: [10.10.0.0/24], eip1: {id: e1}, eip2: {id: e2}}
customer_gateways:
- {name: office, id_value: 198.51.100.10}
connections:
- {name: office-1, gateway: gw, customer_gateway: office, vgw_ip: e1, peer_subnets: [192.168.10.0/24], psk_env: OFFICE_PSK, ikepolicy: {local_id: 203.0.113.10}}
`

const down = "2026-11-23T12:18:20.988000+00:00 host-203-0-113-10 ipsec_ike[7]: [203.0.113.10] IPSec tunnel negotiation fails. " +
	"(IfIndex=[0], PolicyName=[office-1], SeqNum=[0], PeerAddress=[198.51.100.10], PeerPort=[500], Reason=[authentication fail]) - " +
	"parameter: pre-shared key; exchange: IKE_AUTH; the peer's AUTH does not verify (wrong key)"

const up = "2026-11-23T12:18:19.988000+00:00 host-203-0-113-10 ipsec_ike[7]: [203.0.113.10] An IPSec tunnel is established. " +
	"(IfIndex=[0], PolicyName=[office-1], SeqNum=[0], PeerAddress=[198.51.100.10], PeerPort=[4500]) - child c1; AES-GCM-128; SPI in 0a, out 0b"

// vpnctl runs the program and returns what it printed and its exit code.
func vpnctl(ctx context.Context, env map[string]string, stdin string, args ...string) (string, int, error) {
	c := newCommand(func(name string) string { return env[name] })
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetIn(strings.NewReader(stdin))
	c.SetArgs(append(args, "--poll", "1ms"))
	err := c.ExecuteContext(ctx)
	return out.String(), exitCode(err), err
}

func environment(t *testing.T, server *clienttest.Server) map[string]string {
	return map[string]string{
		"HOME": t.TempDir(), "VPNGW_ENDPOINT": server.URL, "VPNGW_PROJECT": "p",
		"VPNGW_ACCESS_KEY": "AK", "VPNGW_SECRET_KEY": "S3cr3t", "OFFICE_PSK": "Secret-psk-0123456789",
	}
}

func TestApplyShowAndDelete(t *testing.T) {
	server := clienttest.New(t)
	env := environment(t, server)
	expect := func(code int, args []string, want ...string) string {
		t.Helper()
		out, have, err := vpnctl(t.Context(), env, file, args...)
		if err != nil {
			out += err.Error()
		}
		if have != code {
			t.Errorf("%v: exit code %d, want %d: %s", args, have, code, out)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%v: %q lacks %q", args, out, w)
			}
		}
		if strings.Contains(out, "Secret-psk") {
			t.Errorf("%v: the pre-shared key is shown", args)
		}
		return out
	}
	expect(exitOK, []string{"apply", "-f", "-", "--wait"}, "gateway gw created", "connection office-1 created (v3)", "connection office-1 is ACTIVE")
	expect(exitOK, []string{"apply", "-f", "-"}, "connection office-1 unchanged")
	expect(exitOK, []string{"get", "gateways"}, "NAME", "gw", "10.10.0.0/24")
	expect(exitOK, []string{"get", "cgw", "office"}, "198.51.100.10")
	expect(exitNotFound, []string{"get", "connections", "other"}, `no connection with the name or id "other"`)

	var objects []map[string]any
	if err := json.Unmarshal([]byte(expect(exitOK, []string{"get", "connections", "-o", "json"})), &objects); err != nil || objects[0]["id"] != "v3" {
		t.Errorf("JSON: %v, %v", objects, err)
	}
	expect(exitOK, []string{"get", "connection", "v3", "-o", "yaml"}, "name: office-1\n")

	server.Log("v3", client.LogLine{Time: 1, Text: up})
	expect(exitOK, []string{"status"}, "KIND", "connection", "office-1", "ACTIVE", "203.0.113.10", "child c1; AES-GCM-128; SPI in 0a, out 0b")
	server.Settled = "DOWN"
	server.Log("v3", client.LogLine{Time: 2, Text: down})
	expect(exitOK, []string{"status", "office-1"}, "DOWN", "authentication fail: parameter: pre-shared key", "(wrong key)")
	if out := expect(exitOK, []string{"logs", "office-1"}); out != up+"\n"+down+"\n" {
		t.Errorf("log: %q", out)
	}
	expect(exitTimeout, []string{"apply", "-f", "-", "--wait", "--timeout", "3s"},
		"connection office-1 is DOWN: timed out; last in its log: authentication fail: parameter: pre-shared key")
	server.Settled, server.Message = "ERROR", "vgw_ip: address 10.0.0.4 is not on this node"
	if out := expect(exitOK, []string{"status", "office-1"}, "ERROR", "is not on this node"); strings.Contains(out, "pre-shared key") {
		t.Errorf("status tells what the log had before: %s", out)
	}
	expect(exitFailure, []string{"apply", "-f", "-"}, "connection office-1 unchanged", "connection office-1 is ERROR: vgw_ip: address 10.0.0.4")
	server.Settled = "DOWN"
	expect(exitTimeout, []string{"apply", "-f", "-", "--wait", "--timeout", "3s"}, "connection office-1 is DOWN (vgw_ip: address 10.0.0.4")
	expect(exitOK, []string{"reset", "office-1"}, "connection office-1 is reset")
	expect(exitOK, []string{"delete", "-f", "-"}, "connection office-1 deleted", "gateway gw deleted")
	expect(exitNotFound, []string{"delete", "gateway", "gw"})
}

func TestExitCodes(t *testing.T) {
	server := clienttest.New(t)
	for name, test := range map[string]struct {
		change func(env map[string]string)
		args   []string
		code   int
		want   string
	}{
		"unknown command":  {nil, []string{"bogus"}, exitUsage, "unknown command"},
		"unknown flag":     {nil, []string{"get", "--bogus"}, exitUsage, "unknown flag"},
		"too few":          {nil, []string{"get"}, exitUsage, "usage: vpnctl get KIND"},
		"unknown kind":     {nil, []string{"get", "tunnels"}, exitUsage, `"tunnels" is not one of`},
		"unknown format":   {nil, []string{"status", "-o", "xml"}, exitUsage, "output:"},
		"no file":          {nil, []string{"apply"}, exitUsage, "filename: is missing"},
		"file is missing":  {nil, []string{"apply", "-f", filepath.Join(t.TempDir(), "none")}, exitUsage, "no such file"},
		"key is unset":     {func(env map[string]string) { delete(env, "OFFICE_PSK") }, []string{"apply", "-f", "-"}, exitUsage, "psk_env: the environment has no OFFICE_PSK"},
		"delete what":      {nil, []string{"delete", "gateway"}, exitUsage, "give a kind and a name, or a file"},
		"no endpoint":      {func(env map[string]string) { delete(env, "VPNGW_ENDPOINT") }, []string{"status"}, exitUsage, "endpoint: is missing"},
		"no configuration": {func(env map[string]string) { env["VPNGW_CONFIG"] = "/none" }, []string{"status"}, exitUsage, "configuration:"},
		"denied":           {func(env map[string]string) { env["VPNGW_ACCESS_KEY"] = "other" }, []string{"status"}, exitDenied, "status 401"},
		"unreachable":      {func(env map[string]string) { env["VPNGW_ENDPOINT"] = "http://127.0.0.1:1" }, []string{"status"}, exitFailure, "connection refused"},
	} {
		env := environment(t, server)
		if test.change != nil {
			test.change(env)
		}
		_, code, err := vpnctl(t.Context(), env, file, test.args...)
		if code != test.code || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: exit code %d, want %d: %v", name, code, test.code, err)
		}
		if err != nil && strings.Contains(err.Error(), "S3cr3t") {
			t.Errorf("%s: the secret key is shown", name)
		}
	}
}

func TestSettingsComeInOrder(t *testing.T) {
	server := clienttest.New(t)
	var project string
	server.Refuse = func(r *http.Request) *client.Error {
		project = r.Header.Get("X-Project-Id")
		return &client.Error{Status: 400, Message: "enough"}
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	secret := write("secret", "SK\n")
	write(".config/vpngw/vpnctl.yaml", "endpoint: "+server.URL+"\nproject: file\naccess_key: AK\nsecret_key_file: "+secret+"\n")
	env := map[string]string{"HOME": dir}
	for _, test := range []struct {
		want string
		args []string
		set  string
	}{
		{"file", []string{"status"}, ""},
		{"variable", []string{"status"}, "variable"},
		{"flag", []string{"status", "--project", "flag"}, "variable"},
	} {
		env["VPNGW_PROJECT"] = test.set
		if _, _, err := vpnctl(t.Context(), env, "", test.args...); project != test.want {
			t.Errorf("have %q, want %q: %v", project, test.want, err)
		}
	}
	bad := write("bad.yaml", "endpoint: x\nsecret_kee: SECRET\n")
	_, code, err := vpnctl(t.Context(), env, "", "status", "--config", bad)
	if code != exitUsage || !strings.Contains(err.Error(), `[2:1] unknown field "secret_kee"`) || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("a wrong key: %d, %v", code, err)
	}
}

func TestFollowShowsEachLineOnce(t *testing.T) {
	server := clienttest.New(t)
	env := environment(t, server)
	if _, _, err := vpnctl(t.Context(), env, file, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	server.Log("v3", client.LogLine{Time: 1, Text: "one"})
	ctx, cancel := context.WithCancel(t.Context())
	looks, after := 0, 0 // after: since the new lines are there
	var added atomic.Bool
	server.Refuse = func(r *http.Request) *client.Error {
		if !strings.HasSuffix(r.URL.Path, "/log") {
			return nil
		}
		if looks++; looks == 3 {
			go func() {
				server.Log("v3", client.LogLine{Time: 3, Text: "three"}, client.LogLine{Time: 2, Text: "two"})
				added.Store(true)
			}()
		}
		if added.Load() {
			after++
		}
		if after == 5 {
			cancel()
		}
		return nil
	}
	timer := time.AfterFunc(time.Minute, cancel)
	defer timer.Stop()
	out, _, err := vpnctl(ctx, env, "", "logs", "-f", "office-1")
	if err != nil || out != "one\ntwo\nthree\n" {
		t.Errorf("have %q, %v", out, err)
	}
}

func TestParseMessage(t *testing.T) {
	m := parseMessage(down)
	if m.sentence != "IPSec tunnel negotiation fails." || m.values["PeerAddress"] != "198.51.100.10" || m.values["PolicyName"] != "office-1" {
		t.Errorf("have %+v", m)
	}
	for line, want := range map[string]string{
		down:                 "authentication fail: parameter: pre-shared key; exchange: IKE_AUTH; the peer's AUTH does not verify (wrong key)",
		up:                   "",
		"":                   "",
		"something else (a)": "",
		"t h i[1]: [a] An IPSec tunnel is teared down. (IfIndex=[0], OfflineReason=[dpd timeout])": "dpd timeout",
	} {
		if have := parseMessage(line).reason(); have != want {
			t.Errorf("%q: have %q, want %q", line, have, want)
		}
	}
}
