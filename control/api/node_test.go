package api

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
)

// nodes is a fleet whose division a test sets.
type nodes struct{ division *control.Division }

func (n *nodes) Division() *control.Division { return n.division }

func (n *nodes) LeaseLeft(context.Context) (map[string]time.Duration, time.Duration, error) {
	return map[string]time.Duration{"here": 5 * time.Second, "there": 4 * time.Second}, 5 * time.Second, nil
}

// fleet makes the bench's server one of two, which share the store. The other
// one's handler is behind TLS, and serves the connection of the first address.
func (b *bench) fleet() (division *control.Division, there *bench) {
	b.t.Helper()
	there = newBench(b.t)
	there.now = b.now
	dir := b.t.TempDir()
	serve := func(own *bench, node string, f control.Fleet) *Server {
		service, err := control.NewService(control.ServiceOptions{
			Objects: b.objects, Inventory: b.inventory, Engines: own.engines, History: own.engines, Fleet: f, Now: func() time.Time { return own.now },
		})
		check(b.t, err)
		server, err := New(Options{
			Service: service, Access: b.access, Logger: b.server.log, Node: node,
			Listen: "127.0.0.1:0", TLS: TLS{Mode: TLSOff}, Now: func() time.Time { return own.now },
		})
		check(b.t, err)
		return server
	}
	o := Options{Listen: "127.0.0.1:0", TLS: TLS{Mode: TLSAuto}, DataDir: dir}
	pinned, err := o.Fingerprint()
	check(b.t, err)
	config, err := o.TLS.config(netip.MustParseAddrPort(o.Listen), dir, time.Now())
	check(b.t, err)

	division = &control.Division{
		Node: "here", Steward: "here",
		Owners: map[netip.Addr]string{netip.MustParseAddr("203.0.113.10"): "there", netip.MustParseAddr("203.0.113.11"): "here"},
		Nodes: map[string]control.Node{
			"here":  {Name: "here", Zone: "az1", Version: "1", Fixed: []netip.Addr{netip.MustParseAddr("203.0.113.11")}},
			"there": {Name: "there", Zone: "az2", Version: "1", Fingerprint: pinned, Floating: []netip.Addr{netip.MustParseAddr("203.0.113.10")}},
		},
	}
	elsewhere := *division
	elsewhere.Node = "there"
	there.server = serve(there, "there", &nodes{&elsewhere})
	listener := httptest.NewUnstartedServer(there.server.Handler())
	listener.TLS = config
	listener.StartTLS()
	b.t.Cleanup(listener.Close)
	node := division.Nodes["there"]
	node.APIURL = listener.URL
	division.Nodes["there"] = node
	b.server = serve(b, "here", &nodes{division})
	return division, there
}

// TestForwarded asks a node for what another one has.
func TestForwarded(t *testing.T) {
	b := newBench(t)
	connection, _, _ := b.createConnection()
	division, there := b.fleet()
	there.engines.children = map[string][]control.ChildSA{connection: {{ID: "c1-c2", Sent: control.Traffic{Packets: 7, Octets: 700}}}}
	target := path("vpn-connection", connection, "ipsec-sa") + "?limit=10"

	ask := func(prepare ...func(*http.Request)) *answer {
		t.Helper()
		r, content := request(t, http.MethodGet, target, nil)
		b.now = b.now.Add(time.Second)
		there.now = b.now
		signRequest(r, content, "admin", testSecret+"admin", b.now, "host", "content-type")
		for _, p := range prepare {
			p(r)
		}
		return b.send(r)
	}
	if a := ask().want(http.StatusOK); !strings.Contains(a.Text, "c1-c2") {
		t.Errorf("the answer is %s", a.Text)
	}

	// It goes on once: two nodes that take each other for the owner do not loop.
	ask(func(r *http.Request) { r.Header.Set(headerForwarded, "another") }).wantError(
		http.StatusInternalServerError, "VPN.0002", "there serves ")
	// The node checks the caller for itself.
	stranger, content := request(t, http.MethodGet, target, nil)
	signRequest(stranger, content, "stranger", testSecret+"stranger", b.now)
	b.send(stranger).want(http.StatusForbidden)

	// Whoever listens without TLS is not told a thing.
	asked := false
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer plain.Close()

	node := division.Nodes["there"]
	for name, change := range map[string]func(*control.Node){
		"the certificate of somebody else": func(n *control.Node) { n.Fingerprint = strings.Repeat("0", 64) },
		"no TLS":                           func(n *control.Node) { n.APIURL = plain.URL },
		"no address":                       func(n *control.Node) { n.APIURL = "" },
		"away":                             func(n *control.Node) { n.APIURL = "https://127.0.0.1:1" },
	} {
		changed := node
		change(&changed)
		division.Nodes["there"] = changed
		t.Run(name, func(t *testing.T) {
			b.t = t
			ask().wantError(http.StatusInternalServerError, "VPN.0002", "there serves ")
		})
	}
	if asked {
		t.Error("a request was sent to a node without TLS")
	}
}

