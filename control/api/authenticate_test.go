package api

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
)

// everyOperation are all operations that need a caller, each with a request
// that would change something if it got through.
func everyOperation(gateway, customerGateway, connection, monitor string) map[string][3]any {
	device := object{"vendor": "strongSwan", "type": "swanctl", "model": "Linux", "version": "5.9"}
	certificate := object{"certificate": object{
		"certificate": "C", "private_key": "K", "certificate_chain": "A", "enc_certificate": "E", "enc_private_key": "L",
	}}
	tags := object{"tags": []object{{"key": "taken"}}}
	return map[string][3]any{
		"ListResourcesByTags":                   {http.MethodPost, path("vpn-connection", "resource-instances", "filter"), object{}},
		"CountResourcesByTags":                  {http.MethodPost, path("vpn-gateway", "resource-instances", "count"), object{}},
		"BatchCreateResourceTags":               {http.MethodPost, path("vpn-connection", connection, "tags", "create"), tags},
		"BatchDeleteResourceTags":               {http.MethodPost, path("customer-gateway", customerGateway, "tags", "delete"), tags},
		"ShowResourceTags":                      {http.MethodGet, path("vpn-gateway", gateway, "tags"), nil},
		"ListProjectTags":                       {http.MethodGet, path("vpn-connection", "tags"), nil},
		"ExportVpnConnectionPeerConfiguration":  {http.MethodPost, path("vpn-connection", connection, "peer-configuration", "export"), device},
		"ListPeerConfigurationSupportedDevices": {http.MethodGet, path("peer-configuration", "supported-devices"), nil},
		"CreateVgwCertificate":                  {http.MethodPost, path("vpn-gateways", gateway, "certificate"), certificate},
		"ShowVpnGatewayCertificate":             {http.MethodGet, path("vpn-gateways", gateway, "certificate"), nil},
		"UpdateVgwCertificate":                  {http.MethodPut, path("vpn-gateways", gateway, "certificate", vpcID), certificate},
		"ListVpnGatewayCertificates":            {http.MethodGet, path("vpn-gateway-certificates"), nil},
		"UpgradeVpnGateway":                     {http.MethodPost, path("vpn-gateways", gateway, "upgrade"), object{"action": "start"}},
		"ListVpnGatewayJobs":                    {http.MethodGet, path("vpn-gateways", "jobs"), nil},
		"DeleteVpnGatewayJob":                   {http.MethodDelete, path("vpn-gateways", "jobs", vpcID), nil},
		"ShowQuotasInfo":                        {http.MethodGet, path("vpn", "quotas"), nil},
		"CreateConnectionMonitor":               {http.MethodPost, path("connection-monitors"), object{"connection_monitor": object{"vpn_connection_id": connection}}},
		"ListConnectionMonitors":                {http.MethodGet, path("connection-monitors"), nil},
		"ShowConnectionMonitor":                 {http.MethodGet, path("connection-monitors", monitor), nil},
		"DeleteConnectionMonitor":               {http.MethodDelete, path("connection-monitors", monitor), nil},
		"ListAvailabilityZones":                 {http.MethodGet, path("vpn-gateways", "availability-zones"), nil},
		"ListExtendedAvailabilityZones":         {http.MethodGet, "/v5.1/" + project + "/vpn-gateways/availability-zones", nil},
		"UpdatePostpaidVgwSpecification":        {http.MethodPost, path("vpn-gateways", gateway, "update-specification"), vgw(object{"flavor": "Professional2"})},
		"ShowVpnGatewayRoutingTable":            {http.MethodGet, path("vpn-gateways", gateway, "routing-table"), nil},
		"CreateVgw":                             {http.MethodPost, path("vpn-gateways"), vgw(smallestGateway())},
		"ListVgws":                              {http.MethodGet, path("vpn-gateways"), nil},
		"ShowVgw":                               {http.MethodGet, path("vpn-gateways", gateway), nil},
		"UpdateVgw":                             {http.MethodPut, path("vpn-gateways", gateway), vgw(object{"name": "taken"})},
		"DeleteVgw":                             {http.MethodDelete, path("vpn-gateways", gateway), nil},
		"CreateCgw":                             {http.MethodPost, path("customer-gateways"), cgw(object{"id_value": "198.51.100.8"})},
		"ListCgws":                              {http.MethodGet, path("customer-gateways"), nil},
		"ShowCgw":                               {http.MethodGet, path("customer-gateways", customerGateway), nil},
		"UpdateCgw":                             {http.MethodPut, path("customer-gateways", customerGateway), cgw(object{"name": "taken"})},
		"DeleteCgw":                             {http.MethodDelete, path("customer-gateways", customerGateway), nil},
		"CreateVpnConnection":                   {http.MethodPost, path("vpn-connection"), vpn(with(smallestConnection(gateway, customerGateway), "vgw_ip", eip2ID))},
		"BatchCreateVpnConnection": {http.MethodPost, path("vpn-connections", "batch-create"), object{
			"vpn_connections": []object{with(smallestConnection(gateway, customerGateway), "vgw_ip", eip2ID)},
		}},
		"ListConnectionIpsecSa":      {http.MethodGet, path("vpn-connection", connection, "ipsec-sa"), nil},
		"ShowVpnConnectionDiagnosis": {http.MethodGet, path("vpn-connection", connection, "diagnosis"), nil},
		"ListVpnConnectionEvents":    {http.MethodGet, path("vpn-connection", connection, "history"), nil},
		"ListVpnConnections":         {http.MethodGet, path("vpn-connection"), nil},
		"ShowVpnConnection":          {http.MethodGet, path("vpn-connection", connection), nil},
		"UpdateVpnConnection":        {http.MethodPut, path("vpn-connection", connection), vpn(object{"name": "taken"})},
		"DeleteVpnConnection":        {http.MethodDelete, path("vpn-connection", connection), nil},
		"ShowVpnConnectionLog":       {http.MethodGet, path("vpn-connection", connection, "log"), nil},
		"ResetVpnConnection":         {http.MethodPost, path("vpn-connection", connection, "reset"), nil},
		"KeystoneRevokeToken":        {http.MethodDelete, "/v3/auth/tokens", nil},
		"BackupStore":                {http.MethodGet, "/vpngw/v1/backup", nil},
		"RestoreStore":               {http.MethodPost, "/vpngw/v1/restore", object{"backup": "H4sIAAAAAAAA/wMAAAAAAAAAAAA="}},
		"ListNodes":                  {http.MethodGet, "/vpngw/v1/nodes", nil},
		"PlanVpnConnection":          {http.MethodPost, path("vpn-connection", connection, "plan"), vpn(object{"name": "taken"})},
	}
}

