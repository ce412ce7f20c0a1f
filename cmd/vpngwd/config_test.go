package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
)

// wholeConfig is the file that the architecture pins, with everything in it.
const wholeConfig = `
node: {name: node-1, availability_zone: az1}
data_dir: /var/lib/vpngw
log: {level: debug, format: json}
store: {backend: bbolt}
api:
  listen: 127.0.0.1:8443
  tls: auto
  credentials: [{access_key: AK1, secret_key: very-secret, role: admin, project_id: p1}]
  users: [{name: alice, domain: d, password: pass-word, role: readonly, project_id: p1, project_name: one}]
metrics: {listen: 127.0.0.1:9090}
dataplane: {backend: auto}
ike: {retransmit: {initial: 1s, factor: 1.5, tries: 3}, max_lifetime: 1h, max_child_lifetime: 10m, authentication_lifetime: 4h, mobike: true, childless: true}
inventory:
  availability_zones: [az1, az2]
  vpcs: [{id: v1, cidr: 10.10.0.0/16, subnets: [{id: s1, cidr: 10.10.0.0/24}]}]
  eips: [{id: e1, address: 203.0.113.10, interface: eth0, type: 5_bgp, bandwidth_mbps: 300}]
  log_streams: [{group_id: g1, stream_id: l1, sink: {http: {url: https://logs.example/in, authorization: Bearer of-logs}}}]
debug: {key_log_dir: keys}
audit: {file: audit.log, max_size_mb: 10, keep: 3, log: true}
`

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vpngwd.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func noEnv(string) string { return "" }