// TestForwardedInPart has the other node break off, or say too much: the client
// must not take what it gets for the whole.
func TestForwardedInPart(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"broken off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("{}")) // the client says what arrives
		},
		"too long": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(make([]byte, maxForwarded+1)) // likewise
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			there := httptest.NewTLSServer(answer)
			defer there.Close()
			node := control.Node{Name: "there", APIURL: there.URL, Fingerprint: fingerprint(there.Certificate().Raw)}
			here := httptest.NewServer(b.server.logged(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b.server.failed(w, r, &control.Elsewhere{Node: node, Refusal: control.NotFound()})
			})))
			defer here.Close()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, here.URL, http.NoBody)
			check(t, err)
			got, err := http.DefaultClient.Do(r)
			if err != nil {
				return // it was told even before the status
			}
			defer got.Body.Close()
			if body, err := io.ReadAll(got.Body); err == nil {
				t.Errorf("the client gets %d octets of status %d, as if they were all", len(body), got.StatusCode)
			}
		})
	}
}

// TestPinnedCertificate checks that a connection to a node ends before anything
// is sent to somebody else.
func TestPinnedCertificate(t *testing.T) {
	asked := false
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer server.Close()
	right := fingerprint(server.Certificate().Raw)
	for pin, ok := range map[string]bool{right: true, strings.Repeat("0", 64): false} {
		asked = false
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, http.NoBody)
		check(t, err)
		answer, err := transportTo(control.Node{Name: "n", Fingerprint: pin}).RoundTrip(r)
		if err == nil {
			answer.Body.Close()
		}
		if (err == nil) != ok || asked != ok {
			t.Errorf("fingerprint %s: error %v, asked: %v", pin, err, asked)
		}
	}
}

func TestListNodes(t *testing.T) {
	b := newBench(t)
	b.createConnection()
	if a := b.call(http.MethodGet, "/vpngw/v1/nodes", nil).want(http.StatusOK); !strings.Contains(a.Text, `"addresses":["203.0.113.10","203.0.113.11"]`) {
		t.Errorf("a node alone: %s", a.Text)
	}
	b.fleet()
	text := b.call(http.MethodGet, "/vpngw/v1/nodes", nil).want(http.StatusOK).Text
	for _, want := range []string{
		`"name":"here"`, `"name":"there"`, `"availability_zone":"az2"`, `"addresses":["203.0.113.10"]`, `"addresses":["203.0.113.11"]`,
		`"lease":{"age_seconds":1,"left_seconds":4,"ttl_seconds":5}`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s lacks %s", text, want)
		}
	}
	// Another project sees the nodes and nothing of this one.
	text = b.as("stranger", http.MethodGet, "/vpngw/v1/nodes", nil).want(http.StatusOK).Text
	if strings.Contains(text, "203.0.113") || !strings.Contains(text, `"name":"there"`) {
		t.Errorf("another project sees %s", text)
	}
}
