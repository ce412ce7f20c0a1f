package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestUnknownRoutesAndMethods(t *testing.T) {
	b := newBench(t)
	for _, test := range []struct {
		method, target string
		status         int
		code, allow    string
	}{
		{http.MethodGet, "/", 404, "VPN.0004", ""},
		{http.MethodGet, "/v5", 404, "VPN.0004", ""},
		{http.MethodGet, path("vpn-gateways", "a", "b"), 404, "VPN.0004", ""},
		{http.MethodGet, path("vpn-gateways") + "/", 404, "VPN.0004", ""},
		{http.MethodPatch, path("vpn-gateways", "a"), 405, "VPN.0001", "GET, PUT, DELETE"},
		{http.MethodPost, path("vpn-gateways", "a"), 405, "VPN.0001", "GET, PUT, DELETE"},
		{http.MethodDelete, path("vpn-connection"), 405, "VPN.0001", "GET, POST"},
		{http.MethodGet, path("vpn-connection", "a", "reset"), 405, "VPN.0001", "POST"},
		{http.MethodGet, "/v3/auth/tokens", 405, "VPN.0001", "POST, DELETE"},
		{http.MethodPost, "/openapi.yaml", 405, "VPN.0001", "GET"},
	} {
		t.Run(test.method+" "+test.target, func(t *testing.T) {
			b.t = t
			a := b.call(test.method, test.target, nil)
			a.wantError(test.status, test.code, "")
			if got := a.Header.Get("Allow"); got != test.allow {
				t.Errorf("Allow is %q, want %q", got, test.allow)
			}
		})
	}
}

func TestDocumentIsServed(t *testing.T) {
	b := newBench(t)
	r, _ := request(t, http.MethodGet, "/openapi.yaml", nil)
	w := &recorderOf{header: http.Header{}}
	b.server.Handler().ServeHTTP(w, r)
	if !bytes.Equal(w.body.Bytes(), Document) {
		t.Error("what is served is not the document")
	}
}

type recorderOf struct {
	header http.Header
	body   bytes.Buffer
	status int
}

func (r *recorderOf) Header() http.Header         { return r.header }
func (r *recorderOf) Write(b []byte) (int, error) { return r.body.Write(b) }
func (r *recorderOf) WriteHeader(status int)      { r.status = status }

func TestBodyLimit(t *testing.T) {
	b := newBench(t)
	padded := func(size int) string {
		body := `{"customer_gateway":{"id_value":"198.51.100.7"}}`
		return body + strings.Repeat(" ", size-len(body))
	}
	b.call(http.MethodPost, path("customer-gateways"), padded(maxBody)).want(http.StatusCreated)
	b.call(http.MethodPost, path("customer-gateways"), padded(maxBody+1)).wantError(http.StatusBadRequest, "VPN.0001", "body: must have at most")
}

func TestContentType(t *testing.T) {
	b := newBench(t)
	for contentType, status := range map[string]int{
		"application/json": 201, "application/json;charset=UTF-8": 201, "Application/JSON": 201,
		"text/plain": 400, "": 400, "application/json-patch+json": 400,
	} {
		r, content := request(t, http.MethodPost, path("customer-gateways"), cgw(object{"id_value": "198.51.100.7"}))
		r.Header.Set("Content-Type", contentType)
		b.now = b.now.Add(time.Second)
		signRequest(r, content, "admin", testSecret+"admin", b.now)
		if a := b.send(r); a.Status != status {
			t.Errorf("%q: got %d, want %d: %s", contentType, a.Status, status, a.Text)
		}
	}
}

func TestInternalErrorsAreNotShown(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, content := request(t, http.MethodGet, path("vpn-gateways"), nil)
	signRequest(r, content, "admin", testSecret+"admin", b.now)
	a := b.send(r.WithContext(ctx))
	a.wantError(http.StatusInternalServerError, "VPN.0002", "server error: internal fault")
	if strings.Contains(a.Text, "context") {
		t.Errorf("the answer tells what went wrong: %s", a.Text)
	}
	if log := b.log.String(); !strings.Contains(log, "context canceled") || !strings.Contains(log, a.text("request_id")) {
		t.Errorf("the log does not tell what went wrong: %s", log)
	}
}

