package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/certtest"
	"github.com/vpngw/vpngw/control/store"
)

// contract is what an operation promises beside what the document says of it.
type contract struct {
	// caller is the access key whose role allows it; empty: the administrator's.
	caller string
	// call makes the request that succeeds; nil: that of scene.calls.
	call func(*scene) *answer
	// ready prepares the scene, and may change scene.calls, so that the request
	// succeeds.
	ready func(*scene)
	// body is that of scene.calls with changes that make it succeed, for an
	// operation that has one.
	body func(*scene) object
	// refusal is what every request gets for which this release has nothing.
	refusal *denial
	// states are those of objects in which the operation is refused. One that
	// changes something and has none says why.
	states    []wrongState
	stateless string
	// quotas are the numbers that a creation does not exceed. One without says
	// why.
	quotas  []quota
	endless string
	// references are members of the body that name objects, with the refusal of
	// one that is not there.
	references map[string]denial
}

type denial struct {
	status        int
	code, message string
}

type wrongState struct {
	name    string
	prepare func(*scene)
	denial
}

type quota struct {
	limits  control.Limits
	prepare func(*scene)
	message string
	code    string // empty: VPN.0001
}

// scene is an API with one object of each kind: a gateway and a monitor that are
// ACTIVE, a customer gateway, and a connection that is DOWN.
type scene struct {
	*bench
	connection, gateway, customerGateway, monitor string
	server, p2cGateway, clientCA                  string // of client-to-cloud VPN
	user, group, policy                           string // of a server in password mode
	national                                      string // a gateway of flavor GM
	calls                                         map[string][3]any
}

// newScene makes the objects that an operation may be about.
func newScene(t testing.TB, limits control.Limits, op *operation) *scene {
	t.Helper()
	s := &scene{bench: newBenchOn(t, store.NewMemory(), limits)}
	s.connection, s.gateway, s.customerGateway = s.createConnection()
	s.monitor = s.createMonitor(s.connection)
	s.calls = everyOperation(s.gateway, s.customerGateway, s.connection, s.monitor)
	of := func(words ...string) bool {
		return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(op.route.Path, "/"+word) })
	}
	switch {
	case of("users", "groups", "access-policies"):
		s.ofUsers()
	case of("p2c-vpn-gateways", "vpn-servers"):
		for n := len(clientCAs); n <= 10; n++ {
			clientCAs = append(clientCAs, certtest.New(t, fmt.Sprint("clients-", n)).PEM())
		}
		s.ofServers()
	}
	return s
}

var firstUser struct {
	id    string
	entry store.Entry
}

// oneUser makes a user who is in no group. Only the first one's password is
// hashed, which takes its time: the others are copies.
func (s *scene) oneUser() (id string) {
	s.t.Helper()
	if firstUser.id != "" {
		_, err := s.store.Txn(s.t.Context(), nil, []store.Op{store.Put(firstUser.entry.Key, firstUser.entry.Value)})
		check(s.t, err)
		return firstUser.id
	}
	id = s.createUser(object{"name": "user-1"})
	entry, err := s.store.Get(s.t.Context(), "spec/"+string(control.KindUser)+"/"+project+"/"+id)
	check(s.t, err)
	firstUser.id, firstUser.entry = id, entry
	return id
}

// call makes a request as the administrator.
func (s *scene) call(method, target string, body any) *answer {
	s.t.Helper()
	return s.bench.call(method, target, body)
}

// everything returns all objects of the project.
func (s *scene) everything() string {
	s.t.Helper()
	lists := []string{
		path("vpn-gateways"), path("customer-gateways"), path("vpn-connection"), path("connection-monitors"), path("p2c-vpn-gateways"),
		path("vpn-connection", "tags"), path("vpn-gateway", "tags"),
	}
	if s.user != "" {
		lists = append(lists, onServer("users"), onServer("groups"), onServer("access-policies"))
	} else {
		lists = append(lists, path("vpn-servers"))
	}
	var out strings.Builder
	for _, list := range lists {
		a := s.call(http.MethodGet, list, nil).want(http.StatusOK)
		delete(a.body, "request_id")
		out.WriteString(encoded(s.t, a.body))
	}
	return out.String()
}

