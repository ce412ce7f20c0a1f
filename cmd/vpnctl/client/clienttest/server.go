// Package clienttest is a REST API in memory for the tests of its clients.
package clienttest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
)

// Server keeps whatever objects it is sent. Each change leaves an object
// PENDING_* for one look at it, as the real ones are for a while.
type Server struct {
	*httptest.Server

	mu      sync.Mutex
	next    int
	objects map[string][]client.Object // by the path of the collection
	pending map[string]string          // by id
	logs    map[string][]client.LogLine
	calls   []string // that change something, as "PUT vpn-connection/c1 {…}"

	// Settled is the status of a connection that is not in work.
	Settled string
	// Message is its status_message; empty: it has none.
	Message string
	// Refuse, when set, may refuse a call.
	Refuse func(r *http.Request) *client.Error
}

// New starts a server that ends with the test.
func New(t testing.TB) *Server {
	s := &Server{
		objects: map[string][]client.Object{}, pending: map[string]string{}, logs: map[string][]client.LogLine{}, Settled: "ACTIVE",
	}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

// Client returns a client of the server.
func (s *Server) Client(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{Endpoint: s.URL, ProjectID: "p", AccessKey: "AK", SecretKey: "SK"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Calls returns and forgets the calls that change something.
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

// Log puts lines before those of a connection's log.
func (s *Server) Log(connection string, lines ...client.LogLine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs[connection] = append(lines, s.logs[connection]...)
}

var members = map[string][2]string{
	"vpn-gateways":      {"vpn_gateway", "vpn_gateways"},
	"customer-gateways": {"customer_gateway", "customer_gateways"},
	"vpn-connection":    {"vpn_connection", "vpn_connections"},
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !strings.HasPrefix(r.Header.Get("Authorization"), "SDK-HMAC-SHA256 Access=AK,") {
		refuse(w, &client.Error{Status: http.StatusUnauthorized, Message: "no signature"})
		return
	}
	if s.Refuse != nil {
		if e := s.Refuse(r); e != nil {
			refuse(w, e)
			return
		}
	}
	path, _ := strings.CutPrefix(r.URL.Path, "/v5/p/")
	kind, id, _ := strings.Cut(path, "/")
	id, action, _ := strings.Cut(id, "/")
	var body map[string]client.Object
	if r.ContentLength > 0 {
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			refuse(w, &client.Error{Status: http.StatusBadRequest, Message: err.Error()})
			return
		}
	}
	if r.Method != http.MethodGet && action != "plan" {
		sent, _ := json.Marshal(body[members[kind][0]])
		s.calls = append(s.calls, strings.TrimSuffix(fmt.Sprintf("%s %s %s", r.Method, path, sent), " null"))
	}
	at := slices.IndexFunc(s.objects[kind], func(o client.Object) bool { return o.ID() == id })
	switch {
	case r.Method == http.MethodPost && id == "":
		s.create(w, kind, body[members[kind][0]])
	case id == "":
		list := make([]client.Object, 0, len(s.objects[kind]))
		for _, o := range s.objects[kind] {
			list = append(list, s.view(kind, o, false))
		}
		answer(w, http.StatusOK, map[string]any{members[kind][1]: list})
	case at < 0:
		refuse(w, &client.Error{Status: http.StatusNotFound, Code: "VPN.0004", Message: "resource not found"})
	case action == "log":
		answer(w, http.StatusOK, map[string]any{"logs": s.logs[id]})
	case action == "plan":
		answer(w, http.StatusOK, map[string]any{"plan": s.plan(s.objects[kind][at], body)})
	case action == "reset":
		answer(w, http.StatusOK, nil)
	case r.Method == http.MethodDelete:
		s.pending[id] = "PENDING_DELETE"
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut:
		merge(s.objects[kind][at], body[members[kind][0]])
		s.pending[id] = "PENDING_UPDATE"
		answer(w, http.StatusOK, map[string]any{members[kind][0]: s.view(kind, s.objects[kind][at], false)})
	default:
		o := s.view(kind, s.objects[kind][at], true)
		if o == nil {
			s.objects[kind] = slices.Delete(s.objects[kind], at, at+1)
			refuse(w, &client.Error{Status: http.StatusNotFound, Code: "VPN.0004", Message: "resource not found"})
			return
		}
		answer(w, http.StatusOK, map[string]any{members[kind][0]: o})
	}
}

// plan calls each change of a member one that drops the tunnel, but for those of the
// gateway.
func (s *Server) plan(connection client.Object, changes map[string]client.Object) client.Object {
	list, worst := []any{}, "nothing"
	for _, object := range slices.Sorted(maps.Keys(changes)) {
		disruption := "nothing"
		if object == "vpn_connection" {
			disruption, worst = "drop", "drop"
		}
		for _, field := range slices.Sorted(maps.Keys(changes[object])) {
			if inner, ok := changes[object][field].(map[string]any); ok {
				for _, below := range slices.Sorted(maps.Keys(inner)) {
					list = append(list, client.Object{"field": object + "." + field + "." + below, "disruption": disruption})
				}
				continue
			}
			list = append(list, client.Object{"field": object + "." + field, "disruption": disruption})
		}
	}
	return client.Object{"vpn_connection_id": connection.ID(), "disruption": worst, "established": s.Settled == "ACTIVE", "changes": list}
}

func (s *Server) create(w http.ResponseWriter, kind string, fields client.Object) {
	s.next++
	o := client.Object{"id": fmt.Sprintf("%s%d", kind[:1], s.next)}
	merge(o, fields)
	s.objects[kind] = append(s.objects[kind], o)
	s.pending[o.ID()] = "PENDING_CREATE"
	answer(w, http.StatusCreated, map[string]any{members[kind][0]: s.view(kind, o, false)})
}

// merge sets the given fields; objects within are merged, too.
func merge(o, fields map[string]any) {
	for k, v := range fields {
		have, ok := o[k].(map[string]any)
		want, ok2 := v.(map[string]any)
		if ok && ok2 {
			merge(have, want)
			continue
		}
		o[k] = v
	}
}

// view is what is answered of an object; nil when it is gone. A look ends what
// is in work.
func (s *Server) view(kind string, o client.Object, look bool) client.Object {
	o = maps.Clone(o)
	delete(o, "psk")
	if style := o.Text("style"); style != "" {
		o["style"] = strings.ToUpper(style)
	}
	if kind == "customer-gateways" {
		if look && s.pending[o.ID()] == "PENDING_DELETE" {
			return nil
		}
		return o
	}
	o["status"] = "ACTIVE"
	if kind == "vpn-connection" {
		o["status"] = s.Settled
		if s.Message != "" {
			o["status_message"] = s.Message
		}
	}
	if p := s.pending[o.ID()]; p != "" {
		o["status"] = p
		if look {
			s.pending[o.ID()] = ""
			if p == "PENDING_DELETE" {
				s.pending[o.ID()] = "gone"
			}
		}
		if p == "gone" {
			return nil
		}
	}
	return o
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, e *client.Error) {
	answer(w, e.Status, map[string]string{"error_code": e.Code, "error_msg": e.Message, "request_id": "r"})
}
