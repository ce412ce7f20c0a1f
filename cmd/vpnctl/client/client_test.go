package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// The vector was recorded from the official Go SDK.
func TestAuthorizationVector(t *testing.T) {
	const body = `{"vpn_gateway":{"local_subnets":[]}}` + "\n"
	r := httptest.NewRequest(http.MethodPut, "https://vpn.example/v5/proj/vpn-gateways/v1", strings.NewReader(body))
	r.Header.Set("X-Project-Id", "proj")
	r.Header.Set("X-Sdk-Date", "20261123T112118Z")
	r.Header.Set("User-Agent", "huaweicloud-usdk-go/3.0; os/Debian_GNU/Linux#12_(bookworm)#amd64 go/go1.26.8; app/6b65e417-5209-4f1d-9422-f3135ccff71c")
	have := authorization(r, []byte(body), []string{"user-agent", "x-project-id", "x-sdk-date"}, "AK", "SK")
	want := "SDK-HMAC-SHA256 Access=AK, SignedHeaders=user-agent;x-project-id;x-sdk-date, " +
		"Signature=ed813ca4dcee1307da6478bb0aa02559d744e4e04a9c6635e61e0f788ba403a9"
	if have != want {
		t.Errorf("have %s\nwant %s", have, want)
	}
}

func TestSignCoversEveryHeader(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "https://vpn.example/v5/proj/vpn-connection?b=2&a=3&a=1&c=x+y%2Fz", nil)
	r.Header.Set("Content-Type", "application/json")
	sign(r, nil, "AK", "SK", time.Date(2026, 11, 23, 11, 21, 18, 0, time.FixedZone("", 3600)))
	if have, want := r.Header.Get("X-Sdk-Date"), "20261123T102118Z"; have != want {
		t.Errorf("date: have %s, want %s", have, want)
	}
	if have := r.Header.Get("Authorization"); !strings.Contains(have, "SignedHeaders=content-type;host;x-sdk-date,") {
		t.Errorf("signed headers: %s", have)
	}
	if have, want := canonicalQuery(r.URL), "a=1&a=3&b=2&c=x%20y%2Fz"; have != want {
		t.Errorf("query: have %s, want %s", have, want)
	}
	if have, want := canonicalPath(r.URL), "/v5/proj/vpn-connection/"; have != want {
		t.Errorf("path: have %s, want %s", have, want)
	}
}

