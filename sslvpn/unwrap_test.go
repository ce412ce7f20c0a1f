package sslvpn

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

func randomKey(n int) []byte {
	key := make([]byte, n)
	_, _ = rand.Read(key)
	return key
}

// wrappedFor returns what a profile with tls-crypt-v2 has.
func wrappedFor(t *testing.T, serverKey []byte) []byte {
	t.Helper()
	v, err1 := wire.NewTLSCryptV2(serverKey)
	key := randomKey(wire.StaticKeyLen)
	wrapped, err2 := v.Wrap(key, time.Now())
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return append(key, wrapped...)
}

// Clients connect with keys for the control channel, shared and their own, and
// renegotiate under them.
func TestWrappedControlChannel(t *testing.T) {
	shared, v2 := randomKey(wire.StaticKeyLen), randomKey(wire.TLSCryptV2KeyLen)
	for _, tt := range []struct {
		name   string
		server func(*Endpoint)
		client func(*ConnectOptions)
	}{
		{"tls-crypt", func(e *Endpoint) { e.TLSCryptKey = shared }, func(o *ConnectOptions) { o.TLSCryptKey = shared }},
		{"tls-crypt-v2", func(e *Endpoint) { e.TLSCryptV2Key = v2 }, func(o *ConnectOptions) { o.TLSCryptV2Key = wrappedFor(t, v2) }},
		{"tls-crypt-v2, the key once", func(e *Endpoint) { e.TLSCryptV2Key = v2 }, func(o *ConnectOptions) {
			o.TLSCryptV2Key, o.keyOnce = wrappedFor(t, v2), true
		}},
	} {
		for network, udp := range transports {
			t.Run(tt.name+" "+network, func(t *testing.T) {
				s := startServer(t, Options{RenegotiateAfter: 50 * time.Millisecond}, func(s *testServer) { tt.server(&s.endpoint) })
				o := s.options(udp)
				tt.client(&o)
				c, dev := connected(t, o)
				address := c.Settings().Local.String()
				wait(t, "a key of a renegotiation", func() bool {
					passes(t, dev, s.device, ipUDP(address, host, 100))
					passes(t, s.device, dev, ipUDP(host, address, 200))
					c.mu.Lock()
					defer c.mu.Unlock()
					return c.current > 1
				})
				if n := s.Snapshot()[0].Drops["tls_crypt"]; n != 0 {
					t.Errorf("%d packets were dropped", n)
				}
			})
		}
	}
}

// A session ends when the key of its profile is revoked, and none begins with it;
// another profile goes on.
func TestRevokedClientKey(t *testing.T) {
	v2 := randomKey(wire.TLSCryptV2KeyLen)
	for network, udp := range transports {
		t.Run(network, func(t *testing.T) {
			s := startServer(t, Options{}, func(s *testServer) { s.endpoint.TLSCryptV2Key = v2 })
			var options []ConnectOptions
			for range 2 {
				o := s.options(udp)
				o.TLSCryptV2Key = wrappedFor(t, v2)
				options = append(options, o)
				connected(t, o)
			}
			wait(t, "both sessions", func() bool { return len(s.Snapshot()[0].Sessions) == 2 })
			id := wire.ClientKeyIDOf(options[0].TLSCryptV2Key[wire.StaticKeyLen:]).String()
			s.endpoint.RevokedClientKeys = []string{id}
			if err := s.Apply(Config{Endpoints: []Endpoint{s.endpoint}}); err != nil {
				t.Fatal(err)
			}
			wait(t, "the end of one session", func() bool {
				left := s.Snapshot()[0].Sessions
				return len(left) == 1 && left[0].ClientKey != id
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			done := make(chan error, 1)
			go func() {
				_, err := Connect(ctx, options[0])
				done <- err
			}()
			wait(t, "the packet to be dropped", func() bool { return s.Snapshot()[0].Drops["client_key_revoked"] > 0 })
			cancel()
			if err := <-done; err == nil {
				t.Error("it connects")
			}
		})
	}
}

// A profile that is revoked while its client's password is being judged does not
// get in.
func TestRevokedDuringLogin(t *testing.T) {
	v2 := randomKey(wire.TLSCryptV2KeyLen)
	for network, udp := range transports {
		t.Run(network, func(t *testing.T) {
			asked, answer := make(chan struct{}), make(chan struct{})
			s := startServer(t, Options{}, func(s *testServer) {
				s.endpoint.TLSCryptV2Key = v2
				verify := s.opts.VerifyPassword
				s.opts.VerifyPassword = func(hash, password string) bool {
					close(asked)
					<-answer
					return verify(hash, password)
				}
			})
			o := s.options(udp)
			o.TLSCryptV2Key = wrappedFor(t, v2)
			ended := make(chan error, 1)
			go func() {
				c, err := Connect(t.Context(), o)
				if err == nil {
					<-c.Ended()
					err = c.err()
					_ = c.Close() // it has ended
				}
				ended <- err
			}()
			<-asked
			s.endpoint.RevokedClientKeys = []string{wire.ClientKeyIDOf(o.TLSCryptV2Key[wire.StaticKeyLen:]).String()}
			err := s.Apply(Config{Endpoints: []Endpoint{s.endpoint}})
			close(answer)
			if err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err == nil || !strings.Contains(err.Error(), "revoked") {
				t.Errorf("the client's end: %v", err)
			}
			wait(t, "the end of the session", func() bool { return len(s.Snapshot()[0].Sessions) == 0 })
		})
	}
}

// Who lacks the right key gets no answer and leaves nothing behind.
func TestWrongControlKeys(t *testing.T) {
	v2 := randomKey(wire.TLSCryptV2KeyLen)
	for name, udp := range transports {
		for what, client := range map[string]func(*ConnectOptions){
			"no key":                       func(*ConnectOptions) {},
			"a shared key":                 func(o *ConnectOptions) { o.TLSCryptKey = randomKey(wire.StaticKeyLen) },
			"a key wrapped by another one": func(o *ConnectOptions) { o.TLSCryptV2Key = wrappedFor(t, randomKey(wire.TLSCryptV2KeyLen)) },
			"the wrapped key of another": func(o *ConnectOptions) {
				o.TLSCryptV2Key = append(randomKey(wire.StaticKeyLen), wrappedFor(t, v2)[wire.StaticKeyLen:]...)
			},
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				s := startServer(t, Options{}, func(s *testServer) { s.endpoint.TLSCryptV2Key = v2 })
				o := s.options(udp)
				client(&o)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				done := make(chan error)
				go func() {
					_, err := Connect(ctx, o)
					done <- err
				}()
				wait(t, "the packet to be dropped", func() bool {
					d := s.Snapshot()[0].Drops
					return d["tls_crypt"]+d["not_openvpn"] > 0
				})
				cancel()
				if err := <-done; err == nil {
					t.Error("it connects")
				}
				s.halfOpen.mu.Lock()
				defer s.halfOpen.mu.Unlock()
				if s.halfOpen.total != 0 && udp {
					t.Errorf("%d clients are half-open", s.halfOpen.total)
				}
			})
		}
	}
}