func TestPanicIsAnswered(t *testing.T) {
	b := newBench(t)
	b.server.handler = b.server.logged(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret of a panic") }))
	a := b.call(http.MethodGet, "/", nil)
	a.wantError(http.StatusInternalServerError, "VPN.0002", "server error: ")
	if strings.Contains(a.Text, "secret") {
		t.Errorf("the answer tells of the panic: %s", a.Text)
	}
}

func TestAccessLog(t *testing.T) {
	b := newBench(t)
	id, _, _ := b.createConnection()
	b.log.Reset()
	a := b.call(http.MethodPut, path("vpn-connection", id), vpn(object{"psk": "short"}))
	line := b.log.String()
	for _, want := range []string{
		`"operation":"UpdateVpnConnection"`, `"caller":"admin"`, `"role":"admin"`, `"status":400`, `"error_code":"VPN.0001"`,
		`"request_id":"` + a.text("request_id") + `"`, `"method":"PUT"`,
	} {
		if !strings.Contains(line, want) {
			t.Errorf("the line lacks %s: %s", want, line)
		}
	}
	if strings.Contains(line, "short") || strings.Contains(line, "Signature") {
		t.Errorf("the line holds a secret: %s", line)
	}
}

func TestRequestsAtOnceAreLimited(t *testing.T) {
	b := newBench(t)
	for range maxInFlight {
		b.server.inFlight <- struct{}{}
	}
	b.call(http.MethodGet, path("vpn-gateways"), nil).wantError(http.StatusBadRequest, "VPN.0030", "busy")
	<-b.server.inFlight
	b.call(http.MethodGet, path("vpn-gateways"), nil).want(http.StatusOK)
}

// Clients without an account who send the body of a login slowly must not keep
// others out.
func TestSlowLoginsKeepNobodyOut(t *testing.T) {
	b := newBench(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.server.serve(ctx, listener) }()
	var slow []net.Conn
	for i := range maxInFlight + maxPublic {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i%2))}}
		c, err := d.Dial("tcp", listener.Addr().String())
		check(t, err)
		slow = append(slow, c)
		_, err = io.WriteString(c, "POST /v3/auth/tokens HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n")
		check(t, err)
		// The server asks for the body when it begins to read it.
		line, err := bufio.NewReader(c).ReadString('\n')
		check(t, err)
		if !strings.Contains(line, "100") {
			t.Fatalf("slow client %d: %s", i, line)
		}
	}
	b.call(http.MethodGet, path("vpn-gateways"), nil).want(http.StatusOK)
	b.login(login()).want(http.StatusCreated)
	for _, c := range slow {
		c.Close()
	}
	cancel()
	check(t, <-done)
}

func TestPublicRequestsHavePlacesOfTheirOwn(t *testing.T) {
	b := newBench(t)
	for range maxPublic {
		b.server.public <- struct{}{}
	}
	b.login(login()).wantError(http.StatusBadRequest, "VPN.0030", "busy")
	b.call(http.MethodGet, path("vpn-gateways"), nil).want(http.StatusOK)
}

func TestOneCallerLeavesMemory(t *testing.T) {
	b := newBench(t)
	for range maxCallerInFlight {
		b.server.working.begin("admin")
	}
	b.call(http.MethodGet, path("vpn-gateways"), nil).wantError(http.StatusBadRequest, "VPN.0030", "busy")
	b.as("readonly", http.MethodGet, path("vpn-gateways"), nil).want(http.StatusOK)
	for range maxCallerInFlight {
		b.server.working.end("admin")
	}
	b.call(http.MethodGet, path("vpn-gateways"), nil).want(http.StatusOK)
	if n := len(b.server.working.number); n != 0 {
		t.Errorf("%d names are counted when nothing goes on", n)
	}
}

func TestNeighbourhood(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:443":               "192.0.2.1",
		"[::ffff:192.0.2.1]:443":      "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:443":  "2001:db8:1:2::/64",
		"[2001:db8:1:2::1%eth0]:1":    "2001:db8:1:2::/64",
		"not an address with a port!": "not an address with a port!",
	} {
		if got := neighbourhood(remote); got != want {
			t.Errorf("%s: got %s, want %s", remote, got, want)
		}
	}
}