func TestEveryOperationNeedsACaller(t *testing.T) {
	b := newBench(t)
	connection, gateway, customerGateway := b.createConnection()
	operations := everyOperation(gateway, customerGateway, connection, b.createMonitor(connection))
	b.passwordServer()
	group, user := b.createGroup("group"), b.createUser(object{"name": "user-1"})
	maps.Copy(operations, everyUserOperation(user, group, b.createPolicy(group)))
	server, clientGateway := b.createServer()
	maps.Copy(operations, everyServerOperation(clientGateway, server))
	all, err := document()
	check(t, err)
	for _, op := range all {
		if _, tested := operations[op.id]; !tested && op.id != "KeystoneCreateUserTokenByPassword" {
			t.Errorf("operation %s is not tested", op.id)
		}
	}
	before := b.everything()
	for id, op := range operations {
		method, target, body := op[0].(string), op[1].(string), op[2]
		for name, prepare := range map[string]func(r *http.Request, content []byte){
			"nobody": func(*http.Request, []byte) {},
			"wrong secret": func(r *http.Request, content []byte) {
				signRequest(r, content, "admin", "guess", b.now)
			},
			"unknown key": func(r *http.Request, content []byte) {
				signRequest(r, content, "nobody", testSecret+"nobody", b.now)
			},
			"other body": func(r *http.Request, content []byte) {
				signRequest(r, append(content, ' '), "admin", testSecret+"admin", b.now)
			},
			"old": func(r *http.Request, content []byte) {
				signRequest(r, content, "admin", testSecret+"admin", b.now.Add(-signatureSkew-time.Second))
			},
			"wrong token":    func(r *http.Request, _ []byte) { r.Header.Set(headerToken, "guess") },
			"endless token":  func(r *http.Request, _ []byte) { r.Header.Set(headerToken, strings.Repeat("x", 4096)) },
			"foreign scheme": func(r *http.Request, _ []byte) { r.Header.Set("Authorization", "Basic YWRtaW46YWRtaW4=") },
		} {
			t.Run(id+"/"+name, func(t *testing.T) {
				b.t = t
				r, content := request(t, method, target, body)
				prepare(r, content)
				b.send(r).wantError(http.StatusUnauthorized, "VPN.0003", "Authentication failed: ")
			})
		}
	}
	b.t = t
	if after := b.everything(); after != before {
		t.Errorf("something changed:\n%s\n%s", before, after)
	}
}