func testClient(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := New(Options{Endpoint: server.URL, ProjectID: "proj", AccessKey: "AK", SecretKey: "SK"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestListWalksPages(t *testing.T) {
	var calls []string
	c := testClient(t, func(w http.ResponseWriter, r *http.Request) {
		calls = append(calls, r.URL.RequestURI())
		page, marker := `{"id":"1","name":"a"},{"id":"2","name":"b"}`, "m1"
		switch r.URL.Query().Get("marker") {
		case "m1":
			page, marker = `{"id":"3","name":"b"}`, "m2"
		case "m2":
			page, marker = "", ""
		}
		fmt.Fprintf(w, `{"vpn_connections":[%s],"page_info":{"next_marker":%q}}`, page, marker)
	})
	all, err := c.List(t.Context(), Connections)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 3 || len(calls) != 3 || calls[0] != "/v5/proj/vpn-connection" {
		t.Errorf("have %v by %v", all, calls)
	}
	if o, err := Pick(all, Connections, "a"); err != nil || o.ID() != "1" {
		t.Errorf("by name: %v, %v", o, err)
	}
	if o, err := Pick(all, Connections, "3"); err != nil || o.Name() != "b" {
		t.Errorf("by id: %v, %v", o, err)
	}
	if _, err := Pick(all, Connections, "b"); err == nil || !strings.Contains(err.Error(), "2, 3") {
		t.Errorf("a name that is not unique: %v", err)
	}
	if _, err := Pick(all, Connections, "z"); !IsNotFound(err) {
		t.Errorf("an unknown name: %v", err)
	}
}

func TestListStopsAtAMarkerThatStays(t *testing.T) {
	calls := 0
	c := testClient(t, func(w http.ResponseWriter, _ *http.Request) {
		calls++
		fmt.Fprint(w, `{"customer_gateways":[{"id":"1"}],"page_info":{"next_marker":"m"}}`)
	})
	if _, err := c.List(t.Context(), CustomerGateways); err != nil || calls != 2 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func TestCallsCarryObjects(t *testing.T) {
	var method, path string
	var body map[string]map[string]any
	c := testClient(t, func(w http.ResponseWriter, r *http.Request) {
		method, path, body = r.Method, r.URL.Path, nil
		if r.ContentLength > 0 {
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				t.Error(err)
			}
		}
		if r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		fmt.Fprint(w, `{"customer_gateway":{"id":"7","name":"n"},"logs":[{"time":5,"raw_message":"x"}],"request_id":"r"}`)
	})
	for _, call := range []struct {
		name, method, path string
		do                 func(ctx context.Context) error
	}{
		{"get", "GET", "/v5/proj/customer-gateways/7", func(ctx context.Context) error {
			o, err := c.Get(ctx, CustomerGateways, "7")
			if o.Name() != "n" {
				t.Errorf("have %v", o)
			}
			return err
		}},
		{"create", "POST", "/v5/proj/customer-gateways", func(ctx context.Context) error {
			o, err := c.Create(ctx, CustomerGateways, Object{"name": "n"})
			if o.ID() != "7" || body["customer_gateway"]["name"] != "n" {
				t.Errorf("have %v from %v", o, body)
			}
			return err
		}},
		{"update", "PUT", "/v5/proj/customer-gateways/7", func(ctx context.Context) error {
			_, err := c.Update(ctx, CustomerGateways, "7", Object{"name": "m"})
			if body["customer_gateway"]["name"] != "m" {
				t.Errorf("sent %v", body)
			}
			return err
		}},
		{"delete", "DELETE", "/v5/proj/customer-gateways/7", func(ctx context.Context) error {
			return c.Delete(ctx, CustomerGateways, "7")
		}},
		{"log", "GET", "/v5/proj/vpn-connection/8/log", func(ctx context.Context) error {
			lines, err := c.Log(ctx, "8")
			if len(lines) != 1 || lines[0] != (LogLine{Time: 5, Text: "x"}) {
				t.Errorf("have %v", lines)
			}
			return err
		}},
		{"reset", "POST", "/v5/proj/vpn-connection/8/reset", func(ctx context.Context) error {
			return c.Reset(ctx, "8")
		}},
	} {
		if err := call.do(t.Context()); err != nil {
			t.Errorf("%s: %v", call.name, err)
		}
		if method != call.method || path != call.path {
			t.Errorf("%s: have %s %s, want %s %s", call.name, method, path, call.method, call.path)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		name                         string
		status                       int
		body                         string
		code, message                string
		notFound, denied, isNotReady bool
	}{
		{"own shape", 400, `{"error_code":"VPN.0001","error_msg":"invalid request: psk: is too short","request_id":"r"}`, "VPN.0001", "invalid request: psk: is too short", false, false, false},
		{"not found", 404, `{"error_code":"VPN.0004","error_msg":"resource not found"}`, "VPN.0004", "resource not found", true, false, false},
		{"denied", 403, `{"error_code":"VPN.0003","error_msg":"Authentication failed: role"}`, "VPN.0003", "Authentication failed: role", false, true, false},
		{"not ready", 403, `{"error_code":"VPN.0003","error_msg":"resource (type=GATEWAY, ID=1) is not ready, currently CREATING"}`, "VPN.0003", "resource (type=GATEWAY, ID=1) is not ready, currently CREATING", false, false, true},
		{"a proxy's page", 502, `<html>`, "", "<html>", false, false, false},
		{"empty", 503, ``, "", "Service Unavailable", false, false, false},
		{"redirect", 302, ``, "", "Found", false, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := testClient(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.body)
			})
			_, err := c.Get(t.Context(), Gateways, "1")
			var e *Error
			if !errors.As(err, &e) || e.Status != test.status || e.Code != test.code || e.Message != test.message {
				t.Errorf("have %#v", err)
			}
			if IsNotFound(err) != test.notFound || IsDenied(err) != test.denied || IsNotReady(err) != test.isNotReady {
				t.Errorf("not found %v, denied %v, not ready %v", IsNotFound(err), IsDenied(err), IsNotReady(err))
			}
			if strings.Contains(err.Error(), "SK") {
				t.Error("the error holds the secret key")
			}
		})
	}
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	good := Options{Endpoint: "https://127.0.0.1:8443", ProjectID: "p", AccessKey: "a", SecretKey: "s"}
	for field, change := range map[string]func(*Options){
		"endpoint":   func(o *Options) { o.Endpoint = "127.0.0.1:8443" },
		"project":    func(o *Options) { o.ProjectID = "" },
		"access key": func(o *Options) { o.AccessKey = "" },
		"secret key": func(o *Options) { o.SecretKey = "" },
		"ca":         func(o *Options) { o.CA = []byte("x") },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil || !strings.HasPrefix(err.Error(), field+":") {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}
