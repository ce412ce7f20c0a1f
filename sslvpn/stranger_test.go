package sslvpn

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// Packets of clients that have not logged in, and of whoever says to be one.

// halfOpenNow returns how many clients count as half-open.
func (s *rig) halfOpenNow() int {
	h := &s.server.halfOpen
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.total
}

func TestStrangersOnTCP(t *testing.T) {
	reset := wire.Control{Opcode: wire.HardResetClientV2, Session: wire.SessionID{1}}
	change := func(f func(*wire.Control)) []byte {
		c := reset
		f(&c)
		return wire.AppendFrame(nil, c.Append(nil))
	}
	s := newRig(t, Options{}, nil)
	for name, octets := range map[string][]byte{
		"HTTP":           []byte("GET / HTTP/1.1\r\nHost: vpn.example.org\r\n\r\n"),
		"TLS":            {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3},
		"length 0":       {0, 0, 0x38},
		"length 65535":   bytes.Repeat([]byte{0xff}, 3000),
		"data first":     wire.AppendFrame(nil, []byte{0x48, 0, 0, 0, 0, 0, 0, 1, 2, 3}),
		"ack first":      change(func(c *wire.Control) { c.Opcode, c.Acks = wire.AckV1, []uint32{0} }),
		"control first":  change(func(c *wire.Control) { c.Opcode = wire.ControlV1 }),
		"soft reset":     change(func(c *wire.Control) { c.Opcode, c.KeyID = wire.SoftReset, 1 }),
		"server's reset": change(func(c *wire.Control) { c.Opcode = wire.HardResetServerV2 }),
		"key id 1":       change(func(c *wire.Control) { c.KeyID = 1 }),
		"packet id 1":    change(func(c *wire.Control) { c.PacketID = 1 }),
		"reset with ack": change(func(c *wire.Control) { c.Acks = []uint32{0} }),
		"no session id":  change(func(c *wire.Control) { c.Session = wire.SessionID{} }),
		"tls-crypt-v2":   wire.AppendFrame(nil, append([]byte{0x50}, make([]byte, 400)...)),
	} {
		conn, err := net.Dial("tcp", s.endpoint().tcp[0].String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(octets); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if got, err := io.ReadAll(conn); len(got) > 0 || isTimeout(err) {
			t.Errorf("%s: answered by %x, %v", name, got, err)
		}
		conn.Close()
	}
	s.until("nothing is kept", func() bool { return s.halfOpenNow() == 0 })
	select {
	case e := <-s.server.Events():
		t.Errorf("event: %+v", e)
	default:
	}
}

// With tls-crypt a stranger's reset is answered as little as garbage is.
func TestStrangersWithoutTheKey(t *testing.T) {
	key := make([]byte, wire.StaticKeyLen)
	_, _ = rand.Read(key)
	s := newRig(t, Options{}, func(s *rig) { s.cfg.TLSCryptKey = key })
	reset := (&wire.Control{Opcode: wire.HardResetClientV2, Session: wire.SessionID{1}}).Append(nil)
	conn, err := net.Dial("udp", s.endpoint().udp[0].socket.local().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	wrap, err := wire.NewTLSCrypt(key, false)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write(reset)
	_, _ = conn.Write(wrap.Append(nil, reset, 1, 1))
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 2048)
	n, err := conn.Read(buf)
	if _, openErr := wrap.Open(buf[:n]); err != nil || openErr != nil {
		t.Errorf("the first answer is %x, %v", buf[:n], err)
	}
	if n := s.drops(dropWrap); n != 1 {
		t.Errorf("%d packets were dropped", n)
	}
	stream, err := net.Dial("tcp", s.endpoint().tcp[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	_, _ = stream.Write(wire.AppendFrame(nil, reset))
	_ = stream.SetReadDeadline(time.Now().Add(20 * time.Second))
	if got, err := io.ReadAll(stream); len(got) > 0 || isTimeout(err) {
		t.Errorf("answered by %x, %v", got, err)
	}
}

func TestSlowStrangers(t *testing.T) {
	s := newRig(t, Options{Limits: Limits{FirstPacketTimeout: 50 * time.Millisecond, HandshakeTimeout: 100 * time.Millisecond}}, nil)
	for name, octets := range map[string][]byte{
		"nothing":                  nil,
		"half a reset":             {0, 14, 0x38, 1, 2},
		"a reset and no handshake": wire.AppendFrame(nil, (&wire.Control{Opcode: wire.HardResetClientV2, Session: wire.SessionID{1}}).Append(nil)),
	} {
		conn, err := net.Dial("tcp", s.endpoint().tcp[0].String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(octets)
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
			t.Errorf("%s: still connected", name)
		}
		conn.Close()
	}
	c := s.dial("tcp") // as far as TLS, and no login
	c.hello()
	if err := c.handshake(s.trust(nil)); err == nil {
		_, err = c.message()
		if err == nil {
			t.Error("no login: still connected")
		}
	}
	s.until("nothing is kept", func() bool { return s.halfOpenNow() == 0 })
}

func TestHalfOpenLimit(t *testing.T) {
	s := newRig(t, Options{Limits: Limits{HalfOpenAddress: 3}}, nil)
	var waiting []*testClient
	for range 2 {
		c := s.dial("tcp")
		c.hello()
		waiting = append(waiting, c)
	}
	udp := s.dial("udp")
	udp.hello()
	s.until("the client on UDP is known", func() bool { return s.halfOpenNow() == 3 })
	conn, err := net.Dial("tcp", s.endpoint().tcp[0].String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
		t.Error("one too many is let in")
	}
	conn.Close()
	waiting[0].conn.Close()
	s.until("one has gone", func() bool { return s.halfOpenNow() == 2 })
	s.connected("tcp", "alice", "wonderland") // is not half-open any more
	if n := s.halfOpenNow(); n != 2 {
		t.Errorf("%d are half-open", n)
	}
	if s.drops(dropHalfOpen) == 0 {
		t.Error("the refusal was not counted")
	}
}

// origins returns how many sessions a listener keeps.
func (s *rig) origins() int {
	l := s.endpoint().udp[0]
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byControl)
}

func TestResetsOnUDPLeaveNothing(t *testing.T) {
	s := newRig(t, Options{Limits: Limits{ResetsPerSecond: 1}}, nil) // one at once, and one a second
	l := s.endpoint().udp[0]
	l.answers.SetBurst(50)
	conn, err := net.Dial("udp", l.socket.local().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range 200 {
		c := wire.Control{Opcode: wire.HardResetClientV2, Session: wire.SessionID{1, byte(i)}}
		if _, err := conn.Write(c.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	s.until("the resets were taken", func() bool { return s.drops(dropResetRate) >= 100 })
	if s.origins() != 0 || s.halfOpenNow() != 0 {
		t.Errorf("%d sessions, %d half-open", s.origins(), s.halfOpenNow())
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 2048)
	n, err := conn.Read(buf)
	if err != nil || n > 26 {
		t.Errorf("answer of %d octets to 14, %v", n, err)
	}
}

func TestUDPNeedsACookie(t *testing.T) {
	s := newRig(t, Options{}, nil)
	c := s.dial("udp")
	c.hello() // has acknowledged with the cookie, which makes the session
	s.until("the session is there", func() bool { return s.origins() == 1 })
	good := c.server

	stranger := s.dial("udp")
	for name, p := range map[string]wire.Control{
		"forged cookie":    {Opcode: wire.ControlV1, Session: wire.SessionID{7}, Acks: []uint32{0}, Remote: wire.SessionID{1}, PacketID: 1},
		"another's cookie": {Opcode: wire.AckV1, Session: c.id, Acks: []uint32{0}, Remote: good},
		"no cookie":        {Opcode: wire.ControlV1, Session: wire.SessionID{7}, PacketID: 1},
		"soft reset":       {Opcode: wire.SoftReset, KeyID: 1, Session: c.id, Acks: []uint32{0}, Remote: good},
	} {
		before := s.drops(dropCookie)
		stranger.write(p.Append(nil))
		s.until(name+" is dropped", func() bool { return s.drops(dropCookie) == before+1 })
	}
	// The right cookie on packets that are not the first ones.
	late := s.dial("udp")
	c2 := wire.Control{Opcode: wire.HardResetClientV2, Session: late.id}
	late.write(c2.Append(nil))
	late.awaitReset()
	// awaiting it has made the session; another session id has no cookie of its own.
	before := s.drops(dropCookie)
	p := wire.Control{Opcode: wire.ControlV1, Session: wire.SessionID{9}, Acks: []uint32{0}, Remote: late.server, PacketID: 1}
	late.write(p.Append(nil))
	s.until("a cookie for another session id is dropped", func() bool { return s.drops(dropCookie) == before+1 })
	s.until("the session of the other is there", func() bool { return s.origins() == 2 })
}

// Control packets that are replayed, reflected or made up change nothing.
func TestControlPacketsOfOthers(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		s := newRig(t, Options{}, nil)
		c := s.connected(network, "alice", "wonderland")
		for _, tt := range []struct {
			name string
			p    wire.Control
			why  controlDrop
		}{
			{"reflected", wire.Control{Opcode: wire.ControlV1, Session: c.server, PacketID: 3}, dropSessionID},
			{"acks for another session", wire.Control{Opcode: wire.AckV1, Session: c.id, Acks: []uint32{0}, Remote: wire.SessionID{1}}, dropSessionID},
			{"unknown key id", wire.Control{Opcode: wire.ControlV1, KeyID: 5, Session: c.id}, dropKeyID},
			{"soft reset of a later key id", wire.Control{Opcode: wire.SoftReset, KeyID: 2, Session: c.id}, dropUnexpected},
			{"soft reset with a packet id", wire.Control{Opcode: wire.SoftReset, KeyID: 1, Session: c.id, PacketID: 1}, dropUnexpected},
			{"server's reset", wire.Control{Opcode: wire.HardResetServerV2, Session: c.id}, dropUnexpected},
			{"far ahead", wire.Control{Opcode: wire.ControlV1, Session: c.id, PacketID: 5000, Payload: []byte("x")}, dropWindow},
		} {
			if network == "udp" && tt.why == dropSessionID && tt.p.Session != c.id {
				tt.why = dropCookie // no session of this id
			}
			before := s.drops(tt.why)
			c.write(tt.p.Append(nil))
			s.until(tt.name+" is dropped", func() bool { return s.drops(tt.why) == before+1 })
		}
		// Acknowledgements of what was never sent, and packets seen before.
		p := wire.Control{Opcode: wire.AckV1, Session: c.id, Acks: []uint32{70, 71, 1 << 31}, Remote: c.server}
		c.write(p.Append(nil))
		p = wire.Control{Opcode: wire.ControlV1, Session: c.id, PacketID: 1, Payload: []byte("replayed")}
		c.write(p.Append(nil))
		p = wire.Control{Opcode: wire.HardResetClientV2, Session: c.id}
		c.write(p.Append(nil))
		if !s.reaches(c, "192.168.77.1") {
			t.Errorf("%s: the session does not go on", network)
		}
		c.say(wire.PushRequest)
		c.say("NONSENSE,x")
		s.until("an unknown message is counted", func() bool { return s.drops(dropMessage) == 1 })
		c.say("with an escape \x1b[2J")
		s.until("a message that does not print is counted", func() bool { return s.drops(dropMessage) == 2 })
		if strings.Contains(s.log.String(), "\x1b") {
			t.Error("the escape is in the log")
		}
	}
}

// Before the login nothing but the login counts.
func TestNothingBeforeLogin(t *testing.T) {
	s := newRig(t, Options{}, nil)
	c := s.dial("tcp")
	c.hello()
	c.write([]byte{0x48, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17})
	p := wire.Control{Opcode: wire.SoftReset, KeyID: 1, Session: c.id}
	c.write(p.Append(nil))
	s.until("a soft reset is dropped", func() bool { return s.drops(dropUnexpected) == 1 })
	if err := c.handshake(s.trust(nil)); err != nil {
		t.Fatal(err)
	}
	c.say(wire.PushRequest)
	if m, err := c.message(); err == nil {
		t.Errorf("answered %q", m)
	}
	s.until("the session is over", func() bool { return s.halfOpenNow() == 0 })

	// A login that goes on for ever.
	c = s.dial("tcp")
	c.hello()
	if err := c.handshake(s.trust(nil)); err != nil {
		t.Fatal(err)
	}
	endless := append([]byte{0, 0, 0, 0, 2}, make([]byte, 112)...)
	endless = append(endless, 0x7f, 0xff)
	_, _ = c.tls.Write(endless)
	if m, err := c.message(); err == nil {
		t.Errorf("answered %q", m)
	}

	// What is no TLS at all, as much of it as the window takes.
	c = s.dial("tcp")
	c.hello()
	c.mu.Lock()
	for range 40 {
		junk := make([]byte, wire.MaxControlPayload)
		_, _ = rand.Read(junk)
		junk[0] = 0x16
		_ = c.rel.queue(wire.ControlV1, junk)
	}
	c.flush()
	c.mu.Unlock()
	s.until("the session is over", func() bool { return s.halfOpenNow() == 0 })
}

func TestClientMoves(t *testing.T) {
	s := newRig(t, Options{}, nil)
	c := s.connected("udp", "alice", "wonderland")
	other := s.connected("udp", "bob", "builder")
	was := c.conn.LocalAddr().String()
	remote := func() string {
		for _, session := range s.server.Snapshot()[0].Sessions {
			if session.User == "alice" {
				return session.Remote.String()
			}
		}
		return ""
	}
	move := func() net.Conn {
		conn, err := net.Dial("udp", s.endpoint().udp[0].socket.local().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	ping := func(conn net.Conn) []byte {
		b := c.seal(pingPacket)
		_, _ = conn.Write(b)
		return b
	}
	// The packets of somebody who has no keys, or only a copy, move nothing.
	attacker := move()
	forged := ping(c.conn)
	s.until("the ping has come", func() bool {
		for _, session := range s.endpoint().established() {
			if data := session.client.Load(); data.name == "alice" {
				return !data.lastReceived().IsZero()
			}
		}
		return false
	})
	_, _ = attacker.Write(forged)
	s.until("the replay is dropped", func() bool { return s.server.Snapshot()[0].Drops["replay"] == 1 })
	forged[7]++ // the next packet id
	_, _ = attacker.Write(forged)
	s.until("a forged packet is dropped", func() bool { return s.server.Snapshot()[0].Drops["integrity"] == 1 })
	if at := remote(); at != was {
		t.Errorf("the session was moved to %s", at)
	}
	// Onto the address of another user's session.
	_, _ = other.conn.Write(c.seal(pingPacket))
	s.until("the move is refused", func() bool { return s.drops(dropMove) > 0 })
	if at := remote(); at != was {
		t.Errorf("the session was moved to %s", at)
	}
	// The client itself moves, and its control channel with it.
	conn := move()
	s.until("the session has moved", func() bool {
		ping(conn)
		return remote() == conn.LocalAddr().String()
	})
	old := c.conn
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
	go c.read()
	c.say(wire.Exit)
	if e := s.event(EventDisconnected); e.Reason != "the client has left" || e.Session.User != "alice" {
		t.Errorf("event %+v", e)
	}
	old.Close()
	s.until("nothing is kept of it", func() bool { return s.origins() == 1 })
}

// A client that starts anew from the same address and port takes the place of
// its old session when it has logged in, and not before.
func TestClientStartsAnewOnUDP(t *testing.T) {
	s := newRig(t, Options{}, nil)
	first := s.connected("udp", "alice", "wonderland")
	again := &testClient{
		t: t, conn: first.conn, info: infoOf26,
		data: make(chan []byte, 256), resets: make(chan wire.Control, 16), id: wire.SessionID{0xee},
	}
	again.restart(0)
	// The packets of both come to one socket: the new one takes them over.
	first.mu.Lock()
	first.in.write(nil, errors.New("the client was killed"))
	first.mu.Unlock()
	_ = first.conn.SetReadDeadline(time.Unix(1, 0))
	s.until("the old one reads no more", func() bool {
		first.mu.Lock()
		defer first.mu.Unlock()
		return first.closed != nil
	})
	_ = first.conn.SetReadDeadline(time.Time{})
	go again.read()
	if n := len(s.server.Snapshot()[0].Sessions); n != 1 {
		t.Errorf("%d sessions", n)
	}
	again.connect(s.trust(nil), "alice", "wonderland")
	if e := s.event(EventDisconnected); e.Reason != "the client has connected anew" {
		t.Errorf("event %+v", e)
	}
	if !s.reaches(again, "192.168.77.1") {
		t.Error("a packet did not arrive")
	}
	if n := len(s.server.Snapshot()[0].Sessions); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// However much some addresses take, another one finds room.
func TestHalfOpenLeavesRoom(t *testing.T) {
	h := newHalfOpen()
	l := Limits{HalfOpenTotal: 4096, HalfOpenAddress: 1024}
	for i := range 6 {
		a := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		n := 0
		for h.enter(a, l) {
			n++
		}
		if n == 0 || n > l.HalfOpenAddress {
			t.Errorf("address %d takes %d", i, n)
		}
	}
	if left := l.HalfOpenTotal - h.total; left < 256 {
		t.Errorf("six addresses leave room for %d", left)
	}
	if !h.enter(netip.MustParseAddr("198.51.100.1"), l) {
		t.Error("there is no room for anybody else")
	}
}

func TestHalfOpenCountsByNetwork(t *testing.T) {
	h := newHalfOpen()
	l := Limits{HalfOpenTotal: 3, HalfOpenAddress: 2}
	a, b := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	if !h.enter(a, l) || !h.enter(b, l) || h.enter(a, l) {
		t.Error("a /64 has another limit than 2")
	}
	v4 := netip.MustParseAddr("192.0.2.1")
	if !h.enter(v4, l) || h.enter(netip.MustParseAddr("192.0.2.2"), l) {
		t.Error("the total is another than 3")
	}
	h.leave(a)
	h.leave(b)
	h.leave(v4)
	if h.total != 0 || len(h.byAddr) != 0 {
		t.Errorf("left over: %+v", &h)
	}
}

// A TLS record that says to be longer than any (RFC 8446, section 5.1), or that never
// ends, is waited for by nobody.
func TestGiantTLSRecords(t *testing.T) {
	for name, octets := range map[string]int{"header alone": 5, "more than is kept unread": 2 * maxUnread} {
		s := newRig(t, Options{}, nil)
		c := s.dial("tcp")
		c.hello()
		record := append([]byte{22, 3, 1, 0xff, 0xff}, make([]byte, octets-5)...)
		for part := range slices.Chunk(record, wire.MaxControlPayload) {
			c.mu.Lock()
			over := c.closed != nil
			if !over {
				_ = c.rel.queue(wire.ControlV1, slices.Clone(part)) // a full queue: more than enough was said
				c.flush()
			}
			c.mu.Unlock()
			if over {
				break
			}
		}
		s.until(name+" ends the connection", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.closed != nil
		})
		s.until("nothing is kept", func() bool {
			ep := s.endpoint()
			ep.mu.Lock()
			defer ep.mu.Unlock()
			return len(ep.opening) == 0
		})
	}
}