// everything returns all objects of the project.
func (b *bench) everything() string {
	b.t.Helper()
	var out strings.Builder
	lists := []string{path("vpn-gateways"), path("customer-gateways"), path("vpn-connection"), path("connection-monitors")}
	for _, list := range append(lists, onServer("users"), onServer("groups"), onServer("access-policies")) {
		a := b.call(http.MethodGet, list, nil).want(http.StatusOK)
		delete(a.body, "request_id")
		out.WriteString(encoded(b.t, a.body))
	}
	return out.String()
}

func TestProjectsAreApart(t *testing.T) {
	b := newBench(t)
	connection, gateway, customerGateway := b.createConnection()
	monitor := b.createMonitor(connection)
	for id, op := range everyOperation(gateway, customerGateway, connection, monitor) {
		if id == "KeystoneRevokeToken" || id == "ListNodes" { // of no project
			continue
		}
		t.Run(id, func(t *testing.T) {
			b.t = t
			method, target, body := op[0].(string), op[1].(string), op[2]
			b.as("stranger", method, target, body).wantError(http.StatusForbidden, "VPN.0003", "Authentication failed: ")
			if !strings.Contains(target, gateway) && !strings.Contains(target, customerGateway) &&
				!strings.Contains(target, connection) && !strings.Contains(target, monitor) {
				return // no object is named
			}
			own := strings.Replace(target, project, otherProject, 1)
			b.as("stranger", method, own, body).wantError(http.StatusNotFound, "VPN.0004", "resource not found")
		})
	}
	b.t = t
	r, content := request(t, http.MethodGet, path("vpn-gateways"), nil)
	r.Header.Set("X-Project-Id", otherProject)
	signRequest(r, content, "admin", testSecret+"admin", b.now, "x-project-id")
	b.send(r).wantError(http.StatusForbidden, "VPN.0003", "X-Project-Id")
}

func TestOneKeyInSeveralProjects(t *testing.T) {
	b := newBench(t)
	elsewhere := "/v5/" + otherProject + "/customer-gateways"
	body := cgw(object{"id_value": "198.51.100.7"})
	id := b.as("traveller", http.MethodPost, path("customer-gateways"), body).want(http.StatusCreated).text("customer_gateway", "id")
	b.as("traveller", http.MethodPost, elsewhere, body).wantError(http.StatusForbidden, "VPN.0003", "role readonly does not allow vpn:customerGateways:create")
	b.as("traveller", http.MethodGet, elsewhere, nil).want(http.StatusOK)
	b.as("traveller", http.MethodGet, elsewhere+"/"+id, nil).wantError(http.StatusNotFound, "VPN.0004", "")
	b.as("traveller", http.MethodGet, "/v5/third/customer-gateways", nil).wantError(http.StatusForbidden, "VPN.0003", "project")
	for header, status := range map[string]int{project: http.StatusForbidden, otherProject: http.StatusOK} {
		r, content := request(t, http.MethodGet, elsewhere, nil)
		r.Header.Set(headerProject, header)
		b.now = b.now.Add(time.Second)
		signRequest(r, content, "traveller", testSecret+"traveller", b.now, "x-project-id")
		b.send(r).want(status)
	}
}

