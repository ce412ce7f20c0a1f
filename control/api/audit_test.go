package api

import (
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/audit"
)

// audited returns the records since it was called last.
func (b *bench) audited() []audit.Record {
	b.t.Helper()
	text, err := os.ReadFile(b.auditFile)
	check(b.t, err)
	check(b.t, os.Truncate(b.auditFile, 0))
	var records []audit.Record
	for line := range strings.Lines(string(text)) {
		var r audit.Record
		check(b.t, json.Unmarshal([]byte(line), &r))
		records = append(records, r)
	}
	return records
}

func (b *bench) oneAudited() audit.Record {
	b.t.Helper()
	records := b.audited()
	if len(records) != 1 {
		b.t.Fatalf("%d records, want 1: %+v", len(records), records)
	}
	return records[0]
}

func fieldOf(r audit.Record, name string) control.FieldChange {
	for _, c := range r.Changes {
		if i := slices.IndexFunc(c.Fields, func(f control.FieldChange) bool { return f.Field == name }); i >= 0 {
			return c.Fields[i]
		}
	}
	return control.FieldChange{}
}

func TestChangesAreAudited(t *testing.T) {
	b := newBench(t)
	id := b.createCustomerGateway("198.51.100.7")
	r := b.oneAudited()
	if r.Operation != "CreateCgw" || r.Action != "vpn:customerGateways:create" || r.Project != project || r.Caller != "admin" || r.Claimed ||
		r.Role != control.RoleAdmin || r.Remote == "" || r.Status != http.StatusCreated || r.Error != "" || !r.Time.Equal(b.now) ||
		len(r.Changes) != 1 || r.Changes[0].ID != id || r.Changes[0].Action != control.ObjectCreated {
		t.Errorf("the creation is recorded as %+v", r)
	}
	a := b.call(http.MethodPut, path("customer-gateways", id), cgw(object{"name": "renamed"})).want(http.StatusOK)
	r = b.oneAudited()
	name := fieldOf(r, "name")
	if r.RequestID != a.text("request_id") || string(name.After) != `"renamed"` || len(name.Before) == 0 {
		t.Errorf("the change is recorded as %+v", r)
	}
	b.call(http.MethodPut, path("customer-gateways", id), cgw(object{"name": "?"})).want(http.StatusBadRequest)
	if r = b.oneAudited(); r.Status != http.StatusBadRequest || r.Error != "VPN.0001" || r.Caller != "admin" || len(r.Changes) != 0 {
		t.Errorf("the refused change is recorded as %+v", r)
	}
	b.call(http.MethodGet, path("customer-gateways", id), nil).want(http.StatusOK)
	b.call(http.MethodGet, path("customer-gateways", "none"), nil).want(http.StatusNotFound)
	b.call(http.MethodPost, path("customer-gateway", "resource-instances", "filter"), object{}).want(http.StatusOK)
	b.call(http.MethodPost, path("customer-gateway", "resource-instances", "count"), object{}).want(http.StatusOK)
	if records := b.audited(); len(records) != 0 {
		t.Errorf("reading is recorded: %+v", records)
	}
	b.as("stranger", http.MethodGet, path("customer-gateways", id), nil).want(http.StatusForbidden)
	if r = b.oneAudited(); r.Status != http.StatusForbidden || r.Caller != "stranger" {
		t.Errorf("the refused reading is recorded as %+v", r)
	}
	b.call(http.MethodDelete, path("customer-gateways", id), nil).want(http.StatusNoContent)
	if r = b.oneAudited(); len(r.Changes) != 1 || r.Changes[0].Action != control.ObjectDeleted || string(fieldOf(r, "name").Before) != `"renamed"` {
		t.Errorf("the deletion is recorded as %+v", r)
	}
}

