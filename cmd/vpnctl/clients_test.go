package main

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/api"
	"github.com/vpngw/vpngw/control/certtest"
	"github.com/vpngw/vpngw/control/store"
)

const (
	clientsVPC    = "11111111-1111-4111-8111-111111111111"
	clientsSubnet = "22222222-2222-4222-8222-222222222222"
	clientsEIP    = "33333333-3333-4333-8333-333333333333"
)

const clientsFile = `
p2c_gateways:
- name: staff
  vpc_id: ` + clientsVPC + `
  connect_subnet: ` + clientsSubnet + `
  eip: {id: ` + clientsEIP + `}
  max_connection_number: 10
  server:
    client_cidr: 172.21.0.1/24
    local_subnets: [192.168.0.0/24]
    server_certificate: {source: SERVICE_SIGN}
    ssl_options: {port: 1194, is_compressed: false}
    user_groups:
    - {name: admins, description: all of it}
    - {name: guests}
    users:
    - {name: alice, group: admins, static_ip: 172.21.0.5, password_env: ALICE}
    - {name: carol, group: default, password_env: CAROL}
    access_policies:
    - {name: office, group: admins, dest_ip_cidrs: [192.168.0.7/24, 10.0.0.0/8]}
`

// realAPI serves the API of an empty project "p", with a reconciler that finds
// all client-to-cloud gateways and servers in order at once.
func realAPI(t *testing.T) *httptest.Server {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	db := store.NewMemory()
	key, err := control.LoadSealingKey(filepath.Join(t.TempDir(), "key"))
	check(err)
	objects := control.NewObjects(db, key)
	inventory := &control.Inventory{
		AvailabilityZones: []string{"az1", "az2"},
		VPCs: []control.VPC{{
			ID: clientsVPC, CIDR: netip.MustParsePrefix("192.168.0.0/16"),
			Subnets: []control.Subnet{{ID: clientsSubnet, CIDR: netip.MustParsePrefix("192.168.0.0/24")}},
		}},
		EIPs: []control.EIP{{ID: clientsEIP, Address: netip.MustParseAddr("203.0.113.20")}},
	}
	check(inventory.Validate())
	service, err := control.NewService(control.ServiceOptions{Objects: objects, Inventory: inventory, Engines: &engines{}})
	check(err)
	access, err := control.NewAccess(control.AccessOptions{Store: db, Accounts: control.Accounts{
		Credentials: []control.Credential{{AccessKey: "AK", SecretKey: control.NewSecret("S3cr3t"), Role: control.RoleAdmin, Project: "p"}},
	}})
	check(err)
	server, err := api.New(api.Options{
		Service: service, Access: access, Logger: slog.New(slog.DiscardHandler), Listen: "127.0.0.1:0", TLS: api.TLS{Mode: api.TLSOff},
	})
	check(err)
	ctx, cancel := context.WithCancel(t.Context())
	changes, err := objects.Watch(ctx, 0)
	check(err)
	var reconciler sync.WaitGroup
	reconciler.Go(func() {
		for range changes {
			if err := settle(ctx, objects); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	listener := httptest.NewServer(server.Handler())
	t.Cleanup(func() {
		listener.Close()
		cancel()
		reconciler.Wait()
		check(db.Close())
	})
	return listener
}

// engines have two clients of alice and one of carol at every gateway.
type engines struct {
	mu   sync.Mutex
	gone map[string]bool // by connection
}

func (e *engines) Disruption(_, _ *control.TunnelSpec) (control.Disruption, bool, bool) {
	return control.DisruptNothing, false, true
}

func (e *engines) WaitApplied(context.Context, int64) error { return nil }

func (e *engines) ChildSAs(string) ([]control.ChildSA, bool) { return nil, false }

func (e *engines) Tunnel(string) (control.TunnelState, bool) { return control.TunnelState{}, false }

func (e *engines) ClientConnections(string) (list []control.ClientConnection, served bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, c := range []struct{ id, user string }{{"c-1", "alice"}, {"c-2", "carol"}, {"c-3", "alice"}} {
		if !e.gone[c.id] {
			address := netip.AddrFrom4([4]byte{172, 21, 0, byte(4*i + 5)})
			list = append(list, control.ClientConnection{
				ID: c.id, User: c.user, VirtualIP: address, Remote: netip.MustParseAddrPort("198.51.100.9:4711"), Inbound: control.Traffic{Octets: 4185},
			})
		}
	}
	return list, true
}

func (e *engines) DisconnectClient(_, connection string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone == nil {
		e.gone = map[string]bool{}
	}
	defer func() { e.gone[connection] = true }()
	return !e.gone[connection]
}

func settle(ctx context.Context, objects *control.Objects) error {
	all, err := objects.Snapshot(ctx)
	if err != nil {
		return err
	}
	for _, g := range all.P2CGateways {
		switch {
		case g.DeletionRequested:
			err = objects.FinalizeP2CGateway(ctx, g.Project, g.ID)
		case all.P2CGatewayStatus[g.ID].Observed != g.Generation:
			err = objects.SetP2CGatewayStatus(ctx, g.Project, g.ID, control.P2CGatewayStatus{Observed: g.Generation})
		}
		if err != nil {
			return err
		}
	}
	for _, s := range all.Servers {
		if all.ServerStatus[s.ID].Observed != s.Generation {
			if err := objects.SetServerStatus(ctx, s.Project, s.ID, control.ServerStatus{Observed: s.Generation}); err != nil {
				return err
			}
		}
	}
	return nil
}

// steps runs the program against an API, step by step.
type steps struct {
	t    *testing.T
	env  map[string]string
	file string // standard input
}

// expect runs the program and checks that what it says has these lines in this
// order, and no secret.
func (s *steps) expect(code int, args string, want ...string) {
	s.t.Helper()
	out, have, err := vpnctl(s.t.Context(), s.env, s.file, strings.Fields(args)...)
	if err != nil {
		out += err.Error()
	}
	if have != code {
		s.t.Fatalf("%s: exit code %d, want %d: %s", args, have, code, out)
	}
	rest := out
	for _, w := range want {
		_, after, found := strings.Cut(rest, w)
		if !found {
			s.t.Errorf("%s: %q lacks %q, or has it too early", args, out, w)
			continue
		}
		rest = after
	}
	for _, secret := range []string{s.env["ALICE"], s.env["CAROL"], "Third-Secret"} {
		if strings.Contains(out, secret) {
			s.t.Errorf("%s: a password is shown", args)
		}
	}
}

func newSteps(t *testing.T, file string) *steps {
	return &steps{t: t, file: file, env: map[string]string{
		"HOME": t.TempDir(), "VPNGW_ENDPOINT": realAPI(t).URL, "VPNGW_PROJECT": "p",
		"VPNGW_ACCESS_KEY": "AK", "VPNGW_SECRET_KEY": "S3cr3t", "ALICE": "Secret-of-Alice", "CAROL": "Secret-of-Carol",
	}}
}

func TestClientToCloud(t *testing.T) {
	s := newSteps(t, clientsFile)
	s.expect(exitOK, "apply -f -", "p2c-gateway staff created", "vpn-server staff created", "user-group admins created", "user-group guests created",
		"user alice created", "user carol created", "access-policy office created")
	s.expect(exitOK, "apply -f -", "p2c-gateway staff unchanged", "vpn-server staff unchanged", "user-group admins unchanged", "user-group guests unchanged",
		"user alice unchanged", "user carol unchanged", "access-policy office unchanged")
	s.expect(exitOK, "get p2c-gateways", "staff", "ACTIVE", "203.0.113.20")
	s.expect(exitOK, "get vpn-servers", "ACTIVE", "172.21.0.0/24", "LOCAL_PASSWORD", "1194", "AES-128-GCM")
	s.expect(exitOK, "get users", "carol", "default", "disable", "alice", "admins", "172.21.0.5")
	s.expect(exitOK, "get user alice --gateway staff -o yaml", "name: alice")
	s.expect(exitOK, "get user-groups", "guests", "Custom", "admins", "default", "Default")
	s.expect(exitOK, "get access-policies", "office", "admins", "192.168.0.0/24,10.0.0.0/8", "default")
	s.expect(exitNotFound, "get users --gateway other", "other")
	s.expect(exitNotFound, "get access-policy other", "other")
	s.expect(exitUsage, "get connections --gateway staff", "gateway")
	s.expect(exitUsage, "delete vpn-server staff", "deleted with its gateway")

	s.file = strings.NewReplacer(
		"group: default", "group: guests", "static_ip: 172.21.0.5, ", "static_ip: disable, ", "10.0.0.0/8]", "10.1.0.0/16]",
		"all of it", "some of it", "{port: 1194", "{port: 443", "192.168.0.0/24]\n    server", "192.168.0.0/24, 192.168.1.0/24]\n    server",
	).Replace(clientsFile)
	s.expect(exitOK, "apply -f -", "p2c-gateway staff unchanged", "vpn-server staff updated", "local_subnets [192.168.0.0/24] → [192.168.0.0/24 192.168.1.0/24]",
		"ssl_options.port 1194 → 443", "user-group admins updated", "description all of it → some of it", "user alice updated", "static_ip 172.21.0.5 → disable",
		"user carol updated", "user_group_id", "access-policy office updated", "dest_ip_cidrs [192.168.0.0/24 10.0.0.0/8] → [192.168.0.0/24 10.1.0.0/16]")

	s.env["CAROL"] = "Third-Secret"
	s.expect(exitOK, "apply -f -", "user carol unchanged")
	s.expect(exitOK, "apply -f - --resend-passwords", "user alice unchanged", "user carol unchanged", "user carol updated", ": password")
	s.expect(exitOK, "apply -f - --resend-passwords", "user carol unchanged", "access-policy office unchanged")

	s.file = strings.NewReplacer("    - {name: guests}\n", "", "    - {name: carol, group: default, password_env: CAROL}\n", "",
		"{name: office, group: admins", "{name: branch, group: admins").Replace(clientsFile)
	s.expect(exitOK, "apply -f - --prune", "access-policy office deleted", "user carol deleted", "access-policy branch created", "user-group guests deleted")
	s.expect(exitOK, "apply -f - --prune", "access-policy branch unchanged")
	s.expect(exitOK, "delete user alice", "user alice deleted")
	s.expect(exitOK, "delete access-policy branch", "access-policy branch deleted")
	s.expect(exitOK, "delete user-group admins", "user-group admins deleted")
	s.expect(exitOK, "delete -f -", "p2c-gateway staff deleted")
	s.expect(exitNotFound, "get users", "there is no server")
}

func TestProfileAndClients(t *testing.T) {
	s := newSteps(t, clientsFile)
	s.expect(exitNotFound, "profile", "there is no server")
	s.expect(exitOK, "apply -f -", "vpn-server staff created")
	for _, server := range []string{"", " staff"} {
		s.expect(exitOK, "profile"+server, "client\ndev tun\n", "remote 203.0.113.20 1194\n", "auth-user-pass\n", "BEGIN CERTIFICATE", "disable-dco\n")
	}
	s.expect(exitNotFound, "profile other", "other")
	s.expect(exitOK, "clients staff", "USER", "BYTES IN", "alice", "198.51.100.9", "172.21.0.5", "4185", "c-1", "carol", "c-2", "c-3")
	s.expect(exitOK, "disconnect alice", "alice from 198.51.100.9 is disconnected (c-1)", "(c-3)")
	s.expect(exitOK, "clients -o json", `"connection_id": "c-2"`)
	s.expect(exitNotFound, "disconnect alice --gateway staff", `"alice" is connected`)
	s.expect(exitOK, "disconnect c-2", "carol")
	s.expect(exitNotFound, "disconnect c-2 --gateway other", "other")
	s.expect(exitUsage, "disconnect", "usage")
}

func TestClientCAsAreImported(t *testing.T) {
	one, two := certtest.New(t, "one"), certtest.New(t, "two")
	directory := t.TempDir()
	for name, text := range map[string]string{"one": one.PEM(), "two": two.PEM()} {
		if err := os.WriteFile(filepath.Join(directory, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ca := func(name string) string {
		return "{name: " + name + ", content_file: " + filepath.Join(directory, name) + "}"
	}
	head, _, _ := strings.Cut(clientsFile, "    user_groups:")
	file := func(cas ...string) string {
		return head + "    client_auth_type: CERT\n    client_ca_certificates: [" + strings.Join(cas, ", ") + "]\n"
	}
	s := newSteps(t, file(ca("one")))
	s.expect(exitOK, "apply -f -", "vpn-server staff created")
	s.expect(exitOK, "apply -f -", "vpn-server staff unchanged")
	s.file = file(ca("one"), ca("two"))
	s.expect(exitOK, "apply -f -", "vpn-server staff unchanged", "client-ca two created")
	s.file = file(ca("two"))
	s.expect(exitOK, "apply -f - --prune", "vpn-server staff unchanged", "client-ca one deleted")
	s.file = file("{name: three}")
	s.expect(exitUsage, "apply -f -", "client_ca_certificates[0] three: give one of content and content_file")
}

func TestFileOfClientToCloudIsChecked(t *testing.T) {
	s := newSteps(t, "")
	for _, test := range []struct{ old, new, message string }{
		{"name: staff", "flavor: Professional1", "p2c_gateways[0].name: is missing"},
		{"name: guests", "name: admins", `p2c_gateways[0].server.user_groups[1].name: "admins" occurs twice`},
		{"group: admins, dest", "dest", "p2c_gateways[0].server.access_policies[0].group: is missing"},
		{"password_env: ALICE", "password_env: NOBODY", "users[0] alice: password_env: the environment has no NOBODY"},
		{"password_env: ALICE", "password: x, password_env: ALICE", "give one of password, password_file and password_env"},
		{"password_env: ALICE", "password_file: /nonexistent", "password_file: open"},
		{"port: 1194", "ports: 1194", "ports"},
	} {
		s.file = strings.Replace(clientsFile, test.old, test.new, 1)
		s.expect(exitUsage, "apply -f -", test.message)
	}
	s.file = strings.Replace(clientsFile, ", password_env: CAROL", "", 1)
	s.expect(exitFailure, "apply -f -", "user alice created", "user carol: there is none yet")
	s.file = strings.Replace(clientsFile, "group: default", "group: others", 1)
	s.expect(exitNotFound, "apply -f -", "user carol: group", `"others"`)
}