func TestReplay(t *testing.T) {
	b := newBench(t)
	signed := func(method, target string, body any) func() *answer {
		r, content := request(t, method, target, body)
		signRequest(r, content, "admin", testSecret+"admin", b.now)
		return func() *answer {
			again, _ := request(t, method, target, body)
			again.Header = r.Header
			return b.send(again)
		}
	}
	read := signed(http.MethodGet, path("customer-gateways"), nil)
	read().want(http.StatusOK)
	read().want(http.StatusOK)
	create := signed(http.MethodPost, path("customer-gateways"), cgw(object{"id_value": "198.51.100.7"}))
	create().want(http.StatusCreated)
	create().wantError(http.StatusUnauthorized, "VPN.0003", "was used before")
	b.now = b.now.Add(signatureSkew)
	create().wantError(http.StatusUnauthorized, "VPN.0003", "was used before")
	if l := read().want(http.StatusOK).list("customer_gateways"); len(l) != 1 {
		t.Errorf("%d customer gateways, want 1", len(l))
	}
}

func TestReplayGuardRemembersForAWholeWindow(t *testing.T) {
	const window = 2 * signatureSkew
	start := time.Unix(1_800_000_000, 0)
	for _, first := range []time.Duration{0, window - 1, window, window + 1, 3*window - 1} {
		var g replayGuard
		check(t, g.use(mac("warm up"), start))
		check(t, g.use(mac("a"), start.Add(first)))
		for _, later := range []time.Duration{0, window / 2, window - 1} {
			if g.use(mac("a"), start.Add(first+later)) == nil {
				t.Errorf("a signature of %s was accepted again after %s", first, later)
			}
		}
	}
	var g replayGuard
	for i := range 3 * 100 {
		check(t, g.use(mac(fmt.Sprint(i)), start.Add(time.Duration(i)*window/100)))
	}
	if n := len(g.younger) + len(g.older); n > 2*100 {
		t.Errorf("%d signatures are kept, of two windows with 100 each", n)
	}
}

func mac(s string) [sha256.Size]byte { return sha256.Sum256([]byte(s)) }

func TestCallersAreLimited(t *testing.T) {
	b := newBench(t)
	r, content := request(t, http.MethodGet, path("customer-gateways"), nil)
	signRequest(r, content, "admin", testSecret+"admin", b.now)
	for i := range callerBurst {
		if a := b.send(r); a.Status != http.StatusOK {
			t.Fatalf("request %d got %d", i, a.Status)
		}
	}
	b.send(r).wantError(http.StatusBadRequest, "VPN.0030", "The system is busy, please try later.")
	other, content := request(t, http.MethodGet, path("customer-gateways"), nil)
	signRequest(other, content, "readonly", testSecret+"readonly", b.now)
	b.send(other).want(http.StatusOK)
	b.now = b.now.Add(time.Second)
	b.send(r).want(http.StatusOK)
}

func TestLimitersAreBounded(t *testing.T) {
	l, now := newLimiters(1, 2), time.Unix(1_800_000_000, 0)
	for i := range maxLimiters {
		if !l.allow(fmt.Sprint(i), now) {
			t.Fatalf("name %d was refused", i)
		}
	}
	if l.allow("one too many", now) {
		t.Error("there is no bound")
	}
	if !l.allow("0", now) || l.allow("0", now) {
		t.Error("a name of before is not limited as it was")
	}
	if !l.allow("one too many", now.Add(2*time.Second)) || len(l.byName) > 2 {
		t.Errorf("idle names are kept: %d", len(l.byName))
	}
}

