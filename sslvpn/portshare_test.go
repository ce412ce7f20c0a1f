package sslvpn

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestBeginsAsOpenVPN(t *testing.T) {
	for _, tt := range []struct {
		begin string
		want  bool
	}{
		{"", true},
		{"\x00", true},
		{"\x00\x0e", true},
		{"\x00\x0e\x38", true},
		{"\x01\x80\x50", true},  // tls-crypt-v2
		{"\x00\x0e\x39", false}, // a first packet under another key id
		{"\x00\x0e\x20", false}, // no first packet
		{"\x00\x00\x00", false},
		{"\x16", false}, // TLS
		{"\x16\x03\x01", false},
		{"GET", false},
		{"\x09", false}, // a length beyond all packets
	} {
		if got := beginsAsOpenVPN([]byte(tt.begin)); got != tt.want {
			t.Errorf("%q: %t", tt.begin, got)
		}
	}
}

// A browser on the port of the server reaches the other one, clients stay.
func TestPortShare(t *testing.T) {
	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d", r.Method, r.URL.Path, len(body))
	}))
	defer web.Close()
	s := newRig(t, Options{Limits: Limits{FirstPacketTimeout: 500 * time.Millisecond}}, func(s *rig) {
		s.cfg.PortShare = netip.MustParseAddrPort(web.Listener.Addr().String())
	})
	at := s.endpoint().tcp[0].String()
	browser := web.Client()
	browser.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, at)
	}
	for _, size := range []int{0, 1 << 20} {
		answer, err := browser.Post(web.URL+"/page", "text/plain", strings.NewReader(strings.Repeat("x", size)))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		if want := fmt.Sprintf("POST /page %d", size); err != nil || string(text) != want {
			t.Errorf("answer %q, %v, want %q", text, err, want)
		}
		_ = answer.Body.Close()
	}
	if !s.reaches(s.connected("tcp", "alice", "wonderland"), "192.168.77.1") {
		t.Error("a client does not come through")
	}
	h := &s.server.halfOpen
	s.until("nothing is half-open", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.total == 0
	})

	// What begins like a client and goes on otherwise is closed.
	for _, begin := range []string{"\x00\x0e\x38 and something that is no client", "\x00"} {
		conn, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(begin)); err != nil {
			t.Fatal(err)
		}
		if answer, _ := io.ReadAll(conn); len(answer) != 0 {
			t.Errorf("%q is answered with %q", begin, answer)
		}
		_ = conn.Close()
	}
	s.until("they are counted", func() bool { return s.drops(dropNotOpenVPN) == 1 && s.drops(dropSlow) == 1 })

	// Without the other server the connection is closed, too.
	browser.CloseIdleConnections()
	web.Close()
	if answer, err := browser.Get(web.URL); err == nil {
		t.Errorf("answered by nobody: %v", answer.Status)
	}
	s.until("it is counted", func() bool { return s.drops(dropSharedDial) >= 1 })
	s.until("nothing is left", func() bool {
		shared := &s.server.shared
		shared.mu.Lock()
		defer shared.mu.Unlock()
		return shared.total == 0
	})
}

// connectedPair returns the two ends of a TCP connection.
func connectedPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = dialled.Close(), accepted.Close() })
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// Who keeps a connection open that the other server has done with, or takes
// nothing of what it says, does not keep the place for ever.
func TestCarrierLetsGo(t *testing.T) {
	for name, other := range map[string]func(server *net.TCPConn){
		"the server has ended": func(server *net.TCPConn) { _ = server.Close() },
		"nothing is taken": func(server *net.TCPConn) {
			for chunk := make([]byte, 1<<20); ; {
				if _, err := server.Write(chunk); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, near := connectedPair(t) // the client says and takes nothing, and stays
			far, server := connectedPair(t)
			c := carrier{stuck: 50 * time.Millisecond}
			done := make(chan struct{})
			go func() {
				defer close(done)
				c.both(near, far)
			}()
			go other(server)
			select {
			case <-done:
			case <-time.After(30 * time.Second):
				t.Error("it is carried for ever")
			}
		})
	}
}

// A client that has said all it will still gets a long answer.
func TestCarrierOfHalfOpen(t *testing.T) {
	client, near := connectedPair(t)
	far, server := connectedPair(t)
	c := carrier{stuck: 30 * time.Second}
	go c.both(near, far)
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(server); err != nil || len(rest) != 0 {
		t.Fatalf("%q, %v", rest, err)
	}
	answer := strings.Repeat("answer", 1<<18)
	go func() {
		_, _ = io.WriteString(server, answer)
		_ = server.Close()
	}()
	if got, err := io.ReadAll(client); err != nil || string(got) != answer {
		t.Errorf("%d octets of %d, %v", len(got), len(answer), err)
	}
}