// plain returns the request of scene.calls.
func (s *scene) plain(id string) (method, target string, body any) {
	call := s.calls[id]
	return call[0].(string), call[1].(string), call[2]
}

// request returns the request of an operation that succeeds.
func (s *scene) request(id string, c *contract) (method, target string, body any) {
	s.t.Helper()
	if c.ready != nil {
		c.ready(s)
	}
	call, ok := s.calls[id]
	if !ok {
		s.t.Fatalf("operation %s has no request", id)
	}
	if c.body != nil {
		return call[0].(string), call[1].(string), c.body(s)
	}
	return call[0].(string), call[1].(string), call[2]
}

// perform makes the request that succeeds.
func (s *scene) perform(id string, c *contract) *answer {
	s.t.Helper()
	if c.call != nil {
		return c.call(s)
	}
	method, target, body := s.request(id, c)
	return s.call(method, target, body)
}

// contracts are those of all operations.
var contracts = func() map[string]contract {
	all := maps.Clone(s2cContracts)
	maps.Copy(all, p2cContracts)
	maps.Copy(all, upgradeContracts)
	return all
}()

// creates tells whether an operation makes something.
func (o *operation) creates() bool {
	return o.route.Operation.Responses.Status(http.StatusCreated) != nil || o.id == "BatchCreateResourceTags"
}

// success returns the one status of success that the document has.
func (o *operation) success(t testing.TB) int {
	t.Helper()
	found := 0
	for status := range o.route.Operation.Responses.Map() {
		if n, err := strconv.Atoi(status); err == nil && n < 300 {
			if found != 0 {
				t.Fatalf("%s has several statuses of success", o.id)
			}
			found = n
		}
	}
	return found
}

// eachOperation runs a test of every operation of the document and its contract,
// which may be the empty one for those that only read.
func eachOperation(t *testing.T, test func(t *testing.T, op *operation, c *contract)) {
	t.Helper()
	operations, err := document()
	check(t, err)
	for _, pattern := range slices.Sorted(maps.Keys(operations)) {
		op := operations[pattern]
		c, ok := contracts[op.id]
		if !ok && op.route.Method != http.MethodGet {
			t.Errorf("%s changes something and has no contract", op.id)
			continue
		}
		t.Run(op.id, func(t *testing.T) { test(t, op, &c) })
	}
	for id := range contracts {
		if !slices.ContainsFunc(slices.Collect(maps.Values(operations)), func(o *operation) bool { return o.id == id }) {
			t.Errorf("there is a contract of %s, which the document lacks", id)
		}
	}
}

// Every operation does what it is for, and answers as the document says.
func TestEveryOperationSucceeds(t *testing.T) {
	eachOperation(t, func(t *testing.T, op *operation, c *contract) {
		s := newScene(t, control.Limits{}, op)
		a := s.perform(op.id, c)
		if c.refusal != nil {
			a.wantError(c.refusal.status, c.refusal.code, c.refusal.message)
			return
		}
		a.want(op.success(t))
	})
}

// unknown is the refusal of an id in the path, where it is not missing.
var unknown = map[string]denial{
	"vpn_server_id": {404, "VPN.1116", "The server does not exist."},
	"user_id":       {404, "VPN.1303", "The user does not exist."},
	"group_id":      unknownGroup,
	"policy_id":     {400, "VPN.1401", "The access policy does not exist."},
	"p2c_vgw_id":    {404, "VPN.0509", "The gateway does not exist."},
	"connection_id": {404, "VPN.0563", "The connection does not exists."},

	"client_ca_certificate_id": {404, "VPN.1115", "does not exist."},
}

var unknownGroup = denial{404, "VPN.1301", "The user group does not exist."}

const unknownID = "00000000-0000-4000-8000-000000000000"