func login(changes ...string) object {
	v := map[string]string{"name": "ops", "domain": "acme", "password": testPassword, "project": "region-1"}
	for i := 0; i < len(changes); i += 2 {
		v[changes[i]] = changes[i+1]
	}
	return object{"auth": object{
		"identity": object{"methods": []string{"password"}, "password": object{"user": object{
			"name": v["name"], "password": v["password"], "domain": object{"name": v["domain"]},
		}}},
		"scope": object{"project": object{"name": v["project"]}},
	}}
}

func (b *bench) login(body any) *answer {
	b.t.Helper()
	b.now = b.now.Add(time.Second) // the rate of logins
	r, _ := request(b.t, http.MethodPost, "/v3/auth/tokens", body)
	return b.send(r)
}

func (b *bench) withToken(token, method, target string, body any) *answer {
	b.t.Helper()
	r, _ := request(b.t, method, target, body)
	r.Header.Set(headerToken, token)
	return b.send(r)
}

func TestTokens(t *testing.T) {
	b := newBench(t)
	a := b.login(login()).want(http.StatusCreated)
	token := a.Header.Get("X-Subject-Token")
	if len(token) < 43 || strings.Contains(a.Text, token) {
		t.Errorf("the token %q has less than 256 bits, or stands in the body", token)
	}
	wantMembers(t, a.at("token"), object{
		"methods": []string{"password"}, "project": object{"id": project, "name": "region-1"},
		"user": object{"name": "ops", "domain": object{"name": "acme"}}, "roles": []object{{"name": "operator"}},
	})
	issued, expires := a.text("token", "issued_at"), a.text("token", "expires_at")
	from, err1 := time.Parse(control.TimeFormat, issued)
	to, err2 := time.Parse(control.TimeFormat, expires)
	if err1 != nil || err2 != nil || to.Sub(from) != 24*time.Hour {
		t.Errorf("valid from %s to %s", issued, expires)
	}
	b.login(login("project", project)).want(http.StatusCreated)
	b.withToken(token, http.MethodGet, path("vpn-gateways"), nil).want(http.StatusOK)
	b.withToken(token, http.MethodPost, path("customer-gateways"), cgw(object{"id_value": "198.51.100.7"})).want(http.StatusCreated)
	b.withToken(token, http.MethodPost, path("vpn-gateways"), vgw(smallestGateway())).
		wantError(http.StatusForbidden, "VPN.0003", "role operator does not allow")
	b.withToken(token, http.MethodGet, "/v5/"+otherProject+"/vpn-gateways", nil).wantError(http.StatusForbidden, "VPN.0003", "")
	if strings.Contains(b.log.String(), token) || strings.Contains(b.log.String(), testPassword) {
		t.Error("the log holds a token or a password")
	}

	now := b.now
	b.now = from.Add(24*time.Hour - time.Millisecond)
	b.withToken(token, http.MethodGet, path("vpn-gateways"), nil).want(http.StatusOK)
	b.now = from.Add(24 * time.Hour)
	b.withToken(token, http.MethodGet, path("vpn-gateways"), nil).wantError(http.StatusUnauthorized, "VPN.0003", "token")
	b.now = now

	other := b.login(login()).want(http.StatusCreated).Header.Get("X-Subject-Token")
	revoke := func(subject string) *answer {
		r, _ := request(t, http.MethodDelete, "/v3/auth/tokens", nil)
		r.Header.Set(headerToken, other)
		r.Header.Set("X-Subject-Token", subject)
		return b.send(r)
	}
	revoke("guess").wantError(http.StatusNotFound, "VPN.0004", "")
	revoke(token).want(http.StatusNoContent)
	b.withToken(token, http.MethodGet, path("vpn-gateways"), nil).wantError(http.StatusUnauthorized, "VPN.0003", "token")
	revoke(other).want(http.StatusNoContent)
	b.withToken(other, http.MethodGet, path("vpn-gateways"), nil).wantError(http.StatusUnauthorized, "VPN.0003", "token")
}