func TestListenerServesTLSAndShutsDown(t *testing.T) {
	b, dir := newBench(t), t.TempDir()
	var err error
	b.server.tls, err = TLS{Mode: TLSAuto}.config(netip.MustParseAddrPort("127.0.0.1:0"), dir, time.Now())
	check(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.server.serve(ctx, listener) }()

	certificate, err := os.ReadFile(filepath.Join(dir, autoCertificateFile))
	check(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	answer, err := client.Get("https://" + listener.Addr().String() + "/openapi.yaml")
	check(t, err)
	body, err := io.ReadAll(answer.Body)
	check(t, err)
	answer.Body.Close()
	if !bytes.Equal(body, Document) {
		t.Error("what is served is not the document")
	}
	if !b.server.Listening() {
		t.Error("a server that answers does not listen")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if b.server.Listening() {
		t.Error("a server that has ended listens")
	}
	if _, err := client.Get("https://" + listener.Addr().String() + "/openapi.yaml"); err == nil {
		t.Error("the server still answers")
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	b := newBench(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.server.serve(ctx, listener) }()
	served := func(c net.Conn) bool {
		check(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		_, _ = io.WriteString(c, "GET /openapi.yaml HTTP/1.1\r\nHost: a\r\n\r\n")
		_, err := http.ReadResponse(bufio.NewReader(c), nil)
		return err == nil
	}
	dial := func(from string) net.Conn {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := dialer.Dial("tcp", listener.Addr().String())
		check(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	const one, two, three = "127.0.0.1", "127.0.0.2", "127.0.0.3"
	var first net.Conn
	for i := range maxAddressConnections + 1 {
		c := dial(one)
		if i == 0 {
			first = c
		}
		if got, want := served(c), i < maxAddressConnections; got != want {
			t.Fatalf("connection %d of one address is served: %v, want %v", i+1, got, want)
		}
	}
	for i := range maxConnections - maxAddressConnections {
		if !served(dial(two)) {
			t.Fatalf("connection %d of another address is not served", i+1)
		}
	}
	if served(dial(three)) {
		t.Fatalf("more than %d connections are served", maxConnections)
	}
	first.Close()
	for deadline := time.Now().Add(10 * time.Second); ; { // the server learns of it some time
		c := dial(three)
		ok := served(c)
		c.Close()
		if ok {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a connection that was closed still counts")
		}
	}
	cancel()
	check(t, <-done)
}

func TestAutoCertificateIsKept(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	listen := netip.MustParseAddrPort("192.0.2.1:8443")
	serial := func(at time.Time) string {
		c, err := TLS{Mode: TLSAuto}.config(listen, dir, at)
		check(t, err)
		leaf, err := x509.ParseCertificate(c.Certificates[0].Certificate[0])
		check(t, err)
		check(t, leaf.VerifyHostname("192.0.2.1"))
		check(t, leaf.VerifyHostname("localhost"))
		return leaf.SerialNumber.String()
	}
	first := serial(now)
	if serial(now.Add(time.Hour)) != first {
		t.Error("the certificate changed at a restart")
	}
	if serial(now.Add(autoLifetime+time.Hour)) == first {
		t.Error("an expired certificate is kept")
	}
	info, err := os.Stat(filepath.Join(dir, autoKeyFile))
	check(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v", info.Mode())
	}
	check(t, os.WriteFile(filepath.Join(dir, autoCertificateFile), []byte("broken"), 0o644))
	if _, err := (TLS{Mode: TLSAuto}).config(listen, dir, now); err == nil {
		t.Error("a broken certificate was replaced, though somebody may rely on it")
	}
}

func TestTLSModes(t *testing.T) {
	loopback, other := netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("192.0.2.1:1")
	if c, err := (TLS{Mode: TLSOff}).config(loopback, "", time.Now()); c != nil || err != nil {
		t.Errorf("plain HTTP on loopback: %v, %v", c, err)
	}
	for name, mode := range map[string]TLS{
		"off":      {Mode: TLSOff},
		"unknown":  {Mode: "maybe"},
		"no files": {Mode: TLSFiles, CertificateFile: "missing.crt", KeyFile: "missing.key"},
	} {
		if _, err := mode.config(other, t.TempDir(), time.Now()); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := New(Options{}); err == nil {
		t.Error("a server without a service was made")
	}
}

// Bodies that are sent slowly are bounded, in all and of one sender, whom alone
// that keeps out.
func TestBodiesInMemoryAreLimited(t *testing.T) {
	b := newBench(t)
	here := "admin at " + neighbourhood("192.0.2.1:1234") // where httptest says that requests are from
	if !b.server.bodies.take(here, maxSenderBodies) || b.server.bodies.take(here, 1) {
		t.Error("the bound of a sender is not where it should be")
	}
	body := cgw(object{"id_value": "198.51.100.7"})
	b.call(http.MethodPost, path("customer-gateways"), body).wantError(http.StatusBadRequest, "VPN.0030", "busy")
	b.call(http.MethodGet, path("customer-gateways"), nil).want(http.StatusOK)
	b.as("operator", http.MethodPost, path("customer-gateways"), body).want(http.StatusCreated)
	b.server.bodies.give(here, maxSenderBodies)
	b.call(http.MethodPost, path("customer-gateways"), body).want(http.StatusCreated)
	for i := range maxBodies / maxSenderBodies {
		if !b.server.bodies.take(string(rune('a'+i)), maxSenderBodies) {
			t.Fatalf("sender %d is kept out by the others", i)
		}
	}
	b.as("operator", http.MethodPost, path("customer-gateways"), body).wantError(http.StatusBadRequest, "VPN.0030", "busy")
	for i := range maxBodies / maxSenderBodies {
		b.server.bodies.give(string(rune('a'+i)), maxSenderBodies)
	}
	if b.server.bodies.all != 0 || len(b.server.bodies.of) != 0 {
		t.Errorf("%d octets of %v are counted when nothing goes on", b.server.bodies.all, b.server.bodies.of)
	}
}