// Every id that a request names has to be there.
func TestUnknownIDs(t *testing.T) {
	eachOperation(t, func(t *testing.T, op *operation, c *contract) {
		s := newScene(t, control.Limits{}, op)
		if _, ok := s.calls[op.id]; !ok {
			return // it names no object
		}
		method, target, body := s.request(op.id, c)
		for i, segment := range strings.Split(op.route.Path, "/") {
			if !strings.HasPrefix(segment, "{") || segment == "{project_id}" || segment == "{"+typeParameter+"}" {
				continue
			}
			segments := strings.Split(target, "/")
			segments[i] = unknownID
			want, ok := unknown[strings.Trim(segment, "{}")]
			if !ok {
				want = missing
			}
			s.call(method, strings.Join(segments, "/"), body).wantError(want.status, want.code, want.message)
		}
		for member, want := range c.references {
			s.call(method, target, replaced(t, op.id, body, strings.Split(member, "."), unknownID)).wantError(want.status, want.code, want.message)
		}
	})
}

// Operations wait for others that are under way.
func TestWrongStates(t *testing.T) {
	eachOperation(t, func(t *testing.T, op *operation, c *contract) {
		if (len(c.states) == 0) == (c.stateless == "") && op.route.Method != http.MethodGet {
			t.Errorf("has %d states in which it is refused, and the reason %q to have none", len(c.states), c.stateless)
		}
		for _, state := range c.states {
			t.Run(state.name, func(t *testing.T) {
				s := newScene(t, control.Limits{}, op)
				state.prepare(s)
				method, target, body := s.plain(op.id)
				before := s.everything()
				s.call(method, target, body).wantError(state.status, state.code, state.message)
				if after := s.everything(); after != before {
					t.Errorf("a refused request changed something:\n%s\n%s", before, after)
				}
			})
		}
	})
}

// Creations are bounded, and say by what.
func TestQuotasOfCreations(t *testing.T) {
	eachOperation(t, func(t *testing.T, op *operation, c *contract) {
		if (len(c.quotas) == 0) == (c.endless == "") && op.creates() {
			t.Errorf("has %d quotas, and the reason %q to have none", len(c.quotas), c.endless)
		}
		for _, q := range c.quotas {
			t.Run(q.message, func(t *testing.T) {
				s := newScene(t, q.limits, op)
				if q.prepare != nil {
					q.prepare(s)
				}
				method, target, body := s.plain(op.id)
				if q.prepare == nil {
					method, target, body = s.request(op.id, c)
				}
				before := s.everything()
				s.call(method, target, body).wantError(http.StatusBadRequest, cmp.Or(q.code, "VPN.0001"), q.message)
				if after := s.everything(); after != before {
					t.Errorf("a refused request changed something:\n%s\n%s", before, after)
				}
			})
		}
	})
}

// What is marked by a client token is done once, whoever else asks meanwhile.
func TestRepeats(t *testing.T) {
	const token = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0001"
	eachOperation(t, func(t *testing.T, op *operation, c *contract) {
		if !op.repeatable || c.refusal != nil {
			return
		}
		s := newScene(t, control.Limits{}, op)
		method, target, body := s.request(op.id, c)
		if method != http.MethodPost {
			t.Fatalf("a repeatable %s", method)
		}
		first := s.marked("admin", token, target, body).want(op.success(t))
		before := s.everything()
		again := s.marked("admin", token, target, body).want(op.success(t))
		delete(first.body, "request_id")
		delete(again.body, "request_id")
		if a, b := encoded(t, first.body), encoded(t, again.body); a != b {
			t.Errorf("the second answer is %s, want %s", b, a)
		}
		if after := s.everything(); after != before {
			t.Errorf("the second request changed something:\n%s\n%s", before, after)
		}
		other := encoded(t, body) + " "
		s.marked("admin", token, target, other).wantError(http.StatusBadRequest, "VPN.0031", "Repeated operation.")
	})
}

// Bodies that are no JSON, or not of the type that is wanted, change nothing.
func TestMalformedBodies(t *testing.T) {
	eachOperation(t, func(t *testing.T, op *operation, c *contract) {
		if op.route.Operation.RequestBody == nil || op.public {
			return
		}
		s := newScene(t, control.Limits{}, op)
		method, target, _ := s.request(op.id, c)
		before := s.everything()
		for _, body := range []string{"", "{", `{"a":}`, "{}{}", "\xff", `"x"`, "1", "[]", "null", strings.Repeat("[", 10_000)} {
			if body == "" && !op.route.Operation.RequestBody.Value.Required {
				continue
			}
			s.as(cmp.Or(c.caller, "admin"), method, target, body).wantError(http.StatusBadRequest, "VPN.0001", "invalid request: ")
		}
		if after := s.everything(); after != before {
			t.Errorf("a malformed request changed something:\n%s\n%s", before, after)
		}
	})
}

