package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/store"
	"github.com/vpngw/vpngw/fuzztest"
)

// FuzzRequest sends requests of a caller who may do everything. Whatever they
// are, they are answered, and not by a fault of ours.
func FuzzRequest(f *testing.F) {
	target := fuzztest.New(f)
	operations, err := document()
	check(f, err)
	for _, pattern := range slices.Sorted(maps.Keys(operations)) {
		op := operations[pattern]
		for _, concrete := range slices.Sorted(maps.Keys(op.patterns())) {
			method, path, _ := strings.Cut(concrete, " ")
			path = strings.Replace(path, "{project_id}", project, 1)
			body := ""
			if b := op.route.Operation.RequestBody; b != nil {
				text, err := json.Marshal(sample(f, b.Value.Content.Get("application/json").Schema.Value))
				check(f, err)
				body = string(text)
			}
			target.Add(method, pathParameter.ReplaceAllString(path, vpcID), "limit=1&marker=", body)
		}
	}
	target.Add(http.MethodPost, path("vpn-gateways"), "", `{"vpn_gateway":{"name":"a","eip1":{"id":"x"}}}`)
	target.Add(http.MethodPost, path("customer-gateways"), "", `{"customer_gateway":{"id_value":"198.51.100.7","bgp_asn":1e1}}`)
	target.Add(http.MethodPost, path("vpn-connection"), "", `{"vpn_connection":{"vgw_id":"a","vgw_ip":"b","cgw_id":"c","policy_rules":[{"source":"10.0.0.0/8"}]}}`)
	target.Add(http.MethodPost, path("vpn-connection"), "", `[[[[`)
	b := newBenchOn(f, store.NewMemory(), control.Limits{})
	connection, gateway, customerGateway := b.createConnection()
	for id, call := range everyOperation(gateway, customerGateway, connection, b.createMonitor(connection)) {
		text := ""
		if call[2] != nil {
			text = encoded(f, call[2])
		}
		where, query, _ := strings.Cut(call[1].(string), "?")
		if !strings.HasPrefix(id, "Delete") { // what it would delete, the others need
			target.Add(call[0].(string), where, query, text)
		}
	}
	token := b.login(login()).want(http.StatusCreated).Header.Get("X-Subject-Token")
	target.Fuzz(func(t *testing.T, method, path, query, body string) {
		r, content := request(t, http.MethodPost, "/", body)
		r.Method, r.URL.Path, r.URL.RawQuery = method, path, query
		b.now = b.now.Add(time.Second)
		if _, err := url.ParseQuery(query); err == nil {
			signRequest(r, content, "admin", testSecret+"admin", b.now)
		} else {
			r.Header.Set(headerToken, token) // there is no signature of it
		}
		w := &recorderOf{header: http.Header{}}
		b.server.Handler().ServeHTTP(w, r)
		// Another node may have what is asked for: this one has no engines.
		if w.status >= http.StatusInternalServerError && !strings.Contains(w.body.String(), "another node than this one") {
			t.Errorf("%s %s?%s: status %d for %q: %s", method, path, query, w.status, body, w.body.String())
		}
		if strings.Contains(w.body.String(), testPSK) {
			t.Errorf("the answer holds a secret: %s", w.body.String())
		}
		b.log.Reset()
	})
}
