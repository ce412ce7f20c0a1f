package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3filter"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/audit"
	"github.com/vpngw/vpngw/control/certtest"
	"github.com/vpngw/vpngw/control/store"
)

const (
	project      = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
	otherProject = "ffffffffffffffffffffffffffffffff"
	vpcID        = "11111111-1111-4111-8111-111111111111"
	subnetID     = "22222222-2222-4222-8222-222222222222"
	eip1ID       = "33333333-3333-4333-8333-333333333333"
	eip2ID       = "44444444-4444-4444-8444-444444444444"
	p2cEIP       = "55555555-5555-4555-8555-555555555555"
	ccmID        = "scs1717051012106"
	logGroup     = "66666666-6666-4666-8666-666666666666"
	logStream    = "77777777-7777-4777-8777-777777777777"
	eip3ID       = "44444444-4444-4444-8444-444444444445"
	eip4ID       = "44444444-4444-4444-8444-444444444446"
	testPSK      = "Correct-Horse-7-Battery"
	testPassword = "a password of ops"
	testSecret   = "the secret key of "
)

// bench is an API over a store of its own. The test plays the reconciler.
type bench struct {
	t         testing.TB
	server    *Server
	store     store.Store
	objects   *control.Objects
	access    *control.Access
	engines   *engines
	inventory *control.Inventory
	log       *bytes.Buffer
	now       time.Time // of the server and of signatures

	auditFile string
}

func newBench(t testing.TB) *bench {
	t.Helper()
	db, err := store.OpenBolt(filepath.Join(t.TempDir(), "store.db"))
	check(t, err)
	return newBenchOn(t, db, control.Limits{})
}