func TestLoadConfig(t *testing.T) {
	c, err := loadConfig(writeConfig(t, wholeConfig), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if c.Node.Name != "node-1" || c.API.TLS.Mode != tlsAuto || c.API.Credentials[0].SecretKey != "very-secret" ||
		c.IKE.Retransmit.Initial != time.Second || c.Inventory.VPCs[0].Subnets[0].CIDR.String() != "10.10.0.0/24" ||
		c.Inventory.EIPs[0].BandwidthMbps != 300 || c.API.Users[0].ProjectName != "one" ||
		c.Inventory.LogStreams[0].Sink.HTTP.Authorization.Reveal() != "Bearer of-logs" {
		t.Errorf("decoded %+v", c)
	}
	if !c.Dataplane.ForceEncapsulation {
		t.Errorf("keys that the file does not name lost their defaults: %+v", c.Dataplane)
	}
}

func TestLoadConfigDefaults(t *testing.T) {
	c, err := loadConfig(writeConfig(t, "# empty\n"), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if c.Node.Name == "" || c.DataDir != "/var/lib/vpngw" || c.API.Listen != "127.0.0.1:8443" || c.Metrics.Listen != "127.0.0.1:9090" {
		t.Errorf("defaults are %+v", c)
	}
}

func TestLoadConfigRefuses(t *testing.T) {
	// Each case replaces one piece of the whole configuration.
	for _, tc := range []struct{ name, old, new, want string }{
		{"unknown key, with its line", "store: {backend: bbolt}", "store: {backend: bbolt}\nstorage: 1", `[6:1] unknown field "storage"`},
		{"unknown nested key", "tls: auto", "tls: auto\n  lisen: x", `[9:3] unknown field "lisen"`},
		{"unknown TLS key", "tls: auto", "tls: {certificate: x}", `unknown field "certificate"`},
		{"key twice", "metrics: {listen", "metrics: {}\nmetrics: {listen", "already defined"},
		{"wrong type", "tries: 3", "tries: many", "cannot unmarshal"},
		{"second document", "metrics:", "---\nmetrics:", "more than one YAML document"},
		{"log level", "level: debug", "level: loud", "log.level"},
		{"log format", "format: json", "format: xml", "log.format"},
		{"etcd without endpoints", "backend: bbolt", "backend: etcd", "store: no endpoint"},
		{"plain HTTP to etcd", "backend: bbolt", "backend: etcd, endpoints: ['http://192.0.2.1:2379']", "store: endpoint"},
		{"etcd's CA", "backend: bbolt", "backend: etcd, endpoints: ['https://192.0.2.1:2379'], ca_file: missing", "store: ca file"},
		{"etcd's password", "backend: bbolt", "backend: etcd, endpoints: ['https://192.0.2.1:2379'], username: u, password: a, password_env: B", "store.password: give exactly one"},
		{"node of a fleet", "name: node-1, availability_zone: az1}\ndata_dir: /var/lib/vpngw\nlog: {level: debug, format: json}\nstore: {backend: bbolt}", "name: node/1}\nstore: {backend: etcd, endpoints: ['http://127.0.0.1:2379']}", "node.name"},
		{"lease", "store: {backend: bbolt}", "store: {backend: etcd, endpoints: ['http://127.0.0.1:2379']}\nfleet: {lease: 1s}", "fleet.lease"},
		{"fleet of one", "store: {backend: bbolt}", "store: {backend: bbolt}\nfleet: {lease: 3s}", "fleet: goes with"},
		{"API of a node", "name: node-1", "name: node-1, api_url: http://192.0.2.1", "node.api_url"},
		{"floating address", "interface: eth0", "floating: true", "inventory.eips[0].interface"},
		{"router address", "{id: s1, ", "{id: s1, router_address: 10.10.0.1, ", "router_address: the interface is wanted"},
		{"router address outside", "{id: s1, ", "{id: s1, interface: lan, router_address: 10.11.0.1, ", "router_address: an IPv4 address of the subnet"},
		{"store", "backend: bbolt", "backend: sqlite", "store.backend"},
		{"endpoints", "backend: bbolt", "backend: bbolt, endpoints: [a]", "store: endpoints"},
		{"backend", "backend: auto", "backend: dpdk", "dataplane.backend"},
		{"queues", "backend: auto", "backend: auto, queues: 257", "dataplane.queues"},
		{"mtu", "backend: auto", "backend: auto, outer_mtu: 1279", "dataplane.outer_mtu"},
		{"DF", "backend: auto", "backend: auto, outer_df: keep", "dataplane.outer_df"},
		{"listen", "127.0.0.1:8443", "localhost", "api.listen"},
		{"metrics", "127.0.0.1:9090", "9090", "metrics.listen"},
		{"audit size", "max_size_mb: 10", "max_size_mb: 0", "audit.max_size_mb"},
		{"audit files", "keep: 3", "keep: -1", "audit.keep"},
		{"plain HTTP on the net", "127.0.0.1:8443\n  tls: auto", "0.0.0.0:8443\n  tls: off", "loopback"},
		{"tls word", "tls: auto", "tls: maybe", "api.tls"},
		{"tls files", "tls: auto", "tls: {certificate_file: a}", "both certificate_file and key_file"},
		{"no access key", "access_key: AK1, ", "", "api.credentials[0].access_key"},
		{"no secret", "secret_key: very-secret, ", "", "api.credentials[0].secret_key: give exactly one"},
		{"two secrets", "secret_key: very-secret", "secret_key: very-secret, secret_key_env: E", "exactly one"},
		{"secret file", "secret_key: very-secret", "secret_key_file: missing", "no such file"},
		{"secret variable", "secret_key: very-secret", "secret_key_env: NOT_SET", "is empty"},
		{"role", "role: admin", "role: root", "api.credentials[0].role"},
		{"user role", "role: readonly", "role: root", "api.users[0].role"},
		{"user password", "password: pass-word, ", "", "api.users[0].password"},
		{"password and hash", "password: pass-word", "password: pass-word, password_hash: x", "api.users[0].password: give no other one"},
		{"password hash", "password: pass-word", "password_hash: pass-word", "api.users[0].password_hash: password hash must be"},
		{"built-in role", "tls: auto", "tls: auto\n  roles: {admin: ['vpn:*:get*']}", "api.roles.admin: is there already"},
		{"action", "tls: auto", "tls: auto\n  roles: {a: ['vpn:*']}", "api.roles.a: action 0"},
		{"misspelt action", "tls: auto", "tls: auto\n  roles: {a: ['vpn:vpnGateway:*']}", `api.roles.a: no operation needs an action like "vpn:vpnGateway:*"`},
		{"project", "role: admin, project_id: p1", "role: admin", "api.credentials[0].project_id"},
		{"more projects", "role: admin, project_id: p1", "role: admin, project_id: p1, projects: [{role: root, project_id: p2}]", "api.credentials[0].projects[0].role"},
		{"project twice", "role: readonly, project_id: p1", "role: readonly, projects: [{role: admin, project_id: p1}], project_id: p1", `api.users[0].projects[0].project_id: "p1" occurs twice`},
		{"project of another form", "role: admin, project_id: p1", "role: admin, project_id: a/b", "api.credentials[0].project_id: may hold letters"},
		{"user's project", "role: readonly, project_id: p1", "role: readonly, project_id: a b", "api.users[0].project_id: may hold letters"},
		{"limit", "metrics:", "limits: {gateways: -1}\nmetrics:", "limits.gateways: -1 is negative"},
		{"limit of no flavor", "metrics:", "limits: {gateway_connections: {basic: 1}}\nmetrics:", `limits.gateway_connections: there is no flavor "basic"; there are Basic, `},
		{"limit of a flavor", "metrics:", "limits: {gateway_connections: {Basic: -1}}\nmetrics:", "limits.gateway_connections.Basic: -1 is negative"},
		{"duration", "initial: 1s", "initial: 1x", `[13:29] ike.retransmit.initial: time: unknown unit "x" in duration "1x"`},
		{"duration without unit", "initial: 1s", "initial: 1", "[13:29]"},
		{"tls files that are not there", "tls: auto", "tls: {certificate_file: a, key_file: b}", "api.tls: open a: no such file"},
		{"same access key", "project_id: p1}]", "project_id: p1}, {access_key: AK1, secret_key: b, role: admin, project_id: p}]", "occurs twice"},
		{"zone", "availability_zone: az1", "availability_zone: az9", "node.availability_zone"},
		{"vpc", "cidr: 10.10.0.0/16", "cidr: 10.10.0.0", `[16:25] inventory.vpcs[0].cidr: netip.ParsePrefix("10.10.0.0")`},
		{"host bits", "cidr: 10.10.0.0/16", "cidr: 10.10.0.1/16", "inventory.vpcs[0].cidr: a network without host bits"},
		{"subnet outside", "cidr: 10.10.0.0/24", "cidr: 10.11.0.0/24", "not in 10.10.0.0/16 of its vpc"},
		{"no such sink", "http: {url", "smtp: {url", "smtp"},
		{"log url", "https://logs.example", "logs.example", "inventory.log_streams[0].sink.http.url"},
		{"certificate file", "log_streams:", "certificates: [{id: c1, certificate_file: /nowhere, key_file: /nowhere}]\n  log_streams:", "inventory.certificates[0].certificate_file"},
		{"same id", "id: s1", "id: v1", "is the id of inventory.vpcs[0] too"},
		{"no id", "id: e1, ", "", "inventory.eips[0].id"},
		{"eip", "address: 203.0.113.10", "address: gateway", "gateway"},
		{"same eip", "bandwidth_mbps: 300}", "bandwidth_mbps: 300}, {id: e2, address: 203.0.113.10}", "has the address 203.0.113.10 of inventory.eips[0]"},
		{"GM, number", "max_lifetime: 1h", "max_lifetime: 1h, gm: [{sm4_phase1_id: 128}]", "ike.gm[0].sm4_phase1_id: 128 is not one of 129, 127"},
		{"GM, word", "max_lifetime: 1h", "max_lifetime: 1h, gm: [{certificates: hidden}]", `ike.gm[0].certificates: "hidden" is not one of clear, encrypted`},
		{"GM, ICV", "max_lifetime: 1h", "max_lifetime: 1h, gm: [{esp_icv_bits: 97}]", "ike.gm[0]: esp_icv_bits: 97"},
		{"GM, SPI", "max_lifetime: 1h", "max_lifetime: 1h, gm: [{dpd_spi: 4}]", "ike.gm[0].dpd_spi: 4 is not one of 16, 0"},
		{"GM, id", "max_lifetime: 1h", "max_lifetime: 1h, gm: [{id: 'fqdn:'}]", "ike.gm[0].id"},
		{"GM, twice", "max_lifetime: 1h", "max_lifetime: 1h, gm: [{peer: a}, {peer: a}]", `ike.gm[1].peer: "a" occurs twice`},
		{"lifetime", "max_lifetime: 1h", "max_lifetime: 4s", "ike.max_lifetime"},
		{"authentication lifetime", "authentication_lifetime: 4h", "authentication_lifetime: 1s", "ike.authentication_lifetime"},
		{"child lifetime", "max_child_lifetime: 10m", "max_child_lifetime: -1s", "ike.max_child_lifetime"},
		{"factor", "factor: 1.5", "factor: 0.5", "ike.retransmit.factor"},
		{"initial", "initial: 1s", "initial: 1ms", "ike.retransmit.initial"},
		{"tries", "tries: 3", "tries: 21", "ike.retransmit.tries"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := strings.Replace(wholeConfig, tc.old, tc.new, 1)
			if text == wholeConfig {
				t.Fatalf("%q is not in the configuration", tc.old)
			}
			_, err := loadConfig(writeConfig(t, text), noEnv)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %v, want one with %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "very-secret") || strings.Contains(err.Error(), "pass-word") {
				t.Errorf("the error holds a secret: %v", err)
			}
		})
	}
}