// fitting are values of members that have n characters, or n entries, and break
// no other rule. Where there is none, a text of n letters fits.
var fitting = map[string]func(n int) any{
	"psk":           func(n int) any { return "Aa1" + strings.Repeat("x", n-3) },
	"local_subnets": networks,
	"peer_subnets":  networks,
	"tags": func(n int) any {
		return many(n, func(i int) any { return object{"key": fmt.Sprint("key-", i), "value": "v"} })
	},
	"tags.0":         func(int) any { return object{"key": "k", "value": "v"} },
	"policy_rules":   func(n int) any { return many(n, func(i int) any { return ruleOf(i, networks(1)) }) },
	"policy_rules.0": func(int) any { return ruleOf(0, networks(1)) },
	"destination":    networks,
	"dns_servers":    func(n int) any { return many(n, func(i int) any { return fmt.Sprint("10.0.0.", i+1) }) },

	"client_ca_certificates.0": func(int) any { return clientCA(2)["client_ca_certificate"] },

	"ListResourcesByTags tags.0":     tagFilter,
	"CountResourcesByTags tags.0":    tagFilter,
	"ListResourcesByTags tags":       func(n int) any { return many(n, func(int) any { return tagFilter(1) }) },
	"CountResourcesByTags tags":      func(n int) any { return many(n, func(int) any { return tagFilter(1) }) },
	"ListResourcesByTags matches.0":  func(int) any { return object{"key": "resource_name", "value": "v"} },
	"CountResourcesByTags matches.0": func(int) any { return object{"key": "resource_name", "value": "v"} },
}

func tagFilter(int) any { return object{"key": "k", "values": []any{"v"}} }

// fits returns what of the table above is for a member of an operation.
func fits(operation, member string) func(n int) any {
	if own := fitting[operation+" "+member]; own != nil {
		return own
	}
	return fitting[member]
}

func many(n int, one func(i int) any) []any {
	list := []any{}
	for i := range n {
		list = append(list, one(i))
	}
	return list
}

func networks(n int) any { return many(n, func(i int) any { return fmt.Sprintf("172.18.%d.0/24", i) }) }

func ruleOf(i int, destination any) object {
	return object{"source": fmt.Sprintf("192.168.%d.0/24", i), "destination": destination}
}

type narrowing struct {
	member *regexp.Regexp // of operation, path of the member and bound
	words  string
}