func newBenchOn(t testing.TB, db store.Store, limits control.Limits) *bench {
	t.Helper()
	b := &bench{t: t, engines: &engines{}, log: &bytes.Buffer{}, now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	clock := func() time.Time { return b.now }
	dir := t.TempDir()
	t.Cleanup(func() { check(t, db.Close()) })
	key, err := control.LoadSealingKey(filepath.Join(dir, "key"))
	check(t, err)
	b.store, b.objects = db, control.NewObjects(db, key)
	inventory := &control.Inventory{
		AvailabilityZones: []string{"az1", "az2"},
		VPCs: []control.VPC{{
			ID: vpcID, CIDR: netip.MustParsePrefix("10.10.0.0/16"),
			Subnets: []control.Subnet{{ID: subnetID, CIDR: netip.MustParsePrefix("10.10.0.0/24")}},
		}},
		EIPs: []control.EIP{
			{ID: eip1ID, Address: netip.MustParseAddr("203.0.113.10")},
			{ID: eip2ID, Address: netip.MustParseAddr("203.0.113.11")},
			{ID: p2cEIP, Address: netip.MustParseAddr("203.0.113.12")},
			{ID: eip3ID, Address: netip.MustParseAddr("203.0.113.14")},
			{ID: eip4ID, Address: netip.MustParseAddr("203.0.113.13")},
		},
		LogStreams: []control.LogStream{{GroupID: logGroup, StreamID: logStream, Sink: control.LogSink{File: filepath.Join(dir, "clients.log")}}},
	}
	root := certtest.New(t, "root")
	certificateFile, keyFile := root.Server(t, "vpn.acme.example").Files(t, root)
	inventory.Certificates = []control.Certificate{{ID: ccmID, Name: "vpn", CertificateFile: certificateFile, KeyFile: keyFile}}
	check(t, inventory.Validate())
	b.inventory = inventory
	service, err := control.NewService(control.ServiceOptions{Objects: b.objects, Inventory: inventory, Engines: b.engines, History: b.engines, Limits: limits, Version: "1.2.3", Now: clock})
	check(t, err)
	credential := func(accessKey string, role control.Role, project string) control.Credential {
		return control.Credential{AccessKey: accessKey, SecretKey: control.NewSecret(testSecret + accessKey), Role: role, Project: project}
	}
	hash, err := passwordHash()
	check(t, err)
	b.access, err = control.NewAccess(control.AccessOptions{
		Store: db, Now: clock,
		Accounts: control.Accounts{
			Credentials: []control.Credential{
				credential("admin", control.RoleAdmin, project),
				credential("operator", control.RoleOperator, project),
				credential("readonly", control.RoleReadOnly, project),
				credential("auditor", "auditor", project),
				credential("backup", control.RoleBackup, project),
				credential("restore", control.RoleRestore, project),
				credential("stranger", control.RoleAdmin, otherProject),
				credential("traveller", control.RoleAdmin, project),
				credential("traveller", control.RoleReadOnly, otherProject),
			},
			Users: []control.User{{
				Domain: "acme", Name: "ops", Hash: hash,
				Role: control.RoleOperator, Project: project, ProjectName: "region-1",
			}},
			Roles: control.Roles{"auditor": {"vpn:*:list*", "vpn:vpnConnections:getLog"}},
		},
	})
	check(t, err)
	logger := slog.New(slog.NewJSONHandler(b.log, nil))
	b.auditFile = filepath.Join(dir, "audit.log")
	auditLog, err := audit.Open(audit.Options{Path: b.auditFile, MaxSize: 1 << 20, Logger: logger})
	check(t, err)
	t.Cleanup(func() { check(t, auditLog.Close()) })
	b.server, err = New(Options{
		Service: service, Access: b.access, Logger: logger, Audit: auditLog,
		Listen: "127.0.0.1:0", TLS: TLS{Mode: TLSOff}, Now: clock,
	})
	check(t, err)
	return b
}

// passwordHash is computed once: it takes its time.
var passwordHash = sync.OnceValues(func() (control.PasswordHash, error) {
	return control.HashPassword(control.NewSecret(testPassword), nil)
})

// engines are those of a node; a test says what they have.
type engines struct {
	children map[string][]control.ChildSA          // by connection served
	clients  map[string][]control.ClientConnection // by gateway served
	tunnels  map[string]control.TunnelState        // by connection served
	events   map[string][]control.ConnectionEvent  // by connection
	// disruptions are those of whatever is planned, by established connection.
	disruptions map[string]control.Disruption
	// apply returns when a revision of the store is in force; nil: at once.
	apply func(ctx context.Context, revision int64) error
}

func (e *engines) WaitApplied(ctx context.Context, revision int64) error {
	if e.apply == nil {
		return nil
	}
	return e.apply(ctx, revision)
}

func (e *engines) ChildSAs(connection string) ([]control.ChildSA, bool) {
	list, served := e.children[connection]
	return list, served
}

func (e *engines) Tunnel(connection string) (control.TunnelState, bool) {
	state, served := e.tunnels[connection]
	return state, served
}

// Read is of the history.
func (e *engines) Read(connection string, q control.HistoryQuery) ([]control.ConnectionEvent, error) {
	events := slices.Clone(e.events[connection])
	events = slices.DeleteFunc(events, func(e control.ConnectionEvent) bool { return e.Time.Before(q.Since) })
	return events[:min(len(events), q.Limit)], nil
}

func (e *engines) Disruption(_, next *control.TunnelSpec) (control.Disruption, bool, bool) {
	d, established := e.disruptions[next.Connection.ID]
	_, served := e.children[next.Connection.ID]
	return d, established, served
}

func (e *engines) ClientConnections(gateway string) ([]control.ClientConnection, bool) {
	list, served := e.clients[gateway]
	return slices.Clone(list), served
}

func (e *engines) DisconnectClient(gateway, connection string) bool {
	before := len(e.clients[gateway])
	e.clients[gateway] = slices.DeleteFunc(e.clients[gateway], func(c control.ClientConnection) bool { return c.ID == connection })
	return len(e.clients[gateway]) < before
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// path returns a path below that of the project.
func path(elements ...string) string { return "/v5/" + project + "/" + strings.Join(elements, "/") }

// request makes an unsigned request. Its body is a text, or what encodes to
// one as JSON.
func request(t testing.TB, method, target string, body any) (*http.Request, []byte) {
	t.Helper()
	var content []byte
	switch b := body.(type) {
	case nil:
	case string:
		content = []byte(b)
	default:
		var err error
		content, err = json.Marshal(body)
		check(t, err)
	}
	r := httptest.NewRequest(method, target, bytes.NewReader(content))
	r.Header.Set("Content-Type", "application/json")
	return r, content
}

// as sends a request that is signed with an access key.
func (b *bench) as(accessKey, method, target string, body any) *answer {
	b.t.Helper()
	r, content := request(b.t, method, target, body)
	b.now = b.now.Add(time.Second) // no two signatures are equal
	signRequest(r, content, accessKey, testSecret+accessKey, b.now, "content-type", "host")
	return b.send(r)
}

// call sends a request as the administrator.
func (b *bench) call(method, target string, body any) *answer {
	b.t.Helper()
	return b.as("admin", method, target, body)
}

var requestIDFormat = regexp.MustCompile(`^[0-9a-f]{32}$`)

// withoutRequestID are the operations whose answer has the id in the header
// only.
var withoutRequestID = map[string]bool{
	"ListResourcesByTags": true, "CountResourcesByTags": true, "ShowResourceTags": true, "ListProjectTags": true,
	"ExportClientConfig": true, "CheckClientCaCertificate": true,
}

// send sends a request as it is, and checks of every answer that it fits the
// document, has the request's id and shows no secret.
func (b *bench) send(r *http.Request) *answer {
	b.t.Helper()
	w := httptest.NewRecorder()
	b.server.Handler().ServeHTTP(w, r)
	a := &answer{t: b.t, Status: w.Code, Header: w.Header(), Text: w.Body.String()}
	id := w.Header().Get(headerRequestID)
	if !requestIDFormat.MatchString(id) {
		b.t.Errorf("%s %s: X-Request-Id is %q", r.Method, r.URL, id)
	}
	if w.Code == http.StatusNoContent {
		if a.Text != "" {
			b.t.Errorf("%s %s: 204 with a body: %s", r.Method, r.URL, a.Text)
		}
		return a
	}
	if w.Header().Get("Content-Type") == "application/x-ndjson" {
		return a
	}
	check(b.t, json.Unmarshal([]byte(a.Text), &a.body))
	op := documented(r)
	if a.body["request_id"] != id && (op == nil || !withoutRequestID[op.id] || w.Code != http.StatusOK) {
		b.t.Errorf("%s %s: request_id is %v in the body and %v in the header", r.Method, r.URL, a.body["request_id"], id)
	}
	if op != nil {
		err := openapi3filter.ValidateResponse(b.t.Context(), &openapi3filter.ResponseValidationInput{
			RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, Route: op.route},
			Status:                 w.Code, Header: w.Header(), Body: io.NopCloser(strings.NewReader(a.Text)),
			Options: &openapi3filter.Options{IncludeResponseStatus: true},
		})
		if err != nil {
			b.t.Errorf("%s %s: the answer does not fit the document: %v", r.Method, r.URL, err)
		}
	}
	for _, secret := range []string{testPSK, testPassword, testSecret} {
		if strings.Contains(a.Text, secret) {
			b.t.Errorf("%s %s: the answer holds a secret", r.Method, r.URL)
		}
	}
	return a
}

func document() (map[string]*operation, error) { return loadOperations() }

// documentedRoutes find the pattern of a request, and that its operation.
var documentedRoutes = sync.OnceValues(func() (*routes, map[string]*operation) {
	operations, err := document()
	if err != nil {
		panic(err)
	}
	mux, byPattern := &routes{}, map[string]*operation{}
	for _, op := range operations {
		for pattern := range op.patterns() {
			mux.HandleFunc(pattern, http.NotFound)
			byPattern[pattern] = op
		}
	}
	return mux, byPattern
})

// documented returns the operation of a request, nil when there is none.
func documented(r *http.Request) *operation {
	mux, byPattern := documentedRoutes()
	return byPattern[mux.Pattern(r)]
}

// answer is what came back.
type answer struct {
	t      testing.TB
	Status int
	Header http.Header
	Text   string
	body   object
}

type object = map[string]any

// want checks the status.
func (a *answer) want(status int) *answer {
	a.t.Helper()
	if a.Status != status {
		a.t.Fatalf("got status %d, want %d: %s", a.Status, status, a.Text)
	}
	return a
}

// wantError checks the status, the code and a part of the message.
func (a *answer) wantError(status int, code, message string) {
	a.t.Helper()
	a.want(status)
	if got := a.text("error_msg"); a.text("error_code") != code || !strings.Contains(got, message) {
		a.t.Errorf("got %v %q, want %v %q", a.body["error_code"], got, code, message)
	}
}

// at returns a member by its path.
func (a *answer) at(members ...string) any {
	var v any = a.body
	for _, m := range members {
		o, _ := v.(object)
		v = o[m]
	}
	return v
}

func (a *answer) text(members ...string) string {
	s, _ := a.at(members...).(string)
	return s
}

func (a *answer) list(member string) []any {
	a.t.Helper()
	l, ok := a.body[member].([]any)
	if !ok {
		a.t.Fatalf("%s is not a list: %s", member, a.Text)
	}
	return l
}

// wantMembers compares the members of an object that want has.
func wantMembers(t testing.TB, got any, want object) {
	t.Helper()
	o, _ := got.(object)
	for member, w := range want {
		if a, b := encoded(t, o[member]), encoded(t, w); a != b {
			t.Errorf("%s: got %s, want %s", member, a, b)
		}
	}
}

// wantAbsent checks that an object lacks members.
func wantAbsent(t testing.TB, got any, members ...string) {
	t.Helper()
	o, _ := got.(object)
	for _, m := range members {
		if v, ok := o[m]; ok {
			t.Errorf("%s is present: %v", m, v)
		}
	}
}

// encoded returns a value as JSON, in which equal values are equal texts.
func encoded(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	check(t, err)
	var plain any
	check(t, json.Unmarshal(text, &plain))
	text, err = json.Marshal(plain)
	check(t, err)
	return string(text)
}

// with returns a copy of an object with members changed; nil removes one.
func with(o object, changes ...any) object {
	out := object{}
	for k, v := range o {
		out[k] = v
	}
	for i := 0; i < len(changes); i += 2 {
		if name := changes[i].(string); changes[i+1] == nil {
			delete(out, name)
		} else {
			out[name] = changes[i+1]
		}
	}
	return out
}

func vgw(o object) object { return object{"vpn_gateway": o} }
func cgw(o object) object { return object{"customer_gateway": o} }
func vpn(o object) object { return object{"vpn_connection": o} }

func smallestGateway() object {
	return object{
		"vpc_id": vpcID, "connect_subnet": subnetID, "local_subnets": []string{"192.168.0.0/24"},
		"eip1": object{"id": eip1ID}, "eip2": object{"id": eip2ID},
	}
}

func smallestConnection(gateway, customerGateway string) object {
	return object{
		"vgw_id": gateway, "vgw_ip": eip1ID, "cgw_id": customerGateway,
		"peer_subnets": []string{"172.16.0.0/24"}, "psk": testPSK,
	}
}

// createGateway creates the smallest gateway and makes it ACTIVE.
func (b *bench) createGateway() (id string) {
	b.t.Helper()
	id = b.call(http.MethodPost, path("vpn-gateways"), vgw(smallestGateway())).want(http.StatusCreated).text("vpn_gateway", "id")
	b.applied(id)
	return id
}

func (b *bench) createCustomerGateway(address string) (id string) {
	b.t.Helper()
	return b.call(http.MethodPost, path("customer-gateways"), cgw(object{"id_value": address})).
		want(http.StatusCreated).text("customer_gateway", "id")
}

// createConnection creates the smallest connection, which is DOWN.
func (b *bench) createConnection() (connection, gateway, customerGateway string) {
	b.t.Helper()
	gateway, customerGateway = b.createGateway(), b.createCustomerGateway("198.51.100.7")
	connection = b.call(http.MethodPost, path("vpn-connection"), vpn(smallestConnection(gateway, customerGateway))).
		want(http.StatusCreated).text("vpn_connection", "id")
	b.report(connection, control.ConnectionStatus{State: control.ConnectionDown})
	return connection, gateway, customerGateway
}

// createMonitor creates the monitor of a connection, which is ACTIVE.
func (b *bench) createMonitor(connection string) (id string) {
	b.t.Helper()
	body := object{"connection_monitor": object{"vpn_connection_id": connection}}
	id = b.call(http.MethodPost, path("connection-monitors"), body).want(http.StatusCreated).text("connection_monitor", "id")
	check(b.t, b.objects.SetMonitorStatus(b.t.Context(), project, id, control.MonitorStatus{Observed: everyGeneration}))
	return id
}

const everyGeneration = 1 << 20

// applied reports a gateway as applied, whatever changes.
func (b *bench) applied(id string) {
	b.t.Helper()
	check(b.t, b.objects.SetGatewayStatus(b.t.Context(), project, id, control.GatewayStatus{
		Observed: everyGeneration, AppliedAt: b.now, LastChange: b.now,
	}))
}

// report writes the status of a connection, whatever changes.
func (b *bench) report(id string, s control.ConnectionStatus) {
	b.t.Helper()
	s.Observed, s.Applied, s.LastChange = everyGeneration, true, b.now
	check(b.t, b.objects.SetConnectionStatus(b.t.Context(), project, id, s))
}

// Members that the document does not have are ignored, but not those that the
// decoder would take for others.
func TestMemberNamesAreExact(t *testing.T) {
	b := newBench(t)
	id, _, _ := b.createConnection()
	for _, tt := range []struct{ method, target, body, message string }{
		{http.MethodPost, path("customer-gateways"), `{"customer_gateway":{"id_value":"198.51.100.9","NAME":"x"}}`, "NAME: must be spelt name"},
		{http.MethodPost, path("customer-gateways"), `{"customer_gateway":{"id_value":"198.51.100.9","tags":[{"key":"a","value":"b"},{"KEY":"","key":"c","value":"d"}]}}`, "tags[1].KEY: must be spelt key"},
		{http.MethodPut, path("vpn-connection", id), `{"vpn_connection":{"name":"a"},"VPN_CONNECTION":{"name":"b"}}`, "VPN_CONNECTION: must be spelt vpn_connection"},
		{http.MethodPut, path("vpn-connection", id), `{"vpn_connection":{"ikepolicy":{"dh_Group":"group14"}}}`, "ikepolicy.dh_Group: must be spelt dh_group"},
	} {
		b.call(tt.method, tt.target, tt.body).wantError(http.StatusBadRequest, "VPN.0001", tt.message)
	}
	b.call(http.MethodPut, path("vpn-connection", id), `{"vpn_connection":{"unknown":{"NAME":1}},"Other":2}`).want(http.StatusOK)
}