func TestRolesAndHashes(t *testing.T) {
	const hash = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	text := strings.Replace(wholeConfig, "tls: auto", "tls: auto\n  roles: {reset: ['vpn:vpnConnections:reset', 'vpn:*:list*']}", 1)
	text = strings.Replace(text, "password: pass-word, role: readonly", "password_hash: '"+hash+"', role: reset", 1)
	c, err := loadConfig(writeConfig(t, text), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	all := c.accounts()
	if u := all.Users[0]; u.Role != "reset" || !u.Hash.Matches(control.NewSecret("password")) || !u.Password.IsZero() {
		t.Errorf("the user is %+v", u)
	}
	if p, ok := all.Roles.Permissions("reset"); !ok || !p.Allow("vpn:vpnConnections:reset") || p.Allow("vpn:vpnConnections:delete") {
		t.Errorf("the role allows %q", p)
	}
}

func TestAccountsOfSeveralProjects(t *testing.T) {
	text := strings.Replace(wholeConfig, "role: admin, project_id: p1", "role: admin, project_id: p1, projects: [{role: readonly, project_id: p2}]", 1)
	text = strings.Replace(text, "project_name: one}", "project_name: one, projects: [{role: admin, project_id: p2, project_name: two}]}", 1)
	c, err := loadConfig(writeConfig(t, text), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	all := c.accounts()
	if k := all.Credentials; len(k) != 2 || k[0].Project != "p1" || k[1].Project != "p2" || k[1].Role != "readonly" || !k[1].SecretKey.Equal(k[0].SecretKey) {
		t.Errorf("credentials are %+v", k)
	}
	if u := all.Users; len(u) != 2 || u[0].ProjectName != "one" || u[1].ProjectName != "two" || u[1].Role != "admin" || u[1].Name != "alice" {
		t.Errorf("users are %+v", u)
	}
}

func TestSecretSources(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(wholeConfig, "secret_key: very-secret", "secret_key_file: "+file, 1)
	text = strings.Replace(text, "password: pass-word", "password_env: PASSWORD", 1)
	c, err := loadConfig(writeConfig(t, text), func(name string) string {
		return map[string]string{"PASSWORD": "from-env"}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.API.Credentials[0].SecretKey != "from-file" || c.API.Users[0].Password != "from-env" {
		t.Errorf("secrets are %q and %q", c.API.Credentials[0].SecretKey, c.API.Users[0].Password)
	}
}

func TestRestartKeys(t *testing.T) {
	path := writeConfig(t, wholeConfig)
	old, err := loadConfig(path, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	c, err := loadConfig(path, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	c.Log.Level, c.Inventory.EIPs = "warn", nil
	if keys := c.restartKeys(old); len(keys) != 0 {
		t.Errorf("%q need a restart, and can change live", keys)
	}
	c.DataDir, c.API.Listen = "/elsewhere", "127.0.0.1:1"
	if keys := c.restartKeys(old); !slices.Equal(keys, []string{"data_dir", "api.listen"}) {
		t.Errorf("%q need a restart", keys)
	}
}