func TestRefusedCallersAreAudited(t *testing.T) {
	b := newBench(t)
	send := func(prepare func(r *http.Request, content []byte)) audit.Record {
		r, content := request(t, http.MethodGet, path("vpn-gateways"), nil)
		prepare(r, content)
		b.send(r).want(http.StatusUnauthorized)
		return b.oneAudited()
	}
	wrong := send(func(r *http.Request, content []byte) { signRequest(r, content, "admin", "guess", b.now) })
	if wrong.Caller != "admin" || !wrong.Claimed || wrong.Role != "" || wrong.Error != "VPN.0003" {
		t.Errorf("a wrong signature is recorded as %+v", wrong)
	}
	unknown := send(func(r *http.Request, content []byte) { signRequest(r, content, "nobody", "guess", b.now) })
	if unknown.Caller != "" || unknown.Claimed {
		t.Errorf("an unknown key is recorded as %+v", unknown)
	}
	b.login(login("password", "guess")).want(http.StatusUnauthorized)
	if r := b.oneAudited(); r.Caller != "acme/ops" || !r.Claimed || r.Operation != "KeystoneCreateUserTokenByPassword" {
		t.Errorf("a wrong password is recorded as %+v", r)
	}
	b.login(login("name", testPassword)).want(http.StatusUnauthorized)
	if r := b.oneAudited(); r.Caller != "" {
		t.Errorf("a password in the place of the name is recorded as %+v", r)
	}
	b.login(login()).want(http.StatusCreated)
	if r := b.oneAudited(); r.Caller != "acme/ops" || r.Claimed {
		t.Errorf("a login is recorded as %+v", r)
	}
}

func TestRecordsOfRefusalsAreBounded(t *testing.T) {
	b := newBench(t)
	stranger := func() {
		r, _ := request(t, http.MethodGet, path("vpn-gateways"), nil)
		b.send(r).want(http.StatusUnauthorized)
	}
	for range refusedBurst + 7 {
		stranger()
	}
	if n := len(b.audited()); n != refusedBurst {
		t.Errorf("%d records, want %d", n, refusedBurst)
	}
	b.createCustomerGateway("198.51.100.7") // a second later
	stranger()
	records := b.audited()
	if len(records) != 2 || records[0].Operation != "CreateCgw" || records[0].Suppressed != 7 || records[1].Caller != "" {
		t.Errorf("recorded %+v, want the change, which tells of 7 refusals before it, and a refusal", records)
	}

	// One who may only read cannot push the records of changes out, either.
	for i := range refusedBurst + 7 {
		r, content := request(t, http.MethodDelete, path("vpn-gateways", strconv.Itoa(i)), nil)
		if i%50 == 0 {
			b.now = b.now.Add(time.Second) // the rate of requests
		}
		signRequest(r, content, "readonly", testSecret+"readonly", b.now)
		b.send(r).want(http.StatusForbidden)
	}
	if n := len(b.audited()); n < refusedBurst || n > refusedBurst+3 {
		t.Errorf("%d records, want about %d", n, refusedBurst)
	}
}

// TestAuditHoldsNoSecret lets every operation be called, well and badly, with
// secrets wherever a caller can put one.
func TestAuditHoldsNoSecret(t *testing.T) {
	b := newBench(t)
	connection, gateway, customerGateway := b.createConnection()
	const newPSK = "Another-Secret-2-Keep"
	b.call(http.MethodPut, path("vpn-connection", connection), vpn(object{"psk": newPSK})).want(http.StatusOK)
	if psk := fieldOf(b.audited()[3], "psk"); string(psk.After) != `"[hidden]"` {
		t.Errorf("a new key is recorded as %+v", psk)
	}
	token := b.login(login()).want(http.StatusCreated).Header.Get("X-Subject-Token")
	b.withToken(token, http.MethodPut, path("vpn-connection", connection), vpn(object{"psk": testPSK + " \x01"})).want(http.StatusBadRequest)
	b.withToken(token, http.MethodPost, path("vpn-connection"), vpn(with(smallestConnection(gateway, customerGateway), "vgw_ip", eip2ID))).want(http.StatusCreated)
	for _, op := range everyOperation(gateway, customerGateway, connection, b.createMonitor(connection)) {
		for _, who := range []string{"admin", "readonly"} {
			b.now = b.now.Add(time.Second)
			r, content := request(t, op[0].(string), op[1].(string), op[2])
			r.Header.Set("X-Subject-Token", token)
			r.Header.Set("X-Client-Token", "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c0001")
			signRequest(r, content, who, testSecret+who, b.now)
			b.send(r)
		}
	}
	text, err := os.ReadFile(b.auditFile)
	check(t, err)
	if n := strings.Count(string(text), "\n"); n < 20 {
		t.Errorf("there are %d records only", n)
	}
	for _, secret := range []string{testPSK, newPSK, testPassword, testSecret, token, "Signature", "sealed_"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("the audit log holds %q", secret)
		}
	}
}