func TestLoginRefusals(t *testing.T) {
	b := newBench(t)
	noScope := login()
	noScope["auth"].(object)["scope"] = object{"project": object{}}
	otherMethod := login()
	otherMethod["auth"].(object)["identity"].(object)["methods"] = []string{"totp"}
	for _, test := range []struct {
		name   string
		body   any
		status int
	}{
		{"wrong password", login("password", "guess"), 401},
		{"unknown user", login("name", "nobody"), 401},
		{"unknown domain", login("domain", "other"), 401},
		{"other project", login("project", otherProject), 401},
		{"no scope", noScope, 400},
		{"other method", otherMethod, 400},
		{"empty password", login("password", ""), 400},
		{"no JSON", "password", 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			a := b.login(test.body)
			code := map[int]string{400: "VPN.0001", 401: "VPN.0003"}[test.status]
			a.wantError(test.status, code, "")
			if a.Header.Get("X-Subject-Token") != "" {
				t.Error("a token came back")
			}
		})
	}
}

func TestLoginsAreLimited(t *testing.T) {
	b := newBench(t)
	try := func(body any) *answer {
		r, _ := request(t, http.MethodPost, "/v3/auth/tokens", body)
		return b.send(r)
	}
	for range loginBurst {
		try(login()).want(http.StatusCreated)
	}
	try(login()).wantError(http.StatusBadRequest, "VPN.0030", "busy")
	b.now = b.now.Add(time.Second)
	try(login()).want(http.StatusCreated)
}

func TestFailedLoginsMakeWait(t *testing.T) {
	b := newBench(t)
	try := func(from string, body any) *answer {
		r, _ := request(t, http.MethodPost, "/v3/auth/tokens", body)
		r.RemoteAddr = from
		return b.send(r)
	}
	const guesser, owner = "192.0.2.1:1", "192.0.2.2:1"
	guess := func() *answer { return try(guesser, login("password", "guess")) }
	for range freeFailures {
		guess().want(http.StatusUnauthorized)
	}
	for _, wait := range []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second} {
		b.now = b.now.Add(wait - time.Millisecond)
		if wait > 0 {
			guess().wantError(http.StatusBadRequest, "VPN.0030", "busy")
		}
		b.now = b.now.Add(time.Millisecond)
		guess().want(http.StatusUnauthorized)
	}
	// The owner waits, too, but not for long.
	try(owner, login()).wantError(http.StatusBadRequest, "VPN.0030", "busy")
	b.now = b.now.Add(maxUserWait)
	try(owner, login()).want(http.StatusCreated)
	// A known password is no licence to guess at others.
	try(guesser, login()).want(http.StatusCreated)
	try(guesser, login("name", "other")).want(http.StatusUnauthorized)
	try(guesser, login("name", "another")).wantError(http.StatusBadRequest, "VPN.0030", "busy")
	b.now = b.now.Add(forgetFailures)
	for range freeFailures {
		guess().want(http.StatusUnauthorized)
	}
}

func TestBackoffIsBounded(t *testing.T) {
	b, now := newBackoff(time.Minute), time.Unix(1_800_000_000, 0)
	for range 100 {
		b.fail("a", now)
	}
	if got := b.wait("a", now); got != time.Minute {
		t.Errorf("after 100 failures the wait is %s, want %s", got, time.Minute)
	}
	if got := b.wait("b", now); got > 0 {
		t.Errorf("one who never failed waits %s", got)
	}
	for i := range maxLimiters {
		b.fail(fmt.Sprint(i), now)
	}
	if b.wait("one too many", now) <= 0 {
		t.Error("there is no bound")
	}
	if b.wait("one too many", now.Add(forgetFailures)) > 0 || len(b.byName) != 0 {
		t.Errorf("old failures are kept: %d", len(b.byName))
	}
}