// A first packet with a wrapped key leaves nothing in the server when its client
// can send the key again, and a session when it cannot.
func TestFirstPacketWithKey(t *testing.T) {
	v2 := randomKey(wire.TLSCryptV2KeyLen)
	s := newRig(t, Options{}, func(s *rig) { s.cfg.TLSCryptV2Key = v2 })
	key := wrappedFor(t, v2)
	wrap, err := wire.NewTLSCrypt(key[:wire.StaticKeyLen], false)
	if err != nil {
		t.Fatal(err)
	}
	opening := func() int {
		ep := s.endpoint()
		ep.mu.Lock()
		defer ep.mu.Unlock()
		return len(ep.opening)
	}
	for _, tt := range []struct {
		counter uint32
		again   bool
		want    int
	}{{wire.EarlyCounter, true, 0}, {1, false, 1}} {
		c := s.dialRaw()
		reset := wire.Control{Opcode: wire.HardResetClientV3, Session: wire.SessionID{byte(tt.counter), 1}}
		if _, err := c.Write(append(wrap.Append(nil, reset.Append(nil), tt.counter, 5), key[wire.StaticKeyLen:]...)); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 2048)
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(answer)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := wrap.Open(answer[:n])
		if err != nil {
			t.Fatal(err)
		}
		p, err := wire.ParseControl(plain)
		if err != nil || p.Opcode != wire.HardResetServerV2 || p.Remote != reset.Session || wire.WantsKeyAgain(p.Payload) != tt.again {
			t.Errorf("answer %+v, %v", p, err)
		}
		if got := opening(); got != tt.want {
			t.Errorf("counter %#x: %d sessions", tt.counter, got)
		}
		if n > len(key)-wire.StaticKeyLen {
			t.Errorf("an answer of %d octets amplifies", n)
		}
	}
}

// Clients that have not shown where they are cannot take the places of those that
// have: their first packet may be said again by anybody.
func TestUnprovenClientsLeaveRoom(t *testing.T) {
	v2 := randomKey(wire.TLSCryptV2KeyLen)
	s := newRig(t, Options{Limits: Limits{HalfOpenTotal: 8, HalfOpenAddress: 8}}, func(s *rig) { s.cfg.TLSCryptV2Key = v2 })
	key := wrappedFor(t, v2)
	wrap, err := wire.NewTLSCrypt(key[:wire.StaticKeyLen], false)
	if err != nil {
		t.Fatal(err)
	}
	l := s.endpoint().udp[0]
	for i := range 20 {
		reset := wire.Control{Opcode: wire.HardResetClientV3, Session: wire.SessionID{byte(i), 1}}
		packet := append(wrap.Append(nil, reset.Append(nil), 1, 5), key[wire.StaticKeyLen:]...)
		l.control(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}), 1194), packet)
	}
	h := &s.server.halfOpen
	h.mu.Lock()
	total := h.total
	h.mu.Unlock()
	if total == 0 || total > 4 {
		t.Errorf("%d of 8 places are taken", total)
	}
	if s.drops(dropHalfOpen) == 0 {
		t.Error("nobody was turned away")
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.ca.cert)
	c, err := Connect(t.Context(), ConnectOptions{
		Remote: l.socket.local(), UDP: true, RootCAs: roots, UserName: "alice", Password: "wonderland", TLSCryptV2Key: key,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