// narrower are the members whose values at a bound of the document other rules
// refuse, whatever they are, with the words of the refusal.
var narrower = []narrowing{
	{regexp.MustCompile(`(vgw_id|cgw_id|vpn_connection_id) `), "resource not found"},
	{regexp.MustCompile(`CreateP2cVgw .*availability_zone_ids`), "Two AZs must be specified."},
	{regexp.MustCompile(`CreateP2cVgw .*(connect_subnet|vpc_id|eip\.id) `), "is not found."},
	{regexp.MustCompile(`CreateP2cVgw .*eip\.(bandwidth_|type)`), "EIP parameter conflict."},
	{regexp.MustCompile(`client_ca_certificates?(\.0)?\.content `), "The format of the certificate"},
	{regexp.MustCompile(`vpn_server\.(client_cidr|local_subnets\.0) longest`), "is invalid."},
	{regexp.MustCompile(`ssl_options\.revoked_client_keys most`), "must be ids of client keys"},
	{regexp.MustCompile(`ssl_options\.revoked_client_keys\.0 `), "needs the control_channel_wrap tls-crypt-v2"},
	{regexp.MustCompile(`vpn_server\.(client_cidr_v6|local_subnets_v6(\.0)?) `), "must be an IPv6 network"},
	{regexp.MustCompile(`vpn_server\.dns_domain longest`), "must be labels"},
	{regexp.MustCompile(`ssl_options\.port_share longest`), "must be an IPv4 address and a port"},
	{regexp.MustCompile(`ssl_options\.udp_ports most`), "is there twice"},
	{regexp.MustCompile(`dns_servers\.0 longest`), "must be an IPv4 address"},
	{regexp.MustCompile(`CreateVpnServer .*server_certificate\.id `), "must be absent with source SERVICE_SIGN"},
	{regexp.MustCompile(`UpdateVpnServer .*server_certificate\.id `), "is not found."},
	{regexp.MustCompile(`UpdateP2cVgw .*eip_id `), "The gateway already has an EIP bound."},
	{regexp.MustCompile(`log_config\.log_`), "there is no log stream"},
	{regexp.MustCompile(`user_group_id `), "The user group does not exist."},
	{regexp.MustCompile(`users\.0\.id `), "The user does not exist."},
	{regexp.MustCompile(`static_ip longest`), "must be an IPv4 address"},
	{regexp.MustCompile(`vgw_ip `), "vgw_ip: is none of the gateway"},
	{regexp.MustCompile(`_v6(\.0(\.source|\.destination(\.0)?)?)? `), "must be absent with"},
	{regexp.MustCompile(`(_subnets\.0|policy_rules\.0\.destination\.0|policy_rules\.0\.source) longest`), "must be an IPv4 network"},
	{regexp.MustCompile(`tunnel_(local|peer)_address longest`), "must be an address of 169.254.0.0/16"},
	{regexp.MustCompile(`(local_id|peer_id) longest`), "must be an IPv4 or IPv6 address"},
	{regexp.MustCompile(`ppk_id longest`), "ppk: is required with ikepolicy.ppk_id"},
	{regexp.MustCompile(`\.ppk `), "ikepolicy.ppk_id: is required with ppk"},
	{regexp.MustCompile(`customer_gateway.id_value `), "must be the IPv4 or IPv6 address of a device"},
	{regexp.MustCompile(`customer_gateway\.ca_certificate\.content`), "The format of the certificate"},
	{regexp.MustCompile(`customer_gateway\.ca_certificate\.id`), "no customer gateway of the project has such a certificate"},
	{regexp.MustCompile(`VgwCertificate .*private_key `), "must be a private key in PEM"},
	{regexp.MustCompile(`VgwCertificate certificate\.(enc_)?certificate(_chain)? `), "The format of the certificate"},
	{regexp.MustCompile(`style longest`), "style: must be one of"},
	{regexp.MustCompile(`ExportVpnConnectionPeerConfiguration`), "must be one of the supported devices"},
	{regexp.MustCompile(`policy_rules(\.0\.destination)? most`), "policy_rules: must be absent with style static"},
	{regexp.MustCompile(`vpn_connections (fewest|most)`), "resource not found"},
	{regexp.MustCompile(`access_private_ip_. longest`), "must be given together"},
	{regexp.MustCompile(`(access_subnet_id|connect_subnet) `), "has no subnet a"},
	{regexp.MustCompile(`access_vpc_id `), "access_subnet_id: is required with access_vpc_id"},
	{regexp.MustCompile(`availability_zone_ids`), "of az1, az2"},
	{regexp.MustCompile(`eip.\.bandwidth_`), "must stand alone"},
	{regexp.MustCompile(`eip.\.id `), "there is no EIP a"},
	{regexp.MustCompile(`enterprise_project_id `), `must be "0" or a UUID`},
	{regexp.MustCompile(`er_id `), "must be absent with attachment_type vpc"},
	{regexp.MustCompile(`vpc_id `), "there is no VPC a"},
	{regexp.MustCompile(`eip_id_. `), "is still bound there"},
	{regexp.MustCompile(`policy_template`), "only a gateway of a NonFixedIP flavor has one"},
}

// Every member is taken at its bounds and refused beyond them, by the whole of
// the API: the other members are those of a request that succeeds. Beyond a
// bound the refusal names the member. At a bound the request succeeds, unless
// another rule than the bound's refuses it.
func TestBoundsOfEveryRequest(t *testing.T) {
	attempts := 0
	eachOperation(t, func(t *testing.T, op *operation, c *contract) {
		if op.route.Operation.RequestBody == nil || op.public || c.refusal != nil {
			return
		}
		s := newScene(t, control.Limits{}, op)
		method, target, body := s.request(op.id, c)
		eachMember(op.route.Operation.RequestBody.Value.Content.Get("application/json").Schema, nil, func(at []string, schema *openapi3.SchemaRef) {
			for _, v := range variants(t, schema.Value) {
				what := op.id + " " + strings.Join(at, ".") + " " + v.name
				switch {
				case !v.good:
					attempts++
					name := at[len(at)-1]
					if name == "0" {
						name = "[0]"
					}
					s.as(cmp.Or(c.caller, "admin"), method, target, replaced(t, op.id, body, at, v.value)).
						wantError(http.StatusBadRequest, "VPN.0001", name)
				case isBound(v.name):
					attempts++
					fresh, method, target, body := s, method, target, body
					if method == http.MethodPost { // which may be done once only
						fresh = newScene(t, control.Limits{}, op)
						method, target, body = fresh.request(op.id, c)
					}
					a := fresh.call(method, target, replaced(t, op.id, body, at, fit(op.id, at, v.value)))
					i := slices.IndexFunc(narrower, func(n narrowing) bool { return n.member.MatchString(what) })
					switch {
					case i < 0 && (a.Status != op.success(t) || a.at("invalid_users") != nil && len(a.list("invalid_users")) > 0):
						t.Errorf("%s: got %s", what, a.Text)
					case i >= 0 && (a.Status < 400 || !strings.Contains(a.text("error_msg"), narrower[i].words)):
						t.Errorf("%s: got %s, want %q", what, a.Text, narrower[i].words)
					}
				}
			}
		})
	})
	if attempts < 500 {
		t.Errorf("only %d requests were tried", attempts)
	}
}

func isBound(variant string) bool {
	return slices.Contains([]string{"shortest", "longest", "lowest", "highest", "fewest", "most"}, variant)
}

// fit returns a value of the same size that breaks no other rule, if there is
// one.
func fit(operation string, at []string, v any) any {
	sized := fits(operation, at[len(at)-1])
	if sized == nil {
		return v
	}
	switch v := v.(type) {
	case string:
		return sized(len(v))
	case []any:
		return sized(len(v))
	}
	return v
}

// replaced returns a copy of a body with another value of one member. What it
// stands in is made if it is not there.
func replaced(t testing.TB, operation string, body any, member []string, value any) object {
	t.Helper()
	var fresh object
	check(t, json.Unmarshal([]byte(encoded(t, body)), &fresh))
	if fresh == nil {
		fresh = object{}
	}
	var at any = fresh
	for i, name := range member {
		last := i == len(member)-1
		switch v := at.(type) {
		case object:
			if last {
				v[name] = value
				continue
			}
			if v[name] == nil {
				v[name] = object{}
				if member[i+1] == "0" {
					one := any(object{})
					if sized := fits(operation, name+".0"); sized != nil {
						check(t, json.Unmarshal([]byte(encoded(t, sized(1))), &one))
					}
					v[name] = []any{one}
				}
			}
			at = v[name]
		case []any:
			if len(v) == 0 {
				t.Fatalf("%v: %s is in an empty list", member, name)
			}
			if last {
				v[0] = value
				continue
			}
			at = v[0]
		default:
			t.Fatalf("%v: there is nothing at %s", member, name)
		}
	}
	return fresh
}

// eachMember calls a function for every member of a body.
func eachMember(s *openapi3.SchemaRef, at []string, do func(at []string, s *openapi3.SchemaRef)) {
	if len(at) > 0 {
		do(at, s)
	}
	switch {
	case len(s.Value.OneOf) > 0:
	case s.Value.Type.Is("object"):
		for _, name := range slices.Sorted(maps.Keys(s.Value.Properties)) {
			eachMember(s.Value.Properties[name], append(slices.Clip(at), name), do)
		}
	case s.Value.Type.Is("array"):
		eachMember(s.Value.Items, append(slices.Clip(at), "0"), do)
	}
}
